"""bfloat16 products pick candidates only: the labels are those of float32 and float64."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from clipsearch.bfloat_scoring import BfloatScorer, bfloat16_gain
from clipsearch.encoder import Float32
from clipsearch.scoring import LabelScorer
from clipsearch.shards import Float16
from clipsearch.threads import in_order

DIM = 96


def _unit(rows: Float32) -> Float32:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _clouds(images: int, labels: int, spread: float) -> tuple[Float16, Float32]:
    """Images and labels in two cones far from each other, as CLIP's are."""
    chance = np.random.default_rng(1)
    ways = chance.standard_normal((2, DIM)) * 3
    rows = _unit(ways[0] + chance.standard_normal((images, DIM)))
    return rows.astype(np.float16), _unit(ways[1] + spread * chance.standard_normal((labels, DIM)))


@pytest.mark.parametrize("spread", [1.0, 0.05, 1e-4, 1e-7, 0.0])
@pytest.mark.parametrize("labels", [1, 2, 3, 40, 300])
def test_labels_are_those_of_float32(labels: int, spread: float) -> None:
    rows, classes = _clouds(200, labels, spread)
    ids = np.arange(200)
    typical = rows[:50].astype(np.float32)
    for top in {1, min(3, labels), min(9, labels)}:
        wanted = LabelScorer(classes, 100.0, top).score(ids, rows)
        got = BfloatScorer(classes, 100.0, top, typical=typical).score(ids, rows)
        np.testing.assert_array_equal(got.labels, wanted.labels)
        np.testing.assert_array_equal(got.runners_up, wanted.runners_up)
        np.testing.assert_allclose(got.scores, wanted.scores, atol=1e-6)
        np.testing.assert_allclose(got.margins, wanted.margins, atol=1e-6)
        np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=0.01)


@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_rounded_scores_are_within_their_bounds(spread: float) -> None:
    rows, classes = _clouds(300, 100, spread)
    wide = rows.astype(np.float32)
    # Images of another kind than the typical ones loosen the bound, and never break it.
    for typical in (wide[:30], -wide[:1], np.zeros((1, DIM), np.float32)):
        scorer = BfloatScorer(classes, 100.0, typical=typical)
        rough = np.empty((300, 100), np.float32)
        bounds = scorer._multiply_rounded(wide, rough)
        truth = rows.astype(np.float64) @ classes.astype(np.float64).T
        errors = np.abs(rough - truth).max(axis=1)
        assert (errors <= bounds).all()
        assert errors.max() > 2e-6, "bfloat16 rounds: with no error nothing is tested"


def test_torch_keeps_its_threads() -> None:
    rows, classes = _clouds(40, 70, 1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        scorer = BfloatScorer(classes, 100.0, typical=rows.astype(np.float32))
        blocks = ((np.arange(10) + start, rows[start : start + 10]) for start in range(0, 40, 10))
        list(in_order(lambda block: scorer.score(*block), blocks, 2))
        scorer.score(np.arange(40), rows)
        counts = [torch.get_num_threads()]
        later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert counts == [3, 3]
    finally:
        torch.set_num_threads(before)


def test_gain_is_a_positive_number() -> None:
    assert bfloat16_gain(64, 100) > 0
