"""The page is asked by those it should not answer, and for what it should not give."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import IndexFormatError, LabelError
from tests.page_browser import PageServer, page_server
from tests.raw_http import ask_raw

_PAGE = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def index(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(_built, tmp_path_factory.mktemp("security") / "pictures.index"))


@pytest.fixture(scope="module")
def client(index: Path) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app

    settings = PageSettings(trusted_hosts=("photos.example.org",))
    app = create_app(Library(index, settings), settings)
    with TestClient(app, base_url=_PAGE, raise_server_exceptions=False) as client:
        yield client


def _is_plain_refusal(answer: Any, status: int) -> bool:
    """One sentence as JSON, and nothing in it that tells of the machine."""
    said = json.loads(answer.text)["error"]
    assert answer.status_code == status, (answer.status_code, said)
    assert re.fullmatch(r"[^\n/\\]{10,200}\.", said), said
    return True


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",  # names that lead to this machine: what rebinding uses
        "localtest.me",
        "photos.example.org.evil.example",
        "xphotos.example.org",
        "10.0.0.7",
        "[::2]",
        "localhost.",
        "2130706433",
        "0x7f000001",
    ],
)
def test_another_host_is_refused(client: Any, host: str) -> None:
    for path in ("/", "/config", "/api/status", "/media/thumbnail/0", "/page/page.js"):
        assert _is_plain_refusal(client.get(path, headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["", "a b", "localhost:x", "user@localhost", "localhost/", "é"])
def test_a_host_that_is_none_is_refused(client: Any, host: str) -> None:
    answer = client.get("/api/status", headers={"Host": host.encode("latin-1")})
    assert _is_plain_refusal(answer, 400)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"),
        *("photos.example.org", "Photos.Example.org:8443"),
    ],
)
def test_our_own_names_are_answered(client: Any, host: str) -> None:
    assert client.get("/api/status", headers={"Host": host}).json()["images"] > 5


def test_two_hosts_are_refused(page_server: PageServer, index: Path) -> None:
    address = page_server(index)
    assert ask_raw(address, "/api/status").status == 200
    answer = ask_raw(address, "/api/status", headers=("Host: evil.example",))
    assert answer.status == 400
    assert ask_raw(address, "/api/status", host="").status == 400
    # A whole address in the first line does not speak for the host.
    assert ask_raw(address, "http://127.0.0.1/api/status", host="evil.example").status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example",
        "null",
        "http://127.0.0.1:9999",  # another program of this machine
        "http://localhost:7860",  # the same, by a name that it was not asked by
        "http://127.0.0.1:7860.evil.example",
        "http://127.0.0.1:7860@evil.example",
        "file://",
        "chrome-extension://abcdefgh",
        "",
    ],
)
def test_another_origin_is_refused(client: Any, origin: str) -> None:
    for method, path in [
        ("GET", "/api/status"),
        ("GET", "/media/thumbnail/0"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/upload"),
        ("OPTIONS", "/api/search"),
        ("DELETE", "/api/search"),
    ]:
        answer = client.request(method, path, headers={"Origin": origin})
        assert _is_plain_refusal(answer, 403)
        assert "access-control-allow-origin" not in answer.headers


def test_our_own_origin_is_answered_and_told_to_nobody(client: Any) -> None:
    for path in ("/config", "/api/status"):
        answer = client.get(path, headers={"Origin": _PAGE})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    proxied = {"Host": "photos.example.org", "Origin": "https://photos.example.org"}
    assert client.get("/api/status", headers=proxied).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_what_a_page_elsewhere_embeds_or_sends_is_refused(client: Any, site: str) -> None:
    embedded = [
        ("GET", "/media/thumbnail/0", "no-cors", "image"),
        ("GET", "/page/page.js", "no-cors", "script"),
        ("GET", "/", "navigate", "iframe"),
        ("GET", "/api/status", "cors", "empty"),
        ("POST", "/gradio_api/queue/join", "navigate", "document"),
        ("POST", "/api/search", "no-cors", "empty"),
    ]
    for method, path, mode, goal in embedded:
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": goal}
        assert _is_plain_refusal(client.request(method, path, headers=headers), 403)
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "X-Gradio-Server", "X-Forwarded-Proto"])
def test_nobody_tells_the_page_where_it_lives(client: Any, name: str) -> None:
    value = "https" if name.endswith("Proto") else "http://evil.example"
    for path in ("/", "/config"):
        told = client.get(path, headers={name: value})
        assert told.status_code == 200
        assert "evil.example" not in told.text
        assert "https://127.0.0.1" not in told.text


def test_every_answer_is_guarded(client: Any) -> None:
    page = client.get("/")
    for path in (
        *("/", "/config", "/theme.css", "/api/status", "/api/search?q=x&limit=x", "/api/nothing"),
        *("/media/thumbnail/0", "/media/thumbnail/999", "/page/page.js", "/page/nothing.js"),
        *("/gradio_api/info", "/gradio_api/file=/etc/hostname", "/nothing", "/favicon.ico"),
    ):
        answer = client.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["cross-origin-resource-policy"] == "same-origin", path
        assert answer.headers["x-frame-options"] == "DENY", path
        rules = answer.headers["content-security-policy"]
        assert "default-src 'none'" in rules, path
        assert "frame-ancestors 'none'" in rules, path
        assert "server" not in answer.headers, path
        if path not in ("/", "/page/page.js", "/page/nothing.js"):
            assert "sandbox" in rules, path
            assert "script-src" not in rules, path
    assert "unsafe-inline" not in page.headers["content-security-policy"].split("style-src")[0]


def test_only_scripts_with_the_nonce_of_this_answer_run(client: Any) -> None:
    first, second = client.get("/"), client.get("/")
    nonces = [
        re.search(r"'nonce-([\w-]{20,})'", answer.headers["content-security-policy"])
        for answer in (first, second)
    ]
    assert nonces[0] is not None
    assert nonces[1] is not None
    assert nonces[0][1] != nonces[1][1]
    scripts = re.findall(r"<script[^>]*>", first.text)
    assert len(scripts) > 3
    assert all(f'nonce="{nonces[0][1]}"' in script for script in scripts)
    assert 'src="page/page.js"' in first.text
    assert client.head("/").status_code == 200


def test_the_page_names_no_address_elsewhere(client: Any) -> None:
    text = client.get("/").text
    named = set(re.findall(r"(?:src|href|content)=\"(https?://[^\"]+)", text))
    assert named == set()


@pytest.mark.parametrize(
    "target",
    [
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "%252e%252e%252fetc%252fpasswd",
        "..%5c..%5cetc%5cpasswd",
        "..\\..\\etc\\passwd",
        "....//....//etc/passwd",
        "%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
        "..;/..;/etc/passwd",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "file:///etc/passwd",
        "/proc/self/environ",
        "..%00/etc/passwd",
        "%00",
        "1%00.jpg",
        "~root/.bashrc",
        "C:%5cwindows%5cwin.ini",
    ],
)
def test_no_route_leaves_its_folder(
    attacked: str,
    index: Path,
    target: str,
) -> None:
    for route in (
        *("/", "/page/", "/media/thumbnail/", "/media/preview/", "/media/original/"),
        *("/api/images/", "/api/search/", "/static/", "/assets/", "/gradio_api/file="),
        *("/gradio_api/file=" + str(index) + "/", "/gradio_api/file/", "/svelte/"),
        *("/gradio_api/custom_component/x/client/", "/gradio_api/proxy=", "/gradio_api/stream/"),
    ):
        answer = ask_raw(attacked, route + target)
        assert 400 <= answer.status < 500, (route, answer.status, answer.text[:200])
        assert "root:" not in answer.text
        assert "PATH=" not in answer.text
        assert "Traceback" not in answer.text
        assert str(index.parent) not in answer.text


@pytest.fixture(scope="module")
def attacked(index: Path) -> Iterator[str]:
    """One server for all probes: none of them may end it."""
    serving = page_server.__wrapped__(pytest.MonkeyPatch())
    yield next(serving)(index)
    next(serving, None)


@pytest.mark.parametrize(
    "forged",
    [
        "-1",
        "999999",
        "1e3",
        "0x1",
        "01x",
        "%31%00",
        "9" * 400,
        "1;2",
        "nan",
        "true",
        "١",
        "1 OR 1=1",
    ],
)
def test_a_forged_id_names_nothing(client: Any, forged: str) -> None:
    for kind in ("thumbnail", "preview", "original"):
        answer = client.get(f"/media/{kind}/{forged}")
        assert 400 <= answer.status_code < 500, (kind, answer.status_code)
        assert _is_plain_refusal(answer, answer.status_code)


def test_a_query_of_5000_letters_is_refused_in_words(client: Any) -> None:
    answer = client.get("/api/search", params={"q": "a " * 2500})
    assert answer.status_code in (400, 413, 414)
    assert "aaaa" not in answer.text.replace(" ", "")
    assert re.search(r"2,?000", answer.json()["error"])
    assert client.get("/api/search", params={"q": "a " * 500}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/docs", "/redoc", "/openapi.json", "/gradio_api/openapi.json", "/monitoring"),
        *(
            "/gradio_api/deep_link",
            "/gradio_api/vibe-code",
            "/gradio_api/runs",
            "/gradio_api/token",
        ),
        *(
            "/gradio_api/dev/reload",
            "/gradio_api/file=http://example.org/a.png",
            "/login",
            "/svelte/x",
        ),
        *("/gradio_api/proxy=http://example.org/", "/gradio_api/mcp/", "/gradio_api/call/x/y"),
        *(
            "/gradio_api/component_server",
            "/gradio_api/custom_component/a/client/b/c",
            "/.git/config",
        ),
    ],
)
def test_what_the_page_does_not_need_is_not_there(client: Any, path: str) -> None:
    for method in ("GET", "POST"):
        answer = client.request(method, path)
        assert answer.status_code in (400, 404), (method, answer.status_code)
        assert answer.json()["error"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{", b"\xff", b'{"data": null}', b"[" * 100_000, b'{"data": [1e999]}'),
        *(b"null", b'{"session_hash": "../../x", "data": []}'),
        b'{"data": ' + b'{"a":' * 80 + b"1" + b"}" * 81,
    ],
)
def test_an_event_that_makes_no_sense_is_refused(client: Any, body: bytes) -> None:
    for path in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 600
        assert set(answer.json()) == {"error", "detail"}
        assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "labels", ["\\ud800", '["\\ud800"]', '["a", "\\udfff b"]', '["\\u0000"]', '[""]', "[]", "5"]
)
def test_what_is_no_letter_anywhere_breaks_no_answer(client: Any, labels: str) -> None:
    said = labels if labels[0] in "[5" else f'"{labels}"'
    answer = client.post("/api/classify", content=f'{{"labels": {said}}}'.encode())
    assert answer.status_code < 500
    assert answer.json()


@pytest.mark.parametrize(
    "body",
    [
        '{"labels": ' + "[" * 900 + "]" * 900 + "}",
        '{"a": ' * 900 + "1" + "}" * 900,
        '{"labels": "a, b", "none": 1' + "0" * 400 + "}",
        '{"labels": "a, b", "none": NaN}',
    ],
    ids=["deep list", "deep object", "large number", "no number"],
)
def test_what_json_can_say_and_no_question_means_is_refused(client: Any, body: str) -> None:
    kind = {"Content-Type": "application/json"}
    answer = client.post("/api/classify", content=body, headers=kind)
    assert (answer.status_code, set(answer.json())) == (400, {"error"})


def test_a_failure_is_told_to_the_operator_alone(
    index: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from starlette.testclient import TestClient

    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_app

    settings = PageSettings()
    app = create_app(Library(index, settings), settings)
    broken = {
        "unforeseen": RuntimeError("token=hunter2 in /home/ann/.netrc"),
        "damaged": IndexFormatError("/srv/photos.index/manifest.json: hunter2"),
        "refused": LabelError("cannot read '/home/ann/my labels.toml' nor /home/ann/x.txt"),
        "system": PermissionError(13, "Permission denied", "/home/ann/hunter2"),
    }

    def fail(kind: str) -> None:
        raise broken[kind]

    app.add_api_route("/api/failing/{kind}", fail)
    app.router.routes.insert(0, app.router.routes.pop())
    client = TestClient(app, base_url=_PAGE, raise_server_exceptions=False)
    for kind in broken:
        answer = client.get(f"/api/failing/{kind}")
        assert answer.status_code == (400 if kind == "refused" else 500)
        assert answer.headers["content-security-policy"]
        for secret in ("hunter2", "/home", "/ann", "/srv", "Traceback", "Error"):
            assert secret not in answer.text, kind
    assert client.get("/api/failing/refused").json() == {
        "error": "cannot read 'my labels.toml' nor x.txt"
    }
    assert "token=hunter2" in caplog.text


def test_what_the_page_is_told_of_itself_names_no_place(client: Any, index: Path) -> None:
    told = [client.get(path).text for path in ("/", "/config", "/gradio_api/info", "/api/status")]
    for text in told:
        for place in (str(index.parent), str(Path(__file__).parents[1]), str(Path.home()), "/tmp/"):
            assert place not in text
    config = client.get("/config").json()
    assert not config["dev_mode"]
    assert not config["analytics_enabled"]
    assert config["root"].rstrip("/") == _PAGE


def test_checks_take_what_they_ask_for_alone() -> None:
    from ui.checks import (
        check_choice,
        check_count,
        check_flag,
        check_ids,
        check_number,
        check_text,
        check_texts,
        only_letters,
    )
    from ui.page_errors import PageError
    from ui.page_settings import PageSettings

    settings = PageSettings(most_text=10)
    assert check_text(None, "q", settings) == ""
    assert check_text("a\0b\ud800c", "q", settings) == "abc"
    assert check_count(3.0, "k", 0, 5) == 3
    assert check_number(2, "w", -5, 5) == 2.0
    assert check_ids([3, 1, 3.0], "ids", 3) == [3, 1]
    assert check_texts(["a", None], "labels", settings, 2) == ["a", ""]
    assert check_flag(True, "fold") is True
    assert only_letters({"a\0": ["\ud800b", {"c": 1, "d": None}]}) == {
        "a": ["b", {"c": 1, "d": None}]
    }
    refused: list[tuple[Any, ...]] = [
        *((check_text, value, "q", settings) for value in (1, ["a"], {"a": 1}, b"a", "x" * 11)),
        *((check_count, value, "k", 0, 5) for value in (True, "3", 2.5, 6, -1, 10**5000, None)),
        *((check_count, value, "k", 0, 5) for value in (float("inf"), float("nan"), [3])),
        *((check_number, value, "w", -5, 5) for value in (float("nan"), float("inf"), "2", True)),
        *((check_number, value, "w", -5, 5) for value in (5.1, 10**400, None, {})),
        *((check_ids, value, "ids", 3) for value in ("123", 5, None, [1, 2, 3, 4], ["1"], [True])),
        *((check_ids, value, "ids", 3) for value in ([-1], [2**63], {1: 2})),
        *((check_texts, value, "l", settings, 2) for value in ("ab", ["a"] * 3, [1], ["x" * 11])),
        *((check_choice, value, "sort", ("date",)) for value in ("", None, ["date"], "Date", 1)),
        *((check_flag, value, "fold") for value in (1, "true", None)),
    ]
    for check, *arguments in refused:
        with pytest.raises(PageError):
            check(*arguments)
