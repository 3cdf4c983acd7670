"""Functions that the actors of the tests carry out; to be imported in their processes."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.errors import OptionError
from clipsearch.ray_actor import TaskReporter
from clipsearch.threads import worker_count
from indexer.shard_task import ShardTask
from indexer.task_watch import TaskWatch


@dataclass(frozen=True)
class Job:
    """what : what to do beside squaring ``number``."""

    number: int
    what: str = ""
    file: str = ""


def square(job: Job, reporter: TaskReporter) -> tuple[int, int, int]:
    """The square, the process, and the processors it takes itself to have."""
    reporter.progress(1)
    reporter.next_may_begin()
    place = Path(job.file)
    match job.what:
        case "slow":
            time.sleep(0.5)
        case "fail":
            raise OptionError("no picture")
        case "odd":
            raise UnicodeDecodeError("utf-8", b"x", 0, 1, "odd")
        case "die":
            os._exit(7)
        case "die once" if not place.exists():
            place.touch()
            os._exit(7)
        case "hang":
            place.write_text(str(os.getpid()))
            time.sleep(600)
    reporter.progress(1)
    return job.number**2, os.getpid(), worker_count()


def breaks_second(function: Callable[..., Any], task: ShardTask, watch: TaskWatch) -> Any:
    """The function of a local run, but for the second shard, which nobody can read."""
    if task.number == 1:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return function(task, watch=watch)


def dies_once(place: str, function: Callable[..., Any], task: ShardTask, watch: TaskWatch) -> Any:
    """The function of a local run; the actor that comes to the second shard first is killed
    while its decoder processes are at work, and leaves their ids behind."""
    if task.number == 1 and not Path(place).exists():
        started = TaskWatch(progress=lambda count: _die(place), when_read=watch.when_read)
        function(task, watch=started)
    return function(task, watch=watch)


def _die(place: str) -> None:
    children: set[str] = set()
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            children |= set((thread / "children").read_text().split())
    Path(place).write_text(" ".join(sorted(children)))
    os._exit(9)
