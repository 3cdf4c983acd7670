"""Walk the folders and list the files, without opening any."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipsearch.errors import SourceError
from clipsearch.images import IMAGE_EXTENSIONS
from clipsearch.manifest import MANIFEST_NAME, Manifest, Root


@dataclass(frozen=True, slots=True)
class FoundFile:
    """An image file on the disk. ``path`` is relative to its root, bytes, "/" between parts."""

    root: int
    path: bytes
    size: int
    mtime_ns: int
    inode: int

    @property
    def key(self) -> tuple[int, bytes]:
        """What a file is known by in the paths table."""
        return self.root, self.path

    @property
    def name(self) -> str:
        """The path for display; bytes that are no text show as a replacement character."""
        return self.path.decode("utf-8", "replace")


@dataclass
class Scan:
    """What a walk found.

    images : files whose names say image, in order of root and path.
    ignored : how many other files there were, by extension.
    scanned : (root id, relative prefix) of every folder walked, b"" for a whole root.
    unreadable : folders that could not be listed, with the reason.
    passed_over : absolute paths of what was not looked at: hidden and excluded folders, excluded
    files, other indexes, and folders that could not be listed. Nothing there counts as gone.
    """

    images: list[FoundFile] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    scanned: list[tuple[int, bytes]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    passed_over: set[str] = field(default_factory=set)

    @property
    def found(self) -> int:
        """Files of all kinds."""
        return len(self.images) + sum(self.ignored.values())


def resolve_sources(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The folders as absolute paths; SourceError for one that is missing or no folder."""
    folders: list[Path] = []
    for source in sources:
        if not os.fspath(source):
            raise SourceError("expected a folder of images, got an empty name")
        path = Path(os.path.abspath(os.path.expanduser(source)))
        if not path.exists():
            raise SourceError(f"no such folder: {source}")
        if not path.is_dir():
            raise SourceError(f"expected a folder of images, got a file: {source}")
        if (path / MANIFEST_NAME).is_file():
            raise SourceError(f"{source} is an index; name the folder of images instead")
        if not os.access(path, os.R_OK | os.X_OK):
            raise SourceError(f"no permission to read the folder {source}")
        if path not in folders:
            folders.append(path)
    return folders


def spelled_as_known(folder: Path, roots: Sequence[Root]) -> Path:
    """``folder`` by the name of the root that holds it, where it came by another: through a
    link, or in other letter case where the system does not mind."""
    if any(folder.is_relative_to(root.path) for root in roots):
        return folder
    real = Path(os.path.normcase(os.path.realpath(folder)))
    for root in roots:
        known = Path(os.path.normcase(os.path.realpath(root.path)))
        if real.is_relative_to(known):
            return Path(root.path) / real.relative_to(known)
    return folder


def assign_roots(manifest: Manifest, folders: Sequence[Path]) -> tuple[Root, ...]:
    """The manifest's roots, with a new one for every folder that lies in none of them."""
    roots = list(manifest.roots)
    next_id = manifest.next_root
    for folder in sorted(folders, key=lambda path: len(path.parts)):
        if not any(folder.is_relative_to(root.path) for root in roots):
            roots.append(Root(next_id, str(folder)))
            next_id += 1
    return tuple(roots)


def scan(
    folders: Sequence[Path], roots: Sequence[Root], exclude: Sequence[str], index: Path
) -> Scan:
    """Walk ``folders``. Each file belongs to the deepest root that holds it.

    Hidden folders, other indexes and what ``exclude`` matches (a name, or a path relative to
    the folder) are passed over. Links to folders are followed, each real folder once.
    """
    result = Scan()
    visited = _identity(index)  # the index is passed over whatever path leads to it
    by_depth = sorted(roots, key=lambda root: -len(Path(root.path).parts))
    for folder in sorted(folders):
        for entry, directory in _walk(folder, exclude, index, visited, result):
            # What macOS leaves beside files on foreign disks; named .jpg, but no image.
            if entry.name.startswith("._"):
                result.ignored["._*"] += 1
                continue
            extension = os.path.splitext(entry.name)[1].lower()
            if extension not in IMAGE_EXTENSIONS:
                result.ignored[extension or "no extension"] += 1
                continue
            try:
                info = entry.stat()
            except OSError:  # a broken link, or gone since it was listed
                result.ignored["broken link"] += 1
                continue
            if not stat.S_ISREG(info.st_mode):
                result.ignored["not a regular file"] += 1
                continue
            root = next(root for root in by_depth if directory.is_relative_to(root.path))
            relative = os.fsencode((directory / entry.name).relative_to(root.path).as_posix())
            result.images.append(
                FoundFile(root.id, relative, info.st_size, info.st_mtime_ns, info.st_ino)
            )
        root = next(root for root in by_depth if folder.is_relative_to(root.path))
        below = folder.relative_to(root.path).as_posix()
        result.scanned.append((root.id, b"" if below == "." else os.fsencode(below) + b"/"))
        # Roots that lie inside this folder were walked with it.
        for inner in roots:
            if inner.path != str(folder) and Path(inner.path).is_relative_to(folder):
                result.scanned.append((inner.id, b""))
    result.images.sort(key=lambda found: found.key)
    return result


def _walk(
    top: Path,
    exclude: Sequence[str],
    index: Path,
    visited: set[tuple[int, int]],
    result: Scan,
) -> Iterator[tuple[os.DirEntry[str], Path]]:
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            info = directory.stat()
            if (info.st_dev, info.st_ino) in visited and info.st_ino:
                continue
            visited.add((info.st_dev, info.st_ino))
            with os.scandir(directory) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            result.unreadable.append((str(directory), error.strerror or str(error)))
            result.passed_over.add(str(directory))
            continue
        for entry in entries:
            path = directory / entry.name
            if exclude and _excluded(path.relative_to(top).as_posix(), entry.name, exclude):
                result.passed_over.add(str(path))
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            if not is_folder:
                yield entry, directory
            elif entry.name.startswith((".", "@eaDir")) or _is_index(path, index):
                result.passed_over.add(str(path))
            else:
                pending.append(path)


def _identity(folder: Path) -> set[tuple[int, int]]:
    try:
        info = folder.stat()
    except OSError:
        return set()
    return {(info.st_dev, info.st_ino)} if info.st_ino else set()


def _is_index(path: Path, index: Path) -> bool:
    return path == index or (path.suffix == ".index" and (path / MANIFEST_NAME).is_file())


def _excluded(relative: str, name: str, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(relative, pattern) for pattern in patterns
    )
