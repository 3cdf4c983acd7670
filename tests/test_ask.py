"""The images to ask about, and the samples that they are chosen from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from clipsearch import ask, scoring, threads
from clipsearch.ask import ASKED, RANDOM, Question, doubt, images_to_ask
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation, open_generation
from clipsearch.sampling import PrioritySample, RandomSample
from clipsearch.scoring import LabelScorer, ScoredBlock
from clipsearch.shards import Int64
from clipsearch.vectors import Vectors

_NOBODY = np.empty(0, np.int64)
_DIM = 64


@pytest.fixture
def generation(mini_index: Path) -> Generation:
    return open_generation(mini_index)


def of_rows(state: Generation, rows: Float32, first_id: int = 100) -> Generation:
    """An index of these unit rows, with ids from ``first_id`` on."""
    ids = np.arange(first_id, first_id + len(rows), dtype=np.int64)
    held = Vectors(ids, (rows.astype(np.float16),), rows.shape[1], _NOBODY)
    return dataclasses.replace(state, vectors=held)


def unit(rows: npt.NDArray[np.floating]) -> Float32:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def crowd(sizes: Sequence[int], noise: float = 0.03) -> tuple[Float32, list[Int64], LabelScorer]:
    """Three labels, and images in groups: the first are plainly of the first label, the others
    half-way between two labels and each group somewhere else. Rows, ids of groups, scorer."""
    chance = np.random.default_rng(0)
    labels = np.eye(3, _DIM, dtype=np.float32)
    rows, groups, start = [], [], 100
    for group, size in enumerate(sizes):
        middle = np.zeros(_DIM, np.float32)
        if group == 0:
            middle[0] = 1
        else:
            middle[[group % 3, (group + 1) % 3]] = 0.5
            middle[10 + group] = 1
        rows.append(unit(middle + noise * chance.standard_normal((size, _DIM))))
        groups.append(np.arange(start, start + size))
        start += size
    return np.concatenate(rows), groups, LabelScorer(labels, 30.0, 2)


def group_of(question: Question, groups: list[Int64]) -> int:
    return next(number for number, ids in enumerate(groups) if question.id in ids)


def test_questions_go_to_the_large_doubtful_groups_first_one_to_each(
    generation: Generation,
) -> None:
    rows, groups, scorer = crowd([300, 20, 60, 35, 1])
    state = of_rows(generation, rows)
    found = images_to_ask(state, scorer, _NOBODY, 3, random_share=0)
    assert [group_of(question, groups) for question in found] == [2, 3, 1]
    assert [question.how for question in found] == [ASKED] * 3
    # Each stands for its group.
    assert [question.alike for question in found] == [60, 35, 20]
    first = found[0]
    assert {first.label, first.runner_up} == {2, 0}
    assert 0.3 < first.probability < 0.8
    words = first.why(["cat", "dog", "owl"])
    assert words in ("owl or cat? 60 look like it", "cat or owl? 60 look like it")


def test_what_looks_like_a_confirmed_image_is_not_asked_about(generation: Generation) -> None:
    rows, groups, scorer = crowd([300, 20, 60, 35, 1])
    state = of_rows(generation, rows)
    confirmed = groups[2][:1]
    found = images_to_ask(state, scorer, confirmed, 2, random_share=0)
    assert [group_of(question, groups) for question in found] == [3, 1]
    unlike = images_to_ask(state, scorer, groups[2][::-1], 100, random_share=0)
    assert not {question.id for question in unlike} & set(groups[2].tolist())


def test_no_picture_is_asked_about_twice(generation: Generation) -> None:
    chance = np.random.default_rng(3)
    rows = unit(chance.standard_normal((30, _DIM)).astype(np.float32))
    state = of_rows(generation, np.repeat(rows, 4, axis=0))  # every picture four times
    scorer = LabelScorer(np.eye(3, _DIM, dtype=np.float32), 30.0, 2)
    found = images_to_ask(state, scorer, _NOBODY, 120, random_share=0)
    pictures = [(question.id - 100) // 4 for question in found]
    assert sorted(pictures) == list(range(30))


def test_random_questions_are_a_fair_sample_that_goes_on(generation: Generation) -> None:
    rows, _, scorer = crowd([40, 10], noise=0.1)
    state = of_rows(generation, rows)
    ten = images_to_ask(state, scorer, _NOBODY, 10)
    assert [question.how for question in ten] == [*[ASKED] * 4, RANDOM, *[ASKED] * 4, RANDOM]
    assert ten[4].why(["a", "b", "c"]) == "drawn at random"
    drawn = [question.id for question in images_to_ask(state, scorer, _NOBODY, 8, random_share=1)]
    known = np.array(drawn[:3])
    rest = images_to_ask(state, scorer, known, 5, random_share=1)
    assert [question.id for question in rest] == drawn[3:]
    # Every image as often as any other: 400 draws of 5 of 50.
    counts = np.zeros(50)
    for seed in range(400):
        for question in images_to_ask(state, scorer, _NOBODY, 5, random_share=1, seed=seed):
            counts[question.id - 100] += 1
    assert counts.sum() == 2000
    expected = 40
    assert ((counts - expected) ** 2 / expected).sum() < 86  # chi squared of 49: p = 0.001


def test_an_answer_does_not_depend_on_threads_or_blocks(
    generation: Generation, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _, scorer = crowd([400, 200, 100, 300], noise=0.05)
    monkeypatch.setattr(ask, "_SAMPLE", 150)
    monkeypatch.setattr(ask, "_ROWS", 32)
    monkeypatch.setattr(scoring, "_WORTH_THREADS", 0)
    answers = []
    for workers, block in ((1, 1000), (3, 1000), (3, 77)):
        monkeypatch.setattr(threads, "worker_count", lambda workers=workers: workers)
        monkeypatch.setattr(scoring, "worker_count", lambda workers=workers: workers)
        scorer.block_rows = block
        answers.append(images_to_ask(of_rows(generation, rows), scorer, np.array([105]), 12))
    assert len(answers[0]) == 12
    ids = [[(question.id, question.how) for question in answer] for answer in answers]
    assert ids[0] == ids[1] == ids[2]
    # Of 1000 images 150 were looked at, and what they stand for is told.
    asked = [question for question in answers[0] if question.how == ASKED]
    assert 300 < sum(question.alike for question in asked) < 1300


def test_few_images_one_label_and_none_left(generation: Generation) -> None:
    rows, _, scorer = crowd([5])
    state = of_rows(generation, rows)
    everyone = images_to_ask(state, scorer, _NOBODY, 50)
    assert {question.id for question in everyone} == set(state.vectors.ids.tolist())
    assert len(everyone) == 5
    one = LabelScorer(np.eye(1, _DIM, dtype=np.float32), 30.0, 1)
    assert images_to_ask(state, one, _NOBODY, 1)[0].runner_up == -1
    assert images_to_ask(state, scorer, state.vectors.ids, 3) == []
    assert images_to_ask(of_rows(generation, rows[:0]), scorer, _NOBODY, 3) == []
    allowed = state.vectors.ids[2:3]
    only = images_to_ask(state, scorer, np.array([999_999]), 3, allowed=allowed)
    assert [question.id for question in only] == allowed.tolist()


def test_a_senseless_request_is_refused(generation: Generation) -> None:
    rows, _, scorer = crowd([5])
    state = of_rows(generation, rows)
    with pytest.raises(OptionError, match="expected 1 to 1000 questions at once, got 0"):
        images_to_ask(state, scorer, _NOBODY, 0)
    with pytest.raises(OptionError, match="from 0 to 1, got nan"):
        images_to_ask(state, scorer, _NOBODY, 1, random_share=float("nan"))
    with pytest.raises(OptionError, match="seed of 0 or more, got -1"):
        images_to_ask(state, scorer, _NOBODY, 1, seed=-1)


def block_of(probabilities: list[list[float]], in_set: list[float] | None = None) -> ScoredBlock:
    odds = np.array(probabilities, np.float32)
    count = len(odds)
    return ScoredBlock(
        ids=np.arange(count),
        labels=np.zeros(odds.shape, np.int32),
        scores=odds,
        probabilities=odds,
        margins=np.zeros(count, np.float32),
        runners_up=np.zeros(count, np.int32),
        log_sums=np.zeros(count, np.float32),
        in_set=None if in_set is None else np.array(in_set, np.float32),
    )


def test_doubt_is_the_lack_of_a_lead() -> None:
    both = doubt(block_of([[0.5, 0.5], [0.9, 0.05], [1.0, 0.0], [np.nan, np.nan]]))
    assert both == pytest.approx([1.0, 0.15, 0.0, 1.0])
    assert doubt(block_of([[0.9], [0.5]])) == pytest.approx([0.2, 1.0])
    # An image on the threshold is as likely to belong to none as to its label; far out of the
    # set there is no doubt, whatever the labels say; far inside it is that of the labels.
    placed = block_of([[1.0, 0.0]] * 3 + [[0.6, 0.4]] * 2, [0.8, 1e-9, 1.0, 1e-9, 1.0])
    assert doubt(placed, 0.8) == pytest.approx([1.0, 0.0, 0.0, 0.0, 0.8], abs=1e-6)
    assert doubt(placed) == pytest.approx([0.0, 0.0, 0.0, 0.8, 0.8], abs=1e-6)
    # A scorer that has been taught what none of these looks like says so itself.
    taught = dataclasses.replace(
        block_of([[0.1, 0.05], [0.45, 0.05]], [0.9, 0.9]), labels=np.full((2, 2), -1, np.int32)
    )
    assert doubt(taught) == pytest.approx([0.2, 0.9])
    assert doubt(taught, 0.5) == pytest.approx([0.2, 0.9])


class Unsure:
    """Says of every image that it is the first of two labels, and how far it belongs to them."""

    block_rows, products = 100, 1

    def __init__(self, in_set: dict[int, float]) -> None:
        self._in_set = in_set

    def score(self, ids: Int64, rows: object) -> ScoredBlock:
        block = block_of([[0.95, 0.05]] * len(ids), [self._in_set[i] for i in ids.tolist()])
        return dataclasses.replace(
            block, ids=ids, runners_up=np.ones(len(ids), np.int32)
        )  # fmt: skip


def test_images_near_the_threshold_are_asked_about(generation: Generation) -> None:
    rows = np.eye(6, _DIM, dtype=np.float32)
    state = of_rows(generation, rows, first_id=0)
    scorer = Unsure({0: 0.01, 1: 0.99, 2: 0.699, 3: 0.99, 4: 0.701, 5: 0.5})
    found = images_to_ask(state, scorer, _NOBODY, 3, threshold=0.7, random_share=0)
    assert {question.id for question in found[:2]} == {2, 4}
    assert found[2].id == 5
    told = {question.id: question for question in found}
    # One that is left without a label is asked about as such.
    assert (told[2].label, told[2].runner_up) == (-1, 0)
    assert told[2].why(["cat", "dog"]) == "none of these or cat?"
    assert (told[4].label, told[4].runner_up) == (0, 1)
    assert told[4].why(["cat", "dog"]) == "cat?"
    assert told[4].in_set == pytest.approx(0.701)


def test_a_priority_sample_is_unbiased_and_takes_the_stream_as_it_comes() -> None:
    chance = np.random.default_rng(5)
    ids = np.arange(1, 601)
    weights = chance.random(600) ** 3 + 1e-3
    sums, counts = [], []
    for seed in range(300):
        sample = PrioritySample(60, seed, 1)
        sample.add(ids, weights, ids[:, None].astype(float))
        kept, masses, stand_for, facts = sample.chosen()
        assert len(kept) == 60
        assert (facts[:, 0] == kept).all()
        odd = kept % 2 == 1
        sums.append(masses[odd].sum())
        counts.append(stand_for.sum())
    for found, truth in ((sums, weights[::2].sum()), (counts, 600)):
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - truth) < 4 * error
    parts = PrioritySample(60, 7, 1)
    for part in np.array_split(chance.permutation(600), 11):
        parts.add(ids[part], weights[part], ids[part, None].astype(float))
    whole = PrioritySample(60, 7, 1)
    whole.add(ids, weights, ids[:, None].astype(float))
    for mine, other in zip(parts.chosen(), whole.chosen(), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_random_sample_takes_the_stream_as_it_comes() -> None:
    ids = np.arange(1000, 2000)
    whole, parts, nothing = RandomSample(30, 1, 1), RandomSample(30, 1, 1), RandomSample(0, 1, 1)
    whole.add(ids, ids[:, None].astype(float))
    for part in np.array_split(ids[::-1], 13):
        parts.add(part, part[:, None].astype(float))
        nothing.add(part, part[:, None].astype(float))
    np.testing.assert_array_equal(whole.chosen()[0], parts.chosen()[0])
    np.testing.assert_array_equal(whole.chosen()[0], whole.chosen()[1][:, 0])
    assert len(whole.chosen()[0]) == 30
    assert len(nothing.chosen()[0]) == 0
