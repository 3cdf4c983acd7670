"""Progress of a run for another program: a JSON object a line on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from types import TracebackType
from typing import Any, Self

import click

from indexer.report import (
    BackendChosen,
    BackendPreparing,
    Committed,
    Encoded,
    Event,
    FillingSpace,
    Finished,
    Pace,
    Planned,
    Preparing,
)

_SECONDS_BETWEEN = 0.2


class ProgressLines:
    """Hears the events of ``build_index``. Every line is an object with an ``event``:

    backend_preparing, with the fields of ``BackendPreparing``; backend, with the fields of
    ``BackendChosen``; planned, with the fields of ``Planned``; filling (``images``, ``model``),
    as another count begins; encoded (``done``, images since then), five times a second at most;
    pace, with the fields of ``Pace``, about once a second; committed (``images`` that can be
    searched by now); finished, with the fields of ``BuildReport``; preparing; failed, with the
    name of the ``error`` and, of one of the system, its ``errno``.
    """

    def __init__(self) -> None:
        self._done = 0
        self._told = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            _say("failed", error=type(error).__name__, errno=getattr(error, "errno", None))

    def hear(self, event: Event) -> None:
        """Tell one event."""
        if isinstance(event, Encoded):
            self._done += event.count
            now = time.monotonic()
            if now - self._told >= _SECONDS_BETWEEN:
                self._told = now
                _say("encoded", done=self._done)
            return
        if isinstance(event, Pace):
            _say("pace", **_rounded(event))
            return
        if self._done and isinstance(event, FillingSpace | Finished):
            _say("encoded", done=self._done)
        if isinstance(event, Planned):
            self._done = 0
            _say("planned", **dataclasses.asdict(event))
        elif isinstance(event, BackendPreparing):
            _say("backend_preparing", **dataclasses.asdict(event))
        elif isinstance(event, BackendChosen):
            _say("backend", **dataclasses.asdict(event))
        elif isinstance(event, FillingSpace):
            self._done = 0
            _say("filling", **dataclasses.asdict(event))
        elif isinstance(event, Committed):
            _say("committed", images=event.images)
        elif isinstance(event, Finished):
            _say("finished", **dataclasses.asdict(event.report))
        elif isinstance(event, Preparing):
            _say("preparing")


def _rounded(pace: Pace) -> dict[str, Any]:
    shares = {stage: round(share, 3) for stage, share in pace.shares.items()}
    rate = round(pace.images_per_second, 3)
    return {**dataclasses.asdict(pace), "shares": shares, "images_per_second": rate}


def _say(event: str, **fields: Any) -> None:
    # ASCII only: a path need not be text. And whoever listened may be gone: the run goes on.
    with contextlib.suppress(BrokenPipeError):
        click.echo(json.dumps({"event": event, **fields}), err=True)
