"""Scores of taught labels as probabilities, and how sure those should be."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.records import Int32

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SHARPNESSES = tuple(2 ** (step / 2) for step in range(7))
"""Examples that are left out are labelled a little worse than other images are: that they allow
more certainty is believed, and that they ask for less is not."""
_LEAST_ODDS = 1e-3  # shared by all labels: no probability is nothing at all


def zero_shot_probabilities(cosines: Float64, logit_scale: float) -> Float64:
    """Softmax over the columns of (n, C) cosines, in float64."""
    logits = logit_scale * (cosines - cosines.max(axis=1, keepdims=True))
    odds: Float64 = np.exp(logits)
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def as_probabilities(scores: Float32, sharpness: float = 1.0, has_none: bool = False) -> Float32:
    """Corrected scores (n, C), which may be below 0 or sum to more than 1, as probabilities.

    No score counts for less than a thousandth shared by all labels. They are raised to the power
    ``sharpness`` and sum to 1; with ``has_none`` together with that of none of the labels, whose
    score is what the others lack to 1.
    """
    least = np.float32(_LEAST_ODDS / scores.shape[1])
    odds = np.maximum(scores, least)
    rest = np.maximum(1 - scores.sum(axis=1, keepdims=True), least) if has_none else 0
    if sharpness != 1:
        np.power(odds, np.float32(sharpness), out=odds)
        rest = rest ** np.float32(sharpness)
    odds /= odds.sum(axis=1, keepdims=True) + rest
    return odds


def sharpness_of(left_out: Float32, labels: Int32) -> float:
    """The power that makes scores of examples that were left out the likeliest probabilities of
    their (n,) labels: a regression to the mean is less sure of itself than it could be.

    Labels with one example say nothing about it. Where few examples do, it is near 1.
    """
    known, of_known, counts = np.unique(labels, return_inverse=True, return_counts=True)
    counted = np.flatnonzero(counts[of_known] > 1)
    has_none = bool(known[0] < 0)
    found = []
    for power in SHARPNESSES:
        odds = as_probabilities(left_out[counted], power, has_none).astype(np.float64)
        rest = np.maximum(1 - odds.sum(axis=1, keepdims=True), 1e-12)
        odds = np.concatenate([odds, rest], axis=1)
        likelihood = np.log(odds[np.arange(len(counted)), labels[counted]]).sum()
        found.append((float(math.log2(power) ** 2 - likelihood), power))
    return min(found)[1]


def decided(scores: Float32) -> Int32:
    """The label of each row of (n, C) scores, -1 where none of them has a higher one."""
    best: Int32 = scores.argmax(axis=1).astype(np.int32)
    best[1 - scores.sum(axis=1) > scores.max(axis=1)] = -1
    return best


def right_left_out(left_out: Float32, labels: Int32, before: Bools) -> Bools:
    """(n,) which examples are labelled rightly by what was taught without them.

    left_out : (n, C) scores or probabilities of every example without it. before : (n,) which of
    them zero-shot labels rightly. One that is alone with its label counts as before: nothing of
    the label is left without it, and what the others teach cannot be told from that.
    """
    _, of_known, counts = np.unique(labels, return_inverse=True, return_counts=True)
    right: Bools = np.where(counts[of_known] > 1, decided(left_out) == labels, before)
    return right
