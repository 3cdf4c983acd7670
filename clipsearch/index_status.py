"""What an index holds, counted."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from clipsearch.backends import backend_of
from clipsearch.generation import Generation, cache_folder
from clipsearch.manifest import FORMAT_VERSION, ShardRef
from clipsearch.records import IndexStatus
from clipsearch.remote_urls import is_remote
from clipsearch.spaces import space_statuses
from clipsearch.store import is_mirror


def index_status(index: Path, state: Generation) -> IndexStatus:
    """Counts, sizes, model and freshness of one generation of the index at ``index``."""
    manifest = state.manifest
    caches = {cache_folder(index), state.cache}
    return IndexStatus(
        path=state.store.place if is_mirror(index) else str(index),
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
                # Of object storage nobody asks: that would take a network.
                "there": is_remote(root.path) or os.path.isdir(root.path),
            }
            for root in manifest.roots
        ),
        truth_bytes=sum(ref.bytes for ref in manifest.files()),
        cache_bytes=sum(_bytes_below(cache) for cache in caches),
        search_kind=state.search.kind,
        search_measured=state.search.measured,
        spaces=space_statuses(state.store, manifest, state.vectors.deleted),
        backends=_vectors_by_backend(manifest.embeddings.get(state.space.id, ())),
    )


def _vectors_by_backend(shards: Iterable[ShardRef]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for shard in shards:
        several = shard.recipe.get("backends")  # of a shard that was computed in two goes
        if "imported" in shard.recipe:
            name = "imported"
        elif several is not None:
            name = " and ".join(sorted(map(str, several)))
        else:
            name = backend_of(shard.recipe) or "unknown"
        found[name] += shard.rows
    return dict(found.most_common())


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # a writer has just replaced it
            total += file.stat().st_size if file.is_file() else 0
    return total
