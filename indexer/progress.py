"""Progress of a run on standard error: what is ahead, then a bar with images/s and ETA."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Self

import click

from clipsearch.cli.output import counted, display_path, for_display, human_bytes, human_seconds
from indexer.report import Encoded, Event, FillingSpace, Finished, Planned, Preparing

_BAR = "{percentage:3.0f}% |{bar}| {n:,}/{total:,} {rate_fmt}, {remaining} left"


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
            f"About {time}; {display_path(self._place.absolute())} will grow by about "
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

    width = os.get_terminal_size(sys.stderr.fileno()).columns
    return tqdm(
        total=total,
        unit=unit,
        file=sys.stderr,
        # A terminal that does not know its width says 0, and would get an empty bar.
        ncols=None if width else 80,
        dynamic_ncols=width > 0,
        bar_format=_BAR,
    )
