"""The paths table in memory: where each image content is."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.errors import IndexFormatError
from clipsearch.manifest import Manifest
from clipsearch.shards import PATH_SCHEMA, Int64, as_numpy, int_array, read_tables
from clipsearch.store import Store

PRESENT = "present"
MISSING = "missing"
FORGOTTEN = "forgotten"

_MERGED = "-merged.parquet"


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """(n,) codes of a column's values and the values they stand for.

    Plain NumPy goes on from here: Arrow's own functions would import pandas for the first
    constant or array they are handed.
    """
    encoded = column.dictionary_encode()  # all chunks share one dictionary
    parts = [as_numpy(chunk.indices) for chunk in encoded.chunks]
    values = encoded.chunk(0).dictionary.to_pylist() if parts else []
    return np.concatenate([np.empty(0, np.int64), *parts]), values


def _rows_that_count(
    table: pa.Table, is_merged: bool = False
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Positions of the rows that count, rising, and for each whether its file is missing."""
    if is_merged:
        return np.arange(len(table)), _is_state(table.column("state"), MISSING)
    path_codes, paths = _codes(table.column("path"))
    keys = as_numpy(table.column("root")).astype(np.int64) * len(paths) + path_codes
    # np.unique keeps the first of equals; over reversed rows that is the last one written.
    _, from_the_end = np.unique(keys[::-1], return_index=True)
    rows = np.sort(len(table) - 1 - from_the_end)
    rows = rows[~_is_state(table.column("state"), FORGOTTEN)[rows]]
    return rows, _is_state(table.column("state"), MISSING)[rows]


def _is_state(column: pa.ChunkedArray, state: str) -> npt.NDArray[np.bool_]:
    """(n,) bool."""
    codes, states = _codes(column)
    return np.array([value == state for value in states], bool)[codes] if len(codes) else codes > 0


def latest_rows(table: pa.Table) -> pa.Table:
    """The rows that count: the last one of every (root, path), forgotten ones left out."""
    return table.take(int_array(_rows_that_count(table)[0]))


def merged_name(generation: int) -> str:
    """The file of a paths table in which all others were merged: no path stands twice in it,
    none is forgotten, and it is in order of root and path."""
    return f"paths/{generation:07d}{_MERGED}"


def is_merged(manifest: Manifest) -> bool:
    """Whether the paths table is one such file."""
    return len(manifest.paths) == 1 and manifest.paths[0].name.endswith(_MERGED)


def read_paths(store: Store, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of the paths table that count, in the order they were written."""
    table = read_tables(store, manifest.paths, PATH_SCHEMA, columns)
    return table if is_merged(manifest) else latest_rows(table).combine_chunks()


def relative_bytes(path: bytes) -> str:
    """A stored path as text for this system, whatever bytes it is made of."""
    return os.fsdecode(path)


@dataclass(frozen=True)
class Place:
    """One place of an image: its path and whether the last scan found it there."""

    path: Path
    missing: bool


class PathTable:
    """Looks up the places of an image."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        columns = ["root", "path", "id", "state"]
        table = read_tables(store, manifest.paths, PATH_SCHEMA, columns)
        rows, missing = _rows_that_count(table, is_merged(manifest))
        ids = as_numpy(table.column("id"))[rows]
        # Present files come before missing ones, then the shortest path, which of copies is most
        # often the first; among equals the order of the table.
        lengths = as_numpy(pc.binary_length(table.column("path")))[rows]
        order = np.lexsort((rows, lengths, missing, ids))
        self._ids: Int64 = ids[order]
        self._missing = missing[order]
        self._rows = rows[order]
        self._roots = as_numpy(table.column("root"))[self._rows]
        self._paths = table.column("path").combine_chunks()
        self._root_paths = {root.id: root.path for root in manifest.roots}
        self.present = int((~missing).sum())
        self.missing = int(missing.sum())
        self.copies = int((~missing).sum()) - len(np.unique(ids[~missing]))

    def __len__(self) -> int:
        return len(self._ids)

    # One row a place, the places of an image together.

    @property
    def ids(self) -> Int64:
        """(n,) int64, rising."""
        return self._ids

    @property
    def missing_rows(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: whether the last scan did not find the file."""
        return self._missing

    @functools.cached_property
    def counts(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: every place of a file that is there; missing ones only where an image has
        no other."""
        _, first, rows_of = np.unique(self._ids, return_index=True, return_inverse=True)
        return np.asarray(~self._missing | self._missing[first][rows_of])

    @property
    def root_ids(self) -> npt.NDArray[np.int32]:
        """(n,) int32: the root that the path is relative to."""
        return self._roots

    @functools.cached_property
    def relative_paths(self) -> pa.BinaryArray:
        """(n,) paths relative to their roots, "/" between parts."""
        return self._paths.take(int_array(self._rows))

    def _place(self, row: int) -> Place:
        root_id = int(self._roots[row])
        if root_id not in self._root_paths:
            raise IndexFormatError(f"the index names a root {root_id} that it does not hold")
        root = self._root_paths[root_id]
        relative = relative_bytes(self._paths[int(self._rows[row])].as_py())
        return Place(Path(root, relative), bool(self._missing[row]))

    def places(self, image_id: int) -> list[Place]:
        """Every place of an image, present ones first, then by length; empty when it has none."""
        start = int(np.searchsorted(self._ids, image_id, side="left"))
        stop = int(np.searchsorted(self._ids, image_id, side="right"))
        return [self._place(row) for row in range(start, stop)]

    def first_places(self, ids: Iterable[int] | Int64) -> list[Place | None]:
        """The first place of each image, None for an id that has none."""
        wanted = np.asarray(list(ids) if not isinstance(ids, np.ndarray) else ids, np.int64)
        rows = np.searchsorted(self._ids, wanted, side="left")
        return [
            self._place(int(row)) if row < len(self._ids) and self._ids[row] == image_id else None
            for row, image_id in zip(rows, wanted, strict=True)
        ]

    def id_at(self, path: Path) -> int | None:
        """The image whose content was last seen at the absolute ``path``, or None."""
        for root_id, root_path in self._root_paths.items():
            try:
                relative = path.relative_to(root_path)
            except ValueError:
                continue
            key = os.fsencode(relative.as_posix())
            same_path = as_numpy(pc.equal(self._paths, pa.scalar(key, pa.binary())))[self._rows]
            rows = np.flatnonzero(same_path & (self._roots == root_id))
            if len(rows):
                return int(self._ids[rows[0]])
        return None
