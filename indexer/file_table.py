"""The image files that a scan found, as columns: a file costs bytes, not objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.shards import Int64, as_numpy, int_array

Int32 = npt.NDArray[np.int32]
UInt64 = npt.NDArray[np.uint64]

_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image file on the disk. ``path`` is relative to its root, bytes, "/" between parts;
    ``row`` is its place in the table it comes from.

    container : path, relative to the root, of the tar or Parquet file that the image is in, b""
    for a file of its own; position : the byte there at which it begins, or its row.
    """

    root: int
    path: bytes
    size: int
    mtime_ns: int
    inode: int
    row: int = -1
    container: bytes = b""
    position: int = -1

    @property
    def key(self) -> tuple[int, bytes]:
        """What a file is known by in the paths table."""
        return self.root, self.path

    @property
    def name(self) -> str:
        """The path for display; bytes that are no text show as a replacement character."""
        return self.path.decode("utf-8", "replace")


def binary_array(values: Sequence[bytes]) -> pa.Array:
    """A binary Arrow array. ``pa.array`` would do, but may import pandas, a third of a second."""
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


@dataclass(frozen=True)
class Parts:
    """Which files of a table are in a container, and where.

    containers : paths relative to the root. numbers : (n,) int32 positions in ``containers``, -1
    for a file of its own. positions : (n,) int64, as in ``FoundFile``.
    """

    containers: tuple[bytes, ...]
    numbers: Int32
    positions: Int64


@dataclass(frozen=True)
class FileTable:
    """Files in order of root and path.

    roots : (n,) int32. paths : n binary values, relative to the root. sizes : (n,) int64 bytes.
    mtimes : (n,) int64 nanoseconds. inodes : (n,) uint64. parts : None when no file is in a
    container.
    """

    roots: Int32
    paths: pa.ChunkedArray
    sizes: Int64
    mtimes: Int64
    inodes: UInt64
    parts: Parts | None = None

    def __len__(self) -> int:
        return len(self.roots)

    def __iter__(self) -> Iterator[FoundFile]:
        return (self.file(row) for row in range(len(self)))

    def file(self, row: int) -> FoundFile:
        """One file."""
        container, position = b"", -1
        if self.parts is not None and self.parts.numbers[row] >= 0:
            container = self.parts.containers[self.parts.numbers[row]]
            position = int(self.parts.positions[row])
        return FoundFile(
            int(self.roots[row]),
            self.paths[row].as_py(),
            int(self.sizes[row]),
            int(self.mtimes[row]),
            int(self.inodes[row]),
            row,
            container,
            position,
        )

    def files(self, rows: Iterable[int] | Int64) -> list[FoundFile]:
        """The files of some rows, in that order."""
        return [self.file(int(row)) for row in rows]

    def in_reading_order(self, rows: Int64) -> Int64:
        """Rising ``rows`` so ordered that each container is read from its begin to its end."""
        if self.parts is None:
            return rows
        numbers = self.parts.numbers[rows]
        inside = numbers >= 0
        _, first, of_container = np.unique(numbers, return_index=True, return_inverse=True)
        groups = np.where(inside, first[of_container], np.arange(len(rows)))
        order = np.lexsort((self.parts.positions[rows], groups))
        ordered: Int64 = rows[order]
        return ordered

    def in_order(self) -> FileTable:
        """The same table in order of root; within a root the order stays."""
        if not len(self) or bool((np.diff(self.roots) >= 0).all()):
            return self
        order = np.argsort(self.roots, kind="stable")
        return FileTable(
            self.roots[order],
            self.paths.take(int_array(order)),
            self.sizes[order],
            self.mtimes[order],
            self.inodes[order],
        )


def in_one_order(tables: Sequence[FileTable]) -> FileTable:
    """The files of several tables, in order of root and path; no path stands in two."""
    numbers, positions = [], []
    containers: list[bytes] = []
    for table in tables:
        count = len(table)
        nowhere = Parts((), np.full(count, -1, np.int32), np.full(count, -1, np.int64))
        parts = table.parts or nowhere
        numbers.append(np.where(parts.numbers >= 0, parts.numbers + len(containers), -1))
        positions.append(parts.positions)
        containers.extend(parts.containers)
    roots = np.concatenate([table.roots for table in tables])
    paths = pa.chunked_array([c for table in tables for c in table.paths.chunks], pa.binary())
    keys = pa.table([int_array(roots), paths], names=["root", "path"])
    order = as_numpy(
        pc.sort_indices(keys, sort_keys=[("root", "ascending"), ("path", "ascending")])
    ).astype(np.int64)
    return FileTable(
        roots[order],
        paths.take(int_array(order)),
        np.concatenate([table.sizes for table in tables])[order],
        np.concatenate([table.mtimes for table in tables])[order],
        np.concatenate([table.inodes for table in tables])[order],
        None
        if all(table.parts is None for table in tables)
        else Parts(
            tuple(containers),
            np.concatenate(numbers)[order].astype(np.int32),
            np.concatenate(positions)[order],
        ),
    )


class FileTableBuilder:
    """Grows a ``FileTable`` file by file; what is full is packed."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, bytes, int, int, int]] = []
        self._packed: list[FileTable] = []

    def add(self, root: int, path: bytes, size: int, mtime_ns: int, inode: int) -> None:
        """Append one file."""
        self._rows.append((root, path, size, mtime_ns, inode))
        if len(self._rows) == _CHUNK:
            self._pack()

    def _pack(self) -> None:
        roots, paths, sizes, mtimes, inodes = zip(*self._rows, strict=True)
        self._packed.append(
            FileTable(
                np.array(roots, np.int32),
                pa.chunked_array([binary_array(paths)]),
                np.array(sizes, np.int64),
                np.array(mtimes, np.int64),
                np.array(inodes, np.uint64),
            )
        )
        self._rows.clear()

    def table(self) -> FileTable:
        """All files added, in order of root."""
        if self._rows:
            self._pack()
        parts = self._packed
        chunks = [chunk for part in parts for chunk in part.paths.chunks]
        return FileTable(
            np.concatenate([np.empty(0, np.int32), *(part.roots for part in parts)]),
            pa.chunked_array(chunks, pa.binary()),
            np.concatenate([np.empty(0, np.int64), *(part.sizes for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.mtimes for part in parts)]),
            np.concatenate([np.empty(0, np.uint64), *(part.inodes for part in parts)]),
        ).in_order()


def same_rows(
    roots: Int32, paths: pa.ChunkedArray, others: Int32, other_paths: pa.ChunkedArray
) -> Int64:
    """(n,) for each (root, path) the position of the same in ``others``, -1 where there is none.

    No pair may stand twice among the others.
    """
    if np.array_equal(roots, others) and paths.equals(other_paths):
        return np.arange(len(roots))  # nothing came and nothing went: the common case
    both = pa.chunked_array([*paths.chunks, *other_paths.chunks], pa.binary())
    encoded = both.dictionary_encode()  # all chunks share one dictionary
    parts = [as_numpy(chunk.indices).astype(np.int64) for chunk in encoded.chunks]
    codes = np.concatenate([np.empty(0, np.int64), *parts])
    distinct = int(codes.max()) + 1 if len(codes) else 0
    keys = codes + distinct * np.concatenate([roots, others]).astype(np.int64)
    wanted, there = keys[: len(roots)], keys[len(roots) :]
    order = np.argsort(there)
    place = np.searchsorted(there[order], wanted)
    inside = place < len(there)
    found = np.full(len(wanted), -1, np.int64)
    candidates = order[place[inside]]
    found[inside] = np.where(there[candidates] == wanted[inside], candidates, -1)
    return found
