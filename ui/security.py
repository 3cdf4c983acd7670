"""Who may ask the page, and what its answers may do in a browser."""

from __future__ import annotations

import logging
import re
import secrets

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.accounts import Accounts
from ui.addresses import KnownAddress
from ui.gradio_routes import GradioRoutes
from ui.login import Login
from ui.page_settings import PageSettings
from ui.refusals import refuse
from ui.request_limits import RequestLimits

log = logging.getLogger("clipsearch.ui")

_SCRIPT = re.compile(rb"<script(?=[\s>])")
# Gradio's page names pictures of its makers' sites for those who share its address, and a file
# by an address that is wrong below a path.
_FOREIGN = re.compile(
    rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>|<link rel="manifest"[^>]*>'
)

SEALED = (
    "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; sandbox; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The policy of whatever is no page and no script of ours: opened by itself, it can do nothing."""

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": with that a browser names no origin on the form of the login.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_NEVER = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "server",
    "x-powered-by",
)


def policy(nonce: str) -> str:
    """The Content-Security-Policy of the page and its scripts. Gradio compiles its templates in
    the browser, which needs 'unsafe-eval'; no script of another origin or without the nonce
    runs."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "font-src 'self' data:",
            "manifest-src 'self'",
            "worker-src 'self' blob:",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def add_guards(app: FastAPI, settings: PageSettings) -> None:
    """Put everything that guards the page before it. The last that is added is asked first."""
    app.add_middleware(GradioRoutes, settings=settings)
    if settings.accounts:
        app.add_middleware(Login, accounts=Accounts(settings.accounts))
    app.add_middleware(RequestLimits, settings=settings)
    app.add_middleware(KnownAddress, settings=settings)
    app.add_middleware(PageHeaders, root_path=settings.root_path)


class PageHeaders:
    """Adds the policy and its kin to every answer, and the nonce to the scripts of the page. What
    fails further in becomes one sentence here, and a traceback on the operator's terminal."""

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self.app = app
        self.root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(self.root_path)
        nonce = secrets.token_urlsafe(16)
        start: Message | None = None
        body: list[bytes] = []
        started = False

        async def guarded(message: Message) -> None:
            nonlocal start, started
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                _guard(headers, path, nonce)
                message = {**message, "headers": headers.raw}
                if path == "/" and headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                body.append(message.get("body", b""))
                if message.get("more_body"):
                    return
                html = _page(b"".join(body), nonce.encode()) if any(body) else b""
                headers = MutableHeaders(raw=start["headers"])
                if html:
                    headers["Content-Length"] = str(len(html))
                started = True
                await send({**start, "headers": headers.raw})
                message = {"type": "http.response.body", "body": html}
            started = True
            await send(message)

        try:
            await self.app(scope, receive, guarded)
        except Exception:
            if started:  # nothing can be said any more: the connection breaks off
                raise
            log.exception("%s %s", scope["method"], path)
            start = None
            await refuse(scope, receive, guarded, 500)


def _guard(headers: MutableHeaders, path: str, nonce: str) -> None:
    kind = headers.get("content-type", "")
    for name in _NEVER:
        if name in headers:
            del headers[name]
    for name, value in _ALWAYS.items():
        headers[name] = value
    ours = path == "/" and kind.startswith("text/html")
    script = path.startswith(("/page/", "/assets/", "/static/"))
    if ours or script:
        headers["Content-Security-Policy"] = policy(nonce)
    else:
        headers.setdefault("Content-Security-Policy", SEALED)
    if path.startswith("/page/"):
        headers.setdefault("Cache-Control", "no-cache")
    elif not script:
        headers.setdefault("Cache-Control", "no-store")


def _page(html: bytes, nonce: bytes) -> bytes:
    html = _SCRIPT.sub(b'<script nonce="%s"' % nonce, _FOREIGN.sub(b"", html))
    load = b'<script nonce="%s" type="module" src="page/page.js"></script>\n</head>' % nonce
    return html.replace(b"</head>", load, 1)
