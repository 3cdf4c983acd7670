"""The images of a cluster, as hits."""

from __future__ import annotations

import numpy as np

from clipsearch.cluster_references import find_cluster
from clipsearch.clusters import Discovery
from clipsearch.generation import Generation
from clipsearch.metadata_rows import dates_of
from clipsearch.records import Hit, Hits


def cluster_hits(state: Generation, discovery: Discovery, cluster: str) -> Hits:
    """The images of a cluster, nearest to its centroid first; the cosine to that is the score.

    cluster : as ``find_cluster`` takes it. Raises ClusterError where it is not there.
    """
    position = find_cluster(discovery.clusters, cluster)
    found = discovery.assignment
    rows = np.flatnonzero(found.clusters == position)
    rows = rows[np.argsort(-found.cosines[rows], kind="stable")]
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
    return Hits(tuple(hits), "clusters", len(found), len(hits))
