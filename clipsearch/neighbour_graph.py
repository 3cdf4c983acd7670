"""The nearest neighbours of every image among the others: all in one go, by matrix products.

Up to ``EXACT_IMAGES`` images every one is compared with every other. Beyond, the images are put
into groups, and each is compared with the members of the few groups it is nearest to (the
inverted file of Jegou et al., "Product Quantization for Nearest Neighbor Search", PAMI 2011),
group by group, so that a group's vectors are read once for all who ask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.half import widen
from clipsearch.records import Int32
from clipsearch.scoring import best_labels
from clipsearch.shards import Int64
from clipsearch.threads import in_order, single_threaded_blas
from clipsearch.vectors import Vectors

Rows = npt.NDArray[np.intp]
Progress = Callable[[int], None]

EXACT_IMAGES = 50_000
"""Up to so many images every pair is looked at: a few seconds of matrix products."""

NEIGHBOURS = 16
_VISITS = 8
"""Groups whose members an image is compared with; recall: benchmarks/neighbours.py."""

_GROUP_IMAGES = 1000
_SAMPLE = 64  # images a group, to find the groups by
_CROWD = 16 * _GROUP_IMAGES
"""A group larger than this holds images that nothing tells apart (blank pages): in it an image
is compared with a part, those that are about as near to the centroid as it is."""

_ROWS, _COLUMNS = 2048, 2048  # of a block of products: 16 MB
_GROUPS_OF_MAXIMA = 4
_TOO_MANY = 8


@dataclass(frozen=True)
class NeighbourGraph:
    """The k nearest neighbours of n images; k is less than n.

    ids : (n,) int64, rising. neighbours : (n, k) int32, positions in ``ids``, nearest first, of
    equals the lower first; -1 where no further one was found. cosines : (n, k) float32, -inf
    there. is_exact : whether every pair was looked at.
    """

    ids: Int64
    neighbours: Int32
    cosines: Float32
    is_exact: bool

    def __len__(self) -> int:
        return len(self.ids)


def neighbour_graph(
    vectors: Vectors,
    *,
    k: int = NEIGHBOURS,
    allowed: Int64 | None = None,
    exact: bool | None = None,
    visits: int = _VISITS,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> NeighbourGraph:
    """Find the k nearest neighbours of every image, or of those of the rising ids ``allowed``
    among themselves.

    exact : look at every pair; None for as long as that is quick. visits : how many groups
    an image looks into otherwise. on_progress : called with how many images are done, or with
    the like share of the work.

    Besides the result (8 bytes an image and neighbour) memory is some blocks of products; of
    many images also 8 bytes an image and visit.
    """
    ids = np.setdiff1d(vectors.ids, vectors.deleted, assume_unique=True)
    if allowed is not None:
        ids = np.intersect1d(ids, allowed, assume_unique=True)
    source = _Source(vectors, ids)
    k = max(0, min(k, len(ids) - 1))
    tell = on_progress or _no_one
    if exact is None:
        exact = len(ids) <= EXACT_IMAGES
    with single_threaded_blas():
        best = _all_pairs(source, k, tell) if exact else _by_groups(source, k, visits, seed, tell)
    return NeighbourGraph(ids, best.rows, best.scores, exact)


class _Source:
    """Float32 vectors by position among ``ids``."""

    def __init__(self, vectors: Vectors, ids: Int64) -> None:
        self._vectors, self.ids = vectors, ids

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Rows) -> Float32:
        """(m, dim) of (m,) rising positions."""
        return widen(self._vectors.take_half(self.ids[rows])[1])


class _Best:
    """The best k of each of some images so far."""

    def __init__(self, images: int, k: int) -> None:
        self.rows = np.full((images, k), -1, np.int32)
        self.scores = np.full((images, k), -np.inf, np.float32)

    def add(self, products: Float32, columns: Rows) -> None:
        """Take in (images, m) products with the images at the (m,) rising positions
        ``columns``."""
        k = self.rows.shape[1]
        least = np.maximum(_floor(products, k), self.scores[:, -1])
        hits = products >= least[:, None]
        crowded = np.flatnonzero(np.count_nonzero(hits, axis=1) > _TOO_MANY * k)
        if len(crowded):  # of equals the first k will do
            equal = products[crowded] == least[crowded, None]
            hits[crowded] &= ~equal | (np.cumsum(equal, axis=1) <= k)
        of_image, at = np.nonzero(hits)
        counts = np.bincount(of_image, minlength=len(products))
        width = int(counts.max(initial=0))
        place = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.full((len(products), width), -1, np.int32)
        scores = np.full((len(products), width), -np.inf, np.float32)
        rows[of_image, place] = columns[at]
        scores[of_image, place] = products[of_image, at]
        self.merge(np.arange(len(products)), rows, scores)

    def merge(self, images: Rows, rows: Int32, scores: Float32) -> None:
        """Take in (m, any) further rows and scores of (m,) of the images."""
        k = self.rows.shape[1]
        rows = np.concatenate([self.rows[images], rows], axis=1)
        scores = np.concatenate([self.scores[images], scores], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        self.rows[images] = np.take_along_axis(rows, order, axis=1)
        self.scores[images] = np.take_along_axis(scores, order, axis=1)


def _floor(products: Float32, k: int) -> Float32:
    """For each row a score that at least k of its numbers reach, and not many more."""
    count = products.shape[1]
    size = count // (_GROUPS_OF_MAXIMA * k)
    if size <= 1:
        return np.full(len(products), -np.inf, np.float32)
    groups = count // size
    parts = products[:, : groups * size].reshape(len(products), groups, size)
    maxima = parts.max(axis=2)
    floor: Float32 = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    return floor


def _no_one(done: int) -> None:
    """Progress that nobody asked for."""


def _compare(source: _Source, rows: Rows, columns: Rows, k: int) -> _Best:
    """The best k of the images at ``columns`` for each of those at ``rows``, itself left out;
    both rise."""
    best = _Best(len(rows), k)
    mine = source.take(rows)
    for start in range(0, len(columns), _COLUMNS):
        part = columns[start : start + _COLUMNS]
        products = mine @ source.take(part).T
        at = np.searchsorted(part, rows)
        at[at == len(part)] = 0
        itself = np.flatnonzero(part[at] == rows)
        products[itself, at[itself]] = -np.inf
        best.add(products, part)
    best.rows[best.scores == -np.inf] = -1
    return best


def _all_pairs(source: _Source, k: int, tell: Progress) -> _Best:
    everyone = np.arange(len(source))
    best = _Best(len(source), k)
    if not k:
        return best
    blocks = (everyone[start : start + _ROWS] for start in range(0, len(source), _ROWS))
    done = 0
    for found in in_order(lambda rows: _compare(source, rows, everyone, k), blocks):
        part = slice(done, done + len(found.rows))
        best.rows[part], best.scores[part] = found.rows, found.scores
        done += len(found.rows)
        tell(done)
    return best


def _by_groups(source: _Source, k: int, visits: int, seed: int, tell: Progress) -> _Best:
    best = _Best(len(source), k)
    if not k:
        return best
    groups = _Groups(source, visits, seed)

    def compare(pair: tuple[Rows, Rows]) -> tuple[Rows, _Best]:
        rows, members = pair
        found = _compare(source, rows, members, k)
        news = np.flatnonzero(found.scores[:, 0] >= best.scores[rows, -1])
        return rows[news], _rows_of(found, news)

    pairs = in_order(compare, groups.pairs())
    for done, (rows, found) in enumerate(pairs, 1):
        best.merge(rows, found.rows, found.scores)
        tell(len(source) * min(done, groups.visited) // max(1, groups.visited))
    return best


def _rows_of(best: _Best, images: Rows) -> _Best:
    part = _Best(0, best.rows.shape[1])
    part.rows, part.scores = best.rows[images], best.scores[images]
    return part


class _Groups:
    """Which images are in which group, and who looks into it."""

    def __init__(self, source: _Source, visits: int, seed: int) -> None:
        from clipsearch.spherical_kmeans import train_centroids

        count = max(1, len(source) // _GROUP_IMAGES)
        chance = np.random.default_rng(seed)
        size = min(len(source), _SAMPLE * count)
        sample = np.sort(chance.choice(len(source), size, replace=False))
        self._centroids = train_centroids(source.take(sample), count, seed=seed)
        self._source = source
        visits = min(visits, len(self._centroids))
        nearest = np.empty((len(source), visits), np.int32)
        everyone = np.arange(len(source))
        columns = np.ascontiguousarray(self._centroids.T)

        def look(rows: Rows) -> tuple[Rows, Int32]:
            return rows, best_labels(source.take(rows) @ columns, visits)[0]

        blocks = (everyone[start : start + _ROWS] for start in range(0, len(source), _ROWS))
        for rows, found in in_order(look, blocks):
            nearest[rows] = found
        home, whole = nearest[:, 0], nearest.reshape(-1)
        # A stable sort keeps positions rising within a group.
        self._members = np.argsort(home, kind="stable")
        self._homes = np.searchsorted(home[self._members], np.arange(len(self._centroids) + 1))
        order = np.argsort(whole, kind="stable")
        self._visitors = (order // visits).astype(np.int32)
        self._visits = np.searchsorted(whole[order], np.arange(len(self._centroids) + 1))
        self.visited = sum(1 for _ in self.pairs(look=False))

    def pairs(self, look: bool = True) -> Iterator[tuple[Rows, Rows]]:
        """(visitors, members), positions that rise, a block of visitors at a time.

        look : False for as many pairs, of which the members mean nothing.
        """
        for group in range(len(self._centroids)):
            members = self._members[self._homes[group] : self._homes[group + 1]]
            visitors = self._visitors[self._visits[group] : self._visits[group + 1]].astype(np.intp)
            parts = -(-len(members) // _CROWD)
            if parts > 1 and look:
                inside, outside = self._parts(group, members, visitors, parts)
                shares = [
                    (visitors[outside == part], members[inside == part]) for part in range(parts)
                ]
            else:
                shares = [(visitors, members)]
            for some, there in shares:
                if not len(there):
                    continue
                for start in range(0, len(some), _ROWS):
                    yield some[start : start + _ROWS], there

    def _parts(self, group: int, members: Rows, visitors: Rows, parts: int) -> tuple[Int64, Int64]:
        """Which of so many parts of a crowd each member is in, and each visitor looks into."""
        towards = np.concatenate([
            self._source.take(visitors[start : start + _ROWS]) @ self._centroids[group]
            for start in range(0, len(visitors), _ROWS)
        ])  # fmt: skip
        own = towards[np.searchsorted(visitors, members)]  # members visit their own group
        order = np.argsort(own, kind="stable")
        inside = np.empty(len(members), np.int64)
        inside[order] = np.arange(len(members)) * parts // len(members)
        bounds = own[order][[int(np.searchsorted(inside[order], part)) for part in range(1, parts)]]
        outside: Int64 = np.searchsorted(bounds, towards, side="right").astype(np.int64)
        outside[np.searchsorted(visitors, members)] = inside
        return inside, outside
