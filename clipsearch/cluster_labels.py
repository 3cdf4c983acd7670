"""The clusters of a discovery as a label set: each image's cluster is its label."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from clipsearch.cluster_files import SavedDiscovery
from clipsearch.clusters import Discovery
from clipsearch.errors import ClipsearchError, LabelError
from clipsearch.generation import Generation
from clipsearch.label_set_files import DISCOVER, LabelRows, LabelSet
from clipsearch.label_set_saving import followed, new_label_set, write_label_set
from clipsearch.label_sets import label_set_names, read_label_set
from clipsearch.prompts import same_label


def cluster_labels(discovery: Discovery) -> tuple[tuple[str, ...], LabelRows]:
    """The labels, and a row an image: its cluster's name, cosine and margin; -1 for one in no
    cluster. Clusters of one name are one label."""
    labels: dict[str, str] = {}
    codes = np.full(len(discovery.clusters) + 1, -1, np.int32)  # the last is what -1 takes
    for position, cluster in enumerate(discovery.clusters):
        labels.setdefault(same_label(cluster.name), cluster.name)
        codes[position] = list(labels).index(same_label(cluster.name))
    found = discovery.assignment
    rows = LabelRows(found.ids, codes[found.clusters], found.cosines, found.margins)
    return tuple(labels.values()), rows


def refuse_empty(discovery: Discovery) -> None:
    """LabelError where there is no cluster to be a label."""
    if not discovery.clusters:
        raise LabelError("the discovery has no cluster that could be a label: discover anew")


def refuse_label_set(index: Path, discovery: str, name: str, replace: bool = False) -> None:
    """LabelError where saving the label set ``name`` for a discovery would lose one that is none
    of its own. replace : over one that follows no discovery all the same."""
    if name not in label_set_names(index):
        return
    leader = followed(index, name)
    if leader is not None and leader != discovery:
        raise LabelError(
            f"the label set {name} follows the clusters of the discovery {leader}: choose another "
            f"name, or let it go first with 'clipsearch labels {name} --forget'"
        )
    there = _readable(index, name)
    if there is not None and there.discovery != discovery and not replace:
        raise LabelError(
            f"there is a label set {name} that {there.kind} has saved: choose another name, or "
            f"let it go first with 'clipsearch labels {name} --forget'"
        )


def write_cluster_labels(
    index: Path,
    folder: Path,
    state: Generation,
    name: str,
    saved: SavedDiscovery,
    discovery: Discovery,
) -> LabelSet:
    """Save the clusters as the label set ``name``, for the holder of the lock."""
    labels, rows = cluster_labels(discovery)
    new = dataclasses.replace(
        new_label_set(state, name, DISCOVER, labels, "simple", None),
        discovery=saved.name,
        discovery_state=saved.state,
    )
    return write_label_set(index, folder, new, rows)


def stale_label_sets(index: Path, saved: SavedDiscovery) -> list[str]:
    """Those of the label sets that follow a discovery that are there and not as it is now."""
    found = []
    for name in saved.label_sets:
        there = _readable(index, name)
        if (
            there is not None
            and there.kind == DISCOVER
            and there.discovery == saved.name
            and there.discovery_state != saved.state
        ):
            found.append(there.name)
    return found


def following(index: Path, saved: SavedDiscovery) -> list[str]:
    """The label sets that follow a discovery, of those that are there."""
    found = [_readable(index, name) for name in saved.label_sets]
    return [one.name for one in found if one is not None and one.discovery == saved.name]


def _readable(index: Path, name: str) -> LabelSet | None:
    try:
        return read_label_set(index, name)
    except ClipsearchError:
        return None
