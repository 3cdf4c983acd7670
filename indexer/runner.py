"""The runner seam: where shard tasks are carried out."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from indexer.stage_clock import StageClock
from indexer.task_watch import TaskWatch

if TYPE_CHECKING:
    from indexer.report import FailedPart

Task = TypeVar("Task")
Result = TypeVar("Result")

_AT_A_TIME = 2
_LOOK_SECONDS = 0.2


class Runner(Protocol):
    """Carries out one function over many tasks, wherever it likes.

    Results come in the order of the tasks, each as soon as it and all before it are there.
    """

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]: ...


@runtime_checkable
class FarRunner(Runner, Protocol):
    """A runner on other machines than this one, or on shares of it.

    failed : the tasks that were given up, whose results do not come.
    """

    failed: list[FailedPart]

    def listened_to(self, progress: Callable[[int], None], clock: StageClock) -> Runner:
        """The runner, which lets these hear of work within tasks, as ``LocalRunner`` does."""
        ...

    def backend_for(self, asked: str) -> str:
        """The back-end to settle for where this machine says nothing of those."""
        ...

    def shard_rows(self, rows: int, images: int) -> int:
        """Files of a shard, for so many images, where this machine would take ``rows``."""
        ...

    def times_faster(self) -> float | None:
        """Than this machine alone, about; None where nothing is known of it."""
        ...


@contextlib.contextmanager
def closed_at_the_end(results: Iterator[Result]) -> Iterator[Iterator[Result]]:
    """Close what a runner gives, as generators can be: an error, or Ctrl-C, ends what it has
    under way before anybody goes on."""
    try:
        yield results
    finally:
        if isinstance(results, Generator):
            results.close()


class LocalRunner:
    """Tasks in this process, whose encoder uses all cores by itself.

    clock : hears how long the stages of the tasks are busy.
    progress : hears of work within a task, in the thread that asks for the results. The function
    is then called with a ``TaskWatch`` as the keyword ``watch``, and a task begins as soon as
    the one before has read and decoded all its files: while that is still being encoded and
    written, and its result taken in. Two tasks are under way at most. Without ``progress`` one
    task comes after the other, each when its result is asked for.

    What a task raises is raised in its turn, after the results before it; those behind it are
    stopped. Closing the iterator stops what is under way and waits until it has ended.
    """

    def __init__(
        self, progress: Callable[[int], None] | None = None, clock: StageClock | None = None
    ) -> None:
        self._progress = progress
        self._clock = clock or StageClock()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        if self._progress is None:
            return map(function, tasks)
        return self._overlapping(function, iter(tasks), self._progress)

    def _overlapping(
        self,
        function: Callable[[Task], Result],
        tasks: Iterator[Task],
        progress: Callable[[int], None],
    ) -> Generator[Result, None, None]:
        # What the threads of the tasks say; 0 only wakes up whoever waits.
        heard: queue.SimpleQueue[int] = queue.SimpleQueue()
        stop = threading.Event()
        under_way: deque[_UnderWay[Result]] = deque()
        last = _Stage.done()
        trouble: Exception | None = None  # of the tasks themselves, raised after those that came
        try:
            while True:
                while len(under_way) < _AT_A_TIME and trouble is None:
                    try:
                        task = next(tasks)
                    except StopIteration:
                        break
                    except Exception as error:
                        trouble = error
                        break
                    started = _UnderWay(
                        functools.partial(function, task), last, stop, heard, self._clock
                    )
                    under_way.append(started)
                    last = started.stage
                    del task, started
                if not under_way:
                    break
                while not under_way[0].result.done():
                    _tell(heard, progress, _LOOK_SECONDS)
                while not heard.empty():
                    _tell(heard, progress, 0)
                yield under_way.popleft().result.result()
            if trouble is not None:
                raise trouble
        finally:
            stop.set()
            for task_under_way in under_way:
                task_under_way.wait()


def _tell(heard: queue.SimpleQueue[int], progress: Callable[[int], None], seconds: float) -> None:
    with contextlib.suppress(queue.Empty):
        # Not for ever: on Windows Ctrl-C would not end that.
        count = heard.get(timeout=seconds)
        if count:
            progress(count)


class _Stage:
    """How far a task is, for the one behind it."""

    def __init__(self) -> None:
        self.has_read = threading.Event()
        self.has_failed = threading.Event()

    @classmethod
    def done(cls) -> _Stage:
        stage = cls()
        stage.has_read.set()
        return stage


class _UnderWay(Generic[Result]):
    """A task in a thread of its own, which begins once the task before has read its files."""

    def __init__(
        self,
        function: Callable[..., Result],
        before: _Stage,
        stop: threading.Event,
        heard: queue.SimpleQueue[int],
        clock: StageClock,
    ) -> None:
        self.stage = _Stage()
        self.result: Future[Result] = Future()
        self._function = function
        self._before = before
        self._stop = stop
        self._heard = heard
        self._clock = clock
        self.thread = threading.Thread(target=self._carry_out, name="shard")
        self.thread.start()

    def wait(self) -> None:
        """Until the task has ended, however often Ctrl-C is pressed meanwhile: it has been told
        to stop, and what it still writes would stand in the way of whoever clears up behind it.
        """
        is_interrupted = False
        while not self.result.done():
            try:
                wait([self.result])  # a join that is interrupted takes the thread for ended
            except KeyboardInterrupt:
                is_interrupted = True
        self.thread.join()
        if is_interrupted:
            raise KeyboardInterrupt

    def _is_stopped(self) -> bool:
        # What a task brings is of no use when the one before it failed.
        return self._stop.is_set() or self._before.has_failed.is_set()

    def _carry_out(self) -> None:
        try:
            while not self._before.has_read.wait(_LOOK_SECONDS):
                if self._is_stopped():
                    break
            if self._is_stopped():
                raise CancelledError
            watch = TaskWatch(
                self._heard.put, self.stage.has_read.set, self._is_stopped, self._clock
            )
            result = self._function(watch=watch)
        except BaseException as error:
            self.stage.has_failed.set()
            self.result.set_exception(error)
        else:
            self.result.set_result(result)
        finally:
            self.stage.has_read.set()
            self._function = _nothing  # and with it the task
            self._heard.put(0)


def _nothing(**_: Any) -> Any:
    raise CancelledError
