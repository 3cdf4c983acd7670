"""One generation of an index, opened: its vectors mapped, its tables at hand."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from clipsearch.encoder import Space
from clipsearch.errors import IndexFormatError
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.path_table import PathTable
from clipsearch.place_cache import PlaceCache
from clipsearch.recent import Recent
from clipsearch.shards import DELETED_SCHEMA, IMAGE_SCHEMA, as_numpy, read_tables
from clipsearch.spaces import space_named
from clipsearch.store import LocalStore, open_store
from clipsearch.vector_search import VectorSearch
from clipsearch.vectors import VectorCache, Vectors

if TYPE_CHECKING:
    from clipsearch.metadata_memory import MetadataMemory

_DATE_BYTES = 32 << 20  # of some four million images


def cache_folder(index: Path) -> Path:
    """The cache folder inside an index."""
    return index / "cache"


def user_cache_folder(index_uuid: str) -> Path:
    """Where the cache of a read-only index goes instead."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("clipsearch", appauthor=False), "indexes", index_uuid)


@dataclass(frozen=True)
class Generation:
    """One generation of an index, opened. Threads may share it; it never changes."""

    manifest: Manifest
    space: Space
    cache: Path
    vectors: Vectors
    search: VectorSearch
    store: LocalStore

    @functools.cached_property
    def paths(self) -> PathTable:
        """The paths table, opened when it is first asked for."""
        return PathTable(self.store, self.manifest, _place_cache(self.store.root, self.manifest))

    @functools.cached_property
    def dates(self) -> Recent[pa.Table]:
        """By image shard, when its images were taken: of the shards that hits were in last."""
        return Recent(_DATE_BYTES)

    @functools.cached_property
    def metadata(self) -> MetadataMemory:
        """What filters have read."""
        from clipsearch.metadata_memory import MetadataMemory

        return MetadataMemory(self)

    @functools.cached_property
    def hashes(self) -> dict[bytes, int]:
        """Content hash to id, read when it is first asked for."""
        table = read_tables(self.store, self.manifest.images, IMAGE_SCHEMA, ["id", "sha256"])
        return dict(
            zip(table.column("sha256").to_pylist(), table.column("id").to_pylist(), strict=True)
        )


def open_generation(index: Path, space: str | None = None) -> Generation:
    """Open the newest generation, however often a writer makes another meanwhile.

    space : the space to answer in, see ``space_named``; None for the default one.
    """
    store = open_store(index)
    while True:
        manifest = read_manifest(store, str(index))
        try:
            return _open_manifest(index, store, manifest, space)
        except IndexFormatError:
            # A writer clears away the tables that its new manifest no longer names.
            if is_of(read_manifest(store, str(index)), manifest):
                raise


def beside(state: Generation, space: str) -> Generation:
    """The same generation, opened in another space, of this id.

    Raises as ``open_generation``; IndexFormatError, too, where a writer has cleared a table of
    it away meanwhile.
    """
    if space == state.space.id:
        return state
    return _open_manifest(state.store.root, state.store, state.manifest, space)


def _place_cache(index: Path, manifest: Manifest) -> PlaceCache:
    """Where the places are mapped from, or written to where they are not yet."""
    cache = PlaceCache(cache_folder(index), manifest)
    if not os.access(index, os.W_OK) and not cache.usable():
        cache = PlaceCache(user_cache_folder(manifest.uuid), manifest)
    return cache


def is_of(fresh: Manifest, manifest: Manifest) -> bool:
    """Whether both are the same generation of the same index."""
    return (fresh.uuid, fresh.generation) == (manifest.uuid, manifest.generation)


def _open_manifest(
    index: Path, store: LocalStore, manifest: Manifest, named: str | None
) -> Generation:
    space = space_named(manifest, named, str(index))
    deleted_refs = [manifest.deleted] if manifest.deleted else []
    deleted = np.sort(as_numpy(read_tables(store, deleted_refs, DELETED_SCHEMA).column("id")))
    cache = cache_folder(index)
    vector_cache = VectorCache(cache, manifest, space.id)
    if not vector_cache.covers_all():
        if not os.access(index, os.W_OK):
            cache = user_cache_folder(manifest.uuid)
            vector_cache = VectorCache(cache, manifest, space.id)
        # The tail that a writer has just committed is read from its shards; a cache that is
        # gone, foreign or elsewhere is made anew.
        if not vector_cache.usable():
            # Without room or the right to write, the shards answer, more slowly.
            with contextlib.suppress(OSError):
                vector_cache.build(store)
    vectors = vector_cache.open(store, deleted)
    search = VectorSearch(vectors, cache, manifest, space.id)
    return Generation(manifest, space, cache, vectors, search, store)
