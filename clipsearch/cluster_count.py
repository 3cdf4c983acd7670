"""How many groups a collection falls into: where they stand out most from a cloud without any.

For every k the images are grouped, by average linkage off their mean and a step of k-means, and
the mean silhouette is taken (`Rousseeuw 1987 <https://doi.org/10.1016/0377-0427(87)90125-7>`_): how
much nearer an image is to its own group than to the next, by cosine. A cloud has a silhouette as
well, a high one at small k if it is longer than wide. So the silhouette is held against that of
as many random vectors that vary as much along every axis, grouped in the same way: the gap
statistic of `Tibshirani, Walther & Hastie 2001 <https://doi.org/10.1111/1467-9868.00293>`_. k is
where the gap, smoothed over neighbouring k, is largest; 1 where it is nowhere more than chance.

The silhouettes are exact. The mean cosine of an image to a group is its product with the group's
mean vector, so that all of them cost one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.agglomerative import average_linkage
from clipsearch.encoder import Float32, Float64
from clipsearch.errors import OptionError, QueryError
from clipsearch.group_means import group_means, group_sums, mean_row, off_mean, unit_rows
from clipsearch.records import Int32
from clipsearch.spherical_kmeans import nearest_centroids, train_centroids
from clipsearch.threads import in_order, single_threaded_blas, worker_count

MOST = 1000
"""More groups than a person would look through are never chosen."""

CRITERION = "silhouette gap"

_ROWS = 16_384
_LINKED = 2048  # points that are merged one by one; more are over-clustered first
_ITERATIONS = 3
_STEP = 1.1
_SMOOTHED_OVER = 0.25  # of log k, to either side
_CLOUDS_OF = 4096  # random vectors in all: few images are held against several clouds
_MOST_CLOUDS = 16
_BEYOND_CHANCE = 2.0  # standard errors
_LEAST = 0.02  # the gap of collections whose groups somebody would call groups is more
_FLAT = 1e-6  # an axis along which so little varies is none
_FITTED = 5
_NO_DISTANCE = 1e-5  # what rounding makes of none
_PRODUCTS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class CountChoice:
    """k : how many clusters. criterion : its name. value : the criterion at k, 0 where k is 1.
    curve : (k, value) of every k that was tried, as measured."""

    k: int
    criterion: str
    value: float
    curve: tuple[tuple[int, float], ...]


def choose_count(
    sample: Float32,
    *,
    seed: int,
    most: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CountChoice:
    """How many clusters (s, D) float32 unit rows fall into.

    most : the highest k to try; an eighth of the sample or its square root, whichever is more,
        and ``MOST`` without it.
    on_progress : called with how many groupings were tried, and how many there will be.

    At most 16,384 rows are looked at, drawn by ``seed``; of up to 2,048 the answer is the same
    whatever the seed. Raises QueryError when there are none
    or they are not finite, OptionError when most is below 1 or the seed below 0.
    """
    if sample.ndim != 2 or 0 in sample.shape or not np.isfinite(sample).all():
        raise QueryError(f"expected one vector or more of finite numbers, got {sample.shape}")
    if most is not None and most < 1:
        raise OptionError(f"expected 1 or more clusters at the most, got {most}")
    if seed < 0:
        raise OptionError(f"expected a seed of 0 or more, got {seed}")
    rng = np.random.default_rng([seed, len(sample)])
    rows = sample
    if len(rows) > _ROWS:
        rows = rows[np.sort(rng.choice(len(rows), _ROWS, replace=False))]
    count = len(rows)
    ks = _tried(min(most or MOST, MOST, count, max(math.isqrt(count), count // 8)))
    clouds = min(_MOST_CLOUDS, max(1, _CLOUDS_OF // count))
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, len(ks) * (1 + clouds))

    if not ks:
        return CountChoice(1, CRITERION, 0.0, ())
    centred = off_mean(rows, mean_row(rows))
    measured, errors = _silhouettes(centred, ks, seed, report)
    chance = np.zeros(len(ks))
    for number in range(clouds):
        cloud = _cloud(centred, np.random.default_rng([count, number]))
        chance += _silhouettes(cloud, ks, seed, report)[0] / clouds
    gaps = measured - chance
    curve = tuple((k, float(gap)) for k, gap in zip(ks, gaps, strict=True))
    every = np.arange(ks[0], ks[-1] + 1)
    smooth = _smoothed(np.array(ks), gaps, every)
    best = int(smooth.argmax())
    error = float(np.interp(every[best], ks, errors))
    if not smooth[best] > max(_LEAST, _BEYOND_CHANCE * error):
        return CountChoice(1, CRITERION, 0.0, curve)
    return CountChoice(int(every[best]), CRITERION, float(smooth[best]), curve)


def _tried(most: int) -> list[int]:
    """Rising, each about 10 % above the one before, from 2 to ``most``."""
    ks = []
    k = 2.0
    while round(k) <= most:
        ks.append(round(k))
        k = max(k * _STEP, round(k) + 1.0)
    return ks


def _silhouettes(
    centred: Float32, ks: list[int], seed: int, report: Callable[[], None]
) -> tuple[Float64, Float64]:
    """The mean silhouette at every k and its standard error."""
    if len(centred) <= _LINKED:
        groups: Int32 = np.arange(len(centred), dtype=np.int32)
        tree = average_linkage(centred)
    else:
        centroids = train_centroids(
            centred, _LINKED, seed=seed, iterations=_ITERATIONS, most_starts=1
        )
        groups = nearest_centroids(centred, centroids).labels
        groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
        tree = average_linkage(*group_means(centred, groups))
    merged = group_sums(centred, groups, len(tree)).astype(np.float32)
    means, errors = np.empty(len(ks)), np.empty(len(ks))
    for place, k in enumerate(ks):
        cut = tree.cut(k)
        parts, sums = cut[groups], group_sums(merged, cut, k)
        lengths = np.linalg.norm(sums, axis=1)
        if (lengths > 0).all():  # opposite vectors have no mean: their group stays as it is
            parts = nearest_centroids(centred, unit_rows(sums)).labels
        single = silhouettes(centred, parts)
        means[place] = single.mean()
        errors[place] = single.std() / math.sqrt(len(single))
        report()
    return means, errors


def silhouettes(rows: Float32, groups: Int32) -> Float64:
    """(n,) the silhouettes of (n, D) unit rows in their (n,) groups, by cosine distance, -1 to 1;
    0 for an image that is alone in its group, or no nearer to it than to
    another that is the same, and where there is only one group."""
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int32)
    sizes = np.bincount(groups)
    if len(sizes) == 1:
        return np.zeros(len(rows))
    columns = (group_sums(rows, groups, len(sizes)) / sizes[:, None]).T
    columns = np.ascontiguousarray(columns, np.float32)
    found = np.empty(len(rows))
    block = max(64, _PRODUCTS_AT_ONCE // len(sizes))

    def fill(start: int) -> None:
        part = slice(start, start + block)
        cosines = rows[part] @ columns
        here, own = np.arange(len(cosines)), groups[part]
        size = sizes[own]
        # The mean over a group counts an image itself, at distance 0.
        inside = (1.0 - cosines[here, own]) * (size / np.maximum(size - 1, 1))
        cosines[here, own] = -np.inf
        outside = 1.0 - cosines.max(axis=1)
        larger = np.maximum(inside, outside)
        none = (size == 1) | (larger < _NO_DISTANCE)
        found[part] = np.where(none, 0.0, (outside - inside) / np.where(none, 1.0, larger))

    work = rows.size * len(sizes)
    with single_threaded_blas():
        starts = range(0, len(rows), block)
        for _ in in_order(fill, starts, 1 if work < 1 << 27 else worker_count()):
            pass
    return found


def _cloud(centred: Float32, rng: np.random.Generator) -> Float32:
    """As many random unit vectors, which vary as much as the (n, D) ``centred`` ones do along
    every one of their axes. They lie along axes of their own: cosines do not know of a turn.

    Normal vectors made a unit long, whose variances are set so that they come out right.
    """
    with single_threaded_blas():  # summed in one order, whatever the number of threads
        moments = np.linalg.eigvalsh((centred.T @ centred).astype(np.float64) / len(centred))
    wanted = moments[moments > _FLAT * moments[-1]]
    if len(wanted) == 1:  # on a line unit vectors are two points, and that is two groups
        wanted = np.repeat(wanted / 2, 2)
    normal = rng.standard_normal((len(centred), len(wanted)), np.float32)
    variances = wanted.copy()
    for _ in range(_FITTED):
        drawn = unit_rows(normal * np.sqrt(variances).astype(np.float32))
        variances *= wanted / np.square(drawn).mean(axis=0, dtype=np.float64)
    return unit_rows(normal * np.sqrt(variances).astype(np.float32))


def _smoothed(ks: npt.NDArray[np.int_], values: Float64, every: npt.NDArray[np.int_]) -> Float64:
    """At every k the weighted mean of the values near it, the weights falling evenly to 0."""
    distances = np.abs(np.log(every[:, None]) - np.log(ks[None]))
    weights = np.maximum(0.0, 1.0 - distances / _SMOOTHED_OVER)
    smooth: Float64 = (weights @ values) / weights.sum(axis=1)
    return smooth
