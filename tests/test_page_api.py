"""The HTTP API of the page: searching, images handed in, facets, one image, exports."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from clipsearch import Query, open_index
from clipsearch.errors import QueryError
from clipsearch.image_index import ImageIndex
from clipsearch.threads import single_threaded_blas
from tests.page_library import NASTY, SECRET, id_of, make_library, open_page
from tests.test_label_sets import save_rows
from ui.page_errors import PageError
from ui.turns import Turns


@pytest.fixture(scope="module")
def page(photo_library: Path) -> Iterator[TestClient]:
    with open_page(photo_library) as opened:
        yield opened


@pytest.fixture(scope="module")
def lion(_pictures: Path) -> bytes:
    return (_pictures / "lion.jpg").read_bytes()


def search(page: TestClient, **parameters: Any) -> dict[str, Any]:
    answer = page.get("/api/search", params=parameters)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def names(found: dict[str, Any], part: str = "hits") -> list[str]:
    return [hit["name"] for hit in found[part]]


def refusal(page: TestClient, path: str, **parameters: Any) -> tuple[int, str]:
    answer = page.get(path, params=parameters)
    assert set(answer.json()) == {"error"}
    return answer.status_code, answer.json()["error"]


# -- api/status ------------------------------------------------------------------------------


def test_status_says_what_the_index_is_and_no_path(page: TestClient, photo_library: Path) -> None:
    status = page.get("/api/status").json()
    assert (status["name"], status["images"], status["model"]) == ("photos", 6, "mini")
    assert status["missing"] == status["skipped"] == 0
    assert status["updated_at"] >= status["created_at"] > "2026"
    assert str(photo_library.parent) not in json.dumps(status)


def test_without_an_index_every_question_says_how_to_make_one() -> None:
    with open_page(None) as page:
        told = page.get("/api/status").json()
        assert (told["name"], told["images"]) == (None, 0)
        assert told["command"].startswith("clipsearch index")
        for path in ("search", "facets", "images/0", "similar?like=0"):
            answer = page.get(f"/api/{path}")
            assert answer.status_code == 409
            assert "clipsearch index" in answer.json()["error"]


# -- api/search ------------------------------------------------------------------------------


def test_without_a_question_all_photos_come_newest_first(page: TestClient) -> None:
    found = search(page)
    assert names(found)[:3] == ["tower.jpg", "lion.jpg", "cheetah.jpg"]
    assert (found["total"], found["searched"], found["below"]) == (6, 6, [])
    first = found["hits"][0]
    assert first["taken_at"] == "2021-01-02T03:04:05"
    assert (first["score"], first["cosine"], first["strength"]) == (None, None, None)
    assert (first["width"], first["height"]) == (377, 600)
    turned = next(hit for hit in found["hits"] if hit["name"] == "lion.jpg")
    assert (turned["width"], turned["height"]) == (256, 256)


def test_words_rank_as_the_engine_does(page: TestClient, photo_library: Path) -> None:
    found = search(page, q="a tall  tower", cut="none")
    engine = open_index(photo_library).search("a tall tower", k=60, strengths=True)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in engine]
    assert found["hits"][0]["name"] == "tower.jpg"
    assert [hit["score"] for hit in found["hits"]] == [round(hit.score, 4) for hit in engine]
    assert [hit["strength"] for hit in found["hits"]] == [hit.strength for hit in engine]


def test_pages_follow_each_other(page: TestClient) -> None:
    whole = names(search(page, q="an animal", cut="none"))
    parts = [names(search(page, q="an animal", cut="none", offset=n, limit=2)) for n in (0, 2, 4)]
    assert [name for part in parts for name in part] == whole
    assert search(page, q="an animal", cut="none", offset=60)["hits"] == []


def test_with_nothing_above_the_cut_off_the_closest_come(page: TestClient) -> None:
    found = search(page, q="a wild cat")
    assert (found["hits"], found["total"]) == ([], 0)
    closest = names(search(page, q="a wild cat", cut="none"))
    assert names(found, "below") == closest
    assert search(page, q="a wild cat", offset=60)["below"] == []


def test_terms_attract_and_repel(page: TestClient, photo_library: Path) -> None:
    lion, tower = id_of(page, "lion.jpg"), id_of(page, "tower.jpg")
    found = page.get(
        "/api/search",
        params=[
            ("q", "an animal"), ("plus", "fur^2"), ("plus", "sand"), ("not", "a drawing^0.5"),
            ("like", f"{lion}^1.5"), ("unlike", str(tower)), ("cut", "none"),
        ],
    ).json()  # fmt: skip
    query = Query(
        "an animal",
        plus=(("fur", 2.0), ("sand", 1.0)),
        minus=(("a drawing", 0.5),),
        like=((lion, 1.5),),
        unlike=((tower, 1.0),),
    )
    wanted = open_index(photo_library).search(query, k=60)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in wanted]
    assert {lion, tower}.isdisjoint(hit["id"] for hit in found["hits"])


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"since": "2020"}, ["tower.jpg"]),
        ({"until": "2019-07"}, ["cheetah.jpg"]),
        ({"camera": "camera one"}, ["lion.jpg", "cheetah.jpg"]),
        ({"near": "48.8,2.3,20"}, ["tower.jpg"]),
        ({"box": "-3,34,-2,35"}, ["cheetah.jpg"]),
        ({"minsize": "900"}, ["groot.jpeg"]),
        ({"where": 'name ~ "bus" or name ~ "groot"'}, ["bus.png", "groot.jpeg"]),
        ({"where": ["taken is known", "width < 400"]}, ["tower.jpg", "lion.jpg"]),
        ({"camera": ["Two", "One"], "since": "2019-08"}, ["tower.jpg", "lion.jpg"]),
    ],
)
def test_filters(page: TestClient, parameters: dict[str, Any], wanted: list[str]) -> None:
    assert names(search(page, **parameters)) == wanted


def test_a_folder_is_a_filter_and_an_empty_one_is_told(
    page: TestClient, photo_library: Path
) -> None:
    folder = photo_library.parent / "photos" / "2019"
    assert names(search(page, **{"in": str(folder)})) == ["lion.jpg", "cheetah.jpg"]
    found = search(page, **{"in": str(folder / "nowhere"), "q": "a cat"})
    assert found["hits"] == found["below"] == []
    assert found["note"] == "Nothing in the index is in this folder."
    assert str(Path.home()) not in page.get("/api/search", params={"in": "~/nowhere"}).text


def test_sorting_and_folding_are_passed_on(page: TestClient) -> None:
    dated = search(page, q="an animal", cut="none", sort="date")["hits"]
    assert [hit["name"] for hit in dated[:3]] == ["tower.jpg", "lion.jpg", "cheetah.jpg"]
    assert all(hit["score"] is not None for hit in dated)
    assert len(search(page, fold="1")["hits"]) <= 6


def test_a_note_says_that_the_language_is_strange(page: TestClient) -> None:
    assert "English" in search(page, q="zwei Hunde und eine Katze")["note"]
    assert search(page, q="two dogs and a cat")["note"] is None


def test_parameters_of_the_page_alone_are_passed_over(page: TestClient) -> None:
    assert search(page, tab="search", open="3", q="", since="")["total"] == 6


@pytest.mark.parametrize(
    ("parameters", "status", "said"),
    [
        ({"query": "cat"}, 400, "no parameter 'query'"),
        ({"q": ["a", "b"]}, 400, "q: expected at most 1"),
        ({"q": "x" * 2001}, 413, "2,000 letters"),
        ({"q": "x" * 5000}, 413, "2,000 letters"),
        ({"plus": ["x"] * 17}, 413, "at most 16"),
        ({"plus": "snow^0"}, 400, "boost above 0"),
        ({"not": "snow^-1"}, 400, "boost above 0"),
        ({"plus": "snow^1e999"}, 400, "boost above 0"),
        ({"like": "999"}, 400, "no image 999"),
        ({"like": "1e3"}, 404, "hand it in again"),
        ({"like": "../../etc/passwd"}, 404, "hand it in again"),
        ({"like": "/etc/passwd"}, 404, "hand it in again"),
        ({"like": "up-forged"}, 404, "hand it in again"),
        ({"unlike": "9" * 101}, 413, "100 letters"),
        ({"limit": "0"}, 400, "limit: expected 1 to 120"),
        ({"limit": "121"}, 400, "limit: expected 1 to 120"),
        ({"limit": "ten"}, 400, "limit: expected a whole number"),
        ({"limit": "١٢"}, 400, "limit: expected a whole number"),
        ({"offset": "-1"}, 400, "offset: expected a whole number"),
        ({"offset": "1000001"}, 400, "offset: expected 0 to 1,000,000"),
        ({"sort": "size"}, 400, "sort: expected one of date, relevance"),
        ({"cut": "0.2"}, 400, "cut: expected one of auto, none"),
        ({"fold": "yes"}, 400, "fold: expected one of 0, 1"),
        ({"since": "01/02/2019"}, 400, "since: "),
        ({"since": "2020", "until": "2019"}, 400, "since 2020 begins after until 2019"),
        ({"minsize": "big"}, 400, "minsize: expected megapixels"),
        ({"near": "91,0,5"}, 400, "near: "),
        ({"where": "("}, 400, "filter, character"),
        ({"where": "colour = red"}, 400, "no field"),
        ({"label": "cat"}, 400, "no saved label set"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(
    page: TestClient, parameters: dict[str, Any], status: int, said: str
) -> None:
    code, error = refusal(page, "/api/search", **parameters)
    assert (code, said in error) == (status, True), error
    assert "\n" not in error
    # Options of a command are named as the parameters that they are here.
    assert "--" not in error or "label" in parameters


def test_labels_are_a_filter(photo_library: Path, tmp_path: Path) -> None:
    index = Path(shutil.copytree(photo_library, tmp_path / "photos.index"))
    save_rows(index, "pets", ("cat", "dog"), [0, 1, -1, 0])
    with open_page(index) as page:
        assert {hit["id"] for hit in search(page, label="pets:cat")["hits"]} == {0, 3}
        assert {hit["id"] for hit in search(page, label="pets:none")["hits"]} == {2}
        (facet,) = page.get("/api/facets").json()["labels"]
        assert facet["set"] == "pets"
        assert [(one["value"], one["count"]) for one in facet["labels"]] == [
            ("pets:cat", 2), ("pets:dog", 1), ("pets:none", 1),
        ]  # fmt: skip
        for one in facet["labels"]:
            assert search(page, label=one["value"])["total"] == one["count"]
        assert page.get("/api/images/3").json()["labels"] == [
            {"set": "pets", "label": "cat", "probability": 0.3}
        ]
        assert page.get("/api/images/2").json()["labels"] == []
        # A set that is saved anew is looked at anew.
        save_rows(index, "pets", ("cat", "dog"), [1, 1, 1, 1])
        assert page.get("/api/images/3").json()["labels"][0]["label"] == "dog"
        assert page.get("/api/facets").json()["labels"][0]["labels"][0]["count"] == 4


# -- images handed in --------------------------------------------------------------------------


def test_an_image_handed_in_is_asked_for_by_its_token(
    page: TestClient, lion: bytes, photo_library: Path
) -> None:
    answer = page.post("/api/uploads", content=lion)
    assert answer.status_code == 201
    upload = answer.json()
    assert (upload["width"], upload["height"], upload["id"]) == (256, 256, None)
    found = search(page, like=upload["upload"])
    wanted = open_index(photo_library).search(Query(like=(lion,)), k=60)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in wanted]
    assert np.allclose(
        [hit["score"] for hit in found["hits"]], [hit.score for hit in wanted], atol=0.02
    )
    both = search(page, q="a tower", like=f"{upload['upload']}^0.1", cut="none")
    assert names(both)[0] == "tower.jpg"
    small = page.get(f"/{upload['thumbnail']}")
    assert small.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(small.content)) as picture:
        assert picture.size == (256, 256)


def test_an_image_of_the_library_is_known_again(page: TestClient, photo_library: Path) -> None:
    photo = photo_library.parent / "photos" / "2021" / "tower.jpg"
    upload = page.post("/api/uploads", files={"image": photo.read_bytes()}).json()
    assert upload["id"] == id_of(page, "tower.jpg")
    best = search(page, like=upload["upload"])["hits"][0]
    assert (best["name"], best["score"]) == ("tower.jpg", 1.0)


def test_an_image_comes_along_with_a_search(page: TestClient, lion: bytes) -> None:
    plain = page.post("/api/search?limit=3", content=lion).json()
    form = page.post("/api/search", files={"image": lion}, data={"limit": "3"}).json()
    assert names(plain) == names(form)
    assert len(plain["hits"]) == 3
    words = page.post(
        "/api/search", params={"q": "a tower", "not": "a lion", "cut": "none"}, content=lion
    ).json()
    assert words["hits"][0]["name"] == "tower.jpg"
    similar = page.post("/api/similar", files={"file": ("x.svg", lion, "image/svg+xml")}).json()
    assert names(similar)[:3] == names(plain)


def test_similar_leaves_the_image_out_and_cuts_nothing(page: TestClient) -> None:
    cheetah = id_of(page, "cheetah.jpg")
    found = page.get("/api/similar", params={"like": cheetah}).json()
    assert len(found["hits"]) == 5
    assert cheetah not in [hit["id"] for hit in found["hits"]]
    assert refusal(page, "/api/similar")[0] == 400
    assert refusal(page, "/api/similar", q="a cat")[0] == 400


def test_what_is_no_image_is_refused(page: TestClient) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for body, status, said in [
        (b"", 400, "empty"),
        (b"GIF89a", 400, "damaged"),
        (svg, 415, "not an image"),
        (b"%PDF-1.7", 415, "not an image"),
        (b"\xff\xd8\xff" + bytes(100), 400, "damaged"),
        (b"FUJIFILMCCD-RAW " + bytes(200), 415, "RAW"),
    ]:
        for path in ("uploads", "search", "similar"):
            answer = page.post(f"/api/{path}", content=body)
            assert answer.status_code == status, (body, answer.text)
            assert said in answer.json()["error"], body
    form = page.post("/api/uploads", data={"image": "text"})
    assert (form.status_code, "not an image" in form.json()["error"]) == (415, True)
    without = page.post("/api/uploads", files={"image": (None, b"text")})
    assert (without.status_code, "one image file" in without.json()["error"]) == (400, True)


def test_too_many_bytes_and_pixels_are_refused(photo_library: Path) -> None:
    sink = io.BytesIO()
    Image.new("1", (3000, 3000)).save(sink, "PNG")
    assert len(sink.getvalue()) < 10_000
    with open_page(photo_library, most_pixels=1_000_000, most_upload_bytes=1 << 20) as page:
        answer = page.post("/api/uploads", content=sink.getvalue())
        assert (answer.status_code, "at most 1 million pixels" in answer.json()["error"]) == (
            413,
            True,
        )
        sent = 0

        def endless() -> Iterator[bytes]:
            nonlocal sent
            while sent < 1 << 28:
                sent += 1 << 16
                yield b"\xff" * (1 << 16)

        bodies: list[dict[str, Any]] = [
            {"content": endless()},
            {"files": {"image": b"x" * (2 << 20)}},
        ]
        for body in bodies:
            answer = page.post("/api/uploads", **body)
            assert answer.status_code == 413
            assert answer.json()["error"]
    with open_page(photo_library, most_upload_bytes=1 << 20) as page:
        answer = page.post("/api/uploads", content=b"x" * ((1 << 20) + 1))
        assert (answer.status_code, answer.json()["error"]) == (
            413, "Expected an image of at most 1 MB.",
        )  # fmt: skip


def test_only_so_many_images_are_held(photo_library: Path, lion: bytes) -> None:
    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.query_images import QueryImages

    images = QueryImages(Library(photo_library, PageSettings()), most=2)
    first, second = images.take(lion), images.take(lion)
    assert first.token != second.token
    assert images.get(first.token) is first  # now the last used
    third = images.take(lion)
    assert images.get(third.token) is third
    assert images.get(first.token) is first
    with pytest.raises(PageError, match="hand it in again"):
        images.get(second.token)


def test_vectors_of_images_are_parts_of_a_query(photo_library: Path) -> None:
    index = open_index(photo_library)
    rows = index.vectors_of([0])[1]
    by_vector = index.search(Query("a cat", like=((rows[0], 2.0),)), k=6)
    by_id = index.search(Query("a cat", like=((0, 2.0),)), k=6)
    assert by_vector[0].id == 0
    assert [hit.id for hit in by_vector][1:] == [hit.id for hit in by_id]
    assert by_vector[1].score == pytest.approx(by_id[0].score, abs=1e-5)
    with pytest.raises(QueryError, match="expected a vector"):
        index.search(Query(like=(np.zeros(3, np.float32),)))
    with pytest.raises(QueryError, match="boost above 0"):
        index.search(Query(like=((rows[0], -1.0),)))


# -- api/facets and api/images -----------------------------------------------------------------


def test_facets_count_what_their_filters_find(page: TestClient, photo_library: Path) -> None:
    facets = page.get("/api/facets").json()
    assert (facets["images"], facets["dated"], facets["placed"]) == (6, 3, 2)
    assert [(year["value"], year["count"]) for year in facets["years"]] == [
        ("2021", 1),
        ("2019", 2),
    ]
    assert [(one["value"], one["count"]) for one in facets["cameras"]] == [
        ("Camera One", 2), ("Camera Two", 1),
    ]  # fmt: skip
    folders = {folder["name"]: folder["count"] for folder in facets["folders"]}
    assert folders == {"photos": 6, "photos/2019": 2, "photos/2019/deep": 1, "photos/2021": 2}
    for year in facets["years"]:
        assert search(page, since=year["value"], until=year["value"])["total"] == year["count"]
    for name, facet in (("cameras", "camera"), ("folders", "in"), ("sizes", "minsize")):
        for one in facets[name]:
            assert search(page, **{facet: one["value"]})["total"] == one["count"]


def test_an_image_is_told_whole(page: TestClient, photo_library: Path) -> None:
    photos = photo_library.parent / "photos"
    document = page.get(f"/api/images/{id_of(page, 'cheetah.jpg')}").json()
    assert document["path"] == str(photos / "2019" / "cheetah.jpg")
    assert document["folder"] == str(photos / "2019")
    assert document["taken_at"] == "2019-07-04T12:30:00"
    assert document["camera"] == "Camera One"
    assert document["place"] == {"lat": -2.5, "lon": pytest.approx(34.8)}
    assert document["description"] == SECRET
    assert (document["format"], document["original"], document["missing"]) == ("JPEG", True, False)
    assert document["packed"] is False
    assert document["bytes"] == (photos / "2019" / "cheetah.jpg").stat().st_size
    twice = page.get(f"/api/images/{id_of(page, 'again.jpg')}").json()
    assert twice["copies"] == [str(photos / NASTY)]
    assert twice["place"] is None


@pytest.mark.parametrize("text", ["6", "-1", "x", "1.5", "99999999999999999999", "٣", "0x1"])
def test_there_are_no_other_images(page: TestClient, text: str) -> None:
    assert refusal(page, f"/api/images/{text}") == (404, "There is no such image in the index.")


# -- api/export --------------------------------------------------------------------------------


def test_a_search_is_exported_whole(page: TestClient, photo_library: Path) -> None:
    parameters = {"q": "an animal", "cut": "none", "limit": "1", "offset": "3"}
    table = page.get("/api/export", params={"format": "csv", **parameters})
    rows = list(csv.DictReader(io.StringIO(table.text)))
    hits = search(page, q="an animal", cut="none")["hits"]
    assert [int(row["id"]) for row in rows] == [hit["id"] for hit in hits]
    assert math.isclose(float(rows[0]["score"]), hits[0]["score"], abs_tol=1e-4)
    assert table.headers["content-disposition"].startswith('attachment; filename="photos.csv"')
    lines = page.get("/api/export", params={"format": "json", **parameters}).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [hit["id"] for hit in hits]
    paths = page.get("/api/export", params={"format": "paths", "camera": "Two"}).text
    assert paths == f"{photo_library.parent / 'photos' / '2021' / 'tower.jpg'}\n"
    parquet = page.get("/api/export", params={"format": "parquet", "camera": "Two"}).content
    assert parquet.startswith(b"PAR1")


def test_a_selection_is_exported_in_its_order(page: TestClient) -> None:
    ids = [3, 0, 5, 3]
    table = page.post("/api/export", json={"format": "csv", "ids": ids}).text
    assert [int(row["id"]) for row in csv.DictReader(io.StringIO(table))] == [3, 0, 5]
    form = page.post("/api/export", data={"format": "csv", "ids": "3,0,5"})
    assert form.text == table
    some = page.post("/api/export", json={"format": "paths", "ids": [0, 10**12]})
    assert len(some.text.splitlines()) == 1  # what is gone since is left out
    none = page.post("/api/export", json={"format": "paths", "ids": [10**12]})
    assert (none.status_code, none.json()["error"]) == (404, "There is nothing to export.")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"format": "csv"}', b'{"format": "csv", "ids": "1"}',
        b'{"format": "exe", "ids": [1]}', b'{"format": "csv", "ids": [true]}',
        b'{"format": "csv", "ids": []}', b'{"format": "csv", "ids": [-1]}',
        b'{"format": "csv", "ids": [1.5]}', b'{"format": "csv", "ids": [1], "path": "/etc"}',
        b'{"format": "csv", "ids": [1e400]}', b'{"format": "csv", "ids": [NaN]}',
        b'{"format": ["csv"], "ids": [1]}', b'{"format": "csv", "ids": [[1]]}',
        b"[" * 100_000, b'"\xff"',
    ],
)  # fmt: skip
def test_other_selections_are_refused(page: TestClient, body: bytes) -> None:
    answer = page.post("/api/export", content=body)
    assert answer.status_code in (400, 413)
    assert set(answer.json()) == {"error"}


def test_a_selection_is_not_endless(page: TestClient) -> None:
    many = page.post("/api/export", json={"format": "csv", "ids": list(range(10_001))})
    assert many.status_code == 413
    long = page.post("/api/export", content=b" " * (2 << 20))
    assert long.status_code == 413
    assert refusal(page, "/api/export", q="cat")[1].startswith("format: expected one of csv")


def test_a_zip_holds_the_originals(pictures: Path, tmp_path: Path) -> None:
    index = make_library(pictures, tmp_path)
    photos = tmp_path / "photos"
    with open_page(index) as page:
        again, lion, tower = (id_of(page, name) for name in ("again.jpg", "lion.jpg", "tower.jpg"))
        (photos / "2021" / "tower.jpg").unlink()
        (photos / "2019" / "deep" / "lion.jpg").write_bytes(b"another picture")
        (photos / "2021" / "again.jpg").unlink()  # its copy is there still
        os.utime(photos / NASTY, (2**33, 2**33))  # in 2242; a zip archive knows no year after 2107
        archive = page.post("/api/export", json={"format": "zip", "ids": [again, lion, tower, 0]})
        with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
            assert opened.testzip() is None
            found = {name: opened.read(name) for name in opened.namelist()}
    told = found.pop("NOT INCLUDED.txt").decode()
    assert "lion.jpg: The file of this photo has changed since it was indexed." in told
    assert "tower.jpg: The file of this photo is not there now." in told
    assert str(tmp_path) not in told
    assert sorted(found.values(), key=len) == sorted(
        [(photos / NASTY).read_bytes(), (photos / "2019" / "cheetah.jpg").read_bytes()], key=len
    )
    assert set(found) == {"cheetah.jpg", "a _quoted_ _script_alert(1)_∕script_ é; x.jpg"}


def test_names_in_a_zip_are_free_and_harmless() -> None:
    from ui.zip_stream import free_name

    used: set[str] = set()
    asked = ["a.jpg", "A.JPG", "../../a.jpg", "..", "", "a.jpg", "con:x\n.jpg"]
    assert [free_name(name, used) for name in asked] == [
        "a.jpg", "A (2).JPG", "_.._a.jpg", "photo", "photo (2)", "a (3).jpg", "con_x_.jpg",
    ]  # fmt: skip


# -- how much at once --------------------------------------------------------------------------


def test_work_takes_turns_and_too_much_is_refused() -> None:
    running, most = 0, 0
    refused: list[int] = []

    async def everything() -> None:
        turns = Turns(2, waiting=3)

        def work() -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            anyio.from_thread.run(anyio.sleep, 0.02)
            running -= 1

        async def one() -> None:
            try:
                await turns.run(work)
            except PageError as error:
                refused.append(error.status)

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)
        await turns.run(work)  # who was refused, or failed, holds no place

    anyio.run(everything)
    assert (most, refused) == (2, [503] * 3)


def test_a_search_leaves_no_processor_to_two_kinds_of_threads(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    counts: list[list[int]] = []
    search_itself = ImageIndex.search

    def watched(self: ImageIndex, *values: Any, **named: Any) -> Any:
        counts.append(_blas_threads())
        return search_itself(self, *values, **named)

    def _blas_threads() -> list[int]:
        pools = threadpool_info()
        return [
            pool["num_threads"]
            for pool in pools
            if pool["user_api"] == "blas" and pool.get("threading_layer") != "openmp"
        ]

    monkeypatch.setattr(ImageIndex, "search", watched)
    # Another test of this process may have loaded one more BLAS since they were looked for.
    monkeypatch.setattr(single_threaded_blas, "_pools", None)
    with threadpool_limits(2, user_api="blas"):
        before = _blas_threads()
        assert search(page, q="a tower", cut="none")["hits"]
        assert _blas_threads() == before
    assert counts == [[1] * len(before)]
