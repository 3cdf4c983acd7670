"""In a real browser: the login, and a collection whose file names would rather be programs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.page_browser import PageServer, browser, browser_page, page_server

__all__ = ["browser", "browser_page", "page_server"]

pytestmark = pytest.mark.slow

_HOSTILE = (
    "<img src=x onerror=window.hacked=1>.jpg",
    "'\"><script>window.hacked=1<!--script>.jpg",
    "javascript:window.hacked=1.jpg",
    "{{constructor.constructor('window.hacked=1')()}}.jpg",
    "${window.hacked=1}.jpg",
    "</script><svg onload=window.hacked=1>.jpg".replace("/", "\N{DIVISION SLASH}"),
    "\u202egpj.exe\r\nSet-Cookie: hacked=1.jpg",
)


def _account() -> tuple[tuple[str, str], ...]:
    from argon2 import PasswordHasher

    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return (("ann", quick.hash("correct horse battery")),)


@pytest.mark.parametrize("root_path", ["", "/photos"])
def test_logging_in_shows_the_photos(
    page_server: PageServer, browser_page: Any, mini_index: Path, root_path: str
) -> None:
    address = page_server(mini_index, accounts=_account(), root_path=root_path)
    browser_page.announce(401, "/login")
    browser_page.excuse("401")  # of the wrong password, told by the browser itself
    page = browser_page(f"{address}?q=a+cat")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").inner_text() == "Name or password is wrong."
    assert page.get_by_label("Name").input_value() == "ann"
    assert page.evaluate("document.activeElement.id") == "password"
    page.keyboard.type("correct horse battery")
    page.keyboard.press("Enter")
    page.locator(".cs-search img").first.wait_for(state="visible")
    assert page.evaluate("location.href") == f"{address}?q=a+cat"
    assert page.evaluate("document.cookie") == ""
    page.evaluate("fetch('logout', {method: 'POST'})")
    page.wait_for_timeout(300)
    page.goto(address)
    page.get_by_label("Password").wait_for()


def test_a_phone_in_the_dark_can_log_in(
    page_server: PageServer, browser_page: Any, mini_index: Path
) -> None:
    from axe_core_python.sync_playwright import Axe

    address = page_server(mini_index, accounts=_account())
    for width, dark in ((390, True), (390, False), (1440, True)):
        page = browser_page(address, width=width, dark=dark)
        page.get_by_label("Name").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # The policy of the page runs no script at all, not even this one: so in a copy of it.
        html = page.content()
        copy = page.context.new_page()
        copy.set_content(html)
        found = Axe().run(copy)
        assert [fault["id"] for fault in found["violations"]] == []
        copy.close()


_MARKUP = "<img src=x onerror=window.hacked=1>"
_SIDECAR = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
 xmlns:dc="http://purl.org/dc/elements/1.1/">
 <dc:subject><rdf:Bag><rdf:li>%s</rdf:li></rdf:Bag></dc:subject>
 <dc:description><rdf:Alt><rdf:li xml:lang="x-default">%s</rdf:li></rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_no_keyword_caption_or_camera_runs(
    page_server: PageServer, browser_page: Any, pictures: Path, tmp_path: Path
) -> None:
    from html import escape

    from PIL import Image

    from indexer import build_index

    photos = tmp_path / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x010E] = exif[0x010F] = exif[0x0110] = _MARKUP  # caption, maker, model
    with Image.open(pictures / "lion.jpg") as picture:
        picture.save(photos / "lion.jpg", exif=exif)
    (photos / "lion.jpg.xmp").write_text(_SIDECAR % (escape(_MARKUP), escape(_MARKUP)))
    build_index(photos, tmp_path / "hostile.index", encoder="mini")
    address = page_server(tmp_path / "hostile.index")
    page = browser_page(address)
    told = page.request.get(f"{address}api/images/0").json()
    assert told["keywords"] == [_MARKUP]
    assert _MARKUP in told["camera"]
    page.locator(".cs-search .cs-tile[data-id]").first.click()
    page.locator(".cs-detail-facts").get_by_text(_MARKUP).first.wait_for(state="visible")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('img[onerror]').length") == 0


def test_no_file_name_runs(
    page_server: PageServer, browser_page: Any, pictures: Path, tmp_path: Path
) -> None:
    from indexer import build_index

    photos = tmp_path / "photos"
    photos.mkdir()
    sources = sorted(
        path for path in pictures.iterdir() if path.suffix in (".jpg", ".jpeg", ".png")
    )
    for name, source in zip(_HOSTILE, sources, strict=False):
        shutil.copyfile(source, photos / name)
    build_index(photos, tmp_path / "hostile.index", encoder="mini")
    address = page_server(tmp_path / "hostile.index")
    page = browser_page(address)
    tiles = page.locator(".cs-search .cs-tile")
    tiles.first.wait_for(state="visible")
    assert tiles.count() >= 5
    for number in range(5):
        tiles.nth(number).click()
        page.wait_for_timeout(400)
        page.keyboard.press("Escape")
    page.goto(f"{address}?q=%3Cimg+src%3Dx+onerror%3Dwindow.hacked%3D1%3E")
    tiles.first.wait_for(state="visible")
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('img[onerror], svg[onload]').length") == 0
    for image in page.request.get(f"{address}api/search").json()["hits"]:
        answer = page.request.get(f"{address}media/original/{image['id']}")
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
