"""Pictures of the page: thumbnails, previews and originals, by id and by nothing else."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from clipsearch import open_index
from tests.page_library import NASTY, SECRET, id_of, make_library, open_page
from ui.media import attachment


@pytest.fixture(scope="module")
def page(photo_library: Path) -> Iterator[TestClient]:
    with open_page(photo_library) as opened:
        yield opened


@pytest.fixture
def own_library(pictures: Path, tmp_path: Path) -> Path:
    """A library whose photos the test may change, in ``photos`` beside it."""
    return make_library(pictures, tmp_path)


def picture(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        return opened


# -- thumbnails and previews -------------------------------------------------------------------


def test_a_thumbnail_is_the_one_of_the_index(page: TestClient, photo_library: Path) -> None:
    groot = id_of(page, "groot.jpeg")
    answer = page.get(f"/media/thumbnail/{groot}")
    assert answer.content == open_index(photo_library).thumbnail(groot)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert max(picture(answer.content).size) == 320


def test_pictures_are_asked_for_again_unless_the_address_names_the_index(
    page: TestClient,
) -> None:
    for kind in ("thumbnail", "preview"):
        first = page.get(f"/media/{kind}/0")
        assert first.headers["cache-control"] == "private, no-cache"
        tag = first.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = page.get(f"/media/{kind}/0", headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == tag
        other = page.get(f"/media/{kind}/1", headers={"If-None-Match": tag})
        assert other.status_code == 200
        key = page.get("/api/status").json()["key"]
        kept = page.get(f"/media/{kind}/0", params={"v": key})
        assert kept.headers["cache-control"] == "private, max-age=31536000, immutable"
        foreign = page.get(f"/media/{kind}/0", params={"v": "another"})
        assert foreign.headers["cache-control"] == "private, no-cache"
    assert page.get("/media/thumbnail/0").headers["etag"] != tag  # of a preview


def test_a_preview_is_upright_and_tells_nothing_of_the_photo(
    page: TestClient, photo_library: Path
) -> None:
    photos = photo_library.parent / "photos"
    for name, place in (("lion.jpg", "2019/deep"), ("cheetah.jpg", "2019")):
        original = (photos / place / name).read_bytes()
        assert SECRET.encode() in original
        answer = page.get(f"/media/preview/{id_of(page, name)}")
        assert SECRET.encode() not in answer.content
        shown = picture(answer.content)
        assert dict(shown.getexif()) == {}
        assert "exif" not in shown.info
        stored = picture(original)
        turned = stored.transpose(Image.Transpose.ROTATE_270) if name == "lion.jpg" else stored
        assert shown.size == turned.size
        small = (16, 16)
        differences = [
            abs(one - other)
            for one, other in zip(
                shown.convert("L").resize(small).tobytes(),
                turned.convert("L").resize(small).tobytes(),
                strict=True,
            )
        ]
        assert max(differences) < 12


def test_a_preview_is_no_larger_than_it_need_be(pictures: Path, tmp_path: Path) -> None:
    from indexer import build_index

    photos = tmp_path / "photos"
    photos.mkdir()
    with Image.open(pictures / "groot.jpeg") as groot:
        groot.convert("RGB").resize((2000, 500)).save(photos / "wide.png")
    build_index(photos, tmp_path / "photos.index", encoder="mini")
    with open_page(tmp_path / "photos.index") as page:
        assert picture(page.get("/media/preview/0").content).size == (1600, 400)
    with open_page(tmp_path / "photos.index", most_pixels=500_000) as page:
        refused = page.get("/media/preview/0")
        assert (refused.status_code, "1.0 megapixels" in refused.json()["error"]) == (413, True)
        assert page.get("/media/thumbnail/0").status_code == 200


def test_a_thumbnail_that_the_cache_has_lost_is_made(own_library: Path) -> None:
    shutil.rmtree(own_library / "cache" / "thumbnails")
    with open_page(own_library) as page:
        groot = id_of(page, "groot.jpeg")
        answer = page.get(f"/media/thumbnail/{groot}")
        assert max(picture(answer.content).size) == 320
        # It is held: the file may go.
        (own_library.parent / "photos" / "groot.jpeg").unlink()
        assert page.get(f"/media/thumbnail/{groot}").content == answer.content
        assert page.get(f"/media/preview/{groot}").status_code == 404


# -- originals -------------------------------------------------------------------------------


def test_an_original_is_saved_as_it_is(page: TestClient, photo_library: Path) -> None:
    photos = photo_library.parent / "photos"
    answer = page.get(f"/media/original/{id_of(page, 'tower.jpg')}")
    assert answer.content == (photos / "2021" / "tower.jpg").read_bytes()
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-disposition"] == (
        "attachment; filename=\"tower.jpg\"; filename*=UTF-8''tower.jpg"
    )
    # The bytes say what it is: this one only has the name of a PNG.
    drawing = page.get(f"/media/original/{id_of(page, 'bus.png')}")
    assert drawing.content.startswith(b"GIF")
    assert drawing.headers["content-type"] == "image/gif"


@pytest.mark.parametrize(
    "name",
    [
        NASTY,
        'x"; filename="y.html',
        "a\r\nSet-Cookie: x=1",
        "日本.jpg",
        "..",
        "a\udce9.jpg",
        "a" * 250,
    ],
)
def test_no_name_breaks_out_of_its_header(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    assert header.startswith('attachment; filename="')
    plain = header.split('"')[1]
    assert not set(plain) & set('<>:/\\|*?;\r\n"') - {";"}


def test_what_has_gone_or_changed_is_not_handed_out(own_library: Path) -> None:
    photos = own_library.parent / "photos"
    secret = own_library.parent / "secret.txt"
    secret.write_text("not for the browser")
    with open_page(own_library) as page:
        tower, lion, bus, groot = (
            id_of(page, name) for name in ("tower.jpg", "lion.jpg", "bus.png", "groot.jpeg")
        )
        (photos / "2021" / "tower.jpg").unlink()
        shutil.copyfile(photos / "2019" / "cheetah.jpg", photos / "2019" / "deep" / "lion.jpg")
        (photos / "bus.png").unlink()
        (photos / "bus.png").symlink_to(secret)
        (photos / "groot.jpeg").unlink()
        os.mkfifo(photos / "groot.jpeg")  # nobody writes into it: to open it would wait
        for kind in ("original", "preview"):
            for image_id, said in (
                (tower, "not there now"),
                (lion, "has changed since"),
                (bus, "changed" if kind == "original" else "not there now"),
                (groot, "not there now"),
            ):
                answer = page.get(f"/media/{kind}/{image_id}")
                assert (answer.status_code, said in answer.json()["error"]) == (404, True), kind
                assert "secret" not in answer.text
                assert str(photos) not in answer.text
        assert page.get(f"/api/images/{tower}").json()["original"] is False
        assert page.get(f"/api/images/{groot}").json()["original"] is False
        assert page.get(f"/media/thumbnail/{tower}").status_code == 200


def test_a_copy_stands_in_for_a_file_that_has_gone(own_library: Path) -> None:
    photos = own_library.parent / "photos"
    with open_page(own_library) as page:
        again = id_of(page, "again.jpg")
        (photos / "2021" / "again.jpg").unlink()
        answer = page.get(f"/media/original/{again}")
        assert answer.content == (photos / NASTY).read_bytes()
        header = answer.headers["content-disposition"]
        assert "<" not in header
        assert header.count('"') == 2
        assert page.get(f"/media/preview/{again}").status_code == 200


# -- nothing but ids ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["thumbnail", "preview", "original"])
@pytest.mark.parametrize(
    "text",
    [
        "6", "-1", "0.5", "1e1", "٣", "0x0", " 0", "99999999999999999999999", "..", "%2e%2e",
        "..%2f..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "..%5c..%5cetc", "0%00", "0%2e%2e",
        "%252e%252e%252fetc%252fpasswd", "file:%2f%2f%2fetc%2fpasswd", "lion.jpg",
    ],
)  # fmt: skip
def test_only_ids_name_a_picture(page: TestClient, kind: str, text: str) -> None:
    answer = page.get(f"/media/{kind}/{text}")
    assert answer.status_code in (400, 404)
    assert b"root:" not in answer.content
    assert "image" not in answer.headers["content-type"]


def test_an_upload_is_only_shown_to_who_knows_its_token(page: TestClient) -> None:
    for token in ("up-", "up-0", "0", "..%2f0", "%2e%2e"):
        assert page.get(f"/media/upload/{token}").status_code in (400, 404)
