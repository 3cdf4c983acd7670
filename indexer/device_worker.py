"""The process of one device: carries out the tasks that it is sent until its input ends.

It ends at once when whoever started it is gone, whatever it is doing: nothing that it writes
counts before the manifest names it. Its decoder processes end with it in the same way.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import IO, Any

from clipsearch.heap import keep_freed_memory
from clipsearch.sendable_errors import sendable
from indexer.device_messages import (
    ERROR,
    FUNCTION,
    PROGRESS,
    READY,
    RESULT,
    SUMS,
    TASK,
    Message,
    read_message,
    write_message,
)
from indexer.stage_clock import StageClock
from indexer.task_watch import TaskWatch


def main() -> None:
    """Serve the pipes that are standard input and output; does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group
    keep_freed_memory()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2 if os.environ.get("CLIPSEARCH_DEBUG") else nothing, 1)
    if not os.environ.get("CLIPSEARCH_DEBUG"):
        warnings.simplefilter("ignore")
    try:
        _Worker(requests, answers).serve()
    except OSError:
        pass  # the parent is gone
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


class _Worker:
    """Tasks in threads: each begins as soon as the one before has read its files."""

    def __init__(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        self._requests = requests
        self._answers = answers
        self._writing = threading.Lock()

    def serve(self) -> None:
        """Until the input ends, which is not waited for with a task under way."""
        self._send((READY, None))
        first = read_message(self._requests)
        if first is None:
            return
        kind, function = first
        assert kind == FUNCTION
        before = threading.Event()
        before.set()
        while (message := read_message(self._requests)) is not None:
            kind, (number, task) = message
            assert kind == TASK
            has_read = threading.Event()
            arguments = (function, number, task, before, has_read)
            threading.Thread(target=self._carry_out, args=arguments, daemon=True).start()
            before = has_read

    def _carry_out(
        self,
        function: Callable[..., Any],
        number: int,
        task: Any,
        before: threading.Event,
        has_read: threading.Event,
    ) -> None:
        before.wait()
        clock = StageClock()
        watch = TaskWatch(
            clock=clock,
            progress=lambda count: self._send((PROGRESS, (number, count))),
            when_read=has_read.set,
        )
        try:
            answer: Message = (RESULT, (number, function(task, watch=watch)))
            self._send((SUMS, (number, clock.sums())))
        except BaseException as error:
            traceback.print_exc()  # seen with CLIPSEARCH_DEBUG
            answer = (ERROR, (number, sendable(error)))
        has_read.set()
        self._send(answer)

    def _send(self, message: Message) -> None:
        try:
            with self._writing:
                write_message(self._answers, message)
        except OSError:
            os._exit(0)  # the parent is gone
