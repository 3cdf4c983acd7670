"""``clipsearch index`` as a process of its own, and what it tells on its way."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clipsearch
from clipsearch import errors
from ui.page_errors import public_message

log = logging.getLogger("clipsearch.ui")

_PROGRAM = "from clipsearch.cli import main; main()"
_INTERRUPTED = 130
_LOWER_PRIORITY = 10
_REPORTED = ("found", "indexed", "new", "copies", "skipped", "ignored", "missing", "moved")
_NOT_PASSED_ON = ("CLIPSEARCH_MODEL", "CLIPSEARCH_INDEX", "CLIPSEARCH_UI_PASSWORD")


class IndexProcess:
    """One run. ``document()`` tells at any time how far it is.

    arguments : those of ``clipsearch index``. title : what is indexed, for people.
    """

    def __init__(self, arguments: Sequence[str], title: str) -> None:
        self._title = title
        self._lock = threading.Lock()
        self._state = "looking"
        self._total = self._done = self._saved = 0
        self._verdict = ""
        self._error: str | None = None
        self._report: dict[str, Any] | None = None
        self._cancelled = False
        self._started = time.monotonic()
        self._encoding_since: float | None = None
        self._ended: float | None = None
        self._remarks: deque[str] = deque(maxlen=20)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, "index", "--progress", "json", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(),
            **_apart(),
        )
        if hasattr(os, "setpriority"):
            # People who search at the same time come first.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _LOWER_PRIORITY)
        self._listener = threading.Thread(target=self._listen, name="index-run", daemon=True)
        self._listener.start()

    @property
    def is_running(self) -> bool:
        """Whether it goes on still."""
        return self._listener.is_alive()

    def cancel(self) -> None:
        """Ask it to stop. It keeps what is finished, which may take it a few seconds."""
        with self._lock:
            if self._state in ("done", "failed", "cancelled") or self._cancelled:
                return
            self._cancelled = True
        # SIGTERM is to clipsearch what Ctrl-C is, and is heard even where the page was started
        # in the background of a script, which makes all that it starts deaf to SIGINT.
        number = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
        with contextlib.suppress(OSError):
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it has come."""
        self._listener.join(seconds)
        return not self._listener.is_alive()

    def document(self) -> dict[str, Any]:
        """state : looking (for files), encoding, finishing, done, failed or cancelled. done of
        total images; saved : how many of them can be searched. seconds since the start;
        seconds_left, None where that is not known. verdict : what encoding is bound by, such as
        "encode-bound, decode 34 % busy"; "" where that is not known. report : counts of what
        was done. error : a sentence."""
        with self._lock:
            now = time.monotonic() if self._ended is None else self._ended
            left = None
            if self._state == "encoding" and self._encoding_since is not None and self._done:
                each = (now - self._encoding_since) / self._done
                left = round(each * max(0, self._total - self._done), 1)
            return {
                "title": self._title,
                "state": self._state,
                "stopping": self._cancelled and self._ended is None,
                "total": self._total,
                "done": min(self._done, self._total),
                "saved": self._saved,
                "seconds": round(now - self._started, 1),
                "seconds_left": left,
                "verdict": self._verdict if self._state == "encoding" else "",
                "report": self._report,
                "error": self._error,
            }

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            try:
                told = json.loads(line)
            except ValueError:
                told = None
            if isinstance(told, dict) and "event" in told:
                self._hear(told)
            elif text := line.decode(errors="replace").rstrip():
                self._remarks.append(text)
        code = self._process.wait()
        with self._lock:
            self._ended = time.monotonic()
            if self._report is not None:
                self._state = "done"
            elif code == _INTERRUPTED or self._cancelled:
                self._state = "cancelled"
            else:
                self._state = "failed"
                self._error = self._error or public_message(Exception())[0]
                log.error("clipsearch index ended with %d:\n%s", code, "\n".join(self._remarks))

    def _hear(self, told: dict[str, Any]) -> None:
        with self._lock:
            match told["event"]:
                case "planned":
                    self._begin(told["new"])
                case "filling":
                    self._begin(told["images"])
                case "encoded":
                    self._done = told["done"]
                case "pace":
                    self._verdict = told["verdict"]
                case "committed":
                    self._saved = told["images"]
                case "finished":
                    self._state = "finishing"
                    self._report = {name: told[name] for name in _REPORTED}
                    self._report["skip_reasons"] = told["skip_reasons"]
                    self._report["verdict"] = told["verdict"]
                    self._report["images_per_second"] = round(
                        told["new"] / max(told["encode_seconds"], 1e-9), 2
                    )
                case "failed":
                    self._error = _told_publicly(told.get("error"), told.get("errno"))

    def _begin(self, images: int) -> None:
        self._state = "encoding"
        self._total, self._done = images, 0
        self._verdict = ""
        self._encoding_since = time.monotonic()


def _told_publicly(name: object, number: object) -> str:
    """What may be told of an error that the process named."""
    if number == errno.ENOSPC:
        return "The disk is full: make room and index again. What was done is kept."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "The index cannot be written: the terminal of clipsearch ui says what is missing."
    if name == "SourceError":
        return "There is no image in this folder that could be indexed."
    kind = getattr(errors, str(name), None)
    known = (errors.IndexLockedError, errors.IndexFormatError, errors.IndexReadError)
    if kind in (*known, errors.SpaceMismatchError):
        return public_message(kind(""))[0]
    if isinstance(kind, type) and issubclass(kind, errors.ModelError):
        return "The model cannot be loaded: the terminal of clipsearch ui says why."
    return public_message(Exception())[0]


def _environment() -> dict[str, str]:
    """That of this process, without what is its own affair; and no network."""
    environment = {name: text for name, text in os.environ.items() if name not in _NOT_PASSED_ON}
    # The same clipsearch as this one, wherever it was imported from.
    here = str(Path(clipsearch.__file__).resolve().parents[1])
    paths = [here, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environment["CLIPSEARCH_OFFLINE"] = "1"
    return environment


def _apart() -> dict[str, Any]:
    """A group of its own: Ctrl-C in the terminal is for the page, which then stops the run."""
    if sys.platform == "win32":
        return {
            "creationflags": subprocess.CREATE_NEW_PROCESS_GROUP
            | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        }
    return {"start_new_session": True}
