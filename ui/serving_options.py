"""The options of every command that serves: where it listens, and who is let in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from clipsearch.errors import OptionError
from ui.account_options import PASSWORD_VARIABLE, is_loopback

F = TypeVar("F", bound=Callable[..., Any])


def serving_options(port: int) -> Callable[[F], F]:
    """--host, --port, --auth, --auth-file, --trusted-host and --root-path. port : the usual one."""
    options = [
        click.option(
            "--host", default="127.0.0.1", show_default=True,
            help="Where to listen. Anything but this machine itself needs a login.",
        ),
        click.option(
            "--port", type=click.IntRange(0, 65535), default=port, show_default=True,
            help="0 takes any that is free. Without it: the next that is free, should this be "
            "taken.",
        ),
        click.option(
            "--auth", "auth_names", metavar="NAME", multiple=True,
            help="Ask for a login by this name; the password is asked for here, or taken from "
            f"{PASSWORD_VARIABLE}.",
        ),
        click.option(
            "--auth-file", type=click.Path(path_type=Path, dir_okay=False),
            help="The names and hashed passwords of all who may log in. With --auth NAME the name "
            "is added to it, if it is not there.",
        ),
        click.option(
            "--trusted-host", "trusted_hosts", metavar="NAME", multiple=True,
            help="Another name by which browsers reach the page, such as photos.example.org.",
        ),
        click.option(
            "--root-path", default="", metavar="PATH",
            help="The path below which a reverse proxy serves it, such as /photos.",
        ),
    ]  # fmt: skip

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def check_login_asked(host: str, names: tuple[str, ...], file: Path | None) -> None:
    """OptionError where others on the network would be let in without a login."""
    if not is_loopback(host) and not names and file is None:
        raise OptionError(
            f"--host {host or '(all)'} lets others on the network in, and there is no login: add "
            "--auth NAME, or --auth-file FILE"
        )


def checked_root_path(path: str) -> str:
    """``--root-path`` with a slash before it and none behind; OptionError for what is none."""
    trimmed = path.strip("/")
    if not trimmed:
        return ""
    if "://" in path or not re.fullmatch(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*", trimmed):
        raise OptionError(f"--root-path: expected a path such as /photos, got {path!r}")
    if {".", ".."} & set(trimmed.split("/")):
        raise OptionError(f"--root-path: expected a path without dots, got {path!r}")
    return f"/{trimmed}"


def checked_name(name: str) -> str:
    """``--trusted-host`` as it is compared; OptionError for what is no name."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?", name):
        raise OptionError(
            f"--trusted-host: expected a name such as photos.example.org, without a port; "
            f"got {name!r}"
        )
    return name.strip("[]").lower()
