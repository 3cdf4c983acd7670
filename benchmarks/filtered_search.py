"""A filter before a search: reading the allowed rows one by one, or handing them to FAISS.

    python benchmarks/filtered_search.py [--images 300000] [--dim 512] [--queries 1]

Both find the same images (asserted); the table shows where one way becomes slower than the
other, which is what the shares in vector_search.py are set by.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipsearch.faiss_index import FaissIndex
from clipsearch.vector_index import exact_search
from clipsearch.vectors import BLOCK_ROWS, Vectors

K = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=300_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images, dim = arguments.images, arguments.dim
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "rows.f16")
        index = FaissIndex(dim)
        with open(place, "wb") as file:
            for start in range(0, images, BLOCK_ROWS):
                rows = units(rng, min(BLOCK_ROWS, images - start), dim)
                file.write(rows.astype(np.float16).tobytes())
                index.add(np.arange(start, start + len(rows)), rows)
        matrix = np.asarray(np.memmap(place, np.float16, "r", shape=(images, dim)))
        vectors = Vectors(np.arange(images), (matrix,), dim, np.empty(0, np.int64))
        compare(vectors, index, units(rng, arguments.queries, dim), rng)


def units(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def compare(
    vectors: Vectors, index: FaissIndex, queries: np.ndarray, rng: np.random.Generator
) -> None:
    images = len(vectors.ids)
    print(f"{'allowed':>9} {'share':>7} {'one by one':>11} {'FAISS':>7} {'scan':>7}  ms")
    for share in (0.0001, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 1):
        allowed = np.sort(rng.choice(images, max(1, int(share * images)), replace=False))
        ways: list[Callable[[], np.ndarray]] = [
            lambda a=allowed: exact_search(vectors.blocks_of(a), queries, K)[1],
            lambda a=allowed: index.search(queries, K, a)[1],
            lambda a=allowed: exact_search(vectors.blocks(), queries, K, a)[1],
        ]
        found = [way() for way in ways]
        assert all((ids == found[0]).mean() > 0.99 for ids in found)  # but for sums that tie
        seconds = [best_time(way) for way in ways]
        print(f"{len(allowed):9,} {share:7.2%}", *(f"{1000 * s:9.1f}" for s in seconds))


def best_time(way: Callable[[], np.ndarray]) -> float:
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


if __name__ == "__main__":
    main()
