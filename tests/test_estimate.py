"""What a run is estimated to take, by a short probe or by what is remembered."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import indexer.estimate
import indexer.probe
from clipsearch.encoder import Encoder, load_encoder
from clipsearch.manifest import new_manifest
from clipsearch.open_clip_encoder import OpenClipEncoder
from indexer import IndexConfig, build_index
from indexer.encode_plan import EncodePlan, default_plan
from indexer.estimate import Estimate, Estimator, remembered_plan
from indexer.look import Look, look
from indexer.probe import Probe
from indexer.report import Committed, Event
from indexer.tuning_memory import PhotoKind, TuningMemory, machine_key
from tests.test_build import counted_encoding, scene, vectors_by_id

CONFIG = IndexConfig(decode="exact")
IMAGES = 24


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("mini", device="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small pictures, more of them than a probe takes."""
    place = tmp_path / "scenes"
    for seed in range(IMAGES):
        scene(place / f"{seed:02}.jpg", seed)
    return place


@pytest.fixture
def seen(folder: Path, tmp_path: Path) -> Look:
    manifest = new_manifest("a test")
    return look(tmp_path / "x.index", manifest, [folder], [], CONFIG, CONFIG.threads)


@pytest.fixture
def memory(tmp_path: Path) -> TuningMemory:
    return TuningMemory(tmp_path / "memory")


def estimator(
    encoder: Encoder,
    seen: Look,
    memory: TuningMemory,
    config: IndexConfig = CONFIG,
    device: str = "cpu",
) -> Estimator:
    plan = default_plan(config, device)
    return Estimator(encoder, seen, config, plan, memory)


def probe_of(decoding: float, encoding: float, calls: list[EncodePlan]) -> Callable[..., Any]:
    """What stands for ``Probe``: as if an image took so long."""

    class Told(Probe):
        def __init__(self, encoder: Encoder, *_: Any) -> None:
            self.plan = next(one for one in _ if isinstance(one, EncodePlan))
            self.pixels = np.zeros((4, 96, 96, 3), np.uint8)
            self.decoding, self.encoding = decoding, encoding
            self._on_cpu = encoder.recipe["device"] == "cpu"
            calls.append(self.plan)

    return Told


# -- the probe -----------------------------------------------------------------------------


def test_the_probe_measures_both_stages(encoder: Encoder, seen: Look) -> None:
    plan = default_plan(CONFIG, "cpu")
    probe = Probe(encoder, seen, CONFIG, plan, 16)
    geometry = encoder.space.geometry
    assert probe.pixels.shape[1:] == (geometry.height, geometry.width, 3)
    assert 6 <= len(probe.pixels) <= IMAGES
    assert 0 < probe.decoding < 1
    assert 0 < probe.encoding < 1
    assert probe.each() == probe.decoding + probe.encoding, "on a CPU they take turns"
    assert probe.plan == plan


def test_what_a_device_does_of_the_decoding_is_part_of_it(encoder: Encoder, seen: Look) -> None:
    plan = dataclasses.replace(default_plan(CONFIG, "cpu"), resize="device")
    probe = Probe(encoder, seen, CONFIG, plan, 16)
    assert len(probe.pixels) == IMAGES
    assert probe.plan.resize == "device"
    assert 0 < probe.decoding < 1


def test_only_counts_are_remembered_of_a_plan(
    encoder: Encoder, seen: Look, memory: TuningMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pictures are resized is a matter of the settings, and these may have changed."""
    monkeypatch.setattr(indexer.probe, "Probe", probe_of(0.02, 0.03, []))
    plan = default_plan(CONFIG, "cpu")
    other = dataclasses.replace(plan, streams=1, threads=2, resize="device", backend="onnx")
    memory.keep_plan(machine_key(encoder), other)
    found = estimator(encoder, seen, memory).estimate().plan
    assert found == dataclasses.replace(plan, streams=1, threads=2)


def test_a_slow_encoder_is_asked_for_a_few_images(
    encoder: Encoder, seen: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that takes a second an image made every start wait for half a minute."""
    real = OpenClipEncoder.encode_images

    def slow(self: OpenClipEncoder, pixels: Any) -> Any:
        time.sleep(1.0 * len(pixels))
        return real(self, pixels)

    plan = EncodePlan("torch", batch_size=32, streams=1, threads=1, workers=2)
    monkeypatch.setattr(OpenClipEncoder, "encode_images", slow)
    with counted_encoding(monkeypatch) as calls:
        probe = Probe(encoder, seen, CONFIG, plan, 16)
    assert sum(calls) <= 4
    assert probe.encoding >= 1.0


def test_slow_decoding_is_broken_off(
    encoder: Encoder, seen: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer.probe, "_DECODE_SECONDS", 0.0)
    plan = EncodePlan("torch", batch_size=32, streams=1, threads=1, workers=2)
    probe = Probe(encoder, seen, CONFIG, plan, 16)
    assert 2 <= len(probe.pixels) <= 5
    assert probe.decoding > 0


def test_a_batch_that_memory_does_not_suffice_for(
    encoder: Encoder, seen: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OpenClipEncoder.encode_images

    def small(self: OpenClipEncoder, pixels: Any) -> Any:
        if len(pixels) > 10:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, pixels)

    monkeypatch.setattr(OpenClipEncoder, "encode_images", small)
    plan = EncodePlan("torch", batch_size=32, streams=1, threads=1, workers=2)
    probe = Probe(encoder, seen, CONFIG, plan, 16)
    assert probe.plan.batch_size == 8
    assert 0 < probe.encoding < 1


# -- the estimate --------------------------------------------------------------------------


def test_on_a_cpu_both_stages_count_and_beside_a_device_the_slower(
    encoder: Encoder, seen: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[EncodePlan] = []
    monkeypatch.setattr(indexer.probe, "Probe", probe_of(0.02, 0.03, calls))
    on_cpu = estimator(encoder, seen, TuningMemory(tmp_path / "cpu")).estimate()
    assert on_cpu.seconds == pytest.approx(IMAGES * 0.05)

    class Device:
        space = encoder.space
        recipe = {**encoder.recipe, "device": "cuda:0 NVIDIA L4"}  # noqa: RUF012

    device: Any = Device()
    beside = estimator(device, seen, TuningMemory(tmp_path / "gpu"), device="cuda:0").estimate()
    assert beside.seconds == pytest.approx(IMAGES * 0.03)
    assert beside.plan.batch_size == 64  # not 256, which take 15 seconds
    memory, plan = TuningMemory(tmp_path / "gpu"), default_plan(CONFIG, "cuda:0")
    # Another number of devices has rates of its own; the decoders are the same.
    four = Estimator(device, seen, CONFIG, plan, memory, devices=4).estimate()
    assert four.seconds == pytest.approx(IMAGES * 0.02)


def test_shards_are_of_whole_batches_and_of_the_wanted_length(
    encoder: Encoder, seen: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each, rows in [(0.05, 896), (0.1, 448), (4.0, 32), (1e-9, 8192)]:
        monkeypatch.setattr(indexer.probe, "Probe", probe_of(each, 0.0, []))
        found = estimator(encoder, seen, TuningMemory(tmp_path / f"{each}")).estimate()
        assert found.shard_rows == rows  # of 45 seconds


@pytest.mark.parametrize(("each", "batch"), [(0.03, 32), (0.1, 16), (0.5, 4), (9.0, 1)])
def test_no_call_takes_long(
    each: float,
    batch: int,
    encoder: Encoder,
    seen: Look,
    memory: TuningMemory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A heavy model's calls have fewer images: else nothing would be heard of it for minutes."""
    calls: list[EncodePlan] = []
    monkeypatch.setattr(indexer.probe, "Probe", probe_of(0.02, each, calls))
    plan = dataclasses.replace(default_plan(CONFIG, "cpu"), streams=2, threads=1)
    monkeypatch.setattr(indexer.estimate, "trial_seconds", lambda seconds: 0.0)

    def told(config: IndexConfig = CONFIG) -> int:
        return Estimator(encoder, seen, config, plan, memory).estimate().plan.batch_size

    assert [told(), told()] == [batch, batch]
    assert len(calls) == 1  # the second one remembered
    monkeypatch.setattr(indexer.estimate, "TuningMemory", lambda: memory)
    assert remembered_plan(encoder, CONFIG, plan).batch_size == batch
    assert told(dataclasses.replace(CONFIG, batch_size=32)) == 32  # as the user wishes


def test_what_is_remembered_is_not_probed(
    encoder: Encoder, seen: Look, memory: TuningMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[EncodePlan] = []
    monkeypatch.setattr(indexer.probe, "Probe", probe_of(0.02, 0.03, calls))
    first = estimator(encoder, seen, memory).estimate()
    assert len(calls) == 1
    assert estimator(encoder, seen, memory).estimate() == first
    assert len(calls) == 1
    # A run tells better than a probe, if it was long enough to tell.
    estimator(encoder, seen, memory).remember(63, 100.0)
    estimator(encoder, seen, memory).remember(1000, 9.0)
    assert estimator(encoder, seen, memory).estimate() == first
    estimator(encoder, seen, memory).remember(1000, 80.0)
    assert estimator(encoder, seen, memory).estimate().seconds == pytest.approx(IMAGES * 0.08)
    assert len(calls) == 1
    # Other settings have rates of their own.
    fast = dataclasses.replace(CONFIG, decode="fast")
    estimator(encoder, seen, memory, fast).estimate()
    few = dataclasses.replace(CONFIG, batch_size=2)
    assert estimator(encoder, seen, memory, few).estimate().plan.batch_size == 2
    assert len(calls) == 3


def test_too_few_images_are_not_worth_a_probe(
    encoder: Encoder, folder: Path, tmp_path: Path, memory: TuningMemory
) -> None:
    for path in sorted(folder.iterdir())[16:]:
        path.unlink()
    seen = look(tmp_path / "x.index", new_manifest("a test"), [folder], [], CONFIG, 2)
    assert estimator(encoder, seen, memory).estimate() == Estimate(default_plan(CONFIG, "cpu"))


def test_pictures_that_cannot_be_decoded_tell_nothing(
    encoder: Encoder, folder: Path, tmp_path: Path, memory: TuningMemory
) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"no picture" + path.name.encode())
    seen = look(tmp_path / "x.index", new_manifest("a test"), [folder], [], CONFIG, 2)
    assert estimator(encoder, seen, memory).estimate().seconds is None


def test_a_long_run_is_preceded_by_a_trial_once(
    encoder: Encoder, seen: Look, memory: TuningMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []
    plan = default_plan(CONFIG, "cpu")
    better = dataclasses.replace(plan, batch_size=8)

    class Told:
        def __init__(self, *_: Any, seconds: float, **__: Any) -> None:
            tried.append(seconds)

        def best(self) -> tuple[EncodePlan, float]:
            return better, 0.2

    monkeypatch.setattr(indexer.probe, "Probe", probe_of(1.0, 9.0, []))
    monkeypatch.setattr(indexer.estimate, "Trial", Told)
    told: list[float] = []
    found = Estimator(encoder, seen, CONFIG, plan, memory, before_trial=told.append).estimate()
    assert told == tried == [pytest.approx(0.03 * 240)]
    assert found.plan == better
    assert found.seconds == pytest.approx(IMAGES * 1.2), "with the rate that the trial found"
    again = estimator(encoder, seen, memory).estimate()
    assert (again.plan, again.seconds) == (found.plan, found.seconds)
    assert len(tried) == 1
    # What a user sets wins over what is remembered.
    own = dataclasses.replace(CONFIG, batch_size=5, decode_threads=3)
    assert remembered_plan(encoder, CONFIG, plan) == plan, "of the user's own memory, not this one"
    as_wished = estimator(encoder, seen, memory, own).estimate().plan
    assert (as_wished.batch_size, as_wished.workers) == (5, 3)
    assert len(tried) == 1


def test_a_batch_size_that_nobody_asked_for_is_none() -> None:
    """It was saved with every index before there were trials."""
    former = {**CONFIG.to_dict(), "batch_size": 32}
    assert IndexConfig.from_dict(former).batch_size == 32
    del former["backend"]
    assert IndexConfig.from_dict(former).batch_size is None
    assert IndexConfig.from_dict({**former, "batch_size": 16}).batch_size == 16


# -- runs ----------------------------------------------------------------------------------


def test_a_run_after_a_kill_makes_the_same_vectors(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder
) -> None:
    """Even where another way to encode was found best in between."""
    monkeypatch.setattr(indexer.estimate, "_SHARD_ROWS", (8, 8))
    config = IndexConfig(exclude=("*.none",), backend="torch")
    plan = dataclasses.replace(default_plan(config, "cpu"), batch_size=8)
    key, home = machine_key(encoder), TuningMemory()
    home.keep_plan(key, plan)

    def cut(event: Event) -> None:
        if isinstance(event, Committed):
            raise KeyboardInterrupt

    def build(place: Path, on_event: Any = None) -> None:
        build_index(folder, place, encoder="mini", device="cpu", config=config, on_event=on_event)

    build(tmp_path / "whole.index")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut.index", cut)
    home.keep_plan(key, dataclasses.replace(plan, batch_size=3))
    with counted_encoding(monkeypatch) as calls:
        build(tmp_path / "cut.index")
    assert set(calls) == {8}
    whole, gone_on = vectors_by_id(tmp_path / "whole.index"), vectors_by_id(tmp_path / "cut.index")
    assert len(whole) == IMAGES
    assert set(whole) == set(gone_on)
    for id_, row in whole.items():
        assert row.tobytes() == gone_on[id_].tobytes()
    # That run came to its end: the next one goes by what is best.
    scene(folder / "late.jpg", 99)
    with counted_encoding(monkeypatch) as calls:
        build(tmp_path / "cut.index")
    assert calls == [1]
    assert TuningMemory().run("", key) is None
    (Path(TuningMemory()._file)).unlink()


def test_rates_of_a_run_are_in_the_users_cache(
    folder: Path, tmp_path: Path, encoder: Encoder
) -> None:
    build_index(folder, tmp_path / "x.index", encoder="mini", device="cpu", config=CONFIG)
    size = np.mean([path.stat().st_size for path in folder.iterdir()])
    seconds = TuningMemory().seconds(machine_key(encoder), PhotoKind.of("exact - -", float(size)))
    assert seconds is not None
    assert 0 < seconds < 1
