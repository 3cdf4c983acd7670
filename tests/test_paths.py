"""The paths table: what was written last counts."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clipsearch.errors import IndexFormatError
from clipsearch.manifest import Manifest, Root, new_manifest
from clipsearch.path_table import PathTable
from clipsearch.paths import Place, latest_rows, read_paths, relative_bytes
from clipsearch.shards import PATH_SCHEMA, write_table
from clipsearch.store import LocalStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Row = tuple[int, bytes, int, str]


def table_of(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "root": root,
                "path": path,
                "name": path.decode("utf-8", "replace"),
                "size": 1,
                "mtime_ns": 2,
                "inode": 3,
                "id": image_id,
                "state": state,
                "first_seen": NOW,
                "last_seen": NOW,
            }
            for root, path, image_id, state in rows
        ],
        schema=PATH_SCHEMA,
    )


class Written:
    """An index that holds only tables of paths."""

    def __init__(self, place: Path) -> None:
        self.store = LocalStore(place)
        self.manifest: Manifest = dataclasses.replace(
            new_manifest("test"),
            roots=(Root(0, "/photos"), Root(1, "/photos/old"), Root(2, "/usb")),
        )

    def write(self, *rows: Row) -> None:
        name = f"paths/{len(self.manifest.paths):07d}.parquet"
        ref = write_table(self.store, name, table_of(list(rows)), kind="paths", index_uuid="u")
        self.manifest = dataclasses.replace(self.manifest, paths=(*self.manifest.paths, ref))

    @property
    def table(self) -> PathTable:
        return PathTable(self.store, self.manifest)


@pytest.fixture
def index(tmp_path: Path) -> Written:
    return Written(tmp_path)


def test_no_paths(index: Written) -> None:
    assert len(index.table) == 0
    assert index.table.places(0) == []
    assert index.table.first_places([1, 2]) == [None, None]
    assert index.table.id_at(Path("/photos/a.jpg")) is None
    assert (index.table.present, index.table.missing, index.table.copies) == (0, 0, 0)
    index.write()
    assert len(index.table) == 0
    assert index.table.id_at(Path("/photos/a.jpg")) is None


def test_later_rows_supersede(index: Written) -> None:
    index.write(
        (0, b"a.jpg", 1, "present"), (0, b"b.jpg", 2, "present"), (0, b"a.jpg", 3, "present")
    )
    index.write((0, b"b.jpg", 4, "present"), (1, b"a.jpg", 5, "present"))
    index.write((0, b"b.jpg", 4, "missing"))
    table = index.table
    assert len(table) == 3
    assert [table.places(i) for i in (1, 2)] == [[], []]
    assert table.places(3) == [Place(Path("/photos/a.jpg"), False)]
    assert table.places(4) == [Place(Path("/photos/b.jpg"), True)]
    assert table.places(5) == [Place(Path("/photos/old/a.jpg"), False)]
    assert (table.present, table.missing) == (2, 1)


def test_forgotten_rows_vanish_and_may_come_back(index: Written) -> None:
    index.write((0, b"a.jpg", 1, "present"), (0, b"b.jpg", 2, "present"))
    index.write((0, b"a.jpg", 1, "forgotten"))
    assert len(index.table) == 1
    assert index.table.places(1) == []
    assert index.table.id_at(Path("/photos/a.jpg")) is None
    index.write((0, b"a.jpg", 7, "present"))
    assert index.table.id_at(Path("/photos/a.jpg")) == 7
    index.write((0, b"a.jpg", 7, "forgotten"), (0, b"b.jpg", 2, "forgotten"))
    assert len(index.table) == 0


def test_same_path_below_two_roots(index: Written) -> None:
    index.write(
        (0, b"a.jpg", 1, "present"), (2, b"a.jpg", 2, "present"), (1, b"0a.jpg", 3, "present")
    )
    index.write((1, b"a.jpg", 4, "present"))
    assert len(index.table) == 4
    assert index.table.id_at(Path("/usb/a.jpg")) == 2
    assert index.table.id_at(Path("/photos/a.jpg")) == 1


def test_present_places_come_first(index: Written) -> None:
    index.write(
        (0, b"gone.jpg", 1, "missing"), (0, b"z.jpg", 1, "present"), (2, b"a.jpg", 1, "present")
    )
    table = index.table
    assert [(place.path.name, place.missing) for place in table.places(1)] == [
        ("z.jpg", False),
        ("a.jpg", False),
        ("gone.jpg", True),
    ]
    assert (table.present, table.missing, table.copies) == (2, 1, 1)
    assert table.first_places([1]) == [Place(Path("/photos/z.jpg"), False)]


def test_the_shortest_of_copies_comes_first(index: Written) -> None:
    """Whose name is the longer, "cheetah (2).jpg", is the copy."""
    names = (b"cheetah (2).jpg", b"cheetah-copy.jpg", b"cheetah.jpg", b"old/cheetah.jpg")
    index.write(*((0, name, 1, "present") for name in names), (0, b"c.jpg", 1, "missing"))
    places = [place.path.relative_to("/photos").as_posix() for place in index.table.places(1)]
    assert places == [
        "cheetah.jpg",
        "cheetah (2).jpg",
        "old/cheetah.jpg",
        "cheetah-copy.jpg",
        "c.jpg",
    ]


def test_first_places(index: Written) -> None:
    index.write(*((0, b"%d.jpg" % i, i, "present") for i in (9, 3, 5)))
    for ids in ([5, 1, 9, 99, 3, 5], np.array([5, 1, 9, 99, 3, 5])):
        found = index.table.first_places(ids)
        assert [place and place.path.name for place in found] == [
            "5.jpg", None, "9.jpg", None, "3.jpg", "5.jpg",
        ]  # fmt: skip
    assert index.table.first_places(iter([3])) == index.table.first_places([3])
    assert index.table.first_places([]) == []


@pytest.mark.skipif(os.name == "nt", reason="file names are no bytes on Windows")
def test_names_that_are_not_utf8(index: Written) -> None:
    names = [
        b"caf\xe9.jpg",
        b"\xff\xfe/\x80.jpg",
        "\u732b/\U0001f98a.jpg".encode(),
        b"new\nline.jpg",
    ]
    index.write(*((0, name, number, "present") for number, name in enumerate(names)))
    for number, name in enumerate(names):
        (place,) = index.table.places(number)
        assert os.fsencode(place.path) == b"/photos/" + name
        assert index.table.id_at(place.path) == number
        assert os.fsencode(relative_bytes(name)) == name


@pytest.mark.skipif(os.name == "nt", reason="file names are no bytes on Windows")
def test_root_that_is_not_utf8(index: Written) -> None:
    root = os.fsdecode(b"/caf\xe9")
    index.manifest = dataclasses.replace(index.manifest, roots=(Root(0, root),))
    index.write((0, b"a.jpg", 4, "present"))
    assert os.fsencode(index.table.places(4)[0].path) == b"/caf\xe9/a.jpg"
    assert index.table.id_at(Path(root, "a.jpg")) == 4


def test_id_at(index: Written) -> None:
    index.write(
        (0, b"sub/a.jpg", 1, "present"), (1, b"b.jpg", 2, "present"), (2, b"c.jpg", 3, "missing")
    )
    table = index.table
    assert table.id_at(Path("/photos/sub/a.jpg")) == 1
    assert table.id_at(Path("/photos/old/b.jpg")) == 2  # below two roots, known in one
    assert table.id_at(Path("/usb/c.jpg")) == 3
    for unknown in ("/photos", "/photos/sub", "/photos/a.jpg", "/else/a.jpg", "/", "sub/a.jpg"):
        assert table.id_at(Path(unknown)) is None
    assert table.id_at(Path("/photosub/a.jpg")) is None


def test_unknown_root(index: Written) -> None:
    index.write((7, b"a.jpg", 1, "present"))
    with pytest.raises(IndexFormatError, match="root 7"):
        index.table.places(1)


def test_rows_stay_in_the_order_written() -> None:
    rows: list[Row] = [(0, b"%d" % (i % 40), i, "present") for i in range(100)]
    kept = latest_rows(table_of(rows))
    assert kept.column("id").to_pylist() == list(range(60, 100))
    assert latest_rows(kept).equals(kept)


def test_chunks_do_not_matter(index: Written) -> None:
    for number in range(5):
        index.write(*((0, b"%d" % i, 10 * number + i, "present") for i in range(number, 8)))
    table = read_paths(index.store, index.manifest)
    by_path = dict(zip(table["path"].to_pylist(), table["id"].to_pylist(), strict=True))
    assert by_path == {b"%d" % i: 10 * min(i, 4) + i for i in range(8)}


def test_against_a_dictionary(index: Written) -> None:
    chance = np.random.default_rng(3)
    states = ["present", "missing", "forgotten"]
    wanted: dict[tuple[int, bytes], tuple[int, str]] = {}
    for _ in range(6):
        rows: list[Row] = [
            (int(chance.integers(3)), b"%d" % chance.integers(30), int(chance.integers(40)), state)
            for state in chance.choice(states, 50).tolist()
        ]
        index.write(*rows)
        for root, path, image_id, state in rows:
            wanted[root, path] = (image_id, state)
    wanted = {key: value for key, value in wanted.items() if value[1] != "forgotten"}
    table = index.table
    assert len(table) == len(wanted)
    assert table.missing == sum(state == "missing" for _, state in wanted.values())
    here = [image_id for image_id, state in wanted.values() if state == "present"]
    assert table.copies == len(here) - len(set(here))
    roots = {root.id: root.path for root in index.manifest.roots}
    for image_id in range(40):
        places = {(place.path, place.missing) for place in table.places(image_id)}
        assert places == {
            (Path(roots[root], path.decode()), state == "missing")
            for (root, path), (held, state) in wanted.items()
            if held == image_id
        }
