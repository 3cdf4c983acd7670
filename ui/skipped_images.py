"""The images that could not be indexed, and why, a page of them at a time."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from clipsearch.manifest import read_manifest
from clipsearch.paths import relative_bytes
from clipsearch.remote_paths import place_of
from clipsearch.shards import SKIPPED_SCHEMA, read_tables
from clipsearch.store import open_store

IN_WORDS = {
    "corrupt": "damaged: it cannot be decoded",
    "truncated": "cut short: part of the file is missing",
    "unsupported": "of a kind that cannot be read",
    "too_large": "larger than the limit",
    "unreadable": "may not be read",
    "vanished": "gone while it was read",
    "empty": "an empty file",
}


def skipped_images(index: Path, offset: int, limit: int, reason: str | None) -> dict[str, Any]:
    """``limit`` skipped images from ``offset``, in order of reason and name, of one ``reason``
    where one is named.

    Returns images : [{name, folder, reason, words, message, bytes, seen_at}], total, and counts
    of every reason : {reason: count}. Raises IndexNotFoundError and IndexFormatError.
    """
    store = open_store(index)
    manifest = read_manifest(store, str(index))
    table = read_tables(store, [manifest.skipped] if manifest.skipped else [], SKIPPED_SCHEMA)
    counts = Counter(table["reason"].to_pylist())
    if reason is not None:
        table = table.filter(pc.equal(table["reason"], reason))
    order = [("reason", "ascending"), ("root", "ascending"), ("path", "ascending")]
    rows = table.sort_by(order).slice(offset, limit).to_pylist()
    images = []
    for row in rows:
        place = place_of(manifest.root(row["root"]).path, relative_bytes(row["path"]))
        images.append(
            {
                "name": _shown(place.name),
                "folder": _shown(place.parent),
                "reason": row["reason"],
                "words": IN_WORDS.get(row["reason"], row["reason"]),
                "message": row["message"],
                "bytes": row["size"],
                "seen_at": row["seen_at"].isoformat(),
            }
        )
    return {"images": images, "total": len(table), "counts": dict(sorted(counts.items()))}


def _shown(path: str | Path) -> str:
    """A path as text, also where its bytes are none."""
    return os.fsencode(path).decode("utf-8", "replace")
