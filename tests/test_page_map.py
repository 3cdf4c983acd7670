"""The Map tab's routes: the points as they are sent, having the map laid out, what is refused."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import ui.map_making
import ui.map_scenes
from clipsearch import open_index
from clipsearch.cluster_changes import Rename
from clipsearch.cluster_saving import save_discovery
from clipsearch.map_coordinates import map_coordinates
from clipsearch.map_files import map_file, read_map, save_map, update_map
from clipsearch.map_scene import scene_of
from clipsearch.saved_clusters import edit_discovery
from tests.page_library import api_app
from ui.library import Library
from ui.map_making import MapMaking, lay_out
from ui.map_routes import MAP_MODULES
from ui.map_scenes import MapScenes
from ui.page_errors import PageError
from ui.page_settings import PageSettings

Scene = tuple[dict[str, Any], Any, Any, Any]
_IMPORT = re.compile(r'^import (?:\{[^}]*\} from )?"\./([\w./]+)";', re.MULTILINE)


@pytest.fixture
def client(mini_index: Path) -> Iterator[TestClient]:
    with TestClient(api_app(mini_index), base_url="http://127.0.0.1") as opened:
        yield opened


@pytest.fixture(scope="module")
def unchanged(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """For tests that change nothing: its index has neither a map nor a discovery."""
    index = shutil.copytree(_built, tmp_path_factory.mktemp("unchanged") / "pictures.index")
    with TestClient(api_app(Path(index)), base_url="http://127.0.0.1") as opened:
        yield opened


@pytest.fixture
def scenes(mini_index: Path) -> MapScenes:
    return MapScenes(Library(mini_index, PageSettings()), MapMaking())


def _scene(data: bytes) -> Scene:
    """As ``static/map_scene.js`` reads it: what is told, ids, groups and places."""
    (length,) = struct.unpack_from("<I", data)
    about = json.loads(data[4 : 4 + length])
    count, at = about["count"], 4 + length
    assert at % 8 == 0  # where a browser lets a column of float64 begin
    ids = np.frombuffer(data, "<f8", count, at)
    groups = np.frombuffer(data, "<i4", count, at + 8 * count)
    steps = np.frombuffer(data, "<u2", 2 * count, at + 12 * count).reshape(count, 2)
    assert at + 16 * count == len(data)
    return about, ids, groups, steps


def _discover(index: Path, name: str = "things", made_at: str = "2026-01-01T00:00:00Z") -> Any:
    opened = open_index(index)
    found = opened.discover(3, method="kmeans")
    found = dataclasses.replace(found, facts=dataclasses.replace(found.facts, made_at=made_at))
    save_discovery(index, opened.state(), name, found)
    return found


def _wait(condition: Callable[[], Any], seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "it took too long"
        time.sleep(0.05)


def test_every_image_has_its_place_and_its_cluster(client: TestClient, mini_index: Path) -> None:
    index = open_index(mini_index)
    discovery = _discover(mini_index)
    places = update_map(mini_index, index.state())
    said = client.get("/api/map").json()
    assert (said["images"], said["placed"]) == (len(index), len(index))
    assert said["clusters"] == ["things"]
    assert said["making"] is said["problem"] is said["install"] is None
    about, ids, groups, steps = _scene(client.get("/api/map/scene").content)
    assert ids.tolist() == places.ids.tolist()
    assert about["clusters_of"] == "things"
    assert [cluster["size"] for cluster in about["clusters"]] == [
        int((groups == position).sum()) for position in range(3)
    ]
    for position, cluster in enumerate(about["clusters"]):
        assert set(ids[groups == position]) == set(discovery.assignment.members(position))
        assert groups[cluster["first"]] == position
        assert ids[cluster["first"]] == discovery.clusters[position].typical[0]
    # The picture is the map: y falls as it rises there, and one scale holds for both.
    wanted = (places.xy - places.xy.mean(axis=0)) * [1, -1]
    shown = steps - steps.mean(axis=0)
    scale = (shown * wanted).sum() / (wanted**2).sum()
    assert np.abs(shown - scale * wanted).max() < 2
    assert np.ptp(steps, axis=0).max() == 65_535


def test_a_map_can_be_without_clusters_and_of_another_discovery(
    client: TestClient, mini_index: Path
) -> None:
    update_map(mini_index, open_index(mini_index).state())
    about, _, groups, _ = _scene(client.get("/api/map/scene").content)  # nothing is discovered yet
    assert about["clusters"] == []
    assert about["clusters_of"] is None
    _discover(mini_index, "first")
    _discover(mini_index, "second", "2026-01-02T00:00:00Z")
    assert client.get("/api/map").json()["clusters"] == ["second", "first"]
    for asked, wanted in (("", "second"), ("first", "first"), ("-", None)):
        answer = client.get("/api/map/scene", params={"clusters": asked})
        about, _, groups, _ = _scene(answer.content)
        assert about["clusters_of"] == wanted
        assert bool((groups >= 0).any()) == (wanted is not None)


def test_a_scene_is_sent_again_only_when_something_changed(
    client: TestClient, mini_index: Path
) -> None:
    _discover(mini_index)
    update_map(mini_index, open_index(mini_index).state())
    first = client.get("/api/map/scene")
    tag = first.headers["etag"]
    again = client.get("/api/map/scene", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    state = open_index(mini_index).state()
    name = _scene(first.content)[0]["clusters"][0]["name"]
    edit_discovery(mini_index, state, "things", [Rename(name, "<b>ponies</b>")])
    renamed = client.get("/api/map/scene", headers={"If-None-Match": tag})
    assert renamed.status_code == 200
    assert _scene(renamed.content)[0]["clusters"][0]["name"] == "<b>ponies</b>"
    save_map(mini_index, state.manifest.uuid, map_coordinates(state, seed=7))
    moved = client.get("/api/map/scene", headers={"If-None-Match": renamed.headers["etag"]})
    assert moved.status_code == 200
    assert _scene(moved.content)[3].tolist() != _scene(first.content)[3].tolist()


def test_without_a_map_the_page_is_told_so(client: TestClient, mini_index: Path) -> None:
    said = client.get("/api/map").json()
    assert (said["images"], said["placed"]) == (len(open_index(mini_index)), 0)
    answer = client.get("/api/map/scene")
    assert (answer.status_code, answer.json()) == (404, {"error": "There is no map yet."})
    map_file(mini_index).parent.mkdir(exist_ok=True)
    map_file(mini_index).write_bytes(b"PAR1 but no more")
    assert client.get("/api/map").json()["placed"] == 0


def test_without_an_index_the_page_is_told_so() -> None:
    with TestClient(api_app(None), base_url="http://127.0.0.1") as client:
        for answer in (client.get("/api/map"), client.post("/api/map/make", json={})):
            assert answer.status_code == 409
            assert "clipsearch index" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        ("make", {"anew": "yes"}, 400),
        ("make", [1], 400),
        ("photos", {}, 400),
        ("photos", {"ids": "1"}, 400),
        ("photos", {"ids": [1, "2"]}, 400),
        ("photos", {"ids": [1.5]}, 400),
        ("photos", {"ids": [-1]}, 400),
        ("photos", {"ids": [True]}, 400),
        ("photos", {"ids": [2**80]}, 400),
        ("photos", {"ids": list(range(121))}, 413),
    ],
)
def test_what_is_no_question_is_refused(
    unchanged: TestClient, path: str, asked: Any, status: int
) -> None:
    answer = unchanged.post(f"/api/map/{path}", json=asked)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}


def test_an_unknown_discovery_is_refused(client: TestClient, mini_index: Path) -> None:
    update_map(mini_index, open_index(mini_index).state())
    for name in ("nothing", "../../manifest", "\0", "a" * 200):
        answer = client.get("/api/map/scene", params={"clusters": name})
        assert answer.status_code == 404
        assert answer.json() == {"error": "There are no groups of that name."}
    too_long = client.get("/api/map/scene", params={"clusters": "a" * 5000})
    assert too_long.status_code == 400
    assert "aaaa" not in too_long.text


def test_photos_of_a_choice_come_in_its_order(unchanged: TestClient, mini_index: Path) -> None:
    ids = open_index(mini_index).state().vectors.ids.tolist()
    asked = [ids[3], 99_999, ids[0], ids[3], ids[2]]
    hits = unchanged.post("/api/map/photos", json={"ids": asked}).json()["hits"]
    assert [hit["id"] for hit in hits] == [ids[3], ids[0], ids[2]]
    assert hits[0]["name"].endswith((".jpg", ".png", ".jpeg"))
    assert hits[0]["score"] is None
    assert unchanged.post("/api/map/photos", json={"ids": []}).json() == {"hits": []}


# -- laying out -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_page_has_a_map_laid_out(client: TestClient, mini_index: Path) -> None:
    started = client.post("/api/map/make", json={})
    assert started.status_code == 202
    assert started.json()["making"]["total"] == len(open_index(mini_index))
    twice = client.post("/api/map/make", json={})
    assert (twice.status_code, "already" in twice.json()["error"]) == (409, True)
    _wait(lambda: client.get("/api/map").json()["making"] is None)
    said = client.get("/api/map").json()
    assert said["problem"] is None
    assert said["placed"] == said["images"]
    state = open_index(mini_index).state()
    kept = read_map(mini_index, state.manifest.uuid)
    assert kept is not None
    assert np.array_equal(kept.xy, map_coordinates(state).xy)


@pytest.mark.slow
def test_making_can_be_stopped(client: TestClient, mini_index: Path) -> None:
    client.post("/api/map/make", json={})
    said = client.post("/api/map/stop", json={}).json()
    assert said["making"] is None
    assert said["problem"] == "The map was stopped."
    assert not map_file(mini_index).exists()
    assert client.post("/api/map/stop", json={}).status_code == 200  # nothing is left to stop
    # and begun again
    _wait(lambda: client.post("/api/map/make", json={}).status_code == 202)
    _wait(lambda: client.get("/api/map").json()["making"] is None)
    assert client.get("/api/map").json()["placed"]


def test_one_that_was_stopped_says_nothing_of_the_next(
    mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[tuple[Any, ...]] = []
    making = MapMaking()
    monkeypatch.setattr(making, "_follow", lambda *those: followed.append(those))
    monkeypatch.setattr("ui.map_making.multiprocessing.get_context", lambda _: _Spawn())
    making.start(mini_index, None, 10, anew=False)
    making.stop()
    making.start(mini_index, None, 10, anew=False)
    _wait(lambda: len(followed) == 2)
    MapMaking._follow(making, *followed[0])  # the end of the first is heard only now
    assert making.state().is_running
    assert making.state().problem is None
    MapMaking._follow(making, *followed[1])
    assert not making.state().is_running
    assert "ended early" in str(making.state().problem)


class _Spawn:
    """Processes that tell nothing and are over at once."""

    Pipe = staticmethod(multiprocessing.Pipe)

    class Process:
        def __init__(self, **_: object) -> None: ...
        def start(self) -> None: ...
        def terminate(self) -> None: ...
        def join(self) -> None: ...


def test_a_map_that_the_index_cannot_keep_is_shown_still(
    scenes: MapScenes, mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Told:
        def send(self, what: Any) -> None:
            told.append(what)

    def full(path: Path, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipsearch.map_files.replace_file", full)
    monkeypatch.setattr("ui.map_making.signal.signal", lambda *_: None)
    monkeypatch.setattr("ui.map_making.os.nice", lambda _: 0)
    lay_out(str(mini_index), None, False, Told())  # type: ignore[arg-type]
    assert scenes.placed()[1] == 0
    (found,) = told[-1]
    scenes._making.unkept = found
    images, placed = scenes.placed()
    assert placed == images > 0
    about, ids, _, _ = _scene(scenes.scene("").data)
    assert about["count"] == len(ids) == images


@pytest.mark.slow
def test_an_index_that_cannot_be_read_ends_with_a_sentence(mini_index: Path) -> None:
    making = MapMaking()
    (mini_index / "manifest.json").write_text("{")
    (mini_index / "manifest.copy.json").unlink(missing_ok=True)
    making.start(mini_index, None, 10, anew=False)
    _wait(lambda: not making.state().is_running)
    problem = making.state().problem
    assert problem is not None
    assert "damaged" in problem
    assert str(mini_index) not in problem


@pytest.mark.slow
def test_a_process_that_dies_is_told(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    making = MapMaking()
    monkeypatch.setattr(ui.map_making, "lay_out", sys.exit)
    making.start(mini_index, None, 10, anew=False)
    _wait(lambda: not making.state().is_running)
    assert "ended early" in str(making.state().problem)


def test_without_its_extra_the_page_says_what_to_install(
    unchanged: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.map_making.importlib.util.find_spec", lambda name: None)
    assert unchanged.get("/api/map").json()["install"] == "pip install 'clipsearch[map]'"
    answer = unchanged.post("/api/map/make", json={})
    assert answer.status_code == 409
    assert "pip install 'clipsearch[map]'" in answer.json()["error"]


# -- scenes ---------------------------------------------------------------------------------


def test_images_without_a_place_are_counted(mini_index: Path) -> None:
    state = open_index(mini_index).state()
    found = map_coordinates(state, only=state.vectors.ids[:6])
    save_map(mini_index, state.manifest.uuid, found)
    scenes = MapScenes(Library(mini_index, PageSettings()), MapMaking())
    assert scenes.placed() == (len(state.vectors), 6)
    about, ids, _, _ = _scene(scenes.scene("").data)
    assert ids.tolist() == state.vectors.ids[:6].tolist()
    assert about["total"] == 6


def test_of_too_many_an_even_sample_is_sent(
    scenes: MapScenes, mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update_map(mini_index, open_index(mini_index).state())
    monkeypatch.setattr(ui.map_scenes, "MOST_POINTS", 4)
    about, ids, _, _ = _scene(scenes.scene("").data)
    assert (about["count"], len(ids)) == (4, 4)
    assert about["total"] == len(open_index(mini_index))


def test_images_that_a_discovery_does_not_know_are_in_no_cluster(mini_index: Path) -> None:
    state = open_index(mini_index).state()
    found = open_index(mini_index).discover(
        2, method="kmeans", where=f"id < {state.vectors.ids[6]}"
    )
    places = map_coordinates(state)
    scene = scene_of(places.ids, places.xy, found)
    assert (scene.clusters[:6] >= 0).all()
    assert (scene.clusters[6:] == -1).all()
    assert scene.outside == len(places.ids) - 6


def test_few_scenes_are_kept(scenes: MapScenes, mini_index: Path) -> None:
    update_map(mini_index, open_index(mini_index).state())
    for name in ("one", "two", "three"):
        _discover(mini_index, name)
        scenes.scene(name)
    assert len(scenes._scenes) == 2
    with pytest.raises(PageError, match="no groups of that name"):
        scenes.scene("four")


# -- what is served -------------------------------------------------------------------------


def test_the_modules_of_the_map_are_served(unchanged: TestClient) -> None:
    """Every module that the tab's imports name is there, as JavaScript."""
    seen: set[str] = set()
    wanted = ["/page/map.js"]
    while wanted:
        path = wanted.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = unchanged.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith("text/javascript")
        folder = path.rsplit("/", 1)[0]
        wanted += [f"{folder}/{name}" for name in _IMPORT.findall(answer.text)]
    shared = {f"/page/map/{module.name}" for module in MAP_MODULES.glob("*.js")}
    assert shared <= seen


def test_the_process_of_a_map_needs_no_gradio() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ui.map_making; print('gradio' in sys.modules)"],
        cwd=Path(ui.map_making.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
