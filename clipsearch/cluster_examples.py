"""Which images show best what a cluster is, and which of them one may doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from clipsearch.clusters import Assignment
from clipsearch.encoder import Float32
from clipsearch.shards import Int64
from clipsearch.threads import single_threaded_blas
from clipsearch.vectors import Vectors

EXAMPLES = 12
"""How many typical and how many doubtful images a cluster tells, where it has so many."""
_SAME_COSINE = 0.97  # another shot of the scene that is shown already shows nothing new
_LOOKED_AT = 5  # times as many are looked at as are wanted, to find different ones


def rows_by_cluster(assignment: Assignment, count: int) -> Iterator[Int64]:
    """For each of ``count`` clusters the rows of its images in ``assignment``, nearest to the
    centroid first, of equals the lower id."""
    order = np.lexsort((-assignment.cosines, assignment.clusters))
    bounds = np.searchsorted(assignment.clusters[order], np.arange(count + 1))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield order[start:stop]


def typical_of(
    vectors: Vectors, assignment: Assignment, rows: Int64, count: int = EXAMPLES
) -> tuple[int, ...]:
    """Ids of at most ``count`` images that are most like their cluster and not all the same shot.

    rows : a cluster's images as ``rows_by_cluster`` gives them.
    """
    near = rows[: _LOOKED_AT * count]
    ids = assignment.ids[near]
    here, found = vectors.take(ids)
    found = found[np.searchsorted(here, ids)]
    return tuple(ids[_different(found, count)].tolist())


def _different(found: Float32, count: int) -> list[int]:
    """Rows that differ from those before them first, then the others, each in their order."""
    with single_threaded_blas():  # the same whatever the number of threads
        products = found @ found.T
    chosen: list[int] = []
    others: list[int] = []
    for row in range(len(found)):
        is_new = not (products[row, chosen] > _SAME_COSINE).any()
        (chosen if is_new else others).append(row)
        if len(chosen) == count:
            break
    return [*chosen, *others][:count]


def doubtful_of(
    assignment: Assignment, rows: Int64, typical: Sequence[int] = (), count: int = EXAMPLES
) -> tuple[int, ...]:
    """Ids of at most ``count`` images that another cluster is nearly as near to, or that are far
    from their own; the most doubtful first, never more than half of the cluster, and none that
    is ``typical``.

    rows : a cluster's images as ``rows_by_cluster`` gives them.
    """
    least = np.nan_to_num(assignment.margins[rows], nan=np.inf)
    order = rows[np.lexsort((assignment.ids[rows], assignment.cosines[rows], least))]
    order = order[~np.isin(assignment.ids[order], typical)]
    return tuple(assignment.ids[order[: min(count, len(rows) // 2)]].tolist())
