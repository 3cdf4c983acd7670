"""Walk the folders and list the files, without opening any.

The walk is the whole cost of a run over a collection that has not changed, so it works on
bytes, asks the system about each file once, and yields files in the order of their paths.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipsearch.file_kinds import readable_extensions
from clipsearch.manifest import Root
from clipsearch.remote_paths import RemotePath, place_of
from indexer.file_table import FileTable, FileTableBuilder
from indexer.known import Region
from indexer.presence import holds_anything, is_gone_error, is_index, look_at
from indexer.sources import Sources, regions_of, root_of, topmost

_SEPARATOR = os.fsencode(os.sep)
_KINDS = {
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFDIR: "folder",
}

_UNKNOWN = (0, 0, 0)
"""Size, time of change and inode of a file that is there and cannot be looked at."""

_Entry = tuple[bytes, os.DirEntry[bytes]]


@dataclass
class Scan:
    """What a walk found.

    images : files whose names say image, in order of root and path.
    ignored : how many other files there were, by extension or kind.
    scanned : every folder walked. offline : folders of the index that are not there now.
    absent : files (root, path) that were listed one by one and are not there.
    unreadable : folders that could not be listed, and containers that could not be read or not
    wholly, with the reason.
    containers : the tars and Parquet files to look into that the walk came upon.
    passed_over : absolute paths of what was not looked at: hidden and excluded folders, excluded
    files, other indexes, and folders that could not be listed. Nothing there counts as gone.
    """

    images: FileTable = field(default_factory=lambda: FileTableBuilder().table())
    ignored: Counter[str] = field(default_factory=Counter)
    scanned: list[Region] = field(default_factory=list)
    offline: list[Region] = field(default_factory=list)
    absent: list[tuple[int, bytes]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    containers: list[Path] = field(default_factory=list)
    passed_over: set[str] = field(default_factory=set)

    @property
    def found(self) -> int:
        """Files of all kinds."""
        return len(self.images) + sum(self.ignored.values())


def scan(
    sources: Sources,
    roots: Sequence[Root],
    exclude: Sequence[str],
    index: Path,
    containers: frozenset[bytes] = frozenset(),
) -> Scan:
    """Look at ``sources``. Each file belongs to the deepest root that holds it.

    Hidden folders, other indexes and what ``exclude`` matches (a name, or a path relative to
    the folder) are passed over. Links to folders are followed, each real folder once. A folder
    of the index that is not there, or is there and holds nothing at all (the empty place where
    a disk is mounted), is offline. containers : absolute paths; where the walk finds one of these
    files, it is noted to be looked into, as all others of their kind are not.
    """
    result = Scan()
    walk = _Walk(roots, exclude, index, containers, result)
    remote = [folder for folder in sources.folders if isinstance(folder, RemotePath)]
    local = [folder for folder in sources.folders if not isinstance(folder, RemotePath)]
    for folder in sorted(local, key=lambda path: os.fsencode(path) + _SEPARATOR):
        walk.folder(folder)
        for region in regions_of(folder, roots):
            there = holds_anything(_place(region, roots))
            (result.scanned if there else result.offline).append(region)
    for folder in sources.gone:
        result.offline.extend(regions_of(folder, roots))
    result.images = walk.found.table()
    if remote:
        _add_buckets(result, remote, roots, exclude)
    if sources.files:
        _add_listed(result, sources.files, roots)
    return result


def _add_buckets(
    result: Scan, folders: Sequence[RemotePath], roots: Sequence[Root], exclude: Sequence[str]
) -> None:
    """List what is below prefixes of buckets. Of one that cannot be listed nothing counts as
    gone; one that is empty is so indeed, unlike the place of a disk."""
    from indexer.remote_sources import RemoteScan

    listing = RemoteScan(exclude)
    for folder in topmost(folders):
        assert isinstance(folder, RemotePath)
        regions = regions_of(folder, roots)
        if listing.folder(folder, [(r, place_of(_place(r, roots))) for r in regions]):
            result.scanned.extend(regions)
    result.ignored += listing.ignored
    result.unreadable += listing.unreadable
    result.passed_over |= listing.passed_over
    result.images = listing.with_found(result.images)


class _Walk:
    """One walk over several folders; each real folder is visited once."""

    def __init__(
        self,
        roots: Sequence[Root],
        exclude: Sequence[str],
        index: Path,
        containers: frozenset[bytes],
        result: Scan,
    ) -> None:
        self.found = FileTableBuilder()
        self._endings = frozenset(map(os.fsencode, readable_extensions()))
        self._roots = roots
        self._root_at = {os.fsencode(root.path): root.id for root in roots}
        self._exclude = exclude
        self._index = os.fsencode(index)
        self._containers = containers
        self._result = result
        self._visited = _identity(self._index)  # passed over whatever path leads to it

    def folder(self, top: Path) -> None:
        """Walk ``top``."""
        root, below = root_of(top, self._roots)
        start = (os.fsencode(top), root.id, below + b"/" if below else b"")
        self._top = os.path.join(start[0], b"")
        entries = self._listing(start[0])
        if entries is None:
            return
        stack = [(*start, iter(entries))]
        while stack:
            directory, root_id, prefix, rest = stack[-1]
            inner = self._files(rest, directory, root_id, prefix)
            if inner is None:
                stack.pop()
                continue
            path = os.path.join(directory, inner)
            listed = self._listing(path)
            if listed is None:
                continue
            if path in self._root_at:
                stack.append((path, self._root_at[path], b"", iter(listed)))
            else:
                stack.append((path, root_id, prefix + inner + b"/", iter(listed)))

    def _files(
        self, entries: Iterator[_Entry], directory: bytes, root: int, prefix: bytes
    ) -> bytes | None:
        """Note the files of ``entries`` up to the next folder to go into, and name that."""
        ignored, endings = self._result.ignored, self._endings
        add = self.found.add
        for sorted_as, entry in entries:
            name = entry.name
            is_folder = sorted_as.endswith(b"/")
            if self._exclude and self._is_excluded(directory, prefix + name, name):
                self._result.passed_over.add(os.fsdecode(os.path.join(directory, name)))
                continue
            dot = name.rfind(b".")
            if name[dot:].lower() in endings and dot > 0 and not is_folder:
                # What macOS leaves beside files on foreign disks; named .jpg, but no image.
                if name.startswith(b"._"):
                    ignored["._*"] += 1
                    continue
                try:
                    info = entry.stat()
                except OSError as error:
                    if is_gone_error(error):  # a broken link, or gone since it was listed
                        ignored["broken link"] += 1
                    else:  # the decoder will say why
                        add(root, prefix + name, *_UNKNOWN)
                    continue
                if stat.S_ISREG(info.st_mode):
                    add(root, prefix + name, info.st_size, info.st_mtime_ns, info.st_ino)
                else:
                    ignored[_kind(info.st_mode)] += 1
            elif not is_folder:
                if self._containers and self._is_container(os.path.join(directory, name)):
                    continue
                ignored[_extension(name)] += 1
            elif self._is_passed_over(os.path.join(directory, name), name):
                self._result.passed_over.add(os.fsdecode(os.path.join(directory, name)))
            else:
                return name
        return None

    def _listing(self, directory: bytes) -> list[_Entry] | None:
        """The entries of a folder in the order of the paths below it; None for one that was
        visited already or cannot be listed."""
        try:
            info = os.stat(directory)
            if (info.st_dev, info.st_ino) in self._visited and info.st_ino:
                return None
            self._visited.add((info.st_dev, info.st_ino))
            with os.scandir(directory) as listing:
                return sorted((_sorting_name(entry), entry) for entry in listing)
        except OSError as error:
            name = os.fsdecode(directory)
            self._result.unreadable.append((name, error.strerror or str(error)))
            self._result.passed_over.add(name)
            return None

    def _is_container(self, path: bytes) -> bool:
        """Whether ``path`` is a container to look into, which is noted then."""
        if path not in self._containers or not os.path.isfile(path):
            return False
        self._result.containers.append(Path(os.fsdecode(path)))
        return True

    def _is_passed_over(self, path: bytes, name: bytes) -> bool:
        if name.startswith((b".", b"@eaDir")) or path == self._index:
            return True
        return name.endswith(b".index") and is_index(path)

    def _is_excluded(self, directory: bytes, below_root: bytes, name: bytes) -> bool:
        path = os.path.join(directory, name)
        below_top = os.fsdecode(path.removeprefix(self._top)).replace(os.sep, "/")
        names = (os.fsdecode(name), below_top, os.fsdecode(below_root))
        return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in self._exclude)


def _sorting_name(entry: os.DirEntry[bytes]) -> bytes:
    # A folder sorts as the paths below it do; and a name with "/" in it is a folder's.
    try:
        is_folder = entry.is_dir()
    except OSError:
        is_folder = False
    return entry.name + b"/" if is_folder else entry.name


def _extension(name: bytes) -> str:
    return os.path.splitext(os.fsdecode(name))[1].lower() or "no extension"


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "not a regular file")


def _identity(folder: bytes) -> set[tuple[int, int]]:
    try:
        info = os.stat(folder)
    except OSError:
        return set()
    return {(info.st_dev, info.st_ino)} if info.st_ino else set()


def _place(region: Region, roots: Sequence[Root]) -> str:
    root, prefix = region
    path = next(other.path for other in roots if other.id == root)
    return os.path.join(path, os.fsdecode(prefix))


def is_passed_over(folder: Path, top: Path, exclude: Sequence[str]) -> bool:
    """Whether a walk of ``top`` would not come to ``folder`` inside it."""
    for part in (folder, *folder.parents):
        if part == top:
            return False
        below = part.relative_to(top).as_posix()
        if part.name.startswith((".", "@eaDir")) or (part.suffix == ".index" and is_index(part)):
            return True
        if any(
            fnmatch.fnmatch(name, pattern) for name in (part.name, below) for pattern in exclude
        ):
            return True
    return False


def _add_listed(result: Scan, files: Sequence[Path], roots: Sequence[Root]) -> None:
    """Look at single files, in whatever order they were listed."""
    rows: dict[tuple[int, bytes], tuple[int, int, int]] = {}
    endings = readable_extensions()
    for path in files:
        root, below = root_of(path, roots)
        try:
            info = look_at(path)
        except OSError:  # the decoder will say why
            rows[root.id, below] = _UNKNOWN
            continue
        if info is None:
            result.absent.append((root.id, below))
        elif path.suffix.lower() not in endings or path.name.startswith("._"):
            is_folder = stat.S_ISDIR(info.st_mode)
            name = "._*" if path.name.startswith("._") else _extension(os.fsencode(path.name))
            result.ignored["folder" if is_folder else name] += 1
        elif stat.S_ISREG(info.st_mode):
            rows[root.id, below] = (info.st_size, info.st_mtime_ns, info.st_ino)
        else:
            result.ignored[_kind(info.st_mode)] += 1
    for found in result.images:
        rows[found.key] = (found.size, found.mtime_ns, found.inode)
    builder = FileTableBuilder()
    for (root_id, below), values in sorted(rows.items()):
        builder.add(root_id, below, *values)
    result.images = builder.table()
