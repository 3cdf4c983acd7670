"""A bar for texts being encoded: on a terminal, and only when it takes long."""

from __future__ import annotations

import sys
import time
from typing import Any

_PATIENCE_SECONDS = 1.5
_BAR = "{percentage:3.0f}% |{bar}| {n:,}/{total:,} {rate_fmt}, {remaining} left"


class TextProgress:
    """To be ``TextVectors.on_progress``. done : texts that are encoded and kept by now."""

    def __init__(self) -> None:
        self.done = 0
        self._bar: Any = None
        self._begin = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` texts are encoded."""
        if done == 0:
            self._begin = time.monotonic()
        waited = time.monotonic() - self._begin
        if self._bar is None and done < total and waited > _PATIENCE_SECONDS:
            self._bar = _open_bar(total)
        self.done = done
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        if done == total:
            self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _open_bar(total: int) -> Any:
    if not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    return tqdm(total=total, unit=" texts", file=sys.stderr, dynamic_ncols=True, bar_format=_BAR)
