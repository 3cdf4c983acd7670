"""What runs inside a process under test: calls to the disk that fail or kill at a chosen instant.

``serve`` is the program of a nursery: it has imported everything that ``clipsearch index``
needs, and forks a real process for every run it is asked for, so that hundreds of them cost a
second each and not four. A run puts itself under a ``Fault`` and calls ``clipsearch.cli.main``.
Nothing of the product knows of any of this.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import ctypes
import dataclasses
import errno
import importlib
import io
import json
import os
import re
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "CLIP_FAULT_RUN"
"""An environment variable that marks a run and every process it starts."""


@dataclass(frozen=True)
class Fault:
    """What happens at the ``at``-th call (from 1) that touches the folder ``index``.

    do : "kill before", "kill half" (of a write) or "kill after" the call; the name of an errno,
    which the call then fails with; the name of a signal that the process gets before the call;
    "fill" fills the disk with the file ``ballast`` first; "change" carries out ``changes``.
    only : the kinds of call that count: write, fsync, replace, rename, link, unlink, mkdir.
    match : a regular expression; only calls count of which it finds the path within the index.
    lasting : an errno also meets every later call that counts.
    changes : [what, path, argument]: ["unlink", p, ""], ["cut", p, bytes], ["copy", p, from].
    trace : a file that gets a line for every call: JSON of [kind, path, other path or null].
    """

    index: str
    at: int = 0
    do: str = ""
    only: tuple[str, ...] = ()
    match: str = ""
    lasting: bool = False
    changes: tuple[tuple[str, str, Any], ...] = ()
    ballast: str = ""
    trace: str = ""


class _Injector:
    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.owner = os.getpid()
        self.count = 0
        self.trace = (
            os.open(fault.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if fault.trace else None
        )

    def inside(self, path: str) -> bool:
        return path == self.fault.index or path.startswith(self.fault.index + os.sep)

    def call(
        self,
        kind: str,
        path: str,
        real: Callable[[], Any],
        *,
        other: str | None = None,
        half: Callable[[], Any] | None = None,
    ) -> Any:
        fault = self.fault
        inside = self.inside(path)
        if os.getpid() != self.owner or not (inside or path == os.path.dirname(fault.index)):
            return real()
        if self.trace is not None:
            os.write(self.trace, (json.dumps([kind, path, other]) + "\n").encode())
        if not inside or (fault.only and kind not in fault.only):
            return real()
        if re.search(fault.match, path[len(fault.index) + 1 :]) is None:
            return real()
        self.count += 1
        if not fault.at or self.count < fault.at or (self.count > fault.at and not fault.lasting):
            return real()
        match fault.do:
            case "kill before":
                _die()
            case "kill half":
                (half or real)()
                _die()
            case "kill after":
                real()
                _die()
            case "fill":
                _fill(fault.ballast)
            case "change":
                for what, place, argument in fault.changes:
                    _change(what, place, argument)
            case name if name.startswith("SIG"):
                os.kill(self.owner, signal.Signals[name])
                time.sleep(0)  # the handler runs here
            case name:
                if half is not None:
                    half()
                number = getattr(errno, name)
                raise OSError(number, os.strerror(number), path)
        return real()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(1)


def _fill(ballast: str) -> None:
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    for size in (65_536, 4096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)


def _change(what: str, place: str, argument: Any) -> None:
    if what == "unlink":
        os.unlink(place)
    elif what == "cut":
        os.truncate(place, argument)
    elif what == "copy":
        data = Path(argument).read_bytes()
        Path(place).write_bytes(data)
    else:
        raise ValueError(what)


def install(fault: Fault) -> None:
    """Put the rest of this process under ``fault``."""
    injector = _Injector(fault)
    real_fsync, real_open = os.fsync, builtins.open

    class HookedFile(io.FileIO):
        def write(self, data: Any) -> int:
            view = memoryview(data)
            real = super().write
            written: int = injector.call(
                "write",
                os.fspath(self.name) if isinstance(self.name, str | os.PathLike) else "",
                lambda: real(view),
                half=lambda: real(view.cast("B")[: view.nbytes // 2]),
            )
            return written

    def hooked_open(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        named = isinstance(file, str | os.PathLike)
        writes = not set(mode).isdisjoint("wxa+")
        if not named or not writes or not injector.inside(os.path.abspath(file)):
            return real_open(file, mode, *arguments, **options)
        plain = mode.replace("b", "").replace("t", "")
        raw = HookedFile(os.path.abspath(file), plain)
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding=options.get("encoding") or "utf-8")

    def hooked_fsync(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        injector.call("fsync", path, lambda: real_fsync(descriptor))

    def of_one_path(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(path: Any, *arguments: Any, **options: Any) -> Any:
            place = os.path.abspath(os.fsdecode(path))
            return injector.call(kind, place, lambda: real(path, *arguments, **options))

        return hooked

    def of_two_paths(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(source: Any, target: Any, **options: Any) -> Any:
            old, new = (os.path.abspath(os.fsdecode(path)) for path in (source, target))
            return injector.call(kind, new, lambda: real(source, target, **options), other=old)

        return hooked

    builtins.open = hooked_open
    io.open = hooked_open
    os.fsync = hooked_fsync
    for kind in ("replace", "rename", "link"):
        setattr(os, kind, of_two_paths(kind, getattr(os, kind)))
    for kind, name in (("unlink", "unlink"), ("unlink", "remove"), ("mkdir", "mkdir")):
        setattr(os, name, of_one_path(kind, getattr(os, name)))


# -- the nursery -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A run to be forked: the arguments after ``clipsearch``, and where its output goes.

    bound : permissions bind the run, even if it is root's.
    poll : (index, text cache, stop file): instead of the command line, ask that index over and
    over until the stop file is there, and print a line of JSON for every time.
    """

    mark: str
    arguments: tuple[str, ...]
    stdout: str
    stderr: str
    cwd: str
    fault: Fault | None = None
    bound: bool = False
    poll: tuple[str, str, str] | None = None


def job_from_dict(document: dict[str, Any]) -> Job:
    """A job as ``dataclasses.asdict`` and JSON made it."""
    fault = document.pop("fault")
    if fault is not None:
        fault = Fault(**{**fault, "only": tuple(fault["only"])})
    poll = document.pop("poll")
    return Job(**document, fault=fault, poll=tuple(poll) if poll else None)


def serve(descriptor: int) -> None:
    """Fork a run for every line of JSON that comes in; tell its process id, and how it ended."""
    import indexer.build
    import indexer.command  # noqa: F401
    from clipsearch.encoder import load_encoder

    for name in ("faiss", "pandas", "pillow_heif", "pyarrow.parquet"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    load_encoder("mini", device="cpu")  # and not once in every run
    connection = socket.socket(fileno=descriptor)
    pending = b""
    marks: dict[int, str] = {}

    def tell(document: dict[str, Any]) -> None:
        connection.sendall((json.dumps(document) + "\n").encode())

    tell({"ready": os.getpid()})
    while True:
        readable, _, _ = select.select([connection], [], [], 0.01)
        for pid, status in _ended(marks):
            tell({"mark": marks.pop(pid), "status": os.waitstatus_to_exitcode(status)})
        if not readable:
            continue
        data = connection.recv(65_536)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            job = job_from_dict(json.loads(line))
            pid = os.fork()
            if pid == 0:
                connection.close()
                _carry_out(job)
                return
            marks[pid] = job.mark
            tell({"mark": job.mark, "pid": pid})


def _ended(marks: Iterable[int]) -> list[tuple[int, int]]:
    ended = []
    for pid in list(marks):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended.append((pid, status))
    return ended


def _carry_out(job: Job) -> None:
    os.setsid()
    for path, flags, target in (
        (os.devnull, os.O_RDONLY, 0),
        (job.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1),
        (job.stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 2),
    ):
        opened = os.open(path, flags, 0o666)
        os.dup2(opened, target)
        os.close(opened)
    os.environ[MARK] = job.mark
    os.chdir(job.cwd)
    if job.bound:
        _heed_permissions()
    if job.fault is not None:
        install(job.fault)
    if job.poll is not None:
        _poll(*job.poll)
        return
    sys.argv = ["clipsearch", *job.arguments]
    from clipsearch.cli import main

    try:
        main()
    except SystemExit as end:
        # Threads are waited for and exit handlers run as ever; what is left out is the clearing
        # of a hundred thousand objects that the nursery made, which takes longer than the run.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def _heed_permissions() -> None:
    """Give up root's right to pass over permissions, here and in processes to be started."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    rights = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    for right in rights:
        libc.prctl(24, right, 0, 0, 0)  # PR_CAPBSET_DROP
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    for position in range(3):
        sets[position] &= ~sum(1 << right for right in rights)
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _poll(index: str, text_cache: str, stop: str) -> None:
    from clipsearch import open_index
    from clipsearch.errors import IndexNotFoundError

    kept = None
    while not os.path.exists(stop):
        seen: dict[str, Any] = {}
        try:
            opened = open_index(index, text_cache=Path(text_cache))
            hits = opened.search("a tower", k=5000)
            seen = {
                "count": len(opened),
                "hits": len(hits),
                "classified": len(opened.classify(["a cat", "a tower"], none="off")),
            }
            if kept is None:
                kept = opened
            elif kept.refresh() or kept.generation != opened.generation:
                # One that stays open answers as well, before and after it looks again.
                seen["kept"] = len(kept.search("a cat", k=5000))
        except IndexNotFoundError:
            seen["none"] = True
        except Exception as error:
            seen["error"] = f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps(seen) + "\n")
        sys.stdout.flush()


def as_line(job: Job) -> bytes:
    """A job as the nursery reads it."""
    return (json.dumps(dataclasses.asdict(job)) + "\n").encode()
