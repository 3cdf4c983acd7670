"""What the name of a file promises, before any of it is opened."""

from __future__ import annotations

import os
from pathlib import Path

IMAGE_EXTENSIONS: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff"}
    | {".bmp", ".avif", ".heic", ".heif", ".hif"}
)
"""Endings of file names, lower case with the dot, that promise an image read here."""

CONTAINER_EXTENSIONS: frozenset[str] = frozenset({".tar", ".parquet"})
"""Endings of files that hold image files. An image in one has the path ``NAME.tar/MEMBER``."""


def container_of(path: str | os.PathLike[str]) -> Path | None:
    """The tar or Parquet file, there on the disk, that ``path`` lies in; None when in none."""
    text = os.fspath(path).lower().replace(os.sep, "/")
    if not any(f"{ending}/" in text for ending in CONTAINER_EXTENSIONS):
        return None
    for parent in reversed(Path(path).parents):
        if parent.suffix.lower() in CONTAINER_EXTENSIONS and parent.is_file():
            return parent
    return None
