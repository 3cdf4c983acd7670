"""What ``discover`` finds: groups of images with suggested names.

A *cluster* is a group of images that look alike; a *discovery* is the clusters of a collection
with what it takes to put new images into them. How they come to be is in ``discover``, how they
are kept in ``saved_clusters``.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.shards import Int64


@dataclass(frozen=True)
class NameCandidate:
    """A name that a cluster could have.

    score : the double z-norm of centroid and word, higher is better.
    votes : the share of the cluster's images that it fits better than any candidate of any
    cluster.
    """

    name: str
    score: float
    votes: float


@dataclass(frozen=True)
class SuggestedName:
    """A name for one cluster.

    name : no other cluster has it, unless names may be shared. candidates : the best nouns, the
    one of the name first. confidence : the share of the cluster's images that vote for it.
    broader : see ``broader_words.broader_word``; None without WordNet.
    """

    name: str
    candidates: tuple[NameCandidate, ...]
    confidence: float
    broader: str | None


@dataclass(frozen=True)
class Cluster:
    """A group of images.

    key : unique in its discovery; kept when the cluster is renamed, and never used again.
    candidates : the names suggested for it, best first; none where no vocabulary was asked for.
    confidence : 0 to 1, how far the name can be trusted. broader : a word that covers most of
    what the members were called, where they disagree and WordNet is at hand.
    size : how many images. typical, doubtful : ids of the images that are most, and least,
    like the others; the first of each is the most so.
    by_hand : whether a person chose the name.
    """

    key: int
    name: str
    candidates: tuple[NameCandidate, ...]
    confidence: float
    broader: str | None
    size: int
    typical: tuple[int, ...]
    doubtful: tuple[int, ...]
    by_hand: bool = False


@dataclass(frozen=True)
class ClusterModel:
    """What says which cluster an image belongs to: the nearest centroid's.

    centroids : (m, dim) float32 unit rows. owners : (m,) int32, the position of each centroid's
    cluster among the clusters, -1 for one whose images are to be in none. A cluster of several
    that were merged has several centroids.
    """

    centroids: Float32
    owners: Int32


@dataclass(frozen=True)
class Assignment:
    """Which cluster every image is in.

    ids : (n,) int64, rising. clusters : (n,) int32, positions among the clusters, -1 for none.
    cosines : (n,) float32, to the nearest centroid. margins : (n,) float32, that less the best
    cosine to a centroid of another cluster; nan where there is no other.
    """

    ids: Int64
    clusters: Int32
    cosines: Float32
    margins: Float32

    def __len__(self) -> int:
        return len(self.ids)

    def members(self, position: int) -> Int64:
        """The (m,) rising ids of the images of a cluster."""
        found: Int64 = self.ids[self.clusters == position]
        return found


@dataclass(frozen=True)
class DiscoveryFacts:
    """How a discovery came to be.

    method : "recipe", "kmeans", "agglomerative" or "hdbscan". asked : how many clusters were
    asked for, None for as many as there are by ``criterion``, of which ``curve`` has (k, value).
    vocabulary : what the names were taken from, None for nothing.
    index, space : uuid and fingerprint. generation, next_id : of the index at that time.
    where : the expression of those images that were looked at, None for all.
    """

    method: str
    asked: int | None
    criterion: str | None
    curve: tuple[tuple[int, float], ...]
    seed: int
    vocabulary: str | None
    index: str
    space: str
    generation: int
    next_id: int
    made_at: str
    where: str | None = None


@dataclass(frozen=True)
class Discovery:
    """The clusters of a collection, the largest first, and which of them every image is in."""

    clusters: tuple[Cluster, ...]
    assignment: Assignment
    model: ClusterModel
    facts: DiscoveryFacts

    def __len__(self) -> int:
        """How many clusters there are."""
        return len(self.clusters)
