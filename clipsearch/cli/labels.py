"""``clipsearch labels``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import (
    csv_lines,
    for_display,
    format_options,
    json_line,
    on_terminal,
    table,
    write_bytes,
)
from clipsearch.cli.places import existing_index, index_option
from clipsearch.cli.saving import saving_allowed
from clipsearch.errors import ClipsearchError, IndexFormatError, OptionError
from clipsearch.label_history import (
    go_to_version,
    label_set_versions,
    read_version_rows,
    split_version,
    undo_label_set,
)
from clipsearch.label_set_files import LabelSet
from clipsearch.label_set_saving import delete_label_set
from clipsearch.label_sets import label_set_names, read_label_rows, read_label_set


@click.command()
@click.argument("name", required=False)
@click.option(
    "--versions", is_flag=True,
    help="List the versions of the set NAME that are kept: it and up to five before it.",
)  # fmt: skip
@click.option(
    "--undo", is_flag=True,
    help="Let the set NAME be what it was before it was last saved or taught; may be done again.",
)  # fmt: skip
@click.option(
    "--restore", metavar="VERSION", type=click.IntRange(min=1),
    help="Let the set NAME be what it was as this version; until it is saved again also one that "
    "was undone.",
)  # fmt: skip
@click.option(
    "--forget", is_flag=True, help="Remove the saved label set NAME, with all its versions."
)
@index_option
@format_options(null=False)
def labels(
    name: str | None,
    versions: bool,
    undo: bool,
    restore: int | None,
    forget: bool,
    index_path: str | None,
    output: str | None,
) -> int:
    """List the saved label sets, or the labels of the set NAME and on how many images each is.

    NAME@3 is its version 3.

    \b
      clipsearch classify --labels "lion,tower" --save-as animals
      clipsearch labels
      clipsearch labels animals
      clipsearch labels animals --undo
    """
    place = existing_index(index_path)
    if sum((versions, undo, restore is not None, forget)) > 1:
        raise OptionError("--versions, --undo, --restore and --forget go one at a time")
    if name is None and (versions or undo or restore is not None or forget):
        raise OptionError("name a label set: 'clipsearch labels' lists them")
    if forget:
        assert name is not None
        delete_label_set(place, name)
        click.echo(f"Forgotten: {for_display(name)}", err=True)
        return FOUND
    if name is not None and (undo or restore is not None):
        return go_back(place, name, restore)
    header: tuple[str, ...]
    if name is None:
        header, rows = ("name", "kind", "labels", "images", "saved_at"), _sets(place)
        nothing = "No saved label sets: 'clipsearch classify --save-as NAME' makes one."
    elif versions:
        header = ("version", "labels", "images", "examples", "saved_at", "now")
        rows = _versions(place, name)
        nothing = ""
    else:
        header, rows = ("label", "images"), _labels(place, name)
        nothing = f"{name} holds no labels."
    if not rows:
        click.echo(for_display(nothing), err=True)
        return NOTHING_FOUND
    if output == "json":
        for row in rows:
            write_bytes(json_line(dict(zip(header, row, strict=True))))
    elif output == "csv":
        write_bytes(csv_lines([header, *rows]))
    elif on_terminal():
        cells = [
            [f"{cell:,}" if isinstance(cell, int) else for_display(_text(cell)) for cell in row]
            for row in rows
        ]
        sides = "".join("r" if isinstance(cell, int) else "l" for cell in rows[0])
        click.echo(table([head.replace("_", " ") for head in header], cells, sides))
    else:
        for row in rows:
            click.echo("\t".join(map(_text, row)))
    return FOUND


def _text(cell: object) -> str:
    return "(none of these)" if cell is None else str(cell)


def _sets(index: Path) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name in label_set_names(index):
        try:
            found = read_label_set(index, name)
            _, labelled = read_label_rows(index, name)
        except ClipsearchError as error:  # one that is damaged hides none of the others
            click.echo(f"{for_display(name)}: {for_display(str(error))}", err=True)
            continue
        images = len(np.unique(labelled.ids[labelled.labels >= 0]))
        rows.append((found.name, found.kind, len(found.labels), images, found.saved_at))
    return rows


def go_back(index: Path, name: str, version: int | None) -> int:
    """Go back to ``version``, or to the one before, and say so."""
    with saving_allowed(index):
        if version is None:
            left, found = undo_label_set(index, name)
        else:
            left = _readable(index, name)
            found = go_to_version(index, name, version)
    told = f"{found.name} is version {found.version} again, of {found.saved_at}."
    if left is not None and left.version != found.version:
        told += (
            f" Version {left.version} is kept until it is saved again: "
            f"'clipsearch labels {found.name} --restore {left.version}'."
        )
    click.echo(for_display(told), err=True)
    return FOUND


def _readable(index: Path, name: str) -> LabelSet | None:
    try:
        return read_label_set(index, name)
    except IndexFormatError:  # damaged: that is what one may go back from
        return None


def _versions(index: Path, name: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for version in label_set_versions(index, name):
        one = version.label_set
        try:
            _, labelled = read_version_rows(index, one.name, version.number)
        except ClipsearchError as error:
            click.echo(f"{for_display(str(error))}", err=True)
            continue
        images = len(np.unique(labelled.ids[labelled.labels >= 0]))
        examples = 0 if one.teaching is None else one.teaching.rows
        now = "*" if version.is_current else ""
        rows.append((version.number, len(one.labels), images, examples, one.saved_at, now))
    return rows


def _labels(index: Path, name: str) -> list[tuple[object, ...]]:
    name, version = split_version(name)
    if version is None:
        found, labelled = read_label_rows(index, name)
    else:
        found, labelled = read_version_rows(index, name, version)
    given = labelled.labels[labelled.labels >= 0]
    counts = np.bincount(given, minlength=len(found.labels)).tolist()
    rows: list[tuple[object, ...]] = list(zip(found.labels, counts, strict=True))
    rows.sort(key=lambda row: -int(str(row[1])))
    without = len(labelled.labels) - len(given)
    return [*rows, (None, without)] if without else rows
