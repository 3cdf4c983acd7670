"""Names that mean several things, and labels that a model cannot tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsearch import ambiguous_names as module
from clipsearch.ambiguous_names import LEAST_SPREAD, alike_labels, ambiguous_names
from clipsearch.background_words import background_words
from clipsearch.label_definitions import LabelDefinition, LabelDefinitions
from clipsearch.prompts import check_labels
from clipsearch.wordnet import WordNet
from tests.conftest import Cli
from tests.wordnet_files import ANIMALS, write_wordnet


def names_of(labels: list[str], wordnet: WordNet | None = None) -> dict[str, tuple[str, ...]]:
    return {name.label: name.meanings for name in ambiguous_names(labels, wordnet)}


def test_names_of_several_meanings() -> None:
    found = names_of(["dog", "Crane", "mouse", "polar bear", "computer mouse", "crane (bird)"])
    assert found == {
        "Crane": ("bird", "construction machine"),
        "mouse": ("animal", "computer mouse"),
    }
    # Of ImageNet's synsets: a drum and an antelope; the hat of the beaver is no second beaver,
    # and what is said every day is what everybody means.
    assert set(names_of(["bongo"])["bongo"]) == {"animal", "thing"}
    assert names_of(["beaver", "mink", "horse", "cup", "zebra", "sofa"]) == {}


def test_few_everyday_words_are_warned_of() -> None:
    found = names_of(list(check_labels(background_words())))
    assert {"bat", "crane", "mouse", "seal", "drone"} <= set(found)
    assert len(found) < 40
    assert not {"dog", "cat", "car", "tree", "house", "bird", "table", "flower"} & set(found)


def test_the_list_is_well_formed() -> None:
    own = module._own_meanings()
    assert len(own) > 90
    for name, meanings in own.items():
        assert name == name.strip().lower()
        assert len(set(meanings)) == len(meanings) >= 2
        assert all(meaning == meaning.strip() != "" for meaning in meanings)


def test_a_name_that_says_more_is_clear() -> None:
    labels = LabelDefinitions(
        ("crane", "bat", "mouse", "seal", "animal"),
        (
            LabelDefinition(words="crane bird"),
            LabelDefinition(synonyms=("flying fox",)),
            LabelDefinition(descriptions=("a small grey rodent",)),
            LabelDefinition(parent="animal"),
            LabelDefinition(),
        ),
    )
    assert list(names_of(labels)) == ["seal"]  # type: ignore[arg-type]


def test_wordnet_knows_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synsets = {
        **ANIMALS,
        "gorp": ("animal", "gorp", "mammal", "an animal"),
        "gorp_tool": ("artifact", "gorp", "artifact", "a tool"),
        "flim": ("animal", "flim", "mammal", "an animal"),
        "flim_fur": ("artifact", "flim", "artifact", "a coat of flims"),
        "second": ("artifact", "box second", "artifact", "a thing"),
        "second_animal": ("animal", "second", "animal", "an animal"),
    }
    write_wordnet(tmp_path, synsets)
    words = ["gorp", "gorps", "flim", "second", "jaguar", "leopard"]
    assert names_of(words) == {"jaguar": ("big cat", "car")}
    found = names_of(words, WordNet(tmp_path))
    assert found["gorp"] == ("animal", "thing")
    assert set(found) == {"gorp", "jaguar"}
    data = (tmp_path / "data.noun").read_bytes()
    (tmp_path / "data.noun").write_bytes(b"#" * len(data))
    assert set(names_of(words, WordNet(tmp_path))) == {"jaguar"}
    monkeypatch.setattr(module, "_kinds_pictured", dict)  # where timm's lists are not there
    assert set(names_of(["bongo", "crane"])) == {"crane"}


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def test_labels_that_are_alike_are_those_with_alike_scores() -> None:
    chance = np.random.default_rng(3)
    rows = unit(chance.standard_normal((400, 32)))
    classes = unit(chance.standard_normal((6, 32)))
    classes[4] = unit(classes[1] + 0.02 * chance.standard_normal(32))
    classes[5] = unit(classes[1] + 0.01 * chance.standard_normal(32))
    labels = list("abcdef")
    found = alike_labels(labels, classes, rows, 30.0)
    logits = 30.0 * rows.astype(np.float64) @ classes.T.astype(np.float64)
    wanted = {
        (labels[one], labels[other]): (logits[:, one] - logits[:, other]).std()
        for one in range(6)
        for other in range(one + 1, 6)
    }
    wanted = {pair: spread for pair, spread in wanted.items() if spread < LEAST_SPREAD}
    assert set(wanted) == {("b", "e"), ("b", "f"), ("e", "f")}
    assert [(pair.one, pair.other) for pair in found] == sorted(wanted, key=wanted.__getitem__)
    for pair in found:
        assert pair.spread == pytest.approx(wanted[pair.one, pair.other], rel=1e-3)

    # What is above another label is like it by right.
    tree = LabelDefinitions(
        tuple(labels), tuple(LabelDefinition(parent="b" if x == "f" else None) for x in labels)
    )
    pairs = {(pair.one, pair.other) for pair in alike_labels(tree, classes, rows, 30.0)}
    assert pairs == {("b", "e"), ("e", "f")}
    assert alike_labels(labels, classes, rows[:20], 30.0) == ()
    assert alike_labels(labels[:1], classes[:1], rows, 30.0) == ()


def test_classify_and_tag_say_so(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    at = ("--index", mini_index)
    for command in ("classify", "tag"):
        told = cli_here(command, "--labels", "crane,mouse,cup,mug", *at).stderr.decode()
        crane = "crane may be several things (bird, construction machine): say which, as in"
        assert f"Note: {crane} 'crane (bird)'." in told
        assert "hardly tells" not in told  # of nine pictures
        clear = cli_here(command, "--labels", "crane,mouse", "--context", "an animal", *at)
        assert b"several things" not in clear.stderr
    many = cli_here("classify", "--labels", "bat,bow,date,fan,nail,seal,\x1b[31mkite", *at).stderr
    assert many.count(b"several things (") == 4
    assert b"Note: 2 other names mean several things." in many

    file = tmp_path / "labels.toml"
    file.write_text('[labels.crane]\nwords = "crane bird"\n[labels.mouse]\n')
    cli_here("classify", "--labels-file", file, "--save-as", "zoo", *at)
    again = cli_here("classify", "--labels", "@zoo", *at)
    assert b"several things" not in again.stderr
    more = cli_here("classify", "--labels", "@zoo", "--add", "bat", *at)
    assert b"bat may be several things" in more.stderr
    assert b"crane may" not in more.stderr
