"""The runner seam: where shard tasks are carried out."""

from __future__ import annotations

import functools
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
    """One task after the other in this process; the encoder uses all cores by itself.

    progress : handed to the function as a keyword of that name, to hear of work within a task.
    """

    def __init__(self, progress: Callable[[int], None] | None = None) -> None:
        self._progress = progress

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        if self._progress is not None:
            # Only functions that take one are run with a progress, which no type here says.
            function = functools.partial(function, progress=self._progress)  # type: ignore[call-arg]
        return map(function, tasks)
