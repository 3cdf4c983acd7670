"""A hundred thousand images and more: in how much memory, how fast, and how soon open again?

    python benchmarks/many_images.py [--count 200000] [--fewer 20000] [--source PHOTOS] [--work DIR]

Generated thumbnails, all different (``photo_corpus.py``), are indexed by ``clipsearch index`` with
``mini``. Once a second the memory of the command and of all that it started is looked at. Then the
index is opened again: by a search, which is a process of its own, and by ``clipsearch index`` that
finds nothing new. Fewer images go first: what differs is what grows with their number.

PSS counts a page that several processes share once; anonymous is what is no file's. Only Linux
tells. --work keeps the thumbnails for the next time (200,000 take 1.5 GB).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from photo_corpus import make_photos
from process_tree import TreeRun, bytes_in, run_tree
from processes import CLIPSEARCH

_TENTHS = 10


@dataclass(frozen=True)
class Measured:
    """An index that was built and opened again."""

    images: int
    indexing: TreeRun
    searches: list[TreeRun]
    reruns: list[TreeRun]
    bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--fewer", type=int, default=20_000, help="for comparison; 0: no other run")
    parser.add_argument("--source", type=Path, metavar="PHOTOS", help="a folder of real photos")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--runs", type=int, default=5, help="of what opens the index again")
    parser.add_argument("--work", type=Path, help="a folder to keep the thumbnails in")
    arguments = parser.parse_args()
    counts = [count for count in (arguments.fewer, arguments.count) if count]
    with tempfile.TemporaryDirectory() as scratch:
        work = (arguments.work or Path(scratch)).absolute()
        found = []
        for count in counts:
            photos = work / f"thumbnails-{count}"
            if not photos.is_dir():
                unfinished = work / f"thumbnails-{count}.part"
                make_photos(unfinished, count, "thumbnail", arguments.source)
                unfinished.rename(photos)
            found.append(measure(photos, count, arguments.model, work, arguments.runs))
    table(found)


def measure(photos: Path, count: int, model: str, work: Path, runs: int) -> Measured:
    """Index the photos into a new index, and open it again ``runs`` times in either way."""
    index = work / f"thumbnails-{count}.index"
    shutil.rmtree(index, ignore_errors=True)
    cache = str(work / "cache")
    env = dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "APPDATA"), cache)

    def clipsearch(*words: str | Path) -> TreeRun:
        return run_tree([*CLIPSEARCH, *words], env=env, every=1.0, allowed=(0, 1))

    indexing = clipsearch("index", photos, "--index", index, "--model", model)
    size = bytes_in(index)
    searches, reruns = [], []
    clipsearch("search", "a dog", "--index", index)  # the words are encoded once, and remembered
    for _ in range(runs):
        searches.append(clipsearch("search", "a dog", "--index", index))
        reruns.append(clipsearch("index", photos, "--index", index))
    return Measured(count, indexing, searches, reruns, size)


def table(found: list[Measured]) -> None:
    def line(name: str, values: list[str]) -> None:
        print(f"{name:46}" + "".join(f"{value:>16}" for value in values))

    def median(runs: list[TreeRun]) -> str:
        seconds, processor = (
            statistics.median(getattr(run, name) for run in runs)
            for name in ("seconds", "processor")
        )
        return f"{seconds:.2f} ({processor:.2f})"

    line("", [f"{one.images:,} images" for one in found])
    line("indexing, whole command", [f"{one.indexing.seconds:.0f} s" for one in found])
    line("processor time", [f"{one.indexing.processor:.0f} s" for one in found])
    line("images/s", [f"{one.images / one.indexing.seconds:.0f}" for one in found])
    for name, words in (
        ("shared", "peak memory, all processes (PSS)"),
        ("anonymous", "of it no file's (anonymous)"),
        ("command", "the first process's anonymous"),
        ("resident", "sum of RSS"),
    ):
        line(words, [f"{one.indexing.peak(name) / 1e6:,.0f} MB" for one in found])
    line("most processes", [str(one.indexing.peak("processes")) for one in found])
    line("index", [f"{one.bytes / 1e6:,.0f} MB" for one in found])
    line("an image", [f"{one.bytes / one.images:,.0f} B" for one in found])
    line("first search of a new process, s (processor)", [median(one.searches) for one in found])
    line("index again, nothing new, s (processor)", [median(one.reruns) for one in found])
    print("\nanonymous memory at the end of each tenth of the indexing, MB: all (first process)")
    for one in found:
        samples = one.indexing.samples
        ends = [max(1, len(samples) * tenth // _TENTHS) for tenth in range(1, _TENTHS + 1)]
        picked = [samples[end - 1] for end in ends if samples]
        steps = [f"{each.anonymous / 1e6:,.0f} ({each.command / 1e6:,.0f})" for each in picked]
        print(f"{one.images:,}: " + "  ".join(steps))


if __name__ == "__main__":
    main()
