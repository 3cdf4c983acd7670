"""``clipsearch classify``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.filter_options import filter_from_options, filter_options
from clipsearch.cli.label_options import asked_labels, label_options
from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    for_display,
    format_options,
    human_seconds,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
)
from clipsearch.errors import OptionError
from clipsearch.image_index import ImageIndex
from clipsearch.records import Classification

if TYPE_CHECKING:
    from clipsearch.filter_options import FilterOptions

_ROWS_AT_ONCE = 8192


@click.command()
@label_options
@click.option(
    "--top", type=click.IntRange(min=1), default=1, show_default=True,
    help="How many labels to write for each image.",
)  # fmt: skip
@click.option(
    "--out", "out_path", metavar="FILE", type=click.Path(path_type=str),
    help="Write every image's label to FILE: .parquet, .csv or .json (one object a line).",
)  # fmt: skip
@filter_options
@index_option
@moved_model_option
@device_option
@format_options(null=False)
def classify(
    labels: str | None,
    labels_file: str | None,
    templates: str | None,
    context: str | None,
    save_as: str | None,
    top: int,
    out_path: str | None,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
    filters: FilterOptions | None,
) -> int:
    """Give every image of the index one label of a set, from stored vectors alone.

    On a terminal a summary comes: label, count, share, best example. In a pipe each image
    comes as path, label and probability with tabs between them.

    \b
      clipsearch classify --labels "dog,cat,bird"
      clipsearch classify --labels-file animals.txt --out animals.parquet --save-as animals
      clipsearch classify --labels @animals --since 2024 --in ~/Pictures
    """
    from clipsearch.cli.result_files import check_out_path, write_result
    from clipsearch.image_index import open_index
    from clipsearch.label_set_files import check_name
    from clipsearch.label_set_saving import save_classification

    place = existing_index(index_path)
    out = check_out_path(out_path) if out_path is not None else None
    name = check_name(save_as) if save_as is not None else None
    where = filter_from_options(filters)
    if where is not None and name is not None:
        raise OptionError("a saved label set is of every image: leave out --save-as or the filter")
    asked = asked_labels(place, labels, labels_file, templates, context)
    opened = open_index(place, model=model, device=device)
    result = opened.classify(
        asked.names,
        templates=asked.templates,
        context=asked.context,
        top=top,
        where=where,
    )
    if name is not None:
        state = opened.state()
        try:
            save_classification(place, state, name, result, asked.templates, asked.context)
        except PermissionError:
            raise OptionError(
                f"no permission to save a label set in the index at {place}"
            ) from None
    if out is not None:
        write_result(out, result_rows(opened, result), result_columns(result))
    if len(asked.names) == 1:
        click.echo("Note: with a single label every image gets it, with probability 1.", err=True)
    if output == "json":
        for row in result_rows(opened, result):
            write_bytes(json_line({**path_fields(Path(row.pop("path"))), **row}))
    elif output == "csv":
        _write_csv(opened, result)
    elif out is not None or on_terminal():
        click.echo(_summary(opened, result))
    else:
        for row in result_rows(opened, result):
            line = f"\t{row['label']}\t{row['probability']:.4f}\n"
            write_bytes(os.fsencode(row["path"]) + line.encode())
    _tell_speed(result, out)
    if name is not None:
        click.echo(f"Saved as {name}: {counted(len(result), 'image')}.", err=True)
    return FOUND if len(result) else NOTHING_FOUND


def result_columns(result: Classification) -> list[str]:
    """The columns of ``result_rows``."""
    rank = ["rank"] if result.labels.shape[1] > 1 else []
    return ["id", "path", *rank, "label", "score", "probability", "margin", "runner_up"]


def result_rows(opened: ImageIndex, result: Classification) -> Iterator[dict[str, Any]]:
    """A row per image, or with ``top`` above 1 per image and rank, in order of id."""
    top = result.labels.shape[1]
    names = result.label_names
    for start in range(0, len(result), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(result))
        places = opened.paths().first_places(result.ids[start:stop])
        for row, place in zip(range(start, stop), places, strict=True):
            runner_up = int(result.runners_up[row])
            margin = float(result.margins[row])
            for rank in range(top):
                yield {
                    "id": int(result.ids[row]),
                    "path": str(place.path) if place is not None else "",
                    **({"rank": rank + 1} if top > 1 else {}),
                    "label": names[result.labels[row, rank]],
                    "score": round(float(result.scores[row, rank]), 6),
                    "probability": round(float(result.probabilities[row, rank]), 6),
                    "margin": None if math.isnan(margin) else round(margin, 6),
                    "runner_up": names[runner_up] if runner_up >= 0 else None,
                }


def _write_csv(opened: ImageIndex, result: Classification) -> None:
    header_written = False
    for row in result_rows(opened, result):
        row["path"] = path_fields(Path(row["path"]))["path"]
        if not header_written:
            write_bytes(csv_lines([list(row)]))
            header_written = True
        write_bytes(csv_lines([list(row.values())]))


def _summary(opened: ImageIndex, result: Classification) -> str:
    rows = []
    for line in result.summary():
        example = ""
        if line.example_id is not None:
            place = opened.paths().first_places([line.example_id])[0]
            example = display_path(place.path) if place is not None else ""
        rows.append((for_display(line.label), f"{line.count:,}", f"{line.share:.1%}", example))
    return table(("label", "images", "share", "best example"), rows, " rr")


def _tell_speed(result: Classification, out: Path | None) -> None:
    rate = len(result) / max(result.seconds, 1e-9)
    texts = result.texts_encoded + result.texts_cached
    click.echo(
        f"Scored {counted(len(result), 'image')} against "
        f"{counted(len(result.label_names), 'label')} in {human_seconds(result.seconds)} "
        f"({rate:,.0f} images/s); no image was opened. "
        f"Of {counted(texts, 'prompt')} {result.texts_cached:,} were remembered.",
        err=True,
    )
    if out is not None:
        click.echo(f"Wrote {out}", err=True)
