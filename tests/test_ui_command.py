"""``clipsearch ui``: what it takes, where it listens, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import OptionError
from tests.conftest import Cli
from tests.raw_http import ask_raw
from ui.page_settings import PageSettings


def _refused(answer: Any, *words: str) -> None:
    assert answer.returncode == 2, answer.stderr
    said = answer.stderr.decode()
    assert said.count("\n") == 1, said
    for word in words:
        assert word in said


def test_a_file_is_no_index(cli_here: Cli, mini_index: Path) -> None:
    answer = cli_here("ui", mini_index / "manifest.json", "--no-browser")
    _refused(answer, "manifest.json is a file", "expected the folder of an index")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_a_login_is_asked_for_off_this_machine(cli_here: Cli, mini_index: Path, host: str) -> None:
    _refused(cli_here("ui", mini_index, "--host", host), "there is no login", "--auth NAME")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--root-path", "https://example.org/photos"), ("--root-path", "/photos")),
        (("--root-path", "/a/../b"), ("--root-path",)),
        (("--root-path", "/a b"), ("--root-path",)),
        (("--trusted-host", "example.org:8443"), ("--trusted-host", "without a port")),
        (("--trusted-host", "*"), ("--trusted-host",)),
        (("--allow-dir", "nothing-here"), ("nothing-here",)),
        (("--port", "65536"), ("--port",)),
        (("--auth-file", "nothing-here"), ("cannot read",)),
        (("--auth", "a:b"), ("--auth", "name")),
        (("--auth", "ann"), ("CLIPSEARCH_UI_PASSWORD",)),
    ],
)
def test_what_it_does_not_take(
    cli_here: Cli, mini_index: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    answer = cli_here("ui", mini_index, *options)
    assert answer.returncode == 2
    for word in words:
        assert word in answer.stderr.decode()
    assert b"Traceback" not in answer.stderr


@pytest.mark.parametrize("password", ["", "short", "x" * 1_025])
def test_a_password_has_a_length(cli_here: Cli, mini_index: Path, password: str) -> None:
    answer = cli_here("ui", mini_index, "--auth", "ann", env={"CLIPSEARCH_UI_PASSWORD": password})
    _refused(answer, "password of at")


def test_what_is_asked_becomes_the_settings(
    cli_here: Cli, mini_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ui.server

    served: list[tuple[PageSettings, str]] = []

    def serve(library: Any, settings: PageSettings, *, listener: Any, ready: Any) -> None:
        listener.close()
        served.append((settings, str(library.path)))
        ready()
        raise KeyboardInterrupt

    shown: list[str] = []
    monkeypatch.setattr(ui.server, "serve", serve)
    monkeypatch.setattr(ui.server, "open_browser", shown.append)
    (tmp_path / "photos").mkdir()
    options = ["--port", "0", "--root-path", "photos/all/", "--trusted-host", "Photos.example.org"]
    options += ["--allow-dir", str(tmp_path / "photos"), "--auth", "ann"]
    answer = cli_here(
        "ui", mini_index, *options, env={"CLIPSEARCH_UI_PASSWORD": "long enough a word"}
    )
    assert answer.returncode == 0, answer.stderr
    ((settings, place),) = served
    assert place == str(mini_index)
    assert settings.root_path == "/photos/all"
    assert settings.trusted_hosts == ("photos.example.org",)
    assert settings.allowed_folders == ((tmp_path / "photos").resolve(),)
    assert settings.accounts[0][0] == "ann"
    assert settings.accounts[0][1].startswith("$argon2id$")
    said = answer.stderr.decode()
    assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d+/photos/all/", shown[0])
    assert f"{shown[0]}  (Ctrl-C stops)" in said
    assert "long enough" not in said
    assert said.endswith("Stopped.\n")
    assert "no login" not in said

    answer = cli_here("ui", mini_index, "--port", "0", "--no-browser", "--root-path", "/photos")
    assert len(shown) == 1
    assert b"There is no login: whoever reaches the proxy" in answer.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_is_taken(cli_here: Cli, mini_index: Path, taken_port: int) -> None:
    answer = cli_here("ui", mini_index, "--port", str(taken_port))
    assert answer.returncode == 2
    assert f"port {taken_port} is taken" in answer.stderr.decode()
    assert b"Traceback" not in answer.stderr


def test_the_next_port_only_where_none_was_asked_for(taken_port: int) -> None:
    from ui.server import listening_socket, page_address

    settings = PageSettings(port=taken_port)
    with listening_socket(settings, may_move=True) as listener:
        found = listener.getsockname()[1]
        assert taken_port < found < taken_port + 20
        assert page_address(settings, found) == f"http://127.0.0.1:{found}/"
    with pytest.raises(OptionError, match="is taken"):
        listening_socket(settings, may_move=False)
    with pytest.raises(OptionError, match="cannot listen on 192\\.0\\.2\\.1"):
        listening_socket(PageSettings(host="192.0.2.1"), may_move=True)
    with pytest.raises(OptionError, match="cannot listen on nothing\\.invalid"):
        listening_socket(PageSettings(host="nothing.invalid"), may_move=True)


def test_no_browser_where_there_is_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    from ui.server import open_browser

    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    open_browser("http://127.0.0.1:1/")
    assert shown == []
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    open_browser("http://127.0.0.1:1/")
    assert shown == ["http://127.0.0.1:1/"]


_SCREENLESS = {"DISPLAY": "", "WAYLAND_DISPLAY": ""}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent in another way there")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_and_ends_cleanly(mini_index: Path, tmp_path: Path, sent: int) -> None:
    (tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from clipsearch.cli import main; main()"),
            *("ui", str(mini_index), "--port", "0", "--auth", "ann"),
        ],
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            **_SCREENLESS,
            "TMPDIR": str(tmp_path / "temporary"),
            "CLIPSEARCH_UI_PASSWORD": "long enough a word",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        },
        text=True,
        # A shell that starts something behind it lets it ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    try:
        assert process.stderr is not None
        said = ""
        while "Ctrl-C stops" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        address = said.split("\n")[-2].split()[0]
        assert ask_raw(address, "/api/status").status == 401
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, address, "ann", "long enough a word")
        opener = urllib.request.build_opener(
            urllib.request.HTTPBasicAuthHandler(manager), urllib.request.ProxyHandler({})
        )
        with opener.open(f"{address}api/status", timeout=20) as answer:
            assert answer.status == 200
        (kept,) = (tmp_path / "temporary").glob("clipsearch-ui-*")
        assert kept.stat().st_mode & 0o077 == 0
        # A page that listens does not hold it.
        listening = opener.open(f"{address}gradio_api/heartbeat/abc", timeout=20)
        started = time.monotonic()
        process.send_signal(sent)
        rest = process.communicate(timeout=60)[1]
        listening.close()
        assert time.monotonic() - started < 30
        assert process.returncode == 0, rest
        assert rest == "Stopped.\n"
        assert not kept.exists()
    finally:
        process.kill()
        process.wait()
