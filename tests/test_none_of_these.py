"""None of these: right against plain NumPy, steady, and never in the way."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import clipsearch.background_sums as background_sums
from clipsearch import ImageIndex, open_index
from clipsearch.abstaining import none_setting
from clipsearch.background_sums import BackgroundSums, log_sums, remember_sums, sums_file
from clipsearch.background_words import background_prompts
from clipsearch.chance_evidence import ChanceEvidence
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.negative_labels import FEWEST, negative_words
from clipsearch.none_of_these import NoneOfThese, none_of_these
from clipsearch.none_threshold import FEWEST_IMAGES, evidence_threshold, fit_mixture
from clipsearch.saved_labelling import classify_beside
from clipsearch.vectors import Vectors
from clipsearch.wordnet import WordNet
from indexer import build_index
from tests.wordnet_files import write_wordnet


def unit(rows: npt.NDArray[np.float64]) -> Float32:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Float32 = (rows / lengths).astype(np.float32)
    return found


def random_rows(count: int, dim: int, seed: int) -> Float32:
    return unit(np.random.default_rng(seed).normal(size=(count, dim)))


def of_images(state: Generation, images: Float32, deleted: tuple[int, ...] = ()) -> Generation:
    """The generation with other images, whose ids are 0, 2, 4, ..."""
    ids = 2 * np.arange(len(images))
    gone = np.array(deleted, np.int64)
    vectors = Vectors(ids, (images.astype(np.float16),), images.shape[1], gone)
    shard = dataclasses.replace(
        state.manifest.embeddings[state.space.id][0], rows=len(images), sha256="0" * 64
    )
    manifest = dataclasses.replace(state.manifest, embeddings={state.space.id: (shard,)})
    return dataclasses.replace(state, vectors=vectors, manifest=manifest)


@pytest.fixture
def state(mini_index: Path) -> Generation:
    return open_index(mini_index).state()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are kept however few images there are."""
    monkeypatch.setattr(background_sums, "WORTH_KEEPING", 0)


def plainly(
    images: Float32, classes: Float32, negatives: Float32, scale: float
) -> npt.NDArray[np.float64]:
    """``in_set`` in float64."""
    rows = images.astype(np.float16).astype(np.float64)
    inside = np.exp(scale * rows @ classes.T.astype(np.float64)).mean(axis=1)
    outside = np.exp(scale * rows @ negatives.T.astype(np.float64)).mean(axis=1)
    shares: npt.NDArray[np.float64] = inside / (inside + outside)
    return shares


def evidence_of(images: Float32, classes: Float32, scale: float) -> Float32:
    rows = images.astype(np.float16).astype(np.float32)
    return log_sums(np.float32(scale) * (rows @ classes.T))


class TestInSet:
    def test_is_the_formula(self, state: Generation) -> None:
        words, classes = random_rows(150, 256, 1), random_rows(3, 256, 2)
        negative = np.ones(150, bool)
        negative[[4, 90]] = False
        # The first images look like a word that is left out: nearly all of the sum is taken away.
        images = np.concatenate([words[[4, 90, 4]], classes, random_rows(300, 256, 3)])
        scale = state.space.logit_scale
        here = of_images(state, images)
        told = NoneOfThese(here, words, negative, 3, 0.5, "given")
        wanted = plainly(images, classes, words[negative], scale)
        evidence = evidence_of(images, classes, scale)
        ids = here.vectors.ids
        assert told.negatives == 148
        for rows in (here.vectors.segments[0], None, here.vectors.take(ids)[1]):
            found = told.in_set(ids, rows, evidence)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-7)
        some = np.array([5, 6, 80, 301])
        found = told.in_set(ids[some], None, evidence[some])
        np.testing.assert_allclose(found, wanted[some], rtol=2e-4, atol=1e-7)
        assert told.in_set(ids[:0], None, evidence[:0]).shape == (0,)

    def test_what_is_remembered_says_the_same(self, state: Generation, kept: None) -> None:
        words, classes = random_rows(150, 256, 1), random_rows(3, 256, 2)
        images = random_rows(400, 256, 3)
        here = of_images(state, images, deleted=(10, 700))
        evidence = evidence_of(images, classes, state.space.logit_scale)
        ids = np.setdiff1d(here.vectors.ids, [10, 700])
        file = sums_file(here.cache, here.space.id)
        negative = np.arange(150) > 2
        first = NoneOfThese(here, words, negative, 3, 0.5, "given")
        found = [first.in_set(part, None, evidence[part // 2]) for part in np.array_split(ids, 3)]
        assert file.exists()
        assert not np.isnan(BackgroundSums(here, words).of(ids)).any()
        second = NoneOfThese(here, words, negative, 3, 0.5, "given")
        again = second.in_set(ids, None, evidence[ids // 2])
        assert again.tolist() == np.concatenate(found).tolist()
        # Half of the images are not enough to write, and other words are other sums.
        file.unlink()
        NoneOfThese(here, words, negative, 3, 0.5, "given").in_set(
            ids[:200], None, evidence[ids[:200] // 2]
        )
        assert not file.exists()

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "folder"])
    def test_a_damaged_file_is_passed_over(
        self, state: Generation, kept: None, damage: str
    ) -> None:
        words, images = random_rows(120, 256, 1), random_rows(50, 256, 3)
        here = of_images(state, images)
        ids = here.vectors.ids
        evidence = np.zeros(len(ids), np.float32)
        file = sums_file(here.cache, here.space.id)

        def answer() -> list[float]:
            told = NoneOfThese(here, words, np.ones(120, bool), 3, 0.5, "given")
            return [float(value) for value in told.in_set(ids, None, evidence)]

        wanted = answer()
        data = file.read_bytes()
        file.unlink()
        if damage == "folder":
            file.mkdir()
        elif damage == "foreign":
            BackgroundSums(here, words[::-1]).add(ids, np.ones(len(ids), np.float32))
            assert file.exists()
        else:
            middle = len(data) - len(ids) * 2 - 200
            flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
            file.write_bytes({"cut": data[:-40], "flipped": flipped, "empty": b""}[damage])
        assert answer() == wanted
        assert answer() == wanted
        assert file.is_dir() or file.read_bytes() == data

    def test_they_can_be_computed_beforehand(self, state: Generation, kept: None) -> None:
        words, images = random_rows(120, 256, 1), random_rows(70, 256, 3)
        here = of_images(state, images, deleted=(4,))
        assert remember_sums(here, words) == 69
        assert remember_sums(here, words) == 0
        logits = state.space.logit_scale * images.astype(np.float16).astype(np.float64) @ words.T
        wanted = np.log(np.exp(logits).sum(axis=1))
        found = BackgroundSums(here, words).of(here.vectors.ids)
        assert np.isnan(found[2])
        np.testing.assert_allclose(np.delete(found, 2), np.delete(wanted, 2), rtol=1e-5)

    def test_of_a_small_collection_nothing_is_written(self, state: Generation) -> None:
        here = of_images(state, random_rows(70, 256, 3))
        assert remember_sums(here, random_rows(120, 256, 1)) == 0
        assert not sums_file(here.cache, here.space.id).exists()

    def test_new_shards_add_to_what_is_known(self, state: Generation, kept: None) -> None:
        words, images = random_rows(120, 256, 1), random_rows(60, 256, 3)
        old = of_images(state, images[:40])
        BackgroundSums(old, words).add(old.vectors.ids, np.arange(40, dtype=np.float32))
        new = of_images(state, images)
        shard = old.manifest.embeddings[old.space.id][0]
        more = dataclasses.replace(shard, rows=20, sha256="1" * 64)
        new = dataclasses.replace(
            new,
            manifest=dataclasses.replace(new.manifest, embeddings={new.space.id: (more, shard)}),
        )
        known = BackgroundSums(new, words).of(new.vectors.ids)
        assert np.isnan(known[:20]).all()
        assert known[20:].tolist() == list(range(40))


class TestNegatives:
    def test_a_word_that_means_a_label_is_none(self) -> None:
        words = random_rows(200, 128, 1) + np.float32(0.2)  # what all texts have in common
        words = unit(words.astype(np.float64))
        near = unit((words[7] + 0.05 * random_rows(1, 128, 5)[0])[None].astype(np.float64))
        kept = negative_words(["x"], near, [str(n) for n in range(200)], words)
        assert np.flatnonzero(~kept).tolist() == [7]

    def test_so_many_stay_whatever_the_labels_are(self) -> None:
        words = random_rows(200, 128, 1)
        kept = negative_words([str(n) for n in range(200)], words, ["x"] * 200, words)
        assert kept.sum() == FEWEST

    def test_broader_and_narrower_words_are_none(self, tmp_path: Path) -> None:
        write_wordnet(tmp_path)
        names = ["leopard", "dog", "box", "mammal", "bird", "hill"] + ["x"] * 200
        words, label = random_rows(len(names), 128, 1), random_rows(1, 128, 2)
        found = negative_words(["big cat"], label, names, words, WordNet(tmp_path))
        # Those of the FEWEST that are the farthest stay, so look at the others alone.
        centre = words - words.mean(axis=0)
        near = centre @ (label[0] - words.mean(axis=0)) / np.linalg.norm(centre, axis=1)
        farthest = set(np.argsort(near)[:FEWEST].tolist())
        left_out = {names[place] for place in np.flatnonzero(~found)}
        assert left_out == {n for p, n in enumerate(names[:6]) if p not in farthest} & {
            "leopard",
            "mammal",
        }
        assert left_out

    def test_damaged_wordnet_says_nothing(self, tmp_path: Path) -> None:
        write_wordnet(tmp_path)
        data = (tmp_path / "data.noun").read_bytes()
        (tmp_path / "data.noun").write_bytes(b"?" * len(data))
        words = random_rows(150, 128, 1)
        names = ["leopard"] * 150
        assert negative_words(
            ["dog"], random_rows(1, 128, 2), names, words, WordNet(tmp_path)
        ).all()


class TestChance:
    def test_evidence_and_chance_are_as_told(self) -> None:
        """One label: by chance its evidence is that of another word."""
        negatives, images, label = (
            random_rows(90, 64, 1),
            random_rows(30, 64, 2),
            random_rows(1, 64, 3),
        )
        drawing = ChanceEvidence(label, negatives, np.zeros(64, np.float32), 20.0)
        evidence, chance = drawing.draw(images, np.random.default_rng(0), 3)
        words = 20.0 * images @ negatives.T
        own = 20.0 * images @ label[0]
        np.testing.assert_allclose(evidence, own - np.log(np.exp(words).sum(axis=1)), rtol=1e-4)
        assert chance.shape == (90,)
        possible = words - np.log(np.exp(words).sum(axis=1, keepdims=True) - np.exp(words))
        for number, value in enumerate(chance):
            assert np.abs(possible[number % 30] - value).min() < 1e-3

    def test_labels_that_mean_the_same_go_together(self) -> None:
        """Of twins none is left as evidence when the other one is taken away."""
        negatives = random_rows(300, 64, 1)
        labels = random_rows(10, 64, 3)
        images = unit(
            (labels.repeat(10, axis=0) + 0.3 * random_rows(100, 64, 4)).astype(np.float64)
        )
        mean = np.zeros(64, np.float32)
        single = ChanceEvidence(labels, negatives, mean, 20.0)
        twins = ChanceEvidence(labels.repeat(2, axis=0), negatives, mean, 20.0)
        chance = single.draw(images, np.random.default_rng(0))[1]
        both, among_twins = twins.draw(images, np.random.default_rng(0))
        assert both.min() > 5 > among_twins.max()
        assert abs(np.median(among_twins) - np.median(chance)) < 1.5


class TestThreshold:
    def mixed(self, outside: int, inside: int, apart: float, seed: int) -> tuple[Float32, Float32]:
        chance = np.random.default_rng(seed)
        values = np.concatenate(
            [chance.normal(-6, 2, outside), chance.normal(-6 + apart, 2.4, inside)]
        )
        return values.astype(np.float32), chance.normal(-6, 2, 4000).astype(np.float32)

    @pytest.mark.parametrize("seed", range(5))
    def test_hardly_any_is_lost_where_all_belong(self, seed: int) -> None:
        for images in (50, 500, 2000):
            values, chance = self.mixed(0, images, 7, seed)
            assert (values >= evidence_threshold(values, chance)).mean() > 0.97
        values, chance = self.mixed(0, 1000, 3.5, seed)  # a weak model
        assert (values >= evidence_threshold(values, chance)).mean() > 0.9

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_most_are_told_apart_where_some_do_not_belong(self, share: float) -> None:
        outside = round(1000 * share)
        for seed in range(5):
            values, chance = self.mixed(outside, 1000 - outside, 8, seed)
            stays = values >= evidence_threshold(values, chance)
            assert stays[outside:].mean() > 0.88
            assert stays[:outside].mean() < 0.35

    def test_what_does_better_than_chance_is_found_too(self) -> None:
        """The labels are words that fit every image a little."""
        values, chance = self.mixed(500, 500, 9, 1)
        stays = values + np.float32(1.5) >= evidence_threshold(values + np.float32(1.5), chance)
        assert stays[500:].mean() > 0.97
        assert stays[:500].mean() < 0.2

    def test_nothing_belongs(self) -> None:
        values, chance = self.mixed(1000, 0, 0, 1)
        assert (values >= evidence_threshold(values, chance)).mean() < 0.5

    def test_few_images(self) -> None:
        values, chance = self.mixed(0, FEWEST_IMAGES - 1, 8, 1)
        assert evidence_threshold(values, chance) == pytest.approx(np.quantile(chance, 0.25))
        assert evidence_threshold(values[:0], chance[:0]) == 0.0

    def test_images_that_are_all_alike(self) -> None:
        values = np.full(100, -2.0, np.float32)
        mixture = fit_mixture(values, np.full(200, -2.0, np.float32))
        assert math.isfinite(mixture.threshold())
        assert math.isfinite(evidence_threshold(values, values))


class TestCollection:
    """Of an index: ``none_of_these`` as ``classify`` uses it."""

    @pytest.fixture(scope="class")
    @classmethod
    def half(cls, caltech: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
        """Ten photos of each of eight classes."""
        place = tmp_path_factory.mktemp("none")
        for name in ("airplanes", "sunflower", "grand_piano", "Motorbikes",
                     "watch", "butterfly", "ketch", "scorpion"):  # fmt: skip
            (place / "photos" / name).mkdir(parents=True)
            for photo in sorted((caltech / "test" / name).glob("*.jpg"))[:10]:
                (place / "photos" / name / photo.name).symlink_to(photo)
        build_index(place / "photos", place / "half.index", encoder="mini")
        return open_index(place / "half.index")

    LABELS = ("airplane", "sunflower", "piano", "motorbike")
    OTHERS = ("watch", "butterfly", "sailing boat", "scorpion")

    def belongs(self, index: ImageIndex, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        places = index.paths().first_places(ids.tolist())
        kept = {"airplanes", "sunflower", "grand_piano", "Motorbikes"}
        return np.array([place is not None and place.path.parent.name in kept for place in places])

    def test_those_that_do_not_belong_are_found(self, half: ImageIndex) -> None:
        found = half.classify(self.LABELS, none="auto")
        belongs = self.belongs(half, found.ids)
        assert found.in_set is not None
        assert found.threshold is not None
        has_none = found.labels[:, 0] < 0
        assert (has_none == (found.in_set < np.float32(found.threshold))).all()
        assert has_none[belongs].mean() <= 0.15
        assert has_none[~belongs].mean() >= 0.5
        inside, outside = found.in_set[belongs], found.in_set[~belongs]
        assert (inside[:, None] > outside).mean() > 0.85

    def test_hardly_any_is_lost_when_all_belong(self, half: ImageIndex) -> None:
        found = half.classify((*self.LABELS, *self.OTHERS), none="auto")
        assert (found.labels[:, 0] < 0).mean() <= 0.15

    def test_the_same_again_and_steady_over_seeds(self, half: ImageIndex) -> None:
        state, texts = half.state(), half.text_vectors()
        classes = texts.encode([f"a photo of a {label}" for label in self.LABELS])
        odds = []
        for seed in (0, 0, 1, 2, 3, 4):
            told = none_of_these(state, texts, self.LABELS, classes, "auto", seed=seed)
            assert told.how == "collection"
            odds.append(math.log(told.threshold / (1 - told.threshold)))
        assert odds[0] == odds[1]
        assert np.std(odds) < 0.5

    def test_a_given_threshold_stays(self, half: ImageIndex) -> None:
        state, texts = half.state(), half.text_vectors()
        classes = texts.encode(["a photo of a dog"])
        told = none_of_these(state, texts, ("dog",), classes, 0.3)
        assert (told.threshold, told.how) == (0.3, "given")
        assert told.negatives < len(background_prompts())

    def test_of_few_images_there_is_the_usual_threshold(self, mini_index: Path) -> None:
        index = open_index(mini_index)
        classes = index.text_vectors().encode(["a photo of a dog", "a photo of a cat"])
        told = none_of_these(index.state(), index.text_vectors(), ("dog", "cat"), classes, "auto")
        assert told.how == "usual"
        assert 0 < told.threshold < 1

    def test_what_a_set_remembers_tells_the_same(self, half: ImageIndex, tmp_path: Path) -> None:
        place = Path(shutil.copytree(half.path, tmp_path / "half.index"))
        index = open_index(place)
        state, texts = index.state(), index.text_vectors()
        with classify_beside(place, state, texts, self.LABELS, save_as="set", none="auto") as first:
            assert sum(len(block.ids) for block in first) == len(state.vectors)
            first.save()
        edited = (*self.LABELS[1:], self.OTHERS[0])
        for none in ("auto", "off", 0.5):
            beside = classify_beside(place, state, texts, edited, base="set", none=none, top=2)
            found, alone = beside.columns(), index.classify(edited, none=none, top=2)
            assert beside.base is not None
            assert beside.images_scored < len(found.ids)
            assert found.threshold == alone.threshold
            np.testing.assert_array_equal(found.labels, alone.labels)
            np.testing.assert_array_equal(found.runners_up, alone.runners_up)
            if found.in_set is None or alone.in_set is None:
                assert none == "off"
            else:
                np.testing.assert_allclose(found.in_set, alone.in_set, atol=1e-5)


@pytest.mark.parametrize("asked", ["", "x", "nan", "-0.1", 1.5, math.nan, None, [0.5], True])
def test_what_is_no_threshold_is_refused(asked: Any) -> None:
    with pytest.raises(OptionError, match="expected none as auto, off or a number from 0 to 1"):
        none_setting(asked)
    assert [none_setting(fine) for fine in ("auto", "off", "0.5", 1)] == ["auto", "off", 0.5, 1.0]
