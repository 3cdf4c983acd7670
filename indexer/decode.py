"""Read and decode photos in other processes, in order, a bounded number ahead of the encoder."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from clipsearch.encoder import ImageGeometry
from clipsearch.errors import ImageError
from clipsearch.images import DecodedImage, most_bytes_of_file
from indexer.decode_messages import DecodeOptions, FilePart, LocalSource, RemoteImage, Source
from indexer.decode_pool import DecodeSession, close_workers, start_workers
from indexer.stage_clock import StageClock

if TYPE_CHECKING:
    from indexer.read_ahead import Arriving, ReadAhead

__all__ = [
    "FilePart",
    "Source",
    "close_workers",
    "decode_in_order",
    "start_workers",
]

_PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.1


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
    is_stopped: Callable[[], bool] = lambda: False,
    clock: StageClock | None = None,
    resize: str = "host",
    jpeg: str = "host",
) -> Generator[DecodedImage | ImageError, None, None]:
    """Yield each source's image, or why it cannot be taken, in the order of ``sources``.

    threads : images decoded at a time, each in a process of its own, so that a decoder that
        crashes or hangs costs the one image.
    look_ahead : at most so many images wait decoded in memory; ``sources`` is not asked for
        more than that ahead either.
    seconds : the time one image may take; the rest as in ``read_image``.
    is_stopped : asked now and then while an image is waited for; once it says yes,
        CancelledError is raised.
    clock : hears how long each of the processes is busy with an image.
    resize, jpeg : what is left to a device; see ``device_decode``.

    Images in object storage are read meanwhile, as far ahead as ``look_ahead`` lets them be.

    Raises OptionError, ClipsearchError when the decoder processes cannot be started, and
    RemoteError when object storage is out of reach.
    """
    session = DecodeSession(
        DecodeOptions(geometry, decode, max_megapixels, thumbnail_side, seconds, resize, jpeg)
    )

    stages = clock or StageClock()

    ahead: ReadAhead | None = None

    def read_remote(arriving: Arriving) -> DecodedImage | ImageError:
        try:
            # What a network takes counts as what a disk does.
            with stages.busy("decode"), arriving as file:
                return session.decode(file)
        except ImageError as error:
            return error

    def read(source: LocalSource) -> DecodedImage | ImageError:
        try:
            with stages.busy("decode"):
                return session.decode(source)
        except ImageError as error:
            return error

    waiting: deque[Future[DecodedImage | ImageError]] = deque()
    # A thread for each process: it waits for the answer while the others wait for theirs.
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        for source in sources:
            if isinstance(source, RemoteImage):
                if ahead is None:
                    ahead = _read_ahead(max_megapixels)
                waiting.append(pool.submit(read_remote, ahead.begin(source)))
            else:
                waiting.append(pool.submit(read, source))
            if len(waiting) >= look_ahead:
                yield _result(waiting.popleft(), is_stopped)
        while waiting:
            yield _result(waiting.popleft(), is_stopped)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        # Whoever stops early, as with Ctrl-C, does not wait for a picture that hangs.
        wait([future for future in waiting if not future.cancelled()], _PATIENCE_SECONDS)
        session.cancel()
        if ahead is not None:
            ahead.close()
        pool.shutdown(wait=True)


def _read_ahead(max_megapixels: float) -> ReadAhead:
    from indexer.read_ahead import ReadAhead  # only where something is in object storage

    return ReadAhead(most_bytes_of_file(max_megapixels))


def _result(
    future: Future[DecodedImage | ImageError], is_stopped: Callable[[], bool]
) -> DecodedImage | ImageError:
    while not future.done():
        if is_stopped():
            raise CancelledError
        # Not ``wait``, which sets up more than an image of a small file takes to come.
        with contextlib.suppress(TimeoutError):
            future.exception(_LOOK_SECONDS)
    return future.result()
