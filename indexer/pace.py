"""Tell what a run is bound by while it goes on, and judge it when it is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from clipsearch.encoder import Encoder
from clipsearch.threads import worker_count
from indexer.encode_plan import EncodePlan, plan_of_each
from indexer.report import Event, Pace
from indexer.stage_clock import StageClock, Verdict

_SECONDS_BETWEEN = 1.0


def clock_for(encoder: Encoder) -> StageClock:
    """A clock for runs of ``encoder``: on a CPU it shares the processors with the decoders."""
    on_cpu = encoder.recipe["device"] == "cpu"
    return StageClock(cores=worker_count() if on_cpu else None)


class PaceTeller:
    """Tells ``Pace`` about once a second, as often as ``tick`` is called or less. Safe for
    threads, of which one tells at a time.

    processes : how many encode. Several tell the clock at the end of a part alone, so that there
    is nothing to say of the last seconds, but of the whole run.
    """

    def __init__(
        self,
        clock: StageClock,
        plan: EncodePlan,
        tell: Callable[[Event], None],
        processes: int = 1,
    ) -> None:
        self._clock = clock
        self._plan = plan_of_each(plan, processes)
        self._processes = processes
        self._tell = tell
        self._lock = threading.Lock()
        self._told = time.monotonic()

    def tick(self) -> None:
        """To be called as work is done."""
        with self._lock:
            now = time.monotonic()
            if self._processes > 1 or now - self._told < _SECONDS_BETWEEN:
                return
            self._told = now
            plan = self._plan
            verdict = self._clock.recent(plan.workers, plan.streams, plan.threads)
            rate = verdict.images / verdict.seconds if verdict.seconds > 0 else 0.0
            self._tell(Pace(verdict.text, verdict.bound, verdict.shares, rate))

    def verdict(self) -> Verdict:
        """Of the whole run."""
        plan = self._plan
        return self._clock.verdict(plan.workers, plan.streams, plan.threads, self._processes)
