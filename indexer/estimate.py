"""How a run will encode, how long it will take, and how large its parts should be.

All three come from what earlier runs on this machine were like, else from a probe: a few of the
run's images are decoded and encoded, which takes about three seconds at most. Before a long run
that no trial was made for yet, a trial follows (``tuning``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.encoder import Encoder
from indexer.config import IndexConfig
from indexer.encode_plan import EncodePlan
from indexer.look import Look
from indexer.plan import encode_bytes
from indexer.tuning import Trial, seconds_per_image, trial_seconds
from indexer.tuning_memory import PhotoKind, TuningMemory, machine_key

if TYPE_CHECKING:
    from indexer.probe import Probe

_PROBE_IMAGES = 16
_SHARD_ROWS = (32, 8_192)  # what a shard keeps in memory, thumbnails above all, has a bound
_SHARD_ROWS_UNMEASURED = 256
_CALL_SECONDS = 4.0  # in a longer one the progress line stands, and Ctrl-C is not heard
_TELLING_IMAGES, _TELLING_SECONDS = 64, 10.0  # a shorter run is mostly its own beginning


@dataclass(frozen=True)
class Estimate:
    """How a run is to go. plan : how it encodes. seconds : that it takes, None when it is too
    little to measure. shard_rows : files that make a shard of the wanted length."""

    plan: EncodePlan
    seconds: float | None = None
    shard_rows: int = _SHARD_ROWS_UNMEASURED


def remembered_plan(
    encoder: Encoder, config: IndexConfig, default: EncodePlan, images: int = 0
) -> EncodePlan:
    """``default`` with what a trial found best for ``encoder`` on this machine, but for what
    ``config`` sets. Where nothing is known of it, and there are ``images`` enough, some are
    encoded first."""
    memory, key = TuningMemory(), machine_key(encoder)
    plan = as_set(memory.plan(key) or default, config, default)
    is_known = config.batch_size is not None or memory.most_at_a_time(key) is not None
    if not is_known and images > _PROBE_IMAGES:
        geometry = encoder.space.geometry
        blank = np.zeros((1, geometry.height, geometry.width, 3), np.uint8)
        seconds_per_image(encoder, blank, plan)  # which sets things up
        each = seconds_per_image(encoder, blank, plan)
        memory.keep_most_at_a_time(key, _most_at_a_time(each, plan))
    return _bounded(plan, config, memory.most_at_a_time(key))


def _most_at_a_time(each: float, plan: EncodePlan) -> int:
    """The images of a call that takes ``_CALL_SECONDS``, a power of two. each : seconds an image
    takes while all streams are busy."""
    images = _CALL_SECONDS / max(each * plan.streams, 1e-6)
    return 1 << max(0, min(int(images), 1 << 16).bit_length() - 1)


def _bounded(plan: EncodePlan, config: IndexConfig, most: int | None) -> EncodePlan:
    """``plan`` with calls that do not take too long, unless the user chose their size."""
    if most is None or config.batch_size is not None:
        return plan
    return dataclasses.replace(plan, batch_size=min(plan.batch_size, most))


def as_set(plan: EncodePlan, config: IndexConfig, default: EncodePlan) -> EncodePlan:
    """``default`` with the counts of ``plan``, but for those that the user set."""
    return dataclasses.replace(
        default,
        batch_size=config.batch_size or plan.batch_size,
        streams=plan.streams,
        threads=plan.threads,
        workers=config.decode_threads or plan.workers,
    )


class Estimator:
    """Estimates one run, and remembers how it went.

    encoder : None where nothing is to be encoded. plan : the one that goes without a trial.
    devices : how many encode, each by that plan. before_trial : hears how many seconds the
    trial takes that is about to begin. may_try : False where others encode, of whom a trial on
    this machine would say nothing.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        seen: Look,
        config: IndexConfig,
        plan: EncodePlan,
        memory: TuningMemory | None = None,
        devices: int = 1,
        before_trial: Callable[[float], object] = lambda seconds: None,
        may_try: bool = True,
    ) -> None:
        self._may_try = may_try
        self._before_trial = before_trial
        self._encoder = encoder
        self._seen = seen
        self._config = config
        self._default = plan
        self._devices = devices
        self._memory = memory or TuningMemory()
        self._images = len(seen.plan.encode)
        self._key = machine_key(encoder) if encoder is not None else ""
        # What a user set has rates of its own.
        how = f"{config.decode} {config.batch_size or '-'} {config.decode_threads or '-'}"
        if plan.compile:
            how = f"{how} compiled"
        if devices > 1:
            how = f"{how} on {devices}"
        mean = encode_bytes(seen.plan, seen.scan) / max(self._images, 1)
        self._kind = PhotoKind.of(how, mean)

    def estimate(self) -> Estimate:
        """Of the run that is ahead; decodes and encodes a few of its images where nothing is
        remembered."""
        encoder, memory = self._encoder, self._memory
        if encoder is None or not self._images:
            return Estimate(self._default)
        cut_short = memory.run(self._seen.manifest.uuid, self._key)
        tuned = memory.plan(self._key)
        plan = self._as_set(cut_short[0] if cut_short else tuned or self._default)
        if self._images <= _PROBE_IMAGES:
            return Estimate(_bounded(plan, self._config, memory.most_at_a_time(self._key)))
        each = memory.seconds(self._key, self._kind)
        is_settled = cut_short is not None or tuned is not None or not self._may_try
        if each is None or not (is_settled or trial_seconds(each * self._images) == 0):
            from indexer.probe import Probe  # and with it Pillow, only when needed

            probe = Probe(encoder, self._seen, self._config, plan, _PROBE_IMAGES)
            if not len(probe.pixels):
                return Estimate(plan)
            plan = probe.plan
            if not is_settled:
                plan = self._tuned(encoder, probe)
            each = probe.each(self._devices)
            memory.keep_seconds(self._key, self._kind, each)
            memory.keep_most_at_a_time(self._key, _most_at_a_time(probe.encoding, plan))
        if cut_short is None:
            plan = _bounded(plan, self._config, memory.most_at_a_time(self._key))
        rows = cut_short[1] if cut_short else self._shard_rows(each, plan)
        if rows < self._images:
            memory.begin_run(self._seen.manifest.uuid, self._key, plan, rows)
        return Estimate(plan, each * self._images, rows)

    def remember(self, images: int, seconds: float) -> None:
        """The run came to its end: it encoded so many images in so long."""
        if self._encoder is None:
            return
        self._memory.end_run(self._seen.manifest.uuid)
        if images >= _TELLING_IMAGES and seconds >= _TELLING_SECONDS:
            self._memory.keep_seconds(self._key, self._kind, seconds / images)

    def _as_set(self, plan: EncodePlan) -> EncodePlan:
        return as_set(plan, self._config, self._default)

    def _tuned(self, encoder: Encoder, probe: Probe) -> EncodePlan:
        """What a trial finds best, where the run is long enough for one."""
        seconds = trial_seconds(probe.each(self._devices) * self._images)
        if not seconds:
            return probe.plan
        self._before_trial(seconds)
        trial = Trial(
            encoder,
            probe.pixels,
            probe.plan,
            seconds=seconds,
            expected=probe.encoding,
            is_batch_fixed=self._config.batch_size is not None,
        )
        found = trial.best()
        if found is None:
            return probe.plan
        plan, probe.encoding = found
        if self._config.batch_size is None and self._config.decode_threads is None:
            self._memory.keep_plan(self._key, plan)
        return plan

    def _shard_rows(self, each: float, plan: EncodePlan) -> int:
        rows = int(self._config.shard_seconds / max(each, 1e-6))
        # Whole batches: then a run that is cut short at a shard and goes on makes the same ones.
        rows -= rows % plan.batch_size
        least, most = _SHARD_ROWS
        return min(max(rows, least), most)
