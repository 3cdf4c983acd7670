"""Printing a comparison: tables for a person, lines for a pipe, NDJSON, CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    for_display,
    json_line,
    table,
    write_bytes,
)
from clipsearch.cli.result_columns import COMPARISON_SCHEMA, comparison_batch, label_column
from clipsearch.cli.result_text import ResultText
from clipsearch.image_index import ImageIndex
from clipsearch.label_comparison import Comparison
from clipsearch.label_review import NO_LABEL

_MOST_CHANGES, _MOST_IMAGES = 30, 20
"""Lines on a terminal."""
_ROWS_AT_ONCE = 65_536

Rows = npt.NDArray[np.intp]


def tell_agreement(found: Comparison) -> None:
    """How far they agree, in a sentence or two."""
    a, b = map(for_display, found.names)
    told = [
        f"{a} and {b}: {found.differing:,} of {counted(len(found), 'image')} "
        f"({found.differing / max(1, len(found)):.1%}) are called something else."
    ]
    if found.agreement is not None:
        kappa = "" if found.kappa is None else f", Cohen's kappa {found.kappa:.3f}"
        told.append(f"Agreement {found.agreement:.1%}{kappa}.")
    elif len(found):
        told.append("They have no label in common, so there is no agreement to tell.")
    for name, only in zip((a, b), (found.only_a, found.only_b), strict=True):
        if only:
            told.append(f"Only {name} knows {counted(only, 'other image')}.")
    click.echo(" ".join(told), err=True)


def print_comparison(
    index: ImageIndex, found: Comparison, rows: Rows, show: str, form: str
) -> None:
    """The images in ``rows``, what became of what, or how far they agree.

    form : "json", "csv", or "plain" with tabs between the fields.
    """
    if show == "images":
        text = None if form == "plain" else ResultText(form, COMPARISON_SCHEMA)
        write_bytes(b"" if text is None else text.head)
        for batch in disagreement_batches(index, found, rows):
            write_bytes(_plain(batch) if text is None else text.lines(batch))
        return
    documents = [_summary(found)] if show == "summary" else list(_changes(found, rows))
    if form == "json":
        for document in documents:
            write_bytes(json_line(document))
    elif form == "csv":
        header = list(_summary(found) if show == "summary" else _CHANGE)
        write_bytes(csv_lines([header, *(list(one.values()) for one in documents)]))
    elif show == "summary":
        write_bytes(_lines([[name, value] for name, value in documents[0].items()]))
    else:
        write_bytes(_lines([list(one.values()) for one in documents]))


def print_person(index: ImageIndex, found: Comparison, rows: Rows) -> None:
    """What became of what, and the images that both are sure of."""
    changes = list(_changes(found, rows))
    if not changes:
        return
    a, b = map(for_display, found.names)
    cells = [
        (for_display(one["a"] or NO_LABEL), for_display(one["b"] or NO_LABEL),
         f"{one['images']:,}", f"{one['share']:.1%}")
        for one in changes[:_MOST_CHANGES]
    ]  # fmt: skip
    click.echo(table((a, b, "images", "share"), cells, "llrr"))
    if len(changes) > _MOST_CHANGES:
        click.echo(f"... and {counted(len(changes) - _MOST_CHANGES, 'change')} more")
    shown = rows[:_MOST_IMAGES]
    places = index.paths().first_places(found.ids[shown])
    images = []
    for row, place in zip(shown.tolist(), places, strict=True):
        path = display_path(place.path) if place is not None else ""
        said = [
            for_display(found.label(int(codes[row])) or NO_LABEL) for codes in (found.a, found.b)
        ]
        sure = [_percent(float(one[row])) for one in (found.a_certain, found.b_certain)]
        images.append((path, said[0], sure[0], said[1], sure[1]))
    click.echo("")
    click.echo(table(("image", a, "", b, ""), images, "llrlr"))
    if len(rows) > len(shown):
        left = counted(len(rows) - len(shown), "image")
        click.echo(f"... and {left} more: see --out review.html")


def disagreement_batches(
    index: ImageIndex, found: Comparison, rows: Rows
) -> Iterator[pa.RecordBatch]:
    """Some images of a comparison as ``comparison_batch``es."""
    names, places = label_column(found.labels), index.paths()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        yield comparison_batch(
            found.ids[part],
            (found.a[part], found.b[part]),
            (found.a_certain[part], found.b_certain[part]),
            names,
            places,
        )


_CHANGE = ("a", "b", "images", "share")


def _changes(found: Comparison, rows: Rows) -> Iterator[dict[str, Any]]:
    """What became of the images in ``rows``."""
    kept = {(found.label(a), found.label(b)) for a, b in _pairs(found, rows)}
    for change in found.changes():
        if (change.a, change.b) in kept:
            share = change.images / max(1, len(found))
            yield dict(zip(_CHANGE, (change.a, change.b, change.images, share), strict=True))


def _pairs(found: Comparison, rows: Rows) -> list[tuple[int, int]]:
    pairs = np.unique(np.stack([found.a[rows], found.b[rows]], axis=1), axis=0)
    return [(int(a), int(b)) for a, b in pairs]


def _summary(found: Comparison) -> dict[str, Any]:
    return {
        "a": found.names[0],
        "b": found.names[1],
        "images": len(found),
        "differing": found.differing,
        "agreement": found.agreement,
        "kappa": found.kappa,
        "only_a": found.only_a,
        "only_b": found.only_b,
    }


def _plain(batch: pa.RecordBatch) -> bytes:
    paths = batch.column("path").to_pylist()
    labels = (batch.column(side).to_pylist() for side in ("a", "b"))
    return b"".join(
        b"%s\t%s\t%s\n" % (path or b"", _field(a), _field(b))
        for path, a, b in zip(paths, *labels, strict=True)
    )


def _lines(rows: list[list[Any]]) -> bytes:
    return b"".join(b"\t".join(map(_field, row)) + b"\n" for row in rows)


def _field(value: object) -> bytes:
    """A field between tabs: of white space in it one space."""
    if isinstance(value, float):
        return f"{value:.4f}".encode()
    return " ".join(str("" if value is None else value).split()).encode("utf-8", "replace")


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"
