"""``clipsearch dups``."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.duplicate_output import (
    DUPLICATE_COLUMNS,
    duplicate_document,
    duplicate_rows,
)
from clipsearch.cli.filter_options import filter_from_options, filter_options
from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    format_options,
    human_bytes,
    json_line,
    on_terminal,
    table,
    write_bytes,
)
from clipsearch.cli.places import existing_index, index_option

if TYPE_CHECKING:
    from clipsearch.filter_options import FilterOptions


class Number(click.ParamType[Any]):
    """A number from ``least`` to ``most``, which nan is not."""

    name = "number"

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not self._least <= number <= self._most:
            self.fail(
                f"expected a number from {self._least:g} to {self._most:g}, got {value!r}",
                param,
                ctx,
            )
        return number


@click.command()
@click.option(
    "--kind",
    type=click.Choice(["exact", "near", "copy", "burst"]),
    default="exact",
    show_default=True,
    help="exact: the same bytes. copy: the same picture resized, recompressed, lightly cropped or "
    "edited, or with other tags. burst: shots of one scene, seconds apart. near: copy and burst.",
)
@click.option(
    "--print",
    "printed",
    type=click.Choice(["others", "keep", "all"]),
    help="Print only paths: of all files but the one to keep of each group, of the one to keep, "
    "or of all. In a pipe: others, unless said.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N groups.")
@click.option(
    "--max-bits",
    type=click.IntRange(0, 15),
    default=10,
    show_default=True,
    help="copy: in how many of the 64 bits of their perceptual hashes copies may differ.",
)
@click.option(
    "--min-cosine",
    type=Number(-1, 1),
    default=0.5,
    show_default=True,
    help="copy: how alike the model must find them.",
)
@click.option(
    "--seconds",
    type=Number(0, 86_400),
    default=2.0,
    show_default=True,
    help="burst: the longest time from one shot to the next.",
)
@filter_options
@index_option
@format_options()
def dups(
    kind: str,
    printed: str | None,
    limit: int | None,
    max_bits: int,
    min_cosine: float,
    seconds: float,
    index_path: str | None,
    output: str | None,
    filters: FilterOptions | None,
) -> int:
    """Find duplicates and say which file of each group to keep. Deletes nothing.

    On a terminal the groups are shown, those that free the most bytes first. In a pipe come the
    paths of the files to part with, one a line; never one that is to be kept. Files that have
    changed since they were indexed are left out, and so are a file's further names.

    \b
      clipsearch dups
      clipsearch dups --kind near --in ~/Pictures --json
      clipsearch dups --kind copy -0 | xargs -0 mv --backup=numbered -t ~/parted-with
    """
    from clipsearch.image_index import open_index
    from clipsearch.same_picture import DuplicateSettings

    where = filter_from_options(filters)
    settings = DuplicateSettings(max_bits=max_bits, min_cosine=min_cosine, seconds=seconds)
    found = open_index(existing_index(index_path)).duplicates(kind, settings, where=where)
    if found.changed:
        click.echo(
            f"{counted(found.changed, 'file')} left out: gone or changed since indexed. "
            "'clipsearch index' brings the index up to date.",
            err=True,
        )
    if not found:
        click.echo("No duplicates found.", err=True)
        return NOTHING_FOUND
    groups = found.groups[:limit]
    if output == "json":
        for group in groups:
            write_bytes(json_line(duplicate_document(group)))
    elif output == "csv":
        write_bytes(csv_lines([DUPLICATE_COLUMNS, *duplicate_rows(groups)]))
    elif output == "null" or printed or not on_terminal():
        return _print_paths(groups, printed or "others", b"\0" if output == "null" else b"\n")
    else:
        _print_groups(groups)
    if on_terminal():
        files = sum(len(group.others) for group in groups)
        freed = human_bytes(sum(group.bytes_to_free for group in groups))
        click.echo(
            f"{counted(len(groups), 'group')}: without {counted(files, 'file')} {freed} would be "
            "free. Nothing was deleted.",
            err=True,
        )
    return FOUND


def _print_paths(groups: Any, printed: str, end: bytes) -> int:
    from clipsearch.duplicate_lists import path_list

    found = path_list(groups, printed)
    write_bytes(b"".join(os.fsencode(path) + end for path in found.paths))
    if found.inside:
        click.echo(
            f"{counted(found.inside, 'image')} inside tars, Parquet files or buckets left out: "
            "they cannot be moved by themselves.",
            err=True,
        )
    return FOUND if found.paths else NOTHING_FOUND


_TITLES = {"exact": "the same bytes", "copy": "the same picture", "burst": "a burst"}


def _print_groups(groups: Any) -> None:
    rows = [
        (
            "  keep" if file is group.keep else "",
            f"{file.cosine:.3f}",
            f"{file.width} x {file.height}" if file.width else "",
            human_bytes(file.size),
            display_path(file.path) + ("" if file.movable else "  (cannot be moved by itself)"),
        )
        for group in groups
        for file in group.files
    ]
    # One table, so that the columns of all groups stand below one another.
    lines = iter(table(("", "cosine", "pixels", "size", "file"), rows, " rrr").split("\n"))
    click.echo(next(lines))
    for group in groups:
        click.echo(
            f"{_TITLES[group.kind]}: {counted(len(group.files), 'file')}, "
            f"{human_bytes(group.bytes_to_free)} to free; keep {group.reason}"
        )
        for _ in group.files:
            click.echo(next(lines))
