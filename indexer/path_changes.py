"""Rows to be written to the paths table, as columns."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.paths import FORGOTTEN, MISSING, PRESENT
from clipsearch.shards import PATH_SCHEMA, Int64, int_array
from indexer.file_table import FileTable, Int32, UInt64
from indexer.known import KnownFiles, take_paths

_STATES = (PRESENT, MISSING, FORGOTTEN)


def _none(dtype: type) -> npt.NDArray[np.int64]:
    return np.empty(0, dtype)


class PathChanges:
    """Rows of the paths table: where contents are now, and which places no longer hold one.

    before : (n,) the id that the place held so far, -1 for a new place.
    """

    def __init__(self, now: datetime) -> None:
        self._now_us = int(now.timestamp() * 1e6)
        self._roots: list[Int32] = []
        self._paths: list[pa.Array] = []
        self._sizes: list[Int64] = []
        self._mtimes: list[Int64] = []
        self._inodes: list[UInt64] = []
        self._ids: list[Int64] = [_none(np.int64)]
        self._states: list[npt.NDArray[np.int8]] = [np.empty(0, np.int8)]
        self._first_seen: list[Int64] = []
        self._before: list[Int64] = [_none(np.int64)]

    def __len__(self) -> int:
        return sum(map(len, self._ids))

    @property
    def ids(self) -> Int64:
        """(n,) the id of every row."""
        return np.concatenate(self._ids)

    @property
    def held(self) -> Int64:
        """The ids of the rows that hold their image still, be it missing just now."""
        held: Int64 = self.ids[np.concatenate(self._states) != _STATES.index(FORGOTTEN)]
        return held

    @property
    def let_go(self) -> Int64:
        """The ids that a place held and holds no longer, each once, rising."""
        before = np.concatenate(self._before)
        forgotten = np.concatenate(self._states) == _STATES.index(FORGOTTEN)
        return np.unique(before[(before >= 0) & (forgotten | (before != self.ids))])

    def present(
        self, files: FileTable, rows: Int64, ids: Int64, known: KnownFiles, match: Int64
    ) -> None:
        """Files ``rows`` of a scan hold the images ``ids`` now; ``match`` as in ``Plan``."""
        match = match[rows]
        was_known = match >= 0
        first_seen = np.full(len(rows), self._now_us, np.int64)
        before = np.full(len(rows), -1, np.int64)
        first_seen[was_known] = known.first_seen[match[was_known]]
        before[was_known] = known.ids[match[was_known]]
        self._roots.append(files.roots[rows])
        self._paths.extend(take_paths(files.paths, rows).chunks)
        self._sizes.append(files.sizes[rows])
        self._mtimes.append(files.mtimes[rows])
        self._inodes.append(files.inodes[rows])
        self._add(ids, PRESENT, first_seen, before)

    def note(
        self, files: FileTable, ids: Int64, state: str, before: Int64, first_seen: Int64
    ) -> None:
        """All of ``files`` hold, or held, the images ``ids``.

        before : (n,) as in the class. first_seen : (n,) microseconds since 1970; -1 for a place
        that is new.
        """
        self._roots.append(files.roots)
        self._paths.extend(files.paths.chunks)
        self._sizes.append(files.sizes)
        self._mtimes.append(files.mtimes)
        self._inodes.append(files.inodes)
        self._add(ids, state, np.where(first_seen < 0, self._now_us, first_seen), before)

    def again(self, known: KnownFiles, rows: Int64, state: str) -> None:
        """Known files ``rows`` are in another state now, with everything else as it was."""
        self._roots.append(known.roots[rows])
        self._paths.extend(take_paths(known.paths, rows).chunks)
        self._sizes.append(known.sizes[rows])
        self._mtimes.append(known.mtimes[rows])
        self._inodes.append(known.inodes[rows])
        self._add(known.ids[rows], state, known.first_seen[rows], known.ids[rows])

    def _add(self, ids: Int64, state: str, first_seen: Int64, before: Int64) -> None:
        self._ids.append(ids)
        self._states.append(np.full(len(ids), _STATES.index(state), np.int8))
        self._first_seen.append(first_seen)
        self._before.append(before)

    def table(self) -> pa.Table:
        """The rows, as the store keeps them."""
        paths = pa.chunked_array(self._paths, pa.binary())
        names = [path.decode("utf-8", "replace") for path in paths.to_pylist()]
        states = np.concatenate(self._states).astype(np.int32)
        timestamp = pa.timestamp("us", tz="UTC")
        first_seen = int_array(np.concatenate(self._first_seen)).cast(timestamp)
        last_seen = int_array(np.full(len(self), self._now_us, np.int64)).cast(timestamp)
        return pa.table(
            [
                int_array(np.concatenate(self._roots).astype(np.int32)),
                paths,
                pa.array(names, pa.string()),
                int_array(np.concatenate(self._sizes)),
                int_array(np.concatenate(self._mtimes)),
                int_array(np.concatenate(self._inodes).astype(np.uint64)),
                int_array(self.ids),
                pa.array(list(_STATES), pa.string()).take(int_array(states)),
                first_seen,
                last_seen,
            ],
            schema=PATH_SCHEMA,
        )
