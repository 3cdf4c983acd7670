"""Rates that ``clipsearch bench`` measures: encoding alone, searching, a run of indexing."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from clipsearch.encoder import Encoder, Space, UInt8
from indexer.bench_report import BenchReport, SearchRates
from indexer.config import IndexConfig
from indexer.report import BuildReport, Event, Finished

_LABELS = (10, 1_000)


def seconds_guessed(encoder: Encoder, pixels: UInt8) -> float:
    """Seconds an image takes, roughly, from a few small calls after a first one."""
    encoder.encode_images(pixels[:1])
    for count in (2, 8):  # the larger one only where that is soon over
        begin = time.perf_counter()
        encoder.encode_images(np.ascontiguousarray(pixels[np.arange(count) % len(pixels)]))
        taken = time.perf_counter() - begin
        if taken > 0.1:
            break
    return taken / count


def encode_rate(
    encoder: Encoder, pixels: UInt8, streams: int, threads: int | None, seconds: float
) -> float:
    """Images a second that ``streams`` calls at a time encode, for about ``seconds``.

    pixels : (n, height, width, 3) uint8, of each call.
    """
    view = encoder if threads is None else encoder.with_threads(threads)
    with ThreadPoolExecutor(streams, thread_name_prefix="bench") as pool:
        # Each thread once, before the clock: its buffers and its share of the threads.
        for call in [pool.submit(view.encode_images, pixels[:1]) for _ in range(streams)]:
            call.result()
        begin = time.perf_counter()
        end = begin + seconds

        def calls() -> int:
            done = 0
            while done == 0 or time.perf_counter() < end:
                view.encode_images(pixels)
                done += 1
            return done

        done = sum(call.result() for call in [pool.submit(calls) for _ in range(streams)])
        return done * len(pixels) / (time.perf_counter() - begin)


def search_rates(space: Space, count: int, seconds: float) -> SearchRates:
    """Of ``count`` made vectors of the space, in memory, in about ``seconds``."""
    from clipsearch.exact_search import RowScan
    from clipsearch.scoring import LabelScorer, score_blocks
    from clipsearch.vectors import Vectors

    random = np.random.default_rng(0)

    def rows(number: int) -> np.ndarray:
        made = random.standard_normal((number, space.dim), dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made

    vectors = Vectors(
        np.arange(count), (rows(count).astype(np.float16),), space.dim, np.empty(0, np.int64)
    )
    scan, queries = RowScan(vectors), itertools.cycle(rows(16))
    scan.best(next(queries), 10)
    begin, asked = time.perf_counter(), 0
    while asked == 0 or time.perf_counter() - begin < seconds / 3:
        scan.best(next(queries), 10)
        asked += 1
    rate = asked / (time.perf_counter() - begin)
    classify = {}
    for labels in _LABELS:
        scorer = LabelScorer(rows(labels), space.logit_scale)
        begin, rounds = time.perf_counter(), 0
        while rounds == 0 or time.perf_counter() - begin < seconds / 3:
            for _ in score_blocks(vectors.pieces(), scorer, count):
                pass
            rounds += 1
        classify[labels] = rounds * count / (time.perf_counter() - begin)
    return SearchRates(count, space.dim, rate, classify)


class _Enough(Exception):
    """The images are encoded; the rest of a run of indexing is nothing to measure here."""

    def __init__(self, report: BuildReport) -> None:
        self.report = report


def run_of_indexing(
    files: Sequence[Path], index: Path, report: BenchReport, config: IndexConfig
) -> BuildReport:
    """Index the files with the model and on the device of ``report``; returns once they are
    encoded and committed. Raises what ``build_index`` raises."""
    from indexer.build import build_index

    def hear(event: Event) -> None:
        if isinstance(event, Finished):
            raise _Enough(event.report)

    try:
        return build_index(
            (),
            index,
            listed=[os.fspath(path) for path in files],
            encoder=report.model,
            device=report.machine.device_name,
            config=config,
            on_event=hear,
        )
    except _Enough as enough:
        return enough.report
