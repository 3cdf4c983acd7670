"""``clipsearch clusters``: what a person sees, what a pipe gets, and how it fails."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from clipsearch import open_index
from clipsearch.cli import cli as group
from clipsearch.cluster_reading import read_saved_discovery
from clipsearch.cluster_saving import save_discovery
from clipsearch.clusters import Discovery
from clipsearch.errors import ClusterError, LabelError, OptionError
from clipsearch.image_index import ImageIndex
from clipsearch.label_sets import label_set_names, read_label_set
from tests.conftest import Cli
from tests.discoveries import discovery_of_index

NAMES = ("dog", "cat", "odd, name", "tower")


@pytest.fixture
def index(mini_index: Path) -> ImageIndex:
    return open_index(mini_index)


@pytest.fixture
def found(index: ImageIndex) -> Discovery:
    discovery = discovery_of_index(index.state(), NAMES)
    save_discovery(index.path, index.state(), "pets", discovery, label_set="pets")
    return discovery


def run(index: ImageIndex, *arguments: str) -> Result:
    """The command in this process; what it raises comes out."""
    return CliRunner().invoke(
        group, ["clusters", *arguments, "--index", str(index.path)],
        standalone_mode=False, catch_exceptions=False,
    )  # fmt: skip


def path_of(index: ImageIndex, image_id: int) -> str:
    (place,) = index.paths().first_places([image_id])
    assert place is not None
    return str(place.path)


def ids_of(discovery: Discovery, name: str) -> list[int]:
    (position,) = [at for at, one in enumerate(discovery.clusters) if one.name == name]
    ids: list[int] = discovery.assignment.members(position).tolist()
    return ids


def test_the_list(index: ImageIndex, found: Discovery) -> None:
    done = run(index)
    assert (done.return_value, done.stdout) == (0, "pets\n")
    document = json.loads(run(index, "--json").stdout)
    assert document == {
        "name": "pets", "clusters": 4, "images": len(index), "method": "kmeans", "edits": 0,
        "label_sets": ["pets"], "made_at": "2026-11-21T12:00:00+00:00",
    }  # fmt: skip
    header, row = csv.reader(io.StringIO(run(index, "--csv").stdout))
    assert header == list(document)
    assert row[:6] == ["pets", "4", str(len(index)), "kmeans", "0", "pets"]
    assert run(index, "-0").stdout == "pets\0"


def test_without_any(index: ImageIndex) -> None:
    done = run(index)
    assert (done.return_value, done.stdout) == (1, "")
    assert "'clipsearch discover' makes one" in done.stderr


def test_a_damaged_one_hides_no_other(index: ImageIndex, found: Discovery) -> None:
    (index.path / "clusters" / "bad.json").write_text("{")
    done = run(index)
    assert (done.return_value, done.stdout) == (2, "pets\n")
    assert "bad: the discovery bad is damaged" in done.stderr
    assert run(index, "bad", "--forget").return_value == 0
    assert run(index).return_value == 0


def test_the_clusters_in_a_pipe(index: ImageIndex, found: Discovery) -> None:
    done = run(index, "PETS")
    assert done.return_value == 0
    wanted = [
        [one.name, str(one.size), "0.600", path_of(index, one.typical[0])] for one in found.clusters
    ]
    assert [line.split("\t") for line in done.stdout.splitlines()] == wanted
    documents = [json.loads(line) for line in run(index, "pets", "--json").stdout.splitlines()]
    for document, one in zip(documents, found.clusters, strict=True):
        assert document["name"] == one.name
        assert document["key"] == one.key
        assert document["images"] == one.size
        assert document["share"] == pytest.approx(one.size / len(index), abs=1e-6)
        assert [candidate["name"] for candidate in document["candidates"]] == [
            candidate.name for candidate in one.candidates
        ]
        assert [image["id"] for image in document["typical"]] == list(one.typical)
        assert [image["id"] for image in document["doubtful"]] == list(one.doubtful)
        assert document["typical"][0]["path"] == path_of(index, one.typical[0])
    rows = list(csv.DictReader(io.StringIO(run(index, "pets", "--csv").stdout)))
    assert [row["name"] for row in rows] == [one.name for one in found.clusters]
    assert rows[0]["candidates"] == "; ".join(one.name for one in found.clusters[0].candidates)
    assert rows[0]["typical"] == path_of(index, found.clusters[0].typical[0])


def test_the_images_of_a_cluster(index: ImageIndex, found: Discovery) -> None:
    name = found.clusters[0].name
    ids = ids_of(found, name)
    done = run(index, "pets", "--of", name.upper())
    lines = done.stdout.splitlines()
    assert done.return_value == 0
    assert sorted(lines) == sorted(path_of(index, image_id) for image_id in ids)
    assert run(index, "pets", "--of", name, "-0").stdout == "".join(f"{line}\0" for line in lines)
    hits = [json.loads(line) for line in run(index, "pets", "--of", name, "--json").stdout.splitlines()]  # noqa: E501  # fmt: skip
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    cosines = dict(zip(found.assignment.ids.tolist(), found.assignment.cosines, strict=True))
    assert scores == pytest.approx([cosines[hit["id"]] for hit in hits], abs=1e-6)
    with pytest.raises(ClusterError, match="there is no cluster 'otter'"):
        run(index, "pets", "--of", "otter")


def test_changes_come_in_the_order_that_help_tells(index: ImageIndex, found: Discovery) -> None:
    done = run(
        index, "pets", "--drop", "tower", "--merge", "house dog,odd, name=both",
        "--rename", "dog=house dog",
    )  # fmt: skip
    assert done.return_value == 0
    assert done.stderr.startswith(
        "Done: rename dog to house dog, merge house dog and odd, name as both, drop tower."
    )
    names = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert set(names) == {"both", "cat"}
    assert read_label_set(index.path, "pets").labels == tuple(names)
    assert index.matching("label = pets:both").tolist() == sorted(
        ids_of(found, "dog") + ids_of(found, "odd, name")
    )
    undone = run(index, "pets", "--undo")
    assert undone.stderr.startswith("Undone: rename dog to house dog, merge")
    assert len(undone.stdout.splitlines()) == 4
    assert index.matching("label = pets:dog").tolist() == ids_of(found, "dog")
    with pytest.raises(ClusterError, match="no change left to undo"):
        run(index, "pets", "--undo")


def test_what_is_split_is_named_from_the_same_words(index: ImageIndex, tmp_path: Path) -> None:
    """A cluster of pictures that mini tells apart, by a vocabulary of a file."""
    words = tmp_path / "words.txt"
    words.write_text("dog\ncat\ntower\nflower\nsea\npainting\n")
    found = discovery_of_index(index.state(), ("everything",), vocabulary=str(words))
    save_discovery(index.path, index.state(), "all", found)
    lines = run(index, "all", "--split", "everything=3", "--json").stdout.splitlines()
    documents = [json.loads(line) for line in lines]
    assert len({document["name"] for document in documents}) == len(documents) == 3
    for document in documents:
        names = [candidate["name"] for candidate in document["candidates"]]
        assert len(names) == 3
        assert document["name"] in names
        assert set(names) <= set(words.read_text().split())
    words.unlink()
    run(index, "all", "--undo")
    names = [
        line.split("\t")[0]
        for line in run(index, "all", "--split", "everything").stdout.splitlines()
    ]
    assert sorted(names) == ["everything 1", "everything 2"]


def test_the_clusters_as_another_label_set(index: ImageIndex, found: Discovery) -> None:
    done = run(index, "pets", "--rename", "dog=hound", "--save-as", "hounds")
    assert done.return_value == 0
    assert "'clipsearch classify --labels @hounds'" in done.stderr
    assert set(label_set_names(index.path)) == {"pets", "hounds"}
    assert "hound" in read_label_set(index.path, "hounds").labels
    run(index, "pets", "--rename", "hound=dog")
    for name in ("pets", "hounds"):
        assert "dog" in read_label_set(index.path, name).labels
    with pytest.raises(LabelError, match="is no name for a label set"):
        run(index, "pets", "--save-as", "a/b")


def test_forgetting(index: ImageIndex, found: Discovery) -> None:
    done = run(index, "Pets", "--forget")
    assert (done.return_value, done.stdout) == (0, "")
    assert "'clipsearch labels pets --forget' removes it" in done.stderr
    assert os.listdir(index.path / "clusters") == []
    with pytest.raises(ClusterError, match="none is saved yet"):
        run(index, "pets", "--forget")


def test_no_permission(
    index: ImageIndex, found: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clipsearch.cluster_saving as saving

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(saving, "replace_file", refuse)
    with pytest.raises(OptionError, match="no permission to save clusters in the index at"):
        run(index, "pets", "--rename", "dog=x")
    assert run(index, "pets").return_value == 0


@pytest.mark.parametrize(
    ("number", "why"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the index cannot be")]
)
def test_what_nobody_named_is_shown_where_it_cannot_be_kept(
    index: ImageIndex, monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    import clipsearch.cluster_saving as saving

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(saving, "replace_file", refuse)
    command = ["discover", "--k", "2", "--vocab", "none", "--index", str(index.path)]
    done = CliRunner().invoke(group, command, standalone_mode=False, catch_exceptions=False)
    assert (done.return_value, len(done.stdout.splitlines())) == (0, 2)
    assert f"Note: {why}" in done.stderr
    assert "Kept as" not in done.stderr
    with pytest.raises((OptionError, OSError)):
        CliRunner().invoke(
            group, [*command, "--save-as", "pets"], standalone_mode=False, catch_exceptions=False
        )


def test_the_whole_of_it(index: ImageIndex, found: Discovery, cli: Cli, cli_here: Cli) -> None:
    """What is told on one line, and with which code; bytes of no text from another process."""
    place = ("--index", index.path)

    def failing(*arguments: str, run: Cli = cli_here) -> str:
        done = run(*arguments, *place)
        assert done.returncode == 2, done
        assert done.stdout == b""
        lines = [line for line in done.stderr.decode().splitlines() if line.startswith("Error")]
        assert len(lines) == 1
        assert "Traceback" not in done.stderr.decode()
        return lines[0]

    assert "name a discovery" in failing("clusters", "--undo")
    assert "one at a time" in failing("clusters", "pets", "--undo", "--drop", "dog")
    assert "there is no discovery 'a\\udce9'" in failing("clusters", "a\udce9", run=cli)
    hostile = failing("clusters", "pets", "--rename", "dog=\x1b[31mred\n")
    assert "control characters" in hostile
    assert "\x1b" not in hostile
    assert "follows the clusters of the discovery pets" in failing(
        "classify", "--labels", "@pets", "--save-as", "pets"
    )
    assert read_saved_discovery(index.path, "pets").edits == ()
    done = cli_here("clusters", "pets", "--merge", "dog,cat", "--json", *place)
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["name"] for line in done.stdout.splitlines()} == {
        "dog", "odd, name", "tower",
    }  # fmt: skip
    done = cli_here("search", "--where", "label = pets:dog", *place)
    both = ids_of(found, "dog") + ids_of(found, "cat")
    assert sorted(done.stdout.decode().splitlines()) == sorted(path_of(index, i) for i in both)


def test_a_picture_whose_name_is_no_text(index: ImageIndex, tmp_path: Path) -> None:
    """A path comes out as its bytes in a pipe, and beside a readable form in JSON."""
    from indexer import build_index

    folder = tmp_path / "odd"
    folder.mkdir()
    place = index.paths().first_places([0])[0]
    assert place is not None
    try:
        shutil.copyfile(
            place.path, os.fsencode(folder) + b"/caf\xe9" + os.fsencode(place.path.suffix)
        )
    except OSError:
        pytest.skip("this file system takes no such name")
    other = tmp_path / "odd.index"
    build_index(folder, other, encoder="mini")
    odd = open_index(other)
    discovery = discovery_of_index(odd.state(), ("only",))
    save_discovery(other, odd.state(), "one", discovery)
    done = CliRunner().invoke(
        group, ["clusters", "one", "--of", "only", "--index", str(other)], standalone_mode=False
    )
    assert b"/caf\xe9." in done.stdout_bytes
    (line,) = run(odd, "one", "--json").stdout.splitlines()
    assert "path_base64" in json.loads(line)["typical"][0]
    done = CliRunner().invoke(group, ["clusters", "one", "--index", str(other)],
                              standalone_mode=False)  # fmt: skip
    assert done.stdout_bytes.startswith(b"only\t1\t0.600\t")
    assert done.stdout_bytes.count(b"/caf\xe9.") == 1
