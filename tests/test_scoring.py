"""Streaming scores against a float64 softmax over the whole matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from clipsearch import scoring
from clipsearch.encoder import Float32
from clipsearch.label_tally import LabelTally
from clipsearch.scoring import LabelScorer, Rows, ScoredBlock, best_labels, score_blocks
from clipsearch.shards import Float16, Int64

COLUMNS = ("ids", "labels", "scores", "probabilities", "margins", "runners_up")


def unit(count: int, dim: int, seed: int) -> Float32:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def in_blocks(rows: Rows, size: int) -> Iterator[tuple[Int64, Rows]]:
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.arange(start, start + len(part)) * 3, part


def joined(blocks: Iterator[ScoredBlock]) -> dict[str, np.ndarray]:
    kept = list(blocks)
    return {name: np.concatenate([getattr(block, name) for block in kept]) for name in COLUMNS}


def check(rows: Float32, classes: Float32, scale: float, top: int, size: int) -> None:
    got = joined(score_blocks(in_blocks(rows, size), LabelScorer(classes, scale, top)))
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
    got = joined(score_blocks(in_blocks(rows, 50), LabelScorer(classes, 100.0, count)))
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
    sizes = [
        len(block.ids) for block in score_blocks(in_blocks(rows, 40), LabelScorer(classes, 100.0))
    ]
    step = max(16, limit // 25)
    assert max(sizes) <= step
    assert sum(sizes) == 60


def test_twenty_thousand_labels() -> None:
    rows, classes = unit(300, 16, 0), unit(20_000, 16, 1)
    sizes = [
        len(block.ids) for block in score_blocks(in_blocks(rows, 300), LabelScorer(classes, 50.0))
    ]
    assert len(sizes) > 1
    check(rows, classes, 50.0, 4, 300)


def test_no_image() -> None:
    assert list(score_blocks(iter([]), LabelScorer(unit(3, 8, 0), 100.0))) == []


def test_certain_and_hopeless() -> None:
    """Far above what exp() takes in float32."""
    classes = np.eye(3, 8, dtype=np.float32)
    rows = np.concatenate([classes, -classes])
    got = joined(score_blocks(in_blocks(rows, 6), LabelScorer(classes, 1000.0, 3)))
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
    got = joined(score_blocks(in_blocks(rows, 2), LabelScorer(classes, 100.0, top)))
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
    before = scores.copy()
    labels, values = best_labels(scores, count)
    np.testing.assert_array_equal(labels, wanted)
    np.testing.assert_array_equal(values, np.take_along_axis(before, wanted, axis=1))
    np.testing.assert_array_equal(scores, before)
    assert labels.dtype == np.int32


# -- the same as float64, whatever the block -------------------------------------------------


def _exact_order(rows: Float16, classes: Float32) -> npt.NDArray[np.int64]:
    """Labels by true score, equal ones in the order named. Products of fp16 and float32 numbers
    are exact in float64, and ``fsum`` rounds their sum once."""
    order = []
    for row in rows.astype(np.float64):
        scores = [math.fsum((row * label).tolist()) for label in classes.astype(np.float64)]
        order.append(sorted(range(len(classes)), key=lambda label: -scores[label]))
    return np.array(order)


def _nearly_tied(count: int, dim: int, step: float) -> Float32:
    """Classes a few units in the last place of float32 apart, exact copies among them."""
    chance = np.random.default_rng(5)
    middle = unit(1, dim, 6)[0]
    classes = np.repeat(middle[None], count, axis=0)
    classes += (chance.integers(-2, 3, (count, dim)) * step).astype(np.float32)
    classes[count // 2] = classes[1]
    classes[count // 3] = classes[0]
    return classes


@pytest.mark.parametrize("size", [1, 7, 16, 300])
@pytest.mark.parametrize("step", [0.0, 1e-9, 1e-8, 1e-7, 1e-6])
def test_nearly_tied_labels_rank_as_in_float64(size: int, step: float) -> None:
    classes = _nearly_tied(23, 64, step)
    rows = unit(40, 64, 7).astype(np.float16)
    wanted = _exact_order(rows, classes)
    for top in (1, 2, 5, 22, 23):
        got = joined(score_blocks(in_blocks(rows, size), LabelScorer(classes, 100.0, top)))
        np.testing.assert_array_equal(got["labels"], wanted[:, :top])
        np.testing.assert_array_equal(got["runners_up"], wanted[:, 1])


def test_float32_alone_would_rank_them_otherwise() -> None:
    """The data above is as nasty as it is meant to be."""
    classes = _nearly_tied(23, 64, 1e-8)
    rows = unit(40, 64, 7).astype(np.float16)
    plain, _ = best_labels(rows.astype(np.float32) @ classes.T, 5)
    assert (plain != _exact_order(rows, classes)[:, :5]).any()


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_random_labels_rank_as_in_float64(count: int) -> None:
    rows, classes = unit(30, 512, 8).astype(np.float16), unit(count, 512, 9)
    top = min(8, count)
    got = joined(score_blocks(in_blocks(rows, 11), LabelScorer(classes, 100.0, top)))
    np.testing.assert_array_equal(got["labels"], _exact_order(rows, classes)[:, :top])


def test_more_threads_change_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, classes = unit(5000, 64, 10).astype(np.float16), _nearly_tied(40, 64, 1e-8)
    scorer = LabelScorer(classes, 100.0, 3)
    monkeypatch.setattr(scoring, "_WORTH_THREADS", 0)
    got = []
    for workers in (1, 2, 5):
        monkeypatch.setattr(scoring, "worker_count", lambda count=workers: count)
        got.append(joined(score_blocks(in_blocks(rows, 777), scorer)))
    for other in got[1:]:
        for name in ("ids", "labels", "runners_up"):
            np.testing.assert_array_equal(got[0][name], other[name])
        for name in ("scores", "probabilities", "margins"):
            np.testing.assert_allclose(got[0][name], other[name], atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
def test_a_tally_of_blocks_is_that_of_the_whole(rows: int) -> None:
    chance = np.random.default_rng(rows)
    ids = np.cumsum(chance.integers(1, 4, rows))
    labels = chance.integers(0, 5, rows).astype(np.int32)
    odds = (chance.integers(0, 11, rows) / 10).astype(np.float32)
    tally = LabelTally(list("abcdefg"))
    for start in range(0, rows, 9):
        part = slice(start, start + 9)
        tally.add(ids[part], labels[part], odds[part])
        tally.summary()
    found = {line.label: line for line in tally.summary()}
    assert [line.count for line in tally.summary()] == sorted(
        (line.count for line in found.values()), reverse=True
    )
    for label, name in enumerate("abcdefg"):
        mine = labels == label
        assert found[name].count == mine.sum() == sum(found[name].histogram)
        assert found[name].share == pytest.approx(mine.mean() if rows else 0)
        if mine.any():
            best = odds[mine].max()
            assert found[name].example_probability == pytest.approx(best)
            assert found[name].example_id == ids[mine & (odds == best)].min()
            tenths = np.minimum((odds[mine] * 10).astype(int), 9)
            assert found[name].histogram == tuple(np.bincount(tenths, minlength=10))
        else:
            assert found[name].example_id is None
