"""Rows of a discovery: which images its clusters hold, and what is told of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence

import numpy as np

from clipsearch.cluster_examples import doubtful_of, rows_by_cluster, typical_of
from clipsearch.clusters import Assignment, Cluster, Discovery
from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.shards import Int64
from clipsearch.vectors import Vectors


def with_members(
    clusters: Sequence[Cluster],
    assignment: Assignment,
    vectors: Vectors,
    positions: Container[int] | None = None,
) -> tuple[Cluster, ...]:
    """The clusters with size, typical and doubtful images as ``assignment`` has them; those at
    ``positions``, None for all."""
    told = []
    rows_of = rows_by_cluster(assignment, len(clusters))
    for position, (cluster, rows) in enumerate(zip(clusters, rows_of, strict=True)):
        if positions is None or position in positions:
            typical = typical_of(vectors, assignment, rows)
            doubtful = doubtful_of(assignment, rows, typical)
            cluster = dataclasses.replace(
                cluster, size=len(rows), typical=typical, doubtful=doubtful
            )
        told.append(cluster)
    return tuple(told)


def largest_first(discovery: Discovery) -> Discovery:
    """The same with the clusters in order of size; of equal ones the earlier key first."""
    sizes = [(-cluster.size, cluster.key) for cluster in discovery.clusters]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    if order == list(range(len(order))):
        return discovery
    return with_clusters(discovery, order)


def with_clusters(discovery: Discovery, kept: Sequence[int]) -> Discovery:
    """The same with the clusters at the positions ``kept``, in that order; images and centroids
    of the others belong to none."""
    places = np.full(len(discovery.clusters) + 1, -1, np.int32)  # the last is what -1 takes
    places[list(kept)] = np.arange(len(kept), dtype=np.int32)
    return dataclasses.replace(
        discovery,
        clusters=tuple(discovery.clusters[position] for position in kept),
        assignment=dataclasses.replace(
            discovery.assignment, clusters=places[discovery.assignment.clusters]
        ),
        model=dataclasses.replace(discovery.model, owners=places[discovery.model.owners]),
    )


def merged_rows(first: Assignment, second: Assignment) -> Assignment:
    """Two assignments of different images as one."""
    order = np.argsort(np.concatenate([first.ids, second.ids]), kind="stable")
    columns = [
        np.concatenate([getattr(first, item.name), getattr(second, item.name)])[order]
        for item in dataclasses.fields(Assignment)
    ]
    return Assignment(*columns)


def some_rows(assignment: Assignment, ids: Int64) -> Assignment:
    """The rows of those of the rising ``ids`` that are there."""
    here = np.isin(assignment.ids, ids, assume_unique=True)
    return Assignment(
        *(getattr(assignment, item.name)[here] for item in dataclasses.fields(Assignment))
    )


def replaced_rows(assignment: Assignment, rows: Assignment) -> Assignment:
    """``assignment`` with the images of ``rows``, all of which are there, as they are in it."""
    places = np.searchsorted(assignment.ids, rows.ids)
    columns: list[Int32 | Float32] = []
    for name in ("clusters", "cosines", "margins"):
        column = getattr(assignment, name).copy()
        column[places] = getattr(rows, name)
        columns.append(column)
    return Assignment(assignment.ids, *columns)  # type: ignore[arg-type]
