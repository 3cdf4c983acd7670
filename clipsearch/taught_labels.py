"""Labels that have been taught: a label set corrected by a handful of examples.

``teach`` turns examples, which are images of the index with the labels they have, into a
``Taught``: the zero-shot labels as they are, corrected by ``kernel_residual``, or, with many
examples, by ``logistic_probe``. It takes no encoder and no seed, and the same examples give the
same ``Taught``: it is quicker made again than kept. ``TaughtScorer`` labels images by it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.kernel_residual import MOST_EXAMPLES, kernel_residual, spread
from clipsearch.logistic_probe import logistic_probe
from clipsearch.records import Int32
from clipsearch.scoring import Rows
from clipsearch.taught_odds import (
    Bools,
    as_probabilities,
    right_left_out,
    sharpness_of,
    zero_shot_probabilities,
)
from clipsearch.taught_scoring import KERNEL, PROBE, ZERO_SHOT, Taught, TaughtScorer, float32
from clipsearch.threads import single_threaded_blas

__all__ = ["KERNEL", "METHODS", "PROBE", "ZERO_SHOT", "Taught", "TaughtScorer", "teach"]

METHODS = ("auto", ZERO_SHOT, KERNEL, PROBE)

PROBE_EXAMPLES, FEWEST_PROBE_EXAMPLES = 20, 5
"""Examples of a label, on the average and at the least, from which the probe is tried: labels
without any it forgets."""


def teach(
    classes: Float32,
    logit_scale: float,
    rows: Rows,
    labels: Int32,
    *,
    method: str = "auto",
    typical: Float32 | None = None,
) -> Taught:
    """Learn from examples.

    classes : (C, dim) unit class vectors. rows : (n, dim) unit vectors of the examples, fp16 or
    float32; n may be 0. labels : (n,) positions in the classes, -1 for an example that has none
    of them.
    method : "auto" takes what does best on examples that are left out, "zero-shot" where that
    does; "kernel" and "probe" too take "zero-shot" rather than a correction that does worse.
    "probe" is of use only where all labels have examples, and then no better than "kernel" as a
    rule, but its time does not grow with their number.
    typical : (m, dim) unit vectors of images spread over the collection, such as
    ``searching.sample_rows`` gives; without them less is known of what a correction does to
    images that are no examples.

    Raises OptionError for another method, ValueError for labels or rows that do not fit.
    """
    if method not in METHODS:
        raise OptionError(f"expected one of {', '.join(METHODS)}, got {method!r}")
    labels = np.asarray(labels, np.int32)
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or rows.shape[1] != classes.shape[1]:
        raise ValueError(f"expected {classes.shape[1]} numbers and a label for every example")
    if len(labels) and not -1 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"expected labels from -1 to {len(classes) - 1}")
    examples = float32(rows)
    if method == ZERO_SHOT or not len(labels):
        return _zero_shot(classes, logit_scale, examples, labels)
    counts = np.bincount(labels[labels >= 0], minlength=len(classes))
    enough = counts.mean() >= PROBE_EXAMPLES and counts.min() >= FEWEST_PROBE_EXAMPLES
    many = len(labels) > MOST_EXAMPLES
    with single_threaded_blas():  # sums do not depend on how many threads there are
        tried = []
        if method == PROBE or (method == "auto" and enough):
            tried.append(_probe(classes, logit_scale, examples, labels))
        if method == KERNEL or (method == "auto" and not (many and enough)):
            tried.append(_kernel(classes, logit_scale, examples, labels, typical))
    # What a correction was chosen by need not be all of the examples.
    sound = [taught for taught in tried if taught.right_after >= taught.right_before]
    if not sound:
        return _zero_shot(classes, logit_scale, examples, labels)
    return min(reversed(sound), key=lambda taught: _error(taught, labels))


def _zero_shot(
    classes: Float32, logit_scale: float, rows: Float32, labels: Int32, temperature: float = 1.0
) -> Taught:
    with single_threaded_blas():
        cosines = rows.astype(np.float64) @ classes.astype(np.float64).T
    odds = zero_shot_probabilities(cosines, logit_scale / temperature)
    right: Bools = cosines.argmax(axis=1) == labels
    return Taught(
        method=ZERO_SHOT,
        temperature=temperature,
        beta=0.0,
        examples=len(labels),
        has_none=bool((labels < 0).any()),
        right_before=int(right.sum()),
        right=right,
        left_out=as_probabilities(odds.astype(np.float32), 1.0, bool((labels < 0).any())),
        centres=rows[:0],
        weights=np.empty((0, len(classes)), np.float32),
    )


def _kernel(
    classes: Float32, logit_scale: float, rows: Float32, labels: Int32, typical: Float32 | None
) -> Taught:
    shown = spread(labels, MOST_EXAMPLES)
    found = kernel_residual(classes, logit_scale, rows[shown], labels[shown], typical)
    if not len(found.weights):
        return _zero_shot(classes, logit_scale, rows, labels, found.temperature)
    has_none = bool((labels < 0).any())
    before = _right_before(classes, rows, labels)
    taught = Taught(
        method=KERNEL,
        temperature=found.temperature,
        beta=found.beta,
        examples=len(labels),
        has_none=has_none,
        right_before=int(before.sum()),
        right=before,
        left_out=found.left_out,
        centres=rows[shown],
        weights=found.weights,
    )
    left_out = found.left_out
    if len(shown) < len(labels):  # the others have taught nothing, so they are left out anyway
        left_out = _scores_of_all(classes, logit_scale, taught, rows)
        left_out[shown] = found.left_out
    sharpness = sharpness_of(left_out, labels)
    return dataclasses.replace(
        taught,
        right=right_left_out(left_out, labels, before),
        sharpness=sharpness,
        left_out=as_probabilities(left_out, sharpness, has_none),
    )


def _scores_of_all(classes: Float32, logit_scale: float, taught: Taught, rows: Float32) -> Float32:
    """(n, C) corrected scores of a few thousand images."""
    scorer = TaughtScorer(classes, logit_scale, taught)
    step = scorer.block_rows
    return np.concatenate(
        [scorer.scores(rows[start : start + step]) for start in range(0, len(rows), step)]
    )


def _probe(classes: Float32, logit_scale: float, rows: Float32, labels: Int32) -> Taught:
    found = logistic_probe(classes, logit_scale, rows, labels)
    if not len(found.weights):
        return _zero_shot(classes, logit_scale, rows, labels, found.temperature)
    before = _right_before(classes, rows, labels)
    return Taught(
        method=PROBE,
        temperature=1.0,
        beta=0.0,
        examples=len(labels),
        has_none=bool((labels < 0).any()),
        right_before=int(before.sum()),
        right=right_left_out(found.left_out, labels, before),
        left_out=found.left_out,
        centres=rows[:0],
        weights=found.weights,
        bias=found.bias,
    )


def _right_before(classes: Float32, rows: Float32, labels: Int32) -> Bools:
    """(n,) which of the examples zero-shot labels rightly."""
    cosines = rows.astype(np.float64) @ classes.astype(np.float64).T
    right: Bools = cosines.argmax(axis=1) == labels
    return right


def _error(taught: Taught, labels: Int32) -> float:
    """Squared error of the examples that were left out; none of the labels is a label too."""
    odds = taught.left_out.astype(np.float64)
    wrong = np.concatenate([odds, 1 - odds.sum(axis=1, keepdims=True)], axis=1)
    wrong[np.arange(len(labels)), labels] -= 1
    return float(np.sum(wrong**2))
