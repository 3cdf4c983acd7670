"""What a map shows: images as points, and their clusters with names, centres and colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipsearch.cluster_colours import colour_slots
from clipsearch.clusters import Cluster, Discovery
from clipsearch.encoder import Float32
from clipsearch.map_coordinates import Coordinates
from clipsearch.records import Int32
from clipsearch.shards import Int64


@dataclass(frozen=True)
class MapScene:
    """Images on the unit square, y downwards as on a screen.

    ids : (n,) int64, rising. xy : (n, 2) float32, 0 to 1, the longer side filling it. clusters :
    (n,) int32, positions in the k ``shown``, -1 for none. centres : (k, 2) float32, the place of
    an image amid each cluster, nan for one of which no image is here. slots : (k,) int32, its
    colour (``cluster_colours``). total, outside : how many images there were before a sample was
    taken, and how many of them in no cluster.
    """

    ids: Int64
    xy: Float32
    clusters: Int32
    shown: tuple[Cluster, ...]
    centres: Float32
    slots: Int32
    total: int
    outside: int


def facts_of(scene: MapScene) -> str:
    """How much there is on a map, in words."""
    total, groups, outside = scene.total, len(scene.shown), scene.outside
    if not groups:
        return f"{total:,} image{'s' * (total != 1)} in no cluster"
    text = f"{total:,} image{'s' * (total != 1)} in {groups:,} cluster{'s' * (groups != 1)}"
    return text + (f", {outside:,} of them in none" if outside else "")


def map_scene(discovery: Discovery, coordinates: Coordinates, most: int | None = None) -> MapScene:
    """The images of a discovery that have a place; an even sample of ``most`` where there are
    more, in which the typical and doubtful images of every cluster are kept."""
    ids, xy = coordinates.of(discovery.assignment.ids)
    return scene_of(ids, xy, discovery, most)


def scene_of(
    ids: Int64, xy: Float32, discovery: Discovery | None, most: int | None = None
) -> MapScene:
    """As ``map_scene``, of images whether the discovery knows them or not.

    ids : (n,) rising. xy : (n, 2), their places, y rising. discovery : None for no clusters.
    """
    clusters = np.full(len(ids), -1, np.int32)
    shown: tuple[Cluster, ...] = ()
    if discovery is not None:
        shown, assignment = discovery.clusters, discovery.assignment
        _, here, there = np.intersect1d(
            ids, assignment.ids, assume_unique=True, return_indices=True
        )
        clusters[here] = assignment.clusters[there]
    xy = _on_unit_square(xy)
    centres = _centres(xy, clusters, len(shown))
    slots = colour_slots(centres)
    total, outside = len(ids), int(np.count_nonzero(clusters < 0))
    if most is not None and total > most:
        examples = [image for cluster in shown
                    for image in (*cluster.typical, *cluster.doubtful)]  # fmt: skip
        keep = np.isin(ids, np.array(examples, np.int64))
        left = max(0, most - int(keep.sum()))
        others = np.flatnonzero(~keep)
        keep[others[np.linspace(0, len(others) - 1, left).astype(np.int64)]] = True
        ids, xy, clusters = ids[keep], xy[keep], clusters[keep]
    return MapScene(ids, xy, clusters, shown, centres, slots, total, outside)


def _on_unit_square(xy: Float32) -> Float32:
    if not len(xy):
        return xy
    low, high = xy.min(axis=0), xy.max(axis=0)
    side = float((high - low).max())
    if side == 0:
        return np.full_like(xy, 0.5)
    placed: Float32 = (xy - (low + high) / 2) / np.float32(side)
    placed[:, 1] *= -1
    return np.asarray(np.clip(placed + np.float32(0.5), 0, 1), np.float32)


def _centres(xy: Float32, clusters: Int32, count: int) -> Float32:
    """The place of the image that is nearest to the median of its cluster: on the cluster even
    where that is bent."""
    centres = np.full((count, 2), np.nan, np.float32)
    order = np.argsort(clusters, kind="stable")
    ends = np.searchsorted(clusters[order], np.arange(count + 1))
    for position in range(count):
        members = xy[order[ends[position] : ends[position + 1]]]
        if len(members):
            distances = ((members - np.median(members, axis=0)) ** 2).sum(axis=1)
            centres[position] = members[int(distances.argmin())]
    return centres
