"""Look into the tars and Parquet files of a run, and add their images to what a scan found."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.errors import SourceError
from clipsearch.file_kinds import CONTAINER_EXTENSIONS, container_of
from clipsearch.manifest import Manifest, Root
from clipsearch.shards import as_numpy
from clipsearch.store import Store
from indexer.containers import is_tar, label_in, list_container
from indexer.file_table import FileTable, FileTableBuilder, Parts, in_one_order
from indexer.known import KnownFiles, read_skipped
from indexer.scan import Scan
from indexer.sources import Sources, root_of

_ENDINGS = tuple(os.fsencode(ending) + b"/" for ending in sorted(CONTAINER_EXTENSIONS))
_IN_A_CONTAINER = rf"(?is)\.({'|'.join(ending[1:] for ending in sorted(CONTAINER_EXTENSIONS))})/"


def known_containers(manifest: Manifest, known: KnownFiles) -> frozenset[bytes]:
    """Absolute paths of what may hold images that the index knows: where there is a file, a
    walk looks into it."""
    if not _may_hold_any(known.paths):
        return frozenset()
    inside = pc.match_substring_regex(known.paths, pattern=_IN_A_CONTAINER)
    rows = np.flatnonzero(as_numpy(inside))
    folders: set[tuple[int, bytes]] = set()
    for row in rows.tolist():
        folders.add((int(known.roots[row]), known.paths[row].as_py().rpartition(b"/")[0]))
    places: set[bytes] = set()
    roots = {root.id: os.fsencode(root.path) for root in manifest.roots}
    for root, folder in folders:
        parts = folder.split(b"/")
        for count, part in enumerate(parts, 1):
            if (part.lower() + b"/").endswith(_ENDINGS):
                places.add(os.path.join(roots[root], *parts[:count]))
    return frozenset(places)


def _may_hold_any(paths: pa.ChunkedArray) -> bool:
    """A quick look through the bytes of all paths at once, since most indexes hold none."""
    for chunk in paths.chunks:
        data = bytes(chunk.buffers()[2] or b"").lower()
        if any(ending in data for ending in _ENDINGS):
            return True
    return False


def add_members(
    scan: Scan,
    sources: Sources,
    roots: Sequence[Root],
    exclude: Sequence[str],
    known: KnownFiles,
    store: Store,
    manifest: Manifest,
) -> None:
    """List the containers that were named or that the walk came upon, and the single members
    that were, and add their images to ``scan``.

    What cannot be read in one is said in ``scan.unreadable``; nothing there counts as gone.
    """
    wanted: dict[Path, set[bytes] | None] = dict.fromkeys([*sources.containers, *scan.containers])
    for path in sources.members:
        container = container_of(path)
        if container is None:  # it went just now
            root, below = root_of(path, roots)
            scan.absent.append((root.id, below))
        elif (labels := wanted.setdefault(container, set())) is not None:
            labels.add(label_in(container, path))
    if not wanted:
        return
    members = _Members(scan, exclude)
    for path in sorted(wanted, key=lambda path: _place(path, roots)):
        root, below = root_of(path, roots)
        try:
            info = path.stat()
            sizes = {} if is_tar(below) else _sizes(known, store, manifest, root.id, below, info)
            members.add(path, root.id, below, info, sizes, wanted[path])
        except (OSError, SourceError) as error:
            why = error.strerror if isinstance(error, OSError) else None
            scan.unreadable.append((str(path), why or str(error)))
            scan.passed_over.add(str(path))
    scan.images = in_one_order([scan.images, members.table()])


def _place(path: Path, roots: Sequence[Root]) -> tuple[int, bytes]:
    root, below = root_of(path, roots)
    return root.id, below


def _sizes(
    known: KnownFiles,
    store: Store,
    manifest: Manifest,
    root: int,
    below: bytes,
    info: os.stat_result,
) -> dict[bytes, int]:
    """The sizes of the members, by label, of a container that is as it was when they were
    noted, be it in the paths table or among the skipped."""
    prefix = below + b"/"
    rows = np.flatnonzero(
        known.below([(root, prefix)])
        & (known.mtimes == info.st_mtime_ns)
        & (known.inodes == np.uint64(info.st_ino))
    )
    sizes = {
        known.paths[row].as_py().removeprefix(prefix): int(known.sizes[row])
        for row in rows.tolist()
    }
    table = read_skipped(store, manifest).select(["root", "path", "size", "mtime_ns"])
    for lost in table.to_pylist():
        is_here = lost["root"] == root and lost["path"].startswith(prefix)
        if is_here and lost["mtime_ns"] == info.st_mtime_ns:
            sizes.setdefault(lost["path"].removeprefix(prefix), lost["size"])
    return sizes


class _Members:
    """Gathers the images of containers."""

    def __init__(self, scan: Scan, exclude: Sequence[str]) -> None:
        self._scan = scan
        self._exclude = exclude
        self._builder = FileTableBuilder()
        self._containers: list[bytes] = []
        self._numbers = array("i")
        self._positions = array("q")

    def add(
        self,
        path: Path,
        root: int,
        below: bytes,
        info: os.stat_result,
        sizes: dict[bytes, int],
        labels: set[bytes] | None,
    ) -> None:
        """List the container ``path``; of its members only ``labels`` where some are given."""
        scan = self._scan
        listing = list_container(path, sizes)
        if listing.damage is not None:
            scan.unreadable.append((str(path), listing.damage))
            scan.passed_over.add(str(path))
        if labels is None:
            scan.ignored.update(listing.ignored)
            scan.scanned.append((root, below + b"/"))
        else:
            gone = labels - listing.members.keys() if listing.damage is None else set()
            scan.absent.extend((root, below + b"/" + label) for label in sorted(gone))
        number = len(self._containers)
        self._containers.append(below)
        for label, (size, position) in listing.members.items():
            if labels is not None and label not in labels:
                continue
            if self._exclude and labels is None and self._is_excluded(label):
                scan.passed_over.add(os.path.join(str(path), os.fsdecode(label)))
                continue
            member = below + b"/" + label
            self._builder.add(root, member, size, info.st_mtime_ns, info.st_ino)
            self._numbers.append(number)
            self._positions.append(position)

    def _is_excluded(self, label: bytes) -> bool:
        shown = os.fsdecode(label)
        name = shown.rpartition("/")[2]
        return any(
            fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(shown, pattern)
            for pattern in self._exclude
        )

    def table(self) -> FileTable:
        """All of them, in the order they came in, which is in order of root."""
        parts = Parts(
            tuple(self._containers),
            np.array(self._numbers, np.int32),
            np.array(self._positions, np.int64),
        )
        return dataclasses.replace(self._builder.table(), parts=parts)
