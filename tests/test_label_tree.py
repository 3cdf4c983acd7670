"""Labels below labels and thresholds, against the definitions worked out one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import open_index
from clipsearch.abstaining import without_labels
from clipsearch.definition_files import read_definitions
from clipsearch.label_definitions import LabelDefinition, LabelDefinitions
from clipsearch.label_sets import ids_with_label, read_label_rows, read_label_set
from clipsearch.label_tree import BELOW_LEAST, TreeScorer, reached
from clipsearch.prompts import class_vectors
from clipsearch.scoring import LabelScorer, ScoredBlock
from tests.conftest import Cli

DIM, SCALE = 12, 8.0

# label: parent, threshold, words
TREE: dict[str, tuple[str | None, float | None, str | None]] = {
    "lamp": (None, 0.35, None),
    "crane": ("bird", 0.3, None),
    "owl": ("bird", None, None),
    "bird": ("animal", 0.4, None),
    "dog": ("animal", None, None),
    "animal": (None, None, "another animal"),
    "boat": ("vehicle", 0.0, None),
    "vehicle": (None, 0.5, None),
    "house": (None, None, None),
}


def unit(rows: Any) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def tree(table: dict[str, Any] = TREE) -> LabelDefinitions:
    return LabelDefinitions(
        tuple(table),
        tuple(
            LabelDefinition(parent=parent, threshold=least, words=words)
            for parent, least, words in table.values()
        ),
    )


def among_all(labels: LabelDefinitions, names: list[str], classes: np.ndarray) -> np.ndarray:
    """Class vectors of all labels; those that are not named are not to be looked at."""
    every = np.full((len(labels), DIM), np.nan, np.float32)
    every[[labels.names.index(name) for name in names]] = classes
    return every


def draws(count: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    classes = unit(chance.standard_normal((columns, DIM)))
    mixed = chance.dirichlet(np.full(columns, 0.5), count) @ classes
    return classes, unit(mixed + 0.05 * chance.standard_normal((count, DIM)))


def worked_out(row: np.ndarray, classes: np.ndarray, names: list[str]) -> dict[str, Any]:
    """What the documentation says of one image, label by label."""
    cosines = dict(zip(names, (classes.astype(np.float64) @ row).tolist(), strict=True))
    total = sum(np.exp(SCALE * cosine) for cosine in cosines.values())

    def line(label: str | None) -> list[str]:
        return [] if label is None else [label, *line(TREE[label][0])]

    below = {label: [name for name in names if label in line(name)] for label in TREE}
    odds = {k: sum(np.exp(SCALE * cosines[n]) for n in v) / total for k, v in below.items()}
    given, nearest, above = None, None, None
    while True:
        side_by_side = [label for label, (parent, _, _) in TREE.items() if parent == above]
        if not side_by_side:
            break
        best = max(side_by_side, key=odds.__getitem__)
        nearest = nearest or best
        asked = TREE[best][1]
        least = (0.0 if above is None else BELOW_LEAST) if asked is None else asked
        if odds[best] < least:
            break
        given = above = best
    chosen = given or nearest
    assert chosen is not None
    score = np.log(odds[chosen] * total) / SCALE
    others = [n for n in names if n not in line(chosen) and chosen not in line(n)]
    others.sort(key=lambda name: -cosines[name])
    return {
        "given": given,
        "score": score,
        "odds": odds[chosen],
        "others": others,
        "nearest": nearest,
        "cosines": cosines,
    }


@pytest.mark.parametrize("top", [1, 3, 7])
def test_labels_of_a_tree_are_what_they_are_said_to_be(top: int) -> None:
    labels = tree()
    # A bird is what is below it; of another animal something of its own is asked.
    names = ["lamp", "crane", "owl", "dog", "animal", "boat", "house"]
    classes, rows = draws(400, len(names), seed=top)
    scorer = TreeScorer(labels, among_all(labels, names, classes), SCALE, top)
    ids = np.arange(400, dtype=np.int64)
    block = scorer.score(ids, rows.astype(np.float16))
    rows = rows.astype(np.float16).astype(np.float64)
    seen = set()
    for image, row in enumerate(rows):
        wanted = worked_out(row, classes, names)
        seen.add(wanted["given"])
        given = [labels[code] if code >= 0 else None for code in block.labels[image].tolist()]
        runner_up = int(block.runners_up[image])
        assert block.probabilities[image, 0] == pytest.approx(wanted["odds"], rel=1e-4)
        assert block.scores[image, 0] == pytest.approx(wanted["score"], abs=1e-5)
        assert np.exp(-block.log_sums[image]) == pytest.approx(wanted["odds"], rel=1e-4)
        if wanted["given"] is None:
            assert given == [None] * top
            assert labels[runner_up] == wanted["nearest"]
            continue
        others = wanted["others"][: top - 1]
        assert given == [wanted["given"], *others, *[None] * (top - 1 - len(others))]
        assert labels[runner_up] == wanted["others"][0]
        margin = wanted["score"] - wanted["cosines"][wanted["others"][0]]
        assert block.margins[image] == pytest.approx(margin, abs=1e-5)
    # The draws come by every way through the tree.
    assert seen == {None, *TREE} - {"vehicle"}  # which a boat, if anything, always reaches


def test_without_thresholds_below_a_tree_gives_what_plain_labels_give() -> None:
    table = {name: (parent, 0.0, None) for name, (parent, _, _) in TREE.items()}
    labels = tree(table)
    names = ["lamp", "crane", "owl", "dog", "boat", "house"]
    classes, rows = draws(300, len(names), seed=5)
    ids = np.arange(300, dtype=np.int64)
    block = TreeScorer(labels, among_all(labels, names, classes), SCALE).score(ids, rows)
    plain = LabelScorer(classes, SCALE, 6).score(ids, rows)
    # Of birds and dogs it is the better, where all animals together are the best.
    odds = np.empty((300, 6))
    np.put_along_axis(odds, plain.labels, plain.probabilities, axis=1)
    animal = odds[:, 1:4].sum(axis=1)
    bird = odds[:, 1:3].sum(axis=1)
    root = np.stack([odds[:, 0], animal, odds[:, 4], odds[:, 5]], axis=1).argmax(axis=1)
    leaf = np.where(bird >= odds[:, 3], 1 + odds[:, 1:3].argmax(axis=1), 3)
    wanted = np.choose(root, [0, leaf, 4, 5])
    assert [labels[code] for code in block.labels[:, 0]] == [names[code] for code in wanted]
    same = plain.labels[:, 0] == wanted
    np.testing.assert_allclose(block.scores[same, 0], plain.scores[same, 0], atol=1e-6)
    np.testing.assert_allclose(block.log_sums[same], plain.log_sums[same], atol=1e-5)
    assert 0.9 < same.mean() < 1
    # The evidence that "none of these" goes by is that of the plain labels, whatever is given.
    for one in (block, plain):
        evidence = SCALE * one.scores[:, 0] + one.log_sums
        np.testing.assert_allclose(
            evidence, np.log(np.exp(SCALE * rows @ classes.T).sum(1)), rtol=1e-5
        )


def test_blocks_and_one_image_alone_are_the_same() -> None:
    labels = tree()
    classes, rows = draws(50, len(labels), seed=9)
    scorer = TreeScorer(labels, classes, SCALE, 2)
    ids = np.arange(50, dtype=np.int64)
    whole = scorer.score(ids, rows)
    alone = [scorer.score(ids[i : i + 1], rows[i : i + 1]) for i in range(50)]
    assert np.array_equal(whole.labels, np.concatenate([block.labels for block in alone]))
    assert len(scorer.score(ids[:0], rows[:0]).ids) == 0


def test_a_label_has_to_reach_its_threshold() -> None:
    block = ScoredBlock(
        ids=np.arange(4, dtype=np.int64),
        labels=np.array([[0, 1], [1, 0], [0, 1], [-1, -1]], np.int32),
        scores=np.ones((4, 2), np.float32),
        probabilities=np.array([[0.6, 0.4], [0.6, 0.4], [0.8, 0.2], [0.5, 0.5]], np.float32),
        margins=np.ones(4, np.float32),
        runners_up=np.array([1, 0, 1, 1], np.int32),
        log_sums=np.ones(4, np.float32),
    )
    found = reached(block, np.array([0.7, 0.0], np.float32))
    assert found.labels.tolist() == [[-1, -1], [1, 0], [0, 1], [-1, -1]]
    assert found.runners_up.tolist() == [0, 0, 1, 1]
    assert reached(block, np.zeros(2, np.float32)) is block
    # Both kinds of none: the nearest label stays known.
    none = without_labels(found, np.array([0.1, 0.1, 0.9, 0.1], np.float32), 0.5)
    assert none.labels[:, 0].tolist() == [-1, -1, 0, -1]
    assert none.runners_up.tolist() == [0, 1, 1, 1]


FILE = """
[labels.cat]
parent = "animal"
[labels.dog]
parent = "animal"
threshold = 0.9
[labels.rocket]
[labels."coffee cup"]
threshold = {least}
[labels.coin]
"""


def test_a_tree_from_the_command_line(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    file = tmp_path / "tree.toml"
    file.write_text(FILE.format(least=1.0))
    at = ("--index", mini_index, "--json", "--none", "off")
    first = cli_here("classify", "--labels-file", file, *at)
    rows = [json.loads(line) for line in first.stdout.splitlines()]
    plain = cli_here("classify", "--labels", "cat,dog,rocket,coffee cup,coin", *at)
    alone = [json.loads(line) for line in plain.stdout.splitlines()]
    for row, other in zip(rows, alone, strict=True):
        if other["label"] == "coffee cup":
            none = (row["label"], row["score"], row["probability"], row["margin"])
            assert (none, row["runner_up"]) == ((None,) * 4, "coffee cup")
        elif row["label"] == "animal":
            assert other["label"] in ("cat", "dog")
            assert other["probability"] < row["probability"]
            assert other["probability"] < (0.5 if other["label"] == "cat" else 0.9)
        else:
            assert row["label"] == other["label"]
            assert row["probability"] == pytest.approx(other["probability"], rel=1e-4)
    told = {row["label"] for row in rows}
    assert {None, "animal"} <= told

    saved = cli_here("classify", "--labels-file", file, "--save-as", "tree", *at)
    assert saved.stdout == first.stdout
    kept = read_label_set(mini_index, "tree")
    assert kept.scores is None
    table, labelled = read_label_rows(mini_index, "tree")
    assert [table.labels[code] if code >= 0 else None for code in labelled.labels] == [
        row["label"] for row in rows
    ]
    # Whoever looks for animals finds cats, too.
    animals = [row["id"] for row in rows if row["label"] in ("animal", "cat", "dog")]
    cats = [row["id"] for row in rows if row["label"] == "cat"]
    assert ids_with_label(mini_index, "tree:Animal").tolist() == animals
    assert ids_with_label(mini_index, "cat").tolist() == cats != animals
    again = cli_here("classify", "--labels", "@tree", *at)
    assert again.stdout == first.stdout

    # Without the label above it the set is a plain one again, that remembers.
    flat = cli_here("classify", "--labels", "@tree", "--remove", "animal", "--save-as", "flat", *at)
    assert flat.returncode == 0, flat.stderr
    assert read_label_set(mini_index, "flat").scores is not None
    over = cli_here("classify", "--labels-file", file, "--save-as", "flat", *at)
    assert over.stdout == first.stdout
    assert read_label_set(mini_index, "flat").scores is None

    votes = cli_here("classify", "--labels-file", file, "--by-cluster", *at)
    assert votes.returncode == 2
    assert b"votes know nothing of parents" in votes.stderr


def test_thresholds_alone_keep_what_is_remembered(
    cli_here: Cli, mini_index: Path, tmp_path: Path
) -> None:
    file = tmp_path / "flat.toml"
    text = FILE.replace('parent = "animal"', "")
    file.write_text(text.format(least=1.0))
    at = ("--index", mini_index, "--json", "--none", "off")
    first = cli_here("classify", "--labels-file", file, "--save-as", "flat", *at)
    assert read_label_set(mini_index, "flat").scores is not None
    labels = [json.loads(line)["label"] for line in first.stdout.splitlines()]
    assert {None, "cat"} <= set(labels) <= {None, "cat", "dog", "rocket", "coin"}
    again = cli_here("classify", "--labels", "@flat", *at)
    assert b"Scored nothing" in again.stderr
    assert [json.loads(line)["label"] for line in again.stdout.splitlines()] == labels
    # Thresholds are no scores: with others nothing has to be scored again.
    file.write_text(text.format(least=0.0))
    eased = cli_here("classify", "--labels-file", file, "--save-as", "flat", *at)
    assert b"Scored nothing" in eased.stderr
    assert "coffee cup" in [json.loads(line)["label"] for line in eased.stdout.splitlines()]
    _, rows = read_label_rows(mini_index, "flat")
    assert 3 in rows.labels.tolist()


def test_the_library_takes_definitions(mini_index: Path, tmp_path: Path) -> None:
    file = tmp_path / "tree.toml"
    file.write_text(FILE.format(least=0.0))
    labels = read_definitions(file)
    index = open_index(mini_index)
    found = index.classify(labels, none="off")
    assert found.label_names == ("cat", "dog", "rocket", "coffee cup", "coin", "animal")
    classes = class_vectors(labels, index.text_vectors())
    ids, rows = index.vectors_of(index.state().vectors.ids)
    block = TreeScorer(labels, classes, index.space.logit_scale).score(ids, rows)
    assert np.array_equal(found.labels, block.labels)
    np.testing.assert_allclose(found.probabilities, block.probabilities, rtol=1e-5)


def test_a_tree_and_none_of_these(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    file = tmp_path / "tree.toml"
    file.write_text(FILE.format(least=0.0))
    at = ("--labels-file", file, "--index", mini_index, "--json")
    all_labelled = [
        json.loads(line) for line in cli_here("classify", "--none", "off", *at).stdout.splitlines()
    ]
    found = cli_here("classify", "--none", "0", "--save-as", "tree", *at)
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    middle = sorted(row["in_set"] for row in rows)[len(rows) // 2]
    for row, other in zip(rows, all_labelled, strict=True):
        assert 0 < row.pop("in_set") < 1
        assert row == other
    none = cli_here("classify", "--none", f"{middle}", *at)
    halved = [json.loads(line) for line in none.stdout.splitlines()]
    for row, other in zip(halved, all_labelled, strict=True):
        if abs(row["in_set"] - middle) < 2e-6:  # six decimals do not tell
            continue
        if row["in_set"] < middle:
            assert (row["label"], row["runner_up"]) == (None, other["label"])
        else:
            assert row["label"] == other["label"]
    unlabelled = sum(row["label"] is None for row in halved)
    assert unlabelled in (len(rows) // 2, len(rows) // 2 + 1)


def test_who_knows_nothing_of_parents_says_so(
    cli_here: Cli, mini_index: Path, tmp_path: Path
) -> None:
    file = tmp_path / "tree.toml"
    file.write_text(FILE.format(least=0.0))
    at = ("--index", mini_index)
    adapted = cli_here("classify", "--labels-file", file, "--adapt", *at)
    assert (adapted.returncode, adapted.stdout) == (2, b"")
    assert b"adapted labels know nothing of parents and thresholds" in adapted.stderr
    assert cli_here("classify", "--labels-file", file, "--save-as", "tree", *at).returncode == 0
    path = open_index(mini_index).paths().first_places([0])[0]
    assert path is not None
    taught = cli_here("teach", "tree", f"{path.path}=cat", *at)
    assert (taught.returncode, taught.stdout) == (2, b"")
    assert b"which examples cannot teach" in taught.stderr
