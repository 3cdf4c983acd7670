"""One shard: a picklable task, and the function that carries it out anywhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipsearch import __version__
from clipsearch.encoder import Encoder, load_encoder
from clipsearch.errors import ImageError, SpaceMismatchError
from clipsearch.generation import cache_folder
from clipsearch.images import DecodedImage
from clipsearch.manifest import ShardRef
from clipsearch.paths import relative_bytes
from clipsearch.shards import IMAGE_SCHEMA, embedding_table, write_shard
from clipsearch.store import LocalStore
from clipsearch.thumbnails import write_thumbnails
from indexer.config import IndexConfig
from indexer.containers import sources_of
from indexer.decode import Source, decode_in_order, start_workers
from indexer.file_table import FoundFile
from indexer.sidecars import Sidecars


@dataclass(frozen=True)
class ShardTask:
    """Some files to encode into one shard.

    index : the index folder. number : the shard's number. first_id : id of the first file;
    file i gets ``first_id + i`` when its image can be taken, so that ids depend on the order
    of the files alone and not on how they were cut into shards. copies : by the row of a file,
    further files of the same content; what lies beside one of them tells of the image too.
    """

    index: str
    index_uuid: str
    number: int
    first_id: int
    files: tuple[FoundFile, ...]
    roots: dict[int, str]
    model: str
    device: str | None
    fingerprint: str
    space_id: str
    config: IndexConfig
    copies: dict[int, tuple[FoundFile, ...]] = field(default_factory=dict)

    def sources(self) -> Iterator[Source]:
        """Where the bytes of each file are, in order."""
        return sources_of(self.files, self.roots)


@dataclass(frozen=True)
class SkippedFile:
    """An image that could not be taken; see ``errors.ImageError`` for the reasons."""

    file: FoundFile
    reason: str
    message: str


@dataclass(frozen=True)
class ShardInfo:
    """What became of a task: the shards it wrote (None when no image could be taken), and
    for every file either its id and content hash or why it was skipped."""

    task: ShardTask
    images: ShardRef | None
    embeddings: ShardRef | None
    indexed: tuple[tuple[FoundFile, int, bytes], ...] = ()
    skipped: tuple[SkippedFile, ...] = field(default=())


def embed_shard(task: ShardTask, progress: Callable[[int], None] | None = None) -> ShardInfo:
    """Decode, encode and write one shard. ``progress`` hears how many files were done.

    Nothing counts before the manifest names the files written here; a run that is killed
    leaves files that the next one writes again.
    """
    # They get ready while the model loads.
    start_workers(min(task.config.threads, len(task.files)))
    encoder = load_encoder(task.model, device=task.device)
    if encoder.space.fingerprint != task.fingerprint:
        raise SpaceMismatchError(
            f"the shard is for the space {task.space_id}, but {task.model} is {encoder.space.id}"
        )
    images: list[tuple[FoundFile, int, DecodedImage]] = []
    vectors: list[np.ndarray] = []
    thumbnails: list[bytes] = []
    skipped: list[SkippedFile] = []
    for batch in _decoded_batches(task, encoder, skipped, progress):
        vectors.append(encoder.encode_images(np.stack([image.pixels for _, _, image in batch])))
        for found, image_id, image in batch:
            thumbnails.append(image.thumbnail or b"")
            images.append((found, image_id, _without_pixels(image)))
        if progress is not None:
            progress(len(batch))
    if not images:
        return ShardInfo(task, None, None, (), tuple(skipped))
    return _write(task, encoder, images, np.concatenate(vectors), thumbnails, tuple(skipped))


def _without_pixels(image: DecodedImage) -> DecodedImage:
    nothing = np.empty((0, 0, 3), np.uint8)
    return DecodedImage(nothing, image.sha256, image.size, None, image.metadata)


def _decoded_batches(
    task: ShardTask,
    encoder: Encoder,
    skipped: list[SkippedFile],
    progress: Callable[[int], None] | None,
) -> Iterator[list[tuple[FoundFile, int, DecodedImage]]]:
    config = task.config
    threads = config.threads
    sidecars = Sidecars()
    decoded = decode_in_order(
        task.sources(),
        encoder.space.geometry,
        decode=config.decode,
        max_megapixels=config.max_megapixels,
        thumbnail_side=config.thumbnail_side,
        threads=threads,
        look_ahead=config.batch_size + 2 * threads,
        seconds=config.decode_seconds,
    )
    batch: list[tuple[FoundFile, int, DecodedImage]] = []
    for position, (found, image) in enumerate(zip(task.files, decoded, strict=True)):
        if not isinstance(image, ImageError) and image.size != found.size:
            # Another content than the plan compared, which the index may hold under another id.
            image = ImageError("unreadable", "the file changed while the run went on: run again")
        if isinstance(image, ImageError):
            skipped.append(SkippedFile(found, image.reason, str(image)))
            if progress is not None:
                progress(1)
            continue
        image = _completed(image, found, task, sidecars)
        batch.append((found, task.first_id + position, image))
        if len(batch) == config.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _completed(
    image: DecodedImage, found: FoundFile, task: ShardTask, sidecars: Sidecars
) -> DecodedImage:
    """The image, with what is known of it from beside it and from its name."""
    metadata = image.metadata
    for place in (found, *task.copies.get(found.row, ())):
        below = relative_bytes(place.path)
        if place.container:
            metadata = sidecars.complete_by_name(metadata, below)
        else:
            path = os.path.join(task.roots[place.root], below)
            metadata = sidecars.complete(metadata, path)
    return dataclasses.replace(image, metadata=metadata)


def image_table(rows: list[tuple[int, DecodedImage]]) -> pa.Table:
    """The table of ``images/``: a row per (id, image)."""
    columns: dict[str, list[object]] = {name: [] for name in IMAGE_SCHEMA.names}
    for image_id, image in rows:
        metadata = image.metadata
        values = {
            "id": image_id,
            "sha256": image.sha256,
            "bytes": image.size,
            "exif": list(metadata.exif.items()),
            "keywords": list(metadata.keywords),
        }
        for name, column in columns.items():
            column.append(values[name] if name in values else getattr(metadata, name))
    return pa.table(columns, schema=IMAGE_SCHEMA)


def encoding_recipe(encoder: Encoder, config: IndexConfig, has_raw: bool) -> dict[str, Any]:
    """How the vectors of a shard came about: the encoder's recipe, and the decoder's."""
    decoders = ("pillow", "pillow_heif", *(["rawpy"] if has_raw else []))
    packages = {name: version(name) for name in decoders}
    return {
        **encoder.recipe,
        "versions": {**encoder.recipe["versions"], **packages, "clipsearch": __version__},
        "decode": config.decode,
        "batch_size": config.batch_size,
    }


def _write(
    task: ShardTask,
    encoder: Encoder,
    images: list[tuple[FoundFile, int, DecodedImage]],
    vectors: np.ndarray,
    thumbnails: list[bytes],
    skipped: tuple[SkippedFile, ...],
) -> ShardInfo:
    store = LocalStore(Path(task.index))
    ids = [image_id for _, image_id, _ in images]
    has_raw = any(image.metadata.format == "RAW" for _, _, image in images)
    image_name = f"images/{task.number:05d}.parquet"
    embedding_name = f"embeddings/{task.space_id}/{task.number:05d}.parquet"
    for name in (image_name, embedding_name):
        store.delete(name)  # left by a run that was killed before the manifest named it
    write_thumbnails(cache_folder(Path(task.index)), image_name, task.index_uuid, ids, thumbnails)
    image_ref = write_shard(
        store,
        image_name,
        image_table([(image_id, image) for _, image_id, image in images]),
        kind="images",
        index_uuid=task.index_uuid,
    )
    embedding_ref = write_shard(
        store,
        embedding_name,
        embedding_table(np.array(ids, np.int64), vectors),
        kind="embeddings",
        index_uuid=task.index_uuid,
        recipe=encoding_recipe(encoder, task.config, has_raw),
    )
    return ShardInfo(
        task,
        image_ref,
        embedding_ref,
        tuple((found, image_id, image.sha256) for found, image_id, image in images),
        skipped,
    )
