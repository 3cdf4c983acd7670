"""Streaming scores: image vectors against class vectors, a block at a time.

The (images x labels) matrix never exists as a whole; memory is a few blocks of it. Products are
float32. Where two labels are nearer to each other than float32 sums can tell, those in question
are scored again in float64 and ties go to the label that was named first: so the labels of an
image do not depend on how images were cut into blocks, nor on how BLAS sums.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.half import widen
from clipsearch.records import Int32
from clipsearch.shards import Float16, Int64
from clipsearch.threads import in_order, single_threaded_blas, worker_count

Rows = Float16 | Float32
Block = tuple[Int64, Rows]

_SCORES_PER_BLOCK = 1 << 20  # 4 MB: the passes over it after the product find it in a cache
_MOST_ROWS = 8192  # of few labels: what is done once a block is spread over them
_ROWS_MULTIPLIED = 1024  # as float32 they fit into a core's cache, or nearly
_PASSES = 16
_FEW_LABELS = 32
_PAIRS_AT_ONCE = 4096
_WORTH_THREADS = 1 << 27
"""Multiplications from which threads pay: a tenth of a second of one core's at the most."""


@dataclass(frozen=True)
class ScoredBlock:
    """The best labels of some images; the columns of ``records.Classification``.

    labels : -1 in all of an image's columns where it has none of the labels.
    log_sums : (n,) float32, log of the sum over all labels of exp(logit_scale * (score - best)):
        the best label's probability is exp(-log_sum).
    in_set : (n,) float32, how far an image belongs to the labels at all (``abstaining``); None
        where nobody asked.
    covered : (n, m) int32, every image's label set (``conformal``), best first and then -1; None
        where nobody asked.
    """

    ids: Int64
    labels: Int32
    scores: Float32
    probabilities: Float32
    margins: Float32
    runners_up: Int32
    log_sums: Float32
    in_set: Float32 | None = None
    covered: Int32 | None = None


class Scorer(Protocol):
    """What labels blocks of images. Safe for threads.

    block_rows : how many images at most ``score`` takes at once. products : multiplications
    that an image takes, about.
    """

    @property
    def block_rows(self) -> int: ...
    @property
    def products(self) -> int: ...
    def score(self, ids: Int64, rows: Rows) -> ScoredBlock:
        """The labels of images of (n,) ``ids``, whose unit vectors are (n, dim) ``rows``."""
        ...


def rounding_bound(dim: int) -> float:
    """How far a float32 product of two unit vectors of ``dim`` numbers can be from the true one,
    summed in any order: (dim - 1) half units in the last place (Higham 2002, section 3.1), and
    a little for vectors that are not quite of unit length."""
    return 1.02 * dim * 2.0**-24


class LabelScorer:
    """Scores blocks of images against the class vectors of a label set. Safe for threads.

    classes : (C, dim) float32 unit rows, C >= 1. logit_scale : probabilities are
    softmax(logit_scale * scores) over the C labels; a logit bias would be the same for every
    label and cancels. top : how many labels to keep of each image, at most C.
    """

    def __init__(self, classes: Float32, logit_scale: float, top: int = 1) -> None:
        self.classes = classes
        self.logit_scale = np.float32(logit_scale)
        self.top = top
        self._columns = np.ascontiguousarray(classes.T)
        self._wide = classes.astype(np.float64)
        self._ones = np.ones(len(classes), np.float32)
        self._slack = np.float32(2 * rounding_bound(classes.shape[1]))
        self.block_rows = max(16, min(_MOST_ROWS, _SCORES_PER_BLOCK // len(classes)))
        self._buffers = threading.local()

    def __reduce__(self) -> tuple[type[LabelScorer], tuple[Any, ...]]:
        # Memory of threads cannot be pickled, and the rest follows from these.
        return LabelScorer, (self.classes, float(self.logit_scale), self.top)

    @property
    def products(self) -> int:
        """How many multiplications an image takes."""
        return self.classes.size

    def score(self, ids: Int64, rows: Rows) -> ScoredBlock:
        """The labels of at most ``block_rows`` images, whose unit vectors are (n, dim) ``rows``."""
        scores = self._room("scores", len(rows), len(self.classes))
        for start in range(0, len(rows), _ROWS_MULTIPLIED):
            part = slice(start, start + _ROWS_MULTIPLIED)
            self._multiply(self._float32(rows[part]), scores[part])
        count = scores.shape[1]
        wanted = min(count, max(self.top, 2))
        ranked, best = best_labels(scores, min(count, wanted + 1))
        is_near = np.zeros(len(ids), bool)
        for rank in range(best.shape[1] - 1):
            is_near |= best[:, rank] - best[:, rank + 1] <= self._slack
        near = np.flatnonzero(is_near)
        if len(near):
            self._settle(near, rows, scores, ranked, best, wanted)
        ranked, best = ranked[:, :wanted], best[:, :wanted]
        # Subtracting the best first keeps exp() from overflowing.
        np.subtract(scores, best[:, :1], out=scores)
        np.multiply(scores, self.logit_scale, out=scores)
        np.exp(scores, out=scores)
        log_sums = np.log(scores @ self._ones)
        top = best[:, : self.top]
        odds = np.exp(self.logit_scale * (top - best[:, :1]) - log_sums[:, None])
        alone = count == 1
        rows_here = len(ids)
        return ScoredBlock(
            ids=ids,
            labels=np.ascontiguousarray(ranked[:, : self.top]),
            scores=np.ascontiguousarray(top),
            probabilities=odds,
            margins=np.full(rows_here, np.nan, np.float32) if alone else best[:, 0] - best[:, 1],
            runners_up=np.full(rows_here, -1, np.int32) if alone else ranked[:, 1].copy(),
            log_sums=log_sums,
        )

    def _multiply(self, vectors: Float32, scores: Float32) -> None:
        """Fill ``scores`` (n, C) with the products of (n, dim) ``vectors`` and the classes. Those
        that may be among an image's best are float32 products, the others lower than they."""
        np.matmul(vectors, self._columns, out=scores)

    def _float32(self, rows: Rows) -> Float32:
        if rows.dtype != np.float16:
            return cast(Float32, rows)
        return widen(cast(Float16, rows), self._room("vectors", *rows.shape))

    def _room(self, name: str, rows: int, columns: int) -> Float32:
        """This thread's memory for so much, used again and again."""
        room: Float32 | None = getattr(self._buffers, name, None)
        if room is None or len(room) < rows:
            room = np.empty((rows, columns), np.float32)
            setattr(self._buffers, name, room)
        return room[:rows]

    def _settle(
        self,
        near: npt.NDArray[np.intp],
        rows: Rows,
        scores: Float32,
        ranked: Int32,
        best: Float32,
        wanted: int,
    ) -> None:
        """Rank the labels that rounding may have put in a wrong place again, in float64.

        near : which images of the block have labels that are too near to each other. rows : of
        all. ranked, best : (n, wanted or one more) are set right in their first ``wanted``
        columns.
        """
        least = best[near, wanted - 1] - self._slack
        pairs = np.flatnonzero(scores[near] >= least[:, None])
        of_row, labels = np.divmod(pairs, scores.shape[1])
        exact = np.empty(len(labels), np.float64)
        for start in range(0, len(labels), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            images = rows[near[of_row[part]]].astype(np.float64)
            images *= self._wide[labels[part]]
            exact[part] = images.sum(axis=1)
        order = np.lexsort((labels, -exact, of_row))
        starts = np.searchsorted(of_row, np.arange(len(near)))
        first = order[starts[:, None] + np.arange(wanted)]
        ranked[near, :wanted] = labels[first]
        best[near, :wanted] = exact[first]
        scores[near[of_row], labels] = exact  # the sums are taken of what the best is told by


def best_labels(scores: Float32, count: int) -> tuple[Int32, Float32]:
    """The ``count`` best of each row of (n, C) finite C-contiguous scores, best first, of equals
    the first label: (n, count) int32 positions, and their scores."""
    if scores.shape[1] <= _FEW_LABELS:
        return _best_of_few(scores, count)
    if count > _PASSES:
        # A stable sort of the negated scores keeps equal labels in their given order.
        order: Int32 = np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int32)
        return order, np.take_along_axis(scores, order, axis=1)
    # A pass for each rank is many times faster: argmax reads a row once, and takes the first of
    # equals. What a pass found is hidden from the next, and put back at the end. A rank is a row
    # while they are made: with few labels the time goes into these columns.
    flat = scores.reshape(-1)
    starts = np.arange(0, scores.size, scores.shape[1])
    best = np.empty((count, len(scores)), np.int32)
    values = np.empty((count, len(scores)), np.float32)
    places = np.empty((count, len(scores)), np.int64)
    for rank in range(count):
        best[rank] = labels = scores.argmax(axis=1)
        at = np.add(starts, labels, out=places[rank])
        flat.take(at, out=values[rank])
        flat[at] = -np.inf
    for rank in range(count):
        flat[places[rank]] = values[rank]
    return best.T, values.T


def _best_of_few(scores: Float32, count: int) -> tuple[Int32, Float32]:
    """``best_labels`` where a row is too short for argmax to be quick at it: whole columns are
    compared, and of those that hold the best the first has the highest weight."""
    columns = np.array(scores.T, order="C")  # a copy also where it need not be: it is changed
    weights = np.arange(len(columns), 0, -1, dtype=np.uint8)[:, None]
    best = np.empty((count, len(scores)), np.int32)
    values = np.empty((count, len(scores)), np.float32)
    for rank in range(count):
        np.max(columns, axis=0, out=values[rank])
        weight = (weights * (columns == values[rank])).max(axis=0)
        np.subtract(len(columns), weight, out=best[rank], casting="unsafe")
        if rank + 1 < count:
            np.copyto(columns, -np.inf, where=weights == weight)
    return best.T, values.T


def score_blocks(
    blocks: Iterable[Block], scorer: Scorer, images: int | None = None
) -> Iterator[ScoredBlock]:
    """Yield the labels of every image, in the order in which they come, from several threads.

    blocks : (ids (n,), (n, dim) rows) pairs, fp16 or float32, of any length.
    images : how many there are in all, where that is known: few are not worth threads.
    """
    parts = (
        (ids[start : start + scorer.block_rows], rows[start : start + scorer.block_rows])
        for ids, rows in blocks
        for start in range(0, len(ids), scorer.block_rows)
    )
    workers = worker_count()
    if workers == 1 or (images is not None and images * scorer.products < _WORTH_THREADS):
        yield from (scorer.score(ids, rows) for ids, rows in parts)
        return
    with single_threaded_blas():
        yield from in_order(lambda part: scorer.score(*part), parts, workers)
