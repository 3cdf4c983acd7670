"""From a sample of images to clusters: the ways in which ``discover`` can group.

The recipe looks at images and words together, after TAC (Li et al., "Image Clustering with
External Guidance", ICML 2024): many more groups than are wanted are made first; each gets a text
side, from the nouns nearest to its centre; what is near in both is merged, by Ward's linkage;
and k-means steps settle what is left, in the images alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipsearch.agglomerative import average_linkage, ward_linkage
from clipsearch.cluster_count import CountChoice, choose_count, silhouettes
from clipsearch.clusters import ClusterModel
from clipsearch.encoder import Float32
from clipsearch.group_means import group_means, group_sums, mean_row, off_mean, unit_rows
from clipsearch.hdbscan_clusters import hdbscan_clusters
from clipsearch.noun_features import guided_points
from clipsearch.records import Int32
from clipsearch.spherical_kmeans import nearest_centroids, settle_centroids, train_centroids

RECIPE, KMEANS, AGGLOMERATIVE, HDBSCAN = "recipe", "kmeans", "agglomerative", "hdbscan"
METHODS = (RECIPE, KMEANS, AGGLOMERATIVE, HDBSCAN)

_IMAGES_PER_CENTRE = 300
_CENTRES_PER_CLUSTER = 4
_LEAST_DENSE, _LEAST_SHARE = 3, 0.35
_MOST_POINTS = 4000
"""Linkage takes memory with their square: 128 MB. As many clusters or more are k-means alone."""
_STEPS_OUTSIDE = 4  # nobody looks at these centroids: they only keep images away from the others

OnStage = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Grouping:
    """model : its owners are numbered without gaps, -1 for centroids of images that are like no
    others. choice : how the number of clusters was chosen, None where it was given."""

    model: ClusterModel
    choice: CountChoice | None = None


def group_sample(
    sample: Float32,
    method: str,
    n_clusters: int | None,
    least_size: int | None,
    nouns: Float32,
    logit_scale: float,
    *,
    seed: int,
    images: int,
    on_stage: OnStage,
) -> Grouping:
    """Clusters of (s, dim) float32 unit rows, s >= 1, which stand for ``images`` images.

    method : one of ``METHODS``. n_clusters : at most so many; None for as many as
    ``choose_count`` finds, less those that do not hold together (a mean silhouette below 0).
    least_size : of a dense group, None for a share of the square root of the images; the other
    methods do not ask. nouns : (w, dim) float32 unit rows, none for a recipe that looks at the
    images alone.

    Raises OptionError for a number of clusters that makes no sense.
    ``choose_count`` finds; HDBSCAN does not ask. least_size : of a dense group, None for a share
    of the square root of the images; only HDBSCAN asks. nouns : (w, dim) float32 unit rows, none
    for a recipe that looks at the images alone.
    """
    if method == HDBSCAN:
        on_stage("grouping", 0, 1)
        return _dense(sample, least_size, seed)
    if n_clusters is not None:
        return Grouping(
            _grouped(sample, method, n_clusters, nouns, logit_scale, seed, images, on_stage)
        )
    choice = choose_count(sample, seed=seed, on_progress=_of(on_stage, "counting groups"))
    model = _grouped(sample, method, choice.k, nouns, logit_scale, seed, images, on_stage)
    return Grouping(_without_loose(model, sample), choice)


def _grouped(
    sample: Float32,
    method: str,
    n_clusters: int,
    nouns: Float32,
    logit_scale: float,
    seed: int,
    images: int,
    on_stage: OnStage,
) -> ClusterModel:
    """``group_sample`` in so many clusters at most."""
    progress = _of(on_stage, "grouping")
    labels: Int32
    if method == KMEANS or n_clusters == 1 or n_clusters >= _MOST_POINTS < len(sample):
        return _whole(train_centroids(sample, n_clusters, seed=seed, on_progress=progress))
    if method == AGGLOMERATIVE and len(sample) <= _MOST_POINTS:
        fine, labels = sample, np.arange(len(sample), dtype=np.int32)
    else:
        wanted = max(images // _IMAGES_PER_CENTRE, _CENTRES_PER_CLUSTER * n_clusters)
        wanted = min(wanted, _MOST_POINTS, len(sample))
        fine = train_centroids(sample, wanted, seed=seed, on_progress=progress)
        labels = nearest_centroids(sample, fine).labels
        kept, numbers = np.unique(labels, return_inverse=True)
        fine, labels = fine[kept], numbers.astype(np.int32)
    if method == AGGLOMERATIVE:
        means, sizes = group_means(sample, labels)
        groups = average_linkage(means, sizes).cut(n_clusters)
        return ClusterModel(fine, groups)
    points = guided_points(fine, nouns, logit_scale)
    groups = ward_linkage(points, np.bincount(labels)).cut(n_clusters)
    return _whole(_settled(sample, groups[labels]))


def _dense(sample: Float32, least_size: int | None, seed: int) -> Grouping:
    """Groups by density. What is in none is near to centroids of nobody."""
    least = least_size if least_size is not None else round(_LEAST_SHARE * len(sample) ** 0.5)
    groups = hdbscan_clusters(sample, max(_LEAST_DENSE, least))
    inside = groups >= 0
    centroids, owners = [], []
    if inside.any():
        count = int(groups.max()) + 1
        centroids.append(unit_rows(group_sums(sample[inside], groups[inside], count)))
        owners.append(np.arange(count, dtype=np.int32))
    outside = sample[~inside]
    if len(outside):
        if len(outside) > _MOST_POINTS:
            outside = train_centroids(outside, _MOST_POINTS, seed=seed, iterations=_STEPS_OUTSIDE)
        centroids.append(outside)
        owners.append(np.full(len(outside), -1, np.int32))
    return Grouping(ClusterModel(np.concatenate(centroids), np.concatenate(owners)))


def _settled(sample: Float32, groups: Int32) -> Float32:
    """The centroids of the groups of the rows, after some steps of k-means."""
    sums = group_sums(sample, groups, int(groups.max()) + 1)
    lengths = np.linalg.norm(sums, axis=1)
    return settle_centroids(sample, unit_rows(sums[lengths > 0]))


def _whole(centroids: Float32) -> ClusterModel:
    return ClusterModel(centroids, np.arange(len(centroids), dtype=np.int32))


def _without_loose(model: ClusterModel, sample: Float32) -> ClusterModel:
    """Clusters whose images are nearer to another cluster than to each other, on the whole, are
    no groups but what was left over: their centroids belong to none."""
    groups = model.owners[nearest_centroids(sample, model.centroids).labels]
    single = silhouettes(off_mean(sample, mean_row(sample)), groups)
    count = int(model.owners.max()) + 1
    sums = np.bincount(groups, single, minlength=count)
    kept = np.flatnonzero(sums >= 0)
    if not len(kept):
        return model
    numbers = np.full(count, -1, np.int32)
    numbers[kept] = np.arange(len(kept), dtype=np.int32)
    return ClusterModel(model.centroids, numbers[model.owners])


def _of(on_stage: OnStage, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: on_stage(stage, done, total)
