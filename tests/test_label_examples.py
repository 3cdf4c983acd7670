"""Examples of label sets: kept by content, vouched for, and found again."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsearch.errors import IndexFormatError, LabelError, QueryError
from clipsearch.generation import open_generation
from clipsearch.image_lookup import images_named
from clipsearch.label_corrections import image_meant, parse_correction, read_corrections
from clipsearch.label_examples import (
    ASKED,
    GIVEN,
    RANDOM,
    Correction,
    Example,
    examples_bytes,
    examples_ref,
    new_examples,
    read_examples,
    reworded_examples,
    usable_examples,
    with_examples,
)
from clipsearch.label_set_files import LabelRows
from clipsearch.label_set_saving import new_label_set, save_label_set
from clipsearch.label_sets import labels_folder, read_label_set
from indexer import build_index
from indexer.compact import compact
from indexer.prune import prune
from indexer.repair import repair_index
from indexer.verify import verify_index

LABELS = ("lion", "a = b", "Tower Bridge", "b")


def paths_of(index: Path) -> dict[int, Path]:
    state = open_generation(index)
    ids = state.vectors.ids
    places = state.paths.first_places(ids)
    return {int(i): place.path for i, place in zip(ids, places, strict=True) if place is not None}


def save_with(index: Path, examples: tuple[Example, ...], labels: tuple[str, ...] = LABELS) -> None:
    """Save the set pets with some examples."""
    state = open_generation(index)
    ids = state.vectors.ids
    zeros = np.zeros(len(ids), np.float32)
    data = examples_bytes(examples, state.manifest.uuid)
    new = dataclasses.replace(
        new_label_set(state, "pets", "classify", labels, "none", None),
        teaching=examples_ref(data, len(examples)),
    )
    rows = LabelRows(np.array(ids), np.zeros(len(ids), np.int32), zeros, zeros)
    save_label_set(index, new, rows, data)


def example(number: int, label: str | None, **more: str) -> Example:
    return Example(number, bytes([number]) * 32, label, **more)


def test_examples_are_read_as_they_were_saved(mini_index: Path) -> None:
    given = (
        example(2, "lion", chosen=ASKED, at="2026-01-02T03:04:05+00:00"),
        example(5, None, chosen=RANDOM),
        example(7, "ライオン\t✓"),
    )
    save_with(mini_index, given[::-1])
    saved = read_label_set(mini_index, "pets")
    folder = labels_folder(mini_index)
    assert read_examples(folder, saved) == given
    assert saved.teaching is not None
    assert saved.teaching.rows == 3
    # A person can read them without us.
    plain = pq.read_table(folder / saved.teaching.name).to_pydict()
    assert plain["label"] == ["lion", None, "ライオン\t✓"]
    assert plain["sha256"][0] == b"\2" * 32
    with pytest.raises(LabelError, match="no text"):
        examples_bytes([example(1, "half \udcff")], "x")


def test_damaged_examples_are_an_error_that_repair_takes_out(mini_index: Path) -> None:
    save_with(mini_index, (example(1, "lion"),))
    save_with(mini_index, (example(1, "lion"), example(2, "b")))
    saved = read_label_set(mini_index, "pets")
    folder = labels_folder(mini_index)
    assert saved.teaching is not None
    assert verify_index(mini_index, sample=0).is_sound
    file = folder / saved.teaching.name
    whole = file.read_bytes()
    for damaged in (whole[:-8], b"", whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]):
        file.write_bytes(damaged)
        with pytest.raises(IndexFormatError, match="examples of the label set pets are damaged"):
            read_examples(folder, saved)
    found = verify_index(mini_index, sample=0)
    assert [(finding.kind, Path(finding.file).name) for finding in found.of("error")] == [
        ("label-examples", file.name)
    ]
    done = repair_index(mini_index)
    assert done.is_mended
    assert [path.name for path in (mini_index / "damaged").rglob("*.examples")] == [file.name]
    now = read_label_set(mini_index, "pets")
    assert now == dataclasses.replace(saved, teaching=None)
    assert not file.exists()
    assert [path.suffix for path in folder.glob("*.examples")] == [".examples"]  # of version 1
    file.unlink(missing_ok=True)
    save_with(mini_index, (example(3, "b"),))
    lost = read_label_set(mini_index, "pets")
    assert lost.teaching is not None
    (folder / lost.teaching.name).unlink()
    with pytest.raises(IndexFormatError, match="their file is lost"):
        read_examples(folder, lost)


def test_what_is_said_later_counts_and_what_is_said_again_stays() -> None:
    before = (example(1, "lion", at="then"), example(2, "b", chosen=RANDOM, at="then"))
    after = with_examples(
        before,
        (
            example(1, "lion", at="now"),
            example(2, "lion", at="now"),
            example(3, None, chosen=ASKED, at="now"),
        ),
    )
    assert [(one.id, one.label, one.chosen, one.at) for one in after] == [
        (1, "lion", GIVEN, "then"),
        (2, "lion", RANDOM, "now"),
        (3, None, ASKED, "now"),
    ]
    again = reworded_examples(after, [("LION ", "mountain  lion"), ("zebra", "horse")])
    assert [one.label for one in again] == ["mountain lion", "mountain lion", None]


def test_new_examples_of_files_ids_and_contents(mini_index: Path, tmp_path: Path) -> None:
    state = open_generation(mini_index)
    paths = paths_of(mini_index)
    (first, one), (second, two), (third, three), *_ = paths.items()
    elsewhere = tmp_path / "moved and = renamed.jpg"
    shutil.copyfile(two, elsewhere)
    found = new_examples(
        state,
        LABELS,
        [
            Correction(str(one), "  LION"),
            Correction(elsewhere, "tower  bridge", RANDOM),
            Correction(three.read_bytes(), None),
            Correction(first, "lion"),  # the same said twice
        ],
    )
    wanted = [(first, "lion", GIVEN), (second, "Tower Bridge", RANDOM), (third, None, GIVEN)]
    assert [(one.id, one.label, one.chosen) for one in found] == wanted
    assert all(len(one.sha256) == 32 and one.at for one in found)
    assert images_named(state, [str(one), elsewhere, second]) == [first, second, second]


@pytest.mark.parametrize(
    ("corrections", "error", "word"),
    [
        ([Correction(0, "zebra")], LabelError, "no label 'zebra' in the set: expected one of lion"),
        ([Correction(0, "lion"), Correction(0, "b")], LabelError, "two labels, 'lion' and 'b'"),
        ([Correction(0, "lion"), Correction(0, None)], LabelError, "'lion' and none of these"),
        ([Correction(987654, "lion")], QueryError, "no image 987654 in the index"),
        ([Correction(-1, "lion")], QueryError, "no image -1 in the index"),
        ([Correction(1 << 70, "lion")], QueryError, "in the index"),
        ([Correction("/no/such.jpg", "lion")], LabelError, "such.jpg' is not in the index"),
        ([Correction(b"no image", "lion")], LabelError, "an image is not in the index"),
        ([Correction("", "lion")], QueryError, "expected an image file, got ''"),
        ([Correction("a\0b", "lion")], QueryError, "expected an image file"),
    ],
)
def test_what_cannot_be_an_example(
    corrections: list[Correction], error: type[Exception], word: str, mini_index: Path
) -> None:
    with pytest.raises(error, match=word) as caught:
        new_examples(open_generation(mini_index), LABELS, corrections)
    assert "\n" not in str(caught.value)


def test_a_file_that_has_another_content_now_is_not_the_image_of_its_path(
    pictures: Path, tmp_path: Path
) -> None:
    index = tmp_path / "photos.index"
    build_index(pictures, index, encoder="mini")
    state = open_generation(index)
    (first, one), (second, two), *_ = paths_of(index).items()
    os.utime(one, (1, 1))  # touched, but the same bytes
    two.write_bytes(b"something else")
    gone = next(path for number, path in paths_of(index).items() if number not in (first, second))
    gone.unlink()
    assert images_named(state, [one]) == [first]
    assert images_named(state, [gone])[0] == state.paths.id_at(gone)
    with pytest.raises(LabelError, match="neither by its path nor by its content"):
        images_named(state, [two])


def test_examples_follow_their_content_and_rest(pictures: Path, tmp_path: Path) -> None:
    index = tmp_path / "photos.index"
    build_index(pictures, index, encoder="mini")
    state = open_generation(index)
    paths = paths_of(index)
    ids = [number for number in paths if len(state.paths.places(number)) == 1][:4]
    given = [
        Correction(ids[0], "lion"),
        Correction(ids[1], "b"),
        Correction(ids[2], None),
        Correction(ids[3], "Tower Bridge"),
    ]
    examples = new_examples(state, LABELS, given)
    usable = usable_examples(state, examples, LABELS)
    assert (usable.ids.tolist(), usable.labels.tolist()) == (sorted(ids), [0, 3, -1, 2])
    assert (usable.gone, usable.resting) == (0, 0)
    # One label is taken out; one image comes back under another id; one is gone.
    for number in (ids[1], ids[2]):
        paths[number].rename(tmp_path / paths[number].name)
    build_index(pictures, index)
    prune(index)
    compact(index)
    back = shutil.copyfile(tmp_path / paths[ids[2]].name, pictures / "back.jpg")
    build_index(pictures, index)
    state = open_generation(index)
    now = images_named(state, [back])[0]
    assert now not in ids
    usable = usable_examples(state, examples, ("tower bridge", "lion"))
    assert dict(zip(usable.ids.tolist(), usable.labels.tolist(), strict=True)) == {
        ids[0]: 1,
        ids[3]: 0,
        now: -1,
    }
    assert (usable.gone, usable.resting) == (1, 0)
    assert [one.id for one in usable.examples] == usable.ids.tolist()
    usable = usable_examples(state, examples, ("other",))
    assert (usable.labels.tolist(), usable.gone, usable.resting) == ([-1], 1, 2)


@pytest.mark.parametrize(
    ("text", "image", "label"),
    [
        ("a.jpg=lion", "a.jpg", "lion"),
        ("a=b/c=d.jpg=LION", "a=b/c=d.jpg", "lion"),
        ("x.jpg=a = b", "x.jpg", "a = b"),
        ("x=y.jpg=b", "x=y.jpg", "b"),
        ("17=tower bridge", 17, "Tower Bridge"),
        ("./17=b", "./17", "b"),
    ],
)
def test_an_answer_as_text(text: str, image: str | int, label: str) -> None:
    assert parse_correction(text, LABELS) == Correction(image, label)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a.jpg", "expected IMAGE=LABEL"),
        ("a.jpg=", "names no label"),
        ("=lion", "image is not named"),
        ("a.jpg=zebra", "no label 'zebra' in the set"),
    ],
)
def test_an_answer_that_is_none(text: str, word: str) -> None:
    with pytest.raises(LabelError, match=word):
        parse_correction(text, LABELS)
    assert image_meant("007") == 7
    assert image_meant("²") == "²"


def test_a_csv_of_answers(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    odd = os.fsencode(str(tmp_path)) + b"/caf\xe9.jpg"
    rows = [
        b"ID,Path,why,label,chosen",
        b"5,,x,lion,asked",
        b'6,"a, b.jpg",x,"a = b",',
        b"7," + odd + b",x,none,random",
        b"8,c.jpg,x, ,random",
        b",d.jpg,x,NONE of these,given",
        b"",
    ]
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    read = read_corrections(file, LABELS)
    assert read.corrections == (
        Correction(5, "lion", ASKED),
        Correction("a, b.jpg", "a = b", GIVEN),
        Correction(os.fsdecode(odd), None, RANDOM),
        Correction("d.jpg", None, GIVEN),
    )
    assert read.unanswered == 1
    # Without a first line of names; and a label that is called none is one.
    file.write_text("1.jpg,none\n2.jpg,lion\n")
    read = read_corrections(file, ("lion", "None"))
    assert read.corrections == (Correction("1.jpg", "None"), Correction("2.jpg", "lion"))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "is empty"),
        (b"path,label\na.jpg,zebra\n", "row 2: there is no label 'zebra'"),
        (b"a.jpg\n", "row 1: expected path and label"),
        (b"path,label,chosen\na.jpg,lion,maybe\n", "row 2: expected chosen to be given, asked or"),
        (b"id,label\n,lion\n", "row 2: an image is not named"),
        (b'path,label\n"' + b"a" * 200_000 + b'",lion\n', "is no CSV"),
        (None, "expected a CSV of corrections"),
    ],
)
def test_a_csv_that_is_none(data: bytes | None, word: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(LabelError, match=word) as caught:
        read_corrections(file, LABELS)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_examples(mini_index: Path) -> None:
    save_with(mini_index, (example(1, "lion"),))
    saved = read_label_set(mini_index, "pets")
    folder = labels_folder(mini_index)
    assert saved.teaching is not None
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": [1]}), sink)
    data = sink.getvalue()
    (folder / saved.teaching.name).write_bytes(data)
    forged = dataclasses.replace(
        saved, teaching=dataclasses.replace(examples_ref(data, 1), name=saved.teaching.name)
    )
    with pytest.raises(IndexFormatError, match="cannot be read"):
        read_examples(folder, forged)
