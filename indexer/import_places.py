"""Where imported images are: names made absolute, and the folders of the index they lie in."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.errors import SourceError
from clipsearch.manifest import Manifest, Root
from clipsearch.remote_urls import SCHEMES, is_remote
from clipsearch.shards import Int64
from indexer.file_table import FileTable, binary_array
from indexer.sources import Sources, assign_roots, root_of, spelled_as_known

_FOLDERS_REMEMBERED = 65_536
_URLS = tuple(f"{scheme}://".encode() for scheme in SCHEMES)


def _not_on_a_disk(place: object) -> SourceError:
    return SourceError(
        f"import takes images by paths of a disk, got {place}: give paths below some folder "
        "(--root), and then say where that is with 'clipsearch move FOLDER s3://bucket/folder'"
    )


class ImportPlaces:
    """Turns names into places. ``base`` is what relative names are taken below."""

    def __init__(self, base: Path, roots: tuple[Root, ...]) -> None:
        if is_remote(base):
            raise _not_on_a_disk(base)
        self._base = os.fsencode(base)
        self._roots = roots
        self._folders: dict[bytes, tuple[int, bytes]] = {}
        self._outside: dict[str, Path] = {}
        self._surveyed: set[bytes] = set()

    def absolute(self, name: bytes) -> bytes | None:
        """The absolute path of a name; None for a name that can be no file's. SourceError for one
        in object storage."""
        if not name or b"\0" in name:
            return None
        if name.startswith(_URLS):
            raise _not_on_a_disk(os.fsdecode(name))
        path = os.path.abspath(os.path.join(self._base, name))
        return path if os.path.basename(path) else None

    # -- the first pass: which folders there are ----------------------------------------

    def survey(self, path: bytes) -> None:
        """Note the folder of an absolute path, for ``with_roots``."""
        folder = os.path.dirname(path)
        if folder in self._surveyed:
            return
        if len(self._surveyed) == _FOLDERS_REMEMBERED:
            self._surveyed.clear()
        self._surveyed.add(folder)
        place = spelled_as_known(Path(os.fsdecode(folder)), self._roots)
        if any(place.is_relative_to(root.path) for root in self._roots):
            return
        # One folder that holds all, for each folder at the top of the disk.
        top = os.path.join(*place.parts[:2])
        before = self._outside.get(top)
        self._outside[top] = Path(os.path.commonpath([before, place])) if before else place

    def with_roots(self, manifest: Manifest) -> Manifest:
        """The manifest with a root for every folder that lies in none so far."""
        roots = assign_roots(manifest, Sources(folders=tuple(self._outside.values())))
        self._roots = roots
        next_root = max([manifest.next_root - 1, *(root.id for root in roots)]) + 1
        return dataclasses.replace(manifest, roots=roots, next_root=next_root)

    # -- the second pass: the place of each ---------------------------------------------

    def key(self, path: bytes) -> tuple[int, bytes]:
        """The root of an absolute path and the path below it, as the paths table has them."""
        folder, name = os.path.split(path)
        known = self._folders.get(folder)
        if known is None:
            place = spelled_as_known(Path(os.fsdecode(folder)), self._roots)
            root, below = root_of(place, self._roots)
            known = root.id, below + b"/" if below else b""
            if len(self._folders) == _FOLDERS_REMEMBERED:
                self._folders.clear()
            self._folders[folder] = known
        return known[0], known[1] + name


@dataclasses.dataclass(frozen=True, slots=True)
class PlacedImage:
    """A row for the paths table. size, mtime_ns, inode : 0 for a file that is not there.
    before, first_seen : of what the index knew of this place; -1 for a new one."""

    id: int
    root: int
    path: bytes
    size: int = 0
    mtime_ns: int = 0
    inode: int = 0
    before: int = -1
    first_seen: int = -1

    @property
    def is_there(self) -> bool:
        """Whether the file was read."""
        return self.size > 0


def columns_of(rows: Iterable[PlacedImage]) -> tuple[FileTable, Int64, Int64, Int64]:
    """The files, ids, ``before`` and ``first_seen`` of some rows, for ``PathChanges.note``."""
    rows = list(rows)
    files = FileTable(
        np.array([row.root for row in rows], np.int32),
        pa.chunked_array([binary_array([row.path for row in rows])]),
        np.array([row.size for row in rows], np.int64),
        np.array([row.mtime_ns for row in rows], np.int64),
        np.array([row.inode for row in rows], np.uint64),
    )
    return (
        files,
        np.array([row.id for row in rows], np.int64),
        np.array([row.before for row in rows], np.int64),
        np.array([row.first_seen for row in rows], np.int64),
    )
