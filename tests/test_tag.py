"""tag: the double z-norm against plain NumPy, its floor, and what a saved set remembers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import open_index, tag_statistics
from clipsearch.background_words import background_prompts
from clipsearch.cli import run
from clipsearch.encoder import Space
from clipsearch.errors import LabelError, OptionError, SpaceMismatchError
from clipsearch.generation import Generation, open_generation
from clipsearch.label_set_saving import save_classification
from clipsearch.label_sets import (
    ids_with_label,
    labels_of,
    read_label_rows,
    read_label_set,
)
from clipsearch.prompts import class_vectors
from clipsearch.query_encoders import QueryEncoders
from clipsearch.tag import save_tagging, tag, tag_like_saved
from clipsearch.tag_statistics import CorpusStatistics, RowScale, corpus_statistics, second_z
from clipsearch.tagging import Tagging
from clipsearch.text_vectors import TextVectors
from indexer import build_index
from tests.conftest import Cli

_LABELS = ("dog", "snow", "man", "bicycle", "piano", "water", "child", "street")
_FEW = tuple(f"a photo of a {word}" for word in "cat tree car house cup bird sky face".split())  # noqa: SIM905


@pytest.fixture(scope="module")
def collection(flickr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 photos and an index of them, made with mini."""
    home = tmp_path_factory.mktemp("tag")
    (home / "photos").mkdir()
    for photo in sorted(flickr.glob("*.jpg"))[:120]:
        shutil.copyfile(photo, home / "photos" / photo.name)
    build_index(home / "photos", home / "photos.index", encoder="mini")
    return home


@pytest.fixture
def place(collection: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(collection / "photos.index", tmp_path / "photos.index"))


def opened(place: Path) -> tuple[Generation, TextVectors]:
    state = open_generation(place)
    return state, QueryEncoders(None, None, None).texts(state.space)


def in_numpy(
    state: Generation, texts: TextVectors, labels: tuple[str, ...], background: tuple[str, ...]
) -> tuple[np.ndarray, ...]:
    """ids, cosines, z1, z2 (n, C) and the z1 of the background (n, B), on whole matrices."""
    ids, vectors = state.vectors.take(state.vectors.ids)
    cosines = (vectors @ class_vectors(labels, texts).T).astype(np.float64)
    behind = (vectors @ texts.encode(background).T).astype(np.float64)
    mean, std = behind.mean(axis=1, keepdims=True), behind.std(axis=1, keepdims=True)
    z1 = (cosines - mean) / std
    return ids, cosines, z1, (z1 - z1.mean(axis=0)) / z1.std(axis=0), (behind - mean) / std


def dense(result: Tagging) -> np.ndarray:
    """(n, C) bool: what was given."""
    given = np.zeros((len(result), len(result.label_names)), bool)
    given[np.repeat(np.arange(len(result)), np.diff(result.starts)), result.labels] = True
    return given


@pytest.mark.parametrize("block", [1 << 22, 300])
def test_the_numbers_are_those_of_whole_matrices(
    block: int, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_statistics, "_SCORES_PER_BLOCK", block)
    state, texts = opened(place)
    background = background_prompts()
    ids, cosines, z1, z2, behind = in_numpy(state, texts, _LABELS, background)
    result = tag(state, texts, _LABELS, threshold=0.4, thresholds={"SNOW": 1.5}, floor_share=0.1)
    assert result.statistics.images == result.scored == len(ids) == 120
    assert result.statistics.means == pytest.approx(z1.mean(axis=0), abs=1e-4)
    assert result.statistics.stds == pytest.approx(z1.std(axis=0), abs=1e-4)
    floor = result.statistics.floor
    assert floor is not None
    assert floor == pytest.approx(np.quantile(behind, 0.9), abs=0.01)
    limits = np.array([1.5 if label == "snow" else 0.4 for label in _LABELS])
    assert result.thresholds == tuple(limits)
    sure = (np.abs(z2 - limits) > 1e-4) & (np.abs(z1 - floor) > 1e-4)
    wanted = (z2 > limits) & (z1 > floor)
    assert np.array_equal(dense(result)[sure], wanted[sure])
    assert 20 < wanted.sum() < wanted.size / 2
    assert np.array_equal(result.ids, ids)
    rows = np.repeat(np.arange(len(ids)), np.diff(result.starts))
    assert result.scores == pytest.approx(z2[rows, result.labels], abs=1e-3)
    assert result.cosines == pytest.approx(cosines[rows, result.labels], abs=1e-5)
    for start, stop in zip(result.starts, result.starts[1:], strict=False):
        assert (np.diff(result.scores[start:stop]) <= 0).all()
    assert result.untagged == int((~dense(result).any(axis=1)).sum())
    best = tag(state, texts, _LABELS, threshold=0.4, thresholds={"SNOW": 1.5}, floor_share=0.1,
               most=1)  # fmt: skip
    firsts = result.starts[:-1][np.diff(result.starts) > 0]
    assert np.array_equal(best.labels, result.labels[firsts])
    assert np.array_equal(best.scores, result.scores[firsts])
    assert int(np.diff(result.starts).max()) > 1


def test_without_a_floor_only_the_threshold_counts(place: Path) -> None:
    state, texts = opened(place)
    _, _, _, z2, _ = in_numpy(state, texts, _LABELS, _FEW)
    result = tag(state, texts, _LABELS, background=_FEW, threshold=1.2, floor_share=1)
    assert result.statistics.floor is None
    assert result.statistics.background == _FEW
    sure = np.abs(z2 - 1.2) > 1e-4
    assert np.array_equal(dense(result)[sure], (z2 > 1.2)[sure])


def test_a_quantile_from_a_sample_of_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_statistics, "_FLOOR_ROWS", 500)
    monkeypatch.setattr(tag_statistics, "_SCORES_PER_BLOCK", 7000)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5003, 32)).astype(np.float32)
    background = rng.normal(size=(60, 32)).astype(np.float32)
    blocks = [(np.arange(start, start + len(part)), part) for start, part in
              ((0, vectors[:1234]), (1234, vectors[1234:]))]  # fmt: skip
    found = corpus_statistics(
        blocks, 5003, vectors[:3], RowScale(background), [""] * 60, floor_share=0.02
    )
    scores = vectors @ background.T
    z1 = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    assert found.images == 5003
    assert found.floor == pytest.approx(np.quantile(z1[::11], 0.98), abs=0.01)
    assert found.floor == pytest.approx(np.quantile(z1, 0.98), abs=0.05)


def test_a_label_that_is_the_same_everywhere_scores_nothing() -> None:
    flat = CorpusStatistics(9, (2.0, 1.0), (0.0, 0.5), None, 1.0, ())
    scores = second_z(np.array([[2.0, 2.0], [3.0, 0.5]], np.float32), flat)
    assert scores.tolist() == [[0.0, 2.0], [0.0, -1.0]]


def test_the_summary_counts(place: Path) -> None:
    state, texts = opened(place)
    result = tag(state, texts, _LABELS, threshold=0.5, floor_share=0.1)
    given = dense(result)
    summary = result.summary()
    assert [line.count for line in summary] == sorted(given.sum(axis=0), reverse=True)
    for line in summary:
        code = _LABELS.index(line.label)
        assert line.count == given[:, code].sum()
        assert line.share == pytest.approx(line.count / 120)
        mine = result.scores[result.labels == code]
        if line.count:
            assert line.example_score == pytest.approx(mine.max())
            assert line.example_id is not None
            assert line.label in result.labels_of(line.example_id)
        else:
            assert (line.example_id, line.example_score) == (None, None)
    with pytest.raises(KeyError):
        result.labels_of(10_000)


def test_what_is_refused(place: Path) -> None:
    state, texts = opened(place)
    nan, inf = float("nan"), float("inf")
    for options, error, word in (
        ({"threshold": nan}, OptionError, "threshold"),
        ({"thresholds": {"dog": inf}}, OptionError, "threshold"),
        ({"thresholds": {"owl": 1.0}}, LabelError, "'owl'"),
        ({"most": 0}, OptionError, "1 label"),
        ({"floor_share": 0}, OptionError, "floor"),
        ({"floor_share": 1.5}, OptionError, "floor"),
        ({"floor_share": nan}, OptionError, "floor"),
        ({"background": ["a photo"]}, LabelError, "background"),
    ):
        with pytest.raises(error, match=word):
            tag(state, texts, _LABELS, **options)  # type: ignore[arg-type]


def test_what_photos_show_is_found_and_what_none_shows_is_not_given(
    flickr: Path, photo1k: str, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for photo in sorted(flickr.glob("*.jpg"))[:90]:
        shutil.copyfile(photo, tmp_path / "photos" / photo.name)
    build_index(tmp_path / "photos", tmp_path / "photos.index", encoder=photo1k)
    state, texts = opened(tmp_path / "photos.index")
    absent = ("elephant", "piano", "airplane", "penguin", "lighthouse", "keyboard")
    result = tag(state, texts, ("dog", "snow", *absent))
    shown: dict[str, str] = {}
    with open(flickr / "captions.csv", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            shown[row["image"]] = shown.get(row["image"], "") + row["caption"].lower()
    here = {photo.name for photo in (tmp_path / "photos").iterdir()}
    for label, precision, recall in (("dog", 0.75, 0.8), ("snow", 0.9, 0.3)):
        ids = result.tag_ids()[result.labels == result.label_names.index(label)]
        given = {state.paths.places(i)[0].path.name for i in ids.tolist()}
        truth = {name for name in here if label in shown[name]}
        assert len(given & truth) / len(given) >= precision, label
        assert len(given & truth) / len(truth) >= recall, label
    counts = np.bincount(result.labels, minlength=len(result.label_names))[2:]
    assert counts.sum() <= 1
    # z2 alone would give each of them to some photos, whatever it shows.
    alone = tag(state, texts, ("dog", "snow", *absent), threshold=2, floor_share=1)
    assert (np.bincount(alone.labels, minlength=8)[2:] >= 1).all()


# -- saved sets --------------------------------------------------------------------------------


def test_a_saved_set_scores_new_photos_as_it_scored_the_others(
    flickr: Path, place: Path, collection: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "more"
    photos.mkdir()
    state, texts = opened(place)
    first = tag(state, texts, _LABELS, threshold=0.5, floor_share=0.2, context="a thing",
                templates="none")  # fmt: skip
    saved = save_tagging(place, state, "things", first)
    assert (saved.kind, saved.context, saved.templates) == ("tag", "a thing", ("{}",))
    assert saved.thresholds == first.thresholds
    assert saved.statistics == first.statistics
    assert read_label_set(place, "things") == saved
    again = tag_like_saved(place, state, texts, "things")
    assert again.scored == 0
    for name in ("ids", "starts", "labels", "scores", "cosines"):
        assert np.array_equal(getattr(again, name), getattr(first, name)), name

    for photo in sorted(flickr.glob("*.jpg"))[120:150]:
        shutil.copyfile(photo, photos / photo.name)
    build_index(photos, place)
    state, texts = opened(place)
    both = tag_like_saved(place, state, texts, "things")
    assert (both.scored, len(both)) == (30, 150)
    assert both.statistics == first.statistics
    old = both.starts[120]
    assert np.array_equal(both.labels[:old], first.labels)
    assert np.array_equal(both.scores[:old], first.scores)
    # The new ones by the saved numbers, in plain NumPy; and scored all again, all are the same.
    _, vectors = state.vectors.take(state.vectors.ids)
    behind = vectors @ texts.encode(saved.statistics.background).T
    cosines = vectors @ class_vectors(_LABELS, texts, "none", "a thing").T
    z1 = (cosines - behind.mean(axis=1, keepdims=True)) / behind.std(axis=1, keepdims=True)
    z2 = (z1 - np.array(saved.statistics.means)) / np.array(saved.statistics.stds)
    rows = np.repeat(np.arange(150), np.diff(both.starts))
    assert both.scores == pytest.approx(z2[rows, both.labels], abs=1e-3)
    assert (rows >= 120).sum() > 5
    loose = tag_like_saved(place, state, texts, "things", threshold=0.2)
    assert loose.scored == 150
    assert dense(loose)[dense(both)].all()
    assert dense(loose).sum() > dense(both).sum()
    where = np.flatnonzero(loose.scores > 0.5)
    assert loose.scores[where] == pytest.approx(both.scores, abs=1e-4)
    fitted = tag(state, texts, _LABELS, floor_share=0.2, context="a thing", templates="none")
    assert fitted.statistics.means != first.statistics.means
    save_tagging(place, state, "things", both)
    assert tag_like_saved(place, state, texts, "things").scored == 0


def test_deleted_images_and_those_that_come_back(place: Path) -> None:
    state, texts = opened(place)
    gone = state.vectors.ids[[3, 50, 119]]
    vectors = dataclasses.replace(state.vectors, deleted=gone)
    without = dataclasses.replace(state, vectors=vectors)
    result = tag(without, texts, _LABELS, background=_FEW, floor_share=0.3)
    assert result.statistics.images == len(result) == 117
    save_tagging(place, without, "things", result)
    # An image that is found again keeps its id, which lies below next_id: it is scored then.
    back = tag_like_saved(place, state, texts, "things")
    assert (back.scored, len(back)) == (3, 120)
    save_tagging(place, state, "things", back)
    less = tag_like_saved(place, without, texts, "things")
    assert (less.scored, len(less)) == (0, 117)
    assert np.array_equal(less.labels, result.labels)
    assert not np.isin(gone, less.ids).any()


def test_untagged_images_are_remembered_and_found_by_no_label(place: Path) -> None:
    state, texts = opened(place)
    result = tag(state, texts, _LABELS, background=_FEW, threshold=1.5, floor_share=1, most=2)
    saved = save_tagging(place, state, "things", result)
    assert saved.most == 2
    _, rows = read_label_rows(place, "things")
    assert np.array_equal(np.unique(rows.ids), state.vectors.ids)
    assert int((rows.labels < 0).sum()) == result.untagged > 0
    assert labels_of(place, "things", result.ids) == [
        result.labels_of(image_id) for image_id in result.ids.tolist()
    ]
    for label in _LABELS:
        wanted = result.tag_ids()[result.labels == _LABELS.index(label)]
        assert np.array_equal(ids_with_label(place, f"things:{label}"), wanted)


def test_sets_that_cannot_be_continued(place: Path) -> None:
    state, texts = opened(place)
    save_tagging(place, state, "things", tag(state, texts, _LABELS, background=_FEW))
    one = open_index(place).classify(_LABELS, none="off")
    save_classification(place, state, "one-each", one, "simple", None)
    with pytest.raises(LabelError, match="one-each was saved by classify"):
        tag_like_saved(place, state, texts, "one-each")
    space: Space = dataclasses.replace(state.space, fingerprint="0" * 64)
    other = dataclasses.replace(state, space=space)
    with pytest.raises(SpaceMismatchError, match=r"another model.*--refit"):
        tag_like_saved(place, other, texts, "things")
    with pytest.raises(LabelError, match="no label set 'nothing'"):
        tag_like_saved(place, state, texts, "nothing")
    # What was found stays readable, whatever the index's model is now.
    assert len(labels_of(place, "things", state.vectors.ids)) == 120


# -- the command line --------------------------------------------------------------------------


def test_tag_end_to_end(flickr: Path, place: Path, cli: Cli, tmp_path: Path) -> None:
    at = ("--index", place)
    ask = ("tag", "--labels", "dog, snow,water", "--threshold", "0.3", "--floor", "10")
    first = cli(*ask, *at, "--threshold", "snow=1", "--save-as", "things")
    assert first.returncode == 0, first.stderr
    told = first.stderr.decode()
    assert "Scored 120 images against 3 labels" in told
    assert "no image was opened" in told
    assert "Saved as things: 120 images" in told
    assert f"'clipsearch tag --labels @things --index {place}' adds new images" in told
    lines = [line.split("\t") for line in first.stdout.decode().splitlines()]
    assert {label for _, label, _ in lines} <= {"dog", "snow", "water"}
    assert all(float(score) > (1 if label == "snow" else 0.3) for _, label, score in lines)
    state, texts = opened(place)
    result = tag(state, texts, ("dog", "snow", "water"), threshold=0.3, floor_share=0.1,
                 thresholds={"snow": 1})  # fmt: skip
    assert len(lines) == len(result.labels)
    assert lines[0][0] == str(state.paths.places(int(result.tag_ids()[0]))[0].path)
    assert read_label_set(place, "things").thresholds == (0.3, 1.0, 0.3)

    rows = [json.loads(line) for line in cli("tag", "--labels", "@things", *at, "--json")
            .stdout.splitlines()]  # fmt: skip
    assert len(rows) == len(lines) + result.untagged
    assert len({row["id"] for row in rows}) == 120
    assert sum(row["label"] is None for row in rows) == result.untagged
    assert [f"{row['score']:.4f}" for row in rows if row["label"]] == [s for _, _, s in lines]
    table = list(csv.DictReader(io.StringIO(
        cli("tag", "--labels", "@things", *at, "--csv").stdout.decode())))  # fmt: skip
    assert [row["label"] for row in table] == [row["label"] or "" for row in rows]
    for ending in ("parquet", "csv", "json"):
        done = cli("tag", "--labels", "@things", *at, "--out", f"out.{ending}")
        assert b"(no label)" in done.stdout
        assert f"Wrote out.{ending}" in done.stderr.decode()
    whole = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["id"], row["label"]) for row in whole] == [(r["id"], r["label"]) for r in rows]
    assert list(whole[0]) == ["id", "path", "label", "score", "cosine"]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == len(rows) + 1
    assert len((tmp_path / "out.json").read_text().splitlines()) == len(rows)

    # New photos are scored alike, and added.
    more = tmp_path / "more"
    more.mkdir()
    for photo in sorted(flickr.glob("*.jpg"))[120:140]:
        shutil.copyfile(photo, more / photo.name)
    name = os.fsdecode(b"not utf-8 \xff\ttab.jpg")
    shutil.move(next(more.iterdir()), more / name)
    build_index(more, place)
    again = cli("tag", "--labels", "@things", *at)
    assert again.returncode == 0, again.stderr
    assert "Scored 20 images" in again.stderr.decode()
    assert "Of 120 images the tags were saved" in again.stderr.decode()
    assert again.stdout.startswith(first.stdout)
    assert "Scored 0 images" in cli("tag", "--labels", "@things", *at).stderr.decode()
    before = read_label_set(place, "things")
    assert before.statistics is not None
    assert before.statistics.images == 120
    # Other thresholds for once change nothing that is saved.
    once = cli("tag", "--labels", "@things", "--threshold", "9", *at)
    assert (once.returncode, once.stdout) == (1, b"")
    assert read_label_set(place, "things") == before
    # --refit learns anew, with the thresholds and the floor that were saved.
    cli("tag", "--labels", "@things", "--refit", "--max", "1", *at)
    after = read_label_set(place, "things")
    assert after.statistics is not None
    assert (after.statistics.images, after.statistics.floor_share) == (140, 0.1)
    assert (after.thresholds, after.most) == (before.thresholds, 1)
    assert after.statistics.means != before.statistics.means


def test_a_set_of_classify_lends_its_labels(place: Path, cli: Cli) -> None:
    at = ("--index", place)
    assert cli("classify", "--labels", "dog,snow", "--save-as", "both", *at).returncode == 0
    saved = read_label_set(place, "both")
    lent = cli("tag", "--labels", "@both", *at)
    assert lent.stdout == cli("tag", "--labels", "dog,snow", *at).stdout
    assert read_label_set(place, "both") == saved
    refused = cli("tag", "--labels", "@both", "--refit", *at)
    assert refused.returncode == 2
    assert b"--refit goes with a set that tag has saved" in refused.stderr


def test_few_images_are_little_to_go_by(mini_index: Path, cli: Cli) -> None:
    done = cli("tag", "--labels", "lion,tower", "--index", mini_index, "--floor", "100")
    assert b"learned from 9 images, which is little to go by" in done.stderr
    assert done.returncode == 0


def test_what_the_command_line_refuses(
    place: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    at = ("--index", str(place))
    state, texts = opened(place)
    save_tagging(place, state, "things", tag(state, texts, ("dog", "snow")))
    for arguments, words in (
        ((), ("--labels",)),
        (("--labels", "@thongs"), ("no label set 'thongs'", "things")),
        (("--labels", "@things", "--floor", "3"), ("its own floor", "--refit")),
        (("--labels", "@things", "--threshold", "owl=1"), ("'owl'",)),
        (("--labels", "dog", "--refit"), ("--refit",)),
        (("--labels", "dog", "--threshold", "much"), ("'much'", "LABEL=NUMBER")),
        (("--labels", "dog", "--threshold", "dog="), ("'dog='",)),
        (("--labels", "dog", "--threshold", "nan"), ("number", "nan")),
        (("--labels", "dog", "--threshold", "1e999"), ("number", "inf")),
        (("--labels", "dog", "--save-as", "../x"), ("no name for a label set",)),
        (("--labels", "dog", "--out", "x.txt"), (".parquet",)),
        (("--labels", "dog", "--max", "0"), ("--max",)),
        (("--labels", "dog", "--floor", "0"), ("--floor",)),
        (("--labels", "dog", "--floor", "nan"), ("at most 100, got nan",)),
    ):
        assert run(["tag", *arguments, *at]) == 2, arguments
        told = capfd.readouterr().err
        assert "not expected" not in told, told
        assert all(word in told for word in words), (arguments, told)


def test_help_names_every_option(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["tag", "--help"]) == 0
    told = capfd.readouterr().out
    for option in ("labels", "labels-file", "templates", "context", "save-as", "threshold", "max",
                   "floor", "refit", "out", "index", "model", "device", "json", "csv"):  # fmt: skip
        assert f"--{option} " in told, option


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_read_only_index_can_be_tagged(place: Path, cli: Cli) -> None:
    at = ("--index", place)
    cli("tag", "--labels", "dog,snow", "--save-as", "things", *at)
    for folder in (place, place / "labels"):
        folder.chmod(0o500)
    try:
        refused = cli("tag", "--labels", "dog,snow", "--save-as", "more", *at)
        assert refused.returncode == 2
        assert b"no permission to save" in refused.stderr
        assert refused.stdout == b""
        assert cli("tag", "--labels", "@things", *at).returncode in (0, 1)
    finally:
        for folder in (place, place / "labels"):
            folder.chmod(0o700)
