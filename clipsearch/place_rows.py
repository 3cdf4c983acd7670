"""The places of all images as columns, in the order that a lookup wants them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.manifest import FileRef
from clipsearch.paths import holds_merged, rows_that_count
from clipsearch.shards import PATH_SCHEMA, Int64, as_numpy, int_array, read_tables
from clipsearch.store import Store

Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_COLUMNS = ["root", "path", "id", "state"]


@dataclass
class PlaceRows:
    """One row a place. Rows are in order of id; of one image present files come before missing
    ones, then the shortest path, which of copies is most often the first; among equals the
    order of the table counts.

    ids : (n,) int64. missing : (n,) bool. roots : (n,) int32.
    pools : Arrow arrays of paths that lie one behind the other. order : (n,) int64 positions in
        them, None where the one pool is in order.
    """

    ids: Int64
    missing: Mask
    roots: Int32
    pools: tuple[pa.LargeBinaryArray, ...]
    order: Int64 | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def is_sound(self, rows: Int64 | None = None) -> bool:
        """Whether these rows, or all, are what was written; looked at before they are used."""
        return True

    def path(self, row: int) -> bytes:
        """One path, relative to its root."""
        position = row if self.order is None else int(self.order[row])
        for pool in self.pools:
            if position < len(pool):
                found: bytes = pool[position].as_py()
                return found
            position -= len(pool)
        raise IndexError(row)

    def paths(self, rows: Int64 | slice) -> pa.LargeBinaryArray:
        """(m,) the paths of some rows."""
        if self.order is None and isinstance(rows, slice):
            return self.pools[0][rows]
        positions = np.arange(len(self))[rows] if self.order is None else self.order[rows]
        if len(self.pools) == 1:
            return self.pools[0].take(int_array(positions))
        # Arrow would copy the pools into one to take from both.
        parts: list[pa.Array] = []
        came_from = np.zeros(len(positions), np.int64)
        start = taken = 0
        for pool in self.pools:
            here = np.flatnonzero((positions >= start) & (positions < start + len(pool)))
            parts.append(pool.take(int_array(positions[here] - start)))
            came_from[here] = taken + np.arange(len(here))
            taken += len(here)
            start += len(pool)
        return pa.concat_arrays(parts).take(int_array(came_from))

    @functools.cached_property
    def totals(self) -> tuple[int, int, int]:
        """How many files are present, how many are missing, and how many of those present are
        copies of another."""
        present = self.ids[~self.missing]
        contents = int(len(present) > 0) + int((present[1:] != present[:-1]).sum())
        return len(present), len(self) - len(present), len(present) - contents


def read_place_rows(store: Store, refs: Sequence[FileRef]) -> PlaceRows:
    """The rows of a whole paths table, from the Parquet files that it is made of.

    Raises IndexFormatError and IndexReadError as ``read_table`` does.
    """
    table = read_tables(store, refs, PATH_SCHEMA, _COLUMNS)
    rows, missing = rows_that_count(table, holds_merged(refs))
    paths = _path_array(table)
    ids, roots = (as_numpy(table.column(name))[rows] for name in ("id", "root"))
    order = np.lexsort((rows, path_lengths(paths)[rows], missing, ids))
    return PlaceRows(ids[order], missing[order], roots[order], (paths,), rows[order])


def with_newer(base: PlaceRows, store: Store, refs: Sequence[FileRef]) -> PlaceRows:
    """``base`` and on top of it the files that came after those it is made of."""
    table = read_tables(store, refs, PATH_SCHEMA, _COLUMNS)
    paths = _path_array(table)
    before = base.paths(slice(None))
    rows, missing = rows_that_count(table)
    ids, roots = as_numpy(table.column("id")), as_numpy(table.column("root"))
    stays = np.ones(len(base), bool)
    stays[_of_same_places(base, before, roots, paths)] = False
    # What other images have is left as it stands; only the rows of these are put in order anew.
    theirs = np.isin(base.ids, ids[rows]) & stays
    old = np.flatnonzero(theirs)
    mixed = np.concatenate([old, len(base) + rows])
    all_missing = np.concatenate([base.missing[old], missing])
    all_ids = np.concatenate([base.ids, ids])
    lengths = np.concatenate([path_lengths(before.take(int_array(old))), path_lengths(paths)[rows]])
    mixed = mixed[np.lexsort((np.arange(len(mixed)), lengths, all_missing, all_ids[mixed]))]
    rest = np.flatnonzero(stays & ~theirs)
    order = np.insert(rest, np.searchsorted(base.ids[rest], all_ids[mixed]), mixed)
    is_missing = np.concatenate([base.missing, np.zeros(len(table), bool)])
    is_missing[len(base) + rows] = missing
    return PlaceRows(
        all_ids[order],
        is_missing[order],
        np.concatenate([base.roots, roots])[order],
        (before, paths),
        order,
    )


def _path_array(table: pa.Table) -> pa.LargeBinaryArray:
    column = table.column("path").cast(pa.large_binary())
    return pa.concat_arrays([*column.chunks, pa.nulls(0, pa.large_binary())])


def path_lengths(paths: pa.LargeBinaryArray) -> Int64:
    """(n,) bytes of each path."""
    if not len(paths):  # whose offsets Arrow may leave out
        return np.empty(0, np.int64)
    offsets: Int64 = np.frombuffer(paths.buffers()[1], np.int64, len(paths) + 1, 8 * paths.offset)
    return offsets[1:] - offsets[:-1]


def _of_same_places(
    base: PlaceRows, before: pa.LargeBinaryArray, roots: Int32, paths: pa.LargeBinaryArray
) -> Int64:
    """The rows of ``base``, whose paths are ``before``, that have one of these roots and
    paths."""
    import pyarrow.compute as pc  # which a search that only maps does without

    rows = np.flatnonzero(as_numpy(pc.is_in(before, value_set=paths)))
    candidates = before.take(int_array(rows))
    encoded = pa.concat_arrays([candidates, paths]).dictionary_encode()
    codes = as_numpy(encoded.indices).astype(np.int64)
    keys = np.concatenate([base.roots[rows], roots]) * np.int64(len(encoded.dictionary)) + codes
    return rows[np.isin(keys[: len(rows)], keys[len(rows) :])]
