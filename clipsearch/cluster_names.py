"""Names for clusters: the nouns that fit them best, no two alike, and how far they can be trusted.

Each cluster has several candidates, by the double z-norm of its centroid and every noun
(``noun_scores``). Then the images vote: each for the noun that fits it best, among the
candidates of all clusters. Of two nouns that fit a centroid alike the one with more votes
becomes the name, and a cluster whose images agree has a name to rely on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.broader_words import broader_word
from clipsearch.cluster_matching import best_matching
from clipsearch.cluster_model import Piece, pieces_of
from clipsearch.clusters import Assignment, NameCandidate, SuggestedName
from clipsearch.encoder import Float32, Float64
from clipsearch.errors import LabelError
from clipsearch.half import widen
from clipsearch.noun_scores import NounScores
from clipsearch.nouns import Vocabulary
from clipsearch.shards import Int64
from clipsearch.threads import in_order, single_threaded_blas
from clipsearch.vectors import Vectors
from clipsearch.wordnet import WordNet

CANDIDATES = 3
"""How many names are suggested for a cluster, where the vocabulary has so many."""
# What being an everyday word, and having all of the votes, are worth, in z2: little beside a
# good fit, much between equals.
_FAMILIARITY, _ALL_VOTES = 1.0, 1.0
_CONSIDERED = 20  # nouns of each cluster that it may be called by
_STANDING = 5  # of these, those that the images of all clusters may vote for
_VOTERS = 200_000  # of a larger collection every n-th image votes
_NUMBERS_PER_BLOCK = 1 << 21
_LEAST_ROWS, _MOST_ROWS = 16, 2048
_NEVER = -1e6


@dataclass(frozen=True)
class _Ranking:
    """Nouns of each of c clusters, best first: (c, t) positions in the vocabulary, scores,
    shares of the votes, and what they are ranked by, -inf for a noun that did not stand."""

    nouns: Int64
    scores: Float32
    votes: Float64
    worth: Float64


def name_clusters(
    vectors: Vectors,
    assignment: Assignment,
    centres: Float32,
    vocabulary: Vocabulary,
    nouns: Float32,
    background: Float32,
    *,
    wordnet: WordNet | None = None,
    shared: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[SuggestedName, ...]:
    """A name for each of c clusters.

    centres : (c, dim) float32 unit rows, the direction of the mean of each cluster's images.
    nouns : (w, dim) likewise, of the vocabulary's words; background : (b, dim), of the
    background words. wordnet : where broader words are looked up; None for none, and none where
    it turns out to be damaged, which its ``damage`` tells then. shared : two
    clusters may have the same name; else the names are given out so that they fit best in sum,
    and where there are too few, numbered. on_progress : how many images have voted, of how many.

    Raises LabelError for a vocabulary of no words.
    """
    if not len(vocabulary):
        raise LabelError("the vocabulary is empty: expected at least one word to call clusters by")
    if not len(centres):
        return ()
    preference = np.zeros(len(vocabulary), np.float32)
    if vocabulary.familiarity:
        preference += np.float32(_FAMILIARITY) * np.asarray(vocabulary.familiarity, np.float32)
    with single_threaded_blas():  # the same sums whatever the number of threads
        scores = NounScores(centres, nouns, background, preference)
        best, values = scores.best(centres, min(_CONSIDERED, len(vocabulary)))
        standing = np.unique(best[:, :_STANDING])
        shares = _vote_shares(vectors, assignment, scores, standing, len(centres), on_progress)
    ranking = _ranking(best, values, standing, shares)
    places = np.zeros(len(best), np.int64) if shared else _given_out(ranking)
    chosen = np.take_along_axis(ranking.nouns, np.maximum(places, 0)[:, None], axis=1)[:, 0]
    names = _names([vocabulary.words[noun] for noun in chosen.tolist()], places.tolist())
    found = []
    for row, name in enumerate(names):
        first = max(0, int(places[row]))
        candidates = tuple(
            NameCandidate(
                vocabulary.words[ranking.nouns[row, place]],
                float(ranking.scores[row, place]),
                float(ranking.votes[row, place]),
            )
            for place in [first, *(p for p in range(best.shape[1]) if p != first)][:CANDIDATES]
        )
        broader = None
        if wordnet is not None and wordnet.damage is None:
            with contextlib.suppress(LabelError):
                broader = broader_word(wordnet, _votes_of(vocabulary, standing, shares[row]))
        if broader is not None and broader.casefold() == candidates[0].name.casefold():
            broader = None
        found.append(SuggestedName(name, candidates, candidates[0].votes, broader))
    return tuple(found)


def _vote_shares(
    vectors: Vectors,
    assignment: Assignment,
    scores: NounScores,
    standing: Int64,
    clusters: int,
    on_progress: Callable[[int, int], None] | None,
) -> Float64:
    """(clusters, standing): the share of each cluster's images that each noun fits best."""
    voting = scores.only(standing)
    members = assignment.clusters >= 0
    ids, owners = assignment.ids[members], assignment.clusters[members]
    every = max(1, -(-len(ids) // _VOTERS))
    ids, owners = ids[::every], owners[::every]
    rows = max(_LEAST_ROWS, min(_MOST_ROWS, _NUMBERS_PER_BLOCK // len(standing)))
    counts = np.zeros((clusters, len(standing)), np.int64)
    done = 0

    def vote(piece: Piece) -> tuple[Int64, Int64]:
        return piece[0], voting.of(widen(piece[1])).argmax(axis=1)

    for here, favourites in in_order(vote, pieces_of(vectors, rows, ids)):
        np.add.at(counts, (owners[np.searchsorted(ids, here)], favourites), 1)
        done += len(here)
        if on_progress is not None:
            on_progress(done, len(ids))
    shares: Float64 = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def _ranking(best: Int64, values: Float32, standing: Int64, shares: Float64) -> _Ranking:
    columns = np.minimum(np.searchsorted(standing, best), len(standing) - 1)
    stood = standing[columns] == best
    votes = np.where(stood, np.take_along_axis(shares, columns, axis=1), 0.0)
    worth = np.where(stood, values + _ALL_VOTES * votes, -np.inf)
    order = np.argsort(-worth, axis=1, kind="stable")
    return _Ranking(
        nouns=np.take_along_axis(best, order, axis=1),
        scores=np.take_along_axis(values, order, axis=1),
        votes=np.take_along_axis(votes, order, axis=1),
        worth=np.take_along_axis(worth, order, axis=1),
    )


def _given_out(ranking: _Ranking) -> Int64:
    """Which of its nouns each cluster is called by, so that no two have the same and their worth
    in sum is largest; -1 for a cluster that is left with none."""
    nouns, columns = np.unique(ranking.nouns, return_inverse=True)
    columns = columns.reshape(ranking.nouns.shape)
    matrix = np.full((len(columns), len(nouns)), _NEVER)
    np.put_along_axis(matrix, columns, np.maximum(ranking.worth, _NEVER), axis=1)
    places = np.full(len(columns), -1, np.int64)
    rows, matched = best_matching(matrix)
    for row, column in zip(rows.tolist(), matched.tolist(), strict=True):
        if matrix[row, column] > _NEVER:
            places[row] = int(np.flatnonzero(columns[row] == column)[0])
    return places


def _names(words: Sequence[str], places: Sequence[int]) -> list[str]:
    """The words as names; a cluster that was left with none has its best word and a number."""
    taken = {word.casefold() for word, place in zip(words, places, strict=True) if place >= 0}
    names = []
    for word, place in zip(words, places, strict=True):
        name, number = word, 1
        while place < 0 and name.casefold() in taken:
            number += 1
            name = f"{word} {number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _votes_of(
    vocabulary: Vocabulary, standing: Int64, shares: Float64
) -> list[tuple[str, int | None, float]]:
    voted = np.flatnonzero(shares)
    meanings = vocabulary.synsets or (None,) * len(vocabulary)
    return [
        (vocabulary.words[noun], meanings[noun], float(share))
        for noun, share in zip(standing[voted].tolist(), shares[voted].tolist(), strict=True)
    ]
