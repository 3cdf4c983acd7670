"""What stored thumbnails say of their pictures: how sharp they are, and whether two of them are
one picture, which a hash of 64 bits cannot promise."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32, UInt8
from clipsearch.generation import Generation
from clipsearch.shards import Int64
from clipsearch.thumbnails import thumbnails_of

Bools = npt.NDArray[np.bool_]
T = TypeVar("T")

_BATCH = 1024

_FINE = 48
_COARSE = 24
_CHROMA = 12

# Windows of a picture that a crop may have left: their share of each side, and where the rest
# was cut off (0 at the end, 1 at the beginning, 0.5 at both).
_SHARES, _CUTS = (0.975, 0.95), (0.0, 0.5, 1.0)

_BLANK = 3.0
"""Grey levels: below this standard deviation there is nothing to correlate."""

_BLANK_DIFFERENCE = 3.0
"""Grey levels, root mean square: by how much blank pictures that are the same may differ."""

_BLANK_SPOT = 8.0
"""Grey levels: by how much any one cell of them may differ. A word on a page is more."""

_SPOT, _ELSEWHERE = 12.0, 1.0
"""Grey levels: where a cell differs by more than the first and nine of ten by less than the second,
something stands there that does not in the other, as another digit on a page (16 and 0.01).
Recompressing changes a cell by less (4 at JPEG quality 92), or all of them (12 and 4 at 30)."""

_COLOURED = 2.0
"""Root mean square of R - Y and B - Y from which a picture has colours."""

_MIN_CHROMA_COSINE = 0.7
"""Copies have 0.99 at the median and 0.8 at the first percentile; a car in red and the same in
blue, which are one to the grey hash, have less."""


def relative_sharpness(grey: Float32) -> float:
    """How sharp a (height, width) picture is: the variance of its Laplacian over its own.

    Pech-Pacheco et al., "Diatom Autofocusing in Brightfield Microscopy" (2000); over its own, so
    that more contrast does not count as sharper. Only pictures of one scene and one size
    compare. 0 below three pixels a side and for a plain colour.
    """
    variance = float(grey.var())
    if min(grey.shape) < 3 or variance == 0:
        return 0.0
    inside = grey[1:-1, 1:-1]
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inside
    return float(edges.var()) / variance


def _measured(
    state: Generation, ids: Int64, measure: Callable[[Any, bytes], T]
) -> Iterator[tuple[int, T]]:
    """(id, what ``measure`` says of the opened thumbnail and its bytes) of those images that
    have one."""
    from PIL import Image

    def one(item: tuple[int, bytes]) -> tuple[int, T] | None:
        try:
            with Image.open(io.BytesIO(item[1]), formats=["JPEG"]) as picture:
                return item[0], measure(picture, item[1])
        except (OSError, ValueError, SyntaxError):  # a damaged cache costs an answer, no more
            return None

    thumbnails = thumbnails_of(state.cache, state.manifest, ids)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
        while batch := list(itertools.islice(thumbnails, _BATCH)):
            yield from filter(None, pool.map(one, batch))


def sharpness(state: Generation, ids: Int64) -> dict[int, float]:
    """Image id to ``relative_sharpness`` of its thumbnail, of those of the rising ``ids`` that
    have one."""

    def measure(picture: Any, _: bytes) -> float:
        return relative_sharpness(np.asarray(picture.convert("L"), np.float32))

    return dict(_measured(state, ids, measure))


def _share_of_cells(share: float, cut: float) -> Float32:
    """(24, 48) float32: the mean of 48 cells in each of 24 cells of a window over them."""
    edges = np.linspace((1 - share) * cut, (1 - share) * cut + share, _COARSE + 1) * _FINE
    cells = np.arange(_FINE)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    overlap = np.maximum(overlap, 0)
    result: Float32 = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


_WHOLE = [(_share_of_cells(1, 0), _share_of_cells(1, 0))]
_WINDOWS = _WHOLE + [
    (_share_of_cells(share, down), _share_of_cells(share, right))
    for share in _SHARES
    for down in _CUTS
    for right in _CUTS
]


def _patterns(grey: UInt8, windows: list[tuple[Float32, Float32]]) -> tuple[Float32, Float32]:
    """(m, w, 576) float32 unit rows of zero mean for windows of (m, 48, 48) grey pictures, and
    the (m,) standard deviations of the first window's."""
    pictures = grey.astype(np.float32)
    rows = np.stack([down @ pictures @ right.T for down, right in windows], axis=1)
    rows = rows.reshape(len(grey), len(windows), -1)
    rows -= rows.mean(axis=2, keepdims=True)
    norms = np.linalg.norm(rows, axis=2, keepdims=True)
    return rows / np.maximum(norms, 1e-6), norms[:, 0, 0] / _COARSE


class ThumbnailGrids:
    """The thumbnails of the (n,) rising ``ids``, each as 48 x 48 cells of grey and 12 x 12 of
    colour, whatever its shape, and a mark of its bytes: 2.6 kB an image."""

    def __init__(self, state: Generation, ids: Int64) -> None:
        grids = dict(_measured(state, ids, _grid))
        self._grey = np.empty((len(grids), _FINE, _FINE), np.uint8)
        self._chroma = np.empty((len(grids), 2 * _CHROMA * _CHROMA), np.int8)
        self._marks = np.empty(len(grids), np.uint64)
        for row, (grey, chroma, mark) in enumerate(grids.values()):
            self._grey[row], self._chroma[row], self._marks[row] = grey, chroma, mark
        self._row = np.full(len(ids), -1, np.int64)
        self._row[np.searchsorted(ids, np.fromiter(grids, np.int64, len(grids)))] = np.arange(
            len(grids)
        )

    def has(self, rows: Int64) -> Bools:
        """(m,) bool: which images have a thumbnail."""
        result: Bools = self._row[rows] >= 0
        return result

    def alike(
        self,
        row: int,
        others: Int64,
        larger: Bools,
        same_size: Bools,
        unchanged: Bools,
        min_correlation: float,
    ) -> Bools:
        """(m,) bool: which of ``others`` are pixel for pixel the picture ``row`` or a part of
        it, up to brightness, contrast and the loss of colour. All must have a thumbnail.

        larger : (m,) bool: where ``row`` may be a part of the other one as well.
        same_size : (m,) bool: where a copy would be changed all over or nowhere, and a spot
            that differs is another word on a page.
        unchanged : (m,) bool: where a copy would have every pixel as it was, and so the very
            same thumbnail: one screenshot differs from another in a word.
        """
        mine, theirs = self._row[row], self._row[others]
        windows, deviation = _patterns(self._grey[mine][None], _WINDOWS)
        patterns, deviations = _patterns(self._grey[theirs], _WHOLE)
        correlations = (patterns[:, 0] @ windows[0].T).max(axis=1)
        again = np.flatnonzero(larger & (correlations < min_correlation))
        if len(again):
            parts, _ = _patterns(self._grey[theirs[again]], _WINDOWS)
            correlations[again] = (parts @ windows[0, 0]).max(axis=1)
        alike: Bools = correlations >= min_correlation
        alike[alike] = self._colours_alike(mine, theirs[alike])
        whole = np.flatnonzero(alike & same_size)
        alike[whole] = ~self._differ_in_a_spot(mine, theirs[whole])
        alike &= ~unchanged | (self._marks[theirs] == self._marks[mine])
        blank = (deviations < _BLANK) & (deviation[0] < _BLANK)
        alike[blank] = self._blank_alike(mine, theirs[blank])
        return alike

    def _differ_in_a_spot(self, mine: int, theirs: Int64) -> Bools:
        """Whether a few cells differ far more than the rest, brightness and contrast aside."""
        one = self._grey[mine].astype(np.float32).ravel()
        many = self._grey[theirs].astype(np.float32).reshape(len(theirs), _FINE * _FINE)
        one = one - one.mean()
        many -= many.mean(axis=1, keepdims=True)
        slopes = many @ one / np.float32(max(float(one @ one), 1e-6))
        rest = np.abs(many - slopes[:, None] * one)
        if not len(rest):
            return np.zeros(0, bool)
        elsewhere = np.percentile(rest, 90, axis=1)
        result: Bools = (rest.max(axis=1) > _SPOT) & (elsewhere < _ELSEWHERE)
        return result

    def _blank_alike(self, mine: int, theirs: Int64) -> Bools:
        grey = self._grey[theirs].astype(np.float32) - self._grey[mine]
        chroma = 2 * (self._chroma[theirs].astype(np.float32) - self._chroma[mine])
        limit = _BLANK_DIFFERENCE**2
        result: Bools = (np.square(grey).mean(axis=(1, 2)) <= limit) & (
            np.square(chroma).mean(axis=1) <= limit
        )
        result &= np.abs(grey).max(axis=(1, 2), initial=0) <= _BLANK_SPOT
        return result

    def _colours_alike(self, mine: int, theirs: Int64) -> Bools:
        """A copy may have lost its colours, but has no others."""
        one, many = self._chroma[mine].astype(np.float32), self._chroma[theirs].astype(np.float32)
        norm, norms = np.linalg.norm(one), np.linalg.norm(many, axis=1)
        cells = _COLOURED / 2 * np.sqrt(2) * _CHROMA
        colourless = (norms < cells) | bool(norm < cells)
        result: Bools = colourless | (many @ one >= _MIN_CHROMA_COSINE * norms * norm)
        return result


def _grid(picture: Any, data: bytes) -> tuple[UInt8, npt.NDArray[np.int8], int]:
    """(48, 48) uint8 grey, (288,) int8 halves of R - Y and B - Y, and a mark of ``data``."""
    from PIL import Image

    picture.draft("RGB", (2 * _FINE, 2 * _FINE))  # decodes a quarter of the pixels
    small = picture.convert("RGB").resize((_FINE, _FINE), Image.Resampling.BOX)
    cells = np.asarray(small, np.float32)
    grey = cells @ np.array([0.299, 0.587, 0.114], np.float32)
    step = _FINE // _CHROMA
    coarse = (cells[..., ::2] - grey[..., None]).reshape(_CHROMA, step, _CHROMA, step, 2)
    colour = (coarse.mean(axis=(1, 3)) / 2).round().astype(np.int8).ravel()
    mark = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return grey.round().astype(np.uint8), colour, mark
