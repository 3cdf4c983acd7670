"""Classifying from the page: the collection, one image, and where labels come from."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import label_images, open_index
from clipsearch.cluster_saving import save_discovery
from clipsearch.errors import LabelError
from clipsearch.label_definitions import LabelDefinitions
from clipsearch.label_sets import label_set_names, read_label_set
from clipsearch.nouns import Vocabulary
from tests.conftest import Cli
from tests.page_library import api_app
from ui import classify_runs, collection_labels
from ui.label_requests import typed_labels

LABELS = ["a cheetah", "a lion", "a tower", "a bus", "a logo"]
Open = Callable[..., Any]


@pytest.fixture
def client_of() -> Iterator[Open]:
    """``client_of(index, **settings)``: a client of the real application."""
    from starlette.testclient import TestClient

    with contextlib.ExitStack() as opened:

        def client(index: Path | None, **settings: Any) -> TestClient:
            app = api_app(index, **settings)
            return opened.enter_context(
                TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
            )

        yield client


@pytest.fixture(scope="module")
def client(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of one application, for tests that change nothing in its index."""
    from starlette.testclient import TestClient

    place = Path(shutil.copytree(_built, tmp_path_factory.mktemp("read") / "pictures.index"))
    with TestClient(
        api_app(place), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as made:
        made.place = place
        yield made


def classified(client: Any, **body: Any) -> dict[str, Any]:
    """A run that is done."""
    answer = client.post("/api/classify", json={"wait": 60, **body})
    assert answer.status_code == 200, answer.text
    run: dict[str, Any] = answer.json()
    assert run["state"] == "done"
    return run


def gallery(client: Any, run: dict[str, Any], **asked: Any) -> dict[str, Any]:
    answer = client.get(f"/api/classify/{run['run']}/images", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


# -- the collection ----------------------------------------------------------------------


def test_every_image_gets_the_label_that_the_library_gives_it(client: Any) -> None:
    expected = open_index(client.place).classify(LABELS)
    run = classified(client, labels=", ".join(LABELS))
    assert (run["images"], run["done"], run["total"]) == (len(expected),) * 3
    assert run["unlabelled"] == expected.unlabelled
    assert {one["label"]: one["count"] for one in run["labels"]} == {
        one.label: one.count for one in expected.summary()
    }
    every = gallery(client, run)
    assert every["total"] == len(every["hits"]) == len(expected)
    for hit in every["hits"]:
        assert hit["label"] == expected.label_of(hit["id"])
        row = int(np.searchsorted(expected.ids, hit["id"]))
        if hit["label"] is not None:
            assert hit["score"] == pytest.approx(float(expected.probabilities[row, 0]), abs=1e-4)
        assert hit["cosine"] == pytest.approx(float(expected.scores[row, 0]), abs=1e-4)
        assert hit["width"] > 0


def test_galleries_hold_their_label_in_the_order_asked(client: Any) -> None:
    run = classified(client, labels=LABELS, none="off")
    assert run["unlabelled"] == 0
    seen: list[int] = []
    for one in run["labels"]:
        best = gallery(client, run, label=one["label"])
        assert best["total"] == len(best["hits"]) == one["count"]
        assert all(hit["label"] == one["label"] for hit in best["hits"])
        scores = [hit["score"] for hit in best["hits"]]
        assert scores == sorted(scores, reverse=True)
        doubtful = gallery(client, run, label=one["label"], order="doubtful")["hits"]
        margins = [hit["margin"] for hit in doubtful]
        assert margins == sorted(margins)
        assert {hit["id"] for hit in doubtful} == {hit["id"] for hit in best["hits"]}
        seen += [hit["id"] for hit in best["hits"]]
    assert sorted(seen) == [hit["id"] for hit in sorted(
        gallery(client, run)["hits"], key=lambda hit: hit["id"])]  # fmt: skip


def test_what_belongs_to_no_label_is_kept_apart(client: Any) -> None:
    run = classified(client, labels=LABELS, none=0.9)
    expected = open_index(client.place).classify(LABELS, none=0.9)
    assert 0 < run["unlabelled"] == expected.unlabelled
    assert expected.in_set is not None
    belonging = dict(zip(expected.ids.tolist(), expected.in_set.tolist(), strict=True))
    without = gallery(client, run, without=True)
    assert without["total"] == expected.unlabelled
    for hit in without["hits"]:
        assert hit["label"] is None
        assert hit["score"] is None
        assert hit["runner_up"] in LABELS
    least = [belonging[hit["id"]] for hit in without["hits"]]
    assert least == sorted(least)
    nearest = gallery(client, run, without=True, order="doubtful")["hits"]
    assert [hit["id"] for hit in nearest] == [hit["id"] for hit in without["hits"]][::-1]


def test_galleries_come_in_pages(client: Any) -> None:
    run = classified(client, labels=LABELS)
    whole = [hit["id"] for hit in gallery(client, run)["hits"]]
    parts = [gallery(client, run, offset=start, limit=4) for start in range(0, 12, 4)]
    assert [hit["id"] for part in parts for hit in part["hits"]] == whole
    assert all(part["total"] == len(whole) for part in parts)
    for asked in ({"limit": 0}, {"limit": 121}, {"offset": -1}, {"order": "random"}):
        answer = client.get(f"/api/classify/{run['run']}/images", params=asked)
        assert answer.status_code == 400
    answer = client.get(f"/api/classify/{run['run']}/images", params={"label": "a fish"})
    assert answer.status_code == 404


def test_context_and_templates_are_asked_with(client: Any) -> None:
    index = open_index(client.place)
    run = classified(client, labels=LABELS, context="an animal or a thing", templates="{}, a toy")
    expected = index.classify(LABELS, context="an animal or a thing", templates=["{}, a toy"])
    hits = {hit["id"]: hit["cosine"] for hit in gallery(client, run)["hits"]}
    for row, image_id in enumerate(expected.ids.tolist()):
        assert hits[image_id] == pytest.approx(float(expected.scores[row, 0]), abs=1e-4)
    plain = gallery(client, classified(client, labels=LABELS))["hits"]
    assert {hit["id"]: hit["cosine"] for hit in plain} != hits


def test_labels_are_taken_apart_at_commas_and_lines() -> None:
    assert typed_labels(" dog, cat\n\n hot  dog;Dog\tbird,, ") == (
        ("dog", "cat", "hot dog", "bird"),
        1,
    )
    assert typed_labels(" ,\n") == ((), 0)


def test_repeated_labels_are_told(client: Any) -> None:
    run = classified(client, labels="a lion, a bus\nA Lion")
    assert [one["label"] for one in sorted(run["labels"], key=lambda one: one["label"])] == [
        "a bus",
        "a lion",
    ]
    assert run["notes"][0] == "1 label was there twice, and left out."


def test_a_word_of_several_meanings_is_told(client: Any) -> None:
    notes = classified(client, labels="crane, a bus")["notes"]
    assert any("crane" in note and "bird" in note for note in notes)
    assert not classified(client, labels="crane, a bus", context="a machine")["notes"]


# -- what is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"labels": " ,, "}, 400),
        ({"labels": []}, 400),
        ({"labels": 7}, 400),
        ({"labels": [["a"]]}, 400),
        ({"labels": "a", "set": "b"}, 400),
        ({"labels": "a", "templates": "a photo"}, 400),
        ({"labels": "a", "templates": "{} {other}"}, 400),
        ({"labels": "a", "templates": ["{}"] * 101}, 413),
        ({"labels": "a", "none": 1.5}, 400),
        ({"labels": "a", "none": "maybe"}, 400),
        ({"labels": "a", "wait": 3600}, 400),
        ({"labels": "a", "wait": "long"}, 400),
        ({"labels": "a", "context": "x" * 301}, 413),
        ({"labels": "x" * 5_000}, 413),
        ({"labels": "x" * 500_000}, 413),
        ({"labels": [f"label {n}" for n in range(2_001)]}, 413),
        ({"labels": [f"label {n}" for n in range(9_000)]}, 413),
        ({"labels": "a", "surprise": 1}, 400),
        ({"set": "../../etc/passwd"}, 400),
        ({"set": "nothing"}, 400),
        ({"set": "a", "context": "b"}, 400),
        ({"discovery": "../x"}, 400),
        ({"definitions": {"labels": {"a": {"words": 3}}}}, 400),
        ({"definitions": {"labels": {f"l{n}": {} for n in range(2_001)}}}, 413),
        ({"definitions": {"labels": {"a": {"synonyms": [f"s{n}" for n in range(13_000)]}}}}, 413),
        ({"definitions": [1]}, 400),
    ],
)  # fmt: skip
def test_questions_that_are_not_taken(client: Any, body: dict[str, Any], status: int) -> None:
    answer = client.post("/api/classify", json=body)
    assert answer.status_code == status
    told = answer.json()["error"]
    assert len(told) < 400
    assert str(client.place) not in told


def test_templates_are_never_a_file(client: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret of {}\n")
    for place in (str(secret), [str(secret)]):
        answer = client.post("/api/classify", json={"labels": "a", "templates": place})
        assert answer.status_code == 400
        assert "secret of" not in answer.text
        assert str(tmp_path) not in answer.text


def test_a_run_that_nobody_knows(client: Any) -> None:
    for path in ("", "/images", "/table"):
        assert client.get(f"/api/classify/no-such-run{path}").status_code == 404
    assert client.post("/api/classify/no-such-run/save", json={"name": "a"}).status_code == 404
    assert client.post("/api/classify/no-such-run/stop").status_code == 404


def test_without_an_index_the_command_is_told(client_of: Open, tmp_path: Path) -> None:
    client = client_of(None)
    answer = client.post("/api/classify", json={"labels": "a, b"})
    assert answer.status_code == 409
    assert "clipsearch index" in answer.json()["error"]
    assert client.get("/api/label-sources").json() == {
        "images": None, "sets": [], "discoveries": []
    }  # fmt: skip


# -- while it goes on --------------------------------------------------------------------


class HeldBack:
    """Stands before ``classify_beside``, so that a run goes on until the test lets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        real = collection_labels.classify_beside

        def beside(*arguments: Any, **options: Any) -> Any:
            self.begun.set()
            assert self.go_on.wait(30)
            return real(*arguments, **options)

        monkeypatch.setattr(collection_labels, "classify_beside", beside)


def test_a_run_can_be_looked_at_and_stopped(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldBack(monkeypatch)
    run = client.post("/api/classify", json={"labels": "a, b", "wait": 0}).json()
    assert held.begun.wait(30)
    now = client.get(f"/api/classify/{run['run']}").json()
    assert now["state"] == "words"
    assert "labels" not in now
    assert client.get(f"/api/classify/{run['run']}/images").status_code == 409
    assert client.get(f"/api/classify/{run['run']}/table").status_code == 409
    threading.Timer(0.2, held.go_on.set).start()
    stopped = client.post(f"/api/classify/{run['run']}/stop")
    assert (stopped.status_code, stopped.json()["state"]) == (200, "stopped")
    assert client.get(f"/api/classify/{run['run']}").json()["state"] == "stopped"
    told = client.get(f"/api/classify/{run['run']}/images")
    assert (told.status_code, told.json()) == (409, {"error": "It was stopped."})


def test_only_a_few_may_wait(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldBack(monkeypatch)
    body = {"labels": "a, b", "wait": 0}
    runs = [client.post("/api/classify", json=body) for _ in range(classify_runs.MOST_WAITING + 1)]
    assert all(answer.status_code == 200 for answer in runs)
    refused = client.post("/api/classify", json=body)
    assert refused.status_code == 429
    held.go_on.set()
    for answer in runs:
        now = client.get(f"/api/classify/{answer.json()['run']}?wait=60").json()
        assert now["state"] == "done"
    assert client.post("/api/classify", json={**body, "wait": 30}).json()["state"] == "done"


def test_the_oldest_results_are_let_go(client: Any) -> None:
    runs = [classified(client, labels=f"a, b{n}") for n in range(classify_runs.MOST_KEPT + 1)]
    assert client.get(f"/api/classify/{runs[0]['run']}").status_code == 404
    for run in runs[1:]:
        assert client.get(f"/api/classify/{run['run']}").status_code == 200


def test_a_result_is_of_its_own_index_alone(
    client_of: Open, mini_index: Path, pictures: Path
) -> None:
    from indexer import build_index

    client = client_of(mini_index)
    run = classified(client, labels=LABELS)
    shutil.rmtree(mini_index)
    build_index(pictures, mini_index, encoder="mini")
    last = time.monotonic() + 20
    while client.get(f"/api/classify/{run['run']}/images").status_code == 200:
        assert time.monotonic() < last
        time.sleep(0.1)
    told = client.get(f"/api/classify/{run['run']}/table")
    assert (told.status_code, told.json()["error"]) == (
        409,
        "The index was made anew: classify again.",
    )


def test_a_failure_tells_no_path(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("cannot open /home/somebody/secret.bin")

    monkeypatch.setattr(collection_labels, "classify_beside", fails)
    answer = client.post("/api/classify", json={"labels": "a, b", "wait": 30})
    assert answer.status_code == 500
    assert "somebody" not in answer.text


# -- tables, sets, corrections -----------------------------------------------------------


def test_the_tables_are_those_of_the_command_line(
    client: Any, cli_here: Cli, tmp_path: Path
) -> None:
    labels = ",".join(LABELS)
    run = classified(client, labels=labels)
    for form in ("csv", "parquet"):
        out = tmp_path / f"out.{form}"
        cli_here("classify", "--index", client.place, "--labels", labels, "--out", out)
        answer = client.get(f"/api/classify/{run['run']}/table?form={form}")
        assert answer.headers["content-disposition"] == f'attachment; filename="labels.{form}"'
        if form == "csv":
            assert answer.text == out.read_text()
            assert len(list(csv.DictReader(io.StringIO(answer.text)))) == run["images"]
        else:
            assert pq.read_table(io.BytesIO(answer.content)).equals(pq.read_table(out))
    assert client.get(f"/api/classify/{run['run']}/table?form=html").status_code == 400


def test_a_result_is_saved_found_and_corrected(client_of: Open, mini_index: Path) -> None:
    client = client_of(mini_index)
    run = classified(client, labels=LABELS, none="off")
    save = f"/api/classify/{run['run']}/save"
    for name in ("", "../up", "con", "x" * 65, ".hidden"):
        assert client.post(save, json={"name": name}).status_code == 400
    assert label_set_names(mini_index) == []
    saved = client.post(save, json={"name": "things"}).json()
    assert (saved["saved_as"], saved["saving"], saved["saving_error"]) == ("things", False, None)
    assert read_label_set(mini_index, "things").labels == tuple(LABELS)
    again = client.post(save, json={"name": "Things"})
    assert again.status_code == 409
    assert client.post(save, json={"name": "things", "replace": True}).status_code == 200

    (listed,) = client.get("/api/label-sources").json()["sets"]
    assert (listed["name"], listed["labels"], listed["taught"]) == ("things", len(LABELS), 0)
    found = client.get("/api/label-sources/labels?set=things").json()
    assert found == {"labels": LABELS, "total": len(LABELS)}
    most = max(run["labels"], key=lambda one: one["count"])
    searched = client.get("/api/search", params={"label": f"things:{most['label']}"}).json()
    assert searched["total"] == most["count"]

    by_name = classified(client, set="things")
    assert (by_name["set"], by_name["title"]) == ("things", "things")
    assert by_name["labels"] == run["labels"]
    assert classified(client, labels="@things")["set"] == "things"

    wrong = gallery(client, by_name, label=most["label"], order="doubtful")["hits"][0]
    other = next(label for label in LABELS if label != most["label"])
    teach = "/api/label-sets/things/teach"
    for body, status in (
        ({}, 400),
        ({"images": {}}, 400),
        ({"images": {str(wrong["id"]): "a fish"}}, 400),
        ({"images": {"../1": other}}, 400),
        ({"images": {"999999": other}}, 404),
        ({"images": {str(n): other for n in range(501)}}, 400),
    ):
        assert client.post(teach, json=body).status_code == status
    assert read_label_set(mini_index, "things").teaching is None
    taught = client.post(teach, json={"images": {str(wrong["id"]): other}}).json()
    assert (taught["new"], taught["corrected"], taught["examples"]) == (1, 1, 1)
    corrected = classified(client, set="things")
    assert corrected["examples"] == 1
    assert wrong["id"] in [hit["id"] for hit in gallery(client, corrected, label=other)["hits"]]
    assert open_index(mini_index).classify(LABELS, none="off").label_of(wrong["id"]) != other


def test_a_read_only_index_is_told(
    client_of: Open, mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(mini_index))

    client = client_of(mini_index)
    run = classified(client, labels=LABELS)
    monkeypatch.setattr("clipsearch.label_set_saving.make_folder", refused)
    saved = client.post(f"/api/classify/{run['run']}/save", json={"name": "things"})
    assert saved.json()["saving_error"] == "The index cannot be written to: nothing was saved."
    assert str(mini_index) not in saved.text
    assert label_set_names(mini_index) == []


# -- where labels come from --------------------------------------------------------------

TOML = b"""
[labels."a big cat"]
synonyms = ["a cheetah", "a lion"]
[labels."a tower"]
threshold = 0.5
[labels."a bus"]
"""


def file_of(client: Any, name: str, data: bytes) -> Any:
    return client.post(
        "/api/label-file",
        params={"name": name},
        content=data,
        headers={"Content-Type": "application/octet-stream"},
    )


def test_a_file_of_definitions_is_asked_with_all_it_says(client: Any, tmp_path: Path) -> None:
    from clipsearch.definition_files import read_labels

    told = file_of(client, "zoo.toml", TOML).json()
    assert told["labels"] == ["a big cat", "a tower", "a bus"]
    (tmp_path / "zoo.toml").write_bytes(TOML)
    definitions = read_labels(tmp_path / "zoo.toml")
    assert isinstance(definitions, LabelDefinitions)
    expected = open_index(client.place).classify(definitions)
    run = classified(client, definitions=told["definitions"])
    hits = gallery(client, run)["hits"]
    assert {hit["id"]: hit["label"] for hit in hits} == {
        image_id: expected.label_of(image_id) for image_id in expected.ids.tolist()
    }


def test_a_file_with_a_label_a_line(client: Any) -> None:
    told = file_of(client, "a.txt", b"# animals\ncat, big\n\xc3\xa9l\xc3\xa9phant\n").json()
    assert told == {"labels": ["cat, big", "éléphant"], "definitions": None, "groups": []}
    names = json.dumps({"labels": ["x", "y"]}).encode()
    assert file_of(client, "a.json", names).json()["labels"] == ["x", "y"]


def test_one_group_of_a_file_at_a_time(client: Any) -> None:
    data = b"""
[groups.season]
labels = ["summer", "winter"]
[groups.place]
labels = ["indoors", "outdoors"]
[groups.things]
labels = ["a ball"]
exclusive = false
"""
    told = file_of(client, "groups.toml", data).json()
    assert told["groups"] == ["season", "place"]
    asked = {"definitions": told["definitions"]}
    refused = client.post("/api/classify", json=asked)
    assert refused.status_code == 400
    assert "season" in refused.json()["error"]
    assert client.post("/api/classify", json={**asked, "group": "things"}).status_code == 400
    run = classified(client, **asked, group="place")
    assert {one["label"] for one in run["labels"]} == {"indoors", "outdoors"}


@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("a.txt", b"", 400),
        ("a.txt", b"\xff\xfe\x00", 400),
        ("a.toml", b"labels = [", 400),
        ("a.json", b"[" * 100_000, 400),
        ("a.exe", b"a", 400),
        ("../../etc/passwd", b"", 400),
        ("a.txt", b"\n".join(b"%d" % n for n in range(3_000)), 413),
        ("a.txt", b"a\n" * (2 << 20), 413),
    ],
)
def test_files_that_are_not_taken(client: Any, name: str, data: bytes, status: int) -> None:
    answer = file_of(client, name, data)
    assert answer.status_code == status
    assert "passwd" not in answer.text
    assert "/tmp" not in answer.text


def test_the_names_of_a_discovery_are_labels(client_of: Open, mini_index: Path) -> None:
    index = open_index(mini_index)
    words = Vocabulary("words", ("animal", "building", "sign", "vehicle"))
    found = index.discover(n_clusters=3, vocabulary=words)
    save_discovery(mini_index, index.state(), "first", found)
    client = client_of(mini_index)
    sources = client.get("/api/label-sources").json()
    assert sources["discoveries"] == [{"name": "first"}]
    names = list(dict.fromkeys(cluster.name for cluster in found.clusters))
    told = client.get("/api/label-sources/labels?discovery=first").json()
    assert told == {"labels": names, "total": len(names)}
    run = classified(client, discovery="first")
    assert {one["label"] for one in run["labels"]} == set(names)
    assert client.get("/api/label-sources/labels?discovery=second").status_code == 400


# -- one image ---------------------------------------------------------------------------


def one(client: Any, data: bytes, name: str = "photo.jpg", **fields: str) -> Any:
    return client.post("/api/classify-image", data=fields, files={"image": (name, data)})


def test_one_image_against_labels(
    client: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data = (pictures / "lion.jpg").read_bytes()
    answer = one(client, data, labels=", ".join(LABELS), top="3")
    assert answer.status_code == 200
    told = answer.json()
    (expected,) = label_images("mini", [data], LABELS, top=3)
    assert [found["label"] for found in told["labels"]] == [
        found.label for found in expected.labels
    ]
    for found, best in zip(told["labels"], expected.labels, strict=True):
        assert found["probability"] == pytest.approx(best.probability, abs=1e-5)
    assert (told["asked"], told["model"], told["format"]) == (len(LABELS), "mini", "JPEG")
    assert told["notes"] == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_one_image_without_an_index(client_of: Open, pictures: Path) -> None:
    client = client_of(None, model="mini")
    data = (pictures / "lion.jpg").read_bytes()
    told = one(client, data, labels="a lion, a bus").json()
    assert [found["label"] for found in told["labels"]] == [
        found.label for found in next(label_images("mini", [data], ["a lion", "a bus"])).labels
    ]
    assert any("mini" in note for note in told["notes"])
    # The file alone will do, with the rest behind the address.
    alone = client.post("/api/classify-image?labels=a+lion,a+bus", content=data)
    assert alone.json()["labels"] == told["labels"]


def test_one_image_with_definitions_and_in_a_form_that_browsers_do_not_show(
    client: Any, pictures: Path
) -> None:
    from PIL import Image

    stream = io.BytesIO()
    Image.open(pictures / "lion.jpg").save(stream, "TIFF")
    definitions = json.dumps({"labels": {"a big cat": ["a lion"], "a bus": {}}})
    told = one(client, stream.getvalue(), "x.tif", definitions=definitions).json()
    assert {found["label"] for found in told["labels"]} == {"a big cat", "a bus"}
    assert told["format"] == "TIFF"
    assert told["preview"].startswith("data:image/jpeg;base64,")
    alone = one(client, stream.getvalue(), labels=json.dumps(["only one, with a comma"])).json()
    assert alone["labels"][0]["label"] == "only one, with a comma"
    assert "single label" in alone["notes"][0]


def bomb(side: int) -> bytes:
    """A small PNG that would unfold to ``side`` x ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize(
    ("data", "fields", "status"),
    [
        (b"", {"labels": "a"}, 400),
        (b"no image", {"labels": "a"}, 415),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
         {"labels": "a"}, 415),
        (b"\xff\xd8\xff" + b"\0" * 100, {"labels": "a"}, 400),
        (bomb(20_000), {"labels": "a"}, 413),
        ("photo", {}, 400),
        ("photo", {"labels": "a", "top": "0"}, 400),
        ("photo", {"labels": "a", "top": "many"}, 400),
        ("photo", {"labels": "a", "path": "/etc/passwd"}, 400),
        ("photo", {"labels": "a", "templates": "/etc/passwd"}, 400),
        ("photo", {"definitions": '{"labels": ['}, 400),
        ("photo", {"labels": "x" * 250_000}, 400),
    ],
)  # fmt: skip
def test_images_and_questions_that_are_not_taken(
    client: Any, pictures: Path, data: bytes | str, fields: dict[str, str], status: int
) -> None:
    if isinstance(data, str):
        data = (pictures / "lion.jpg").read_bytes()
    answer = one(client, data, **fields)
    assert answer.status_code == status, answer.text
    assert "root:" not in answer.text


def test_an_image_that_is_too_large_is_refused(client_of: Open, pictures: Path) -> None:
    client = client_of(None, model="mini", most_upload_bytes=1_000, most_pixels=1_000)
    assert one(client, b"\xff" * 1_500, labels="a").status_code == 413
    small = client_of(None, model="mini", most_pixels=1_000)
    assert one(small, (pictures / "lion.jpg").read_bytes(), labels="a").status_code == 413


def test_no_part_of_the_page_takes_the_name_of_a_file() -> None:
    from ui.app import build_page
    from ui.library import Library
    from ui.page_settings import PageSettings

    settings = PageSettings()
    parts = build_page(Library(None, settings), settings).config["components"]
    assert parts
    taking = {
        "image",
        "file",
        "gallery",
        "video",
        "audio",
        "imageeditor",
        "uploadbutton",
        "model3d",
    }
    assert [part["type"] for part in parts if part["type"] in taking] == []


def test_labels_of_a_file_in_memory_are_told_by_its_name() -> None:
    from clipsearch.definition_files import labels_in

    assert labels_in("a.txt", b"x\ny\n") == ("x", "y")
    with pytest.raises(LabelError, match=r"a\.txt holds no labels"):
        labels_in("a.txt", b"# nothing\n")
    with pytest.raises(LabelError, match=r"a\.json: expected the file to be a table"):
        labels_in("a.json", b"3")
