"""Which of one kind goes with which of another, so that the sum is best (Kuhn 1955).

The only module that asks SciPy for an assignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.shards import Int64


def best_matching(values: npt.NDArray[Any]) -> tuple[Int64, Int64]:
    """Rows and columns of the matching with the largest sum of ``values`` (r, c): as many pairs
    as the smaller of r and c, rows rising."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(values, maximize=True)
    return rows.astype(np.int64), columns.astype(np.int64)


def matched_clusters(found: Sequence[int] | Int64, truth: Sequence[int] | Int64) -> dict[int, int]:
    """Which true class each found cluster stands for, when each class has one cluster at most
    and as many images as possible are right. Negative numbers are no cluster and no class."""
    pairs = np.column_stack([np.asarray(found, np.int64), np.asarray(truth, np.int64)])
    pairs = pairs[(pairs >= 0).all(axis=1)]
    clusters, rows = np.unique(pairs[:, 0], return_inverse=True)
    classes, columns = np.unique(pairs[:, 1], return_inverse=True)
    counts = np.zeros((len(clusters), len(classes)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    matched = zip(*best_matching(counts), strict=True)
    return {int(clusters[row]): int(classes[column]) for row, column in matched}


def clustering_accuracy(found: Sequence[int] | Int64, truth: Sequence[int] | Int64) -> float:
    """The share of images whose cluster stands for their class, see ``matched_clusters``."""
    if len(found) != len(truth) or not len(found):
        raise ValueError(f"expected as many clusters as classes, got {len(found)}, {len(truth)}")
    classes = matched_clusters(found, truth)
    right = [classes.get(int(one)) == int(other) for one, other in zip(found, truth, strict=True)]
    return sum(right) / len(right)
