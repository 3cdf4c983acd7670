"""What an actor of a Ray cluster does with a part of an index: the very function that a local run
calls, with the device and the share of the processors that the actor has."""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clipsearch.backends import REFERENCE
from clipsearch.errors import ClipsearchError, SourceError
from clipsearch.ray_actor import TaskReporter
from clipsearch.threads import worker_count
from indexer.encode_plan import EncodePlan, default_plan
from indexer.file_table import FoundFile
from indexer.presence import holds_anything
from indexer.shard_task import ShardTask
from indexer.stage_clock import StageClock, StageSums
from indexer.task_watch import TaskWatch
from indexer.vector_task import VectorTask

Part = ShardTask | VectorTask

CPU, GPU = "cpu", "cuda"


@dataclass(frozen=True)
class Driver:
    """What an actor is told of the run. cores : processors of the driver, which made the plan.
    device : of the actors. mark : the name of a file in the folder of the index, by which an
    actor knows it; "" where there is none."""

    cores: int
    device: str
    mark: str = ""


@dataclass(frozen=True)
class PartDone:
    """What became of a part. result : of the function, its task left out, which the driver has.
    sums : of the stages."""

    result: Any
    sums: StageSums


def carry_out_part(
    function: Callable[..., Any], driver: Driver, task: Part, reporter: TaskReporter
) -> PartDone:
    """Call ``function`` (``embed_shard`` or ``embed_vectors``) with ``task`` as it is to be done
    here.

    Raises what the function does, SourceError when this machine does not see the photos or the
    index, OptionError for a back-end that is too far from the reference here.
    """
    try:
        _check_places(task, driver)
        here = as_done_here(task, driver)
        _admit(here)
        clock = StageClock()
        watch = TaskWatch(
            progress=reporter.progress, when_read=reporter.next_may_begin, clock=clock
        )
        result = function(here, watch=watch)
    except ClipsearchError as error:
        said = error.args[0] if len(error.args) == 1 else None
        if isinstance(said, str):  # else it is told as it is
            error.args = (f"on {socket.gethostname()}: {said}",)
        raise
    return PartDone(dataclasses.replace(result, task=None), clock.sums())


def as_done_here(task: Part, driver: Driver) -> Part:
    """The task with the device and the plan of this actor.

    A shard gets a name that no other try has: one that was given up may still be at it, and must
    not touch what another has written and the manifest names.
    """
    plan = _plan_here(task, driver)
    if isinstance(task, ShardTask):
        suffix = secrets.token_hex(4)
        return dataclasses.replace(task, device=driver.device, plan=plan, suffix=suffix)
    return dataclasses.replace(task, device=driver.device, plan=plan)


def _plan_here(task: Part, driver: Driver) -> EncodePlan:
    plan = task.plan
    was_for_cpu = plan.threads is not None
    is_on_cpu = driver.device == CPU
    if was_for_cpu == is_on_cpu and worker_count() == driver.cores:
        return plan
    here = default_plan(task.config, driver.device, plan.backend)
    if was_for_cpu == is_on_cpu:
        here = dataclasses.replace(here, batch_size=plan.batch_size)
    return dataclasses.replace(here, compile=plan.compile)


def files_of(task: Part) -> list[FoundFile]:
    """A file for each image of a part."""
    if isinstance(task, ShardTask):
        return list(task.files)
    return [image.files[0] for image in task.images]


def _check_places(task: Part, driver: Driver) -> None:
    """A machine that sees other folders would find all photos gone, and say so."""
    if isinstance(task, ShardTask) and driver.mark:
        mark = os.path.join(task.index, driver.mark)
        if not os.path.exists(mark):
            raise SourceError(_not_seen(task.index, "the index"))
    for root in {file.root for file in files_of(task)}:
        folder = task.roots[root]
        if "://" not in folder and not (os.path.isfile(folder) or holds_anything(folder)):
            raise SourceError(_not_seen(folder, "the photos"))


def _not_seen(place: str, what: str) -> str:
    return (
        f"{place} is not there: {what} must be at the same path on every machine of the cluster "
        "(a shared file system), or in an object store"
    )


_admitted: set[tuple[str, str]] = set()


def _admit(task: Part) -> None:
    """Another back-end than the reference is compared with it on this machine, too, once."""
    key = (task.model, task.plan.backend)
    if task.plan.backend == REFERENCE or key in _admitted:
        return
    from indexer.admission import sample_of
    from indexer.choose_backend import choose_backend

    files = files_of(task)
    roots: Mapping[int, str] = task.roots
    sample = sample_of(
        files, roots, decode=task.config.decode, max_megapixels=task.config.max_megapixels
    )
    choose_backend(task.plan.backend, task.model, sample, len(files), device=task.device)
    _admitted.add(key)
