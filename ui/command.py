"""``clipsearch ui``: the page in the browser."""

from __future__ import annotations

import contextlib
import importlib.util
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
from ui.account_options import asked_accounts, is_loopback
from ui.page_settings import PageSettings
from ui.serving_options import (
    check_login_asked,
    checked_name,
    checked_root_path,
    serving_options,
)


@click.command()
@click.argument(
    "index_path",
    metavar="[INDEX]",
    required=False,
    envvar="CLIPSEARCH_INDEX",
    type=click.Path(path_type=str),
)
@serving_options(7860)
@click.option(
    "--allow-dir",
    "allowed_folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    help="A folder that may be indexed from the page, with all below it.",
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
    check_login_asked(host, auth_names, auth_file)
    settings = PageSettings(
        host=host,
        port=port,
        root_path=checked_root_path(root_path),
        trusted_hosts=tuple(checked_name(name) for name in trusted_hosts),
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
