"""``clipsearch bench``."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import click

from clipsearch.cli import FOUND, INTERRUPTED, no_more_interrupts
from clipsearch.cli.output import json_line, write_bytes
from clipsearch.cli.places import device_option
from clipsearch.heap import keep_freed_memory

_LEAST_SECONDS = 1.0


@click.command()
@click.option(
    "--model",
    metavar="MODEL",
    envvar="CLIPSEARCH_MODEL",
    help="The model to encode with. Without it: the recommended one if its weights are here, "
    "else mini.",
)
@device_option
@click.option(
    "--photos",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Measure with these photos. Without it: with photos that are made for it, of 500 px and "
    "of 12 megapixels.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=_LEAST_SECONDS),
    default=120.0,
    show_default=True,
    help="How long it may take, about, but no less than measuring each thing once. Less time "
    "gives rougher numbers.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object in place of the table.")
def bench(
    model: str | None, device: str | None, photos: Path | None, seconds: float, as_json: bool
) -> int:
    """Measure how fast this machine decodes, encodes, indexes, searches and labels.

    Says which settings suit it, and how long collections take. Nothing is fetched, and nothing is
    written beside photos: what is made for it goes into a temporary folder, and away again.
    """
    begin = time.perf_counter()
    if not math.isfinite(seconds):
        raise click.BadParameter("expected a number of seconds", param_hint="--seconds")
    # As for 'clipsearch index': OpenMP's threads would spin while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    from clipsearch.encoder import load_encoder
    from indexer.bench_photos import photos_of

    keep_freed_memory()
    named = _model(model)
    own = None if photos is None else photos_of(photos)
    with _Progress() as progress:
        progress.tell(f"loading {named}")
        encoder = load_encoder(named, device=device)
        from indexer.bench import Bench
        from indexer.bench_photos import make_photos
        from indexer.bench_report import BenchReport, machine_of

        report = BenchReport(named, machine_of(str(encoder.recipe["device"])))
        report.start_seconds = time.perf_counter() - begin
        is_complete = False
        try:
            with tempfile.TemporaryDirectory(prefix="clipsearch-bench-") as temporary:
                folder = Path(temporary)
                progress.tell("making photos")
                kinds = make_photos(folder) if own is None else [own]
                Bench(encoder, kinds, folder, begin + seconds, report, progress.tell).run()
            is_complete = True
        except KeyboardInterrupt:
            no_more_interrupts()
        report.seconds = time.perf_counter() - begin
    if as_json:
        write_bytes(json_line({**dataclasses.asdict(report), "complete": is_complete}))
    else:
        from indexer.bench_text import sections

        click.echo("\n\n".join(sections(report)))
    if not is_complete:
        click.echo("\nInterrupted. The table shows what was measured until then.", err=True)
        return INTERRUPTED
    return FOUND


def _model(named: str | None) -> str:
    from clipsearch.errors import ModelNotChosenError
    from clipsearch.model_names import choose_model, resolve_model_name
    from clipsearch.presets import BUILT_IN

    if named is not None:
        return resolve_model_name(named)
    try:
        return choose_model()
    except ModelNotChosenError:
        click.echo(
            f"No model is on this machine yet: measuring with the small built-in one, {BUILT_IN}. "
            "A real one\nencodes far fewer images a second.",
            err=True,
        )
        return BUILT_IN


class _Progress:
    """One line on a terminal that says what is being measured; elsewhere nothing."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._write("")

    def tell(self, what: str) -> None:
        """Say that ``what`` is going on."""
        self._write(f"Measuring: {what}"[:79])

    def _write(self, line: str) -> None:
        if self._is_shown:
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
