"""``clipsearch ui``: the page in the browser."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path

import click

from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_to_write,
    moved_model_option,
    space_option,
)
from clipsearch.errors import IndexNotFoundError, MissingExtraError, OptionError
from ui.account_options import PASSWORD_VARIABLE, asked_accounts, is_loopback
from ui.page_settings import PageSettings


@click.command()
@click.argument(
    "index_path",
    metavar="[INDEX]",
    required=False,
    envvar="CLIPSEARCH_INDEX",
    type=click.Path(path_type=str),
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Anything but this machine itself needs a login.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="0 takes any that is free. Without it: the next that is free, should this be taken.",
)
@click.option(
    "--auth",
    "auth_names",
    metavar="NAME",
    multiple=True,
    help="Ask for a login by this name; the password is asked for here, or taken from "
    f"{PASSWORD_VARIABLE}.",
)
@click.option(
    "--auth-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The names and hashed passwords of all who may log in. With --auth NAME the name is "
    "added to it, if it is not there.",
)
@click.option(
    "--allow-dir",
    "allowed_folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="A folder that may be indexed from the page, with all below it.",
)
@click.option(
    "--trusted-host",
    "trusted_hosts",
    metavar="NAME",
    multiple=True,
    help="Another name by which browsers reach the page, such as photos.example.org.",
)
@click.option(
    "--root-path",
    default="",
    metavar="PATH",
    help="The path below which a reverse proxy serves the page, such as /photos.",
)
@click.option(
    "--mcp",
    is_flag=True,
    help="Let assistants search over the Model Context Protocol, at gradio_api/mcp/.",
)
@click.option("--browser/--no-browser", default=True, help="Open the page once it is there.")
@moved_model_option
@space_option
@device_option
@click.pass_context
def ui(
    context: click.Context,
    index_path: str | None,
    host: str,
    port: int,
    auth_names: tuple[str, ...],
    auth_file: Path | None,
    allowed_folders: tuple[Path, ...],
    trusted_hosts: tuple[str, ...],
    root_path: str,
    mcp: bool,
    browser: bool,
    model: str | None,
    space: str | None,
    device: str | None,
) -> int:
    """Open a collection in the browser: search it, classify it, look around in it.

    It listens on this machine alone, unless --host says otherwise. Ctrl-C ends it.
    """
    try:
        place = existing_index(index_path)
    except IndexNotFoundError:
        place = index_to_write(index_path)  # where the page can make one
    if place.exists() and not place.is_dir():
        raise OptionError(f"{place} is a file: expected the folder of an index")
    _check_login_asked(host, auth_names, auth_file)
    settings = PageSettings(
        host=host,
        port=port,
        root_path=_checked_root_path(root_path),
        trusted_hosts=tuple(_checked_name(name) for name in trusted_hosts),
        accounts=asked_accounts(auth_names, auth_file),
        allowed_folders=allowed_folders,
        model=model,
        device=device,
        space=space,
        mcp=mcp,
    )
    if mcp and importlib.util.find_spec("mcp") is None:
        raise MissingExtraError("--mcp needs an extra: pip install 'clipsearch[mcp]'")
    given = context.get_parameter_source("port")
    may_move = given is click.core.ParameterSource.DEFAULT
    _warn(settings)
    click.echo("Starting (a few seconds) ...", err=True)
    from ui.library import Library
    from ui.server import listening_socket, open_browser, page_address, serve

    listener = listening_socket(settings, may_move)
    taken = listener.getsockname()[1]
    if taken != port and port:
        click.echo(f"Port {port} is taken: using {taken}.", err=True)
    address = page_address(settings, taken)

    def ready() -> None:
        click.echo(f"{address}  (Ctrl-C stops)", err=True)
        if browser:
            open_browser(address)

    with contextlib.suppress(KeyboardInterrupt):  # the way to end it, and nothing is unfinished
        serve(Library(place, settings), settings, listener=listener, ready=ready)
    click.echo("Stopped.", err=True)
    return 0


def _check_login_asked(host: str, names: tuple[str, ...], file: Path | None) -> None:
    if not is_loopback(host) and not names and file is None:
        raise OptionError(
            f"--host {host or '(all)'} lets others on the network in, and there is no login: add "
            "--auth NAME, or --auth-file FILE"
        )


def _checked_root_path(path: str) -> str:
    trimmed = path.strip("/")
    if not trimmed:
        return ""
    if "://" in path or not re.fullmatch(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*", trimmed):
        raise OptionError(f"--root-path: expected a path such as /photos, got {path!r}")
    if {".", ".."} & set(trimmed.split("/")):
        raise OptionError(f"--root-path: expected a path without dots, got {path!r}")
    return f"/{trimmed}"


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?", name):
        raise OptionError(
            f"--trusted-host: expected a name such as photos.example.org, without a port; "
            f"got {name!r}"
        )
    return name.strip("[]").lower()


def _warn(settings: PageSettings) -> None:
    if not is_loopback(settings.host):
        click.echo(
            "Others on the network can reach this page. What they send is not encrypted: put a "
            "reverse proxy with TLS before it where you do not trust the network.",
            err=True,
        )
    elif (settings.trusted_hosts or settings.root_path) and not settings.accounts:
        click.echo(
            "There is no login: whoever reaches the proxy sees the photos. Add --auth NAME, "
            "unless the proxy asks for a password itself.",
            err=True,
        )
