"""How fast this machine decodes, encodes, indexes, searches and classifies: measured.

Every measure gets a part of the time there is, and is made at least once: little time gives rough
numbers, and no missing ones.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from clipsearch.backend_memory import remember_fastest
from clipsearch.backends import BACKENDS, ONLY_ASKED_FOR, ONNX_PRECISIONS, REFERENCE
from clipsearch.encoder import Encoder, ImageGeometry, UInt8, load_encoder
from clipsearch.errors import ClipsearchError, ImageError, SourceError
from clipsearch.threads import worker_count
from indexer.admission import admit, known_admission
from indexer.bench_photos import BenchPhotos, copies
from indexer.bench_rates import encode_rate, run_of_indexing, search_rates, seconds_guessed
from indexer.bench_report import BenchReport, DecodeRate, EncodeRate, IndexRate
from indexer.config import IndexConfig
from indexer.encode_plan import default_plan
from indexer.tuning_memory import TuningMemory, machine_key

ONNX_CURE = "pip install 'clipsearch[onnx]'"

_CPU_BATCHES, _GPU_BATCHES = (32, 8, 64), (256, 64, 512)
_EXPORT_SECONDS = 30.0  # what making an ONNX tower may take
_VECTORS, _FEW_VECTORS = 100_000, 20_000
_LITTLE_TIME = 30.0
_THOROUGH_SECONDS = 45.0  # rates of less time are too rough to be remembered
_MOST_COPIES_BYTES = 1_500_000_000


class Bench:
    """Measures until ``end`` (of ``time.perf_counter``), into ``report``.

    encoder : the reference. folder : for what is made, to be removed by the caller. tell : hears
    what is being measured.
    """

    def __init__(
        self,
        encoder: Encoder,
        photos: list[BenchPhotos],
        folder: Path,
        end: float,
        report: BenchReport,
        tell: Callable[[str], None],
    ) -> None:
        self._encoder = encoder
        self._photos = photos
        self._folder = folder
        self._end = end
        self._report = report
        self._tell = tell
        self._on_cpu = encoder.recipe["device"] == "cpu"
        self._plan = default_plan(IndexConfig(), str(encoder.recipe["device"]))
        self._pixels: UInt8 | None = None
        self._is_thorough = self._left() > _THOROUGH_SECONDS

    def run(self) -> None:
        """Measure all there is. Raises SourceError where no photo can be decoded."""
        left = self._left()
        self._decode(left * 0.25)
        self._search(left * 0.08)
        self._encode(max(self._left(), 0.0) * 0.6)
        self._index(max(self._left(), 0.0))

    def _left(self) -> float:
        return self._end - time.perf_counter()

    def _decode(self, seconds: float) -> None:
        from indexer.decode import start_workers

        start_workers(self._plan.workers)
        each = seconds / (4 * len(self._photos))
        for photos in self._photos:
            for decode in ("exact", "fast"):
                for workers in dict.fromkeys((self._plan.workers, 1)):
                    self._tell(f"decoding {photos.name}, {decode}, {workers} at a time")
                    rate = self._decode_rate(photos, decode, workers, each)
                    self._report.decode.append(DecodeRate(photos.name, decode, workers, rate))

    def _decode_rate(self, photos: BenchPhotos, decode: str, workers: int, seconds: float) -> float:
        """The clock starts when every process has done its first image."""
        from indexer.decode import decode_in_order

        config = IndexConfig()
        end = time.perf_counter() + seconds

        def sources() -> Iterator[str]:
            for number, path in enumerate(itertools.cycle(photos.files)):
                if number >= 3 * workers and time.perf_counter() > end:
                    return
                yield str(path)

        decoded = decode_in_order(
            sources(),
            self._encoder.space.geometry,
            decode=decode,
            max_megapixels=config.max_megapixels,
            thumbnail_side=config.thumbnail_side,
            threads=workers,
            look_ahead=2 * workers,
            seconds=config.decode_seconds,
        )
        count, begin = 0, 0.0
        kept: list[UInt8] = []
        why: ImageError | None = None
        for count, image in enumerate(decoded):
            if count == workers - 1:
                begin = time.perf_counter()
            if isinstance(image, ImageError):
                why = image
            elif len(kept) < len(photos.files[:64]):
                kept.append(image.pixels)
        if why is not None and not kept:
            raise SourceError(f"no photo to measure with can be decoded, the last because {why}")
        if kept and self._pixels is None:
            self._pixels = np.stack(kept)
        return (count + 1 - workers) / (time.perf_counter() - begin)

    def _encode(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        assert self._pixels is not None
        for place, backend in enumerate(BACKENDS):
            share = (end - time.perf_counter()) / (len(BACKENDS) - place)
            self._tell(f"encoding with {backend}")
            encoder = self._load(backend, end - time.perf_counter())
            if encoder is None:
                continue
            try:
                self._encode_rates(backend, encoder, share)
                self._note_drift(backend, encoder)
            except (ClipsearchError, RuntimeError, MemoryError) as error:
                self._report.notes[backend] = f"cannot encode here: {_one_line(error)}"
                continue
            if self._is_thorough:
                self._keep_plan(backend, encoder)
        found = self._report.fastest(set(self._report.strict).difference(ONLY_ASKED_FOR))
        if self._is_thorough and found is not None:
            device = self._report.machine.device_name
            remember_fastest(self._report.model, device, found.backend)
            self._report.remembered = found.backend

    def _load(self, backend: str, left: float) -> Encoder | None:
        """The encoder with this back-end; None, with a note, where it is not to be had."""
        if backend == REFERENCE:
            return self._encoder
        if backend in ONNX_PRECISIONS:
            import importlib.util

            if importlib.util.find_spec("onnxruntime") is None:
                self._report.notes[backend] = f"not installed: {ONNX_CURE}"
                return None
            if left < _EXPORT_SECONDS:
                self._report.notes[backend] = "left out: it takes more --seconds to make"
                return None
        try:
            return load_encoder(
                self._report.model, device=self._report.machine.device_name, backend=backend
            )
        except (ClipsearchError, RuntimeError) as error:
            self._report.notes[backend] = _one_line(error)
            return None

    def _encode_rates(self, backend: str, encoder: Encoder, seconds: float) -> None:
        assert self._pixels is not None
        cores = worker_count()
        splits: list[tuple[int, int | None]] = [(self._plan.streams, self._plan.threads)]
        splits += [(1, cores)] if self._on_cpu and cores > 1 else [(1, None)]
        batches = _CPU_BATCHES if self._on_cpu else _GPU_BATCHES
        begin = time.perf_counter()
        guess = seconds_guessed(encoder, self._pixels)
        plans = [(batch, split) for split in dict.fromkeys(splits) for batch in batches]
        each = (seconds - (time.perf_counter() - begin)) / len(plans)
        measured = False
        for batch, (streams, threads) in plans:
            if guess * batch > 2 * max(each, 0.0):
                continue
            self._tell(f"encoding with {backend}, {batch} x {streams} at a time")
            self._measure(backend, encoder, batch, streams, threads, each)
            measured = True
        if not measured:  # one small batch is a number, too
            streams, threads = splits[0]
            self._measure(backend, encoder, 2, streams, threads, each)

    def _measure(
        self,
        backend: str,
        encoder: Encoder,
        batch: int,
        streams: int,
        threads: int | None,
        seconds: float,
    ) -> None:
        assert self._pixels is not None
        pixels = np.ascontiguousarray(self._pixels[np.arange(batch) % len(self._pixels)])
        rate = encode_rate(encoder, pixels, streams, threads, seconds)
        self._report.encode.append(EncodeRate(backend, batch, streams, threads, rate))

    def _note_drift(self, backend: str, encoder: Encoder) -> None:
        if backend == REFERENCE:
            return
        found = known_admission(encoder, backend)
        rate, reference = self._report.encoding(backend), self._report.encoding(REFERENCE)
        is_faster = (
            rate is not None
            and reference is not None
            and rate.images_per_second > reference.images_per_second
        )
        if found is None and is_faster and self._is_thorough:
            self._tell(f"comparing the vectors of {backend}")
            found = admit(encoder, backend, lambda: self._encoder, self._sample)
        if found is None:
            text = "not compared here yet: index checks it before it is used"
        else:
            text = found.text
            if found.level == "strict":
                self._report.strict.append(backend)
        self._report.drift[backend] = text

    def _keep_plan(self, backend: str, encoder: Encoder) -> None:
        best = self._report.encoding(backend)
        assert best is not None
        plan = dataclasses.replace(
            self._plan,
            backend=backend,
            batch_size=best.batch_size,
            streams=best.streams,
            threads=best.threads,
        )
        TuningMemory().keep_plan(machine_key(encoder), plan)

    def _sample(self, geometry: ImageGeometry) -> UInt8:
        """A user's own photos to compare back-ends on. Made ones are none: pictures that come
        with packages stand in for them."""
        if self._photos[0].is_made or self._pixels is None:
            return np.empty((0, geometry.height, geometry.width, 3), np.uint8)
        return self._pixels

    def _index(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        decode = IndexConfig().decode
        for place, photos in enumerate(self._photos):
            share = (end - time.perf_counter()) / (len(self._photos) - place)
            best = self._report.encoding()
            backend = best.backend if best is not None else REFERENCE
            limit = self._report.limit(photos.name, decode, backend)
            if limit is None:
                continue
            self._tell(f"indexing {photos.name}, {decode}")
            rate = self._index_rate(photos, decode, backend, limit, share)
            if rate is not None:
                self._report.index.append(rate)

    def _index_rate(
        self, photos: BenchPhotos, decode: str, backend: str, limit: float, seconds: float
    ) -> IndexRate | None:
        """A run into an index of its own; its report's seconds begin when the model is there."""
        room = min(_MOST_COPIES_BYTES, shutil.disk_usage(self._folder).free // 5)
        count = int(max(4 * self._plan.workers, limit * seconds * 0.8))
        count = max(1, min(count, int(room / max(photos.mean_bytes, 1.0))))
        place = self._folder / f"{photos.name.replace(' ', '')}-{decode}"
        files = copies(photos, place, count)
        index = place.with_suffix(".index")
        try:
            report = run_of_indexing(
                files, index, self._report, IndexConfig(decode=decode, backend=backend)
            )
        finally:
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(index, ignore_errors=True)
        if report is None or not report.new:
            return None
        rate = report.new / max(report.encode_seconds, 1e-6)
        return IndexRate(photos.name, decode, backend, report.new, rate, limit)

    def _search(self, seconds: float) -> None:
        self._tell("searching and classifying")
        count = _FEW_VECTORS if seconds < 0.08 * _LITTLE_TIME else _VECTORS
        self._report.search = search_rates(self._encoder.space, count, seconds)


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
