"""Progress of a run on standard error: what is ahead, then a bar with images/s and ETA."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Self

import click

from clipsearch.cli import with_urls
from clipsearch.cli.output import counted, display_path, for_display, human_bytes, human_seconds
from indexer.report import (
    BackendChosen,
    BackendPreparing,
    Encoded,
    Event,
    FillingSpace,
    Finished,
    Pace,
    Planned,
    Preparing,
)

_BAR = "{percentage:3.0f}% |{bar}| {n:,}/{total:,} {rate_fmt}, {remaining} left"
_WITH_VERDICT = _BAR + ", {verdict}"


class TerminalProgress:
    """Hears the events of ``build_index``. The bar shows on a terminal only."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def hear(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Planned):
            self._announce(event)
        elif isinstance(event, BackendPreparing | BackendChosen):
            click.echo(event.line, err=True)
        elif isinstance(event, FillingSpace):
            self._close()
            click.echo(
                f"{counted(event.images, 'image')} that the index knows to encode with "
                f"{for_display(event.model)} on {event.device}.",
                err=True,
            )
            self._bar = open_bar(event.images)
        elif isinstance(event, Encoded) and self._bar is not None:
            self._bar.update(event.count)
        elif isinstance(event, Pace) and self._bar is not None:
            show_verdict(self._bar, event.verdict)
        elif isinstance(event, Finished):
            self._close()
        elif isinstance(event, Preparing) and sys.stderr.isatty():
            click.echo("Getting ready for searches; Ctrl-C leaves that to the first one.", err=True)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _announce(self, plan: Planned) -> None:
        if not plan.new:
            return
        known = f", {plan.unchanged:,} already indexed" if plan.unchanged else ""
        click.echo(
            f"{counted(plan.new, 'image')} to index ({human_bytes(plan.new_bytes)}{known}) "
            f"with {for_display(plan.model)} on {plan.device}.",
            err=True,
        )
        time = "a few seconds" if plan.seconds is None else human_seconds(plan.seconds)
        click.echo(
            f"About {time}; {with_urls(display_path(self._place.absolute()))} will grow by about "
            f"{human_bytes(plan.disk_bytes)}.",
            err=True,
        )
        self._bar = open_bar(plan.new)


def open_bar(total: int, unit: str = " images") -> Any:
    """A progress bar on standard error, to be updated and closed; None where that is no
    terminal."""
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    width, height = os.get_terminal_size(sys.stderr.fileno())
    return tqdm(
        total=total,
        unit=unit,
        file=sys.stderr,
        # A terminal that does not know its size says 0, and would get an empty bar, or none.
        ncols=None if width else 80,
        nrows=None if height else 24,
        dynamic_ncols=width > 0,
        bar_format=_BAR,
    )


def show_verdict(bar: Any, verdict: str) -> None:
    """Let the line of ``bar`` end with what the run is bound by, as far as there is room: all of
    it, else its first words, else nothing. The bar itself keeps ten columns."""
    width = bar.format_dict["ncols"] or 80
    for text in (verdict, verdict.partition(",")[0]):
        line = _WITH_VERDICT.replace("{verdict}", text)
        whole = bar.format_meter(**{**bar.format_dict, "ncols": None, "bar_format": line})
        if text and len(whole) <= width:
            bar.bar_format = line
            return
    bar.bar_format = _BAR
