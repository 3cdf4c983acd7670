"""A line that says what is being done, for work of several stages: on a terminal only."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import click

_PATIENCE_SECONDS = 0.7
_BETWEEN_SECONDS = 0.1
_CLEAR = "\r\033[K"


class StageProgress:
    """Called with a stage, how much of it is done and of how much; gone when the work is."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._last = 0.0
        self._shown = False

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` of ``stage`` are done."""
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self._begin < _PATIENCE_SECONDS:
            return
        if done < total and now - self._last < _BETWEEN_SECONDS:
            return
        self._last, self._shown = now, True
        share = f" {100 * done // total:3d} %" if total else ""
        click.echo(f"{_CLEAR}{stage}{share}", nl=False, err=True)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            click.echo(_CLEAR, nl=False, err=True)
            self._shown = False
