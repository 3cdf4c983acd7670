"""Can everybody use the page? axe-core on every tab, as it is empty and as it is filled; the
keyboard; a phone. What is asked for: no fault that axe calls serious or critical."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clipsearch import open_index
from clipsearch.cluster_saving import save_discovery
from clipsearch.map_files import update_map
from tests.page_browser import BrowserPages, PageServer, axe_faults, open_tab, photos_in_sight

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

TABS = ("Search", "Classify", "Discover", "Duplicates", "Map", "Index")
SIZES = ((1440, 900), (390, 844))

sizes_and_colours = pytest.mark.parametrize(
    ("size", "dark"),
    [(size, dark) for size in SIZES for dark in (False, True)],
    ids=["wide", "wide-dark", "phone", "phone-dark"],
)


@pytest.fixture(autouse=True)
def _what_a_driver_says(browser_page: BrowserPages) -> None:
    # A screenshot of a canvas that software draws reads it back, which its driver finds slow.
    browser_page.excuse("GPU stall due to ReadPixels")


@pytest.fixture
def full_index(mini_index: Path) -> Path:
    """An index with a map and a discovery."""
    index = open_index(mini_index)
    update_map(mini_index, index.state())
    save_discovery(mini_index, index.state(), "things", index.discover(2, method="kmeans"))
    return mini_index


def check(page: Page, pages: BrowserPages, name: str) -> list[str]:
    """A screenshot, and the faults of the page as it is now."""
    pages.shot(page, name)
    faults = [f"{name}: {fault}" for fault in axe_faults(page)]
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if wider > 0:
        faults.append(f"{name}: the page is {wider} px wider than the window")
    return faults


def classify(page: Page) -> None:
    page.locator("#cs-classify").get_by_role("textbox", name="Labels").fill("a dog, a tower, a bus")
    page.locator("#cs-classify").get_by_role("button", name="Classify 9 photos").click()
    photos_in_sight(page, selector="#cs-classify .cs-tile img")


FILLED: dict[str, Callable[[Page], object]] = {
    "Search": lambda page: photos_in_sight(page, least=2, selector="#cs-search .cs-tile img"),
    "Classify": classify,
    "Discover": lambda page: photos_in_sight(page, selector="#cs-discover img"),
    "Duplicates": lambda page: photos_in_sight(page, selector="#cs-duplicates img"),
    "Map": lambda page: page.wait_for_function(
        "document.querySelector('.cs-map-base')?.width > 100"
    ),
    "Index": lambda page: page.get_by_role("heading", name="Add a folder").wait_for(),
}

EMPTY = {"Search": "clipsearch index FOLDER", "Classify": "Drop an image here"}


@sizes_and_colours
def test_every_tab_with_photos(
    page_server: PageServer,
    browser_page: BrowserPages,
    full_index: Path,
    pictures: Path,
    size: tuple[int, int],
    dark: bool,
) -> None:
    address = page_server(full_index, allowed_folders=(pictures,))
    page = browser_page(f"{address}?q=a+dog", width=size[0], height=size[1], dark=dark)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ("255" in ground) != dark
    faults = []
    for tab in TABS:
        open_tab(page, tab)
        FILLED[tab](page)
        faults += check(page, browser_page, tab.lower())
    open_tab(page, "Search")
    page.locator("#cs-search .cs-tile").first.click()
    page.get_by_role("button", name="More like this").wait_for()
    photos_in_sight(page, selector=".cs-detail img")
    faults += check(page, browser_page, "detail")
    assert faults == []


@sizes_and_colours
def test_every_tab_without_an_index(
    page_server: PageServer,
    browser_page: BrowserPages,
    tmp_path: Path,
    pictures: Path,
    size: tuple[int, int],
    dark: bool,
) -> None:
    browser_page.announce(409, "/api/")  # there is no index yet
    address = page_server(tmp_path / "none.index", allowed_folders=(pictures,))
    page = browser_page(address, width=size[0], height=size[1], dark=dark)
    faults = []
    for tab in TABS:
        open_tab(page, tab)
        # A word of what helps: where photos come from, or what can be done without any.
        said = EMPTY.get(tab, "There is no index yet")
        page.locator(f"#cs-{tab.lower()}").get_by_text(said).first.wait_for()
        faults += check(page, browser_page, tab.lower())
    assert faults == []


def test_the_tabs_by_keyboard(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(page_server(mini_index), width=390, height=844)
    page.get_by_role("tab", name="Search").focus()
    for tab in (*TABS[1:], "Search"):
        page.keyboard.press("ArrowRight")
        chosen = page.locator('#cs-tabs [role="tab"][aria-selected="true"]')
        page.wait_for_function(
            "(name) => document.activeElement.textContent.trim() === name"
            " && document.activeElement.ariaSelected === 'true'",
            arg=tab,
        )
        box = chosen.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    page.keyboard.press("End")
    page.get_by_role("heading", name="What the index holds").wait_for()
    assert "tab=index" in page.evaluate("location.href")
