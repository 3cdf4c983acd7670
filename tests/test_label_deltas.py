"""Changing a saved label set scores only what changed, and answers as if everything was scored."""

from __future__ import annotations

import copy
import csv
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import label_deltas, label_scores, label_set_saving, open_index
from clipsearch.best_rows import BEST
from clipsearch.cli import run
from clipsearch.encoder import Encoder, Float32, ImageGeometry, Space
from clipsearch.errors import LabelError
from clipsearch.generation import Generation, open_generation
from clipsearch.label_changes import edited_labels, label_change
from clipsearch.label_history import label_set_versions
from clipsearch.label_merging import Merger
from clipsearch.label_set_saving import delete_label_set, save_classification
from clipsearch.label_sets import read_label_rows, read_label_set, read_remembered
from clipsearch.manifest import new_manifest, write_manifest
from clipsearch.records import Classification
from clipsearch.saved_labelling import SavedLabelling, classify_beside
from clipsearch.scoring import LabelScorer
from clipsearch.shards import DELETED_SCHEMA, Int64, embedding_table, write_shard, write_table
from clipsearch.store import LocalStore
from clipsearch.text_vectors import TextVectors
from indexer import build_index
from indexer.verify import verify_index
from tests.conftest import Cli

DIM = 16
SCALE = 100.0
SPACE = Space("toy-1", "f" * 64, "toy", DIM, SCALE, None, ImageGeometry(8, 8))
KINDS = ("random", "near", "tied")


def unit(rows: Any) -> Float32:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


@functools.cache
def dyadic(seed: int) -> Float32:
    """Four halves among zeros: a unit vector whose products are exact in any precision."""
    chance = np.random.default_rng(seed)
    row = np.zeros(DIM, np.float32)
    row[chance.choice(DIM // 2, 4, replace=False)] = chance.choice([-0.5, 0.5], 4)
    return row


def text_vector(kind: str, text: str) -> Float32:
    """The vector of a text, always the same. "tied" gives one of five to every text; "near" one
    of five, or one that differs from it in the last places."""
    seed = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    if kind == "tied":
        return dyadic(seed % 5)
    if kind == "random":
        return unit(np.random.default_rng(seed).standard_normal(DIM))
    near = np.random.default_rng(seed % 5).standard_normal(DIM)
    return unit(near * (1 + 1e-7 * np.random.default_rng(seed).standard_normal(DIM)))


class Words:
    """Stands for an encoder; counts the texts it is asked for."""

    space = SPACE

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.recipe: dict[str, Any] = {}
        self.asked: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        self.asked += texts
        return np.stack([text_vector(self.kind, text) for text in texts])

    def encode_images(self, pixels: Any) -> Float32:
        raise NotImplementedError


class Corpus:
    """An index of made-up vectors that grows and shrinks; ids leave gaps."""

    def __init__(self, place: Path, kind: str, seed: int = 0) -> None:
        self.place, self.kind = place, kind
        self.store = LocalStore(place)
        self.chance = np.random.default_rng(seed)
        self.ids = np.empty(0, np.int64)
        self.rows = np.empty((0, DIM), np.float16)
        self.next_id = 0
        self.manifest = dataclasses.replace(
            new_manifest("test"), default_space=SPACE.id, spaces={SPACE.id: SPACE}
        )
        self.words = Words(kind)
        write_manifest(self.store, self.manifest)

    def grow(self, count: int) -> None:
        ids = self.next_id + np.cumsum(self.chance.integers(1, 3, count)) - 1
        if self.kind == "tied":
            rows = np.stack([dyadic(seed) for seed in self.chance.integers(0, 40, count)])
        else:
            rows = unit(self.chance.standard_normal((count, DIM)))
        shards = self.manifest.embeddings.get(SPACE.id, ())
        shard = write_shard(
            self.store, f"embeddings/toy-1/{len(shards):05d}.parquet", embedding_table(ids, rows),
            kind="embeddings", index_uuid=self.manifest.uuid,
        )  # fmt: skip
        self.next_id = int(ids[-1]) + 1
        self.ids = np.concatenate([self.ids, ids])
        self.rows = np.concatenate([self.rows, rows.astype(np.float16)])
        self._commit(embeddings={SPACE.id: (*shards, shard)}, next_id=self.next_id)

    def shrink(self, count: int) -> None:
        """Delete some images, whichever."""
        import pyarrow as pa

        gone = self.chance.choice(len(self.ids), count, replace=False)
        self.ids, self.rows = np.delete(self.ids, gone), np.delete(self.rows, gone, axis=0)
        deleted = np.setdiff1d(np.arange(self.next_id), self.ids)
        table = pa.table([pa.array(deleted)], schema=DELETED_SCHEMA)
        name = f"deleted/{self.manifest.generation + 1:07d}.parquet"
        ref = write_table(self.store, name, table, kind="deleted", index_uuid=self.manifest.uuid)
        self._commit(deleted=ref)

    def _commit(self, **changes: Any) -> None:
        generation = self.manifest.generation + 1
        self.manifest = dataclasses.replace(self.manifest, generation=generation, **changes)
        write_manifest(self.store, self.manifest)

    @property
    def state(self) -> Generation:
        return open_generation(self.place)

    def texts(self) -> TextVectors:
        encoder: Encoder = self.words
        return TextVectors(SPACE, lambda: encoder, None)

    def label(self, labels: Sequence[str], **options: Any) -> tuple[Classification, SavedLabelling]:
        """Classify beside a saved set, and save where that is wished."""
        with classify_beside(
            self.place, self.state, self.texts(), labels, "none", None, **options
        ) as labelling:
            result = labelling.columns()
            if options.get("save_as") is not None:
                labelling.save()
        return result, labelling

    def check(
        self, result: Classification, labels: Sequence[str], top: int, ids: Int64 | None = None
    ) -> None:
        """Assert that ``result`` is that of float64."""
        at = np.arange(len(self.ids)) if ids is None else np.flatnonzero(np.isin(self.ids, ids))
        classes = unit(unit(np.stack([text_vector(self.kind, label) for label in labels])))
        rows = self.rows[at].astype(np.float64)
        # Summed like this, equal class vectors have equal scores.
        scores = (rows[:, None, :] * classes.astype(np.float64)).sum(axis=2)
        top = min(top, len(labels))
        ranked = np.argsort(-scores, axis=1, kind="stable")
        best = np.take_along_axis(scores, ranked, axis=1)
        odds = np.exp(SCALE * (best - best[:, :1]))
        odds /= odds.sum(axis=1, keepdims=True)
        np.testing.assert_array_equal(result.ids, self.ids[at])
        np.testing.assert_array_equal(result.labels, ranked[:, :top])
        np.testing.assert_allclose(result.scores, best[:, :top], atol=1e-6)
        np.testing.assert_allclose(result.probabilities, odds[:, :top], atol=1e-5)
        if len(labels) == 1:
            assert np.isnan(result.margins).all()
            assert (result.runners_up == -1).all()
        else:
            np.testing.assert_array_equal(result.runners_up, ranked[:, 1])
            np.testing.assert_allclose(result.margins, best[:, 0] - best[:, 1], atol=1e-6)
            assert (result.margins >= 0).all()

    def scores_file(self, name: str = "set") -> Path:
        (found,) = (self.place / "labels").glob(f"{name}.*.scores")
        return found


def names(count: int, first: int = 0) -> list[str]:
    return [f"label {number}" for number in range(first, first + count)]


@pytest.fixture(params=[False, True], ids=["product", "scan"])
def small_pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pieces of few rows, whose borders are not those of the checksums."""
    monkeypatch.setattr(label_deltas, "PIECE_ROWS", 64)
    monkeypatch.setattr(label_deltas, "CHUNK_ROWS", 50)
    monkeypatch.setattr(label_scores, "CHUNK_ROWS", 50)
    monkeypatch.setattr(label_deltas, "_WIDENED", 7)
    if request.param:
        monkeypatch.setattr(label_deltas, "_WORTH_FAISS", 0)


# -- any chain of changes ------------------------------------------------------------------------


def _edit(chance: np.random.Generator, labels: list[str], fresh: Iterator[str]) -> list[str]:
    """One of the changes that there are, at random."""
    new = list(labels)
    for _ in range(int(chance.integers(1, 4))):
        what = chance.integers(0, 5)
        place = int(chance.integers(0, len(new)))
        if what == 0 and len(new) > 1:
            del new[place]
        elif what == 1:
            new[place] = next(fresh)
        elif what == 2 and len(new) > 1:
            new.insert(int(chance.integers(0, len(new))), new.pop(place))
        else:
            new.insert(place if what == 3 else len(new), next(fresh))
    return new


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [1, 7, 8, 9, 30])
def test_any_chain_of_changes(kind: str, start: int, tmp_path: Path, small_pieces: None) -> None:
    corpus = Corpus(tmp_path / "index", kind, seed=start)
    corpus.grow(150)
    chance = corpus.chance
    fresh = iter(names(1000, 100))
    labels = names(start)
    corpus.label(labels, save_as="set")
    went_by_it = scored = 0
    for step in range(14):
        if step % 4 == 1:
            corpus.grow(int(chance.integers(1, 40)))
        if step % 4 == 3:
            corpus.shrink(int(chance.integers(1, 20)))
        labels = _edit(chance, labels, fresh)
        top = int(chance.integers(1, BEST + 1))
        if step % 3 == 0:  # asked, and not saved
            ids = np.flatnonzero(chance.random(corpus.next_id) < 0.3)
            result, labelling = corpus.label(labels, base="set", top=top, allowed=ids)
            corpus.check(result, labels, top, ids)
            result, labelling = corpus.label(labels, base="set", top=top)
        else:
            result, labelling = corpus.label(labels, save_as="set", top=top)
        corpus.check(result, labels, top)
        assert labelling.images_scored <= len(corpus.ids)
        if labelling.base is not None:
            went_by_it += len(corpus.ids)
            scored += labelling.images_scored
        if step % 5 == 4:  # what was saved answers by itself
            result, labelling = corpus.label(
                read_label_set(corpus.place, "set").labels, base="set", top=BEST
            )
            corpus.check(result, result.label_names, BEST)
            _, rows = read_label_rows(corpus.place, "set")
            assert np.isin(corpus.ids[: len(rows.ids) // 2], rows.ids).any()
    assert scored < went_by_it


def test_only_what_changed_is_scored(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "random")
    corpus.grow(300)
    labels = names(40)
    first, labelling = corpus.label(labels, save_as="set")
    assert (labelling.base, labelling.images_scored, labelling.columns_scored) == (None, 300, 0)
    corpus.check(first, labels, 1)
    corpus.words.asked.clear()

    def scored(labels: Sequence[str], **options: Any) -> tuple[int, int]:
        result, labelling = corpus.label(labels, base="set", **options)
        assert labelling.base is not None
        corpus.check(result, labels, 1)
        return labelling.images_scored, labelling.columns_scored

    assert scored(labels) == (0, 0)
    assert scored([*labels, "more"]) == (0, 1)
    assert scored(["more", *labels, "and more"]) == (0, 2)
    # Of the images of a label that goes, those are scored again whose sum was mostly its.
    for place in (0, 17, 39):
        without = labels[:place] + labels[place + 1 :]
        anew, columns = scored(without)
        assert columns == 1
        assert anew <= (first.labels[:, 0] == place).sum() + 30
        reworded = [*labels[:place], "other", *labels[place + 1 :]]
        assert scored(reworded) == (anew, 2)
    # A label that has moved among the others leaves and comes.
    moved = scored([labels[5], *labels[:5], *labels[6:]])
    assert moved == (scored([*labels[:5], *labels[6:]])[0], 2)
    # The class vectors of labels that stay are remembered: no text of theirs is encoded.
    assert set(corpus.words.asked) <= {"more", "and more", "other", labels[5]}
    corpus.grow(25)
    assert scored(labels) == (25, 0)
    assert scored([*labels, "more"]) == (25, 1)
    corpus.shrink(100)
    gone = 25 - int((corpus.ids >= first.ids[-1] + 1).sum())
    assert scored(labels) == (25 - gone, 0)


def test_images_that_pass_a_filter_alone(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "random")
    corpus.grow(200)
    corpus.label(names(12), save_as="set")
    corpus.grow(50)
    allowed = corpus.ids[::3]
    result, labelling = corpus.label([*names(12), "x"], base="set", allowed=allowed, top=3)
    corpus.check(result, [*names(12), "x"], 3, allowed)
    assert labelling.images_scored == (allowed > corpus.ids[199]).sum()
    nobody = np.array([corpus.next_id + 5], np.int64)
    result, _ = corpus.label(names(12), base="set", allowed=nobody)
    assert len(result) == 0
    with pytest.raises(LabelError, match="of every image"):
        corpus.label(names(12), save_as="set", allowed=allowed)


def test_what_is_not_alike_is_scored_whole(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "random")
    corpus.grow(60)
    labels = names(12)
    corpus.label(labels, save_as="set")

    def base(**options: Any) -> object:
        arguments = {"templates": "none", "context": None, "base": "set", **options}
        with classify_beside(
            corpus.place, corpus.state, corpus.texts(), labels, **arguments
        ) as found:
            result = found.columns()
            assert found.images_scored == (0 if found.base is not None else 60)
        assert len(result) == 60
        return found.base

    assert base() is not None
    assert base(context="  ") is not None
    assert base(context="a thing") is None
    assert base(templates="simple") is None
    assert base(templates=("{}",)) is not None
    assert base(top=BEST) is not None
    assert base(top=BEST + 1) is None
    # Saved by an earlier version, which remembered nothing.
    plain, _ = corpus.label(labels)
    save_classification(corpus.place, corpus.state, "set", plain, "none", None)
    assert not list((corpus.place / "labels").glob("*.scores"))
    assert base() is None
    with pytest.raises(LabelError, match="no label set 'other'"):
        base(base="other")


def test_few_images_and_none(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "random")
    labels = names(10)
    result, _ = corpus.label(labels, save_as="set")
    assert len(result) == 0
    corpus.grow(1)
    result, labelling = corpus.label([*labels, "x"], save_as="set")
    corpus.check(result, [*labels, "x"], 1)
    assert labelling.images_scored == 1
    result, labelling = corpus.label(labels, save_as="set", top=20)
    corpus.check(result, labels, 20)
    corpus.shrink(1)
    result, labelling = corpus.label(labels, save_as="set")
    assert (len(result), labelling.base is not None) == (0, True)
    assert len(read_label_rows(corpus.place, "set")[1].ids) == 0


def test_sums_that_drift_are_made_anew(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "random")
    corpus.grow(120)
    labels = names(30)
    corpus.label(labels, save_as="set")
    whole = steps = 0
    for step in range(60):
        labels = labels[1:] + names(1, 100 + step)
        result, labelling = corpus.label(labels, save_as="set")
        corpus.check(result, labels, 1)
        whole += labelling.base is None
        steps += 1
        ref = read_label_set(corpus.place, "set").scores
        assert ref is not None
        assert ref.drift < 2 * label_deltas.MOST_DRIFT
    assert 0 < whole < steps / 4


def test_more_labels_than_two_bytes_can_tell(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "tied")
    corpus.grow(3)
    labels = names(70_000)
    corpus.label(labels, save_as="set")
    changed = [*labels[:69_990], "x", *labels[69_991:]]
    result, labelling = corpus.label(changed, base="set", top=4)
    assert (labelling.columns_scored, labelling.images_scored) == (2, 0)
    corpus.check(result, changed, 4)


def test_a_list_with_gaps_claims_no_more_than_it_knows() -> None:
    classes = np.zeros((12, DIM), np.float32)
    classes[:, 0] = 1.0
    known = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.3], np.float32)[:, None]
    labels = np.array([0, 1, 2, 3, 4, 5, -1, -1], np.int32)[:, None]
    rows = np.zeros((1, DIM), np.float16)
    above = np.nextafter(np.float32(0.3), np.float32(1))

    def merge(*added: float) -> tuple[list[int], list[float]]:
        places = tuple(range(6, 6 + len(added)))
        merger = Merger(classes, places, 1e-6, SCALE)
        merged = merger.merge(labels, known, np.array(added, np.float32)[:, None], rows)
        return merged.labels[:, 0].tolist(), merged.scores[:, 0].tolist()

    assert merge(0.35) == ([0, 1, 2, 3, 4, 5, 6, -1], pytest.approx([*known[:6, 0], 0.35, 0.3]))
    # Of labels about as good as the last that went, and of worse ones, nobody knows the rank.
    assert merge(float(above))[0] == [0, 1, 2, 3, 4, 5, -1, -1]
    assert merge(float(above))[1][6:] == [above, above]
    assert merge(0.2, 0.1)[0] == [0, 1, 2, 3, 4, 5, -1, -1]
    assert merge(0.2, 0.1)[1][6:] == [known[-1, 0]] * 2
    # What ranks before a label that was known does.
    assert merge(0.45, 0.2)[0] == [0, 1, 2, 3, 4, 6, 5, -1]
    assert merge(0.95, 0.35, 0.32)[0] == [6, 0, 1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("apart", [0.0, 1e-7])
def test_added_labels_among_many_equal_ones(apart: float) -> None:
    """Seven remembered labels that are equal keep none out that is equal too and named first."""
    count = 11  # the first three are added, of which the third is above all
    scores = np.array([0.5 + apart, 0.5 - apart, 0.75, *[0.5] * 8])
    classes = np.zeros((count, DIM), np.float32)
    classes[:, 0] = scores
    row = np.zeros((1, DIM), np.float16)
    row[0, 0] = 1
    remembered = np.full((BEST, 1), 0.5, np.float32)
    labels = np.arange(3, count, dtype=np.int32)[:, None]
    merger = Merger(classes, (0, 1, 2), 1e-6, SCALE)
    # As float32 sums may have them: below what they are.
    added = np.array([0.5 - 2e-7, 0.5 - 2e-7, 0.75], np.float32)[:, None]
    merged = merger.merge(labels, remembered, added, row)
    wanted = np.lexsort((np.arange(count), -classes[:, 0].astype(np.float64)))[:BEST]
    assert merged.labels[:, 0].tolist() == wanted.tolist()
    assert wanted[1] == 0


# -- the change between two sets -----------------------------------------------------------------


def test_the_change_keeps_the_longest_part_in_order() -> None:
    change = label_change("abcde", "acdexb")
    assert change.kept.tolist() == [0, -1, 1, 2, 3, -1]
    assert (change.removed, change.added) == ((1,), (4, 5))
    assert change.columns == 3
    assert label_change("abc", "abc").columns == 0
    assert label_change("abc", "cba").columns == 4
    chance = np.random.default_rng(0)
    for _ in range(200):
        old = [str(number) for number in chance.permutation(12)[: chance.integers(1, 12)]]
        new = [str(number) for number in chance.permutation(12)[: chance.integers(1, 12)]]
        change = label_change(old, new)
        stays = [int(place) for place in change.kept[:-1] if place >= 0]
        assert stays == sorted(stays)
        for position, place in enumerate(change.kept[:-1].tolist()):
            assert place < 0 or old[position] == new[place]
        assert len(stays) == _longest([new.index(label) for label in old if label in new])
        assert sorted([*stays, *change.added]) == list(range(len(new)))


def test_a_large_change_is_not_merged(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "random")
    corpus.grow(40)
    corpus.label(names(60), save_as="set")
    for after, columns in ((names(68), 8), (names(69), 9), (names(72), 12), (names(73), None)):
        result, labelling = corpus.label(after, base="set")
        corpus.check(result, after, 1)
        assert (labelling.base is None) == (columns is None), len(after)
        assert labelling.columns_scored == (columns or 0)
    for few in ("a", "ab", "abcdefghi"):
        assert label_change(few, few[1:] + "x").is_small == (len(few) > 1)
    assert not label_change("abc", "xyz").is_small


def test_many_columns_come_in_small_pieces(tmp_path: Path) -> None:
    corpus = Corpus(tmp_path / "index", "random")
    corpus.grow(2000)
    corpus.label(names(30), save_as="set")
    _, remembered = read_remembered(corpus.place, "set")
    assert remembered is not None

    def rows(count: int) -> list[int]:
        change = label_change(names(30), names(30 + count))
        scorer = LabelScorer(np.zeros((30 + count, DIM), np.float32), SCALE, BEST)
        pieces = label_deltas.DeltaScorer(
            corpus.state.vectors, scorer, change, remembered, top=1, keep_all=True
        ).pieces()
        return [len(ids) for ids, _ in pieces]

    assert rows(1) == [2000]
    assert rows(1000) == [524, 524, 524, 428]
    assert max(rows(20_000)) == 256


def _longest(numbers: list[int]) -> int:
    best = [1] * len(numbers)
    for here, number in enumerate(numbers):
        earlier = [best[at] for at in range(here) if numbers[at] < number]
        best[here] = 1 + max(earlier, default=0)
    return max(best, default=0)


def test_edits_of_labels() -> None:
    labels = ("cat", "hot dog", "owl")
    assert edited_labels(labels, add=["seal"]) == ("cat", "hot dog", "owl", "seal")
    assert edited_labels(labels, remove=["HOT  dog"]) == ("cat", "owl")
    assert edited_labels(labels, reword=[("cat", "house cat")]) == ("house cat", "hot dog", "owl")
    # A case of its own is another wording; a name that a removed label had is free.
    assert edited_labels(labels, reword=[("cat", "Cat")])[0] == "Cat"
    assert edited_labels(labels, remove=["owl"], add=["owl"]) == labels
    for arguments, words in (
        ({"remove": ["dog"]}, "no label 'dog'.*cat, hot dog, owl"),
        ({"reword": [("dog", "x")]}, "no label 'dog'"),
        ({"add": ["Cat "]}, "'Cat' is in the set already"),
        ({"add": ["x", "x"]}, "twice"),
        ({"reword": [("cat", "owl")]}, "twice"),
        ({"reword": [("cat", "a")], "remove": ["cat"]}, "changed twice"),
        ({"remove": ["cat", "owl", "hot dog"]}, "no label would be left"),
        ({"reword": [("cat", " ")]}, "is empty"),
        ({"add": [""]}, "is empty"),
    ):
        with pytest.raises(LabelError, match=words) as caught:
            edited_labels(labels, **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


# -- damage, and others --------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setattr(label_deltas, "CHUNK_ROWS", 64)
    monkeypatch.setattr(label_scores, "CHUNK_ROWS", 64)
    corpus = Corpus(tmp_path / "index", "random")
    corpus.grow(200)
    corpus.label(names(12), save_as="set")
    return corpus


def test_damage_costs_time_alone(saved: Corpus) -> None:
    labels = [*names(12), "x"]
    file = saved.scores_file()
    whole = file.read_bytes()
    chance = np.random.default_rng(1)
    scored = set()
    for place in [0, len(whole) - 1, *chance.integers(0, len(whole), 60).tolist()]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(chance.integers(0, 8))
        file.write_bytes(damaged)
        result, labelling = saved.label(labels, base="set")
        saved.check(result, labels, 1)
        scored.add(labelling.images_scored)
    # One block of the file (and an image that cannot be found past a damaged id), all of it, or
    # nothing, where it is what lies between the columns that was hit.
    assert {64, 200} <= scored
    assert max(scored - {200}) < 70
    for damaged in (b"", whole[:-1], whole + b"\0", bytes(len(whole)), whole[::-1]):
        file.write_bytes(damaged)
        result, labelling = saved.label(labels, base="set")
        saved.check(result, labels, 1)
        assert (labelling.base, labelling.images_scored) == (None, 200)
    file.unlink()
    file.mkdir()
    assert saved.label(labels, base="set")[1].base is None
    file.rmdir()
    assert saved.label(labels, base="set")[1].base is None
    result, _ = saved.label(labels, save_as="set")  # and saved again it is whole
    assert saved.label(labels, base="set")[1].images_scored == 0


def test_the_file_of_another_set_is_not_believed(saved: Corpus) -> None:
    saved.label(names(12, 50), save_as="other")
    mine, other = saved.scores_file(), saved.scores_file("other")
    assert mine.stat().st_size == other.stat().st_size
    shutil.copyfile(other, mine)
    result, labelling = saved.label(names(12), base="set")
    saved.check(result, names(12), 1)
    assert labelling.base is None


@pytest.mark.parametrize(
    "scores",
    [None, 3, [], {}, {"name": "x"}, {"rows": -1}, {"drift": None}, {"bytes": "many"},
     {"name": "../../manifest.json"}, {"logit_scale": 5.0}, {"more": 1}, {"shards": None},
     {"shards": [[]]}],
)  # fmt: skip
def test_a_reference_that_makes_no_sense(saved: Corpus, scores: object) -> None:
    document = saved.place / "labels" / "set.json"
    content = json.loads(document.read_bytes())
    del content["checksum"]
    content["scores"] = {**content["scores"], **scores} if scores and isinstance(
        scores, dict
    ) else scores  # fmt: skip
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    document.write_text(json.dumps(content))
    result, labelling = saved.label(names(12), base="set")
    saved.check(result, names(12), 1)
    assert (labelling.base, labelling.images_scored) == (None, 200)


def test_other_images_under_the_same_ids_are_scored(saved: Corpus, tmp_path: Path) -> None:
    """Two copies of an index go ways of their own, and the set of one comes to the other."""
    copied = copy.copy(saved)
    copied.place = Path(shutil.copytree(saved.place, tmp_path / "copy"))
    copied.store, copied.chance = LocalStore(copied.place), np.random.default_rng(77)
    saved.grow(50)
    copied.grow(50)
    saved.label(names(12), save_as="set")
    shutil.rmtree(copied.place / "labels")
    shutil.copytree(saved.place / "labels", copied.place / "labels")
    for labels in (names(12), names(13)):
        result, labelling = copied.label(labels, base="set")
        copied.check(result, labels, 1)
        assert (labelling.base is not None, labelling.images_scored) == (True, 50)
    result, labelling = copied.label(names(12), base="set", allowed=copied.ids[150::7])
    copied.check(result, names(12), 1, copied.ids[150::7])


def test_what_is_not_saved_leaves_nothing(saved: Corpus) -> None:
    folder = saved.place / "labels"
    before = sorted(os.listdir(folder))
    with classify_beside(
        saved.place, saved.state, saved.texts(), names(5), "none", save_as="set"
    ) as labelling:
        next(iter(labelling))
        assert len(list(folder.glob(".tmp-part-*"))) == 2
    assert sorted(os.listdir(folder)) == before
    with (
        classify_beside(
            saved.place, saved.state, saved.texts(), names(5), "none", save_as="set"
        ) as labelling,
        pytest.raises(ValueError, match="expected 200 rows"),
    ):
        labelling.save()  # before its images have come
    assert sorted(os.listdir(folder)) == before
    for name in ("SET", "a/b"):
        with pytest.raises(LabelError):
            saved.label(names(5), save_as=name)
    with pytest.raises(LabelError, match="is no text"):
        saved.label(["a", "\udcff"], save_as="new")
    assert sorted(os.listdir(folder)) == before
    delete_label_set(saved.place, "set")
    assert sorted(os.listdir(folder)) == ["labels.lock"]


def test_a_full_disk_leaves_the_old_set(saved: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved.place / "labels"
    before = sorted(os.listdir(folder))

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(label_set_saving, "replace_file", full)
    with pytest.raises(OSError, match="No space"):
        saved.label(names(5), save_as="set")
    assert sorted(os.listdir(folder)) == before
    assert len(read_label_set(saved.place, "set").labels) == 12


def test_a_disk_that_is_full_to_the_end_leaves_no_parts(
    saved: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    def opened(path: Path, mode: str) -> io.BufferedRandom:
        return io.BufferedRandom(Full(path, mode.replace("b", "")), 1 << 20)

    before = sorted(os.listdir(saved.place / "labels"))
    monkeypatch.setattr(label_scores, "open", opened, raising=False)
    with pytest.raises(OSError, match="No space"):  # closing the file tries it once more
        saved.label(names(5), save_as="set")
    assert sorted(os.listdir(saved.place / "labels")) == before


def test_parts_of_a_killed_process_go(saved: Corpus) -> None:
    folder = saved.place / "labels"
    young, old = folder / ".tmp-part-1-aa.scores", folder / ".tmp-part-2-bb.scores"
    for part in (young, old):
        part.write_bytes(b"half")
    then = time.time() - 2 * 3600
    os.utime(old, (then, then))
    saved.label(names(5), save_as="set")
    assert young.exists()
    assert not old.exists()


def _save_often(place: Path, which: int) -> None:
    corpus = Corpus.__new__(Corpus)
    corpus.place, corpus.kind, corpus.words = place, "random", Words("random")
    for step in range(8):
        corpus.label([*names(12), f"mine {which}", f"step {step}"], save_as="set")


def test_processes_that_save_at_once(tmp_path: Path) -> None:
    saved = Corpus(tmp_path / "index", "random")
    saved.grow(200)
    saved.label(names(12), save_as="set")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_save_often, args=(saved.place, which)) for which in (1, 2)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        labels = read_label_set(saved.place, "set").labels
        result, _ = saved.label(labels, base="set")  # of whichever was saved last
        saved.check(result, labels, 1)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    found, remembered = read_remembered(saved.place, "set")
    assert remembered is not None
    assert remembered.all_sound()
    assert found.labels[-1] == "step 7"
    # The lock, three files, and two for each of the versions before.
    kept = len(label_set_versions(saved.place, "set")) - 1
    assert len(os.listdir(saved.place / "labels")) == 4 + 2 * kept
    assert len(list((saved.place / "labels").glob("*.scores"))) == 1


# -- the command line ----------------------------------------------------------------------------


def _table(output: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output.decode())))


def _alike(got: list[dict[str, str]], wanted: list[dict[str, str]]) -> None:
    assert [row["label"] for row in got] == [row["label"] for row in wanted]
    for name in ("id", "path", "runner_up"):
        assert [row[name] for row in got] == [row[name] for row in wanted], name
    for name, near in (("score", 2e-6), ("probability", 1e-5), ("margin", 2e-6)):
        numbers = [[float(row[name]) for row in rows] for rows in (got, wanted)]
        np.testing.assert_allclose(*numbers, atol=near)


def test_the_command_line_edits_a_set(
    mini_index: Path, pictures: Path, cli: Cli, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    at = ("--index", str(mini_index), "--csv", "--none", "off")

    def ask(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        """The command line in this process, which has the model already."""
        code = run(list(arguments))
        told = capfdbinary.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    first = ask("classify", "--labels", "lion,tower,drawing,dog", *at, "--save-as", "things")
    assert b"Scored 9 images against 4 labels in" in first.stderr, first.stderr
    again = cli("classify", "--labels", "@things", *at)  # a process of its own
    assert b"Scored nothing, 9 images and 4 labels are remembered by things" in again.stderr
    _alike(_table(again.stdout), _table(first.stdout))
    edits = ("--add", "otter, seal", "--add", "bird", "--remove", "dog", "--reword", "lion=a lion")
    changed = ask("classify", "--labels", "@things", *edits, *at, "--save-as", "more")
    assert changed.returncode == 0, changed.stderr
    assert b"against 6 changed labels" in changed.stderr
    assert b"Saved as more: 9 images" in changed.stderr
    wanted = ("a lion", "tower", "drawing", "otter", "seal", "bird")
    assert read_label_set(mini_index, "more").labels == wanted
    anew = ask("classify", "--labels", ",".join(wanted), *at)
    assert b"9 images against 6 labels in" in anew.stderr
    _alike(_table(changed.stdout), _table(anew.stdout))
    # The labels that are said in full are a change as well, of the set that is saved over.
    said = ask("classify", "--labels", "a lion,tower,otter", *at, "--save-as", "more")
    assert b"3 changed labels, the rest is remembered by more" in said.stderr, said.stderr
    _alike(
        _table(said.stdout), _table(ask("classify", "--labels", "a lion,tower,otter", *at).stdout)
    )
    # An image that came since is scored, and no other.
    shutil.copyfile(pictures / "lion.jpg", pictures / "twin.jpg")
    with open(pictures / "twin.jpg", "ab") as file:
        file.write(b"\0")
    build_index(pictures, mini_index)
    grown = ask("classify", "--labels", "@more", *at)
    assert b"Scored 1 image against 3 labels, the rest" in grown.stderr, grown.stderr
    assert len(_table(grown.stdout)) == len(open_index(mini_index))
    some = ask("classify", "--labels", "@more", "--where", "width < 400", *at)
    assert some.returncode == 0, some.stderr
    whole = {row["id"]: row for row in _table(grown.stdout)}
    _alike(_table(some.stdout), [whole[row["id"]] for row in _table(some.stdout)])


def test_what_the_command_line_refuses(mini_index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at = ("--index", str(mini_index))
    assert run(["classify", "--labels", "cat,dog", *at, "--save-as", "pets"]) == 0
    capfd.readouterr()
    before = sorted(os.listdir(mini_index / "labels"))
    for arguments, words in (
        (("--labels", "@pets", "--remove", "owl"), ("no label 'owl'", "cat, dog")),
        (("--labels", "@pets", "--add", "Dog"), ("in the set already",)),
        (("--labels", "@pets", "--add", ""), ("empty",)),
        (("--labels", "@pets", "--remove", "cat,dog"), ("no label would be left",)),
        (("--labels", "@pets", "--reword", "cat"), ("OLD=NEW",)),
        (("--labels", "@pets", "--reword", "cat="), ("empty",)),
        (("--labels", "@pets", "--reword", "cat=dog"), ("twice",)),
        (("--labels", "cat,dog", "--add", "owl"), ("--labels @NAME",)),
        (("--labels", "@pets", "--save-as", "PETS"), ("in case alone",)),
        (("--labels", "@pets", "--save-as", "pets", "--fast"), ("--fast",)),
        (("--labels", "@pets", "--save-as", "pets", "--since", "2020"), ("every image",)),
        (("--labels", "@pets", "--add", "a\udcff", "--save-as", "x"), ("no text",)),
    ):
        assert run(["classify", *arguments, *at]) == 2, arguments
        told = capfd.readouterr()
        assert told.err.count("\n") == 1, told.err
        assert all(word in told.err for word in words), told.err
        assert told.out == ""
    assert sorted(os.listdir(mini_index / "labels")) == before


def test_verify_names_what_is_remembered_no_more(
    mini_index: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    at = ("--index", str(mini_index), "--save-as", "pets")
    assert run(["classify", "--labels", "cat,dog", *at]) == 0
    sound = verify_index(mini_index, sample=0)
    assert not sound.findings
    (file,) = (mini_index / "labels").glob("pets.*.scores")
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    for _ in range(2):
        found = verify_index(mini_index, sample=0)
        assert found.is_sound
        (note,) = found.findings
        assert (note.severity, note.file) == ("note", f"labels/{file.name}")
        assert "--save-as pets" in note.cure
        file.unlink(missing_ok=True)
    assert run(["classify", "--labels", "@pets", *at]) == 0
    assert capfdbinary.readouterr().err.count(b"Scored 9 images against 2 labels in") == 2
    assert not verify_index(mini_index, sample=0).findings
    (now,) = (mini_index / "labels").glob("pets.*.scores")
    assert now != file
