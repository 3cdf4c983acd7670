"""Labels of images from what a saved set remembers of them: only what changed is scored.

A removed label leaves the sums, an added one comes into them, and into the lists of those images
where it is among the best. An image is scored anew, against all labels, where what is remembered
cannot answer: it or its shard is new, its rows in the file are damaged, its list is too short by
now, or so much of its sum has gone that rounding would show in what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.best_rows import (
    BEST,
    NO_LABEL,
    BestRows,
    Float64,
    best_rows,
    first_ranks,
    no_rows,
    put_rows,
)
from clipsearch.encoder import Float32
from clipsearch.half import widen
from clipsearch.label_changes import LabelChange
from clipsearch.label_merging import Merger
from clipsearch.label_pieces import Images, picked_rows
from clipsearch.label_scores import CHUNK_ROWS, LABELS, SCORES, SUMS, RememberedScores
from clipsearch.records import Int32
from clipsearch.scoring import LabelScorer, rounding_bound
from clipsearch.shards import Float16, Int64
from clipsearch.vectors import Vectors

PIECE_ROWS = 65_536
MOST_DRIFT = 3e-6
"""Sums that may be further off than this are made anew: a probability is right to 1e-5, and
scores in float32 take some of that."""

_MOST_PRODUCTS = 1 << 19  # at once, of each thread: merging takes some 40 bytes of each
_LEAST_ROWS = 256
_SCANNED = 4  # columns up to which a scan for each is faster than widening and one product
_WORTH_FAISS = 100_000  # images from which a scan is worth the import
_WIDENED = 1024
_MOST_LOST = 0.125  # of a sum; what is left is off by an eighth more than it was
_USUAL_ROUNDING = 1.5e-7  # of a float32 product of unit vectors, against another order of summation
_UPDATE_ROUNDING = 3e-8  # of a sum: a float32 exp() of a label that is not among the best

Picked = slice | npt.NDArray[np.intp]


@dataclass(frozen=True)
class DeltaPiece:
    """Some images as they are labelled now.

    scored : how many of them were scored anew, against all labels. lost : the largest share of
    a sum that went with removed labels, of the others. vague : the same, of labels whose score
    was not remembered.
    """

    best: BestRows
    scored: int
    lost: float = 0.0
    vague: float = 0.0


class DeltaScorer:
    """Labels pieces of an index by what a set remembers. Safe for threads.

    scorer : of all labels there are now, for BEST of them, or all. change : from the set's
    labels to those. unlike : first and last of ids that are not what is remembered under them.
    top : how many labels are asked for, at most BEST. keep_all : bring all that
    is remembered, to be saved again, instead of what ``top`` needs.
    """

    def __init__(
        self,
        vectors: Vectors,
        scorer: LabelScorer,
        change: LabelChange,
        remembered: RememberedScores,
        unlike: Sequence[tuple[int, int]] = (),
        *,
        top: int,
        keep_all: bool,
        allowed: Int64 | None = None,
    ) -> None:
        self._vectors = vectors
        self._scorer = scorer
        self._change = change
        self._remembered = remembered
        self._unlike = unlike
        self._needed = min(max(top, 2), change.after)
        self._ranks = BEST if keep_all else max(top, 2)
        self._allowed = allowed
        self._slack = 2 * rounding_bound(vectors.dim)
        self._scale = float(scorer.logit_scale)
        self._gone = remembered.classes[list(change.removed)]
        self._come = scorer.classes[list(change.added)]
        self._merger = Merger(scorer.classes, change.added, self._slack, self._scale)
        # Which of the removed labels each code is, for the scores that the lists know of them.
        self._which = np.full(change.before + 1, NO_LABEL, np.int32)
        self._which[list(change.removed)] = np.arange(len(change.removed), dtype=np.int32)
        self._by_scan = change.columns <= _SCANNED and len(vectors.ids) >= _WORTH_FAISS

    def pieces(self) -> Iterator[tuple[Int64, Float16]]:
        """What ``score`` takes, one after the other: the more columns, the fewer images."""
        rows = max(_LEAST_ROWS, _MOST_PRODUCTS // max(1, self._change.columns))
        return self._vectors.pieces(min(PIECE_ROWS, rows))

    def score(self, piece: tuple[Int64, Float16]) -> DeltaPiece:
        """Label the images of a piece that count and are allowed."""
        ids, matrix = piece
        picked = picked_rows(self._vectors, ids, self._allowed)
        mine = ids if picked is None else ids[picked]
        images = Images(matrix, picked)
        if not len(mine):
            return DeltaPiece(no_rows(mine, self._ranks), 0)
        rows, known = self._remembered_rows(mine)
        if known is None:
            return self._updated(mine, images, rows)
        new = np.flatnonzero(~known)
        best = self._scored(mine[new], images.of(new))
        if len(new) == len(mine):
            return DeltaPiece(first_ranks(best, self._ranks), len(new))
        old = np.flatnonzero(known)
        updated = self._updated(mine[old], images.some(old), rows)
        whole = BestRows(
            mine,
            np.empty((self._ranks, len(mine)), np.int32),
            np.empty((self._ranks, len(mine)), np.float32),
            np.empty(len(mine), np.float64),
        )
        put_rows(whole, new, best)
        put_rows(whole, old, updated.best)
        return DeltaPiece(whole, updated.scored + len(new), updated.lost, updated.vague)

    def drift(self, lost: float, vague: float) -> float:
        """How far the sums may be off after this change, the largest ``lost`` and ``vague`` of
        all pieces given."""
        off = self._remembered.ref.drift + vague * self._scale * _USUAL_ROUNDING
        off += _UPDATE_ROUNDING if self._change.columns else 0.0
        return off / (1 - lost)

    def _remembered_rows(self, ids: Int64) -> tuple[Picked, npt.NDArray[np.bool_] | None]:
        """Where ``ids`` are in the file of what is remembered, and which of them are there and
        sound; None for all."""
        remembered = self._remembered
        unlike = [span for span in self._unlike if span[0] <= ids[-1] and span[1] >= ids[0]]
        start = int(np.searchsorted(remembered.ids, ids[0]))
        stop = start + len(ids)
        if not unlike and np.array_equal(remembered.ids[start:stop], ids):
            chunks = range(start // CHUNK_ROWS, (stop - 1) // CHUNK_ROWS + 1)
            if all(remembered.is_sound(chunk) for chunk in chunks):
                return slice(start, stop), None
        places = np.searchsorted(remembered.ids, ids)
        known = places < len(remembered.ids)
        known[known] = remembered.ids[places[known]] == ids[known]
        for first, last in unlike:
            known[np.searchsorted(ids, first) : np.searchsorted(ids, last, "right")] = False
        chunk_of = places // CHUNK_ROWS
        for chunk in np.unique(chunk_of[known]).tolist():
            if not remembered.is_sound(chunk):
                known &= chunk_of != chunk
        return places[known], None if known.all() else known

    def _updated(self, ids: Int64, images: Images, rows: Picked) -> DeltaPiece:
        """Images that are remembered, all of them sound."""
        remembered, change = self._remembered, self._change
        sums: Float64 = remembered.column(SUMS, rows)
        codes = remembered.column(LABELS + self._needed - 1, rows)
        anew = self._new_places(codes) == NO_LABEL
        touched = np.empty(0, np.intp)
        lost = vague = 0.0
        if change.columns:
            come = self._products(images, self._come)
            gone = self._products(images, self._gone)
            least = remembered.column(SCORES + BEST - 1, rows) - np.float32(self._slack)
            is_touched = np.zeros(len(ids), bool)
            for scores in (*come, *gone):
                is_touched |= scores >= least
            touched = np.flatnonzero(is_touched)
            anchors = remembered.column(SCORES, rows)
            before, sums = sums, sums.copy()
            for scores in come:
                sums += self._terms(scores, anchors)
            if len(gone):
                share = np.zeros(len(ids), np.float64)
                for scores in gone:
                    share += self._terms(scores, anchors)
                sums -= share
                share /= before
                anew |= share > _MOST_LOST
                share[is_touched] = 0  # looked at below
                lost = vague = float(share[~anew].max(initial=0.0))
        patch: BestRows | None = None
        if len(touched):
            at = touched + rows.start if isinstance(rows, slice) else rows[touched]
            patch, left, unsure = self._merged(ids, images, touched, at, come, gone)
            anew[touched] = (patch.labels[self._needed - 1] == NO_LABEL) | (left > _MOST_LOST)
            stays = ~anew[touched]
            lost = max(lost, float(left[stays].max(initial=0.0)))
            vague = max(vague, float(unsure[stays].max(initial=0.0)))
        labels = np.empty((self._ranks, len(ids)), np.int32)
        scores = np.empty((self._ranks, len(ids)), np.float32)
        for rank in range(self._ranks):
            labels[rank] = self._new_places(remembered.column(LABELS + rank, rows))
            scores[rank] = remembered.column(SCORES + rank, rows)
        if sums is not None and not change.columns:
            sums = np.array(sums)
        best = BestRows(ids, labels, scores, sums)
        if patch is not None:
            put_rows(best, touched, patch)
        again = np.flatnonzero(anew)
        if len(again):
            put_rows(best, again, self._scored(ids[again], images.of(again)))
        return DeltaPiece(best, len(again), lost, vague)

    def _merged(
        self,
        ids: Int64,
        images: Images,
        touched: npt.NDArray[np.intp],
        at: npt.NDArray[np.intp],
        come: Float32,
        gone: Float32,
    ) -> tuple[BestRows, Float64, Float64]:
        """The images ``touched``, at the rows ``at`` of the file: their best labels, what share
        of their sums has gone, and what share with labels that were not in their lists."""
        remembered = self._remembered
        codes = np.stack([remembered.column(LABELS + rank, at) for rank in range(BEST)])
        scores = np.stack([remembered.column(SCORES + rank, at) for rank in range(BEST)])
        places = self._new_places(codes)
        merged = self._merger.merge(places, scores, come[:, touched], images.of(touched))
        went = gone[:, touched].astype(np.float64)
        which = self._which.take(codes, mode="clip")
        ranks, columns = np.nonzero(which >= 0)
        went[which[ranks, columns], columns] = scores[ranks, columns]
        in_list = np.zeros(went.shape, bool)
        in_list[which[ranks, columns], columns] = True
        anchor = scores[0].astype(np.float64)
        top = merged.scores[0].astype(np.float64)
        before: Float64 = remembered.column(SUMS, at)
        with np.errstate(over="ignore", invalid="ignore"):  # of images that are scored anew
            share = np.exp(self._scale * (went - anchor))
            left = before + merged.refined - share.sum(axis=0)
            sums = left * np.exp(self._scale * (anchor - top))
            sums += np.exp(self._scale * (merged.added.astype(np.float64) - top)).sum(axis=0)
            lost = share.sum(axis=0) / before
            unsure = np.where(in_list, 0.0, share).sum(axis=0) / before
        best = BestRows(ids[touched], merged.labels, merged.scores, sums)
        return best, lost, unsure

    def _new_places(self, codes: npt.NDArray[np.unsignedinteger]) -> Int32:
        places: Int32 = self._change.kept.take(codes, mode="clip")  # no label: the last of them
        return places

    def _terms(self, scores: Float32, anchors: Float32) -> Float32:
        """exp(logit_scale * (score - best)); where a score is above the best it does not count,
        its image is looked at by itself."""
        terms: Float32 = scores - anchors
        terms *= np.float32(self._scale)
        np.minimum(terms, 0, out=terms)
        np.exp(terms, out=terms)
        return terms

    def _products(self, images: Images, classes: Float32) -> Float32:
        """(c, dim) class vectors -> (c, n) float32 scores of the images."""
        products = np.empty((len(classes), len(images)), np.float32)
        if not products.size:
            return products
        rows = images.of()
        if self._by_scan and len(rows) >= _WIDENED:
            from clipsearch.faiss_scan import all_products

            matrix = np.ascontiguousarray(rows)
            for column, vector in zip(products, classes, strict=True):
                column[:] = all_products(matrix, vector)
            return products
        for start in range(0, len(rows), _WIDENED):
            part = slice(start, start + _WIDENED)
            np.matmul(classes, widen(rows[part]).T, out=products[:, part])
        return products

    def _scored(self, ids: Int64, rows: Float16) -> BestRows:
        """Images scored against all labels."""
        step = self._scorer.block_rows
        parts = [no_rows(ids, BEST)]
        for start in range(0, len(ids), step):
            part = slice(start, start + step)
            parts.append(best_rows(self._scorer.score(ids[part], rows[part])))
        return BestRows(
            ids,
            np.concatenate([found.labels for found in parts], axis=1),
            np.concatenate([found.scores for found in parts], axis=1),
            np.concatenate([found.sums for found in parts]),
        )
