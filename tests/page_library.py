"""A small library for tests of the page: real pictures with dates, places and a camera, one of
them on its side, one twice, one with a name that is nasty in every language."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image, TiffImagePlugin
from starlette.testclient import TestClient

NASTY = 'a "quoted" <script>alert(1)</script> é; x.jpg'.replace("/", "∕")
SECRET = "GPS-and-serial-4711"


def write_photo(
    source: Path,
    place: Path,
    taken: str,
    *,
    camera: str = "",
    orientation: int = 1,
    degrees: tuple[float, float] | None = None,
) -> None:
    """A JPEG of a picture with EXIF. taken : "2019:07:04 12:30:00"."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET
    if camera:
        exif[0x0110] = camera
    exif.get_ifd(0x8769)[0x9003] = taken
    if degrees is not None:
        gps = exif.get_ifd(0x8825)
        for tag, value in zip((2, 4), degrees, strict=True):
            gps[tag - 1] = {2: "NS", 4: "EW"}[tag][value < 0]
            gps[tag] = tuple(TiffImagePlugin.IFDRational(part) for part in (abs(value), 0, 0))
    place.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as picture:
        picture.convert("RGB").save(place, "JPEG", quality=90, exif=exif)


def make_library(pictures: Path, place: Path) -> Path:
    """Photos in ``place/photos`` made of ``pictures``, and their index, made with mini."""
    from indexer import build_index

    photos = place / "photos"
    write_photo(
        pictures / "cheetah.jpg", photos / "2019" / "cheetah.jpg", "2019:07:04 12:30:00",
        camera="Camera One", degrees=(-2.5, 34.8),
    )  # fmt: skip
    write_photo(
        pictures / "lion.jpg", photos / "2019" / "deep" / "lion.jpg", "2019:08:01 08:00:00",
        camera="Camera One", orientation=6,
    )  # fmt: skip
    write_photo(
        pictures / "tower.jpg", photos / "2021" / "tower.jpg", "2021:01:02 03:04:05",
        camera="Camera Two", degrees=(48.85, 2.35),
    )  # fmt: skip
    shutil.copyfile(pictures / "cheetah1.jpg", photos / NASTY)
    shutil.copyfile(pictures / "cheetah1.jpg", photos / "2021" / "again.jpg")
    shutil.copyfile(pictures / "bus.png", photos / "bus.png")
    shutil.copyfile(pictures / "groot.jpeg", photos / "groot.jpeg")
    index = place / "photos.index"
    build_index(photos, index, encoder="mini")
    return index


def api_app(index: Path | None, library: Any = None, **settings: Any) -> FastAPI:
    """The real application without the page that Gradio draws, which takes a while to make: for
    tests that ask nothing but our own routes. library : of ``index``, where the test needs it.
    settings : of PageSettings."""
    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app

    chosen = PageSettings(**settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ui.server.mount_page", lambda *_: None)
        return create_app(library or Library(index, chosen), chosen)


@contextmanager
def open_page(index: Path | None, **settings: Any) -> Iterator[TestClient]:
    """The application of ``api_app``, asked without a socket."""
    app = api_app(index, **settings)
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as page:
        yield page


def id_of(page: TestClient, name: str) -> int:
    """The id of the only photo of this name."""
    hits = page.get("/api/search", params={"limit": 120}).json()["hits"]
    (found,) = [hit["id"] for hit in hits if hit["name"] == name]
    return int(found)
