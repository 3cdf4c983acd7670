"""How near ``clipsearch index`` comes to what decoding and encoding alone allow on this CPU.

    python benchmarks/encode_limit.py PHOTOS [PHOTOS ...] [--model mini --model ViT-B-32]
                                      [--backend torch] [--decode exact] [--repeats 3]
                                      [--images N]

Where decoding alone makes d images/s on all processors and the encoder alone e, sharing the
processors allows 1/(1/d + 1/e). Each repeat measures in turn

- d: a process for each processor reads and decodes its share of the photos, with thumbnails, and
  hands nothing on;
- e: the encoder on pixels that are there, the best of calls at a time times threads a call;
- the command: ``clipsearch index`` of all photos into a new index, as a whole process; and of
  two photos, which is what starting and ending takes.

Printed are the medians, the share of the limit of the whole process and net of start-up, and the
same share in processor seconds, (decoding + encoding alone) / the command net of start-up: on a
busy machine times say little, and processor seconds still show what is wasted. ``--images`` takes
the first so many photos of each folder.

A model is a preset, or an architecture of open_clip that gets random weights.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from random_models import write_open_clip_folder

from clipsearch.backends import BACKENDS, REFERENCE
from clipsearch.encoder import Encoder, ImageGeometry, load_encoder
from clipsearch.heap import keep_freed_memory
from clipsearch.presets import PRESETS
from clipsearch.threads import worker_count

_START = 2  # photos of the run that stands for starting and ending
_BATCH = 32


@dataclass(frozen=True)
class Cost:
    """Of a number of images. wall : seconds. cpu : processor seconds, user and system."""

    images: int
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.wall


def _decode_some(
    paths: list[str], geometry: ImageGeometry, decode: str, ready: Callable[[], object]
) -> None:
    from clipsearch.images import read_image

    keep_freed_memory()  # as the command does
    read_image(paths[0], geometry, decode=decode, thumbnail_side=320)  # modules and tables
    ready()
    for path in paths:
        read_image(path, geometry, decode=decode, thumbnail_side=320)


def _decode_share(
    paths: list[str],
    geometry: ImageGeometry,
    decode: str,
    gates: tuple[object, object],
    cpu: object,
) -> None:
    begin, end = gates
    before = 0.0

    def ready() -> None:
        nonlocal before
        begin.wait()  # type: ignore[attr-defined]
        before = time.process_time()

    _decode_some(paths, geometry, decode, ready)
    spent = time.process_time() - before
    with cpu.get_lock():  # type: ignore[attr-defined]
        cpu.value += spent  # type: ignore[attr-defined]
    end.wait()  # type: ignore[attr-defined]


def decoding(photos: list[str], geometry: ImageGeometry, decode: str) -> Cost:
    """Reading and decoding the photos, a process for each processor."""
    count = worker_count()
    context = multiprocessing.get_context("spawn")
    gates = context.Barrier(count + 1), context.Barrier(count + 1)
    cpu = context.Value("d", 0.0)
    processes = [
        context.Process(
            target=_decode_share, args=(photos[start::count], geometry, decode, gates, cpu)
        )
        for start in range(count)
    ]
    for process in processes:
        process.start()
    gates[0].wait()
    begin = time.perf_counter()
    gates[1].wait()
    wall = time.perf_counter() - begin
    for process in processes:
        process.join()
    return Cost(len(photos), wall, cpu.value)


def encoding(encoder: Encoder, streams: int, threads: int, seconds: float) -> Cost:
    """The encoder on pixels that are there, ``streams`` calls at a time."""
    import numpy as np

    geometry = encoder.space.geometry
    shape = (_BATCH, geometry.height, geometry.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    view = encoder.with_threads(threads)
    stop_at = time.perf_counter() + 1e9

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < stop_at:
            view.encode_images(pixels)
            done += _BATCH
        return done

    view.encode_images(pixels)
    with ThreadPoolExecutor(streams) as pool:
        before, begin = time.process_time(), time.perf_counter()
        stop_at = begin + seconds
        images = sum(pool.map(work, range(streams)))
    return Cost(images, time.perf_counter() - begin, time.process_time() - before)


def best_encoding(encoder: Encoder, seconds: float) -> Cost:
    """The best of one call with all processors, and of as many calls as processors."""
    cores = worker_count()
    keep_freed_memory()
    shapes = {(1, cores), (cores, 1)}
    return max(
        (encoding(encoder, streams, threads, seconds) for streams, threads in shapes),
        key=lambda cost: cost.rate,
    )


def command(
    folder: Path, images: int, model: str, arguments: argparse.Namespace, scratch: Path
) -> Cost:
    """``clipsearch index`` of a folder into a new index, as a whole process."""
    index = scratch / "x.index"
    shutil.rmtree(index, ignore_errors=True)
    program = "from clipsearch.cli import main; main()"
    words = [sys.executable, "-c", program, "index", str(folder), "--index", str(index)]
    words += ["--model", model, "--device", "cpu"]
    words += ["--decode", arguments.decode, "--backend", arguments.backend]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    done = subprocess.run(words, capture_output=True, check=False)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr.decode(errors="replace"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(images, wall, cpu)


def _linked(photos: list[str], folder: Path) -> Path:
    """A folder with these photos alone."""
    folder.mkdir(parents=True)
    for number, photo in enumerate(photos):
        (folder / f"{number:06d}{Path(photo).suffix}").symlink_to(photo)
    return folder


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        round(statistics.median(cost.images for cost in costs)),
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
    )


def measure(folder: Path, model: str, arguments: argparse.Namespace, scratch: Path) -> None:
    """Print the line of one folder and one model."""
    photos = sorted(str(path.resolve()) for path in folder.rglob("*.jp*g"))[: arguments.images]
    where = scratch / f"{folder.name}-photos"
    whole_folder = where / "all"
    if not where.exists():
        _linked(photos, whole_folder)
        _linked(photos[:_START], where / "few")
    named = model if model in {preset.name for preset in PRESETS} else None
    name = named or str(write_open_clip_folder(arguments.models / model, model))
    encoder = load_encoder(name, device="cpu", backend=arguments.backend)
    geometry = encoder.space.geometry
    decoded, encoded, whole, start = [], [], [], []
    for _ in range(arguments.repeats):
        decoded.append(decoding(photos, geometry, arguments.decode))
        encoded.append(best_encoding(encoder, arguments.seconds))
        whole.append(command(whole_folder, len(photos), name, arguments, scratch))
        start.append(command(where / "few", _START, name, arguments, scratch))
    d, total, few = _median(decoded), _median(whole), _median(start)
    e = sorted(encoded, key=lambda cost: cost.rate)[len(encoded) // 2]
    limit = 1 / (1 / d.rate + 1 / e.rate)
    net = (total.images - few.images) / max(total.wall - few.wall, 1e-9)
    cpu_alone = d.cpu / d.images + e.cpu / e.images
    cpu_net = (total.cpu - few.cpu) / (total.images - few.images)
    print(
        f"{model:<12}{folder.name:<10}{len(photos):7}{d.rate:9.1f}{e.rate:9.1f}{limit:9.1f}"
        f"{total.rate:9.1f}{total.rate / limit:7.2f}{net:9.1f}{net / limit:7.2f}"
        f"{cpu_alone / cpu_net:10.2f}{few.wall:9.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="PHOTOS")
    parser.add_argument("--model", action="append", help="mini and ViT-B-32 when none is named")
    parser.add_argument("--backend", choices=BACKENDS, default=REFERENCE)
    parser.add_argument("--decode", choices=["exact", "fast"], default="exact")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, help="the first so many of each folder")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each trial of the encoder")
    parser.add_argument("--models", type=Path, help="a folder that keeps the random models")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        scratch = Path(made)
        arguments.models = arguments.models or scratch / "models"
        print(
            f"{worker_count()} processors, load {os.getloadavg()[0]:.1f}, {arguments.backend}, "
            f"decode {arguments.decode}"
        )
        print(
            f"{'model':<12}{'photos':<10}{'images':>7}{'d':>9}{'e':>9}{'limit':>9}{'whole':>9}"
            f"{'share':>7}{'net':>9}{'share':>7}{'cpu share':>10}{'start s':>9}"
        )
        for folder, model in itertools.product(
            arguments.folders, arguments.model or ["mini", "ViT-B-32"]
        ):
            measure(folder, model, arguments, scratch)


if __name__ == "__main__":
    main()
