"""Parts of an index encoded by the actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from clipsearch.backends import AUTO, REFERENCE
from clipsearch.errors import (
    MissingExtraError,
    ModelError,
    OptionError,
    SourceError,
    SpaceMismatchError,
)
from clipsearch.ray_choice import RayChoice
from clipsearch.ray_cluster import ActorSize, RayCluster
from clipsearch.ray_tasks import RayTasks, TaskFailure
from clipsearch.store import TEMPORARY_PREFIX
from clipsearch.threads import worker_count
from indexer.ray_parts import CPU, GPU, Driver, PartDone, carry_out_part, files_of
from indexer.report import BackendPreparing, Event, FailedPart
from indexer.shard_task import ShardInfo, ShardTask
from indexer.stage_clock import StageClock

Task = TypeVar("Task")
Result = TypeVar("Result")

_SHARD_ROWS = (32, 8_192)
_SHARDS_EACH = 4  # so that the last ones do not keep a few actors while the others wait

# What another try, or another machine, would not cure.
_FATAL = (ModelError, SpaceMismatchError, OptionError, MissingExtraError, SourceError)


class RayRunner:
    """Tasks of an index on a Ray cluster; see ``Runner`` and ``FarRunner``.

    The cluster is joined, or started, when something is to be encoded, and left when the block
    of the runner ends. ``failed`` are the parts that were given up; the others are not held up.

    tell : hears of the cluster, and of actors that ended.
    """

    def __init__(self, choice: RayChoice, tell: Callable[[Event], None] = lambda event: None):
        self.failed: list[FailedPart] = []
        self._choice = choice
        self._tell = tell
        self._open = contextlib.ExitStack()
        self._joined: tuple[RayCluster, ActorSize, int] | None = None
        self._progress: Callable[[int], None] = lambda count: None
        self._clock = StageClock()

    def __enter__(self) -> Self:
        self._choice.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._joined = None
        self._open.close()

    def listened_to(self, progress: Callable[[int], None], clock: StageClock) -> Self:
        """From now on these hear of work within tasks."""
        self._progress, self._clock = progress, clock
        return self

    def backend_for(self, asked: str) -> str:
        """What the driver settles for the actors: "auto" may take what is best on its processor,
        but says nothing of GPUs where it has none."""
        _, size, _ = self._join()
        if asked != AUTO or not size.gpus:
            return asked
        from clipsearch.open_clip_encoder import devices

        return asked if devices()[0].startswith(GPU) else REFERENCE

    def shard_rows(self, rows: int, images: int) -> int:
        """Files of a shard where this machine would take ``rows``: so many fewer as an actor has
        less of a machine, and enough shards that every actor gets some."""
        _, size, actors = self._join()
        least, most = _SHARD_ROWS
        of_actor = rows * size.cpus / worker_count() if not size.gpus else most
        fair = -(-images // (actors * _SHARDS_EACH))
        return int(min(max(min(of_actor, fair), least), most))

    def times_faster(self) -> float | None:
        """Than this machine alone, if all goes well; None where nothing is known of it."""
        _, size, actors = self._join()
        return None if size.gpus else actors * size.cpus / worker_count()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        return self._results(function, tasks)

    def _join(self) -> tuple[RayCluster, ActorSize, int]:
        if self._joined is None:
            cluster = self._open.enter_context(self._choice.connected())
            size = self._choice.size_on(cluster)
            cluster.check_room(size)
            actors = self._choice.actors_on(cluster, size)
            self._joined = cluster, size, actors
            many = f"{actors} actors" if actors > 1 else "1 actor"
            self._say(f"Ray: up to {many} of {size.text} on {cluster.place}.")
        return self._joined

    def _say(self, line: str) -> None:
        self._tell(BackendPreparing("ray", line))

    def _results(
        self, function: Callable[..., Any], tasks: Iterable[Any]
    ) -> Generator[Any, None, None]:
        cluster, size, actors = self._join()
        given: deque[Any] = deque()

        def noted() -> Iterator[Any]:
            for task in tasks:
                given.append(task)
                yield task

        dealt = noted()
        first = next(dealt, None)
        if first is None:
            return
        with _marked(first) as mark:
            driver = Driver(worker_count(), GPU if size.gpus else CPU, mark)
            outcomes = RayTasks(
                cluster,
                actors=actors,
                size=size,
                fatal=_FATAL,
                progress=self._progress,
                tell=self._say,
            ).run(functools.partial(carry_out_part, function, driver), _chained(first, dealt))
            with contextlib.closing(outcomes):
                for outcome in outcomes:
                    task = given.popleft()
                    if isinstance(outcome, TaskFailure):
                        self._note_failure(outcome)
                        continue
                    assert isinstance(outcome, PartDone)
                    self._clock.add(outcome.sums)
                    result = dataclasses.replace(outcome.result, task=task)
                    _refuse_foreign_folders(result)
                    yield result

    def _note_failure(self, failure: TaskFailure[Any]) -> None:
        files = files_of(failure.task)
        rows = tuple(file.row for file in files) if isinstance(failure.task, ShardTask) else ()
        first = os.path.join(failure.task.roots[files[0].root], files[0].name)
        part = FailedPart(len(files), first, failure.tries, failure.reason, rows)
        self.failed.append(part)
        self._say(f"Given up: {part.text}")


def _chained(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


@contextlib.contextmanager
def _marked(task: Any) -> Iterator[str]:
    """A file in the folder of the index for the block, which actors look for: a folder of the
    same name on another machine is not this one."""
    if not isinstance(task, ShardTask) or "://" in task.index:
        yield ""
        return
    mark = Path(task.index, f"{TEMPORARY_PREFIX}ray-{secrets.token_hex(6)}")
    mark.touch()
    try:
        yield mark.name
    finally:
        mark.unlink(missing_ok=True)


def _refuse_foreign_folders(result: Any) -> None:
    """All photos of a part gone on the actor's machine, and here on this one: another folder."""
    if not isinstance(result, ShardInfo) or result.indexed or not result.skipped:
        return
    if any(lost.reason != "vanished" for lost in result.skipped):
        return
    first = next(iter(result.task.sources()))
    path = getattr(first, "path", first)
    if isinstance(path, str | bytes | os.PathLike) and os.path.exists(path):
        raise SourceError(
            f"{os.fsdecode(path)} is not there on the machines of the cluster: the photos must be "
            "at the same path on each (a shared file system), or in an object store"
        )
