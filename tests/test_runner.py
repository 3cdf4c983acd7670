"""The runner seam: another process carries out the same tasks and ends with the same index."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import pytest

import indexer.build
import indexer.estimate
import indexer.shard_task
from clipsearch import open_index
from clipsearch.manifest import read_manifest
from clipsearch.shards import write_shard
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.config import IndexConfig
from indexer.encode_plan import EncodePlan
from indexer.report import Encoded, Event
from indexer.runner import LocalRunner, closed_at_the_end
from indexer.shard_task import ShardTask
from indexer.task_watch import UNWATCHED, TaskWatch

Task = TypeVar("Task")
Result = TypeVar("Result")


class ProcessRunner:
    """Tasks and results cross a process boundary, as they would to another machine."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            yield from pool.map(function, tasks)


def test_local_runner_keeps_order_and_is_lazy() -> None:
    seen: list[int] = []

    def double(task: int) -> int:
        seen.append(task)
        return 2 * task

    results = LocalRunner().run(double, iter([3, 1, 2]))
    assert next(results) == 6
    assert seen == [3]
    assert list(results) == [2, 4]


# -- tasks that overlap -------------------------------------------------------------------------

_DEADLOCK = 20  # seconds; nothing here takes one


def _heard(counts: list[int]) -> LocalRunner:
    return LocalRunner(counts.append)


def test_results_come_in_order_and_progress_in_the_thread_that_asks() -> None:
    threads: set[int] = set()
    counts: list[int] = []

    def progress(count: int) -> None:
        threads.add(threading.get_ident())
        counts.append(count)

    def work(task: int, watch: TaskWatch = UNWATCHED) -> int:
        watch.progress(task)
        watch.when_read()
        time.sleep(0.02 if task == 3 else 0)  # the second is done before the first
        return 2 * task

    assert list(LocalRunner(progress).run(work, iter([3, 1, 2]))) == [6, 2, 4]
    assert sorted(counts) == [1, 2, 3]
    assert threads == {threading.get_ident()}


def test_the_next_task_reads_while_the_last_is_written_and_taken_in() -> None:
    """The first is written only once the second reads, and the second result is there only after
    the third reads, while the first is taken in: without overlapping this would hang."""
    reads = [threading.Event() for _ in range(4)]

    def work(task: int, watch: TaskWatch = UNWATCHED) -> int:
        reads[task].set()
        watch.when_read()
        if task == 0:
            assert reads[1].wait(_DEADLOCK)
        return task

    results = _heard([]).run(work, range(4))
    assert next(results) == 0
    assert list(results) == [1, 2, 3]


def test_a_task_waits_until_the_one_before_has_read() -> None:
    read: list[int] = []
    may_end = threading.Event()

    def work(task: int, watch: TaskWatch = UNWATCHED) -> list[int]:
        seen = list(read)
        if task == 0:
            assert not may_end.wait(0.5)
        read.append(task)
        watch.when_read()
        return seen

    assert list(_heard([]).run(work, range(5))) == [list(range(n)) for n in range(5)]


def test_two_tasks_at_a_time_at_most_and_none_far_ahead() -> None:
    lock = threading.Lock()
    running, most, begun = 0, 0, 0

    def tasks() -> Iterator[int]:
        yield from range(12)

    def work(task: int, watch: TaskWatch = UNWATCHED) -> int:
        nonlocal running, most, begun
        with lock:
            running += 1
            begun += 1
            most = max(most, running)
        watch.when_read()
        time.sleep(0.005)
        with lock:
            running -= 1
        return task

    for taken, result in enumerate(_heard([]).run(work, tasks())):
        assert result == taken
        time.sleep(0.02)
        with lock:
            assert begun <= taken + 2
    assert most == 2


def test_an_error_comes_in_its_turn_and_stops_what_is_behind_it() -> None:
    second_stopped = threading.Event()
    begun: list[int] = []

    def work(task: int, watch: TaskWatch = UNWATCHED) -> int:
        begun.append(task)
        watch.when_read()
        if task == 1:
            raise ValueError("the second")
        if task == 2:
            until = time.monotonic() + _DEADLOCK
            while not watch.is_stopped() and time.monotonic() < until:
                time.sleep(0.005)
            second_stopped.set()
            raise CancelledError
        return task

    results = _heard([]).run(work, range(9))
    assert next(results) == 0
    with pytest.raises(ValueError, match="the second"):
        next(results)
    assert begun in ([0, 1], [0, 1, 2])
    assert second_stopped.is_set() == (2 in begun)
    assert _task_threads() == []


def _task_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "shard"]


def test_an_error_of_the_tasks_comes_after_the_results_before_it() -> None:
    def tasks() -> Iterator[int]:
        yield 7
        raise OSError("no more")

    def work(task: int, watch: TaskWatch = UNWATCHED) -> int:
        return task

    results = _heard([]).run(work, tasks())
    assert next(results) == 7
    with pytest.raises(OSError, match="no more"):
        next(results)


@pytest.mark.parametrize("where", ["taken in", "progress"])
def test_an_interrupt_stops_what_is_under_way_and_waits_for_it(where: str) -> None:
    stopped: list[int] = []

    def progress(count: int) -> None:
        if where == "progress":
            raise KeyboardInterrupt

    def work(task: int, watch: TaskWatch = UNWATCHED) -> int:
        if task == 0 and where == "taken in":
            return task
        watch.progress(1)
        until = time.monotonic() + _DEADLOCK
        while not watch.is_stopped() and time.monotonic() < until:
            time.sleep(0.005)
        stopped.append(task)
        raise CancelledError

    def take_in() -> None:
        with closed_at_the_end(LocalRunner(progress).run(work, range(9))) as results:
            for _ in results:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_in()
    # A task that had not begun is not begun any more.
    assert stopped in ([0], [1], [])
    assert where == "taken in" or stopped == [0]
    assert _task_threads() == []


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads here")
def test_a_second_interrupt_does_not_leave_a_task_at_work_behind() -> None:
    is_told = threading.Event()

    def work(task: int, watch: TaskWatch = UNWATCHED) -> int:
        watch.progress(1)
        until = time.monotonic() + _DEADLOCK
        while not watch.is_stopped() and time.monotonic() < until:
            time.sleep(0.005)
        is_told.set()
        time.sleep(0.2)  # as long as the call of the encoder takes that is under way
        raise CancelledError

    def press_again() -> None:
        is_told.wait(_DEADLOCK)
        for _ in range(3):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.03)

    def progress(count: int) -> None:
        raise KeyboardInterrupt

    impatient = threading.Thread(target=press_again)
    impatient.start()
    with (
        pytest.raises(KeyboardInterrupt),
        closed_at_the_end(LocalRunner(progress).run(work, range(9))) as results,
    ):
        next(results)
    assert _task_threads() == []
    impatient.join()


# -- whole runs --------------------------------------------------------------------------------


def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer.estimate, "_PROBE_IMAGES", 2)
    monkeypatch.setattr(indexer.estimate, "_SHARD_ROWS", (4, 4))


def _tables(place: Path) -> dict[str, list[Any]]:
    """The rows of every shard, by its name."""
    manifest = read_manifest(LocalStore(place), "")
    refs = [*manifest.images, *manifest.embeddings[str(manifest.default_space)]]
    return {ref.name: pq.read_table(place / ref.name).to_pylist() for ref in refs}


def test_overlapping_makes_the_very_tables_of_one_task_after_the_other(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And several calls of the encoder at a time those of one, bit for bit."""
    _small_shards(monkeypatch)
    (pictures / "broken.jpg").write_bytes(b"no picture")
    config = IndexConfig(batch_size=3)
    build_index(pictures, tmp_path / "many.index", encoder="mini", config=config)
    monkeypatch.setattr(
        indexer.build, "default_plan", lambda *_, **__: EncodePlan("torch", 3, 1, 1, 1)
    )
    build_index(
        pictures, tmp_path / "one.index", encoder="mini", config=config, runner=LocalRunner()
    )
    many, one = _tables(tmp_path / "many.index"), _tables(tmp_path / "one.index")
    assert len(many) >= 4
    assert many == one


def test_a_run_reads_the_next_shard_while_one_is_written_and_committed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first shard is not written before the second is read from; nor is the first committed."""
    _small_shards(monkeypatch)
    reading: dict[int, threading.Event] = {0: threading.Event(), 1: threading.Event()}
    real_sources, real_write = ShardTask.sources, write_shard
    waited: list[str] = []

    def sources(task: ShardTask) -> Any:
        reading.setdefault(task.number, threading.Event()).set()
        return real_sources(task)

    def write(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "images/00000.parquet":
            assert reading[1].wait(_DEADLOCK)
            waited.append(name)
        return real_write(store, name, *arguments, **options)

    monkeypatch.setattr(ShardTask, "sources", sources)
    monkeypatch.setattr(indexer.shard_task, "write_shard", write)
    report = build_index(pictures, tmp_path / "x.index", encoder="mini")
    assert waited == ["images/00000.parquet"]
    assert report.new == len(open_index(tmp_path / "x.index"))


def test_a_shard_that_cannot_be_written_ends_the_run_with_what_was_committed(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _small_shards(monkeypatch)
    place = tmp_path / "x.index"
    real_write = write_shard
    written: list[str] = []

    def write(store: Any, name: str, *arguments: Any, **options: Any) -> Any:
        written.append(name)
        if name == "images/00001.parquet":
            raise OSError(28, "No space left on device")
        return real_write(store, name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(indexer.shard_task, "write_shard", write)
        with pytest.raises(OSError, match="No space left"):
            build_index(pictures, place, encoder="mini")
    assert _task_threads() == []
    assert len(open_index(place)) == 4, "the shard before it is kept"
    assert [name for name in written if name.startswith("images/")][:2] == [
        "images/00000.parquet",
        "images/00001.parquet",
    ]
    build_index(pictures, place)
    assert len(open_index(place)) == 9
    assert not list(place.rglob(".tmp-*"))


@pytest.mark.slow
def test_another_process_makes_the_same_index(pictures: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here.index", tmp_path / "there.index"
    build_index(pictures, here, encoder="mini")
    events: list[Event] = []
    report = build_index(
        pictures, there, encoder="mini", runner=ProcessRunner(), on_event=events.append
    )
    assert report.new == len(open_index(here))
    assert sum(event.count for event in events if isinstance(event, Encoded)) == report.new
    tables = []
    for place in (here, there):
        manifest = read_manifest(LocalStore(place), "")
        (shard,) = manifest.embeddings[str(manifest.default_space)]
        tables.append(pq.read_table(place / shard.name))
    assert tables[0]["id"].equals(tables[1]["id"])
    vectors = [
        np.stack([np.frombuffer(row.as_py(), "<f2") for row in table["embedding"]]).astype("f4")
        for table in tables
    ]
    assert (np.einsum("ij,ij->i", *vectors) > 0.999).all()
    lengths = [np.linalg.norm(rows, axis=1) for rows in vectors]
    cosines = np.einsum("ij,ij->i", *vectors) / (lengths[0] * lengths[1])
    assert cosines.min() >= 0.99999
