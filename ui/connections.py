"""HTTP connections of the page's server."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from ui.request_limits import STREAMS

FIRST_WORD_SECONDS = 20.0
"""How long a connection may take to say what it wants."""

STALLED_SECONDS = 120.0
"""How long an answer may wait without any of it being taken; of a slow line the system takes a
megabyte at once, and then none for a while."""


class PatientProtocol(H11Protocol):
    """uvicorn's own, which waits without end for the head of a question, and for its answer to be
    taken: here not.

    How long the rest of a question may take is for ``RequestLimits`` to say.
    """

    _waiting: asyncio.TimerHandle | None = None
    _stalling: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        asked = self.cycle
        super().data_received(data)
        if self.cycle is not asked:
            self._stop_waiting()
        elif self._waiting is None and (asked is None or asked.response_complete):
            self._wait()  # the head of another question has begun to arrive

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        self._stop_looking()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_looking()
        super().connection_lost(exc)

    def listens(self) -> bool:
        """Whether a page is at the other end that waits for what may happen."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return any(stream in self.scope["path"] for stream in STREAMS)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(FIRST_WORD_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _look_again(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stalling = self.loop.call_later(STALLED_SECONDS, self._see_stalled, left)

    def _see_stalled(self, before: int) -> None:
        if self.transport.get_write_buffer_size() >= before:
            self.transport.abort()  # to close it would wait for what is left to be taken
        else:
            self._look_again()

    def _stop_looking(self) -> None:
        if self._stalling is not None:
            self._stalling.cancel()
            self._stalling = None

    def _give_up(self) -> None:
        self._waiting = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
