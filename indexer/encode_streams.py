"""Batches of pixels through an encoder, several calls at a time, in order."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from clipsearch.encoder import Encoder, Float32, ImageGeometry, UInt8
from clipsearch.errors import ClipsearchError, OutOfMemoryError
from indexer.encode_plan import EncodePlan
from indexer.stage_clock import StageClock

Item = TypeVar("Item")

_LOOK_SECONDS = 0.1
_AHEAD = 1  # batches that wait while every stream is busy: the next one is there at once


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """pixels : (n, height, width, 3) uint8. items : n things that the rows belong to."""

    pixels: UInt8
    items: Sequence[Item]


def batches_of(
    images: Iterable[tuple[Item, UInt8]], geometry: ImageGeometry, size: int
) -> Iterator[Batch[Item]]:
    """Gather images, each (height, width, 3) uint8, into batches of ``size``; the last has what
    is left. Each image is copied once, as it comes, and is not kept. Raises OutOfMemoryError."""
    pixels, items = _room_for(size, geometry), list[Item]()
    for item, image in images:
        pixels[len(items)] = image
        items.append(item)
        if len(items) == size:
            yield Batch(pixels, items)
            pixels, items = _room_for(size, geometry), []
    if items:
        yield Batch(pixels[: len(items)], items)


def _room_for(size: int, geometry: ImageGeometry) -> UInt8:
    try:
        return np.empty((size, geometry.height, geometry.width, 3), np.uint8)
    except MemoryError as error:
        raise _out_of_memory(size) from error


class EncodeStreams:
    """Encodes batches in order with ``plan.streams`` calls of the encoder at a time.

    However many of these are at work in a process, so many calls at a time are made for them
    all: the last batches of one shard and the first of the next do not crowd the processors.

    is_stopped : asked now and then; once it says yes, CancelledError is raised.
    when_encoded : hears of every batch as it is done, from the thread that encoded it.
    clock : hears how long calls of the encoder take.
    """

    def __init__(
        self,
        encoder: Encoder,
        plan: EncodePlan,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
        when_encoded: Callable[[int], None] = lambda count: None,
        clock: StageClock | None = None,
    ) -> None:
        self._encoder = encoder if plan.threads is None else encoder.with_threads(plan.threads)
        self._streams = plan.streams
        self._calls = _calls(plan.streams)
        self._is_stopped = is_stopped
        self._when_encoded = when_encoded
        self._clock = clock or StageClock()
        self._has_failed = threading.Event()

    def is_over(self) -> bool:
        """True once nobody needs further batches: a call has failed, or the work is stopped.
        For whoever makes the batches, so as not to wait for the next image in vain."""
        return self._has_failed.is_set() or self._is_stopped()

    def encode(
        self, batches: Iterable[Batch[Item]]
    ) -> Generator[tuple[Sequence[Item], Float32], None, None]:
        """Yield the items of each batch with their (n, dim) float32 unit rows, in order.

        At most ``streams`` batches are being encoded, one waits, and one is being made: so many
        batches of pixels are in memory. ``batches`` is asked for more in the calling thread.

        What a call raises is raised here at once, whatever comes before it in order: nothing
        that follows would count. Raises OutOfMemoryError, CancelledError. Calls that are under
        way are waited for in the end, no other begins.
        """
        waiting: deque[tuple[Sequence[Item], Future[Float32]]] = deque()
        pool = ThreadPoolExecutor(self._streams, thread_name_prefix="encode")
        try:
            try:
                for batch in batches:
                    waiting.append((batch.items, pool.submit(self._rows, batch.pixels)))
                    del batch  # and with it the pixels, once they are encoded
                    yield from self._ready(waiting, self._streams + _AHEAD - 1)
            except CancelledError:
                _raise_failed(waiting)  # which is why the batches ended
                raise
            yield from self._ready(waiting, 0)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _ready(
        self, waiting: deque[tuple[Sequence[Item], Future[Float32]]], most: int
    ) -> Iterator[tuple[Sequence[Item], Float32]]:
        """What is done, until at most ``most`` batches wait."""
        while waiting:
            _raise_failed(waiting)
            items, first = waiting[0]
            if first.done():
                waiting.popleft()
                yield items, first.result()
            elif len(waiting) <= most:
                return
            else:
                if self._is_stopped():
                    raise CancelledError
                running = [future for _, future in waiting if not future.done()]
                if most:
                    with self._clock.waiting("decode"):
                        wait(running, _LOOK_SECONDS, FIRST_COMPLETED)
                else:  # there are no more images to wait
                    wait(running, _LOOK_SECONDS, FIRST_COMPLETED)

    def _rows(self, pixels: UInt8) -> Float32:
        try:
            with self._calls:
                if self.is_over():
                    raise CancelledError
                with self._clock.busy("encode"):
                    rows = self._encoder.encode_images(pixels)
            self._clock.images(len(pixels))
            self._when_encoded(len(pixels))
            return rows
        except BaseException as error:
            self._has_failed.set()
            if _is_out_of_memory(error):
                raise _out_of_memory(len(pixels)) from error
            raise


@functools.cache
def _calls(streams: int) -> threading.Semaphore:
    """Held by every call of an encoder: at most ``streams`` at a time in this process."""
    return threading.Semaphore(streams)


def _raise_failed(waiting: Iterable[tuple[object, Future[Float32]]]) -> None:
    errors = [future.exception() for _, future in waiting if future.done()]
    found = [error for error in errors if error is not None]
    # A call that was called off says less than the one on whose account it was.
    for error in sorted(found, key=lambda each: isinstance(each, CancelledError)):
        raise error


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether a back-end had too little memory, which each of them says in its own way."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return not isinstance(error, ClipsearchError)
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said
        for words in (
            "out of memory",
            "can't allocate memory",
            "failed to allocate memory",
            "bad_alloc",
            "bad allocation",
        )
    )


def _out_of_memory(images: int) -> OutOfMemoryError:
    if images > 1:
        cure = f"try again with --batch-size {images // 2}"
    else:
        cure = "choose a smaller model, or another --device"
    return OutOfMemoryError(
        f"too little memory to encode {images} {'images' if images > 1 else 'image'} at a time: "
        f"{cure}"
    )
