"""``clipsearch classify``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
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
from clipsearch.errors import LabelError
from clipsearch.image_index import ImageIndex
from clipsearch.records import Classification

_ROWS_AT_ONCE = 8192


@click.command()
@click.option("--labels", metavar="A,B,C", help="The labels, with commas between them.")
@click.option("--labels-file", type=click.Path(path_type=str), help="A file with one label a line.")
@click.option(
    "--templates",
    metavar="NAME",
    default="simple",
    show_default=True,
    help='simple (7 prompts a label), openai (80), none, a file, or one like "a sketch of a {}".',
)
@click.option("--context", help='What the labels are, such as "a type of pet"; helps a little.')
@click.option(
    "--top", type=click.IntRange(min=1), default=1, show_default=True,
    help="How many labels to write for each image.",
)  # fmt: skip
@click.option(
    "--out", "out_path", metavar="FILE", type=click.Path(path_type=str),
    help="Write every image's label to FILE: .parquet, .csv or .json (one object a line).",
)  # fmt: skip
@index_option
@moved_model_option
@device_option
@format_options(null=False)
def classify(
    labels: str | None,
    labels_file: str | None,
    templates: str,
    context: str | None,
    top: int,
    out_path: str | None,
    index_path: str | None,
    model: str | None,
    device: str | None,
    output: str | None,
) -> int:
    """Give every image of the index one label of a set, from stored vectors alone.

    On a terminal a summary comes: label, count, share, best example. In a pipe each image
    comes as path, label and probability with tabs between them.

    \b
      clipsearch classify --labels "dog,cat,bird"
      clipsearch classify --labels-file animals.txt --out animals.parquet
    """
    from clipsearch.cli.result_files import check_out_path, write_result
    from clipsearch.image_index import open_index
    from clipsearch.prompts import parse_labels, read_labels_file

    if (labels is None) == (labels_file is None):
        raise LabelError('give the labels either as --labels "a,b" or with --labels-file FILE')
    out = check_out_path(out_path) if out_path is not None else None
    names = parse_labels(labels) if labels is not None else read_labels_file(labels_file or "")
    opened = open_index(existing_index(index_path), model=model, device=device)
    result = opened.classify(names, templates=templates, context=context, top=top)
    if out is not None:
        write_result(out, result_rows(opened, result), top=result.labels.shape[1])
    if len(names) == 1:
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
    return FOUND if len(result) else NOTHING_FOUND


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
