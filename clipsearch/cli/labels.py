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
from clipsearch.errors import ClipsearchError, OptionError
from clipsearch.label_set_saving import delete_label_set
from clipsearch.label_sets import label_set_names, read_label_rows, read_label_set


@click.command()
@click.argument("name", required=False)
@click.option("--forget", is_flag=True, help="Remove the saved label set NAME.")
@index_option
@format_options(null=False)
def labels(name: str | None, forget: bool, index_path: str | None, output: str | None) -> int:
    """List the saved label sets, or the labels of the set NAME and on how many images each is.

    \b
      clipsearch classify --labels "lion,tower" --save-as animals
      clipsearch labels
      clipsearch labels animals
    """
    place = existing_index(index_path)
    if forget:
        if name is None:
            raise OptionError("name the label set to forget")
        delete_label_set(place, name)
        click.echo(f"Forgotten: {for_display(name)}", err=True)
        return FOUND
    header: tuple[str, ...]
    if name is None:
        header, rows = ("name", "kind", "labels", "images", "saved_at"), _sets(place)
        nothing = "No saved label sets: 'clipsearch classify --save-as NAME' makes one."
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
            [f"{cell:,}" if isinstance(cell, int) else for_display(str(cell)) for cell in row]
            for row in rows
        ]
        sides = "".join("r" if isinstance(cell, int) else "l" for cell in rows[0])
        click.echo(table([head.replace("_", " ") for head in header], cells, sides))
    else:
        for row in rows:
            click.echo("\t".join(str(cell) for cell in row))
    return FOUND


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


def _labels(index: Path, name: str) -> list[tuple[object, ...]]:
    found, labelled = read_label_rows(index, name)
    given = labelled.labels[labelled.labels >= 0]
    counts = np.bincount(given, minlength=len(found.labels)).tolist()
    rows: list[tuple[object, ...]] = list(zip(found.labels, counts, strict=True))
    return sorted(rows, key=lambda row: -int(str(row[1])))
