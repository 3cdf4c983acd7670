"""A filter before a search: gathering the allowed rows, or scanning all and looking at theirs.

    python benchmarks/filtered_search.py [--images 1000000] [--dim 512]

Both find the same images (asserted); the table shows where one way becomes slower than the
other, which is what ``FEW_SHARE`` in exact_search.py is set by. The last column is the time of
a search without a filter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipsearch import exact_search
from clipsearch.exact_search import Best, RowScan
from clipsearch.vectors import BLOCK_ROWS, Vectors

K = 50
_ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    images, dim = arguments.images, arguments.dim
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "rows.f16")
        with open(place, "wb") as file:
            for start in range(0, images, BLOCK_ROWS):
                file.write(units(rng, min(BLOCK_ROWS, images - start), dim).astype("<f2").tobytes())
        matrix = np.asarray(np.memmap(place, "<f2", "r", shape=(images, dim)))
        vectors = Vectors(np.arange(images), (matrix,), dim, np.empty(0, np.int64))
        compare(RowScan(vectors), units(rng, 1, dim)[0], rng)


def units(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    rows = rng.standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def compare(scan: RowScan, query: np.ndarray, rng: np.random.Generator) -> None:
    print(f"{'allowed':>9} {'share':>7} {'gathered':>9} {'scanned':>8} {'no filter':>9}  ms")
    for share in (0.0001, 0.001, 0.01, 0.03, 0.1, 0.15, 0.2, 0.3, 0.5, 1):
        rows = np.sort(rng.choice(len(scan), max(1, int(share * len(scan))), replace=False))
        ways: list[Callable[[], Best]] = [
            lambda rows=rows: by_share(scan, query, rows, 1),
            lambda rows=rows: by_share(scan, query, rows, 0),
            lambda: scan.best(query, K),
        ]
        found, times = zip(*(best_of(way) for way in ways), strict=True)
        assert np.array_equal(found[0][1], found[1][1])
        gathered, scanned, unfiltered = times
        print(
            f"{len(rows):>9,} {share:>7.2%} {gathered:>9.2f} {scanned:>8.2f} {unfiltered:>9.2f}",
            flush=True,
        )


def by_share(scan: RowScan, query: np.ndarray, rows: np.ndarray, few_share: float) -> Best:
    exact_search.FEW_SHARE = few_share
    return scan.best_of(query, K, rows)


def best_of(ask: Callable[[], Best]) -> tuple[Best, float]:
    times = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        found = ask()
        times.append(time.perf_counter() - begin)
    return found, float(np.median(times)) * 1000


if __name__ == "__main__":
    main()
