"""What was taught, and images labelled by it, a block at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.half import widen
from clipsearch.scoring import Rows, best_labels
from clipsearch.shards import Float16, Int64
from clipsearch.taught_odds import Bools, as_probabilities
from clipsearch.vote_scoring import VotedBlock

ZERO_SHOT, KERNEL, PROBE = "zero-shot", "kernel", "probe"

_SCORES_PER_BLOCK = 1 << 20
_LEAST_ROWS, _MOST_ROWS = 16, 4096
_CERTAINTY = 4.0


@dataclass(frozen=True)
class Taught:
    """What examples have taught.

    method : "zero-shot" where they correct nothing, "kernel" or "probe".
    temperature : the logit scale is divided by it; the probe has it in its weights, and 1 here.
    beta : of the kernel, for squared distances of unit vectors; 0 without one.
    examples : how many there were. has_none : whether some of them have none of the labels.
    right_before : how many of them zero-shot labels rightly.
    right : (n,) which of them the teaching does when they are left out of it, one at a time (for
        "probe" a fifth); see ``taught_odds.right_left_out``.
    sharpness : the power that makes probabilities of scores.
    left_out : (n, C) float32 probabilities of the C labels, of every example without it, in the
        order of the examples. What a row lacks to 1 is the probability of none of the labels.
    centres : (n, dim) float32, the kernel's examples; else (0, dim).
    weights : (n, C) float32 of the kernel; of the probe (C or, with one for none of the labels,
        C + 1, dim); else (0, C). bias : of the probe's last row, where that is none of them.
    """

    method: str
    temperature: float
    beta: float
    examples: int
    has_none: bool
    right_before: int
    right: Bools
    left_out: Float32
    centres: Float32
    weights: Float32
    bias: float = 0.0
    sharpness: float = 1.0

    @property
    def right_after(self) -> int:
        """How many of the examples are labelled rightly when they are left out."""
        return int(self.right.sum())

    @property
    def accuracy_before(self) -> float:
        """Share of the examples that zero-shot labels rightly; nan without examples."""
        return self.right_before / self.examples if self.examples else math.nan

    @property
    def accuracy_after(self) -> float:
        """Share of the examples, each left out in turn, that are labelled rightly."""
        return self.right_after / self.examples if self.examples else math.nan

    def to_dict(self) -> dict[str, str | float | int]:
        """What a person may want to know, fit for JSON."""
        return {
            "method": self.method,
            "temperature": self.temperature,
            "sharpness": self.sharpness,
            "examples": self.examples,
            "right_before": self.right_before,
            "right_after": self.right_after,
        }


class TaughtScorer:
    """Scores blocks of images by what was taught. Safe for threads.

    classes : (C, dim) float32 unit rows, those that were taught. top : how many labels to keep
    of each image, at most C.
    """

    def __init__(self, classes: Float32, logit_scale: float, taught: Taught, top: int = 1) -> None:
        self._taught, self._top = taught, max(1, min(top, len(classes)))
        self._scale = logit_scale / taught.temperature
        self._labels = len(classes)
        second = taught.weights if taught.method == PROBE else taught.centres
        stacked = np.concatenate([classes, second])
        self._columns = np.ascontiguousarray(stacked.T)
        self._wide_columns = self._columns.astype(np.float64)
        self._first_alike = self._alike(classes)
        self._slack = self._doubt(classes.shape[1])
        self.block_rows = max(_LEAST_ROWS, min(_MOST_ROWS, _SCORES_PER_BLOCK // len(stacked)))

    @property
    def products(self) -> int:
        """How many multiplications an image takes."""
        return self._columns.size + len(self._taught.centres) * self._labels

    def score(self, ids: Int64, rows: Rows) -> VotedBlock:
        """The labels of images of (n,) ``ids``, whose unit vectors are (n, dim) ``rows``.

        Scores are what probabilities are made of: those of zero-shot, corrected. An image that
        is more like examples without a label than like any label has -1 for all its labels, and
        for its runner-up the label that it is nearest to.
        """
        wide = float32(rows)
        cosines, scores = self._scores(wide @ self._columns)
        count = self._labels
        wanted = min(count, max(self._top, 2))
        # Without a correction scores are in the order of cosines, and of those fewer are alike:
        # what is far from a label has a score of next to nothing.
        corrected = self._taught.method != ZERO_SHOT
        ranked, best = best_labels(scores if corrected else cosines, min(count, wanted + 1))
        is_near = (best[:, :-1] - best[:, 1:] <= self._slack).any(axis=1)
        if self._taught.has_none and corrected:
            is_near |= abs(1 - scores.sum(axis=1) - best[:, 0]) <= count * self._slack
        near = np.flatnonzero(is_near)
        if len(near):
            exact_cosines, exact = self._scores(wide[near].astype(np.float64) @ self._wide_columns)
            # A product may round one column otherwise than its twin further on.
            exact_cosines, exact = (each[:, self._first_alike] for each in (exact_cosines, exact))
            ranks_by = exact if corrected else exact_cosines
            ranked[near, :wanted] = np.argsort(-ranks_by, axis=1, kind="stable")[:, :wanted]
            scores[near] = exact
        best = np.take_along_axis(scores, ranked[:, :wanted], axis=1)
        odds = as_probabilities(scores, self._taught.sharpness, self._taught.has_none)
        top = np.ascontiguousarray(ranked[:, : self._top])
        runners_up = np.full(len(ids), -1, np.int32) if count == 1 else ranked[:, 1].copy()
        probabilities = np.take_along_axis(odds, top, axis=1)
        block = VotedBlock(
            ids=ids,
            labels=top,
            scores=np.ascontiguousarray(best[:, : self._top]),
            probabilities=probabilities,
            margins=np.full(len(ids), np.nan, np.float32)
            if count == 1
            else best[:, 0] - best[:, 1],
            runners_up=runners_up,
            log_sums=-np.log(probabilities[:, 0]),
            cosines=np.take_along_axis(cosines, top, axis=1),
        )
        if self._taught.has_none:
            none = 1 - scores.sum(axis=1) > scores.max(axis=1)
            runners_up[none] = top[none, 0]
            top[none] = -1
        return block

    def scores(self, rows: Rows) -> Float32:
        """(n, C) scores of all labels of at most ``block_rows`` images: see ``score``."""
        return self._scores(float32(rows) @ self._columns)[1]

    def probabilities(self, rows: Rows) -> Float32:
        """(n, C) probabilities of all labels of at most ``block_rows`` images."""
        return as_probabilities(self.scores(rows), self._taught.sharpness, self._taught.has_none)

    def _scores(self, products: npt.NDArray[np.floating]) -> tuple[Float32, Float32]:
        """Cosines and corrected scores, both (n, C), from the products with all columns, in
        their precision."""
        taught, count = self._taught, self._labels
        cosines = np.ascontiguousarray(products[:, :count])
        rest = products[:, count:]
        if taught.method == PROBE:
            logits = rest * products.dtype.type(self._scale)
            if len(taught.weights) > count:
                logits[:, -1] += products.dtype.type(taught.bias)
            return cast(Float32, cosines), cast(Float32, _softmax(logits)[:, :count].copy())
        scores = _softmax(cosines * products.dtype.type(self._scale))
        if rest.shape[1]:
            kernel = rest - products.dtype.type(1)
            kernel *= products.dtype.type(2 * taught.beta)
            np.exp(kernel, out=kernel)
            scores += kernel @ taught.weights.astype(products.dtype, copy=False)
        return cast(Float32, cosines), cast(Float32, scores)

    def _alike(self, classes: Float32) -> Int64:
        """(C,) for each label the first that nothing tells from it."""
        taught = self._taught
        told_by = [classes]
        if taught.method == PROBE:
            told_by.append(taught.weights[: len(classes)])
        elif len(taught.centres):
            told_by.append(taught.weights.T)
        _, firsts, places = np.unique(
            np.hstack(told_by), axis=0, return_index=True, return_inverse=True
        )
        return firsts[places.reshape(-1)]

    def _doubt(self, dim: int) -> np.float32:
        """How much nearer to each other two scores must not be for float32 to tell them apart.

        The rounding errors of a product are taken for random: they add up like the square root
        of their number (Higham and Mary, "A New Approach to Probabilistic Rounding Error
        Analysis", 2019).
        """
        product = _CERTAINTY * math.sqrt(dim) * 2.0**-24
        if self._taught.method == ZERO_SHOT:  # which goes by the products themselves
            return np.float32(2 * product)
        error = product * self._scale / 2
        if len(self._taught.centres):
            longest = float(np.sqrt((self._taught.weights**2).sum(axis=0).max()))
            error += longest * (2 * self._taught.beta * product + _CERTAINTY * 2.0**-24)
        return np.float32(2 * error)


def _softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """Of every row, in place."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def float32(rows: Rows) -> Float32:
    return widen(cast(Float16, rows)) if rows.dtype == np.float16 else cast(Float32, rows)
