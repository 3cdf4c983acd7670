"""What the name of a file promises, before any of it is opened."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

from clipsearch.remote_paths import RemotePath
from clipsearch.remote_urls import is_remote

IMAGE_EXTENSIONS: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff"}
    | {".bmp", ".avif", ".heic", ".heif", ".hif"}
)
"""Endings of file names, lower case with the dot, that promise an image read here."""

RAW_EXTENSIONS: frozenset[str] = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".kdc"}
    | {".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2"}
    | {".srf", ".srw"}
)
"""Endings that promise a RAW photo of a camera, which the extra "raw" reads."""

RAW_CURE = "pip install 'clipsearch[raw]'"
"""What gets that extra."""

CONTAINER_EXTENSIONS: frozenset[str] = frozenset({".tar", ".parquet"})
"""Endings of files that hold image files. An image in one has the path ``NAME.tar/MEMBER``."""


@functools.cache
def readable_extensions() -> frozenset[str]:
    """Endings of the images that are read here and now: RAW photos too where rawpy is there."""
    return IMAGE_EXTENSIONS | RAW_EXTENSIONS if reads_raw() else IMAGE_EXTENSIONS


def reads_raw() -> bool:
    """Whether the extra "raw" is installed; it is not imported to find out."""
    try:
        return importlib.util.find_spec("rawpy") is not None
    except (ImportError, ValueError):  # an import hook that hides it, or what stands in for it
        return False


def container_of(path: str | os.PathLike[str]) -> Path | None:
    """The tar or Parquet file, there on the disk, or the bucket that ``path`` lies in; None when
    it is a file of its own."""
    if is_remote(path):
        return RemotePath(str(path)).bucket
    text = os.fspath(path).lower().replace(os.sep, "/")
    if not any(f"{ending}/" in text for ending in CONTAINER_EXTENSIONS):
        return None
    for parent in reversed(Path(path).parents):
        if parent.suffix.lower() in CONTAINER_EXTENSIONS and parent.is_file():
            return parent
    return None


def inside(container: Path) -> str:
    """Where an image is that lies in ``container``, in words: "inside photos.tar"."""
    return "in object storage" if is_remote(container) else f"inside {container.name}"
