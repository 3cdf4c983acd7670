"""Spherical k-means: unit vectors into groups around unit centroids, by cosine.

`Dhillon & Modha 2001 <https://doi.org/10.1023/A:1007612920971>`_: each vector belongs to the
centroid of highest cosine, each centroid is the sum of its vectors made a unit long; both steps
repeat. Where it begins is drawn as k-means++ does (`Arthur & Vassilvitskii 2007
<https://dl.acm.org/doi/10.5555/1283383.1283494>`_), of several vectors the one that helps most;
among many vectors, of some of them; and for very many centroids an eighth as many as there are at
a time (after `Bahmani et al. 2012 <https://doi.org/10.14778/2180912.2180915>`_).

The blocks that are computed at once, and the order in which their sums are added, follow from the
shape of the data alone: the same vectors and seed give the same centroids, bit for bit, on any
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import OptionError, QueryError
from clipsearch.group_means import group_sums, unit_rows
from clipsearch.records import Int32
from clipsearch.threads import in_order, single_threaded_blas, worker_count

Progress = Callable[[int, int], None]

SAME = 1e-6
"""Vectors whose cosine is within this of 1 are one picture: nothing tells them apart but the
rounding of what is stored."""

_PRODUCTS_AT_ONCE = 1 << 19  # 2 MB of float32: read again while they are in a cache
_UNIT = 0.01  # how far a length may be from 1: fp16 keeps within 0.001
_WORK_ALONE = 1 << 27  # multiplications of a step from which threads pay
_WORK_OF_CHOICE = 1 << 33  # multiplications up to which centroids are drawn one by one
_ROWS_OF_EACH = 32  # or of so many rows a centroid, with a few steps among them
_STEPS_OF_FEW = 10
_WORK_OF_STARTS = 1 << 34  # a second or so of one core: small collections can begin many times
_SETTLED = 1e-6  # a step that betters the mean cosine by less is the last


@dataclass(frozen=True)
class Assigned:
    """The nearest centroid of (s,) vectors. labels : int32. cosines : float32 to it."""

    labels: Int32
    cosines: Float32


def train_centroids(
    sample: Float32,
    k: int,
    *,
    seed: int,
    iterations: int = 25,
    most_starts: int = 10,
    on_progress: Progress | None = None,
) -> Float32:
    """(s, D) float32 unit rows -> (k', D) float32 unit centroids, largest group first.

    k' is k, or less where the sample has fewer than k different vectors: each centroid is the
    nearest of at least one vector of the sample, and no two are the same.

    iterations : steps at the most. most_starts : few vectors are clustered from so many
        beginnings, of which the one with the highest mean cosine is kept; many from one.
    on_progress : called with the steps done and those there are at the most.

    Raises OptionError when k or another number is below 1 or the seed below 0, QueryError when
    there are no rows or not all are of length 1.
    """
    if min(k, iterations, most_starts) < 1:
        raise OptionError(
            "expected 1 or more clusters, steps and starts, "
            f"got {k}, {iterations} and {most_starts}"
        )
    if seed < 0:
        raise OptionError(f"expected a seed of 0 or more, got {seed}")
    rows = _checked(sample)
    k = min(k, len(rows))
    starts = 1 if k == 1 else min(most_starts, _affordable_starts(rows, k, iterations))
    rng = np.random.default_rng([seed, k])
    best: tuple[float, Float32] | None = None
    with single_threaded_blas():
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        for start in range(starts):
            centroids = _beginning(rows, lengths, k, rng)

            def report(step: int, start: int = start) -> None:
                if on_progress is not None:
                    on_progress(start * iterations + step, starts * iterations)

            found = _steps(rows, lengths, centroids, iterations, report)
            if best is None or found[0] > best[0] + _SETTLED:
                best = found
    assert best is not None
    if on_progress is not None:
        on_progress(starts * iterations, starts * iterations)
    return best[1]


def nearest_centroids(rows: Float32, centroids: Float32) -> Assigned:
    """The nearest of (k, D) unit centroids to each of (s, D) unit rows, of equals the first."""
    with single_threaded_blas():
        return _assign(rows, centroids)


def settle_centroids(sample: Float32, centroids: Float32, *, iterations: int = 25) -> Float32:
    """The steps of ``train_centroids`` from (k, D) unit centroids that are there: as they end,
    largest group first, at most as many as they were."""
    rows = _checked(sample)
    with single_threaded_blas():
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        return _steps(rows, lengths, centroids, iterations, lambda step: None)[1]


def _checked(sample: Float32) -> Float32:
    rows = np.ascontiguousarray(sample, np.float32)
    if rows.ndim != 2 or 0 in rows.shape:
        raise QueryError(f"expected one vector or more to cluster, got shape {rows.shape}")
    squares = np.einsum("ij,ij->i", rows, rows)
    if not (np.abs(squares - 1) < 2 * _UNIT).all():
        raise QueryError("expected vectors of length 1 to cluster, got others or no numbers")
    return rows


def _affordable_starts(rows: Float32, k: int, iterations: int) -> int:
    return max(1, _WORK_OF_STARTS // (rows.size * k * (iterations + _tried_each(k))))


def _workers(products: int) -> int:
    return 1 if products < _WORK_ALONE else worker_count()


def _assign(rows: Float32, centroids: Float32) -> Assigned:
    labels = np.empty(len(rows), np.int32)
    cosines = np.empty(len(rows), np.float32)
    columns = np.ascontiguousarray(centroids.T)
    block = max(64, min(8192, _PRODUCTS_AT_ONCE // len(centroids)))

    def assign(start: int) -> None:
        part = slice(start, start + block)
        products = rows[part] @ columns
        products.argmax(axis=1, out=(found := np.empty(len(products), np.intp)))
        labels[part] = found
        cosines[part] = products[np.arange(len(products)), found]

    for _ in in_order(assign, range(0, len(rows), block), _workers(rows.size * len(centroids))):
        pass
    return Assigned(labels, cosines)


def _beginning(rows: Float32, lengths: Float32, k: int, rng: np.random.Generator) -> Float32:
    """Up to k different unit centroids to begin with, as well chosen as is worth the time."""
    work = rows.shape[1] * k * _tried_each(k)
    if len(rows) * work <= _WORK_OF_CHOICE:
        return _seeds(rows, lengths, k, rng, alone=True)
    some = _ROWS_OF_EACH * k
    if some < len(rows) and some * work <= _WORK_OF_CHOICE:
        few = np.sort(rng.choice(len(rows), some, replace=False))
        part, long = rows[few], lengths[few]
        seeds = _seeds(part, long, k, rng, alone=True)
        found = _steps(part, long, seeds, _STEPS_OF_FEW, lambda step: None)[1]
        if len(found) == k:  # else there may be more that differ among the others
            return found
    return _seeds(rows, lengths, k, rng, alone=False)


def _seeds(
    rows: Float32, lengths: Float32, k: int, rng: np.random.Generator, *, alone: bool
) -> Float32:
    """Up to k different rows, far from each other more often than near, made a unit long.

    alone : whether each is drawn after the one before, the best of several.
    """
    centroids = unit_rows(rows[[int(rng.integers(len(rows)))]])
    cosines = _assign(rows, centroids).cosines
    tried = _tried_each(k)
    while len(centroids) < k:
        distances = np.maximum(lengths - cosines, 0).astype(np.float64)
        distances[distances <= SAME] = 0
        there = int(np.count_nonzero(distances))
        if there == 0:
            break
        some = tried if alone else min(max(1, len(centroids) // 8), k - len(centroids))
        drawn = rng.choice(
            len(rows), min(some, there), replace=False, p=distances / distances.sum()
        )
        new = unit_rows(rows[drawn])
        if alone:
            nearer = np.maximum(cosines, new @ rows.T)
            best = int(nearer.sum(axis=1, dtype=np.float64).argmax())
            new, cosines = new[best : best + 1], nearer[best]
        else:
            new = _different(new)
            np.maximum(cosines, _assign(rows, new).cosines, out=cosines)
        centroids = np.concatenate([centroids, new])
    return centroids


def _tried_each(k: int) -> int:
    """How many vectors are drawn for one centroid, of which the one that helps most is taken."""
    return 2 + int(math.log(k))


def _different(unit: Float32) -> Float32:
    """The unit rows without those that are the same as one before."""
    same = np.tril(unit @ unit.T >= 1 - SAME, -1)
    return unit[~same.any(axis=1)]


def _steps(
    rows: Float32,
    lengths: Float32,
    centroids: Float32,
    iterations: int,
    report: Callable[[int], None],
) -> tuple[float, Float32]:
    """The mean cosine, and the centroids, largest group first."""
    before = -np.inf
    assigned = _assign(rows, centroids)
    for step in range(iterations):
        report(step)
        centroids = _updated(rows, lengths, centroids, assigned)
        assigned = _assign(rows, centroids)
        mean = float(assigned.cosines.mean(dtype=np.float64))
        if mean - before < _SETTLED:
            break
        before = mean
    sizes = np.bincount(assigned.labels, minlength=len(centroids))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    return float(assigned.cosines.mean(dtype=np.float64)), centroids[order]


def _updated(rows: Float32, lengths: Float32, centroids: Float32, assigned: Assigned) -> Float32:
    """The centroids of the groups; those of nobody move to the vectors that are farthest from
    theirs, or go where all are at theirs."""
    sums = group_sums(rows, assigned.labels, len(centroids))
    norms = np.linalg.norm(sums, axis=1)
    filled = np.bincount(assigned.labels, minlength=len(centroids)) > 0
    moved = centroids.copy()  # opposite vectors have no mean: their centroid stays
    clear = filled & (norms > SAME)
    moved[clear] = (sums[clear] / norms[clear, None]).astype(np.float32)
    missing = int(np.count_nonzero(~filled))
    if missing:
        distances = lengths - assigned.cosines
        far = np.argsort(-distances, kind="stable")[:missing]
        far = far[distances[far] > SAME]
        moved = moved[filled]
        if len(far):
            moved = np.concatenate([moved, _different(unit_rows(rows[far]))])
    return moved
