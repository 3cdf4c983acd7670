"""Nearest neighbours over one generation: exact, or through an index file with the rest scanned."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from clipsearch.approximate_search import ApproximateSearch
from clipsearch.encoder import Float32
from clipsearch.exact_search import Best, RowScan
from clipsearch.manifest import Manifest, MeasuredSearch
from clipsearch.search_tuning import Effort
from clipsearch.shards import Int64
from clipsearch.vector_index import EXACT, NO_ID, check_queries, choose_kind
from clipsearch.vector_index_file import open_index_file
from clipsearch.vectors import Vectors


class VectorSearch:
    """The k best images of queries over ``vectors``; safe to call from several threads.

    A filter never costs recall: what is allowed is always searched exactly.
    """

    def __init__(self, vectors: Vectors, cache: Path, manifest: Manifest, space_id: str) -> None:
        self.vectors = vectors
        self._scan = RowScan(vectors)
        self._cache, self._manifest, self._space_id = cache, manifest, space_id

    @property
    def scan(self) -> RowScan:
        """What scores rows exactly."""
        return self._scan

    @functools.cached_property
    def _approximate(self) -> tuple[ApproximateSearch, Effort] | None:
        """What the index file nominates, opened when it is first asked for: much of what is done
        with vectors needs none, and FAISS reads its codes into memory."""
        if choose_kind(len(self.vectors.ids), self.vectors.dim) == EXACT:
            return None
        opened = open_index_file(self._cache, self._manifest, self._space_id, self.vectors)
        if opened is None:
            return None
        return ApproximateSearch(self._scan, opened.index, opened.covered), opened.effort

    @property
    def kind(self) -> str:
        """How a search without a filter is answered: "exact" or the kind of the index."""
        return EXACT if self._approximate is None else self._approximate[0].kind

    @property
    def measured(self) -> MeasuredSearch | None:
        """What was measured of the approximate search that answers; None where it was not, and
        where every search is exact but that was tried."""
        measured = self._manifest.searches.get(self._space_id)
        if measured is None or self._approximate is None:
            return measured if measured is not None and not measured.reached else None
        effort = self._approximate[1]
        same = (measured.probes, measured.candidates) == (effort.probes, effort.candidates)
        return measured if same and measured.kind == self.kind else None

    def search(
        self, queries: Float32, k: int, *, allowed: Int64 | None = None, exact: bool = False
    ) -> tuple[Float32, Int64]:
        """(m, dim) float32 queries -> (m, k) float32 scores and (m, k) int64 ids, where k is
        at most the number of vectors.

        Sorted by score in float64, then by id. Rows with fewer than k hits are filled up with
        ``NO_ID`` and -inf.

        allowed : (a,) int64 rising; only these ids may come back.
        exact : scan every vector even where an index file covers them.
        """
        queries = check_queries(queries, self.vectors.dim, k)
        k = min(k, max(1, len(self.vectors.ids)))
        found: list[Best]
        if allowed is not None:
            rows, _ = self._scan.live_rows(allowed)
            found = self._scan.best_of_many(queries, k, rows)
        elif exact or self._approximate is None:
            found = self._scan.best_of_many(queries, k)
        else:
            approximate, effort = self._approximate
            found = [approximate.best(query, k, effort) for query in queries]
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids = np.full((len(queries), k), NO_ID, np.int64)
        for number, (best, rows) in enumerate(found):
            scores[number, : len(rows)] = best
            ids[number, : len(rows)] = self.vectors.ids[rows]
        return scores, ids
