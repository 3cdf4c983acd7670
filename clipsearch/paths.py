"""The paths table: where each image content is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.manifest import FileRef, Manifest
from clipsearch.remote_urls import is_remote, join_url
from clipsearch.shards import PATH_SCHEMA, Int64, as_numpy, int_array, read_tables
from clipsearch.store import Store

PRESENT = "present"
MISSING = "missing"
FORGOTTEN = "forgotten"

_MERGED = "-merged.parquet"


def _codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], pa.Array | list[Any]]:
    """(n,) codes of a column's values and the values they stand for.

    Plain NumPy goes on from here: Arrow's own functions would import pandas for the first
    constant or array they are handed.
    """
    encoded = column.dictionary_encode()  # all chunks share one dictionary
    parts = [as_numpy(chunk.indices) for chunk in encoded.chunks]
    values = encoded.chunk(0).dictionary if parts else []
    return np.concatenate([np.empty(0, np.int64), *parts]), values


def rows_that_count(
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
    is_it = [str(value) == state for value in states]
    return np.array(is_it, bool)[codes] if len(codes) else codes > 0


def latest_rows(table: pa.Table) -> pa.Table:
    """The rows that count: the last one of every (root, path), forgotten ones left out."""
    return table.take(int_array(rows_that_count(table)[0]))


def merged_name(generation: int) -> str:
    """The file of a paths table in which all others were merged: no path stands twice in it,
    none is forgotten, and it is in order of root and path."""
    return f"paths/{generation:07d}{_MERGED}"


def holds_merged(refs: Sequence[FileRef]) -> bool:
    """Whether a paths table of these files is one such file."""
    return len(refs) == 1 and refs[0].name.endswith(_MERGED)


def read_paths(store: Store, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of the paths table that count, in the order they were written."""
    table = read_tables(store, manifest.paths, PATH_SCHEMA, columns)
    return table if holds_merged(manifest.paths) else latest_rows(table).combine_chunks()


def relative_bytes(path: bytes) -> str:
    """A stored path as text for this system, whatever bytes it is made of."""
    return os.fsdecode(path)


def place_text(root: str, path: bytes) -> str:
    """Where a stored path below the root ``root`` is: absolute, or a URL."""
    below = relative_bytes(path)
    return join_url(root, below) if is_remote(root) else os.path.join(root, below)


@dataclass(frozen=True)
class Place:
    """One place of an image: its path and whether the last scan found it there."""

    path: Path
    missing: bool
