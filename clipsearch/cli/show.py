"""Showing hits: pictures on the terminal, and files in the system's viewer."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from clipsearch.cli.output import counted, display_path, on_terminal
from clipsearch.errors import MissingExtraError, OptionError
from clipsearch.file_kinds import container_of
from clipsearch.image_index import ImageIndex
from clipsearch.records import Hit, Hits
from clipsearch.remote_urls import is_remote

F = TypeVar("F", bound=Callable[..., Any])

_MOST_OPENED = 20
_PREVIEW_WIDTH = 32  # cells


def show_options(function: F) -> F:
    """--open and --preview, handed on as ``opens`` and ``preview``."""
    function = click.option(
        "--preview", is_flag=True, help="Show small pictures on the terminal.",
    )(function)  # fmt: skip
    return click.option(
        "--open", "opens", is_flag=True,
        help="Open the best hit in the system's viewer; with -k, as many.",
    )(function)  # fmt: skip


def show_hits(opened: ImageIndex, hits: Hits, *, opens: bool, preview: bool) -> None:
    """Do what the options of ``show_options`` ask for."""
    if preview:
        preview_hits(opened, hits.hits or hits.below)
    if opens:
        open_hits(hits.hits)


def check_preview() -> None:
    """Refuse a preview before anything is printed.

    Raises MissingExtraError where the extra is not installed, OptionError for no terminal.
    """
    if not (on_terminal() and sys.stdin.isatty()):
        raise OptionError("--preview asks a terminal what it can draw: run it without pipes")
    if importlib.util.find_spec("textual_image") is None:
        raise MissingExtraError("--preview needs an extra: pip install 'clipsearch[preview]'")


def preview_hits(opened: ImageIndex, hits: tuple[Hit, ...]) -> None:
    """Draw the thumbnails of hits on the terminal, by the best way it knows.

    Raises OptionError for a terminal that cannot show them.
    """
    # It tells of every question that the terminal leaves open.
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)
    from PIL import Image
    from rich.console import Console
    from textual_image.renderable import Image as TerminalImage

    console = Console(file=sys.stdout)
    for hit in hits:
        data = opened.thumbnail(hit.id)
        if data is None:
            continue
        try:
            console.print(TerminalImage(Image.open(io.BytesIO(data)), width=_PREVIEW_WIDTH))
        except (ArithmeticError, ValueError, OSError) as error:  # a terminal without a size
            raise OptionError(f"this terminal cannot show pictures ({error})") from error
        click.echo(display_path(hit.path))


def open_hits(hits: tuple[Hit, ...]) -> None:
    """Open the files of hits with the program the system has for them."""
    there = [hit for hit in hits if os.path.lexists(hit.path)]
    for hit in hits:
        if is_remote(hit.path):
            click.echo(
                f"{display_path(hit.path)} is in object storage: --preview shows it.", err=True
            )
        elif hit not in there and container_of(hit.path) is not None:
            click.echo(f"{display_path(hit.path)} is inside a file: it cannot be opened.", err=True)
        elif hit not in there:
            click.echo(f"{display_path(hit.path)} is not there now.", err=True)
    for hit in there[:_MOST_OPENED]:
        if click.launch(str(hit.path)) != 0:
            raise OptionError(
                f"this system has no program to open {display_path(hit.path)} with: take the "
                "path instead"
            )
    if len(there) > _MOST_OPENED:
        click.echo(f"Opened the first {_MOST_OPENED} of {counted(len(there), 'hit')}.", err=True)
