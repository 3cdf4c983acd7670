"""The naive NumPy script against ``clipsearch classify``, each as a process of its own.

    python benchmarks/corpus.py FOLDER && python benchmarks/naive_classify.py FOLDER

The naive script is what one writes first: read all vectors into one float32 matrix,
``images @ labels.T``, softmax, argmax, and a Parquet file of id, label and probability. The class
vectors are handed to it, as clipsearch has them in its cache. clipsearch writes path, score, margin
and runner-up as well. The labels of the two must agree but for scores that tie in float32.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from processes import CLIPSEARCH, Run, available_memory, in_megabytes, median_seconds, run

from clipsearch import open_index
from clipsearch.prompts import class_vectors, read_labels_file


def naive(index: Path, classes: Path, logit_scale: float, out: Path) -> None:
    """Everything at once, in memory."""
    tables = [pq.read_table(file) for file in sorted(index.glob("embeddings/*/*.parquet"))]
    ids = np.concatenate([table["id"].to_numpy() for table in tables])
    images = np.concatenate(
        [
            np.frombuffer(chunk.buffers()[1], np.float16, len(chunk) * chunk.type.byte_width // 2)
            .reshape(len(chunk), -1)
            .astype(np.float32)
            for table in tables
            for chunk in table["embedding"].chunks
        ]
    )
    logits = logit_scale * (images @ np.load(classes).T)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = probabilities.argmax(axis=1)
    best = probabilities.max(axis=1)
    pq.write_table(pa.table({"id": ids, "label": labels, "probability": best}), out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--labels-file", type=Path, help="default: FOLDER.labels.txt")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--naive", nargs=3, metavar="...", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    index = arguments.index.absolute()
    if arguments.naive:
        classes, scale, out = arguments.naive
        return naive(index, Path(classes), float(scale), Path(out))
    labels_file = arguments.labels_file or index.with_name(index.name + ".labels.txt")
    opened = open_index(index)
    names = read_labels_file(labels_file)
    with tempfile.TemporaryDirectory() as scratch:
        classes = Path(scratch, "classes.npy")
        np.save(classes, class_vectors(names, opened.text_vectors()))
        ours_out, naive_out = Path(scratch, "ours.parquet"), Path(scratch, "naive.parquet")
        command = ["classify", "--labels-file", labels_file, "--out", ours_out, "--index", index]
        ours: list[Run] = []
        theirs: list[Run] = []
        script = [Path(__file__).resolve(), index, "--naive", classes]
        room = enough_room(len(opened), opened.space.dim, len(names))
        for _ in range(arguments.runs):
            ours.append(run([*CLIPSEARCH, *command]))
            if room:
                scale = opened.space.logit_scale
                theirs.append(run([CLIPSEARCH[0], *script, str(scale), naive_out]))
        report(ours, theirs)
        print(f"{len(opened):,} images x {len(names):,} labels")
        if theirs:
            compare(ours_out, naive_out, names)


def enough_room(images: int, dim: int, labels: int) -> bool:
    """Whether the naive script fits into memory: the matrix, and three of images x labels."""
    needed = 4 * images * (2 * dim + 3 * labels)
    free = available_memory()
    if free is not None and needed > free:
        print(f"naive: not run, it needs some {needed / 1e9:.0f} GB and {free / 1e9:.0f} are free")
        return False
    return True


def report(ours: list[Run], theirs: list[Run]) -> None:
    if theirs:
        shares = [f"{median_seconds(ours) / median_seconds(theirs):.2f} of the time"]
        mine, other = most_anonymous(ours), most_anonymous(theirs)
        if mine and other:
            shares.append(f"{mine / other:.3f} of the memory of its own")
        print("clipsearch takes " + " and ".join(shares))
    print(f"{'':12}{'seconds':>9}{'peak RSS':>12}{'RssAnon':>12}")
    for name, runs in (("clipsearch", ours), ("naive", theirs)):
        if runs:
            peak = max((run.peak for run in runs if run.peak), default=None)
            print(
                f"{name:12}{median_seconds(runs):9.2f}{in_megabytes(peak):>12}"
                f"{in_megabytes(most_anonymous(runs)):>12}"
            )


def most_anonymous(runs: list[Run]) -> int | None:
    return max((run.anonymous for run in runs if run.anonymous), default=None)


def compare(ours: Path, theirs: Path, names: tuple[str, ...]) -> None:
    """Say how many labels differ, and by how little their probabilities do."""
    found = pq.read_table(ours, columns=["id", "label", "probability", "margin"])
    other = pq.read_table(theirs)
    assert found["id"].to_numpy().tolist() == other["id"].to_numpy().tolist()
    position = {name: number for number, name in enumerate(names)}
    mine = np.array([position[label] for label in found["label"].to_pylist()])
    differ = mine != other["label"].to_numpy()
    margins = found["margin"].to_numpy()[differ]
    print(
        f"same label for {int((~differ).sum()):,} of {len(mine):,}"
        + (f"; of the others the largest margin is {margins.max():.1e}" if differ.any() else "")
    )
    drift = np.abs(found["probability"].to_numpy() - other["probability"].to_numpy()).max()
    print(f"largest difference of a probability {drift:.1e}")


if __name__ == "__main__":
    main()
