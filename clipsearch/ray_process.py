"""What Ray does to the process that joins a cluster, kept in bounds: signals, output, addresses.

Imports parts of Ray by name where it is called, which is after ``ray_cluster`` has imported it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# The name of a socket has 107 characters at most, 103 on macOS. Ray takes up to 64 of them, and
# what is made below the folder for temporary files 26.
_LONGEST_FOLDER = 13 if sys.platform == "darwin" else 17
RAY_FOLDER = "r"
"""What Ray is given of ``folder_for_sockets``: it lets everybody write there, and nobody else gets
past the folder around it."""


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """What Ray's C++ part remarks on while it connects comes again in its errors."""
    if os.environ.get("CLIPSEARCH_DEBUG"):
        yield
        return
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # the caller closed it
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Ray prints what it has to say of its processes on standard output, among the results; what
    matters of it is in the errors, too."""
    worker = importlib.import_module("ray._private.worker")
    before = getattr(worker, "print_to_stdstream", None)
    if before is None or os.environ.get("CLIPSEARCH_DEBUG"):
        yield
        return
    worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        worker.print_to_stdstream = before  # type: ignore[attr-defined]


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let Ray listen on 127.0.0.1 alone, as it does by itself on macOS and Windows: asked for
    that address elsewhere, it takes the one that others reach this machine by."""
    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    constants = importlib.import_module("ray._private.ray_constants")
    before = getattr(constants, "ENABLE_RAY_CLUSTER", None), os.environ.get(name)
    constants.ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
    os.environ[name] = "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before[0]  # type: ignore[attr-defined]
        os.environ.pop(name)
        if before[1] is not None:
            os.environ[name] = before[1]


@contextmanager
def signals_kept() -> Iterator[None]:
    """Ray puts a handler of its own in the place of those that are there."""
    kept = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            number = getattr(signal, name)
            kept[number] = signal.getsignal(number)
    try:
        yield
    finally:
        for number, handler in kept.items():
            with contextlib.suppress(ValueError, TypeError):  # not the main thread
                signal.signal(number, handler)


@contextmanager
def interrupts_heard() -> Iterator[None]:
    """Ray's handler of SIGTERM stays away, and KeyboardInterrupt comes at the end of the block at
    the latest: raised while Ray's C++ part calls back, it would be lost."""
    heard: list[int] = []

    def hearing(handler: Callable[[int, FrameType | None], Any]) -> Callable[..., Any]:
        def hear(number: int, frame: FrameType | None) -> None:
            heard.append(number)
            handler(number, frame)

        return hear

    parts: Any = importlib.import_module("ray._private.utils")
    before = getattr(parts, "set_sigterm_handler", None)
    with signals_kept():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if not hasattr(signal, name):
                continue
            number = getattr(signal, name)
            handler = signal.getsignal(number)
            if callable(handler):
                with contextlib.suppress(ValueError):  # not the main thread
                    signal.signal(number, hearing(handler))
        if before is not None:
            parts.set_sigterm_handler = lambda handler: None
        try:
            yield
        except Exception:
            if heard:  # what came of it
                raise KeyboardInterrupt from None
            raise
        finally:
            if before is not None:
                parts.set_sigterm_handler = before
    if heard:
        raise KeyboardInterrupt


def folder_for_sockets() -> Path:
    """For sockets and logs, for nobody else to look into; gone when the cluster is."""
    usual = tempfile.gettempdir()
    place = usual if len(usual) <= _LONGEST_FOLDER or sys.platform == "win32" else "/tmp"
    return Path(tempfile.mkdtemp(prefix="clipsearch-ray-", dir=place))


def import_path() -> list[str]:
    """Where the processes of the actors find what this one imports, on a cluster of its own."""
    # Each is put before those that came earlier.
    return [entry for entry in reversed(sys.path) if entry and os.path.isdir(entry)]
