"""What a run says that it was bound by, with one stage of the real pipeline made slow.

The stages sleep, far longer than the others take, and what the run reports is compared with the
sum of those sleeps and not with a clock of the test's own: a machine that is busy with other
things makes a sleep longer for both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import indexer.shard_task
from clipsearch.open_clip_encoder import OpenClipEncoder
from indexer import IndexConfig, build_index
from indexer.decode_pool import DecodeSession
from indexer.report import BuildReport, Event, Pace
from indexer.update import Update

IMAGES = 40


class Slow:
    """Makes a method sleep before it does its work, and adds up how long that was."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float) -> None:
        self.slept = 0.0
        self.calls = 0
        self._seconds = seconds
        self._lock = threading.Lock()
        patch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            time.sleep(self._seconds)
            with self._lock:
                self.slept += time.perf_counter() - begin
                self.calls += 1
            return original(*arguments, **named)

        return slow


@pytest.fixture(scope="module")
def photos(flickr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, whose rates are remembered: a run makes no probe, which would sleep as
    well."""
    folder = tmp_path_factory.mktemp("slow") / "photos"
    folder.mkdir()
    for photo in sorted(flickr.glob("*.jpg"))[:IMAGES]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    run(folder, folder.parent / "before.index")
    return folder


def run(photos: Path, place: Path) -> tuple[BuildReport, list[Pace]]:
    """Index the photos; two are decoded at a time, eight are encoded in a call."""
    events: list[Event] = []
    config = IndexConfig(batch_size=8, decode_threads=2, backend="torch")
    report = build_index(
        photos, place, encoder="mini", device="cpu", config=config, on_event=events.append
    )
    assert report.new == IMAGES
    return report, [event for event in events if isinstance(event, Pace)]


def injected(report: BuildReport, stage: str, slept: float, at_a_time: int) -> float:
    """The share of its time that ``stage`` slept, by what the run says that it took."""
    return slept / (at_a_time * report.encode_seconds)


def test_a_slow_encoder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from indexer.encode_plan import default_plan

    plan = default_plan(IndexConfig(batch_size=8), "cpu")
    slow = Slow(monkeypatch, OpenClipEncoder, "encode_images", 1.0)
    report, paces = run(photos, tmp_path / "x.index")
    assert slow.calls == -(-IMAGES // plan.batch_for(IMAGES))
    assert report.verdict.startswith("encode-bound, decode ")
    assert report.verdict.endswith(" % busy")
    told = injected(report, "encode", slow.slept, plan.streams)
    # What is not slept is the work of mini, some hundredths of a second a call.
    assert told - 0.05 <= report.shares["encode"] <= min(1.0, told + 0.25)
    assert report.shares["encode"] > report.shares["write"]
    assert report.shares["decode"] < report.shares["encode"]
    assert "encode" in {pace.bound for pace in paces}


def test_a_slow_decoder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, DecodeSession, "decode", 0.2)
    report, paces = run(photos, tmp_path / "x.index")
    assert slow.calls == IMAGES
    assert report.verdict.startswith("decode-bound, encode ")
    told = injected(report, "decode", slow.slept, 2)
    assert told > 0.5, "the run is mostly its decoding"
    assert told - 0.05 <= report.shares["decode"] <= min(1.0, told + 0.25)
    assert report.shares["encode"] < 0.5
    assert paces
    assert {pace.bound for pace in paces} == {"decode"}


def test_slow_writes(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Slow(monkeypatch, indexer.shard_task, "write_shard", 2.5)
    commit = Slow(monkeypatch, Update, "add_shard", 1.0)
    report, _ = run(photos, tmp_path / "x.index")
    assert (shard.calls, commit.calls) == (2, 1)
    assert report.verdict.startswith("write-bound, encode ")
    told = injected(report, "write", shard.slept + commit.slept, 1)
    assert told > 0.5
    assert told - 0.05 <= report.shares["write"] <= min(1.0, told + 0.25)
    assert report.shares["encode"] < 0.5
