"""What labels score that nobody chose for an image, from images of unknown content.

*Evidence* is the log of the sum of exp(logit_scale * cosine) over the labels, less that over the
negatives. By *chance* an image has the evidence of a label set in which the label that fits it
best, and those that mean the same, gave their places to random negatives; or of one that is all
random negatives. A set of near-synonyms leaves the first too high, a set of labels that have
much in common the second too low; of the two the lower one is taken, on the median.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.background_sums import log_sums
from clipsearch.encoder import Float32
from clipsearch.negative_labels import SAME, centred

_NUMBERS_PER_BLOCK = 1 << 20
_LARGEST_SHARE = 3  # of the negatives at most one in so many takes the place of a label
_LEAST_LEFT = 1e-3  # of the sum over the negatives, when some of them play labels


class ChanceEvidence:
    """Draws evidence, and evidence by chance, of images.

    classes : (C, dim), negatives : (w, dim) float32 unit rows, w >= 3. mean : (dim,) of all
    words, which texts have in common.
    """

    def __init__(
        self, classes: Float32, negatives: Float32, mean: Float32, logit_scale: float
    ) -> None:
        self._classes = np.ascontiguousarray(classes.T)
        self._negatives = np.ascontiguousarray(negatives.T)
        self._meanings = centred(classes, mean)
        self._scale = np.float32(logit_scale)
        self._drawn = min(len(classes), len(negatives) // _LARGEST_SHARE)

    def draw(
        self, rows: Float32, chance: np.random.Generator, times: int = 1
    ) -> tuple[Float32, Float32]:
        """Of (n, dim) unit rows the (n,) evidence, and (times * n,) evidence by chance."""
        step = max(1, _NUMBERS_PER_BLOCK // (self._classes.shape[1] + self._negatives.shape[1]))
        blocks = [
            self._block(rows[start : start + step], chance, times)
            for start in range(0, len(rows), step)
        ]
        nothing = np.empty(0, np.float32)
        evidence, without, random = (
            (np.concatenate([nothing, *parts]) for parts in zip(*blocks, strict=True))
            if blocks
            else (nothing, nothing, nothing)
        )
        if len(without) and np.median(without) <= np.median(random):
            return evidence, without
        return evidence, random

    def _block(
        self, rows: Float32, chance: np.random.Generator, times: int
    ) -> tuple[Float32, Float32, Float32]:
        """Evidence; without the best label, ``times`` over; and of random labels."""
        labels = rows @ self._classes
        labels *= self._scale
        words = rows @ self._negatives
        words *= self._scale
        against = log_sums(words.copy())
        best = labels.argmax(axis=1)
        evidence = log_sums(labels.copy()) - against
        same = self._meanings[best] @ self._meanings.T >= np.float32(SAME)
        same[np.arange(len(best)), best] = True
        labels[same] = -np.inf
        others = log_sums(labels)
        gone = same.sum(axis=1)
        without, random = [], []
        for _ in range(times):
            drawn = np.take_along_axis(words, self._places(len(rows), chance), axis=1)
            random.append(_of_words(log_sums(drawn.copy()), against))
            drawn[np.arange(self._drawn) >= gone[:, None]] = -np.inf
            stand_in = log_sums(drawn)
            rest = _rest(stand_in, against)
            without.append(np.logaddexp(others, stand_in) - rest)
        return evidence, np.concatenate(without), np.concatenate(random)

    def _places(self, rows: int, chance: np.random.Generator) -> npt.NDArray[np.intp]:
        """(rows, drawn) different negatives of each row: a part of one random order, from a
        random place on."""
        count = self._negatives.shape[1]
        order = chance.permutation(count)
        starts = chance.integers(count, size=rows)
        places: npt.NDArray[np.intp] = order[(starts[:, None] + np.arange(self._drawn)) % count]
        return places


def _of_words(sums: Float32, against: Float32) -> Float32:
    """The evidence of negatives that play labels, against the others."""
    return sums - _rest(sums, against)


def _rest(taken: Float32, against: Float32) -> Float32:
    """The log-sum of the negatives less that of some of them."""
    left = np.maximum(1 - np.exp(np.minimum(taken - against, 0)), np.float32(_LEAST_LEFT))
    rest: Float32 = against + np.log(left)
    return rest
