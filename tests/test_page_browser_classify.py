"""The Classify tab as a person uses it, in Chromium."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from clipsearch.label_sets import read_label_set
from tests.page_browser import BrowserPages, PageServer, axe_faults, open_tab, photos_in_sight

pytestmark = pytest.mark.slow

LABELS = ["a cheetah", "a lion", "a tower", "a bus", "a logo"]
KINDS = b"# kinds\nan animal\na building, such as a tower\na vehicle\n"
TILES = ".cs-classify-gallery .cs-tile img"


def test_two_label_sets_a_gallery_and_the_tables(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path, tmp_path: Path
) -> None:
    page = browser_page(page_server(mini_index))
    open_tab(page, "Classify")
    tab = page.locator("#cs-classify")
    tab.get_by_role("button", name="Classify 9 photos").click()
    tab.get_by_text("Type at least one label first").wait_for()

    tab.get_by_label("Labels", exact=True).last.fill(", ".join(LABELS))
    tab.get_by_role("button", name="Classify 9 photos").click()
    bars = tab.locator(".cs-classify-bar")
    bars.first.wait_for()
    assert bars.count() == len(LABELS) + 2
    assert photos_in_sight(page, selector=TILES) >= 1
    browser_page.shot(page, "first")

    with page.expect_response("**/images?*label=a+lion*") as answer:
        tab.get_by_role("button", name="a lion:").click()
    lions = answer.value.json()
    assert lions["total"] >= 1
    tab.get_by_role("heading", name="a lion").wait_for()
    with page.expect_response("**/images?*order=doubtful*") as answer:
        tab.get_by_role("button", name="Doubtful first").click()
    margins = [hit["margin"] for hit in answer.value.json()["hits"]]
    assert margins == sorted(margins)

    with page.expect_download() as download:
        tab.get_by_role("link", name="Download Parquet").click()
    assert download.value.suggested_filename == "labels.parquet"
    download.value.save_as(tmp_path / "labels.parquet")
    assert pq.read_table(tmp_path / "labels.parquet").num_rows == 9

    # The second set comes from a file; one line of it has a comma.
    tab.locator(".cs-classify-form input[type=file]").set_input_files(
        {"name": "kinds.txt", "mimeType": "text/plain", "buffer": KINDS}
    )
    tab.get_by_text("File kinds.txt · 3 labels").wait_for()
    tab.get_by_role("button", name="Classify 9 photos").click()
    tab.get_by_role("button", name="a building, such as a tower:").wait_for()
    assert bars.count() == 3 + 2
    assert photos_in_sight(page, selector=TILES) >= 1
    assert axe_faults(page) == []
    browser_page.shot(page, "second", full=True)


def test_saved_corrected_and_taken_up_again(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    # The page asks the server where it has not heard yet of the set that was just saved.
    browser_page.announce(409, "/save")
    page = browser_page(page_server(mini_index), dark=True)
    open_tab(page, "Classify")
    tab = page.locator("#cs-classify")
    tab.get_by_label("Labels", exact=True).last.fill(", ".join(LABELS))
    tab.get_by_role("button", name="Classify 9 photos").click()
    tab.get_by_label("Name of the label set").fill("things")
    tab.get_by_role("button", name="Save as a label set").click()
    tab.get_by_text("Saved as things.").wait_for()
    assert read_label_set(mini_index, "things").labels == tuple(LABELS)
    tab.get_by_role("button", name="Save as a label set").click()
    tab.get_by_text("There is a label set things already.").wait_for()

    tab.get_by_role("button", name="All photos:").click()
    photos_in_sight(page, selector=TILES)
    tab.locator(".cs-classify-gallery .cs-tile").first.focus()
    page.keyboard.press("x")
    tab.get_by_text("1 photo selected:").wait_for()
    browser_page.shot(page, "selected")
    tab.get_by_label("What the selected photos are").select_option(label="a tower")
    tab.get_by_role("button", name="Correct").click()
    tab.get_by_text("Taught things: 1 example").wait_for()
    teaching = read_label_set(mini_index, "things").teaching
    assert teaching is not None
    assert teaching.rows == 1
    tab.locator(".cs-classify-summary", has_text="taught by 1 example").wait_for()
    assert axe_faults(page) == []

    page.reload()
    open_tab(page, "Classify")
    tab.get_by_label("Take labels from").select_option(value="set:things")
    tab.get_by_text("Saved set things · 5 labels").wait_for()
    tab.get_by_role("button", name="Classify 9 photos").click()
    tab.locator(".cs-classify-summary", has_text="taught by 1 example").wait_for()
    tab.get_by_role("button", name="Search within").click()
    assert photos_in_sight(page, selector="#cs-search .cs-tile img") >= 1


def test_one_image_on_a_phone_without_an_index(
    page_server: PageServer, browser_page: BrowserPages, pictures: Path
) -> None:
    browser_page.announce(409, "api/")  # other tabs say that there is no index
    page = browser_page(page_server(None, model="mini"), width=390)
    open_tab(page, "Classify")
    tab = page.locator("#cs-classify")
    tab.get_by_label("Labels", exact=True).last.fill("a lion, a bus, a tower, a logo")
    tab.locator(".cs-classify-drop input").set_input_files(pictures / "lion.jpg")
    odds = tab.locator(".cs-classify-odds > li")
    tab.get_by_text("Probabilities among 4 labels, by mini.").wait_for()
    assert odds.count() == 4
    tab.get_by_label("How many labels").select_option(label="3 best labels")
    page.wait_for_function("document.querySelectorAll('.cs-classify-odds > li').length === 3")
    odds.first.scroll_into_view_if_needed()
    width = page.evaluate("document.querySelector('.cs-classify-picture').naturalWidth")
    assert width > 100
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    browser_page.shot(page, "phone", full=True)

    browser_page.announce(415, "api/classify-image")
    tab.locator(".cs-classify-drop input").set_input_files(
        {
            "name": "drawing.svg",
            "mimeType": "image/svg+xml",
            "buffer": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        }
    )
    tab.get_by_text("not an image that can be read").wait_for()

    tab.get_by_role("button", name="The whole collection").click()
    tab.get_by_text("There is no index yet").wait_for()
    assert axe_faults(page) == []
