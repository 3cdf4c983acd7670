"""What an import has taken since its last commit, and the shard that is made of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from clipsearch import __version__
from clipsearch.encoder import Float32
from clipsearch.generation import cache_folder
from clipsearch.paths import MISSING, PRESENT
from clipsearch.photo_metadata import PhotoMetadata
from clipsearch.shards import IMAGE_SCHEMA, embedding_table, write_shard
from clipsearch.thumbnails import write_thumbnails
from clipsearch.vectors import VectorCache
from indexer.commit import Committer
from indexer.import_places import PlacedImage, columns_of
from indexer.import_source import ImportSource
from indexer.path_changes import PathChanges

_STAND_IN = b"clipsearch import\0"


def stand_in_sha256(path: bytes, vector: Float32) -> bytes:
    """32 bytes in place of the sha256 of a file that is not there: the sha256 of
    ``b"clipsearch import\\0"``, its absolute path, a NUL and the vector as little-endian
    fp16. No image file begins with these words, so no image file has this hash."""
    return hashlib.sha256(_STAND_IN + path + b"\0" + vector.astype("<f2").tobytes()).digest()


def import_recipe(source: ImportSource) -> dict[str, Any]:
    """How imported vectors came about, as far as that is known. Only imported shards have
    the key "imported": they are never merged with others, nor can they be made again."""
    packages = {name: version(name) for name in ("pillow", "pillow_heif")}
    return {
        "imported": source.kind,
        "software": "unknown",
        "device": "unknown",
        "precision": source.dtype,
        "versions": {**packages, "clipsearch": __version__},
    }


@dataclass(frozen=True, slots=True)
class NewImage:
    """A row for the tables of images. metadata, thumbnail : None when there was no file."""

    id: int
    sha256: bytes
    size: int
    vector: Float32
    metadata: PhotoMetadata | None = None
    thumbnail: bytes | None = None


class PendingImport:
    """Images and places that wait for a commit."""

    def __init__(self, committer: Committer, space_id: str, recipe: dict[str, Any]) -> None:
        self._committer = committer
        self._space_id = space_id
        self._recipe = recipe
        self.images: list[NewImage] = []
        self.places: list[PlacedImage] = []

    def commit(self) -> None:
        """Write the shard, make it and the places part of the index, and begin anew."""
        if not self.places:
            return
        paths = PathChanges(self._committer.now)
        for state in (PRESENT, MISSING):
            rows = [place for place in self.places if place.is_there == (state == PRESENT)]
            files, ids, before, first_seen = columns_of(rows)
            paths.note(files, ids, state, before, first_seen)
        self._committer.commit(paths, **(self._write_shard() if self.images else {}))
        cache = cache_folder(self._committer.index)
        VectorCache(cache, self._committer.manifest, self._space_id).update(self._committer.store)
        self.images, self.places = [], []

    def _write_shard(self) -> dict[str, Any]:
        """Write the files of one shard; what that changes in the manifest."""
        store, manifest = self._committer.store, self._committer.manifest
        number = manifest.next_shard
        image_name = store.unused(f"images/{number:05d}.parquet")
        embedding_name = store.unused(f"embeddings/{self._space_id}/{number:05d}.parquet")
        ids = np.array([image.id for image in self.images], np.int64)
        pictures = [image.thumbnail or b"" for image in self.images]  # a place for each
        cache = cache_folder(self._committer.index)
        write_thumbnails(cache, image_name, manifest.uuid, ids.tolist(), pictures)
        image_ref = write_shard(
            store, image_name, _image_table(self.images), kind="images", index_uuid=manifest.uuid
        )
        embedding_ref = write_shard(
            store,
            embedding_name,
            embedding_table(ids, np.stack([image.vector for image in self.images])),
            kind="embeddings",
            index_uuid=manifest.uuid,
            recipe=self._recipe,
        )
        of_space = manifest.embeddings.get(self._space_id, ())
        return {
            "next_id": int(ids[-1]) + 1,
            "next_shard": number + 1,
            "images": (*manifest.images, image_ref),
            "embeddings": {**manifest.embeddings, self._space_id: (*of_space, embedding_ref)},
        }


def _image_table(images: Sequence[NewImage]) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in IMAGE_SCHEMA.names}
    for image in images:
        metadata = image.metadata
        values: dict[str, object] = {
            "id": image.id,
            "sha256": image.sha256,
            "bytes": image.size,
            "exif": None if metadata is None else list(metadata.exif.items()),
            "keywords": None if metadata is None else list(metadata.keywords),
        }
        for name, column in columns.items():
            value = values[name] if name in values else getattr(metadata, name, None)
            column.append(value)
    return pa.table(columns, schema=IMAGE_SCHEMA)
