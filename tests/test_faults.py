"""Kills, full disks, refusals and files that change under a run: what is promised afterwards.

Every run is a process of its own that ``tests.fault_injection`` hurts at a chosen instant. The
default suite takes a sample on 200 images; ``-m slow`` kills a run over a thousand at every
call that changes the disk, and at 50 random instants.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fault_injection import Fault
from tests.fault_runs import (
    BEGAN,
    Answers,
    Content,
    Nursery,
    Run,
    answers_of,
    assert_nothing_left,
    assert_same,
    assert_same_answers,
    assert_whole_or_absent,
    content_of,
    make_pictures,
    manifest_of,
    until,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the machinery looks into /proc and forks"
)

PARTIAL = 3
"""The exit code of a complete run over pictures of which some are damaged."""


@dataclass
class Scene:
    """Pictures, and all about a run over them that nothing disturbed."""

    nursery: Nursery
    folder: Path
    pictures: Path
    shard_seconds: float
    content: Content
    answers: Answers
    trace: list[tuple[str, str, str | None]]
    encoding_seconds: float

    @property
    def total(self) -> int:
        return len(self.content.images)

    @property
    def text_cache(self) -> Path:
        return self.folder / "text.sqlite"

    def place(self, name: str) -> Path:
        return self.folder / f"{name}.index"

    def command(self, place: Path) -> list[str]:
        return _command(self.pictures, place, self.shard_seconds)

    def start(self, place: Path, **fault: Any) -> Run:
        hurt = Fault(str(place), **fault) if fault else None
        return self.nursery.start(*self.command(place), fault=hurt)

    def run(self, place: Path, **fault: Any) -> Run:
        return self.nursery.wait(self.start(place, **fault))


def _command(pictures: Path, place: Path, shard_seconds: float) -> list[str]:
    # One back-end, so that vectors can be compared: "auto" goes by how fast the machine is.
    return ["index", str(pictures), "--index", str(place), "--model", "mini", "--backend", "torch",
            "--shard-seconds", str(shard_seconds), "--json"]  # fmt: skip


def _scene(nursery: Nursery, folder: Path, count: int, shard_seconds: float) -> Scene:
    pictures = make_pictures(folder / "pictures", count)
    place, trace = folder / "reference.index", folder / "trace"
    fault = Fault(str(place), trace=str(trace))
    run = nursery.start(*_command(pictures, place, shard_seconds), fault=fault)
    assert until(lambda: BEGAN in run.stderr)
    begin = time.monotonic()
    nursery.wait(run)
    seconds = time.monotonic() - begin
    assert run.code == PARTIAL, run.stderr
    content = content_of(place)
    assert len(content.images) == count == run.account["new"]
    assert run.account["copies"] >= 10
    assert len(content.skipped) == run.account["skipped"] >= 8
    calls = [tuple(json.loads(line)) for line in trace.read_text().splitlines()]
    answers = answers_of(place, folder / "text.sqlite")
    return Scene(nursery, folder, pictures, shard_seconds, content, answers, calls, seconds)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    started = Nursery(tmp_path_factory.mktemp("runs"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def small(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """200 images in shards of about 32, which is as small as they get."""
    return _scene(nursery, tmp_path_factory.mktemp("small"), 200, 0.01)


@pytest.fixture(scope="module")
def large(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """1,024 images in a handful of shards."""
    return _scene(nursery, tmp_path_factory.mktemp("large"), 1024, 0.9)


# -- what is promised after any interruption ---------------------------------------------------


def check_and_go_on(
    scene: Scene, place: Path, run: Run, arguments: list[str] | None = None
) -> None:
    """After ``run`` was cut short: no process stays, a reader finds whole generations, at most
    two shards are lost, the one being written and the next, and one plain run brings the very
    same index."""
    assert "Traceback" not in run.stderr, run.stderr
    assert until(lambda: not run.children(), 10), f"left behind: {run.children()}"
    committed = assert_whole_or_absent(place, scene.text_cache)
    if committed:
        named = {shard.name for shard in manifest_of(place).images}
        there = {f"images/{path.name}" for path in (place / "images").glob("*.parquet")}
        assert named <= there
        assert len(there - named) <= 2, "more than two shards have to be encoded again"
    again = scene.nursery.run(*(arguments or scene.command(place)))
    assert again.code == PARTIAL, again.stderr
    assert again.errors == []
    if arguments is None:
        assert again.account["new"] == scene.total - committed
    assert_complete(scene, place)


def assert_complete(scene: Scene, place: Path) -> None:
    """The index is row by row the one that nothing disturbed."""
    assert_same(content_of(place), scene.content)
    assert_same_answers(answers_of(place, scene.text_cache), scene.answers)
    assert_nothing_left(place)


def in_pairs(
    scene: Scene, cases: Iterable[tuple[str, Callable[[Path], bool]]]
) -> tuple[int, list[str]]:
    """Run every case on an index of its own, two at a time. How many cases really hurt their
    run (they return that), and what failed."""

    def one(case: tuple[str, Callable[[Path], bool]]) -> tuple[bool, str]:
        name, check = case
        place = Path(tempfile.mkdtemp(dir=scene.folder), "x.index")
        try:
            return check(place), ""
        except Exception as error:
            lines = (str(error).strip() or type(error).__name__).splitlines()
            where = traceback.extract_tb(error.__traceback__)[-1]
            return True, f"{name}: {where.line}: {' | '.join(lines[:6])[:700]}"
        finally:
            shutil.rmtree(place.parent)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(one, cases))
    return sum(hurt for hurt, _ in outcomes), [failure for _, failure in outcomes if failure]


def killed_at(scene: Scene, **fault: Any) -> Callable[[Path], bool]:
    def check(place: Path) -> bool:
        run = scene.run(place, **fault)
        if run.code == PARTIAL:  # it made fewer calls than that
            assert_complete(scene, place)
            return False
        assert run.code == -signal.SIGKILL, run.stderr
        check_and_go_on(scene, place, run)
        return True

    return check


def killed_after(scene: Scene, seconds: float) -> Callable[[Path], bool]:
    def check(place: Path) -> bool:
        run = scene.nursery.start_anew(*scene.command(place))
        assert until(lambda: BEGAN in run.stderr or run.code is not None, 120)
        time.sleep(seconds)
        if run.code is None:
            os.kill(run.pid, signal.SIGKILL)
        scene.nursery.wait(run)
        assert run.code in (PARTIAL, -signal.SIGKILL), run.stderr
        check_and_go_on(scene, place, run)
        return run.code == -signal.SIGKILL

    return check


def random_kills(scene: Scene, seeds: Iterable[int]) -> tuple[int, list[str]]:
    cases = []
    for seed in seeds:
        seconds = random.Random(seed).uniform(0, scene.encoding_seconds)
        cases.append((f"seed {seed}, killed after {seconds:.2f} s", killed_after(scene, seconds)))
    return in_pairs(scene, cases)


# -- kills -----------------------------------------------------------------------------------

_CHOSEN = [
    ("half an image shard", "kill half", "write", r"^images/", 2),
    ("a shard of vectors is there", "kill after", "link", r"^embeddings/", 3),
    ("before the manifest counts", "kill before", "replace", r"^manifest\.json$", 3),
    ("when the manifest counts", "kill after", "replace", r"^manifest\.json$", 2),
    ("half a manifest", "kill half", "write", r"^\.tmp-", 5),
    ("the copy of the first manifest", "kill before", "replace", r"^manifest\.copy\.json$", 1),
    ("half the rows of the matrix", "kill half", "write", r"^cache/vectors/.*\.f16$", 2),
    ("the last merge of the paths", "kill after", "link", r"-merged\.parquet$", 1),
]


@pytest.mark.slow
def test_killed_at_chosen_instants(small: Scene) -> None:
    hurt, failures = in_pairs(
        small,
        [
            (name, killed_at(small, do=do, only=(kind,), match=match, at=at))
            for name, do, kind, match, at in _CHOSEN
        ],
    )
    assert failures == []
    assert hurt == len(_CHOSEN)


@pytest.mark.parametrize(
    ("kind", "match"),
    [("link", r"^paths/0000001\.parquet$"), ("replace", r"^manifest\.json$")],
)
def test_killed_right_before_the_first_manifest(small: Scene, kind: str, match: str) -> None:
    """The first tables are there and no manifest: nothing is lost, and a plain run goes on."""
    place = small.place(f"first-{kind}")
    do = "kill after" if kind == "link" else "kill before"
    run = small.run(place, do=do, only=(kind,), match=match, at=1)
    assert run.code == -signal.SIGKILL
    assert not (place / "manifest.json").exists()
    check_and_go_on(small, place, run)


@pytest.mark.slow
def test_killed_at_a_few_random_instants(small: Scene) -> None:
    _, failures = random_kills(small, range(3))
    assert failures == []


@pytest.mark.slow
def test_killed_at_fifty_random_instants(large: Scene) -> None:
    hurt, failures = random_kills(large, range(100, 150))
    assert failures == []
    assert hurt >= 25, "too few of the kills came while the run was at work"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("do", "only"),
    [
        ("kill before", ()),
        ("kill half", ("write",)),
        ("kill after", ("replace", "link")),
    ],
)
def test_killed_at_every_call_that_changes_the_disk(
    large: Scene, do: str, only: tuple[str, ...]
) -> None:
    """Every write, fsync, rename, link, unlink and new folder of a whole run; "half" tears
    the writes, those of the manifest among them. After a call is before the next one, so that
    only what gives a file its name is taken from both sides."""
    kinds = [kind for kind, path, _ in large.trace if _in_index(path)]
    assert len(kinds) > 100
    assert {"write", "fsync", "replace", "link", "unlink", "mkdir"} <= set(kinds)
    count = sum(not only or kind in only for kind in kinds)
    cases = []
    for at in range(1, count + 1):
        cases.append((f"{do} call {at} of {count}", killed_at(large, do=do, only=only, at=at)))
    hurt, failures = in_pairs(large, cases)
    assert failures == []
    # How much a shard holds is measured, so that another run may take a few calls less.
    assert hurt >= 0.7 * count


def _in_index(path: str) -> bool:
    return "/reference.index" in path


# -- power cuts --------------------------------------------------------------------------------


def test_everything_is_on_the_disk_before_the_manifest_names_it(small: Scene) -> None:
    """The order of one run's calls: a power cut at any instant leaves the files that the
    manifest names, in folders that are there."""
    index = str(small.place("reference"))
    names = ("images", "embeddings", "paths", "skipped", "deleted", "manifest.json")
    truth = tuple(f"{index}/{name}" for name in names)
    safe_content: set[str] = set()
    unsafe_names: dict[str, str] = {}  # path -> the folder that still has to be synced
    commits = 0
    linked: set[str] = set()
    for kind, path, other in small.trace:
        if kind == "write":
            safe_content.discard(path)
        elif kind == "fsync":
            safe_content.add(path)
            unsafe_names = {name: at for name, at in unsafe_names.items() if at != path}
        elif kind == "mkdir" and (path == index or path.startswith(truth)):
            if path not in linked:
                unsafe_names[path] = os.path.dirname(path)
                linked.add(path)
        elif kind in ("link", "replace", "rename") and path.startswith(truth):
            assert other in safe_content, f"{path} got its name before its bytes were safe"
            if path == f"{index}/manifest.json":
                assert unsafe_names == {}, "the manifest names what a power cut could take"
                commits += 1
            linked.add(path)
            unsafe_names[path] = os.path.dirname(path)
    assert unsafe_names == {}
    assert commits == manifest_of(Path(index)).generation >= 6
    assert {f"{index}/{ref.name}" for ref in manifest_of(Path(index)).files()} <= linked


# -- Ctrl-C and SIGTERM ------------------------------------------------------------------------


def check_interrupted(scene: Scene, place: Path, run: Run) -> None:
    """It says what is saved and how to go on, and that command does."""
    assert run.code in (130, 128 + signal.SIGTERM), (run.code, run.stderr)
    lines = run.stderr.splitlines()
    (said,) = [number for number, line in enumerate(lines) if line.startswith("Interrupted.")]
    assert "go on with:" in lines[said]
    has_begun = (place / "manifest.json").exists()
    assert ("saved and searchable" in lines[said]) == has_begun
    words = shlex.split(lines[said + 1])
    assert words[0] == "clipsearch"
    check_and_go_on(scene, place, run, words[1:])


_BESIDES = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "kind", "match", "at"),
    [
        ("SIGINT", "write", r"^images/", 2),
        ("SIGTERM", "replace", r"^manifest\.json$", 2),
        pytest.param("SIGINT", "replace", r"^manifest\.json$", 2, marks=_BESIDES),
        pytest.param("SIGTERM", "write", r"^images/", 2, marks=_BESIDES),
        pytest.param("SIGINT", "fsync", r"^$", 1, marks=_BESIDES),
        pytest.param("SIGTERM", "fsync", r"^$", 1, marks=_BESIDES),
        pytest.param("SIGINT", "unlink", r"^embeddings/", 2, marks=_BESIDES),
        pytest.param("SIGINT", "write", r"^cache/", 4, marks=_BESIDES),
    ],
)
def test_a_signal_at_a_chosen_instant(
    small: Scene, name: str, kind: str, match: str, at: int
) -> None:
    where = "".join(filter(str.isalpha, match))
    place = small.place(f"{name}-{kind}-{where}-{at}")  # a new index each time
    run = small.run(place, do=name, only=(kind,), match=match, at=at)
    assert run.code != PARTIAL, "the signal was not heeded"
    check_interrupted(small, place, run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_twice_in_a_row(small: Scene, name: str) -> None:
    """As from a terminal: every process of the run gets them."""
    place = small.place(f"twice-{name}")
    run = small.start(place)
    assert until(lambda: (place / "images").is_dir())
    for _ in range(2):
        os.killpg(run.pid, signal.Signals[name])
        time.sleep(0.02)
    small.nursery.wait(run, 30)
    check_interrupted(small, place, run)


@pytest.mark.slow
def test_ctrl_c_at_many_instants(large: Scene) -> None:
    def interrupted(seconds: float) -> Callable[[Path], bool]:
        def check(place: Path) -> bool:
            run = large.start(place)
            assert until(lambda: BEGAN in run.stderr)
            time.sleep(seconds)
            if run.code is None:
                os.killpg(run.pid, signal.SIGINT)
            large.nursery.wait(run, 30)
            if run.code != PARTIAL:
                check_interrupted(large, place, run)
            return run.code == 130

        return check

    cases = []
    for seed in range(16):
        seconds = random.Random(seed).uniform(0, large.encoding_seconds)
        cases.append((f"seed {seed}, after {seconds:.2f} s", interrupted(seconds)))
    hurt, failures = in_pairs(large, cases)
    assert failures == []
    assert hurt >= 8


# -- a reader meanwhile ------------------------------------------------------------------------


def check_reader(scene: Scene, place: Path, kills: int, seed: int) -> None:
    """A process that opens, searches and classifies over and over while runs come and go."""
    stop = place.parent / f"{place.stem}.stop"
    reader = scene.nursery.start(poll=(str(place), str(scene.text_cache), str(stop)))
    rng = random.Random(seed)
    last = 0
    try:
        for _ in range(kills):
            run = scene.run(place, do="kill before", at=rng.randint(60, 160))
            assert run.code in (-signal.SIGKILL, PARTIAL), run.stderr
        run = scene.run(place)
        assert run.code == PARTIAL, run.stderr
        last = len(reader.stdout.splitlines())
        assert until(lambda: len(reader.stdout.splitlines()) > last + 3)
    finally:
        stop.touch()
    scene.nursery.wait(reader)
    assert reader.code == 0, reader.stderr
    seen = [json.loads(line) for line in reader.stdout.splitlines()]
    assert [one for one in seen if "error" in one] == []
    answered = [one for one in seen if "count" in one]
    assert answered == seen[-len(answered) :], "the index was there, and then it was not"
    counts = [one["count"] for one in answered]
    assert counts == sorted(counts), "the count shrank"
    assert counts[-1] == scene.total
    assert len(set(counts)) >= 3, "the reader saw too little of the run"
    for one in answered:
        assert one["classified"] == one["count"]
        # Opened at one generation; the words are searched in that one or in a newer one.
        assert one["hits"] >= one["count"]
    assert_complete(scene, place)


@pytest.mark.slow
def test_a_reader_beside_a_run_that_is_killed(small: Scene) -> None:
    check_reader(small, small.place("read"), kills=1, seed=1)


@pytest.mark.slow
def test_a_reader_beside_many_kills(large: Scene) -> None:
    check_reader(large, large.place("read"), kills=10, seed=2)


# -- a full disk, refused calls ----------------------------------------------------------------


def failing(scene: Scene, **fault: Any) -> Callable[[Path], bool]:
    def check(place: Path) -> bool:
        run = scene.run(place, **fault)
        assert "Traceback" not in run.stderr, run.stderr
        if run.code == PARTIAL:  # the call could be done without, or never came
            assert run.errors == []
            assert_same(content_of(place), scene.content)
            return False
        assert run.code == 2, (run.code, run.stderr)
        assert len(run.errors) == 1, run.stderr
        assert run.stderr.splitlines()[-1] == run.errors[0], run.stderr
        if fault["do"] == "ENOSPC":
            assert "disk is full" in run.errors[0]
        check_and_go_on(scene, place, run)
        return True

    return check


_FULL = ("write", "mkdir", "link", "replace")


@pytest.mark.slow
def test_a_full_disk_at_chosen_instants(small: Scene) -> None:
    chosen = [("^images/", 1), ("^paths/", 6), (r"^\.tmp-", 3), (r"^cache/vectors/.*\.f16$", 3)]
    hurt, failures = in_pairs(
        small,
        [
            (f"{match} {at}", failing(
                small, do="ENOSPC", only=_FULL, match=match, at=at, lasting=True
            ))
            for match, at in chosen
        ],
    )  # fmt: skip
    assert failures == []
    assert hurt == len(chosen)


@pytest.mark.slow
def test_a_full_disk_at_every_write(small: Scene) -> None:
    count = sum(kind in _FULL and _in_index(path) for kind, path, _ in small.trace)
    assert count > 80
    cases = [
        (f"from call {at} of {count}", failing(
            small, do="ENOSPC", only=_FULL, at=at, lasting=True
        ))
        for at in range(1, count + 1)
    ]  # fmt: skip
    hurt, failures = in_pairs(small, cases)
    assert failures == []
    assert hurt >= 0.7 * count


@pytest.mark.slow
@pytest.mark.parametrize("do", ["EACCES", "EIO"])
def test_a_call_that_fails_once(small: Scene, do: str) -> None:
    """At every fourth call. What only tidies up, or has another way, may fail unnoticed."""
    count = sum(_in_index(path) for _, path, _ in small.trace)
    cases = [(f"call {at} of {count}", failing(small, do=do, at=at)) for at in range(1, count, 4)]
    hurt, failures = in_pairs(small, cases)
    assert failures == []
    assert hurt >= len(cases) // 3


def test_a_call_that_fails_while_a_shard_is_committed(small: Scene) -> None:
    match = r"^(\.tmp-|manifest\.json$)"
    cases = [
        ("EIO", failing(small, do="EIO", only=("fsync",), match=match, at=3)),
        ("EACCES", failing(small, do="EACCES", only=("replace",), match=match, at=3)),
    ]
    hurt, failures = in_pairs(small, cases)
    assert failures == []
    assert hurt == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_is_really_full(small: Scene, small_disk: Path) -> None:
    place, ballast = small_disk / "x.index", small_disk / "ballast"
    run = small.run(place, do="fill", only=("write",), match="^images/", at=3, ballast=str(ballast))
    assert shutil.disk_usage(small_disk).free < 1_000_000
    assert run.code == 2, run.stderr
    (error,) = run.errors
    assert "disk is full" in error
    # With the disk as full as it is, what was committed answers.
    committed = assert_whole_or_absent(place, small.text_cache)
    assert 32 <= committed < small.total
    again = small.run(place)
    assert again.code == 2, "there is still no room"
    assert len(again.errors) == 1
    assert assert_whole_or_absent(place, small.text_cache) >= committed
    ballast.unlink()
    check_and_go_on(small, place, run)


def test_too_small_a_disk_is_told_beforehand(small: Scene, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(14_000_000))
    run = small.run(small_disk / "x.index")
    assert run.code == 2
    assert len(run.errors) == 1
    assert "make room" in run.errors[0]
    assert os.listdir(small_disk) == ["ballast"]


# -- permissions -------------------------------------------------------------------------------


def test_permissions(nursery: Nursery, tmp_path: Path) -> None:
    """Photos and folders that may not be read are counted and come later; an index that may not
    be written to is one line and exit 2."""

    def run_bound(*arguments: str | Path) -> Run:
        return nursery.run(*arguments, bound=True)

    pictures, place = make_pictures(tmp_path / "pictures", 60), tmp_path / "x.index"
    photo, folder = pictures / "0004.jpg", pictures / "2024" / "summer"
    assert photo.is_file()
    hidden = {path for path in folder.iterdir() if path.suffix in (".jpg", ".png", ".webp")}
    photo.chmod(0)
    folder.chmod(0)
    run = run_bound("index", pictures, "--index", place, "--model", "mini", "--json")
    assert run.code == PARTIAL, run.stderr
    assert run.account["skip_reasons"]["unreadable"] == 1
    assert [path for path, _ in run.account["unreadable"]] == [str(folder)]
    assert f"Could not list {folder}" in run.stderr
    account = run.account
    assert account["found"] == (
        account["indexed"] + account["copies"] + account["skipped"] + account["ignored"]
    )
    first = content_of(place)
    assert [path for _, path, _, reason in first.skipped if reason == "unreadable"] == [b"0004.jpg"]
    assert not any(path.startswith(b"2024/summer/") for _, path in first.paths)

    photo.chmod(0o644)
    folder.chmod(0o755)
    run = run_bound("index", pictures, "--index", place, "--json")
    assert run.account["new"] >= 1 + len(hidden) // 2
    assert run.account["unreadable"] == []
    assert run.account["indexed"] == 60
    full = content_of(place)
    assert len(full.images) == 60
    assert {row[3] for row in full.paths.values()} == {"present"}

    # What cannot be looked at is not gone.
    folder.chmod(0)
    run = run_bound("index", pictures, "--index", place, "--json")
    assert run.code == PARTIAL
    assert (run.account["missing"], run.account["new"]) == (0, 0)
    assert content_of(place).paths == full.paths
    folder.chmod(0o755)

    shutil.copyfile(pictures / "2023" / "0005.jpg", pictures / "changed.jpg")
    with open(pictures / "changed.jpg", "ab") as file:
        file.write(b"\0" * 10)
    for inside in ("", "images", "paths"):
        (place / inside).chmod(0o555)
        run = run_bound("index", pictures, "--index", place, "--json")
        (place / inside).chmod(0o755)
        assert run.code == 2, (inside, run.stderr)
        assert len(run.errors) == 1, run.stderr
        assert str(place) in run.errors[0]
        assert "ermission" in run.errors[0]
        assert "Traceback" not in run.stderr
        assert content_of(place).images == full.images
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    run = run_bound("index", pictures, "--index", locked / "y.index", "--model", "mini")
    assert run.code == 2
    assert len(run.errors) == 1
    assert str(locked) in run.errors[0]
    run = run_bound("index", pictures, "--index", place, "--json")
    assert run.account["new"] == 1
    assert_nothing_left(place)


# -- files that change under a run -------------------------------------------------------------


@pytest.mark.slow
def test_files_that_vanish_and_change_while_a_run_goes_on(small: Scene, tmp_path: Path) -> None:
    """They change right before the second shard is written: later ones are not read yet."""
    pictures = Path(shutil.copytree(small.pictures, tmp_path / "pictures"))
    place = tmp_path / "x.index"
    before = content_of(small.place("reference"))
    order = sorted(before.paths, key=lambda key: before.paths[key][2])
    ids = [before.paths[key][2] for key in order]
    alone = [os.fsdecode(path) for (_, path), id_ in zip(order, ids, strict=True)
             if ids.count(id_) == 1]  # fmt: skip
    late = [str(pictures / name) for name in alone if name.endswith(".jpg")][-40:]
    gone, cut, emptied, replaced, early = late[:5], late[5:8], late[8:10], late[10:15], alone[0]
    changes: list[tuple[str, str, Any]] = [("unlink", path, "") for path in gone]
    changes += [("cut", path, os.path.getsize(path) // 2) for path in cut]
    changes += [("cut", path, 0) for path in emptied]
    others = [str(small.pictures / name) for name in alone[20:25]]
    changes += [("copy", path, other) for path, other in zip(replaced, others, strict=True)]
    changes.append(("unlink", str(pictures / early), ""))
    fault = Fault(str(place), do="change", only=("write",), match="^images/", at=2,
                  changes=tuple(changes))  # fmt: skip
    command = _command(pictures, place, small.shard_seconds)
    run = small.nursery.run(*command, fault=fault)
    assert run.code == PARTIAL, run.stderr
    assert run.errors == []
    account = run.account
    assert account["found"] == (
        account["indexed"] + account["copies"] + account["skipped"] + account["ignored"]
    )
    content = content_of(place)
    reasons = {os.fsdecode(path): reason for _, path, _, reason in content.skipped}
    names = {path: os.path.relpath(path, pictures) for path in late}
    assert {reasons.get(names[path]) for path in gone} == {"vanished"}
    assert {reasons.get(names[path]) for path in cut} == {"truncated"}
    assert {reasons.get(names[path]) for path in emptied} == {"empty"}
    assert account["skip_reasons"]["vanished"] == 5

    again = small.nursery.run(*command)
    assert again.code == PARTIAL
    assert again.errors == []
    content = content_of(place)
    shas = {id_: row["sha256"] for id_, row in content.images.items()}
    present = {os.fsdecode(path): shas[row[2]] for (_, path), row in content.paths.items()
               if row[3] == "present"}  # fmt: skip
    good = {}
    wrong = {os.fsdecode(path) for _, path, _, _ in content.skipped}
    for path in pictures.rglob("*"):
        name = str(path.relative_to(pictures))
        if path.suffix in (".jpg", ".png", ".webp") and name not in wrong:
            good[name] = hashlib.sha256(path.read_bytes()).digest()
    assert present == good
    assert len(wrong) == len(before.skipped) + 5, "the gone ones are no longer counted"
    missing = {os.fsdecode(path) for (_, path), row in content.paths.items() if row[3] == "missing"}
    assert missing == {early}
    assert_nothing_left(place)
