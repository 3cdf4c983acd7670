"""Changing a discovery by hand: clusters are renamed, merged, split and dropped.

Every function takes a discovery and returns another. Who is in which cluster changes only for the
images of the clusters named: those of merged clusters stay together, those of a split one go to
its parts, those of a dropped one to none, and so do later images that are nearest to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from clipsearch.cluster_members import (
    largest_first,
    replaced_rows,
    with_clusters,
    with_members,
)
from clipsearch.cluster_model import assign
from clipsearch.cluster_references import checked_name
from clipsearch.clusters import (
    Assignment,
    Cluster,
    ClusterModel,
    Discovery,
    NameCandidate,
    SuggestedName,
)
from clipsearch.encoder import Float32
from clipsearch.errors import ClusterError
from clipsearch.prompts import same_label
from clipsearch.shards import Int64
from clipsearch.vectors import Vectors

MOST_PARTS = 1000
_SAMPLE = 20_000  # images of a cluster that its parts are learned from
_CANDIDATES = 3

Namer = Callable[[Discovery, Sequence[int]], Sequence[SuggestedName]]
"""What names the clusters at some positions of a discovery."""


def rename(discovery: Discovery, position: int, name: str) -> Discovery:
    """Give a cluster a name that no other has."""
    clean = checked_name(name)
    _refuse_taken(discovery.clusters, clean, {position})
    clusters = list(discovery.clusters)
    clusters[position] = dataclasses.replace(
        clusters[position], name=clean, by_hand=True, confidence=1.0
    )
    return dataclasses.replace(discovery, clusters=tuple(clusters))


def merge(
    discovery: Discovery,
    positions: Sequence[int],
    vectors: Vectors,
    *,
    name: str | None = None,
    namer: Namer | None = None,
) -> Discovery:
    """Make one cluster, with the key of the first, of those at ``positions``; it has all their
    centroids."""
    if len(positions) < 2:
        raise ClusterError("expected at least two clusters to merge, such as 'dog,puppy'")
    here = [discovery.clusters[position] for position in positions]
    one = _together(here)
    if name is not None:
        clean = checked_name(name)
        _refuse_taken(discovery.clusters, clean, set(positions))
        one = dataclasses.replace(one, name=clean, by_hand=True, confidence=1.0)
    kept = [at for at in range(len(discovery)) if at not in positions[1:]]
    position = kept.index(positions[0])
    of_one = np.isin(discovery.assignment.clusters, positions)
    owned = np.isin(discovery.model.owners, positions)
    found = with_clusters(discovery, kept)
    found.assignment.clusters[of_one] = position
    found.model.owners[owned] = position
    clusters = list(found.clusters)
    clusters[position] = one
    found = dataclasses.replace(found, clusters=tuple(clusters))
    found = _settled(found, position, found.assignment.ids[of_one], vectors)
    if namer is not None:
        naming = namer(found, [position])[0]
        one = found.clusters[position]
        clusters = list(found.clusters)
        clusters[position] = dataclasses.replace(
            one,
            candidates=naming.candidates,
            broader=naming.broader,
            confidence=1.0 if one.by_hand else naming.confidence,
        )
        found = dataclasses.replace(found, clusters=tuple(clusters))
    return largest_first(found)


def split(
    discovery: Discovery,
    position: int,
    vectors: Vectors,
    *,
    next_key: int,
    parts: int = 2,
    namer: Namer | None = None,
) -> Discovery:
    """Make ``parts`` clusters of one, by spherical k-means over its images, with new keys from
    ``next_key`` on; fewer where its images are too alike."""
    old = discovery.clusters[position]
    if not 2 <= parts <= MOST_PARTS:
        raise ClusterError(f"expected to split in 2 to {MOST_PARTS} parts, got {parts}")
    members = discovery.assignment.members(position)
    if len(members) < parts:
        images = "1 image" if len(members) == 1 else f"{len(members):,} images"
        raise ClusterError(f"the cluster {old.name!r} has {images}: it cannot be split in {parts}")
    centroids = _parts(members, vectors, parts, discovery.facts.seed)
    kept = [at for at in range(len(discovery)) if at != position]
    rest = with_clusters(discovery, kept)
    stays = discovery.model.owners != position
    first = len(kept)
    owners = np.arange(first, first + len(centroids), dtype=np.int32)
    model = dataclasses.replace(
        discovery.model,
        centroids=np.concatenate([discovery.model.centroids[stays], centroids]),
        owners=np.concatenate([rest.model.owners[stays], owners]),
    )
    placed = _placed(model, owners.tolist(), members, vectors)
    filled = np.unique(placed.clusters)
    if len(filled) < 2:
        raise ClusterError(
            f"the images of the cluster {old.name!r} are too alike to split them: "
            "expected at least two groups, found one"
        )
    new = tuple(
        dataclasses.replace(
            old, key=next_key + part, confidence=0.0, broader=old.name, by_hand=False
        )
        for part in range(len(centroids))
    )  # fmt: skip
    found = dataclasses.replace(
        rest,
        clusters=(*rest.clusters, *new),
        model=model,
        assignment=replaced_rows(rest.assignment, placed),
    )
    if len(filled) < len(new):  # the parts that got no image, and their centroids, go
        found = _without_centroids(found, sorted({*owners.tolist()} - {*filled.tolist()}))
    positions = range(first, len(found))
    clusters = with_members(found.clusters, found.assignment, vectors, positions)
    found = dataclasses.replace(found, clusters=clusters)
    namings = None if namer is None else namer(found, positions)
    return largest_first(_named(found, positions, namings, old.name))


def drop(discovery: Discovery, positions: Sequence[int], vectors: Vectors) -> Discovery:
    """Let the images of some clusters, and later ones like them, be in none."""
    kept = [at for at in range(len(discovery)) if at not in positions]
    if not positions:
        raise ClusterError("expected at least one cluster to drop")
    if not kept:
        raise ClusterError(
            "no cluster would be left: expected a discovery to keep at least one; "
            "'clipsearch clusters NAME --forget' removes all of it"
        )
    members = discovery.assignment.ids[np.isin(discovery.assignment.clusters, positions)]
    return _settled(with_clusters(discovery, kept), -1, members, vectors)


def _settled(discovery: Discovery, position: int, members: Int64, vectors: Vectors) -> Discovery:
    """``members`` in the cluster at ``position``, and what that holds; -1 for none."""
    found = discovery.assignment
    placed = _placed(discovery.model, [position], members, vectors)
    assignment = replaced_rows(found, placed)
    return dataclasses.replace(
        discovery,
        assignment=assignment,
        clusters=with_members(discovery.clusters, assignment, vectors, [position]),
    )


def _placed(
    model: ClusterModel, positions: Sequence[int], members: Int64, vectors: Vectors
) -> Assignment:
    """``members`` in the nearest of the clusters at ``positions``, whatever other is nearer: the
    margin is below 0 then. Images that are gone are left out."""
    owned = np.isin(model.owners, positions)
    only = dataclasses.replace(model, centroids=model.centroids[owned], owners=model.owners[owned])
    placed = assign(vectors, only, allowed=members)
    everywhere = assign(vectors, model, allowed=members)
    margins = np.where(
        everywhere.clusters == placed.clusters,
        everywhere.margins,
        placed.cosines - everywhere.cosines,
    ).astype(np.float32)
    return dataclasses.replace(placed, margins=margins)


def _parts(members: Int64, vectors: Vectors, parts: int, seed: int) -> Float32:
    """The (p, dim) float32 centroids of the parts of a cluster, from a sample of its images."""
    from clipsearch.spherical_kmeans import train_centroids

    drawn = members
    if len(members) > _SAMPLE:
        drawn = np.sort(np.random.default_rng(seed).choice(members, _SAMPLE, replace=False))
    _, rows = vectors.take(drawn)
    return train_centroids(rows, parts, seed=seed)


def _without_centroids(discovery: Discovery, positions: Sequence[int]) -> Discovery:
    """Take clusters without images away, centroids too: nothing is like them."""
    stays = ~np.isin(discovery.model.owners, positions)
    kept = [at for at in range(len(discovery)) if at not in positions]
    found = with_clusters(discovery, kept)
    model = dataclasses.replace(
        found.model, centroids=found.model.centroids[stays], owners=found.model.owners[stays]
    )
    return dataclasses.replace(found, model=model)


def _together(clusters: Sequence[Cluster]) -> Cluster:
    """The first cluster with the candidates of all: each counts by how many images it was for."""
    whole = max(1, sum(cluster.size for cluster in clusters))
    scores: dict[str, float] = {}
    votes: dict[str, float] = {}
    for cluster in clusters:
        for one in cluster.candidates:
            share = cluster.size / whole
            votes[one.name] = votes.get(one.name, 0.0) + share * one.votes
            scores[one.name] = max(scores.get(one.name, -np.inf), one.score)
    best = sorted(votes, key=lambda name: (-votes[name], -scores[name], name))[:_CANDIDATES]
    first = clusters[0]
    confidence = first.confidence * first.size / whole  # of the others it may be no name at all
    return dataclasses.replace(
        first,
        candidates=tuple(NameCandidate(name, scores[name], votes[name]) for name in best),
        confidence=1.0 if first.by_hand else confidence,
        broader=first.broader if len({cluster.broader for cluster in clusters}) == 1 else None,
    )


def _named(
    discovery: Discovery,
    positions: Sequence[int],
    namings: Sequence[SuggestedName] | None,
    old: str,
) -> Discovery:
    """The clusters at ``positions`` as they are called, or with numbers after the ``old`` name,
    each by a name that no other has."""
    clusters = list(discovery.clusters)
    taken = {same_label(cluster.name) for at, cluster in enumerate(clusters) if at not in positions}
    for place, position in enumerate(positions):
        cluster, wishes, stem = clusters[position], [], old
        if namings is not None:
            naming = namings[place]
            wishes = [naming.name, *(one.name for one in naming.candidates)]
            stem = naming.name or old
            cluster = dataclasses.replace(
                cluster,
                candidates=naming.candidates,
                confidence=naming.confidence,
                broader=naming.broader,
            )
        first = 1 if namings is None else 2
        wishes += [f"{stem} {number}" for number in range(first, len(clusters) + 2)]
        chosen = next(wish for wish in wishes if wish and same_label(wish) not in taken)
        taken.add(same_label(chosen))
        clusters[position] = dataclasses.replace(cluster, name=chosen)
    return dataclasses.replace(discovery, clusters=tuple(clusters))


def _refuse_taken(clusters: Sequence[Cluster], name: str, mine: set[int]) -> None:
    for position, cluster in enumerate(clusters):
        if position not in mine and same_label(cluster.name) == same_label(name):
            raise ClusterError(
                f"another cluster is called {cluster.name!r}: merge the two, or choose another name"
            )
