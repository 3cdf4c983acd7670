"""Samples of a stream of images that depend on ids and seed alone.

Whether an image is drawn goes by a hash of its id, so neither the order in which blocks come nor
how they were cut changes a sample, and images that come later can only push others out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipsearch.shards import Int64

Float64 = npt.NDArray[np.float64]

_RANDOM, _PRIORITY = 1, 2  # so that both draw independently with one seed


def uniform(ids: Int64, seed: int, stream: int) -> Float64:
    """(n,) float64 numbers in (0, 1], one for every id: SplitMix64 (Steele, Lea & Flood 2014)."""
    start = (seed * 0x9E3779B97F4A7C15 + stream * 0xD1342543DE82EF95) % 2**64
    state = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _mix(
        np.array([start], np.uint64)
    )
    return ((_mix(state) >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


class RandomSample:
    """Up to ``size`` images of a stream, every set of so many equally likely.

    facts : how many numbers are kept with every image.
    """

    def __init__(self, size: int, seed: int, facts: int) -> None:
        self._size, self._seed = size, seed
        self._ids = np.empty(0, np.int64)
        self._facts = np.empty((0, facts))
        self._cut = np.inf if size else 0.0

    def add(self, ids: Int64, facts: Float64) -> None:
        """ids : (n,) int64, each once in the stream. facts : (n, facts) float64."""
        below = uniform(ids, self._seed, _RANDOM) <= self._cut
        ids = np.concatenate([self._ids, ids[below]])
        facts = np.concatenate([self._facts, facts[below]])
        keys = uniform(ids, self._seed, _RANDOM)
        order = np.lexsort((ids, keys))[: self._size]
        if len(order) and len(order) == self._size:
            self._cut = float(keys[order[-1]])
        self._ids, self._facts = ids[order], facts[order]

    def chosen(self) -> tuple[Int64, Float64]:
        """Ids in a random order, and their facts."""
        return self._ids, self._facts


class PrioritySample:
    """Up to ``size`` images of a stream, those of high weight rather than others, with what
    each stands for: sums over the sample are unbiased for sums over the stream.

    Priority sampling (Duffield, Lund & Thorup 2007): an image's priority is its weight over a
    uniform number, the highest are kept, and each counts as its weight or as the highest
    priority that was not kept, whichever is more.
    """

    def __init__(self, size: int, seed: int, facts: int) -> None:
        self._size, self._seed = size, seed
        self._ids = np.empty(0, np.int64)
        self._weights = np.empty(0)
        self._facts = np.empty((0, facts))
        self._cut = 0.0

    def add(self, ids: Int64, weights: Float64, facts: Float64) -> None:
        """ids : (n,) int64, each once in the stream. weights : (n,) above 0.
        facts : (n, facts) float64."""
        # Those below the cut, the highest priority that was not kept so far, change nothing.
        above = self._priorities(ids, weights) > self._cut
        ids = np.concatenate([self._ids, ids[above]])
        weights = np.concatenate([self._weights, weights[above]])
        facts = np.concatenate([self._facts, facts[above]])
        priorities = self._priorities(ids, weights)
        order = np.lexsort((ids, -priorities))
        if len(order) > self._size:
            self._cut = float(priorities[order[self._size]])
        order = order[: self._size]
        self._ids, self._weights, self._facts = ids[order], weights[order], facts[order]

    def _priorities(self, ids: Int64, weights: Float64) -> Float64:
        return weights / uniform(ids, self._seed, _PRIORITY)

    def chosen(self) -> tuple[Int64, Float64, Float64, Float64]:
        """(m,) rising ids, (m,) what each weighs for all that it stands for, (m,) how many images
        it stands for, and their facts."""
        order = np.argsort(self._ids)
        masses = np.maximum(self._weights, self._cut)
        counts = masses / self._weights
        return self._ids[order], masses[order], counts[order], self._facts[order]
