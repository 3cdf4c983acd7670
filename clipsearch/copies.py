"""Groups of images that are one picture, each around its best image.

An image joins a group only by being the same picture as the group's best, never by being like
another member, so that a row of small changes cannot lead to a stranger.
"""

from __future__ import annotations

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.hash_neighbours import close_hashes
from clipsearch.picture_facts import Bools, PictureFacts
from clipsearch.same_picture import SamePicture
from clipsearch.shards import Int64

_CROWD = 4096
"""More images than this with one and the same hash (blank pages) are a crowd: an image looks at
all of them as long as that finds something, then only at ``_WINDOW`` neighbours."""

_WINDOW = 512
_FRUITFUL = 1 / 16


def copy_candidates(facts: PictureFacts, max_bits: int) -> Int64:
    """The rows, rising, whose hash another row's hash is the same as or close to."""
    rows = np.flatnonzero(facts.hashed)
    hashes, bucket, counts = np.unique(facts.hashes[rows], return_inverse=True, return_counts=True)
    has_company = counts > 1
    for ends in close_hashes(hashes, max_bits):
        has_company[ends] = True
    return rows[has_company[bucket]]


def best_first(facts: PictureFacts) -> Int64:
    """(n,) rows: most pixels first, then files with a camera's word, then the most bytes."""
    order: Int64 = np.lexsort((-facts.sizes, facts.cameras < 0, -facts.pixels))
    return order


class CopyFinder:
    """Looks up the copies of an image: the rows of every hash, and which hashes are close to
    which."""

    def __init__(self, same: SamePicture) -> None:
        facts = same.facts
        self._same = same
        rows = np.flatnonzero(facts.hashed)
        hashes, bucket, counts = np.unique(
            facts.hashes[rows], return_inverse=True, return_counts=True
        )
        self._bucket = np.full(len(facts), -1, np.int64)
        self._bucket[rows] = bucket
        self._members = rows[np.argsort(bucket, kind="stable")]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        left, right = close_hashes(hashes, same.settings.max_bits)
        ends = np.concatenate([left, right])
        order = np.argsort(ends, kind="stable")
        self._neighbours = np.concatenate([right, left])[order]
        self._neighbour_starts = np.searchsorted(ends[order], np.arange(len(hashes) + 1))
        self._fruitless: set[int] = set()
        # Of a crowd: its cosines to its mean vector, rising, and that vector.
        self._places: dict[int, tuple[Float32, Float32]] = {}

    def take(self, row: int, free: Bools) -> Int64:
        """The rows that are ``free`` and the same picture as ``row``; they are not free then."""
        own = int(self._bucket[row])
        if own < 0:
            return np.empty(0, np.int64)
        close = self._neighbours[self._neighbour_starts[own] : self._neighbour_starts[own + 1]]
        found = [np.empty(0, np.int64)]
        for bucket in (own, *close.tolist()):
            looked_at = self._looked_at(bucket, row)
            rows = looked_at[free[looked_at]]
            if len(rows):
                joined = self._same.of(row, rows)
                free[joined] = False
                found.append(joined)
                self._note(bucket, len(rows), len(joined))
        return np.concatenate(found)

    def _looked_at(self, bucket: int, row: int) -> Int64:
        members = self._members[self._starts[bucket] : self._starts[bucket + 1]]
        if bucket not in self._fruitless:
            return members
        if bucket not in self._places:
            mean = self._same.vectors[members].mean(axis=0, dtype=np.float32)
            towards = self._same.vectors[members].astype(np.float32) @ mean
            order = np.argsort(towards)
            members[:] = members[order]  # a view: the crowd stays in this order
            self._places[bucket] = (towards[order], mean)
        towards, mean = self._places[bucket]
        middle = int(np.searchsorted(towards, self._same.vectors[row].astype(np.float32) @ mean))
        return members[max(0, middle - _WINDOW // 2) : middle + _WINDOW // 2]

    def _note(self, bucket: int, looked_at: int, joined: int) -> None:
        """How many of a bucket's rows were looked at, and how many of them joined."""
        if looked_at > _CROWD and joined < _FRUITFUL * looked_at:
            self._fruitless.add(bucket)


def copy_groups(same: SamePicture) -> list[Int64]:
    """Groups of two or more rows of ``same.facts``, each the rows that are the same picture as
    its first, which is the best of them by ``best_first``; no row is in two."""
    finder = CopyFinder(same)
    free = same.facts.hashed.copy()
    groups: list[Int64] = []
    for row in best_first(same.facts).tolist():
        if not free[row]:
            continue
        free[row] = False
        joined = finder.take(row, free)
        if len(joined):
            groups.append(np.concatenate([[row], joined]))
    return groups
