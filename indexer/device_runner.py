"""Several devices: a process for each, which the tasks are dealt out to."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from clipsearch.errors import ClipsearchError, OptionError
from indexer.device_messages import (
    ERROR,
    FUNCTION,
    PROGRESS,
    READY,
    SUMS,
    TASK,
    Message,
    read_message,
    write_message,
)
from indexer.encode_plan import plan_of_each
from indexer.runner import LocalRunner, Runner
from indexer.stage_clock import StageClock
from indexer.worker_process import python_command

Task = TypeVar("Task")
Result = TypeVar("Result")

_TASKS_EACH = 2  # one is read and decoded while the one before is encoded and written
_AHEAD_EACH = 3  # finished tasks wait for those before them: so many each device, no more
_MOST_ENDS = 2
_LOOK_SECONDS = 0.2
_CLOSE_SECONDS = 5.0


def parse_devices(device: str | None) -> tuple[str | None, ...]:
    """The devices of ``--device``: one, several with commas between ("cuda:0,cuda:1"), or "all",
    which is every GPU, and the CPU where there is none. None is what a single encoder takes.

    Raises OptionError.
    """
    if device is None:
        return (None,)
    names = tuple(name.strip() for name in device.split(","))
    if not all(names):
        raise OptionError(f"expected devices with commas between them, got {device!r}")
    if names != ("all",) and len(names) == 1:
        return names
    from clipsearch.open_clip_encoder import devices

    there = devices()
    if names == ("all",):
        return tuple(name for name in there if name.startswith("cuda")) or ("cpu",)
    for name in names:
        if name not in (*there, "cuda"):
            raise OptionError(f"no device {name!r} here: expected some of {', '.join(there)}")
    return names


def runner_for(
    devices: Sequence[str | None], progress: Callable[[int], None], clock: StageClock
) -> Runner:
    """What carries out tasks on these devices: this process for one, others for several.

    progress, clock : as for ``LocalRunner``; other processes tell the clock at the end of each
    task.
    """
    names = [device for device in devices if device is not None]
    return DeviceRunner(names, progress, clock) if len(names) > 1 else LocalRunner(progress, clock)


class DeviceRunner:
    """Tasks in other processes, one for each of ``devices``; see ``Runner``.

    Tasks and results are pickled; each task is one with the fields ``device``, which is
    replaced, and ``plan``, whose ``workers`` are this process's share of the processors. The
    function takes a ``TaskWatch`` as the keyword ``watch``.

    progress : hears of work within a task, in the thread that asks for the results. clock : what
    the tasks' own clocks added up.

    What a task raises is raised in its turn. When a process ends, its tasks are tried again in
    the process of another device, each alone; ClipsearchError for one that ends two. Closing the
    iterator ends the processes; they end by themselves when this one is killed.
    """

    def __init__(
        self,
        devices: Sequence[str],
        progress: Callable[[int], None] | None = None,
        clock: StageClock | None = None,
    ) -> None:
        if not devices:
            raise ValueError("expected at least one device")
        self._devices = tuple(devices)
        self._progress = progress or (lambda count: None)
        self._clock = clock or StageClock()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        return _Deal(self._devices, function, self._progress, self._clock).run(tasks)


@dataclasses.dataclass
class _Dealt:
    """A task on its way. is_suspect : a process ended that had it; now it has one to itself,
    at best not the one called ``avoid``. ends : how many ended that had nothing else.
    done : images that were heard of; done_now : those of this try."""

    number: int
    task: Any
    is_suspect: bool = False
    ends: int = 0
    avoid: _Process | None = None
    done: int = 0
    done_now: int = 0


class _Deal:
    """One call of ``run``."""

    def __init__(
        self,
        devices: Sequence[str],
        function: Callable[..., Any],
        progress: Callable[[int], None],
        clock: StageClock,
    ) -> None:
        self._function = function
        self._clock = clock
        self._progress = progress
        self._heard: queue.SimpleQueue[tuple[_Process, Message | None]] = queue.SimpleQueue()
        self._again: deque[_Dealt] = deque()
        self._results: dict[int, Message] = {}
        self._processes: list[_Process] = []
        self._names = devices

    def run(self, tasks: Iterable[Any]) -> Generator[Any, None, None]:
        numbered = enumerate(tasks)
        is_exhausted = False
        given = 0  # tasks taken from ``tasks``
        wanted = 0  # the task whose result is yielded next
        try:
            for name in self._names:
                self._processes.append(self._start(name))
            while True:
                self._give_again()
                while not (is_exhausted or self._again) and (free := self._free()) is not None:
                    if given - wanted >= _AHEAD_EACH * len(self._names):
                        break
                    try:
                        number, task = next(numbered)
                    except StopIteration:
                        is_exhausted = True
                        break
                    given += 1
                    self._give(free, _Dealt(number, task))
                if wanted in self._results:
                    kind, (_, what) = self._results.pop(wanted)
                    if kind == ERROR:
                        raise what
                    wanted += 1
                    yield what
                elif is_exhausted and wanted == given:
                    return
                else:
                    self._listen()
        finally:
            for process in self._processes:
                process.dismiss()
            for process in self._processes:
                process.close()

    def _start(self, device: str) -> _Process:
        return _Process(device, self._function, self._heard)

    def _free(self) -> _Process | None:
        """The process with the least to do, if it takes another task."""
        able = [
            process
            for process in self._processes
            if not any(dealt.is_suspect for dealt in process.tasks.values())
        ]
        least = min(able, key=lambda process: len(process.tasks), default=None)
        return least if least is not None and len(least.tasks) < _TASKS_EACH else None

    def _give(self, process: _Process, dealt: _Dealt) -> None:
        plan = plan_of_each(dealt.task.plan, len(self._names))
        dealt.task = dataclasses.replace(dealt.task, device=process.device, plan=plan)
        dealt.done_now = 0
        process.give(dealt)

    def _give_again(self) -> None:
        """Suspects first, one by one: nothing new is given before each has its process."""
        while self._again:
            avoid = self._again[0].avoid if len(self._processes) > 1 else None
            idle = [one for one in self._processes if not one.tasks and one is not avoid]
            if not idle:
                return
            self._give(idle[0], self._again.popleft())

    def _listen(self) -> None:
        try:
            # Not for ever: on Windows Ctrl-C would not end that.
            process, message = self._heard.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            return
        if message is None:
            self._lost(process)
            return
        kind, what = message
        if kind == READY:
            process.is_ready = True
            return
        number, told = what
        dealt = process.tasks[number]
        if kind == SUMS:
            self._clock.add(told)
            return
        if kind == PROGRESS:
            dealt.done_now += told
            if dealt.done_now > dealt.done:  # of a second try, what the first did is known
                self._progress(dealt.done_now - dealt.done)
                dealt.done = dealt.done_now
            return
        del process.tasks[number]
        self._results[number] = message

    def _lost(self, process: _Process) -> None:
        """A process ended by itself: another in its place, and its tasks elsewhere."""
        how = process.close()
        if not process.is_ready:
            raise ClipsearchError(
                f"the process for {process.device} cannot be started ({how}); "
                "CLIPSEARCH_DEBUG=1 shows why"
            )
        place = self._processes.index(process)
        self._processes[place] = self._start(process.device)
        for dealt in sorted(process.tasks.values(), key=lambda dealt: dealt.number):
            dealt.ends += len(process.tasks) == 1
            if dealt.ends == _MOST_ENDS:
                raise ClipsearchError(
                    f"the process for {process.device} ended ({how}), and so did another with "
                    "the same photos; what is finished is kept: run the same command again, "
                    "with --device cpu if that does not help"
                )
            dealt.is_suspect = True
            dealt.avoid = self._processes[place]
            self._again.append(dealt)


class _Process:
    """One process seen from here. tasks : those that it has, by number, in order."""

    def __init__(
        self,
        device: str,
        function: Callable[..., Any],
        heard: queue.SimpleQueue[tuple[_Process, Message | None]],
    ) -> None:
        self.device = device
        self.tasks: dict[int, _Dealt] = {}
        self.is_ready = False
        self._heard = heard
        try:
            self._process = subprocess.Popen(
                python_command("indexer.device_worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if os.environ.get("CLIPSEARCH_DEBUG") else subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            raise ClipsearchError(f"the process for {device} cannot be started: {error}") from error
        self._reader = threading.Thread(target=self._listen, name="device-reader", daemon=True)
        self._reader.start()
        self._send((FUNCTION, function))

    def give(self, dealt: _Dealt) -> None:
        """Send a task; that nobody reads it any more is heard from the reader."""
        self.tasks[dealt.number] = dealt
        self._send((TASK, (dealt.number, dealt.task)))

    def _send(self, message: Message) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            write_message(self._process.stdin, message)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            while (message := read_message(self._process.stdout)) is not None:
                self._heard.put((self, message))
        except Exception:  # what cannot be unpickled came from a process that is broken
            self._process.kill()
        self._heard.put((self, None))

    def dismiss(self) -> None:
        """Let it end, which it does at once, whatever it is at; ``close`` waits for that."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def close(self) -> str:
        """End it, by force if need be. How it ended: "signal SIGKILL" or "exit code 3"."""
        self.dismiss()
        try:
            code = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        name = ""
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        return f"signal {name or -code}" if code < 0 else f"exit code {code}"
