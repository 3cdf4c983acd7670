"""Labels in groups: each group labelled by itself, saved as a set of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import open_index
from clipsearch.definition_files import read_definitions
from clipsearch.errors import LabelError
from clipsearch.grouped_labels import label_group
from clipsearch.label_definitions import LabelDefinitions
from clipsearch.label_sets import label_set_names, labels_of, read_label_set
from clipsearch.tag import tag
from tests.conftest import Cli

FILE = """
[labels.cat]
parent = "animal"
[labels.crane]
words = "crane bird"
[groups]
kind = ["cat", "dog", "building"]
[groups.place]
labels = ["indoors", "outdoors"]
[groups.things]
labels = ["crane", "astronaut", "coffee cup"]
exclusive = false
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "groups.toml"
    place.write_text(FILE)
    return place


def test_every_group_is_labelled_by_itself(cli_here: Cli, mini_index: Path, file: Path) -> None:
    at = ("--index", mini_index)
    done = cli_here("classify", "--labels-file", file, "--json", "--save-as", "trip", *at)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    names = ["id", "path", "group", "label", "score", "cosine"]
    assert list(rows[0]) == [*names, "probability", "margin", "runner_up"]
    by_group = {
        group: [row for row in rows if row["group"] == group]
        for group in ("kind", "place", "things")
    }
    assert sum(map(len, by_group.values())) == len(rows)

    # What a group of labels gives is what they would give if they were asked for alone.
    place = cli_here("classify", "--labels", "indoors,outdoors", "--none", "off", "--json", *at)
    for line, row in zip(place.stdout.splitlines(), by_group["place"], strict=True):
        alone = json.loads(line)
        assert {name: row[name] for name in alone} == alone
        assert row["cosine"] is None
    tree = file.with_name("kind.toml")
    tree.write_text('[labels.cat]\nparent = "animal"\n[labels.dog]\n[labels.building]\n')
    kind = cli_here("classify", "--labels-file", tree, "--none", "off", "--json", *at)
    for line, row in zip(kind.stdout.splitlines(), by_group["kind"], strict=True):
        alone = json.loads(line)
        assert {name: row[name] for name in alone} == alone

    index = open_index(mini_index)
    labels = read_definitions(file)
    things = labels.of_group(labels.groups[2])
    tagged = tag(index.state(), index.text_vectors(), things)
    tags = [(row["id"], row["label"]) for row in by_group["things"] if row["label"] is not None]
    ids = np.repeat(tagged.ids, np.diff(tagged.starts)).tolist()
    assert tags == [(i, things[code]) for i, code in zip(ids, tagged.labels.tolist(), strict=True)]
    assert all(row["probability"] is None for row in by_group["things"])
    everyone = {row["id"] for row in rows}
    assert {row["id"] for row in by_group["things"]} == everyone

    assert label_set_names(mini_index) == ["trip.kind", "trip.place", "trip.things"]
    kinds = [read_label_set(mini_index, name).kind for name in label_set_names(mini_index)]
    assert kinds == ["classify", "classify", "tag"]
    for group, found in by_group.items():
        saved = labels_of(mini_index, f"trip.{group}", sorted(everyone))
        wanted = {
            image: tuple(row["label"] for row in found if row["id"] == image and row["label"])
            for image in everyone
        }
        assert saved == [wanted[image] for image in sorted(everyone)]
    # Each goes on by itself.
    again = cli_here("classify", "--labels", "@trip.place", "--json", *at)
    assert again.stdout.count(b"\n") == len(everyone)
    assert b"Scored nothing" in again.stderr


def test_plain_lines_and_files(cli_here: Cli, mini_index: Path, file: Path, tmp_path: Path) -> None:
    at = ("--index", mini_index, "--labels-file", file)
    told = cli_here("classify", *at)
    lines = [line.split(b"\t") for line in told.stdout.splitlines()]
    assert all(len(line) == 3 and line[1] and float(line[2]) > -9 for line in lines)
    out = tmp_path / "all.parquet"
    done = cli_here("classify", *at, "--out", out, "--none", "0.5")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(out).to_pylist()
    assert [row["label"] for row in table if row["group"] != "things"].count(None) > 0
    assert all((row["in_set"] is None) == (row["group"] == "things") for row in table)
    csv_out = tmp_path / "all.csv"
    assert cli_here("classify", *at, "--out", csv_out).returncode == 0
    head, *rest = csv_out.read_text().splitlines()
    assert head == "id,path,group,label,score,cosine,probability,margin,runner_up"
    assert len(rest) == len(cli_here("classify", *at, "--json").stdout.splitlines())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--fast",), "leave out --fast, --adapt, --fuse, --by-cluster and --top"),
        (("--top", "2"), "leave out --fast, --adapt, --fuse, --by-cluster and --top"),
        (("--by-cluster",), "leave out --fast, --adapt, --fuse, --by-cluster and --top"),
        (("--fuse",), "leave out --fast, --adapt, --fuse, --by-cluster and --top"),
        (("--since", "2001"), "leave out the filter, or such groups"),
        (("--save-as", "x" * 60), "is no name for a label set"),
        (("--add", "otter"), "go with a saved set"),
    ],
)
def test_what_does_not_go_with_groups(
    cli_here: Cli, mini_index: Path, file: Path, more: tuple[str, ...], told: str
) -> None:
    done = cli_here("classify", "--labels-file", file, "--index", mini_index, *more)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in done.stderr.decode()
    assert not label_set_names(mini_index)


def test_the_library_does_not_mix_groups(mini_index: Path, file: Path) -> None:
    index, labels = open_index(mini_index), read_definitions(file)
    with pytest.raises(LabelError, match="the labels are in groups"):
        index.classify(labels)
    state, texts = index.state(), index.text_vectors()
    nobody = np.empty(0, np.int64)
    with pytest.raises(LabelError, match="leave out the filter"):
        label_group(mini_index, state, texts, labels, labels.groups[2], allowed=nobody)
    found = label_group(mini_index, state, texts, labels, labels.groups[0], allowed=nobody)
    assert found.labelling is not None
    assert len(found.labelling.columns()) == 0
    assert found.labels.names == ("cat", "dog", "building", "animal")
    with pytest.raises(LabelError, match="has a threshold"):
        LabelDefinitions(
            labels.names,
            tuple(
                type(item)(parent=item.parent, words=item.words, threshold=0.5)
                for item in labels.definitions
            ),
            labels.groups,
        )
