"""Discovering on the page: ``api/discover`` and ``api/discoveries``, over the real application."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch import open_index
from clipsearch.cluster_files import clusters_folder
from clipsearch.cluster_saving import save_discovery
from clipsearch.clusters import Discovery
from clipsearch.discover import discover
from clipsearch.image_index import ImageIndex
from clipsearch.label_set_saving import save_classification
from clipsearch.saved_clusters import OpenedDiscovery, open_discovery
from indexer import build_index
from tests.discoveries import discovery_of_index
from tests.page_library import api_app

WORDS = "cat, cup of coffee\nrocket, grey page"
NAMES = ("cat", "coffee", "rocket")


class PageClient:
    """Asks the real application."""

    def __init__(self, place: Path) -> None:
        from starlette.testclient import TestClient

        from ui.library import Library
        from ui.page_settings import PageSettings

        self.library = Library(place, PageSettings())
        self.http = TestClient(api_app(place, self.library), base_url="http://127.0.0.1")

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.http.get(f"/api/{path}")
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, document: Any = None, status: int = 200) -> Any:
        answer = self.http.post(f"/api/{path}", json={} if document is None else document)
        assert answer.status_code == status, answer.text
        return answer.json()

    def shown(self, name: str = "things") -> Any:
        return self.get(f"discoveries/{name}")

    def change(self, kind: str, *keys: int, status: int = 200, **more: Any) -> Any:
        document = {"kind": kind, "clusters": list(keys), "state": self.shown()["state"], **more}
        return self.post("discoveries/things/change", document, status)

    def run_until_it_ends(self, **wish: Any) -> Any:
        self.post("discover", wish, 202)
        last = time.monotonic() + 60
        while time.monotonic() < last:
            run = self.get("discover")["run"]
            if run["state"] != "running":
                return run
            time.sleep(0.02)
        raise AssertionError("the discovery does not end")


@pytest.fixture(scope="module")
def _page(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> PageClient:
    """Making the application takes a second: one does for all tests of this module."""
    place = tmp_path_factory.mktemp("discover") / "pictures.index"
    return PageClient(Path(shutil.copytree(_built, place)))


@pytest.fixture
def page(_page: PageClient) -> PageClient:
    """The page over an index that nobody has discovered anything in."""
    assert _page.library.path is not None
    for folder in ("clusters", "labels"):
        shutil.rmtree(_page.library.path / folder, ignore_errors=True)
    return _page


@pytest.fixture
def index(page: PageClient) -> ImageIndex:
    assert page.library.path is not None
    return open_index(page.library.path)


@pytest.fixture
def things(index: ImageIndex) -> Discovery:
    """A saved discovery, "things", with three clusters."""
    state = index.state()
    found = discovery_of_index(state, NAMES)
    save_discovery(index.path, state, "things", found)
    return found


def as_saved(index: ImageIndex) -> OpenedDiscovery:
    return open_discovery(index.path, index.state(), "things")


def key_of(page: PageClient, name: str) -> int:
    return int(next(one["key"] for one in page.shown()["clusters"] if one["name"] == name))


def test_a_discovery_is_made_kept_and_shown(page: PageClient, index: ImageIndex) -> None:
    assert page.get("discoveries") == {"discoveries": [], "next_name": "discovered"}
    run = page.run_until_it_ends(n_clusters=3, names="own", words=WORDS, name="things")
    assert (run["state"], run["name"], run["clusters"]) == ("done", "things", 3)
    assert run["images"] == len(index)
    listed = page.get("discoveries")
    assert [one["name"] for one in listed["discoveries"]] == ["things"]
    assert listed["discoveries"][0]["usable"]
    shown = page.shown()
    saved = as_saved(index).discovery
    assert [(one["name"], one["size"]) for one in shown["clusters"]] == [
        (one.name, one.size) for one in saved.clusters
    ]
    assert sum(one["size"] for one in shown["clusters"]) + shown["in_none"] == len(index)
    assert {one["name"] for one in shown["clusters"]} <= {
        "cat",
        "cup of coffee",
        "rocket",
        "grey page",
    }
    assert shown["facts"]["vocabulary"] == "own words"
    assert shown["clusters"][0]["typical"] == list(saved.clusters[0].typical)
    # What is suggested beside the name can be chosen unless another has it.
    for one in shown["clusters"]:
        names = {cluster["name"] for cluster in shown["clusters"]}
        assert {c["name"] for c in one["candidates"] if c["taken"]} == {
            c["name"] for c in one["candidates"]
        } & names


def test_only_the_photos_of_a_filter_are_grouped(page: PageClient, index: ImageIndex) -> None:
    wanted = set(index.matching("id < 4").tolist())
    run = page.run_until_it_ends(n_clusters=2, names="none", where="id < 4", name="things")
    assert run["images"] == len(wanted) == 4
    assert set(as_saved(index).discovery.assignment.ids.tolist()) == wanted
    assert page.shown()["facts"]["where"] == "id < 4"


def test_clusters_are_sorted_found_and_paged(page: PageClient, things: Discovery) -> None:
    by_name = page.get("discoveries/things?order=name")["clusters"]
    assert [one["name"] for one in by_name] == sorted(NAMES)
    found = page.get("discoveries/things?find=OFF")
    assert [one["name"] for one in found["clusters"]] == ["coffee"]
    assert (found["found"], found["total"]) == (1, 3)
    pages = [page.get(f"discoveries/things?offset={at}&limit=1")["clusters"] for at in range(4)]
    assert [one["name"] for one in itertools.chain(*pages)] == [one.name for one in things.clusters]
    page.get("discoveries/things?order=colour", 400)
    page.get("discoveries/things?limit=1000", 400)


def test_the_images_of_a_cluster_come_in_pages(
    page: PageClient, index: ImageIndex, things: Discovery
) -> None:
    for position, cluster in enumerate(things.clusters):
        address = f"discoveries/things/images?cluster={cluster.key}"
        hits = page.get(address)["hits"]
        assert {hit["id"] for hit in hits} == set(things.assignment.members(position).tolist())
        cosines = [hit["cosine"] for hit in hits]
        assert cosines == sorted(cosines, reverse=True)
        assert all(hit["name"] and hit["width"] and hit["height"] for hit in hits)
        one_by_one = [page.get(f"{address}&offset={at}&limit=1") for at in range(len(hits))]
        assert [answer["hits"][0]["id"] for answer in one_by_one] == [hit["id"] for hit in hits]
        assert {answer["total"] for answer in one_by_one} == {cluster.size}
        doubtful = page.get(f"{address}&order=doubtful")["hits"]
        margins = dict(
            zip(things.assignment.ids.tolist(), things.assignment.margins.tolist(), strict=True)
        )
        in_doubt = [margins[hit["id"]] for hit in doubtful]
        assert in_doubt == sorted(in_doubt)
        assert len(in_doubt) == cluster.size
    assert page.get("discoveries/things/images")["hits"] == []
    largest = things.clusters[0]
    page.change("drop", largest.key)
    gone = page.get("discoveries/things/images")
    assert {hit["id"] for hit in gone["hits"]} == set(things.assignment.members(0).tolist())
    assert page.shown()["in_none"] == gone["total"] == largest.size


def test_rename_merge_split_drop_and_undo(
    page: PageClient, index: ImageIndex, things: Discovery
) -> None:
    done = page.change("rename", key_of(page, "cat"), name=" our   cat ")
    assert done == {"done": "rename cat to our   cat"}
    assert {one.name for one in as_saved(index).discovery.clusters} == {
        "our cat",
        "coffee",
        "rocket",
    }

    first, second = key_of(page, "our cat"), key_of(page, "rocket")
    sizes = {one["key"]: one["size"] for one in page.shown()["clusters"]}
    page.change("merge", first, second, name="both")
    merged = next(one for one in page.shown()["clusters"] if one["name"] == "both")
    assert merged["size"] == sizes[first] + sizes[second]
    assert merged["key"] == first
    assert merged["by_hand"]

    page.change("split", first, parts=2)
    after = page.shown()
    assert after["total"] == 3
    assert first not in {one["key"] for one in after["clusters"]}

    page.change("drop", key_of(page, "coffee"))
    assert page.shown()["total"] == 2
    assert [edit["what"].split()[0] for edit in page.shown()["edits"]] == [
        "rename", "merge", "split", "drop",
    ]  # fmt: skip
    for kind in ("drop", "split", "merge", "rename"):
        shown = page.shown()
        assert shown["undo"].startswith(kind)
        undone = page.post("discoveries/things/undo", {"state": shown["state"]})["undone"]
        assert undone.startswith(kind)
    assert [one.name for one in as_saved(index).discovery.clusters] == [
        one.name for one in things.clusters
    ]
    page.post("discoveries/things/undo", {"state": page.shown()["state"]}, 409)


def test_a_change_is_to_what_was_seen(page: PageClient, things: Discovery) -> None:
    seen = page.shown()["state"]
    page.change("rename", key_of(page, "cat"), name="dog")
    wish = {"kind": "rename", "clusters": [key_of(page, "dog")], "name": "hound", "state": seen}
    told = page.post("discoveries/things/change", wish, 409)
    assert "changed since" in told["error"]
    page.post("discoveries/things/undo", {"state": seen}, 409)
    assert key_of(page, "dog") is not None


def test_clusters_of_one_name_are_told_apart_by_their_keys(
    page: PageClient, index: ImageIndex
) -> None:
    state = index.state()
    save_discovery(index.path, state, "things", discovery_of_index(state, ("cat", "cat", "cup")))
    keys = [one["key"] for one in page.shown()["clusters"] if one["name"] == "cat"]
    page.change("rename", keys[1], name="kitten")
    names = {one["key"]: one["name"] for one in page.shown()["clusters"]}
    assert (names[keys[0]], names[keys[1]]) == ("cat", "kitten")


@pytest.mark.parametrize(
    ("document", "status", "words"),
    [
        ({"kind": "melt", "clusters": [0]}, 400, "kind"),
        ({"kind": "rename", "clusters": [99], "name": "dog"}, 404, "no such group"),
        ({"kind": "rename", "clusters": [0]}, 400, "new name"),
        ({"kind": "rename", "clusters": [0, 1], "name": "dog"}, 400, "one group"),
        ({"kind": "rename", "clusters": "0", "name": "dog"}, 400, "list of ids"),
        ({"kind": "rename", "clusters": [0], "name": "x" * 201}, 413, "at most 200"),
        ({"kind": "rename", "clusters": [0], "name": "a\tb\x07"}, 400, "control"),
        ({"kind": "merge", "clusters": [0]}, 400, "two groups"),
        ({"kind": "split", "clusters": [0], "parts": 1}, 400, "parts"),
        ({"kind": "split", "clusters": [0], "parts": "many"}, 400, "parts"),
        ({"kind": "drop", "clusters": []}, 400, "Choose a group"),
        ({"kind": "drop", "clusters": [0, 1, 2]}, 409, "has to stay"),
        ({"kind": "drop", "clusters": list(range(2000))}, 413, "at most 1,000"),
    ],
)
def test_changes_that_make_no_sense_change_nothing(
    page: PageClient, things: Discovery, document: Any, status: int, words: str
) -> None:
    before = page.shown()
    wish = {**document, "state": before["state"]}
    told = page.post("discoveries/things/change", wish, status)["error"]
    assert words in told
    assert page.shown() == before


def test_a_name_that_another_cluster_has_is_refused(page: PageClient, things: Discovery) -> None:
    told = page.change("rename", key_of(page, "cat"), status=400, name="Coffee")
    assert "merge the two" in told["error"]


def test_saved_as_a_label_set_that_follows(
    page: PageClient, index: ImageIndex, things: Discovery
) -> None:
    page.post("discoveries/things/label-set", {"name": "pets"})
    members = things.assignment.members([one.name for one in things.clusters].index("cat"))
    np.testing.assert_array_equal(index.matching('label = "pets:cat"'), members)
    page.change("rename", key_of(page, "cat"), name="tabby")
    np.testing.assert_array_equal(index.matching('label = "pets:tabby"'), members)
    assert page.shown()["label_sets"] == ["pets"]
    page.post("discoveries/things/label-set", {"name": "no/name"}, 400)


def test_a_label_set_of_something_else_is_not_lost(
    page: PageClient, index: ImageIndex, things: Discovery
) -> None:
    said = index.classify(["cat", "cup"], templates="none")
    save_classification(index.path, index.state(), "mine", said, "none", None)
    told = page.post("discoveries/things/label-set", {"name": "mine"}, 409)
    assert "choose another name" in told["error"]
    page.post("discoveries/things/label-set", {"name": "mine", "replace": True})
    assert page.shown()["label_sets"] == ["mine"]

    state = index.state()
    save_discovery(index.path, state, "other", discovery_of_index(state, ("cup", "sky")))
    told = page.post("discoveries/other/label-set", {"name": "mine", "replace": True}, 409)
    assert "follows the discovery things" in told["error"]


def test_forgetting(page: PageClient, things: Discovery) -> None:
    page.post("discoveries/things/label-set", {"name": "pets"})
    assert page.post("discoveries/things/forget")["label_sets"] == ["pets"]
    assert page.get("discoveries")["discoveries"] == []
    assert "no such discovery" in page.get("discoveries/things", 404)["error"]
    page.post("discoveries/things/forget", None, 404)


@pytest.mark.parametrize(
    ("wish", "status", "words"),
    [
        ({"n_clusters": 0}, 400, "groups"),
        ({"n_clusters": 2.5}, 400, "groups"),
        ({"n_clusters": True}, 400, "groups"),
        ({"n_clusters": 10**9}, 400, "groups"),
        ({"least_size": 0}, 400, "fewest"),
        ({"names": "/etc/passwd"}, 400, "names"),
        ({"names": "own", "words": " ,\n, "}, 400, "words"),
        ({"names": "own", "words": ["cat"]}, 400, "words"),
        ({"names": "own", "words": ",".join(map(str, range(3000)))}, 413, "2,000 words"),
        ({"names": "own", "words": "x" * 300}, 413, "letters"),
        ({"names": "own", "words": "x," * 200_000}, 413, "letters"),
        ({"names": "none", "where": "colour = blue"}, 400, "colour"),
        ({"names": "none", "where": "x" * 5000}, 413, "where"),
        ({"names": "none", "name": "../up"}, 400, "no name for a discovery"),
        ({"names": "none", "name": "things"}, 409, "changed by hand"),
    ],
)
def test_wishes_that_make_no_sense_begin_nothing(
    page: PageClient, things: Discovery, wish: Any, status: int, words: str
) -> None:
    page.change("rename", key_of(page, "cat"), name="dog")
    before = page.get("discover")
    assert words in page.post("discover", wish, status)["error"]
    assert page.get("discover") == before


def test_a_changed_discovery_is_replaced_where_that_is_said(
    page: PageClient, things: Discovery
) -> None:
    page.change("rename", key_of(page, "cat"), name="dog")
    run = page.run_until_it_ends(n_clusters=2, names="none", name="things", replace=True)
    assert run["state"] == "done"
    assert page.shown()["total"] == 2
    assert page.shown()["edits"] == []


def test_no_photo_to_group_is_told(page: PageClient) -> None:
    run = page.run_until_it_ends(names="none", where="id < 0")
    assert (run["state"], run["message"]) == ("failed", "There is no photo to group.")
    assert page.get("discoveries")["discoveries"] == []


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A discovery goes on with its first stage until the event is set."""
    go = threading.Event()

    def slow(*values: Any, on_stage: Callable[[str, int, int], None], **named: Any) -> Discovery:
        while not go.is_set():
            on_stage("grouping", 1, 4)
            time.sleep(0.005)
        return discover(*values, on_stage=on_stage, **named)

    monkeypatch.setattr("ui.discovery_runs.discover", slow)
    yield go
    go.set()


def until(page: PageClient, key: str, value: Any) -> Any:
    last = time.monotonic() + 30
    while (run := page.get("discover")["run"])[key] != value:
        assert time.monotonic() < last, run
        time.sleep(0.01)
    return run


def test_one_at_a_time_with_progress(page: PageClient, held: threading.Event) -> None:
    wish = {"n_clusters": 2, "names": "none", "name": "first"}
    assert page.post("discover", wish, 202)["run"]["state"] == "running"
    run = until(page, "stage", "grouping")
    assert (run["done"], run["total"], run["name"]) == (1, 4, "first")
    told = page.post("discover", {**wish, "name": "second"}, 409)
    assert "being made already" in told["error"]
    held.set()
    assert until(page, "state", "done")["clusters"] == 2
    assert [one["name"] for one in page.get("discoveries")["discoveries"]] == ["first"]


def test_a_run_that_is_stopped_keeps_nothing(page: PageClient, held: threading.Event) -> None:
    page.post("discover", {"n_clusters": 2, "names": "none"}, 202)
    until(page, "stage", "grouping")
    page.post("discover/stop")
    until(page, "state", "stopped")
    held.set()
    assert page.get("discoveries")["discoveries"] == []
    assert page.run_until_it_ends(n_clusters=2, names="none")["state"] == "done"


def test_a_damaged_discovery_hides_none_of_the_others(
    page: PageClient, index: ImageIndex, things: Discovery
) -> None:
    state = index.state()
    save_discovery(index.path, state, "broken", discovery_of_index(state, ("a", "b")))
    (clusters_folder(index.path) / "broken.json").write_bytes(b"{}")
    listed = {one["name"]: one["usable"] for one in page.get("discoveries")["discoveries"]}
    assert listed == {"broken": False, "things": True}
    told = page.get("discoveries/broken", 409)["error"]
    assert "damaged" in told
    assert str(index.path) not in told
    for table in clusters_folder(index.path).glob("things.*.parquet"):
        table.unlink()
    assert "damaged" in page.get("discoveries/things", 409)["error"]
    page.post("discoveries/broken/forget")
    assert [one["name"] for one in page.get("discoveries")["discoveries"]] == ["things"]


def test_an_index_that_cannot_be_written_is_told(
    page: PageClient, things: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*values: Any, **named: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/somewhere/secret")

    monkeypatch.setattr("ui.open_discoveries.edit_discovery", refused)
    monkeypatch.setattr("ui.discovery_runs.save_discovery", refused)
    told = page.change("rename", key_of(page, "cat"), status=403, name="dog")["error"]
    assert "cannot be written" in told
    assert "secret" not in told
    run = page.run_until_it_ends(n_clusters=2, names="none", name="other")
    assert run["state"] == "failed"
    assert "cannot be written" in run["message"]


def test_without_an_index_its_command_is_told(
    page: PageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.library, "path", None)
    assert "clipsearch index" in page.get("discoveries", 409)["error"]
    assert "clipsearch index" in page.get("discoveries/things", 409)["error"]
    assert "clipsearch index" in page.post("discover", {}, 409)["error"]


def test_images_that_came_later_are_in_it_too(
    page: PageClient, mini_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.library, "path", mini_index)
    monkeypatch.setattr(page.library, "_index", None)
    monkeypatch.setattr("ui.library.FRESH_SECONDS", 0.0)
    state = open_index(mini_index).state()
    save_discovery(mini_index, state, "things", discovery_of_index(state, NAMES))
    before = page.shown()
    more = tmp_path / "more"
    more.mkdir()
    Image.effect_noise((64, 64), 80).convert("RGB").save(more / "noise.png")
    build_index(more, mini_index)
    after = page.shown()
    assert after["images"] == before["images"] + 1
    assert after["generation"] > before["generation"]
    assert after["state"] != before["state"]
