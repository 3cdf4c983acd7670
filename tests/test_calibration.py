"""What probabilities are worth: reliability, temperature, label sets with a coverage."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from clipsearch.calibration import brier_score, reliability
from clipsearch.conformal import coverage_of, fair_examples, mean_coverage
from clipsearch.errors import LabelError, OptionError
from clipsearch.sampling import Float64
from clipsearch.temperature import fit_temperature, log_probabilities

Ints = npt.NDArray[np.int64]


def drawn(images: int, labels: int, temperature: float, seed: int) -> tuple[Float64, Ints]:
    """Logits, and truths drawn from softmax(logits / temperature)."""
    chance = np.random.default_rng(seed)
    logits = 4 * chance.standard_normal((images, labels))
    noise = -np.log(-np.log(chance.random(logits.shape)))  # Gumbel: argmax draws a softmax
    return logits, (logits / temperature + noise).argmax(axis=1)


# -- reliability ------------------------------------------------------------------------------


def test_reliability_by_hand() -> None:
    told = reliability([0.95, 0.85, 0.8, 0.3, 0.2, 1.0], [True, False, True, False, True, True], 5)
    assert told.counts.tolist() == [1, 1, 0, 1, 3]
    assert told.confidences[[0, 1, 3, 4]] == pytest.approx([0.2, 0.3, 0.8, 2.8 / 3])
    assert told.accuracies[[0, 1, 3, 4]] == pytest.approx([1, 0, 1, 2 / 3])
    assert np.isnan(told.confidences[2])
    assert told.error == pytest.approx((0.8 + 0.3 + 0.2 + 0.8) / 6)
    assert told.overconfidence == pytest.approx((4.1 - 4) / 6)
    document = told.to_dict()
    assert [row["images"] for row in document["bins"]] == [1, 1, 1, 3]
    assert document["bins"][1] == {
        "above": pytest.approx(0.2), "to": pytest.approx(0.4), "images": 1,
        "confidence": pytest.approx(0.3), "accuracy": 0.0,
    }  # fmt: skip


def test_an_honest_model_has_next_to_no_error_and_a_boastful_one_has() -> None:
    logits, truth = drawn(20_000, 5, 1.0, seed=1)
    for sharper, least, most in ((1.0, 0.0, 0.01), (0.5, 0.05, 0.2)):
        odds = np.exp(log_probabilities(logits, sharper))
        told = reliability(odds.max(axis=1), odds.argmax(axis=1) == truth)
        even = reliability(odds.max(axis=1), odds.argmax(axis=1) == truth, even=True)
        assert least <= told.error <= most
        assert least <= even.error <= most
        assert even.counts.min() >= 1000
        assert told.overconfidence == pytest.approx(even.overconfidence)
    assert brier_score(np.exp(log_probabilities(logits)), truth) < brier_score(
        np.exp(log_probabilities(logits, 0.5)), truth
    )


def test_reliability_of_odd_input() -> None:
    assert math.isnan(reliability([], []).error)
    assert reliability([0.5] * 4, [True, False] * 2, even=True).error == 0
    assert brier_score([[0.0, 1.0], [1.0, 0.0]], [0, 0]) == pytest.approx(1.0)
    with pytest.raises(OptionError, match="one confidence for each label"):
        reliability([0.5], [True, False])
    with pytest.raises(OptionError, match="from 0 to 1"):
        reliability([float("nan")], [True])
    with pytest.raises(OptionError, match="1 or more bins, got 0"):
        reliability([0.5], [True], 0)


# -- temperature ------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_truths_were_drawn_with_is_found(temperature: float) -> None:
    logits, truth = drawn(4000, 6, temperature, seed=2)
    found = fit_temperature(logits, truth)
    assert found == pytest.approx(temperature, rel=0.06)
    # Nothing but the logits less what cancels matters, and images of no label say nothing.
    shifted = np.concatenate([log_probabilities(logits), logits[:50]])
    assert fit_temperature(shifted, np.concatenate([truth, np.full(50, -1)])) == pytest.approx(
        found, rel=1e-4
    )
    chance = np.random.default_rng(0)
    order = chance.permutation(len(truth))
    assert fit_temperature(logits[order], truth[order]) == pytest.approx(found, rel=1e-4)


def test_few_images_say_little_of_the_temperature() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0)) == 1.0
    logits, truth = drawn(5, 6, 1.0, seed=3)
    right = logits.argmax(axis=1)
    sure = fit_temperature(logits, right)
    assert 0.3 < sure < 1  # all five are right: it is a little surer than it was
    many = fit_temperature(np.tile(logits, (200, 1)), np.tile(right, 200))
    assert 0.1 <= many < 0.8 * sure
    wrong = fit_temperature(logits, (right + 1) % 6)
    assert 1 < wrong < 10
    assert fit_temperature(np.full((40, 2), 3.0), np.zeros(40)) == pytest.approx(1.0, abs=1e-4)
    assert truth.shape == (5,)


def test_a_temperature_of_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(LabelError, match=r"got shapes \(2, 3\) and \(3,\)"):
        fit_temperature(np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(LabelError, match="labels below 3, got 3"):
        fit_temperature(np.zeros((2, 3)), np.array([0, 3]))
    with pytest.raises(LabelError, match="finite logits"):
        fit_temperature(np.full((2, 3), np.nan), np.array([0, 1]))


# -- label sets with a coverage ---------------------------------------------------------------


def ranked(logits: Float64, truth: Ints) -> tuple[Float64, Ints]:
    """Falling probabilities, and the rank of the true label."""
    odds = np.exp(log_probabilities(logits))
    order = np.argsort(-odds, axis=1, kind="stable")
    return np.take_along_axis(odds, order, axis=1), (order == truth[:, None]).argmax(axis=1)


def test_the_threshold_by_hand() -> None:
    # 200 images; the true label of the n-th has the probability (n + 1) / 201.
    own = np.arange(1, 201) / 201
    odds = np.stack([own, 1 - own], axis=1)
    found = coverage_of(odds, np.zeros(200, int), 0.9)
    # ceil(201 * 0.9) = 181: the 181st highest of 200 is the 20th lowest.
    assert found.least == pytest.approx(20 / 201)
    assert (found.images, found.wanted, found.is_random) == (200, 0.9, True)
    assert found.most_labels(100) == 10
    assert found.most_labels(4) == 4
    assert found.sizes([[0.6, 0.3, 0.0996], [0.6, 0.3, 0.09], [0.05, 0.04, 0.03]]).tolist() == [
        3, 2, 1
    ]  # fmt: skip
    # An image of none of the labels does not count.
    more = np.concatenate([odds, np.full((70, 2), 0.5)])
    same = coverage_of(more, np.concatenate([np.zeros(200, int), np.full(70, -1)]), 0.9)
    assert (same.least, same.images) == (found.least, 200)
    # Of 200 images none is rare enough for 99.9 %: every label has to be in the set.
    everything = coverage_of(odds, np.zeros(200, int), 0.999)
    assert everything.least == 0
    assert everything.most_labels(7) == 7
    assert everything.sizes([[0.999, 0.001], [1.0, 0.0]]).tolist() == [2, 1]
    codes = np.array([[4, 1, 0], [2, 0, 3], [-1, -1, -1]], np.int32)
    sets = found.sets(codes, [[0.6, 0.3, 0.09], [0.9, 0.06, 0.04], [0.4, 0.3, 0.3]])
    assert sets.tolist() == [[4, 1], [2, -1], [-1, -1]]
    assert found.sets(codes[:0], np.zeros((0, 3))).shape[0] == 0


@pytest.mark.parametrize("wanted", [0.7, 0.9])
def test_sets_hold_the_true_label_as_often_as_they_say_whatever_the_model_is_worth(
    wanted: float,
) -> None:
    held, sizes = [], []
    for seed in range(60):
        # Logits are four times too sharp: coverage does not mind.
        logits, truth = drawn(650, 8, 4.0, seed=100 + seed)
        odds, ranks = ranked(logits, truth)
        found = coverage_of(np.exp(log_probabilities(logits[:250])), truth[:250], wanted)
        sets = found.sizes(odds[250:])
        held.append(mean_coverage(sets, ranks[250:]))
        sizes.append(sets.mean())
    assert np.mean(held) == pytest.approx(wanted, abs=0.012)
    assert np.std(held) > 0.005  # of splits that differ
    assert 1 < np.mean(sizes) < 7


def test_what_asking_chose_is_no_fair_sample() -> None:
    chosen = ["random"] * 3 + ["asked"] * 2 + ["given"]
    fair, is_random = fair_examples(chosen)
    assert fair.tolist() == [True, True, True, False, False, True]
    assert is_random is False
    fair, is_random = fair_examples(chosen + ["random"] * 200)
    assert fair.sum() == 203
    assert is_random is True
    fair, is_random = fair_examples(["random", "asked"])
    assert fair.tolist() == [True, False]
    assert is_random is True


def test_a_coverage_that_cannot_be_told_is_refused() -> None:
    odds, truth = np.full((200, 2), 0.5), np.zeros(200, int)
    for wrong in (0.3, 1.0, float("nan")):
        with pytest.raises(OptionError, match=r"coverage from 0.5 to 0.999, got"):
            coverage_of(odds, truth, wrong)
    truth[0] = -1
    with pytest.raises(
        LabelError, match=r"expected 200 or more confirmed images, got 199 that have"
    ):
        coverage_of(odds, truth, 0.9)
