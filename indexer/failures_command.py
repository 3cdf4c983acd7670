"""``clipsearch failures``."""

from __future__ import annotations

import os

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import (
    counted,
    csv_lines,
    display_path,
    for_display,
    format_options,
    json_line,
    on_terminal,
    path_fields,
    table,
    write_bytes,
)
from clipsearch.cli.places import device_option, existing_index, index_option
from indexer.failures import Failure, read_failures
from indexer.plan import ALL_REASONS


@click.command()
@index_option
@click.option(
    "--reason",
    "reasons",
    multiple=True,
    type=click.Choice(sorted(ALL_REASONS)),
    help="Only those skipped for this reason. May repeat.",
)
@click.option("--retry", is_flag=True, help="Try them again, changed or not.")
@device_option
@format_options()
def failures(
    index_path: str | None,
    reasons: tuple[str, ...],
    retry: bool,
    device: str | None,
    output: str | None,
) -> int:
    """List the images that were skipped, each with the reason.

    A file that could not be read, or had vanished, is tried again by every 'clipsearch index';
    any other only when it has changed, or with --retry.

    \b
      clipsearch failures --reason truncated -0 | xargs -0 ls -l
    """
    place = existing_index(index_path)
    found = read_failures(place, reasons)
    if retry:
        return _retry(str(place), found, device, output == "json")
    if not found:
        click.echo("No image was skipped.", err=True)
        return NOTHING_FOUND
    _print(found, output or "auto")
    counts = dict.fromkeys(sorted({failure.reason for failure in found}), 0)
    for failure in found:
        counts[failure.reason] += 1
    shown = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    click.echo(f"{counted(len(found), 'image')} skipped: {shown}.", err=True)
    return FOUND


def _retry(place: str, found: list[Failure], device: str | None, as_json: bool) -> int:
    from pathlib import Path

    from indexer.command import IndexRun

    if not found:
        click.echo("No image was skipped: nothing to try again.", err=True)
        return NOTHING_FOUND
    listed = [str(failure.path) for failure in found]
    run = IndexRun(Path(place), (), listed, device=device, as_json=as_json, retry=True)
    return run.carry_out()


def _print(found: list[Failure], output: str) -> None:
    if output == "json":
        for failure in found:
            document = {
                **path_fields(failure.path),
                "reason": failure.reason,
                "message": failure.message,
                "size": failure.size,
                "seen_at": failure.seen_at.isoformat(),
            }
            write_bytes(json_line(document))
    elif output == "csv":
        rows = [(str(f.path), f.reason, f.message, f.size, f.seen_at.isoformat()) for f in found]
        write_bytes(csv_lines([("path", "reason", "message", "size", "seen_at"), *rows]))
    elif output == "null":
        write_bytes(b"".join(os.fsencode(failure.path) + b"\0" for failure in found))
    elif on_terminal():
        shown = [(f.reason, display_path(f.path), for_display(f.message)) for f in found]
        click.echo(table(("reason", "file", "why"), shown))
    else:
        for failure in found:
            fields = (os.fsencode(failure.path), failure.reason.encode(), failure.message.encode())
            write_bytes(b"\t".join(fields) + b"\n")
