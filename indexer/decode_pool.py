"""The decoder processes of this program: shared by all shards, and replaced when they crash."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from clipsearch.errors import ClipsearchError, ImageError
from clipsearch.images import DecodedImage
from indexer.decode_messages import (
    DecodeOptions,
    LocalSource,
    Message,
    read_answer,
    request_message,
)
from indexer.worker_process import WorkerEnded, WorkerProcess, forget_watchdog


def start_workers(count: int) -> None:
    """See that ``count`` decoder processes are there or on their way; does not wait for them.

    Raises ClipsearchError when the system refuses one.
    """
    _POOL.start(count)


def close_workers() -> None:
    """End the decoder processes that are idle now, and the busy ones when they are done.

    They are started again when they are needed; at exit this is called by itself.
    """
    _POOL.close()


class DecodeSession:
    """One run of decoding on the shared processes; threads may call ``decode`` at a time."""

    def __init__(self, options: DecodeOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._asked: set[WorkerProcess] = set()

    def decode(self, source: LocalSource) -> DecodedImage:
        """The image, decoded in another process.

        A file that a process died of is tried once more, in a new process and with nothing
        decoded beside it: a process may also be ended for want of memory, or by mistake.

        Raises ImageError; OptionError; ClipsearchError when no process can be started;
        CancelledError after ``cancel``.
        """
        request = request_message(source, self._options)
        try:
            with _POOL.turn.shared():
                return self._ask(request, is_new=False)
        except WorkerEnded as ended:
            if ended.is_overdue:
                raise self._too_long() from ended
        try:
            with _POOL.turn.alone():
                return self._ask(request, is_new=True)
        except WorkerEnded as ended:
            if ended.is_overdue:
                raise self._too_long() from ended
            if ended.is_outside:
                raise ClipsearchError(
                    f"the photo decoder was ended from outside ({ended.how}); "
                    "run the same command again"
                ) from ended
            what = f"the decoder crashed on this file ({ended.how})"
            raise ImageError("corrupt", what) from ended

    def cancel(self) -> None:
        """Give up: what is being decoded now is not waited for."""
        with self._lock:
            self._is_cancelled = True
            for worker in self._asked:
                worker.interrupt()

    def _ask(self, request: Message, *, is_new: bool) -> DecodedImage:
        with _POOL.worker(is_new=is_new) as worker:
            with self._lock:
                if self._is_cancelled:
                    raise CancelledError
                self._asked.add(worker)
            try:
                answer = worker.ask(request, self._options.seconds)
            except (WorkerEnded, ClipsearchError):
                if self._is_cancelled:
                    raise CancelledError from None
                raise
            finally:
                with self._lock:
                    self._asked.discard(worker)
            try:
                return read_answer(answer)
            except (ValueError, KeyError, TypeError) as error:
                # A decoder that wrote where it should not have, and lives on.
                worker.kill()
                nonsense = "its answer makes no sense"
                raise WorkerEnded(nonsense, is_overdue=False, is_outside=False) from error

    def _too_long(self) -> ImageError:
        return ImageError("corrupt", f"decoding took longer than {self._options.seconds:g} s")


class _Turn:
    """Lets many decode at a time, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._is_alone = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._is_alone = True  # nobody begins any more
            self._changed.wait_for(lambda: self._sharing == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()


class _DecodePool:
    """The processes, idle and busy. ``turn`` : taken around every use of one."""

    def __init__(self) -> None:
        self.turn = _Turn()
        self._lock = threading.Lock()
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._closed: set[WorkerProcess] = set()

    def start(self, count: int) -> None:
        with self._lock:
            while len(self._idle) + len(self._busy) < count:
                self._idle.append(WorkerProcess())

    @contextmanager
    def worker(self, *, is_new: bool) -> Iterator[WorkerProcess]:
        """A process of the caller's own for the block; a new one if wanted or none is idle."""
        with self._lock:
            worker = self._idle.pop() if self._idle and not is_new else WorkerProcess()
            self._busy.add(worker)
        try:
            yield worker
        finally:
            with self._lock:
                self._busy.discard(worker)
                is_kept = worker.is_usable and worker not in self._closed
                self._closed.discard(worker)
                if is_kept:
                    self._idle.append(worker)
            if not is_kept:
                worker.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            self._closed |= self._busy
        for worker in idle:
            worker.dismiss()
        for worker in idle:
            worker.close()


_POOL = _DecodePool()
atexit.register(close_workers)


def _forget_workers() -> None:
    """In a forked process: the decoder processes are the parent's."""
    global _POOL
    _POOL = _DecodePool()
    forget_watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
