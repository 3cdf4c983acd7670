"""Labels by cluster, against the formulas worked out by hand and from the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import cluster_votes, open_index, vote_scoring
from clipsearch.cluster_votes import DECIDE, TEMPER, VotedLabelling, classify_by_cluster
from clipsearch.clusters import Assignment
from clipsearch.errors import LabelError, OptionError
from clipsearch.label_groups import label_groups
from clipsearch.label_sets import read_label_rows, read_remembered
from clipsearch.text_vectors import TextCounts
from clipsearch.vectors import Vectors
from tests.conftest import Cli

DIM, LABELS, SCALE = 12, 7, 20.0
LABEL_LIST = "cat,rocket,coffee cup,coin,astronaut"


def unit(rows: Any) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


class Toy:
    """An index of made-up vectors: ids rise by two from 5, some of them deleted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, seed: int = 0) -> None:
        draws = np.random.default_rng(seed)
        self.classes = unit(draws.standard_normal((LABELS, DIM)))
        kinds = draws.integers(0, LABELS, count)
        rows = unit(self.classes[kinds] + 0.35 * draws.standard_normal((count, DIM)))
        self.set(rows, deleted=(7, 9) if count > 10 else ())
        monkeypatch.setattr(
            cluster_votes, "class_vectors", lambda names, *_: self.classes[: len(names)]
        )

    def set(self, rows: np.ndarray, deleted: tuple[int, ...] = ()) -> None:
        ids = 5 + 2 * np.arange(len(rows), dtype=np.int64)
        half = rows.astype("<f2")
        vectors = Vectors(ids, (half,), rows.shape[1], np.array(deleted, np.int64))
        self.ids = np.setdiff1d(ids, vectors.deleted)
        self.rows = half[(self.ids - 5) // 2].astype(np.float64)
        self.state = SimpleNamespace(vectors=vectors, space=SimpleNamespace(logit_scale=SCALE))

    def label(self, vote: str, labels: int = LABELS, **more: Any) -> VotedLabelling:
        texts: Any = SimpleNamespace(total=TextCounts(0, 0))
        state: Any = self.state
        names = [f"label {number}" for number in range(labels)]
        return classify_by_cluster(Path("nowhere"), state, texts, names, vote=vote, **more)

    def assignment(self, groups: int, seed: int = 1) -> Assignment:
        """Images in so many clusters or in none, the last five of them unheard of."""
        draws = np.random.default_rng(seed)
        clusters = draws.integers(-1, groups, len(self.ids)).astype(np.int32)
        none = np.zeros(len(self.ids), np.float32)
        return Assignment(self.ids[:-5], clusters[:-5], none[:-5], none[:-5])


def softmax(logits: np.ndarray) -> np.ndarray:
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))


def blocks_of(labelling: VotedLabelling) -> SimpleNamespace:
    blocks = list(labelling)
    names = ("ids", "labels", "scores", "cosines", "probabilities", "margins", "runners_up")
    return SimpleNamespace(
        **{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names}
    )


def check(toy: Toy, labelling: VotedLabelling, expected: np.ndarray, top: int) -> None:
    """``expected`` (n, C): what ranks."""
    found = blocks_of(labelling)
    cosines = toy.rows @ toy.classes.astype(np.float64).T
    order = np.argsort(-expected, axis=1)
    best = np.take_along_axis(expected, order, axis=1)
    assert (np.diff(best, axis=1) < -1e-6).mean() > 0.99  # no ties to speak of
    assert found.ids.tolist() == toy.ids.tolist()
    assert (found.labels == order[:, :top]).all()
    np.testing.assert_allclose(found.scores, best[:, :top], atol=3e-6)
    told = np.take_along_axis(cosines, order[:, :top], axis=1)
    np.testing.assert_allclose(found.cosines, told, atol=3e-6)
    odds = np.take_along_axis(softmax(SCALE * expected), order[:, :top], axis=1)
    np.testing.assert_allclose(found.probabilities, odds, atol=1e-4)
    np.testing.assert_allclose(found.margins, best[:, 0] - best[:, 1], atol=4e-6)
    assert (found.runners_up == order[:, 1]).all()
    overruled = int((order[:, 0] != cosines.argmax(axis=1)).sum())
    assert 0 < overruled == labelling.overruled


@pytest.mark.parametrize("count", [60, 5000])
def test_temper_by_hand(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """What the other members are called is what was known beforehand of an image."""
    toy = Toy(monkeypatch, count)
    clusters = toy.assignment(9)
    cosines = toy.rows @ toy.classes.astype(np.float64).T
    odds = softmax(SCALE * cosines)
    expected = cosines.copy()
    for row in range(len(clusters.ids)):
        cluster = clusters.clusters[row]
        if cluster < 0:
            continue
        if count > 100 and row % 40:  # by hand is slow: a few, the others as sums
            likes = odds[:-5][clusters.clusters == cluster].sum(axis=0) - odds[row]
            others = int((clusters.clusters == cluster).sum()) - 1
        else:
            likes, others = np.zeros(LABELS), 0
            for other in np.flatnonzero(clusters.clusters == cluster):
                if other != row:
                    likes, others = likes + odds[other], others + 1
        expected[row] += np.log((likes + 1 / LABELS) / (others + 1)) / SCALE
    expected[clusters.clusters.shape[0] :] += np.log(1 / LABELS) / SCALE
    expected[: len(clusters.ids)][clusters.clusters < 0] += np.log(1 / LABELS) / SCALE
    check(toy, toy.label(TEMPER, clusters=clusters, top=3), expected, 3)


@pytest.mark.parametrize("count", [60, 3000])
def test_decide_by_hand(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """All members get the labels of the highest mean cosine."""
    toy = Toy(monkeypatch, count)
    clusters = toy.assignment(9)
    expected = toy.rows @ toy.classes.astype(np.float64).T
    known = expected[:-5]
    for cluster in range(9):
        known[clusters.clusters == cluster] = known[clusters.clusters == cluster].mean(axis=0)
    check(toy, toy.label(DECIDE, clusters=clusters, top=2), expected, 2)


@pytest.mark.parametrize("vote", [DECIDE, TEMPER])
def test_nobody_to_vote_with(monkeypatch: pytest.MonkeyPatch, vote: str) -> None:
    """Images in no cluster, or alone in theirs, have the labels and probabilities of their own."""
    toy = Toy(monkeypatch, 300)
    cosines = toy.rows @ toy.classes.astype(np.float64).T
    none = np.zeros(len(toy.ids), np.float32)
    alone = np.arange(len(toy.ids), dtype=np.int32)
    for clusters in (alone, np.full_like(alone, -1)):
        labelling = toy.label(vote, clusters=Assignment(toy.ids, clusters, none, none))
        found = blocks_of(labelling)
        assert labelling.overruled == 0
        assert (found.labels[:, 0] == cosines.argmax(axis=1)).all()
        np.testing.assert_allclose(
            found.probabilities[:, 0], softmax(SCALE * cosines).max(axis=1), atol=1e-4
        )


@pytest.mark.parametrize("vote", [DECIDE, TEMPER])
@pytest.mark.slow
def test_cuts_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, vote: str) -> None:
    toy = Toy(monkeypatch, 2500)
    found = []
    for workers, numbers in ((1, 1 << 19), (3, 1 << 19), (2, 1 << 11)):
        monkeypatch.setattr("clipsearch.threads.worker_count", lambda workers=workers: workers)
        monkeypatch.setattr(vote_scoring, "_NUMBERS_PER_BLOCK", numbers)
        found.append(blocks_of(toy.label(vote, top=2)))
    for other in found[1:]:
        assert (other.labels == found[0].labels).all()
        np.testing.assert_allclose(other.scores, found[0].scores, atol=2e-6)
    for name in ("scores", "probabilities", "margins"):  # the same cuts: the same bits
        assert (getattr(found[1], name) == getattr(found[0], name)).all()


def test_votes_help_where_few_labels_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of seven kinds, seen dimly: by themselves many images look like a third. Clusters are
    of one kind but for a tenth of their images."""
    toy = Toy(monkeypatch, 20)
    draws = np.random.default_rng(3)
    kinds = draws.integers(0, 2, 600)
    toy.set(unit(toy.classes[kinds] + 0.5 * draws.standard_normal((600, DIM))))
    clusters = np.where(draws.random(600) < 0.1, 1 - kinds, kinds) + 2 * draws.integers(0, 9, 600)
    none = np.zeros(600, np.float32)
    assignment = Assignment(toy.ids, clusters.astype(np.int32), none, none)
    alone = ((toy.rows @ toy.classes.T).argmax(axis=1) == kinds).mean()
    right = {
        vote: (blocks_of(toy.label(vote, clusters=assignment)).labels[:, 0] == kinds).mean()
        for vote in (DECIDE, TEMPER)
    }
    assert alone < 0.75
    assert right[TEMPER] > alone + 0.1
    assert right[DECIDE] == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(("vote", "images"), [(DECIDE, 5), (TEMPER, 20)])
def test_how_many_groups(monkeypatch: pytest.MonkeyPatch, vote: str, images: int) -> None:
    toy = Toy(monkeypatch, 602)
    assert toy.label(vote).groups == 600 // images
    some = toy.ids[::3]
    labelling = toy.label(vote, allowed=some)
    assert labelling.groups == 200 // images
    assert blocks_of(labelling).ids.tolist() == some.tolist()
    monkeypatch.setattr("clipsearch.label_groups.MOST_GROUPS", 11)
    assert toy.label(vote).groups == 11


def test_groups_are_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(monkeypatch, 400)
    rows = toy.rows.astype(np.float32)
    odds = softmax(SCALE * rows @ toy.classes.T).astype(np.float32)
    found = [
        label_groups(toy.state.vectors, toy.classes, SCALE, 10, seed=seed).find(toy.ids, rows, odds)
        for seed in (4, 4)
    ]
    assert (found[0] == found[1]).all()
    assert np.bincount(found[0]).min() >= 1


@pytest.mark.parametrize("vote", [DECIDE, TEMPER])
def test_few_images_and_labels(monkeypatch: pytest.MonkeyPatch, vote: str) -> None:
    for count in (0, 1, 2):
        toy = Toy(monkeypatch, count)
        columns = toy.label(vote, top=3).columns()
        assert columns.labels.shape == (count, 3)
        assert np.isfinite(columns.probabilities).all()
    toy = Toy(monkeypatch, 50)
    one = toy.label(vote, labels=1, top=2).columns()
    assert (one.labels == 0).all()
    assert one.probabilities.tolist() == [[1.0]] * 48
    assert np.isnan(one.margins).all()
    assert (one.runners_up == -1).all()
    toy.set(np.repeat(unit(np.ones((1, DIM))), 90, axis=0))  # all the same
    same = toy.label(vote).columns()
    assert len(np.unique(same.labels)) == 1
    assert toy.label(vote).groups == 1


def test_what_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(monkeypatch, 5)
    with pytest.raises(OptionError, match="decide, temper, got 'maybe'"):
        toy.label("maybe")
    with pytest.raises(LabelError, match="every image"):
        toy.label(TEMPER, allowed=toy.ids, save_as="x")
    with pytest.raises(ValueError, match="save_as"):
        toy.label(TEMPER).save()


# -- the command line ----------------------------------------------------------------------


def lines(output: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_command(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    """Votes in every form of output; the set that is saved has what was written."""
    base = ["classify", "--labels", LABEL_LIST, "--none", "off", "--index", mini_index]
    alone = lines(cli_here(*base, "--json").stdout)
    out = tmp_path / "labels.parquet"
    ran = cli_here(
        *base, "--by-cluster", "--json", "--top", "2", "--out", out, "--save-as", "voted"
    )
    assert ran.returncode == 0, ran.stderr
    rows = lines(ran.stdout)
    assert len(rows) == 2 * len(alone)
    assert list(rows[0]) == [
        "id", "path", "rank", "label", "score", "cosine", "probability", "margin", "runner_up",
    ]  # fmt: skip
    first = [row for row in rows if row["rank"] == 1]
    told = {row["id"]: row for row in alone}
    overruled = sum(row["label"] != told[row["id"]]["label"] for row in first)
    message = ran.stderr.decode()
    assert f"1 group voted: {overruled} of {len(first)} images" in message
    assert "Saved as voted" in message
    for row in first:
        if row["label"] == told[row["id"]]["label"]:
            assert row["cosine"] == pytest.approx(told[row["id"]]["score"], abs=2e-6)
    table = pq.read_table(out).to_pylist()
    assert [(row["id"], row["label"]) for row in table] == [(r["id"], r["label"]) for r in rows]
    assert table[0]["cosine"] == pytest.approx(rows[0]["cosine"], abs=1e-6)
    saved, kept = read_label_rows(mini_index, "voted")
    assert [saved.labels[label] for label in kept.labels] == [row["label"] for row in first]
    assert read_remembered(mini_index, "voted")[1] is None  # nothing to go on from
    again = lines(
        cli_here("classify", "--labels", "@voted", "--index", mini_index, "--json").stdout
    )
    assert again == alone

    ran = cli_here(*base, "--by-cluster", "decide", "--csv", "--min-size", "500")
    wide = list(csv.DictReader(io.StringIO(ran.stdout.decode())))
    assert {int(row["id"]) for row in wide} < {row["id"] for row in alone}
    by_voted = lines(cli_here("classify", "--labels", "@voted", "--by-cluster", "decide",
                         "--index", mini_index, "--json").stdout)  # fmt: skip
    state = open_index(mini_index).state()
    assert [row["id"] for row in by_voted] == state.vectors.ids.tolist()


def test_refusals(cli_here: Cli, mini_index: Path) -> None:
    """One clear line each."""
    base = ["classify", "--labels", LABEL_LIST, "--none", "off", "--index", mini_index]
    cases = [
        (["--by-cluster", "--fast"], "leave out --fast or --by-cluster"),
        (["--by-cluster", "maybe"], "'maybe' is not one of"),
        (["--clusters", "things"], "goes with --by-cluster"),
        (["--by-cluster", "--clusters", "things"], "there is no discovery 'things'"),
        (["--by-cluster", "--save-as", "x", "--since", "2020"], "is of every image"),
    ]
    for options, message in cases:
        ran = cli_here(*base, *options)
        assert ran.returncode == 2
        assert message in ran.stderr.decode()
        assert "Traceback" not in ran.stderr.decode()
        assert not ran.stdout


def test_the_clusters_of_a_discovery(cli_here: Cli, mini_index: Path) -> None:
    """With "decide" every cluster of the saved discovery has one label."""
    ran = cli_here("discover", "--k", "3", "--vocab", "none", "--save-as", "three", "--index",
              mini_index)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    from clipsearch.saved_clusters import open_discovery

    found = open_discovery(mini_index, open_index(mini_index).state(), "three").discovery
    ran = cli_here("classify", "--labels", LABEL_LIST, "--by-cluster", "decide",
                   "--clusters", "@three", "--index", mini_index, "--json")  # fmt: skip
    rows = {row["id"]: row for row in lines(ran.stdout)}
    assert set(rows) == set(found.assignment.ids.tolist())
    for position in range(len(found)):
        members = found.assignment.members(position).tolist()
        assert len({(rows[image]["label"], rows[image]["score"]) for image in members}) == 1
    assert f"{len(found)} groups voted" in ran.stderr.decode()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_no_permission_to_save(cli_here: Cli, mini_index: Path) -> None:
    mini_index.chmod(0o555)
    try:
        ran = cli_here("classify", "--labels", LABEL_LIST, "--by-cluster", "--save-as", "voted",
                  "--index", mini_index)  # fmt: skip
    finally:
        mini_index.chmod(0o755)
    assert ran.returncode == 2
    assert "no permission to save" in ran.stderr.decode()


@pytest.mark.slow
def test_who_asks_for_no_vote_loads_none_of_it(mini_index: Path) -> None:
    votes = ("cluster_votes", "vote_scoring", "label_groups", "spherical_kmeans")
    program = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print([n for n in {votes!r} if 'clipsearch.' + n in sys.modules],"
        " file=sys.stderr))\n"
        "from clipsearch.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", program, "classify", "--labels", "a,b", "--index"]
    loaded = {}
    for vote in ((), ("--by-cluster",)):
        done = subprocess.run([*command, mini_index, *vote], capture_output=True, check=True)
        loaded[vote] = done.stderr.splitlines()[-1]
    assert loaded[()] == b"[]"
    assert b"vote_scoring" in loaded["--by-cluster",]
