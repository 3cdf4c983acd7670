"""Exact nearest neighbours: every row scored where it is mapped, the best scored anew in float64.

A scan in float32 costs about what reading the fp16 rows once does. It only decides which rows
may be among the best: those within rounding of the k-th are scored again in float64, each by
itself, so that equal rows have equal scores wherever they stand, and equals go by id.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.half import WIDEN_ROWS, widen
from clipsearch.shards import Float16, Int64
from clipsearch.threads import in_order
from clipsearch.vectors import BLOCK_ROWS, Vectors

Float64 = npt.NDArray[np.float64]
Best = tuple[Float64, Int64]
"""Of one query: (n,) float64 scores, falling, and the (n,) rows they are of, equals rising."""

NUMPY_BYTES = 128 * 1024 * 1024
"""Up to this many bytes NumPy scans: importing FAISS takes longer than it would save a search. It
scans twice as fast: a process that has it, such as a server, takes it from SMALL_BYTES on."""
SMALL_BYTES = 4 * 1024 * 1024

FEW_SHARE = 0.125
"""Up to this share of all rows, those allowed are gathered; beyond it reading all is quicker."""

_SLACK = 1e-5
"""More than float32 sums, taken in any order, differ by for unit vectors."""

_EXACT_ROWS = 2048  # in float64 they take much room
_GATHER_ROWS = 2048
_SINGLE_QUERIES = 3  # of more queries a matrix product scores a block sooner
_QUERIES_AT_ONCE = 1024


def inner_products(rows: Float32, query: Float32) -> Float64:
    """(n, dim) rows and a (dim,) query -> (n,) float64 scores.

    A matrix product may round the same row differently in different places; summed row by row,
    equal rows have equal scores wherever they stand.
    """
    scores = np.empty(len(rows), np.float64)
    wide = query.astype(np.float64)
    for start in range(0, len(rows), _EXACT_ROWS):
        products = rows[start : start + _EXACT_ROWS].astype(np.float64)
        products *= wide
        scores[start : start + _EXACT_ROWS] = products.sum(axis=1)
    return scores


def slack_of(query: Float32) -> np.float32:
    """How far a float32 score may be from the exact one."""
    return np.float32(_SLACK * np.linalg.norm(query))


def contenders(rough: Float32, k: int, slack: np.float32) -> Int64:
    """Rising positions of the finite scores that are among the k best of (n,), or nearer than
    ``slack`` to the k-th."""
    size = len(rough) // (4 * k)
    if size > 1:
        # The k-th best of the best of 4 k parts is below the k-th best of all: one pass over
        # the scores leaves a few of them to be sorted.
        size = min(size, 1024)
        tops = rough[: len(rough) // size * size].reshape(-1, size).max(axis=1)
        least = np.partition(tops, len(tops) - k)[len(tops) - k] - slack
        some = np.flatnonzero(rough >= least)
    else:
        some = np.arange(len(rough))
    scores = rough[some]
    if len(some) > k:
        some = some[scores >= np.partition(scores, len(some) - k)[len(some) - k] - slack]
    kept: Int64 = some[rough[some] > -np.inf]
    return kept


def ranked(scores: Float64, rows: Int64, k: int) -> Best:
    """The best k, best first, equals by row."""
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


class RowScan:
    """Scores rows of ``vectors`` by their position in it. Safe for threads.

    Rows rise with ids. Those of deleted images are never found.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors
        self._segments = [np.ascontiguousarray(segment) for segment in vectors.segments]
        sizes = [len(segment) for segment in self._segments]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._alive: npt.NDArray[np.bool_] | None = None
        if len(vectors.deleted):
            alive = np.ones(len(vectors.ids), bool)
            alive[self._find(vectors.deleted)[0]] = False
            self._alive = alive

    def __len__(self) -> int:
        return len(self.vectors.ids)

    @property
    def _uses_faiss(self) -> bool:
        size = 2 * self.vectors.dim * len(self.vectors.ids)
        return size > NUMPY_BYTES or (size > SMALL_BYTES and "faiss" in sys.modules)

    def count_live(self, start: int = 0, stop: int | None = None) -> int:
        """How many of the rows from ``start`` to ``stop`` are not deleted."""
        stop = len(self) if stop is None else stop
        return stop - start if self._alive is None else int(self._alive[start:stop].sum())

    def _find(self, ids: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """The rows of those of (n,) ids that are here, and (n,) bool: which are."""
        known = self.vectors.ids
        if not len(known):
            return np.empty(0, np.int64), np.zeros(len(ids), bool)
        if known[-1] - known[0] + 1 == len(known):  # without gaps nothing need be looked up
            here = (ids >= known[0]) & (ids <= known[-1])
            return ids[here] - known[0], here
        rows = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        here = known[rows] == ids
        return rows[here], here

    def live_rows(self, ids: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """The rows of those of (n,) ids that are here and not deleted, and (n,) bool: which."""
        rows, here = self._find(np.asarray(ids, np.int64))
        if self._alive is not None:
            live = self._alive[rows]
            here[here] = live
            rows = rows[live]
        return rows, here

    def gather(self, rows: Int64) -> Float16:
        """(n, dim) fp16: the vectors of (n,) rising rows."""
        gathered = np.empty((len(rows), self.vectors.dim), np.float16)
        bounds = np.searchsorted(rows, self._starts)
        for number, segment in enumerate(self._segments):
            first, last = bounds[number], bounds[number + 1]
            if last > first:
                places = rows[first:last] - self._starts[number]
                np.take(segment, places, axis=0, out=gathered[first:last])
        return gathered

    def scores(self, rows: Int64, query: Float32) -> Float64:
        """(n,) float64: the exact scores of (n,) rising rows."""
        spans = [rows[start : start + _EXACT_ROWS] for start in range(0, len(rows), _EXACT_ROWS)]

        def score(span: Int64) -> Float64:
            return inner_products(widen(self.gather(span)), query)

        if len(spans) <= 1:  # nothing to share out
            return score(rows)
        return np.concatenate(list(in_order(score, spans)))

    def products(self, query: Float32, start: int = 0) -> Float32:
        """(n,) float32 scores of the rows from ``start`` on; -inf where one is deleted."""
        products = np.empty(len(self) - start, np.float32)
        for number, segment in enumerate(self._segments):
            first = max(0, start - int(self._starts[number]))
            if first < len(segment):
                place = int(self._starts[number]) + first - start
                out = products[place : place + len(segment) - first]
                self._score_all(segment[first:], query, out)
        if self._alive is not None:
            products[~self._alive[start:]] = -np.inf
        return products

    def _score_all(self, matrix: Float16, query: Float32, out: Float32) -> None:
        if self._uses_faiss:
            from clipsearch.faiss_scan import all_products

            out[:] = all_products(matrix, query)
            return

        def score(start: int) -> None:
            stop = min(start + BLOCK_ROWS, len(matrix))
            _widened_products(matrix[start:stop], query, out[start:stop])

        _for_each(score, range(0, len(matrix), BLOCK_ROWS))

    def best(self, query: Float32, k: int, *, start: int = 0) -> Best:
        """The best k of the rows from ``start`` on."""
        if len(self) - start <= 0:
            return np.empty(0), np.empty(0, np.int64)
        rows = contenders(self.products(query, start), k, slack_of(query)) + start
        return ranked(self.scores(rows, query), rows, k)

    def best_of(self, query: Float32, k: int, rows: Int64) -> Best:
        """The best k of (n,) rising rows, of which none is deleted."""
        if len(rows) > FEW_SHARE * len(self):
            rough = self.products(query)[rows]
        else:
            rough = np.empty(len(rows), np.float32)

            def score(first: int) -> None:
                some = slice(first, first + _GATHER_ROWS)
                _widened_products(self.gather(rows[some]), query, rough[some])

            _for_each(score, range(0, len(rows), _GATHER_ROWS))
        if not len(rows):
            return np.empty(0), rows
        chosen = rows[contenders(rough, k, slack_of(query))]
        return ranked(self.scores(chosen, query), chosen, k)

    def best_of_many(self, queries: Float32, k: int, rows: Int64 | None = None) -> list[Best]:
        """``best``, or ``best_of`` where rows are given, for each of (m, dim) queries."""
        if len(queries) <= _SINGLE_QUERIES:
            if rows is None:
                return [self.best(query, k) for query in queries]
            return [self.best_of(query, k, rows) for query in queries]
        found: list[Best] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            found += self._by_matrix_products(queries[start : start + _QUERIES_AT_ONCE], k, rows)
        return found

    def _by_matrix_products(self, queries: Float32, k: int, rows: Int64 | None) -> list[Best]:
        if rows is None:
            rows = np.arange(len(self)) if self._alive is None else np.flatnonzero(self._alive)
        parts = (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
        slack = np.array([slack_of(query) for query in queries])
        least = np.full(len(queries), -np.inf, np.float32)
        best: list[Best] = [(np.empty(0), np.empty(0, np.int64))] * len(queries)
        for here, block in in_order(lambda part: (part, widen(self.gather(part))), parts):
            rough = queries @ block.T
            hopeful = rough >= (least - slack)[:, None]
            for which in np.flatnonzero(hopeful.any(axis=1)):
                some = np.flatnonzero(hopeful[which])
                some = some[contenders(rough[which, some], k, slack[which])]
                scores = inner_products(block[some], queries[which])
                old_scores, old_rows = best[which]
                best[which] = ranked(
                    np.concatenate([old_scores, scores]), np.concatenate([old_rows, here[some]]), k
                )
                if len(best[which][0]) == k:
                    least[which] = best[which][0][-1]
        return best


def _for_each(score: Callable[[int], None], starts: range) -> None:
    """Over threads, where there is anything to share out."""
    for _ in in_order(score, starts, workers=1 if len(starts) == 1 else None):
        pass


def _widened_products(matrix: Float16, query: Float32, out: Float32) -> None:
    """Write the (n,) products of (n, dim) fp16 rows to ``out``, a core's cache at a time."""
    buffer = np.empty((min(WIDEN_ROWS, len(matrix)), matrix.shape[1]), np.float32)
    for start in range(0, len(matrix), WIDEN_ROWS):
        some = matrix[start : start + WIDEN_ROWS]
        wide = widen(some, buffer[: len(some)])
        np.dot(wide, query, out=out[start : start + len(some)])
