"""The images that could not be taken, and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from clipsearch.manifest import read_manifest
from clipsearch.paths import relative_bytes
from clipsearch.remote_paths import place_of
from clipsearch.store import index_folder, open_store
from indexer.known import read_skipped


@dataclass(frozen=True)
class Failure:
    """An image that was skipped. ``reason`` is one of ``errors.ImageError``'s; ``seen_at`` is
    when it was last tried, UTC."""

    path: Path
    reason: str
    message: str
    size: int
    seen_at: datetime


def read_failures(index: str | os.PathLike[str], reasons: Sequence[str] = ()) -> list[Failure]:
    """The skipped images of an index, in order of reason and path; only ``reasons`` where some
    are named. Raises IndexNotFoundError and IndexFormatError."""
    store = open_store(index_folder(index))
    manifest = read_manifest(store, str(index))
    failures = [
        Failure(
            place_of(manifest.root(row["root"]).path, relative_bytes(row["path"])),
            row["reason"],
            row["message"],
            row["size"],
            row["seen_at"],
        )
        for row in read_skipped(store, manifest).to_pylist()
        if not reasons or row["reason"] in reasons
    ]
    return sorted(failures, key=lambda failure: (failure.reason, os.fsencode(failure.path)))
