"""What the index knows of files: the paths table, as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.manifest import Manifest
from clipsearch.paths import MISSING, PRESENT, place_text, read_paths
from clipsearch.remote_paths import place_of
from clipsearch.shards import SKIPPED_SCHEMA, Int64, as_numpy, int_array, read_tables
from clipsearch.store import Store
from indexer.file_table import Int32, UInt64

Region = tuple[int, bytes]
"""(root id, prefix of the paths below it): everything in a folder, b"" for a whole root."""

_COLUMNS = ("root", "path", "size", "mtime_ns", "inode", "id", "state", "first_seen")


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A row of the paths table."""

    root: int
    path: bytes
    size: int
    mtime_ns: int
    inode: int
    id: int
    state: str


@dataclass(frozen=True)
class KnownFiles:
    """The rows of the paths table that count.

    roots : (n,) int32. paths : n binary values. sizes, mtimes, ids : (n,) int64. inodes : (n,)
    uint64. missing : (n,) bool. first_seen : (n,) int64 microseconds since 1970, UTC.
    """

    roots: Int32
    paths: pa.ChunkedArray
    sizes: Int64
    mtimes: Int64
    inodes: UInt64
    ids: Int64
    missing: npt.NDArray[np.bool_]
    first_seen: Int64

    def __len__(self) -> int:
        return len(self.roots)

    def __iter__(self) -> Iterator[KnownFile]:
        return (self.row(position) for position in range(len(self)))

    def row(self, position: int) -> KnownFile:
        """One row."""
        return KnownFile(
            int(self.roots[position]),
            self.paths[position].as_py(),
            int(self.sizes[position]),
            int(self.mtimes[position]),
            int(self.inodes[position]),
            int(self.ids[position]),
            MISSING if self.missing[position] else PRESENT,
        )

    def place(self, manifest: Manifest, position: int) -> str:
        """Where a file is, or was."""
        root = manifest.root(int(self.roots[position])).path
        return place_text(root, self.paths[position].as_py())

    def below(self, regions: Iterable[Region]) -> npt.NDArray[np.bool_]:
        """(n,) whether a file lies in one of ``regions``."""
        inside = np.zeros(len(self), bool)
        for root, prefix in regions:
            of_root = self.roots == root
            if prefix and of_root.any():
                starts = pc.starts_with(self.paths, pattern=prefix)
                of_root &= as_numpy(starts)
            inside |= of_root
        return inside

    def outside(self, manifest: Manifest, rows: Int64, places: Sequence[str] | set[str]) -> Int64:
        """Those of ``rows`` that are none of ``places`` (absolute) and lie below none."""
        if not places:
            return rows
        kept = []
        for row in rows.tolist():
            path = place_of(self.place(manifest, row))
            if not any(str(place) in places for place in (path, *path.parents)):
                kept.append(row)
        return np.array(kept, np.int64)


def read_known(store: Store, manifest: Manifest) -> KnownFiles:
    """The paths table, in order of root and path where it was merged."""
    table = read_paths(store, manifest, _COLUMNS)
    states = table.column("state").dictionary_encode()
    missing = [
        np.array([value == MISSING for value in chunk.dictionary.to_pylist()], bool)[
            as_numpy(chunk.indices)
        ]
        for chunk in states.chunks
        if len(chunk)
    ]
    return KnownFiles(
        as_numpy(table.column("root")),
        table.column("path"),
        as_numpy(table.column("size")),
        as_numpy(table.column("mtime_ns")),
        as_numpy(table.column("inode")),
        as_numpy(table.column("id")),
        np.concatenate([np.empty(0, bool), *missing]),
        as_numpy(table.column("first_seen").cast(pa.int64())),
    )


def read_skipped(store: Store, manifest: Manifest) -> pa.Table:
    """The skipped table."""
    refs = [manifest.skipped] if manifest.skipped else []
    return read_tables(store, refs, SKIPPED_SCHEMA)


def take_paths(paths: pa.ChunkedArray, rows: Int64) -> pa.ChunkedArray:
    """Some of ``paths``, in the order of ``rows``."""
    return paths.take(int_array(rows))
