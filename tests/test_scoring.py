"""Streaming scores against a float64 softmax over the whole matrix."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from clipsearch import scoring
from clipsearch.encoder import Float32
from clipsearch.scoring import ScoredBlock, best_labels, score_blocks
from clipsearch.shards import Int64

COLUMNS = ("ids", "labels", "scores", "probabilities", "margins", "runners_up")


def unit(count: int, dim: int, seed: int) -> Float32:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def in_blocks(rows: Float32, size: int) -> Iterator[tuple[Int64, Float32]]:
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.arange(start, start + len(part)) * 3, part


def joined(blocks: Iterator[ScoredBlock]) -> dict[str, np.ndarray]:
    kept = list(blocks)
    return {name: np.concatenate([getattr(block, name) for block in kept]) for name in COLUMNS}


def check(rows: Float32, classes: Float32, scale: float, top: int, size: int) -> None:
    got = joined(score_blocks(in_blocks(rows, size), classes, scale, top))
    count = len(classes)
    scores = rows.astype(np.float64) @ classes.astype(np.float64).T
    logits = scale * scores
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    ranked = np.argsort(-scores, axis=1, kind="stable")
    best = np.take_along_axis(scores, ranked, axis=1)
    np.testing.assert_array_equal(got["ids"], np.arange(len(rows)) * 3)
    assert got["labels"].shape == got["scores"].shape == (len(rows), top)
    assert got["labels"].dtype == got["runners_up"].dtype == np.int32
    for name in ("scores", "probabilities", "margins"):
        assert got[name].dtype == np.float32
    np.testing.assert_allclose(got["scores"], best[:, :top], atol=1e-6)
    wanted_odds = np.take_along_axis(odds, ranked, axis=1)
    np.testing.assert_allclose(got["probabilities"], wanted_odds[:, :top], atol=1e-5)
    # A label is told for sure where both neighbours are farther away than rounding goes.
    steps = -np.diff(best, axis=1, prepend=np.inf, append=-np.inf)
    clear = np.minimum(steps[:, :-1], steps[:, 1:]) > 1e-6
    assert clear.mean() > 0.85
    places = clear[:, :top]
    np.testing.assert_array_equal(got["labels"][places], ranked[:, :top][places])
    if count == 1:
        assert np.isnan(got["margins"]).all()
        assert (got["runners_up"] == -1).all()
    else:
        np.testing.assert_allclose(got["margins"], best[:, 0] - best[:, 1], atol=1e-6)
        second = clear[:, 1]
        np.testing.assert_array_equal(got["runners_up"][second], ranked[:, 1][second])


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100, 1000])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_equals_softmax(count: int, scale: float) -> None:
    rows, classes = unit(200, 64, 0), unit(count, 64, 1)
    for top in sorted({1, min(2, count), min(5, count)}):
        check(rows, classes, scale, top, 64)


@pytest.mark.parametrize("count", [2, 7, 40])
def test_top_may_be_all(count: int) -> None:
    rows, classes = unit(50, 32, 0), unit(count, 32, 1)
    check(rows, classes, 100.0, count, 50)
    got = joined(score_blocks(in_blocks(rows, 50), classes, 100.0, count))
    np.testing.assert_allclose(got["probabilities"].sum(axis=1), 1, atol=1e-5)
    assert (np.sort(got["labels"], axis=1) == np.arange(count)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 99, 100, 1000])
def test_any_block_size(size: int) -> None:
    check(unit(100, 48, 0), unit(12, 48, 1), 100.0, 3, size)


@pytest.mark.parametrize("limit", [1, 50, 1000])
def test_many_labels_are_taken_in_steps(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(scoring, "_SCORES_PER_BLOCK", limit)
    rows, classes = unit(60, 32, 0), unit(25, 32, 1)
    check(rows, classes, 100.0, 2, 40)
    sizes = [len(block.ids) for block in score_blocks(in_blocks(rows, 40), classes, 100.0)]
    step = max(1, limit // 25)
    assert max(sizes) <= step
    assert sum(sizes) == 60


def test_twenty_thousand_labels() -> None:
    rows, classes = unit(300, 16, 0), unit(20_000, 16, 1)
    sizes = [len(block.ids) for block in score_blocks(in_blocks(rows, 300), classes, 50.0)]
    assert len(sizes) > 1
    check(rows, classes, 50.0, 4, 300)


def test_no_image() -> None:
    assert list(score_blocks(iter([]), unit(3, 8, 0), 100.0)) == []


def test_certain_and_hopeless() -> None:
    """Far above what exp() takes in float32."""
    classes = np.eye(3, 8, dtype=np.float32)
    rows = np.concatenate([classes, -classes])
    got = joined(score_blocks(in_blocks(rows, 6), classes, 1000.0, 3))
    assert np.isfinite(got["probabilities"]).all()
    np.testing.assert_array_equal(got["probabilities"][:3, 0], 1)
    np.testing.assert_array_equal(got["probabilities"][:3, 1:], 0)
    np.testing.assert_allclose(got["probabilities"][3:, :2], 0.5)
    assert got["labels"][3:].tolist() == [[1, 2, 0], [0, 2, 1], [0, 1, 2]]


@pytest.mark.parametrize("count", [2, 5, 300])
@pytest.mark.parametrize("top", [1, 2])
def test_ties_go_to_the_first_label(count: int, top: int) -> None:
    classes = np.zeros((count, 4), np.float32)
    classes[:, 0] = 1
    classes[0] = [0, 1, 0, 0]
    rows = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.float32)
    got = joined(score_blocks(in_blocks(rows, 2), classes, 100.0, top))
    first = [1, *range(2, count), 0]
    assert got["labels"].tolist() == [first[:top], list(range(top))]
    assert got["runners_up"].tolist() == [first[1], 1]
    assert got["margins"].tolist() == [1.0 if count == 2 else 0.0, 0.0]
    np.testing.assert_allclose(got["probabilities"][:, 0], [1 / (count - 1), 1 / count], rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 40])
def test_best_labels(count: int) -> None:
    chance = np.random.default_rng(0)
    scores = chance.integers(0, 6, (50, 40)).astype(np.float32)  # full of ties
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(best_labels(scores, count), wanted)
    assert best_labels(scores, count).dtype == np.int32
