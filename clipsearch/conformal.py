"""Label sets with a stated coverage: as many labels an image as it takes to hold the true one.

Split conformal prediction (Vovk et al. 2005; Sadinle, Lei & Wasserman 2019 for these sets, the
smallest on average): of n confirmed images, drawn as the others are, take 1 - the probability of
the true label; its ceil((n + 1) * coverage)-th smallest number q is not exceeded by the true label
of a new image with a chance of at least ``coverage``, whatever the model is worth. An image's set
is every label of probability 1 - q or more.

Images that were left out of the teaching in turn calibrate, too. For them that is no theorem: a
new image is labelled by one example more (the jackknife; Barber et al. 2021, "Predictive inference
with the jackknife+"). benchmarks/calibration.py measures what it comes to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.ask import ASKED, RANDOM
from clipsearch.errors import LabelError, OptionError
from clipsearch.records import Int32
from clipsearch.sampling import Float64

FEWEST = 200
"""Confirmed images from which coverage is told: with so many the coverage of one calibration is
within about 2 points (one standard deviation) of what was asked for."""
_LEAST, _MOST = 0.5, 0.999

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Coverage:
    """What makes label sets.

    wanted : the share of images whose set is to hold the true label. least : the probability
    from which a label is in the set; 0 where every label that is possible at all has to be.
    images : how many it was calibrated on. is_random : they were drawn at random; else a person
    chose some of them, and the coverage is that of images like theirs.
    """

    wanted: float
    least: float
    images: int
    is_random: bool = True

    def most_labels(self, labels: int) -> int:
        """How many of so many labels a set can have at most: that many are to be ranked."""
        return labels if self.least <= 0 else max(1, min(labels, math.floor(1 / self.least)))

    def sizes(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """(n,) int64: how many of an image's best labels are its set.

        probabilities : (n, top) in falling order, ``top`` at least ``most_labels``. The best
        label is in the set even where no label is probable enough: that only adds coverage, and
        nobody can use an empty set.
        """
        least = max(np.float32(self.least), np.finfo(np.float32).tiny)
        reach = np.asarray(probabilities) >= least
        sizes: npt.NDArray[np.int64] = np.maximum(reach.sum(axis=1, dtype=np.int64), 1)
        return sizes

    def sets(self, labels: Int32, probabilities: npt.ArrayLike) -> Int32:
        """(n, m) int32: the labels of every image's set, best first, then -1; all of them -1 for
        an image that has no label. labels : (n, top) in the order of ``probabilities``."""
        sizes = np.where(labels[:, 0] >= 0, self.sizes(probabilities), 0)
        most = int(sizes.max(initial=1))
        return np.where(np.arange(most) < sizes[:, None], labels[:, :most], np.int32(-1))


def check_coverage(wanted: float) -> float:
    """The share, if it can be had: 0.5 to 0.999. Raises OptionError."""
    if not _LEAST <= wanted <= _MOST:
        raise OptionError(f"expected a coverage from {_LEAST} to {_MOST}, got {wanted}")
    return wanted


def coverage_of(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, wanted: float, *, is_random: bool = True
) -> Coverage:
    """Calibrate on confirmed images that did not teach the model: held out, or left out in turn.

    probabilities : (n, C). labels : (n,) positions of the true ones; an image of none of the
    labels (-1) is left out: what is covered are the images that have one. wanted : 0.5 to 0.999.

    Raises OptionError for a coverage that cannot be had; LabelError for fewer than 200 images.
    """
    check_coverage(wanted)
    truth = np.asarray(labels, np.int64)
    odds = np.asarray(probabilities, np.float32)[truth >= 0]
    truth = truth[truth >= 0]
    if len(truth) < FEWEST:
        raise LabelError(
            f"expected {FEWEST} or more confirmed images, got {len(truth)} that have a label of "
            "the set and were not picked for their doubt: 'clipsearch teach NAME --ask N --random' "
            "asks about more"
        )
    own = np.sort(odds[np.arange(len(truth)), truth])[::-1]
    rank = _rank(len(truth), wanted)
    return Coverage(wanted, float(own[rank - 1]) if rank <= len(own) else 0.0, len(own), is_random)


def _rank(images: int, wanted: float) -> int:
    """ceil((n + 1) * wanted), which rounding does not lift: 0.9 of 200 is 180."""
    return math.ceil(round((images + 1) * wanted, 9))


def fair_examples(chosen: Sequence[str]) -> tuple[Bools, bool]:
    """Which of (n,) examples may calibrate, by how they were chosen (``label_examples``), and
    whether all of those are random.

    Where enough are random those alone; else also those that a person gave. What ``ask`` chose
    are the images in doubt: never.
    """
    how = np.array(list(chosen), dtype=object)
    random: Bools = how == RANDOM
    if int(random.sum()) >= FEWEST:
        return random, True
    fair: Bools = how != ASKED
    return fair, bool((random == fair).all())


def mean_coverage(sizes: npt.ArrayLike, ranks: npt.ArrayLike) -> float:
    """The share of images whose true label is in their set. sizes : (n,) of the sets. ranks :
    (n,) of the true label among an image's labels, from 0."""
    inside: Float64 = (np.asarray(ranks) < np.asarray(sizes)).astype(np.float64)
    return float(inside.mean())
