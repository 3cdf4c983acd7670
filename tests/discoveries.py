"""Discoveries for tests: of vectors that are made up, or of the images of a real index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipsearch.cluster_members import largest_first, with_members
from clipsearch.cluster_model import assign
from clipsearch.clusters import (
    Assignment,
    Cluster,
    ClusterModel,
    Discovery,
    DiscoveryFacts,
    NameCandidate,
)
from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.vectors import Vectors


def made_up_vectors(
    groups: int, of_each: int, *, dim: int = 16, spread: float = 0.25, seed: int = 0
) -> tuple[Vectors, Float32]:
    """Vectors around ``groups`` random directions, mixed, with every third id; and those
    directions, (groups, dim)."""
    rng = np.random.default_rng(seed)
    centres = _unit(rng.standard_normal((groups, dim)))
    rows = _unit(
        np.tile(centres, (of_each, 1)) + spread * rng.standard_normal((groups * of_each, dim))
    )
    ids = 3 * np.arange(len(rows), dtype=np.int64) + 5
    vectors = Vectors(ids, (rows.astype("<f2"),), dim, np.empty(0, np.int64))
    return vectors, centres


def made_discovery(
    vectors: Vectors,
    centroids: Float32,
    names: Sequence[str],
    *,
    index: str = "",
    space: str = "",
    generation: int = 0,
    where: str | None = None,
    vocabulary: str | None = None,
) -> Discovery:
    """Each image with the nearest of the centroids, whose clusters have these names."""
    model = ClusterModel(centroids, np.arange(len(centroids), dtype=np.int32))
    assignment = assign(vectors, model)
    clusters = with_members([cluster(*pair) for pair in enumerate(names)], assignment, vectors)
    facts = DiscoveryFacts(
        method="kmeans",
        asked=len(names),
        criterion=None,
        curve=((2, 0.5), (3, 0.75)),
        seed=0,
        vocabulary=vocabulary,
        index=index,
        space=space,
        generation=generation,
        next_id=int(vectors.ids[-1]) + 1,
        made_at="2026-11-21T12:00:00+00:00",
        where=where,
    )
    return largest_first(Discovery(clusters, assignment, model, facts))


def cluster(key: int, name: str) -> Cluster:
    """A cluster with candidates that a naming could have found."""
    candidates = tuple(
        NameCandidate(word, 3.0 - rank, (0.6, 0.3, 0.1)[rank])
        for rank, word in enumerate((name, f"{name} one", f"{name} two"))
    )
    return Cluster(key, name, candidates, 0.6, None, 0, (), ())


def discovery_of_index(state: Generation, names: Sequence[str], **others: str) -> Discovery:
    """The images of an index around as many of them as there are names, far from each other."""
    _, rows = state.vectors.take(state.vectors.ids)
    chosen = [0]
    while len(chosen) < len(names):
        chosen.append(int((rows @ rows[chosen].T).max(axis=1).argmin()))
    return made_discovery(
        state.vectors,
        rows[chosen],
        names,
        index=state.manifest.uuid,
        space=state.space.fingerprint,
        generation=state.manifest.generation,
        **others,
    )


def assert_same_discovery(found: Discovery, wanted: Discovery) -> None:
    """Every number and word of two discoveries is the same."""
    assert found.clusters == wanted.clusters
    assert found.facts == wanted.facts
    assert_same_assignment(found.assignment, wanted.assignment)
    np.testing.assert_array_equal(found.model.centroids, wanted.model.centroids)
    np.testing.assert_array_equal(found.model.owners, wanted.model.owners)


def assert_same_assignment(found: Assignment, wanted: Assignment) -> None:
    for name in ("ids", "clusters", "cosines", "margins"):
        mine, theirs = getattr(found, name), getattr(wanted, name)
        assert mine.dtype == theirs.dtype, name
        np.testing.assert_array_equal(mine, theirs, err_msg=name)


def assert_near_assignment(found: Assignment, wanted: Assignment) -> None:
    """The same but for the rounding of products, which depends on what else is multiplied."""
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.clusters, wanted.clusters)
    np.testing.assert_allclose(found.cosines, wanted.cosines, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.margins, wanted.margins, rtol=0, atol=4e-6)


def _unit(rows: np.ndarray) -> Float32:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
