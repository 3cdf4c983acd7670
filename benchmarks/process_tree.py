"""The memory of a command with all the processes that it starts, while it runs. Linux only."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import CommandFailed, environment_of

_FIELDS = {"Pss": "shared", "Pss_Anon": "anonymous", "Rss": "resident"}


@dataclass(frozen=True)
class Sample:
    """All processes of a command at one moment, in bytes.

    shared : what they take of the machine's memory, files mapped by several of them counted once
    (PSS). anonymous : the part of it that is no file's. resident : the sum of what each holds
    (RSS), with the shared part counted by each. command : the anonymous part of the first process.
    """

    seconds: float
    processes: int
    shared: int
    anonymous: int
    resident: int
    command: int


@dataclass(frozen=True)
class TreeRun:
    """A command that has ended. processor : seconds of all processors that it and what it started
    took, which other work on the machine changes little."""

    seconds: float
    processor: float
    output: str
    samples: list[Sample]

    def peak(self, name: str) -> int:
        """The most of one of the fields of ``Sample``; 0 where nothing was seen."""
        return max((getattr(sample, name) for sample in self.samples), default=0)


def run_tree(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    every: float = 1.0,
    allowed: Sequence[int] = (0,),
) -> TreeRun:
    """Run ``command`` to its end and look at it ``every`` so many seconds. Raises CommandFailed on
    an exit code that is not ``allowed``."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before = _processor_seconds()
        begin = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment_of(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        samples = []
        while True:
            try:
                code = process.wait(timeout=every)
                break
            except subprocess.TimeoutExpired:
                samples.append(_sample(process.pid, time.perf_counter() - begin))
        seconds = time.perf_counter() - begin
        for file in (out, err):
            file.seek(0)
        output, said = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if code not in allowed:
        raise CommandFailed(f"{' '.join(map(str, command))} ended with {code}: {said[-2000:]}")
    return TreeRun(seconds, _processor_seconds() - before, output, samples)


def _processor_seconds() -> float:
    """Of all processes that this one started and that have ended, with those they started."""
    times = os.times()
    return times.children_user + times.children_system


def _sample(pid: int, seconds: float) -> Sample:
    sums = dict.fromkeys(_FIELDS.values(), 0)
    processes = first = 0
    for one in _tree(pid):
        try:
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        except OSError:  # it has just ended
            continue
        processes += 1
        for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.M):
            if name in _FIELDS:
                sums[_FIELDS[name]] += 1024 * int(kib)
                if one == pid and name == "Pss_Anon":
                    first = 1024 * int(kib)
    return Sample(seconds, processes, command=first, **sums)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in _children_files(pid):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _children_files(pid: int) -> list[Path]:
    try:
        return [
            Path(f"/proc/{pid}/task/{task}/children") for task in os.listdir(f"/proc/{pid}/task")
        ]
    except OSError:
        return []


def bytes_in(folder: Path) -> int:
    """Of all files in a folder and below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
