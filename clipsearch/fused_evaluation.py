"""Do several encoders together label better than the better one of them?

Answered on files of which it is known what they show: each encoder alone, all with equal weights,
and with weights that are fitted. A file is labelled by weights that were fitted without it, and
without its copies (cross-fitting), so that fitting gains nothing by itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.evaluation import KEPT, Evaluation, evaluate
from clipsearch.fusion import fused_scorer, normalised, spread_of_cosines
from clipsearch.generation import Generation
from clipsearch.labelled_images import LabelledImages
from clipsearch.sampling import Float64, uniform
from clipsearch.shards import Int64

_FOLDS = 5
_MOST_FITTED, _MOST_LOGITS = 2000, 4_000_000
_FEWEST_FITTED = 200
_PRIOR = 4.0
"""What equal weights count beside the files: as many as four of them."""
CHANCE = 0.05
_SEED, _STREAM = 0, 8


@dataclass(frozen=True)
class Against:
    """Several encoders against the best single one of them, on the same files.

    gained, lost : files that only they, and that only the single one labels right. chance : how
    often as great a difference or a greater one would come of tossing a coin for each of these
    (the exact test of McNemar 1947).
    """

    fused: Evaluation
    single: Evaluation
    gained: int
    lost: int
    chance: float

    @property
    def is_better(self) -> bool:
        """Whether they are better, and hardly by chance."""
        return self.gained > self.lost and self.chance < CHANCE

    @property
    def is_worse(self) -> bool:
        """Whether they are worse, and hardly by chance."""
        return self.gained < self.lost and self.chance < CHANCE

    def told(self) -> str:
        """ "fitted weights 98.9 % (gains 3 files, loses 2; p = 1)"."""
        return (
            f"{self.fused.accuracy:.1%} (gains {self.gained:,}, loses {self.lost:,}; "
            f"p = {self.chance:.2g})"
        )


@dataclass(frozen=True)
class FusedEvaluation:
    """What several encoders do together on n files.

    singles : each alone. equal, fitted : together, with equal weights and with fitted ones.
    weights : fitted on all files, 1 in all: what ``--fuse`` takes for other images.
    """

    singles: tuple[Evaluation, ...]
    equal: Evaluation
    fitted: Evaluation
    weights: tuple[float, ...]

    @property
    def best(self) -> Evaluation:
        """The best single one, of equals the first."""
        return max(self.singles, key=lambda one: one.accuracy)

    def against(self, fused: Evaluation) -> Against:
        """``equal`` or ``fitted`` beside the best single one."""
        single = self.best
        gained = int(np.count_nonzero(fused.right & ~single.right))
        lost = int(np.count_nonzero(~fused.right & single.right))
        return Against(fused, single, gained, lost, sign_test(gained, lost))

    @property
    def verdict(self) -> str:
        """Whether fusing beats the better single encoder, in a sentence or two."""
        equal, fitted = self.against(self.equal), self.against(self.fitted)
        who = "the better" if len(self.singles) == 2 else "the best"
        best = f"{self.best.model}, {who} one alone ({self.best.accuracy:.1%})"
        if fitted.is_better or equal.is_better:
            says = f"Together the models beat {best}"
        elif fitted.is_worse and equal.is_worse:
            says = f"Together the models are worse than {best}"
        else:
            says = f"Together the models do not clearly beat {best}"
        told = ", ".join(
            f"{one.model} {weight:.2f}"
            for one, weight in zip(self.singles, self.weights, strict=True)
        )
        return f"{says}: equal weights {equal.told()}; fitted weights, {told}, {fitted.told()}."

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the weights and the comparison; the evaluations tell of themselves."""
        document: dict[str, Any] = {
            "weights": {
                one.model: weight for one, weight in zip(self.singles, self.weights, strict=True)
            },
            "best_single": self.best.model,
            "best_single_accuracy": self.best.accuracy,
            "verdict": self.verdict,
        }
        for name in ("equal", "fitted"):
            one = self.against(getattr(self, name))
            document[name] = {
                "accuracy": one.fused.accuracy,
                "gained": one.gained,
                "lost": one.lost,
                "p": one.chance,
                "beats_best_single": one.is_better,
            }
        return document


def evaluate_fused(
    states: Sequence[Generation],
    samples: LabelledImages,
    classes: Sequence[Float32],
    name: str,
    models: Sequence[str],
) -> FusedEvaluation:
    """Each of several encoders, and all of them together.

    states : one generation of an index, opened in the space of each. classes : of each the (C,
    dim) class vectors of ``samples.classes``. name : how the labels were put into words. models :
    what the encoders are called. Files that lack a vector in one of the spaces are left out.

    Raises OptionError for fewer than two encoders, and where no file is left.
    """
    if len(states) < 2:
        raise OptionError("expected two models or more to fuse, got one: name another --model")
    samples = _in_all(states, samples)
    kept = min(KEPT, len(samples.classes))
    together = " + ".join(models)

    def evaluated(weights: Sequence[float], some: LabelledImages, model: str) -> Evaluation:
        scorer = fused_scorer(states, classes, weights, kept)
        return evaluate(states[0], some, scorer, name, model)

    one_hot = np.eye(len(states)).tolist()
    singles = tuple(
        evaluated(weights, samples, model) for weights, model in zip(one_hot, models, strict=True)
    )
    equal = evaluated([1.0] * len(states), samples, f"{together}, equal weights")
    spreads = _spreads(states, classes)
    ids, truth = _once(samples)
    folds = _folds(ids, truth)
    begin = time.perf_counter()
    ranked, probabilities = equal.ranked.copy(), equal.probabilities.copy()
    for fold in range(int(folds.max()) + 1 if len(np.unique(folds)) > 1 else 0):
        others = folds != fold
        weights = _fitted(states, classes, spreads, ids[others], truth[others])
        rows = np.flatnonzero(np.isin(samples.ids, ids[~others]))
        found = evaluated(weights, samples.rows(rows), together)
        ranked[rows], probabilities[rows] = found.ranked, found.probabilities
    seconds = time.perf_counter() - begin
    fitted = Evaluation(
        name, f"{together}, fitted weights", samples, ranked, probabilities, seconds
    )
    return FusedEvaluation(singles, equal, fitted, _fitted(states, classes, spreads, ids, truth))


def fitted_weights(
    states: Sequence[Generation], samples: LabelledImages, classes: Sequence[Float32]
) -> tuple[float, ...]:
    """The weights, 1 in all, that suit some labelled images: what ``fused_scorer`` takes for
    others. states, classes : as of ``evaluate_fused``. Raises OptionError where no file has a
    vector of every encoder."""
    ids, truth = _once(_in_all(states, samples))
    return _fitted(states, classes, _spreads(states, classes), ids, truth)


def fit_weights(logits: Sequence[npt.ArrayLike], truth: npt.ArrayLike) -> tuple[float, ...]:
    """The weights, 1 in all, with which several encoders together find the true labels most
    likely.

    logits : of each encoder (n, C), of one spread. truth : (n,) int positions. What is fitted is
    a factor from 0 on for each, that is the weights and a temperature: the sum of the losses is
    convex in them. Weakly held to equal ones, which are what comes back where there are no
    images.
    """
    from scipy.optimize import minimize

    planes = np.stack([np.asarray(plane, np.float64) for plane in logits], axis=-1)
    labels = np.asarray(truth, np.int64)
    count = planes.shape[-1]
    equal = np.full(count, 1.0 / count)
    if not len(labels):
        return tuple(equal.tolist())
    planes -= planes.max(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    own = planes[rows, labels].sum(axis=0)

    def loss(factors: Float64) -> tuple[float, Float64]:
        scores = planes @ factors
        scores -= scores.max(axis=1, keepdims=True)
        odds = np.exp(scores)
        sums = odds.sum(axis=1, keepdims=True)
        away = (factors - equal) / equal
        value = float(np.log(sums).sum() - scores[rows, labels].sum())
        expected = np.einsum("nc,ncm->m", odds / sums, planes)
        return value + 0.5 * _PRIOR * float(away @ away), expected - own + _PRIOR * away / equal

    found = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * count)
    factors = np.maximum(found.x, 0.0)
    return normalised(factors.tolist()) if factors.sum() > 0 else tuple(equal.tolist())


def sign_test(gained: int, lost: int) -> float:
    """How often ``gained + lost`` tosses of a coin come out as unevenly, or more so: 0 to 1."""
    from scipy.special import bdtr  # scipy.stats takes a second to import

    return min(1.0, 2.0 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def _in_all(states: Sequence[Generation], samples: LabelledImages) -> LabelledImages:
    """The files that have a vector in every space."""
    ids = np.unique(samples.ids)
    for state in states:
        ids = state.vectors.take_half(ids)[0]
    rows = np.flatnonzero(np.isin(samples.ids, ids))
    if not len(rows):
        raise OptionError("no labelled image has a vector of every model: there is nothing to fuse")
    left = len(samples) - len(rows)
    if not left:
        return samples
    note = "1 file lacks" if left == 1 else f"{left:,} files lack"
    return samples.rows(rows, f"{note} a vector of one of the models, and were left out")


def _once(samples: LabelledImages) -> tuple[Int64, npt.NDArray[np.int32]]:
    """The rising ids of the files' images, and what the first file of each shows."""
    ids, first = np.unique(samples.ids, return_index=True)
    return ids, samples.truth[first]


def _folds(ids: Int64, truth: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """(n,) to which of at most five parts each image belongs; all have as much of a class."""
    order = np.lexsort((uniform(ids, _SEED, _STREAM), truth))
    folds = np.empty(len(ids), np.int64)
    folds[order] = np.arange(len(ids)) % min(_FOLDS, len(ids))
    return folds


def _spreads(states: Sequence[Generation], classes: Sequence[Float32]) -> list[float]:
    pairs = zip(states, classes, strict=True)
    return [max(spread_of_cosines(state, rows), 1e-6) for state, rows in pairs]


def _fitted(
    states: Sequence[Generation],
    classes: Sequence[Float32],
    spreads: Sequence[float],
    ids: Int64,
    truth: npt.NDArray[np.int32],
) -> tuple[float, ...]:
    """The weights that suit some images, or so many of them as are enough to tell."""
    most = max(_FEWEST_FITTED, min(_MOST_FITTED, _MOST_LOGITS // len(classes[0])))
    if len(ids) > most:
        drawn = np.sort(np.argsort(uniform(ids, _SEED, _STREAM + 1), kind="stable")[:most])
        ids, truth = ids[drawn], truth[drawn]
    common = float(np.mean([s.space.logit_scale * w for s, w in zip(states, spreads, strict=True)]))
    logits = [
        state.vectors.take(ids)[1] @ rows.T * np.float32(common / spread)
        for state, rows, spread in zip(states, classes, spreads, strict=True)
    ]
    return fit_weights(logits, truth)
