"""Groups of images to vote on labels together: alike to the eye, and by what the labels say."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from clipsearch.clusters import Assignment
from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.scoring import best_labels
from clipsearch.shards import Int64
from clipsearch.vectors import Vectors

MOST_GROUPS = 1000
"""Of many images groups are larger than asked for, so that finding them stays cheap."""

_MOST_SUMS = 1 << 24
_SAMPLE, _LEAST_SAMPLE = 16, 8192  # images a group, to find the groups by
_STEPS = 10
_TEXT_SHARPNESS = 2.0
"""Of the text side, in logit scales: 200 where that is 100 (TAC: Li et al., "Image Clustering
with External Guidance", ICML 2024)."""

NO_GROUP = -1


class Groups(Protocol):
    """Tells which group an image is in. Safe for threads."""

    @property
    def count(self) -> int:
        """How many groups there are."""
        ...

    def find(self, ids: Int64, vectors: Float32, probabilities: Float32) -> Int32:
        """(n,) int32 groups, NO_GROUP for none, of (n,) rising ids, their (n, dim) vectors and
        their (n, C) probabilities of the labels."""
        ...


class GivenGroups:
    """The clusters of an ``Assignment``, as a discovery has them."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self.count = int(assignment.clusters.max(initial=-1)) + 1

    def find(self, ids: Int64, vectors: Float32, probabilities: Float32) -> Int32:
        """See ``Groups``; an image that nobody assigned is in none."""
        known = self._assignment.ids
        groups = np.full(len(ids), NO_GROUP, np.int32)
        if len(known):
            places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            here = known[places] == ids
            groups[here] = self._assignment.clusters[places[here]]
        return groups


class LabelGroups:
    """The nearest of some centroids to an image beside its text side: the mean of the labels'
    class vectors, each weighed by how well it fits.

    classes : (C, dim) float32 unit rows. centroids : (m, 2 dim) float32 unit rows.
    """

    def __init__(self, classes: Float32, centroids: Float32) -> None:
        self._classes = classes
        self._columns = np.ascontiguousarray(centroids.T)
        self.count = len(centroids)

    def find(self, ids: Int64, vectors: Float32, probabilities: Float32) -> Int32:
        """See ``Groups``."""
        features = _with_text_side(vectors, probabilities, self._classes)
        groups: Int32 = best_labels(features @ self._columns, 1)[0][:, 0]
        return groups


def label_groups(
    vectors: Vectors,
    classes: Float32,
    logit_scale: float,
    group_images: int,
    *,
    allowed: Int64 | None = None,
    seed: int = 0,
) -> LabelGroups:
    """Find groups of about ``group_images`` images, and not more than ``MOST_GROUPS`` groups, by
    spherical k-means over a sample of all images, or of the rising ids ``allowed``.

    There must be an image.
    """
    from clipsearch.spherical_kmeans import train_centroids

    ids = np.setdiff1d(vectors.ids, vectors.deleted, assume_unique=True)
    if allowed is not None:
        ids = np.intersect1d(ids, allowed, assume_unique=True)
    most = max(1, min(MOST_GROUPS, _MOST_SUMS // len(classes)))
    count = max(1, min(most, round(len(ids) / group_images)))
    size = max(_LEAST_SAMPLE, _SAMPLE * count)
    if len(ids) > size:
        ids = np.sort(np.random.default_rng(seed).choice(ids, size, replace=False))
    features = np.empty((len(ids), 2 * vectors.dim), np.float32)
    done = 0
    rows = max(16, _MOST_SUMS // 4 // len(classes))
    for _, block in vectors.blocks_of(ids, min(rows, 4096)):
        odds = probabilities_of(block @ classes.T, logit_scale)
        features[done : done + len(block)] = _with_text_side(block, odds, classes)
        done += len(block)
    return LabelGroups(classes, train_centroids(features, count, seed=seed, iterations=_STEPS))


def probabilities_of(cosines: Float32, logit_scale: float) -> Float32:
    """(n, C) softmax of (n, C) cosines at the model's logit scale."""
    odds: Float32 = cosines - cosines.max(axis=1, keepdims=True)
    odds *= np.float32(logit_scale)
    np.exp(odds, out=odds)
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def _with_text_side(vectors: Float32, probabilities: Float32, classes: Float32) -> Float32:
    """(n, 2 dim) float32 unit rows: the image, and what the labels say of it."""
    # A softmax twice as sharp is the squares of the probabilities; lengths do not matter.
    text = probabilities**_TEXT_SHARPNESS @ classes
    text /= np.maximum(np.linalg.norm(text, axis=1, keepdims=True), 1e-12)
    features: Float32 = np.concatenate([vectors, text], axis=1)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return features
