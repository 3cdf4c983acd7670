"""Would a trained network do better than labels by their names? The whole comparison.

    python benchmarks/cnn_comparison.py TRAIN TEST --model mini --model FOLDER --report FILE.html

TRAIN and TEST have a folder a class. A classifier is trained on TRAIN (`cnn_baseline.py`'s
recipe) and tested on exactly the photos of TEST that labels by names, labels that were taught,
and probes of frozen features are tested on: accuracy, cost, classes without training photos,
damaged and redrawn copies of the photos, and 1, 4, 16 and all training photos a class. Prints
tables; --report writes a page with charts, pictures and a discussion in words; --json all figures.

--keep FOLDER keeps checkpoints: the same command goes on where it was interrupted. --seen
"NAME=TEXT" says what a model was trained on before, which the page tells. --quick is for seeing
that everything works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cnn_baseline import at_least, recipe_of, recipe_options, told
from cnn_networks import NetworkError
from cnn_training import Epoch
from comparison_run import ComparisonRun, Plan
from comparison_tables import tables
from damaged_pictures import SEVERITIES
from labelled_photos import PhotosError

from clipsearch.errors import ClipsearchError

SEEN = {
    "mini": (
        "photos of Tiny-ImageNet, Caltech-101, CIFAR-10 and Flickr8k with their class names, "
        "WordNet words and captions"
    )
}
"""What models that come with clipsearch were trained on."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("train", type=Path)
    add("test", type=Path)
    add("--model", action="append", help="of images and words; repeatable (mini)")
    add("--seen", action="append", default=[], metavar="NAME=TEXT")
    recipe_options(parser)
    add("--shots", default="1,4,16", help="photos a class of the learning curve (1,4,16)")
    add("--draws", type=at_least(1), default=3, help="draws of few photos (3)")
    add("--severities", default="1,3,5", help="of damage, among 1 to 5 (1,3,5)")
    add("--withhold", help="class folders to train without, separated by commas (five by chance)")
    add("--report", type=Path, metavar="FILE.html")
    add("--json", type=Path, metavar="FILE.json")
    add("--keep", type=Path, metavar="FOLDER", help="checkpoints, to go on from")
    add("--quick", action="store_true", help="few photos, two epochs: does everything work?")
    given = parser.parse_args(arguments)
    try:
        plan = _plan(given)
        comparison = ComparisonRun(plan, _say(time.monotonic()), _tell()).compare()
        print(tables(comparison))
        if given.json is not None:
            text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False)
            _write(given.json, text.encode())
        if given.report is not None:
            from comparison_report import report

            _write(given.report, report(comparison))
            print(f"wrote {given.report}", file=sys.stderr)
    except (PhotosError, NetworkError, ClipsearchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f": the same command goes on from {given.keep}" if given.keep else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    return 0


def _plan(given: argparse.Namespace) -> Plan:
    recipe = recipe_of(given)
    shots, severities = _numbers(given.shots), _numbers(given.severities)
    if not set(severities) <= set(SEVERITIES):
        raise PhotosError(f"expected severities from 1 to 5, got {given.severities}")
    seen = dict(SEEN)
    for text in given.seen:
        name, sign, words = text.partition("=")
        if not sign:
            raise PhotosError(f"expected --seen NAME=TEXT, got {text!r}")
        seen[name] = words
    plan = Plan(
        train=given.train, test=given.test, models=tuple(given.model or ["mini"]), recipe=recipe,
        seen=seen, shots=shots, draws=given.draws, severities=severities, keep=given.keep,
        withhold=tuple(given.withhold.split(",")) if given.withhold else None, seed=given.seed,
    )  # fmt: skip
    for file in (given.report, given.json):
        if file is not None and not file.absolute().parent.is_dir():
            raise PhotosError(f"there is no folder {file.absolute().parent} to write into")
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    if not given.quick:
        return plan
    quick = dataclasses.replace(recipe, epochs=2, steps=8, side=64)
    return dataclasses.replace(plan, recipe=quick, most=8, draws=1, severities=(3,), shots=(1, 4))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise PhotosError(f"expected numbers separated by commas, got {text!r}")
    return found


def _say(began: float) -> Callable[[str], None]:
    def say(line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        print(f"{minutes:3d}:{seconds:02d}  {line}", file=sys.stderr, flush=True)

    return say


def _tell() -> Callable[[str, Epoch], None]:
    last = [0.0]

    def tell(_: str, epoch: Epoch) -> None:
        if time.monotonic() - last[0] > 10 or epoch.number == epoch.of:
            last[0] = time.monotonic()
            print(f"        {told(epoch)}", file=sys.stderr, flush=True)

    return tell


def _write(path: Path, data: bytes) -> None:
    """All of it, or nothing."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    os.replace(new, path)


if __name__ == "__main__":
    sys.exit(main())
