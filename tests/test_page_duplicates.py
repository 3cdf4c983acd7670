"""Duplicates on the page: ``api/duplicates``, over the real application."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipsearch import open_index
from clipsearch.duplicate_groups import DuplicateFile, DuplicateGroup, Duplicates
from clipsearch.image_index import ImageIndex
from indexer import build_index
from ui.duplicate_searches import FoundDuplicates, chosen
from ui.page_errors import PageError


@pytest.fixture(scope="module")
def _built(_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the pictures, of copies of three and of smaller ones of two of those."""
    folder = tmp_path_factory.mktemp("duplicates")
    photos = Path(shutil.copytree(_pictures, folder / "photos"))
    (photos / "backup").mkdir()
    large = sorted(photos.glob("*.*"), key=lambda file: -file.stat().st_size)[:3]
    for file in large:
        shutil.copy2(file, photos / "backup" / f"{file.stem} (1){file.suffix}")
    for file in large[:2]:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((image.width // 2, image.height // 2))
            small.save(photos / "backup" / f"{file.stem}_small.jpg", quality=80)
    build_index(photos, folder / "photos.index", encoder="mini")
    return folder / "photos.index"


@pytest.fixture
def index(_built: Path) -> ImageIndex:
    return open_index(_built)


@pytest.fixture(scope="module")
def page(_built: Path) -> Any:
    """Making the application takes a second: one does for all tests of this module."""
    from starlette.testclient import TestClient

    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app

    settings = PageSettings()
    app = create_app(Library(_built, settings), settings)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def found(page: Any, kind: str, rest: str = "") -> Any:
    last = time.monotonic() + 60
    while time.monotonic() < last:
        answer = page.get(f"/api/duplicates?kind={kind}{rest}")
        assert answer.status_code == 200, answer.text
        if not answer.json()["running"]:
            return answer.json()
    raise AssertionError("the search for duplicates does not end")


def listed(page: Any, kind: str, status: int = 200, **more: Any) -> Any:
    document = {"kind": kind, "search": found(page, kind)["search"], **more}
    answer = page.post("/api/duplicates/list", json=document)
    assert answer.status_code == status, answer.text
    return answer


@pytest.mark.parametrize("kind", ["exact", "copy", "near"])
def test_the_groups_are_those_of_the_library(page: Any, index: ImageIndex, kind: str) -> None:
    wanted = index.duplicates(kind)
    told = found(page, kind)
    assert len(wanted) >= 2
    assert told["total"] == len(wanted)
    assert told["bytes_to_free"] == sum(group.bytes_to_free for group in wanted)
    assert told["files"] == sum(len(group.others) for group in wanted)
    for document, group in zip(told["groups"], wanted, strict=True):
        assert [file["path"] for file in document["files"]] == [str(f.path) for f in group.files]
        assert [file["name"] for file in document["files"]] == [f.path.name for f in group.files]
        assert document["reason"] == group.reason
        assert document["files"][0]["width"] == group.keep.width


def test_groups_come_in_pages(page: Any) -> None:
    everything = found(page, "exact")
    one_by_one = [
        found(page, "exact", f"&limit=1&offset={at}") for at in range(everything["total"] + 1)
    ]
    assert (
        list(itertools.chain(*(answer["groups"] for answer in one_by_one))) == everything["groups"]
    )
    assert {answer["search"] for answer in one_by_one} == {everything["search"]}
    answer = page.get(
        "/api/duplicates/files",
        params={"kind": "exact", "search": everything["search"], "group": 0, "offset": 1},
    ).json()
    assert answer["files"] == everything["groups"][0]["files"][1:]


def test_looking_again_is_a_search_of_its_own(page: Any) -> None:
    first = found(page, "exact")
    again = found(page, "exact", "&again=true")
    assert again["search"] != first["search"]
    document = {"kind": "exact", "search": first["search"]}
    answer = page.post("/api/duplicates/list", json=document)
    assert answer.status_code == 409
    assert "look again" in answer.json()["error"]


def test_the_list_parts_with_no_file_that_is_kept(page: Any, index: ImageIndex) -> None:
    answer = listed(page, "near", list="others", format="txt")
    assert answer.headers["content-disposition"] == 'attachment; filename="near-others.txt"'
    assert answer.headers["content-type"].startswith("text/plain")
    kept = {str(group.keep.path) for group in index.duplicates("near")}
    others = answer.text.splitlines()
    assert len(others) == len(set(others)) >= 3
    assert not kept & set(others)
    assert set(listed(page, "near", list="keep").text.splitlines()) == kept


def test_another_file_is_kept_or_all_of_them(page: Any, index: ImageIndex) -> None:
    groups = list(index.duplicates("exact"))
    paths = listed(page, "exact", choices={"0": 1, "1": None}).text.splitlines()
    assert str(groups[0].keep.path) in paths
    assert str(groups[0].others[0].path) not in paths
    assert not {str(file.path) for file in groups[1].files} & set(paths)
    assert str(groups[2].others[0].path) in paths
    rows = list(csv.DictReader(io.StringIO(listed(page, "exact", format="csv").text)))
    assert [row["path"] for row in rows if row["keep"] == "1"] == [str(g.keep.path) for g in groups]
    lines = listed(page, "exact", format="json", choices={"1": None}).text.splitlines()
    assert [json.loads(line)["files"][0]["path"] for line in lines] == [
        str(group.keep.path) for at, group in enumerate(groups) if at != 1
    ]


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"kind": "melted"}, 400),
        ({"list": "none"}, 400),
        ({"format": "exe"}, 400),
        ({"search": "1"}, 400),
        ({"search": 999}, 409),
        ({"choices": [1]}, 400),
        ({"choices": {"x": 1}}, 400),
        ({"choices": {"99": None}}, 404),
        ({"choices": {"0": 7}}, 404),
        ({"choices": {"0": "1"}}, 400),
        ({"choices": {str(n): None for n in range(30_000)}}, 413),
    ],
)
def test_lists_that_make_no_sense_are_refused(page: Any, document: Any, status: int) -> None:
    wish = {"kind": "exact", "search": found(page, "exact")["search"], **document}
    answer = page.post("/api/duplicates/list", json=wish)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "question", ["?kind=melted", "?offset=-1", "?limit=0", "?limit=101", "/files?kind=exact"]
)
def test_questions_that_make_no_sense_are_refused(page: Any, question: str) -> None:
    answer = page.get(f"/api/duplicates{question}")
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_group_whose_file_to_keep_has_gone_is_left_out(
    page: Any, index: ImageIndex, tmp_path: Path
) -> None:
    groups = index.duplicates("exact")
    search = found(page, "exact")["search"]
    gone = groups[0].keep.path
    moved = shutil.move(gone, tmp_path / gone.name)
    try:
        answer = page.post("/api/duplicates/list", json={"kind": "exact", "search": search})
        again = found(page, "exact", "&again=true")
    finally:
        shutil.move(moved, gone)
    assert not {str(file.path) for file in groups[0].files} & set(answer.text.splitlines())
    assert str(groups[1].others[0].path) in answer.text.splitlines()
    assert again["total"] == len(groups) - 1
    assert again["changed"] == 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Looking for duplicates takes until the event is set."""
    go = threading.Event()
    look = ImageIndex.duplicates

    def slow(self: ImageIndex, *values: Any, **named: Any) -> Duplicates:
        assert go.wait(60)
        return look(self, *values, **named)

    monkeypatch.setattr(ImageIndex, "duplicates", slow)
    monkeypatch.setattr("ui.duplicate_routes._PATIENCE_SECONDS", 0.1)
    yield go
    go.set()


def test_a_long_search_is_told_to_run(page: Any, index: ImageIndex, held: threading.Event) -> None:
    first = page.get("/api/duplicates?kind=exact&again=true").json()
    assert first["running"]
    assert first["groups"] == []
    held.set()
    assert found(page, "exact")["total"] == len(index.duplicates("exact"))


def test_what_fails_is_told_and_tried_again(
    page: Any, index: ImageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ImageIndex, *values: Any, **named: Any) -> Duplicates:
        raise OSError(5, "Input/output error", "/somewhere/secret")

    with monkeypatch.context() as patch:
        patch.setattr(ImageIndex, "duplicates", broken)
        answer = page.get("/api/duplicates?kind=exact&again=true")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert found(page, "exact")["total"] == len(index.duplicates("exact"))


def file(name: str, place: Path, image_id: int) -> DuplicateFile:
    path = place / name
    path.write_bytes(b"x")
    return DuplicateFile(image_id, path, 1, 10, 10, 1.0, 0)


def test_a_file_of_a_group_that_is_kept_whole_is_in_no_list(tmp_path: Path) -> None:
    one, two, three = (file(name, tmp_path, at) for at, name in enumerate(("a", "b", "c")))
    groups = (
        DuplicateGroup("copy", one, "the larger", (two,)),
        DuplicateGroup("burst", three, "the sharpest", (two, one)),
    )
    search = FoundDuplicates(1, "near", 1, 0.0, Duplicates(groups))
    assert [g.others for g in chosen(search, {})] == [(two,), (two, one)]
    assert chosen(search, {0: None}) == []
    assert chosen(search, {1: None}) == []
    assert [g.keep for g in chosen(search, {1: 1})] == [one, two]
    with pytest.raises(PageError):
        chosen(search, {2: None})
