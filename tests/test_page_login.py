"""The login: nothing is answered without it, and it is no way in for anybody else."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import argon2
import pytest

import ui.accounts
from clipsearch.errors import OptionError
from tests.page_browser import page_server
from tests.raw_http import ask_raw
from ui.account_options import asked_accounts, is_loopback, read_accounts
from ui.accounts import Accounts, TooManyAttemptsError

_PAGE = "http://127.0.0.1:7860"
_PASSWORD = "correct horse battery"


# As the real one, of a strength that a test has time for.
_quick_hasher = partial(argon2.PasswordHasher, time_cost=1, memory_cost=8, parallelism=1)
_ACCOUNTS = tuple(
    (name, _quick_hasher().hash(password))
    for name, password in (("ann", _PASSWORD), ("bob", "another long word"))
)


@pytest.fixture(scope="module", autouse=True)
def _quick_hashes() -> Iterator[None]:
    """Accounts make a hash when they are made, for those who are not known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argon2, "PasswordHasher", _quick_hasher)
        yield


@pytest.fixture(scope="module")
def index(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(_built, tmp_path_factory.mktemp("login") / "pictures.index"))


@pytest.fixture(scope="module")
def app(index: Path) -> Any:
    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app

    settings = PageSettings(accounts=_ACCOUNTS)
    return create_app(Library(index, settings), settings)


@pytest.fixture
def client(app: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A visitor of an application whose attempts nobody has used up."""
    from starlette.testclient import TestClient

    app.middleware_stack = None  # built anew with the first question, and the accounts with it
    for layer in app.user_middleware:
        if "accounts" in layer.kwargs:
            layer.kwargs["accounts"] = Accounts(_ACCOUNTS)
    with TestClient(app, base_url=_PAGE, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def address(index: Path) -> Iterator[str]:
    """The same over real HTTP."""
    serving = page_server.__wrapped__(pytest.MonkeyPatch())
    yield next(serving)(index, accounts=_ACCOUNTS)
    next(serving, None)


def _log_in(client: Any, password: str = _PASSWORD, name: str = "ann", **more: str) -> Any:
    return client.post("/login", data={"name": name, "password": password, **more})


def _basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def _every_route(router: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of all routes, ours and Gradio's, with something in place of what varies."""
    for route in router.routes:
        path = getattr(route, "path", "")
        below = getattr(route, "original_router", None) or getattr(
            getattr(route, "app", None), "router", None
        )
        if below is not None:
            yield from _every_route(below, prefix + path)
        else:
            for method in getattr(route, "methods", None) or {"GET"}:
                yield method, re.sub(r"\{[^}]*\}", "1", prefix + path) or "/"


def test_no_route_answers_without_a_login(app: Any, client: Any) -> None:
    routes = set(_every_route(app.router))
    assert len(routes) > 100
    assert ("GET", "/api/search") in routes
    assert ("POST", "/gradio_api/upload") in routes
    more = [
        ("GET", path) for path in ("/page/page.js", "/page/login.css", "/assets/x", "/static/x")
    ]
    for method, path in {*routes, *more, ("HEAD", "/"), ("GET", "/media/thumbnail/0")}:
        if path.rstrip("/") in ("/login", "/logout"):
            continue
        answer = client.request(method, path)
        assert answer.status_code == 401, (method, path)
        if method != "HEAD":
            assert answer.json()["error"] == "Log in first.", (method, path)
        as_page = client.request(method, path, headers={"Accept": "text/html"})
        assert as_page.status_code == (303 if method in ("GET", "HEAD") else 401), (method, path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "//api/status",
            "/login/../api/status",
            "/login/%2e%2e/api/status",
            "/login%2f..%2fconfig",
        ),
        *("/login/api/status", "/Login", "/login;/api/status", "/./api/status", "/api//status"),
        *("/logout/../config", "/login?x=/../config", "/%6cogin/../config", "/login%00/config"),
    ],
)
def test_no_way_around_it(address: str, path: str) -> None:
    for headers in ((), ("Accept: text/html",), ("X-Original-URL: /login",)):
        answer = ask_raw(address, path, headers=headers)
        assert answer.status in (401, 303, 200, 404)
        if answer.status == 200:  # the page to log in, and nothing else
            assert "Log in to see the photos" in answer.text
        assert "images" not in answer.text
        assert "components" not in answer.text


def test_logging_in_and_out(client: Any) -> None:
    asked = client.get("/?q=two+dogs&tab=map", headers={"Accept": "text/html"})
    assert asked.headers["location"] == "/login?next=q%3Dtwo%2Bdogs%26tab%3Dmap"
    form = client.get(asked.headers["location"])
    assert form.status_code == 200
    assert 'value="q=two+dogs&amp;tab=map"' in form.text
    assert "<script" not in form.text
    answer = _log_in(client, next="q=two+dogs&tab=map")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?q=two+dogs&tab=map"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "path=/" in cookie
    assert client.get("/api/session").json() == {"login": True, "name": "ann"}
    for path in ("/", "/config", "/media/thumbnail/0", "/page/page.js", "/theme.css"):
        assert client.get(path).status_code == 200, path
    assert client.get("/login").headers["location"] == "/"

    stolen = dict(client.cookies)
    assert client.get("/logout").status_code in (404, 405)  # a picture elsewhere cannot do it
    assert client.get("/config").status_code == 200
    out = client.post("/logout")
    assert out.status_code == 303
    assert out.headers["location"] == "/login"
    assert "max-age=0" in out.headers["set-cookie"].lower()
    client.cookies.update(stolen)
    assert client.get("/config").status_code == 401


def test_a_session_is_new_with_every_login(client: Any) -> None:
    _log_in(client)
    first = dict(client.cookies)
    _log_in(client)
    second = dict(client.cookies)
    assert first != second
    client.cookies.clear()
    client.cookies.update(first)
    assert client.get("/config").status_code == 401


@pytest.mark.parametrize(
    "token", ["", "x", "0" * 43, "../../x", "ann", "é", "%00", "A" * 5_000, "null", "[object]"]
)
def test_a_forged_session_is_none(client: Any, token: str) -> None:
    for name in ("clipsearch-80", "clipsearch-7860", "session", "access-token"):
        headers = {"Cookie": f"{name}={token}".encode("latin-1")}
        assert client.get("/config", headers=headers).status_code == 401


def test_sessions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(ui.accounts, "time", SimpleNamespace(monotonic=lambda: now[0]))
    accounts = Accounts(_ACCOUNTS)
    token = accounts.begin_session("ann")
    now[0] += ui.accounts.IDLE_SECONDS - 1
    assert accounts.session_name(token) == "ann"
    now[0] += ui.accounts.IDLE_SECONDS + 1
    assert accounts.session_name(token) is None
    token = accounts.begin_session("ann")
    ends = now[0] + ui.accounts.SESSION_SECONDS
    while now[0] < ends - 3_600:
        assert accounts.session_name(token) == "ann"
        now[0] += 3_600
    now[0] = ends + 1
    assert accounts.session_name(token) is None
    monkeypatch.setattr(ui.accounts, "_MOST_SESSIONS", 3)
    tokens = [accounts.begin_session("bob") for _ in range(5)]
    assert [accounts.session_name(token) for token in tokens] == [None, None, "bob", "bob", "bob"]


def test_wrong_passwords_are_refused_in_the_same_words(client: Any) -> None:
    wrong = _log_in(client, "wrong")
    unknown = _log_in(client, "wrong", name="eve")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("ann", "eve") == unknown.text
    assert "Name or password is wrong." in wrong.text
    assert "set-cookie" not in wrong.headers
    assert _PASSWORD not in wrong.text
    assert client.get("/config").status_code == 401


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"name=ann",
        b"password=x",
        b"\xff\xfe",
        b"&" * 1_000,
        b"name=ann&name=bob&password=" + b"x" * 5_000,
        b"name[]=ann&password[$ne]=x",
    ],
)
def test_a_form_that_makes_no_sense_is_a_wrong_password(client: Any, form: bytes) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/login", content=form, headers=kind).status_code in (401, 413)
    assert client.post("/login", content=b"x" * 40_000, headers=kind).status_code == 413


def test_nothing_of_the_form_becomes_html(client: Any) -> None:
    hostile = '"><script>alert(1)</script>'
    answer = _log_in(client, "wrong", name=hostile, next=hostile)
    assert "<script" not in answer.text
    assert "&lt;script" in answer.text
    rules = answer.headers["content-security-policy"]
    assert "script-src" not in rules
    assert "default-src 'none'" in rules
    assert "unsafe-inline" not in rules
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "after",
    [
        *(
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "@evil.example",
            "javascript:1",
        ),
        *("x\r\nSet-Cookie: a=b", "%0d%0aSet-Cookie:a=b", "#x", "../../x"),
    ],
)
def test_the_login_leads_nowhere_else(client: Any, after: str) -> None:
    answer = _log_in(client, next=after)
    assert answer.status_code == 303
    assert re.fullmatch(r"/\?[^\r\n#\\]*", answer.headers["location"])
    assert "a=b" not in answer.headers["set-cookie"]


def test_attempts_are_counted(client: Any) -> None:
    answers = [_log_in(client, f"wrong {number}") for number in range(7)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
    assert 200 < int(answers[-1].headers["retry-after"]) <= 300
    assert "Too many attempts. Wait 5 minutes" in answers[-1].text
    assert _log_in(client).status_code == 429  # the right one is not told apart from here either
    assert client.get("/api/status", headers=_basic("ann", _PASSWORD)).status_code == 429


def test_attempts_are_counted_for_each_address(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000.0]
    monkeypatch.setattr(ui.accounts, "time", SimpleNamespace(monotonic=lambda: now[0]))
    accounts = Accounts(_ACCOUNTS)
    for number in range(5):  # one IPv6 network is one address
        assert not accounts.check_password("ann", "wrong", f"2001:db8::{number}")
    with pytest.raises(TooManyAttemptsError):
        accounts.check_password("ann", _PASSWORD, "2001:db8::77")
    assert accounts.check_password("ann", _PASSWORD, "2001:db8:1::1")
    now[0] += 301
    assert accounts.check_password("ann", _PASSWORD, "2001:db8::77")
    for number in range(60):  # from everywhere together
        accounts.check_password("ann", "wrong", f"192.0.2.{number}")
    with pytest.raises(TooManyAttemptsError):
        accounts.check_password("ann", _PASSWORD, "198.51.100.1")


def test_programs_send_name_and_password(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = client.get("/api/status", headers={"User-Agent": "curl/8"})
    assert refused.headers["www-authenticate"] == 'Basic realm="clipsearch"'
    browser = client.get("/api/status", headers={"User-Agent": "Mozilla/5.0"})
    assert "www-authenticate" not in browser.headers
    for name, password in (("ann", "wrong"), ("eve", _PASSWORD), ("", ""), ("ann", "")):
        answer = client.get("/api/status", headers=_basic(name, password))
        assert answer.status_code == 401
    for said in ("Basic", "Basic !!!", "Basic YW5u", "Bearer x", "basic " + "A" * 9_000, "Digest"):
        assert client.get("/api/status", headers={"Authorization": said}).status_code == 401
    answer = client.get("/api/status", headers=_basic("ann", _PASSWORD))
    assert answer.json()["images"] > 5
    assert "set-cookie" not in answer.headers
    # The next one costs no hash.
    monkeypatch.setattr(Accounts, "check_password", None)
    assert client.get("/api/status", headers=_basic("ann", _PASSWORD)).status_code == 200


def test_the_login_is_not_sent_from_elsewhere(client: Any) -> None:
    form = {"name": "ann", "password": _PASSWORD}
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = client.post("/login", data=form, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


def test_the_cookie_keeps_to_https_where_there_is_https(index: Path) -> None:
    from starlette.testclient import TestClient

    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app

    settings = PageSettings(
        accounts=_ACCOUNTS, root_path="/photos", trusted_hosts=("photos.example.org",)
    )
    app = create_app(Library(index, settings), settings)
    client = TestClient(app, base_url="https://photos.example.org", follow_redirects=False)
    asked = client.get("/photos/", headers={"Accept": "text/html"})
    assert asked.headers["location"] == "/photos/login"
    assert 'action="/photos/login"' in client.get("/photos/login").text
    answer = client.post("/photos/login", data={"name": "ann", "password": _PASSWORD})
    assert answer.headers["location"] == "/photos/"
    cookie = answer.headers["set-cookie"].lower()
    assert "; secure" in cookie
    assert "path=/photos" in cookie
    assert client.get("/photos/config").status_code == 200


def test_passwords_are_kept_as_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argon2, "PasswordHasher", _quick_hasher.func)
    monkeypatch.setenv("CLIPSEARCH_UI_PASSWORD", _PASSWORD)
    file = tmp_path / "accounts"
    ((name, kept),) = asked_accounts(("ann",), file)
    assert name == "ann"
    assert kept.startswith("$argon2id$")
    assert argon2.extract_parameters(kept).memory_cost >= 19 << 10  # of a guess, in KiB
    assert _PASSWORD not in file.read_text()
    if os.name == "posix":
        assert file.stat().st_mode & 0o077 == 0
    assert Accounts(((name, kept),)).check_password("ann", _PASSWORD, "127.0.0.1")
    monkeypatch.setenv("CLIPSEARCH_UI_PASSWORD", "not asked for again")
    assert asked_accounts(("ann",), file) == ((name, kept),)
    file.write_text(file.read_text().rstrip("\n"))
    assert [name for name, _ in asked_accounts(("bob",), file)] == ["ann", "bob"]
    assert list(read_accounts(file)) == ["ann", "bob"]
    assert read_accounts(file)["ann"] == kept


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ann:hunter2hunter2\n", "line 1"),
        ("# a remark\n\nann\n", "line 3"),
        ("", "names nobody"),
        ("ann:$argon2id$broken\n", "line 1"),
        ("a b:" + _ACCOUNTS[0][1], "line 1"),
    ],
    ids=["a bare password", "a name alone", "nothing", "half a hash", "a name with a space"],
)
def test_a_file_that_is_none_of_accounts(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "accounts"
    file.write_text(text)
    with pytest.raises(OptionError, match=told) as refused:
        asked_accounts((), file)
    assert "hunter2" not in str(refused.value)
    with pytest.raises(OptionError, match="cannot read"):
        asked_accounts((), tmp_path / "nothing")


def test_what_is_loopback() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"):
        assert is_loopback(host)
    for host in ("0.0.0.0", "::", "", "192.168.1.5", "example.org", "127.0.0.1.nip.io"):
        assert not is_loopback(host)
