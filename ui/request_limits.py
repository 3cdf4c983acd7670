"""How much a question may be, how long it may take to arrive, and how many at once."""

from __future__ import annotations

import time

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.page_settings import PageSettings
from ui.refusals import refuse

MOST_TEXT_BYTES = 4 << 20
"""Of a question that hands in no file: JSON, a form."""

MOST_HELD_BYTES = 256 << 20
"""Of all questions being answered, together: what they hand in is held in memory."""

MOST_AT_ONCE = 128
"""Questions being answered; more are told to come back."""

MOST_STREAMS = 256
"""Answers that stay open: each open page listens on one or two."""

PAUSE_SECONDS = 20.0
"""Between two parts of a question."""

ARRIVAL_SECONDS = 300.0
"""For the whole of a question."""

STREAMS = (
    "/gradio_api/queue/data",
    "/gradio_api/heartbeat/",
    "/gradio_api/upload_progress",
    "/gradio_api/mcp",
)
_FILES = ("multipart/form-data", "application/octet-stream", "image/")


class TooMuchError(Exception):
    """Raised into whatever reads the question; told to the browser by RequestLimits."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class RequestLimits:
    """Counts what arrives while it is read: what the question says of its own length is believed
    only where it says too much."""

    def __init__(self, app: ASGIApp, settings: PageSettings) -> None:
        self.app = app
        self.most_file_bytes = settings.most_upload_bytes + (1 << 20)  # and the form around it
        self.root_path = settings.root_path
        self.asked = 0
        self.streams = 0
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stays_open = scope["path"].removeprefix(self.root_path).startswith(STREAMS)
        if (self.streams >= MOST_STREAMS) if stays_open else (self.asked >= MOST_AT_ONCE):
            await refuse(scope, receive, send, 503, headers={"Retry-After": "1"})
            return
        if stays_open:
            self.streams += 1
        else:
            self.asked += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            if stays_open:
                self.streams -= 1
            else:
                self.asked -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        has_file = headers.get("content-type", "").lower().startswith(_FILES)
        most = self.most_file_bytes if has_file else MOST_TEXT_BYTES
        said = headers.get("content-length", "0")
        if not said.isdecimal() or len(said) > 18:
            await refuse(scope, receive, send, 400, headers={"Connection": "close"})
            return
        if int(said) > most:
            await refuse(scope, receive, send, 413, headers={"Connection": "close"})
            return

        has_more = int(said) > 0 or "transfer-encoding" in headers
        taken = 0
        complete = answered = False
        refused: TooMuchError | None = None
        until = time.monotonic() + ARRIVAL_SECONDS

        async def limited() -> Message:
            nonlocal taken, complete, refused
            if complete:  # what comes now is only the word that the browser has gone
                return await receive()
            if refused is not None:
                raise refused
            try:
                with anyio.fail_after(max(0.0, min(PAUSE_SECONDS, until - time.monotonic()))):
                    message = await receive()
            except TimeoutError:
                refused = TooMuchError(408)
                raise refused from None
            length = len(message.get("body", b""))
            taken += length
            self.held += length
            if taken > most or self.held > MOST_HELD_BYTES:
                refused = TooMuchError(413 if taken > most else 503)
                raise refused
            complete = not message.get("more_body", False)
            return message

        async def told(message: Message) -> None:
            nonlocal answered
            if refused is not None and not answered:
                return  # an answer to half a question: ours follows
            if has_more and not complete and message["type"] == "http.response.start":
                # The rest is not wanted, and on an open connection it would have to be read.
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            answered = True
            await send(message)

        try:
            await self.app(scope, limited, told)
        except Exception:
            if refused is None or answered:
                raise
        finally:
            self.held -= taken
        if refused is not None and not answered:
            await refuse(scope, receive, send, refused.status, headers={"Connection": "close"})
