"""Negative labels: words that an image may show in place of the labels that are asked for.

An image belongs to a set of labels where they fit it better than other words do (NegLabel;
`Jiang et al. 2024 <https://arxiv.org/abs/2403.20078>`_). The other words are the everyday ones
of ``background_words``, whose vectors are there since the images were indexed, without those
that mean the same as a label: told by their vectors, and where WordNet is on disk also by being
broader or narrower than a label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.wordnet import WordNet

Bools = npt.NDArray[np.bool_]

SAME = 0.6
"""The cosine, of text vectors less the mean of all words, from which a word means a label."""
FEWEST = 100
"""So many words, the farthest from the labels, are negatives whatever they mean."""
_MOST_LOOKED_UP = 2000  # labels: of more than that nearly every word is broader than one
_WORD_SENSES = 1  # of an everyday word: its commonest meaning
_LABEL_SENSES = 2


def negative_words(
    names: Sequence[str],
    classes: Float32,
    words: Sequence[str],
    vectors: Float32,
    wordnet: WordNet | None = None,
) -> Bools:
    """Which of w words are negatives of the C labels: (w,) bool, at least ``FEWEST`` of them.

    names, classes : the labels and their (C, dim) float32 unit vectors. words, vectors : the
    words and their (w, dim) float32 unit vectors. wordnet : to leave out what is broader or
    narrower than a label, too. Files of WordNet that turn out to be damaged say nothing.
    """
    nearness = _nearness(classes, vectors)
    means_label = nearness >= SAME
    if wordnet is not None and len(names) <= _MOST_LOOKED_UP:
        means_label |= _kin(wordnet, names, words)
    # Of equals the first words stay.
    farthest = np.argsort(nearness, kind="stable")[:FEWEST]
    means_label[farthest] = False
    return ~means_label


def centred(vectors: Float32, mean: Float32) -> Float32:
    """(n, dim) unit rows less ``mean`` (dim,), of unit length again. All texts of a model have
    something in common; without it their cosines say which mean the same."""
    rows = vectors - mean
    unit: Float32 = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit


def _nearness(classes: Float32, vectors: Float32) -> Float32:
    """(w,) of each word the highest centred cosine to a label."""
    mean = vectors.mean(axis=0)
    highest: Float32 = (centred(vectors, mean) @ centred(classes, mean).T).max(axis=1)
    return highest


def _kin(wordnet: WordNet, names: Sequence[str], words: Sequence[str]) -> Bools:
    """Which words are broader or narrower than a label, or are one."""
    try:
        labels = {sense for name in names for sense in wordnet.senses(name)[:_LABEL_SENSES]}
        broader = {above for sense in labels for above in wordnet.ancestors(sense)}
        return np.array(
            [
                any(
                    sense in broader or not labels.isdisjoint(wordnet.ancestors(sense))
                    for sense in wordnet.senses(word)[:_WORD_SENSES]
                )
                for word in words
            ],
            bool,
        )
    except LabelError:
        return np.zeros(len(words), bool)
