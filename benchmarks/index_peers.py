"""How fast are photos encoded, beside others that do it: one table, whole processes in turns.

    python benchmarks/index_peers.py --source PHOTOS --work WORK --rclip RCLIP \\
        --clip-retrieval CLIP_RETRIEVAL --hugging-face PYTHON

The same photos (made by ``photo_corpus.py``) and the same weights (random, ViT-B-32-256, in the
form each can load) for all. Every way encodes some photos and then more of them; the difference
tells images/s without the start, the larger run those with it. Each is the median of the runs, in
which the ways take turns. "cosine" is the least of the cosines to the vectors of plain Pillow,
open_clip and torch, where a way leaves its vectors in a form that is read here.

A second table: 12 megapixel photos and ``mini``, where decoding is nearly all.

--rclip : the command of an installed rclip 3.3 (writing its ONNX files takes the package onnx here)
--clip-retrieval : the command of an installed clip-retrieval 2.45
--hugging-face : the python of an environment with transformers, torch, torchvision and Pillow
--work keeps models, photos and caches for the next time. benchmarks/README.md tells how the
environments are made.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from index_peers_ways import Way, installed_ways, mini_ways, our_ways
from photo_corpus import make_photos
from processes import CommandFailed

from clipsearch.encoder import Float32
from clipsearch.threads import worker_count

_OUT = "out"


@dataclass
class Timings:
    """Seconds of the runs of one way by how many photos they encoded."""

    way: Way
    seconds: dict[int, list[float]] = field(default_factory=dict)
    cosine: float | None = None
    failed: str | None = None

    def rates(self, few: int, many: int) -> tuple[float, float]:
        """Images/s with the start and without it; medians."""
        some, all_of_them = (statistics.median(self.seconds[count]) for count in (few, many))
        further = all_of_them - some
        return many / all_of_them, (many - few) / further if further > 0 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--source", type=Path, metavar="PHOTOS", help="real ones, in a folder")
    parser.add_argument("--work", type=Path, help="a folder to keep everything in")
    parser.add_argument("--rclip", metavar="COMMAND")
    parser.add_argument("--clip-retrieval", metavar="COMMAND")
    parser.add_argument("--hugging-face", metavar="PYTHON")
    parser.add_argument("--case", choices=["both", "500px", "12mp"], default="both")
    parser.add_argument("--few", type=int, default=64, help="photos of 500 pixels")
    parser.add_argument("--many", type=int, default=512)
    parser.add_argument("--few-large", type=int, default=16, help="photos of 12 megapixels")
    parser.add_argument("--many-large", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="ways whose name has one of these words")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = (arguments.work or Path(scratch)).absolute()
        compare_cases(arguments, work)


def compare_cases(arguments: argparse.Namespace, work: Path) -> None:
    def chosen(ways: Sequence[Way]) -> list[Way]:
        only = arguments.only
        return [way for way in ways if not only or any(word in way.name for word in only)]

    if arguments.case in ("both", "500px"):
        peers = installed_ways(
            work, arguments.rclip, arguments.clip_retrieval, arguments.hugging_face
        )
        ways = chosen([*peers, *our_ways(work)])
        compare("500px", arguments.few, arguments.many, ways, work, arguments)
    if arguments.case in ("both", "12mp"):
        ways = chosen(mini_ways(work))
        compare("12mp", arguments.few_large, arguments.many_large, ways, work, arguments)


def compare(
    kind: str, few: int, many: int, ways: list[Way], work: Path, arguments: argparse.Namespace
) -> None:
    """Time the ways in turns on two numbers of photos, and print their table."""
    folders = {
        count: photos(work / f"photos-{kind}-{count}", count, kind, arguments.source)
        for count in (few, many)
    }
    found = [Timings(way, failed=way.lacking) for way in ways]
    reference: Float32 | None = None
    for number in range(-1, arguments.runs):  # once to warm up: caches, exported models
        for timings in found:
            for count in (few,) if number < 0 else (few, many):
                if timings.failed is not None:
                    continue
                try:
                    seconds = timed(timings.way, folders[count], work)
                except CommandFailed as error:
                    timings.failed = str(error)
                    continue
                print(f"  {kind} {timings.way.name}, {count}: {seconds:.1f} s", file=sys.stderr)
                if number >= 0:
                    timings.seconds.setdefault(count, []).append(seconds)
                elif timings.way.vectors is not None:
                    vectors = timings.way.vectors(folders[count], work / _OUT)
                    reference = vectors if timings.way.reference else reference
                    if reference is not None:
                        timings.cosine = least_cosine(vectors, reference)
    table(kind, few, many, found)


def timed(way: Way, folder: Path, work: Path) -> float:
    """Seconds of one run of its own, with nothing left of the one before."""
    out = work / _OUT
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return way.encode(folder, out).seconds


def photos(folder: Path, count: int, kind: str, source: Path | None) -> Path:
    """A folder with so many photos of a kind; made if it is not there."""
    if not folder.is_dir():
        unfinished = folder.with_name(folder.name + ".part")
        make_photos(unfinished, count, kind, source)
        unfinished.rename(folder)
    return folder


def least_cosine(some: Float32, others: Float32) -> float:
    """Of vectors of unit length, row by row."""
    return float((some * others).sum(axis=1).min())


def table(kind: str, few: int, many: int, found: list[Timings]) -> None:
    """One line a way, the best peer's rate as 1.00."""
    done = [one for one in found if one.failed is None and many in one.seconds]
    best = max((one.rates(few, many) for one in done if not one.way.ours), default=None)
    processors = worker_count()
    print(f"\n{kind}, {many} photos, {processors} processors; net: by what is over {few} photos")
    print(f"{'':44}{'images/s':>10}{'net':>8}{'to best peer':>14}{'net':>7}{'cosine':>10}")
    for one in found:
        if one.failed is not None:
            print(f"{one.way.name:44}  not measured: {last_line(one.failed)}")
            continue
        gross, net = one.rates(few, many)
        ratios = f"{'':21}"
        if best is not None:
            net_best = max(other.rates(few, many)[1] for other in done if not other.way.ours)
            ratios = f"{gross / best[0]:14.2f}{net / net_best:7.2f}"
        cosine = "" if one.cosine is None else f"{one.cosine:10.5f}"
        print(f"{one.way.name:44}{gross:10.1f}{net:8.1f}{ratios}{cosine}", flush=True)


def last_line(text: str) -> str:
    """Of what a command said before it failed, what is said last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


if __name__ == "__main__":
    main()
