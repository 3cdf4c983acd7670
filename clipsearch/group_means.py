"""Mean vectors of groups, as they are and off the mean of all.

Image vectors of CLIP lie in a narrow cone (`Liang et al. 2022
<https://arxiv.org/abs/2203.02053>`_): most of a cosine is what all pictures have in common. Which
groups belong together shows in what is left when the mean of all is taken away.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32, Float64
from clipsearch.records import Int32
from clipsearch.shards import Int64
from clipsearch.threads import in_order, single_threaded_blas, worker_count

_ROWS_AT_ONCE = 2048
_WORTH_THREADS = 1 << 24  # numbers that are read
_NO_DIRECTION = 1e-3


def unit_rows(rows: npt.NDArray[np.floating]) -> Float32:
    """(n, D) rows other than zero, made a unit long."""
    unit: Float32 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def off_mean(rows: Float32, mean: npt.NDArray[np.floating]) -> Float32:
    """(n, D) unit rows less their (D,) mean, made a unit long again.

    A row that is the mean itself has no direction then; it keeps the one it had.
    """
    left = rows - mean.astype(np.float32)
    lengths = np.linalg.norm(left, axis=1)
    none = lengths < _NO_DIRECTION
    left[none], lengths[none] = rows[none], np.linalg.norm(rows[none], axis=1)
    left /= lengths[:, None]
    return left


def mean_row(rows: Float32) -> Float64:
    """(D,) float64 mean of (n, D) rows, n >= 1."""
    starts = range(0, len(rows), _ROWS_AT_ONCE)
    parts = [rows[start : start + _ROWS_AT_ONCE].sum(axis=0) for start in starts]
    total: Float64 = np.sum(parts, axis=0, dtype=np.float64)
    return total / len(rows)


def group_sums(rows: Float32, groups: Int32, k: int) -> Float64:
    """(k, D) float64 sums of the (n, D) rows of each group, 0 to k - 1; the same, bit for bit, on
    any number of threads."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    sums = np.zeros((k, rows.shape[1]), np.float64)
    ones = np.ones(_ROWS_AT_ONCE, np.float32)

    def add(start: int) -> tuple[Int32, Float32]:
        part = slice(start, start + _ROWS_AT_ONCE)
        here, taken = ordered[part], rows[order[part]]
        begins = np.flatnonzero(np.r_[True, here[1:] != here[:-1]])
        found = np.empty((len(begins), rows.shape[1]), np.float32)
        # BLAS adds rows up ten times quicker than reduceat, and more exactly.
        for place, some in enumerate(np.split(taken, begins[1:])):
            np.matmul(ones[: len(some)], some, out=found[place])
        return here[begins], found

    workers = 1 if rows.size < _WORTH_THREADS else worker_count()
    with single_threaded_blas():
        for which, part in in_order(add, range(0, len(rows), _ROWS_AT_ONCE), workers):
            sums[which] += part
    return sums


def group_means(rows: Float32, groups: Int32) -> tuple[Float32, Int64]:
    """The (k, D) float32 mean vectors of the groups 0 to k - 1 of (n, D) rows, none of them empty,
    and the (k,) numbers of their rows: what ``average_linkage`` merges."""
    sizes = np.bincount(groups)
    means = group_sums(rows, groups, len(sizes)) / sizes[:, None]
    return means.astype(np.float32), sizes
