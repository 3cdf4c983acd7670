"""Tests of where the files of an image are: folder, path, name, and time of the last change."""

from __future__ import annotations

import functools
import os
from datetime import UTC, datetime
from pathlib import PurePath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.filters import Contains, Equal, In
from clipsearch.generation import Generation
from clipsearch.metadata_columns import (
    Mask,
    Test,
    matches_number,
    matches_text,
    string_array,
)
from clipsearch.paths import read_paths
from clipsearch.remote_paths import whole_place
from clipsearch.shards import Int64, as_numpy, int_array

_ROWS_AT_ONCE = 65_536
_IGNORES_CASE = os.path.normcase("A") == "a"


class PlaceTests:
    """Answers them from the places of one generation, as ids (rising or not)."""

    def __init__(self, state: Generation) -> None:
        self._state = state

    def missing_ids(self) -> Int64:
        """The images of which the last scan found no file."""
        paths = self._state.paths
        return paths.ids[paths.counts & paths.missing_rows]

    def in_folder(self, folder: str) -> Int64:
        """The images with a file in ``folder``, an absolute path, or below it. A tar file
        counts as a folder, a file as one with itself in it.

        Where that finds nothing, ``folder`` is followed through links: the index may know the
        same folder by another of its names.
        """
        paths = self._state.paths
        plain = str(whole_place(folder))
        rows = self._rows_below(plain)
        if not rows.any():
            real = os.path.realpath(folder)  # of a URL that finds nothing either
            rows = self._rows_below(real) | self._rows_below(real, through_links=True)
        return paths.ids[rows & paths.counts]

    def _rows_below(self, folder: str, through_links: bool = False) -> Mask:
        paths = self._state.paths
        mask = np.zeros(len(paths), bool)
        for root in self._state.manifest.roots:
            place = os.path.realpath(root.path) if through_links else root.path
            of_root = paths.root_ids == root.id
            if _is_below(place, folder):
                mask |= of_root
            elif _is_below(folder, place):
                below = PurePath(os.path.relpath(folder, place)).as_posix()
                mask |= of_root & _begins_with(paths.relative_paths, os.fsencode(below))
        return mask

    def matching(self, test: Test) -> Int64:
        """The images with a place that passes a test of its folder, path, name or modified."""
        if test.field == "modified":
            return self._modified(test)
        paths = self._state.paths
        return paths.ids[self._mask(test) & paths.counts]

    def _modified(self, test: Test) -> Int64:
        """From the table itself: times are not among what is mapped."""
        columns = ["root", "path", "mtime_ns", "id", "state"]
        table = read_paths(self._state.store, self._state.manifest, columns).combine_chunks()
        ids, stamps = as_numpy(table.column("id")), as_numpy(table.column("mtime_ns"))
        # Missing files count only of images that have no other.
        missing = matches_text(table.column("state"), Equal("name", "missing"))
        counts = ~missing | ~np.isin(ids, ids[~missing])
        return ids[counts & matches_number(stamps, stamps > 0, test, _nanoseconds)]

    @functools.cached_property
    def _names(self) -> pa.ChunkedArray:
        """(n,) paths relative to their roots, as text for display."""
        paths = self._state.paths.relative_paths
        blocks = [_shown(paths[row : row + _ROWS_AT_ONCE]) for row in _starts(len(paths))]
        return pa.chunked_array(blocks, pa.string())

    def _mask(self, test: Test) -> Mask:
        names = self._names
        if test.field == "name":
            # What is in the name is in the path: few rows are left to be cut to their names.
            mask = np.ones(len(names), bool)
            if isinstance(test, Contains):
                mask = matches_text(names, test)
            rows = np.flatnonzero(mask)
            last_parts = pc.replace_substring_regex(names.take(int_array(rows)), r"(?s)^.*/", "")
            mask[rows] = matches_text(last_parts, test)
            return mask
        paths = self._whole_paths(names)
        if test.field == "folder":
            paths = pc.replace_substring_regex(paths, r"(?s)/[^/]*$", "")
        return matches_text(paths, _with_slashes(test))

    def _whole_paths(self, names: pa.ChunkedArray) -> pa.Array:
        """Absolute paths for display, "/" between their parts."""
        root_ids, rows = np.unique(self._state.paths.root_ids, return_inverse=True)
        roots = [self._state.manifest.root(int(root_id)) for root_id in root_ids]
        tops = string_array([_slashes(root.path).rstrip("/") for root in roots])
        slash = string_array(["/"]).take(int_array(np.zeros(len(names), np.int64)))
        flat = names.combine_chunks()
        return pc.binary_join_element_wise(tops.take(int_array(rows)), flat, slash)


def _starts(count: int) -> range:
    return range(0, count, _ROWS_AT_ONCE)


def _shown(paths: pa.LargeBinaryArray) -> pa.StringArray:
    """Some paths as text. A slice that is cast keeps offsets that begin elsewhere, which Arrow's
    ascii_lower (26.0) does not follow: so the offsets are made here."""
    if not len(paths):
        return string_array([])
    _, starts, data = paths.buffers()
    offsets = np.frombuffer(starts, np.int64, len(paths) + 1, 8 * paths.offset)
    first, last = int(offsets[0]), int(offsets[-1])
    own = pa.py_buffer((offsets - first).astype(np.int32))
    text = data.slice(first, last - first) if data is not None else pa.py_buffer(b"")
    try:
        return pa.BinaryArray.from_buffers(pa.binary(), len(paths), [None, own, text]).cast(
            pa.string()
        )
    except pa.ArrowInvalid:  # some are no UTF-8
        return string_array([path.decode("utf-8", "replace") for path in paths.to_pylist()])


def _is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it, by their names alone."""
    path, folder = os.path.normcase(path), os.path.normcase(folder)
    return PurePath(path).is_relative_to(folder)


def _begins_with(paths: pa.LargeBinaryArray, folder: bytes) -> Mask:
    """Which relative paths are ``folder`` or lie in it: not those of "beach" for "bea"."""
    if not len(paths):
        return np.zeros(0, bool)
    inside = pc.starts_with(paths, folder + b"/", ignore_case=_IGNORES_CASE)
    alone = pc.is_in(paths, value_set=_binary_array(folder).cast(paths.type))
    return np.asarray(as_numpy(inside) | as_numpy(alone))


def _binary_array(value: bytes) -> pa.Array:
    offsets = np.array([0, len(value)], np.int32)
    return pa.BinaryArray.from_buffers(
        pa.binary(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(value)]
    )


def _slashes(path: str) -> str:
    return path if os.sep == "/" else path.replace(os.sep, "/")


def _with_slashes(test: Test) -> Test:
    """A test of a path as the index writes it."""
    if isinstance(test, Contains):
        return Contains(test.field, _slashes(test.text))
    if isinstance(test, Equal):
        return Equal(test.field, _slashes(str(test.value)))
    if isinstance(test, In):
        return In(test.field, tuple(_slashes(str(value)) for value in test.values))
    return test


def _nanoseconds(moment: datetime) -> int:
    """A time by this computer's clock as a file system stamps it."""
    try:
        aware = moment.astimezone(UTC)
    except (OverflowError, OSError, ValueError):  # at the ends of the calendar no zone is known
        aware = moment.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
