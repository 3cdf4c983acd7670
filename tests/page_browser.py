"""The page in a real browser: fixtures for tests that look at it as a person does.

``page_server`` serves the real application, ``browser`` is a Chromium without a window, and
``browser_page`` opens pages in it and fails the test for whatever a visitor should never meet: an
error of a script, a message on the console, a request to another host, an answer of 400 or above
that the test did not announce. A test that uses them is ``@pytest.mark.slow``.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_START_SECONDS = 60.0
_WAIT_MS = 30_000

PageServer = Callable[..., str]


@pytest.fixture
def page_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PageServer]:
    """``page_server(index, **settings)``: the address, such as ``http://127.0.0.1:40123/``, of the
    real application over ``index`` (None: a page without one). ``settings`` as in PageSettings.
    Several may run at once; all end with the test."""
    import uvicorn

    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app

    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def serve(index: Path | None, **settings: Any) -> str:
        listening = socket.create_server(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        chosen = PageSettings(**{"host": "127.0.0.1", "port": port, **settings})
        app = create_app(Library(index, chosen), chosen)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        running.append((server, thread))
        last = time.monotonic() + _START_SECONDS
        while not server.started:
            assert thread.is_alive(), "the server of the page ended while starting"
            assert time.monotonic() < last, f"no server after {_START_SECONDS:.0f} s"
            time.sleep(0.02)
        return f"http://127.0.0.1:{port}{chosen.root_path}/"

    yield serve
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(timeout=15)


def _chromium(own: str) -> str | None:
    """The browser to run: one of the system, else ``own``, which Playwright has fetched."""
    found = next((place for name in _NAMES if (place := shutil.which(name))), None)
    return found or (own if Path(own).is_file() else None)


# Of one module and not of the session: while Playwright runs, its event loop runs in this thread,
# and a test of another module could not start one of its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; the test is skipped, with the reason, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        program = _chromium(playwright.chromium.executable_path)
        if program is None:
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install")
        arguments = [
            "--disable-dev-shm-usage",
            "--enable-unsafe-swiftshader",  # WebGL without a graphics card
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium refuses to start as root with it
        started = playwright.chromium.launch(executable_path=program, args=arguments)
        yield started
        started.close()


class BrowserPages:
    """Opens pages and watches them. Calling it opens one; what went wrong is in ``faults``."""

    def __init__(self, browser: Browser, screenshots: Path, test_name: str) -> None:
        self.browser = browser
        self.screenshots = screenshots
        self.faults: list[str] = []
        self._test_name = re.sub(r"[^\w.-]+", "-", test_name).strip("-")
        self._announced: list[tuple[int, str]] = []
        self._excused: list[str] = []
        self._contexts: list[BrowserContext] = []

    def __call__(
        self, address: str, width: int = 1440, height: int = 900, dark: bool = False, **options: Any
    ) -> Page:
        """A new page, in a browser context of its own, at ``address``. ``options`` are those of
        Playwright's ``new_context`` (``http_credentials``, ``has_touch``, ``permissions``, ...).
        Widths below 600 px are a phone: the page is touched, not pointed at."""
        context = self.browser.new_context(
            **{
                "viewport": {"width": width, "height": height},
                "color_scheme": "dark" if dark else "light",
                "reduced_motion": "reduce",
                "has_touch": width < 600,
                "locale": "en-GB",
                **options,
            }
        )
        context.set_default_timeout(_WAIT_MS)
        self._contexts.append(context)
        page = context.new_page()
        self._watch(page, re.match(r"\w+://[^/]+", address).group(0))  # type: ignore[union-attr]
        page.goto(address)
        return page

    def announce(self, status: int, part: str) -> None:
        """Answers of ``status`` from addresses that contain ``part`` are what the test is about."""
        self._announced.append((status, part))

    def excuse(self, part: str) -> None:
        """Console messages that contain ``part`` are no fault. To be used with a reason beside it:
        what a graphics driver says, not what the page does."""
        self._excused.append(part)

    def shot(self, page: Page, name: str, full: bool = False) -> Path:
        """A screenshot, ``TEST-name.png`` in the folder of screenshots; ``full``: all of the page
        and not only what is in sight."""
        self.screenshots.mkdir(parents=True, exist_ok=True)
        place = self.screenshots / f"{self._test_name}-{name}.png"
        page.screenshot(path=place, full_page=full)
        return place

    def close(self) -> None:
        """Close every page."""
        for context in self._contexts:
            context.close()

    def _watch(self, page: Page, origin: str) -> None:
        def said(message: ConsoleMessage) -> None:
            if message.type not in ("error", "warning"):
                return
            place = str(message.location.get("url", ""))
            told = any(
                f"status of {code}" in message.text and part in place
                for code, part in self._announced
            )
            if not told and not any(part in message.text for part in self._excused):
                self.faults.append(f"console {message.type}: {message.text} ({place})")

        def asked(request: Request) -> None:
            if not request.url.startswith((f"{origin}/", "blob:", "data:")):
                self.faults.append(f"request to another host: {request.url}")

        def failed(request: Request) -> None:
            # A search that the next letter overtakes is aborted by the page itself.
            if "ERR_ABORTED" not in (request.failure or ""):
                self.faults.append(f"failed: {request.method} {request.url} {request.failure}")

        def answered(status: int, url: str) -> None:
            if status >= 400 and (status, url) not in [
                (code, url) for code, part in self._announced if part in url
            ]:
                self.faults.append(f"HTTP {status}: {url}")

        page.on("console", said)
        page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        page.on("request", asked)
        page.on("requestfailed", failed)
        page.on("response", lambda answer: answered(answer.status, answer.url))
        page.on("crash", lambda _: self.faults.append("the page crashed"))


@pytest.fixture
def browser_page(
    browser: Browser, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[BrowserPages]:
    """``browser_page(address, width=1440, dark=False)`` opens a page and watches it; the test fails
    for every fault that was not announced. Screenshots go into the folder that
    CLIPSEARCH_SCREENSHOTS names, else into the test's own."""
    folder = Path(_SCREENSHOTS) if _SCREENSHOTS else tmp_path / "screenshots"
    pages = BrowserPages(browser, folder, request.node.name)
    yield pages
    pages.close()
    assert not pages.faults, "the page is not as a visitor should find it:\n" + "\n".join(
        pages.faults
    )


# Read when the tests are collected: for their time no variable of the user's is set.
_SCREENSHOTS = os.environ.get("CLIPSEARCH_SCREENSHOTS")

_IN_SIGHT = """(selector) => [...document.querySelectorAll(selector)].filter((image) => {
    const box = image.getBoundingClientRect();
    return image.complete && image.naturalWidth > 0 && box.width > 8 && box.height > 8
        && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth
        && image.checkVisibility({ visibilityProperty: true, opacityProperty: true });
}).length"""


def photos_in_sight(page: Page, least: int = 1, selector: str = ".cs-panel img") -> int:
    """Wait until at least ``least`` pictures are loaded and in sight, and count them. Those
    further down are never waited for: a lazy image does not load before it is near."""
    page.wait_for_function(
        f"([selector, least]) => ({_IN_SIGHT})(selector) >= least", arg=[selector, least]
    )
    return int(page.evaluate(_IN_SIGHT, selector))


def open_tab(page: Page, name: str) -> None:
    """Go to a tab by its title, once Gradio has drawn it."""
    page.get_by_role("tab", name=name, exact=True).click()


def axe_faults(page: Page, least: str = "serious") -> list[str]:
    """What axe-core finds on the page as it is now, from impact ``least`` (minor, moderate,
    serious, critical) upwards: "rule (impact): what it asks for | element | element"."""
    from axe_core_python.sync_playwright import Axe

    impacts = ("minor", "moderate", "serious", "critical")
    told = []
    for fault in Axe().run(page)["violations"]:
        if impacts.index(fault["impact"] or "minor") < impacts.index(least):
            continue
        nodes = [f"{node['target']} {node['html'][:120]}" for node in fault["nodes"][:6]]
        told.append(f"{fault['id']} ({fault['impact']}): {fault['help']} | " + " | ".join(nodes))
    return told
