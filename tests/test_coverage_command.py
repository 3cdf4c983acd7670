"""``classify --coverage``: label sets of a set that was taught, through the real command line."""

from __future__ import annotations

import csv
import importlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import lessons, open_index
from clipsearch.conformal import Coverage, coverage_of
from clipsearch.label_examples import Correction
from clipsearch.taught_labels import TaughtScorer
from clipsearch.teaching import begin_teaching
from clipsearch.temperature import log_probabilities
from tests.conftest import Cli

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
_LABELS = 16  # too many for the probe with so few examples, which takes longer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An index of 900 images with vectors alone, and some labels."""
    place = tmp_path_factory.mktemp("corpus") / "small.index"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        return importlib.import_module("corpus").make_corpus(
            place, images=900, dim=32, labels=_LABELS, queries=4, concepts=20
        )


@pytest.fixture
def things(corpus: Any, tmp_path: Path, cli_here: Cli) -> tuple[Path, dict[int, str]]:
    """A copy with the saved set things, and what a person would call every image: as the model
    does, but with four times the doubt."""
    index = Path(shutil.copytree(corpus.index, tmp_path / "small.index"))
    labels = Path(corpus.labels_file).read_text().splitlines()
    done = cli_here(
        "classify", "--index", index, "--labels-file", corpus.labels_file, "--none", "off",
        "--save-as", "things",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = open_index(index).classify(labels, top=_LABELS)
    logits = np.take_along_axis(
        open_index(index).state().space.logit_scale * found.scores,
        np.argsort(found.labels, axis=1), axis=1,
    )  # fmt: skip
    noise = -np.log(-np.log(np.random.default_rng(1).random(logits.shape)))
    truth = (log_probabilities(logits, 4.0) + noise).argmax(axis=1)
    return index, {int(i): labels[code] for i, code in zip(found.ids, truth, strict=True)}


def answers(path: Path, truth: dict[int, str], ids: list[int], chosen: str) -> Path:
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "chosen"])
        rows.writerows([image_id, truth[image_id], chosen] for image_id in ids)
    return path


def test_label_sets_hold_the_true_label_as_often_as_they_say(
    things: tuple[Path, dict[int, str]], cli_here: Cli, tmp_path: Path
) -> None:
    index, truth = things
    known = np.random.default_rng(2).permutation(sorted(truth))[:210].tolist()
    file = answers(tmp_path / "answers.csv", truth, known, "random")
    assert cli_here("teach", "things", "--index", index, "--file", file).returncode == 0
    run = ("classify", "--index", index, "--labels", "@things", "--coverage", "0.9")
    done = cli_here(*run, "--json")
    assert done.returncode == 0, done.stderr
    assert b"holds its true label in 90% of them, by 210 confirmed ones" in done.stderr
    assert b"at random" not in done.stderr
    rows = {row["id"]: row for row in map(json.loads, done.stdout.splitlines())}
    others = sorted(set(truth) - set(known))
    held = [truth[image_id] in rows[image_id]["label_set"] for image_id in others]
    sizes = [len(rows[image_id]["label_set"]) for image_id in others]
    assert 0.86 <= np.mean(held) <= 0.94
    assert 1 < np.mean(sizes) < _LABELS
    right = [rows[image_id]["label"] == truth[image_id] for image_id in others]
    assert np.mean(right) < 0.85  # a label alone would not do
    for image_id, row in rows.items():
        assert row["label_set"][0] == row["label"]
        assert len(set(row["label_set"])) == len(row["label_set"])
        if image_id in known:
            assert row["label_set"] == [truth[image_id]]
    # The same sets as CSV and in a file, whatever the number of labels that is asked for; an
    # image that is left without a label has none.
    out = tmp_path / "sets.parquet"
    done = cli_here(*run, "--none", "0.99", "--top", "3", "--csv", "--out", out)
    assert done.returncode == 0, done.stderr
    printed = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    written = pq.read_table(out).to_pylist()
    assert len(printed) == len(written) > len(truth)
    left = 0
    for line, row in zip(printed, written, strict=True):
        if row["label"] is None:
            left += 1
            assert row["label_set"] is None
            assert line["label_set"] == ""
        else:
            assert row["label_set"] == rows[row["id"]]["label_set"] == line["label_set"].split("|")
    assert left


def test_sets_of_very_many_examples_are_those_of_a_fair_share_of_them(
    things: tuple[Path, dict[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fitted has as many of a rare label as of a common one: of a collection where nearly
    all is common that is no sample."""
    index, truth = things
    monkeypatch.setattr(lessons, "MOST_FITTED", 230)
    monkeypatch.setattr("clipsearch.taught_labels.PROBE_EXAMPLES", 1000)
    chance = np.random.default_rng(3)
    names = sorted(set(truth.values()))
    common = [number for number in sorted(truth) if truth[number] in names[:2]]
    rare = chance.permutation([number for number in truth if truth[number] not in names[:2]])
    known = [*chance.permutation(common)[: len(common) - 60].tolist(), *rare[:140].tolist()]
    opened = open_index(index)
    said = [Correction(number, truth[number], "random") for number in known]
    teaching = begin_teaching(
        index, opened.state(), opened.text_vectors(), "things", said
    )  # fmt: skip
    lesson = teaching.labelling.lesson
    asked: list[tuple[np.ndarray, np.ndarray]] = []

    def calibrated(odds: np.ndarray, labels: np.ndarray, wanted: float, **how: bool) -> Coverage:
        asked.append((odds, labels))
        return coverage_of(odds, labels, wanted, **how)

    monkeypatch.setattr(lessons, "coverage_of", calibrated)
    assert lesson.coverage(opened.state(), 0.9).images == 230
    (odds, labels), taught = asked[0], lesson.taught
    every = np.bincount(lesson.examples.labels, minlength=_LABELS)
    share, fitted = (np.bincount(found, minlength=_LABELS) for found in (
        labels, lesson.examples.labels[lesson.fitted],
    ))  # fmt: skip
    most = int(every.argmax())
    assert abs(share[most] - every[most] * 230 / len(known)) < 8
    assert fitted[most] < share[most] - 8
    # Those that are fitted are left out, and the others never were in.
    assert taught is not None
    inside = {row.tobytes() for row in taught.left_out}
    was_fitted = np.array([row.tobytes() in inside for row in odds])
    assert 0 < was_fitted.sum() < 230
    scorer = TaughtScorer(lesson.classes, lesson.logit_scale, taught, _LABELS)
    ids = lesson.examples.ids[np.setdiff1d(np.arange(len(known)), lesson.fitted)]
    block = scorer.score(*opened.state().vectors.take(ids))
    told = np.take_along_axis(block.probabilities, block.labels.argsort(axis=1), axis=1)
    for row in odds[~was_fitted]:
        assert np.abs(told - row).max(axis=1).min() < 1e-5


def test_what_cannot_be_calibrated_is_refused(
    things: tuple[Path, dict[int, str]], cli_here: Cli, tmp_path: Path
) -> None:
    index, truth = things
    run = ("classify", "--index", index, "--labels", "@things", "--coverage")
    failed = cli_here(*run, "0.9")
    assert failed.returncode == 2
    assert b"expected --labels @NAME, a set that was taught" in failed.stderr
    ids = sorted(truth)
    drawn = cli_here("teach", "things", "--index", index, "--ask", "12", "--random", "--csv")
    lines = list(csv.DictReader(io.StringIO(drawn.stdout.decode())))
    assert [line["chosen"] for line in lines] == ["random"] * 12
    assert len({line["id"] for line in lines}) == 12
    assert cli_here("teach", "things", "--index", index, "0=x", "--random").returncode == 2
    asked = answers(tmp_path / "asked.csv", truth, ids[:20], "asked")
    given = answers(tmp_path / "given.csv", truth, ids[20:225], "given")
    assert cli_here("teach", "things", "--index", index, "--file", asked).returncode == 0
    failed = cli_here(*run, "0.9")
    assert failed.returncode == 2
    assert b"expected 200 or more confirmed images, got 0 that" in failed.stderr
    assert cli_here("teach", "things", "--index", index, "--file", given).returncode == 0
    done = cli_here(*run, "0.8")
    assert done.returncode == 0
    assert b"in 80% of them, by 205 confirmed ones" in done.stderr
    assert b"Not all of those were drawn at random" in done.stderr
    for wrong in ("0.2", "1", "nan", "-3", "1e99"):
        failed = cli_here(*run, wrong)
        assert failed.returncode == 2
        assert b"expected a coverage from 0.5 to 0.999" in failed.stderr
    for wrong in ("", "ten"):
        assert cli_here(*run, wrong).returncode == 2
