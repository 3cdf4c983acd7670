"""Printing what an export or an undo did, and the list of records."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli import FOUND, NOTHING_FOUND, PARTIAL
from clipsearch.cli.output import (
    counted,
    display_path,
    for_display,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)

if TYPE_CHECKING:
    from clipsearch.errors import ExportError
    from clipsearch.export_record import ExportRecord
    from clipsearch.export_undo import UndoReport
    from clipsearch.export_writing import ExportReport

_LISTED = 20


def undo_command(record: str, index_path: str | None) -> str:
    """What takes an export back. index_path : the index as it was named, None when it was not."""
    words = ["clipsearch", "export", "--undo", record]
    return shlex.join([*words, "--index", index_path] if index_path is not None else words)


def print_report(
    report: ExportReport, out: Path | None, output: str | None, index_path: str | None = None
) -> None:
    """The files of an export on standard output, what became of it on the other."""
    if output == "json":
        for file in report.files:
            document: dict[str, Any] = path_fields(file.path)
            if file.source is not None:
                document["source"] = path_fields(file.source)["path"]
            document["sha256"] = file.sha256
            if file.keywords:
                document["keywords"] = list(file.keywords)
                document["new"] = file.original is None
            write_bytes(json_line(document))
    elif output == "null" or not on_terminal():
        end = b"\0" if output == "null" else b"\n"
        write_bytes(b"".join(os.fsencode(file.path) + end for file in report.files))
    elif report.dry_run and report.files:
        click.echo(_plan_table(report))
    verb = "Would write" if report.dry_run else "Wrote"
    line = f"{verb} {counted(len(report.files), 'file')}"
    line += f" to {for_display(str(out))}" if out is not None else ""
    if report.already:
        line += f"; {counted(len(report.already), 'photo')} had it already"
    click.echo(f"{line}.", err=True)
    if report.record is not None:
        click.echo(
            f"To take it back: {for_display(undo_command(report.record.stem, index_path))}\n"
            f"Recorded in {for_display(str(report.record.parent))}",
            err=True,
        )


def _plan_table(report: ExportReport) -> str:
    if report.kind == "xmp":
        lines = [
            (
                "add to" if file.original is not None else "make",
                display_path(file.path),
                for_display(", ".join(file.keywords)),
            )
            for file in report.files
        ]
        return table(("", "sidecar", "keywords"), lines)
    return table(
        ("file", "of"),
        [
            (display_path(file.path), display_path(file.source) if file.source else "all hits")
            for file in report.files
        ],
    )


def tell_left_out(left_out: Sequence[tuple[Path, str]]) -> int:
    """Say which photos were left out, and why; returns the exit code."""
    for path, reason in left_out[:_LISTED]:
        click.echo(f"Left out {display_path(path)}: {for_display(reason)}", err=True)
    if len(left_out) > _LISTED:
        click.echo(f"... and {len(left_out) - _LISTED:,} more.", err=True)
    if left_out:
        click.echo(f"{counted(len(left_out), 'photo')} left out.", err=True)
    return PARTIAL if left_out else FOUND


def print_records(
    records: Sequence[ExportRecord],
    output: str | None,
    unreadable: Sequence[tuple[Path, ExportError]] = (),
) -> int:
    """The exports that can be taken back; returns the exit code."""
    for _, error in unreadable:
        click.echo(f"Note: {for_display(str(error))}", err=True)
    if output == "json":
        for record in records:
            document = {
                "record": record.name,
                "kind": record.kind,
                "started_at": record.started_at,
                "files": len(record.files),
                "about": record.about,
                "taken_back_at": record.taken_back_at,
                **path_fields(record.file),
            }
            write_bytes(json_line(document))
    elif on_terminal() and records:
        lines = [
            (
                record.name,
                record.kind,
                f"{len(record.files):,}",
                for_display(record.about),
                "taken back in part" if record.taken_back_at else "",
            )
            for record in records
        ]
        click.echo(table(("record", "kind", "files", "of", ""), lines, "llr"))
    else:
        for record in records:
            click.echo(record.name)
    if not records:
        click.echo("No export to take back.", err=True)
    if unreadable:
        return PARTIAL
    return FOUND if records else NOTHING_FOUND


def print_undo(report: UndoReport, output: str | None) -> int:
    """What an undo did; returns the exit code."""
    dry_run = report.dry_run
    changed = [
        ("removed", report.removed),
        ("restored", report.restored),
        ("cleaned", report.cleaned),
    ]
    end = b"\0" if output == "null" else b"\n"
    for what, paths in changed:
        for path in paths:
            if output == "json":
                write_bytes(json_line({**path_fields(path), "done": what}))
            elif output == "null" or not on_terminal():
                write_bytes(os.fsencode(path) + end)
            elif dry_run:
                click.echo(f"{what}  {display_path(path)}")
    done = [
        (report.removed, "remove", "removed", "file", ""),
        (report.restored, "restore", "restored", "sidecar", " to what it was"),
        (report.cleaned, "clean", "cleaned", "sidecar", " that were changed since"),
        (report.gone, "pass over", "passed over", "file", " with nothing of it any more"),
    ]
    parts = [
        f"{would if dry_run else did} {counted(len(paths), noun)}{note}"
        for paths, would, did, noun, note in done
        if paths
    ]
    line = f"{report.record}: {'would ' if dry_run else ''}{', '.join(parts) or 'nothing to do'}"
    click.echo(f"{line}.", err=True)
    for path, reason in report.left[:_LISTED]:
        click.echo(f"Left alone {display_path(path)}: {for_display(reason)}", err=True)
    if len(report.left) > _LISTED:
        click.echo(f"... and {len(report.left) - _LISTED:,} more.", err=True)
    if report.left and not dry_run:
        click.echo(f"The record {report.record} is kept for them.", err=True)
    return PARTIAL if report.left else FOUND
