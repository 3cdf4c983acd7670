"""Streaming scores: image vectors against class vectors, a block at a time.

The (images x labels) matrix never exists as a whole; memory is one block of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.shards import Int64

_SCORES_PER_BLOCK = 1 << 22
_PASSES = 16


@dataclass(frozen=True)
class ScoredBlock:
    """The best labels of some images; the columns of ``records.Classification``."""

    ids: Int64
    labels: Int32
    scores: Float32
    probabilities: Float32
    margins: Float32
    runners_up: Int32


def best_labels(scores: Float32, count: int) -> Int32:
    """(n, C) finite scores -> (n, count) int32 positions, best first; of equals the first label."""
    if count > _PASSES:
        # A stable sort of the negated scores keeps equal labels in their given order.
        order: Int32 = np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int32)
        return order
    # A pass for each rank is many times faster: argmax reads a row once, and takes the first of
    # equals. What a pass found is hidden from the next, and put back at the end.
    best = np.empty((len(scores), count), np.int32)
    hidden = np.empty((len(scores), count), np.float32)
    rows = np.arange(len(scores))
    for rank in range(count):
        best[:, rank] = scores.argmax(axis=1)
        hidden[:, rank] = scores[rows, best[:, rank]]
        scores[rows, best[:, rank]] = -np.inf
    np.put_along_axis(scores, best, hidden, axis=1)
    return best


def score_blocks(
    blocks: Iterable[tuple[Int64, Float32]],
    class_vectors: Float32,
    logit_scale: float,
    top: int = 1,
) -> Iterator[ScoredBlock]:
    """Yield the best ``top`` labels of every image.

    blocks : (ids (n,), float32 rows (n, dim)) pairs.
    class_vectors : (C, dim) float32 unit rows, C >= 1; ``top`` <= C.
    logit_scale : probabilities are softmax(logit_scale * scores) over the C labels. A logit
        bias would be the same for every label and cancels.
    """
    classes = np.ascontiguousarray(class_vectors.T)
    count = classes.shape[1]
    step = max(1, _SCORES_PER_BLOCK // count)
    for block_ids, block in blocks:
        for start in range(0, len(block_ids), step):
            ids = block_ids[start : start + step]
            scores = block[start : start + step] @ classes
            ranked = best_labels(scores, min(count, max(top, 2)))
            best = np.take_along_axis(scores, ranked, axis=1)
            # Subtracting the best first keeps exp() from overflowing.
            weights = np.exp(np.float32(logit_scale) * (scores - best[:, :1]))
            total = weights.sum(axis=1, keepdims=True)
            odds = np.exp(np.float32(logit_scale) * (best - best[:, :1])) / total
            alone = count == 1
            yield ScoredBlock(
                ids=ids,
                labels=ranked[:, :top],
                scores=best[:, :top],
                probabilities=odds[:, :top],
                margins=np.full(len(ids), np.nan, np.float32) if alone else best[:, 0] - best[:, 1],
                runners_up=np.full(len(ids), -1, np.int32) if alone else ranked[:, 1],
            )
