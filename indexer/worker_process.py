"""One decoder process seen from its parent: starting it, asking it, and ending it in time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from clipsearch.errors import ClipsearchError
from indexer.decode_messages import READY, Message, read_message, write_message

if sys.platform == "linux":
    import fcntl

_PIPE_BYTES = 256 * 1024
"""More than the pixels and the thumbnail of one photo for an encoder of 224 or 256 pixels."""

_START_SECONDS = 60.0
_CLOSE_SECONDS = 2.0
_LOOK_SECONDS = 1.0

# Sent from outside to end a process; no decoder ends itself with them.
_NOT_THE_FILE = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


class WorkerEnded(Exception):
    """The process ended instead of answering.

    how : "signal SIGSEGV" or "exit code 3". is_overdue : it was ended because its time was up.
    is_outside : by a signal that somebody else sent.
    """

    def __init__(self, how: str, *, is_overdue: bool, is_outside: bool) -> None:
        super().__init__(how)
        self.how = how
        self.is_overdue = is_overdue
        self.is_outside = is_outside


class WorkerProcess:
    """A decoder process. One thread at a time may ask it; any may kill it.

    Raises ClipsearchError when the process cannot be started.
    """

    def __init__(self) -> None:
        self.is_usable = True
        self._is_overdue = False
        self._is_ready = False
        try:
            self._process = subprocess.Popen(
                python_command("indexer.decode_worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # What it says while it starts is the reason if it cannot; later it is silent.
                stderr=None if os.environ.get("CLIPSEARCH_DEBUG") else subprocess.PIPE,
                env={**os.environ, **_worker_settings()},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            raise ClipsearchError(f"the photo decoder cannot be started: {error}") from error
        _widen(self._process.stdout)

    def ask(self, request: Message, seconds: float) -> Message:
        """Send a request and wait for its answer, ``seconds`` at most.

        Raises WorkerEnded, after which the worker is good for nothing any more, and
        ClipsearchError when the process never got as far as taking requests.
        """
        if not self._is_ready:
            self._await_ready()
        self.is_usable = False  # and stays so if anything comes between request and answer
        with _WATCHDOG.limit(self, seconds):
            answer = self._exchange(request)
        if answer is None:
            self.kill()
            raise self._ended()
        self.is_usable = not self._is_overdue
        return answer

    def _await_ready(self) -> None:
        self.is_usable = False
        assert self._process.stdout is not None
        with _WATCHDOG.limit(self, _START_SECONDS):
            # What a sitecustomize prints comes before.
            while (line := self._process.stdout.readline()) not in (READY, b""):
                pass
        self._is_ready = line == READY
        if not self._is_ready:
            self._end()
            stderr = self._process.stderr
            said = stderr.read().decode("utf-8", "replace").split("\n") if stderr else []
            self._close_pipes()
            why = next((text.strip() for text in reversed(said) if text.strip()), None)
            if self._is_overdue:
                why = f"it was not ready after {_START_SECONDS:g} s"
            raise ClipsearchError(
                f"the photo decoder cannot be started: {why or self._ended().how}"
            )
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _exchange(self, request: Message) -> Message | None:
        """What the worker answers; None when it ended or does not make sense any more."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_message(self._process.stdin, request)
            return read_message(self._process.stdout)
        except (OSError, EOFError, ValueError):
            return None

    def _ended(self) -> WorkerEnded:
        code = self._process.wait()
        name = ""
        if code < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
        how = f"signal {name or -code}" if code < 0 else f"exit code {code}"
        return WorkerEnded(how, is_overdue=self._is_overdue, is_outside=name in _NOT_THE_FILE)

    def overdue(self) -> None:
        """End it because its time is up."""
        self._is_overdue = True
        self._process.kill()

    def kill(self) -> None:
        """End the process, whatever it does; how it ended by itself stays known."""
        self.is_usable = False
        self._end()
        self._close_pipes()

    def _end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            # A closed pipe comes a little before the end that it is the sign of.
            self._process.wait(0.5)
        self._process.kill()
        self._process.wait()

    def interrupt(self) -> None:
        """Kill it from another thread than the one that waits for its answer."""
        self._process.kill()

    def dismiss(self) -> None:
        """Let it end by itself; ``close`` waits for that."""
        self.is_usable = False
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def close(self) -> None:
        """End it in good order, or else by force."""
        self.dismiss()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not sent has no reader any more
                    pipe.close()


class _Watchdog:
    """Ends the workers whose time is up; one thread, started when it is first needed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[WorkerProcess, float] = {}
        self._is_running = False

    @contextmanager
    def limit(self, worker: WorkerProcess, seconds: float) -> Iterator[None]:
        """End the worker when the block takes longer."""
        with self._changed:
            self._deadlines[worker] = time.monotonic() + seconds
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._watch, name="decode-watchdog", daemon=True).start()
            elif len(self._deadlines) == 1 or seconds < _LOOK_SECONDS:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._deadlines.pop(worker, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                before = time.monotonic()
                soonest = min(self._deadlines.values(), default=None)
                if soonest is None:
                    self._changed.wait()
                    continue
                pause = min(max(soonest - before, 0.0), _LOOK_SECONDS)
                self._changed.wait(pause)
                now = time.monotonic()
                slept = now - before
                if slept > pause + _LOOK_SECONDS:
                    # The whole program was stopped, by Ctrl-Z or a laptop's lid, and its
                    # workers with it: that is no time a decoder took.
                    for worker in self._deadlines:
                        self._deadlines[worker] += slept
                    continue
                for worker in [each for each, at in self._deadlines.items() if at <= now]:
                    del self._deadlines[worker]
                    worker.overdue()


_WATCHDOG = _Watchdog()


def forget_watchdog() -> None:
    """After a fork: the watchdog's thread stayed in the parent."""
    global _WATCHDOG
    _WATCHDOG = _Watchdog()


def _worker_settings() -> dict[str, str]:
    """Environment variables of a worker."""
    return {
        # The processes share the cores among them; pools of threads would only wait.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        # Pillow keeps so many blocks of 16 MB (a picture of 16 megapixels) for the next picture.
        # Else the system maps and clears them anew each time, a third of a large JPEG's decoding.
        "PILLOW_BLOCKS_MAX": os.environ.get("PILLOW_BLOCKS_MAX", "4"),
    }


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe hold a whole answer, where the system lets: one wake-up instead of three."""
    if sys.platform == "linux" and pipe is not None:
        with contextlib.suppress(OSError):  # a user's pipes may hold only so much in all
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def python_command(module: str) -> list[str]:
    """The command line of a process that runs ``main`` of the module, and finds packages where
    this process finds them.

    -c rather than -m, because the program here may have been found by a changed ``sys.path``;
    -P, so that the current folder, which may hold anything, is not searched while it starts.
    """
    if not sys.executable:
        raise ClipsearchError("no other process can be started: no Python is known to do it")
    flags = ["-P"]
    for is_set, flag in (
        (sys.flags.isolated, "-I"),
        (sys.flags.ignore_environment, "-E"),
        (sys.flags.no_user_site, "-s"),
        (sys.flags.no_site, "-S"),
        (sys.flags.utf8_mode, "-Xutf8"),
    ):
        if is_set:
            flags.append(flag)
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        f"sys.path[:] = {_search_path()!a}; "
        f"from {module} import main; main()"
    )
    return [sys.executable, *flags, "-c", program]


def _search_path() -> list[str]:
    """``sys.path``, the current folder last unless this program itself is in it.

    A worker imports modules that this process has had for long: a photo folder with a
    ``queue.py`` in it would come before them now.
    """
    home = str(Path(__file__).resolve().parents[1])
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    entries = [entry or here for entry in sys.path if isinstance(entry, str)]
    entries = [entry for entry in entries if entry]
    strange = [entry for entry in entries if entry == here and os.path.realpath(entry) != home]
    return [entry for entry in entries if entry not in strange] + strange
