"""A few labelled examples: what zero-shot gets wrong of them, spread over what looks like them.

With zero-shot probabilities p0 of a temperature T, examples S with labels Y, R = Y - p0(S) and
K = exp(-beta |f - f'|^2) the corrected probabilities of an image x are

    p0(x) + k(x, S) A,    A = (K + lambda I)^-1 R

(kernel ridge regression of the residual, as ProKeR: Bendou et al., "ProKeR: A Kernel Perspective
on Few-Shot Adaptation of Large Vision-Language Models", CVPR 2025). T, beta, lambda, and whether
to correct at all, are those of the least squared error, all of it in closed form:

- of examples that are left out in turn, A_i / [(K + lambda I)^-1]_ii. That says little where a
  label has one example, for nothing is left of it. So an image is imagined beside each example,
  as far from it as images of one label are from each other: its error is
  (lambda + 1 - exp(-beta d^2)) A_i, and of n examples of a label it has a weight of 1/n;
- of examples whose label is left out altogether: what correcting some labels does to those that
  nobody has taught. It has their share of the labels for its weight;
- of images of the collection, if zero-shot were right about them, and the more so the surer it
  is: people show mistakes. It counts where the examples seem to be picked for being mistakes, by
  how many of them zero-shot has right and how sure it is of the collection.

What the best of them get wrong of examples that are left out counts too, and none is taken that
gets more of them wrong than zero-shot does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.shown_mistakes import Anchors, picked_for_mistakes
from clipsearch.taught_odds import right_left_out, zero_shot_probabilities

Float64 = npt.NDArray[np.float64]

MOST_EXAMPLES = 3000
"""How many examples a kernel is worth its time with: that grows with their third power."""

TEMPERATURES = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Beta, for distances in units of the usual squared distance between images."""
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

_USUAL_WIDTH, _USUAL_RIDGE = 3.0, 1.0
_USUAL_WEIGHT = 0.05  # of an example, for a doubling of beta or a trebling of lambda
_TEMPERATURE_WEIGHT = 0.01  # of an example, for a doubling of T; the second where all
_UNTAUGHT_TEMPERATURE_WEIGHT = 0.2  # labels are untaught: examples say nothing about those
_USUAL_NEARNESS = 0.7  # squared distance of images of one label, over the usual one
_USUAL_DISTANCE = 1.0
_MOST_ANCHORS = 512
_MISTAKES_WEIGHT = 0.3
_MOST_CHOOSING = 500  # examples: that is a second; their number changes what is best by little
_MOST_TRIED = 20
_WRONG_WEIGHT = 0.2


@dataclass(frozen=True)
class KernelResidual:
    """A correction, and what it was chosen by.

    temperature : T. beta : for squared distances of unit vectors; 0 where nothing is corrected.
    ridge : lambda. weights : (n, C) float32, A; (0, C) where nothing is corrected.
    left_out : (n, C) float32, the corrected scores of every example without it.
    """

    temperature: float
    beta: float
    ridge: float
    weights: Float32
    left_out: Float32


class _Choice(NamedTuple):
    loss: float
    temperature: int
    beta: float  # 0 for no correction
    ridge: float


def kernel_residual(
    classes: Float32,
    logit_scale: float,
    rows: Float32,
    labels: Int32,
    typical: Float32 | None = None,
) -> KernelResidual:
    """Choose a correction.

    classes : (C, dim) unit class vectors. rows : (n, dim) unit vectors of the examples, n >= 1.
    labels : (n,), -1 for an example that has none of the labels.
    typical : (m, dim) unit vectors of some images of the collection, None where there are none.
    """
    shown = spread(labels, _MOST_CHOOSING)
    some = _Examples(classes, logit_scale, rows[shown], labels[shown], typical)
    chosen = some.best(some.choices())
    if len(shown) < len(labels):
        some = _Examples(classes, logit_scale, rows, labels, typical)
    return some.correction(chosen)


class _Examples:
    """Examples, and what every choice would do to them."""

    def __init__(
        self,
        classes: Float32,
        logit_scale: float,
        rows: Float32,
        labels: Int32,
        typical: Float32 | None,
    ) -> None:
        wide, vectors = rows.astype(np.float64), classes.astype(np.float64)
        self._count = count = len(classes)
        self._labels, self._scale = labels, logit_scale
        self._cosines = wide @ vectors.T
        known = np.flatnonzero(labels >= 0)
        # None of the labels is a label too, one that zero-shot never gives.
        self._columns = count + (len(known) < len(labels))
        self._truth = np.zeros((len(labels), self._columns))
        self._truth[np.arange(len(labels)), labels] = 1
        squared = np.maximum(2 - 2 * wide @ wide.T, 0)
        images = None
        if typical is not None and len(typical) > 1:
            step = -(-len(typical) // _MOST_ANCHORS)
            images = typical[::step].astype(np.float64)
        self._unit, self._nearness = _distances(labels, squared, images)
        self._squared = squared / self._unit
        self._strange = None if images is None else (2 - 2 * images @ wide.T) / self._unit

        taught = np.bincount(labels[known], minlength=count)
        self._of_label = np.where(labels >= 0, taught[labels], np.sum(labels < 0))
        self._groups = [np.flatnonzero(labels == label) for label in np.flatnonzero(taught)]
        self._untaught = float(np.sum(taught == 0)) / self._columns
        self._right = self._cosines.argmax(axis=1) == labels

        self._mistakes = picked = 0.0
        sure = guess = seen = None
        if images is not None:
            seen = images @ vectors.T
            odds = zero_shot_probabilities(seen, logit_scale)
            sure, guess = odds.max(axis=1), odds.argmax(axis=1)
            usual = float(sure.mean())
            picked = picked_for_mistakes(int(self._right.sum()), len(known), usual)
            self._mistakes = _MISTAKES_WEIGHT * usual * picked
        # What is wrong of the examples is heeded where they stand for all images.
        self._wrong_weight = 0.0 if self._untaught > 0 else _WRONG_WEIGHT * (1 - picked)
        self._residuals = [self._residual(temperature) for temperature in TEMPERATURES]
        self._anchors = None
        if seen is not None and sure is not None and guess is not None and self._mistakes > 0:
            self._anchors = [
                Anchors(self._odds(seen, temperature), guess, sure, residual)
                for temperature, residual in zip(TEMPERATURES, self._residuals, strict=True)
            ]
        # Only lengths of rows are asked for, and those a rotation of the labels keeps.
        self._turned = [_turned(residual) for residual in self._residuals]

    def _odds(self, cosines: Float64, temperature: float) -> Float64:
        odds = np.zeros((len(cosines), self._columns))
        odds[:, : self._count] = zero_shot_probabilities(cosines, self._scale / temperature)
        return odds

    def _residual(self, temperature: float) -> Float64:
        return np.subtract(self._truth, self._odds(self._cosines, temperature))

    def choices(self) -> list[_Choice]:
        """Every choice with its loss: a squared error, and what speaks against the unusual."""
        plain = np.array([np.mean(np.sum(residual**2, axis=1)) for residual in self._turned])
        found = []
        for place, error in enumerate(plain):
            if self._anchors is not None:
                error = self._mixed(error, self._anchors[place].error(None))
            found.append(_Choice(error + self._unusual(place), place, 0.0, 0.0))
        for beta in WIDTHS:
            kernel = np.exp(-beta * self._squared)
            values, vectors = np.linalg.eigh(kernel)
            values = np.maximum(values, 0)
            strange = np.full((1, len(kernel)), math.exp(-beta))
            if self._strange is not None:
                strange = np.exp(-beta * self._strange)
            for ridge in RIDGES:
                inverse = (vectors / (values + ridge)) @ vectors.T
                reach = strange @ inverse
                for place, residual in enumerate(self._turned):
                    weights = inverse @ residual
                    error = self._own_error(weights, np.diag(inverse), beta, ridge)
                    if self._untaught > 0:
                        others = self._class_out_error(weights, inverse)
                        if others is None:
                            moved = np.sum((reach @ residual) ** 2, axis=1)
                            others = float(plain[place] + moved.mean())
                        error = (1 - self._untaught) * error + self._untaught * others
                    if self._anchors is not None:
                        error = self._mixed(error, self._anchors[place].error(reach, residual))
                    error += self._unusual(place, beta, ridge)
                    found.append(_Choice(error, place, beta, ridge))
        return found

    def _own_error(self, weights: Float64, diagonal: Float64, beta: float, ridge: float) -> float:
        """Of examples left out, and of images imagined beside them."""
        squares = np.sum(weights**2, axis=1)
        beside = (ridge + 1 - math.exp(-beta * self._nearness)) ** 2
        return float(np.mean(squares * ((1 - 1 / self._of_label) / diagonal**2
                                        + beside / self._of_label)))  # fmt: skip

    def _class_out_error(self, weights: Float64, inverse: Float64) -> float | None:
        """Of examples whose whole label is left out; None where but one label has examples."""
        if len(self._groups) < 2:
            return None
        total = sum(
            np.sum(np.linalg.solve(inverse[np.ix_(group, group)], weights[group]) ** 2)
            for group in self._groups
        )
        return float(total) / sum(map(len, self._groups))

    def _mixed(self, error: float, of_anchors: float) -> float:
        return (1 - self._mistakes) * error + self._mistakes * of_anchors

    def _unusual(self, place: int, beta: float = 0.0, ridge: float = 0.0) -> float:
        """What a choice has to be better by than the usual one: the less, the more examples."""
        weight = _TEMPERATURE_WEIGHT + _UNTAUGHT_TEMPERATURE_WEIGHT * self._untaught
        penalty = weight * math.log2(TEMPERATURES[place]) ** 2
        if beta > 0:
            penalty += _USUAL_WEIGHT * (
                math.log2(beta / _USUAL_WIDTH) ** 2 + math.log(ridge / _USUAL_RIDGE, 3) ** 2
            )
        return penalty / len(self._labels)

    def best(self, choices: list[_Choice]) -> _Choice:
        """Of the likeliest choices, the one of the least loss when what it gets wrong is added.

        At least as many examples are right as without a correction when they are left out, but
        for one that is alone with its label: without it that cannot be told, and as it was it is.
        """
        ranked = sorted(choices)
        plain = next(choice for choice in ranked if choice.beta == 0)
        before = float(np.mean(self._right))
        found = plain.loss - self._wrong_weight * before, plain
        for choice in ranked[:_MOST_TRIED]:
            if choice.beta > 0:
                left_out = self.correction(choice).left_out
                share = float(np.mean(right_left_out(left_out, self._labels, self._right)))
                if share >= before:
                    found = min(found, (choice.loss - self._wrong_weight * share, choice))
        return found[1]

    def correction(self, choice: _Choice) -> KernelResidual:
        """What was chosen."""
        temperature = TEMPERATURES[choice.temperature]
        residual = self._residuals[choice.temperature]
        if choice.beta == 0:
            left_out = np.subtract(self._truth, residual)
            weights = np.empty((0, residual.shape[1]))
        else:
            kernel = np.exp(-choice.beta * self._squared)
            inverse = np.linalg.inv(kernel + choice.ridge * np.eye(len(kernel)))
            weights = inverse @ residual
            left_out = self._truth - weights / np.diag(inverse)[:, None]
        return KernelResidual(
            temperature=temperature,
            beta=choice.beta / self._unit,
            ridge=choice.ridge,
            weights=weights[:, : self._count].astype(np.float32),
            left_out=left_out[:, : self._count].astype(np.float32),
        )


def spread(labels: Int32, most: int) -> npt.NDArray[np.intp]:
    """Rising places of at most so many examples, of every label the first few."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    sizes = np.unique(labels, return_counts=True)[1]
    nth = np.empty(len(labels), np.intp)
    nth[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(np.argsort(nth, kind="stable")[:most])


def _distances(labels: Int32, squared: Float64, images: Float64 | None) -> tuple[float, float]:
    """The usual squared distance of two images, and in that unit the one of two examples of a
    label, with one pair at the usual nearness added to those there are."""
    first, second = np.triu_indices(len(labels), 1)
    between = squared[first, second]
    same = (labels[first] == labels[second]) & (labels[first] >= 0)
    if images is not None:
        pairs = np.maximum(2 - 2 * images @ images.T, 0)
        unit = float(np.median(pairs[np.triu_indices(len(images), 1)]))
    elif not same.all():
        unit = float(np.median(between[~same]))
    else:
        unit = _USUAL_DISTANCE
    unit = max(unit, 1e-6)  # all of them may be copies of one image
    near = (_USUAL_NEARNESS + between[same].sum() / unit) / (1 + same.sum())
    return unit, float(near)


def _turned(residual: Float64) -> Float64:
    """(n, r) rows with the inner products of the rows of (n, C), r the smaller of n and C."""
    count, labels = residual.shape
    if labels <= count:
        return residual
    values, vectors = np.linalg.eigh(residual @ residual.T)
    turned: Float64 = vectors * np.sqrt(np.maximum(values, 0))
    return turned
