"""Trials of how to encode, and what is remembered of them."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import indexer.tuning
from clipsearch.encoder import Encoder, Float32, Space, UInt8, load_encoder
from indexer.encode_plan import EncodePlan
from indexer.tuning import Trial, is_memory_error, repeated, seconds_per_image, trial_seconds
from indexer.tuning_memory import PhotoKind, TuningMemory, machine_key

PLAN = EncodePlan("torch", batch_size=32, streams=2, threads=1, workers=2)
GPU_PLAN = EncodePlan("torch", batch_size=256, streams=2, threads=None, workers=8)
PIXELS = np.zeros((16, 64, 64, 3), np.uint8)


class Device:
    """Stands for an encoder on a device, of which a trial only asks the recipe."""

    def __init__(self, device: str) -> None:
        self.recipe = {"device": device}


class Rates:
    """Measures plans without an encoder, on a clock of its own: ``images_per_second`` says how
    fast each is, and ``most`` how many images the memory holds."""

    def __init__(self, images_per_second: Any, most: int = 1 << 30) -> None:
        self.at = 0.0
        self.measured: list[EncodePlan] = []
        self._rate = images_per_second
        self._most = most

    def now(self) -> float:
        return self.at

    def measure(self, encoder: Encoder, pixels: UInt8, plan: EncodePlan) -> float:
        assert len(pixels) == plan.batch_size
        self.measured.append(plan)
        images = plan.streams * plan.batch_size
        if images > self._most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.at += images / self._rate(plan)
        return float(1 / self._rate(plan))

    def trial(self, device: str, plan: EncodePlan, seconds: float, **more: Any) -> Trial:
        encoder: Any = Device(device)
        return Trial(
            encoder,
            PIXELS,
            plan,
            seconds=seconds,
            expected=1 / self._rate(plan),
            measure=self.measure,
            now=self.now,
            **more,
        )


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer.tuning, "worker_count", lambda: 4)


# -- trials --------------------------------------------------------------------------------


def test_only_a_long_run_is_worth_a_trial() -> None:
    assert trial_seconds(60) == 0
    assert trial_seconds(120) == 0
    assert trial_seconds(200) == pytest.approx(6.0)
    assert trial_seconds(100_000) == 20


def test_the_fastest_plan_is_found_on_a_cpu() -> None:
    best = dataclasses.replace(PLAN, streams=1, threads=4, batch_size=8)

    def rate(plan: EncodePlan) -> float:
        return 100.0 * (1.3 if plan.streams == 1 else 1) * (1.2 if plan.batch_size == 8 else 1)

    rates = Rates(rate)
    assert rates.trial("cpu", PLAN, 20).best() == (best, pytest.approx(1 / 156))
    assert rates.at <= 20
    # As many threads as processors at most, however they are split.
    splits = {(plan.streams, plan.threads) for plan in rates.measured}
    assert splits == {(2, 1), (2, 2), (1, 4)}


def test_the_plan_stays_where_the_gain_is_within_the_noise() -> None:
    rates = Rates(lambda plan: 100.0 if plan == PLAN else 102.0)
    found = rates.trial("cpu", PLAN, 60).best()
    assert found == (PLAN, pytest.approx(0.01))


def test_the_noise_of_one_moment_decides_nothing() -> None:
    """The first measurement of the plan fell into a busy moment; the second tells better."""
    seen: list[EncodePlan] = []

    def rate(plan: EncodePlan) -> float:
        seen.append(plan)
        return 50.0 if plan == PLAN and seen.count(PLAN) <= 3 else 100.0

    found = Rates(rate).trial("cpu", PLAN, 1000).best()
    assert found is not None
    assert found[0] == PLAN


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0, 9.0])
def test_a_trial_takes_no_longer_than_it_may(seconds: float) -> None:
    rates = Rates(lambda plan: 50.0)
    found = rates.trial("cpu", PLAN, seconds).best()
    assert rates.at <= seconds + 0.01
    assert (found is None) == (seconds < 2.5), "of one plan alone nothing is learned"


def test_a_batch_size_that_the_user_set_stays() -> None:
    rates = Rates(lambda plan: 100.0 + 10 * plan.threads)
    found = rates.trial("cpu", PLAN, 1000, is_batch_fixed=True).best()
    assert {plan.batch_size for plan in rates.measured} == {32}
    assert found is not None
    assert (found[0].streams, found[0].threads) == (1, 4)


def test_batches_grow_on_a_device_until_they_gain_nothing() -> None:
    rates = Rates(lambda plan: min(plan.batch_size, 512) * (1.1 if plan.streams == 3 else 1.0))
    found = rates.trial("cuda:0", GPU_PLAN, 1000).best()
    assert found is not None
    assert found[0] == dataclasses.replace(GPU_PLAN, batch_size=512, streams=3)
    assert max(plan.batch_size for plan in rates.measured) == 1024
    assert found[0].threads is None


def test_a_device_with_too_little_memory() -> None:
    rates = Rates(lambda plan: float(plan.batch_size), most=300)
    found = rates.trial("cuda:0", GPU_PLAN, 1000).best()
    assert found is not None
    assert found[0].batch_size == 128
    assert found[0].streams in (1, 2)
    # What is larger than what failed is not tried at all.
    at_once = [plan.streams * plan.batch_size for plan in rates.measured]
    assert [images for images in at_once if images > 300] == [512, 384]


def test_other_errors_are_no_matter_of_memory() -> None:
    def fail(plan: EncodePlan) -> float:
        if plan != PLAN:
            raise RuntimeError("a wrong shape")
        return 100.0

    with pytest.raises(RuntimeError, match="a wrong shape"):
        Rates(fail).trial("cpu", PLAN, 1000).best()
    assert is_memory_error(MemoryError())
    assert is_memory_error(RuntimeError("CUDA out of memory."))
    assert not is_memory_error(RuntimeError("CUDA error: an illegal access"))


def test_calls_are_made_at_a_time_with_their_threads() -> None:
    barrier = threading.Barrier(3, timeout=30)
    asked: list[int] = []

    class Both:
        def with_threads(self, threads: int) -> Both:
            asked.append(threads)
            return self

        def encode_images(self, pixels: UInt8) -> Float32:
            barrier.wait()  # passes only when three calls are under way
            return np.zeros((len(pixels), 4), np.float32)

    encoder: Any = Both()
    plan = dataclasses.replace(PLAN, streams=3, threads=2)
    assert seconds_per_image(encoder, PIXELS, plan) > 0
    assert asked == [2]


def test_a_few_images_make_a_batch() -> None:
    few = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert repeated(few, 7)[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert len(repeated(few, 2)) == 2


def test_a_trial_with_the_real_model() -> None:
    encoder = load_encoder("mini", device="cpu")
    geometry = encoder.space.geometry
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, geometry.height, geometry.width, 3), np.uint8)
    found = Trial(encoder, pixels, PLAN, seconds=30, expected=0.001).best()
    assert found is not None
    plan, seconds = found
    assert 0 < seconds < 1
    assert plan.workers == PLAN.workers
    assert plan.backend == PLAN.backend


# -- the memory ----------------------------------------------------------------------------


def test_plans_and_rates_are_remembered(tmp_path: Path) -> None:
    kind = PhotoKind.of("exact", 120_000)
    TuningMemory(tmp_path).keep_plan("a", PLAN)
    TuningMemory(tmp_path).keep_seconds("a", kind, 0.05)
    TuningMemory(tmp_path).keep_seconds("b", kind, 0.07)
    memory = TuningMemory(tmp_path)
    assert memory.plan("a") == PLAN
    assert memory.plan("b") is None
    assert memory.seconds("a", kind) == 0.05
    assert memory.seconds("b", kind) == 0.07
    assert [path.name for path in tmp_path.iterdir()] == ["tuning.json"]


def test_photos_of_about_the_same_size_take_about_as_long(tmp_path: Path) -> None:
    memory = TuningMemory(tmp_path)
    memory.keep_seconds("a", PhotoKind.of("exact", 120_000), 0.05)
    assert memory.seconds("a", PhotoKind.of("exact", 190_000)) == 0.05
    assert memory.seconds("a", PhotoKind.of("exact", 70_000)) == 0.05
    assert memory.seconds("a", PhotoKind.of("exact", 4_000_000)) is None
    assert memory.seconds("a", PhotoKind.of("fast", 120_000)) is None
    assert PhotoKind.of("exact", 0.0).octave == 0


def test_a_run_that_is_cut_short_is_gone_on_with_as_it_began(tmp_path: Path) -> None:
    memory = TuningMemory(tmp_path)
    assert memory.backend("index") is None
    memory.begin_run("index", "a", PLAN, 512)
    assert memory.backend("index") == PLAN.backend
    memory.keep_plan("a", dataclasses.replace(PLAN, batch_size=8))
    assert TuningMemory(tmp_path).run("index", "a") == (PLAN, 512)
    assert memory.run("index", "another machine") is None
    assert memory.run("another index", "a") is None
    memory.end_run("index")
    assert memory.run("index", "a") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\xff",
        b"[]",
        b"null",
        b'{"format": 99, "machines": {"a": {}}}',
        b'{"format": 1, "machines": [], "runs": 7}',
        b'{"format": 1, "machines": {"a": 7}, "runs": {"index": []}}',
        b'{"format": 1, "machines": {"a": {"plan": {"batch_size": -1}, "seconds": []}}}',
        b'{"format": 1, "machines": {"a": {"seconds": {"exact 17": "no"}}}}',
        b'{"format": 1, "machines": {"a": {"seconds": {"exact 17": NaN}}}}',
        b'{"format": 1, "machines": {"a": {"seconds": {"exact 17": -3}}}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_bytes(content)
    memory, kind = TuningMemory(tmp_path), PhotoKind("exact", 17)
    assert memory.plan("a") is None
    assert memory.seconds("a", kind) is None
    assert memory.run("index", "a") is None
    memory.end_run("index")
    memory.keep_plan("a", PLAN)
    memory.keep_seconds("a", kind, 0.5)
    assert (memory.plan("a"), memory.seconds("a", kind)) == (PLAN, 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", "32"),
        ("streams", True),
        ("workers", None),
        ("threads", -1),
        ("threads", 1.5),
        ("backend", None),
        ("batch_size", 1 << 40),
        ("streams", 900_000),
        ("threads", 900_000),
        ("workers", 900_000),
    ],
)
def test_a_plan_that_makes_no_sense_counts_as_none(
    name: str, value: object, tmp_path: Path
) -> None:
    memory = TuningMemory(tmp_path)
    memory.keep_plan("a", PLAN)
    document = json.loads((tmp_path / "tuning.json").read_bytes())
    document["machines"]["a"]["plan"][name] = value
    (tmp_path / "tuning.json").write_text(json.dumps(document))
    assert memory.plan("a") is None


def test_what_cannot_be_written_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    memory = TuningMemory(tmp_path / "file" / "below")
    memory.keep_plan("a", PLAN)
    assert memory.plan("a") is None


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    memory = TuningMemory(tmp_path)
    for number in range(70):
        memory.keep_plan(f"machine {number}", PLAN)
        memory.keep_plan("mine", PLAN)
    assert memory.plan("machine 0") is None
    assert memory.plan("machine 69") == memory.plan("mine") == PLAN
    assert len(json.loads((tmp_path / "tuning.json").read_bytes())["machines"]) == 64


def test_another_model_device_or_version_has_rates_of_its_own() -> None:
    encoder = load_encoder("mini", device="cpu")

    class Other:
        def __init__(self, space: Space, recipe: dict[str, Any]) -> None:
            self.space = space
            self.recipe = recipe

    def key(space: Space = encoder.space, **recipe: Any) -> str:
        other: Any = Other(space, {**encoder.recipe, **recipe})
        return machine_key(other)

    assert key() == machine_key(encoder) == machine_key(load_encoder("mini", device="cpu"))
    others = [
        key(dataclasses.replace(encoder.space, fingerprint="0" * 64)),
        key(device="cuda:0 NVIDIA L4"),
        key(backend="onnxruntime"),
        key(precision="bfloat16"),
        key(versions={**encoder.recipe["versions"], "torch": "1.0"}),
    ]
    assert len({key(), *others}) == 6
