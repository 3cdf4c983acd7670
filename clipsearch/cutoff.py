"""Which hits answer a query, and how strongly: a cut-off on standardised scores.

A single threshold either cuts the end off the answer to a query that has many matches, or lets
something through for a query that has none. So there are two levels (hysteresis thresholding, as
in Canny 1986). A query counts as answered when its best hit is *strong*; then every hit that is
at least *fair* belongs to the answer. When not even the best is strong, nothing does, and the
nearest may be shown as what they are.

The best of many is high by chance alone: the largest of n standard normal numbers is near
sqrt(2 ln n) (Fisher and Tippett 1928). So *strong* rises with the number of images searched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32

Strength = Literal["strong", "fair", "weak"]
STRONG: Strength = "strong"
FAIR: Strength = "fair"
WEAK: Strength = "weak"

# Chosen on two labelled collections (200 captioned photos; 476 photos of 25 classes), whole and
# in samples of 50, and two models, all given equal weight, in steps of 0.25 and 0.2, by the mean
# of F1 over queries with matches and of "nothing shown" over queries without. How they do,
# beside thresholds of other kinds and on queries they were not chosen on: benchmarks/cutoff.py.
# With this margin nothing is shown for 92 % or more of the things of which there is no photo,
# be the photos 10 or 476.
_MARGIN = 1.0
_FAIR = 3.2
# The same for photos as queries, on the photos of 25 classes, with the class and without.
_MARGIN_OF_IMAGES = -0.5
_FAIR_OF_IMAGES = 1.9


@dataclass(frozen=True)
class CutOff:
    """Two levels of a standardised score (see ``background``): ``fair`` <= ``strong``."""

    strong: float
    fair: float

    def level(self, best: float) -> float:
        """The lowest standardised score that belongs to the answer of a query whose best hit
        has ``best``: infinite when nothing does, minus infinite when nothing can be said (nan).
        """
        if math.isnan(best):
            return -math.inf
        return self.fair if best >= self.strong else math.inf

    def passes(self, scores: Float32, best: float | None = None) -> npt.NDArray[np.bool_]:
        """Which of (n,) standardised scores belong to the answer.

        best : the query's best one, where it is not among them (a later page). A score that
        is nan passes when nothing can be said of any, and only then.
        """
        if best is None:
            known = scores[~np.isnan(scores)]
            best = float(known.max()) if len(known) else math.nan
        if math.isnan(best):
            return np.ones(len(scores), np.bool_)
        return np.asarray(scores >= self.level(best))

    def strength_of(self, score: float) -> Strength | None:
        """Strong, fair or weak; None when nothing can be said (nan)."""
        if math.isnan(score):
            return None
        if score >= self.strong:
            return STRONG
        return FAIR if score >= self.fair else WEAK


def cut_off(images: int, *, with_image: bool = False) -> CutOff:
    """The cut-off of a query over so many images (those that a filter lets through).

    with_image : an image is part of the query, which is then held against the collection.
    """
    margin, fair = (_MARGIN_OF_IMAGES, _FAIR_OF_IMAGES) if with_image else (_MARGIN, _FAIR)
    by_chance = math.sqrt(2 * math.log(max(images, 1)))
    return CutOff(strong=max(fair, by_chance + margin), fair=fair)
