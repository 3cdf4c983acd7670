"""Intervals of accuracies: against SciPy, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipsearch.accuracy_intervals import Difference, paired_difference, wilson_interval


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (0, 5, 0.0, 0.4344825),
        (5, 5, 0.5655175, 1.0),
        (1, 3, 0.0614919, 0.7923404),
        (354, 476, 0.7026341, 0.7808589),
        (99000, 100000, 0.9893642, 0.9905981),
    ],
)
def test_wilson_is_that_of_scipy(right: int, count: int, low: float, high: float) -> None:
    """binomtest(right, count).proportion_ci(0.95, method="wilson") of SciPy 1.17."""
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=1e-6)


def test_nothing_says_nothing() -> None:
    assert all(math.isnan(end) for end in wilson_interval(0, 0))
    empty = paired_difference([], [])
    assert math.isnan(empty.share)
    assert not empty.is_clear
    with pytest.raises(ValueError, match="two of one length"):
        paired_difference([True], [True, False])


def test_a_difference_on_the_same_images() -> None:
    before = np.arange(200) < 150
    after = before.copy()
    after[140:180] = True  # 30 more are right, none is wrong that was right
    found = paired_difference(before, after)
    assert found.share == pytest.approx(0.15)
    assert 0.09 < found.low < 0.15 < found.high < 0.21
    assert found.is_clear
    back = paired_difference(after, before)
    assert (back.share, back.low, back.high) == pytest.approx(
        (-found.share, -found.high, -found.low)
    )
    same = paired_difference(before, before)
    assert (same.share, same.is_clear) == (0, False)
    assert same.low == pytest.approx(-same.high)
    assert 0.005 < same.high < 0.02
    assert Difference(-0.2, -0.3, -0.1).is_clear


def test_it_holds_the_truth_nineteen_times_of_twenty() -> None:
    draws = np.random.default_rng(0)
    held, width, apart = 0, [], []
    for _ in range(1000):
        sure = draws.random(150)
        before = sure < 0.7
        after = np.where(draws.random(150) < 0.2, draws.random(150) < 0.9, before)
        found = paired_difference(before, after)
        held += found.low <= 0.2 * (0.9 - 0.7) <= found.high
        width.append(found.high - found.low)
        ends = [wilson_interval(int(row.sum()), 150) for row in (before, after)]
        apart.append(ends[0][1] - ends[0][0])
    assert 925 <= held <= 985
    assert np.mean(width) < np.mean(apart)
