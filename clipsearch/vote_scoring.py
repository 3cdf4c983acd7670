"""The two passes of labels by cluster: sums of every group, then labels of every image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from clipsearch.cluster_model import Piece, pieces_of
from clipsearch.encoder import Float32
from clipsearch.half import widen
from clipsearch.label_groups import NO_GROUP, Groups, probabilities_of
from clipsearch.records import Int32
from clipsearch.scoring import LabelScorer, Rows, ScoredBlock, best_labels
from clipsearch.shards import Float16, Int64
from clipsearch.threads import in_order
from clipsearch.vectors import Vectors

DECIDE, TEMPER = "decide", "temper"

_PRIOR_IMAGES = 1.0
"""How many images the even prior counts for beside the other members of a group."""

_NUMBERS_PER_BLOCK = 1 << 19
_LEAST_ROWS, _MOST_ROWS = 16, 2048
_RANKED = ("labels", "scores", "probabilities", "margins", "runners_up", "log_sums")

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class VotedBlock(ScoredBlock):
    """Labels after the vote.

    scores : what ranks; softmax(logit_scale * score) over the labels is the probability.
    cosines : (n, top) float32, of the image itself and the class vectors. With "decide" the
        scores are the group's mean cosines, with "temper" the image's plus the logarithm of what
        was known beforehand, over the logit scale.
    """

    cosines: Float32


@dataclass(frozen=True)
class GroupSums:
    """What the first pass found.

    ids, groups, own : (n,) of every image, rising; own is the label it would have alone.
    sizes : (g,) int64. totals : (g, dim) of the members' vectors for "decide", (g, C) of their
    probabilities for "temper".
    """

    ids: Int64
    groups: Int32
    own: Int32
    sizes: Int64
    totals: Float64

    def of(self, ids: Int64) -> tuple[Int32, Int32]:
        """Groups and own labels of images that were counted."""
        places = np.searchsorted(self.ids, ids)
        return self.groups[places], self.own[places]


class GroupCount:
    """The first pass. Iterate over ``take_in`` to the end; then there are ``sums``."""

    def __init__(self, groups: Groups, classes: Float32, logit_scale: float, vote: str) -> None:
        self._groups, self._scale, self._vote = groups, logit_scale, vote
        self._columns = np.ascontiguousarray(classes.T)
        self._totals = np.zeros((groups.count, classes.shape[vote == DECIDE]), np.float64)
        self._found: list[tuple[Int64, Int32, Int32]] = []
        self._rows = _block_rows(max(len(classes), 2 * classes.shape[1], groups.count))

    def take_in(self, vectors: Vectors, allowed: Int64 | None) -> Iterator[int]:
        """Count all images, and tell how many are counted so far."""
        done = 0
        for found, which, totals in in_order(self._count, pieces_of(vectors, self._rows, allowed)):
            self._found.append(found)
            self._totals[which] += totals
            done += len(found[0])
            yield done

    def _count(self, piece: Piece) -> tuple[tuple[Int64, Int32, Int32], Int32, Float32]:
        ids, rows = piece[0], widen(piece[1])
        cosines = rows @ self._columns
        odds = probabilities_of(cosines, self._scale)
        groups = self._groups.find(ids, rows, odds)
        found = (ids, groups, best_labels(cosines, 1)[0][:, 0])
        summed = rows if self._vote == DECIDE else odds
        order = np.argsort(groups, kind="stable")
        order = order[groups[order] != NO_GROUP]
        if not len(order):
            return found, groups[:0], summed[:0]
        here = groups[order]
        begins = np.flatnonzero(np.r_[True, here[1:] != here[:-1]])
        return found, here[begins], np.add.reduceat(summed[order], begins, axis=0)

    def sums(self) -> GroupSums:
        """All that was counted."""
        none = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32))
        ids, groups, own = map(np.concatenate, zip(none, *self._found, strict=True))
        sizes = np.bincount(groups[groups != NO_GROUP], minlength=len(self._totals))
        return GroupSums(ids, groups, own, sizes, self._totals)


class Decided:
    """Labels of whole groups. Safe for threads."""

    def __init__(self, classes: Float32, logit_scale: float, top: int, sums: GroupSums) -> None:
        self._alone = LabelScorer(classes, logit_scale, top)
        self._classes, self._sums = classes, sums
        self.block_rows = self._alone.block_rows
        means = (sums.totals / np.maximum(sums.sizes, 1)[:, None]).astype(np.float32)
        blocks = [
            self._alone.score(np.arange(len(part)), part)
            for start in range(0, max(1, len(means)), self.block_rows)
            for part in [means[start : start + self.block_rows]]
        ]
        self._groups = {
            name: np.concatenate([getattr(block, name) for block in blocks]) for name in _RANKED
        }

    def score(self, ids: Int64, rows: Rows) -> tuple[VotedBlock, int]:
        """The labels of some images, and how many would have another alone."""
        groups, own = self._sums.of(ids)
        alone = np.flatnonzero(groups == NO_GROUP)
        if len(alone) == len(ids):
            mine = self._alone.score(ids, rows)
            columns = {name: getattr(mine, name) for name in _RANKED}
        else:
            columns = {name: every[groups] for name, every in self._groups.items()}
            if len(alone):
                mine = self._alone.score(ids[alone], rows[alone])
                for name, column in columns.items():
                    column[alone] = getattr(mine, name)
        wide = _wide(rows)
        cosines = np.stack(
            [np.einsum("nd,nd->n", wide, self._classes[labels]) for labels in columns["labels"].T],
            axis=1,
        )
        block = VotedBlock(ids=ids, cosines=cosines, **columns)
        return block, int(np.count_nonzero(block.labels[:, 0] != own))


class Tempered:
    """Labels of images, by what their likes are called. Safe for threads."""

    def __init__(self, classes: Float32, logit_scale: float, top: int, sums: GroupSums) -> None:
        self._columns = np.ascontiguousarray(classes.T)
        self._scale, self._top, self._sums = np.float32(logit_scale), top, sums
        self.block_rows = _block_rows(len(classes))

    def score(self, ids: Int64, rows: Rows) -> tuple[VotedBlock, int]:
        """The labels of some images, and how many would have another alone."""
        groups, own = self._sums.of(ids)
        count = self._columns.shape[1]
        cosines = _wide(rows) @ self._columns
        odds = probabilities_of(cosines, float(self._scale))
        voted = groups != NO_GROUP
        likes = np.zeros(cosines.shape, np.float64)
        likes[voted] = np.maximum(self._sums.totals[groups[voted]] - odds[voted], 0.0)
        others = np.zeros(len(ids))
        others[voted] = self._sums.sizes[groups[voted]] - 1
        likes += _PRIOR_IMAGES / count
        likes /= (others + _PRIOR_IMAGES)[:, None]
        scores = (cosines + np.log(likes) / self._scale).astype(np.float32)
        ranked, best = best_labels(scores, min(count, max(self._top, 2)))
        log_sums = np.log(np.exp(self._scale * (scores - best[:, :1])).sum(axis=1))
        top, first = ranked[:, : self._top], best[:, : self._top]
        alone = count == 1
        block = VotedBlock(
            ids=ids,
            labels=np.ascontiguousarray(top),
            scores=np.ascontiguousarray(first),
            probabilities=np.exp(self._scale * (first - best[:, :1]) - log_sums[:, None]),
            margins=np.full(len(ids), np.nan, np.float32) if alone else best[:, 0] - best[:, 1],
            runners_up=np.full(len(ids), -1, np.int32) if alone else ranked[:, 1].copy(),
            log_sums=log_sums,
            cosines=np.take_along_axis(cosines, top, axis=1),
        )
        return block, int(np.count_nonzero(block.labels[:, 0] != own))


def _wide(rows: Rows) -> Float32:
    return widen(cast(Float16, rows)) if rows.dtype == np.float16 else cast(Float32, rows)


def _block_rows(width: int) -> int:
    return max(_LEAST_ROWS, min(_MOST_ROWS, _NUMBERS_PER_BLOCK // max(1, width)))
