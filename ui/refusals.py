"""Answers of those who stand before the page: one sentence as JSON, and the connection closed
where the rest of the question is not wanted."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from ui.page_errors import status_message


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    message: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer with ``status`` and a sentence. Gradio's own script looks for it under ``detail``."""
    text = status_message(status) if message is None else message
    answer = JSONResponse({"error": text, "detail": text}, status, headers)
    await answer(scope, receive, send)
