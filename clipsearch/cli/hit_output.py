"""Printing hits: a table for a person, a path a line for a pipe, NDJSON, CSV, NUL-ended paths."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)
from clipsearch.cutoff import WEAK
from clipsearch.file_kinds import container_of
from clipsearch.records import Hit, Hits

_CSV_COLUMNS = ("id", "path", "score", "cosine", "strength", "taken_at")


def print_hits(hits: Hits, output: str, *, offset: int = 0) -> int:
    """Print one page of hits and return the exit code.

    What stayed below the cut-off is shown on a terminal only, under a line that says so.
    """
    shows = output == "auto" and on_terminal()
    if output == "json":
        for hit in hits:
            write_bytes(json_line(hit_document(hit)))
    elif output == "csv" and hits:
        write_bytes(csv_lines([_CSV_COLUMNS, *(_csv_row(hit) for hit in hits)]))
    elif shows:
        _print_for_person(hits, offset)
    else:
        end = b"\0" if output == "null" else b"\n"
        write_bytes(b"".join(os.fsencode(hit.path) + end for hit in hits))
    if hits:
        return FOUND
    # An empty answer is an answer: nothing on stdout, a word for a person, exit 1.
    if hits.total and offset:
        click.echo(f"There are {counted(hits.total, 'hit')}, and no such page.", err=True)
    elif not hits.below:
        click.echo("Nothing found.", err=True)
    elif not shows:
        click.echo("Nothing above the cut-off; --min-score none shows the closest.", err=True)
    return NOTHING_FOUND


def hit_document(hit: Hit) -> dict[str, Any]:
    """A hit as JSON has it."""
    asked = not math.isnan(hit.score)
    return {
        "id": hit.id,
        **path_fields(hit.path),
        "score": round(hit.score, 6) if asked else None,
        "cosine": round(hit.cosine, 6) if asked else None,
        "strength": hit.strength,
        "taken_at": hit.taken_at.isoformat() if hit.taken_at is not None else None,
        "copies": [path_fields(copy)["path"] for copy in hit.copies],
        "folded": list(hit.folded),
        "missing": hit.missing,
    }


def _csv_row(hit: Hit) -> tuple[object, ...]:
    document = hit_document(hit)
    numbers = {
        name: f"{document[name]:.6f}" for name in ("score", "cosine") if document[name] is not None
    }
    row = {**document, **numbers}
    return tuple("" if row[name] is None else row[name] for name in _CSV_COLUMNS)


def _print_for_person(hits: Hits, offset: int) -> None:
    if hits:
        click.echo(hit_table(hits))
        last = offset + len(hits)
        if hits.total is not None and (hits.total > last or offset):
            click.echo(f"{offset + 1:,} to {last:,} of {counted(hits.total, 'hit')}.", err=True)
        if all(hit.strength == WEAK for hit in hits):
            click.echo("None of them stands out: these are the closest.", err=True)
    if not hits.below or (hits.total and not hits):
        return
    if hits:
        click.echo("Below the cut-off:", err=True)
    else:
        click.echo("Nothing above the cut-off; the closest are shown below.", err=True)
    click.echo(hit_table(hits.below))


def hit_table(hits: Sequence[Hit]) -> str:
    """Hits as an aligned table; columns that nobody fills are left out."""
    columns: list[tuple[str, str, list[str]]] = []
    if any(not math.isnan(hit.score) for hit in hits):
        columns.append(("score", "r", [f"{hit.score:.3f}" for hit in hits]))
    if any(hit.strength for hit in hits):
        columns.append(("match", "l", [hit.strength or "" for hit in hits]))
    if any(hit.taken_at for hit in hits):
        dates = [hit.taken_at.date().isoformat() if hit.taken_at else "" for hit in hits]
        columns.append(("taken", "l", dates))
    columns.append(("image", "l", [display_path(hit.path) + _note(hit) for hit in hits]))
    return table(
        [name for name, _, _ in columns],
        list(zip(*(cells for _, _, cells in columns), strict=True)),
        "".join(side for _, side, _ in columns),
    )


def _note(hit: Hit) -> str:
    notes = []
    if hit.copies:
        notes.append(f"+{counted(len(hit.copies), 'copy', 'copies')}")
    if hit.folded:
        notes.append(f"+{len(hit.folded)} alike")
    if hit.missing or not (os.path.lexists(hit.path) or container_of(hit.path) is not None):
        notes.append("not there now")
    return "".join(f"  ({note})" for note in notes)
