"""Putting images into clusters: one pass over the stored vectors, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipsearch.clusters import Assignment, ClusterModel
from clipsearch.encoder import Float32
from clipsearch.half import widen
from clipsearch.records import Int32
from clipsearch.scoring import best_labels
from clipsearch.shards import Float16, Int64
from clipsearch.threads import in_order, single_threaded_blas
from clipsearch.vectors import Vectors

_NUMBERS_PER_BLOCK = 1 << 21
_LEAST_ROWS, _MOST_ROWS = 16, 2048
_KINDS = (np.int64, np.int32, np.float32, np.float32)

Piece = tuple[Int64, Float16]


class NearestCluster:
    """Finds the cluster of each image of a block. Safe for threads.

    With a single centroid, or centroids of a single cluster, there is no other to be compared
    with, and margins are nan.
    """

    def __init__(self, model: ClusterModel) -> None:
        order = np.argsort(model.owners, kind="stable")
        self._columns = np.ascontiguousarray(model.centroids[order].T)
        self._owners, self._starts = np.unique(model.owners[order], return_index=True)
        widest = max(self._columns.shape)
        self.block_rows = max(_LEAST_ROWS, min(_MOST_ROWS, _NUMBERS_PER_BLOCK // widest))

    def find(self, vectors: Float32) -> tuple[Int32, Float32, Float32]:
        """Clusters, cosines and margins as in ``Assignment``, of (n, dim) unit rows."""
        scores = vectors @ self._columns
        if len(self._starts) < scores.shape[1]:
            scores = np.maximum.reduceat(scores, self._starts, axis=1)
        alone = scores.shape[1] == 1
        ranked, best = best_labels(np.ascontiguousarray(scores), 1 if alone else 2)
        margins = np.full(len(best), np.nan, np.float32) if alone else best[:, 0] - best[:, 1]
        clusters = self._owners[ranked[:, 0]].astype(np.int32)
        return clusters, np.ascontiguousarray(best[:, 0]), margins


def assign(
    vectors: Vectors,
    model: ClusterModel,
    *,
    allowed: Int64 | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Assignment:
    """The cluster of every image, or of those of the (a,) rising ids ``allowed``.

    on_progress : called with how many images are done.
    """
    nearest = NearestCluster(model)
    columns: list[list[Any]] = [[np.empty(0, kind)] for kind in _KINDS]
    done = 0

    def find(piece: Piece) -> tuple[Int64, Int32, Float32, Float32]:
        return piece[0], *nearest.find(widen(piece[1]))

    with single_threaded_blas():
        for found in in_order(find, pieces_of(vectors, nearest.block_rows, allowed)):
            for column, part in zip(columns, found, strict=True):
                column.append(part)
            done += len(found[0])
            if on_progress is not None:
                on_progress(done)
    return Assignment(*map(np.concatenate, columns))


def pieces_of(vectors: Vectors, rows: int, allowed: Int64 | None = None) -> Iterator[Piece]:
    """(ids, fp16 rows) of the images that count, at most ``rows`` at a time, in order of id."""
    for ids, matrix in vectors.live_pieces(allowed):
        for start in range(0, len(ids), rows):
            yield ids[start : start + rows], matrix[start : start + rows]
