"""What a run is pointed at: folders to walk, single files, and which root each belongs to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import MissingExtraError, SourceError
from clipsearch.file_kinds import (
    CONTAINER_EXTENSIONS,
    RAW_CURE,
    RAW_EXTENSIONS,
    container_of,
    readable_extensions,
)
from clipsearch.manifest import Manifest, Root
from clipsearch.remote_paths import RemotePath, place_of, whole_place
from clipsearch.remote_urls import is_remote
from indexer.containers import check_container, refuse_packed
from indexer.known import Region
from indexer.presence import is_index, look_at

PathName = str | os.PathLike[str]


@dataclass(frozen=True)
class Sources:
    """Absolute paths, of which some may be URLs of object storage.

    folders : to walk. gone : folders of the index that are not there now, or out of reach (a
    disk that is unplugged, a network drive that is dead, a folder that was removed). files :
    single files to look at, there or not. containers : tars and Parquet files of images.
    members : single images in such.
    """

    folders: tuple[Path, ...] = ()
    gone: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    containers: tuple[Path, ...] = ()
    members: tuple[Path, ...] = ()


def resolve_sources(
    sources: Sequence[PathName], roots: Sequence[Root] = (), listed: Iterable[PathName] = ()
) -> Sources:
    """Tell folders, files and containers apart.

    sources : as the user named them; each must be there, or lie in one of ``roots``, the folders
    that the index knows. listed : files of a list, of which some may be gone by now.

    Raises SourceError for what is missing, unreadable, an index, or holds no images,
    MissingExtraError for a RAW photo that cannot be read yet, RemoteError.
    """
    folders: list[Path] = []
    gone: list[Path] = []
    files: list[Path] = []
    containers: list[Path] = []
    members: list[Path] = []
    for source in sources:
        path = spelled_as_known(absolute_path(source), roots)
        is_known = any(path.is_relative_to(root.path) for root in roots)
        if isinstance(path, RemotePath):
            from indexer.remote_sources import is_single_image

            (files if is_single_image(path, is_known) else folders).append(path)
            continue
        try:
            found = look_at(path)
        except OSError as error:
            if not is_known:
                raise SourceError(f"cannot read {_shown(source)}: {error.strerror}") from error
            gone.append(path)
            continue
        if found is None:
            if container_of(path) is not None:
                members.append(path)
            elif not is_known:
                raise SourceError(f"no such folder or file: {_shown(source)}")
            else:
                (files if path.suffix.lower() in readable_extensions() else gone).append(path)
        elif not stat.S_ISDIR(found.st_mode):
            ending = path.suffix.lower() if stat.S_ISREG(found.st_mode) else ""
            if ending in CONTAINER_EXTENSIONS:
                check_container(path)
                containers.append(path)
            elif ending in readable_extensions():
                files.append(path)
            elif ending in RAW_EXTENSIONS:
                raise MissingExtraError(f"{source} is a RAW photo: {RAW_CURE} to index it")
            else:
                refuse_packed(path)
                raise SourceError(
                    "expected a folder of images or an image, or a .tar or .parquet of images, "
                    f"got {source}"
                )
        elif is_index(path):
            raise SourceError(f"{source} is an index; name the folder of images instead")
        elif os.access(path, os.R_OK | os.X_OK):
            folders.append(path)
        elif is_known:
            gone.append(path)
        else:
            raise SourceError(f"no permission to read the folder {source}")
    for name in listed:
        path = spelled_as_known(absolute_path(name), roots)
        is_member = not isinstance(path, RemotePath) and container_of(path) is not None
        (members if is_member else files).append(path)
    kinds = (folders, gone, files, containers, members)
    return Sources(*(tuple(dict.fromkeys(paths)) for paths in kinds))


def _shown(name: PathName) -> str:
    """A name for a message, which may be a whole file that came in as a list of names."""
    text = os.fspath(name)
    return text if len(text) <= 200 else text[:200] + "..."


def absolute_path(name: PathName) -> Path:
    """``name`` as an absolute path, ~ for the home folder; links are left as they are.

    Raises SourceError for an empty name, which would be the current folder, and OptionError for
    a URL that names no place in object storage.
    """
    if not os.fspath(name):
        raise SourceError("expected a folder, got an empty name")
    return whole_place(os.path.expanduser(name))


def spelled_as_known(path: Path, roots: Sequence[Root]) -> Path:
    """``path`` by the name of the root that holds it, where it came by another: through a
    link, or in other letter case where the system does not mind."""
    if isinstance(path, RemotePath) or not roots:
        return path
    if any(path.is_relative_to(root.path) for root in roots):
        return path
    # A file that is a link belongs where the link is, not where it leads.
    folder = path if os.path.isdir(path) else path.parent
    real = Path(os.path.normcase(os.path.realpath(folder)))
    for root in roots:
        if is_remote(root.path):
            continue
        known = Path(os.path.normcase(os.path.realpath(root.path)))
        if real.is_relative_to(known):
            inside = Path(root.path) / real.relative_to(known)
            return inside if folder is path else inside / path.name
    return path


def assign_roots(manifest: Manifest, sources: Sources) -> tuple[Root, ...]:
    """The manifest's roots, with a new one for everything that lies in none of them."""
    roots = list(manifest.roots)
    next_id = manifest.next_root
    files = [*sources.files, *sources.containers, *filter(None, map(container_of, sources.members))]
    outside = _folders_of(files, [*roots, *(Root(-1, str(f)) for f in sources.folders)])
    for folder in sorted([*sources.folders, *outside], key=lambda path: len(path.parts)):
        if not any(folder.is_relative_to(root.path) for root in roots):
            roots.append(Root(next_id, str(folder)))
            next_id += 1
    return tuple(roots)


def _folders_of(files: Sequence[Path], roots: Sequence[Root]) -> list[Path]:
    """One folder that holds all ``files`` that are in no root; their own folders where they
    have nothing in common but the disk."""
    homes = {path.parent for path in files}
    outside = [home for home in homes if not any(home.is_relative_to(r.path) for r in roots)]
    local = [home for home in outside if not isinstance(home, RemotePath)]
    remote = [home for home in outside if isinstance(home, RemotePath)]
    found: list[Path] = [
        _common([home for home in remote if home.bucket == bucket])
        for bucket in sorted({home.bucket for home in remote})
    ]
    if not local:
        return found
    try:
        common = Path(os.path.commonpath(local))
    except ValueError:  # on several drives
        return [*found, *local]
    return [*found, *(local if common == Path(common.anchor) else [common])]


def _common(places: Sequence[RemotePath]) -> RemotePath:
    """The deepest place that holds all ``places``, which are in one bucket."""
    common = places[0]
    for place in places:
        while not place.is_relative_to(common):
            common = common.parent
    return common


def regions_of(folder: Path, roots: Sequence[Root]) -> list[Region]:
    """What lies in ``folder``: its part of its root, and the roots inside it."""
    root, below = root_of(folder, roots)
    inner = [
        (other.id, b"")
        for other in roots
        if other.id != root.id and place_of(other.path).is_relative_to(folder)
    ]
    return [(root.id, below + b"/" if below else b""), *inner]


def topmost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Those of ``paths`` that lie in no other one, each once, in order."""
    distinct = set(paths)
    return tuple(
        path for path in sorted(distinct) if not any(up in distinct for up in path.parents)
    )


def root_of(path: Path, roots: Sequence[Root]) -> tuple[Root, bytes]:
    """The deepest root that holds ``path``, and the path below it, "/" between the parts.

    SourceError when there is none.
    """
    inside = [root for root in roots if path.is_relative_to(root.path)]
    if not inside:
        raise SourceError(f"{path} lies in none of the folders of the index")
    root = max(inside, key=lambda root: len(place_of(root.path).parts))
    below = path.relative_to(root.path).as_posix()
    return root, b"" if below == "." else os.fsencode(below)
