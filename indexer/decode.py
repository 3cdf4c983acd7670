"""Read and decode photos in other processes, in order, a bounded number ahead of the encoder."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from clipsearch.encoder import ImageGeometry
from clipsearch.errors import ImageError
from clipsearch.images import DecodedImage
from indexer.decode_messages import DecodeOptions, FilePart, Source
from indexer.decode_pool import DecodeSession, close_workers, start_workers

__all__ = [
    "FilePart",
    "Source",
    "close_workers",
    "decode_in_order",
    "start_workers",
]

_PATIENCE_SECONDS = 1.0


def decode_in_order(
    sources: Iterable[Source],
    geometry: ImageGeometry,
    *,
    decode: str,
    max_megapixels: float,
    thumbnail_side: int | None,
    threads: int,
    look_ahead: int,
    seconds: float = 60.0,
) -> Generator[DecodedImage | ImageError, None, None]:
    """Yield each source's image, or why it cannot be taken, in the order of ``sources``.

    threads : images decoded at a time, each in a process of its own, so that a decoder that
        crashes or hangs costs the one image.
    look_ahead : at most so many images wait decoded in memory; ``sources`` is not asked for
        more than that ahead either.
    seconds : the time one image may take; the rest as in ``read_image``.

    Raises OptionError, and ClipsearchError when the decoder processes cannot be started.
    """
    session = DecodeSession(
        DecodeOptions(geometry, decode, max_megapixels, thumbnail_side, seconds)
    )

    def read(source: Source) -> DecodedImage | ImageError:
        try:
            return session.decode(source)
        except ImageError as error:
            return error

    waiting: deque[Future[DecodedImage | ImageError]] = deque()
    # A thread for each process: it waits for the answer while the others wait for theirs.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for source in sources:
            waiting.append(pool.submit(read, source))
            if len(waiting) >= look_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # Whoever stops early, as with Ctrl-C, does not wait for a picture that hangs.
        wait([future for future in waiting if not future.cancelled()], _PATIENCE_SECONDS)
        session.cancel()
        pool.shutdown(wait=True)
