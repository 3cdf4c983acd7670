"""Images that the index knows, encoded with one more model: a picklable task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.encoder import Encoder, Float32, UInt8, load_encoder
from clipsearch.errors import ImageError, SpaceMismatchError
from clipsearch.shards import Int64
from indexer.compiled_encoder import compiled_for
from indexer.config import IndexConfig
from indexer.containers import sources_of
from indexer.decode import start_workers
from indexer.device_decode import decode_for_plan
from indexer.encode_plan import EncodePlan
from indexer.encode_streams import Batch, EncodeStreams, batches_of
from indexer.file_table import FoundFile
from indexer.shard_task import encoding_recipe
from indexer.task_watch import UNWATCHED, TaskWatch


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
    plan: EncodePlan


@dataclass(frozen=True)
class TaskVectors:
    """What became of a task. ids : (n,) rising, of the images whose files still hold what they
    held. vectors : (n, dim) float32 unit rows. recipe : how they were computed."""

    task: VectorTask
    ids: Int64
    vectors: Float32
    recipe: dict[str, Any]


def embed_vectors(task: VectorTask, watch: TaskWatch = UNWATCHED) -> TaskVectors:
    """Decode and encode the images of one task; nothing is written.

    A file that is gone, cannot be read or holds another content by now is passed over for the
    next one of the same image. ``watch.progress`` hears how many images were done. Raises as
    ``embed_shard`` does.
    """
    start_workers(min(task.plan.workers, len(task.images)))
    encoder = load_encoder(task.model, device=task.device, backend=task.plan.backend)
    if encoder.space.fingerprint != task.fingerprint:
        raise SpaceMismatchError(
            f"the vectors are for the space {task.space_id}, but {task.model} is {encoder.space.id}"
        )
    encoder = compiled_for(encoder, task.plan)
    ids: list[int] = []
    rows: list[Float32] = [np.empty((0, encoder.space.dim), np.float32)]
    has_raw = False
    streams = EncodeStreams(
        encoder,
        task.plan,
        is_stopped=watch.is_stopped,
        when_encoded=watch.progress,
        clock=watch.clock,
    )
    geometry, batch_size = encoder.space.geometry, task.plan.batch_for(len(task.images))

    def batches() -> Generator[Batch[tuple[int, bool]], None, None]:
        decoded = _decoded(task, encoder, watch, streams.is_over)
        with contextlib.closing(decoded):
            yield from batches_of(decoded, geometry, batch_size)
        watch.when_read()

    with (
        contextlib.closing(batches()) as made,
        contextlib.closing(streams.encode(made)) as encoded,
    ):
        for items, vectors in encoded:
            is_finite = np.isfinite(vectors)  # half precision overflows on some images
            rows.append(vectors[is_finite.all(axis=1)])
            sound = zip(items, is_finite, strict=True)
            ids += [image_id for (image_id, _), numbers in sound if numbers.all()]
            has_raw |= any(is_raw for _, is_raw in items)
    if watch.is_stopped():
        raise CancelledError
    taken = np.array(ids, np.int64)
    order = np.argsort(taken)
    recipe = encoding_recipe(encoder, task.config, task.plan, has_raw)
    return TaskVectors(task, taken[order], np.concatenate(rows)[order], recipe)


def _decoded(
    task: VectorTask,
    encoder: Encoder,
    watch: TaskWatch,
    is_stopped: Callable[[], bool],
) -> Generator[tuple[tuple[int, bool], UInt8], None, None]:
    """Each image whose content a file still holds: its id, whether it is a RAW, its pixels."""
    waiting, place = list(task.images), 0
    while waiting:
        further: list[KnownImage] = []  # those whose next file is to be tried
        decoded = decode_for_plan(
            sources_of([known.files[place] for known in waiting], task.roots),
            encoder,
            task.config,
            task.plan,
            thumbnail_side=None,
            is_stopped=is_stopped,
            clock=watch.clock,
        )
        place += 1
        with contextlib.closing(decoded):
            for known, image in zip(waiting, decoded, strict=True):
                if not isinstance(image, ImageError) and image.sha256 == known.sha256:
                    yield (known.id, image.metadata.format == "RAW"), image.pixels
                elif len(known.files) > place:
                    further.append(known)
                else:
                    watch.progress(1)
        waiting = further
