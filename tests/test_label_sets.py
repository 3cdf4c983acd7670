"""Saved label sets: whole or not at all, found again by name, and told when damaged."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import label_set_saving, open_index
from clipsearch.cli import run
from clipsearch.errors import (
    IndexFormatError,
    IndexLockedError,
    LabelError,
)
from clipsearch.generation import open_generation
from clipsearch.label_history import label_set_versions
from clipsearch.label_set_files import LabelRows, check_name, is_table_of, parse_set, set_bytes
from clipsearch.label_set_saving import (
    delete_label_set,
    labels_lock,
    new_label_set,
    save_classification,
    save_label_set,
)
from clipsearch.label_sets import (
    ids_with_label,
    label_set_names,
    labels_of,
    list_label_sets,
    read_label_rows,
    read_label_set,
)
from clipsearch.label_version_files import MOST_VERSIONS
from clipsearch.store import LocalStore, replace_file
from indexer import build_index
from indexer.compact import compact
from indexer.repair import repair_index
from indexer.verify import verify_index
from tests.conftest import Cli

_LABELS = ("lion", "tower", "a drawing")


def save(index: Path, name: str = "things", labels: tuple[str, ...] = _LABELS) -> LabelRows:
    """Save a classification; the rows that should be there."""
    opened = open_index(index)
    result = opened.classify(labels, none="off")
    state = open_generation(index)
    save_classification(index, state, name, result, "simple", None)
    return LabelRows(
        result.ids, result.labels[:, 0], result.scores[:, 0], result.probabilities[:, 0]
    )


def save_rows(index: Path, name: str, labels: tuple[str, ...], codes: list[int]) -> None:
    """Save a set with the given label of image 0, 1, 2, ...; -1 for none."""
    state = open_generation(index)
    count = len(codes)
    numbers = np.arange(count, dtype=np.float32)
    rows = LabelRows(np.arange(count), np.array(codes, np.int32), numbers, numbers / 10)
    save_label_set(index, new_label_set(state, name, "classify", labels, "none", None), rows)


def files(index: Path) -> list[str]:
    return sorted(os.listdir(index / "labels"))


def test_what_was_saved_is_read(mini_index: Path) -> None:
    wanted = save(mini_index)
    found, rows = read_label_rows(mini_index, "things")
    for name in ("ids", "labels", "scores", "second"):
        assert np.array_equal(getattr(rows, name), getattr(wanted, name)), name
        assert getattr(rows, name).dtype == getattr(wanted, name).dtype
    state = open_generation(mini_index)
    assert (found.name, found.kind, found.labels) == ("things", "classify", _LABELS)
    assert len(found.templates) == 7
    assert found.context is None
    assert found.index == state.manifest.uuid
    assert found.space == state.space.fingerprint
    assert (found.generation, found.next_id) == (state.manifest.generation, state.manifest.next_id)
    assert read_label_set(mini_index, "THINGS") == found
    assert list_label_sets(mini_index) == [found]
    table = found.table
    assert table is not None
    data = (mini_index / "labels" / table.name).read_bytes()
    assert (table.rows, table.bytes) == (len(rows.ids), len(data))
    assert table.sha256 == hashlib.sha256(data).hexdigest()
    # A person can read it without us.
    plain = pq.read_table(mini_index / "labels" / table.name).to_pydict()
    assert list(plain) == ["id", "label", "score", "probability"]
    assert plain["label"] == [_LABELS[code] for code in wanted.labels]
    assert files(mini_index) == sorted(["labels.lock", "things.json", table.name])


def test_rows_without_a_label_and_labels_that_nobody_has(mini_index: Path) -> None:
    save_rows(mini_index, "few", ("cat", "dog", "zebra"), [1, -1, 0, 1, -1])
    _, rows = read_label_rows(mini_index, "few")
    assert rows.labels.tolist() == [1, -1, 0, 1, -1]
    assert rows.scores[[0, 2, 3]].tolist() == [0, 2, 3]
    assert ids_with_label(mini_index, "dog").tolist() == [0, 3]
    assert ids_with_label(mini_index, "zebra").tolist() == []
    assert labels_of(mini_index, "few", [3, 1, 2, 99]) == [("dog",), (), ("cat",), ()]
    save_rows(mini_index, "none", ("cat",), [-1, -1])
    assert read_label_rows(mini_index, "none")[1].labels.tolist() == [-1, -1]
    save_rows(mini_index, "empty", ("cat",), [])
    assert len(read_label_rows(mini_index, "empty")[1].ids) == 0


def test_ids_of_a_label_in_any_set_or_in_one(mini_index: Path) -> None:
    save_rows(mini_index, "pets", ("cat", "Hot Dog"), [0, 1, 1])
    save_rows(mini_index, "meals", ("hot dog", "a: b"), [0, 1, -1, 0])
    assert ids_with_label(mini_index, "hot  dog").tolist() == [0, 1, 2, 3]
    assert ids_with_label(mini_index, "pets:hot dog").tolist() == [1, 2]
    assert ids_with_label(mini_index, "Meals:HOT DOG").tolist() == [0, 3]
    assert ids_with_label(mini_index, "a: b").tolist() == [1]
    # What is deleted since is left out where the reader says what is live.
    live = np.array([0, 2, 3], np.int64)
    assert ids_with_label(mini_index, "hot dog", live).tolist() == [0, 2, 3]
    with pytest.raises(LabelError, match=r"'fish'.*expected one of.*cat, Hot Dog"):
        ids_with_label(mini_index, "fish")
    with pytest.raises(LabelError, match="'cat'"):
        ids_with_label(mini_index, "meals:cat")
    with pytest.raises(LabelError, match=r"no label set 'plants'.*meals, pets"):
        labels_of(mini_index, "plants", [0])


def test_nothing_is_saved_yet(mini_index: Path) -> None:
    assert label_set_names(mini_index) == []
    assert list_label_sets(mini_index) == []
    with pytest.raises(LabelError, match="none is saved yet"):
        read_label_set(mini_index, "pets")
    with pytest.raises(LabelError, match="--save-as"):
        ids_with_label(mini_index, "dog")
    assert not (mini_index / "labels").exists()


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-x", "a/b", "a\\b", "a b", "a:b", "a*", "con", "Con.txt", "lpt1",
     "com¹", "trailing.", "x" * 65, "new\nline", "nul\0", "\udcff", "漢" * 60, "a\u202eb"],
)  # fmt: skip
def test_names_that_are_no_file_names_are_refused(name: str, mini_index: Path) -> None:
    with pytest.raises(LabelError, match="no name for a label set"):
        check_name(name)
    with pytest.raises(LabelError):
        save_rows(mini_index, name, ("cat",), [0])
    assert not (mini_index / "labels").exists()


@pytest.mark.parametrize("name", ["pets", "trip-2024", "a.b_c", "Äpfel", "猫", "x" * 64, "console"])
def test_names_that_will_do(name: str, mini_index: Path) -> None:
    save_rows(mini_index, name, ("cat",), [0])
    assert read_label_set(mini_index, name).name == name
    decomposed = unicodedata.normalize("NFD", name)
    assert read_label_set(mini_index, decomposed).name == name
    assert label_set_names(mini_index) == [name]


def test_names_that_differ_in_case_alone_clash(mini_index: Path) -> None:
    save_rows(mini_index, "Pets", ("cat",), [0])
    before = files(mini_index)
    with pytest.raises(LabelError, match="a label set Pets, and pets differs from it in case"):
        save_rows(mini_index, "pets", ("dog",), [0])
    assert files(mini_index) == before
    assert read_label_set(mini_index, "pets").labels == ("cat",)


def test_names_that_begin_alike_keep_apart(mini_index: Path) -> None:
    save_rows(mini_index, "a", ("cat",), [0])
    save_rows(mini_index, "a.0123456789ab", ("dog",), [0])
    save_rows(mini_index, "a", ("owl",), [0])
    assert read_label_rows(mini_index, "a.0123456789ab")[0].labels == ("dog",)
    delete_label_set(mini_index, "a")
    assert read_label_rows(mini_index, "a.0123456789ab")[0].labels == ("dog",)
    assert len([file for file in files(mini_index) if file.endswith(".parquet")]) == 1
    assert is_table_of("a", "a.0123456789ab.parquet")
    assert not is_table_of("a", "a.0123456789ab.0123456789ab.parquet")


def test_saving_again_replaces_and_leaves_nothing_behind(mini_index: Path) -> None:
    save_rows(mini_index, "pets", ("cat",), [0, 0])
    stray = mini_index / "labels" / ".tmp-99-killed"
    stray.write_bytes(b"half")
    (mini_index / "labels" / "notes.txt").write_text("mine")
    save_rows(mini_index, "pets", ("dog",), [0])
    endings = sorted(Path(file).suffix for file in files(mini_index))
    # One set, and the one before it: its table, and the JSON that it had.
    assert endings == [".json", ".lock", ".parquet", ".parquet", ".txt", ".version"]
    assert not stray.exists()
    assert ids_with_label(mini_index, "dog").tolist() == [0]
    delete_label_set(mini_index, "PETS")
    assert files(mini_index) == ["labels.lock", "notes.txt"]
    with pytest.raises(LabelError, match="no label set 'pets'"):
        delete_label_set(mini_index, "pets")


def test_a_save_that_fails_leaves_the_old_set(
    mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_rows(mini_index, "pets", ("cat",), [0, 0, 0])
    before = files(mini_index)

    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        replace_file(path, data)

    monkeypatch.setattr(label_set_saving, "replace_file", full)
    with pytest.raises(OSError, match="No space"):
        save_rows(mini_index, "pets", ("dog",), [0])
    assert files(mini_index) == before
    assert read_label_rows(mini_index, "pets")[0].labels == ("cat",)


def test_labels_that_are_no_text_are_refused(mini_index: Path) -> None:
    with pytest.raises(LabelError, match="is no text"):
        save_rows(mini_index, "pets", ("cat", "\udcff"), [0])
    assert not (mini_index / "labels").exists()


# -- damage ------------------------------------------------------------------------------------


def _edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path, Path], object]:
    """Change the JSON and seal it again, as another program might."""

    def damage(document: Path, table: Path) -> None:
        content = json.loads(document.read_bytes())
        del content["checksum"]
        change(content)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        document.write_text(json.dumps(content))

    return damage


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


_DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "bit in the middle of the JSON": (
        lambda document, table: _flip(document, document.stat().st_size // 2), "damaged"),
    "empty JSON": (lambda document, table: document.write_bytes(b""), "damaged"),
    "half a JSON": (
        lambda document, table: document.write_bytes(document.read_bytes()[:300]), "damaged"),
    "another JSON": (lambda document, table: document.write_text('{"a": 1}'), "no label set"),
    "deep JSON": (lambda document, table: document.write_text("[" * 100_000), "damaged"),
    "a list": (lambda document, table: document.write_text("[]"), "no label set"),
    "newer format": (_edit(lambda d: d.update(format_version=3)), "upgrade"),
    "no labels": (_edit(lambda d: d.update(labels=[])), "damaged"),
    "labels that are numbers": (_edit(lambda d: d.update(labels=[1, 2, 3])), "damaged"),
    "fewer labels": (_edit(lambda d: d.update(labels=["lion"])), "damaged"),
    "another kind": (_edit(lambda d: d.update(kind="guess")), "damaged"),
    "tag without statistics": (_edit(lambda d: d.update(kind="tag")), "damaged"),
    "a table outside": (
        _edit(lambda d: d["table"].update(name="../manifest.json")), "damaged"),  # type: ignore[attr-defined]
    "another index": (
        _edit(lambda d: d.update(index="00000000-0000-0000-0000-000000000000")), "another index"),
    "another name": (_edit(lambda d: d.update(name="other")), "holds the label set other|damaged"),
    "no table": (lambda document, table: table.unlink(), "lost its table"),
    "bit in the table": (lambda document, table: _flip(table, 40), "damaged"),
    "empty table": (lambda document, table: table.write_bytes(b""), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", _DAMAGE)
def test_damage_is_told_and_cured_by_saving_again(kind: str, mini_index: Path) -> None:
    wanted = save(mini_index)
    damage, word = _DAMAGE[kind]
    (table,) = (mini_index / "labels").glob("*.parquet")
    damage(mini_index / "labels" / "things.json", table)
    with pytest.raises(IndexFormatError, match=word) as caught:
        read_label_rows(mini_index, "things")
    message = str(caught.value)
    assert "\n" not in message
    assert "--save-as things" in message or "upgrade" in message
    with pytest.raises(IndexFormatError):
        ids_with_label(mini_index, "lion")
    found = verify_index(mini_index, sample=0)
    assert [finding.file for finding in found.of("error")] == ["labels/things.json"]
    save(mini_index)
    assert np.array_equal(read_label_rows(mini_index, "things")[1].labels, wanted.labels)
    # A table that is as it was saved is kept, as that of an earlier version.
    kept = 1 if kind == "fewer labels" else 0
    assert len(list((mini_index / "labels").glob("*.parquet"))) == 1 + kept
    assert verify_index(mini_index, sample=0).is_sound


def test_a_damaged_set_can_be_deleted(mini_index: Path) -> None:
    save(mini_index)
    (mini_index / "labels" / "things.json").write_bytes(b"\xff")
    delete_label_set(mini_index, "things")
    assert files(mini_index) == ["labels.lock"]


def test_repair_sets_a_damaged_set_aside(mini_index: Path) -> None:
    save(mini_index, "good")
    save(mini_index, "bad")
    before = verify_index(mini_index, sample=0)
    assert before.is_sound
    (table,) = (mini_index / "labels").glob("bad.*.parquet")
    _flip(table, 60)
    generation = open_generation(mini_index).manifest.generation
    done = repair_index(mini_index)
    assert done.is_mended
    assert done.after.is_sound
    assert [action for action in done.actions if "labels/bad.json" in action]
    assert open_generation(mini_index).manifest.generation == generation
    assert label_set_names(mini_index) == ["good"]
    kept = {file.name for file in (mini_index / "damaged").rglob("*") if file.is_file()}
    assert kept == {"bad.json", table.name}


def test_verify_counts_the_label_sets(mini_index: Path) -> None:
    before = verify_index(mini_index, sample=0)
    save(mini_index)
    after = verify_index(mini_index, sample=0)
    sizes = sum((mini_index / "labels" / name).stat().st_size for name in files(mini_index))
    assert after.is_sound
    assert (after.files, after.bytes) == (before.files + 2, before.bytes + sizes)


# -- beside other writers ----------------------------------------------------------------------


def test_indexing_and_compacting_leave_label_sets_alone(mini_index: Path, pictures: Path) -> None:
    wanted = save(mini_index)
    before = files(mini_index)
    half = mini_index / "labels" / ".tmp-1-being-written-now"
    half.write_bytes(b"half")
    shutil.copyfile(pictures / "lion.jpg", pictures / "again.jpg")
    build_index(pictures, mini_index)
    compact(mini_index)
    LocalStore(mini_index).remove_temporary_files()
    assert half.exists()
    half.unlink()
    assert files(mini_index) == before
    assert np.array_equal(read_label_rows(mini_index, "things")[1].ids, wanted.ids)


def _save_often(index: Path, name: str, label: str, count: int) -> None:
    for _ in range(count):
        save_rows(index, name, (label,), [0] * len(label))


def test_processes_that_save_at_once(mini_index: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    jobs = [("shared", "one"), ("shared", "three"), ("own", "of mine")]
    save_rows(mini_index, "shared", ("one",), [0] * 3)
    workers = [spawn.Process(target=_save_often, args=(mini_index, *job, 12)) for job in jobs]
    for worker in workers:
        worker.start()
    seen = set()
    while any(worker.is_alive() for worker in workers):
        found, rows = read_label_rows(mini_index, "shared")  # one of them, never a mixture
        assert len(rows.ids) == len(found.labels[0])
        seen.add(found.labels[0])
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert seen <= {"one", "three"}
    assert label_set_names(mini_index) == ["own", "shared"]
    assert len(ids_with_label(mini_index, "of mine")) == 7
    # Of each set its JSON and its table, and two files for each of its earlier versions; that
    # which was saved with the same labels again and again has none.
    assert [Path(file).suffix for file in files(mini_index) if file.startswith("own")] == [
        ".parquet",
        ".json",
    ]
    versions = label_set_versions(mini_index, "shared")
    assert 1 < len(versions) <= 1 + MOST_VERSIONS
    assert len(files(mini_index)) == 1 + 2 + 2 * len(versions)
    assert [a.number + 1 for a in versions[:-1]] == [b.number for b in versions[1:]]
    assert verify_index(mini_index, sample=0).is_sound


def test_a_lock_that_is_never_let_go(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_set_saving, "_WAIT_SECONDS", 0.05)
    with labels_lock(mini_index), pytest.raises(IndexLockedError, match="saving a label set"):
        save_rows(mini_index, "pets", ("cat",), [0])
    save_rows(mini_index, "pets", ("cat",), [0])


# -- the command line --------------------------------------------------------------------------


def test_classify_saves_and_takes_up_again(mini_index: Path, cli: Cli) -> None:
    at = ("--index", mini_index)
    own = ("--templates", "a photo of a {}", "--context", "a thing")
    first = cli("classify", "--labels", "lion,tower,drawing", "--none", "off", *own, *at, "--csv",
                "--save-as", "things")  # fmt: skip
    assert first.returncode == 0, first.stderr
    assert b"Saved as things: 9 images" in first.stderr
    again = cli("classify", "--labels", "@things", *at, "--csv")
    assert again.stdout == first.stdout
    saved, rows = read_label_rows(mini_index, "things")
    assert (saved.templates, saved.context) == (("a photo of a {}",), "a thing")
    table = list(csv.DictReader(io.StringIO(first.stdout.decode())))
    assert [row["label"] for row in table] == [saved.labels[code] for code in rows.labels]
    assert [float(row["probability"]) for row in table] == pytest.approx(rows.second, abs=1e-6)
    # With --top the best is what is saved.
    ranked = cli("classify", "--labels", "@THINGS", "--top", "2", *at, "--save-as", "two")
    assert ranked.returncode == 0
    assert np.array_equal(read_label_rows(mini_index, "two")[1].labels, rows.labels)


def test_what_the_command_line_refuses(mini_index: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at = ("--index", str(mini_index))
    save_rows(mini_index, "pets", ("cat", "dog"), [0, 1])
    before = files(mini_index)
    for arguments, words in (
        (("--labels", "@dogs"), ("no label set 'dogs'", "pets")),
        (("--labels", "@"), ("no label set ''", "pets")),
        (("--labels", "@pets", "--context", "x"), ("its own context", "--context")),
        (("--labels", "@pets", "--templates", "none"), ("its own templates",)),
        (("--labels", "a,b", "--save-as", "a/b"), ("no name for a label set",)),
        (("--labels", "a,b", "--save-as", "nul"), ("no name for a label set",)),
        (("--labels", "a,b", "--save-as", "PETS"), ("in case alone",)),
    ):
        assert run(["classify", *arguments, *at]) == 2, arguments
        told = capfd.readouterr().err
        assert told.count("\n") == 1, told
        assert all(word in told for word in words), told
    assert files(mini_index) == before


def test_the_command_lists_and_forgets(cli: Cli, cli_here: Cli, mini_index: Path) -> None:
    at = ("--index", mini_index)
    assert cli("labels", *at).returncode == 1
    for name in ("animals", "other"):
        made = cli_here(
            "classify", "--labels", "lion,tower,a logo", "--none", "off", "--save-as", name, *at
        )
        assert made.returncode == 0, made.stderr
    (row, _) = [json.loads(line) for line in cli_here("labels", "--json", *at).stdout.splitlines()]
    images = len(open_index(mini_index))
    assert (row["name"], row["kind"], row["labels"], row["images"]) == (
        "animals", "classify", 3, images,
    )  # fmt: skip
    counts = [
        json.loads(line)
        for line in cli_here("labels", "Animals", "--json", *at).stdout.splitlines()
    ]
    result = open_index(mini_index).classify(["lion", "tower", "a logo"], none="off")
    assert {one["label"]: one["images"] for one in counts} == {
        line.label: line.count for line in result.summary()
    }
    table = next((mini_index / "labels").glob("other*.parquet"))
    table.write_bytes(b"damaged")
    listed = cli_here("labels", *at)
    assert listed.stdout.decode().split("\t")[0] == "animals"
    assert b"other" in listed.stderr
    assert cli_here("labels", "other", *at).returncode == 2
    assert cli_here("labels", "other", "--forget", *at).returncode == 0
    assert cli_here("labels", "other", "--forget", *at).returncode == 2
    assert cli_here("labels", "--forget", *at).returncode == 2
    assert len(cli_here("labels", *at).stdout.splitlines()) == 1


def test_a_set_of_before_thresholds_labels_every_image_still(
    mini_index: Path, cli_here: Cli
) -> None:
    at = ("--index", mini_index)
    cli_here("classify", "--labels", "lion", "--none", "1", *at, "--save-as", "lions")
    assert all(not row["label"] for row in _rows(cli_here("classify", "--labels", "@lions", *at)))
    file = mini_index / "labels" / "lions.json"
    old = dataclasses.replace(parse_set("lions", file.read_bytes()), none=None)
    file.write_bytes(set_bytes(old))
    assert all(row["label"] for row in _rows(cli_here("classify", "--labels", "@lions", *at)))


def _rows(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, str]]:
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    return [dict(zip(("path", "label"), line.split("\t"), strict=False)) for line in lines]
