"""The Search tab in Chromium where something is in the way: slow answers, answers that fail, photos
whose files have gone, an index that changes while the page is open."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.page_browser import BrowserPages, PageServer, photos_in_sight
from tests.page_library import make_library

pytestmark = pytest.mark.slow


@pytest.fixture
def own_library(pictures: Path, tmp_path: Path) -> Path:
    """A library whose photos the test may change, in ``photos`` beside it."""
    return make_library(pictures, tmp_path)


def test_a_photo_whose_file_has_gone_is_told(
    page_server: PageServer, browser_page: BrowserPages, own_library: Path
) -> None:
    (own_library.parent / "photos" / "groot.jpeg").unlink()
    page = browser_page(page_server(own_library))  # which fails for an answer of 404
    page.locator(".cs-tile[title='groot.jpeg']").click()
    detail = page.locator(".cs-detail")
    detail.get_by_text("The file is not where it was").wait_for()
    page.wait_for_function("document.querySelector('.cs-detail-picture').naturalWidth === 320")
    assert detail.get_by_role("link", name="Download original").count() == 0
    # Alone on the screen, and on to one that is there.
    detail.get_by_role("button", name="Show the photo alone").click()
    other = page.get_by_role("dialog", name="The photo alone").locator("img")
    assert "/thumbnail/" in str(other.get_attribute("src"))
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.cs-alone img').src.includes('/preview/')")


def test_a_photo_that_is_not_in_the_index_offers_nothing(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    browser_page.announce(404, "9999")
    page = browser_page(f"{page_server(mini_index)}?open=9999")
    detail = page.locator(".cs-detail")
    detail.get_by_text("There is no such image in the index.").wait_for()
    assert detail.get_by_role("button", name="More like this").is_hidden()
    photos_in_sight(page, 1)
    page.locator(".cs-search .cs-tile").first.click()
    detail.get_by_role("button", name="More like this").wait_for()


def test_what_is_being_typed_stays(
    page_server: PageServer, browser_page: BrowserPages, photo_library: Path
) -> None:
    held: list[object] = []
    address = page_server(photo_library)
    page = browser_page(address)
    page.route(
        "**/api/facets", lambda route: held.append(route)
    )  # a large collection takes its time
    page.goto(f"{address}?since=2019&until=2021-06")
    photos_in_sight(page, 1)
    assert page.locator(".cs-on").all_inner_texts() == ["from 2019", "until 2021-06"]
    page.locator("#cs-search-field").fill("half a sen")
    held[0].continue_()  # type: ignore[attr-defined]
    page.get_by_role("button", name="Camera", exact=True).click()
    assert page.locator("#cs-search-field").input_value() == "half a sen"
    page.get_by_role("button", name=re.compile("^Camera One")).click()
    page.wait_for_url("**camera=*")
    assert parse_qs(urlsplit(page.evaluate("location.href")).query)["q"] == ["half a sen"]


def test_a_search_that_fails_leaves_no_count_of_another(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(f"{page_server(mini_index)}?q=a+cat&cut=none")
    page.get_by_text(re.compile("^Closest of")).wait_for()
    browser_page.announce(400, "near=abc")
    page.evaluate("history.pushState(null, '', '?q=a+cat&near=abc')")
    page.evaluate("dispatchEvent(new PopStateEvent('popstate'))")
    page.get_by_role("alert").get_by_text("near: expected").wait_for()
    page.wait_for_function("document.querySelector('.cs-found').textContent === ''")


def test_less_like_a_photo_takes_it_from_what_is_wanted(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(f"{page_server(mini_index)}?like=0^2&like=1&open=0")
    page.get_by_role("button", name="Less like this").click()
    page.wait_for_url("**unlike=*")
    assert parse_qs(urlsplit(page.evaluate("location.href")).query) == {
        "like": ["1"],
        "unlike": ["0"],
    }


def test_the_header_follows_an_index_that_has_grown(
    page_server: PageServer, browser_page: BrowserPages, own_library: Path, pictures: Path
) -> None:
    from indexer import build_index

    page = browser_page(page_server(own_library))
    about = page.locator(".cs-about")
    about.get_by_text(re.compile(r"^6 photos")).wait_for()
    more = own_library.parent / "more"
    more.mkdir()
    (more / "another.jpg").write_bytes((pictures / "lion.jpg").read_bytes())
    build_index([more], own_library)
    page.wait_for_timeout(1500)  # as old as what the server knows may be
    page.locator("#cs-search-field").fill("a lion")
    page.keyboard.press("Enter")
    about.get_by_text(re.compile(r"^7 photos")).wait_for()
