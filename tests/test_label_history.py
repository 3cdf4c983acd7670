"""Versions of saved label sets: kept, counted, listed, gone back to, and told when damaged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipsearch import label_history, label_set_saving
from clipsearch.errors import IndexFormatError, LabelError
from clipsearch.label_history import (
    go_to_version,
    label_set_versions,
    read_version_rows,
    split_version,
    undo_label_set,
)
from clipsearch.label_set_saving import delete_label_set
from clipsearch.label_sets import ids_with_label, label_set_names, read_label_rows, read_label_set
from clipsearch.label_version_files import MOST_VERSIONS
from clipsearch.store import replace_file
from indexer.repair import repair_index
from indexer.verify import verify_index
from tests.conftest import Cli
from tests.test_label_sets import files, save_rows


def numbers(index: Path, name: str = "pets") -> list[int]:
    return [version.number for version in label_set_versions(index, name)]


def save_many(index: Path, count: int) -> None:
    """Versions 1 to ``count`` of pets; version v has the label "v<v>" on v images of 7."""
    for version in range(1, count + 1):
        save_rows(index, "pets", (f"v{version}", "other"), [0] * version + [1] * (7 - version))


def test_a_set_that_is_saved_over_is_kept_as_a_version(mini_index: Path) -> None:
    save_many(mini_index, 3)
    assert numbers(mini_index) == [1, 2, 3]
    assert read_label_set(mini_index, "pets").version == 3
    for number in (1, 2, 3):
        found, rows = read_version_rows(mini_index, "PETS", number)
        assert found.labels == (f"v{number}", "other")
        assert int((rows.labels == 0).sum()) == number
        assert len(rows.ids) == 7
    # Only the newest answers: the others are kept, not asked.
    assert label_set_names(mini_index) == ["pets"]
    assert len(ids_with_label(mini_index, "v3")) == 3
    with pytest.raises(LabelError, match="no saved label set has the label 'v2'"):
        ids_with_label(mini_index, "v2")
    with pytest.raises(LabelError, match="no version 9 of pets: expected one of 1, 2, 3"):
        read_version_rows(mini_index, "pets", 9)
    delete_label_set(mini_index, "pets")
    assert files(mini_index) == ["labels.lock"]


def test_only_so_many_versions_are_kept(mini_index: Path) -> None:
    save_many(mini_index, 7)
    assert numbers(mini_index) == [2, 3, 4, 5, 6, 7]
    assert len(numbers(mini_index)) == MOST_VERSIONS + 1
    suffixes = [Path(file).suffix for file in files(mini_index)]
    assert (suffixes.count(".version"), suffixes.count(".parquet")) == (5, 6)


def test_the_same_again_is_no_new_version(mini_index: Path) -> None:
    save_rows(mini_index, "pets", ("cat", "dog"), [0, 1, 0])
    before = read_label_set(mini_index, "pets")
    save_rows(mini_index, "pets", ("cat", "dog"), [0, 1, 0])
    after = read_label_set(mini_index, "pets")
    assert after.table != before.table
    assert (after.version, numbers(mini_index)) == (1, [1])
    save_rows(mini_index, "pets", ("cat", "dog"), [0, 1, 1])
    assert numbers(mini_index) == [1, 2]
    assert read_version_rows(mini_index, "pets", 1)[1].labels.tolist() == [0, 1, 0]


def test_undo_goes_back_step_by_step_and_forward_again(mini_index: Path) -> None:
    save_many(mini_index, 3)
    left, found = undo_label_set(mini_index, "pets")
    assert left is not None
    assert (left.version, found.version) == (3, 2)
    assert read_label_rows(mini_index, "pets")[0].labels == ("v2", "other")
    assert undo_label_set(mini_index, "pets")[1].version == 1
    assert numbers(mini_index) == [1, 2, 3]
    with pytest.raises(LabelError, match="no version of pets before 1"):
        undo_label_set(mini_index, "pets")
    assert go_to_version(mini_index, "pets", 3).labels == ("v3", "other")
    found, rows = read_label_rows(mini_index, "pets")
    assert (found.version, int((rows.labels == 0).sum())) == (3, 3)
    # Saving lets go of what was undone, and never gives a number twice.
    undo_label_set(mini_index, "pets")
    save_rows(mini_index, "pets", ("new",), [0])
    assert numbers(mini_index) == [1, 2, 4]
    assert undo_label_set(mini_index, "pets")[1].labels == ("v2", "other")


def test_a_set_of_classify_that_was_undone_is_classified_with_anew(
    mini_index: Path, cli_here: Cli
) -> None:
    save = ("classify", "--index", mini_index, "--save-as", "things", "--templates", "none")
    assert cli_here(*save, "--labels", "lion,tower").returncode == 0
    first = read_label_rows(mini_index, "things")[1]
    assert cli_here(*save, "--labels", "bird,drawing,car").returncode == 0
    assert len(list((mini_index / "labels").glob("*.scores"))) == 1  # of the newest alone
    undo_label_set(mini_index, "things")
    assert list((mini_index / "labels").glob("*.scores")) == []
    assert verify_index(mini_index, sample=0).is_sound
    again = cli_here(
        "classify", "--index", mini_index, "--labels", "@things", "--save-as", "things"
    )
    assert again.returncode == 0
    rows = read_label_rows(mini_index, "things")[1]
    assert np.array_equal(rows.labels, first.labels)
    assert np.array_equal(rows.ids, first.ids)
    # The labels are those of version 1, so that it goes on; what was undone can be had back.
    assert numbers(mini_index, "things") == [1, 2]


@pytest.mark.parametrize("step", ["keep", "name", "named", "remove"])
def test_a_save_or_an_undo_that_is_killed_leaves_one_set_or_the_other(
    step: str, mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_many(mini_index, 2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def killed_at_the_json(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        replace_file(path, data)

    def killed_behind_the_json(path: Path, data: bytes) -> None:
        replace_file(path, data)
        killed_at_the_json(path, data)

    patched, instead = {
        "keep": ("keep_version", killed),
        "name": ("replace_file", killed_at_the_json),
        "named": ("replace_file", killed_behind_the_json),
        "remove": ("remove_other_files", killed),
    }[step]
    for do in (
        lambda: save_rows(mini_index, "pets", ("v3",), [0, 0]),
        lambda: undo_label_set(mini_index, "pets"),
    ):
        with monkeypatch.context() as patch:
            for module in (label_set_saving, label_history):
                patch.setattr(module, patched, instead)
            with pytest.raises(KeyboardInterrupt):
                do()
        found, rows = read_label_rows(mini_index, "pets")
        assert found.labels[0] in ("v1", "v2", "v3")
        assert len(rows.ids) == (2 if found.labels[0] == "v3" else 7)
        shown = numbers(mini_index)
        assert shown == sorted(set(shown))
        assert found.version in shown
        for number in shown:
            assert read_version_rows(mini_index, "pets", number)[0].version == number
        assert verify_index(mini_index, sample=0).is_sound
    # And the next save cleans up.
    save_rows(mini_index, "pets", ("last",), [0])
    suffixes = [Path(file).suffix for file in files(mini_index)]
    kept = len(numbers(mini_index))
    assert (suffixes.count(".version"), suffixes.count(".parquet")) == (kept - 1, kept)


def test_a_damaged_version_is_a_note_and_is_not_gone_back_to(mini_index: Path) -> None:
    save_many(mini_index, 4)
    table = read_version_rows(mini_index, "pets", 2)[0].table
    assert table is not None
    place = mini_index / "labels" / table.name
    place.write_bytes(place.read_bytes()[:-1] + b"\0")
    json_of = {one.label_set.version: one.label_set.table for one in
               label_set_versions(mini_index, "pets")}[3]  # fmt: skip
    assert json_of is not None
    (mini_index / "labels" / json_of.name).with_suffix(".version").write_text("{")
    found = verify_index(mini_index, sample=0)
    assert found.is_sound
    assert [finding.kind for finding in found.of("note")] == ["label-set"] * 2
    assert all("cannot be gone back to" in finding.message for finding in found.of("note"))
    before = read_label_rows(mini_index, "pets")[0]
    with pytest.raises(IndexFormatError, match="version 2 of the label set pets is damaged"):
        undo_label_set(mini_index, "pets")
    assert read_label_rows(mini_index, "pets")[0] == before
    assert go_to_version(mini_index, "pets", 1).labels[0] == "v1"


def test_a_damaged_set_is_left_for_the_version_before(mini_index: Path) -> None:
    save_many(mini_index, 2)
    (mini_index / "labels" / "pets.json").write_text("not a set")
    left, found = undo_label_set(mini_index, "pets")
    assert left is None
    assert found.version == 1
    assert read_label_rows(mini_index, "pets")[0].labels == ("v1", "other")
    assert verify_index(mini_index, sample=0).is_sound
    # Repair takes a damaged set out with all its versions, and keeps them aside.
    (mini_index / "labels" / "pets.json").write_text("not a set")
    done = repair_index(mini_index)
    assert done.is_mended
    assert files(mini_index) == ["labels.lock"]
    kept = [path.name for path in (mini_index / "damaged").rglob("pets.*")]
    assert "pets.json" in kept


def test_versions_of_another_index_count_for_nothing(mini_index: Path, tmp_path: Path) -> None:
    save_many(mini_index, 2)
    other = Path(shutil.copytree(mini_index, tmp_path / "other.index"))
    manifest = json.loads((other / "labels" / "pets.json").read_text())
    assert manifest["version"] == 2
    from tests.test_label_sets import save_rows as save_in

    for file in os.listdir(other / "labels"):
        if file.endswith(".version"):
            data = (other / "labels" / file).read_bytes()
            fake = data.replace(manifest["index"].encode(), b"another")
            (other / "labels" / file).write_bytes(fake)  # its checksum does not match either
    assert numbers(other) == [2]
    save_in(other, "pets", ("x",), [0])
    assert numbers(other) == [2, 3]


def test_names_of_versions() -> None:
    assert split_version("animals@3") == ("animals", 3)
    assert split_version("animals") == ("animals", None)
    for odd in ("animals@", "animals@0", "animals@x", "animals@-1", "animals@" + "9" * 99, "a@²"):
        with pytest.raises(LabelError, match="expected a version such as"):
            split_version(odd)


def test_the_labels_command_lists_versions_and_goes_back(mini_index: Path, cli_here: Cli) -> None:
    save_many(mini_index, 3)
    run = ("labels", "pets", "--index", mini_index)
    listed = cli_here(*run, "--versions", "--json")
    assert listed.returncode == 0
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(row["version"], row["labels"], row["images"], row["now"]) for row in rows] == [
        (1, 2, 7, ""), (2, 2, 7, ""), (3, 2, 7, "*"),
    ]  # fmt: skip
    assert cli_here("labels", "pets@2", "--index", mini_index).stdout == b"other\t5\nv2\t2\n"
    undone = cli_here(*run, "--undo")
    assert undone.returncode == 0
    assert b"pets is version 2 again" in undone.stderr
    assert b"--restore 3" in undone.stderr
    assert cli_here("labels", "pets", "--index", mini_index).stdout == b"other\t5\nv2\t2\n"
    assert cli_here(*run, "--restore", "3").returncode == 0
    assert cli_here("labels", "pets", "--index", mini_index).stdout == b"other\t4\nv3\t3\n"
    for arguments, word in (
        ((*run, "--restore", "17"), b"no version 17 of pets: expected one of 1, 2, 3"),
        ((*run, "--restore", "3", "--undo"), b"one at a time"),
        (("labels", "--index", mini_index, "--undo"), b"name a label set"),
        (("labels", "pets@9", "--index", mini_index), b"no version 9 of pets"),
        (("labels", "pets@x", "--index", mini_index), b"expected a version such as pets@3"),
    ):
        failed = cli_here(*arguments)
        assert failed.returncode == 2, arguments
        assert word in failed.stderr
        assert failed.stdout == b""
