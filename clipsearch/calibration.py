"""Whether probabilities mean what they say: of the labels told with 0.8, are 80 % right?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import OptionError
from clipsearch.sampling import Float64

Bools = npt.NDArray[np.bool_]
BINS = 15


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram of n labels with their confidences.

    edges : (b + 1,) of the bins of confidence; a bin has its upper edge. counts : (b,) int64.
    confidences, accuracies : (b,) float64 means over a bin, nan in an empty one.
    """

    edges: Float64
    counts: npt.NDArray[np.int64]
    confidences: Float64
    accuracies: Float64

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017): the
        mean gap between confidence and accuracy, bins weighted by what is in them. Few labels
        have gaps by chance: of n labels in b bins of an honest model about sqrt(b / n) / 3."""
        filled = self.counts > 0
        gaps = np.abs(self.confidences - self.accuracies)[filled]
        return float(np.average(gaps, weights=self.counts[filled])) if filled.any() else np.nan

    @property
    def overconfidence(self) -> float:
        """Mean confidence less accuracy: above 0 labels are told with too much confidence."""
        filled = self.counts > 0
        gaps = (self.confidences - self.accuracies)[filled]
        return float(np.average(gaps, weights=self.counts[filled])) if filled.any() else np.nan

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the bins that hold something, and the error."""
        rows = zip(
            self.edges[:-1].tolist(), self.edges[1:].tolist(), self.counts.tolist(),
            self.confidences.tolist(), self.accuracies.tolist(), strict=True,
        )  # fmt: skip
        names = ("above", "to", "images", "confidence", "accuracy")
        bins = [dict(zip(names, row, strict=True)) for row in rows if row[2]]
        return {"calibration_error": self.error, "bins": bins}


def reliability(
    confidences: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS, *, even: bool = False
) -> Reliability:
    """The reliability diagram of labels.

    confidences : (n,) in 0..1, of the label that was told. right : (n,) bool. even : bins of as
    many labels each, instead of bins of one width.

    Raises OptionError when the two are not of one length, a confidence is outside 0..1 or nan,
    or there is no bin.
    """
    told = np.asarray(confidences, np.float64)
    is_right = np.asarray(right, bool)
    if told.ndim != 1 or told.shape != is_right.shape:
        raise OptionError(
            f"expected one confidence for each label, got shapes {told.shape} and {is_right.shape}"
        )
    if not ((told >= 0) & (told <= 1)).all():
        raise OptionError("expected confidences from 0 to 1")
    if bins < 1:
        raise OptionError(f"expected 1 or more bins, got {bins}")
    edges = np.linspace(0, 1, bins + 1)
    if even and len(told):
        edges[1:-1] = np.quantile(told, edges[1:-1])
    places = np.clip(np.searchsorted(edges[1:-1], told), 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            edges=edges,
            counts=counts,
            confidences=np.bincount(places, told, bins) / counts,
            accuracies=np.bincount(places, is_right, bins) / counts,
        )


def brier_score(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean squared distance of (n, C) probabilities from the truth, (n,) positions: 0 best, 2
    worst (Brier 1950). Unlike the calibration error it cannot be lowered by saying less."""
    odds = np.array(probabilities, np.float64)
    truth = np.asarray(labels, np.int64)
    odds[np.arange(len(odds)), truth] -= 1
    return float((odds**2).sum(axis=1).mean())
