"""The Map tab in Chromium: points, hovering, opening, choosing, having a map made."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from clipsearch import open_index
from clipsearch.cluster_saving import save_discovery
from clipsearch.map_files import map_file, update_map
from tests.page_browser import BrowserPages, PageServer, axe_faults, photos_in_sight

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Page

pytestmark = pytest.mark.slow

# The page draws by WebGL only where a graphics card does it. Here software plays one; and where
# there is one, it is kept from it.
_CARD = """const get = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {
  const value = get.call(this, name);
  if (typeof value !== 'string') return value;
  return value.replace(/swiftshader|llvmpipe|software/gi, 'card');
};"""
_NO_WEBGL = """const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === 'webgl2' ? null : get.call(this, kind, ...more);
};"""


@pytest.fixture
def mapped(mini_index: Path) -> Path:
    """An index with a map and two clusters."""
    index = open_index(mini_index)
    update_map(mini_index, index.state())
    save_discovery(mini_index, index.state(), "things", index.discover(2, method="kmeans"))
    return mini_index


def _map(page: Page) -> FloatRect:
    """Wait for the points; where the map is on the page."""
    page.locator(".cs-map-stage").wait_for()
    page.wait_for_function("document.querySelector('.cs-map-base').width > 100")
    page.wait_for_timeout(500)
    box = page.locator(".cs-map-over").bounding_box()
    assert box is not None
    return box


def _colours(page: Page) -> int:
    """How many pixels of the map are coloured."""
    picture = Image.open(io.BytesIO(page.locator(".cs-map-frame").screenshot())).convert("HSV")
    return int((np.asarray(picture)[:, :, 1] > 90).sum())


def _id(address: str) -> str:
    """The id in the address of a picture."""
    found = re.search(r"/(\d+)(\?|$)", address)
    assert found is not None
    return found[1]


def _sweep(page: Page, box: FloatRect) -> None:
    """Move the mouse over the map, place by place, until a photo is under it."""
    page.get_by_role("button", name="Pictures on the map").click()  # points alone
    for down in range(12, int(box["height"]) - 12, 9):
        for across in range(70, int(box["width"]) - 12, 45):
            page.mouse.move(box["x"] + across, box["y"] + down)
            if page.locator(".cs-map-card").is_visible():
                return
    raise AssertionError("there is no point on the map")


@pytest.mark.parametrize("drawn_by", ["webgl", "canvas"])
def test_points_are_drawn_and_pointed_at_and_opened(
    page_server: PageServer, browser_page: BrowserPages, mapped: Path, drawn_by: str
) -> None:
    address = page_server(mapped) + "?tab=map"
    page = browser_page(address)
    # A screenshot of what software draws as a graphics card would reads it back: the driver says
    # that this is slow.
    browser_page.excuse("GPU stall due to ReadPixels")
    page.add_init_script(_CARD if drawn_by == "webgl" else _NO_WEBGL)
    page.reload()
    box = _map(page)
    assert page.locator(".cs-map-stage").get_attribute("data-drawn-by") == drawn_by
    assert page.get_by_text("2 groups").first.is_visible()
    photos_hung = _colours(page)
    _sweep(page, box)
    browser_page.shot(page, f"hover-{drawn_by}")
    assert 50 < _colours(page) < photos_hung
    shown = page.locator(".cs-map-card img").get_attribute("src")
    assert shown is not None
    photos_in_sight(page, selector=".cs-map-card img")
    page.locator(".cs-map-card-name").get_by_text(".").wait_for()  # the name of its file
    page.mouse.down()
    page.mouse.up()
    page.locator(".cs-detail").wait_for()
    assert page.evaluate("location.href").endswith(f"&open={_id(shown)}")
    photos_in_sight(page, selector=".cs-detail-picture")
    first = page.evaluate("location.href")
    page.get_by_role("button", name="Next photo").click()  # one of those around it
    page.wait_for_function("(first) => location.href !== first", arg=first)


def test_a_line_around_photos_chooses_them(
    page_server: PageServer, browser_page: BrowserPages, mapped: Path
) -> None:
    everything = len(open_index(mapped))
    page = browser_page(page_server(mapped) + "?tab=map")
    box = _map(page)
    left, top = box["x"] + 70, box["y"] + 6
    right, bottom = box["x"] + box["width"] - 6, box["y"] + box["height"] - 6
    page.mouse.move(left, top)
    page.keyboard.down("Shift")  # a rectangle
    page.mouse.down()
    page.mouse.move(right, bottom, steps=5)
    browser_page.shot(page, "drawing")
    page.mouse.up()
    page.keyboard.up("Shift")
    page.get_by_role("heading", name=f"{everything} photos chosen").wait_for()
    assert photos_in_sight(page, selector=".cs-map-selection .cs-tile img") >= 1
    browser_page.shot(page, "all-chosen", full=True)
    # A line by hand takes in only what is inside of it: not the half on the right.
    page.locator(".cs-map-over").focus()
    page.keyboard.press("l")
    page.evaluate("scrollTo(0, 0)")
    middle = box["x"] + box["width"] / 2
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((middle, top), (middle, bottom), (left, bottom)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    heading = page.locator(".cs-map-selection h2")
    page.wait_for_function(
        "(all) => parseInt(document.querySelector('.cs-map-selection h2').textContent) < all",
        arg=everything,
    )
    chosen = int(heading.inner_text().split()[0])
    tiles = page.locator(".cs-map-selection .cs-tile")
    page.wait_for_function(
        "(some) => document.querySelectorAll('.cs-map-selection .cs-tile img').length === some",
        arg=chosen,
    )
    ids = {int(tile.get_attribute("data-id") or -1) for tile in tiles.all()}
    # The middle of the view is that of the map, so this is what the map itself says.
    places = update_map(mapped, open_index(mapped).state())
    centre = (places.xy[:, 0].min() + places.xy[:, 0].max()) / 2
    assert ids == set(places.ids[places.xy[:, 0] < centre].tolist())
    browser_page.shot(page, "some-chosen", full=True)
    page.get_by_role("button", name="Search among these").click()
    page.locator(".cs-search .cs-tile img").first.wait_for()
    page.wait_for_function(
        "(some) => document.querySelectorAll('.cs-search .cs-tile img').length === some",
        arg=chosen,
    )


def test_a_cluster_of_the_list_is_chosen_and_let_go(
    page_server: PageServer, browser_page: BrowserPages, mapped: Path
) -> None:
    page = browser_page(page_server(mapped) + "?tab=map")
    _map(page)
    largest = page.locator(".cs-map-clusters button").first
    name, size = (part.strip() for part in largest.inner_text().split("\n"))
    largest.press("Enter")
    page.get_by_role("heading", name=f"{size} photos in {name}").wait_for()
    assert largest.get_attribute("aria-pressed") == "true"
    browser_page.shot(page, "cluster", full=True)
    page.locator(".cs-map-over").focus()
    page.keyboard.press("Escape")
    page.locator(".cs-map-selection").wait_for(state="hidden")
    assert largest.get_attribute("aria-pressed") == "false"
    page.get_by_label("Colours show").select_option(label="no groups")
    page.locator(".cs-map-clusters").wait_for(state="hidden")
    assert page.get_by_text(f"{len(open_index(mapped))} photos", exact=True).is_visible()


def test_software_that_draws_webgl_is_left_alone(
    page_server: PageServer, browser_page: BrowserPages, mapped: Path
) -> None:
    page = browser_page(page_server(mapped) + "?tab=map")
    _map(page)
    renderer = page.evaluate(
        """() => {
            const gl = document.createElement('canvas').getContext('webgl2');
            const told = gl?.getExtension('WEBGL_debug_renderer_info');
            return told ? gl.getParameter(told.UNMASKED_RENDERER_WEBGL) : 'software';
        }"""
    )
    is_software = any(name in renderer.lower() for name in ("swiftshader", "llvmpipe", "software"))
    drawn_by = page.locator(".cs-map-stage").get_attribute("data-drawn-by")
    assert drawn_by == ("canvas" if is_software else "webgl")


def test_the_keyboard_alone_moves_and_opens(
    page_server: PageServer, browser_page: BrowserPages, mapped: Path
) -> None:
    page = browser_page(page_server(mapped) + "?tab=map")
    _map(page)
    page.locator(".cs-map-over").focus()
    for key in ("+", "+", "ArrowLeft", "ArrowUp", "-", "0"):
        page.keyboard.press(key)
    browser_page.shot(page, "keys")
    page.keyboard.press("Enter")
    page.locator(".cs-detail").wait_for()
    page.keyboard.press("Escape")
    page.locator(".cs-detail").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.className") == "cs-map-over"


def test_a_map_is_made_from_the_page(
    page_server: PageServer, browser_page: BrowserPages, mini_index: Path
) -> None:
    page = browser_page(page_server(mini_index) + "?tab=map")
    page.get_by_role("heading", name="There is no map yet").wait_for()
    browser_page.shot(page, "none")
    page.get_by_role("button", name="Make the map").click()
    page.get_by_text("Laying out the map").wait_for()
    browser_page.shot(page, "making")
    page.locator(".cs-map-stage").wait_for(timeout=60_000)
    assert map_file(mini_index).exists()
    assert page.get_by_role("button", name="Discover").is_visible()  # where names come from


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1440, 390])
def test_the_map_is_usable_by_everybody(
    page_server: PageServer, browser_page: BrowserPages, mapped: Path, width: int, dark: bool
) -> None:
    page = browser_page(page_server(mapped) + "?tab=map", width=width, dark=dark)
    _map(page)
    page.locator(".cs-map-tools button").last.click()
    if width < 900:
        page.locator(".cs-map-clusters summary").click()
    page.locator(".cs-map-clusters button").first.click()
    page.locator(".cs-map-selection .cs-tile").first.wait_for()
    browser_page.shot(page, "chosen", full=True)
    assert axe_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
