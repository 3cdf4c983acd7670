"""Examples that are mistakes: people show what is wrong, and that says nothing of what is right."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class Anchors:
    """Images of the collection, were zero-shot right about them, at one temperature.

    odds : (m, C), of zero-shot. guess, sure : (m,), the label that it gives and how sure it is
    as it comes.
    """

    def __init__(
        self, odds: Float64, guess: npt.NDArray[np.intp], sure: Float64, residual: Float64
    ) -> None:
        wrong = -odds
        wrong[np.arange(len(guess)), guess] += 1
        self._sure = sure / sure.sum()
        self._before = np.sum(wrong**2, axis=1)
        self._pull = wrong @ residual.T

    def error(self, reach: Float64 | None, turned: Float64 | None = None) -> float:
        """Their squared error. reach : (m, n), k(x, S) (K + lambda I)^-1; None as it is without
        a correction. turned : (n, r), the residual or a rotation of it."""
        error = self._before
        if reach is not None and turned is not None:
            error = error - 2 * np.sum(reach * self._pull, axis=1)
            error = error + np.sum((reach @ turned) ** 2, axis=1)
        return float(self._sure @ error)


def picked_for_mistakes(right: int, count: int, sure: float) -> float:
    """The odds, from even ones, that examples were picked for being mistakes.

    If they were not, about three quarters of ``sure`` are right, the mean probability of the
    labels that zero-shot gives (it claims too much); if they were, few are. Both shares are as
    uncertain as beta distributions are.
    """
    share = min(max(0.75 * sure, 1e-3), 1 - 1e-3)
    fair = _log_beta_binomial(right, count, 4 * share, 4 * (1 - share))
    picked = _log_beta_binomial(right, count, 0.3, 3.0)
    return 1 / (1 + math.exp(min(fair - picked, 700)))


def _log_beta_binomial(right: int, count: int, a: float, b: float) -> float:
    """Up to what does not depend on a and b."""
    return _log_beta(right + a, count - right + b) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
