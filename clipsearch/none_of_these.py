"""None of these: how far an image belongs to a set of labels at all.

``in_set`` is 0 to 1: S = L / (L + N), where L is the mean of exp(logit_scale * cosine) over the
labels and N that over the negative labels (``negative_labels``): 0.5 where labels fit an image as
well as as many other words do. The paper averages S over random groups of negatives; the mean
over all of them says the same of a group as large as the label set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from clipsearch.background_sums import BackgroundSums, sums_over
from clipsearch.background_words import background_prompts, background_words
from clipsearch.chance_evidence import ChanceEvidence
from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.negative_labels import Bools, negative_words
from clipsearch.none_threshold import FEWEST_IMAGES, evidence_threshold
from clipsearch.scoring import Rows
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextVectors
from clipsearch.vectors import Vectors
from clipsearch.wordnet import find_wordnet

AUTO = "auto"
SAMPLE_IMAGES = 2048
"""How many images the threshold is taken from."""
_ENOUGH = 1000  # images that are labelled to calibrate on them alone
_CHANCES = 8192  # that are drawn at least, however many images there are
_MOST_TAKEN = 0.999  # of the sum over all words, by those that mean a label


class KnownSums(Protocol):
    """What is remembered of images: the logs of their sums over all words. Safe for threads."""

    def of(self, ids: Int64) -> Float32:
        """(n,) float32 of (n,) rising ids of images that are here; nan where not known."""
        ...

    def add(self, ids: Int64, sums: Float32) -> None:
        """What was computed."""
        ...


class KnownParts:
    """``KnownSums`` of a few images, away from what remembers them.

    known : (k,) rising ids and their sums, None for none. found : ids and sums that came since.
    """

    def __init__(self, known: tuple[Int64, Float32] | None = None) -> None:
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        self._ids, self._sums = nothing if known is None else known
        self.found: list[tuple[Int64, Float32]] = []

    def of(self, ids: Int64) -> Float32:
        sums = np.full(len(ids), np.nan, np.float32)
        if len(self._ids):
            places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            here = self._ids[places] == ids
            sums[here] = self._sums[places[here]]
        return sums

    def add(self, ids: Int64, sums: Float32) -> None:
        self.found.append((ids, sums))


class NoneOfThese:
    """How far images belong to a set of labels. Safe for threads.

    threshold : what ``in_set`` has to reach for a label. how : "collection" where the
    collection gave it, "usual" where too few images did, "given". negatives : how many.
    """

    def __init__(
        self,
        state: Generation,
        words: Float32,
        is_negative: Bools,
        labels: int,
        threshold: float,
        how: str,
    ) -> None:
        self.threshold, self.how, self.negatives = threshold, how, int(is_negative.sum())
        self._vectors: Vectors | None = state.vectors
        self._scale = state.space.logit_scale
        self._all = np.ascontiguousarray(words.T)
        self._negatives = np.ascontiguousarray(words[is_negative].T)
        self._others = np.ascontiguousarray(words[~is_negative].T)
        self.known: BackgroundSums | None = BackgroundSums(state, words)
        self._sums_known: KnownSums = self.known
        self._sizes = np.float32(np.log(self.negatives / labels))

    def knowing(self, known: KnownSums) -> NoneOfThese:
        """The same, told away from the collection: rows are always given, and what is remembered
        of images is in ``known``. Can be pickled where that can."""
        away = copy.copy(self)
        away._vectors, away.known, away._sums_known = None, None, known
        return away

    def in_set(self, ids: Int64, rows: Rows | None, evidence: Float32) -> Float32:
        """(n,) float32, 0 to 1.

        ids : (n,) rising ids of images that are here. rows : their (n, dim) unit vectors, None
        to look them up. evidence : (n,) float32, the log of the sum of exp(logit_scale * cosine)
        over the labels.
        """
        odds = evidence - self._against(ids, rows) + self._sizes
        return _logistic(odds.astype(np.float32, copy=False))

    def _against(self, ids: Int64, rows: Rows | None) -> Float32:
        """(n,) the log of the sum of exp(logit_scale * cosine) over the negatives: that over all
        words, less the words that mean a label."""
        every = self._sums_known.of(ids).copy()
        unknown = np.flatnonzero(np.isnan(every))
        if not len(unknown) and not self._others.size:
            return every
        if rows is None:
            assert self._vectors is not None
            rows = self._vectors.take_half(ids)[1]
        if len(unknown):
            every[unknown] = found = self._sums(rows[unknown], self._all)
            self._sums_known.add(ids[unknown], found)
        if not self._others.size:
            return every
        share = np.exp(np.minimum(self._sums(rows, self._others) - every, 0))
        against: Float32 = every + np.log(np.maximum(1 - share, np.float32(1e-6)))
        # Where next to nothing is left, rounding would be most of it.
        little = np.flatnonzero(share > _MOST_TAKEN)
        if len(little):
            against[little] = self._sums(rows[little], self._negatives)
        return against

    def _sums(self, rows: Rows, columns: Float32) -> Float32:
        return sums_over(rows, columns, self._scale)


def none_of_these(
    state: Generation,
    texts: TextVectors,
    names: Sequence[str],
    classes: Float32,
    setting: str | float,
    allowed: Int64 | None = None,
    seed: int = 0,
) -> NoneOfThese:
    """What tells which images have none of the labels.

    names, classes : the C labels and their (C, dim) class vectors. setting : "auto" for a
    threshold that the collection gives (``none_threshold``), or a threshold.
    allowed : the rising ids of the images to be labelled, None for all; the threshold is taken
    from them where they are many, else from the whole collection.

    Raises the errors of ``load_encoder`` where the words are not encoded yet.
    """
    words = texts.encode(background_prompts())
    kept = negative_words(names, classes, background_words(), words, find_wordnet())

    def told_by(threshold: float, how: str) -> NoneOfThese:
        return NoneOfThese(state, words, kept, len(names), threshold, how)

    if setting != AUTO:
        return told_by(float(setting), "given")
    rows = _sample(state.vectors, allowed)
    drawing = ChanceEvidence(classes, words[kept], words.mean(axis=0), state.space.logit_scale)
    times = -(-_CHANCES // max(1, len(rows)))
    evidence, chance = drawing.draw(rows, np.random.default_rng(seed), times)
    # What outweighs all other words together is never none of these.
    threshold = min(0.0, evidence_threshold(evidence, chance))
    reached = 1 / (1 + math.exp(-threshold) * len(names) / kept.sum())
    how = "collection" if len(evidence) >= FEWEST_IMAGES else "usual"
    # Rounded, it does not tell how sums were rounded.
    return told_by(float(f"{reached:.3g}"), how)


def _sample(vectors: Vectors, allowed: Int64 | None) -> Float32:
    """(m, dim) float32 vectors, evenly spread over the images."""
    live = allowed
    if live is None or len(live) < _ENOUGH:
        live = vectors.ids
        if len(vectors.deleted):
            live = np.setdiff1d(live, vectors.deleted, assume_unique=True)
    count = min(SAMPLE_IMAGES, len(live))
    return vectors.take(live[np.arange(count) * len(live) // max(1, count)])[1]


def _logistic(logits: Float32) -> Float32:
    with np.errstate(over="ignore"):  # of what is below -88, 1 / (1 + inf) = 0
        odds = np.exp(-logits, dtype=np.float32)
        odds += 1
        return np.reciprocal(odds, out=odds)
