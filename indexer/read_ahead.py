"""Read images of object storage before they are decoded: many at a time, and a bounded number.

One request takes a network longer than one decoder takes for the image, so far more are under way
than there are decoders. They run here rather than in the decoders: what they wait for is no part
of the time that an image may take, and a decoder needs no credentials.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType

from clipsearch.remote_images import read_object
from indexer.decode_messages import NamedBytes, RemoteImage

_AT_ONCE = 32
_MOST_BYTES = 256 << 20
"""In memory at a time; one object that is larger comes alone."""


class Arriving:
    """An image that is on its way; as a context it is the image, and makes room behind it."""

    def __init__(self, image: RemoteImage, ticket: int, leave: Callable[[int], None]) -> None:
        self.image = image
        self.ticket = ticket
        self.data: Future[bytes] = Future()
        self._leave = leave

    def __enter__(self) -> NamedBytes:
        """Waits for it. Raises ImageError; RemoteError where the bucket is out of reach;
        CancelledError once the reader is closed."""
        try:
            return NamedBytes(self.image.url, self.data.result())
        except BaseException:
            self._leave(self.image.size)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.data = Future()  # the bytes are not needed any more
        self._leave(self.image.size)


class ReadAhead:
    """Reads what it is told of, in that order. Whoever takes it out takes it in that order, too.

    most : bytes of the largest object that is read at all.
    """

    def __init__(self, most: int, at_once: int = _AT_ONCE, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._at_once = at_once
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._queue: SimpleQueue[Arriving | None] = SimpleQueue()
        self._arriving: set[Arriving] = set()
        self._threads = 0
        self._begun = self._admitted = self._held = 0
        self._is_closed = False

    def begin(self, image: RemoteImage) -> Arriving:
        """Have ``image`` read as soon as there is room."""
        arriving = Arriving(image, self._begun, self._leave)
        self._begun += 1
        with self._changed:
            self._arriving.add(arriving)
        if self._threads < self._at_once:
            self._threads += 1
            # Nobody waits for them at the end: a network may take minutes to fail.
            threading.Thread(target=self._serve, name="read-ahead", daemon=True).start()
        self._queue.put(arriving)
        return arriving

    def close(self) -> None:
        """Give up: whoever waits for an image gets CancelledError."""
        with self._changed:
            self._is_closed = True
            arriving, self._arriving = self._arriving, set()
            self._changed.notify_all()
        for _ in range(self._threads):
            self._queue.put(None)
        for one in arriving:
            with suppress(InvalidStateError):
                one.data.set_exception(CancelledError())

    def _serve(self) -> None:
        while (arriving := self._queue.get()) is not None:
            if not self._enter(arriving):
                return
            done = arriving.data
            try:
                data = read_object(arriving.image.url, arriving.image.size, self._most)
            except BaseException as error:
                with suppress(InvalidStateError):
                    done.set_exception(error)
            else:
                with suppress(InvalidStateError):
                    done.set_result(data)
                del data
            with self._changed:
                self._arriving.discard(arriving)
            del arriving, done

    def _enter(self, arriving: Arriving) -> bool:
        """Wait for room, in order: else a large one would wait for small ones behind it, which
        wait for it to be taken out. False once closed."""
        size = arriving.image.size
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed
                    or (
                        self._admitted == arriving.ticket
                        and (not self._held or self._held + size <= self._most_bytes)
                    )
                )
            )
            if self._is_closed:
                return False
            self._admitted += 1
            self._held += size
            self._changed.notify_all()
            return True

    def _leave(self, size: int) -> None:
        with self._changed:
            self._held -= size
            self._changed.notify_all()
