"""Many tasks dealt out to actors of a Ray cluster; results in order, a bounded number ahead."""

from __future__ import annotations

import contextlib
import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from clipsearch import __version__
from clipsearch.errors import RayClusterError
from clipsearch.ray_actor import AboutActor, Answer, TaskActor, TaskReporter
from clipsearch.ray_cluster import ActorSize, RayCluster, ray

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_EACH = 2  # one is read while the one before is computed
_AHEAD_EACH = 4  # finished tasks wait for those before them: so many an actor, no more
_MOST_FAILED_STARTS = 3
_GIVE_UP_AFTER = 4
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class TaskFailure(Generic[Task]):
    """A task that was given up. number : its place among the tasks, from 0. tries : how often
    it was begun. reason : what went wrong the last time, in a line."""

    number: int
    task: Task
    tries: int
    reason: str


class RayTasks:
    """Carries out a function over tasks by actors; see ``run``.

    actors : how many at most; None for as many as the cluster has room for. size : of each.
    tries : how often a task is begun before it is given up. fatal : errors that another try
    would not cure; they are raised in their turn, as by a local run, and end the whole.
    progress : hears of what functions report, in the thread that asks for results. tell : hears
    a line when an actor has ended.

    Raises RayClusterError when not even one actor fits into a machine of the cluster.
    """

    def __init__(
        self,
        cluster: RayCluster,
        *,
        actors: int | None = None,
        size: ActorSize = ActorSize(),  # noqa: B008  frozen
        tries: int = 3,
        fatal: tuple[type[BaseException], ...] = (),
        progress: Callable[[int], None] = lambda count: None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        cluster.check_room(size)
        self.cluster = cluster
        self.size = size
        self.actors = actors or cluster.room_for(size)
        self.tries = tries
        self.fatal = fatal
        self.progress = progress
        self.tell = tell

    def run(
        self, function: Callable[[Task, TaskReporter], Result], tasks: Iterable[Task]
    ) -> Generator[Result | TaskFailure[Task], None, None]:
        """What ``function(task, reporter)`` returns for each task, in the order of the tasks, or
        a TaskFailure.

        The function is picklable, tasks and results are too. An actor that dies is replaced and
        its tasks are begun again, each alone; so is one whose function raised. Closing the
        iterator ends the actors at once, whatever they are doing.

        Raises the errors named ``fatal``; RayClusterError when actors cannot be started, or run
        another version of clipsearch, or when nothing but failures comes.
        """
        yield from _Deal(self, pickle.dumps(function)).run(enumerate(tasks))


@dataclass
class _Given:
    """A task on its way. is_suspect : something went wrong with it; now it has an actor to
    itself. done : what was told of it; done_now : in this try."""

    number: int
    task: Any
    tries: int = 0
    is_suspect: bool = False
    done: int = 0
    done_now: int = 0


@dataclass(eq=False)
class _Actor:
    """An actor seen from here. given : its tasks by the reference to what becomes of them.
    about : None until it is there."""

    handle: Any
    ready: Any
    news: Any = None
    about: AboutActor | None = None
    given: dict[Any, _Given] = field(default_factory=dict)

    def references(self) -> Iterator[Any]:
        if self.about is None:
            yield self.ready
            return
        yield from self.given
        if self.given:
            if self.news is None:
                self.news = self.handle.listen.remote()
            yield self.news


class _Deal:
    """One call of ``run``."""

    def __init__(self, asked: RayTasks, function: bytes) -> None:
        self._asked = asked
        self._function = function
        self._ray = ray()
        self._class = self._ray.remote(TaskActor)
        self._actors: list[_Actor] = []
        self._waiting: deque[_Given] = deque()
        self._again: deque[_Given] = deque()
        self._results: dict[int, Answer | TaskFailure[Any]] = {}
        self._numbered: Iterator[tuple[int, Any]]
        self._is_exhausted = False
        self._taken = 0  # of the tasks
        self._wanted = 0  # the one whose result is yielded next
        self._failed_starts = 0  # in a row
        self._is_any_done = False

    def run(self, numbered: Iterator[tuple[int, Any]]) -> Generator[Any, None, None]:
        self._numbered = numbered
        failures = 0
        try:
            while True:
                self._deal_out()
                if self._wanted in self._results:
                    result = self._results.pop(self._wanted)
                    self._wanted += 1
                    if isinstance(result, TaskFailure):
                        failures += 1
                        if failures >= _GIVE_UP_AFTER and not self._is_any_done:
                            raise RayClusterError(
                                f"nothing can be done on {self._asked.cluster.place}: "
                                f"{failures} parts failed {result.tries} times each, the last "
                                f"with: {result.reason}"
                            )
                        yield result
                    elif result.error is not None:
                        raise result.error
                    else:
                        yield result.value
                elif self._is_exhausted and self._wanted == self._taken:
                    return
                else:
                    self._listen()
        finally:
            for actor in self._actors:
                self._kill(actor)

    def _deal_out(self) -> None:
        while self._give_one() or self._start_one():
            pass

    def _give_one(self) -> bool:
        """Suspects first, one by one: nothing new is given before each has its actor."""
        there = [actor for actor in self._actors if actor.about is not None]
        if self._again:
            idle = next((actor for actor in there if not actor.given), None)
            if idle is not None:
                self._give(idle, self._again.popleft())
            return idle is not None
        able = [
            actor for actor in there if not any(given.is_suspect for given in actor.given.values())
        ]
        least = min(able, key=lambda actor: len(actor.given), default=None)
        if least is None or len(least.given) >= _TASKS_EACH:
            return False
        # A second one at a time, but not those that the actors still starting are for.
        kept = len(self._actors) - len(there) if least.given else 0
        if not self._has_waiting(kept + 1):
            return False
        self._give(least, self._waiting.popleft())
        return True

    def _has_waiting(self, count: int) -> bool:
        """Whether so many tasks wait to be given, once more are asked for."""
        most = self._wanted + _AHEAD_EACH * self._asked.actors
        while len(self._waiting) < count and self._taken < most and not self._is_exhausted:
            try:
                number, task = next(self._numbered)
            except StopIteration:
                self._is_exhausted = True
                break
            self._taken += 1
            self._waiting.append(_Given(number, task))
        return len(self._waiting) >= count

    def _start_one(self) -> bool:
        """Another actor, if there is work for it."""
        if len(self._actors) >= self._asked.actors:
            return False
        if self._failed_starts >= _MOST_FAILED_STARTS and self._actors:
            return False  # those that are there do the work
        starting = sum(actor.about is None for actor in self._actors)
        if len(self._again) <= starting and not self._has_waiting(starting + 1):
            return False
        size = self._asked.size
        handle = self._class.options(
            num_cpus=size.cpus,
            num_gpus=size.gpus,
            max_restarts=0,
            max_concurrency=_TASKS_EACH + 2,
        ).remote(self._function, size.cpus)
        self._actors.append(_Actor(handle, handle.about.remote()))
        return True

    def _give(self, actor: _Actor, given: _Given) -> None:
        given.tries += 1
        given.done_now = 0
        actor.given[actor.handle.carry_out.remote(given.number, given.task)] = given

    def _listen(self) -> None:
        of = {reference: actor for actor in self._actors for reference in actor.references()}
        ready, _ = self._ray.wait(list(of), num_returns=1, timeout=_LOOK_SECONDS)
        if ready:  # and whatever else is there by now
            ready, _ = self._ray.wait(list(of), num_returns=len(of), timeout=0)
        for reference in ready:
            actor = of[reference]
            if actor not in self._actors:
                continue  # it was lost a moment ago
            try:
                said = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._lost(actor, error)
                continue
            self._heard(actor, reference, said)

    def _heard(self, actor: _Actor, reference: Any, said: Any) -> None:
        if isinstance(said, AboutActor):
            if said.version != __version__:
                raise RayClusterError(
                    f"{said.host} has clipsearch {said.version} and this machine {__version__}: "
                    "install the same on all machines of the cluster"
                )
            actor.about = said
            self._failed_starts = 0
        elif isinstance(said, Answer):
            given = actor.given.pop(reference)
            self._told(given, said.done - given.done_now)
            if said.error is None or isinstance(said.error, self._asked.fatal):
                self._is_any_done |= said.error is None
                self._results[given.number] = said
            else:
                self._again_or_not(given, f"{said.error}" or type(said.error).__name__)
        else:
            actor.news = None
            for given in actor.given.values():
                self._told(given, said.get(given.number, 0))

    def _told(self, given: _Given, count: int) -> None:
        given.done_now += count
        if given.done_now > given.done:  # of another try, what the first did is known
            self._asked.progress(given.done_now - given.done)
            given.done = given.done_now

    def _lost(self, actor: _Actor, error: Exception) -> None:
        """An actor ended by itself: another comes into its place, and its tasks elsewhere."""
        self._actors.remove(actor)
        self._kill(actor)  # one that is only out of reach must not go on writing
        why = reason_of(error)
        if actor.about is None:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS and not self._actors:
                raise RayClusterError(
                    f"actors cannot be started on {self._asked.cluster.place}: {why}"
                ) from error
            return
        lost = sorted(actor.given.values(), key=lambda given: given.number)
        parts = "what it was at is" if lost else "it was idle, nothing is"
        self._asked.tell(f"An actor on {actor.about.host} ended ({why}); {parts} begun again.")
        for given in lost:
            self._again_or_not(given, f"the actor ended ({why})")

    def _again_or_not(self, given: _Given, reason: str) -> None:
        reason = " ".join(reason.split())
        if given.tries >= self._asked.tries:
            failure = TaskFailure(given.number, given.task, given.tries, reason)
            self._results[given.number] = failure
            return
        given.is_suspect = True
        self._again.append(given)

    def _kill(self, actor: _Actor) -> None:
        with contextlib.suppress(Exception):  # it is gone, or the connection is
            self._ray.kill(actor.handle, no_restart=True)


_SIGNS = (
    ("OUT_OF_MEMORY", "its machine ran out of memory"),
    ("out of memory", "its machine ran out of memory"),
    ("INTENDED_USER_EXIT", "it was told to"),
    ("worker process has died", "its process was killed or crashed"),
    ("node has terminated", "its machine is gone"),
    ("node was terminated", "its machine is gone"),
    ("node died", "its machine is gone"),
    ("unavailable", "it is out of reach"),
)


def reason_of(error: Exception) -> str:
    """What a Ray error says, in half a line."""
    text = str(error)
    if "No module named 'clipsearch" in text or "No module named 'indexer" in text:
        return f"clipsearch is not installed there: pip install clipsearch=={__version__}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "creation task" not in text:
        # Of a process that ended Ray lists all causes there are, among them memory.
        known = (told for sign, told in _SIGNS if sign in text.partition("ome common causes")[0])
        if (told := next(known, None)) is not None:
            return told
        lines.reverse()
    return (lines[-1] if lines else type(error).__name__)[:300]
