"""By which names and from which pages the page may be asked, and below which path it lives."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.page_settings import PageSettings
from ui.refusals import refuse

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
ANY_ADDRESS = ("0.0.0.0", "::", "")

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([0-9]{1,5}))?")
_MOST_ADDRESS_BYTES = 48 << 10
_MOST_HEADERS, _MOST_HEADER_BYTES = 100, 32 << 10

# What a proxy is said to have been asked. uvicorn has taken from them what it trusts (of a proxy
# on this machine, where the operator named one); Gradio would believe anybody.
_CLAIMS = frozenset(
    {
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-server",
        b"x-gradio-server",
        b"x-original-url",
        b"x-rewrite-url",
    }
)


class KnownAddress:
    """Lets through what is asked for by a name of ours, from a page of ours.

    A name that somebody else owns can be made to lead here (DNS rebinding), and then their page
    counts as ours in a browser: so the names are listed. A page elsewhere can send a form here or
    embed our pictures: so its browser's word of where a question comes from is heard.

    What passes has its path below ``root_path``, whether or not the proxy in front cut that off.
    """

    def __init__(self, app: ASGIApp, settings: PageSettings) -> None:
        self.app = app
        self.root_path = settings.root_path
        self.any_address = settings.host in ANY_ADDRESS
        names = {*LOOPBACK_NAMES, *settings.trusted_hosts}
        if not self.any_address:
            names.add(settings.host)
        self.names = frozenset(name.lower().strip("[]") for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refuse(scope, receive, send, *refusal)
            return
        path = scope["path"]
        if self.root_path:
            if path == self.root_path and scope["method"] in ("GET", "HEAD"):
                await RedirectResponse(f"{self.root_path}/", 308)(scope, receive, send)
                return
            if not path.startswith(f"{self.root_path}/"):
                path = self.root_path + path
        kept = [(name, value) for name, value in scope["headers"] if name not in _CLAIMS]
        below = {**scope, "path": path, "root_path": self.root_path, "headers": kept}
        await self.app(below, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _MOST_ADDRESS_BYTES:
            return 414, "The address is too long."
        sizes = [len(name) + len(value) for name, value in scope["headers"]]
        if len(sizes) > _MOST_HEADERS or sum(sizes) > _MOST_HEADER_BYTES:
            return 431, "The question has more headers than are read."
        hosts = headers.getlist("host")
        host = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if host is None:
            return 400, "The question does not say which host it is for."
        if not self._is_ours(host[1] or host[2], scope):
            return 403, (
                "clipsearch does not go by this name here. Whoever runs it can add the name with "
                "--trusted-host."
            )
        origins = headers.getlist("origin")
        if len(origins) > 1 or (origins and not _same_origin(origins[0].lower(), host)):
            return 403, "This was asked from a page elsewhere, which is not allowed."
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            # A link to the page may be followed from anywhere.
            follows_link = (
                scope["method"] in ("GET", "HEAD")
                and headers.get("sec-fetch-mode") == "navigate"
                and headers.get("sec-fetch-dest") == "document"
            )
            if not follows_link:
                return 403, "This was asked from a page elsewhere, which is not allowed."
        return None

    def _is_ours(self, name: str, scope: Scope) -> bool:
        if name in self.names:
            return True
        # Listening everywhere, the numbers of this machine are its names too: those that the
        # connection was made to. Nobody else can own a number.
        server = scope.get("server")
        return self.any_address and server is not None and name == _plain(server[0])


def _same_origin(origin: str, host: re.Match[str]) -> bool:
    scheme, _, rest = origin.partition("://")
    asked_from = _HOST.fullmatch(rest)
    if scheme not in ("http", "https") or asked_from is None:
        return False
    usual = "443" if scheme == "https" else "80"
    same_name = (asked_from[1] or asked_from[2]) == (host[1] or host[2])
    return same_name and (asked_from[3] or usual) == (host[3] or usual)


def _plain(number: str) -> str:
    return number.lower().removeprefix("::ffff:")
