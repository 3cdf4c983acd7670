"""Bursts: shots of one scene that a camera took within seconds of one another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.picture_facts import NO_TIME, PictureFacts
from clipsearch.shards import Float16, Int64

_LOOK_AHEAD = 8
"""Each shot is compared with so many after it: one that was shaken or hidden for a moment does
not end a burst, and ten thousand files of one second cost no square."""

_BLOCK = 8192


def burst_labels(
    facts: PictureFacts,
    vectors_of: Callable[[Int64], Float16],
    seconds: float,
    min_cosine: float,
) -> Int64:
    """(n,) int64: the same number for the shots of one burst, -1 for an image in none.

    vectors_of : (m,) rising rows of ``facts`` to their (m, dim) float16 unit vectors.
    seconds : the longest time between a shot and the next. min_cosine : of such two.

    A burst goes on as long as each shot follows another: it may be longer than ``seconds``.
    """
    labels = np.full(len(facts), -1, np.int64)
    known = np.flatnonzero((facts.cameras >= 0) & (facts.taken != NO_TIME))
    order = known[np.lexsort((known, facts.taken[known], facts.cameras[known]))]
    links: list[tuple[Int64, Int64]] = []
    for ahead in range(1, _LOOK_AHEAD + 1):
        first, second = order[:-ahead], order[ahead:]
        close = facts.cameras[first] == facts.cameras[second]
        close &= facts.taken[second] - facts.taken[first] <= round(seconds * 1_000_000)
        if not close.any():
            break
        links.append((first[close], second[close]))
    if not links:
        return labels
    left, right = (np.concatenate(ends) for ends in zip(*links, strict=True))
    alike = _cosines(left, right, vectors_of) >= min_cosine
    left, right = left[alike], right[alike]
    inside, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    labels[inside] = _components(len(inside), places[: len(left)], places[len(left) :])
    return labels


def burst_groups(labels: Int64) -> list[Int64]:
    """The rows of every burst, rising."""
    inside = np.flatnonzero(labels >= 0)
    if not len(inside):
        return []
    order = inside[np.argsort(labels[inside], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _cosines(left: Int64, right: Int64, vectors_of: Callable[[Int64], Float16]) -> Float32:
    cosines = np.empty(len(left), np.float32)
    for start in range(0, len(left), _BLOCK):
        ends = left[start : start + _BLOCK], right[start : start + _BLOCK]
        rows, places = np.unique(np.concatenate(ends), return_inverse=True)
        vectors = vectors_of(rows).astype(np.float32)
        first, second = places[: len(ends[0])], places[len(ends[0]) :]
        cosines[start : start + _BLOCK] = np.einsum("ij,ij->i", vectors[first], vectors[second])
    return cosines


def _components(count: int, left: Int64, right: Int64) -> Int64:
    """(count,) int64: the lowest row of each row's connected component."""
    parents = list(range(count))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for first, second in zip(left.tolist(), right.tolist(), strict=True):
        one, other = root(first), root(second)
        parents[max(one, other)] = min(one, other)
    return np.array([root(row) for row in range(count)], np.int64)
