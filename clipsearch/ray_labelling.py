"""Labels of a whole collection by the actors of a Ray cluster: parts out, blocks or counts back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable, Iterator

from clipsearch.errors import IndexFormatError, IndexNotFoundError, OptionError, RayClusterError
from clipsearch.label_parts import Part
from clipsearch.ray_actor import TaskReporter
from clipsearch.ray_choice import RayChoice
from clipsearch.ray_tasks import RayTasks, TaskFailure
from clipsearch.spread_scoring import Carry, Result, Spread

_FATAL = (IndexFormatError, IndexNotFoundError)
"""What another try, or another machine, would not cure."""


@contextlib.contextmanager
def spread_over_ray(
    choice: RayChoice,
    *,
    place: str | None = None,
    rows: bool = True,
    rows_a_part: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, images: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Iterator[Spread]:
    """Connect to a cluster for the block, whose actors then score what ``classify`` is asked for.

    choice : of the cluster and its actors, which need no GPUs. place, rows, rows_a_part,
    on_progress : see ``Spread``. tell : hears a line when an actor has ended.

    Raises OptionError for GPUs, and as ``connected`` and ``RayTasks``. While blocks are asked for:
    RayClusterError where a part fails three times, IndexNotFoundError, IndexFormatError.
    """
    if choice.gpus:
        raise OptionError("labels come from stored vectors alone: leave out --ray-gpus")
    choice = dataclasses.replace(choice, gpus=0.0)
    with choice.connected() as cluster:
        size = choice.size_on(cluster)
        actors = choice.actors_on(cluster, size)
        tasks = RayTasks(cluster, actors=actors, size=size, fatal=_FATAL, tell=tell)
        yield Spread(
            carried_by(tasks),
            place=place,
            workers=actors,
            rows=rows,
            rows_a_part=rows_a_part,
            on_progress=on_progress,
        )


def carried_by(tasks: RayTasks) -> Carry:
    """What carries parts out on a cluster. A part that fails for good ends it: labels of some of
    the images are no answer."""

    def carry(
        work: Callable[[Part], Result], parts: Iterable[Part], /
    ) -> Generator[Result, None, None]:
        with contextlib.closing(tasks.run(functools.partial(_label, work), parts)) as results:
            for result in results:
                if isinstance(result, TaskFailure):
                    raise _failed(result)
                yield result

    return carry


def _label(work: Callable[[Part], Result], part: Part, reporter: TaskReporter) -> Result:
    return work(part)


def _failed(failure: TaskFailure[Part]) -> RayClusterError:
    part = failure.task
    return RayClusterError(
        f"the vectors {part.first:,} to {part.last - 1:,} could not be labelled in "
        f"{failure.tries} tries, and nothing was written: {failure.reason}"
    )
