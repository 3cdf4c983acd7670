"""Groups that are merged until one is left: which first, and how far apart they were.

Average linkage is by cosine. Two groups are as far apart as their vectors are on average, 1 less
the mean cosine over all pairs (UPGMA; `Sokal & Michener 1958
<https://archive.org/details/cbarchive_33927>`_). A point may stand for many vectors: its weight
says how many, so that merging the centres of an over-clustering is merging what they stand for.
The mean cosine of two groups is the product of their mean vectors, and the distance to a merged
group is the weighted mean of the distances to its two parts.

Ward's linkage merges what adds least to the squared distances from the groups' means
(`Ward 1963 <https://doi.org/10.1080/01621459.1963.10500845>`_). It makes groups of like size,
where average linkage leaves vectors that are far from all others in groups of their own.

Merges are found by the chain of nearest neighbours (`Murtagh 1983
<https://doi.org/10.1093/comjnl/26.4.354>`_): quadratic time and memory in the number of points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32, Float64
from clipsearch.errors import OptionError, QueryError
from clipsearch.records import Int32
from clipsearch.shards import Int64
from clipsearch.threads import single_threaded_blas


@dataclass(frozen=True)
class Dendrogram:
    """The merges of m points, nearest first.

    merges : (m - 1, 2) int64: the two groups that merge; groups below m are points, m + i is
        what merge i made (the first two columns of SciPy's linkage matrix).
    heights : (m - 1,) float64, never falling: the mean cosine distance of the two, 0 to 2; with
        Ward's linkage what their merging adds to the sum of squares.
    """

    merges: Int64
    heights: Float64

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.merges) + 1

    def cut(self, k: int) -> Int32:
        """(m,) int32 groups of the points when k are left, numbered as their first points come;
        m groups where k is more. OptionError when k is below 1."""
        if k < 1:
            raise OptionError(f"expected 1 or more clusters, got {k}")
        points = len(self)
        parent = np.arange(points + len(self.merges))
        for made, pair in enumerate(self.merges[: max(0, points - k)]):
            parent[pair] = points + made
        # A merge is numbered after what it is made of: from the last on, all roots are known.
        for group in range(len(parent) - 1, -1, -1):
            parent[group] = parent[parent[group]]
        _, first, groups = np.unique(parent[:points], return_index=True, return_inverse=True)
        number = np.empty(len(first), np.int32)
        number[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
        return number[groups]


def average_linkage(points: Float32, weights: npt.ArrayLike | None = None) -> Dendrogram:
    """Merge (m, D) float32 rows until one group is left.

    points : unit rows, or the mean vectors of what they stand for, which are shorter the more
        that differs: with those the heights are the ones of the single vectors.
    weights : (m,) above 0, how many vectors each stands for; 1 each without.

    Of equal distances the first pair is merged first. Holds m x m float64 numbers. Raises
    QueryError when there are no points, or points or weights that are no numbers.
    """
    sizes = _sizes(points, weights)
    return _in_order_of_height(*_chained(_distances(points), sizes, _mean_distances))


def ward_linkage(points: Float32, weights: npt.ArrayLike | None = None) -> Dendrogram:
    """Merge (m, D) float32 rows until one group is left, by Ward's criterion.

    weights, memory, order and errors : as in ``average_linkage``.
    """
    sizes = _sizes(points, weights)
    wide = points.astype(np.float64)
    squares = np.square(wide).sum(axis=1)
    with single_threaded_blas():  # summed in one order, whatever the number of threads
        added: Float64 = wide @ wide.T
    added *= -2.0
    added += squares[:, None]
    added += squares
    np.maximum(added, 0.0, out=added)
    for row, size in zip(added, sizes.tolist(), strict=True):
        row *= size * sizes / (size + sizes)
    np.fill_diagonal(added, np.inf)
    return _in_order_of_height(*_chained(added, sizes, _added_squares))


def _sizes(points: Float32, weights: npt.ArrayLike | None) -> Float64:
    sizes = np.ones(len(points)) if weights is None else np.array(weights, np.float64)
    if points.ndim != 2 or 0 in points.shape or not np.isfinite(points).all():
        raise QueryError(f"expected one vector or more of finite numbers, got {points.shape}")
    if sizes.shape != (len(points),) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise QueryError(f"expected {len(points)} weights above 0, got {sizes.shape}")
    return sizes


def _distances(points: Float32) -> Float64:
    wide = points.astype(np.float64)
    with single_threaded_blas():  # summed in one order, whatever the number of threads
        distances: Float64 = wide @ wide.T
    np.subtract(1.0, distances, out=distances)
    np.clip(distances, 0.0, 2.0, out=distances)
    np.fill_diagonal(distances, np.inf)
    return distances


def _mean_distances(distances: Float64, sizes: Float64, one: int, other: int) -> Float64:
    """(m,) distances to what two groups make together."""
    share = sizes[one] / (sizes[one] + sizes[other])
    row: Float64 = share * distances[one]
    row += (1 - share) * distances[other]
    return row


def _added_squares(added: Float64, sizes: Float64, one: int, other: int) -> Float64:
    """(m,) what merging every group with what two make together adds (Lance & Williams 1967)."""
    row: Float64 = (sizes[one] + sizes) * added[one]
    row += (sizes[other] + sizes) * added[other]
    row -= sizes * added[one, other]
    row /= sizes[one] + sizes[other] + sizes
    return row


def _chained(
    distances: Float64,
    sizes: Float64,
    merged: Callable[[Float64, Float64, int, int], Float64],
) -> tuple[Int64, Float64]:
    """The merges in the order in which the chain finds them; a group is named by a point in it.

    distances : (m, m), destroyed. merged : the distances to what two groups make together.
    """
    count = len(distances)
    merges = np.empty((count - 1, 2), np.int64)
    heights = np.empty(count - 1)
    chain: list[int] = []
    alive = np.ones(count, bool)
    for made in range(count - 1):
        if not chain:
            chain.append(int(alive.argmax()))
        while True:
            here = chain[-1]
            nearest = int(distances[here].argmin())
            if len(chain) > 1 and distances[here, chain[-2]] <= distances[here, nearest]:
                nearest = chain[-2]  # each other's nearest
                break
            chain.append(nearest)
        del chain[-2:]
        merges[made] = here, nearest
        heights[made] = distances[here, nearest]
        kept, gone = sorted((here, nearest))
        row = merged(distances, sizes, kept, gone)
        row[gone] = row[kept] = np.inf
        row[~alive] = np.inf
        distances[kept] = distances[:, kept] = row
        distances[gone] = distances[:, gone] = np.inf
        sizes[kept] += sizes[gone]
        alive[gone] = False
    return merges, heights


def _in_order_of_height(merges: Int64, heights: Float64) -> Dendrogram:
    order = np.argsort(heights, kind="stable")
    points = len(merges) + 1
    root = np.arange(points)  # of a point: the group that it is in now

    named = np.empty_like(merges)
    parent = np.arange(points + len(merges))

    def find(group: int) -> int:
        top = group
        while parent[top] != top:
            top = int(parent[top])
        while parent[group] != top:
            parent[group], group = top, int(parent[group])
        return top

    for made, which in enumerate(order):
        pair = sorted(find(int(root[point])) for point in merges[which])
        named[made] = pair
        parent[pair] = points + made
    # Rounding may leave a later merge of one chain a hair below an earlier one.
    return Dendrogram(named, np.maximum.accumulate(heights[order]))
