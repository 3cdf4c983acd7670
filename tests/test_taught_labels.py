"""Teaching: it helps at once, hurts nowhere, and labels blocks as it would label them whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.image_index import ImageIndex, open_index
from clipsearch.kernel_residual import kernel_residual
from clipsearch.prompts import class_vectors
from clipsearch.records import Int32
from clipsearch.scoring import LabelScorer, score_blocks
from clipsearch.taught_labels import KERNEL, PROBE, ZERO_SHOT, Taught, TaughtScorer, teach
from clipsearch.taught_odds import decided, right_left_out, zero_shot_probabilities
from clipsearch.vote_scoring import VotedBlock
from indexer import build_index
from tests.taught_scenes import SCALE, Scene, scene


def taught_by(seen: Scene, places: Int32, method: str = "auto") -> Taught:
    return teach(
        seen.classes, SCALE, seen.rows[places], seen.truth[places],
        method=method, typical=seen.rows,
    )  # fmt: skip


def labelled(seen: Scene, taught: Taught, top: int = 1) -> VotedBlock:
    scorer = TaughtScorer(seen.classes, SCALE, taught, top)
    return scorer.score(np.arange(len(seen.rows)), seen.rows)


def accuracy(given: Int32, truth: Int32) -> float:
    return float(np.mean(given == truth))


@pytest.mark.parametrize(("each", "gain"), [(3, 0.2), (4, 0.3), (8, 0.4)])
def test_a_handful_of_examples_helps(each: int, gain: float) -> None:
    seen = scene()
    places = seen.places(each)
    taught = taught_by(seen, places)
    rest = np.setdiff1d(np.arange(len(seen.rows)), places)
    after = accuracy(labelled(seen, taught).labels[rest, 0], seen.truth[rest])
    assert after > accuracy(seen.zero_shot()[rest], seen.truth[rest]) + gain
    assert taught.method == KERNEL
    assert taught.right_after > taught.right_before
    assert taught.accuracy_after == taught.right_after / len(places)


@pytest.mark.parametrize("each", [1, 3, 8])
@pytest.mark.parametrize("names", [0.1, 0.2, 0.4])
def test_examples_themselves_are_not_hurt(names: float, each: int) -> None:
    seen = scene(names=names)
    places = seen.places(each)
    given = labelled(seen, taught_by(seen, places)).labels[places, 0]
    assert accuracy(given, seen.truth[places]) >= accuracy(
        seen.zero_shot()[places], seen.truth[places]
    )


def test_without_a_correction_cosines_rank_what_has_no_score_left() -> None:
    classes = np.eye(4, dtype=np.float32)
    rows = np.array([[0.95, 0.1, 0.2, 0.22]], np.float32)
    rows /= np.linalg.norm(rows)
    taught = teach(classes, 2000.0, rows[:0], np.empty(0, np.int32))
    block = TaughtScorer(classes, 2000.0, taught, 4).score(np.arange(1), rows)
    assert block.labels.tolist() == [[0, 3, 2, 1]]
    assert block.runners_up.tolist() == [3]
    assert block.scores[0, 1] == 0


def test_what_is_chosen_by_some_examples_is_no_worse_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of these sixty a third has a wrong label, and the twelve chosen by do not tell."""
    monkeypatch.setattr("clipsearch.kernel_residual._MOST_CHOOSING", 12)
    seen = scene(noise=0.35)
    chance = np.random.default_rng(6)
    places = np.sort(chance.choice(len(seen.rows), 60, replace=False))
    labels = seen.truth[places]
    wrong = chance.random(60) < 0.3
    labels[wrong] = chance.integers(0, 6, int(wrong.sum()))
    rows = seen.rows[places]
    tempting = kernel_residual(seen.classes, SCALE, rows, labels)
    after = int(np.sum(decided(tempting.left_out) == labels))
    taught = teach(seen.classes, SCALE, rows, labels)
    assert after < taught.right_before
    assert taught.method == ZERO_SHOT
    assert taught.right_after == taught.right_before


def test_an_example_alone_with_its_label_counts_as_before() -> None:
    left_out = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.1, 0.2]], np.float32)
    labels = np.array([0, 0, 1, -1], np.int32)
    before = np.array([False, True, True, False])
    assert right_left_out(left_out, labels, before).tolist() == [True, False, True, False]


@pytest.mark.parametrize("taught_labels", [(1,), (1, 4), (0, 2, 3)])
def test_labels_without_examples_keep_their_images(taught_labels: tuple[int, ...]) -> None:
    seen = scene(names=0.3)
    before = seen.zero_shot()
    given = labelled(seen, taught_by(seen, seen.places(8, among=taught_labels))).labels[:, 0]
    of_taught = np.isin(seen.truth, taught_labels)
    assert accuracy(given[of_taught], seen.truth[of_taught]) >= accuracy(
        before[of_taught], seen.truth[of_taught]
    )
    assert (
        accuracy(given[~of_taught], seen.truth[~of_taught])
        >= accuracy(before[~of_taught], seen.truth[~of_taught]) - 0.06
    )


@pytest.mark.parametrize("shown", [3, 12, 40])
def test_mistakes_shown_alone_do_not_spoil_what_was_right(shown: int) -> None:
    seen = scene(names=0.25, noise=0.2)
    before = seen.zero_shot()
    wrong = np.flatnonzero(before != seen.truth)[:shown].astype(np.int32)
    given = labelled(seen, taught_by(seen, wrong)).labels[:, 0]
    assert accuracy(given, seen.truth) >= accuracy(before, seen.truth) - 0.01
    right = before == seen.truth
    assert np.mean(given[right] == seen.truth[right]) > 0.9


def test_nothing_to_learn_from_is_zero_shot() -> None:
    seen = scene(names=0.2)
    none = teach(seen.classes, SCALE, seen.rows[:0], seen.truth[:0])
    asked = taught_by(seen, seen.places(4), ZERO_SHOT)
    plain = LabelScorer(seen.classes, SCALE, 2).score(np.arange(len(seen.rows)), seen.rows)
    for taught in (none, asked):
        block = labelled(seen, taught, 2)
        assert taught.method == ZERO_SHOT
        assert block.labels.tolist() == plain.labels.tolist()
        assert block.runners_up.tolist() == plain.runners_up.tolist()
        np.testing.assert_allclose(block.cosines, plain.scores, atol=1e-6)
        np.testing.assert_allclose(block.probabilities, plain.probabilities, atol=2e-3)
    assert np.isnan(none.accuracy_before)
    assert none.left_out.shape == (0, 6)
    assert asked.right_before == asked.right_after


@pytest.mark.parametrize("method", [KERNEL, PROBE])
def test_scores_are_the_formula(method: str) -> None:
    seen = scene()
    taught = taught_by(seen, seen.places(8), method)
    assert taught.method == method
    wide = seen.rows.astype(np.float64)
    cosines = wide @ seen.classes.astype(np.float64).T
    if method == KERNEL:
        expected = zero_shot_probabilities(cosines, SCALE / taught.temperature)
        expected += np.exp(-taught.beta * (2 - 2 * wide @ taught.centres.T)) @ taught.weights
    else:
        expected = zero_shot_probabilities(wide @ taught.weights.T, SCALE)
    block = labelled(seen, taught, 3)
    order = np.argsort(-expected, axis=1, kind="stable")
    assert block.labels.tolist() == order[:, :3].tolist()
    assert block.runners_up.tolist() == order[:, 1].tolist()
    ranked = np.take_along_axis(expected, order, axis=1)
    np.testing.assert_allclose(block.scores, ranked[:, :3], atol=1e-5)
    np.testing.assert_allclose(block.margins, ranked[:, 0] - ranked[:, 1], atol=1e-5)
    np.testing.assert_allclose(
        block.cosines, np.take_along_axis(cosines, order[:, :3], axis=1), atol=1e-6
    )
    np.testing.assert_allclose(block.probabilities[:, 0], np.exp(-block.log_sums), rtol=1e-5)


@pytest.mark.parametrize("method", ["auto", PROBE])
def test_labels_do_not_depend_on_blocks(method: str) -> None:
    seen = scene(names=0.3)
    taught = taught_by(seen, seen.places(6), method)
    halves = seen.rows.astype(np.float16)
    ids = np.arange(len(halves), dtype=np.int64)
    scorer = TaughtScorer(seen.classes, SCALE, taught, 2)
    whole = scorer.score(ids, halves)
    for size in (1, 7, 100):
        pieces = [(ids[at : at + size], halves[at : at + size]) for at in range(0, len(ids), size)]
        blocks = list(score_blocks(pieces, scorer))
        assert np.concatenate([block.ids for block in blocks]).tolist() == ids.tolist()
        assert np.concatenate([block.labels for block in blocks]).tolist() == whole.labels.tolist()
        scores = np.concatenate([block.scores for block in blocks])
        np.testing.assert_allclose(scores, whole.scores, atol=1e-5)


def test_equal_labels_go_to_the_first_named() -> None:
    """One label twice under two names: no example tells them apart, nor does rounding."""
    seen = scene(names=0.3)
    twice = seen._replace(classes=np.concatenate([seen.classes, seen.classes]))
    taught = taught_by(twice, seen.places(6, among=(0, 1, 2)), ZERO_SHOT)
    block = labelled(twice, taught, 2)
    assert (block.labels[:, 0] < 6).all()
    assert (block.runners_up == block.labels[:, 0] + 6).all()
    assert (block.margins == 0).all()


@pytest.mark.parametrize("method", [KERNEL, PROBE])
def test_examples_of_none_of_the_labels(method: str) -> None:
    seen = scene(names=0.2)
    fewer = Scene(seen.classes[:4], seen.rows, np.where(seen.truth < 4, seen.truth, -1))
    places = seen.places(12)
    taught = taught_by(fewer, places, method)
    block = labelled(fewer, taught, 2)
    none = block.labels[:, 0] == -1
    assert taught.has_none
    assert np.mean(none[fewer.truth == -1]) > 0.75
    assert np.mean(none[fewer.truth >= 0]) < 0.1
    assert (block.labels[none] == -1).all()
    assert (block.runners_up[none] >= 0).all()
    assert taught.left_out.shape == (72, 4)
    assert (taught.left_out.sum(axis=1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("shown", [1, 5, 40])
def test_examples_of_none_of_the_labels_alone_leave_the_others_their_images(shown: int) -> None:
    """Whoever shows but images that belong nowhere does not lose the labels."""
    seen = scene(names=0.15)
    fewer = Scene(seen.classes[:4], seen.rows, np.where(seen.truth < 4, seen.truth, -1))
    places = np.flatnonzero(fewer.truth == -1)[:shown].astype(np.int32)
    given = labelled(fewer, taught_by(fewer, places)).labels[:, 0]
    belongs = fewer.truth >= 0
    before = accuracy(fewer.zero_shot()[belongs], fewer.truth[belongs])
    assert accuracy(given[belongs], fewer.truth[belongs]) >= before - 0.03


def test_more_examples_than_a_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of them teach, and of the others it is known how well they were taught."""
    monkeypatch.setattr("clipsearch.taught_labels.MOST_EXAMPLES", 24)
    seen = scene()
    places = seen.places(50, among=(0, 1, 2, 3, 4))  # one without: no probe
    taught = taught_by(seen, places)
    assert taught.method == KERNEL
    assert len(taught.centres) == 24
    assert taught.left_out.shape == (250, 6)
    told = taught.left_out.argmax(axis=1) == seen.truth[places]
    assert np.sum(told) == taught.right_after > taught.right_before + 25
    monkeypatch.setattr("clipsearch.taught_labels.MOST_EXAMPLES", 299)
    assert taught_by(seen, seen.places(50)).method == PROBE


def test_probabilities_are_probabilities() -> None:
    seen = scene()
    for method in (ZERO_SHOT, KERNEL, PROBE):
        odds = labelled(seen, taught_by(seen, seen.places(8), method), 6).probabilities
        assert odds.min() > 0
        assert odds.max() <= 1
        np.testing.assert_allclose(odds.sum(axis=1), 1, atol=2e-3)


def test_what_was_left_out_tells_how_sure_to_be() -> None:
    """The mean probability of the labels given to examples that were left out is near the share
    of them that is right."""
    seen = scene(names=0.3, noise=0.3)
    taught = taught_by(seen, seen.places(12))
    assert abs(taught.left_out.max(axis=1).mean() - taught.accuracy_after) < 0.1


@pytest.mark.parametrize("method", ["auto", PROBE])
def test_threads_do_not_change_what_is_learned(method: str) -> None:
    seen = scene()
    found = []
    for threads in (1, 4):
        with threadpool_limits(threads):
            found.append(taught_by(seen, seen.places(6), method))
    assert found[0].to_dict() == found[1].to_dict()
    assert found[0].weights.tobytes() == found[1].weights.tobytes()
    assert found[0].left_out.tobytes() == found[1].left_out.tobytes()


def test_one_label_alone() -> None:
    seen = scene()
    labels = np.where(seen.truth == 0, 0, -1).astype(np.int32)
    one = Scene(seen.classes[:1], seen.rows, labels)
    block = labelled(one, taught_by(one, seen.places(8)))
    assert np.isnan(block.margins).all()
    assert np.mean(block.labels[:, 0] == labels) > 0.85
    assert (block.runners_up[block.labels[:, 0] == 0] == -1).all()


def test_what_cannot_be_learned_from_is_refused() -> None:
    seen = scene()
    with pytest.raises(OptionError, match="auto, zero-shot, kernel, probe"):
        teach(seen.classes, SCALE, seen.rows[:2], seen.truth[:2], method="magic")
    with pytest.raises(ValueError, match="from -1 to 5"):
        teach(seen.classes, SCALE, seen.rows[:2], np.array([0, 6], np.int32))
    with pytest.raises(ValueError, match="48 numbers"):
        teach(seen.classes, SCALE, seen.rows[:2, :9], seen.truth[:2])
    with pytest.raises(ValueError, match="a label for every example"):
        teach(seen.classes, SCALE, seen.rows[:2], seen.truth[:3])


def test_copies_of_one_image_are_no_trouble() -> None:
    seen = scene()
    rows = np.repeat(seen.rows[:1], 5, axis=0)
    taught = teach(seen.classes, SCALE, rows, np.array([0, 0, 1, 1, -1], np.int32), typical=rows)
    block = TaughtScorer(seen.classes, SCALE, taught).score(np.arange(360), seen.rows)
    assert np.isfinite(block.scores).all()
    assert np.isfinite(taught.left_out).all()


@pytest.fixture(scope="module")
def photos(caltech: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageIndex]:
    place = tmp_path_factory.mktemp("taught")
    for part in ("support", "test"):
        build_index(caltech / part, place / part, encoder="mini")
    return {part: open_index(place / part) for part in ("support", "test")}


def _rows_and_folders(index: ImageIndex) -> tuple[Float32, list[str]]:
    vectors = index.state().vectors
    places = index.paths().first_places(vectors.ids.tolist())
    folders = [place.path.parent.name for place in places if place is not None]
    return np.asarray(vectors.take(vectors.ids)[1], np.float32), folders


@pytest.mark.slow
def test_real_photos(photos: dict[str, ImageIndex]) -> None:
    """Sixteen photos of each of 25 classes, unknown to the model, tried on others."""
    rows, folders = _rows_and_folders(photos["support"])
    test_rows, test_folders = _rows_and_folders(photos["test"])
    names = sorted(set(folders))
    classes = class_vectors(
        [name.replace("_", " ") for name in names], photos["test"].text_vectors()
    )
    scale = photos["test"].state().space.logit_scale
    labels = np.array([names.index(name) for name in folders], np.int32)
    truth = np.array([names.index(name) for name in test_folders], np.int32)
    taught = teach(classes, scale, rows, labels, typical=test_rows)
    block = TaughtScorer(classes, scale, taught).score(np.arange(len(truth)), test_rows)
    before = accuracy((test_rows @ classes.T).argmax(axis=1).astype(np.int32), truth)
    assert accuracy(block.labels[:, 0], truth) > before + 0.005
    assert before > 0.7
