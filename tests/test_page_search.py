"""The Search tab in Chromium: words, images, filters, one photo, selecting, and its address."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.page_browser import BrowserPages, PageServer, axe_faults, photos_in_sight

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow


def asked(page: Page) -> dict[str, list[str]]:
    """The parameters of the page's address, from the page itself: ``page.url`` hears later."""
    return parse_qs(urlsplit(page.evaluate("location.href")).query)


def shown(page: Page) -> list[int]:
    """The ids of the tiles, in order."""
    return [int(i) for i in page.eval_on_selector_all(".cs-search .cs-tile", _IDS)]


_IDS = "(tiles) => tiles.map((tile) => tile.dataset.id)"


def answer_to(page: Page, act: Any) -> dict[str, Any]:
    """What the server answered to the search that ``act`` started, once it is on the page."""
    with page.expect_response("**/api/search?*") as answer:
        act()
    found: dict[str, Any] = answer.value.json()
    best = [hit["id"] for hit in found["hits"] or found["below"]]
    page.wait_for_function(
        "(ids) => JSON.stringify([...document.querySelectorAll('.cs-search .cs-tile')]"
        ".slice(0, ids.length).map((tile) => Number(tile.dataset.id))) === JSON.stringify(ids)",
        arg=best,
    )
    return found


def search(page: Page, words: str) -> dict[str, Any]:
    page.locator("#cs-search-field").fill(words)
    return answer_to(page, lambda: page.keyboard.press("Enter"))


def test_words_open_more_like_this_and_back(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(page_server(mini_index))
    photos_in_sight(page, 5)
    page.get_by_text(f"photos · {len(shown(page))}").wait_for()
    found = search(page, "a cat")
    assert asked(page) == {"q": ["a cat"]}
    first = found["hits"][0]
    tile = page.locator(".cs-search .cs-tile").first
    assert f"score {first['score']:.3f}" in str(tile.get_attribute("aria-label"))

    tile.click()
    detail = page.locator(".cs-detail")
    detail.get_by_role("heading", name=first["name"]).wait_for()
    assert asked(page)["open"] == [str(first["id"])]
    page.wait_for_function("document.querySelector('.cs-detail-picture').naturalWidth > 0")
    assert detail.get_by_text(f"{first['width']:,} × {first['height']:,}").is_visible()
    assert detail.get_by_text(f"{first['score']:.3f}, {first['strength']} match").is_visible()
    browser_page.shot(page, "detail")

    more = answer_to(page, lambda: detail.get_by_role("button", name="More like this").click())
    assert asked(page) == {"like": [str(first["id"])]}
    assert first["id"] not in [hit["id"] for hit in more["hits"]]
    assert not detail.is_visible()

    page.go_back()  # at once: what was seen is not asked for again
    page.wait_for_function(
        "(id) => Number(document.querySelector('.cs-search .cs-tile').dataset.id) === id",
        arg=first["id"],
    )
    assert page.locator("#cs-search-field").input_value() == "a cat"
    detail.get_by_role("heading", name=first["name"]).wait_for()  # as it was when it was left
    page.go_back()
    detail.wait_for(state="hidden")
    assert asked(page) == {"q": ["a cat"]}


def test_an_address_restores_a_search(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    address = page_server(mini_index)
    query = "plus=a+cat^2&not=grass^0.5&like=0&unlike=3&minsize=100&fold=1&sort=date"
    page = browser_page(f"{address}?{query}")
    photos_in_sight(page, 1)
    assert page.locator("#cs-search-field").input_value() == "a cat"
    terms = [" ".join(text.split()) for text in page.locator(".cs-term").all_inner_texts()]
    assert terms == ["Words a cat ×2", "Without grass ×0.5", "Like ×1", "Unlike ×1"]
    assert page.get_by_role("button", name="Remove the filter 100 px or more").is_visible()
    assert page.get_by_label("Order").input_value() == "date"
    fold = page.get_by_role("button", name="Fold near-duplicates")
    assert fold.get_attribute("aria-pressed") == "true"
    # Read and written again, a question is the same.
    same = page.evaluate(
        """async (query) => {
            const { readQuestion, writeQuestion } = await import('./page/search_question.js');
            return String(writeQuestion(readQuestion(new URLSearchParams(query))));
        }""",
        query,
    )
    assert parse_qs(same) == parse_qs(query)


def test_weights_and_words_to_stay_away_from(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(page_server(mini_index))
    photos_in_sight(page, 1)
    search(page, "an animal")
    page.get_by_role("button", name="Without", exact=True).click()
    page.get_by_label("Words to stay away from").fill("a cat")
    answer_to(page, lambda: page.keyboard.press("Enter"))
    assert asked(page) == {"q": ["an animal"], "not": ["a cat"]}
    slider = page.get_by_label("Weight of “a cat”")
    with page.expect_response(lambda answer: "a+cat%5E4" in answer.url):
        slider.fill("2")
    assert asked(page)["not"] == ["a cat^4"]
    with page.expect_response("**/api/search?*"):
        page.get_by_role("button", name="Remove “a cat”").click()
    assert asked(page) == {"q": ["an animal"]}


def test_an_image_is_handed_in(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path, tmp_path: Path
) -> None:
    from PIL import Image

    page = browser_page(page_server(mini_index))
    photos_in_sight(page, 1)
    drawn = tmp_path / "red.png"
    Image.new("RGB", (300, 200), "red").save(drawn)
    answer_to(page, lambda: page.locator(".cs-ask input[type=file]").set_input_files(drawn))
    assert asked(page)["like"][0].startswith("up-")
    page.wait_for_function("document.querySelector('.cs-term-picture').naturalWidth > 0")

    # Dropped: the same, and beside the first.
    with page.expect_response("**/api/search?*"):
        page.evaluate(
            """async () => {
                const canvas = new OffscreenCanvas(80, 60);
                canvas.getContext('2d').fillRect(0, 0, 80, 60);
                const held = new DataTransfer();
                held.items.add(new File([await canvas.convertToBlob()], 'a.png', { type: 'image/png' }));
                for (const type of ['dragenter', 'dragover', 'drop'])
                    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: held, bubbles: true, cancelable: true }));
            }"""  # noqa: E501
        )
    assert len(asked(page)["like"]) == 2
    assert page.locator(".cs-drop").is_hidden()

    # Pasted.
    with page.expect_response("**/api/search?*"):
        page.evaluate(
            """async () => {
                const canvas = new OffscreenCanvas(50, 70);
                canvas.getContext('2d').fillRect(0, 0, 50, 70);
                const held = new DataTransfer();
                held.items.add(new File([await canvas.convertToBlob()], 'b.png', { type: 'image/png' }));
                document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: held, bubbles: true, cancelable: true }));
            }"""  # noqa: E501
        )
    assert len(asked(page)["like"]) == 3

    # What is no image is told, and changes nothing.
    browser_page.announce(415, "api/uploads")
    page.locator(".cs-ask input[type=file]").set_input_files(
        {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"no image"}
    )
    page.locator(".cs-search .cs-trouble").get_by_text("image").wait_for()
    assert len(asked(page)["like"]) == 3


def test_filters_are_chips_that_can_be_removed(
    page_server: PageServer, browser_page: BrowserPages, photo_library: Path
) -> None:
    page = browser_page(page_server(photo_library))
    photos_in_sight(page, 1)
    everything = len(shown(page))
    page.get_by_role("button", name="Date", exact=True).click()
    found = answer_to(page, lambda: page.get_by_role("button", name=re.compile("^2019")).click())
    assert asked(page) == {"since": ["2019"], "until": ["2019"]}
    assert 0 < len(found["hits"]) < everything
    assert all(hit["taken_at"].startswith("2019") for hit in found["hits"])
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Camera", exact=True).click()
    answer_to(page, lambda: page.get_by_role("button", name=re.compile("^Camera Two")).click())
    page.keyboard.press("Escape")
    assert page.get_by_text("No photo fits these filters.").is_visible()
    answer_to(page, lambda: page.get_by_role("button", name="Remove the filter 2019").click())
    assert asked(page) == {"camera": ["Camera Two"]}
    answer_to(page, lambda: page.get_by_role("button", name="Remove the filter Camera Two").click())
    assert asked(page) == {}
    assert len(shown(page)) == everything


def test_the_detail_panel_tells_what_is_known(
    page_server: PageServer, browser_page: BrowserPages, photo_library: Path
) -> None:
    address = page_server(photo_library)
    page = browser_page(f"{address}?since=2019&camera=Camera+One", permissions=["clipboard-write"])
    page.locator(".cs-tile").and_(page.get_by_label(re.compile("cheetah.jpg"))).click()
    detail = page.locator(".cs-detail")
    for text in ("Thu, 4 Jul 2019, 12:30", "Camera One", "2.5000° S, 34.8000° E"):
        detail.get_by_text(text).wait_for()
    detail.get_by_role("button", name="Copy path").first.click()
    detail.get_by_text("Path copied").wait_for(state="attached")
    with page.expect_download() as saved:
        detail.get_by_role("link", name="Download original").click()
    assert saved.value.suggested_filename == "cheetah.jpg"
    assert saved.value.path().read_bytes()[:2] == b"\xff\xd8"
    answer_to(page, lambda: detail.get_by_role("button", name="Photos within 5 km of here").click())
    assert asked(page) == {"near": ["-2.5,34.8,5"]}


def test_select_and_export(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(page_server(mini_index))
    photos_in_sight(page, 5)
    ids = shown(page)
    page.locator(".cs-tile").first.focus()
    page.keyboard.press("x")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+X")
    bar = page.get_by_role("region", name="Selected photos")
    bar.get_by_text("3 selected").wait_for()
    box = bar.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 900  # in sight, however long the page is
    bar.get_by_role("button", name="Export").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Table (JSON lines)").click()
    rows = [json.loads(line) for line in saved.value.path().read_text().splitlines()]
    assert [row["id"] for row in rows] == ids[:3]
    bar.get_by_role("button", name="Export").click()
    with page.expect_download() as saved, page.context.expect_page():
        page.get_by_role("button", name="The photos (ZIP)").click()
    assert saved.value.path().read_bytes()[:2] == b"PK"
    page.locator(".cs-tile").first.focus()
    page.keyboard.press("Escape")
    assert bar.is_hidden()
    assert page.locator(".cs-selected").count() == 0


def test_everything_by_keyboard(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(page_server(mini_index))
    photos_in_sight(page, 5)
    page.keyboard.press("/")
    page.keyboard.type("a cat")
    answer_to(page, lambda: page.keyboard.press("Enter"))
    ids = shown(page)
    page.locator(".cs-tile").first.focus()
    page.keyboard.press("Enter")
    page.locator(".cs-detail").wait_for()
    page.keyboard.press("ArrowRight")
    assert asked(page)["open"] == [str(ids[1])]
    page.keyboard.press("Escape")
    page.locator(".cs-detail").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.dataset.id") == str(ids[1])
    answer_to(page, lambda: page.keyboard.press("m"))
    assert asked(page) == {"like": [str(ids[1])]}
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog", name="Keys").is_hidden()


def test_nothing_found_and_no_index(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    address = page_server(mini_index)
    page = browser_page(f"{address}?q=a+cat&cut=none")
    photos_in_sight(page, 1)
    farthest = shown(page)[-1]
    found = answer_to(page, lambda: page.goto(f"{address}?q=a+cat&where=id+%3D+{farthest}"))
    assert [hit["id"] for hit in found["below"]] == [farthest]
    page.get_by_text("Nothing above the cut-off; the closest one is shown.").wait_for()
    found = answer_to(page, lambda: page.get_by_role("button", name="Show all").click())
    assert asked(page)["cut"] == ["none"]
    assert [hit["id"] for hit in found["hits"]] == [farthest]

    bare = browser_page(page_server(None))
    bare.get_by_role("heading", name="No photos yet").wait_for()
    assert bare.get_by_text("clipsearch index FOLDER --index photos.index").is_visible()
    browser_page.shot(bare, "no-index")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_can_be_read_and_touched(
    page_server: PageServer,
    browser_page: BrowserPages,
    photo_library: Path,
    width: int,
    dark: bool,
) -> None:
    page = browser_page(page_server(photo_library), width=width, dark=dark)
    photos_in_sight(page, 1)
    browser_page.shot(page, "first")
    assert axe_faults(page) == []
    search(page, "an animal")
    page.get_by_role("button", name="Date", exact=True).click()
    assert axe_faults(page) == []
    page.keyboard.press("Escape")
    page.locator(".cs-tile").first.click()
    page.locator(".cs-detail dl").wait_for()
    page.wait_for_function("document.querySelector('.cs-detail-picture').naturalWidth > 0")
    assert axe_faults(page) == []
    browser_page.shot(page, "detail")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
