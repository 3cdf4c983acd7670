"""A command as a whole process: how long it takes, and how much memory at its peak."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CLIPSEARCH = (sys.executable, "-c", "from clipsearch.cli import main; main()")
"""The command ``clipsearch``, of the code that this benchmark lies beside."""
_PROJECT = Path(__file__).resolve().parents[1]
_SAMPLE_SECONDS = 0.004


@dataclass(frozen=True)
class Run:
    """One process. seconds : from its start to its end. peak : most memory it held, in bytes.
    anonymous : the most of it that was its own and no file's (RssAnon). Both are None where the
    system does not tell (anything but Linux)."""

    seconds: float
    peak: int | None
    anonymous: int | None
    output: str


class CommandFailed(RuntimeError):
    """A command that was to be measured did not succeed."""


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    allowed: Sequence[int] = (0,),
) -> Run:
    """Run ``command`` to its end, without a terminal. Raises CommandFailed on an exit code that
    is not ``allowed``, with the end of what it said."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment_of(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        memory = _Memory(process.pid)
        code = process.wait()
        seconds = time.perf_counter() - begin
        peak, anonymous = memory.stop()
        for file in (out, err):
            file.seek(0)
        output, said = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if code not in allowed:
        raise CommandFailed(f"{' '.join(map(str, command))} ended with {code}: {said[-2000:]}")
    return Run(seconds, peak, anonymous, output)


def environment_of(more: Mapping[str, str] | None) -> dict[str, str]:
    """This process's, with the code that this benchmark lies beside, and ``more``."""
    path = os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **(more or {})}


class _Memory:
    """Looks at a process every few milliseconds, from a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/status")
        self._peaks: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._file.exists():
            self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            try:
                status = self._file.read_text()
            except OSError:
                return
            for name, kib in re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB", status, re.M):
                self._peaks[name] = max(self._peaks.get(name, 0), 1024 * int(kib))

    def stop(self) -> tuple[int | None, int | None]:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        return self._peaks.get("VmHWM"), self._peaks.get("RssAnon")


def median_seconds(runs: Sequence[Run]) -> float:
    """The median time of several runs."""
    return statistics.median(run.seconds for run in runs)


def in_megabytes(size: int | None) -> str:
    """Bytes as "123 MB"; a dash where they are not known."""
    return "-" if size is None else f"{size / 1e6:,.0f} MB"


def available_memory() -> int | None:
    """Bytes that can be taken without driving anything out; None where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
