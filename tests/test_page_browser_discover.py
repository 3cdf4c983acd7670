"""The Discover and the Duplicates tab as a visitor sees them, in Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from clipsearch import open_index
from clipsearch.cluster_changes import Rename
from clipsearch.cluster_saving import save_discovery
from clipsearch.saved_clusters import edit_discovery
from indexer import build_index
from tests.discoveries import discovery_of_index
from tests.page_browser import BrowserPages, PageServer, axe_faults, open_tab, photos_in_sight

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)> & 'cat'"


@pytest.fixture(scope="module")
def _flickr_built(flickr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flickr")
    photos = folder / "photos"
    photos.mkdir()
    for file in sorted(flickr.rglob("*.jpg"))[:60]:
        shutil.copyfile(file, photos / file.name)
    build_index(photos, folder / "flickr.index", encoder="mini")
    return folder / "flickr.index"


@pytest.fixture
def photos_index(_flickr_built: Path, tmp_path: Path) -> Path:
    """An index of 60 photos; the test may change its copy."""
    return Path(shutil.copytree(_flickr_built, tmp_path / "flickr.index"))


@pytest.fixture
def grouped_index(photos_index: Path) -> Path:
    """The same with a discovery, one of whose clusters has a name that is a trap for HTML."""
    state = open_index(photos_index).state()
    found = discovery_of_index(state, ("dogs", "beach", HOSTILE, "street", "snow"))
    save_discovery(photos_index, state, "things", found)
    return photos_index


def card(page: Any, name: str) -> Any:
    return page.locator(".cs-discover-card").filter(
        has=page.get_by_role("heading", name=name, exact=True)
    )


def size_of(page: Any, name: str) -> int:
    words = card(page, name).locator("p").first.inner_text()
    return int(words.split(" photo")[0].replace(",", ""))


def test_groups_are_discovered_and_shown(
    page_server: PageServer, browser_page: BrowserPages, photos_index: Path
) -> None:
    page = browser_page(page_server(photos_index))
    open_tab(page, "Discover")
    page.get_by_role("heading", name="What is in all these photos?").wait_for()
    browser_page.shot(page, "nothing-yet")
    page.get_by_label("How many groups").fill("6")
    page.get_by_label("Names from").select_option("own")
    page.get_by_label("Your words").fill("dog, child, beach\nsnow, street, bicycle, ball, crowd")
    page.get_by_role("button", name="Discover groups").click()
    page.get_by_text("Found 6 groups in 60 photos").wait_for(timeout=60_000)
    assert page.locator(".cs-discover-card").count() == 6
    photos_in_sight(page, least=4, selector=".cs-discover-mosaic img")
    browser_page.shot(page, "groups")
    words = {"dog", "child", "beach", "snow", "street", "bicycle", "ball", "crowd"}
    assert set(page.locator(".cs-discover-card h3").all_inner_texts()) <= words


def test_rename_merge_split_leave_out_and_undo(
    page_server: PageServer, browser_page: BrowserPages, grouped_index: Path
) -> None:
    page = browser_page(page_server(grouped_index))
    open_tab(page, "Discover")
    card(page, "dogs").get_by_role("button", name="Rename dogs").click()
    page.keyboard.type("our dogs")
    page.keyboard.press("Enter")
    card(page, "our dogs").wait_for()
    page.get_by_text("Done: rename dogs to our dogs.").wait_for()
    # The keyboard goes on where it was.
    assert page.evaluate("document.activeElement.closest('li')?.innerText").startswith("our dogs")

    together = size_of(page, "beach") + size_of(page, "street")
    for name in ("beach", "street"):
        page.get_by_role("checkbox", name=f"Choose {name}").check()
    page.get_by_text("2 groups chosen").wait_for()
    browser_page.shot(page, "chosen")
    page.get_by_role("button", name="Merge into one").click()
    page.get_by_label("Name of the merged group").fill("outside")
    page.get_by_role("button", name="Merge", exact=True).click()
    card(page, "outside").wait_for()
    assert size_of(page, "outside") == together
    assert card(page, "beach").count() == 0

    card(page, "outside").get_by_role("button", name="Split").click()
    page.get_by_role("dialog").get_by_role("button", name="Split").click()
    page.get_by_text("Done: split outside in 2.").wait_for()
    assert page.locator(".cs-discover-card").count() == 5

    card(page, "snow").get_by_role("button", name="Leave out snow").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave out").click()
    page.get_by_text("Done: drop snow.").wait_for()
    assert page.get_by_role("button", name="in no group").count() == 1
    page.get_by_role("button", name="Undo").first.click()
    page.get_by_text("Undone: drop snow.").wait_for()
    card(page, "snow").wait_for()


def test_a_name_that_is_taken_is_told_in_the_dialog(
    page_server: PageServer, browser_page: BrowserPages, grouped_index: Path
) -> None:
    page = browser_page(page_server(grouped_index))
    open_tab(page, "Discover")
    browser_page.announce(400, "/change")
    card(page, "dogs").get_by_role("button", name="Rename dogs").click()
    page.get_by_label("New name").fill("Beach")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("alert").get_by_text("merge the two").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="hidden")
    assert "Rename dogs" in page.evaluate("document.activeElement.getAttribute('aria-label')")
    card(page, "dogs").wait_for()


def test_what_somebody_else_changed_is_shown_before_it_is_changed_again(
    page_server: PageServer, browser_page: BrowserPages, grouped_index: Path
) -> None:
    page = browser_page(page_server(grouped_index))
    open_tab(page, "Discover")
    card(page, "dogs").get_by_role("button", name="Rename dogs").click()
    state = open_index(grouped_index).state()
    edit_discovery(grouped_index, state, "things", [Rename("dogs", "hounds")])
    browser_page.announce(409, "/change")
    page.get_by_label("New name").fill("puppies")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("alert").get_by_text("have changed").wait_for()
    page.keyboard.press("Escape")
    card(page, "hounds").wait_for()  # without opening the tab anew
    assert card(page, "dogs").count() == card(page, "puppies").count() == 0
    card(page, "hounds").get_by_role("button", name="Rename hounds").click()
    page.get_by_label("New name").fill("puppies")
    page.keyboard.press("Enter")
    card(page, "puppies").wait_for()


def test_the_photos_of_a_group_are_opened(
    page_server: PageServer, browser_page: BrowserPages, grouped_index: Path
) -> None:
    page = browser_page(page_server(grouped_index))
    open_tab(page, "Discover")
    size = size_of(page, HOSTILE)  # text, whatever it looks like
    card(page, HOSTILE).locator(".cs-discover-mosaic").click()
    photos_in_sight(page, selector=".cs-discover-photos .cs-tile img")
    assert page.locator(".cs-discover-photos .cs-tile").count() == min(size, 60)
    first = page.locator(".cs-discover-photos .cs-tile").first.get_attribute("data-id")
    with page.expect_response("**/images?*order=doubtful*"):
        page.get_by_role("button", name="Most doubtful first").click()
    page.get_by_role("button", name="Most typical first").click()
    tile = page.locator(f'.cs-discover-photos .cs-tile[data-id="{first}"]')
    tile.click()
    page.locator(".cs-detail").wait_for()
    browser_page.shot(page, "photo")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="All groups").click()
    card(page, "dogs").wait_for()


def test_saved_as_labels_and_searched_within(
    page_server: PageServer, browser_page: BrowserPages, grouped_index: Path
) -> None:
    page = browser_page(page_server(grouped_index))
    open_tab(page, "Discover")
    size = size_of(page, "dogs")
    card(page, "dogs").get_by_role("button", name="Search within").click()
    page.get_by_label("Name of the label set").fill("mine")
    with page.expect_response("**/api/search?*label=mine*") as answer:
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
    assert answer.value.json()["total"] == size
    assert page.get_by_role("tab", name="Search").get_attribute("aria-selected") == "true"
    photos_in_sight(page)
    browser_page.shot(page, "within")
    wanted = open_index(grouped_index).matching('label = "mine:dogs"')
    assert len(wanted) == size


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_serious_for_axe_and_nothing_beside_a_phone(
    page_server: PageServer, browser_page: BrowserPages, grouped_index: Path, dark: bool
) -> None:
    page = browser_page(page_server(grouped_index), width=390, height=844, dark=dark)
    open_tab(page, "Discover")
    card(page, "dogs").wait_for()
    assert axe_faults(page) == []
    page.get_by_role("checkbox", name="Choose dogs").check()
    browser_page.shot(page, "chosen")
    page.get_by_role("button", name="New discovery").click()
    page.get_by_text("More choices").click()
    browser_page.shot(page, "form", full=True)
    assert axe_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_duplicates_are_shown_chosen_and_listed(
    page_server: PageServer, browser_page: BrowserPages, flickr: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    (photos / "backup").mkdir(parents=True)
    for file in sorted(flickr.rglob("*.jpg"))[:4]:
        shutil.copyfile(file, photos / file.name)
        shutil.copyfile(file, photos / "backup" / f"{file.stem} (1).jpg")
    place = tmp_path / "twice.index"
    build_index(photos, place, encoder="mini")
    groups = list(open_index(place).duplicates("exact"))
    page = browser_page(page_server(place))
    open_tab(page, "Duplicates")
    page.get_by_text("4 groups. Without 4 files").wait_for()
    photos_in_sight(page, least=2, selector=".cs-duplicates-file img")
    assert axe_faults(page) == []
    browser_page.shot(page, "groups")
    # The second file of the first group is kept, and both of the second.
    shown = page.locator(".cs-duplicates-group")
    shown.nth(0).get_by_role("button", name="instead").click()
    shown.nth(1).get_by_role("button", name="Keep all").click()
    page.get_by_text("Without 3 files").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the list").click()
    wanted = [groups[0].keep, groups[2].others[0], groups[3].others[0]]
    assert Path(download.value.path()).read_text().splitlines() == [str(f.path) for f in wanted]
    browser_page.shot(page, "chosen")
    page.get_by_role("button", name="Bursts").click()
    page.get_by_text("No duplicates of this kind were found.").wait_for()
