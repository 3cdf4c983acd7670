"""The cut-off: two levels, what chance reaches, and real queries with and without answers."""

from __future__ import annotations

import csv
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipsearch import open_index
from clipsearch.background import open_background
from clipsearch.cutoff import CutOff, cut_off
from clipsearch.generation import open_generation
from indexer import build_index

LEVELS = CutOff(strong=3.5, fair=2.5)


def scores(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_best_has_to_be_strong() -> None:
    assert LEVELS.passes(scores(4.0, 2.5, 2.4, -1.0)).tolist() == [True, True, False, False]
    assert LEVELS.passes(scores(3.5)).tolist() == [True]
    assert LEVELS.passes(scores(3.4, 3.3, 2.6)).tolist() == [False, False, False]
    assert LEVELS.passes(scores()).tolist() == []


def test_a_later_page_is_cut_by_the_best_of_the_first() -> None:
    page = scores(2.9, 2.6, 2.1)
    assert LEVELS.passes(page).tolist() == [False, False, False]
    assert LEVELS.passes(page, best=5.0).tolist() == [True, True, False]
    assert LEVELS.passes(scores(4.0), best=3.0).tolist() == [False]


def test_what_cannot_be_judged_is_not_hidden() -> None:
    nan = math.nan
    assert LEVELS.passes(scores(nan, nan)).tolist() == [True, True]
    assert LEVELS.passes(scores(4.0, nan, 3.0)).tolist() == [True, False, True]
    assert LEVELS.strength_of(nan) is None


@pytest.mark.parametrize(
    ("score", "word"),
    [(9.0, "strong"), (3.5, "strong"), (3.49, "fair"), (2.5, "fair"), (2.49, "weak"), (-5, "weak")],
)
def test_strength_in_a_word(score: float, word: str) -> None:
    assert LEVELS.strength_of(score) == word


def test_strong_rises_with_what_the_best_of_many_reaches_by_chance() -> None:
    rng = np.random.default_rng(0)
    for count in (1_000, 100_000):
        best = [rng.standard_normal(count).max() for _ in range(50)]
        strong = cut_off(count).strong
        assert np.mean(best) < strong < np.mean(best) + 2
    assert cut_off(200).strong == pytest.approx(math.sqrt(2 * math.log(200)) + 1)
    assert cut_off(200, with_image=True).strong == pytest.approx(math.sqrt(2 * math.log(200)) - 0.5)


@pytest.mark.parametrize("with_image", [False, True])
def test_a_few_images_need_no_more_than_fair(with_image: bool) -> None:
    for few in (0, 1, 2):
        cut = cut_off(few, with_image=with_image)
        assert cut.strong == cut.fair > 0
    strong = [cut_off(n, with_image=with_image).strong for n in (10, 100, 10_000, 1_000_000)]
    assert strong == sorted(strong)


@pytest.fixture(scope="module")
def dogs_and_others(
    flickr: Path, photo1k: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, set[str]]:
    """An index of 12 photos with a dog in two captions or more and 24 with none in any, and the
    names of the 12."""
    counts: dict[str, int] = {}
    with open(flickr / "captions.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found = re.search(r"\b(dogs?|pupp(y|ies))\b", row["caption"].lower()) is not None
            counts[row["image"]] = counts.get(row["image"], 0) + found
    dogs = sorted(name for name, count in counts.items() if count >= 2)[:12]
    others = sorted(name for name, count in counts.items() if count == 0)[:24]
    folder = tmp_path_factory.mktemp("photos")
    for name in [*dogs, *others]:
        shutil.copyfile(flickr / name, folder / name)
    place = tmp_path_factory.mktemp("index") / "photos.index"
    build_index(folder, place, encoder=photo1k)
    return place, set(dogs)


def answer(place: Path, text: str) -> list[str]:
    """The names of the photos that the automatic cut-off leaves."""
    index = open_index(place)
    hits = index.search(text, k=len(index))
    state = open_generation(place)
    texts = index.text_vectors()
    ids = np.array([hit.id for hit in hits])
    cosines = np.array([hit.cosine for hit in hits], np.float32)
    z = open_background(state, texts).standardise(texts.encode([text])[0], ids, cosines)
    passed = cut_off(len(index)).passes(z)
    return [hit.path.name for hit, passes in zip(hits, passed, strict=True) if passes]


def test_a_thing_that_is_there_is_found(dogs_and_others: tuple[Path, set[str]]) -> None:
    place, dogs = dogs_and_others
    found = set(answer(place, "dog"))
    assert len(found & dogs) >= 9  # of 12
    assert len(found - dogs) <= 1


@pytest.mark.parametrize(
    "text", ["submarine", "violin", "pizza", "microscope", "washing machine", "zebra", "asdfgh"]
)
def test_a_thing_that_is_not_there_gives_nothing(
    dogs_and_others: tuple[Path, set[str]], text: str
) -> None:
    assert answer(dogs_and_others[0], text) == []
