"""How near is classification to the limit of the hardware?

    python benchmarks/corpus.py FOLDER && python benchmarks/classify_scale.py FOLDER

Against a label set of 1,000: the time of scoring, ranking and probabilities in one process, as a
ratio to the float32 matrix products alone, in float32 and with ``fast`` (bfloat16 where the
processor is quicker at it; torch is loaded before, its import is told by itself), and whether
both give the same labels. Against 10 labels: as a ratio to a FAISS SQfp16 index that answers
the ten class vectors as queries over the same matrix. The ways take turns, and medians are told.

Then one whole process, ``clipsearch classify --out x.parquet``: wall time and memory. And of a
sample of the images the labels are compared with a float64 NumPy reference.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
from processes import CLIPSEARCH, in_megabytes, run

from clipsearch import open_index
from clipsearch.classify import classify
from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex
from clipsearch.prompts import class_vectors, read_labels_file
from clipsearch.records import Classification

FEW = 10
BLOCK_ROWS = 2048
SAMPLE = 2000


def products_alone(rows: Float32, classes: Float32, images: int) -> float:
    """Seconds that the products of ``images`` rows take, BLAS on all its threads. The rows
    come again and again: neither reading nor converting is part of it."""
    columns = np.ascontiguousarray(classes.T)
    scores = np.empty((BLOCK_ROWS, len(classes)), np.float32)
    begin = time.perf_counter()
    for start in range(0, images, BLOCK_ROWS):
        place = start % (len(rows) - BLOCK_ROWS + 1)
        count = min(BLOCK_ROWS, images - start)
        np.matmul(rows[place : place + count], columns, out=scores[:count])
    return time.perf_counter() - begin


def labelled(
    opened: ImageIndex, names: tuple[str, ...], *, fast: bool = False
) -> tuple[float, Classification]:
    """Seconds of scoring, from the stored vectors to columns; texts are remembered."""
    state, texts = opened.state(), opened.text_vectors()
    labelling = classify(state, texts, names, fast=fast)
    begin = time.perf_counter()
    found = labelling.columns()
    return time.perf_counter() - begin, found


def streamed(opened: ImageIndex, names: tuple[str, ...]) -> float:
    """Seconds of scoring block by block, as a result file is written; no columns are kept."""
    labelling = classify(opened.state(), opened.text_vectors(), names)
    begin = time.perf_counter()
    for _ in labelling:
        pass
    return time.perf_counter() - begin


def flat_index(state: Generation) -> faiss.Index:
    index = faiss.IndexScalarQuantizer(
        state.vectors.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    )
    for _, rows in state.vectors.blocks():
        index.add(rows)
    return index


def seconds_of(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def ratios(name: str, ours: list[float], limit: list[float]) -> None:
    each = [mine / other for mine, other in zip(ours, limit, strict=True)]
    print(
        f"{name}: {statistics.median(each):.2f} x (of {len(each)} turns {min(each):.2f} to "
        f"{max(each):.2f}); {statistics.median(ours):.2f} s to {statistics.median(limit):.2f} s"
    )


def many_labels(opened: ImageIndex, names: tuple[str, ...], turns: int) -> Classification:
    images = len(opened)
    classes = class_vectors(names, opened.text_vectors())
    rows = opened.state().vectors.take(opened.state().vectors.ids[: 32 * BLOCK_ROWS])[1]
    import_seconds = seconds_of(lambda: __import__("clipsearch.bfloat_scoring"))
    alone, plain, fast = [], [], []
    products_alone(rows, classes, min(images, 65_536))
    for _ in range(turns):
        alone.append(products_alone(rows, classes, images))
        seconds, found = labelled(opened, names)
        plain.append(seconds)
        seconds, same = labelled(opened, names, fast=True)
        fast.append(seconds)
    ratios(f"{len(names):,} labels, float32 with probabilities, to the products", plain, alone)
    ratios(f"{len(names):,} labels, fast, to the float32 products", fast, alone)
    differ = int((found.labels != same.labels).sum() + (found.runners_up != same.runners_up).sum())
    drift = float(np.abs(found.probabilities - same.probabilities).max())
    print(f"  importing torch takes {import_seconds:.1f} s more, once a process")
    print(
        f"  fast: {differ} other labels or runners-up; probabilities differ by {drift:.1e} at most"
    )
    return found


def few_labels(opened: ImageIndex, names: tuple[str, ...], turns: int) -> None:
    index = flat_index(opened.state())
    classes = class_vectors(names, opened.text_vectors())
    index.search(classes, 10)
    ours, scans = [], []
    for _ in range(turns):
        scans.append(seconds_of(lambda: index.search(classes, 10)))
        ours.append(streamed(opened, names))
    ratios(f"{len(names)} labels, to FAISS SQfp16 answering them as queries", ours, scans)


def check_labels(opened: ImageIndex, names: tuple[str, ...], found: Classification) -> None:
    """Compare a sample with float64, where ties go to the first label."""
    classes = class_vectors(names, opened.text_vectors()).astype(np.float64)
    chosen = np.random.default_rng(0).choice(len(found), min(SAMPLE, len(found)), replace=False)
    chosen.sort()
    rows = opened.vectors_of(found.ids[chosen])[1].astype(np.float64)
    scores = rows @ classes.T
    order = np.argsort(-scores, axis=1, kind="stable")
    wrong = int((order[:, 0] != found.labels[chosen, 0]).sum())
    wrong_second = int((order[:, 1] != found.runners_up[chosen]).sum())
    print(f"of {len(chosen):,} images {wrong} labels, {wrong_second} runners-up not float64's")


def whole_process(index: Path, labels_file: Path, turns: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "labels.parquet")
        command = [
            "classify",
            "--none",
            "off",
            "--labels-file",
            labels_file,
            "--index",
            index,
            "--out",
            out,
        ]
        runs = [run([*CLIPSEARCH, *command]) for _ in range(turns)]
        size = out.stat().st_size
    seconds = statistics.median(one.seconds for one in runs)
    anonymous = max((one.anonymous for one in runs if one.anonymous), default=None)
    peak = max((one.peak for one in runs if one.peak), default=None)
    print(
        f"whole process: {seconds:.1f} s, {in_megabytes(anonymous)} RssAnon, "
        f"{in_megabytes(peak)} peak RSS with what is mapped; {size / 1e6:.0f} MB of Parquet"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--labels-file", type=Path, help="default: FOLDER.labels.txt")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    index = arguments.index.absolute()
    labels_file = arguments.labels_file or index.with_name(index.name + ".labels.txt")
    names = read_labels_file(labels_file)
    opened = open_index(index)
    print(f"{len(opened):,} images x {opened.space.dim}")
    whole_process(index, labels_file, max(1, arguments.turns // 2))
    few_labels(opened, names[:FEW], arguments.turns)
    found = many_labels(opened, names, arguments.turns)
    check_labels(opened, names, found)


if __name__ == "__main__":
    main()
