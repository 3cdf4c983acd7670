"""Searches through a vector database: it nominates, and the index scores anew, exactly.

So a hit has the very score that it has without the database, and nothing that the index does not
hold is ever a hit. Where the database lags behind, new images are scanned beside it and filters are
answered by the index; whatever it cannot answer, the index does, more slowly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.database_place import DatabasePlace
from clipsearch.database_sync import SyncRecord, content_of, record_of
from clipsearch.encoder import Float32
from clipsearch.errors import VectorDatabaseError
from clipsearch.exact_search import Best, RowScan, ranked, slack_of
from clipsearch.generation import Generation
from clipsearch.milvus_index import MOST_HITS, MilvusIndex, connect
from clipsearch.shards import Int64
from clipsearch.vector_index import check_queries

if TYPE_CHECKING:
    from clipsearch.filters import Filter

_FRESH_SECONDS = 1.0
"""How old the knowledge of what was synced may be."""
_CANDIDATES = 200
_CANDIDATES_A_HIT = 4


@dataclass(frozen=True)
class Nominated:
    """What the database nominates for one question, scored by the rows of ``scan``.

    images : how many pass the filter. where : in the database's words. there : how many of them
    the database has. covered : so many rows of ``scan`` it knows of. allowed : the rising ids that
    pass, None for all, from the index itself.
    """

    index: MilvusIndex
    scan: RowScan
    images: int
    where: str
    there: int
    covered: int
    allowed: Callable[[], Int64 | None]

    @property
    def kind(self) -> str:
        """What searched."""
        return self.index.kind

    def search(self, query: Float32, k: int) -> tuple[Float32, Int64]:
        """(dim,) float32 query -> (n,) float32 scores, falling, and (n,) ids: the k best, or as
        many as there are; equals by id."""
        query = check_queries(query, self.index.dim, k)[0]
        best = self._nominated(query, k)
        if best is None:
            best = self._scanned(query, k)
        elif self.covered < len(self.scan):
            later = self.scan.best(query, k, start=self.covered)
            best = ranked(
                np.concatenate([best[0], later[0]]), np.concatenate([best[1], later[1]]), k
            )
        return best[0].astype(np.float32), self.scan.vectors.ids[best[1]]

    def _nominated(self, query: Float32, k: int) -> Best | None:
        """The best k of the covered rows; None where the database cannot tell."""
        count = min(max(_CANDIDATES, _CANDIDATES_A_HIT * k), MOST_HITS)
        if k > count:
            return None
        rough, ids = self.index.nominate(query, count, where=self.where)
        # A graph with a filter may find fewer than there are.
        whole = self.there <= len(ids) < count
        if len(ids) < count and not whole:
            return None
        order = np.argsort(ids)
        rows, here = self.scan.live_rows(ids[order])
        own = (rows < self.covered) & (np.diff(rows, prepend=-1) > 0)
        rows, rough_here = rows[own], rough[order][here][own]
        if not whole and len(rows) < k:
            return None
        best = self.scan.best_of(query, k, rows)
        if whole or not len(rows):
            return best
        last = rough_here[np.searchsorted(rows, best[1][-1])]
        if last <= rough[-1] + slack_of(query):
            return None  # equals of the k-th may go on beyond what was nominated
        return best

    def _scanned(self, query: Float32, k: int) -> Best:
        allowed = self.allowed()
        if allowed is None:
            return self.scan.best(query, k)
        return self.scan.best_of(query, k, self.scan.live_rows(allowed)[0])


class DatabaseSearch:
    """The questions that a vector database answers for an index. Safe for threads.

    Raises VectorDatabaseError where it does not answer, or was never synced.
    """

    def __init__(self, place: DatabasePlace) -> None:
        self.place = place
        self._client = connect(place)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[MilvusIndex, SyncRecord, float]] = {}

    def opened(self, state: Generation) -> tuple[MilvusIndex, SyncRecord]:
        """The database's copy of the index in the space that is open, and what was synced."""
        with self._lock:
            key = f"{state.manifest.uuid} {state.space.id}"
            known = self._known.get(key)
            if known is not None and time.monotonic() - known[2] < _FRESH_SECONDS:
                return known[0], known[1]
            index = known[0] if known is not None else None
            if index is None:
                index = MilvusIndex(self.place, self._client, state.manifest.uuid, state.space)
                if not index.exists():
                    raise self._never_synced(state)
            record = record_of(index)
            if record is None:
                raise self._never_synced(state)
            self._known[key] = index, record, time.monotonic()
            return index, record

    def _never_synced(self, state: Generation) -> VectorDatabaseError:
        return VectorDatabaseError(
            f"{self.place.uri} does not hold all of this index: 'clipsearch sync --index "
            f"{state.store.root} --uri {self.place.uri}' brings it there"
        )

    def behind(self, state: Generation) -> str | None:
        """A line for a person where the index has changed since it was synced."""
        _, record = self.opened(state)
        if record.content == content_of(state.manifest, state.space.id):
            return None
        return (
            f"{self.place.uri} is at generation {record.generation} of this index, which is at "
            f"{state.manifest.generation}: 'clipsearch sync' brings it up to date. Until then the "
            "index itself helps, more slowly."
        )

    def nominated(
        self,
        state: Generation,
        where: Filter | None,
        first_id: int | None,
        matching: Callable[[Filter], Int64],
        allowed: Callable[[], Int64 | None],
    ) -> Nominated | None:
        """What answers a question with the filter ``where`` over ids from ``first_id`` on; None
        where the index had better do it.

        matching : the rising ids that pass a filter, from the index. allowed : those of the whole
        question, None for all.
        """
        index, record = self.opened(state)
        scan = state.search.scan
        fresh = record.content == content_of(state.manifest, state.space.id)
        if where is None and first_id is None:
            covered = len(scan)
            if not fresh:
                covered = int(np.searchsorted(state.vectors.ids, record.next_id))
            images = len(state.vectors)
            return Nominated(index, scan, images, "", record.images, covered, allowed)
        if not fresh:
            return None  # what is known of an image may have changed as well
        parts = [] if first_id is None else [f"id >= {first_id}"]
        if where is not None:
            from clipsearch.database_filters import expression

            said = expression(where, matching, record.cut)
            if said is None:
                return None
            parts.append(said)
        text = " and ".join(parts)
        count = self._count(index, text, allowed)
        return Nominated(index, scan, count, text, count, len(scan), allowed)

    def _count(self, index: MilvusIndex, where: str, allowed: Callable[[], Int64 | None]) -> int:
        """How many images pass. milvus-lite unfolds all its rows to count some: a second for
        20,000, where a search among them takes 45 ms."""
        ids = allowed() if self.place.file is not None else None
        return index.count(where) if ids is None else len(ids)
