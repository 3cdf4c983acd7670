"""What of Gradio can be asked: the few routes that its page uses, and no file but those that were
handed in.

Gradio has some sixty routes: some fetch addresses of the internet for whoever asks, some reflect
the paths of the server in their errors, one edits programs. None of those is reached.
"""

from __future__ import annotations

import json
import re
from typing import Any

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.page_errors import PageError, status_message
from ui.page_settings import PageSettings
from ui.refusals import refuse
from ui.uploads import MOST_KEPT_BYTES, kept_bytes, uploaded_file

OUR_ROUTES = ("/api/", "/media/", "/page/")
"""Ours, which check what they are asked themselves."""

_NAME = r"[A-Za-z0-9_.-]{1,100}"
_READ = re.compile(
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
    r"|/assets/.+|/static/.+"
    r"|/gradio_api/(?:info/?|startup-events|app_id|theme\.css|queue/data|queue/status"
    rf"|upload_progress|heartbeat/{_NAME})"
)
_FILE = "/gradio_api/file="
_ASK = re.compile(rf"/gradio_api/(?:queue/join/?|run/{_NAME}/?)")
_TELL = re.compile(r"/gradio_api/(?:cancel|reset/?)")
_UPLOAD = "/gradio_api/upload"
_MCP = re.compile(r"/gradio_api/mcp(?:/.*)?")

_MOST_DEPTH = 60


class GradioRoutes:
    """Refuses whatever the page does not need, checks every file that an event names, and puts
    our words for Gradio's where it refuses something itself."""

    def __init__(self, app: ASGIApp, settings: PageSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(self.settings.root_path)
        if path.startswith(OUR_ROUTES):
            await self.app(scope, receive, send)
            return
        try:
            scope, receive = await self._checked(path, scope, receive)
        except PageError as error:
            await refuse(scope, receive, send, error.status, str(error))
            return
        await self.app(scope, receive, _in_our_words(send))

    async def _checked(self, path: str, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        reads = scope["method"] in ("GET", "HEAD")
        asks = scope["method"] == "POST"
        if reads and path.startswith(_FILE):
            place = path.removeprefix(_FILE)
            await anyio.to_thread.run_sync(uploaded_file, place, self.settings)
            # To a question for a part of a file Gradio answers with the headers it was asked
            # with, the cookie among them.
            return _without_headers(scope, b"range"), receive
        if reads and _READ.fullmatch(path):
            # The page itself is changed on its way (``security``), so it must not be packed.
            return (_without_headers(scope, b"accept-encoding") if path == "/" else scope), receive
        if asks and _ASK.fullmatch(path):
            return await self._checked_event(scope, receive)
        if asks and path == _UPLOAD:
            if await anyio.to_thread.run_sync(kept_bytes) > MOST_KEPT_BYTES:
                raise PageError(
                    "Too many files were handed in during the last hour: try again later.", 503
                )
            return scope, receive
        if (asks and _TELL.fullmatch(path)) or (self.settings.mcp and _MCP.fullmatch(path)):
            return scope, receive
        raise PageError(status_message(404), 404)

    async def _checked_event(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise PageError(status_message(400), 400)
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            question = json.loads(body)
        except (ValueError, RecursionError):
            raise PageError(status_message(400), 400) from None
        if not isinstance(question, dict):
            raise PageError(status_message(400), 400)
        session = question.get("session_hash")
        if session is not None and not (isinstance(session, str) and re.fullmatch(_NAME, session)):
            raise PageError(status_message(400), 400)
        await anyio.to_thread.run_sync(check_files, question, self.settings)
        checked = json.dumps(question).encode()
        scope = _without_headers(scope, b"content-length")
        scope["headers"].append((b"content-length", str(len(checked)).encode()))
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": checked, "more_body": False}

        return scope, again


def check_files(question: dict[str, Any], settings: PageSettings) -> None:
    """Hold an event to files that were handed in; PageError when it names any other.

    Every object with a ``path`` is taken for a file, because some of Gradio's components take it
    for one without the mark that the others ask for. Every ``url`` goes: Gradio would fetch it, or
    unfold the picture in it before anybody has looked at its size.
    """
    waiting: list[tuple[Any, int]] = [(question, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise PageError(status_message(400), 400)
        if isinstance(value, list):
            waiting += [(part, depth + 1) for part in value]
        elif isinstance(value, dict):
            if value.get("path") is not None:
                value["path"] = str(uploaded_file(value["path"], settings))
            value.pop("url", None)
            waiting += [(part, depth + 1) for part in value.values()]


def _without_headers(scope: Scope, *names: bytes) -> Scope:
    kept = [(name, value) for name, value in scope["headers"] if name not in names]
    return {**scope, "headers": kept}


def _in_our_words(send: Send) -> Send:
    """Gradio's and FastAPI's errors quote what they were given, and sometimes where it lies."""
    replaced = False

    async def worded(message: Message) -> None:
        nonlocal replaced
        if message["type"] == "http.response.start" and message["status"] >= 400:
            replaced = True
            text = status_message(message["status"])
            body = json.dumps({"error": text, "detail": text}).encode()
            await send(
                {
                    "type": "http.response.start",
                    "status": message["status"],
                    "headers": [
                        (b"content-type", b"application/json"),
                        (b"content-length", str(len(body)).encode()),
                    ],
                }
            )
            await send({"type": "http.response.body", "body": body})
        elif not replaced:
            await send(message)

    return worded
