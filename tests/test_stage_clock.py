"""What a run is bound by: sums, shares and verdicts, with a clock that the test winds."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from indexer.stage_clock import Bound, StageClock


class Hand:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += seconds


def worked(
    clock: StageClock,
    hand: Hand,
    seconds: float,
    *,
    decoders: int = 0,
    encoders: int = 0,
    writers: int = 0,
    full: int = 0,
) -> None:
    """So many of each are at work for ``seconds``, together."""
    with ExitStack() as stack:
        for _ in range(decoders):
            stack.enter_context(clock.busy("decode"))
        for _ in range(encoders):
            stack.enter_context(clock.busy("encode"))
        for _ in range(writers):
            stack.enter_context(clock.busy("write"))
        for _ in range(full):
            stack.enter_context(clock.waiting("decode"))
        hand.forward(seconds)


def test_shares_are_of_the_time_of_all_workers_and_streams() -> None:
    hand = Hand()
    clock = StageClock(now=hand)
    worked(clock, hand, 3.0, decoders=3, encoders=2, full=1)
    worked(clock, hand, 1.0, encoders=1, writers=1)
    clock.images(80)
    verdict = clock.verdict(workers=4, streams=2)
    assert verdict.shares == pytest.approx({"decode": 9 / 16, "encode": 7 / 8, "write": 1 / 4})
    assert verdict.starved == pytest.approx(1 / 8)
    assert verdict.full == pytest.approx(3 / 4)
    assert (verdict.images, verdict.seconds) == (80, pytest.approx(4.0))
    assert verdict.bound == "encode"
    assert verdict.text == "encode-bound, decode 56 % busy"


def test_beside_a_device_the_busier_stage_holds_the_other_up() -> None:
    cases: list[tuple[dict[str, int], Bound, str]] = [
        ({"decoders": 4, "encoders": 1}, "decode", "decode-bound, encode 50 % busy"),
        ({"decoders": 1, "encoders": 2}, "encode", "encode-bound, decode 25 % busy"),
        ({"decoders": 1, "encoders": 1, "writers": 1}, "write", "write-bound, encode 50 % busy"),
        (
            {"decoders": 4, "encoders": 2},
            "balanced",
            "balanced, decode 100 % and encode 100 % busy",
        ),
        # What is read is found slowly: nobody is busy, and the encoder waits.
        ({}, "decode", "decode-bound, encode 0 % busy"),
    ]
    for at_work, bound, text in cases:
        hand = Hand()
        clock = StageClock(now=hand)
        worked(clock, hand, 2.0, **at_work)
        clock.images(1)
        verdict = clock.verdict(workers=4, streams=2)
        assert (verdict.bound, verdict.text) == (bound, text)


def test_on_shared_processors_the_larger_part_of_their_time_decides() -> None:
    # Both are always busy, for the system shares two processors out among four that want them.
    hand = Hand()
    shared, apart = StageClock(cores=2, now=hand), StageClock(now=hand)
    for clock in (shared, apart):
        worked(clock, hand, 2.0, decoders=3, encoders=1)
        hand.at = 100.0
    hand.forward(2.0)
    assert shared.verdict(workers=4, streams=1).bound == "decode"
    assert apart.verdict(workers=4, streams=1).bound == "encode"
    # One call that computes on all processors counts for all of them.
    assert shared.verdict(workers=4, streams=1, threads=4).bound == "encode"


def test_whoever_sleeps_on_a_cpu_is_no_load() -> None:
    # Both processors have time left: what counts is who waits for whom.
    hand = Hand()
    clock = StageClock(cores=2, now=hand)
    worked(clock, hand, 5.0, decoders=1, encoders=0, writers=1)
    assert clock.verdict(workers=2, streams=2).bound == "write"


def test_work_that_goes_on_still_counts() -> None:
    hand = Hand()
    clock = StageClock(now=hand)
    with clock.busy("encode"), clock.busy("encode"):
        hand.forward(3.0)
        with clock.waiting("decode"):
            hand.forward(1.0)
            verdict = clock.verdict(workers=1, streams=2)
    assert verdict.shares["encode"] == pytest.approx(1.0)
    assert verdict.full == pytest.approx(0.25)
    hand.forward(4.0)
    assert clock.verdict(workers=1, streams=2).shares["encode"] == pytest.approx(0.5)


def test_the_line_tells_of_the_last_seconds_and_the_account_of_all() -> None:
    hand = Hand()
    clock = StageClock(now=hand)
    for _ in range(30):
        worked(clock, hand, 1.0, decoders=2)
        clock.images(1)
        clock.recent(workers=2, streams=1)
    for _ in range(20):
        worked(clock, hand, 1.0, encoders=1)
        clock.images(5)
        recent = clock.recent(workers=2, streams=1)
    assert recent.bound == "encode"
    assert recent.images / recent.seconds == pytest.approx(5.0)
    assert recent.seconds < 12
    whole = clock.verdict(workers=2, streams=1)
    assert whole.bound == "decode"
    assert whole.images == 130


def test_what_is_interrupted_is_counted_up_to_there() -> None:
    hand = Hand()
    clock = StageClock(now=hand)

    def interrupted() -> None:
        with clock.busy("write"):
            hand.forward(2.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    hand.forward(2.0)
    assert clock.verdict(1, 1).shares["write"] == pytest.approx(0.5)


def test_before_anything_is_done_there_is_nothing_to_say() -> None:
    hand = Hand()
    verdict = StageClock(now=hand).verdict(workers=2, streams=2)
    assert verdict.text == ""
    assert verdict.shares == {"decode": 0.0, "encode": 0.0, "write": 0.0}
    # What is encoded in other processes is not seen: to write its results is not what takes long.
    clock = StageClock(now=hand)
    worked(clock, hand, 2.0, writers=1)
    assert clock.verdict(workers=2, streams=2).text == ""


def test_threads_lose_nothing() -> None:
    ticks = iter(range(1_000_000))
    lock = threading.Lock()

    def now() -> float:
        with lock:
            return float(next(ticks))

    clock = StageClock(now=now)

    def work() -> None:
        for _ in range(300):
            with clock.busy("decode"):
                clock.images(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verdict = clock.verdict(workers=4, streams=1)
    assert verdict.images == 1200
    assert 1200 / 4 <= verdict.shares["decode"] * verdict.seconds <= verdict.seconds


def test_clocks_of_several_processes_add_up() -> None:
    """Two processes of 2 workers and 1 stream each, over the same ten seconds."""
    hand = Hand()
    whole = StageClock(now=hand)
    parts = []
    for _ in range(2):
        own = Hand()
        clock = StageClock(now=own)
        with clock.busy("encode"), clock.waiting("decode"):
            own.forward(9)
        with clock.busy("decode"):
            own.forward(4)
        clock.images(50)
        parts.append(clock.sums())
    hand.forward(10)
    for sums in parts:
        whole.add(sums)
    verdict = whole.verdict(workers=2, streams=1, processes=2)
    assert verdict.shares["encode"] == pytest.approx(0.9)
    assert verdict.shares["decode"] == pytest.approx(0.2)
    assert verdict.full == pytest.approx(0.9)
    assert verdict.images == 100
    assert verdict.text == "encode-bound, decode 20 % busy"
