"""Nearest neighbours by groups against every pair, and how many strangers ``outliers`` finds.

    python benchmarks/neighbours.py --index INDEX [--visits 4 --visits 8] [--copies 200]
    python benchmarks/neighbours.py --classes CALTECH_TEST --model mini --model MODEL_FOLDER

First: the graph of an index's images by groups: seconds, peak memory, and recall of 1,000 images'
16 neighbours (a neighbour counts that is as near as the 16th of all, to 1e-4: copies of one
picture are as good as each other). --copies makes so many slightly changed copies of every vector
of a small index first.

Second: photos of a few classes, and five photos of other classes among them. Of ten draws: how
many of the five are among the first five by score, are listed as outliers, and what share of the
other photos is listed with them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsearch.image_index import open_index
from clipsearch.neighbour_graph import NeighbourGraph, neighbour_graph
from clipsearch.outliers import outliers
from clipsearch.vectors import Vectors
from indexer import build_index

_ASKED, _AS_NEAR = 1000, 1e-4
_STRANGERS, _DRAWS, _LEAST_CLASS = 5, 10, 15
_CHANGE = 0.05


def recall(graph: NeighbourGraph, vectors: Vectors) -> float:
    """Of the neighbours of some images, the share that is among their nearest."""
    chance = np.random.default_rng(0)
    rows = np.sort(chance.choice(len(graph), min(_ASKED, len(graph)), replace=False))
    queries = vectors.take(graph.ids[rows])[1]
    k = graph.cosines.shape[1]
    best = np.full((len(rows), k + 1), -np.inf, np.float32)  # each finds itself, too
    for _, block in vectors.blocks():
        both = np.concatenate([best, queries @ block.T], axis=1)
        best = np.partition(both, both.shape[1] - k - 1, axis=1)[:, -k - 1 :]
    least = best.min(axis=1, keepdims=True)
    return float((graph.cosines[rows] >= least - _AS_NEAR).mean())


def copied(vectors: Vectors, copies: int) -> Vectors:
    """So many copies of every vector, each changed by as much as copies of a picture are."""
    chance = np.random.default_rng(0)
    rows = np.repeat(vectors.take(vectors.ids)[1], copies, axis=0)
    rows += _CHANGE / np.sqrt(rows.shape[1]) * chance.standard_normal(rows.shape, np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = np.arange(len(rows), dtype=np.int64)
    return Vectors(ids, (rows.astype("<f2"),), vectors.dim, np.empty(0, np.int64))


def measure_graph(index: Path, visits: Sequence[int], copies: int) -> None:
    """Print a line for each number of visits."""
    vectors = open_index(index).state().vectors
    if copies:
        vectors = copied(vectors, copies)
    print(f"{len(vectors):,} images x {vectors.dim}")
    for count in visits:
        begin = time.perf_counter()
        graph = neighbour_graph(vectors, exact=False, visits=count)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found = recall(graph, vectors)
        print(f"  {count:2d} visits: {seconds:6.1f} s, {peak:5.0f} MB, recall {found:.4f}")


def measure_outliers(folder: Path, model: str, place: Path) -> None:
    """Print a line for each number of classes."""
    build_index(folder, place, encoder=model)
    index = open_index(place)
    vectors = index.state().vectors
    ids = vectors.ids
    places = index.paths().first_places(ids.tolist())
    classes = np.array([found.path.parent.name for found in places if found is not None])
    names, sizes = np.unique(classes, return_counts=True)
    print(model)
    for usual in (1, 3, 6, 10):
        told = []
        for draw in range(_DRAWS):
            chance = np.random.default_rng(draw)
            base = chance.choice(names[sizes >= _LEAST_CLASS], usual, replace=False)
            others = chance.choice(np.setdiff1d(names, base), _STRANGERS, replace=False)
            strangers = {int(chance.choice(ids[classes == name])) for name in others}
            at_home = ids[np.isin(classes, base)]
            allowed = np.sort(np.concatenate([at_home, np.array(sorted(strangers))]))
            found = [
                image.id for image in outliers(neighbour_graph(vectors, allowed=allowed)).images
            ]
            right = len(strangers & set(found))
            first = len(strangers & set(found[:_STRANGERS]))
            told.append((first, right, (len(found) - right) / len(at_home)))
        first, right, wrong = np.mean(told, axis=0)
        print(
            f"  {usual:2d} classes: {first:.1f} of {_STRANGERS} among the first {_STRANGERS}, "
            f"{right:.1f} listed, and {wrong:.1%} of the others"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--index", type=Path)
    parser.add_argument("--visits", type=int, action="append")
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--classes", type=Path)
    parser.add_argument("--model", action="append", default=[])
    given = parser.parse_args(arguments)
    if given.index is not None:
        measure_graph(given.index, given.visits or (8,), given.copies)
    with tempfile.TemporaryDirectory() as scratch:
        for number, model in enumerate(given.model):
            measure_outliers(given.classes, model, Path(scratch) / f"{number}.index")


if __name__ == "__main__":
    main()
