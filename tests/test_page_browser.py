"""The page as a visitor sees it, in Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.page_browser import BrowserPages, PageServer, photos_in_sight

pytestmark = pytest.mark.slow


def test_typing_and_enter_shows_photos(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(page_server(mini_index))
    photos_in_sight(page, least=5)
    field = page.get_by_role("searchbox").first
    with page.expect_response("**/api/search?*q=a+cat*") as answer:
        field.fill("a cat")
        field.press("Enter")
    best = answer.value.json()["hits"][0]
    page.locator(f'.cs-tile img[src*="media/thumbnail/{best["id"]}?"]').first.wait_for()
    assert photos_in_sight(page) >= 1
    browser_page.shot(page, "found")


def test_the_fixture_notices_what_a_visitor_should_never_meet(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    address = page_server(mini_index)
    browser_page.announce(404, "api/nothing-announced")
    page = browser_page(address)
    photos_in_sight(page)
    assert browser_page.faults == []

    page.evaluate("fetch('api/nothing-announced')")
    page.evaluate("fetch('api/nothing-at-all')")
    page.evaluate("setTimeout(() => { throw new Error('out of order') }, 0)")
    page.evaluate("console.warn('worn out')")
    page.evaluate("fetch('http://photos.example/a.jpg').catch(() => null)")
    page.wait_for_timeout(500)
    faults = "\n".join(browser_page.faults)
    browser_page.faults.clear()
    assert "nothing-announced" not in faults
    for word in ("HTTP 404", "nothing-at-all", "out of order", "worn out", "photos.example"):
        assert word in faults
