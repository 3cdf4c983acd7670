"""``clipsearch model add``, ``use`` and ``drop``: several models in one index."""

from __future__ import annotations

import dataclasses
import os
import shlex
from typing import TYPE_CHECKING

import click

from clipsearch.carried_labels import FAILED
from clipsearch.cli import FOUND, INTERRUPTED, PARTIAL, no_more_interrupts, with_urls
from clipsearch.cli.output import counted, for_display, json_line, write_bytes
from clipsearch.cli.places import backend_option, device_option, existing_index, index_option
from clipsearch.cli.settings import offline
from clipsearch.label_set_files import TAG
from indexer.account import say, tell_filled

if TYPE_CHECKING:
    from clipsearch.carried_labels import CarriedSet
    from indexer.model_spaces import ModelUsed


@click.command("add")
@click.argument("name")
@index_option
@device_option
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
def add(
    name: str, index_path: str | None, device: str | None, backend: str | None, as_json: bool
) -> int:
    """Encode the images of an index with the model NAME too; the index answers as before.

    Every image that the index knows and whose file is there gets a second vector, under the id
    it has. It may be interrupted at any time, and goes on from there. Later runs of 'clipsearch
    index' give new images the vectors of both models.

    \b
      clipsearch model add best
      clipsearch search "a red kite" --space best     ask the new one
      clipsearch model use best                       let it answer from now on
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in 'index'
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    from indexer.model_spaces import add_model
    from indexer.progress import TerminalProgress

    place = existing_index(index_path)
    try:
        with TerminalProgress(place) as progress:
            filled = add_model(
                place,
                name,
                device=device,
                backend=backend,
                allow_download=not offline(),
                on_event=progress.hear,
            )
    except KeyboardInterrupt:
        no_more_interrupts()
        again = shlex.join(["clipsearch", "model", "add", name, "--index", with_urls(str(place))])
        say(f"\nInterrupted. Every finished part is saved; go on with:\n  {again}")
        return INTERRUPTED
    if as_json:
        write_bytes(json_line(dataclasses.asdict(filled)))
    if not filled.encoded and not filled.lacking:
        say(f"Every image has a vector of {for_display(filled.model)} already.")
    tell_filled(filled)
    named = shlex.quote(name)
    at = f" --index {shlex.quote(index_path)}" if index_path is not None else ""
    if not filled.lacking:
        say(f'Ask it with --space {named}; "clipsearch model use {named}{at}" moves to it.')
    return PARTIAL if filled.lacking else FOUND


@click.command("use")
@click.argument("name")
@index_option
@click.option("--drop", is_flag=True, help="Remove the vectors of the other models.")
@click.option(
    "--force", is_flag=True,
    help="Also when images have no vector of it; they are not found until they get one.",
)  # fmt: skip
@click.option(
    "--keep-labels", is_flag=True,
    help="Leave the saved label sets as they are; saying it again without this carries them over.",
)  # fmt: skip
@device_option
@click.option("--json", "as_json", is_flag=True, help="Print the account as one JSON object.")
def use(
    name: str,
    index_path: str | None,
    drop: bool,
    force: bool,
    keep_labels: bool,
    device: str | None,
    as_json: bool,
) -> int:
    """Let an index answer with the model NAME, which 'clipsearch model add' has brought in.

    Every saved label set is labelled anew with it, examples and all, and how far both models
    agree is told; 'clipsearch labels SET --undo' takes one back. The vectors of the model that
    answered so far stay, and with them the way back, unless --drop is said.
    """
    from indexer.model_spaces import use_model

    place = existing_index(index_path)
    switched: list[ModelUsed] = []

    def hear(used: ModelUsed) -> None:
        switched.append(used)
        _tell_used(used, "" if index_path is None else f" --index {shlex.quote(index_path)}")

    try:
        used = use_model(
            place, name, force=force, drop=drop, carry=not keep_labels, device=device,
            on_used=hear, on_set=_tell_carried,
        )  # fmt: skip
    except KeyboardInterrupt:
        if not switched:
            raise
        no_more_interrupts()
        again = shlex.join(["clipsearch", "model", "use", name, "--index", with_urls(str(place))])
        say(f"\nInterrupted. The index answers with it; label sets are left:\n  {again}")
        return INTERRUPTED
    if as_json:
        write_bytes(json_line(dataclasses.asdict(used)))
    return PARTIAL if any(carried.outcome == FAILED for carried in used.labels) else FOUND


def _tell_used(used: ModelUsed, at: str) -> None:
    if used.space == used.space_before:
        say(f"The index answers with {for_display(used.model)}, as before.")
    else:
        say(f"The index answers with {for_display(used.model)} now.")
    if used.lacking:
        have = "image has" if used.lacking == 1 else "images have"
        say(f"{used.lacking:,} {have} no vector of it, not found until one is made.")
    for dropped in used.dropped:
        say(f"Dropped the vectors of {for_display(dropped)}.")
    if not used.dropped and used.space != used.space_before:
        before = for_display(shlex.quote(used.before) + at)
        say(
            f"The vectors of {for_display(used.before)} stay: 'clipsearch model drop {before}' "
            f"removes them, 'clipsearch model use {before}' goes back."
        )


def _tell_carried(carried: CarriedSet) -> None:
    told = f"{for_display(carried.name)}: {carried.outcome}"
    if carried.agreement is not None and carried.kind == TAG:
        told += f", {carried.agreement:.1%} of the tags of both are the same"
    elif carried.agreement is not None:
        told += f", {carried.agreement:.1%} of {counted(carried.images, 'image')} as before"
        if carried.kappa is not None:
            told += f" (kappa {carried.kappa:.2f})"
    say(told + (f"; {for_display(carried.why)}" if carried.why else "") + ".")


@click.command("drop")
@click.argument("name")
@index_option
def drop(name: str, index_path: str | None) -> int:
    """Remove the vectors of the model NAME from an index, which answers with another."""
    from indexer.model_spaces import drop_model

    space = drop_model(existing_index(index_path), name)
    say(f"Dropped the vectors of {for_display(space.model)}.")
    return FOUND
