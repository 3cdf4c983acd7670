"""What a run is bound by: how busy reading, encoding and writing are, and who waits for whom."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Stage = Literal["decode", "encode", "write"]
Bound = Literal["decode", "encode", "write", "balanced"]

STAGES: tuple[Stage, ...] = ("decode", "encode", "write")
_WINDOW_SECONDS = 10.0
_NEAR = 0.9  # two stages are level when the lesser has this much of the greater
_STARVED = 0.5  # whoever waits so much of the time is not what holds the others up
_TOUCHED = 0.01


@dataclass(frozen=True)
class Verdict:
    """What held a run up.

    bound : the stage that the others wait for, or "balanced".
    shares : of each stage, the share of its time that it was busy, 0 to 1: summed over its
        workers, streams or the one writer.
    starved : share of the streams' time in which they had nothing to encode. full : share of
        the time in which as many images were decoded as may be, and waited for the encoder.
    images : how many were encoded. seconds : how long that took.
    """

    bound: Bound
    shares: dict[str, float]
    starved: float
    full: float
    images: int
    seconds: float

    @property
    def text(self) -> str:
        """Such as "encode-bound, decode 34 % busy"; "" where nothing was encoded, or elsewhere."""
        decode, encode = (f"{stage} {self.shares[stage]:.0%}" for stage in ("decode", "encode"))
        decode, encode = decode.replace("%", " %"), encode.replace("%", " %")
        match self.bound:
            case _ if not self.images:
                return ""
            case "balanced":
                return f"balanced, {decode} and {encode} busy"
            case "encode":
                return f"encode-bound, {decode} busy"
            case "decode":
                return f"decode-bound, {encode} busy"
            case "write":
                return f"write-bound, {encode} busy"


@dataclass(frozen=True)
class StageSums:
    """Seconds of each stage, busy and waiting, and the images of a clock in another process."""

    busy: Mapping[str, float]
    waiting: Mapping[str, float]
    images: int


@dataclass(frozen=True)
class _Sums:
    """Seconds up to ``at``: busy by stage, and waiting by stage; and images."""

    at: float
    busy: Mapping[str, float]
    waiting: Mapping[str, float]
    images: int


class StageClock:
    """Adds up how long each stage of a run was busy. Safe to use from several threads at once.

    cores : the processors that decoding and encoding share; None where the encoder has a
        device of its own.
    now : the time in seconds, for tests.
    """

    def __init__(
        self, *, cores: int | None = None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._cores = cores
        self._now = now
        self._lock = threading.Lock()
        self._busy: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._waiting: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        # What goes on still, for a batch may take longer than the window: sums of the moments
        # at which they began, and how many they are.
        self._open_busy: dict[str, tuple[float, int]] = dict.fromkeys(STAGES, (0.0, 0))
        self._open_waiting: dict[str, tuple[float, int]] = dict.fromkeys(STAGES, (0.0, 0))
        self._images = 0
        self._seen: deque[_Sums] = deque([self._sums()])

    @contextmanager
    def busy(self, stage: Stage) -> Iterator[None]:
        """Around the work of ``stage``: one image, one batch or one file."""
        with self._timed(self._busy, self._open_busy, stage):
            yield

    @contextmanager
    def waiting(self, stage: Stage) -> Iterator[None]:
        """Around a wait of ``stage`` for the next one: "decode" while the encoder takes nothing."""
        with self._timed(self._waiting, self._open_waiting, stage):
            yield

    def images(self, count: int) -> None:
        """``count`` more images are encoded."""
        with self._lock:
            self._images += count

    def sums(self) -> StageSums:
        """All so far, for another clock to ``add``."""
        with self._lock:
            sums = self._sums()
        return StageSums(sums.busy, sums.waiting, sums.images)

    def add(self, sums: StageSums) -> None:
        """Take in what a clock in another process added up."""
        with self._lock:
            for stage in STAGES:
                self._busy[stage] += sums.busy[stage]
                self._waiting[stage] += sums.waiting[stage]
            self._images += sums.images

    def verdict(
        self, workers: int, streams: int, threads: int | None = None, processes: int = 1
    ) -> Verdict:
        """Of the whole run so far. workers, streams : images decoded and batches encoded at a
        time. threads : processors that a stream keeps busy; None is one. processes : how many
        are at work, each with so many workers and streams."""
        with self._lock:
            sums = self._sums()
        return self._judge(self._seen[0], sums, workers, streams, threads or 1, processes)

    def recent(self, workers: int, streams: int, threads: int | None = None) -> Verdict:
        """Of the last ten seconds or so, where it is called about once a second."""
        with self._lock:
            sums = self._sums()
            self._seen.append(sums)
            # The first stays, for it is the start of the run; of the others those in the window.
            while len(self._seen) > 2 and self._seen[1].at < sums.at - _WINDOW_SECONDS:
                del self._seen[1]
            begin = self._seen[0]
            if sums.at - begin.at > _WINDOW_SECONDS and len(self._seen) > 2:
                begin = self._seen[1]
        return self._judge(begin, sums, workers, streams, threads or 1)

    @contextmanager
    def _timed(
        self, sums: dict[str, float], opened: dict[str, tuple[float, int]], stage: Stage
    ) -> Iterator[None]:
        begin = self._now()
        with self._lock:
            total, count = opened[stage]
            opened[stage] = total + begin, count + 1
        try:
            yield
        finally:
            end = self._now()
            with self._lock:
                total, count = opened[stage]
                # Exactly nothing when none is left, whatever the rounding was.
                opened[stage] = (total - begin, count - 1) if count > 1 else (0.0, 0)
                sums[stage] += end - begin

    def _sums(self) -> _Sums:
        now = self._now()

        def up_to_now(
            sums: dict[str, float], opened: dict[str, tuple[float, int]]
        ) -> dict[str, float]:
            return {
                stage: sums[stage] + max(0.0, opened[stage][1] * now - opened[stage][0])
                for stage in STAGES
            }

        return _Sums(
            now,
            up_to_now(self._busy, self._open_busy),
            up_to_now(self._waiting, self._open_waiting),
            self._images,
        )

    def _judge(
        self,
        begin: _Sums,
        end: _Sums,
        workers: int,
        streams: int,
        threads: int,
        processes: int = 1,
    ) -> Verdict:
        seconds = end.at - begin.at
        busy: dict[str, float] = {s: end.busy[s] - begin.busy[s] for s in STAGES}
        time_of: dict[str, float] = {
            "decode": workers * processes * seconds,
            "encode": streams * processes * seconds,
            "write": processes * seconds,
        }
        shares: dict[str, float] = {
            stage: min(1.0, busy[stage] / time_of[stage]) if seconds > 0 else 0.0
            for stage in STAGES
        }
        waited = {stage: end.waiting[stage] - begin.waiting[stage] for stage in STAGES}
        starved = 1.0 - shares["encode"] if seconds > 0 else 0.0
        full = min(1.0, waited["decode"] / (processes * seconds)) if seconds > 0 else 0.0
        on_cores = {**busy, "encode": busy["encode"] * threads}
        is_crowded = self._cores is not None and sum(on_cores.values()) > self._cores * seconds
        return Verdict(
            _bound(shares, on_cores if is_crowded else shares, starved),
            shares,
            starved,
            full,
            end.images - begin.images,
            seconds,
        )


def _bound(shares: Mapping[str, float], work: Mapping[str, float], starved: float) -> Bound:
    """The stage that the others wait for.

    work : what decides between decoding and encoding. With processors of their own the busier
    of the two holds the other up. Where they crowd the same ones, both are busy whatever they
    do, and who makes the other slower is who has the larger part of the processors' time: as
    the system shares these out evenly, that is who has the larger sum of busy seconds.
    """
    write = shares["write"]
    if write > _TOUCHED and write >= max(shares["decode"], shares["encode"]):
        return "write"
    if starved >= _STARVED:
        return "decode"  # or what reads for it
    decode, encode = work["decode"], work["encode"]
    if min(decode, encode) >= _NEAR * max(decode, encode) > 0:
        return "balanced"
    return "decode" if decode > encode else "encode"
