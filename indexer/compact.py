"""Merge small shards and let go of what was deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipsearch.generation import cache_folder
from clipsearch.manifest import Manifest, ShardRef
from clipsearch.shards import (
    IMAGE_SCHEMA,
    Int64,
    as_numpy,
    embedding_schema,
    int_array,
    read_tables,
    write_shard,
)
from clipsearch.spaces import shard_number
from clipsearch.store import LocalStore
from clipsearch.thumbnails import read_thumbnails, write_thumbnails
from indexer.commit import Committer, remove_leftovers
from indexer.writing import writing

_TARGET_ROWS = 16_384
"""Rows of a merged shard. As many images and thumbnails are in memory at a time."""


@dataclass(frozen=True)
class Compacted:
    """What ``compact`` did: shards and bytes before and after, and images let go of for good."""

    shards_before: int
    shards_after: int
    bytes_before: int
    bytes_after: int
    dropped: int


@dataclass(frozen=True)
class _Group:
    """Neighbouring shards that become one: positions in ``Manifest.images``."""

    positions: tuple[int, ...]


def compact(
    index: str | os.PathLike[str], on_progress: Callable[[int, int], None] | None = None
) -> Compacted:
    """Merge neighbouring small shards and drop the rows of deleted images.

    Ids stay what they are and none is given out again; a deleted image that comes back is
    encoded anew. Readers of the generation before keep it until they open the new one.
    on_progress : hears (shards done, shards in all).

    Raises as ``writing`` does.
    """
    with writing(index) as committer:
        store, manifest = committer.store, committer.manifest
        remove_leftovers(store, manifest)
        before = _size(manifest)
        deleted = committer.deleted()
        groups = list(_groups(manifest, deleted, store))
        if groups or len(deleted) or len(manifest.paths) > 1:
            _rewrite(committer, groups, deleted, on_progress)
            committer.bring_up_cache()
            _remove_old_thumbnails(committer)
        remove_leftovers(store, committer.manifest)
        return Compacted(
            len(manifest.images),
            len(committer.manifest.images),
            before,
            _size(committer.manifest),
            len(deleted),
        )


def _size(manifest: Manifest) -> int:
    return sum(ref.bytes for ref in manifest.files())


def _groups(manifest: Manifest, deleted: Int64, store: LocalStore) -> Iterator[_Group]:
    """Runs of neighbours that fit into one shard and were computed in the same way, and single
    shards that hold deleted rows. Shards that stay as they are, are in no group."""
    run: list[int] = []
    rows = 0

    def is_worth_it() -> bool:
        return len(run) > 1 or any(_holds(manifest.images[at], deleted) for at in run)

    for position, shard in enumerate(manifest.images):
        recipes = _recipes(manifest, position)
        if run and (rows + shard.rows > _TARGET_ROWS or recipes != _recipes(manifest, run[-1])):
            if is_worth_it():
                yield _Group(tuple(run))
            run, rows = [], 0
        run.append(position)
        rows += shard.rows
    if run and is_worth_it():
        yield _Group(tuple(run))


def _recipes(manifest: Manifest, position: int) -> list[dict[str, Any] | None]:
    """How the vectors of one shard came about, space by space."""
    number = shard_number(manifest.images[position].name)
    return [
        next((shard.recipe for shard in shards if shard_number(shard.name) == number), None)
        for _, shards in sorted(manifest.embeddings.items())
    ]


def _holds(shard: ShardRef, deleted: Int64) -> bool:
    """Whether a deleted id may be in ``shard``."""
    start, stop = np.searchsorted(deleted, [shard.first_id, shard.last_id + 1])
    return bool(stop > start)


def _rewrite(
    committer: Committer,
    groups: list[_Group],
    deleted: Int64,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    manifest = committer.manifest
    images: dict[int, ShardRef | None] = dict(enumerate(manifest.images))
    embeddings = {
        space: {shard_number(shard.name): shard for shard in shards}
        for space, shards in manifest.embeddings.items()
    }
    next_shard = manifest.next_shard
    for done, group in enumerate(groups):
        old = [manifest.images[position] for position in group.positions]
        number = f"{next_shard:05d}"
        name = f"{number}.parquet"
        next_shard += 1
        for position in group.positions:
            images[position] = None
        images[group.positions[0]] = _merge_images(committer, name, old, deleted)
        for space, by_number in embeddings.items():
            numbers = [shard_number(shard.name) for shard in old]
            shards = [by_number.pop(each) for each in numbers if each in by_number]
            merged = _merge_embeddings(committer, space, name, shards, deleted)
            if merged is not None:
                by_number[number] = merged
        if on_progress is not None:
            on_progress(done + 1, len(groups))
    committer.commit(
        merge=len(manifest.paths) > 1,
        images=tuple(shard for shard in images.values() if shard is not None),
        embeddings={
            space: tuple(sorted(by_number.values(), key=lambda shard: shard.first_id))
            for space, by_number in embeddings.items()
        },
        deleted=None,
        next_shard=next_shard,
    )


def _merge_images(
    committer: Committer, name: str, old: list[ShardRef], deleted: Int64
) -> ShardRef | None:
    """The shard of the live rows of ``old``, with its thumbnails; None when none lives."""
    store, manifest = committer.store, committer.manifest
    table = _live(read_tables(store, old, IMAGE_SCHEMA), deleted)
    if not len(table):
        return None
    cache = cache_folder(committer.index)
    thumbnails: dict[int, bytes] = {}
    for shard in old:
        thumbnails.update(read_thumbnails(cache, shard.name, manifest.uuid))
    ids = as_numpy(table.column("id")).tolist()
    image_name = store.unused(f"images/{name}")
    if thumbnails:
        pictures = [thumbnails.get(image_id, b"") for image_id in ids]
        write_thumbnails(cache, image_name, manifest.uuid, ids, pictures)
    return write_shard(store, image_name, table, kind="images", index_uuid=manifest.uuid)


def _merge_embeddings(
    committer: Committer, space: str, name: str, old: list[ShardRef], deleted: Int64
) -> ShardRef | None:
    store, manifest = committer.store, committer.manifest
    schema = embedding_schema(manifest.spaces[space].dim)
    table = _live(read_tables(store, old, schema), deleted)
    if not len(table):
        return None
    full_name = store.unused(f"embeddings/{space}/{name}")
    return write_shard(
        store,
        full_name,
        table.combine_chunks(),
        kind="embeddings",
        index_uuid=manifest.uuid,
        recipe=old[0].recipe,
    )


def _live(table: pa.Table, deleted: Int64) -> pa.Table:
    live = np.flatnonzero(~np.isin(as_numpy(table.column("id")), deleted))
    return table if len(live) == len(table) else table.take(int_array(live))


def _remove_old_thumbnails(committer: Committer) -> None:
    named = {Path(shard.name).stem for shard in committer.manifest.images}
    for file in (cache_folder(committer.index) / "thumbnails").glob("*.arrow"):
        if file.stem not in named:
            file.unlink(missing_ok=True)
