"""Files of labels with other words, parents, thresholds and groups; their class vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch.definition_files import definitions_of, read_labels
from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.label_definitions import (
    LabelDefinitions,
    definitions_dict,
    labels_of_set,
    some_labels,
    wording_keys,
)
from clipsearch.label_set_files import NoneRule, _checksum
from clipsearch.label_sets import read_label_rows, read_label_set
from clipsearch.prompts import DESCRIPTIONS_WEIGHT, SYNONYMS_WEIGHT, class_vectors
from tests.conftest import Cli

TOML = """
[labels.crane]
words = "crane bird"
synonyms = ["whooping  crane", "heron"]
descriptions = ["a tall grey bird", "a bird on one leg"]
parent = "Bird"
threshold = 0.6

[labels.bird]

[labels.mug]
synonyms = "coffee cup"

[labels.rocket]
"""


class Words:
    """Every text has a vector of its own, always the same."""

    def encode(self, texts: Any) -> Float32:
        rows = [
            np.random.default_rng(list(text.encode())).standard_normal(16).astype(np.float32)
            for text in texts
        ]
        return np.stack([row / np.linalg.norm(row) for row in rows])


def unit(row: Any) -> Any:
    return row / np.linalg.norm(row)


def definitions(tmp_path: Path, text: str = TOML, name: str = "labels.toml") -> LabelDefinitions:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    found = read_labels(file)
    assert isinstance(found, LabelDefinitions)
    return found


def test_a_file_says_what_labels_are(tmp_path: Path) -> None:
    found = definitions(tmp_path)
    assert list(found) == ["crane", "bird", "mug", "rocket"]
    assert (len(found), found[2], found[1:3]) == (4, "mug", ("bird", "mug"))
    assert found.parents == (1, -1, -1, -1)
    assert [item.threshold for item in found.definitions] == [0.6, None, None, None]
    crane, bird, mug, _ = found.wordings()
    assert crane.names == ("crane bird", "whooping crane", "heron")
    assert crane.descriptions == ("a tall grey bird", "a bird on one leg")
    assert (bird.names, mug.names) == (("bird",), ("mug", "coffee cup"))
    assert (found.has_tree, found.has_thresholds, found.is_plain) == (True, True, False)

    again = definitions(tmp_path, json.dumps(found.to_dict()), "labels.JSON")
    assert again == found
    short = definitions(tmp_path, '{"labels": {"mug": ["coffee cup"]}}', "short.json")
    assert short.wordings()[0].names == ("mug", "coffee cup")
    plain = definitions(tmp_path, 'labels = ["a", "b"]')
    assert (plain.names, plain.is_plain, definitions_dict(plain)) == (("a", "b"), True, None)
    (tmp_path / "lines.txt").write_text("cat\ndog\n")
    assert read_labels(tmp_path / "lines.txt") == ("cat", "dog")


def test_groups(tmp_path: Path) -> None:
    found = definitions(
        tmp_path,
        '[labels.mug]\nparent = "vessel"\n[groups]\nseason = ["summer", "winter"]\n'
        '[groups.things]\nlabels = ["mug", "Rocket"]\nexclusive = false\n',
    )
    assert found.names == ("mug", "summer", "winter", "Rocket", "vessel")
    season, things = found.groups
    assert (season.exclusive, things.exclusive) == (True, False)
    assert found.of_group(season).names == ("summer", "winter")
    assert found.of_group(things).names == ("mug", "Rocket")  # of tags none is above another
    assert found.of_group(things).parents == (-1, -1)
    kind = definitions(tmp_path, '[labels.cat]\nparent = "pet"\n[groups]\nkind = ["cat", "dog"]\n')
    assert kind.of_group(kind.groups[0]).names == ("cat", "dog", "pet")
    assert kind.of_group(kind.groups[0]).parents == (2, -1, -1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("labels = 3", "expected labels to be a table, got 3"),
        ("[labels", "is no TOML"),
        ("[labels.a]\nsynonym = 'b'", "label 'a' has 'synonym': expected words, synonyms"),
        ("[labels.a]\nthreshold = nan", "from 0 to 1, got nan"),
        ("[labels.a]\nthreshold = true", "from 0 to 1, got True"),
        ("[labels.a]\nthreshold = 60", "from 0 to 1, got 60"),
        ("[labels.a]\nsynonyms = ['b', ' ']", "to be words, got ' '"),
        ("[labels.a]\ndescriptions = [['b']]", "to be words, got ['b']"),
        ("[labels.a]\nwords = 1", "words to be words, got 1"),
        ("[labels.a]\nparent = 'A'", "label 'a' is below itself"),
        ("[labels.a]\nparent = 'b'\n[labels.b]\nparent = 'a'", "is below itself"),
        ("[labels.a]\n[labels.A]", "is there twice"),
        ("[labels.' ']", "is empty"),
        ("", "no label is there"),
        ("title = 'animals'", "the file has 'title': expected labels, groups"),
        ("[labels.a]\n[groups]\nb = ['c']", "label 'a' is in no group"),
        ("[labels.a]\nthreshold = 0x" + "f" * 8000, "from 0 to 1, got a very large number"),
        ("[groups.b]\nexclusive = false", "the group 'b' has no labels"),
        ("[groups]\nb = ['c']\nB = ['d']", "the group 'B' is there twice"),
        ("[groups]\n' ' = ['c']", "a group has no name"),
        ("[groups.b]\nlabels = ['c']\nexclusive = 'no'", "true or false, got 'no'"),
        ("labels = " + "[" * 5000 + "]" * 5000, ""),
    ],
)
def test_what_is_no_definition_is_refused_in_a_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(LabelError) as error:
        definitions(tmp_path, text)
    assert told in str(error.value)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, data, told in (
        ("a.toml", b"\xff\xfe", "is no UTF-8 text"),
        ("a.json", b'{"labels": {"a": {}, "a": {}}}', "'a' is there twice"),
        ("a.json", b'{"labels": {"a": {"threshold": NaN}}}', "got nan"),
        ("a.json", b'{"labels"', "is no JSON"),
        ("a.json", b"[]", "to be a table, got []"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(LabelError, match=f".*{told[:12]}") as error:
            read_labels(tmp_path / name)
        assert told in str(error.value)
    with pytest.raises(LabelError, match="No such file"):
        read_labels(tmp_path / "none.toml")
    with pytest.raises(LabelError, match="expected a file of labels"):
        read_labels("a\0.toml")


def test_class_vectors_are_of_the_words(tmp_path: Path) -> None:
    found, words = definitions(tmp_path), Words()
    classes = class_vectors(found, words, context="a thing")
    plain = class_vectors(
        ["crane bird", "whooping crane", "heron", "bird", "mug", "coffee cup", "rocket"],
        words,
        context="a thing",
    )
    others = unit(plain[1] + plain[2])
    texts = unit(words.encode(["a tall grey bird", "a bird on one leg"]).mean(axis=0))
    crane = unit(plain[0] + SYNONYMS_WEIGHT * others + DESCRIPTIONS_WEIGHT * texts)
    np.testing.assert_allclose(classes[0], crane, atol=1e-6)
    np.testing.assert_allclose(classes[2], unit(plain[4] + SYNONYMS_WEIGHT * plain[5]), atol=1e-6)
    # Of which nothing more is said they are what they are without definitions.
    assert np.array_equal(classes[1], plain[3])
    assert np.array_equal(classes[3], plain[6])
    assert classes.dtype == np.float32


def test_edits_keep_what_is_said(tmp_path: Path) -> None:
    found = definitions(tmp_path)
    edited = found.edited(["heron", "mug", "boat"], {"crane": "heron"})
    assert edited.names == ("heron", "mug", "boat")
    assert edited.wordings()[0].names == ("heron", "whooping crane", "heron")
    assert (edited.definitions[0].parent, edited.definitions[0].threshold) == (None, 0.6)
    assert edited.definitions[2].to_dict() == {}
    kept = found.edited(["crane", "fowl"], {"bird": "fowl"})
    assert kept.parents == (1, -1)

    keys = wording_keys(found)
    assert keys[1::2] == ["bird", "rocket"]  # as they are in a set without definitions
    assert wording_keys(edited)[1] == keys[2]
    assert wording_keys(edited)[0] != keys[0]
    assert list(some_labels(found, [2, 0])) == ["mug", "crane"]
    assert wording_keys(some_labels(found, [2, 0])) == [keys[2], keys[0]]
    with pytest.raises(LabelError, match="no label is there"):
        definitions_of({})


PLAIN = """
[labels.cat]
synonyms = ["kitten"]
[labels.rocket]
descriptions = ["a tall rocket at its launch pad"]
[labels]
coin = []
"coffee cup" = ["mug"]
astronaut = []
"""


def assert_same_labels(one: bytes, other: bytes) -> None:
    """Of the same images, with the same probabilities but for their last digits."""
    for here, there in zip(one.splitlines(), other.splitlines(), strict=True):
        row, wanted = json.loads(here), json.loads(there)
        for name in ("probability", "margin", "score", "in_set"):
            assert row.pop(name) == pytest.approx(wanted.pop(name), abs=1e-5)
        assert row == wanted


def test_a_saved_set_keeps_its_definitions(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    file = tmp_path / "things.toml"
    file.write_text(PLAIN)
    at = ("--index", mini_index, "--json")
    first = cli_here("classify", "--labels-file", file, "--save-as", "things", *at)
    assert first.returncode == 0, first.stderr
    saved = read_label_set(mini_index, "things")
    assert labels_of_set(saved) == read_labels(file)
    bare = cli_here("classify", "--labels", ",".join(saved.labels), *at)
    assert bare.stdout != first.stdout

    again = cli_here("classify", "--labels", "@things", *at)
    assert_same_labels(again.stdout, first.stdout)
    assert b"Scored nothing" in again.stderr

    # What is remembered of a label is of no use where it is put into other words, and of use
    # for the others.
    file.write_text(PLAIN.replace("kitten", "tabby cat").replace("mug", "cup of tea"))
    fresh = cli_here("classify", "--labels-file", file, *at)
    over = cli_here("classify", "--labels-file", file, "--save-as", "things", *at)
    assert b"Scored nothing" not in over.stderr
    with pytest.raises(AssertionError):
        assert_same_labels(over.stdout, first.stdout)
    assert_same_labels(over.stdout, fresh.stdout)
    file.write_text(PLAIN)
    whole = cli_here("classify", "--labels-file", file, *at)
    assert whole.stdout == first.stdout

    # The threshold that says which images have none of the labels stays as it was saved.
    place = mini_index / "labels" / "things.json"
    before = json.loads(place.read_text())
    rule = {"setting": "auto", "threshold": 0.999}
    changed = {name: value for name, value in before.items() if name != "checksum"} | {"none": rule}
    place.write_text(json.dumps({**changed, "checksum": _checksum(changed)}))
    stays = cli_here("classify", "--labels", "@things", "--save-as", "stays", *at)
    assert stays.returncode == 0, stays.stderr
    assert read_label_set(mini_index, "stays").none == NoneRule("auto", 0.999)
    assert any(json.loads(line)["label"] is None for line in stays.stdout.splitlines())
    place.write_text(json.dumps(before))

    edit = ("--remove", "coin", "--reword", "cat=pet", "--save-as", "fewer")
    fewer = cli_here("classify", "--labels", "@things", *edit, *at)
    assert fewer.returncode == 0, fewer.stderr
    kept = labels_of_set(read_label_set(mini_index, "fewer"))
    assert isinstance(kept, LabelDefinitions)
    assert kept.names == ("pet", "rocket", "coffee cup", "astronaut")
    assert kept.wordings()[0].names == ("pet", "tabby cat")


def test_a_set_with_other_definitions_is_damaged(cli_here: Cli, mini_index: Path) -> None:
    saved = cli_here("classify", "--labels", "cat,coin", "--save-as", "a", "--index", mini_index)
    assert saved.returncode == 0
    place = mini_index / "labels" / "a.json"
    document = json.loads(place.read_text())
    del document["checksum"]
    document["definitions"] = {"labels": {"cat": {"threshold": 7}, "coin": {}}}
    place.write_text(json.dumps({**document, "checksum": _checksum(document)}))
    told = cli_here("labels", "a", "--index", mini_index)
    assert told.returncode == 2
    assert b"the label set a is damaged (expected label 'cat': threshold" in told.stderr


def test_tags_go_by_definitions(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    file = tmp_path / "things.toml"
    file.write_text(PLAIN)
    at = ("--index", mini_index)
    done = cli_here("tag", "--labels-file", file, "--save-as", "tags", *at)
    assert done.returncode == 0, done.stderr
    saved, rows = read_label_rows(mini_index, "tags")
    assert labels_of_set(saved) == read_labels(file)
    again = cli_here("tag", "--labels", "@tags", "--refit", *at)
    assert again.returncode == 0, again.stderr
    _, refitted = read_label_rows(mini_index, "tags")
    np.testing.assert_array_equal(rows.scores, refitted.scores)

    # Tags have no probabilities, and know nothing of groups.
    file.write_text(PLAIN + "[labels.dog]\nthreshold = 0.9\n")
    done = cli_here("tag", "--labels-file", file, *at)
    assert b"the thresholds of the labels are probabilities" in done.stderr
    file.write_text("[groups]\nkind = ['cat', 'dog']\n")
    refused = cli_here("tag", "--labels-file", file, *at)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"'clipsearch classify' labels each group by itself" in refused.stderr
