"""Which images of a piece of the mapped matrix are labelled, and their vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.shards import Float16, Int64
from clipsearch.vectors import Vectors


class Images:
    """Some rows of a piece of the mapped matrix, brought together when they are needed."""

    def __init__(self, matrix: Float16, picked: npt.NDArray[np.intp] | None = None) -> None:
        self._matrix = matrix
        self._picked = picked

    def __len__(self) -> int:
        return len(self._matrix if self._picked is None else self._picked)

    def of(self, rows: npt.NDArray[np.intp] | None = None) -> Float16:
        """All of them, or some."""
        if self._picked is None:
            return self._matrix if rows is None else self._matrix[rows]
        return self._matrix[self._picked if rows is None else self._picked[rows]]

    def some(self, rows: npt.NDArray[np.intp]) -> Images:
        return Images(self._matrix, rows if self._picked is None else self._picked[rows])


def picked_rows(vectors: Vectors, ids: Int64, allowed: Int64 | None) -> npt.NDArray[np.intp] | None:
    """Which of the ``ids`` of a piece count and are ``allowed``; None for all."""
    span = (ids[0], ids[-1] + 1)
    picked: npt.NDArray[np.intp] | None = None
    if allowed is not None:
        first, last = np.searchsorted(allowed, span)
        picked = _places(ids, allowed[first:last])
    first, last = np.searchsorted(vectors.deleted, span)
    if first < last:
        gone = np.isin(ids, vectors.deleted[first:last], assume_unique=True)
        picked = np.flatnonzero(~gone) if picked is None else picked[~gone[picked]]
    return picked


def _places(ids: Int64, wanted: Int64) -> npt.NDArray[np.intp]:
    """Where the rising ``wanted`` are among the rising ``ids``; those that are not are left
    out."""
    places = np.searchsorted(ids, wanted)
    inside = places < len(ids)
    places, wanted = places[inside], wanted[inside]
    found: npt.NDArray[np.intp] = places[ids[places] == wanted]
    return found
