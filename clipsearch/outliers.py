"""Images that are like nothing else in the collection, and images that are too much alike.

Both are read from the graph of nearest neighbours and judged by the collection itself: what
counts as far among ten thousand photos of one kind of flower is near among holiday photos, and
cosines of different models cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.duplicate_groups import Duplicates
from clipsearch.errors import OptionError
from clipsearch.neighbour_graph import NeighbourGraph

Float64 = npt.NDArray[np.float64]

LEAST_IMAGES = 10
"""Of fewer images nobody can say what is usual among them."""

_FENCE = 4.0
"""How many steps above the median, each as long as from there to the upper quartile, an image is
far out (after the box plot of Tukey, "Exploratory Data Analysis", 1977)."""

_LOCAL = 1.15
"""How many times farther an image must be from its neighbours than they are from theirs (after
the local outlier factor, Breunig et al., SIGMOD 2000): part of a collection may be more varied
than the rest, and is no outlier for that."""

_LEAST_SPREAD = 1e-3
"""Distances that differ by less differ by rounding."""

_ALIKE_SHARE = 0.1
"""Of the median distance to the last neighbour: nearer than that two images are told apart by
little more than a copy and its original are."""

_SURELY_ALIKE = 0.995

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Outlier:
    """An image far from all others.

    ratio : its mean distance (1 - cosine) to its neighbours over the mean of their distances to
    theirs. score : that distance times the ratio, less the median of all images, in steps from
    that to the upper quartile. nearest : the id of its nearest neighbour, and cosine to it.
    """

    id: int
    score: float
    nearest: int
    cosine: float
    ratio: float


@dataclass(frozen=True)
class Outliers:
    """Those found, farthest first. usual : the median cosine of an image to its nearest."""

    images: tuple[Outlier, ...]
    usual: float

    def reason(self, outlier: Outlier) -> str:
        """Why it is one, in plain words."""
        return (
            f"the image most like it has cosine {outlier.cosine:.2f}, usual here is "
            f"{self.usual:.2f}; it is {outlier.ratio:.1f} times as far from its neighbours as "
            "they are from theirs"
        )


@dataclass(frozen=True)
class LookAlikes:
    """Images that the model can hardly tell apart.

    ids : of each image, the one that stands for the others first. cosines : to that one, its own
    is 1. known : "copy" or "burst" where ``duplicates`` has all of them in one group of that
    kind, else None.
    """

    ids: tuple[int, ...]
    cosines: tuple[float, ...]
    known: str | None = None


def outliers(graph: NeighbourGraph, most: int | None = None) -> Outliers:
    """The images whose neighbours are all far; of many the ``most`` farthest.

    None at all where images hardly differ, or there are fewer than ``LEAST_IMAGES``.
    """
    if most is not None and most < 0:
        raise OptionError(f"expected how many outliers, 0 or more, got {most}")
    if len(graph) < LEAST_IMAGES:
        return Outliers((), float("nan"))
    distances = _mean_distances(graph)
    ratios = distances / np.maximum(_around(graph, distances), _LEAST_SPREAD)
    # Either alone finds fewer of the strangers among photos of a few kinds.
    far_out = distances * ratios
    middle, upper = np.quantile(far_out, (0.5, 0.75))
    scores = (far_out - middle) / max(float(upper - middle), _LEAST_SPREAD)
    far = np.flatnonzero((scores > _FENCE) & (ratios > _LOCAL))
    far = far[np.argsort(-scores[far], kind="stable")][:most]
    found = [
        Outlier(
            id=int(graph.ids[row]),
            score=float(scores[row]),
            nearest=int(graph.ids[graph.neighbours[row, 0]]),
            cosine=float(graph.cosines[row, 0]),
            ratio=float(ratios[row]),
        )
        for row in far.tolist()
    ]
    return Outliers(tuple(found), float(np.median(graph.cosines[:, 0])))


def look_alikes(
    graph: NeighbourGraph,
    min_cosine: float | None = None,
    duplicates: Duplicates | None = None,
) -> tuple[LookAlikes, ...]:
    """Groups of images of at least that cosine, the largest first.

    An image joins a group only by being near to the one that stands for it, the one with the
    most near neighbours, so that a row of small changes cannot lead to a stranger.

    min_cosine : None for one that suits the collection (``alike_cosine``). duplicates : what
    ``find_near`` says of the same images. It asks more of copies (hash, pixels and the camera's
    clock have to agree) and knows no bound of the model's cosine: what is known by it is a
    duplicate; the others only look alike.
    """
    bound = alike_cosine(graph) if min_cosine is None else min_cosine
    if not -1 <= bound <= 1:
        raise OptionError(f"min_cosine must be -1 to 1, got {bound}")
    near = (graph.cosines >= bound) & (graph.neighbours >= 0)
    rows, at = np.nonzero(near)
    rows, others = rows.astype(np.int32), graph.neighbours[rows, at]
    cosines = graph.cosines[near]
    # The graph may have one of two ends alone: a busy image's list is full.
    ends = np.concatenate([rows, others])
    far_ends, both = np.concatenate([others, rows]), np.concatenate([cosines, cosines])
    order = np.lexsort((far_ends, -both, ends))
    ends, far_ends, both = ends[order], far_ends[order], both[order]
    starts = np.searchsorted(ends, np.arange(len(graph) + 1))
    degrees = np.diff(starts)
    free = np.ones(len(graph), bool)
    known = _groups_of(duplicates)
    groups: list[LookAlikes] = []
    busiest = np.argsort(-degrees, kind="stable")
    for row in busiest[: np.count_nonzero(degrees)].tolist():
        if not free[row]:
            continue
        free[row] = False
        joined = {
            int(other): float(cosine)
            for other, cosine in zip(
                far_ends[starts[row] : starts[row + 1]].tolist(),
                both[starts[row] : starts[row + 1]].tolist(),
                strict=True,
            )
            if free[other]
        }
        if not joined:
            continue
        free[list(joined)] = False
        ids = graph.ids[[row, *joined]].tolist()
        values = [1.0, *(min(1.0, cosine) for cosine in joined.values())]
        groups.append(LookAlikes(tuple(ids), tuple(values), _known(ids, known)))
    return tuple(sorted(groups, key=lambda group: (-len(group.ids), group.ids[0])))


def alike_cosine(graph: NeighbourGraph) -> float:
    """From which cosine images are too much alike in this collection; 1 without neighbours."""
    if not graph.cosines.size:
        return 1.0
    last = graph.cosines[:, -1]
    last = last[np.isfinite(last)]
    if not len(last):
        return _SURELY_ALIKE
    return min(_SURELY_ALIKE, 1 - _ALIKE_SHARE * (1 - float(np.median(last))))


def _mean_distances(graph: NeighbourGraph) -> Float64:
    """(n,) mean 1 - cosine to the neighbours."""
    return _means(graph, lambda part: 1 - graph.cosines[part].astype(np.float64))


def _around(graph: NeighbourGraph, distances: Float64) -> Float64:
    """(n,) mean of the neighbours' mean distances."""
    return _means(graph, lambda part: distances[graph.neighbours[part]])


def _means(graph: NeighbourGraph, values: Callable[[slice], Float64]) -> Float64:
    """(n,) means of (m, k) values over those neighbours that are known, a block at a time."""
    means = np.zeros(len(graph), np.float64)
    for start in range(0, len(graph), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        known = graph.neighbours[part] >= 0
        sums = np.where(known, values(part), 0).sum(axis=1)
        means[part] = sums / np.maximum(known.sum(axis=1), 1)
    return means


Known = dict[int, dict[int, str]]


def _groups_of(duplicates: Duplicates | None) -> Known:
    """Of every image: the groups it is in, and of what kind they are."""
    groups: Known = {}
    for number, group in enumerate(duplicates.groups if duplicates is not None else ()):
        for file in group.files:
            groups.setdefault(file.id, {})[number] = group.kind
    return groups


def _known(ids: list[int], groups: Known) -> str | None:
    """The kind of the first group that has all of the images."""
    first, *others = (groups.get(image, {}) for image in ids)
    for number, kind in sorted(first.items()):
        if all(number in other for other in others):
            return kind
    return None
