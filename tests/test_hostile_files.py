"""A folder of files that wish a reader ill: no crash, an exact account, bounded memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from clipsearch import open_index
from clipsearch.manifest import read_manifest
from clipsearch.store import LocalStore
from tests.hostile_files import ANY, BAD, IGNORED, INDEXED, MAKERS, Folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux", reason="names, pipes and memory are counted as Linux does"
    ),
]

_PROJECT = Path(__file__).resolve().parents[1]
_MEMORY = 3_000_000_000
_SECONDS = 240.0


@dataclass
class Outcome:
    """A run of ``clipsearch index``: how it ended, what it said, took, and needed."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int

    @property
    def account(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.stdout)
        return document


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started and that are still there."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def resident_bytes(pid: int) -> int:
    """The most memory a process has had so far; 0 when it is gone. (What wait4 says counts the
    parent's as well, from before the program was started.)"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def index(photos: Path, place: Path, logs: Path) -> Outcome:
    """Run the real command line, and measure the memory of its processes, all together."""
    program = "from clipsearch.cli import main; main()"
    path = os.pathsep.join([str(_PROJECT), os.environ.get("PYTHONPATH", "")])
    command = ["index", str(photos), "--index", str(place), "--model", "mini", "--json"]
    begin = time.monotonic()
    with open(logs / "out", "wb") as out, open(logs / "err", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=logs,
            env={**os.environ, "PYTHONPATH": path},
        )
        highest: dict[int, int] = {}
        while process.poll() is None:
            for pid in (process.pid, *children(process.pid)):
                highest[pid] = max(highest.get(pid, 0), resident_bytes(pid))
            time.sleep(0.02)
    return Outcome(
        process.returncode,
        (logs / "out").read_text("utf-8"),
        (logs / "err").read_text("utf-8"),
        time.monotonic() - begin,
        sum(highest.values()),
    )


def listing(folder: Path) -> list[tuple[bytes, int, int, int]]:
    """Everything below a folder: name, mode, size, time of change."""
    rows = []
    for top, folders, files in os.walk(os.fsencode(folder)):
        for name in [b".", *folders, *files]:
            info = os.lstat(os.path.join(top, name))
            rows.append((os.path.join(top, name), info.st_mode, info.st_size, info.st_mtime_ns))
    return sorted(rows)


@dataclass
class Hostile:
    """The files, and two runs over them."""

    folder: Folder
    place: Path
    before: list[tuple[bytes, int, int, int]]
    after: list[tuple[bytes, int, int, int]]
    first: Outcome
    second: Outcome
    cache: Path

    def became(self) -> dict[bytes, str]:
        """What became of every path, as the tables of the index say: indexed, or a reason."""
        manifest = read_manifest(LocalStore(self.place), str(self.place))
        became: dict[bytes, str] = {}
        for ref in manifest.paths:
            for row in pq.ParquetFile(self.place / ref.name).read().to_pylist():
                assert row["state"] == "present"
                became[row["path"]] = INDEXED
        assert manifest.skipped is not None
        for row in pq.ParquetFile(self.place / manifest.skipped.name).read().to_pylist():
            assert row["path"] not in became, "both indexed and skipped"
            assert row["message"]
            became[row["path"]] = row["reason"]
        return became


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    home = tmp_path_factory.mktemp("hostile")
    folder = Folder(home / "photos")
    folder.root.mkdir()
    held = [made for made in (maker(folder) for maker in MAKERS) if made]
    place = home / "x.index"
    before = listing(folder.root)
    first = index(folder.root, place, home)
    assert (place / "manifest.json").exists(), first.stderr[-2000:]
    kept = {path: path.stat().st_mtime_ns for path in place.rglob("*.parquet")}
    second = index(folder.root, place, home)
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*.parquet")} == kept
    yield Hostile(folder, place, before, listing(folder.root), first, second, home / "t.sqlite")
    for sockets in held:
        for one in sockets:
            one.close()


def test_there_are_enough_of_them(hostile: Hostile) -> None:
    kinds = Counter(path.split(b"/")[0] for path in hostile.folder.expected)
    assert sum(kinds.values()) >= 250
    assert len(kinds) == len(MAKERS) == 10
    damaged = [path for path, may in hostile.folder.expected.items() if may & BAD]
    assert len(damaged) >= 150


@pytest.mark.parametrize("run", ["first", "second"])
def test_no_crash(hostile: Hostile, run: str) -> None:
    outcome: Outcome = getattr(hostile, run)
    assert outcome.code == 3, outcome.stderr[-2000:]
    assert "Traceback" not in outcome.stderr
    assert "Error" not in outcome.stderr
    # Names with control characters must not steer a terminal.
    assert not set(outcome.stderr) & set(map(chr, [*range(9), *range(11, 32), 127]))


@pytest.mark.parametrize("run", ["first", "second"])
def test_exact_account(hostile: Hostile, run: str) -> None:
    account = getattr(hostile, run).account
    became = Counter(hostile.became().values())
    ignored = sum(may == {IGNORED} for may in hostile.folder.expected.values())
    assert account["found"] == len(hostile.folder.expected)
    assert account["ignored"] == ignored
    assert account["indexed"] + account["copies"] == became[INDEXED]
    assert account["copies"] == 0, "every good file has a content of its own"
    assert account["skip_reasons"] == {
        reason: count for reason, count in became.items() if reason != INDEXED
    }
    assert account["skipped"] == sum(account["skip_reasons"].values()) >= 100
    assert account["found"] == (
        account["indexed"] + account["copies"] + account["skipped"] + account["ignored"]
    )
    assert (account["missing"], account["unreadable"]) == (0, [])


def test_what_became_of_every_file(hostile: Hostile) -> None:
    became = hostile.became()
    wrong = {
        path: (became.get(path, IGNORED), sorted(may))
        for path, may in hostile.folder.expected.items()
        if became.get(path, IGNORED) not in may
    }
    assert wrong == {}
    assert became.keys() <= hostile.folder.expected.keys()
    certain = sum(len(may) == 1 for may in hostile.folder.expected.values())
    assert certain >= 130
    assert ANY > BAD


def test_the_good_ones_are_searched(hostile: Hostile) -> None:
    opened = open_index(hostile.place, text_cache=hostile.cache)
    good = {path for path, reason in hostile.became().items() if reason == INDEXED}
    hits = opened.search("a photo", k=2000)
    assert len(opened) == len(hits) == len(good) >= 100
    found = {
        os.path.relpath(os.fsencode(hit.path), os.fsencode(hostile.folder.root)) for hit in hits
    }
    assert found == good
    # "é" as one character and as two are two files, each by its own name.
    assert {"names/caf\u00e9.jpg".encode(), "names/cafe\u0301.jpg".encode()} <= found
    assert len(opened.classify(["a dog", "a house"])) == len(good)


def test_a_second_run_encodes_nothing(hostile: Hostile) -> None:
    assert hostile.first.account["new"] == hostile.first.account["indexed"]
    assert hostile.second.account["new"] == 0
    for name in ("found", "indexed", "copies", "skipped", "ignored", "generation", "skip_reasons"):
        assert hostile.second.account[name] == hostile.first.account[name]


def test_memory_and_time_are_bounded(hostile: Hostile) -> None:
    assert 50e6 < hostile.first.peak_bytes < _MEMORY
    assert hostile.second.peak_bytes < _MEMORY / 4
    assert hostile.first.seconds < _SECONDS
    assert hostile.second.seconds < _SECONDS / 4


def test_nothing_is_written_to_the_photos(hostile: Hostile) -> None:
    assert hostile.after == hostile.before
