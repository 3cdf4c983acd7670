"""From when on an image belongs to a set of labels: a threshold that the collection gives.

Nothing tells which images belong. But it can be seen what images look like that do not: of a
sample of the collection each image's evidence is taken again with its own label (and those that
mean the same) gone and random words in the place of them, and with random words in the place of
all labels. That is *chance*: what labels score that nobody chose for the image. The
evidence of the sample is then taken for a mixture of two normal distributions, one of images
that belong and one of images that do not, which is held to what chance looks like and can be no
larger than the lower tail allows: where hardly any image does as badly as chance often does,
hardly any can be one that does not belong. The threshold is where an image is so much more
likely to belong to the lower one that calling it none is worth the risk.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32, Float64

COST = 3.0
"""To lose an image that belongs is so many times as bad as to label one that does not."""
FEWEST_IMAGES = 20
"""Of fewer images chance alone decides: a mixture says nothing of them."""
_USUAL_SHARE = 0.25  # of chance that stays below the threshold where there is no mixture
_STEPS = 200
_STILL = 1e-5  # of a spread: the means move no more
_STARTS = ((0.0, 0.75, 0.3), (0.5, 0.97, 0.87))
"""Of a fit: where most images belong, and where few do. A quantile of 0 is where chance is."""
_TINY = 1e-300
_STRENGTH = 0.2  # what chance counts for beside the images, in images for each of them
_LEAST_STRENGTH = 10.0
_PRIOR_IMAGES = 5.0  # keep the upper distribution where it began when nothing belongs to it
_LEAST_SPREAD = 0.3
_WIDER = 1.2  # images that belong differ at least so much more than chance does
_APART = 1.0  # spreads of chance that lie between the two means, at least
_LEAST_SHARE = 0.01
_SLACK = 0.05  # of the share of images that do not belong, beyond what the lower tail allows
_TAIL = np.linspace(0.1, 0.7, 19)
_GRID = 2001


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions of evidence. share : of images that do not belong."""

    share: float
    outside: tuple[float, float]
    inside: tuple[float, float]

    def threshold(self, cost: float = COST) -> float:
        """The highest evidence at which an image is more likely not to belong."""
        low, high = self.outside[0] - 2 * self.outside[1], self.inside[0]
        grid = np.linspace(low, max(low, high), _GRID)
        outside = self.share * _density(grid, *self.outside)
        inside = cost * (1 - self.share) * _density(grid, *self.inside)
        likely = np.flatnonzero(outside > inside)
        return float(grid[likely[-1]] if len(likely) else grid[0])


def evidence_threshold(evidence: Float32, chance: Float32) -> float:
    """What an image's evidence has to reach, from a sample and what chance looks like there.

    evidence : (n,) float32, log-odds of labels against negatives. chance : (m,) float32, the
    same of labels that nobody chose for the images; m = 0 where there is no image.
    """
    if not len(chance):
        return 0.0
    if len(evidence) < FEWEST_IMAGES:
        return float(np.quantile(chance, _USUAL_SHARE))
    return fit_mixture(evidence, chance).threshold()


def fit_mixture(evidence: Float32, chance: Float32) -> Mixture:
    """The mixture that ``evidence`` (n,) is taken for, by expectation and maximisation; the
    distribution of images that do not belong is held to ``chance`` (m,)."""
    values: Float64 = evidence.astype(np.float64)
    low, usual, high = np.quantile(chance, (0.16, 0.5, 0.84)).tolist()
    spread = max((high - low) / 2, _LEAST_SPREAD)
    best = max(
        (_fit(values, usual, spread, *start) for start in _STARTS), key=lambda found: found[0]
    )[1]
    # Chance as it was found among the images: what does not belong may do better than chance,
    # and does not differ as much where it is all alike.
    narrower = min(1.0, best.outside[1] / spread)
    moved = best.outside[0] + (chance.astype(np.float64) - usual) * narrower
    share = min(best.share, _tail_share(values, moved) + _SLACK)
    return dataclasses.replace(best, share=float(np.clip(share, _LEAST_SHARE, 1 - _LEAST_SHARE)))


def _fit(
    values: Float64, usual: float, spread: float, outside_at: float, inside_at: float, share: float
) -> tuple[float, Mixture]:
    """How likely a mixture is, and the mixture, from one start: the quantiles of ``values``
    where the two means are, and the share outside. usual, spread : of chance."""
    strength = _STRENGTH * len(values) + _LEAST_STRENGTH
    first = np.quantile(values, outside_at) if outside_at else usual
    outside = (max(float(first), usual), spread)
    inside = (max(float(np.quantile(values, inside_at)), usual + spread), _WIDER * spread)
    begun = max(float(np.quantile(values, _STARTS[0][1])), usual + 2 * spread)
    for _ in range(_STEPS):
        odds_out = share * _density(values, *outside)
        odds_in = (1 - share) * _density(values, *inside)
        out = odds_out / (odds_out + odds_in + _TINY)
        # A wide normal distribution would claim what lies beyond a narrow one.
        out = np.where(values <= outside[0], 1.0, np.where(values >= inside[0], 0.0, out))
        held = 1 - out
        share = float(np.clip(out.mean(), _LEAST_SHARE, 1 - _LEAST_SHARE))
        weight = held.sum() + _PRIOR_IMAGES
        mean = max((held @ values + _PRIOR_IMAGES * begun) / weight, usual + _APART * spread)
        square = (held @ np.square(values - mean) + _PRIOR_IMAGES * spread**2) / weight
        before = inside[0] + outside[0]
        inside = (float(mean), max(float(np.sqrt(square)), _WIDER * spread))
        weight = strength + out.sum()
        mean = (strength * usual + out @ values) / weight
        square = (strength * spread**2 + out @ np.square(values - mean)) / weight
        outside = (float(mean), float(np.sqrt(square)))
        if abs(inside[0] + outside[0] - before) < _STILL * spread:
            break
    odds = share * _density(values, *outside) + (1 - share) * _density(values, *inside)
    likely = float(np.log(odds + _TINY).sum())
    likely += strength * _log_fit(usual, spread, outside)
    likely += _PRIOR_IMAGES * _log_fit(begun, spread, inside)
    return likely, Mixture(share, outside, inside)


def _log_fit(mean: float, spread: float, normal: tuple[float, float]) -> float:
    """The mean log density of what has ``mean`` and ``spread``, under a normal distribution."""
    distance = (mean - normal[0]) ** 2 + spread**2
    return -math.log(normal[1]) - distance / (2 * normal[1] ** 2)


def _tail_share(values: Float64, chance: Float64) -> float:
    """How many of the images can be ones that do not belong: no more than what chance puts
    below some evidence, times that share, can lie there."""
    places = np.quantile(chance, _TAIL)
    images = (np.searchsorted(np.sort(values), places) + 1) / (len(values) + 1)
    return min(1.0, float((images / _TAIL).min()))


def _density(
    values: npt.NDArray[np.float64], mean: float, spread: float
) -> npt.NDArray[np.float64]:
    """A normal density, but for a factor that all have in common."""
    density: npt.NDArray[np.float64] = np.exp(-0.5 * np.square((values - mean) / spread)) / spread
    return density
