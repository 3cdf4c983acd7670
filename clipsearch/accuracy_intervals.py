"""How far a measured accuracy can be from the true one, for want of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NORMAL_95 = 1.959964


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Where the true share lies with 95 % confidence when ``right`` of ``count`` were right
    (Wilson 1927); nan where nothing was counted."""
    if not count:
        return math.nan, math.nan
    z2 = _NORMAL_95**2
    share = right / count
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = _NORMAL_95 / (1 + z2 / count) * math.sqrt(
        share * (1 - share) / count + z2 / (4 * count**2)
    )  # fmt: skip
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Difference:
    """By how much one way is right more often than another, on the same images.

    share : of all images, below 0 where it is right less often. low, high : where the true
    difference lies with 95 % confidence.
    """

    share: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether chance alone would hardly give it."""
        return self.low > 0 or self.high < 0


def paired_difference(before: npt.ArrayLike, after: npt.ArrayLike) -> Difference:
    """How much more often ``after`` is right than ``before``, (n,) bool of the same images.

    Only images that one has right and the other wrong say anything of that: the interval is
    much narrower than those of two accuracies (Agresti & Min 2005, with half an image added to
    each kind).
    """
    first, second = np.asarray(before, bool), np.asarray(after, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"expected two of one length, got {first.shape} and {second.shape}")
    count = len(first)
    if not count:
        return Difference(math.nan, math.nan, math.nan)
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    total, more, less = count + 2, won + 0.5, lost + 0.5
    middle = (more - less) / total
    reach = _NORMAL_95 * math.sqrt(more + less - (more - less) ** 2 / total) / total
    return Difference((won - lost) / count, max(-1.0, middle - reach), min(1.0, middle + reach))
