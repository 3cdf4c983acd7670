"""How well nouns fit clusters: the double z-norm of centroid and noun.

A cosine says little by itself: some nouns are near to every picture. Each cluster's cosines are
put in units of its own (z1: less their mean, over their spread, taken over the background
words), and each noun's z1 in units of its own (z2: less its mean over the clusters, over its
spread). What is usual for a noun is learnt from the clusters and, as if they were some clusters
more, from the background words: of a few clusters alone there is nothing to be learnt.
"""

from __future__ import annotations

import numpy as np

from clipsearch.encoder import Float32, Float64
from clipsearch.shards import Int64
from clipsearch.tag_statistics import RowScale

_BACKGROUND_CLUSTERS = 3.0  # what the background counts for, in clusters
# Of a noun's spread, as a share, the median of all. A noun that the model does not know is
# equally far from everything, and its own small spread would make much of little.
_COMMON_SPREAD = 0.75
_LEAST_SPREAD = 1e-6
_ROWS_PER_BLOCK = 64


class NounScores:
    """z2 of vectors and the w nouns of a vocabulary, and more for what is preferred. Safe for
    threads; memory: a few times 64 by w numbers.

    centres : (c, dim) float32 unit rows. nouns : (w, dim), background : (b, dim) likewise,
    b >= 2. preference : (w,) float32, what is added to a noun's z2.
    """

    def __init__(
        self, centres: Float32, nouns: Float32, background: Float32, preference: Float32
    ) -> None:
        self._scale = RowScale(background)
        self._nouns = np.ascontiguousarray(nouns.T)
        first, second = self._moments(centres)
        other_first, other_second = self._moments(background)
        share = len(centres) / (len(centres) + _BACKGROUND_CLUSTERS)
        means = share * first + (1 - share) * other_first
        squares = share * second + (1 - share) * other_second
        spreads = np.sqrt(np.maximum(squares - np.square(means), 0.0))
        spreads += _COMMON_SPREAD * (np.median(spreads) - spreads)
        self._means = means.astype(np.float32)
        self._spreads = np.maximum(spreads, _LEAST_SPREAD).astype(np.float32)
        self._preference = preference

    def of(self, vectors: Float32) -> Float32:
        """(n, dim) unit rows -> (n, w) float32 scores."""
        scores = self._z1(vectors)
        scores -= self._means
        scores /= self._spreads
        scores += self._preference
        return scores

    def only(self, positions: Int64) -> NounScores:
        """The scores of some of the nouns."""
        part = object.__new__(NounScores)
        part._scale = self._scale
        part._nouns = np.ascontiguousarray(self._nouns[:, positions])
        part._means, part._spreads = self._means[positions], self._spreads[positions]
        part._preference = self._preference[positions]
        return part

    def best(self, vectors: Float32, count: int) -> tuple[Int64, Float32]:
        """The ``count`` nouns that fit each of (n, dim) unit rows best, as (n, count) positions
        with their scores, best first; of equals the first in the vocabulary."""
        places = np.empty((len(vectors), count), np.int64)
        values = np.empty((len(vectors), count), np.float32)
        for start in range(0, len(vectors), _ROWS_PER_BLOCK):
            block = slice(start, start + _ROWS_PER_BLOCK)
            scores = self.of(vectors[block])
            order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
            places[block] = order
            values[block] = np.take_along_axis(scores, order, axis=1)
        return places, values

    def _z1(self, vectors: Float32) -> Float32:
        means, spreads = self._scale.of(vectors)
        z1: Float32 = vectors @ self._nouns
        z1 -= means
        z1 /= spreads
        return z1

    def _moments(self, vectors: Float32) -> tuple[Float64, Float64]:
        """Of each noun's z1 over the vectors the mean, and the mean of the squares."""
        first = np.zeros(self._nouns.shape[1])
        second = np.zeros(self._nouns.shape[1])
        for start in range(0, len(vectors), _ROWS_PER_BLOCK):
            z1 = self._z1(vectors[start : start + _ROWS_PER_BLOCK]).astype(np.float64)
            first += z1.sum(axis=0)
            second += np.square(z1).sum(axis=0)
        return first / max(1, len(vectors)), second / max(1, len(vectors))
