"""``discover``: which groups of images there are in a collection, and what they may be called.

Everything is done on stored vectors. A sample is grouped; one pass over the collection puts
every image into the nearest group, and in one more the images of each vote on its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.background_words import BACKGROUND_TEMPLATE, background_prompts
from clipsearch.cluster_edits import Namer
from clipsearch.cluster_members import with_members
from clipsearch.cluster_model import assign, pieces_of
from clipsearch.cluster_names import name_clusters
from clipsearch.cluster_recipe import HDBSCAN, METHODS, RECIPE, Grouping, OnStage, group_sample
from clipsearch.clusters import (
    Assignment,
    Cluster,
    ClusterModel,
    Discovery,
    DiscoveryFacts,
    SuggestedName,
)
from clipsearch.encoder import Float32
from clipsearch.errors import LabelError, MissingExtraError, OptionError
from clipsearch.generation import Generation
from clipsearch.group_means import group_sums, unit_rows
from clipsearch.half import widen
from clipsearch.manifest import utc_now
from clipsearch.nouns import Vocabulary, read_vocabulary
from clipsearch.prompts import filled
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextVectors
from clipsearch.wordnet import WordNet

_SAMPLE_BYTES = 1 << 28
"""Of float32 vectors that are grouped: 131,072 of 512 numbers."""
_ROWS = 16_384
_NO_IDS = np.empty(0, np.int64)


@dataclass(frozen=True)
class DiscoverSettings:
    """How to group and to name.

    method : one of ``cluster_recipe.METHODS``. n_clusters : at most so many; None for as many as
    the images fall into. least_size : of a cluster; the images of smaller ones, and later images
    like them, are in none; None for 1 where n_clusters is given, else 2. vocabulary : None for
    clusters that are numbered. wordnet : where broader words come from. shared_names : whether
    several clusters may have one name. seed : of what is drawn by chance.
    """

    method: str = RECIPE
    n_clusters: int | None = None
    least_size: int | None = None
    vocabulary: Vocabulary | None = None
    wordnet: WordNet | None = None
    shared_names: bool = False
    seed: int = 0


def discover(
    state: Generation,
    texts: TextVectors,
    settings: DiscoverSettings,
    *,
    allowed: Int64 | None = None,
    where: str | None = None,
    on_stage: OnStage = lambda stage, done, total: None,
) -> Discovery:
    """The clusters of all images, or of those of the (a,) rising ids ``allowed``; none where
    there is no image.

    where : the expression that ``allowed`` comes of, for the record. on_stage : called with what
    is being done, how much of it is done, and of how much.

    Takes memory for a sample of at most 256 MB, as much again to group it, the vocabulary's
    vectors, and some 40 bytes an image.

    Raises OptionError for a method or a number that makes no sense, LabelError for an empty
    vocabulary, and what encoding texts raises.
    """
    if settings.method not in METHODS:
        raise OptionError(f"expected one of {', '.join(METHODS)}, got {settings.method!r}")
    if settings.n_clusters is not None and settings.n_clusters < 1:
        raise OptionError(f"expected 1 or more clusters, got {settings.n_clusters}")
    if settings.method == HDBSCAN and settings.n_clusters is not None:
        raise OptionError("hdbscan finds out itself how many clusters there are: leave out k")
    if settings.least_size is not None and settings.least_size < 1:
        raise OptionError(f"expected clusters of 1 or more images, got {settings.least_size}")
    if settings.seed < 0:
        raise OptionError(f"expected a seed of 0 or more, got {settings.seed}")
    sample, images = _sample(state, allowed, settings.seed)
    nouns = np.empty((0, state.space.dim), np.float32)
    if not images:
        nothing = ClusterModel(nouns, np.empty(0, np.int32))
        found = assign(state.vectors, nothing, allowed=_NO_IDS)
        return Discovery((), found, nothing, _facts(state, settings, None, where))
    if settings.vocabulary is not None:
        on_stage("reading the words", 0, 1)
        nouns = texts.encode(filled(settings.vocabulary.words, BACKGROUND_TEMPLATE))
    grouping = group_sample(
        sample, settings.method, settings.n_clusters, settings.least_size,
        nouns, state.space.logit_scale, seed=settings.seed, images=images, on_stage=on_stage,
    )  # fmt: skip
    del sample
    found = assign(
        state.vectors,
        grouping.model,
        allowed=allowed,
        on_progress=lambda done: on_stage("placing images", done, images),
    )
    least = settings.least_size or (2 if settings.n_clusters is None else 1)
    least = min(least, images)  # of a single image there is a cluster
    model, found = _largest_first(grouping.model, found, least)
    count = int(model.owners.max(initial=-1)) + 1
    discovery = Discovery(
        _clusters(state, found, count), found, model, _facts(state, settings, grouping, where)
    )
    if settings.vocabulary is None or not count:
        return discovery
    names = suggest_names(
        state, texts, discovery, settings.vocabulary, nouns,
        wordnet=settings.wordnet, shared=settings.shared_names, on_stage=on_stage,
    )  # fmt: skip
    clusters = (
        dataclasses.replace(
            cluster,
            name=name.name,
            candidates=name.candidates,
            confidence=name.confidence,
            broader=name.broader,
        )
        for cluster, name in zip(discovery.clusters, names, strict=True)
    )
    return dataclasses.replace(discovery, clusters=tuple(clusters))


def suggest_names(
    state: Generation,
    texts: TextVectors,
    discovery: Discovery,
    vocabulary: Vocabulary,
    nouns: Float32 | None = None,
    *,
    wordnet: WordNet | None = None,
    shared: bool = False,
    on_stage: OnStage = lambda stage, done, total: None,
) -> tuple[SuggestedName, ...]:
    """Names for all clusters of a discovery.

    nouns : (w, dim) float32 unit rows of the vocabulary's words, where they are at hand.
    Raises LabelError for an empty vocabulary, and what encoding texts raises.
    """
    if nouns is None:
        nouns = texts.encode(filled(vocabulary.words, BACKGROUND_TEMPLATE))
    return name_clusters(
        state.vectors,
        discovery.assignment,
        _centres(state, discovery.assignment, len(discovery)),
        vocabulary,
        nouns,
        texts.encode(background_prompts()),
        wordnet=wordnet,
        shared=shared,
        on_progress=lambda done, total: on_stage("naming", done, total),
    )


def namer_of(
    state: Generation, texts: TextVectors, facts: DiscoveryFacts, wordnet: WordNet | None = None
) -> Namer | None:
    """What names clusters that a person split or merged, from the vocabulary that named the
    others; None where none did, or it is not there any more."""
    if facts.vocabulary is None:
        return None
    try:
        vocabulary = read_vocabulary(facts.vocabulary)
    except (LabelError, MissingExtraError):
        return None

    def name(discovery: Discovery, positions: Sequence[int]) -> list[SuggestedName]:
        found = suggest_names(state, texts, discovery, vocabulary, wordnet=wordnet)
        return [found[position] for position in positions]

    return name


def _sample(state: Generation, allowed: Int64 | None, seed: int) -> tuple[Float32, int]:
    """(s, dim) float32 rows drawn from the images, in order of id, and how many images there
    are."""
    ids = np.setdiff1d(state.vectors.ids, state.vectors.deleted, assume_unique=True)
    if allowed is not None:
        ids = np.intersect1d(ids, allowed, assume_unique=True)
    most = max(1, _SAMPLE_BYTES // (4 * state.space.dim))
    drawn = ids
    if len(ids) > most:
        drawn = np.sort(np.random.default_rng([seed, len(ids)]).choice(ids, most, replace=False))
    rows = widen(state.vectors.take_half(drawn)[1])
    if not rows.size:
        return rows, len(ids)
    # Half precision leaves lengths that differ in the third decimal.
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, len(ids)


def _largest_first(
    model: ClusterModel, found: Assignment, least_size: int
) -> tuple[ClusterModel, Assignment]:
    """The same with clusters numbered by falling size; centroids that no image came to are left
    out, and those of too small clusters belong to none."""
    count = int(model.owners.max(initial=-1)) + 1
    sizes = np.bincount(found.clusters[found.clusters >= 0], minlength=count)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= max(1, least_size)]
    numbers = np.full(count + 1, -1, np.int32)  # the last is what -1 takes
    numbers[order] = np.arange(len(order), dtype=np.int32)
    stays = (model.owners < 0) | (np.append(sizes, 1)[model.owners] > 0)
    return (
        ClusterModel(model.centroids[stays], numbers[model.owners[stays]]),
        dataclasses.replace(found, clusters=numbers[found.clusters]),
    )


def _centres(state: Generation, found: Assignment, count: int) -> Float32:
    """(count, dim) float32 unit rows: the direction of the mean of each cluster's images."""
    sums = np.zeros((count, state.space.dim))
    members = found.clusters >= 0
    ids, owners = found.ids[members], found.clusters[members]
    start = 0
    for here, rows in pieces_of(state.vectors, _ROWS, ids):
        part = owners[start : start + len(here)]
        sums += group_sums(widen(rows), part, count)
        start += len(here)
    return unit_rows(sums)


def _clusters(state: Generation, found: Assignment, count: int) -> tuple[Cluster, ...]:
    """The clusters of an assignment, numbered."""
    numbered = [
        Cluster(key, f"cluster {key + 1}", (), 0.0, None, size=0, typical=(), doubtful=())
        for key in range(count)
    ]
    return with_members(numbered, found, state.vectors)


def _facts(
    state: Generation, settings: DiscoverSettings, grouping: Grouping | None, where: str | None
) -> DiscoveryFacts:
    choice = grouping.choice if grouping is not None else None
    return DiscoveryFacts(
        method=settings.method,
        asked=settings.n_clusters,
        criterion=choice.criterion if choice is not None else None,
        curve=choice.curve if choice is not None else (),
        seed=settings.seed,
        vocabulary=settings.vocabulary.name if settings.vocabulary is not None else None,
        index=state.manifest.uuid,
        space=state.space.fingerprint,
        generation=state.manifest.generation,
        next_id=state.manifest.next_id,
        made_at=utc_now(),
        where=where,
    )
