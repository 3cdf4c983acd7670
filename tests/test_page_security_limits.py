"""Questions that are too large, too slow, or too many: over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.responses import StreamingResponse

import ui.connections
import ui.request_limits
from tests.raw_http import ask_raw, read_answer

_MEGABYTE = 1 << 20
_LONG = 32 * _MEGABYTE
_ended = threading.Event()


async def _long_answer() -> AsyncIterator[bytes]:
    try:
        for _ in range(_LONG // _MEGABYTE):
            yield bytes(_MEGABYTE)
    finally:
        _ended.set()


@pytest.fixture(scope="module")
def address(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real server, as ``serve`` sets it up, with a limit of one megabyte for files."""
    import uvicorn

    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app, listening_socket, server_of

    index = shutil.copytree(_built, tmp_path_factory.mktemp("limits") / "pictures.index")
    settings = PageSettings(port=0, most_upload_bytes=_MEGABYTE)
    started = threading.Event()
    server: uvicorn.Server = server_of(
        create_app(Library(Path(index), settings), settings), settings, started.set
    )
    app: Any = server.config.app
    app.add_api_route("/media/long", lambda: StreamingResponse(_long_answer()))
    app.router.routes.insert(0, app.router.routes.pop())
    with listening_socket(settings, may_move=False) as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert started.wait(60)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(20)


_FORM = ("Content-Type: multipart/form-data; boundary=x",)
_JSON = ("Content-Type: application/json",)
_PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'


def read_all(connection: socket.socket) -> bytes:
    """What is still to come, to its end."""
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            found += part
    return bytes(found)


def _still_answers(address: str) -> bool:
    return ask_raw(address, "/api/status").status == 200


@pytest.mark.parametrize("target", ["/gradio_api/upload", "/gradio_api/queue/join", "/api/uploads"])
def test_a_length_that_is_too_much_is_refused_before_it_arrives(address: str, target: str) -> None:
    for said in (str(3 * _MEGABYTE), "9" * 18, "9" * 40):
        answer = ask_raw(
            address, target, method="POST", headers=(*_FORM, f"Content-Length: {said}")
        )
        assert answer.status in (400, 413), said
    assert _still_answers(address)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/gradio_api/upload", _FORM),
        ("/gradio_api/queue/join", _JSON),
        ("/gradio_api/run/x", _JSON),
        ("/gradio_api/cancel", _JSON),
        ("/gradio_api/nothing", _JSON),
    ],
)
def test_what_never_said_how_long_it_is_is_cut_off(
    address: str, target: str, kind: tuple[str, ...]
) -> None:
    """Chunks, without a length; 64 megabytes of them at most, should nobody stop us."""
    parts = urlsplit(address)
    chunk = b"10000\r\n" + b'"' + b"x" * 65_535 + b"\r\n"
    sent = 0
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        head = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", "Transfer-Encoding: chunked"]
        connection.sendall("\r\n".join([*head, *kind]).encode() + b"\r\n\r\n")
        if kind is _FORM:
            connection.sendall(b"%x\r\n%s\r\n" % (len(_PART), _PART))
        connection.settimeout(5)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, TimeoutError):
            while sent < 64 * _MEGABYTE:
                connection.sendall(chunk)
                sent += 65_536
        answer = read_answer(connection)
    assert sent < 32 * _MEGABYTE  # some of it waits in the system's buffers
    assert answer.status in (0, 413, 404)  # 0: reset, because it was not all read
    assert _still_answers(address)


def _asgi_answer(app: Any, scope: dict[str, Any], bodies: list[bytes]) -> list[dict[str, Any]]:
    """What an ASGI application sends for a question in these parts; the last is the end."""
    sent: list[dict[str, Any]] = []
    waiting = [
        {"type": "http.request", "body": body, "more_body": number < len(bodies) - 1}
        for number, body in enumerate(bodies)
    ]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(3600)
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


async def _reader(scope: Any, receive: Any, send: Any) -> None:
    """Reads all, and says how much it was, whatever becomes of it."""
    taken = 0
    with contextlib.suppress(Exception):
        while True:
            message = await receive()
            taken += len(message["body"])
            if not message["more_body"]:
                break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(taken).encode()})


def _scope(**more: Any) -> dict[str, Any]:
    base = {"type": "http", "method": "POST", "path": "/api/x", "headers": [], "query_string": b""}
    return {**base, **more}


def test_what_arrives_is_counted_whatever_it_says_of_itself() -> None:
    from ui.page_settings import PageSettings

    limits = ui.request_limits.RequestLimits(_reader, PageSettings(most_upload_bytes=_MEGABYTE))
    whole = [b"x" * _MEGABYTE] * 4
    assert _asgi_answer(limits, _scope(), whole)[1]["body"] == str(4 * _MEGABYTE).encode()
    lying = _scope(headers=[(b"content-length", b"3")])
    for scope in (_scope(), lying):
        sent = _asgi_answer(limits, scope, [*whole, b"x"])
        assert sent[0]["status"] == 413
        assert len([message for message in sent if "status" in message]) == 1
        assert json.loads(sent[1]["body"])["error"]
    image = _scope(headers=[(b"content-type", b"image/png")])
    assert _asgi_answer(limits, image, [b"x" * 2 * _MEGABYTE])[0]["status"] == 200
    assert _asgi_answer(limits, image, [b"x" * 2 * _MEGABYTE, b"x"])[0]["status"] == 413
    for said in (b"-1", b"1e3", b"", b"\xb2", b"1, 2"):
        scope = _scope(headers=[(b"content-length", said)])
        assert _asgi_answer(limits, scope, [b"x"])[0]["status"] == 400


def test_what_all_hand_in_together_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from ui.page_settings import PageSettings

    monkeypatch.setattr(ui.request_limits, "MOST_HELD_BYTES", 3 * _MEGABYTE)
    limits = ui.request_limits.RequestLimits(_reader, PageSettings())
    parts = [b"x" * _MEGABYTE] * 2
    limits.held = 2 * _MEGABYTE  # of others
    assert _asgi_answer(limits, _scope(), parts)[0]["status"] == 503
    limits.held -= _MEGABYTE
    assert _asgi_answer(limits, _scope(), parts)[0]["status"] == 200
    assert limits.held == _MEGABYTE  # what was taken is given back, refused or not


def test_a_question_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from ui.page_settings import PageSettings

    monkeypatch.setattr(ui.request_limits, "PAUSE_SECONDS", 0.05)
    limits = ui.request_limits.RequestLimits(_reader, PageSettings())
    sent: list[dict[str, Any]] = []
    parts = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.sleep(3600)
        return parts.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(limits(_scope(), receive, send))
    assert sent[0]["status"] == 408


def test_so_many_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    from ui.page_settings import PageSettings

    monkeypatch.setattr(ui.request_limits, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(ui.request_limits, "MOST_STREAMS", 2)

    async def ask() -> list[int]:
        go_on = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        limits = ui.request_limits.RequestLimits(slow, PageSettings())

        async def one(path: str) -> int:
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Any) -> None:
                sent.append(message)

            await limits(_scope(path=path), receive, send)
            return int(sent[0]["status"])

        paths = ["/api/x"] * 4 + ["/gradio_api/queue/data"] * 3
        asked = [asyncio.ensure_future(one(path)) for path in paths]
        await asyncio.sleep(0.05)
        go_on.set()
        answers = [await answer for answer in asked]
        return [*answers, await one("/api/x"), await one("/gradio_api/heartbeat/a")]

    assert asyncio.run(ask()) == [200, 200, 200, 503, 200, 200, 503, 200, 200]


def test_headers_and_addresses_have_an_end(address: str) -> None:
    for size, refused in ((30_000, 200), (40_000, 431), (400_000, 400)):
        answer = ask_raw(address, "/api/status", headers=("X-Long: " + "x" * size,))
        assert answer.status in (refused, 431 if refused == 400 else refused)
    many = tuple(f"X-{number}: y" for number in range(200))
    assert ask_raw(address, "/api/status", headers=many).status == 431
    assert ask_raw(address, "/api/status?x=" + "y" * 60_000).status == 414
    assert ask_raw(address, "/" + "y" * 200_000).status in (0, 400, 414)
    assert _still_answers(address)


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Content-Length: +5",),
        ("Content-Length: 5,6",),
        ("Bad Header: x",),
        ("X: a\x00b",),
    ],
)
def test_a_question_that_can_be_read_in_two_ways_is_refused(
    address: str, headers: tuple[str, ...]
) -> None:
    """What a proxy and the server take differently lets one question hide in another."""
    hidden = b"5\r\nhello\r\n0\r\n\r\nGET /api/status HTTP/1.1\r\nHost: evil.example\r\n\r\n"
    answer = ask_raw(address, "/api/nothing", method="POST", headers=headers, body=hidden)
    assert answer.text.count("HTTP/1.1") == 0
    assert answer.status >= 400 or answer.status == 0
    assert "images" not in answer.text
    assert _still_answers(address)


def test_a_connection_that_says_nothing_is_closed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui.connections, "FIRST_WORD_SECONDS", 0.2)
    parts = urlsplit(address)
    for said in (b"", b"GET / HTT", b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            connection.sendall(said)
            assert read_answer(connection).status == 0
    # Trickling does not help, on a connection that has been answered before neither.
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(b"GET /api/session HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        ended = time.monotonic() + 10
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(b"GET / HTTP/1.1\r\n")
            while time.monotonic() < ended:
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() < ended


def test_an_answer_that_nobody_takes_is_given_up(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would keep a place, and its answer in memory, until it is taken."""
    monkeypatch.setattr(ui.connections, "STALLED_SECONDS", 0.2)
    parts = urlsplit(address)
    question = b"GET /media/long HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(20)
        connection.connect((parts.hostname, parts.port))
        connection.sendall(question)
        assert _ended.wait(20)  # though nothing was read
        assert len(read_all(connection)) < _LONG  # what was on its way already
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(question.replace(b"1.1\r\n", b"1.1\r\nConnection: close\r\n"))
        assert len(read_all(connection)) > _LONG


def test_a_websocket_is_refused(address: str) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    answer = ask_raw(address, "/queue", headers=(*upgrade, "Sec-WebSocket-Key: AAAA"))
    assert answer.status in (400, 403, 404)
