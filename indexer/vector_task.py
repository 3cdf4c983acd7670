"""Images that the index knows, encoded with one more model: a picklable task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.encoder import Encoder, Float32, load_encoder
from clipsearch.errors import ImageError, SpaceMismatchError
from clipsearch.images import DecodedImage
from clipsearch.shards import Int64
from indexer.config import IndexConfig
from indexer.containers import sources_of
from indexer.decode import decode_in_order, start_workers
from indexer.file_table import FoundFile
from indexer.shard_task import encoding_recipe


@dataclass(frozen=True)
class KnownImage:
    """An image of the index: its id, the sha256 of its content, and the files that hold it, at
    least one."""

    id: int
    sha256: bytes
    files: tuple[FoundFile, ...]


@dataclass(frozen=True)
class VectorTask:
    """Some images of the image shard ``number`` to encode with ``model``, in order of id.

    roots : path by id. fingerprint, space_id : of the space that the vectors are to be of.
    """

    number: str
    images: tuple[KnownImage, ...]
    roots: dict[int, str]
    model: str
    device: str | None
    fingerprint: str
    space_id: str
    config: IndexConfig


@dataclass(frozen=True)
class TaskVectors:
    """What became of a task. ids : (n,) rising, of the images whose files still hold what they
    held. vectors : (n, dim) float32 unit rows. recipe : how they were computed."""

    task: VectorTask
    ids: Int64
    vectors: Float32
    recipe: dict[str, Any]


def embed_vectors(task: VectorTask, progress: Callable[[int], None] | None = None) -> TaskVectors:
    """Decode and encode the images of one task; nothing is written.

    A file that is gone, cannot be read or holds another content by now is passed over for the
    next one of the same image. ``progress`` hears how many images were done.
    """
    start_workers(min(task.config.threads, len(task.images)))
    encoder = load_encoder(task.model, device=task.device)
    if encoder.space.fingerprint != task.fingerprint:
        raise SpaceMismatchError(
            f"the vectors are for the space {task.space_id}, but {task.model} is {encoder.space.id}"
        )
    hear = progress or (lambda count: None)
    ids: list[int] = []
    rows: list[Float32] = [np.empty((0, encoder.space.dim), np.float32)]
    has_raw = False
    for batch in _batches(task, encoder, hear):
        rows.append(encoder.encode_images(np.stack([image.pixels for _, image in batch])))
        ids += [image_id for image_id, _ in batch]
        has_raw |= any(image.metadata.format == "RAW" for _, image in batch)
        hear(len(batch))
    encoded = np.array(ids, np.int64)
    order = np.argsort(encoded)
    recipe = encoding_recipe(encoder, task.config, has_raw)
    return TaskVectors(task, encoded[order], np.concatenate(rows)[order], recipe)


def _batches(
    task: VectorTask, encoder: Encoder, hear: Callable[[int], None]
) -> Iterator[list[tuple[int, DecodedImage]]]:
    """Each image whose content a file still holds, with its id, a batch at a time."""
    batch: list[tuple[int, DecodedImage]] = []
    for image_id, image in _decoded(task, encoder, hear):
        batch.append((image_id, image))
        if len(batch) == task.config.batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _decoded(
    task: VectorTask, encoder: Encoder, hear: Callable[[int], None]
) -> Iterator[tuple[int, DecodedImage]]:
    config = task.config
    waiting, place = list(task.images), 0
    while waiting:
        further: list[KnownImage] = []  # those whose next file is to be tried
        decoded = decode_in_order(
            sources_of([known.files[place] for known in waiting], task.roots),
            encoder.space.geometry,
            decode=config.decode,
            max_megapixels=config.max_megapixels,
            thumbnail_side=None,
            threads=config.threads,
            look_ahead=config.batch_size + 2 * config.threads,
            seconds=config.decode_seconds,
        )
        place += 1
        for known, image in zip(waiting, decoded, strict=True):
            if not isinstance(image, ImageError) and image.sha256 == known.sha256:
                yield known.id, image
            elif len(known.files) > place:
                further.append(known)
            else:
                hear(1)
        waiting = further
