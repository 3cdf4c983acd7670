"""The runner seam: another process carries out the same tasks and ends with the same index."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import open_index
from clipsearch.manifest import read_manifest
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.report import Encoded, Event
from indexer.runner import LocalRunner

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
