"""Groups by density: HDBSCAN, which leaves out what belongs to none.

Hierarchical density-based clustering (`Campello, Moulavi & Sander 2013
<https://doi.org/10.1007/978-3-642-37456-2_14>`_) as scikit-learn has it, by the Euclidean distance
of unit vectors, which rises as their cosine falls. In hundreds of dimensions all distances are
alike and most pictures would be left out; so it is given the thirty directions in which the
collection varies most, off its mean.
"""

from __future__ import annotations

import numpy as np

from clipsearch.encoder import Float32, Float64
from clipsearch.errors import OptionError, QueryError
from clipsearch.group_means import group_sums, mean_row, off_mean, unit_rows
from clipsearch.records import Int32
from clipsearch.shards import Int64
from clipsearch.spherical_kmeans import SAME, nearest_centroids
from clipsearch.threads import single_threaded_blas

MOST_POINTS = 16_384
"""More are grouped as these many of them are: time is quadratic in their number."""

_DIRECTIONS = 30
_CORE = 3  # neighbours that make a point a dense one, itself among them
_KEPT = 0.95  # of the members of a group are near enough to it to show who else is


def hdbscan_clusters(points: Float32, min_size: int) -> Int32:
    """(m, D) float32 unit rows -> (m,) int32 groups from 0, -1 for what is in none.

    min_size : points that a group has at least, 2 or more.

    Of more than ``MOST_POINTS`` rows, evenly chosen ones are grouped; of the others each goes
    to the group it is nearest to, if it is as near as most of that group are. Raises OptionError
    when min_size is below 2, QueryError when there are no rows or they are not finite.
    """
    if min_size < 2:
        raise OptionError(f"expected groups of 2 or more images, got {min_size}")
    if points.ndim != 2 or 0 in points.shape or not np.isfinite(points).all():
        raise QueryError(f"expected one vector or more of finite numbers, got {points.shape}")
    centred = off_mean(points, mean_row(points))
    if len(centred) <= MOST_POINTS:
        return _grouped(centred, min_size)
    chosen = np.linspace(0, len(centred) - 1, MOST_POINTS).astype(np.int64)
    return _spread(centred, chosen, _grouped(centred[chosen], min_size))


def _grouped(rows: Float32, min_size: int) -> Int32:
    if len(rows) < min_size:
        return np.full(len(rows), -1, np.int32)
    if (rows @ rows[0] >= 1 - SAME).all():  # one picture again and again: as dense as can be
        return np.zeros(len(rows), np.int32)
    from sklearn.cluster import HDBSCAN

    found = HDBSCAN(
        min_cluster_size=min_size, min_samples=min(_CORE, len(rows)), copy=True
    ).fit_predict(_main_directions(rows))
    return np.asarray(found, np.int32)


def _main_directions(rows: Float32) -> Float64:
    with single_threaded_blas():  # summed in one order, whatever the number of threads
        _, axes = np.linalg.eigh((rows.T @ rows).astype(np.float64))
        # The axes are named by no order of their own signs: distances do not see them.
        left = rows @ axes[:, -_DIRECTIONS:]
    lengths = np.linalg.norm(left, axis=1, keepdims=True)
    directions: Float64 = left / np.maximum(lengths, SAME)
    return directions


def _spread(rows: Float32, chosen: Int64, groups: Int32) -> Int32:
    """The groups of all rows, where those of the ``chosen`` are known."""
    spread = np.full(len(rows), -1, np.int32)
    inside = groups >= 0
    if not inside.any():
        return spread
    sums = group_sums(rows[chosen[inside]], groups[inside], int(groups.max()) + 1)
    nearest = nearest_centroids(rows, unit_rows(sums))
    least = np.array(
        [
            np.quantile(nearest.cosines[chosen[groups == group]], 1 - _KEPT)
            for group in range(len(sums))
        ]
    )
    near = nearest.cosines >= least[nearest.labels]
    spread[near] = nearest.labels[near]
    spread[chosen] = groups
    return spread
