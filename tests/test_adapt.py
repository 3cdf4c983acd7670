"""Labels by how often each is there: the shares against known ones, the guard, the command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import adapt, label_shares, open_index
from clipsearch.adapt import AdaptedLabelling, AdaptedScorer, classify_adapted
from clipsearch.definition_files import read_labels
from clipsearch.errors import LabelError
from clipsearch.label_shares import (
    ADAPTED,
    EVEN_SHARE,
    FEW_IMAGES,
    FEW_LABELS,
    MANY_THERE,
    ONE_GROWS,
    TRUST,
    LabelShares,
    effective_number,
    estimate_shares,
    fitted_shares,
)
from clipsearch.scoring import LabelScorer
from clipsearch.text_vectors import TextCounts
from clipsearch.vectors import Vectors
from tests.conftest import Cli

DIM, LABELS, SCALE = 24, 20, 20.0


def unit(rows: Any) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def odds_of(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


class Toy:
    """Made-up images, each of one of some kinds; ids rise by three from 4, two are deleted."""

    def __init__(self, kinds: list[int], count: int, noise: float = 0.32, seed: int = 0) -> None:
        draws = np.random.default_rng(seed)
        self.classes = unit(draws.standard_normal((LABELS, DIM)))
        truth = draws.choice(kinds, count)
        rows = unit(self.classes[truth] + noise * draws.standard_normal((count, DIM)))
        ids = 4 + 3 * np.arange(count, dtype=np.int64)
        deleted = ids[[1, 5]]
        half = rows.astype("<f2")
        self.vectors = Vectors(ids, (half[:9], half[9:]), DIM, deleted)
        kept = ~np.isin(ids, deleted)
        self.ids, self.truth, self.rows = ids[kept], truth[kept], half[kept].astype(np.float32)
        self.state: Any = SimpleNamespace(
            vectors=self.vectors, space=SimpleNamespace(logit_scale=SCALE)
        )

    @property
    def cosines(self) -> np.ndarray:
        return np.asarray(self.rows.astype(np.float64) @ self.classes.astype(np.float64).T)

    def shares(self, **more: Any) -> LabelShares:
        return estimate_shares(self.vectors, self.classes, SCALE, **more)

    def label(self, monkeypatch: pytest.MonkeyPatch, **more: Any) -> AdaptedLabelling:
        monkeypatch.setattr(adapt, "class_vectors", lambda names, *_: self.classes)
        texts: Any = SimpleNamespace(total=TextCounts(0, 0))
        names = [f"label {number}" for number in range(LABELS)]
        return classify_adapted(Path("nowhere"), self.state, texts, names, **more)


def test_shares_are_those_that_were_drawn() -> None:
    """Of images that are often mistaken the shares are found, where counting labels is far off."""
    draws = np.random.default_rng(3)
    true = np.array([0.6, 0.3, 0.07, 0.03, 0.0])
    centres = np.array([0.0, 1.5, 3.0, 4.5, 6.0])
    seen = centres[draws.choice(5, 40_000, p=true)] + draws.standard_normal(40_000)
    likely = np.exp(-((seen[:, None] - centres) ** 2) / 2).astype(np.float32)
    found = fitted_shares(likely)
    counted = np.bincount(likely.argmax(axis=1), minlength=5) / 40_000
    assert np.abs(found - true).max() < 0.02 < 0.06 < np.abs(counted - true).max()
    # At the maximum a share is the mean of what the images are likely to be by it.
    mean = odds_of(np.log(likely) + np.log(np.maximum(found, 1e-30))).mean(axis=0)
    np.testing.assert_allclose(mean, found, atol=2e-4)
    assert effective_number(np.array([0.25, 0.25, 0.5, 0.0])) == pytest.approx(2.0**1.5)


@pytest.mark.parametrize("count", [150, 30_000])
def test_few_of_the_labels(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """By hand: the shares, what ranks, the probabilities; and more labels are right."""
    toy = Toy([2, 5, 11], count)
    shares = toy.shares()
    fitted = fitted_shares(np.exp(SCALE * (toy.cosines - 1)).astype(np.float32))
    assert shares.outcome == ADAPTED
    assert (shares.images, shares.none) == (count - 2, 0.0)
    assert shares.there == pytest.approx(effective_number(fitted), rel=1e-3)
    assert 2.5 < shares.there < 3.6
    even = max(EVEN_SHARE, LABELS / (LABELS + 2 * len(toy.ids)))
    np.testing.assert_allclose(shares.shares, (1 - even) * fitted + even / LABELS, atol=1e-5)
    logits = SCALE * toy.cosines + TRUST * np.log(shares.shares * LABELS)
    order = np.argsort(-logits, axis=1)
    labelling = toy.label(monkeypatch, top=3)
    blocks = list(labelling)
    found = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("ids", "labels", "scores", "cosines", "probabilities", "margins", "runners_up")
    }
    assert found["ids"].tolist() == toy.ids.tolist()
    assert (found["labels"] == order[:, :3]).mean() > 0.9999  # but for ties of fp16 vectors
    best = np.take_along_axis(logits, found["labels"], axis=1)
    np.testing.assert_allclose(found["scores"], best / SCALE, atol=2e-6)
    told = np.take_along_axis(toy.cosines, found["labels"], axis=1)
    np.testing.assert_allclose(found["cosines"], told, atol=2e-6)
    sure = np.take_along_axis(odds_of(logits), found["labels"], axis=1)
    np.testing.assert_allclose(found["probabilities"], sure, atol=2e-5)
    np.testing.assert_allclose(found["margins"], (best[:, 0] - best[:, 1]) / SCALE, atol=3e-6)
    assert (found["runners_up"] == found["labels"][:, 1]).all()
    alone = toy.cosines.argmax(axis=1)
    assert labelling.overruled == int((found["labels"][:, 0] != alone).sum()) > count / 50
    right = [(labels == toy.truth).mean() for labels in (alone, found["labels"][:, 0])]
    assert right[1] > right[0] + 0.03


def test_all_of_the_labels_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more than a third is there every label, score and probability is that of classify."""
    toy = Toy(list(range(LABELS)), 3000)
    shares = toy.shares()
    assert shares.outcome == MANY_THERE
    assert shares.there > FEW_LABELS * LABELS
    np.testing.assert_array_equal(shares.shares, np.full(LABELS, 1 / LABELS))
    np.testing.assert_array_equal(shares.log_odds(), np.zeros(LABELS))
    labelling = toy.label(monkeypatch, top=2)
    blocks = list(labelling)
    plain = LabelScorer(toy.classes, SCALE, 2).score(toy.ids, toy.rows)
    assert labelling.overruled == 0
    for name in ("labels", "runners_up"):
        got = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_array_equal(got, getattr(plain, name))
    for name in ("scores", "probabilities", "margins", "log_sums"):  # summed in other blocks
        got = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_allclose(got, getattr(plain, name), rtol=2e-5, atol=1e-6)
    for block in blocks:
        np.testing.assert_array_equal(vars(block)["cosines"], block.scores)


def test_too_few_images_say_nothing() -> None:
    toy = Toy([2, 5], LABELS + 1)  # two of them deleted
    shares = toy.shares()
    assert shares.outcome == FEW_IMAGES
    assert np.isnan(shares.there)
    assert shares.images == LABELS - 1
    assert Toy([2, 5], LABELS + 2).shares().outcome == ADAPTED
    assert toy.shares(allowed=np.empty(0, np.int64)).images == 0
    some = toy.ids[3:7]
    assert toy.shares(allowed=np.append(some, 10**9)).images == 4


def test_a_label_that_takes_everything_is_not_let_have_it() -> None:
    """Every image is a little more like one of many labels than like the one that fits all."""
    classes = np.zeros((LABELS, LABELS + 1), np.float32)
    classes[np.arange(LABELS), np.arange(LABELS)] = 1
    kinds = np.arange(1, LABELS).repeat(60)
    rows = np.zeros((len(kinds), LABELS + 1))
    rows[:, 0] = 0.66
    rows[np.arange(len(kinds)), kinds] = 0.67
    ids = np.arange(len(rows), dtype=np.int64)
    vectors = Vectors(ids, (unit(rows).astype("<f2"),), LABELS + 1, ids[:0])
    shares = estimate_shares(vectors, classes, SCALE)
    assert shares.there < 2  # it would have nearly all
    assert shares.outcome == ONE_GROWS
    np.testing.assert_array_equal(shares.shares, np.full(LABELS, 1 / LABELS))


class FakeAbstention:
    """Images with the higher ids show none of the labels."""

    rule = SimpleNamespace(threshold=0.3)

    def __init__(self, first: int) -> None:
        self.first = first

    def told(self, block: Any, rows: Any) -> Any:
        assert len(block.ids) == len(rows)
        in_set = np.where(block.ids >= self.first, 0.001, 0.9).astype(np.float32)
        return SimpleNamespace(in_set=in_set)


def test_images_that_show_none_do_not_count() -> None:
    """Half of the images are like all labels alike, and only said to show none of them."""
    toy = Toy([2, 5, 11], 1200)
    strangers = np.random.default_rng(1).standard_normal((1200, DIM))
    rows = np.concatenate([toy.vectors.segments[0], toy.vectors.segments[1], unit(strangers)])
    ids = 4 + 3 * np.arange(len(rows), dtype=np.int64)
    toy.vectors = Vectors(ids, (rows.astype("<f2"),), DIM, toy.vectors.deleted)
    none: Any = FakeAbstention(int(ids[1200]))
    blurred, clear = toy.shares(), toy.shares(none=none)
    assert clear.none == pytest.approx(0.5, abs=0.02)
    assert clear.images == blurred.images == 2398
    assert clear.there < 3.6 < 6 < blurred.there
    alone = toy.shares(allowed=ids[:1200])
    np.testing.assert_allclose(clear.shares, alone.shares, atol=0.03)


def test_the_same_whatever_the_threads_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy([1, 2, 3, 4], 5000)
    monkeypatch.setattr(label_shares, "_MOST_IMAGES", 3000)
    first = toy.shares(seed=5)
    assert first.images == 3000
    monkeypatch.setattr("clipsearch.threads.worker_count", lambda: 4)
    again = toy.shares(seed=5)
    np.testing.assert_array_equal(first.shares, again.shares)
    assert (toy.shares(seed=6).shares != first.shares).any()
    monkeypatch.setattr(label_shares, "_MOST_NUMBERS", 100 * LABELS)
    assert toy.shares().images == 100


def test_near_ties_go_to_the_first_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two labels of one vector and one share: the first wins, however rows are cut."""
    toy = Toy([0, 3], 400)
    classes = toy.classes.copy()
    classes[3] = classes[0]
    even = np.full(LABELS, 0.2 / (LABELS - 2))
    even[[0, 3]] = 0.4
    scorer = AdaptedScorer(classes, SCALE, 2, LabelShares(even, 2.0, 400, 0.0, ADAPTED))
    whole = scorer.score(toy.ids, toy.rows)[0].labels
    parts = [scorer.score(toy.ids[at : at + 7], toy.rows[at : at + 7])[0].labels
             for at in range(0, len(toy.ids), 7)]  # fmt: skip
    assert not (whole[:, 0] == 3).any()
    assert (whole[:, 0] == 0).sum() > 200
    np.testing.assert_array_equal(whole, np.concatenate(parts))


WORDS = "rocket,coffee cup,cat,coin,astronaut,page of text,clock,brick wall"
FEW_WORDS = "rocket,coffee cup,cat"


def test_the_command(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    """Ten pictures and few labels: what the guard says is told, and rows are what was saved."""
    at = ("--index", mini_index)
    done = cli_here(
        "classify",
        "--labels",
        FEW_WORDS,
        "--adapt",
        "--none",
        "off",
        "--json",
        "--save-as",
        "some",
        *at,
    )
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    index = open_index(mini_index)
    assert len(rows) == len(index) >= 8
    plain = index.classify(FEW_WORDS.split(","), none="off")
    told = done.stderr.decode()
    assert "Nothing was adapted: the photos show about" in told
    assert "of 3 labels, more than a third" in told
    for row, label, score in zip(rows, plain.labels[:, 0], plain.scores[:, 0], strict=True):
        assert row["label"] == plain.label_names[label]
        assert row["score"] == row["cosine"] == pytest.approx(float(score), abs=1e-6)
    table = pq.read_table(next((mini_index / "labels").glob("some.*.parquet")))
    assert table.column("label").to_pylist() == [row["label"] for row in rows]


def test_the_command_where_few_labels_are_there(cli_here: Cli, mini_index: Path) -> None:
    """Scores are cosines and what the shares add; how many changed is counted."""
    at = ("--index", mini_index)
    done = cli_here("classify", "--labels", WORDS, "--adapt", "--none", "off", "--json", *at)
    index = open_index(mini_index)
    scale = index.space.logit_scale
    classes, _ = index.class_vectors(WORDS.split(","))
    shares = estimate_shares(index.state().vectors, classes, scale)
    assert shares.outcome == ADAPTED
    added = dict(zip(WORDS.split(","), shares.log_odds() / scale, strict=True))
    plain = index.classify(WORDS.split(","), none="off")
    changed = 0
    for line, label in zip(done.stdout.splitlines(), plain.labels[:, 0], strict=True):
        row = json.loads(line)
        assert row["score"] == pytest.approx(row["cosine"] + added[row["label"]], abs=3e-6)
        changed += row["label"] != plain.label_names[label]
    assert f": {changed:,} of {len(index)} images" in done.stderr.decode()


def test_images_that_show_none_get_no_label(cli_here: Cli, mini_index: Path) -> None:
    """By the threshold that is asked for; how far an image belongs is what classify says."""
    ask = ("classify", "--labels", WORDS, "--none", "0.6", "--json", "--index", mini_index)
    rows = [json.loads(line) for line in cli_here(*ask, "--adapt").stdout.splitlines()]
    plain = [json.loads(line) for line in cli_here(*ask).stdout.splitlines()]
    without = [row["label"] is None for row in rows]
    assert 0 < sum(without) < len(rows)
    assert without == [row["in_set"] < 0.6 for row in rows]
    for row, other in zip(rows, plain, strict=True):
        assert row["in_set"] == pytest.approx(other["in_set"], abs=1e-5)
        assert (row["score"] is None) == (row["cosine"] is None) == (row["label"] is None)


def test_labels_of_a_file(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    """Synonyms count; of parents and thresholds the shares know nothing."""
    words = tmp_path / "words.toml"
    said = "".join(f'[labels."{word}"]\n' for word in WORDS.split(",") if word != "cat")
    words.write_text(f'[labels.cat]\nsynonyms = ["kitten", "tabby"]\n{said}')
    ask = ("classify", "--labels-file", words, "--adapt", "--none", "off", "--index", mini_index)
    done = cli_here(*ask, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    index = open_index(mini_index)
    classes, _ = index.class_vectors(read_labels(words))
    _, vectors = index.state().vectors.take([row["id"] for row in rows])
    names = ["cat", *(word for word in WORDS.split(",") if word != "cat")]
    own = [names.index(row["label"]) for row in rows]
    np.testing.assert_allclose(
        [row["cosine"] for row in rows], np.sum(vectors * classes[own], axis=1), atol=2e-6
    )
    words.write_text(f"[labels.cat]\nthreshold = 0.5\n{said}")
    done = cli_here(*ask)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "nothing of parents and thresholds" in done.stderr.decode()


def test_what_does_not_go_together(cli_here: Cli, mini_index: Path) -> None:
    ask = ("classify", "--labels", WORDS, "--adapt", "--index", mini_index)
    for more, told in (
        (("--fast",), "leave out --fast or --by-cluster"),
        (("--by-cluster",), "leave out --fast or --by-cluster"),
        (("--save-as", "x", "--since", "1999"), "leave out --save-as or the filter"),
    ):
        done = cli_here(*ask, *more)
        assert (done.returncode, done.stdout) == (2, b"")
        assert told in done.stderr.decode()
    index = open_index(mini_index)
    with pytest.raises(LabelError, match="leave out the filter"):
        classify_adapted(
            index.path, index.state(), index.text_vectors(), ["a", "b"],
            allowed=np.array([1], np.int64), save_as="x",
        )  # fmt: skip


@pytest.mark.slow
def test_photos_of_few_classes(caltech: Path, tmp_path: Path) -> None:
    """All 25 names asked for, photos of five: more of them are right. Of all: nothing changes."""
    from indexer import build_index

    build_index(caltech / "support", tmp_path / "s.index", encoder="mini")
    index = open_index(tmp_path / "s.index")
    ids = index.state().vectors.ids
    folders = [place.path.parent.name for place in index.paths().first_places(ids) if place]
    names = sorted(set(folders))
    truth = np.array([names.index(folder) for folder in folders])
    labels = [name.replace("_", " ") for name in names]
    few = np.isin(truth, np.random.default_rng(0).choice(25, 5, replace=False))

    def right(chosen: np.ndarray) -> tuple[float, float]:
        found = classify_adapted(
            index.path, index.state(), index.text_vectors(), labels, allowed=ids[chosen]
        ).columns()
        alone = index.classify(labels, none="off").labels[chosen, 0]
        return (alone == truth[chosen]).mean(), (found.labels[:, 0] == truth[chosen]).mean()

    before, after = right(few)
    assert after > before + 0.04
    before, after = right(np.ones(len(ids), bool))
    assert after == before
