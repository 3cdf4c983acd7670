"""One writer at a time: a lock of the system's, which a crash cannot leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from clipsearch.errors import IndexLockedError
from clipsearch.manifest import utc_now

LOCK_NAME = "writer.lock"
HOLDER_NAME = "writer.json"


@contextlib.contextmanager
def writer_lock(index: Path) -> Iterator[None]:
    """Hold the writer's lock of ``index``; IndexLockedError names who holds it already."""
    lock = FileLock(index / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise IndexLockedError(
            f"another process is writing to {index}{_holder(index)}: wait for it, or stop it"
        ) from None
    holder = index / HOLDER_NAME
    try:
        # Only for the message above; the lock itself is the system's.
        document = {"pid": os.getpid(), "host": socket.gethostname(), "since": utc_now()}
        holder.write_text(json.dumps(document), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()


def _holder(index: Path) -> str:
    try:
        document = json.loads((index / HOLDER_NAME).read_text(encoding="utf-8"))
        return f" (process {document['pid']} on {document['host']}, since {document['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def look_at_lock(index: Path) -> tuple[bool, str]:
    """Whether somebody is writing to ``index``, and whom the holder's file names ("" for
    nobody). With a free lock, that file was left by a process that died, and is harmless.

    A lock that is held is left alone; a free one is taken for an instant. Raises OSError.
    """
    if not (index / LOCK_NAME).is_file():  # nobody ever wrote, and asking would make the file
        return False, _holder(index)
    lock = FileLock(index / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True, _holder(index)
    lock.release()
    return False, _holder(index)
