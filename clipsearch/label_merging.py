"""Remembered best labels of some images and the scores of labels that are new: the best of both.

Nothing here knows of files. The answer is that of ``scoring.LabelScorer``: where two labels are
nearer than float32 sums can tell, float64 decides, and of equals the label named first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.best_rows import BEST, NO_LABEL, Float64
from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.shards import Float16

_PAIRS_AT_ONCE = 4096
_SORTED_WHOLE = 40  # candidates of an image up to which sorting them all is fastest


@dataclass(frozen=True)
class Merged:
    """The best labels of n images, as ``BestRows`` has them.

    added : (a, n) float32, the scores of the added labels, as exact as they are in ``scores``.
    refined : (n,) float64, what the exact scores of labels that stay add to the sums, which
    were made with scores in float32.
    """

    labels: Int32
    scores: Float32
    added: Float32
    refined: Float64


class Merger:
    """Merges rows of remembered labels with added ones.

    classes : (C, dim) float32, of all labels there are now. added : their positions that are
    new. slack : scores that differ by less may be in the wrong order. logit_scale : of the sums.
    """

    def __init__(
        self, classes: Float32, added: tuple[int, ...], slack: float, logit_scale: float
    ) -> None:
        self._classes = classes
        self._added = np.array(added, np.int32)
        self._slack = np.float32(slack)
        self._logit_scale = logit_scale

    def merge(self, labels: Int32, scores: Float32, added: Float32, rows: Float16) -> Merged:
        """labels, scores : (BEST, n) remembered, the labels by their new positions, NO_LABEL for
        one that was removed or where none was known. added : (a, n) scores of the added labels.
        rows : (n, dim) vectors of the images.

        What is not in a list is below its last score, or equal and named later. A list with
        gaps does not know of labels next to its last score: an added label takes a gap only
        when it is above that for certain, else the score rises to it.
        """
        count = labels.shape[1]
        bound = scores[-1]
        stays = labels >= 0
        has_gap = ~stays.all(axis=0)
        candidates = np.concatenate([np.where(stays, scores, -np.inf), added]).T
        candidates = np.ascontiguousarray(candidates, np.float32)
        names = np.concatenate(
            [labels.T, np.broadcast_to(self._added, (count, len(self._added)))], axis=1
        )
        added = added.copy()
        refined = np.zeros(count, np.float64)
        order, best = _ranked(candidates, BEST + 1)
        with np.errstate(invalid="ignore"):
            is_near = best[:, :-1] - best[:, 1:] <= self._slack
        # Remembered labels are in order among themselves.
        is_new = (order >= BEST) & (best > -np.inf)
        is_close = (is_near & (is_new[:, :-1] | is_new[:, 1:])).any(axis=1)
        order, best = order[:, :BEST], best[:, :BEST]
        # One that is left out may be as good as the last, with others in between.
        left_out = (added >= best[:, -1] - self._slack).sum(axis=0) > is_new[:, :BEST].sum(axis=1)
        near = np.flatnonzero(is_close | left_out)
        if len(near):
            found = self._settle(near, candidates, names, best, order, rows)
            of_row, columns, exact = found
            old = columns < BEST
            self._refine(refined, of_row[old], candidates[of_row[old], columns[old]],
                         exact[old], scores[0])  # fmt: skip
            added[columns[~old] - BEST, of_row[~old]] = exact[~old]
        ranked = np.take_along_axis(names, order, axis=1)
        ranked[best == -np.inf] = NO_LABEL
        if has_gap.any():
            self._keep_certain(np.flatnonzero(has_gap), order, ranked, best, stays, bound)
        return Merged(np.ascontiguousarray(ranked.T), np.ascontiguousarray(best.T), added, refined)

    def _settle(
        self,
        near: npt.NDArray[np.intp],
        candidates: Float32,
        names: Int32,
        best: Float32,
        order: npt.NDArray[np.intp],
        rows: Float16,
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Float64]:
        """Rank the candidates of the images ``near`` that rounding may have put in a wrong
        place in float64: (image, candidate, exact score) of each of them."""
        some = candidates[near]
        last = best[near, -1] - self._slack
        at, columns = np.nonzero((some >= last[:, None]) & (some > -np.inf))
        images = near[at]
        labels = names[images, columns]
        exact = np.empty(len(labels), np.float64)
        for start in range(0, len(labels), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            pairs = rows[images[part]].astype(np.float64)
            pairs *= self._classes[labels[part]]
            exact[part] = pairs.sum(axis=1)
        by_rank = np.lexsort((labels, -exact, at))
        starts = np.searchsorted(at, np.arange(len(near)))
        ranks = np.arange(len(at)) - starts[at]  # ``at`` rises, in ``by_rank`` too
        kept = ranks < BEST
        chosen = by_rank[kept]
        order[images[chosen], ranks[kept]] = columns[chosen]
        best[images[chosen], ranks[kept]] = exact[chosen]
        return images, columns, exact

    def _refine(
        self,
        refined: Float64,
        images: npt.NDArray[np.intp],
        before: Float32,
        after: Float64,
        anchors: Float32,
    ) -> None:
        anchor = anchors[images].astype(np.float64)
        new = np.exp(self._logit_scale * (after.astype(np.float32) - anchor))
        old = np.exp(self._logit_scale * (before - anchor))
        np.add.at(refined, images, new - old)

    def _keep_certain(
        self,
        rows: npt.NDArray[np.intp],
        order: npt.NDArray[np.intp],
        ranked: Int32,
        best: Float32,
        stays: npt.NDArray[np.bool_],
        bound: Float32,
    ) -> None:
        """Of the lists ``rows``, which have gaps, keep what ranks before everything they do not
        know: what they held before, what ranks before one of those, and what is above the bound
        for certain."""
        is_old = (order[rows] < BEST) & (ranked[rows] >= 0)
        ranks = np.arange(BEST)
        last_old = np.where(is_old, ranks, -1).max(axis=1)
        # One that no longer has a place ranks behind all that have.
        last_old[is_old.sum(axis=1) < stays[:, rows].sum(axis=0)] = BEST
        limit = bound[rows]
        with np.errstate(invalid="ignore"):
            certain = (ranks <= last_old[:, None]) | (best[rows] - limit[:, None] > self._slack)
        certain &= ranked[rows] >= 0
        outside = np.where(certain | (ranked[rows] < 0), -np.inf, best[rows]).max(axis=1)
        limit = np.maximum(limit, outside)
        ranked[rows] = np.where(certain, ranked[rows], NO_LABEL)
        best[rows] = np.where(certain, best[rows], limit[:, None])


def _ranked(scores: Float32, count: int) -> tuple[npt.NDArray[np.intp], Float32]:
    """(n, c) scores -> the columns of the best ``count`` of each row, or of all, and their
    scores: (n, count) each, filled up with -inf."""
    width = scores.shape[1]
    if width > _SORTED_WHOLE:
        some = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        inner = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
        order = np.take_along_axis(some, inner, axis=1)
    else:
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(scores, order, axis=1)
    if width < count:  # BEST remembered and none added
        missing = ((0, 0), (0, count - width))
        order = np.pad(order, missing)
        best = np.pad(best, missing, constant_values=-np.inf)
    return order, best
