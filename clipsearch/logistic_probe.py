"""A logistic probe that begins at the text: for labels with many examples.

Every label has a vector w_k, which begins at its class vector t_k over a temperature T (the one
that suits zero-shot best on the examples) and is pulled to it:

    mean over the examples of -log softmax(logit_scale * W f)_y + mu / 2 * sum_k |w_k - t_k / T|^2

(the text-anchored linear probe: Silva-Rodriguez et al., "A Closer Look at the Few-Shot
Adaptation of Large Vision-Language Models", CVPR 2024; Huang et al., "LP++", CVPR 2024). How
strong the pull is, and whether to leave the text as it is, is the choice that has the least
squared error on examples that were left out, a fifth at a time.

Images that are examples of none of the labels have a vector of their own, pulled to zero, and a
bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.kernel_residual import TEMPERATURES
from clipsearch.records import Int32
from clipsearch.taught_odds import zero_shot_probabilities

Float64 = npt.NDArray[np.float64]

PULLS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_FOLDS = 5
_MOST_STEPS = 100


@dataclass(frozen=True)
class LogisticProbe:
    """A probe, and how well it did.

    weights : (C, dim) float32, or (C + 1, dim) with a last row for none of the labels; (0, dim)
    where the text was best left as it is. bias : of the last row. pull : mu.
    temperature : T. It is in the weights already.
    left_out : (n, C) float32 probabilities of every example by a probe without it.
    """

    weights: Float32
    bias: float
    pull: float
    temperature: float
    left_out: Float32


def logistic_probe(
    classes: Float32, logit_scale: float, rows: Float32, labels: Int32
) -> LogisticProbe:
    """Fit a probe.

    classes : (C, dim) unit class vectors. rows : (n, dim) unit vectors of the examples, n >= 1.
    labels : (n,), -1 for an example that has none of the labels.
    """
    wide, vectors = rows.astype(np.float64), classes.astype(np.float64)
    count = len(classes)
    has_none = bool((labels < 0).any())
    targets = np.where(labels < 0, count, labels)
    truth = np.zeros((len(labels), count + has_none))
    truth[np.arange(len(labels)), targets] = 1
    cosines = wide @ vectors.T

    best = None
    for temperature in TEMPERATURES:
        odds = np.zeros_like(truth)
        odds[:, :count] = zero_shot_probabilities(cosines, logit_scale / temperature)
        error = float(np.sum((odds - truth) ** 2))
        if best is None or error < best[0]:
            best = (error, 0.0, temperature, odds)
    assert best is not None
    temperature, plain = best[2], best[3]
    anchors = np.zeros((truth.shape[1], vectors.shape[1]))
    anchors[:count] = vectors / temperature
    bias = np.zeros(len(anchors))
    if has_none:
        # Before anything is learned, none of them is as probable as the label of an image that
        # is as near to its label as half of the examples are.
        bias[-1] = logit_scale / temperature * float(np.median(cosines.max(axis=1)))
    fold = _folds(targets)
    starts: list[Float64] = [np.zeros(anchors.size + 1)] * _FOLDS
    for pull in reversed(PULLS):  # a weaker pull begins where the stronger has come to
        odds = plain.copy()
        for part in range(_FOLDS):
            out = fold == part
            if not out.any() or out.all():
                continue
            starts[part] = _fit(
                anchors, bias, logit_scale, wide[~out], truth[~out], pull, starts[part]
            )
            moved, by = _parts(starts[part], anchors, bias)
            odds[out] = _softmax(logit_scale * wide[out] @ moved.T + by)
        error = float(np.sum((odds - truth) ** 2))
        if error < best[0]:
            best = (error, pull, temperature, odds)
    _, pull, _, odds = best
    left_out = odds[:, :count].astype(np.float32)
    if pull == 0:
        empty = np.empty((0, classes.shape[1]), np.float32)
        return LogisticProbe(empty, 0.0, 0.0, temperature, left_out)
    start = np.zeros(anchors.size + 1)
    moved, by = _parts(_fit(anchors, bias, logit_scale, wide, truth, pull, start), anchors, bias)
    weights, of_none = moved.astype(np.float32), float(by[-1]) * has_none
    return LogisticProbe(weights, of_none, pull, temperature, left_out)


def _fit(
    anchors: Float64,
    bias: Float64,
    logit_scale: float,
    rows: Float64,
    truth: Float64,
    pull: float,
    start: Float64,
) -> Float64:
    """The moves of all vectors from their anchors, flat, and of the last bias from its."""
    from scipy.optimize import minimize
    from threadpoolctl import ThreadpoolController

    # SciPy brings a BLAS of its own, whose threads cost more than its small steps are worth.
    blas = ThreadpoolController()
    of_scipy = [pool.filepath for pool in blas.lib_controllers if "scipy" in pool.filepath]

    has_bias = bool(bias[-1])

    def loss(flat: Float64) -> tuple[float, Float64]:
        moved, by = _parts(flat, anchors, bias)
        logits = logit_scale * rows @ moved.T + by
        logits -= logits.max(axis=1, keepdims=True)
        sums = np.log(np.exp(logits).sum(axis=1))
        value = np.mean(sums - np.sum(logits * truth, axis=1))
        wrong = (np.exp(logits - sums[:, None]) - truth) / len(rows)
        moves = flat[:-1]
        slope = logit_scale * (wrong.T @ rows).ravel() + pull * moves
        of_bias = wrong[:, -1].sum() if has_bias else 0.0
        return float(value + pull / 2 * moves @ moves), np.append(slope, of_bias)

    with blas.select(filepath=of_scipy).limit(limits=1):
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _MOST_STEPS})
    result: Float64 = found.x
    return result


def _parts(flat: Float64, anchors: Float64, bias: Float64) -> tuple[Float64, Float64]:
    moved = bias.copy()
    moved[-1] += flat[-1]
    return anchors + flat[:-1].reshape(anchors.shape), moved


def _softmax(logits: Float64) -> Float64:
    odds: Float64 = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def _folds(targets: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
    """(n,) folds: of every label the examples are dealt out in turn, so are the labels."""
    order = np.argsort(targets, kind="stable")
    folds = np.empty(len(targets), np.intp)
    folds[order] = np.arange(len(targets)) % _FOLDS
    return folds
