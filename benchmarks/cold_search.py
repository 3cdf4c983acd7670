"""A search as a whole process, from nothing to the answer: clipsearch beside rclip.

    python benchmarks/cold_search.py [--index CORPUS] [--photos PHOTOS [--rclip COMMAND]] [--runs 7]

--index : an index of ``benchmarks/corpus.py`` (a hundred thousand images, say). Its texts are
remembered, so that a search needs no encoder.

--photos : a folder of photos, indexed with a ViT-B-32-256 of random weights. Every search asks
for words that were never asked before. With --rclip, the command of an installed rclip 3.3
(https://github.com/yurijmikhalevich/rclip), the same photos are indexed by it, with the same
weights as the ONNX files it wants, and the two are asked in turn, rclip without looking for new
photos (--no-indexing), clipsearch as always. Writing those files takes the package onnx, which
neither of the two needs. --work keeps models and indexes for the next time.

The system's cache of files is warm: what is cold is the process. Each line is the median of the
runs; "of its own" is anonymous memory (RssAnon).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from corpus_tables import ONE_IN_A_HUNDRED
from processes import CLIPSEARCH, Run, in_megabytes, median_seconds, run
from random_models import bpe_file, export_onnx, write_open_clip_folder

ARCHITECTURE = "ViT-B-32-256"
_RCLIP_MODEL = "ViT-B-32-256-datacomp_s34b_b86k"
_IMPORTS = "import numpy, pyarrow.parquet, click, sqlite3"
_TELLS_TORCH = (
    "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    "from clipsearch.cli import main; main()"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--index", type=Path, help="of benchmarks/corpus.py")
    parser.add_argument("--photos", type=Path, help="a folder")
    parser.add_argument("--rclip", help="its command")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--work", type=Path, help="a folder to keep models and indexes in")
    arguments = parser.parse_args()
    if arguments.index is None and arguments.photos is None:
        parser.error("name an --index, a folder of --photos, or both")
    if arguments.index is not None:
        remembered(arguments.index.absolute(), arguments.runs)
    if arguments.photos is not None:
        with tempfile.TemporaryDirectory() as scratch:
            work = (arguments.work or Path(scratch)).absolute()
            new_words(arguments.photos.absolute(), arguments.rclip, work, arguments.runs)


def remembered(index: Path, runs: int) -> None:
    """A text that the cache has, over a corpus."""
    queries = index.with_name(index.name + ".queries.txt").read_text().splitlines()

    def search(number: int, *more: str | Path) -> Run:
        text = queries[number % len(queries)]
        return run([*CLIPSEARCH, "search", text, "--index", index, *more], allowed=(0, 1))

    ways: dict[str, Callable[[int], Run]] = {
        "python, nothing imported": lambda number: run([sys.executable, "-c", "pass"]),
        "python, numpy and pyarrow": lambda number: run([sys.executable, "-c", _IMPORTS]),
        "clipsearch search, paths": search,
        "clipsearch search --json": lambda number: search(number, "--json"),
        "clipsearch search --where, 1 %": lambda number: search(
            number, "--where", ONE_IN_A_HUNDRED
        ),
    }
    found = in_turn(ways, runs)
    mine = median_seconds(found["clipsearch search, paths"])
    bare = median_seconds(found["python, numpy and pyarrow"])
    print(f"text remembered: {mine / bare:.2f} times the start of Python with NumPy and pyarrow")
    table(found)
    print("imports torch:", imports_torch([queries[0], "--index", index]))


def imports_torch(arguments: Sequence[str | Path], env: dict[str, str] | None = None) -> str:
    """Whether a search with these arguments imports torch: "yes" or "no"."""
    command = [sys.executable, "-c", _TELLS_TORCH, "search", *arguments]
    last = run(command, env=env, allowed=(0, 1)).output.splitlines()[-1]
    return {"True": "yes", "False": "no"}[last]


def new_words(photos: Path, rclip: str | None, work: Path, runs: int) -> None:
    """Words never asked before, over real photos; beside rclip where that is installed."""
    model = write_open_clip_folder(work / ARCHITECTURE, ARCHITECTURE)
    env = {name: str(work / "cache") for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "APPDATA")}
    index = work / "photos.index"
    indexing = run(
        [*CLIPSEARCH, "index", photos, "--index", index, "--model", model], env=env, allowed=(0, 3)
    )
    print(f"clipsearch indexed in {indexing.seconds:.1f} s")
    words = iter(f"a photo of {os.urandom(4).hex()} on the table" for _ in range(10**6))
    again = "a photo that was asked for before"
    options = ["--index", index, "-k", "10", "--min-score", "none"]

    def search(text: str) -> Run:
        return run([*CLIPSEARCH, "search", text, *options], env=env, allowed=(0, 1))

    first = search(next(words))
    ways: dict[str, Callable[[int], Run]] = {
        "clipsearch, new words": lambda number: search(next(words)),
        "clipsearch, the same words again": lambda number: search(again),
    }
    if rclip is not None:
        ask = prepared_rclip(rclip, photos, work, model)
        ways["rclip, new words"] = lambda number: ask(next(words))
        _compare_answers(search, ask)
    found = in_turn(ways, runs)
    mine = median_seconds(found["clipsearch, new words"])
    if rclip is not None:
        theirs = median_seconds(found["rclip, new words"])
        print(f"new words: clipsearch takes {mine / theirs:.2f} of the time of rclip")
    else:
        print("new words (rclip was not asked: name its command with --rclip)")
    table({"clipsearch, the very first search": [first], **found})
    print("imports torch:", imports_torch([next(words), *options], env))


def prepared_rclip(command: str, photos: Path, work: Path, model: Path) -> Callable[[str], Run]:
    """rclip with these photos indexed and these weights; what asks it."""
    data = work / "rclip"
    export_onnx(model, ARCHITECTURE, data / _RCLIP_MODEL)
    vocabulary = data / "tokenizer" / bpe_file().name
    vocabulary.parent.mkdir(exist_ok=True)
    shutil.copyfile(bpe_file(), vocabulary)
    # Its data folder holds the vocabulary and the models, so it asks for nothing.
    env = {"RCLIP_DATADIR": str(data), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    indexing = run([command, "--filepath-only", "a first search"], cwd=photos, env=env)
    print(f"rclip indexed in {indexing.seconds:.1f} s")
    options = ["--no-indexing", "--filepath-only", "--top", "10"]
    return lambda text: run([command, *options, text], cwd=photos, env=env)


def _compare_answers(search: Callable[[str], Run], ask: Callable[[str], Run]) -> None:
    """The same weights give much the same answers, or something is not as it should be."""
    shared = []
    for number in range(3):
        text = f"number {number}"
        mine, theirs = (set(way(text).output.splitlines()) for way in (search, ask))
        shared.append(len(mine & theirs))
    print(f"of the ten best, both find {statistics.mean(shared):.1f}")


def in_turn(ways: dict[str, Callable[[int], Run]], runs: int) -> dict[str, list[Run]]:
    """Every way once to warm up, then all of them in turn, so many times."""
    found: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(-1, runs):
        for name, way in ways.items():
            taken = way(number)
            if number >= 0:
                found[name].append(taken)
    return found


def table(found: dict[str, list[Run]]) -> None:
    print(f"{'':36}{'median s':>9}{'best s':>9}{'peak RSS':>11}{'of its own':>12}")
    for name, runs in found.items():
        print(
            f"{name:36}{median_seconds(runs):9.3f}{min(run.seconds for run in runs):9.3f}"
            f"{in_megabytes(_most(run.peak for run in runs)):>11}"
            f"{in_megabytes(_most(run.anonymous for run in runs)):>12}"
        )


def _most(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


if __name__ == "__main__":
    main()
