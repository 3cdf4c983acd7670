"""What decoding and encoding take on this machine, from a few images of the run."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from clipsearch.encoder import Encoder, UInt8
from clipsearch.errors import ImageError
from indexer.config import IndexConfig
from indexer.containers import sources_of
from indexer.decode_messages import Source
from indexer.device_decode import AT_A_TIME, decode_for
from indexer.encode_plan import EncodePlan
from indexer.look import Look
from indexer.tuning import free_device_memory, is_memory_error, repeated, seconds_per_image

_SECONDS = 3.0
_DECODE_SECONDS = 1.5  # of these


class Probe:
    """Decodes up to ``images`` of the run and encodes them, in about three seconds at most: where
    an image takes long there are fewer of them, but at least one for each worker and stream.

    pixels : (n, height, width, 3) uint8, those that could be decoded. plan : as it was given, with
    a batch size that the memory suffices for. decoding, encoding : seconds an image takes with all
    workers or all streams at it and the other stage at rest. encoding is of one device, where
    there are several.
    """

    def __init__(
        self,
        encoder: Encoder,
        seen: Look,
        config: IndexConfig,
        plan: EncodePlan,
        images: int,
    ) -> None:
        self.plan = plan
        self._on_cpu = encoder.recipe["device"] == "cpu"
        self._end = time.perf_counter() + _SECONDS
        geometry = encoder.space.geometry
        blank = np.zeros((1, geometry.height, geometry.width, 3), np.uint8)
        with ThreadPoolExecutor(1, thread_name_prefix="probe") as pool:
            # The first call sets things up, while the first images do so in the decoders.
            set_up = pool.submit(
                seconds_per_image, encoder, blank, dataclasses.replace(plan, streams=1)
            )
            decoded, self.decoding = _decode(encoder, seen, config, plan, images, set_up)
        self.pixels: UInt8 = np.stack(decoded) if decoded else blank[:0]
        self.encoding = self._encode(encoder) if decoded else 0.0

    def each(self, devices: int = 1) -> float:
        """Seconds of the run for each image: on a CPU both stages take turns on the same
        processors; beside GPUs, so many of them, the slower one counts."""
        if self._on_cpu:
            return self.decoding + self.encoding
        return max(self.decoding, self.encoding / devices)

    def _encode(self, encoder: Encoder) -> float:
        """Seconds an image takes: from one a stream, and from as many as the time allows."""
        each = seconds_per_image(encoder, self.pixels[:1], self.plan)
        left = self._end - time.perf_counter()
        count = min(int(left / (each * self.plan.streams)), self.plan.batch_size)
        if count <= 1:
            return each
        while True:
            plan = dataclasses.replace(self.plan, batch_size=min(count, self.plan.batch_size))
            try:
                return seconds_per_image(encoder, repeated(self.pixels, count), plan)
            except Exception as error:
                if not is_memory_error(error):
                    raise
                free_device_memory()
                if count == 1:
                    return each
                count //= 2
                self.plan = dataclasses.replace(self.plan, batch_size=count)


def _decode(
    encoder: Encoder,
    seen: Look,
    config: IndexConfig,
    plan: EncodePlan,
    images: int,
    set_up: Future[float],
) -> tuple[list[UInt8], float]:
    """Some images, spread over the run, and the seconds that one took once ``set_up`` is done."""
    rows = seen.plan.encode
    is_on_host = plan.resize == plan.jpeg == "host"
    # What is ahead when the first one comes is not timed: it sets things up. A device takes its
    # part of many images at once.
    look_ahead = plan.workers if is_on_host else AT_A_TIME + 2 * plan.workers
    images = max(images, 3 * look_ahead)
    chosen = rows[:: max(1, len(rows) // images)][:images]
    files = seen.scan.images.files(chosen)
    # At hand beforehand: to find a row of a Parquet file takes time that no shard takes.
    sources = list(sources_of(files, {root.id: root.path for root in seen.manifest.roots}))
    untimed = min(look_ahead, len(sources) // 2)
    end = math.inf

    def until_the_end() -> Iterator[Source]:
        # What is begun by then is waited for: to break it off would cost a decoder.
        for number, source in enumerate(sources):
            if number > untimed and time.perf_counter() > end:
                return
            yield source

    decoded = decode_for(
        until_the_end(),
        encoder.space.geometry,
        device=str(encoder.recipe["device"]).split()[0],
        resize=plan.resize,
        jpeg=plan.jpeg,
        decode=config.decode,
        max_megapixels=config.max_megapixels,
        thumbnail_side=config.thumbnail_side,
        threads=plan.workers,
        look_ahead=look_ahead,
        seconds=config.decode_seconds,
    )
    pixels: list[UInt8] = []
    count, begin = 0, 0.0
    for image in decoded:
        if not count:
            # All that may be ahead by now is decoded while the encoder sets itself up; what is
            # decoded from here on has the processors to itself.
            set_up.result()
            begin = time.perf_counter()
            end = begin + _DECODE_SECONDS
        count += 1
        if not isinstance(image, ImageError):
            pixels.append(image.pixels)
    return pixels, (time.perf_counter() - begin) / max(count - untimed, 1)
