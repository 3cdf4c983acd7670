"""Nearest neighbours through an index that nominates: its candidates scored anew, exactly.

Rows that came after the index was made are scanned and merged. Whatever the index cannot
answer, the scan does: too many wanted, too few nominated, equals without end.
"""

from __future__ import annotations

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.exact_search import Best, RowScan, ranked
from clipsearch.search_tuning import Effort
from clipsearch.vector_index import VectorIndex

_CANDIDATES_A_HIT = 4
_LARGEST_SHARE = 0.05
"""Where more of all rows would be candidates, a scan is quicker."""


class ApproximateSearch:
    """The best rows of a query by an index over the first ``covered`` rows of a scan."""

    def __init__(self, scan: RowScan, index: VectorIndex, covered: int) -> None:
        self._scan = scan
        self._index = index
        self._covered = covered
        self._live = scan.count_live(0, covered)

    @property
    def kind(self) -> str:
        """The kind of the index."""
        return self._index.kind

    def best(self, query: Float32, k: int, effort: Effort) -> Best:
        """The best k rows of a (dim,) float32 query; k of them wherever there are k."""
        best = self._nominated(query, k, effort)
        if best is None:
            return self._scan.best(query, k)
        if self._covered == len(self._scan):
            return best
        later = self._scan.best(query, k, start=self._covered)
        return ranked(np.concatenate([best[0], later[0]]), np.concatenate([best[1], later[1]]), k)

    def _nominated(self, query: Float32, k: int, effort: Effort) -> Best | None:
        """The best k of the covered rows; None where the index cannot tell."""
        wanted = max(effort.candidates, _CANDIDATES_A_HIT * k)
        if not self._live or wanted > max(effort.candidates, _LARGEST_SHARE * self._live):
            return None
        # Deleted ones are nominated like all others: the more of them, the further to look.
        count = min(-(-wanted * self._covered // self._live), len(self._index))
        probes = -(-effort.probes * self._covered // self._live)
        rough, ids = self._index.nominate(query, count, probes)
        order = np.argsort(ids)
        rows, here = self._scan.live_rows(ids[order])
        # A damaged file may name one twice.
        own = (rows < self._covered) & (np.diff(rows, prepend=-1) > 0)
        rows = rows[own]
        if len(rows) < min(k, self._live):
            return None
        best = self._scan.best_of(query, k, rows)
        nominated = rough[order][here][own]
        last = nominated[np.searchsorted(rows, best[1][-1])]
        if last == rough[-1] and count < len(self._index):
            return None  # equals of the k-th may go on beyond what was nominated
        return best
