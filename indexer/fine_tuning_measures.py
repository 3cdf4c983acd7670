"""What a fine-tuned image tower gains on photos that were held out, and what it loses elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.calibration import Bools
from clipsearch.encoder import Float32
from clipsearch.prompts import same_label
from clipsearch.records import Int32
from clipsearch.shards import Int64
from indexer.fine_tuning_records import BeforeAfter, CurvePoint
from indexer.training_photos import LabelledPhotos, rows_of

if TYPE_CHECKING:
    from indexer.image_tower import ImageTower, Weights

ALPHAS = tuple(round(0.1 * tenth, 1) for tenth in range(11))
HELD_OUT, LEFT_OUT = "photos held out", "classes left out"
REHEARSED, TEST = "classes left out of a rehearsal", "photos of --test"
_LARGEST_PROBE = 400_000_000
"""Photos x classes x dimensions: a probe beyond that takes minutes, and is left out."""


def accuracy(vectors: Float32, truth: Int32, classes: Float32) -> float:
    """Top-1, from 0 to 1, of (n, dim) rows among (C, dim) class vectors; nan for no rows."""
    if not len(truth):
        return float("nan")
    return float(np.mean(np.argmax(vectors @ classes.T, axis=1) == truth))


def squared_error(vectors: Float32, truth: Int32, classes: Float32, logit_scale: float) -> float:
    """The mean squared error of the probabilities of all labels (Brier's score), from 0 to 2."""
    logits = logit_scale * vectors @ classes.T
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    odds[np.arange(len(truth)), truth] -= 1
    return float(np.mean(np.sum(odds.astype(np.float64) ** 2, axis=1)))


def best_alpha(curve: Sequence[CurvePoint]) -> float:
    """The share with the least squared error, half of it that of the photos held out and half
    that of the classes left out, where there are such; the lowest of equal ones.

    Probabilities, because a few dozen photos tell little by how many of them are right; both
    halves, because a model that gains on its classes what it loses elsewhere has gained nothing.
    """
    best = min(curve, key=lambda point: (round(point.error, 9), point.alpha))
    return best.alpha


@dataclass(frozen=True)
class Measures:
    """Photos to measure a tower on.

    vectors : (L, dim) of all labels, those of ``photos`` first. logit_scale : of the model. held :
    (n,) bool, the photos that take no part in training. tested : others, or None, with classes
    among ``labels``.
    """

    photos: LabelledPhotos
    labels: tuple[str, ...]
    vectors: Float32
    logit_scale: float
    held: Bools
    tested: LabelledPhotos | None

    def trained_on(self, classes: Sequence[int]) -> Int64:
        """The rows of some classes that are not held out."""
        rows = rows_of(self.photos.truth, classes)
        return rows[~self.held[rows]]

    def held_out(self, classes: Sequence[int]) -> Int64:
        """The rows of some classes that are held out."""
        rows = rows_of(self.photos.truth, classes)
        return rows[self.held[rows]]

    def curve(
        self,
        tower: ImageTower,
        trained: Weights,
        classes: Sequence[int],
        others: Sequence[int],
        alphas: Sequence[float] = ALPHAS,
    ) -> list[CurvePoint]:
        """What every share of the trained weights gives on the photos held out of ``classes``,
        and on all photos of ``others``."""
        groups = [self.held_out(classes), rows_of(self.photos.truth, others)]
        points = []
        for alpha in alphas:
            tower.mix(trained, alpha)
            found = [self._measured(tower, rows) for rows in groups if len(rows)]
            right, wrong = zip(*found, strict=True)
            points.append(
                CurvePoint(
                    alpha, right[0], right[1] if len(found) > 1 else None, float(np.mean(wrong))
                )
            )
        return points

    def _measured(self, tower: ImageTower, rows: Int64) -> tuple[float, float]:
        vectors, truth = tower.encode(self.photos.pixels, rows), self.photos.truth[rows]
        own = self.vectors[: len(self.photos.classes)]
        return (
            accuracy(vectors, truth, own),
            squared_error(vectors, truth, own, self.logit_scale),
        )

    def results(
        self, before: ImageTower, after: ImageTower, kept: list[int], out: list[int]
    ) -> list[BeforeAfter]:
        """Both towers on all there is to measure on. kept : the classes trained on. out : not."""
        probe = self._probe(before, self.trained_on(kept), kept)
        own = len(self.photos.classes)
        truth = self.photos.truth
        groups = [
            (HELD_OUT, self.photos, truth, self.held_out(kept), probe, own),
            (LEFT_OUT, self.photos, truth, rows_of(truth, out), None, own),
        ]
        if self.tested is not None:
            places = {same_label(label): at for at, label in enumerate(self.labels)}
            own_places = [places[same_label(label)] for label in self.tested.classes]
            of_label = np.array([*own_places, -1], np.int32)  # -1 stays what it is
            truth = of_label[self.tested.truth]
            is_kept = np.isin(truth, kept)
            for what, chosen, probed in (
                (TEST, is_kept, probe), (f"{TEST}, other classes", (truth >= 0) & ~is_kept, None)
            ):  # fmt: skip
                rows = np.flatnonzero(chosen).astype(np.int64)
                groups.append((what, self.tested, truth, rows, probed, len(self.labels)))
        results = []
        for what, photos, shown, rows, probed, labels in groups:
            if not len(rows):
                continue
            right, classes = shown[rows], self.vectors[:labels]
            was = before.encode(photos.pixels, rows)
            results.append(
                BeforeAfter(
                    what=what,
                    photos=len(rows),
                    classes=len(np.unique(right)),
                    before=accuracy(was, right, classes),
                    probe=None if probed is None else accuracy(was, right, probed[:labels]),
                    after=accuracy(after.encode(photos.pixels, rows), right, classes),
                )
            )
        return results

    def _probe(self, before: ImageTower, rows: Int64, classes: list[int]) -> Float32 | None:
        """Class vectors of a linear probe on the vectors of the tower as it was, beside the text
        vectors of labels that it was not fitted to; None where it would take long."""
        if len(rows) * len(classes) * self.vectors.shape[1] > _LARGEST_PROBE:
            return None
        from clipsearch.logistic_probe import logistic_probe

        targets: Int32 = np.searchsorted(classes, self.photos.truth[rows]).astype(np.int32)
        was = before.encode(self.photos.pixels, rows)
        fitted = logistic_probe(self.vectors[classes], self.logit_scale, was, targets)
        vectors = self.vectors / np.float32(fitted.temperature)
        if len(fitted.weights):
            vectors[classes] = fitted.weights
        return vectors

    def rehearsed(
        self, curve: Sequence[CurvePoint], alpha: float, aside: Sequence[int]
    ) -> BeforeAfter:
        """What the rehearsal did to the classes ``aside``, at the share ``alpha``."""
        points = {point.alpha: point.others for point in curve}
        before, after = points[0.0], points[alpha]
        assert before is not None
        assert after is not None
        photos = len(rows_of(self.photos.truth, aside))
        return BeforeAfter(REHEARSED, photos, len(aside), before, None, after)
