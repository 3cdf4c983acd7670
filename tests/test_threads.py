"""Work over threads: order, bounds, errors, and the count of who wants BLAS on one thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from clipsearch.threads import (
    _allotted_processors,
    in_order,
    single_threaded_blas,
    worker_count,
)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_their_tasks(workers: int) -> None:
    def slow_first(task: int) -> int:
        time.sleep(0.02 if task % 5 == 0 else 0)
        return task * task

    assert list(in_order(slow_first, range(23), workers)) == [n * n for n in range(23)]


@pytest.mark.parametrize(("look_ahead", "most"), [(None, 6), (0, 2), (20, 22)])
def test_only_a_few_tasks_are_taken_ahead(look_ahead: int | None, most: int) -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for task in range(100):
            taken.append(task)
            yield task

    results = in_order(lambda task: task, tasks(), 2, look_ahead)
    assert next(results) == 0
    assert most - 2 < len(taken) <= most
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= most


def test_what_a_task_raises_is_raised() -> None:
    def fails(task: int) -> int:
        if task == 3:
            raise ValueError("three")
        return task

    results = in_order(fails, range(50), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


def _blas_threads() -> set[int]:
    """Of NumPy's BLAS; FAISS may bring another, whose limit each thread has for itself."""
    return {
        int(lib["num_threads"])
        for lib in threadpool_info()
        if lib["user_api"] == "blas" and "numpy" in lib["filepath"]
    }


def test_blas_has_its_threads_again_after_the_last_user() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))  # its library is there
    with threadpool_limits(2, user_api="blas"):  # also where the tests share the processors
        _blas_has_its_threads_again()


def _blas_has_its_threads_again() -> None:
    before = _blas_threads()
    assert before == {2}
    with single_threaded_blas():  # another thread may set limits after this one has
        assert _blas_threads() == {1}
    assert _blas_threads() == before
    first_is_in, second_is_in, first_may_go = (threading.Event() for _ in range(3))
    seen: list[set[int]] = []

    def first() -> None:
        with single_threaded_blas():
            first_is_in.set()
            first_may_go.wait(10)

    def second() -> None:
        first_is_in.wait(10)
        with single_threaded_blas():
            second_is_in.set()
            one.join(10)
            seen.append(_blas_threads())

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    two.start()
    assert second_is_in.wait(10)
    first_may_go.set()
    two.join(10)
    assert seen == [{1}]
    assert _blas_threads() == before


@pytest.mark.parametrize(
    ("text", "allotted"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000\n", 2), ("5000 100000", 1),
     ("", None), ("100000 0", None)],
)  # fmt: skip
def test_a_container_is_worth_as_many_processors_as_it_is_allowed(
    text: str, allotted: int | None, tmp_path: Path
) -> None:
    limit = tmp_path / "cpu.max"
    assert _allotted_processors(limit) is None
    _allotted_processors.cache_clear()
    limit.write_text(text)
    assert _allotted_processors(limit) == allotted
    _allotted_processors.cache_clear()
    assert worker_count() >= 1
