"""An index of tens of thousands of images, of one that holds a few: photos with some noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from clipsearch.generation import cache_folder, open_generation
from clipsearch.manifest import read_manifest, write_manifest
from clipsearch.shards import DELETED_SCHEMA, Int64, embedding_table, write_shard, write_table
from clipsearch.store import LocalStore
from clipsearch.vectors import VectorCache


def grow(index: Path, *counts: int, seed: int = 0, noise: float = 0.6) -> None:
    """Add shards of so many images, near to the first ones; ids leave gaps. They have vectors, and
    neither paths nor metadata."""
    store = LocalStore(index)
    first = open_generation(index).vectors.take_half(np.arange(9))[1].astype(np.float32)
    chance = np.random.default_rng(seed)
    for count in counts:
        manifest = read_manifest(store, str(index))
        space = manifest.default_space
        assert space is not None
        ids: Int64 = manifest.next_id + np.cumsum(chance.integers(1, 3, count))
        rows = first[chance.integers(0, len(first), count)]
        rows += noise / np.sqrt(rows.shape[1]) * chance.standard_normal(rows.shape, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        shard = write_shard(
            store, f"embeddings/{space}/grown-{manifest.next_shard:06d}.parquet",
            embedding_table(ids, rows), kind="embeddings", index_uuid=manifest.uuid,
        )  # fmt: skip
        shards = (*manifest.embeddings[space], shard)
        write_manifest(
            store,
            dataclasses.replace(
                manifest, generation=manifest.generation + 1, next_id=int(ids[-1]) + 1,
                next_shard=manifest.next_shard + 1, embeddings={space: shards},
            ),
        )  # fmt: skip


def make_matrix(index: Path) -> None:
    """Let the mapped matrix cover all that is there."""
    store = LocalStore(index)
    manifest = read_manifest(store, str(index))
    assert manifest.default_space is not None
    VectorCache(cache_folder(index), manifest, manifest.default_space).update(store)


def forget(index: Path, ids: Int64) -> None:
    """Let images no longer count."""
    import pyarrow as pa

    store = LocalStore(index)
    manifest = read_manifest(store, str(index))
    name = f"deleted/{manifest.generation:06d}.parquet"
    table = pa.table([pa.array(ids, pa.int64())], schema=DELETED_SCHEMA)
    ref = write_table(store, name, table, kind="deleted", index_uuid=manifest.uuid)
    write_manifest(
        store, dataclasses.replace(manifest, generation=manifest.generation + 1, deleted=ref)
    )
