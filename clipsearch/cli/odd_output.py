"""Printing the images that a discovery points out: those like no others, and look-alikes."""

from __future__ import annotations

import os

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
from clipsearch.cli.stage_progress import StageProgress
from clipsearch.clusters import Discovery
from clipsearch.image_index import ImageIndex

OUTLIER, ALIKE = "outlier", "alike"


def print_odd_images(index: ImageIndex, discovery: Discovery, output: str) -> int:
    """The outliers, the farthest first, and then the groups of look-alikes; the exit code.

    In a pipe: path, "outlier" or "alike", the number of the group, and the reason.
    """
    from clipsearch.odd_images import odd_images

    images = len(discovery.assignment)
    only = discovery.assignment.ids if discovery.facts.where is not None else None
    with StageProgress() as progress:
        odd = odd_images(
            index.state(), only, on_progress=lambda done: progress("comparing images", done, images)
        )
    notes = [(OUTLIER, note) for note in odd.outlier_notes()]
    notes += [(ALIKE, note) for note in odd.alike_notes()]
    ids = [image_id for _, note in notes for image_id in note.ids]
    places = dict(zip(ids, index.paths().first_places(ids), strict=True))
    rows = []
    for group, (kind, note) in enumerate(notes, start=1):
        for image_id in note.ids:
            place = places[image_id]
            if place is not None:
                rows.append((place.path, image_id, kind, group, note.reason))
    if output == "json":
        for path, image_id, kind, group, reason in rows:
            document = {"id": image_id, **path_fields(path), "kind": kind, "group": group}
            write_bytes(json_line({**document, "reason": reason}))
    elif output == "csv":
        header = ("path", "id", "kind", "group", "reason")
        write_bytes(csv_lines([header, *((str(row[0]), *row[1:]) for row in rows)]))
    elif output == "null":
        write_bytes(b"".join(os.fsencode(row[0]) + b"\0" for row in rows))
    elif not on_terminal():
        for path, _, kind, group, reason in rows:
            write_bytes(os.fsencode(path) + f"\t{kind}\t{group}\t{reason}\n".encode())
    elif rows:
        cells = [(kind, str(group), display_path(path), why) for path, _, kind, group, why in rows]
        click.echo(table(("", "group", "image", "why"), cells, "lr"))
    click.echo(
        f"{counted(len(odd.outliers.images), 'image')} like no others; "
        f"{counted(len(odd.alike), 'group')} of look-alikes.",
        err=True,
    )
    return FOUND if rows else NOTHING_FOUND
