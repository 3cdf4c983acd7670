"""``clipsearch serve``: searches over HTTP, without the page."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from clipsearch.cli.database_options import AskedBackend, search_backend_options
from clipsearch.cli.output import for_display
from clipsearch.cli.places import (
    device_option,
    existing_index,
    moved_model_option,
    space_option,
)
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
@search_backend_options
@serving_options(7870)
@moved_model_option
@space_option
@device_option
@click.pass_context
def serve(
    context: click.Context,
    index_path: str | None,
    backend: AskedBackend,
    host: str,
    port: int,
    auth_names: tuple[str, ...],
    auth_file: Path | None,
    trusted_hosts: tuple[str, ...],
    root_path: str,
    model: str | None,
    space: str | None,
    device: str | None,
) -> int:
    """Answer searches over HTTP, without the page: for programs, and for many at once.

    It offers what only reads: api/status, api/search, api/similar, api/uploads, api/images,
    api/facets and the pictures below media/. It listens on this machine alone, unless --host says
    otherwise. Ctrl-C ends it.

    \b
      clipsearch serve photos.index
      clipsearch serve photos.index --backend milvus --uri http://milvus:19530
      curl 'http://127.0.0.1:7870/api/search?q=two+dogs&limit=5'
    """
    place = existing_index(index_path)
    check_login_asked(host, auth_names, auth_file)
    settings = PageSettings(
        host=host,
        port=port,
        root_path=checked_root_path(root_path),
        trusted_hosts=tuple(checked_name(name) for name in trusted_hosts),
        accounts=asked_accounts(auth_names, auth_file),
        model=model,
        device=device,
        space=space,
    )
    from clipsearch.image_index import open_index
    from ui.library import Library
    from ui.server import create_service, listening_socket, page_address
    from ui.server import serve as serve_until_stopped

    # What is wrong with the index or the database is said now, and not to whoever asks first.
    opened = open_index(place, model=model, device=device, space=space)
    database = backend.database()
    behind = database.behind(opened.state()) if database is not None else None
    if behind is not None:
        click.echo(for_display(behind), err=True)
    given = context.get_parameter_source("port")
    listener = listening_socket(settings, given is click.core.ParameterSource.DEFAULT)
    address = page_address(settings, listener.getsockname()[1])
    if not is_loopback(host):
        click.echo(
            "Others on the network can reach this service. What they send is not encrypted: put a "
            "reverse proxy with TLS before it where you do not trust the network.",
            err=True,
        )

    def ready() -> None:
        click.echo(f"{address}api/search  (Ctrl-C stops)", err=True)

    with contextlib.suppress(KeyboardInterrupt):  # the way to end it, and nothing is unfinished
        serve_until_stopped(
            Library(place, settings, database),
            settings,
            listener=listener,
            ready=ready,
            make=create_service,
        )
    click.echo("Stopped.", err=True)
    return 0
