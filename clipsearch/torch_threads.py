"""How many threads torch computes with, for the length of a call and in the calling thread.

Under OpenMP the number belongs to each thread, but torch gives a thread that is new to it the
number that any thread set last. So the first who comes notes the process's own number, and each
who leaves goes back to that.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

_lock = threading.Lock()
_users = 0
_usual = 0


@contextlib.contextmanager
def computing_threads(threads: int | None) -> Iterator[None]:
    """Meanwhile torch computes with so many threads for this thread; None leaves it alone."""
    global _users, _usual
    if threads is None:
        yield
        return
    with _lock:
        if _users == 0:
            _usual = torch.get_num_threads()
        _users += 1
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if torch.get_num_threads() != _usual:
                torch.set_num_threads(_usual)
