"""The vector-index seam: what nominates images by approximate inner product, and when it does.

Nothing that is found this way is shown as it is: ``approximate_search`` scores the nominated
rows anew, exactly, from the mapped matrix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import QueryError
from clipsearch.shards import Int64

NO_ID = -1
"""Fills the columns of a result row that has fewer than k hits; its score is -inf."""

EXACT_BYTES = 512 * 1024 * 1024
"""Up to this many bytes of fp16 vectors every search scans them all: 13 ms on two cores, and no
index file to make. One that covers more is worth a minute of making."""

FEWEST_ROWS = 64
"""Fewer vectors cannot train an index."""

EXACT = "exact"
IVF_PQ = "ivf-pq"


class VectorIndex(Protocol):
    """Nominates the images whose vectors have about the highest inner products with a query.

    Safe to search from several threads: whatever concerns one search is given with it.
    """

    @property
    def kind(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def __len__(self) -> int: ...

    def add(self, ids: Int64, vectors: Float32) -> None:
        """Add (n,) new ids with their (n, dim) float32 rows."""
        ...

    def nominate(self, query: Float32, count: int, probes: int) -> tuple[Float32, Int64]:
        """(dim,) float32 query -> (count,) approximate scores, falling, and (count,) int64 ids.

        probes : how many parts of the collection are looked into. Where they hold fewer than
        ``count`` the rest is filled up with -inf and ``NO_ID``.
        """
        ...

    def save(self, path: Path) -> int:
        """Write the index to the file ``path``, atomically; the CRC-32 of the whole file."""
        ...

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open an index that ``save`` wrote; IndexFormatError when it is damaged."""
        ...


def choose_kind(rows: int, dim: int) -> str:
    """The kind of search that is worth its memory and its making over so many vectors.

    ============================ ========== ==========================================
    fp16 vectors                 kind       is
    ============================ ========== ==========================================
    up to ``EXACT_BYTES``        ``exact``  a scan of the mapped matrix
    more                         ``ivf-pq`` inverted lists of product codes, a quarter of
                                            a byte a number, scored anew from the matrix
    ============================ ========== ==========================================

    Of clustered vectors of 512 numbers, asked with texts off their cloud, candidates re-scored:
    lists of 8-bit numbers (``IVF2048,SQ8``) find as much as soon, in 3.6 times the file; four
    bits for every four numbers (``PQ128x4fs``) make half the file and want two and a half times
    the candidates; a graph (``HNSW32,SQ8``) takes five times as long to make, five times the
    file, and finds 0.85 with ``efSearch`` 1024 where this finds 0.98 with 128 lists.
    """
    small = rows < FEWEST_ROWS or rows * dim * 2 <= EXACT_BYTES
    return EXACT if small else IVF_PQ


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
