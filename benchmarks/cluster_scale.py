"""Clusters of a large corpus: how long, in how much memory, and how near to their centroids.

    python benchmarks/corpus.py FOLDER && python benchmarks/cluster_scale.py FOLDER

k clusters by spherical k-means in four ways, each in a process of its own, from the mapped vectors
to the cluster of every image:

- clipsearch, as ``discover --method kmeans`` does it: a sample of 256 MB is grouped, then one pass
  puts every image into the nearest group. Then it looks for the typical and the doubtful images
  of every cluster ("examples").
- faiss.Kmeans over everything as float32, as its documentation shows it. It draws 256 vectors a
  centroid itself.
- faiss.Kmeans over the sample of clipsearch, and its own pass over everything as float32.
- with --ways full, faiss.Kmeans that draws nothing and looks at every vector in each of its steps.

Told of each: seconds of the grouping and of the pass, most memory that is the process's own, the
mean cosine of all images to their centroid, and how many centroids no image is nearest to. The
cosines are of one and the same pass over all vectors, for all ways.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from processes import in_megabytes, run

from clipsearch import open_index
from clipsearch.cluster_model import assign
from clipsearch.clusters import ClusterModel
from clipsearch.encoder import Float32
from clipsearch.half import widen
from clipsearch.image_index import ImageIndex
from clipsearch.vectors import Vectors

STEPS = 25
SAMPLE_BYTES = 1 << 28


def with_clipsearch(index: ImageIndex, k: int, seed: int) -> tuple[Float32, dict[str, float]]:
    from clipsearch.discover import DiscoverSettings, discover

    began = time.perf_counter()
    calls: list[float] = []  # while images are placed

    def on_stage(stage: str, done: int, total: int) -> None:
        if stage == "placing images":
            calls.append(time.perf_counter())

    settings = DiscoverSettings(method="kmeans", n_clusters=k, seed=seed)
    found = discover(index.state(), index.text_vectors(), settings, on_stage=on_stage)
    ended = time.perf_counter()
    first, last = calls[0], calls[-1]
    times = {"grouping": first - began, "placing": last - first, "examples": ended - last}
    return found.model.centroids, times


def everything(vectors: Vectors) -> Float32:
    rows = np.empty((len(vectors), vectors.dim), np.float32)
    start = 0
    for ids, piece in vectors.live_pieces():
        widen(piece, rows[start : start + len(ids)])
        start += len(ids)
    return rows


def sample_of(rows: Float32, seed: int) -> Float32:
    count = min(len(rows), SAMPLE_BYTES // (4 * rows.shape[1]))
    drawn = np.random.default_rng([seed, len(rows)]).choice(len(rows), count, replace=False)
    return rows[np.sort(drawn)]


def with_faiss(index: ImageIndex, k: int, seed: int, way: str) -> tuple[Float32, dict[str, float]]:
    import faiss

    rows = everything(index.state().vectors)
    drawn = {} if way != "full" else {"max_points_per_centroid": len(rows)}
    kmeans = faiss.Kmeans(rows.shape[1], k, niter=STEPS, spherical=True, seed=seed, **drawn)
    began = time.perf_counter()
    kmeans.train(sample_of(rows, seed) if way == "faiss-sample" else rows)
    placing = time.perf_counter()
    kmeans.assign(rows)
    ended = time.perf_counter()
    return kmeans.centroids, {
        "grouping": placing - began,
        "placing": ended - placing,
        "examples": 0.0,
    }


WAYS: dict[str, tuple[str, Callable[..., tuple[Float32, dict[str, float]]]]] = {
    "clipsearch": ("clipsearch, sample and one pass", with_clipsearch),
    "faiss": ("faiss.Kmeans, as it comes", lambda *how: with_faiss(*how, way="faiss")),
    "faiss-sample": (
        "faiss.Kmeans, same sample",
        lambda *how: with_faiss(*how, way="faiss-sample"),
    ),
    "full": ("faiss.Kmeans, every vector", lambda *how: with_faiss(*how, way="full")),
}


def one_way(way: str, place: Path, k: int, seed: int, out: Path) -> None:
    """In a process of its own: leave the centroids in ``out``, and print the seconds."""
    centroids, times = WAYS[way][1](open_index(place), k, seed)
    np.save(out, centroids)
    print(json.dumps(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--clusters", type=int, default=1000, help="default 1,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--turns", type=int, default=1, help="the quickest is told; default 1")
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=["clipsearch", "faiss", "faiss-sample"]
    )
    parser.add_argument("--one-way", nargs=2, metavar=("WAY", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    place = arguments.index.absolute()
    if arguments.one_way:
        way, out = arguments.one_way
        return one_way(way, place, arguments.clusters, arguments.seed, Path(out))
    vectors = open_index(place).state().vectors
    print(f"{len(vectors):,} x {vectors.dim} into {arguments.clusters:,} clusters")
    print(
        f"{'':34}{'grouping':>10}{'the pass':>10}{'examples':>10}{'process':>10}{'own memory':>12}"
        f"{'mean cosine':>13}{'no image':>10}"
    )
    for way in arguments.ways:
        print(f"{WAYS[way][0]:34}{line(way, place, vectors, arguments)}", flush=True)


def line(way: str, place: Path, vectors: Vectors, arguments: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "centroids.npy")
        options = ["--clusters", str(arguments.clusters), "--seed", str(arguments.seed)]
        command = [sys.executable, __file__, place, *options, "--one-way", way, out]
        runs = [run(command) for _ in range(arguments.turns)]
        centroids = np.load(out)
    best = min(runs, key=lambda one: one.seconds)
    times = json.loads(best.output.splitlines()[-1])
    # FAISS leaves lengths that differ from 1 in the last places.
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    model = ClusterModel(centroids, np.arange(len(centroids), dtype=np.int32))
    found = assign(vectors, model)
    empty = int((np.bincount(found.clusters, minlength=len(centroids)) == 0).sum())
    memory = max((one.anonymous for one in runs if one.anonymous), default=None)
    return (
        f"{times['grouping']:8.1f} s{times['placing']:8.1f} s{times['examples']:8.1f} s"
        f"{best.seconds:8.1f} s"
        f"{in_megabytes(memory):>12}{found.cosines.mean(dtype=np.float64):13.5f}{empty:10d}"
    )


if __name__ == "__main__":
    main()
