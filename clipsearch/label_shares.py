"""How often each label of a set is there, going by labels that nobody has checked.

Asked for many labels, a collection shows some of them often, some rarely and some not at all; the
probabilities of its images say how often, far better than counting their best labels does. The
shares that make the images most likely are found by expectation and maximisation (Saerens,
Latinne and Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
Neural Computation 2002).

To label by such shares helps where few of the labels are there, and takes from the rare ones
where many are (benchmarks/adapt.py): ``estimate_shares`` tells which it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.abstaining import Abstention
from clipsearch.encoder import Float32
from clipsearch.scoring import LabelScorer
from clipsearch.shards import Int64
from clipsearch.threads import in_order, single_threaded_blas
from clipsearch.vectors import Vectors

FEW_LABELS = 1 / 3
"""Of the labels, as many as may be there, counted as if each were there as often."""

EVEN_SHARE = 0.1
"""Of all images, those that are taken to have any label alike: no label is ever ruled out."""

TRUST = 0.5
"""How much of the shares (of their logarithms) labels go by: half of them takes far less from
rare labels than all of them, and keeps more than half of what they give."""

MOST_GROWTH = 3.0
"""How many times its images a label may get; growing more, it is one that fits anything."""
_WORTH_A_LOOK = 0.05, 10  # a label's share of the images, and their number

_MOST_IMAGES, _MOST_NUMBERS = 65_536, 1 << 25
_NUMBERS_PER_BLOCK = 1 << 20
_ROWS_AT_ONCE = 4096
_MOST_STEPS = 1000
_SETTLED = 1e-6  # of all images
_SURE = 1e-6

ADAPTED = "adapted"
FEW_IMAGES, MANY_THERE, ONE_GROWS = "few images", "many there", "one grows"

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LabelShares:
    """How often the C labels are there.

    shares : (C,) float64, sum to 1, of the images that show one of the labels; even ones where
        ``outcome`` is another than ADAPTED.
    there : how many labels are there, each counted as if all were there as often: exp of the
        entropy of the shares that fit best; nan where there are too few images to tell.
    images : how many were looked at, a sample where they are many; none : the share of them
        that shows none of the labels.
    outcome : ADAPTED, or why the shares are even: FEW_IMAGES (fewer than labels), MANY_THERE
        (more than ``FEW_LABELS``), ONE_GROWS (see ``MOST_GROWTH``).
    """

    shares: Float64
    there: float
    images: int
    none: float
    outcome: str

    def log_odds(self) -> Float64:
        """(C,) what is added to logits: ``TRUST`` in the logarithm of how much likelier than an
        even share each label was beforehand."""
        return TRUST * np.log(self.shares * len(self.shares))


def estimate_shares(
    vectors: Vectors,
    classes: Float32,
    logit_scale: float,
    *,
    none: Abstention | None = None,
    allowed: Int64 | None = None,
    seed: int = 0,
) -> LabelShares:
    """Find how often the labels of (C, dim) unit ``classes`` are there, over all images or those
    of the rising ids ``allowed``.

    none : tells which images show none of the labels; without it they blur the shares.
    seed : of the sample that many images are drawn to; memory is 128 MB at the most.
    """
    ids = np.setdiff1d(vectors.ids, vectors.deleted, assume_unique=True)
    if allowed is not None:
        ids = np.intersect1d(ids, allowed, assume_unique=True)
    count = len(classes)
    most = max(1, min(_MOST_IMAGES, _MOST_NUMBERS // count))
    if len(ids) > most:
        ids = np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))
    even = np.full(count, 1 / count)
    if len(ids) < count:
        return LabelShares(even, float("nan"), len(ids), 0.0, FEW_IMAGES)
    with single_threaded_blas():
        likely = _likelihoods(vectors, ids, classes, logit_scale, none)
        fitted = fitted_shares(likely)
        without = float(fitted[count:].sum())
        fitted = fitted[:count] / fitted[:count].sum()
        there, showing = effective_number(fitted), len(ids) * (1 - without)
        if showing < count:
            return LabelShares(even, float("nan"), len(ids), without, FEW_IMAGES)
        if there > FEW_LABELS * count:
            return LabelShares(even, there, len(ids), without, MANY_THERE)
        # Of few images none can be sure of a share: half an image a label is even (Jeffreys).
        evened = max(EVEN_SHARE, count / (count + 2 * showing))
        shares = (1 - evened) * fitted + evened / count
        found = LabelShares(shares, there, len(ids), without, ADAPTED)
        if _one_grows(likely[:, :count], found):
            found = LabelShares(even, there, len(ids), without, ONE_GROWS)
    return found


def fitted_shares(likely: Float32) -> Float64:
    """(C,) shares that make images most likely; (n, C) ``likely`` tells how much more likely
    each image is under one label than under another, n >= 1."""
    count = likely.shape[1]
    shares = np.full(count, 1 / count)
    for _ in range(_MOST_STEPS):
        each = likely @ shares.astype(np.float32)
        found = shares * ((1 / each) @ likely)
        found /= found.sum()
        moved = float(np.abs(found - shares).max())
        shares = found
        if moved < _SETTLED:
            break
    return shares


def effective_number(shares: Float64) -> float:
    """How many labels there are, each counted as if all were there as often."""
    some = shares[shares > 0]
    return float(np.exp(-(some * np.log(some)).sum()))


def _likelihoods(
    vectors: Vectors, ids: Int64, classes: Float32, logit_scale: float, none: Abstention | None
) -> Float32:
    """(n, C) float32, the best label of each image 1; and with ``none`` one column more, for
    none of the labels."""
    columns = np.ascontiguousarray(classes.T)
    scale = np.float32(logit_scale)
    scorer = LabelScorer(classes, logit_scale)

    def likely(part: Int64) -> Float32:
        found, rows = vectors.take(part)
        odds: Float32 = rows @ columns
        odds -= odds.max(axis=1, keepdims=True)
        odds *= scale
        np.exp(odds, out=odds)
        if none is None:
            return odds
        in_set = none.told(scorer.score(found, rows), rows).in_set
        assert in_set is not None
        # An image at the threshold is as likely under none of them as under one of them.
        against = _odds(none.rule.threshold) / _odds(in_set)
        outside = odds.mean(axis=1) * against.astype(np.float32)
        return np.concatenate([odds, outside[:, None]], axis=1)

    size = max(16, min(scorer.block_rows, _NUMBERS_PER_BLOCK // max(classes.shape)))
    parts = (ids[start : start + size] for start in range(0, len(ids), size))
    found = np.empty((len(ids), len(classes) + (none is not None)), np.float32)
    done = 0
    for block in in_order(likely, parts):
        found[done : done + len(block)] = block
        done += len(block)
    return found


def _odds(chance: float | Float32) -> Float64:
    kept = np.clip(np.asarray(chance, np.float64), _SURE, 1 - _SURE)
    return kept / (1 - kept)


def _one_grows(likely: Float32, found: LabelShares) -> bool:
    """Whether a label that is no small one takes what many others had."""
    count = likely.shape[1]
    before, after = np.zeros(count, np.int64), np.zeros(count, np.int64)
    weights = np.exp(found.log_odds()).astype(np.float32)
    for start in range(0, len(likely), _ROWS_AT_ONCE):
        part = likely[start : start + _ROWS_AT_ONCE]
        before += np.bincount(part.argmax(axis=1), minlength=count)
        after += np.bincount((part * weights).argmax(axis=1), minlength=count)
    share, number = _WORTH_A_LOOK
    is_large = after >= max(number, share * len(likely))
    return bool((is_large & (after > MOST_GROWTH * before)).any())
