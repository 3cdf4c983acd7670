"""Heavy work in turns: so much at once, so much waiting, and no thread for what waits.

Sixteen searches at once on two processors finish no sooner than two at a time, and each takes
eight times its memory. What waits here waits in the event loop, so that thumbnails go on being
served by the threads that are left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from clipsearch.threads import worker_count
from ui.page_errors import PageError

Result = TypeVar("Result")


class Turns:
    """Runs functions in threads, ``at_once`` of them at a time.

    waiting : how many more may wait for their turn; who comes after those is told to come again.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._limiter = anyio.CapacityLimiter(max(1, at_once))
        self._most = max(1, at_once) + waiting
        self._inside = 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns, or raises; PageError (503) when too many wait already."""
        if self._inside >= self._most:
            raise PageError("Too much is asked at once: try again in a moment.", status=503)
        self._inside += 1  # only the event loop counts, so no lock is needed
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._inside -= 1


def search_turns() -> Turns:
    """Of searches: as many as there are processors."""
    return Turns(worker_count(), waiting=256)


def picture_turns() -> Turns:
    """Of pictures to decode: a photo of a hundred megapixels takes some 400 MB for a second."""
    return Turns(min(2, worker_count()), waiting=128)


def export_turns() -> Turns:
    """Of tables of results: fifty thousand rows take some 100 MB while they are made."""
    return Turns(1, waiting=32)
