"""The embedding spaces of an index: which one is meant, and what each of them holds.

Beside the space that answers by default an index may hold others, each with a vector for the
same images under the same ids, so that a better model can be tried and moved to while the old
one answers. Vectors of two spaces never meet: a question is answered in one of them.

An embedding shard belongs to the image shard of the same number. That of a space that came later
may lack images, whose files could not be read when it was made; once they can, another
takes its place, named after the generation that it came with: ``00012-0000047.parquet``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np

from clipsearch.encoder import Space
from clipsearch.errors import IndexFormatError, OptionError, UnknownModelError
from clipsearch.manifest import Manifest, ShardRef
from clipsearch.model_names import resolve_model_name
from clipsearch.records import SpaceStatus
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, embedding_schema, read_tables
from clipsearch.store import Store

_SHORTEST = 4  # characters of an id or fingerprint


def shard_number(name: str) -> str:
    """What an image shard shares with its embeddings: "00012" of ``images/00012.parquet`` and
    of ``embeddings/<space>/00012-0000047.parquet``."""
    return PurePosixPath(name).stem.partition("-")[0]


def space_named(manifest: Manifest, name: str | None, place: str) -> Space:
    """The space that ``name`` means: a model's name, or the id or fingerprint of a space, or
    the beginning of either that no other has; None is the default one.

    place : the index as the user named it, for messages. Raises OptionError when the index has
    no such space, IndexFormatError when it is damaged.
    """
    if name is None:
        if manifest.default_space is None:
            raise IndexFormatError(
                f"the index at {place} holds no images yet: add some with "
                f"'clipsearch index FOLDER --index {place}'"
            )
        if manifest.default_space not in manifest.spaces:
            raise IndexFormatError(f"the index at {place} names a space that it does not hold")
        return manifest.spaces[manifest.default_space]
    wanted = name.strip()
    spaces = list(manifest.spaces.values())
    whole = [space for space in spaces if wanted in (space.id, space.fingerprint, space.model)]
    if not whole:
        whole = [space for space in spaces if space.model == _canonical(wanted)]
    if not whole and len(wanted) >= _SHORTEST:
        whole = [
            space for space in spaces
            if space.id.startswith(wanted) or space.fingerprint.startswith(wanted)
        ]  # fmt: skip
    if len(whole) == 1:
        return whole[0]
    if len(whole) > 1:
        there = ", ".join(space.id for space in whole)
        raise OptionError(f"{name!r} may mean several spaces of the index: expected one of {there}")
    there = ", ".join(space.model for space in spaces) or "none"
    raise OptionError(
        f"the index at {place} has no vectors of {name!r}, it has those of {there}: "
        "'clipsearch model add MODEL' adds those of another model"
    )


def _canonical(name: str) -> str | None:
    try:
        return resolve_model_name(name)
    except (UnknownModelError, OSError, ValueError):
        return None


def lacking_ids(
    store: Store, manifest: Manifest, space_id: str, deleted: Int64
) -> dict[str, Int64]:
    """By the number of an image shard, the (m,) rising ids of the images that count and have no
    vector in the space; only of shards that lack some.

    deleted : (d,) int64 rising, the tombstones. Reads nothing of shards that are complete.
    Raises IndexFormatError, IndexReadError.
    """
    of_number = {shard_number(ref.name): ref for ref in manifest.embeddings.get(space_id, ())}
    lacking: dict[str, Int64] = {}
    for images in manifest.images:
        number = shard_number(images.name)
        vectors = of_number.get(number)
        if vectors is not None and vectors.rows == images.rows:
            continue
        wanted = np.setdiff1d(_ids(store, images), deleted, assume_unique=True)
        if vectors is not None:
            dim = manifest.spaces[space_id].dim
            table = read_tables(store, [vectors], embedding_schema(dim), ["id"])
            wanted = np.setdiff1d(wanted, as_numpy(table.column("id")), assume_unique=True)
        if len(wanted):
            lacking[number] = np.sort(wanted)
    return lacking


def _ids(store: Store, images: ShardRef) -> Int64:
    ids: Int64 = as_numpy(read_tables(store, [images], IMAGE_SCHEMA, ["id"]).column("id"))
    return ids


def space_statuses(store: Store, manifest: Manifest, deleted: Int64) -> tuple[SpaceStatus, ...]:
    """What every space of the index holds, the default one first. Raises as ``lacking_ids``."""
    images = sum(ref.rows for ref in manifest.images)
    found = []
    for space in _default_first(manifest):
        lacking = lacking_ids(store, manifest, space.id, deleted)
        missing = sum(map(len, lacking.values()))
        found.append(
            SpaceStatus(
                model=space.model,
                space=space.id,
                dim=space.dim,
                is_default=space.id == manifest.default_space,
                vectors=images - len(deleted) - missing,
                lacking=missing,
            )
        )
    return tuple(found)


def _default_first(manifest: Manifest) -> Iterable[Space]:
    return sorted(manifest.spaces.values(), key=lambda space: space.id != manifest.default_space)
