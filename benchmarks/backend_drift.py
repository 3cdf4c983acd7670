"""What other back-ends than torch in float32 change: vectors, labels, and the rate.

    python benchmarks/backend_drift.py FOLDER --model MODEL ... [--classes] [--speed-only NAME]

Every image below FOLDER is encoded by each back-end, with exact decoding and, in the rows
"+ fast", with `--decode fast` where that changes any pixel. All are compared with torch in float32
and exact decoding. Top-1 is the share of images whose nearest background word is the same. With
--classes each folder is a class, and the zero-shot accuracy is printed too. Rates are of the
encoder alone, in calls of 32 on --threads threads, the median of three rounds in which all take
turns. --speed-only adds rates of open_clip's architecture NAME with random weights, whose vectors
say nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from random_models import write_open_clip_folder

from clipsearch import load_encoder
from clipsearch.backends import BACKENDS, REFERENCE, Admission
from clipsearch.background_words import background_prompts
from clipsearch.encoder import Encoder, Float32, UInt8
from clipsearch.errors import ClipsearchError, ImageError
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.images import read_image
from clipsearch.labelled_images import label_of_folder
from clipsearch.prompts import class_vectors
from clipsearch.text_vectors import TextVectors
from clipsearch.threads import worker_count

BATCH = 32
ROUNDS = 3
TIMED = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--classes", action="store_true")
    parser.add_argument("--speed-only", action="append", default=[], metavar="NAME")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=worker_count())
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.folder.rglob("*") if p.suffix.lower() in IMAGE_EXTENSIONS)
    print("| model | back-end | cosine: mean, 5th percentile, lowest | top-1 | accuracy | img/s |")
    print("|---|---|---|---|---|---|")
    for model in arguments.model:
        compare(model, files, arguments.classes, arguments.device, arguments.threads)
    for name in arguments.speed_only:
        with tempfile.TemporaryDirectory() as folder:
            time_random(
                write_open_clip_folder(Path(folder) / name, name),
                arguments.device,
                arguments.threads,
            )


def loaded(model: str, device: str, threads: int) -> dict[str, Encoder]:
    """The encoders that can be had, by back-end; the others with the reason on a line."""
    found = {}
    for backend in BACKENDS:
        try:
            encoder = load_encoder(model, device=device, backend=backend)
            found[backend] = encoder.with_threads(threads)
        except ClipsearchError as error:
            print(f"| | {backend} | {str(error).splitlines()[0]} | | | |")
    return found


def decoded(files: list[Path], encoder: Encoder) -> tuple[list[Path], dict[str, UInt8]]:
    """The files that can be read, and their pixels by way of decoding."""
    kept: list[Path] = []
    pixels: dict[str, list[UInt8]] = {"exact": [], "fast": []}
    for path in files:
        try:
            both = {
                mode: read_image(path, encoder.space.geometry, decode=mode, thumbnail_side=None)
                for mode in pixels
            }
        except ImageError:
            continue
        for mode, image in both.items():
            pixels[mode].append(image.pixels)
        kept.append(path)
    return kept, {mode: np.stack(some) for mode, some in pixels.items()}


def rows_of(encoder: Encoder, pixels: UInt8) -> Float32:
    starts = range(0, len(pixels), BATCH)
    return np.concatenate([encoder.encode_images(pixels[at : at + BATCH]) for at in starts])


def rates(encoders: dict[str, Encoder], pixels: UInt8) -> dict[str, float]:
    """Images a second by back-end: in each round every one has its turn."""
    some = np.ascontiguousarray(pixels[np.arange(TIMED) % len(pixels)])
    spent: dict[str, list[float]] = {backend: [] for backend in encoders}
    for number in range(ROUNDS + 1):
        for backend, encoder in encoders.items():
            begin = time.perf_counter()
            rows_of(encoder, some)
            if number:  # the first one sets things up
                spent[backend].append(time.perf_counter() - begin)
    return {backend: TIMED / statistics.median(times) for backend, times in spent.items()}


def compare(model: str, files: list[Path], has_classes: bool, device: str, threads: int) -> None:
    encoders = loaded(model, device, threads)
    reference = encoders[REFERENCE]
    kept, pixels = decoded(files, reference)
    speed = rates(encoders, pixels["exact"])
    words = reference.encode_texts(background_prompts())
    classes = sorted({path.parent.name for path in kept}) if has_classes else []
    truth = np.array([classes.index(path.parent.name) for path in kept] if classes else [])
    names = [label_of_folder(name) for name in classes]
    towards = (
        class_vectors(names, TextVectors(reference.space, lambda: reference, None))
        if classes
        else None
    )
    expected = rows_of(reference, pixels["exact"])
    if np.array_equal(pixels["exact"], pixels["fast"]):
        del pixels["fast"]
    for backend, encoder in encoders.items():
        for mode, images in pixels.items():
            is_reference = (backend, mode) == (REFERENCE, "exact")
            rows = expected if is_reference else rows_of(encoder, images)
            cosines = np.einsum("ij,ij->i", rows.astype(np.float64), expected.astype(np.float64))
            same = (rows @ words.T).argmax(axis=1) == (expected @ words.T).argmax(axis=1)
            right = "" if towards is None else _percent((rows @ towards.T).argmax(1) == truth)
            name = backend if mode == "exact" else f"{backend} + fast"
            level = Admission(cosines.mean(), cosines.min(), same.mean(), len(kept)).level
            numbers = (cosines.mean(), np.percentile(cosines, 5), cosines.min())
            measured = ", ".join(f"{number:.5f}" for number in numbers)
            rate = f"{speed[backend]:.1f}" if mode == "exact" else ""
            print(
                f"| `{Path(model).name}` | {name} ({level}) | {measured} | {_percent(same)} | "
                f"{right} | {rate} |",
                flush=True,
            )


def time_random(folder: Path, device: str, threads: int) -> None:
    encoders = loaded(str(folder), device, threads)
    geometry = encoders[REFERENCE].space.geometry
    shape = (TIMED, geometry.height, geometry.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for backend, rate in rates(encoders, pixels).items():
        print(f"| {folder.name}, random | {backend} | | | | {rate:.1f} |")


def _percent(hits: np.ndarray) -> str:
    return f"{100 * float(np.mean(hits)):.2f} %"


if __name__ == "__main__":
    main()
