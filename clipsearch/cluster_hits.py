"""The images of a cluster, as hits."""

from __future__ import annotations

import numpy as np

from clipsearch.cluster_references import find_cluster
from clipsearch.clusters import Discovery
from clipsearch.generation import Generation
from clipsearch.metadata_rows import dates_of
from clipsearch.records import Hit, Hits
from clipsearch.shards import Int64

IN_NONE = -1
"""The position, among the clusters, of the images that are in none."""


def cluster_hits(state: Generation, discovery: Discovery, cluster: str) -> Hits:
    """The images of a cluster, nearest to its centroid first; the cosine to that is the score.

    cluster : as ``find_cluster`` takes it. Raises ClusterError where it is not there.
    """
    return hits_at(state, discovery, find_cluster(discovery.clusters, cluster))


def hits_at(
    state: Generation,
    discovery: Discovery,
    position: int,
    *,
    k: int | None = None,
    offset: int = 0,
    doubtful_first: bool = False,
) -> Hits:
    """The images of the cluster at ``position``, or of ``IN_NONE``, nearest to its centroid first.

    k, offset : how many to bring, None for all, and how many to pass over; ``total`` counts all.
    doubtful_first : those first that another cluster is nearly as near to.
    """
    found = discovery.assignment
    order = _order(discovery, position, doubtful_first)
    rows = order[offset:] if k is None else order[offset : offset + k]
    ids = found.ids[rows]
    hits = []
    for image_id, cosine, taken in zip(
        ids.tolist(), found.cosines[rows].tolist(), dates_of(state, ids), strict=True
    ):
        places = state.paths.places(image_id)
        if places:
            hits.append(
                Hit(
                    id=image_id,
                    path=places[0].path,
                    score=cosine,
                    cosine=cosine,
                    copies=tuple(place.path for place in places[1:] if not place.missing),
                    missing=places[0].missing,
                    taken_at=taken,
                )
            )
    total = len(order) - (len(rows) - len(hits))
    return Hits(tuple(hits), "clusters", len(found), total)


def _order(discovery: Discovery, position: int, doubtful_first: bool) -> Int64:
    found = discovery.assignment
    rows = np.flatnonzero(found.clusters == position)
    if not doubtful_first:
        return rows[np.argsort(-found.cosines[rows], kind="stable")]
    least = np.nan_to_num(found.margins[rows], nan=np.inf)
    return rows[np.lexsort((found.ids[rows], found.cosines[rows], least))]
