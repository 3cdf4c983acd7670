"""The vector-index seam: nearest neighbours by inner product, exactly or through FAISS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, QueryError
from clipsearch.shards import Float16, Int64

NO_ID = -1
"""Fills the columns of a result row that has fewer than k hits; its score is -inf."""

EXACT_BYTES = 128 * 1024 * 1024
"""Up to this many bytes of fp16 vectors a scan in NumPy answers before FAISS is imported."""


class VectorIndex(Protocol):
    """Finds the k vectors of highest inner product.

    Results are sorted by score, then by id: of images with the same vector the lower ids come
    first, at the end of the k too. Scores are within 1e-5 of the exact product for unit
    vectors; which of two different vectors that are nearer to each other than that comes
    first is left open. Rows with fewer than k hits are filled up with ``NO_ID`` and -inf.
    """

    @property
    def kind(self) -> str: ...

    def __len__(self) -> int: ...

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Add (n,) new ids with their (n, dim) float32 rows."""
        ...

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Float32, Int64]:
        """(m, dim) float32 queries -> (m, k) float32 scores and (m, k) int64 ids.

        allowed : (a,) int64 rising; only these ids may come back. None allows all.
        """
        ...

    def save(self, path: Path) -> None:
        """Write the index to the file ``path``, atomically."""
        ...

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an index that ``save`` wrote; IndexFormatError when it is damaged."""
        ...


def choose_kind(rows: int, dim: int) -> str:
    """The kind of vector index that answers soonest over so many vectors."""
    return "exact" if rows * dim * 2 <= EXACT_BYTES else "sqfp16"


def check_queries(queries: Float32, dim: int, k: int) -> Float32:
    """The queries as a contiguous (m, dim) float32 array; QueryError when they are not."""
    rows = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise QueryError(f"expected query vectors of {dim} numbers, got shape {rows.shape}")
    if not np.isfinite(rows).all():
        raise QueryError("a query vector holds a number that is not finite")
    if k < 1:
        raise QueryError(f"k must be 1 or more, got {k}")
    return rows


class TopK:
    """The k best (score, id) of every query so far, ties going to the lower id."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.scores = np.full((queries, k), -np.inf, np.float32)
        self.ids = np.full((queries, k), NO_ID, np.int64)

    def add(self, scores: Float32, ids: Int64) -> None:
        """Take in (m, n) scores of the n images ``ids`` ((n,), or (m, n) one row a query)."""
        for row in range(len(scores)):
            self.add_row(row, scores[row], ids if ids.ndim == 1 else ids[row])

    def add_row(self, row: int, scores: Float32, ids: Int64) -> None:
        """Take in the (n,) scores that the images ``ids`` have for the query ``row``."""
        # Equal scores stay in: the one with the lower id may have to win.
        candidates = np.flatnonzero(scores >= self.scores[row, -1])
        if len(candidates) > 4 * self._k:
            cut = np.partition(scores[candidates], -self._k)[-self._k]
            candidates = candidates[scores[candidates] >= cut]
        if not len(candidates):
            return
        merged_scores = np.concatenate([self.scores[row], scores[candidates]])
        merged_ids = np.concatenate([self.ids[row], ids[candidates]])
        # An empty place loses against everything, a real score of -inf included.
        order = np.lexsort((merged_ids, merged_ids == NO_ID, -merged_scores))[: self._k]
        self.scores[row] = merged_scores[order]
        self.ids[row] = merged_ids[order]


_PRODUCT_ROWS = 2048
_SLACK = 1e-5
"""More than float32 sums, taken in any order, differ by for unit vectors."""


def inner_products(rows: Float32, query: Float32) -> Float32:
    """(n, dim) rows and a (dim,) query -> (n,) float32 scores.

    A matrix product may round the same row differently in different places; summed in
    float64, row by row, equal rows have equal scores wherever they stand.
    """
    scores = np.empty(len(rows), np.float32)
    wide = query.astype(np.float64)
    for start in range(0, len(rows), _PRODUCT_ROWS):  # in float64 they take much room
        products = rows[start : start + _PRODUCT_ROWS].astype(np.float64)
        products *= wide
        scores[start : start + _PRODUCT_ROWS] = products.sum(axis=1)
    return scores


def exact_search(
    blocks: Iterable[tuple[Int64, Float32]],
    queries: Float32,
    k: int,
    allowed: Int64 | None = None,
) -> tuple[Float32, Int64]:
    """Scan (ids, rows) blocks and keep the best k of every query.

    queries : (m, dim) float32. Returns (m, k) float32 scores and (m, k) int64 ids.
    """
    best = TopK(len(queries), k)
    for ids, rows in blocks:
        if allowed is not None:
            keep = np.isin(ids, allowed)
            ids, rows = ids[keep], rows[keep]
        if not len(ids):
            continue
        for row, rough in enumerate(queries @ rows.T):
            slack = np.float32(_SLACK * np.linalg.norm(queries[row]))
            candidates = np.flatnonzero(rough >= best.scores[row, -1] - slack)
            if len(candidates) > k:
                cut = np.partition(rough[candidates], -k)[-k] - slack
                candidates = candidates[rough[candidates] >= cut]
            if len(candidates):
                scores = inner_products(rows[candidates], queries[row])
                best.add_row(row, scores, ids[candidates])
    return best.scores, best.ids


class ExactIndex:
    """A scan over all vectors, in float32, of vectors stored as fp16. Always right."""

    kind = "exact"

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._ids: list[Int64] = []
        self._rows: list[Float16] = []

    def __len__(self) -> int:
        return sum(len(ids) for ids in self._ids)

    def add(self, ids: Int64, vectors: Float32) -> None:
        if vectors.shape != (len(ids), self.dim):
            raise QueryError(f"expected {len(ids)} x {self.dim} vectors, got {vectors.shape}")
        self._ids.append(np.array(ids, np.int64))  # a copy: the caller may use its array again
        self._rows.append(np.asarray(vectors, np.float16))

    def _blocks(self, rows: int = 16_384) -> Iterator[tuple[Int64, Float32]]:
        for ids, matrix in zip(self._ids, self._rows, strict=True):
            for start in range(0, len(ids), rows):
                yield ids[start : start + rows], matrix[start : start + rows].astype(np.float32)

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Float32, Int64]:
        queries = check_queries(queries, self.dim, k)
        return exact_search(self._blocks(), queries, k, allowed)

    def save(self, path: Path) -> None:
        import io

        from clipsearch.store import replace_file

        sink = io.BytesIO()
        ids = np.concatenate([*self._ids, np.empty(0, np.int64)])
        rows = np.concatenate([*self._rows, np.empty((0, self.dim), np.float16)])
        np.savez(sink, ids=ids, rows=rows)
        replace_file(path, sink.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            with np.load(path, allow_pickle=False) as data:
                ids, rows = data["ids"], data["rows"]
            whole = (
                (ids.dtype, rows.dtype) == (np.int64, np.float16)
                and (ids.ndim, rows.ndim) == (1, 2)
                and len(ids) == len(rows)
            )
        except Exception as error:  # a damaged zip file raises nearly anything
            raise IndexFormatError(f"{path} is not a saved exact index ({error})") from error
        if not whole:
            raise IndexFormatError(f"{path} is not a saved exact index")
        index = cls(rows.shape[1])
        index.add(ids, rows)
        return index
