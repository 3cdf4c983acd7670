"""``clipsearch index``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipsearch.cli import FOUND, INTERRUPTED, NOTHING_FOUND, PARTIAL, no_more_interrupts, with_urls
from clipsearch.cli.model_choice import ask_for_model, can_ask
from clipsearch.cli.output import json_line, write_bytes
from clipsearch.cli.places import backend_option, devices_option, index_option, index_to_write
from clipsearch.cli.ray_options import ray_choice, ray_options
from clipsearch.cli.settings import offline
from clipsearch.errors import ModelNotChosenError
from clipsearch.heap import keep_freed_memory
from clipsearch.remote_urls import is_remote
from indexer.report import BuildReport, Event, Finished

if TYPE_CHECKING:
    from clipsearch.ray_choice import RayChoice
    from indexer.runner import Runner


@click.command()
@click.argument("sources", nargs=-1, metavar="[FOLDER...]", type=click.Path())
@index_option
@click.option(
    "--model",
    metavar="MODEL",
    envvar="CLIPSEARCH_MODEL",
    help="The model of a new index: a name of 'clipsearch model list', an open_clip "
    "MODEL/PRETRAINED pair, hf-hub:ORG/NAME, or a folder. An index keeps its model; 'clipsearch "
    "model add' brings in another one.",
)
@devices_option
@backend_option
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Let torch compile the image tower, which takes a minute or more before it is faster: for "
    "long runs, above all on a GPU. For this run alone.",
)
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
    help="fast lets the JPEG decoder scale large photos down first; exact follows the model's "
    "preprocessing to the pixel and takes three times as long on camera photos. A new index: fast. "
    "Kept for later runs.",
)
@click.option(
    "--max-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    help="Skip larger images before they are decoded.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that read and decode.")
@click.option(
    "--shard-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="About how much work is saved at a time, and so what pulling the plug can cost.",
)
@click.option(
    "--decode-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Give up on an image that takes longer to decode (60).",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, file by file; do nothing.")
@click.option("--watch", is_flag=True, help="Stay, and index what changes as it changes.")
@click.option("--json", "as_json", is_flag=True, help="Print the final account as one JSON object.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "json"]),
    default="auto",
    help="auto draws a bar on a terminal; json tells another program how far it is, a JSON object "
    "a line on standard error.",
)
@ray_options
@click.pass_context
def index(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    index_path: str | None,
    model: str | None,
    device: str | None,
    dry_run: bool,
    watch: bool,
    as_json: bool,
    progress: str,
    compiled: bool,
    runner: str,
    address: str | None,
    ray_actors: int | None,
    ray_cpus: float | None,
    ray_gpus: float | None,
    **settings: Any,
) -> int:
    """Add FOLDERs of images to an index, or bring it up to date.

    Every new image is encoded once. Running it again encodes only what is new or changed, and
    finished work is kept when a run is interrupted. Without a FOLDER, those that the index knows
    are looked at again. Single images may be named too, and - reads a list of them from standard
    input, a line (or a NUL) after each. A .tar of images (as of webdataset, not compressed) or a
    .parquet with a column of them is looked into where it is named, and nothing is unpacked.
    A FOLDER may be in object storage, s3://BUCKET/FOLDER (or gs://, az://).

    \b
      clipsearch index ~/Pictures --index photos.index
      clipsearch index                                   the same folders again
      clipsearch index shards/*.tar data.parquet
      clipsearch index s3://my-bucket/photos --index photos.index
      find ~/Pictures -newer x -print0 | clipsearch index -
    """
    place = index_to_write(index_path)
    listed = _listed() if "-" in sources else None
    sources = tuple(source for source in sources if source != "-")
    if not sources and listed is None and not (place / "manifest.json").is_file():
        raise click.UsageError("name a FOLDER of images: there is no index yet that knows one")
    if listed == [] and not sources:
        click.echo("The list on standard input is empty: nothing to do.", err=True)
        return NOTHING_FOUND
    ray = ray_choice(ctx, runner, address, ray_actors, ray_cpus, ray_gpus)
    if ray is not None:
        _refuse_with_ray(device, watch)
    flag = ctx.get_parameter_source("model") == click.core.ParameterSource.COMMANDLINE
    run = IndexRun(
        place,
        sources,
        listed or [],
        model,
        flag,
        device,
        settings,
        as_json,
        progress_lines=progress == "json",
        compiled=compiled,
        ray=ray,
    )
    if dry_run and watch:
        raise click.UsageError("--dry-run looks once, --watch stays: say one of them")
    if dry_run:
        return run.preview()
    if watch:
        if listed is not None:
            raise click.UsageError("--watch looks at folders, not at a list of files")
        if sources and all(map(is_remote, sources)):
            from indexer.watch import NOT_WATCHED

            raise click.UsageError(NOT_WATCHED)
        return run.watch()
    return run.carry_out()


def _refuse_with_ray(device: str | None, watch: bool) -> None:
    if watch:
        raise click.UsageError("--watch stays on this machine: leave --runner ray out")
    if device is not None and (device == "all" or "," in device):
        raise click.UsageError("--runner ray spreads the work by itself: --ray-gpus 1, no --device")


def _listed() -> list[str]:
    """The file names on standard input, which may hold any bytes but the one between them."""
    data = sys.stdin.buffer.read()
    names = data.split(b"\0" if b"\0" in data else b"\n")
    return [os.fsdecode(name.removesuffix(b"\r")) for name in names if name.strip()]


class IndexRun:
    """One call of ``index``: what was asked for, and how it is told."""

    def __init__(
        self,
        place: Path,
        sources: tuple[str, ...],
        listed: list[str],
        model: str | None = None,
        model_is_flag: bool = False,
        device: str | None = None,
        settings: dict[str, Any] | None = None,
        as_json: bool = False,
        retry: bool = False,
        progress_lines: bool = False,
        compiled: bool = False,
        ray: RayChoice | None = None,
    ) -> None:
        # OpenMP's threads would spin while they wait, and keep the cores from the threads that
        # decode: on two cores that makes a run one and a half times as long, and more.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("KMP_BLOCKTIME", "0")
        from indexer.build import saved_config

        given = {k: value for k, value in (settings or {}).items() if value not in (None, ())}
        if "exclude" in given:  # an empty pattern takes back what an earlier run saved
            given["exclude"] = tuple(pattern for pattern in given["exclude"] if pattern)
        if "workers" in given:
            given["decode_threads"] = given.pop("workers")
        self._place = place
        self._sources = sources
        self._listed = listed
        self._config = dataclasses.replace(saved_config(place), **given)
        self._given = given
        # A default is for new indexes; one that is there keeps its model.
        is_default = not model_is_flag and (place / "manifest.json").is_file()
        self._model = None if is_default else model
        self._may_fetch = model_is_flag and not offline()
        self._device = device
        self._as_json = as_json
        self._retry = retry
        self._progress_lines = progress_lines
        self._compiled = compiled
        self._ray = ray
        self._exit_code: int | None = None  # of a run that has finished

    def build(
        self,
        sources: tuple[str, ...] | None = None,
        when_finished: Callable[[BuildReport], object] | None = None,
    ) -> BuildReport:
        """Index, once. ``sources`` in place of those that were asked for. ``when_finished``
        hears the report as soon as the index is as it should be."""
        from indexer.build import build_index
        from indexer.progress import TerminalProgress
        from indexer.progress_lines import ProgressLines

        keep_freed_memory()
        with ProgressLines() if self._progress_lines else TerminalProgress(self._place) as progress:

            def hear(event: Event) -> None:
                progress.hear(event)
                if isinstance(event, Finished) and when_finished is not None:
                    when_finished(event.report)

            with self._runner(hear) as runner:
                return build_index(
                    self._sources if sources is None else sources,
                    self._place,
                    listed=self._listed,
                    retry=self._retry,
                    encoder=self._model,
                    device=self._device,
                    config=self._config,
                    allow_download=self._may_fetch,
                    runner=runner,
                    on_event=hear,
                    compiled=self._compiled,
                )

    def _runner(self, hear: Callable[[Event], None]) -> AbstractContextManager[Runner | None]:
        """None for this machine's processes."""
        if self._ray is None:
            return contextlib.nullcontext()
        from indexer.ray_runner import RayRunner

        return RayRunner(self._ray, hear)

    def carry_out(self) -> int:
        """Index and tell; returns the exit code."""
        try:
            self._build_with_a_model()
        except KeyboardInterrupt:
            no_more_interrupts()
            if self._exit_code is None:
                click.echo(self._interrupted(), err=True)
                return INTERRUPTED
        return FOUND if self._exit_code is None else self._exit_code

    def _build_with_a_model(self) -> BuildReport:
        try:
            return self.build(when_finished=self.tell)
        except ModelNotChosenError:
            if not can_ask():
                raise
            model = ask_for_model("an index keeps the model it was made with")
            self._model, self._may_fetch = model, True
            return self.build(when_finished=self.tell)

    def tell(self, report: BuildReport) -> None:
        """Print the account of a run, and keep the exit code."""
        from indexer.account import tell_report

        if self._as_json:
            write_bytes(json_line(dataclasses.asdict(report)))
        tell_report(report, self._place)
        is_partial = report.skipped or report.unreadable or report.not_there or report.failed
        self._exit_code = PARTIAL if is_partial else FOUND

    def preview(self) -> int:
        """Tell what would be done."""
        from indexer.account import print_difference, tell_forecast
        from indexer.build import preview
        from indexer.look import differences

        forecast, seen = preview(
            self._sources,
            self._place,
            listed=self._listed,
            retry=self._retry,
            config=self._config,
        )
        for change in differences(seen):
            print_difference(change, "json" if self._as_json else "auto")
        if self._as_json:
            write_bytes(json_line(dataclasses.asdict(forecast)))
        tell_forecast(forecast)
        return FOUND if forecast.changes else NOTHING_FOUND

    def watch(self) -> int:
        """Index, and again whenever something changes, until interrupted."""
        from indexer.watch import watch_folders

        try:
            report = self._build_with_a_model()
            click.echo("Watching for changes; Ctrl-C stops.", err=True)
            watch_folders(self._place, self.build, self.tell, report.generation)
        except KeyboardInterrupt:
            no_more_interrupts()
            click.echo("\nStopped watching. Everything that was indexed is saved.", err=True)
        return INTERRUPTED

    def _interrupted(self) -> str:
        """What to tell when a run was cut short: what is saved, and the command to go on with."""
        is_begun = (self._place / "manifest.json").is_file()
        saved = "Every finished part is saved and searchable"
        if not is_begun:
            saved = "Nothing was finished yet"
        if self._retry:
            words = ["clipsearch", "failures", "--retry"]
        else:
            words = ["clipsearch", "index", *self._sources, *(["-"] if self._listed else [])]
        words += ["--index", with_urls(str(self._place))]
        if not is_begun and self._model is not None:
            words += ["--model", self._model]
        if self._compiled:
            words.append("--compile")
        if self._ray is not None:
            words += self._ray.words()
        # What was set is kept with the first part that is finished, and not before.
        for name, value in self._given.items():
            option = "--workers" if name == "decode_threads" else "--" + name.replace("_", "-")
            for one in value if isinstance(value, tuple) else (value,):
                words += [option, str(one)]
        return f"\nInterrupted. {saved}; go on with:\n  {shlex.join(words)}"
