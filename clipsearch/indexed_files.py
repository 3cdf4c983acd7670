"""The files of an index as they are on the disk now: nobody is told to remove a file that has
changed since it was indexed, or the only file there is under its second name."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.errors import IndexFormatError
from clipsearch.file_kinds import container_of
from clipsearch.generation import Generation
from clipsearch.paths import PRESENT, read_paths, relative_bytes
from clipsearch.picture_facts import is_one_of
from clipsearch.remote_paths import place_of
from clipsearch.shards import Int64, as_numpy


@dataclass(frozen=True)
class IndexedFile:
    """A file that is there, and is the one that was indexed.

    size : bytes. mtime_ns : when it last changed. in_container : it lies in a tar or Parquet
    file, so that it cannot be moved by itself; ``size`` and ``mtime_ns`` are 0 then.
    """

    path: Path
    size: int
    mtime_ns: int
    in_container: bool = False


class IndexedFiles:
    """The files that the last scan found, by image.

    changed : how many of those asked for have gone or changed since, so far.
    """

    def __init__(self, state: Generation) -> None:
        columns = ["root", "path", "id", "state", "size", "mtime_ns"]
        table = read_paths(state.store, state.manifest, columns)
        rows = np.flatnonzero(is_one_of(table.column("state"), (PRESENT,)))
        ids = as_numpy(table.column("id"))[rows]
        order = np.argsort(ids, kind="stable")
        self._ids: Int64 = ids[order]
        self._rows: Int64 = rows[order]
        self._table = table
        self._roots = as_numpy(table.column("root"))
        self._sizes = as_numpy(table.column("size"))
        self._mtimes = as_numpy(table.column("mtime_ns"))
        self._root_paths = {root.id: root.path for root in state.manifest.roots}
        self._found: dict[int, list[IndexedFile]] = {}
        self.changed = 0

    def ids(self, least: int = 1) -> Int64:
        """(n,) rising ids of the images of which the last scan found ``least`` files."""
        ids, counts = np.unique(self._ids, return_counts=True)
        return ids[counts >= least]

    def of(self, image_id: int) -> list[IndexedFile]:
        """The files of an image that are there unchanged, each file once however many names,
        links and overlapping folders lead to it; the shortest path first. It has the shortest of
        its names, and that of a symbolic link only where no other was indexed."""
        if image_id not in self._found:
            self._found[image_id] = self._look(image_id)
        return self._found[image_id]

    def _look(self, image_id: int) -> list[IndexedFile]:
        start, stop = np.searchsorted(self._ids, [image_id, image_id + 1])
        found: dict[object, IndexedFile] = {}
        for row in self._rows[start:stop].tolist():
            path = self._path(row)
            try:
                status = os.stat(path)
            except (NotADirectoryError, FileNotFoundError):
                if container_of(path) is not None:
                    found.setdefault(path, IndexedFile(path, 0, 0, in_container=True))
                else:
                    self.changed += 1
                continue
            except (OSError, ValueError):
                self.changed += 1
                continue
            same = (status.st_size, status.st_mtime_ns) == (self._sizes[row], self._mtimes[row])
            if not (same and stat.S_ISREG(status.st_mode)):
                self.changed += 1
                continue
            key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)
            file = IndexedFile(path, status.st_size, status.st_mtime_ns)
            if key not in found or _as_a_name(file) < _as_a_name(found[key]):
                found[key] = file
        return sorted(found.values(), key=_shortness)

    def _path(self, row: int) -> Path:
        root = int(self._roots[row])
        if root not in self._root_paths:
            raise IndexFormatError(f"the index names a root {root} that it does not hold")
        below = relative_bytes(self._table.column("path")[row].as_py())
        return place_of(self._root_paths[root], below)


def _as_a_name(file: IndexedFile) -> tuple[bool, tuple[bool, int, bytes]]:
    """The file itself goes before a symbolic link to it: to move that would free nothing."""
    return file.path.is_symlink(), _shortness(file)


def _shortness(file: IndexedFile) -> tuple[bool, int, bytes]:
    encoded = os.fsencode(file.path)
    return file.in_container, len(encoded), encoded
