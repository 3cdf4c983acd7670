"""``clipsearch index``."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from clipsearch.cli import FOUND, INTERRUPTED, PARTIAL
from clipsearch.cli.output import counted, display_path, for_display, human_bytes, human_seconds
from clipsearch.cli.places import device_option, index_option, index_to_write
from clipsearch.cli.settings import offline
from clipsearch.errors import ModelNotChosenError, OptionError
from indexer.report import BuildReport


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=click.Path())
@index_option
@click.option(
    "--model",
    metavar="MODEL",
    envvar="CLIPSEARCH_MODEL",
    help="The model of a new index: a name of 'clipsearch model list', an open_clip "
    "MODEL/PRETRAINED pair, hf-hub:ORG/NAME, or a folder. An index keeps its model.",
)
@device_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per call of the encoder.")
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Pass over names or relative paths like this (*.tmp, private/*). May repeat. Kept for "
    "later runs; --exclude '' takes it back.",
)
@click.option(
    "--decode",
    type=click.Choice(["exact", "fast"]),
    help="exact follows the model's preprocessing to the pixel; fast lets the JPEG decoder scale "
    "down first, quicker on large photos.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    help="Skip larger images before they are decoded.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Threads that read and decode.")
@click.option(
    "--shard-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="About how much work is saved at a time, and so what pulling the plug can cost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the final account as one JSON object.")
@click.pass_context
def index(
    ctx: click.Context,
    /,
    folders: tuple[str, ...],
    index_path: str | None,
    model: str | None,
    device: str | None,
    as_json: bool,
    **settings: Any,
) -> int:
    """Add FOLDERs of images to an index, or bring it up to date.

    Every new image is encoded once. Running it again encodes only what is new or changed, and
    finished work is kept when a run is interrupted.

    \b
      clipsearch index ~/Pictures --index photos.index
    """
    # OpenMP's threads would spin while they wait, and keep the cores from the threads that
    # decode: on two cores that makes a run one and a half times as long, and more.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    from indexer.build import build_index, saved_config
    from indexer.progress import TerminalProgress

    place = index_to_write(index_path)
    given = {name: value for name, value in settings.items() if value not in (None, ())}
    if "exclude" in given:  # an empty pattern takes back what an earlier run saved
        given["exclude"] = tuple(pattern for pattern in given["exclude"] if pattern)
    if "workers" in given:
        given["decode_threads"] = given.pop("workers")
    config = dataclasses.replace(saved_config(place), **given)
    flag = ctx.get_parameter_source("model") == click.core.ParameterSource.COMMANDLINE
    if not flag and (place / "manifest.json").is_file():
        model = None  # a default is for new indexes; this one keeps its model

    def build(named: str | None, allow_download: bool) -> BuildReport:
        with TerminalProgress(place) as progress:
            return build_index(
                folders,
                place,
                encoder=named,
                device=device,
                config=config,
                allow_download=allow_download,
                on_event=progress.hear,
            )

    try:
        try:
            report = build(model, flag and not offline())
        except ModelNotChosenError:
            if not (sys.stdin.isatty() and sys.stderr.isatty()) or offline():
                raise
            model = _ask_for_model()
            report = build(model, True)
    except KeyboardInterrupt:
        click.echo(_interrupted(folders, place, model, given), err=True)
        return INTERRUPTED
    if as_json:
        import json

        click.echo(json.dumps(dataclasses.asdict(report)))
    _tell(report, place)
    return PARTIAL if report.skipped or report.unreadable else FOUND


def _interrupted(
    folders: tuple[str, ...], place: Path, model: str | None, given: dict[str, Any]
) -> str:
    """What to tell when a run was cut short: what is saved, and the command to go on with."""
    words = ["clipsearch", "index", *folders, "--index", str(place)]
    if (place / "manifest.json").is_file():
        saved = "Every finished part is saved and searchable"
    else:
        # Nothing was finished, so the index does not know yet how it was to be built.
        saved = "Nothing was finished yet"
        words += ["--model", model] if model is not None else []
        for name, value in given.items():
            option = "--workers" if name == "decode_threads" else "--" + name.replace("_", "-")
            for one in value if isinstance(value, tuple) else (value,):
                words += [option, str(one)]
    return f"\nInterrupted. {saved}; go on with:\n  {shlex.join(words)}"


def _ask_for_model() -> str:
    from clipsearch.presets import BUILT_IN, RECOMMENDED, find_preset

    preset = find_preset(RECOMMENDED)
    if preset is None:
        raise OptionError(f"the recommended model {RECOMMENDED} is not among the presets")
    click.echo(
        "No model is on this machine yet, and an index keeps the model it was made with.\n"
        f"  1  {preset.model}, recommended; fetches {human_bytes(preset.download_mb * 1e6)} once\n"
        "  2  mini, built in; quick, weak, no network",
        err=True,
    )
    answer = click.prompt("Which one", type=click.Choice(["1", "2"]), default="1", err=True)
    return preset.model if answer == "1" else BUILT_IN


def _tell(report: BuildReport, place: Path) -> None:
    """The account of a run, for a person, on standard error."""

    def say(text: str) -> None:
        click.echo(text, err=True)

    if report.new:
        rate = report.new / max(report.encode_seconds, 1e-9)
        say(
            f"Indexed {counted(report.new, 'image')} in {human_seconds(report.encode_seconds)} "
            f"({f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'} images/s)."
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
    if report.missing:
        say(
            f"{counted(report.missing, 'known file')} not there now: still searchable, "
            "nothing was deleted."
        )
    if report.skipped:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in report.skip_reasons.items())
        say(f"Skipped: {reasons}.")
        for path, message in report.skipped_examples:
            say(f"  {for_display(path)}: {message}")
        if report.skipped > len(report.skipped_examples):
            say(f"  and {report.skipped - len(report.skipped_examples):,} more")
    for folder, why in report.unreadable[:5]:
        say(f"Could not list {for_display(folder)}: {why}")
    if report.new:
        place_text = shlex.quote(display_path(place.absolute()))
        say(f'Next: clipsearch search "a dog on a beach" --index {place_text}')
