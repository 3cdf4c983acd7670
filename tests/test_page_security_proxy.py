"""The page behind a reverse proxy, below a path: /photos."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest

from tests.raw_http import RawAnswer, ask_raw
from ui.addresses import KnownAddress
from ui.page_settings import PageSettings

_BODY_BYTES = 1 << 20


class _Proxy(BaseHTTPRequestHandler):
    """Hands on what is asked below /photos, as nginx does: with or without the path, the host as
    the browser named it, and a word on where it came from."""

    behind = ""
    cuts_path = True

    def _hand_on(self) -> None:
        if self.path != "/photos" and not self.path.startswith("/photos/"):
            self.send_error(404, "not below /photos")
            return
        target = self.path.removeprefix("/photos") if self.cuts_path else self.path
        length = int(self.headers.get("Content-Length", "0"))
        request = urllib.request.Request(
            f"{self.behind}{target}",
            method=self.command,
            data=self.rfile.read(length) if length else None,
            headers={**dict(self.headers), "X-Forwarded-Proto": "http"},
        )
        try:
            answer: Any = _OPENER.open(request, timeout=20)
        except HTTPError as error:
            answer = error
        with answer:
            body = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    do_GET = do_POST = do_HEAD = _hand_on

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


class _Follows(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Follows, urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def behind(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the server that the proxies hand on to."""
    from ui.library import Library
    from ui.server import create_app, listening_socket, server_of

    index = Path(shutil.copytree(_built, tmp_path_factory.mktemp("proxy") / "pictures.index"))
    settings = PageSettings(port=0, root_path="/photos", trusted_hosts=("photos.example.org",))
    started = threading.Event()
    server = server_of(create_app(Library(index, settings), settings), settings, started.set)
    with listening_socket(settings, may_move=False) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert started.wait(60)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module", params=[True, False], ids=["cut", "whole"])
def proxy(request: pytest.FixtureRequest, behind: str) -> Iterator[str]:
    """The address of a proxy; with ``cut`` it takes /photos off, as ``proxy_pass`` with a slash at
    its end."""
    kind = type("_This", (_Proxy,), {"behind": behind, "cuts_path": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(20)


def _ask(proxy: str, path: str, **more: Any) -> RawAnswer:
    return ask_raw(proxy, path, **more)


def test_the_page_works_below_a_path(proxy: str) -> None:
    page = _ask(proxy, "/photos/")
    assert page.status == 200
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert not address.startswith("/"), address
    scripts = re.findall(r'src="(?:\./)?([^"]+\.js)"', page.text)
    assert "page/page.js" in scripts
    for path in (*scripts, "config", "theme.css", "api/status", "media/thumbnail/0"):
        assert _ask(proxy, f"/photos/{path}").status == 200, path
    assert _ask(proxy, "/photos/api/nothing").status == 404
    assert _ask(proxy, "/api/status").status == 404  # the proxy's own word


def test_gradio_knows_where_it_lives(proxy: str) -> None:
    import json

    for host in (urlsplit(proxy).netloc, "photos.example.org", "photos.example.org:8443"):
        config = json.loads(_ask(proxy, "/photos/config", host=host).text)
        assert config["root"] == f"http://{host}/photos"


def test_an_event_works_below_a_path(proxy: str) -> None:
    origin = (f"Origin: {proxy}", "Content-Type: application/json", "Sec-Fetch-Site: same-origin")
    answer = _ask(proxy, "/photos/gradio_api/cancel", method="POST", headers=origin, body=b"{}")
    assert answer.status == 422  # Gradio's own answer: it arrived
    boundary = ("Content-Type: multipart/form-data; boundary=x", f"Origin: {proxy}")
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\n'
    body = part + b"hi\r\n--x--\r\n"
    answer = _ask(proxy, "/photos/gradio_api/upload", method="POST", headers=boundary, body=body)
    assert answer.status == 200
    assert answer.text.endswith('a.txt"]')
    place = answer.text.strip('["]')
    assert _ask(proxy, f"/photos/gradio_api/file={place}").text == "hi"
    assert _ask(proxy, "/photos/gradio_api/file=/etc/passwd").status == 400
    assert _ask(proxy, "/photos/gradio_api/deep_link").status == 404


def test_strangers_are_refused_through_the_proxy_too(proxy: str) -> None:
    assert _ask(proxy, "/photos/config", host="evil.example").status == 403
    for origin in ("http://evil.example", "null", "http://photos.example.org"):
        answer = _ask(proxy, "/photos/api/status", headers=(f"Origin: {origin}",))
        assert answer.status == 403
    for claim in ("X-Forwarded-Prefix: /evil", "X-Forwarded-Host: evil.example"):
        for path in ("/photos/", "/photos/config"):
            answer = _ask(proxy, path, headers=(claim,))
            assert answer.status == 200
            assert "evil" not in answer.text


def test_the_path_without_its_slash_leads_to_the_page(behind: str) -> None:
    answer = ask_raw(behind, "/photos")
    assert answer.status == 308
    assert answer.headers["location"] == "/photos/"


def test_the_scheme_is_believed_of_a_proxy_that_was_named(behind: str) -> None:
    secure = ask_raw(behind, "/config", headers=("X-Forwarded-Proto: https",))
    assert '"root":"https://127.0.0.1' in secure.text


def test_a_proxy_that_nobody_named_is_not_believed(_built: Path) -> None:  # noqa: PT019
    from ui.library import Library
    from ui.server import create_app, server_of

    for settings, believed in (
        (PageSettings(), False),
        (PageSettings(root_path="/photos"), True),
        (PageSettings(trusted_hosts=("photos.example.org",)), True),
    ):
        server = server_of(create_app(Library(_built, settings), settings), settings, lambda: None)
        assert server.config.proxy_headers is believed


def _heard(settings: PageSettings, host: str, server: tuple[str, int]) -> int:
    """The status that a question for ``host`` gets at that address of the machine."""
    import asyncio

    statuses = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "server": server}
    scope["headers"] = [(b"host", host.encode())]
    asyncio.run(KnownAddress(page, settings)(scope, receive, send))
    return int(statuses[0])


def test_listening_everywhere_a_machine_goes_by_its_numbers() -> None:
    everywhere = PageSettings(host="0.0.0.0")
    assert _heard(everywhere, "192.168.1.5:7860", ("192.168.1.5", 7860)) == 200
    assert _heard(everywhere, "192.168.1.5:7860", ("::ffff:192.168.1.5", 7860)) == 200
    assert _heard(everywhere, "192.168.1.6", ("192.168.1.5", 7860)) == 403
    assert _heard(everywhere, "evil.example", ("192.168.1.5", 7860)) == 403
    assert _heard(everywhere, socket.gethostname() + ".evil.example", ("10.0.0.1", 80)) == 403
    alone = PageSettings(host="192.168.1.5")
    assert _heard(alone, "192.168.1.5", ("192.168.1.5", 7860)) == 200
    assert _heard(PageSettings(), "192.168.1.5", ("192.168.1.5", 7860)) == 403
