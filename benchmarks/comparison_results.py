"""What a comparison found: predictions of the same photos by several methods, and their figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.calibration import reliability
from clipsearch.encoder import Float32, UInt8
from clipsearch.records import Int32

CNN, NAMES, TAUGHT, PROBE = "trained network", "labels by names", "taught", "probe"


@dataclass(frozen=True)
class Method:
    """One way to label photos.

    name : told to people. kind : CNN, NAMES, TAUGHT or PROBE. backbone : whose features it uses.
    photos : labelled photos that it learned from.
    """

    name: str
    kind: str
    backbone: str
    photos: int


@dataclass(frozen=True)
class Result:
    """How a method labelled n photos.

    probabilities : (n, C) float32. truth : (n,) positions. seconds : of learning, from the
    photos' files or the labels' names to where the first photo can be labelled.
    """

    method: Method
    probabilities: Float32
    truth: Int32
    seconds: float = math.nan

    @property
    def given(self) -> npt.NDArray[np.intp]:
        """(n,) the labels."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        return self.given == self.truth

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """What the accuracy may be, by Wilson's 95 % interval."""
        return wilson(int(self.right.sum()), len(self.truth))

    @property
    def per_class(self) -> npt.NDArray[np.float64]:
        """(C,) accuracy, nan for a class without a photo."""
        classes = self.probabilities.shape[1]
        total = np.bincount(self.truth, minlength=classes)
        right = np.bincount(self.truth[self.right], minlength=classes)
        return np.where(total > 0, right / np.maximum(total, 1), np.nan)

    @property
    def mean_per_class(self) -> float:
        return float(np.nanmean(self.per_class))

    @property
    def top5(self) -> float:
        """How often the truth is among the five best labels; 1 where there are no more."""
        mine = np.take_along_axis(self.probabilities, self.truth[:, None].astype(np.intp), axis=1)
        return float(np.mean((self.probabilities > mine).sum(axis=1) < 5))

    @property
    def calibration_error(self) -> float:
        confidence = np.clip(self.probabilities.max(axis=1), 0, 1)
        return reliability(confidence, self.right).error

    def to_dict(self) -> dict[str, Any]:
        return {
            "method": self.method.name,
            "kind": self.method.kind,
            "training_photos": self.method.photos,
            "accuracy": self.accuracy,
            "interval": self.interval,
            "mean_per_class": self.mean_per_class,
            "top5": self.top5,
            "calibration_error": self.calibration_error,
            "learning_seconds": self.seconds,
            "per_class": [None if math.isnan(one) else one for one in self.per_class.tolist()],
        }


@dataclass(frozen=True)
class Cost:
    """What a network is and does on this machine.

    parameters : numbers in its weights; megabytes : of their file, float32 or as they come.
    rate : photos a second from their files to their features; bare : of the network alone.
    seen : what photos it was trained on before, in words.
    """

    backbone: str
    parameters: int
    megabytes: float
    pixels: int
    rate: float
    bare: float
    seen: str


@dataclass(frozen=True)
class Withheld:
    """Classes that no method had photos of.

    classes : positions. results : of all test photos, with all labels. What cannot be named has
    no probability.
    """

    classes: tuple[int, ...]
    results: tuple[Result, ...]

    def shares(self, result: Result) -> tuple[float, float]:
        """Accuracy on photos of the classes trained on, and of those that were not."""
        out = np.isin(result.truth, self.classes)
        return float(result.right[~out].mean()), float(result.right[out].mean())

    def confidence(self, result: Result) -> tuple[float, float]:
        """Median confidence on the same two."""
        out = np.isin(result.truth, self.classes)
        best = result.probabilities.max(axis=1)
        return float(np.median(best[~out])), float(np.median(best[out]))


@dataclass(frozen=True)
class Comparison:
    """Everything. C labels, n test photos.

    clean : all methods on the test photos, the trained networks first.
    changed : by kind and severity (0 for styles), the methods of ``clean`` that were tried.
    curve : by method's name and photos a class (0 for all of them), accuracies of several draws.
    settings : how it was done, in words. notes : what is to be known. seconds : all of it.
    pictures : (n, 224, 224, 3) of the test photos.
    """

    labels: tuple[str, ...]
    training_photos: int
    clean: tuple[Result, ...]
    costs: Mapping[str, Cost]
    withheld: Withheld | None
    changed: Mapping[tuple[str, int], tuple[Result, ...]]
    curve: Mapping[str, Mapping[int, Sequence[float]]]
    settings: Mapping[str, str]
    notes: tuple[str, ...]
    seconds: float
    pictures: UInt8

    @property
    def truth(self) -> Int32:
        return self.clean[0].truth

    def kinds(self, kind: str) -> list[Result]:
        """Results on the test photos of one kind of method."""
        return [result for result in self.clean if result.method.kind == kind]

    @property
    def cnn(self) -> Result:
        """The network that was trained."""
        return self.kinds(CNN)[0]

    @property
    def names(self) -> Result:
        """The best of those that go by names alone."""
        return max(self.kinds(NAMES), key=lambda result: result.accuracy)

    def changed_accuracy(self, name: str, kind: str, severity: int) -> float:
        """Of one method; nan where it was not tried."""
        for result in self.changed.get((kind, severity), ()):
            if result.method.name == name:
                return result.accuracy
        return math.nan

    def mean_changed(self, name: str, kinds: Sequence[str]) -> float:
        """Mean accuracy of a method over kinds, all their severities."""
        found = [
            self.changed_accuracy(name, kind, severity)
            for kind, severity in self.changed
            if kind in kinds
        ]
        return float(np.mean(found)) if found else math.nan

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        withheld = self.withheld
        return {
            "labels": list(self.labels),
            "training_photos": self.training_photos,
            "test_photos": len(self.truth),
            "results": [result.to_dict() for result in self.clean],
            "costs": {name: vars(cost) for name, cost in self.costs.items()},
            "withheld": None if withheld is None else {
                "classes": [self.labels[place] for place in withheld.classes],
                "results": [
                    {"method": result.method.name, "accuracy": result.accuracy}
                    | dict(zip(("trained_on", "withheld"), withheld.shares(result), strict=True))
                    for result in withheld.results
                ],
            },
            "changed": [
                {"kind": kind, "severity": severity}
                | {"accuracy": {result.method.name: result.accuracy for result in results}}
                for (kind, severity), results in self.changed.items()
            ],
            "curve": {
                name: {str(count or "all"): list(found) for count, found in by_count.items()}
                for name, by_count in self.curve.items()
            },
            "settings": dict(self.settings),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }  # fmt: skip


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not count:
        return (0.0, 1.0)
    z, share = 1.959964, right / count
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    whole = 1 + z * z / count
    return max(0.0, (middle - reach) / whole), min(1.0, (middle + reach) / whole)


def sign_test(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    """How likely it is by chance that of the photos that one of two has right and the other has
    not, so many more are the one's (exact, two-sided: McNemar 1947)."""
    from scipy.stats import binomtest

    one, other = int((a & ~b).sum()), int((b & ~a).sum())
    return float(binomtest(one, one + other).pvalue) if one + other else 1.0
