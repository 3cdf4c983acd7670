"""Looking up the places of images."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.errors import IndexFormatError
from clipsearch.manifest import Manifest
from clipsearch.paths import Place, relative_bytes
from clipsearch.place_cache import BLOCK_ROWS, PlaceCache
from clipsearch.place_rows import PlaceRows, path_lengths, read_place_rows, with_newer
from clipsearch.remote_paths import place_of
from clipsearch.shards import Int64, as_numpy, int_array
from clipsearch.store import Store

_FEW_ROWS = 32_768
"""So many newer places, or as many as are mapped already, are read on top of those."""


class PathTable:
    """Looks up the places of an image.

    cache : where the table is mapped from; made there when it is not, or not of this index.
    None reads the Parquet files.
    """

    def __init__(self, store: Store, manifest: Manifest, cache: PlaceCache | None = None) -> None:
        self._store = store
        self._manifest = manifest
        self._cache = cache
        self._root_paths = {root.id: root.path for root in manifest.roots}
        self._held = self._open()

    def _open(self) -> PlaceRows:
        refs = self._manifest.paths
        mapped, covered = self._cache.open() if self._cache is not None else (None, 0)
        if mapped is not None:
            if covered == len(refs):
                return mapped
            # While a long run commits shard after shard, no reader writes all places each time.
            newer = sum(ref.rows for ref in refs[covered:])
            if newer <= max(_FEW_ROWS, len(mapped)) and mapped.is_sound():
                return with_newer(mapped, self._store, refs[covered:])
        return self._read()

    def _read(self) -> PlaceRows:
        rows = read_place_rows(self._store, self._manifest.paths)
        if self._cache is not None and self._manifest.paths:
            # Without room or the right to write, what was read answers.
            with contextlib.suppress(OSError):
                self._cache.write(rows)
        return rows

    def _sound(self) -> PlaceRows:
        """All rows, to be read as columns."""
        if not self._held.is_sound():
            self._held = self._read()
        return self._held

    def _rows_of(self, ids: Int64) -> tuple[PlaceRows, Int64, Int64]:
        """What holds the rows, and the first and the last but one row of each id."""
        while True:
            held = self._held
            first = np.searchsorted(held.ids, ids, side="left")
            stop = np.searchsorted(held.ids, ids, side="right")
            # The neighbours too: a number that is wrong in the file may have another's place.
            many = np.flatnonzero(stop - first > BLOCK_ROWS)
            between = [np.arange(first[row], stop[row], BLOCK_ROWS) for row in many]
            looked_at = np.concatenate([first - 1, first, stop - 1, stop, *between])
            looked_at = looked_at[(looked_at >= 0) & (looked_at < len(held))]
            if held.is_sound(looked_at):
                return held, first, stop
            self._held = self._read()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def present(self) -> int:
        """How many files the last scan found."""
        return self._held.totals[0]

    @property
    def missing(self) -> int:
        """How many files it did not find."""
        return self._held.totals[1]

    @property
    def copies(self) -> int:
        """How many files that are present hold what another holds."""
        return self._held.totals[2]

    # One row a place, the places of an image together.

    @property
    def ids(self) -> Int64:
        """(n,) int64, rising."""
        return self._sound().ids

    @property
    def missing_rows(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: whether the last scan did not find the file."""
        return self._sound().missing

    @functools.cached_property
    def counts(self) -> npt.NDArray[np.bool_]:
        """(n,) bool: every place of a file that is there; missing ones only where an image has
        no other."""
        ids, missing = self.ids, self.missing_rows
        is_first = np.ones(len(ids), bool)
        np.not_equal(ids[1:], ids[:-1], out=is_first[1:])
        # Present ones come first: where the first is missing, all are.
        all_missing = missing[is_first][np.cumsum(is_first, dtype=np.int32) - 1]
        return np.asarray(~missing | all_missing)

    @property
    def root_ids(self) -> npt.NDArray[np.int32]:
        """(n,) int32: the root that the path is relative to."""
        return self._sound().roots

    @functools.cached_property
    def relative_paths(self) -> pa.LargeBinaryArray:
        """(n,) paths relative to their roots, "/" between parts."""
        return self._sound().paths(slice(None))

    def _root_path(self, root_id: int) -> str:
        if root_id not in self._root_paths:
            raise IndexFormatError(f"the index names a root {root_id} that it does not hold")
        return self._root_paths[root_id]

    def _place(self, held: PlaceRows, row: int) -> Place:
        root = self._root_path(int(held.roots[row]))
        return Place(place_of(root, relative_bytes(held.path(row))), bool(held.missing[row]))

    def places(self, image_id: int) -> list[Place]:
        """Every place of an image, present ones first, then by length; empty when it has none."""
        held, first, stop = self._rows_of(np.array([image_id], np.int64))
        return [self._place(held, row) for row in range(int(first[0]), int(stop[0]))]

    def first_places(self, ids: Iterable[int] | Int64) -> list[Place | None]:
        """The first place of each image, None for an id that has none."""
        wanted = np.asarray(list(ids) if not isinstance(ids, np.ndarray) else ids, np.int64)
        held, first, stop = self._rows_of(wanted)
        return [
            self._place(held, row) if row < end else None
            for row, end in zip(first.tolist(), stop.tolist(), strict=True)
        ]

    def path_column(self, ids: Int64) -> pa.Array:
        """(n,) binary: the absolute path of the first place of each image as the system's bytes,
        null for an id that has none. ``first_places`` without an object for each."""
        import pyarrow.compute as pc  # which a search that only maps does without

        held, first, stop = self._rows_of(ids)
        there = np.flatnonzero(first < stop)
        rows = first[there]
        relative = held.paths(rows).cast(pa.binary())
        root_ids, root_of = np.unique(held.roots[rows], return_inverse=True)
        roots = [os.fsencode(place_of(self._root_path(root))) for root in root_ids.tolist()]
        tops = _binary_array([root if _ends_with_sep(root) else root + _SEP for root in roots])
        if _SEP != b"/":
            relative = pc.replace_substring(relative, b"/", _SEP)
        none = _binary_array([b""]).take(int_array(np.zeros(len(rows), np.int64)))
        paths = pc.binary_join_element_wise(tops.take(int_array(root_of)), relative, none)
        # A root that is itself the file.
        alone = np.flatnonzero(path_lengths(held.paths(rows)) == 0)
        if len(alone):
            whole = _binary_array(roots).take(int_array(root_of[alone]))
            source = np.arange(len(rows))
            source[alone] = len(rows) + np.arange(len(alone))
            paths = pa.concat_arrays([paths, whole]).take(int_array(source))
        if len(there) == len(ids):
            return paths
        lined_up = np.full(len(ids), len(rows), np.int64)
        lined_up[there] = np.arange(len(rows))
        return pa.concat_arrays([paths, pa.nulls(1, pa.binary())]).take(int_array(lined_up))

    def id_at(self, path: Path) -> int | None:
        """The image whose content was last seen at the absolute ``path``, or None."""
        import pyarrow.compute as pc

        for root_id, root_path in self._root_paths.items():
            try:
                relative = path.relative_to(root_path)
            except ValueError:
                continue
            key = _binary_array([os.fsencode(relative.as_posix())]).cast(pa.large_binary())
            same_path = as_numpy(pc.is_in(self.relative_paths, value_set=key))
            rows = np.flatnonzero(same_path & (self.root_ids == root_id))
            if len(rows):
                return int(self.ids[rows[0]])
        return None


_SEP = os.fsencode(os.sep)


def _ends_with_sep(path: bytes) -> bool:
    return path.endswith((_SEP, b"/"))


def _binary_array(values: list[bytes]) -> pa.BinaryArray:
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    )
