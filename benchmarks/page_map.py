"""The page in a real browser: how soon something is seen, and how smoothly a map moves.

    python benchmarks/page_map.py --map INDEX --photos INDEX [--runs 5] [--frames 120]

--map : an index with a map (the Map tab makes it) and a discovery, of ``benchmarks/corpus.py`` for
one without photos. Measured: from opening the page at the map to its first drawing, with what of
that is fetching the points; then the time between two frames while it is moved by the keyboard or
zoomed by the wheel, a step a frame, with WebGL and with the 2-D canvas that the page draws on where
there is no graphics card.

--photos : an index with photos. Measured: from opening the page, and from pressing Enter, to the
moment the first photo of the results is painted. Every search asks for words that were not asked
before in this server, so that the text is encoded.

Needs Playwright and Chromium. Without a graphics card WebGL is drawn by the processor
(SwiftShader), which the output says; a card does it many times faster. Each line is the median
of the runs; of frames also the one in twenty that took longest.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import CLIPSEARCH

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_WORDS = (
    "a dog in the snow", "people on a beach", "a red car", "children who play",
    "a mountain lake", "a man with a guitar", "two boats", "a crowd at night", "a bicycle",
)  # fmt: skip
_DRAWN_BY = {
    "webgl": """const get = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {
  const value = get.call(this, name);
  if (typeof value !== 'string') return value;
  return value.replace(/swiftshader|llvmpipe|software/gi, 'card');
};""",
    "canvas": """const get = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind === 'webgl2' ? null : get.call(this, kind, ...more);
};""",
}
"""A page takes WebGL only of a graphics card; here it is told that there is one, or no WebGL."""
_FIRST_PHOTO = """(known) => new Promise((tell) => {
  const look = () => {
    const first = document.querySelector('.cs-search .cs-tile img');
    const box = first?.getBoundingClientRect();
    if (first && first.src !== known && first.complete && first.naturalWidth && box.width > 8) {
      requestAnimationFrame(() => setTimeout(() => tell(performance.now()), 0));  // painted
    } else requestAnimationFrame(look);
  };
  look();
})"""
_FIRST_MAP = """() => new Promise((tell) => {
  const look = () => {
    const map = document.querySelector('.cs-map-base');
    if (map && map.width > 300) {
      requestAnimationFrame(() => setTimeout(() => {
        const all = performance.getEntriesByType('resource');
        const scene = all.find((one) => one.name.includes('api/map/scene'));
        tell([performance.now(), scene.duration, scene.encodedBodySize]);
      }, 0));
    } else requestAnimationFrame(look);
  };
  look();
})"""
_FRAMES = """([frames, kind]) => new Promise((tell) => {
  const map = document.querySelector('.cs-map-over'), box = map.getBoundingClientRect(), times = [];
  let last = null, step = 0;
  const move = (now) => {
    if (last !== null) times.push(now - last);
    last = now;
    if (step++ > frames) { tell(times.slice(1)); return; }
    if (kind === 'moving') {
      const key = ['ArrowLeft', 'ArrowUp', 'ArrowRight', 'ArrowDown'][Math.floor(step / 8) % 4];
      map.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
    } else {
      map.dispatchEvent(new WheelEvent('wheel', {
        deltaY: Math.floor(step / 30) % 2 ? 40 : -40, bubbles: true, cancelable: true,
        clientX: box.left + box.width / 2, clientY: box.top + box.height / 2,
      }));
    }
    requestAnimationFrame(move);
  };
  requestAnimationFrame(move);
})"""
_GRAPHICS = """() => {
  const gl = document.createElement('canvas').getContext('webgl2');
  const told = gl?.getExtension('WEBGL_debug_renderer_info');
  return told ? gl.getParameter(told.UNMASKED_RENDERER_WEBGL) : 'no WebGL';
}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--map", type=Path, help="an index with a map")
    parser.add_argument("--photos", type=Path, help="an index with photos")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--frames", type=int, default=120)
    arguments = parser.parse_args()
    if arguments.map is None and arguments.photos is None:
        parser.error("name an index with a --map, one with --photos, or both")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, _CHROMIUM)), None)
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--disable-dev-shm-usage", "--enable-unsafe-swiftshader", "--no-sandbox"],
        )
        blank = browser.new_page()
        print(f"Chromium {browser.version}, WebGL by {blank.evaluate(_GRAPHICS)}")
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
        if arguments.map is not None:
            with served(arguments.map) as address:
                measure_map(browser, f"{address}?tab=map", arguments.runs, arguments.frames)
        if arguments.photos is not None:
            with served(arguments.photos) as address:
                measure_results(browser, address, arguments.runs)
        browser.close()


@contextmanager
def served(index: Path) -> Iterator[str]:
    """The address of a page over ``index``, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [*CLIPSEARCH, "ui", str(index), "--port", str(port), "--no-browser"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
        try:
            address = f"http://127.0.0.1:{port}/"
            last = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{address}api/status", timeout=30).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > last:
                        said.seek(0)
                        raise SystemExit(said.read().decode(errors="replace")) from None
                    time.sleep(0.2)
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def measure_map(browser: Browser, address: str, runs: int, frames: int) -> None:
    """First drawing, and the time between frames, by WebGL and without it."""
    for drawn_by in _DRAWN_BY:
        first, fetching, size = [], [], 0
        for number in range(runs):
            page = _open(browser, address, _DRAWN_BY[drawn_by])
            drawn, fetched, size = page.evaluate(_FIRST_MAP)
            first.append(drawn)
            fetching.append(fetched)
            if number < runs - 1:
                page.context.close()
        used = page.locator(".cs-map-stage").get_attribute("data-drawn-by")
        facts = page.locator(".cs-map-facts").inner_text()
        print(f"\n{facts}, drawn by {used}")
        _line("page opened to map drawn", first)
        _line(f"  of that fetching {size / 1e6:.1f} MB of points", fetching)
        page.wait_for_timeout(1000)
        for kind in ("moving", "zooming"):
            _line(f"between frames, {kind}", page.evaluate(_FRAMES, [frames, kind]), tail=True)
        page.context.close()


def measure_results(browser: Browser, address: str, runs: int) -> None:
    """From opening the page, and from Enter, to the first photo painted."""
    opened, entered = [], []
    for number in range(runs):
        page = _open(browser, address)
        opened.append(page.evaluate(_FIRST_PHOTO, ""))
        field = page.get_by_role("searchbox").first
        field.fill(f"{_WORDS[number % len(_WORDS)]}, {number}")
        known = page.locator(".cs-search .cs-tile img").first.get_attribute("src")
        known = page.evaluate("(path) => new URL(path, document.baseURI).href", known)
        page.evaluate(
            "addEventListener('keydown', () => { window.pressed = performance.now(); },"
            " { capture: true, once: true })"
        )
        painted = page.evaluate_handle(f"(known) => ({{ done: ({_FIRST_PHOTO})(known) }})", known)
        field.press("Enter")
        moment: Any = painted.evaluate("async ({ done }) => (await done) - window.pressed")
        entered.append(moment)
        page.context.close()
    print()
    _line("page opened to first photo painted", opened)
    _line("Enter to first photo of the results painted", entered)


def _open(browser: Browser, address: str, script: str = "") -> Page:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.add_init_script(script)
    page.goto(address, wait_until="commit")
    return page


def _line(what: str, milliseconds: list[float], tail: bool = False) -> None:
    ranked = sorted(milliseconds)
    text = f"{what:50} {statistics.median(ranked):8.1f} ms"
    if tail:
        text += f"   95 %: {ranked[int(0.95 * (len(ranked) - 1))]:.1f} ms"
    print(text, flush=True)


if __name__ == "__main__":
    main()
