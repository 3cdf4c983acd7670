"""The nearest of some points, exactly: what a map is laid out by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.shards import Int64
from clipsearch.threads import in_order, single_threaded_blas

Float64 = npt.NDArray[np.float64]

_GROUP = 64  # points whose nearest is looked at first
_BLOCK_NUMBERS = 1 << 23


def neighbours_of_each(points: Float32, k: int) -> tuple[Int64, Float64]:
    """The (n, k) positions of the nearest other points of each, nearest first, and distances."""
    lengths = (points * points).sum(axis=1)

    def find(start: int) -> tuple[Int64, Float64]:
        block = points[start : start + rows]
        squares = block @ points.T
        squares *= -2
        squares += lengths
        squares += lengths[start : start + rows, None]
        squares[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        found = np.argpartition(squares, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(squares, found, axis=1)
        order = np.argsort(near, axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1).astype(np.float64)
        return np.take_along_axis(found, order, axis=1), np.sqrt(np.maximum(near, 0))

    rows = max(1, _BLOCK_NUMBERS // len(points))
    with single_threaded_blas():
        parts = list(in_order(find, range(0, len(points), rows)))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


class NearestPoints:
    """Finds the ``k`` nearest of (a, d) points, or all where there are fewer. Safe for threads."""

    def __init__(self, points: Float32, k: int) -> None:
        self._k = min(len(points), k)
        lengths = (points * points).sum(axis=1)
        groups = -(-len(points) // _GROUP)
        self._columns = np.zeros((points.shape[1] + 1, groups * _GROUP), np.float32)
        self._columns[:-1, : len(points)] = points.T
        self._columns[-1] = -np.inf  # what fills the last group is nobody's neighbour
        self._columns[-1, : len(points)] = lengths / -2
        self._groups = groups

    def find(self, points: Float32) -> tuple[Int64, Float64]:
        """(m, k) positions of the points nearest to (m, d) others, nearest first, and their
        distances."""
        rows = max(1, _BLOCK_NUMBERS // self._columns.shape[1])
        parts = [self._find(points[start : start + rows]) for start in range(0, len(points), rows)]
        return np.concatenate([part[0] for part in parts]), np.concatenate(
            [part[1] for part in parts]
        )

    def _find(self, points: Float32) -> tuple[Int64, Float64]:
        count = len(points)
        # The nearest has the greatest product less half of its square.
        near = np.concatenate([points, np.ones((count, 1), np.float32)], axis=1) @ self._columns
        near = near.reshape(count, self._groups, _GROUP)
        candidates = near.reshape(count, -1)
        columns = np.broadcast_to(np.arange(candidates.shape[1]), candidates.shape)
        if self._groups > self._k:  # the k nearest are in the k groups with the nearest
            best = np.argpartition(-near.max(axis=2), self._k - 1, axis=1)[:, : self._k]
            candidates = np.take_along_axis(near, best[:, :, None], axis=1).reshape(count, -1)
            columns = (best[:, :, None] * _GROUP + np.arange(_GROUP)).reshape(count, -1)
        chosen = np.argpartition(-candidates, self._k - 1, axis=1)[:, : self._k]
        scores = np.take_along_axis(candidates, chosen, axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        chosen = np.take_along_axis(chosen, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1).astype(np.float64)
        squares = (points.astype(np.float64) ** 2).sum(axis=1)[:, None] - 2 * scores
        return np.take_along_axis(columns, chosen, axis=1), np.sqrt(np.maximum(squares, 0))
