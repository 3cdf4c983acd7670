"""Batches through the encoder, several at a time: their order, their bound, and how they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from clipsearch.encoder import Encoder, Float32, ImageGeometry, UInt8, load_encoder
from clipsearch.errors import OutOfMemoryError
from indexer.encode_plan import EncodePlan
from indexer.encode_streams import Batch, EncodeStreams, batches_of
from indexer.stage_clock import StageClock

_GEOMETRY = ImageGeometry(2, 3)
_DEADLOCK = 20  # seconds; nothing here takes one


class Fake:
    """An encoder whose rows are the first byte of each image; ``work`` hears of every call."""

    def __init__(self, work: Callable[[UInt8], None] = lambda pixels: None) -> None:
        self.work = work
        self.threads: list[int] = []
        self.lock = threading.Lock()
        self.running = self.most = self.calls = 0

    def with_threads(self, threads: int) -> Fake:
        self.threads.append(threads)
        return self

    def encode_images(self, pixels: UInt8) -> Float32:
        with self.lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            self.work(pixels)
        finally:
            with self.lock:
                self.running -= 1
        return pixels[:, 0, 0, :1].astype(np.float32)


def _plan(streams: int, batch_size: int = 2, threads: int | None = 1) -> EncodePlan:
    return EncodePlan("torch", batch_size, streams, threads, 2)


def _streams(fake: Fake, plan: EncodePlan, **more: Any) -> EncodeStreams:
    encoder: Any = fake
    return EncodeStreams(encoder, plan, **more)


def _images(count: int) -> Iterator[tuple[int, UInt8]]:
    for number in range(count):
        yield number, np.full((2, 3, 3), number, np.uint8)


def _batches(count: int, size: int = 2) -> Iterator[Batch[int]]:
    return batches_of(_images(count), _GEOMETRY, size)


def _flat(results: Iterator[tuple[Any, Float32]]) -> tuple[list[int], list[float]]:
    items: list[int] = []
    values: list[float] = []
    for some, rows in results:
        items += some
        values += rows[:, 0].tolist()
    return items, values


# -- batches -----------------------------------------------------------------------------------


def test_images_are_gathered_into_whole_batches_and_a_rest() -> None:
    made = list(batches_of(_images(7), _GEOMETRY, 3))
    assert [list(batch.items) for batch in made] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [batch.pixels.shape for batch in made] == [(3, 2, 3, 3), (3, 2, 3, 3), (1, 2, 3, 3)]
    assert [batch.pixels[:, 1, 2, 0].tolist() for batch in made] == [[0, 1, 2], [3, 4, 5], [6]]
    assert made[0].pixels.dtype == np.uint8
    assert made[0].pixels.flags["C_CONTIGUOUS"]
    assert not np.shares_memory(made[0].pixels, made[1].pixels)


@pytest.mark.parametrize(
    ("images", "streams", "size", "sizes"),
    [
        (1, 2, 32, [1]),
        (2, 2, 32, [1, 1]),
        (33, 2, 32, [17, 16]),
        (64, 2, 32, [32, 32]),
        (65, 2, 32, [17, 17, 17, 14]),
        (96, 2, 32, [24] * 4),
        (128, 2, 32, [32] * 4),
        (5, 8, 32, [1] * 5),
        (200, 1, 192, [100, 100]),
    ],
)
def test_a_few_images_keep_every_stream_busy(
    images: int, streams: int, size: int, sizes: list[int]
) -> None:
    plan = EncodePlan("torch", size, streams, 1, 2)
    made = batches_of(_images(images), _GEOMETRY, plan.batch_for(images))
    assert [len(batch.items) for batch in made] == sizes


def test_a_batch_that_no_memory_holds_is_said_with_a_cure() -> None:
    with pytest.raises(OutOfMemoryError, match=rf"--batch-size {1 << 49}$"):
        list(batches_of(_images(1), _GEOMETRY, 1 << 50))


def test_no_image_makes_no_batch() -> None:
    assert list(batches_of(_images(0), _GEOMETRY, 3)) == []
    fake = Fake()
    assert list(_streams(fake, _plan(2)).encode(_batches(0))) == []
    assert fake.calls == 0


# -- order and bounds --------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_results_are_in_order_whatever_the_calls_take(streams: int) -> None:
    random = np.random.default_rng(streams)
    pauses = random.uniform(0, 0.01, 40)
    fake = Fake(lambda pixels: time.sleep(pauses[pixels[0, 0, 0, 0] // 2]))
    items, values = _flat(_streams(fake, _plan(streams)).encode(_batches(41)))
    assert items == list(range(41))
    assert values == list(range(41))
    assert fake.calls == 21
    assert fake.threads == [1]


def test_a_batch_that_takes_long_holds_back_the_later_ones_and_no_call_more() -> None:
    """The first batch waits until the second is encoded: so two calls are under way at once."""
    second = threading.Event()

    def work(pixels: UInt8) -> None:
        if pixels[0, 0, 0, 0] == 0:
            assert second.wait(_DEADLOCK)
        elif pixels[0, 0, 0, 0] == 2:
            second.set()

    fake = Fake(work)
    items, _ = _flat(_streams(fake, _plan(2)).encode(_batches(10)))
    assert items == list(range(10))
    assert fake.most == 2


@pytest.mark.parametrize("streams", [1, 2, 3])
def test_only_so_many_batches_are_made_ahead(streams: int) -> None:
    """While nothing is taken and every call hangs, streams + 1 batches are made, and no more."""
    go = threading.Event()

    def work(pixels: UInt8) -> None:
        go.wait(_DEADLOCK)

    fake = Fake(work)
    made: list[int] = []

    def counted() -> Iterator[Batch[int]]:
        for batch in _batches(40):
            made.append(len(batch.items))
            yield batch

    results = _streams(fake, _plan(streams)).encode(counted())
    first: list[Any] = []
    taker = threading.Thread(target=lambda: first.append(next(results)))
    taker.start()
    until = time.monotonic() + _DEADLOCK
    while (len(made) < streams + 1 or fake.running < streams) and time.monotonic() < until:
        time.sleep(0.01)
    assert (len(made), fake.running) == (streams + 1, streams)
    go.set()
    taker.join()
    assert list(first[0][0]) == [0, 1]
    # The rest comes as it is asked for.
    assert len(made) <= streams + 2
    rest, _ = _flat(results)
    assert rest == list(range(2, 40))
    assert fake.most <= streams


def test_calls_of_two_shards_are_no_more_at_a_time_than_of_one() -> None:
    fake = Fake(lambda pixels: time.sleep(0.002))
    found: list[list[int]] = []

    def shard() -> None:
        found.append(_flat(_streams(fake, _plan(2)).encode(_batches(30)))[0])

    threads = [threading.Thread(target=shard) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [list(range(30))] * 3
    assert fake.most <= 2


def test_the_real_encoder_gives_the_same_rows_however_many_calls() -> None:
    encoder = load_encoder("mini", device="cpu")
    geometry = encoder.space.geometry
    shape = (21, geometry.height, geometry.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows = [
        np.concatenate(
            [
                found
                for _, found in EncodeStreams(encoder, _plan(streams, 4)).encode(
                    batches_of(enumerate(pixels), geometry, 4)
                )
            ]
        )
        for streams in (1, 3)
    ]
    assert rows[0].shape == (21, encoder.space.dim)
    assert np.array_equal(rows[0], rows[1])
    assert np.einsum("ij,ij->i", rows[0], encoder.encode_images(pixels)).min() > 0.99999


def test_what_is_done_is_told_and_timed() -> None:
    clock, told = StageClock(), list[int]()
    fake = Fake(lambda pixels: time.sleep(0.001))
    streams = _streams(fake, _plan(2), when_encoded=told.append, clock=clock)
    _flat(streams.encode(_batches(9)))
    assert sorted(told) == [1, 2, 2, 2, 2]
    verdict = clock.verdict(2, 2)
    assert verdict.images == 9
    assert verdict.shares["encode"] > 0
    assert verdict.shares["write"] == 0


# -- how it ends -------------------------------------------------------------------------------


def test_an_error_of_a_call_comes_at_once_although_earlier_calls_go_on() -> None:
    """The first call ends only once the error has been seen: it is not waited for in order."""
    seen = threading.Event()

    def work(pixels: UInt8) -> None:
        if pixels[0, 0, 0, 0] == 0:
            assert seen.wait(_DEADLOCK)
        if pixels[0, 0, 0, 0] == 2:
            raise ValueError("a broken tower")

    fake = Fake(work)

    def endless() -> Iterator[Batch[int]]:
        for batch in _batches(200):
            if streams.is_over():
                seen.set()
                raise CancelledError  # as decoding does
            yield batch

    streams = _streams(fake, _plan(2))
    results = streams.encode(endless())
    # Where the error comes before the third batch is made, nobody asks; then time lets go.
    late = threading.Timer(0.5, seen.set)
    late.start()
    with pytest.raises(ValueError, match="a broken tower"):
        _flat(results)
    late.join()
    assert fake.calls <= 3
    assert fake.running == 0


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate "
                     "memory: you tried to allocate 99 bytes."),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate"),
        RuntimeError("BFCArena: Failed to allocate memory for requested buffer of size 9"),
    ],
)  # fmt: skip
def test_too_little_memory_names_the_option(error: Exception) -> None:
    def work(pixels: UInt8) -> None:
        raise error

    with pytest.raises(OutOfMemoryError, match=r"--batch-size 2$") as caught:
        _flat(_streams(Fake(work), _plan(2, 4)).encode(_batches(8, 4)))
    assert "\n" not in str(caught.value)
    with pytest.raises(OutOfMemoryError, match="smaller model"):
        _flat(_streams(Fake(work), _plan(1, 1)).encode(_batches(1, 1)))


def test_another_error_is_not_taken_for_want_of_memory() -> None:
    def work(pixels: UInt8) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        _flat(_streams(Fake(work), _plan(2)).encode(_batches(8)))


def test_an_error_of_the_images_comes_through_and_no_call_begins_any_more() -> None:
    def broken() -> Iterator[Batch[int]]:
        yield from _batches(4)
        raise OSError("the disk is gone")

    fake = Fake()
    with pytest.raises(OSError, match="the disk is gone"):
        _flat(_streams(fake, _plan(2)).encode(broken()))
    assert fake.calls <= 2
    assert fake.running == 0


def test_stopped_work_ends_with_the_calls_that_are_under_way() -> None:
    stop = threading.Event()
    fake = Fake(lambda pixels: stop.set())
    with pytest.raises(CancelledError):
        _flat(_streams(fake, _plan(2), is_stopped=stop.is_set).encode(_batches(200)))
    assert fake.calls <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("encode")]


def test_closing_ends_the_calls() -> None:
    fake = Fake()
    results = _streams(fake, _plan(2)).encode(_batches(200))
    next(results)
    results.close()
    assert fake.calls <= 5
    assert fake.running == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("encode")]


def test_it_takes_any_encoder_that_is_one() -> None:
    encoder: Encoder = load_encoder("mini", device="cpu")
    side = encoder.space.geometry
    black = (("a", np.zeros((side.height, side.width, 3), np.uint8)) for _ in range(3))
    (result,) = EncodeStreams(encoder, _plan(1, 4, None)).encode(batches_of(black, side, 4))
    assert list(result[0]) == ["a", "a", "a"]
    assert np.allclose(np.linalg.norm(result[1], axis=1), 1, atol=1e-6)
