"""Shards dealt out to a process for each device, which a CPU counts as here."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipsearch.errors import ClipsearchError, OptionError
from indexer import build_index
from indexer.config import IndexConfig
from indexer.device_runner import DeviceRunner, parse_devices, runner_for
from indexer.encode_plan import EncodePlan
from indexer.report import Encoded, Event
from indexer.runner import LocalRunner
from indexer.stage_clock import StageClock
from indexer.task_watch import TaskWatch

_PROJECT = Path(__file__).resolve().parents[1]
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
PLAN = EncodePlan("torch", 8, 1, 1, 64)


@dataclass(frozen=True)
class Job:
    """A task as small as they come. what : what to do, beside squaring ``number``."""

    number: int
    what: str = ""
    file: str = ""
    device: str | None = None
    plan: EncodePlan = field(default_factory=lambda: PLAN)


def square(job: Job, watch: TaskWatch) -> tuple[int, str | None, int, int]:
    """Called in other processes."""
    watch.progress(1)
    watch.when_read()
    place = Path(job.file)
    match job.what:
        case "slow":
            time.sleep(0.5)
        case "fail":
            raise OptionError("no picture")
        case "odd":
            raise UnicodeDecodeError("utf-8", b"x", 0, 1, "odd")
        case "die":
            os._exit(7)
        case "die once" if not place.exists():
            place.touch()
            os._exit(7)
        case "hang":
            with place.open("a") as stream:
                print(os.getpid(), file=stream)
            time.sleep(600)
    watch.progress(1)
    return job.number**2, job.device, job.plan.workers, os.getpid()


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def waits_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def run(jobs: list[Job], devices: tuple[str, ...] = ("cpu", "cpu")) -> tuple[list[Any], int]:
    done: list[int] = []
    results = list(DeviceRunner(devices, done.append).run(square, jobs))
    return results, sum(done)


def test_results_come_in_order_from_both() -> None:
    jobs = [Job(number, "slow" if number == 0 else "") for number in range(12)]
    results, done = run(jobs, ("one", "two"))
    assert [result[0] for result in results] == [number**2 for number in range(12)]
    assert {result[1] for result in results} == {"one", "two"}
    assert len({result[3] for result in results}) == 2
    assert max(result[2] for result in results) <= max(1, (os.cpu_count() or 1) // 2)
    assert done == 24
    assert run([])[0] == []


def test_tasks_are_asked_for_a_bounded_number_ahead() -> None:
    asked: list[int] = []

    def jobs() -> Iterator[Job]:
        for number in range(30):
            asked.append(number)
            yield Job(number)

    results = DeviceRunner(("cpu", "cpu")).run(square, jobs())
    for taken, _ in enumerate(results):
        assert len(asked) <= taken + 7
        if taken == 9:
            break
    results.close()  # type: ignore[attr-defined]


def test_what_a_task_raises_comes_in_its_turn() -> None:
    results = DeviceRunner(("cpu", "cpu")).run(square, [Job(0, "slow"), Job(1, "fail"), Job(2)])
    assert next(results)[0] == 0
    with pytest.raises(OptionError, match=r"^no picture$"):
        next(results)
    with pytest.raises(Exception, match="odd"):
        run([Job(0, "odd")])


def test_a_process_that_ends_costs_nothing(tmp_path: Path) -> None:
    jobs = [Job(n, "die once" if n in (1, 4) else "", str(tmp_path / str(n))) for n in range(7)]
    results, done = run(jobs)
    assert [result[0] for result in results] == [number**2 for number in range(7)]
    assert done == 14  # nothing is counted twice
    assert (tmp_path / "1").exists()
    assert (tmp_path / "4").exists()


@pytest.mark.slow
def test_a_task_that_ends_two_processes_ends_the_run() -> None:
    results = DeviceRunner(("cpu", "cpu")).run(square, [Job(0), Job(1, "die")])
    with pytest.raises(ClipsearchError, match=r"ended \(exit code 7\), and so did another"):
        list(results)


def test_a_process_that_cannot_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.device_runner.python_command", lambda _: ["false"])
    with pytest.raises(ClipsearchError, match="the process for cpu cannot be started"):
        run([Job(0)])


@needs_proc
def test_closing_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    results = DeviceRunner(("cpu", "cpu")).run(
        square, [Job(0), Job(1, "hang", str(pids)), Job(2, "hang", str(pids))]
    )
    next(results)
    assert waits_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    results.close()  # type: ignore[attr-defined]
    assert all(is_gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.slow
@needs_proc
def test_killing_leaves_no_process(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = (
        "from indexer.device_runner import DeviceRunner; from tests.test_device_runner import *\n"
        f"list(DeviceRunner(('cpu', 'cpu')).run(square, [Job(n, 'hang', {str(pids)!r})"
        " for n in range(2)]))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=_PROJECT) as parent:
        assert waits_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        parent.send_signal(signal.SIGKILL)
    assert waits_for(lambda: all(is_gone(int(pid)) for pid in pids.read_text().split()), 10)


def test_devices_by_name() -> None:
    assert parse_devices(None) == (None,)
    assert parse_devices("cuda:1") == ("cuda:1",)
    assert parse_devices("cpu, cpu") == ("cpu", "cpu")
    with pytest.raises(OptionError, match=r"no device 'cuda:99' here: expected some of .*cpu"):
        parse_devices("cpu,cuda:99")
    assert all(name.startswith("cuda") or name == "cpu" for name in parse_devices("all"))
    for wrong in ("cpu,", ",", ""):
        with pytest.raises(OptionError, match="commas"):
            parse_devices(wrong)
    assert isinstance(runner_for(("cpu",), print, StageClock()), LocalRunner)
    assert isinstance(runner_for((None,), print, StageClock()), LocalRunner)
    assert isinstance(runner_for(("cpu", "cpu"), print, StageClock()), DeviceRunner)


@pytest.mark.slow
def test_an_index_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(90):
        noise = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((80, 60)).save(folder / f"{number:03d}.jpg")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    config = IndexConfig(backend="torch", batch_size=8, shard_seconds=0.001)
    heard: list[Event] = []
    tables = {}
    for device in ("cpu", "cpu,cpu"):
        heard.clear()
        place = tmp_path / f"{device}.index"
        report = build_index(
            folder, place, encoder="mini", device=device, config=config, on_event=heard.append
        )
        assert (report.new, report.skipped) == (90, 1)
        assert " busy" in report.verdict
        assert 0 < report.shares["decode"] <= 1
        assert 0 < report.shares["encode"] <= 1
        assert sum(event.count for event in heard if isinstance(event, Encoded)) == 91
        files = [*place.glob("images/*"), *place.glob("embeddings/*/*.parquet")]
        tables[device] = {
            str(file.relative_to(place)): pq.read_table(file) for file in sorted(files)
        }
    one, two = tables.values()
    assert list(one) == list(two)
    assert len(one) >= 4
    assert all(one[name].equals(two[name]) for name in one)


def processes_of(session: int) -> list[int]:
    """Those of a session that have not ended."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            told = (place / "stat").read_text().rpartition(")")[2].split()
            if int(told[3]) == session and told[0] != "Z":
                found.append(int(place.name))
    return found


@pytest.mark.slow
@needs_proc
def test_ctrl_c_ends_a_run_on_two_devices(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    stream = io.BytesIO()
    Image.effect_noise((2000, 1500), 60).convert("RGB").save(stream, "JPEG")
    for number in range(400):  # a decoder does not mind what follows the picture
        (folder / f"{number:03}.jpg").write_bytes(stream.getvalue() + str(number).encode())
    program = "import sys; from clipsearch.cli import main; sys.exit(main())"
    arguments = ["index", "photos", "--index", "x.index", "--model", "mini", "--backend", "torch"]
    arguments += ["--device", "cpu,cpu", "--progress", "json", "--batch-size", "4"]
    parent = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert parent.stderr is not None
        while line := parent.stderr.readline():
            if b'"encoded"' in line:
                break
        assert len(processes_of(parent.pid)) >= 3
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does it
        out, err = parent.communicate(timeout=60)
        assert parent.returncode == 130, err
        assert b"Interrupted. " in err
        assert b"Traceback" not in err
        assert out == b""
        assert waits_for(lambda: not processes_of(parent.pid), 10)
    finally:
        for pid in processes_of(parent.pid):
            os.kill(pid, signal.SIGKILL)
        parent.wait()
