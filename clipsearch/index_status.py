"""What an index holds, counted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from clipsearch.generation import Generation, cache_folder
from clipsearch.manifest import FORMAT_VERSION
from clipsearch.records import IndexStatus
from clipsearch.spaces import space_statuses


def index_status(index: Path, state: Generation) -> IndexStatus:
    """Counts, sizes, model and freshness of one generation of the index at ``index``."""
    manifest = state.manifest
    caches = {cache_folder(index), state.cache}
    return IndexStatus(
        path=str(index),
        uuid=manifest.uuid,
        generation=manifest.generation,
        format_version=FORMAT_VERSION,
        created_at=manifest.created_at,
        updated_at=manifest.updated_at,
        images=len(state.vectors),
        files_present=state.paths.present,
        files_missing=state.paths.missing,
        copies=state.paths.copies,
        skipped=manifest.skipped.rows if manifest.skipped else 0,
        model=state.space.model,
        space=state.space.id,
        dim=state.space.dim,
        roots=tuple(
            {
                "path": root.path,
                "scanned_at": root.scanned_at,
                "there": os.path.isdir(root.path),
            }
            for root in manifest.roots
        ),
        truth_bytes=sum(ref.bytes for ref in manifest.files()),
        cache_bytes=sum(_bytes_below(cache) for cache in caches),
        search_kind=state.search.kind,
        search_measured=state.search.measured,
        spaces=space_statuses(state.store, manifest, state.vectors.deleted),
    )


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # a writer has just replaced it
            total += file.stat().st_size if file.is_file() else 0
    return total
