"""Temperature: what logits are divided by so that probabilities are honest.

Temperature scaling (Guo et al. 2017, "On calibration of modern neural networks"): probabilities
are softmax(logits / T), with the T under which the true labels of some images are most likely. No
label changes.

A temperature that was fitted on one set of labels serves others whose names the model knows as
well, and with other templates; for names that it knows badly every model is far too sure of
itself, and one that was fitted on those makes it too doubtful of all others
(benchmarks/calibration.py). So no index has a temperature for its model: a label set has its own,
as soon as it is taught.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from clipsearch.errors import LabelError
from clipsearch.sampling import Float64

COLDEST, HOTTEST = 0.1, 10.0
_PRIOR = 4.0
"""Temperatures are about log-normal around 1 with a spread of 0.5: what that says for few images
is soon outweighed, and right answers alone make no model sure of everything."""


def log_probabilities(logits: npt.ArrayLike, temperature: float = 1.0) -> Float64:
    """(n, C) float64 logarithms of softmax(logits / temperature)."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature under which the labels are most likely, 0.1 to 10.

    logits : (n, C), or logarithms of probabilities, which differ by what cancels. labels : (n,)
    int positions; images of label -1 (none of these) say nothing here and are left out.
    A weak prior keeps few images from leading far away from 1, which it is without any.

    Raises LabelError for shapes that do not fit, a label that is not there, or logits that are
    not finite.
    """
    scores = np.asarray(logits, np.float64)
    truth = np.asarray(labels, np.int64)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise LabelError(
            f"expected logits (n, C) and n labels, got shapes {scores.shape} and {truth.shape}"
        )
    if len(truth) and not -1 <= truth.min() <= truth.max() < scores.shape[1]:
        raise LabelError(f"expected labels below {scores.shape[1]}, got {truth.max()}")
    if not np.isfinite(scores).all():
        raise LabelError("expected finite logits")
    scores, truth = scores[truth >= 0], truth[truth >= 0]
    if not len(truth):
        return 1.0
    scores = scores - scores.max(axis=1, keepdims=True)
    own = scores[np.arange(len(truth)), truth]

    def loss(cold: float) -> float:
        sharpness = math.exp(cold)
        sums = np.log(np.exp(sharpness * scores).sum(axis=1))
        return float((sums - sharpness * own).sum()) + 0.5 * _PRIOR * cold**2

    cold = _lowest(loss, -math.log(HOTTEST), -math.log(COLDEST))
    return float(min(max(math.exp(-cold), COLDEST), HOTTEST))


def _lowest(function: Callable[[float], float], start: float, stop: float) -> float:
    """Where a function of one valley is lowest, to 1e-6: golden section search."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = stop - ratio * (stop - start), start + ratio * (stop - start)
    at_left, at_right = function(left), function(right)
    while stop - start > 1e-6:
        if at_left <= at_right:
            stop, right, at_right = right, left, at_left
            left = stop - ratio * (stop - start)
            at_left = function(left)
        else:
            start, left, at_left = left, right, at_right
            right = start + ratio * (stop - start)
            at_right = function(right)
    return (start + stop) / 2
