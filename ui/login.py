"""The login: before every route, with a page that needs no script."""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
from pathlib import Path
from urllib.parse import parse_qs, quote

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ui.accounts import MOST_PASSWORD_LETTERS, SESSION_SECONDS, Accounts, TooManyAttemptsError
from ui.refusals import refuse

_STYLE = (Path(__file__).parent / "static" / "login.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_MOST_FORM_BYTES = 32 << 10
_MOST_NEXT_LETTERS = 8_000
ACCOUNT = "clipsearch.account"
"""Where in the scope the name of whoever is logged in stands."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · clipsearch</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>clipsearch</h1>
<p>Log in to see the photos.</p>
{message}<form method="post" action="{action}">
<input type="hidden" name="next" value="{next}">
<label for="name">Name</label>
<input id="name" name="name" autocomplete="username" autocapitalize="none" spellcheck="false" \
maxlength="100" required value="{name}"{name_focus}>
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" \
maxlength="{most}" required{password_focus}{described}>
<button>Log in</button>
</form>
</main>
</body>
</html>
"""


class Login:
    """Lets in who has a session or, for programs, sends name and password with the question
    (HTTP Basic). Whoever has neither reaches nothing but the page to log in."""

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self.app = app
        self.accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        path = scope["path"].removeprefix(scope["root_path"])
        token = request.cookies.get(_cookie_name(scope), "")
        name = self.accounts.session_name(token) if token else None
        if path == "/login":
            answer = await self._login(request, token, name)
            await answer(scope, receive, send)
        elif path == "/logout" and scope["method"] == "POST":
            self.accounts.end_session(token)
            answer = RedirectResponse(f"{scope['root_path']}/login", 303)
            _set_cookie(answer, scope, "")
            if scope["scheme"] == "https":  # browsers hear it there alone
                # Pictures that the browser has kept are not for whoever sits there next.
                answer.headers["Clear-Site-Data"] = '"cache"'
            await answer(scope, receive, send)
        else:
            try:
                name = name or await self._program(scope)
            except TooManyAttemptsError as error:
                await refuse(scope, receive, send, 429, headers={"Retry-After": str(error.seconds)})
                return
            if name is None:
                await self._turn_away(path, scope, receive, send)
            else:
                await self.app({**scope, ACCOUNT: name}, receive, send)

    async def _program(self, scope: Scope) -> str | None:
        kind, _, encoded = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() != "basic":
            return None
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        name, _, password = text.partition(":")
        if not name or not password:
            return None
        right = await anyio.to_thread.run_sync(
            self.accounts.check_program, name, password, _client(scope)
        )
        return name if right else None

    async def _turn_away(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if scope["method"] in ("GET", "HEAD") and "text/html" in headers.get("accept", ""):
            asked = scope["query_string"].decode("latin-1") if path == "/" else ""
            query = f"?next={quote(asked, safe='')}" if asked else ""
            await RedirectResponse(f"{scope['root_path']}/login{query}", 303)(scope, receive, send)
            return
        # A browser that is asked like this opens a window of its own, over the page.
        is_browser = headers.get("user-agent", "").startswith("Mozilla/")
        challenge = {} if is_browser else {"WWW-Authenticate": 'Basic realm="clipsearch"'}
        await refuse(scope, receive, send, 401, headers=challenge)

    async def _login(self, request: Request, token: str, name: str | None) -> Response:
        root = request.scope["root_path"]
        if request.method in ("GET", "HEAD"):
            if name is not None:
                return RedirectResponse(f"{root}/", 303)
            return _login_page(root, request.query_params.get("next", ""))
        if request.method != "POST":
            return Response(status_code=405, headers={"Allow": "GET, POST"})
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_FORM_BYTES:
                return _login_page(root, "", "That is too long for a name and a password.", 413)
        try:
            form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
        except ValueError:
            form = {}
        name, password, after = (form.get(key, [""])[0] for key in ("name", "password", "next"))
        try:
            right = await anyio.to_thread.run_sync(
                self.accounts.check_password, name, password, _client(request.scope)
            )
        except TooManyAttemptsError as error:
            message = f"Too many attempts. Wait {_duration(error.seconds)}, then try again."
            answer = _login_page(root, after, message, 429, name)
            answer.headers["Retry-After"] = str(error.seconds)
            return answer
        if not right:
            return _login_page(root, after, "Name or password is wrong.", 401, name)
        self.accounts.end_session(token)
        # Only the question is taken from the form, never the place: it stays on this page.
        query = f"?{quote(after[:_MOST_NEXT_LETTERS], safe='=&+%^:,.~-_')}" if after else ""
        answer = RedirectResponse(f"{root}/{query}", 303)
        _set_cookie(answer, request.scope, self.accounts.begin_session(name))
        return answer


def session_routes(has_login: bool) -> APIRouter:
    """``api/session``: whether there is a login, and who is logged in. ``POST logout`` is
    answered by ``Login`` itself."""
    routes = APIRouter(prefix="/api")

    @routes.get("/session")
    def session(request: Request) -> dict[str, bool | str | None]:
        return {"login": has_login, "name": request.scope.get(ACCOUNT)}

    return routes


def _login_page(
    root: str, after: str, message: str = "", status: int = 200, name: str = ""
) -> Response:
    said = f'<p role="alert" id="wrong">{html.escape(message)}</p>\n' if message else ""
    page = _PAGE.format(
        style=_STYLE,
        message=said,
        action=html.escape(f"{root}/login"),
        next=html.escape(after[:_MOST_NEXT_LETTERS]),
        name=html.escape(name[:100]),
        name_focus="" if name else " autofocus",
        password_focus=" autofocus" if name else "",
        described=' aria-describedby="wrong"' if message else "",
        most=MOST_PASSWORD_LETTERS,
    )
    return HTMLResponse(page, status, {"Content-Security-Policy": _POLICY})


def _duration(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} second{'s' if seconds > 1 else ''}"
    minutes = -(-seconds // 60)
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _cookie_name(scope: Scope) -> str:
    # Browsers do not tell ports apart, and somebody may run a page for each of two collections.
    server = scope.get("server")
    return f"clipsearch-{server[1] if server else 0}"


def _set_cookie(answer: Response, scope: Scope, token: str) -> None:
    answer.set_cookie(
        _cookie_name(scope),
        token,
        max_age=int(SESSION_SECONDS) if token else 0,
        path=scope["root_path"] or "/",
        secure=scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )
