"""The Index tab: what the index holds, and ``clipsearch index`` started from the page."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import IndexLockedError
from indexer.progress_lines import ProgressLines
from indexer.report import Committed, Encoded, Planned
from tests.page_browser import BrowserPages, PageServer, open_tab, photos_in_sight
from tests.page_library import api_app
from ui.allowed_folders import AllowedFolders
from ui.page_errors import PageError

Lent = Callable[..., Any]


@pytest.fixture
def page_client() -> Iterator[Lent]:
    """``page_client(index, **settings)``: a client of the real application."""
    from starlette.testclient import TestClient

    with contextlib.ExitStack() as open_clients:

        def client(index: Path | None, **settings: Any) -> TestClient:
            app = api_app(index, **settings)
            return open_clients.enter_context(
                TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
            )

        yield client


def until_ended(client: Any, seconds: float = 90) -> dict[str, Any]:
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        run: dict[str, Any] = client.get("/api/indexing/run").json()
        if run["state"] in ("done", "failed", "cancelled"):
            return run
        time.sleep(0.1)
    raise AssertionError(f"still {run}")


def test_what_the_index_holds(page_client: Lent, mini_index: Path) -> None:
    told = page_client(mini_index).get("/api/indexing").json()
    status = told["status"]
    assert status["images"] == 9
    assert (status["files"], status["copies"]) == (12, 3)
    assert (status["missing"], status["skipped"]) == (0, 0)
    assert (status["model"], status["dimensions"]) == ("mini", 256)
    assert status["bytes"] > 1000
    assert told["run"] is None
    assert told["models"] == []
    assert told["folders"] == []
    assert told["can_update"] is False


def test_without_an_allowed_folder_nothing_can_be_indexed(
    page_client: Lent, mini_index: Path, pictures: Path
) -> None:
    client = page_client(mini_index)
    for body in ({"root": 0, "below": ""}, {"root": 0, "below": str(pictures)}, {"update": True}):
        answer = client.post("/api/indexing/run", json=body)
        assert answer.status_code == 403
        assert str(pictures) not in answer.text
    assert client.get("/api/indexing/folders?root=0").status_code == 403
    assert client.get("/api/indexing/run").json() is None


def test_no_way_out_of_an_allowed_folder(page_client: Lent, tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    for folder in (allowed / "inner", secret / "deep"):
        folder.mkdir(parents=True)
    (allowed / "a-file").write_text("no folder")
    if hasattr(os, "symlink"):
        (allowed / "out").symlink_to(secret)
        (allowed / "in").symlink_to(allowed / "inner")
        (allowed / "round").symlink_to(allowed / "round")
    client = page_client(tmp_path / "new.index", allowed_folders=(allowed,))
    shown = client.get("/api/indexing/folders?root=0").json()
    assert shown == {"name": "allowed", "folders": ["in", "inner"], "more": 0}
    hostile = ["..", "../secret", "inner/../../secret", "out", "out/deep", str(secret), "/etc"]
    for below in [*hostile, "round", "a-file", "not-there", "in\0ner", "x" * 4000]:
        status = 403 if below in hostile else 404
        asked = client.get("/api/indexing/folders", params={"root": 0, "below": below})
        assert (below[:20], asked.status_code) == (below[:20], status)
        body = {"root": 0, "below": below, "model": "mini"}
        posted = client.post("/api/indexing/run", json=body)
        assert (below[:20], posted.status_code) == (below[:20], status)
        for answer in (asked, posted):
            assert str(tmp_path) not in answer.text
    assert client.get("/api/indexing/folders?root=1").status_code == 403
    assert client.get("/api/indexing/run").json() is None


def test_what_is_no_request_starts_nothing(
    page_client: Lent, tmp_path: Path, pictures: Path
) -> None:
    client = page_client(tmp_path / "new.index", allowed_folders=(pictures,))
    for body in (
        {},
        {"root": "0"},
        {"root": -1},
        {"root": True},
        {"root": 0.5},
        {"root": 0, "below": ["a"]},
        {"root": 0, "below": "x" * 5000},
        {"root": 0, "model": "--device"},
        {"root": 0, "model": "hf-hub:someone/else"},
        {"root": 0, "model": 7},
        {"root": 0},
        ["root", 0],
        "root",
    ):
        answer = client.post("/api/indexing/run", json=body)
        assert 400 <= answer.status_code < 500, body
        assert client.get("/api/indexing/run").json() is None, body
    assert not (tmp_path / "new.index").exists()


def test_hidden_folders_and_indexes_are_not_offered(tmp_path: Path) -> None:
    for name in (".git", "photos.index", "B", "a", *(f"n{i:03}" for i in range(600))):
        (tmp_path / name).mkdir()
    listing = AllowedFolders([tmp_path]).listing(0, "")
    assert listing.folders[:3] == ("a", "B", "n000")
    assert (len(listing.folders), listing.more) == (500, 102)
    with pytest.raises(PageError, match="no such folder"):
        AllowedFolders([tmp_path]).listing(0, "b\0")


@pytest.mark.slow
def test_an_index_is_made_then_updated(page_client: Lent, tmp_path: Path, pictures: Path) -> None:
    place = tmp_path / "new.index"
    (pictures / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (pictures / "<b>empty.png").write_bytes(b"")
    client = page_client(place, allowed_folders=(tmp_path / "other", pictures))
    before = client.get("/api/indexing").json()
    assert before["status"] is None
    assert "mini" in [model["name"] for model in before["models"]]
    assert client.get("/api/indexing/skipped").status_code == 409

    started = client.post("/api/indexing/run", json={"root": 1, "below": "", "model": "mini"})
    assert started.status_code == 200
    assert started.json()["title"] == "pictures"
    second = client.post("/api/indexing/run", json={"root": 1, "below": "", "model": "mini"})
    assert second.status_code == 409
    run = until_ended(client)
    assert run["state"] == "done"
    assert (run["report"]["new"], run["report"]["skipped"]) == (9, 2)
    assert run["verdict"] == "", "nothing is encoded any more"
    assert re.search(r"^(\w+-bound|balanced), .* busy$", run["report"]["verdict"])
    assert run["report"]["images_per_second"] > 0
    assert run["total"] == run["done"] == 11

    after = client.get("/api/indexing").json()
    assert after["status"]["images"] == 9
    assert after["can_update"] is True
    assert after["run"]["number"] == 1
    skipped = client.get("/api/indexing/skipped?limit=1").json()
    assert skipped["total"] == 2
    assert len(skipped["images"]) == 1
    empty = client.get("/api/indexing/skipped?reason=empty").json()["images"]
    assert [(image["name"], image["bytes"]) for image in empty] == [("<b>empty.png", 0)]
    assert client.get("/api/indexing/skipped?reason=else").status_code == 400

    # The index keeps its model, and more of what it knows comes with an update.
    body = {"root": 1, "below": "", "model": "mini"}
    assert client.post("/api/indexing/run", json=body).status_code == 400
    shutil.copyfile(pictures / sorted(os.listdir(pictures))[1], pictures / "copy.jpg")
    assert client.post("/api/indexing/run", json={"update": True}).status_code == 200
    run = until_ended(client)
    assert (run["state"], run["report"]["new"]) == ("done", 0)
    assert run["report"]["copies"] == 4


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_is_finished(
    page_client: Lent, tmp_path: Path, pictures: Path, mini_index: Path
) -> None:
    many = tmp_path / "many"
    for number in range(120):
        shutil.copytree(pictures, many / f"{number:03}")
        for picture in (many / f"{number:03}").iterdir():
            with open(picture, "ab") as file:
                file.write(b"%d" % number)  # a content of its own
    client = page_client(mini_index, allowed_folders=(many,))
    assert client.post("/api/indexing/cancel").status_code == 409
    assert client.post("/api/indexing/run", json={"root": 0, "below": ""}).status_code == 200
    last = time.monotonic() + 90
    while time.monotonic() < last:
        run = client.get("/api/indexing/run").json()
        if run["done"] > 60:
            break
        time.sleep(0.05)
    assert run["state"] == "encoding"
    stopping = client.post("/api/indexing/cancel")
    assert stopping.json()["stopping"] is True
    run = until_ended(client)
    assert (run["state"], run["error"]) == ("cancelled", None)
    assert run["done"] < run["total"]
    status = client.get("/api/indexing").json()["status"]
    assert status["images"] == 9 + run["saved"]
    assert client.get("/api/search?q=a+cat").json()["hits"]


@pytest.mark.slow
def test_a_locked_index_is_told_without_a_path(
    page_client: Lent, tmp_path: Path, pictures: Path, mini_index: Path
) -> None:
    from indexer.lock import writer_lock

    client = page_client(mini_index, allowed_folders=(pictures,))
    with writer_lock(mini_index):
        client.post("/api/indexing/run", json={"root": 0, "below": ""})
        run = until_ended(client)
    assert run["state"] == "failed"
    assert "Another process is writing" in run["error"]
    assert str(tmp_path) not in json.dumps(run)


def test_progress_as_lines(capfd: pytest.CaptureFixture[str]) -> None:
    plan = Planned(
        found=9, new=8, unchanged=1, new_bytes=5, seconds=None, disk_bytes=7, model="m", device="d"
    )
    with ProgressLines() as lines:
        lines.hear(plan)
        for _ in range(4):
            lines.hear(Encoded(2))
        lines.hear(Committed(8))
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert told[0]["event"] == "planned"
    assert told[0]["new"] == 8
    assert {"event": "encoded", "done": 2} in told
    assert {"event": "encoded", "done": 8} not in told  # more often than is of use to anybody
    assert told[-1] == {"event": "committed", "images": 8}

    with pytest.raises(IndexLockedError), ProgressLines():
        raise IndexLockedError("by another")
    with pytest.raises(OSError, match="full"), ProgressLines():
        raise OSError(errno.ENOSPC, "full")
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert told == [
        {"event": "failed", "error": "IndexLockedError", "errno": None},
        {"event": "failed", "error": "OSError", "errno": errno.ENOSPC},
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a name that no folder can have there")
def test_indexing_in_the_browser(
    page_server: PageServer, browser_page: BrowserPages, tmp_path: Path, pictures: Path
) -> None:
    (pictures / "<img src=x onerror=alert(1)>.png").write_bytes(b"")
    (pictures / "more").mkdir()
    address = page_server(tmp_path / "new.index", allowed_folders=(pictures,))
    browser_page.announce(409, "/api/")  # there is no index yet
    page = browser_page(address)
    open_tab(page, "Index")
    page.get_by_role("heading", name="Make an index").wait_for()
    page.get_by_role("button", name="more", exact=True).click()
    page.get_by_role("button", name="Index “more” and all below it").wait_for()
    page.get_by_role("button", name="pictures", exact=True).click()
    page.get_by_role("radio", name="mini").check()
    browser_page.shot(page, "no-index", full=True)
    page.get_by_role("button", name="Index “pictures” and all below it").click()

    page.get_by_role("heading", name="Indexed pictures").wait_for()
    page.get_by_role("heading", name="Add a folder").wait_for()
    page.get_by_role("cell", name="an empty file").wait_for()
    account = page.locator("p.cs-index-line").inner_text()
    assert re.search(r" images a second \((\w+-bound|balanced), .* busy\)\.$", account)
    assert page.get_by_text("<img src=x onerror=alert(1)>.png").is_visible()
    browser_page.shot(page, "indexed", full=True)

    # It survives that the page is loaded again, and what was indexed is found.
    page.reload()
    open_tab(page, "Index")
    page.get_by_role("heading", name="Indexed pictures").wait_for()
    open_tab(page, "Search")
    photos_in_sight(page, least=5)
