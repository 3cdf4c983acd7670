"""What does it cost to change a saved label set, against scoring everything again?

    python benchmarks/corpus.py FOLDER && python benchmarks/label_deltas.py FOLDER

A set of 1,000 labels is saved into the index (and removed at the end). Then one label is added to
it, one removed, one worded otherwise, and nothing is changed: for each the time until every image
has its label, as a ratio to one query of a FAISS SQfp16 index over the same matrix (FAISS gives a
query one thread, clipsearch takes all), and to scoring all labels. The ways take turns in one
process, and medians are told; text vectors are remembered. Saving the set is timed by itself.
Every answer is compared with that of full scoring.

Last, a label is added as one whole process, ``clipsearch classify --labels @NAME --add X --save-as
NAME --out x.parquet``: wall time and memory.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from classify_scale import flat_index, ratios, seconds_of
from processes import CLIPSEARCH, in_megabytes, run

from clipsearch.classify import classify
from clipsearch.errors import ClipsearchError
from clipsearch.image_index import ImageIndex, open_index
from clipsearch.label_set_saving import delete_label_set
from clipsearch.prompts import class_vectors, read_labels_file
from clipsearch.records import Classification
from clipsearch.saved_labelling import SavedLabelling, classify_beside

NAME = "label-deltas-benchmark"
OTHER = "concept {:04d}"  # one past the labels; corpus.py remembers the vectors of its prompts


def edits(names: Sequence[str], other: str) -> dict[str, list[str]]:
    """What is done to a set: its labels afterwards."""
    middle = len(names) // 2
    return {
        "adding 1": [*names, other],
        "removing 1": [*names[:middle], *names[middle + 1 :]],
        "re-wording 1": [*names[:middle], other, *names[middle + 1 :]],
        "changing nothing": list(names),
    }


def begun(opened: ImageIndex, labels: Sequence[str], save_as: str | None = None) -> SavedLabelling:
    return classify_beside(
        opened.path, opened.state(), opened.text_vectors(), labels,
        base=NAME if save_as is None else None, save_as=save_as,
    )  # fmt: skip


def changed(opened: ImageIndex, labels: Sequence[str]) -> tuple[float, SavedLabelling]:
    """Seconds from the names of the labels until every image has its own."""
    begin = time.perf_counter()
    labelling = begun(opened, labels)
    for _ in labelling:
        pass
    return time.perf_counter() - begin, labelling


def scored(opened: ImageIndex, labels: Sequence[str]) -> tuple[float, Classification]:
    """Seconds of scoring all labels, and what comes of it."""
    labelling = classify(opened.state(), opened.text_vectors(), labels)
    begin = time.perf_counter()
    found = labelling.columns()
    return time.perf_counter() - begin, found


def saved(opened: ImageIndex, labels: Sequence[str]) -> None:
    """Save a set from nothing; what that takes beside the scoring."""
    with begun(opened, labels, NAME) as labelling:
        for _ in labelling:
            pass
        committed = seconds_of(labelling.save)
        print(f"saving the set: {labelling.saving_seconds:.2f} s of writing, while it is scored, "
              f"and {committed:.2f} s at the end")  # fmt: skip


def compare(what: str, got: Classification, wanted: Classification) -> None:
    labels = int((got.labels != wanted.labels).sum() + (got.runners_up != wanted.runners_up).sum())
    off = {
        name: float(np.abs(getattr(got, name) - getattr(wanted, name)).max(initial=0))
        for name in ("scores", "probabilities", "margins")
    }
    print(
        f"{what}: {labels} labels or runners-up are not those of full scoring; "
        + ", ".join(f"{name} differ by {by:.1e}" for name, by in off.items())
        + " at most"
    )
    if not np.array_equal(got.ids, wanted.ids) or labels or off["probabilities"] > 1e-5:
        raise SystemExit("expected the same answer as of full scoring")


def whole_process(index: Path, other: str, turns: int) -> None:
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(turns):
            edit = ("--add", other) if turn % 2 == 0 else ("--remove", other)
            runs.append(
                run([
                    *CLIPSEARCH, "classify", "--labels", f"@{NAME}", *edit, "--none", "off",
                    "--save-as", NAME, "--index", index, "--out", Path(scratch, "x.parquet"),
                ])
            )  # fmt: skip
    seconds = statistics.median(one.seconds for one in runs)
    anonymous = max((one.anonymous for one in runs if one.anonymous), default=None)
    print(
        f"whole process, a label added or removed, saved, and all labels written: {seconds:.1f} s, "
        f"{in_megabytes(anonymous)} RssAnon"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--labels-file", type=Path, help="default: FOLDER.labels.txt")
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    index = arguments.index.absolute()
    labels_file = arguments.labels_file or index.with_name(index.name + ".labels.txt")
    try:
        names = read_labels_file(labels_file)
        opened = open_index(index)
        other = OTHER.format(len(names))
        query = class_vectors([other], opened.text_vectors())
    except ClipsearchError as error:
        raise SystemExit(f"{parser.prog}: {error}") from None
    print(f"{len(opened):,} images x {opened.space.dim}, {len(names):,} labels")
    saved(opened, names)
    try:
        flat = flat_index(opened.state())
        for what, labels in edits(names, other).items():
            whole, wanted = scored(opened, labels)
            compare(what, begun(opened, labels).columns(), wanted)
            flat.search(query, 10)
            ours, scans = [], []
            for _ in range(arguments.turns):
                scans.append(seconds_of(lambda: flat.search(query, 10)))
                seconds, labelling = changed(opened, labels)
                ours.append(seconds)
            ratios(f"  {what}, to one SQfp16 query", ours, scans)
            print(
                f"  1/{whole / statistics.median(ours):.0f} of scoring all labels ({whole:.1f} s); "
                f"{labelling.columns_scored} labels scored for all images, and all labels for "
                f"{labelling.images_scored:,}"
            )
        whole_process(index, other, max(2, arguments.turns // 2))
    finally:
        delete_label_set(index, NAME)


if __name__ == "__main__":
    main()
