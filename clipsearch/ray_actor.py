"""What runs in the process of a Ray actor: tasks in threads, and news of how far they are.

Knows nothing of Ray, which calls the methods of ``TaskActor`` in threads of one process.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clipsearch import __version__
from clipsearch.heap import keep_freed_memory
from clipsearch.sendable_errors import sendable
from clipsearch.threads import use_at_most

_PATIENCE_SECONDS = 5.0
_BETWEEN_SECONDS = 0.25  # so often at most is the progress of an actor heard of


@dataclass(frozen=True)
class AboutActor:
    """Where an actor runs, and what it runs."""

    host: str
    pid: int
    version: str


@dataclass(frozen=True)
class Answer:
    """What became of a task. error : what the function raised; None when ``value`` is what it
    returned. done : all that was told as progress."""

    value: Any
    error: BaseException | None
    done: int


class TaskReporter:
    """What a function tells of its task, from any of its threads."""

    def __init__(self, when_told: Callable[[int], None], when_read: Callable[[], None]) -> None:
        self._when_told = when_told
        self._when_read = when_read

    def progress(self, count: int) -> None:
        """``count`` more are done: images, rows, whatever the tasks are made of."""
        self._when_told(count)

    def next_may_begin(self) -> None:
        """The actor's next task may begin beside this one, which has read all it needs."""
        self._when_read()


TaskFunction = Callable[[Any, TaskReporter], Any]
"""Carries out one task. Picklable by reference: a function of a module, or a ``partial`` of one."""


class TaskActor:
    """Carries out tasks in the order they come, one after the other: the next begins when the
    one before has ended, or says that it may.

    function : a pickled ``TaskFunction``. cpus : threads it may use, which
    ``threads.worker_count`` then tells whoever asks.
    """

    def __init__(self, function: bytes, cpus: float) -> None:
        # OpenMP's threads would spin while they wait; to be set before torch is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("KMP_BLOCKTIME", "0")
        keep_freed_memory()
        use_at_most(max(1, int(cpus)))
        self._function: TaskFunction = pickle.loads(function)  # noqa: S301  of the driver
        self._turn = threading.Lock()
        self._news = threading.Condition()
        self._done: Counter[int] = Counter()

    def about(self) -> AboutActor:
        """Answers once the actor is there."""
        return AboutActor(socket.gethostname(), os.getpid(), __version__)

    def carry_out(self, number: int, task: Any) -> Answer:
        """Call the function; what it raises is in the answer."""
        total = 0
        is_turn_over = threading.Event()
        self._turn.acquire()

        def tell(count: int) -> None:
            nonlocal total
            with self._news:
                total += count
                self._done[number] += count
                self._news.notify_all()

        def give_turn() -> None:
            with self._news:
                if is_turn_over.is_set():
                    return
                is_turn_over.set()
            self._turn.release()

        try:
            value = self._function(task, TaskReporter(tell, give_turn))
            return Answer(value, None, total)
        except Exception as error:
            if os.environ.get("CLIPSEARCH_DEBUG"):
                traceback.print_exc(file=sys.stderr)
            return Answer(None, sendable(error), total)
        finally:
            give_turn()

    def listen(self) -> dict[int, int]:
        """What was told since the last time, by the number of the task; waits for news, and not
        for ever."""
        with self._news:
            self._news.wait_for(lambda: bool(self._done), _PATIENCE_SECONDS)
        # Many are told one by one: some at a time is enough, and costs less.
        threading.Event().wait(_BETWEEN_SECONDS)
        with self._news:
            news, self._done = dict(self._done), Counter()
        return news
