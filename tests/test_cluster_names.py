"""Nouns of centres, and names of clusters, against sums written out and worlds that are known."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from clipsearch import cluster_names, noun_scores
from clipsearch.cluster_matching import best_matching, clustering_accuracy, matched_clusters
from clipsearch.cluster_names import name_clusters
from clipsearch.clusters import Assignment, SuggestedName
from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.noun_features import guided_points, noun_features, select_nouns
from clipsearch.noun_scores import NounScores
from clipsearch.nouns import Vocabulary
from clipsearch.shards import Int64
from clipsearch.vectors import Vectors
from clipsearch.wordnet import WordNet
from tests.wordnet_files import write_wordnet

DIM = 64


def unit(rows: np.ndarray) -> Float32:  # type: ignore[type-arg]
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Words with a direction each, and clusters of images around given mixtures of them.

    Images have a direction of their own as well, as those of CLIP have, and so have words.
    """

    def __init__(self, words: list[str], seed: int = 0) -> None:
        self.words = words
        self.rng = np.random.default_rng(seed)
        self.directions = dict(
            zip(words, unit(self.rng.normal(size=(len(words), DIM))), strict=True)
        )
        self.of_images, self.of_words = unit(self.rng.normal(size=(2, DIM)))
        self.background = unit(self.rng.normal(size=(60, DIM)) / 8 + self.of_words)

    def text(self, words: list[str]) -> Float32:
        return unit(np.stack([self.directions[word] + self.of_words for word in words]))

    def images(
        self, mixtures: list[dict[str, int]], noise: float = 0.02
    ) -> tuple[Vectors, Assignment]:
        """So many images of each word in each cluster; ids are every third number."""
        rows, owners = [], []
        for cluster, mixture in enumerate(mixtures):
            for word, count in mixture.items():
                drawn = self.rng.normal(size=(count, DIM)) * noise
                rows.append(self.directions[word] + self.of_images + drawn)
                owners += [cluster] * count
        matrix = unit(np.concatenate(rows)).astype(np.float16)
        ids = np.arange(len(matrix), dtype=np.int64) * 3
        nothing = np.zeros(len(ids), np.float32)
        vectors = Vectors(ids, (matrix,), DIM, np.empty(0, np.int64))
        return vectors, Assignment(ids, np.array(owners, np.int32), nothing, nothing)


def centres_of(vectors: Vectors, assignment: Assignment) -> Float32:
    rows = vectors.segments[0].astype(np.float64)
    count = int(assignment.clusters.max()) + 1
    return unit(np.stack([rows[assignment.clusters == i].sum(axis=0) for i in range(count)]))


def named(
    world: World,
    vectors: Vectors,
    assignment: Assignment,
    vocabulary: Vocabulary | None = None,
    **options: object,
) -> tuple[SuggestedName, ...]:
    chosen = vocabulary or Vocabulary("test", tuple(world.words))
    return name_clusters(
        vectors,
        assignment,
        centres_of(vectors, assignment),
        chosen,
        world.text(list(chosen.words)),
        world.background,
        **options,  # type: ignore[arg-type]
    )


WORDS = ["leopard", "jaguar", "dog", "bird", "box", "machine", "hill", "cat"]


def test_clusters_get_the_names_of_what_is_in_them() -> None:
    world = World(WORDS)
    vectors, assignment = world.images([{word: 9} for word in WORDS[::-1]])
    found = named(world, vectors, assignment)
    assert [one.name for one in found] == WORDS[::-1]
    for one in found:
        assert one.confidence == one.candidates[0].votes == 1
        assert one.candidates[0].name == one.name
        assert len({candidate.name for candidate in one.candidates}) == 3
        scores = [candidate.score for candidate in one.candidates]
        assert scores == sorted(scores, reverse=True)
        assert one.broader is None


def test_votes_are_shares_of_the_members() -> None:
    world = World(WORDS)
    vectors, assignment = world.images([{"dog": 6, "bird": 3, "box": 1}, {"hill": 4}])
    first, second = named(world, vectors, assignment)
    assert first.name == "dog"
    assert first.confidence == 0.6
    assert [(one.name, one.votes) for one in first.candidates[:2]] == [("dog", 0.6), ("bird", 0.3)]
    assert (second.name, second.confidence) == ("hill", 1.0)


def test_one_cluster_and_two_have_sensible_names() -> None:
    for mixtures, names in (
        ([{"dog": 20}], ["dog"]),
        ([{"dog": 1}], ["dog"]),
        ([{"dog": 20}, {"cat": 20}], ["dog", "cat"]),
    ):
        world = World(WORDS)
        vectors, assignment = world.images(mixtures)
        found = named(world, vectors, assignment)
        assert [one.name for one in found] == names
        assert all(np.isfinite([c.score for c in one.candidates]).all() for one in found)


def test_a_word_near_to_everything_names_nothing() -> None:
    world = World(WORDS)
    texts = world.text(WORDS)
    texts[6] = unit(texts[6] + 2 * world.of_images)
    vectors, assignment = world.images([{word: 5} for word in WORDS[:6]])
    centres = centres_of(vectors, assignment)
    assert set((centres @ texts.T).argmax(axis=1)) == {6}  # by cosine it would name them all
    vocabulary = Vocabulary("test", tuple(WORDS))
    found = name_clusters(vectors, assignment, centres, vocabulary, texts, world.background)
    assert [one.name for one in found] == WORDS[:6]


def test_scores_are_the_double_z_norm() -> None:
    world = World(WORDS)
    vectors, assignment = world.images([{"dog": 5}, {"bird": 5}, {"cat": 2, "hill": 3}])
    centres, texts = centres_of(vectors, assignment), world.text(WORDS)
    preference = np.linspace(0, 1, len(WORDS)).astype(np.float32)
    scores = NounScores(centres, texts, world.background, preference)

    def z1(rows: Float32) -> np.ndarray:  # type: ignore[type-arg]
        usual = (rows @ world.background.T).astype(np.float64)
        here = (rows @ texts.T).astype(np.float64)
        return (here - usual.mean(1, keepdims=True)) / usual.std(1, keepdims=True)

    ours, theirs = z1(centres), z1(world.background)
    weights = np.concatenate([np.full(3, 0.5 / 3), np.full(60, 0.5 / 60)])  # 3 clusters, 3 more
    both = np.concatenate([ours, theirs])
    means = weights @ both
    spreads = np.sqrt(weights @ np.square(both - means))
    spreads = 0.25 * spreads + 0.75 * np.median(spreads)
    expected = (ours - means) / spreads + preference
    np.testing.assert_allclose(scores.of(centres), expected, rtol=2e-3, atol=2e-3)
    part = np.array([5, 1], np.int64)
    np.testing.assert_allclose(
        scores.only(part).of(centres), expected[:, part], rtol=2e-3, atol=2e-3
    )
    places, values = scores.best(centres, 3)
    np.testing.assert_array_equal(places, np.argsort(-expected, axis=1)[:, :3])
    np.testing.assert_allclose(values, np.take_along_axis(scores.of(centres), places, 1))


def test_the_familiar_word_wins_between_equals() -> None:
    world = World([*WORDS, "felid"])
    near = world.directions["cat"] + 0.05 * world.rng.normal(size=DIM)
    world.directions["felid"] = unit(near)
    vectors, assignment = world.images([{"felid": 3, "cat": 3}, {"dog": 6}, {"box": 6}])
    words = tuple(world.words)
    for liked in ("cat", "felid"):
        familiarity = tuple(float(word == liked) for word in words)
        found = named(world, vectors, assignment, Vocabulary("test", words, familiarity))
        assert [one.name for one in found] == [liked, "dog", "box"]
    # It is no help to a word that does not fit.
    familiarity = tuple(float(word == "hill") for word in words)
    found = named(world, vectors, assignment, Vocabulary("test", words, familiarity))
    assert {found[0].name} <= {"cat", "felid"}


def test_votes_decide_between_equals_and_not_against_a_better_fit() -> None:
    nouns, standing = np.array([[4, 7], [4, 7], [7, 9]]), np.array([4, 7])
    scores = np.array([[2.0, 1.8], [3.0, 1.8], [1.8, 2.5]], np.float32)
    votes = np.array([[0.1, 0.6], [0.1, 0.6], [0.5, 0.5]])
    ranking = cluster_names._ranking(nouns, scores, standing, votes)
    # In the last row nobody could vote for noun 9, so that it is no name.
    assert ranking.nouns.tolist() == [[7, 4], [4, 7], [7, 9]]
    assert ranking.votes.tolist() == [[0.6, 0.1], [0.1, 0.6], [0.5, 0.0]]
    np.testing.assert_allclose(ranking.worth[:2], [[2.4, 2.1], [3.1, 2.4]])


def test_no_two_clusters_share_a_name_unless_they_may() -> None:
    world = World(WORDS)
    vectors, assignment = world.images([{"dog": 8}, {"dog": 7, "bird": 2}, {"dog": 8, "cat": 2}])
    found = named(world, vectors, assignment)
    assert [one.name for one in found] == ["dog", "bird", "cat"]
    for one in found:
        assert one.candidates[0].name == one.name
        assert "dog" in [candidate.name for candidate in one.candidates]
    assert [one.confidence for one in found] == pytest.approx([1, 2 / 9, 2 / 10])
    shared = named(world, vectors, assignment, shared=True)
    assert [one.name for one in shared] == ["dog"] * 3
    assert [one.confidence for one in shared] == pytest.approx([1, 7 / 9, 8 / 10])


def test_too_few_words_are_numbered() -> None:
    world = World(WORDS)
    vectors, assignment = world.images([{"dog": 3}, {"dog": 4}, {"dog": 5}, {"bird": 3}])
    two = Vocabulary("two", ("dog", "DOG 2"))
    world.directions["DOG 2"] = world.directions["bird"]
    found = named(world, vectors, assignment, two)
    names = [one.name for one in found]
    assert len({name.casefold() for name in names}) == 4
    assert {name.split()[0].casefold() for name in names} == {"dog"}
    assert found[3].name == "DOG 2"
    assert all(len(one.candidates) == 2 for one in found)
    one = Vocabulary("one", ("dog",))
    names = [each.name for each in named(world, vectors, assignment, one)]
    assert sorted(names) == ["dog", "dog 2", "dog 3", "dog 4"]


def test_an_empty_vocabulary_is_an_error_and_no_clusters_have_no_names() -> None:
    world = World(WORDS)
    vectors, assignment = world.images([{"dog": 3}])
    nothing = np.empty((0, DIM), np.float32)
    empty = Vocabulary("empty", ())
    with pytest.raises(LabelError, match="vocabulary is empty"):
        name_clusters(vectors, assignment, world.text(["dog"]), empty, nothing, world.background)
    vocabulary = Vocabulary("test", tuple(WORDS))
    texts = world.text(WORDS)
    assert name_clusters(vectors, assignment, nothing, vocabulary, texts, world.background) == ()


def test_words_that_the_model_cannot_tell_apart() -> None:
    """What an English model makes of another script: one vector for all."""
    world = World(["кот", "дом", "лес", "река"])
    for word in world.words:
        world.directions[word] = world.directions["кот"]
    vectors, assignment = world.images([{"кот": 5}, {"дом": 5}])
    found = named(world, vectors, assignment)
    assert len({one.name for one in found}) == 2
    assert all(np.isfinite([c.score for c in one.candidates]).all() for one in found)
    same = unit(np.ones((4, DIM)))
    words = Vocabulary("same", tuple(world.words))
    centres = centres_of(vectors, assignment)
    flat = name_clusters(vectors, assignment, centres, words, same, same)
    assert len({one.name for one in flat}) == 2


def test_who_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(WORDS)
    vectors, assignment = world.images([{"dog": 6, "cat": 4}, {"box": 10}])
    owners = assignment.clusters.copy()
    owners[6:8] = -1  # two cats are in no cluster
    less = Assignment(assignment.ids, owners, assignment.cosines, assignment.margins)
    centres, vocabulary = centres_of(vectors, assignment), Vocabulary("test", tuple(WORDS))
    seen: list[tuple[int, int]] = []

    def vote(over: Assignment, here: Vectors) -> list[float]:
        texts = world.text(WORDS)
        found = name_clusters(
            here,
            over,
            centres,
            vocabulary,
            texts,
            world.background,
            on_progress=lambda done, total: seen.append((done, total)),
        )
        return [one.confidence for one in found]

    assert vote(less, vectors) == pytest.approx([6 / 8, 1])
    assert seen[-1] == (18, 18)
    gone = Vectors(vectors.ids, vectors.segments, DIM, vectors.ids[:2])
    assert vote(assignment, gone) == pytest.approx([4 / 8, 1])
    monkeypatch.setattr(cluster_names, "_VOTERS", 10)
    assert vote(assignment, vectors) == pytest.approx([3 / 5, 1])  # every second image
    assert seen[-1] == (10, 10)
    empty = Assignment(*(part[:0] for part in vars(assignment).values()))
    assert vote(empty, vectors) == [0, 0]


def test_threads_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([f"word {i}" for i in range(200)])
    mixtures = [{f"word {i}": 7, f"word {i + 1}": 5} for i in range(0, 160, 2)]
    vectors, assignment = world.images(mixtures, noise=0.1)
    once = named(world, vectors, assignment)
    monkeypatch.setattr("clipsearch.threads.worker_count", lambda: 1)
    monkeypatch.setattr(cluster_names, "_MOST_ROWS", 37)
    assert named(world, vectors, assignment) == once
    monkeypatch.setattr(noun_scores, "_ROWS_PER_BLOCK", 33)
    again = named(world, vectors, assignment)
    assert [one.name for one in again] == [one.name for one in once]
    assert len({one.name for one in once}) == 80


def test_a_broader_word_where_members_disagree(tmp_path: Path) -> None:
    offsets = write_wordnet(tmp_path)
    world = World(WORDS)
    mixtures = [{"leopard": 5, "jaguar": 4, "box": 1}, {"dog": 9, "bird": 1}, {"machine": 4}]
    vectors, assignment = world.images(mixtures)
    synsets = tuple(offsets[word] if word == "jaguar" else None for word in WORDS)
    vocabulary = Vocabulary("test", tuple(WORDS), (), synsets)
    found = named(world, vectors, assignment, vocabulary, wordnet=WordNet(tmp_path))
    assert [one.broader for one in found] == ["big cat", None, None]
    assert [one.broader for one in named(world, vectors, assignment)] == [None] * 3
    data = tmp_path / "data.noun"
    data.write_bytes(data.read_bytes()[: offsets["leopard"] + 20])
    damaged = WordNet(tmp_path)
    assert named(world, vectors, assignment, vocabulary, wordnet=damaged) == named(
        world, vectors, assignment, vocabulary
    )
    assert "are damaged" in str(damaged.damage)


# -- nouns of centres -----------------------------------------------------------------------


def slowly_selected(centres: Float32, nouns: Float32, per_centre: int) -> list[int]:
    cosines = (nouns @ centres.T).astype(np.float64)
    if len(centres) > 2:
        cosines = (cosines - cosines.mean(0)) / cosines.std(0)
        cosines = (cosines - cosines.mean(1, keepdims=True)) / cosines.std(1, keepdims=True)
    kept = []
    for centre in range(len(centres)):
        own = [n for n in range(len(nouns)) if cosines[n].argmax() == centre]
        kept += sorted(own, key=lambda n: -cosines[n, centre])[:per_centre]
    return sorted(kept)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_each_centre_keeps_its_nearest_nouns(count: int) -> None:
    rng = np.random.default_rng(3)
    centres, nouns = unit(rng.normal(size=(count, 16))), unit(rng.normal(size=(300, 16)))
    for per_centre in (1, 5):
        found = select_nouns(centres, nouns, per_centre)
        assert found.tolist() == slowly_selected(centres, nouns, per_centre)
        assert found.dtype == np.int64


def test_nouns_are_looked_at_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    centres, nouns = unit(rng.normal(size=(40, 16))), unit(rng.normal(size=(301, 16)))
    features = noun_features(centres, nouns, 28)
    for numbers in (1, 900, 4000):  # a noun, 22 nouns, 100 nouns at a time
        monkeypatch.setattr("clipsearch.noun_features._NUMBERS_PER_BLOCK", numbers)
        assert select_nouns(centres, nouns).tolist() == slowly_selected(centres, nouns, 5)
        np.testing.assert_allclose(noun_features(centres, nouns, 28), features, atol=1e-6)


def test_points_are_the_same_whatever_the_threads_of_blas() -> None:
    rng = np.random.default_rng(9)
    centres, nouns = unit(rng.normal(size=(301, 512))), unit(rng.normal(size=(5003, 512)))
    points = set()
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            points.add(guided_points(centres, nouns, 100).tobytes())
    assert len(points) == 1


def test_noun_features_are_the_weighted_mean() -> None:
    rng = np.random.default_rng(4)
    centres, nouns = unit(rng.normal(size=(7, 16))), unit(rng.normal(size=(11, 16)))
    weights = np.exp(28 * (centres @ nouns.T).astype(np.float64))
    expected = (weights / weights.sum(axis=1, keepdims=True)) @ nouns
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(noun_features(centres, nouns, 28), expected, atol=1e-5)
    assert np.isfinite(noun_features(centres, nouns, 1e5)).all()


def test_points_are_centre_and_nouns_side_by_side() -> None:
    rng = np.random.default_rng(5)
    centres, nouns = unit(rng.normal(size=(9, 16))), unit(rng.normal(size=(80, 16)))
    points = guided_points(centres, nouns, 20)
    assert points.shape == (9, 32)
    assert points.dtype == np.float32
    features = noun_features(centres, nouns[select_nouns(centres, nouns)], 20)
    expected = centres @ centres.T + 0.49 * features @ features.T
    np.testing.assert_allclose(points @ points.T, expected / 1.49, atol=1e-5)
    np.testing.assert_array_equal(guided_points(centres, nouns[:0], 20), centres)


def test_words_bring_together_what_looks_different() -> None:
    """Two looks of each of four things: by sight the looks go together, by words the things."""
    rng = np.random.default_rng(6)
    things, looks = unit(rng.normal(size=(4, DIM))), unit(rng.normal(size=(2, DIM)))
    centres = unit(np.stack([thing + 1.2 * look for thing in things for look in looks]))
    others = unit(rng.normal(size=(100, DIM)))
    points = guided_points(centres, np.concatenate([unit(things), others]), 60)

    def partner(rows: Float32) -> Int64:
        cosines = rows @ rows.T - 2 * np.eye(len(rows))
        return cosines.argmax(axis=1)

    same_thing = np.arange(8) ^ 1
    assert (partner(centres) == same_thing).mean() < 0.5 < (partner(points) == same_thing).mean()


# -- matching -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (1, 1), (0, 3)])
def test_matching_is_the_best_of_all(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(7).normal(size=shape)
    rows, columns = best_matching(values)
    wide = values if shape[0] <= shape[1] else values.T
    best = max(
        sum(wide[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    assert values[rows, columns].sum() == pytest.approx(best)
    assert len(rows) == min(shape)


def test_accuracy_takes_each_class_once() -> None:
    truth = [0, 0, 0, 0, 1, 1, 2, 2]
    assert clustering_accuracy([5, 5, 5, 5, 3, 3, 9, 9], truth) == 1
    assert clustering_accuracy([5, 5, 6, 6, 3, 3, 9, 9], truth) == 6 / 8
    assert clustering_accuracy([1] * 8, truth) == 4 / 8
    assert clustering_accuracy([5, 5, 5, -1, 3, 3, 9, -1], truth) == 6 / 8
    assert matched_clusters([5, 5, 3, -1], [1, 1, 0, 2]) == {5: 1, 3: 0}
    with pytest.raises(ValueError, match="as many"):
        clustering_accuracy([1], [1, 2])
