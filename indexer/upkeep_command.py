"""``clipsearch prune``, ``move`` and ``compact``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

import click

from clipsearch.cli import FOUND, NOTHING_FOUND
from clipsearch.cli.output import counted, for_display, human_bytes, on_terminal, write_bytes
from clipsearch.cli.places import existing_index, index_option
from clipsearch.errors import OptionError


def _say(text: str) -> None:
    click.echo(text, err=True)


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER...]", type=click.Path())
@index_option
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten; do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
def prune(
    folders: tuple[str, ...], index_path: str | None, dry_run: bool, yes: bool, as_json: bool
) -> int:
    """Forget files that were not there at the last scan, and are not there now.

    Images that no other file holds are found no more; 'clipsearch compact' then frees their
    room. Where a disk may only be unplugged - a folder that was named to be indexed is not there,
    or one that held files is there and empty - they are left alone unless that FOLDER is named.
    No photo is ever touched.
    """
    from indexer.prune import prune as forget

    place = existing_index(index_path)
    plan = forget(place, folders, dry_run=True)
    for folder, count in plan.kept.items():
        _say(
            f"{for_display(folder)} is not there now, or empty: its "
            f"{counted(count, 'missing file')} are kept (name the folder to forget them)."
        )
    for folder, count in plan.gone.items():
        _say(f"{for_display(folder)} is there no more, with {counted(count, 'file')} in it.")
    if plan.back:
        _say(f"{counted(plan.back, 'file')} there again: 'clipsearch index' will note that.")
    if dry_run and not as_json:
        for path in plan.paths:
            if on_terminal():
                click.echo(for_display(str(path)))
            else:
                write_bytes(os.fsencode(path) + b"\n")
    if dry_run or not plan.files:
        what = f"{counted(plan.files, 'missing file')}, {counted(plan.images, 'image')}"
        _say(f"Would forget {what}." if dry_run else "Nothing to forget.")
    else:
        _confirm(f"Forget {plan.files:,} missing files and {plan.images:,} images for good?", yes)
        plan = forget(place, folders)
        _say(f"Forgot {counted(plan.files, 'missing file')} and {counted(plan.images, 'image')}.")
    if as_json:
        document = {**dataclasses.asdict(plan), "paths": [str(path) for path in plan.paths]}
        click.echo(json.dumps(document))
    return FOUND if plan.files else NOTHING_FOUND


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise OptionError("this cannot be undone: say --yes to do it, --dry-run to see what goes")
    click.confirm(question, abort=True, err=True)


@click.command()
@click.argument("old", type=click.Path())
@click.argument("new", type=click.Path())
@index_option
@click.option("--force", is_flag=True, help="Also when files are still in OLD, or few are in NEW.")
def move(old: str, new: str, index_path: str | None, force: bool) -> int:
    """Say that what was in the folder OLD is in NEW now.

    No file is touched and no image is read; only the paths in the index change.

    \b
      clipsearch move /media/old-disk/Pictures /media/new-disk/Pictures
    """
    from indexer.move import move as rebase

    done = rebase(existing_index(index_path), old, new, force=force)
    _say(
        f"{counted(done.files, 'file')} moved in the index; of {done.looked_for:,} looked for, "
        f"{done.there:,} are in {for_display(new)}."
    )
    if done.there < done.looked_for:
        _say("'clipsearch index' will note which of them are missing.")
    return FOUND


@click.command()
@index_option
def compact(index_path: str | None) -> int:
    """Merge small files of the index and let go of deleted images.

    Worth it after many small runs, or after prune. Searching goes on meanwhile.
    """
    from indexer.compact import compact as merge

    done = merge(existing_index(index_path))
    if done.shards_before == done.shards_after and not done.dropped:
        _say("Nothing to merge, nothing deleted.")
        return FOUND
    dropped = f", {counted(done.dropped, 'deleted image')} let go of" if done.dropped else ""
    _say(
        f"Shards: {done.shards_before:,}, now {done.shards_after:,}{dropped}. "
        f"Size: {human_bytes(done.bytes_before)}, now {human_bytes(done.bytes_after)}."
    )
    return FOUND
