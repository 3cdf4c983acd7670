"""Which images of an index are meant by many files, ids or contents at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.errors import LabelError, QueryError
from clipsearch.generation import Generation
from clipsearch.paths import read_paths
from clipsearch.query import Image
from clipsearch.remote_paths import whole_place
from clipsearch.shards import as_numpy

_COLUMNS = ("root", "path", "id", "state", "size", "mtime_ns")


def images_named(state: Generation, images: Sequence[Image]) -> list[int]:
    """The id of every image that is named by its id, its file's path or its content.

    A file that is as it was indexed, or gone from the disk, is known by its path, without being
    read; any other by its content.

    Raises LabelError for one that is not in the index, QueryError for an id that is not.
    """
    files = [None if _is_no_path(image) else _absolute(image) for image in images]
    by_path = _ids_at(state, [file for file in files if file is not None])
    found: list[int] = []
    for image, file in zip(images, files, strict=True):
        if isinstance(image, int | np.integer):
            here = int(image) if 0 <= image < 1 << 63 else -1
        elif file is not None and file in by_path:
            here = by_path[file]
        else:
            content = image if isinstance(image, bytes) else _content_of(file)
            digest = hashlib.sha256(content).digest() if content is not None else b""
            here = state.hashes.get(digest, -1) if digest else -1
        found.append(here)
    alive = set(state.vectors.take_half(np.unique(np.array(found, np.int64)))[0].tolist())
    for image, here in zip(images, found, strict=True):
        if here not in alive:
            raise _unknown(image)
    return found


def _is_no_path(image: Image) -> bool:
    return isinstance(image, int | np.integer | bytes)


def _absolute(image: object) -> Path:
    name = os.fspath(image)  # type: ignore[call-overload]
    if not name or "\0" in name:
        raise QueryError(f"expected an image file, got {name!r}")
    return whole_place(name)


def _unknown(image: Image) -> LabelError | QueryError:
    if isinstance(image, int | np.integer):
        return QueryError(f"there is no image {image} in the index")
    return LabelError(
        f"{shown_image(image)} is not in the index, neither by its path nor by its content: "
        "expected an image that was indexed; 'clipsearch index FOLDER' adds new ones"
    )


def shown_image(image: Image) -> str:
    """How a message calls an image."""
    return "an image" if isinstance(image, bytes) else repr(str(image))


def _content_of(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file is not None and file.is_file() else None
    except OSError:
        return None


def _ids_at(state: Generation, files: Sequence[Path]) -> dict[Path, int]:
    """The ids of those files that are known by their path, and not changed since."""
    import pyarrow.compute as pc

    if not files:
        return {}
    table = read_paths(state.store, state.manifest, _COLUMNS)
    roots, ids = as_numpy(table.column("root")), as_numpy(table.column("id"))
    found: dict[Path, int] = {}
    for root in state.manifest.roots:
        wanted = {key: file for file in files if (key := _relative(file, root.path)) is not None}
        keys = pa.array(list(wanted), table.schema.field("path").type)
        is_named = as_numpy(pc.is_in(table.column("path"), value_set=keys))
        for row in np.flatnonzero(is_named & (roots == root.id)).tolist():
            file = wanted[table.column("path")[row].as_py()]
            size, mtime = (table.column(name)[row].as_py() for name in ("size", "mtime_ns"))
            if _is_unchanged(file, size, mtime):
                found[file] = int(ids[row])
    return found


def _relative(file: Path, root: str) -> bytes | None:
    try:
        relative = file.relative_to(root)
    except ValueError:
        return None
    # A root that is itself the file has an empty path below it.
    return b"" if relative == Path() else os.fsencode(relative.as_posix())


def _is_unchanged(file: Path, size: int, mtime_ns: int) -> bool:
    """Whether a file is as it was indexed, or not there: what is unplugged has not changed."""
    try:
        status = os.stat(file)
    except OSError:
        return True
    return (status.st_size, status.st_mtime_ns) == (size, mtime_ns)
