"""What is said of a run when it is over, and of one that would be made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from clipsearch.cli import with_urls
from clipsearch.cli.output import (
    counted,
    display_path,
    for_display,
    human_bytes,
    human_seconds,
    json_line,
    on_terminal,
    write_bytes,
)
from clipsearch.file_kinds import RAW_CURE, RAW_EXTENSIONS
from indexer.report import BuildReport, Difference, Forecast, SpaceFilled

_SHOWN = 5


def say(text: str) -> None:
    """One line for a person, on standard error."""
    click.echo(text, err=True)


def tell_report(report: BuildReport, place: Path) -> None:
    """The account of a run, for a person, on standard error."""
    if report.new:
        rate = report.new / max(report.encode_seconds, 1e-9)
        say(
            f"Indexed {counted(report.new, 'image')} in {human_seconds(report.encode_seconds)} "
            f"({f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'} images/s"
            f"{f'; {report.verdict}' if report.verdict else ''})."
        )
    else:
        say("Nothing new to encode.")
    account = (
        f"Found {counted(report.found, 'file')}: {counted(report.indexed, 'image')} in the index, "
        f"{counted(report.copies, 'copy', 'copies')}, {report.skipped:,} skipped, "
        f"{report.ignored:,} ignored"
    )
    if report.ignored_kinds:
        kinds = sorted(report.ignored_kinds.items(), key=lambda item: -item[1])[:5]
        shown = ", ".join(f"{for_display(kind)} {count:,}" for kind, count in kinds)
        account += f" ({shown}{', ...' if len(report.ignored_kinds) > 5 else ''})"
    say(account + ".")
    _tell_of_raw(report.ignored_kinds)
    if report.moved:
        say(f"{counted(report.moved, 'file')} had moved, which took no encoding.")
    for folder in report.offline:
        say(
            f"{for_display(folder)} is not there now, or empty: its images stay searchable. If it "
            "has another name now: clipsearch move OLD NEW"
        )
    if report.missing:
        say(
            f"{counted(report.missing, 'known file')} not there now: still searchable, "
            "nothing was deleted ('clipsearch prune' forgets them)."
        )
    if report.not_there:
        say(f"{counted(report.not_there, 'listed file')} not there.")
    if report.skipped:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.skip_reasons.items())
        say(f"Skipped: {reasons}.")
        for path, message in report.skipped_examples:
            say(f"  {for_display(path)}: {message}")
        if report.skipped > len(report.skipped_examples):
            more = report.skipped - len(report.skipped_examples)
            say(f"  and {more:,} more: 'clipsearch failures' lists them")
    for part in report.failed:
        say(f"Given up, {for_display(part.text)}")
    if report.given_up:
        say(
            f"{counted(report.given_up, 'image')} of these parts are not in the index: the same "
            "command tries them again."
        )
    for filled in report.spaces:
        tell_filled(filled)
    for folder, why in report.unreadable[:5]:
        say(f"Could not list {for_display(folder)}: {why}")
    if report.new:
        say(f'Next: clipsearch search "a dog on a beach" --index {quoted(place)}')


def tell_filled(filled: SpaceFilled) -> None:
    """What one of the models of an index was used for, on standard error."""
    model = for_display(filled.model)
    if filled.encoded:
        say(
            f"Encoded {counted(filled.encoded, 'known image')} with {model} in "
            f"{human_seconds(filled.seconds)}."
        )
    if filled.lacking:
        why = for_display(filled.why) or "no file that is there now holds them"
        have = "has" if filled.lacking == 1 else "have"
        say(f"{counted(filled.lacking, 'image')} {have} no vector of {model} yet ({why}).")


def _tell_of_raw(ignored_kinds: Mapping[str, int]) -> None:
    """One line about the RAW photos that a run passes over, for want of the extra."""
    raw = {kind: count for kind, count in ignored_kinds.items() if kind in RAW_EXTENSIONS}
    if raw:
        kinds = ", ".join(sorted(raw, key=lambda kind: (-raw[kind], kind))[:_SHOWN])
        photos = sum(raw.values())
        say(
            f"{counted(photos, 'RAW photo')} ({kinds}) {'was' if photos == 1 else 'were'} passed "
            f"over: {RAW_CURE} to index them"
        )


def quoted(place: Path) -> str:
    """A path, short and fit to be pasted into a shell."""
    return shlex.quote(with_urls(display_path(place.absolute())))


def tell_forecast(plan: Forecast) -> None:
    """What a run would do, for a person, on standard error."""
    say(
        f"Would encode {counted(plan.encode, 'image')} ({human_bytes(plan.encode_bytes)}) of "
        f"{counted(plan.found, 'file')}; {plan.unchanged:,} unchanged, {plan.ignored:,} ignored, "
        f"{plan.skipped:,} skipped before."
    )
    _tell_of_raw(plan.ignored_kinds)
    if plan.changes:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(plan.changes.items()))
        say(f"Of these: {counts}.")
    for folder in plan.offline:
        say(f"{for_display(folder)} is not there now, or empty: its images stay searchable.")
    if plan.not_there:
        say(f"{counted(plan.not_there, 'listed file')} not there.")
    for folder, why in plan.unreadable[:_SHOWN]:
        say(f"Could not list {for_display(folder)}: {why}")
    say("Nothing was written: this was a dry run.")


def print_difference(change: Difference, output: str) -> None:
    """One line of a dry run: what would happen to which file."""
    if output == "json":
        document = {"kind": change.kind, "path": change.path}
        if change.before is not None:
            document["before"] = change.before
        write_bytes(json_line(document))
        return
    fields = [change.kind, change.path, *([change.before] if change.before is not None else [])]
    if on_terminal():
        click.echo("  ".join([fields[0].ljust(8), *map(for_display, fields[1:])]))
    else:
        import os

        write_bytes(b"\t".join(map(os.fsencode, fields)) + b"\n")
