"""Make the damaged parts of a cache again, or clear them where they make themselves."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsearch.generation import cache_folder
from clipsearch.manifest import Manifest
from clipsearch.place_cache import PlaceCache
from clipsearch.place_rows import read_place_rows
from clipsearch.store import LocalStore, open_store
from clipsearch.thumbnails import thumbnail_file
from clipsearch.vector_index_file import CURRENT, bring_up_index_file, faiss_folder
from clipsearch.vectors import VectorCache
from indexer.background_texts import remembered_texts
from indexer.check_cache import cache_folders
from indexer.findings import Finding


def repair_cache(
    place: Path,
    manifest: Manifest,
    findings: Sequence[Finding],
    shards_dropped: bool,
    actions: list[str],
) -> None:
    """Build anew what ``findings`` name, or all of it when shards were dropped.

    ``actions`` gets a line for what was done.
    """
    own = cache_folder(place)
    store = open_store(place)
    damaged = [finding.file for finding in findings]
    for space_id in manifest.spaces:
        for folder in cache_folders(place, manifest.uuid):
            vectors = VectorCache(folder, manifest, space_id)
            faiss = faiss_folder(folder, space_id)
            bad_matrix = _names_one_of(place, vectors.folder, damaged)
            bad_faiss = _names_one_of(place, faiss, damaged)
            if folder != own:
                # The stand-in for a read-only index is made again by whoever needs it.
                for part, bad in ((vectors.folder, bad_matrix), (faiss, bad_faiss)):
                    if bad:
                        _clear(part)
                        actions.append(f"{part}: cleared")
                continue
            if bad_matrix or shards_dropped:
                _clear(vectors.folder)
                vectors.build(store)
                actions.append(f"cache/vectors/{space_id}: built again from the shards")
            if bad_faiss or shards_dropped:
                _clear(faiss)
                everything = functools.partial(vectors.open, store, np.empty(0, np.int64))
                texts = remembered_texts(manifest.spaces[space_id])
                bring_up_index_file(folder, manifest, space_id, everything, texts)
                again = "built again from the shards" if any(faiss.glob("*")) else "cleared"
                actions.append(f"cache/faiss/{space_id}: {again}")
    _repair_places(place, store, manifest, damaged, actions)
    kept = {thumbnail_file(own, ref.name).name for ref in manifest.images}
    for file in sorted((own / "thumbnails").glob("*.arrow")):
        name = f"cache/thumbnails/{file.name}"
        if name in damaged or file.name not in kept:
            file.unlink()
            actions.append(f"{name}: removed; searching does without")


def _repair_places(
    place: Path, store: LocalStore, manifest: Manifest, damaged: Sequence[str], actions: list[str]
) -> None:
    for folder in cache_folders(place, manifest.uuid):
        places = PlaceCache(folder, manifest)
        if _names_one_of(place, places.folder, damaged):
            places.clear()
            if folder == cache_folder(place) and manifest.paths:
                places.write(read_place_rows(store, manifest.paths))
                actions.append("cache/places: made again from the paths table")
            else:
                actions.append(f"{places.folder}: cleared")


def _names_one_of(place: Path, folder: Path, damaged: Sequence[str]) -> bool:
    return any((place / name).is_relative_to(folder) for name in damaged)


def _clear(folder: Path) -> None:
    """Remove the files of one cache; who reads it falls back to the shards meanwhile."""
    for suffix in (CURRENT, "*.f16", "*.ids", "*.faiss"):
        for file in folder.glob(suffix):
            file.unlink(missing_ok=True)
