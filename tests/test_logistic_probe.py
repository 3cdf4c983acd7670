"""The probe begins at the text, and moves as far as its pull lets it."""

from __future__ import annotations

import numpy as np

from clipsearch.logistic_probe import logistic_probe
from clipsearch.taught_odds import decided, zero_shot_probabilities
from tests.taught_scenes import SCALE, scene


def test_probe_is_where_its_slope_is_zero() -> None:
    seen = scene(names=0.4)
    places = seen.places(20)
    rows, labels = seen.rows[places].astype(np.float64), seen.truth[places]
    found = logistic_probe(seen.classes, SCALE, seen.rows[places], labels)
    assert found.pull > 0
    assert found.weights.shape == seen.classes.shape
    odds = zero_shot_probabilities(rows @ found.weights.astype(np.float64).T, SCALE)
    push = SCALE * (np.eye(6)[labels] - odds).T @ rows / len(rows)
    moved = found.weights - seen.classes / found.temperature
    assert np.linalg.norm(moved) > 0.05
    np.testing.assert_allclose(found.pull * moved, push, atol=0.01 * np.abs(push).max())


def test_probe_learns_and_its_left_out_examples_tell_how_well() -> None:
    seen = scene(names=0.4)
    places = seen.places(25)
    found = logistic_probe(seen.classes, SCALE, seen.rows[places], seen.truth[places])
    rest = np.setdiff1d(np.arange(len(seen.rows)), places)
    before = np.mean(seen.zero_shot()[rest] == seen.truth[rest])
    given = (seen.rows[rest] @ found.weights.T).argmax(axis=1)
    after = np.mean(given == seen.truth[rest])
    told = np.mean(decided(found.left_out) == seen.truth[places])
    assert after > before + 0.3
    assert abs(told - after) < 0.06


def test_text_stays_where_nothing_is_to_be_learned() -> None:
    seen = scene(names=0.02, noise=0.1)
    places = seen.places(4)
    labels = np.random.default_rng(0).permutation(seen.truth[places]).astype(np.int32)
    found = logistic_probe(seen.classes, SCALE, seen.rows[places], seen.truth[places])
    noise = logistic_probe(seen.classes, SCALE, seen.rows[places], labels)
    images = seen.rows @ seen.classes.T
    for probe in (found, noise):
        given = seen.rows @ probe.weights.T if len(probe.weights) else images
        assert np.mean(given.argmax(axis=1) == seen.truth) > 0.99


def test_none_of_the_labels_has_a_row_of_its_own() -> None:
    seen = scene(labels=5, names=0.3)
    labels = np.where(seen.truth == 4, -1, seen.truth).astype(np.int32)
    places = seen.places(20)
    found = logistic_probe(seen.classes[:4], SCALE, seen.rows[places], labels[places])
    assert found.weights.shape == (5, seen.classes.shape[1])
    assert found.bias > 0
    logits = SCALE * seen.rows @ found.weights.T
    logits[:, -1] += found.bias
    given = logits.argmax(axis=1)
    assert np.mean(np.where(given == 4, -1, given) == labels) > 0.9
    assert found.left_out.shape == (100, 4)
    assert found.left_out[labels[places] < 0].sum(axis=1).mean() < 0.3
