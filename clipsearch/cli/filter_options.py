"""The options that narrow a command down to some of the images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from clipsearch.filter_options import FilterOptions
    from clipsearch.filters import Filter

F = TypeVar("F", bound=Callable[..., Any])

_NAMES = ("since", "until", "folders", "cameras", "near", "box", "min_size", "with_labels", "where")


def _absolute(
    context: click.Context, parameter: click.Parameter, folders: tuple[str, ...]
) -> tuple[str, ...]:
    """A search that is kept means the folder that was meant when it was typed."""
    if not folders:
        return ()
    from clipsearch.filter_fields import absolute_folder

    return tuple(absolute_folder(folder) if folder else folder for folder in folders)


def filter_options(function: F) -> F:
    """Add the filter options to a command, which gets them as one keyword, ``filters``: a
    FilterOptions, or None when none is set."""

    @functools.wraps(function)
    def command(**keywords: Any) -> Any:
        values = {name: keywords.pop(name) for name in _NAMES}
        if all(value in (None, ()) for value in values.values()):
            return function(**keywords, filters=None)  # nothing to import for
        from clipsearch.filter_options import FilterOptions

        return function(**keywords, filters=FilterOptions(**values))

    options = [
        click.option(
            "--since", metavar="DATE",
            help='Taken then or later: 2019, 2019-07-04, "July 2019", yesterday, "3 weeks ago".',
        ),
        click.option(
            "--until", metavar="DATE", help="Taken then or earlier; 2019 includes December."
        ),
        click.option(
            "--in", "folders", metavar="FOLDER", multiple=True, callback=_absolute,
            help="In this folder or below it. Again: in either.",
        ),
        click.option(
            "--camera", "cameras", metavar="NAME", multiple=True,
            help="Make or model has this in it. Again: either.",
        ),
        click.option(
            "--near", metavar="LAT,LON,KM", help="Taken at most so far away, as in 48.85,2.35,5."
        ),
        click.option(
            "--box", metavar="SOUTH,WEST,NORTH,EAST", help="Taken in this box of degrees."
        ),
        click.option(
            "--min-size", metavar="SIZE",
            help="At least 2MP, 1600 (longer side, pixels) or 1600x1200.",
        ),
        click.option(
            "--label", "with_labels", metavar="NAME", multiple=True,
            help="Has this label of a saved set; SET:NAME asks one set. Again: both.",
        ),
        click.option(
            "--where", metavar="EXPR",
            help="Any test, such as: rating >= 4 and not (keyword = work or lens is unknown).",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command  # type: ignore[return-value]


def filter_from_options(
    filters: FilterOptions | None, now: datetime | None = None
) -> Filter | None:
    """The filter that the options stand for; None when none is set. Raises FilterError."""
    return None if filters is None else filters.to_filter(now)
