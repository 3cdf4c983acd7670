"""The first pass of ``tag``: what is usual for a label over a whole collection.

A cosine says little by itself: some images are near to every text, some texts near to every
image. Each image's cosines are therefore put in units of its own: less their mean, over their
spread, taken over about 600 background words (z1). Over the collection every label then has a
mean and a spread of z1 (the double z-norm's second half).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32, Float64
from clipsearch.errors import LabelError
from clipsearch.shards import Int64

FLOOR_SHARE = 0.005
"""How many of the background's own scores may reach the floor, as a share."""
_FLOOR_ROWS = 50_000  # images enough to know a quantile of the background by
_STEP, _REACH = 0.005, 20.0  # of the histogram that finds it
_BINS = round(2 * _REACH / _STEP)
_SCORES_PER_BLOCK = 1 << 22
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True)
class CorpusStatistics:
    """What a collection says of each label; with it a new image is scored as the others were.

    images : how many were looked at. means, stds : C numbers each, of z1 over those images.
    floor : what z1 has to reach, None for no floor. floor_share : the share of the background's
    own z1 that reaches it. background : the words that z1 is taken against.
    """

    images: int
    means: tuple[float, ...]
    stds: tuple[float, ...]
    floor: float | None
    floor_share: float
    background: tuple[str, ...]

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> CorpusStatistics:
        """From what ``dataclasses.asdict`` made of one; ValueError when it is not sound."""
        means = tuple(float(value) for value in document["means"])
        stds = tuple(float(value) for value in document["stds"])
        floor = None if document["floor"] is None else float(document["floor"])
        numbers = [*means, *stds, 0.0 if floor is None else floor]
        background = tuple(document["background"])
        if len(means) != len(stds) or not all(map(math.isfinite, numbers)):
            raise ValueError("its statistics are no numbers")
        if not all(isinstance(word, str) for word in background):
            raise ValueError("its background words are no texts")
        share = float(document["floor_share"])
        return cls(int(document["images"]), means, stds, floor, share, background)


class RowScale:
    """What turns the cosines of an image into z1.

    background : (B, dim) float32 unit rows, B >= 2.
    """

    def __init__(self, background: Float32) -> None:
        if len(background) < 2:
            raise LabelError(f"expected at least 2 background words, got {len(background)}")
        self.background = np.ascontiguousarray(background.T)

    def of(self, rows: Float32) -> tuple[Float32, Float32]:
        """(n, dim) image vectors -> (n, 1) mean and (n, 1) spread of their cosines."""
        means, stds, _ = self.with_background(rows)
        return means, stds

    def with_background(self, rows: Float32) -> tuple[Float32, Float32, Float32]:
        """The same, and the (n, B) background cosines less the mean."""
        centred = rows @ self.background
        means = centred.mean(axis=1, keepdims=True)
        centred -= means
        variances = np.einsum("ij,ij->i", centred, centred) / np.float32(centred.shape[1])
        stds = np.maximum(np.sqrt(variances)[:, None], np.float32(_LEAST_SPREAD))
        return means, stds, centred


def block_rows(columns: int) -> int:
    """How many images to score at once, so that a block of scores is some 16 MB."""
    return max(1, _SCORES_PER_BLOCK // max(1, columns))


@dataclass(frozen=True)
class BlockSums:
    """What some images add to the statistics. rows : how many. sums, squares : (C,) float64, of
    z1. counts : (bins,) of the background's own z1, of some of the images."""

    rows: int
    sums: Float64
    squares: Float64
    counts: Int64


def floor_stride(images: int) -> int:
    """Every how manieth of the images is asked for the background's own z1."""
    return max(1, -(-images // _FLOOR_ROWS))


def corpus_statistics(
    blocks: Iterable[tuple[Int64, Float32]],
    images: int,
    classes: Float32,
    scale: RowScale,
    background: Sequence[str],
    floor_share: float = FLOOR_SHARE,
) -> CorpusStatistics:
    """One streaming pass over all vectors; sums in float64, no (images x labels) matrix.

    blocks : (ids (n,), float32 rows (n, dim)) pairs, ``images`` rows in all.
    classes : (C, dim) float32 unit rows.
    floor_share : 0 < share <= 1; 1 is no floor.
    """
    parts = block_sums(blocks, floor_stride(images), classes, scale, floor_share)
    return statistics_of(parts, len(classes), background, floor_share)


def block_sums(
    blocks: Iterable[tuple[Int64, Float32]],
    stride: int,
    classes: Float32,
    scale: RowScale,
    floor_share: float,
    seen: int = 0,
) -> Iterator[BlockSums]:
    """What blocks of some thousand images add, in their order. stride : see ``floor_stride``.
    seen : how many images came before."""
    wanted = np.ascontiguousarray(classes.T)
    step = block_rows(wanted.shape[1] + scale.background.shape[1])
    for _, block in blocks:
        for start in range(0, len(block), step):
            rows = block[start : start + step]
            means, stds, centred = scale.with_background(rows)
            z1 = ((rows @ wanted - means) / stds).astype(np.float64)
            counts = np.zeros(_BINS, np.int64)
            if floor_share < 1:
                drawn = slice(-seen % stride, None, stride)
                places = ((centred[drawn] / stds[drawn] + _REACH) / _STEP).astype(np.int32)
                places = np.clip(places, 0, _BINS - 1, out=places).ravel()
                counts = np.bincount(places, minlength=_BINS)
            seen += len(rows)
            yield BlockSums(len(rows), z1.sum(axis=0), np.square(z1).sum(axis=0), counts)


def statistics_of(
    parts: Iterable[BlockSums], labels: int, background: Sequence[str], floor_share: float
) -> CorpusStatistics:
    """The statistics that all parts together give; sums are taken in their order."""
    sums, squares = np.zeros((2, labels))
    counts = np.zeros(_BINS, np.int64)
    seen = 0
    for part in parts:
        sums += part.sums
        squares += part.squares
        counts += part.counts
        seen += part.rows
    total = max(1, seen)
    means_of = sums / total
    stds_of = np.sqrt(np.maximum(squares / total - np.square(means_of), 0.0))
    return CorpusStatistics(
        images=seen,
        means=tuple(means_of.tolist()),
        stds=tuple(stds_of.tolist()),
        floor=_floor(counts, floor_share),
        floor_share=floor_share,
        background=tuple(background),
    )


def _floor(counts: npt.NDArray[np.int64], share: float) -> float | None:
    """The upper edge of the histogram's bin that leaves at most ``share`` above it."""
    if share >= 1 or not counts.any():
        return None
    above = counts.sum() - np.cumsum(counts)
    return round(float(np.argmax(above <= share * counts.sum()) + 1) * _STEP - _REACH, 6)


def second_z(z1: Float32, statistics: CorpusStatistics) -> Float32:
    """(n, C) z1 -> (n, C) z2; 0 for a label that is the same for every image."""
    stds = np.asarray(statistics.stds, np.float32)
    is_flat = stds <= _LEAST_SPREAD
    z2: Float32 = z1 - np.asarray(statistics.means, np.float32)
    z2 /= np.where(is_flat, np.float32(1), stds)
    z2[:, is_flat] = 0
    return z2
