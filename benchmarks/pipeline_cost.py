"""What an image costs Hugging Face's zero-shot pipeline, and what it costs clipsearch.

    python benchmarks/pipeline_cost.py PHOTOS [--index CORPUS] [--photos 8]

``pipeline("zero-shot-image-classification")`` encodes the photo, and every label once more, for
each photo; clipsearch encodes a photo once and labels from the stored vectors. Both have a CLIP
ViT-B/32 with random weights, on the CPU. The pipeline's cost for a million images is
EXTRAPOLATED from a few photos, and says so; that of clipsearch is measured on the index named
with --index (``benchmarks/corpus.py`` makes one of a million), else extrapolated as well.

Needs transformers: pip install transformers
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from processes import CLIPSEARCH, run
from random_models import write_hugging_face_folder, write_open_clip_folder

from clipsearch import open_index
from clipsearch.file_kinds import IMAGE_EXTENSIONS

MILLION = 1_000_000
_FEW = 8  # photos, whose indexing is nearly all start
_ENOUGH = 32  # further ones, to tell what one of them takes


@dataclass(frozen=True)
class Cost:
    """Seconds an image; of how many images that was measured."""

    seconds: float
    images: int

    def line(self, name: str) -> str:
        how = "measured" if self.images >= MILLION else f"EXTRAPOLATED from {self.images:,} images"
        hours = self.seconds * MILLION / 3600
        return f"{name:44}{1000 * self.seconds:12.4f} ms{hours:11.3f} h   {how}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos_folder", type=Path, metavar="PHOTOS")
    parser.add_argument("--index", type=Path, help="an index of benchmarks/corpus.py")
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 1000])
    parser.add_argument("--photos", type=int, default=8, help="for the fewest labels")
    parser.add_argument("--seconds", type=float, default=120, help="at most, a label count")
    arguments = parser.parse_args()
    photos = sorted(
        path
        for path in arguments.photos_folder.rglob("*")
        if path.suffix.lower() in IMAGE_EXTENSIONS
    )
    if len(photos) < 2:
        parser.error(f"expected two photos or more in {arguments.photos_folder}")
    if importlib.util.find_spec("transformers") is None:
        sys.exit("transformers is not installed: pip install transformers")
    with tempfile.TemporaryDirectory() as scratch:
        piped = pipeline_costs(Path(scratch), photos, arguments)
        once = indexing_cost(Path(scratch), photos)
        again = {
            count: labelling_cost(Path(scratch), arguments.index, len(photos), count)
            for count in arguments.labels
        }
    for count in arguments.labels:
        ratio = piped[count].seconds / again[count].seconds
        first = ""
        if once is not None:
            both = piped[count].seconds / (once.seconds + again[count].seconds)
            first = f", {both:,.1f} times with the encoding"
        print(
            f"{count:,} labels: an image costs the pipeline {ratio:,.0f} times what it costs "
            f"clipsearch to label it again{first}"
        )
    print(f"\n{'':44}{'an image':>15}{'a million':>13}")
    if once is not None:
        print(once.line("clipsearch: index, once"))
    for count in arguments.labels:
        print(again[count].line(f"clipsearch: classify, {count:,} labels"))
        print(piped[count].line(f"zero-shot pipeline, {count:,} labels"))


def pipeline_costs(
    scratch: Path, photos: list[Path], arguments: argparse.Namespace
) -> dict[int, Cost]:
    """The median over some photos, the first of them left out, for each count of labels."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import logging, pipeline

    logging.set_verbosity_error()
    folder = write_hugging_face_folder(scratch / "hugging-face")
    classify = pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    costs = {}
    for count in arguments.labels:
        labels = [f"concept {number:04d}" for number in range(count)]
        seconds: list[float] = []
        begin = time.perf_counter()
        for photo in photos[: 1 + arguments.photos]:
            start = time.perf_counter()
            found = classify(str(photo), candidate_labels=labels)
            seconds.append(time.perf_counter() - start)
            assert len(found) == count
            if time.perf_counter() - begin > arguments.seconds:
                break
        kept = seconds[1:] or seconds
        costs[count] = Cost(statistics.median(kept), len(kept))
    return costs


def indexing_cost(scratch: Path, photos: list[Path]) -> Cost | None:
    """What every further photo costs ``clipsearch index``: all photos less the first few, which
    pay for the start. None where there are too few photos to tell."""
    model = write_open_clip_folder(scratch / "ViT-B-32", "ViT-B-32")
    few = min(_FEW, len(photos) - 1)
    seconds = {}
    for count in (few, few, len(photos)):  # first it encodes words as well, once for all
        folder, place = scratch / f"photos-{count}", scratch / f"photos-{count}.index"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        folder.mkdir()
        for number, photo in enumerate(photos[:count]):
            shutil.copyfile(photo, folder / f"{number:06d}{photo.suffix}")
        command = ["index", folder, "--index", place, "--model", model]
        seconds[count] = run(
            [*CLIPSEARCH, *command], allowed=(0, 3), env=own_cache(scratch)
        ).seconds
    further = len(photos) - few
    taken = seconds[len(photos)] - seconds[few]
    return Cost(taken / further, further) if further >= _ENOUGH and taken > 0 else None


def labelling_cost(scratch: Path, index: Path | None, photos: int, count: int) -> Cost:
    """What ``clipsearch classify`` takes, start, reading and writing included.

    Without a corpus the photos just indexed are labelled; then most of it is the start.
    """
    env = None if index is not None else own_cache(scratch)
    place = index or scratch / f"photos-{photos}.index"
    labels = scratch / f"labels-{count}.txt"
    labels.write_text("".join(f"concept {number:04d}\n" for number in range(count)))
    command = ["classify", "--none", "off", "--labels-file", labels, "--index", place]
    command += ["--out", scratch / f"labels-{count}.parquet"]
    if env is not None:
        run([*CLIPSEARCH, *command], env=env)  # the texts are encoded, and remembered
    taken = run([*CLIPSEARCH, *command], env=env)
    images = len(open_index(place))
    return Cost(taken.seconds / images, images)


def own_cache(scratch: Path) -> dict[str, str]:
    """Texts of random weights are not to be remembered."""
    return {name: str(scratch / "cache") for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "APPDATA")}


if __name__ == "__main__":
    main()
