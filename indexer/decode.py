"""Read and decode photos in threads, in order, a bounded number ahead of the encoder."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from clipsearch.encoder import ImageGeometry
from clipsearch.errors import ImageError
from clipsearch.images import DecodedImage, read_image


def default_threads() -> int:
    """Threads that keep an encoder fed without starving it."""
    return max(2, min(16, os.cpu_count() or 2))


def decode_in_order(
    paths: Sequence[str],
    geometry: ImageGeometry,
    *,
    decode: str,
    max_megapixels: float,
    thumbnail_side: int | None,
    threads: int,
    look_ahead: int,
) -> Iterator[DecodedImage | ImageError]:
    """Yield each path's image, or why it cannot be taken, in the order of ``paths``.

    At most ``look_ahead`` decoded images wait in memory.
    """

    def read(path: str) -> DecodedImage | ImageError:
        try:
            return read_image(
                path,
                geometry,
                decode=decode,
                max_megapixels=max_megapixels,
                thumbnail_side=thumbnail_side,
            )
        except ImageError as error:
            return error

    waiting: deque[Future[DecodedImage | ImageError]] = deque()
    remaining = iter(paths)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for path in remaining:
            waiting.append(pool.submit(read, path))
            if len(waiting) >= look_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
