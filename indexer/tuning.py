"""Find by trial how this machine encodes fastest: images a call, calls at a time, threads a call.

A trial encodes images of the run itself, as the run will: ``streams`` calls at once. It begins with
the plan that goes without a trial and takes another one only for a clear gain. Candidates that the
time does not suffice for are left out, so a trial never takes much longer than it may.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipsearch.encoder import Encoder, UInt8
from clipsearch.threads import worker_count
from indexer.encode_plan import EncodePlan

WORTH_SECONDS = 120.0
"""A run that is estimated to take longer is worth a trial."""

_SHARE, _MOST_SECONDS = 0.03, 20.0  # of the run; and at most
_GAIN = 1.03  # less is noise
_CPU_BATCHES = (32, 16, 8, 64)
_GPU_BATCHES = (64, 128, 256, 512, 1024)
_GPU_STREAMS = (1, 3)


def trial_seconds(run_seconds: float) -> float:
    """How long a trial may take before a run that takes ``run_seconds``; 0 for none at all."""
    return min(_SHARE * run_seconds, _MOST_SECONDS) if run_seconds > WORTH_SECONDS else 0.0


def seconds_per_image(encoder: Encoder, pixels: UInt8, plan: EncodePlan) -> float:
    """What an image takes when ``plan.streams`` calls at once encode ``pixels`` each.

    pixels : (n, height, width, 3) uint8. Raises what the encoder raises; see ``is_memory_error``.
    """
    view = encoder.with_threads(plan.threads) if plan.threads is not None else encoder
    with ThreadPoolExecutor(plan.streams, thread_name_prefix="trial") as pool:
        begin = time.perf_counter()
        calls = [pool.submit(view.encode_images, pixels) for _ in range(plan.streams)]
        for call in calls:
            call.result()
        return (time.perf_counter() - begin) / (plan.streams * len(pixels))


def is_memory_error(error: Exception) -> bool:
    """Whether the memory of the machine or of its device did not suffice."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def free_device_memory() -> None:
    """Give back what a call that failed left with torch, if that is what encodes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def repeated(pixels: UInt8, count: int) -> UInt8:
    """``count`` images: those of ``pixels`` (n, height, width, 3) over and over."""
    return np.ascontiguousarray(pixels[np.arange(count) % len(pixels)])


class Trial:
    """Measures plans on ``pixels`` (n, height, width, 3) until ``seconds`` are over.

    plan : the one that goes without a trial. expected : seconds an image takes with it, as a
    first guess. is_batch_fixed : whether the user chose the batch size. measure, now : for tests.
    """

    def __init__(
        self,
        encoder: Encoder,
        pixels: UInt8,
        plan: EncodePlan,
        *,
        seconds: float,
        expected: float,
        is_batch_fixed: bool = False,
        measure: Callable[[Encoder, UInt8, EncodePlan], float] = seconds_per_image,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._encoder = encoder
        self._pixels = pixels
        self._plan = plan
        self._expected = expected
        self._is_batch_fixed = is_batch_fixed
        self._measure = measure
        self._now = now
        self._end = now() + seconds
        self._taken: dict[EncodePlan, float] = {}
        self._most_images: int | None = None  # at once, as memory showed

    def best(self) -> tuple[EncodePlan, float] | None:
        """The plan to encode with, and the seconds that an image took with it; None where the
        time did not suffice to compare the plan with any other."""
        on_cpu = self._encoder.recipe["device"] == "cpu"
        if self._try(self._plan):
            for plan in self._cpu_plans() if on_cpu else self._gpu_plans():
                if plan not in self._taken:
                    self._try(plan)
        if not self._taken or (len(self._taken) == 1 and self._most_images is None):
            return None
        first = self._best_so_far()
        if self._plan in self._taken and first != self._plan:
            # Once more each, in turn: the machine may have been busy with something else.
            self._try(self._plan)
            self._try(first)
            if self._taken[self._plan] < _GAIN * self._taken[first]:
                first = self._plan
        return first, self._taken[first]

    def _cpu_plans(self) -> Iterator[EncodePlan]:
        plan, cores = self._plan, worker_count()
        batches = (plan.batch_size,) if self._is_batch_fixed else _CPU_BATCHES
        splits = [(plan.streams, plan.threads)]
        splits += [(cores // threads, threads) for threads in (2, cores) if cores % threads == 0]
        # What differs most from the plan comes first, for the time may suffice for no more.
        for streams, threads in dict.fromkeys(splits):
            for batch_size in batches[:2]:
                yield dataclasses.replace(
                    plan, streams=streams, threads=threads, batch_size=batch_size
                )
        best = self._best_so_far()
        for batch_size in batches[2:]:
            yield dataclasses.replace(best, batch_size=batch_size)

    def _gpu_plans(self) -> Iterator[EncodePlan]:
        if not self._is_batch_fixed:
            before = None
            for batch_size in _GPU_BATCHES:
                plan = dataclasses.replace(self._plan, batch_size=batch_size)
                yield plan
                taken = self._taken.get(plan)
                if taken is None or (before is not None and before < _GAIN * taken):
                    break  # no room, no time, or no gain any more
                before = taken
        best = self._best_so_far()
        for streams in _GPU_STREAMS:
            yield dataclasses.replace(best, streams=streams)

    def _best_so_far(self) -> EncodePlan:
        return min(self._taken, key=self._taken.__getitem__, default=self._plan)

    def _try(self, plan: EncodePlan) -> bool:
        """Measure ``plan`` if memory and the time that is left allow it; whether they did."""
        images = plan.streams * plan.batch_size
        each = min(self._taken.values(), default=self._expected)
        if self._now() + images * each > self._end:
            return False
        if self._most_images is not None and images >= self._most_images:
            return False
        try:
            taken = self._measure(self._encoder, repeated(self._pixels, plan.batch_size), plan)
        except Exception as error:
            if not is_memory_error(error):
                raise
            self._most_images = images
            self._taken.pop(plan, None)
            free_device_memory()
            return True  # smaller ones are worth a try
        self._taken[plan] = min(taken, self._taken.get(plan, taken))
        return True
