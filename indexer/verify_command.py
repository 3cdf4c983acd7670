"""``clipsearch verify``."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import Any

import click

from clipsearch.cli import ERROR as FAILED
from clipsearch.cli import FOUND
from clipsearch.cli.output import (
    counted,
    for_display,
    human_bytes,
    json_line,
    on_terminal,
    table,
    write_bytes,
)
from clipsearch.cli.places import (
    device_option,
    existing_index,
    index_option,
    moved_model_option,
)
from indexer.findings import CACHE, ERROR, NOTE, Finding, Verification


@click.command()
@index_option
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Images drawn at random and encoded again; 0 for none.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Draw the sample of an earlier run.")
@click.option(
    "--repair", is_flag=True, help="Take out what is damaged, and make again what can be made."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, last the summary.")
@device_option
@moved_model_option
def verify(
    index_path: str | None,
    sample: int,
    seed: int | None,
    repair: bool,
    as_json: bool,
    device: str | None,
    model: str | None,
) -> int:
    """Check every byte of an index, its cache, and a sample of the photos.

    Exits with 2 when something is wrong, with the index or only with its cache; each finding
    names its cure. Nothing is written without --repair, and photos are never touched.
    """
    place = existing_index(index_path)
    options: dict[str, Any] = {"sample": sample, "seed": seed, "device": device, "model": model}
    if repair:
        return _repair(place, options, as_json)
    from indexer.verify import verify_index

    with _Bar() as bar:
        found = verify_index(place, **options, on_progress=bar.hear)
    _print(found, as_json)
    if as_json:
        write_bytes(json_line(_summary(found)))
    _tell(found)
    return FOUND if found.is_sound else FAILED


def _repair(place: os.PathLike[str], options: dict[str, Any], as_json: bool) -> int:
    from indexer.repair import repair_index

    with _Bar() as bar:
        done = repair_index(place, **options, on_progress=bar.hear)
    for action in done.actions:
        if as_json:
            write_bytes(json_line({"action": action}))
        else:
            click.echo(for_display(action))
    if not as_json and not done.actions:
        click.echo("Nothing to mend.", err=True)
    _print(done.after, as_json)
    if as_json:
        summary = {"mended": done.is_mended, "next": done.next_command}
        write_bytes(json_line({**_summary(done.after), **summary}))
    elif done.next_command:
        click.echo(f"Next: {for_display(done.next_command)}", err=True)
    return FOUND if done.is_mended else FAILED


class _Bar:
    """Progress on a terminal: bytes read, then images encoded."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def hear(self, what: str, done: int, total: int) -> None:
        """Show how far one part of the work is."""
        if not sys.stderr.isatty():
            return
        if what != self._what:
            from tqdm import tqdm

            self.__exit__()
            is_bytes = what == "bytes"
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            self._bar = tqdm(
                total=total,
                unit="B" if is_bytes else " images",
                unit_scale=is_bytes,
                file=sys.stderr,
                leave=False,
                # A terminal that does not know its width says 0, and would get an empty bar.
                ncols=None if width else 80,
                dynamic_ncols=width > 0,
            )
            self._what = what
        self._bar.update(done - self._bar.n)


def _print(found: Verification, as_json: bool) -> None:
    """The findings on standard output: a table on a terminal, else a line each."""
    order = {ERROR: 0, CACHE: 1, NOTE: 2}
    findings = sorted(found.findings, key=lambda finding: order[finding.severity])
    if as_json:
        for finding in findings:
            write_bytes(json_line(dataclasses.asdict(finding)))
    elif on_terminal():
        if findings:
            rows = [tuple(map(for_display, _fields(finding))) for finding in findings]
            click.echo(table(("", "kind", "file", "what is wrong"), rows))
        for cure in dict.fromkeys(finding.cure for finding in findings if finding.cure):
            click.echo(f"Cure: {for_display(cure)}")
    else:
        for finding in findings:
            click.echo("\t".join(map(for_display, _fields(finding))))


def _fields(finding: Finding) -> tuple[str, str, str, str]:
    return finding.severity, finding.kind, finding.file, finding.message


def _summary(found: Verification) -> dict[str, Any]:
    document = dataclasses.asdict(found)
    del document["findings"]
    counts = {f"{name}s": len(found.of(name)) for name in (ERROR, CACHE, NOTE)}
    return {"summary": True, "sound": found.is_sound, **counts, **document}


def _tell(found: Verification) -> None:
    """The account for a person, on standard error."""

    def say(text: str) -> None:
        click.echo(for_display(text), err=True)

    say(
        f"Read {counted(found.files, 'file')} ({human_bytes(found.bytes)}, {found.rows:,} rows) "
        f"and compared {counted(found.compared, 'cached vector')}."
    )
    if found.lowest_cosine is not None:
        say(
            f"Encoded {counted(found.encoded, 'image')} again: lowest cosine "
            f"{found.lowest_cosine:.4f} (seed {found.seed})."
        )
    if found.not_there or found.changed:
        say(
            f"Of those drawn, {found.not_there:,} were not there or could not be read, "
            f"{found.changed:,} changed since."
        )
    errors, caches = found.of(ERROR), found.of(CACHE)
    if errors:
        say(f"{counted(len(errors), 'thing')} wrong with the index.")
    elif caches:
        say("The index is whole; only its cache is not, which can be made again.")
    else:
        say("All is well.")
    if not on_terminal():  # where they stand below the table
        for cure in dict.fromkeys(finding.cure for finding in (*errors, *caches)):
            say(f"Cure: {cure}")
