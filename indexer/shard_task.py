"""One shard: a picklable task, and the function that carries it out anywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa

from clipsearch import __version__
from clipsearch.backends import REFERENCE
from clipsearch.encoder import Encoder, Float32, UInt8, load_encoder
from clipsearch.errors import ImageError, SpaceMismatchError
from clipsearch.generation import cache_folder
from clipsearch.images import DecodedImage
from clipsearch.manifest import ShardRef
from clipsearch.paths import relative_bytes
from clipsearch.remote_urls import is_remote
from clipsearch.shards import IMAGE_SCHEMA, embedding_table, write_shard
from clipsearch.store import open_store
from clipsearch.thumbnails import write_thumbnails
from indexer.compiled_encoder import compiled_for
from indexer.config import IndexConfig
from indexer.containers import sources_of
from indexer.decode import Source, start_workers
from indexer.device_decode import decode_for_plan
from indexer.encode_plan import EncodePlan
from indexer.encode_streams import Batch, EncodeStreams, batches_of
from indexer.file_table import FoundFile
from indexer.sidecars import Sidecars
from indexer.task_watch import UNWATCHED, TaskWatch


@dataclass(frozen=True)
class ShardTask:
    """Some files to encode into one shard.

    index : the index folder, or its URL. number : the shard's number. first_id : id of the
    first file; file i gets ``first_id + i`` when its image can be taken, so that ids depend on
    the order of the files alone and not on how they were cut into shards. copies : by the row of
    a file, further files of the same content; what lies beside one of them tells of the image
    too.
    suffix : of the names of the shard's files, where several may be at it at a time.
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
    plan: EncodePlan
    copies: dict[int, tuple[FoundFile, ...]] = field(default_factory=dict)
    suffix: str = ""

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


def embed_shard(task: ShardTask, watch: TaskWatch = UNWATCHED) -> ShardInfo:
    """Decode, encode and write one shard. ``watch.progress`` hears how many files were done.

    Nothing counts before the manifest names the files written here; a run that is killed
    leaves files that the next one writes again.

    Raises SpaceMismatchError, OutOfMemoryError, the errors of ``load_encoder`` and
    ``decode_in_order``, OSError where the shard cannot be written, and CancelledError once
    ``watch`` says that it is stopped.
    """
    # They get ready while the model loads.
    start_workers(min(task.plan.workers, len(task.files)))
    encoder = load_encoder(task.model, device=task.device, backend=task.plan.backend)
    if encoder.space.fingerprint != task.fingerprint:
        raise SpaceMismatchError(
            f"the shard is for the space {task.space_id}, but {task.model} is {encoder.space.id}"
        )
    encoder = compiled_for(encoder, task.plan)
    images: list[_Taken] = []
    vectors: list[Float32] = []
    skipped: list[SkippedFile] = []
    streams = EncodeStreams(
        encoder,
        task.plan,
        is_stopped=watch.is_stopped,
        when_encoded=watch.progress,
        clock=watch.clock,
    )
    geometry, batch_size = encoder.space.geometry, task.plan.batch_for(len(task.files))

    def batches() -> Generator[Batch[_Taken], None, None]:
        decoded = _decoded(task, encoder, skipped, watch, streams.is_over)
        with contextlib.closing(decoded):
            yield from batches_of(decoded, geometry, batch_size)
        watch.when_read()

    with (
        contextlib.closing(batches()) as made,
        contextlib.closing(streams.encode(made)) as encoded,
    ):
        for items, rows in encoded:
            is_finite = np.isfinite(rows)
            vectors.append(rows[is_finite.all(axis=1)])
            for item, numbers in zip(items, is_finite, strict=True):
                if numbers.all():
                    images.append(item)
                else:
                    skipped.append(SkippedFile(item[0], "unsupported", _without_vector(task)))
    if watch.is_stopped():
        raise CancelledError
    if not images:
        return ShardInfo(task, None, None, (), tuple(skipped))
    with watch.clock.busy("write"):
        return _write(task, encoder, images, np.concatenate(vectors), tuple(skipped))


def _without_vector(task: ShardTask) -> str:
    """Of an image whose vector is not finite: half precision overflows on some."""
    told = f"{task.plan.backend} gives no vector of it"
    if task.plan.backend == REFERENCE:
        return told
    return f"{told}: index with --backend {REFERENCE}, then 'clipsearch failures --retry'"


_Taken = tuple[FoundFile, int, DecodedImage]
"""A file, the id of its image, and the image without its pixels."""


def _decoded(
    task: ShardTask,
    encoder: Encoder,
    skipped: list[SkippedFile],
    watch: TaskWatch,
    is_stopped: Callable[[], bool],
) -> Generator[tuple[_Taken, UInt8], None, None]:
    """The images that can be taken with their pixels, in order; the others go to ``skipped``."""
    sidecars = Sidecars()
    decoded = decode_for_plan(
        task.sources(),
        encoder,
        task.config,
        task.plan,
        thumbnail_side=task.config.thumbnail_side,
        is_stopped=is_stopped,
        clock=watch.clock,
    )
    with contextlib.closing(decoded):
        for position, (found, image) in enumerate(zip(task.files, decoded, strict=True)):
            if not isinstance(image, ImageError) and image.size != found.size:
                # Another content than the plan compared, which the index may hold under
                # another id.
                image = ImageError(
                    "unreadable", "the file changed while the run went on: run again"
                )
            if isinstance(image, ImageError):
                skipped.append(SkippedFile(found, image.reason, str(image)))
                watch.progress(1)
                continue
            pixels = image.pixels
            image = _completed(image, found, task, sidecars)
            yield (found, task.first_id + position, image), pixels


_NO_PIXELS = np.empty((0, 0, 3), np.uint8)


def _completed(
    image: DecodedImage, found: FoundFile, task: ShardTask, sidecars: Sidecars
) -> DecodedImage:
    """The image without its pixels, with what is known of it from beside it and from its name."""
    metadata = image.metadata
    for place in (found, *task.copies.get(found.row, ())):
        below = relative_bytes(place.path)
        if place.container or is_remote(task.roots[place.root]):
            metadata = sidecars.complete_by_name(metadata, below)
        else:
            path = os.path.join(task.roots[place.root], below)
            metadata = sidecars.complete(metadata, path)
    return dataclasses.replace(image, pixels=_NO_PIXELS, metadata=metadata)


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


def encoding_recipe(
    encoder: Encoder, config: IndexConfig, plan: EncodePlan, has_raw: bool
) -> dict[str, Any]:
    """How the vectors of a shard came about: the encoder's recipe, and the decoder's."""
    decoders = ("pillow", "pillow_heif", *(["rawpy"] if has_raw else []))
    packages = {name: version(name) for name in decoders}
    return {
        **encoder.recipe,
        "versions": {**encoder.recipe["versions"], **packages, "clipsearch": __version__},
        "decode": "device" if "device" in (plan.resize, plan.jpeg) else config.decode,
        "batch_size": plan.batch_size,
    }


def _write(
    task: ShardTask,
    encoder: Encoder,
    images: list[_Taken],
    vectors: Float32,
    skipped: tuple[SkippedFile, ...],
) -> ShardInfo:
    store = open_store(task.index)
    ids = [image_id for _, image_id, _ in images]
    has_raw = any(image.metadata.format == "RAW" for _, _, image in images)
    stem = f"{task.number:05d}-{task.suffix}" if task.suffix else f"{task.number:05d}"
    image_name = store.unused(f"images/{stem}.parquet")
    embedding_name = store.unused(f"embeddings/{task.space_id}/{stem}.parquet")
    thumbnails = [image.thumbnail or b"" for _, _, image in images]
    write_thumbnails(cache_folder(store.root), image_name, task.index_uuid, ids, thumbnails)
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
        recipe=encoding_recipe(encoder, task.config, task.plan, has_raw),
    )
    return ShardInfo(
        task,
        image_ref,
        embedding_ref,
        tuple((found, image_id, image.sha256) for found, image_id, image in images),
        skipped,
    )
