"""Discoveries as the API tells them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.cluster_files import SavedDiscovery
from clipsearch.clusters import Cluster, DiscoveryFacts
from clipsearch.nouns import VOCABULARIES
from clipsearch.prompts import same_label
from clipsearch.saved_clusters import OpenedDiscovery

BY_SIZE, BY_NAME, BY_DOUBT = "size", "name", "doubt"
ORDERS = (BY_SIZE, BY_NAME, BY_DOUBT)


def saved_document(name: str, saved: SavedDiscovery | None, fingerprint: str) -> dict[str, Any]:
    """One line of the list of discoveries. saved : None for one that is damaged. fingerprint : of
    the space that the index answers in."""
    if saved is None:
        return {"name": name, "usable": False, "why": "It is damaged."}
    usable = saved.facts.space == fingerprint
    return {
        "name": name,
        "usable": usable,
        "why": None if usable else "It was made with another model.",
        "clusters": saved.tables.clusters.rows,
        "images": saved.tables.assignments.rows,
        "made_at": saved.facts.made_at,
        "saved_at": saved.saved_at,
        "edits": len(saved.edits),
        "label_sets": list(saved.label_sets),
    }


def discovery_document(
    opened: OpenedDiscovery, order: str, find: str, offset: int, limit: int, generation: int
) -> dict[str, Any]:
    """A discovery with those of its clusters that are at ``offset`` and the ``limit`` after.

    find : what is in their names; ``found`` of ``total`` clusters have it.
    """
    saved, discovery = opened.saved, opened.discovery
    wanted = same_label(find)
    clusters = [one for one in discovery.clusters if wanted in same_label(one.name)]
    clusters = _ordered(clusters, order)
    taken = {same_label(one.name) for one in discovery.clusters}
    last = saved.edits[-1] if saved.edits else None
    return {
        "name": saved.name,
        "state": saved.state,
        "generation": generation,
        "images": len(discovery.assignment),
        "in_none": int(np.count_nonzero(discovery.assignment.clusters < 0)),
        "total": len(discovery),
        "found": len(clusters),
        "clusters": [cluster_document(one, taken) for one in clusters[offset : offset + limit]],
        "facts": facts_document(saved.facts),
        "edits": [{"what": edit.what, "at": edit.at} for edit in saved.edits[-20:]],
        "undo": last.what if last is not None and last.before is not None else None,
        "label_sets": list(saved.label_sets),
        "added": opened.added,
        "gone": opened.gone,
    }


def cluster_document(cluster: Cluster, taken: Collection[str]) -> dict[str, Any]:
    """A cluster; ``typical`` and ``doubtful`` are ids of images. taken : names, as ``same_label``
    makes them, that clusters have, this one too: it can be called by no such candidate."""
    return {
        "key": cluster.key,
        "name": cluster.name,
        "size": cluster.size,
        "trust": round(cluster.confidence, 4),
        "by_hand": cluster.by_hand,
        "broader": cluster.broader,
        "candidates": [
            {
                "name": one.name,
                "votes": round(one.votes, 4),
                "taken": same_label(one.name) in taken,
            }
            for one in cluster.candidates
        ],
        "typical": list(cluster.typical),
        "doubtful": list(cluster.doubtful),
    }


def facts_document(facts: DiscoveryFacts) -> dict[str, Any]:
    """How a discovery came to be. Of a vocabulary that is a file only its name is told."""
    vocabulary = facts.vocabulary
    if vocabulary is not None and vocabulary not in VOCABULARIES:
        vocabulary = Path(vocabulary).name
    return {
        "method": facts.method,
        "asked": facts.asked,
        "criterion": facts.criterion,
        "vocabulary": vocabulary,
        "where": facts.where,
        "made_at": facts.made_at,
    }


def _ordered(clusters: list[Cluster], order: str) -> list[Cluster]:
    if order == BY_NAME:
        return sorted(clusters, key=lambda cluster: (cluster.name.casefold(), cluster.key))
    if order == BY_DOUBT:
        return sorted(clusters, key=lambda cluster: (cluster.confidence, -cluster.size))
    return clusters
