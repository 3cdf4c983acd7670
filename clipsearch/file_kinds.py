"""What the name of a file promises, before any of it is opened."""

from __future__ import annotations

IMAGE_EXTENSIONS: frozenset[str] = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff"}
    | {".bmp", ".avif", ".heic", ".heif", ".hif"}
)
"""Endings of file names, lower case with the dot, that promise an image read here."""
