"""The runner seam: where shard tasks are carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class Runner(Protocol):
    """Carries out one function over many tasks, wherever it likes.

    Results come in the order of the tasks, each as soon as it and all before it are there.
    """

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]: ...


class LocalRunner:
    """One task after the other in this process; the encoder uses all cores by itself."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        return map(function, tasks)
