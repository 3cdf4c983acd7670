"""Work spread over threads: NumPy, BLAS and FAISS let go of the interpreter's lock."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_LOOK_AHEAD = 2  # tasks waiting for each worker: enough to keep it busy, bounded memory


def worker_count() -> int:
    """How many threads compute: the processors that this process may use, and no more than the
    time that a container gives it is worth."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = max(1, len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
    return min(count, _allotted_processors() or count, _share or count)


_share: int | None = None


def use_at_most(count: int) -> None:
    """From now on ``worker_count`` is ``count`` at most: for a process that shares the machine
    with others like it."""
    global _share
    _share = max(1, count)


@functools.cache
def _allotted_processors(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Processors' worth of time that the control group (version 2) of a container allows, rounded
    up; None where it sets no limit."""
    try:
        quota, period = limit.read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # "max", or none there
        return None


def in_order(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int | None = None,
    look_ahead: int | None = None,
) -> Iterator[Result]:
    """``map`` over several threads: results in the order of their tasks, a few ahead.

    look_ahead : how many may be ahead at most; None for two each thread.

    What a task raises is raised here, and no further task begins.
    """
    count = worker_count() if workers is None else workers
    most = _LOOK_AHEAD * count if look_ahead is None else look_ahead
    if count == 1:
        yield from map(function, tasks)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="clipsearch") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(function, task))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _SingleThreadedBlas:
    """Counts who wants BLAS on one thread: the first turns its threads off, the last on again.

    Two blocks of ``threadpool_limits`` that overlap would restore each other's limits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._pools: list[Any] | None = None
        self._before: list[int] = []

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                if self._pools is None:
                    self._pools = _shared_pools()
                self._before = [pool.num_threads for pool in self._pools]
                self._set([1] * len(self._pools))
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._set(self._before)

    def _set(self, counts: list[int]) -> None:
        for pool, count in zip(self._pools or [], counts, strict=True):
            # Since threadpoolctl 3.8 only the thread that sets limits first may change them.
            if hasattr(pool, "clear_controlling_thread"):
                pool.clear_controlling_thread(force=True)
            pool.set_num_threads(count)
            if hasattr(pool, "clear_controlling_thread"):
                pool.clear_controlling_thread(force=True)


def _shared_pools() -> list[Any]:
    """The BLAS libraries whose threads the whole process shares. Under OpenMP each thread has a
    limit of its own, which another cannot give back."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().lib_controllers
    blas = [pool for pool in found if pool.user_api == "blas"]
    return [pool for pool in blas if getattr(pool, "threading_layer", None) != "openmp"]


single_threaded_blas = _SingleThreadedBlas()
"""While this context is open BLAS computes on the thread that calls it, in the whole process:
for work whose blocks are themselves spread over threads. Safe to nest and for threads."""
