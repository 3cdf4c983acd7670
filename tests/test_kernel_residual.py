"""Examples correct zero-shot: closed forms against doing it, and what is chosen."""

from __future__ import annotations

import numpy as np
import pytest

from clipsearch import kernel_residual as module
from clipsearch.encoder import Float32
from clipsearch.kernel_residual import KernelResidual, kernel_residual
from clipsearch.records import Int32
from clipsearch.shown_mistakes import picked_for_mistakes
from clipsearch.taught_odds import (
    as_probabilities,
    decided,
    sharpness_of,
    zero_shot_probabilities,
)
from tests.taught_scenes import SCALE, Scene, scene


def corrected(
    found: KernelResidual, seen: Scene, rows: Float32, labels: Int32, images: Float32
) -> np.ndarray:
    """Scores (n, C) of images, of the correction that was chosen, fitted here to some examples."""
    wide, classes = rows.astype(np.float64), seen.classes.astype(np.float64)
    scale = SCALE / found.temperature
    truth = np.eye(len(classes) + 1, len(classes))[labels]
    residual = truth - zero_shot_probabilities(wide @ classes.T, scale)
    before = zero_shot_probabilities(images.astype(np.float64) @ classes.T, scale)
    if found.beta == 0:
        return before
    kernel = np.exp(-found.beta * _squared(wide, wide)) + found.ridge * np.eye(len(rows))
    after: np.ndarray = before + np.exp(-found.beta * _squared(images, wide)) @ np.linalg.solve(
        kernel, residual
    )
    return after


def _squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    squared: np.ndarray = ((one[:, None, :].astype(np.float64) - other[None]) ** 2).sum(axis=2)
    return squared


@pytest.mark.parametrize("has_none", [False, True])
def test_left_out_is_what_leaving_an_example_out_gives(has_none: bool) -> None:
    seen = scene()
    places = seen.places(4)
    rows, labels = seen.rows[places], seen.truth[places].copy()
    if has_none:
        labels[labels == 5] = -1
    found = kernel_residual(seen.classes, SCALE, rows, labels, seen.rows)
    assert found.beta > 0
    for place in range(len(places)):
        others = np.arange(len(places)) != place
        alone = corrected(found, seen, rows[others], labels[others], rows[place : place + 1])
        np.testing.assert_allclose(found.left_out[place], alone[0], atol=1e-5)


def test_weights_solve_the_regression() -> None:
    seen = scene()
    places = seen.places(5)
    rows, labels = seen.rows[places], seen.truth[places]
    found = kernel_residual(seen.classes, SCALE, rows, labels)
    before = zero_shot_probabilities(
        seen.rows.astype(np.float64) @ seen.classes.astype(np.float64).T, SCALE / found.temperature
    )
    after = before + np.exp(-found.beta * _squared(seen.rows, rows)) @ found.weights
    np.testing.assert_allclose(after, corrected(found, seen, rows, labels, seen.rows), atol=1e-4)


def test_a_class_left_out_has_the_error_that_a_fit_without_it_has() -> None:
    seen = scene()
    places = seen.places(3, among=(0, 2, 3))
    rows, labels = seen.rows[places], seen.truth[places]
    examples = module._Examples(seen.classes, SCALE, rows, labels, None)
    beta, ridge = 2.0, 0.3
    kernel = np.exp(-beta * examples._squared)
    inverse = np.linalg.inv(kernel + ridge * np.eye(len(rows))).astype(np.float64)
    temperature = module.TEMPERATURES.index(1.0)
    weights = inverse @ examples._residuals[temperature]
    error = examples._class_out_error(weights, inverse)
    total = 0.0
    same = KernelResidual(1.0, beta / examples._unit, ridge, rows[:0], rows[:0])
    for label in (0, 2, 3):
        kept = labels != label
        alone = corrected(same, seen, rows[kept], labels[kept], rows[~kept])
        total += float(np.sum((np.eye(6)[label] - alone) ** 2))
    assert error == pytest.approx(total / len(rows), rel=1e-4)


def test_more_labels_than_examples_choose_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation makes them cheap; without it the same is chosen."""
    seen = scene(labels=30, dim=40)
    places = seen.places(2, among=(1, 4, 9, 11))
    asked = (seen.classes, SCALE, seen.rows[places], seen.truth[places], seen.rows[:50])
    turned = kernel_residual(*asked)
    monkeypatch.setattr(module, "_turned", lambda residual: residual)
    plain = kernel_residual(*asked)
    assert turned.beta == plain.beta > 0
    assert (turned.temperature, turned.ridge) == (plain.temperature, plain.ridge)
    np.testing.assert_allclose(turned.weights, plain.weights, atol=1e-6)


def test_many_examples_are_all_used_though_some_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CHOOSING", 40)
    seen = scene(names=0.5)
    places = seen.places(20)
    found = kernel_residual(seen.classes, SCALE, seen.rows[places], seen.truth[places])
    assert found.weights.shape == found.left_out.shape == (120, 6)
    assert np.mean(decided(found.left_out) == seen.truth[places]) > 0.9
    shown = module.spread(seen.truth[places], module._MOST_CHOOSING)
    counts = np.bincount(seen.truth[places][shown])
    assert counts.sum() == module._MOST_CHOOSING
    assert np.ptp(counts) <= 1
    assert (np.diff(shown) > 0).all()


def test_examples_of_nothing_but_noise_are_not_believed() -> None:
    """Labels drawn by lot, names that are right: zero-shot stays as it is."""
    seen = scene(names=0.1, noise=0.15)
    places = seen.places(4)
    chance = np.random.default_rng(3)
    labels = chance.permutation(seen.truth[places]).astype(np.int32)
    found = kernel_residual(seen.classes, SCALE, seen.rows[places], labels, seen.rows)
    after = corrected(found, seen, seen.rows[places], labels, seen.rows)
    assert np.mean(after.argmax(axis=1) == seen.truth) >= np.mean(seen.zero_shot() == seen.truth)


def test_no_example_left_out_is_lost() -> None:
    """As many are right when they are left out as zero-shot has right."""
    for names in (0.1, 0.2, 0.3, 0.4):
        for each in (2, 3, 6):
            seen = scene(names=names)
            places = seen.places(each)
            labels = seen.truth[places]
            found = kernel_residual(seen.classes, SCALE, seen.rows[places], labels, seen.rows)
            before = np.sum(seen.zero_shot()[places] == labels)
            assert np.sum(decided(found.left_out) == labels) >= before


def test_temperature_follows_how_much_the_names_say() -> None:
    good, bad = scene(names=0.1), scene(names=2.0)
    found = [
        kernel_residual(seen.classes, SCALE, seen.rows[places], seen.truth[places], seen.rows)
        for seen in (good, bad)
        for places in [seen.places(5)]
    ]
    assert found[0].temperature <= 1 < 4 <= found[1].temperature


def test_mistakes_are_told_from_fair_examples() -> None:
    assert picked_for_mistakes(0, 20, 0.9) > 0.95
    assert picked_for_mistakes(12, 20, 0.9) < 0.2
    assert picked_for_mistakes(0, 1, 0.9) < 0.8
    assert picked_for_mistakes(40, 40, 1.0) < 0.01


def test_probabilities_are_probabilities() -> None:
    scores = np.array([[1.4, -0.2, -0.2], [0.2, 0.1, 0.1], [-0.1, -0.2, -0.3]], np.float32)
    odds = as_probabilities(scores, 1.0, has_none=True)
    assert (odds > 0).all()
    np.testing.assert_allclose(odds[1], scores[1])
    assert odds[0].sum() == pytest.approx(1, abs=1e-3)
    assert odds[2].sum() < 0.01
    assert decided(scores).tolist() == [0, -1, -1]
    np.testing.assert_allclose(as_probabilities(scores).sum(axis=1), 1, rtol=1e-6)
    squared = as_probabilities(scores, 2.0, has_none=True)[1]
    np.testing.assert_allclose(squared, np.array([4, 1, 1]) / (4 + 1 + 1 + 36), rtol=1e-5)


def test_sharpness_makes_scores_as_sure_as_they_are_right() -> None:
    """Scores whose right label has the higher probability than they say, by a known power."""
    chance = np.random.default_rng(5)
    truth = chance.dirichlet((0.3, 0.3, 0.3), 400)
    labels = np.array([chance.choice(3, p=row) for row in truth], np.int32)
    for power in (0.5, 1.0, 2.0, 4.0):
        flattened = truth ** (1 / power)
        scores = (flattened / flattened.sum(axis=1, keepdims=True)).astype(np.float32)
        # That they should be less sure is not believed.
        assert sharpness_of(scores, labels) == pytest.approx(max(1, power), rel=0.42)
    assert sharpness_of(scores[:2], np.array([0, 1], np.int32)) == 1
