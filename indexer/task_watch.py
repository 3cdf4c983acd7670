"""What a task tells the one who runs it while it works, and hears from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from indexer.stage_clock import StageClock


def _ignore(count: int) -> None:
    pass


def _do_nothing() -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True)
class TaskWatch:
    """Functions that a task calls, from any of its threads.

    progress : hears of images that are done, so many more. when_read : called once all files of
    the task are read and decoded, from when on the next task may read its own. is_stopped :
    True when nobody wants the result any more; the task then raises CancelledError soon, and
    writes nothing that it has not begun to write. clock : hears how long each stage is busy.
    """

    progress: Callable[[int], None] = _ignore
    when_read: Callable[[], None] = _do_nothing
    is_stopped: Callable[[], bool] = _never
    clock: StageClock = field(default_factory=StageClock)


UNWATCHED = TaskWatch()
