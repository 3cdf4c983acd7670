"""The second pass of ``tag``: what every image is tagged with, a block at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.label_set_files import LabelRows
from clipsearch.shards import Int64
from clipsearch.tag_statistics import CorpusStatistics, RowScale, block_rows, second_z


def tag_blocks(
    blocks: Iterable[tuple[Int64, Float32]],
    classes: Float32,
    scale: RowScale,
    statistics: CorpusStatistics,
    limits: Sequence[float],
    most: int | None,
) -> LabelRows:
    """The second pass: the tags of every image, a row without a label for one that has none."""
    wanted = np.ascontiguousarray(classes.T)
    passes = np.asarray(limits, np.float32)
    step = block_rows(wanted.shape[1] + scale.background.shape[1])
    parts: list[LabelRows] = []
    for block_ids, block in blocks:
        for start in range(0, len(block_ids), step):
            ids, rows = block_ids[start : start + step], block[start : start + step]
            means, stds = scale.of(rows)
            cosines = rows @ wanted
            z1 = (cosines - means) / stds
            z2 = second_z(z1, statistics)
            given = z2 > passes
            if statistics.floor is not None:
                given &= z1 > np.float32(statistics.floor)
            images, labels = np.nonzero(given)
            scores = z2[images, labels]
            order = np.lexsort((-scores, images))
            images, labels, scores = images[order], labels[order], scores[order]
            if most is not None:
                rank = np.arange(len(images)) - np.searchsorted(images, images)
                best = rank < most
                images, labels, scores = images[best], labels[best], scores[best]
            none = np.flatnonzero(~given.any(axis=1))
            tags = LabelRows(ids[images], labels.astype(np.int32), scores, cosines[images, labels])
            zeros = np.zeros(len(none), np.float32)
            without = LabelRows(ids[none], np.full(len(none), -1, np.int32), zeros, zeros)
            parts.append(in_order_of_id([tags, without]))
    return in_order_of_id(parts)


def in_order_of_id(parts: Sequence[LabelRows]) -> LabelRows:
    """All rows by rising id; of one image they keep their order."""
    ids = np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts)])
    order = np.argsort(ids, kind="stable")
    labels = np.concatenate([np.empty(0, np.int32), *(part.labels for part in parts)])
    scores = np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)])
    second = np.concatenate([np.empty(0, np.float32), *(part.second for part in parts)])
    return LabelRows(ids[order], labels[order], scores[order], second[order])
