"""Laying out the map of an index, in a process of its own: it takes minutes of a large
collection, and can be stopped. One at a time."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from clipsearch.errors import ClipsearchError
from clipsearch.generation import open_generation
from clipsearch.map_coordinates import Coordinates
from clipsearch.map_files import read_map, update_map
from ui.page_errors import PageError, public_message

log = logging.getLogger("clipsearch.ui")

INSTALL = "pip install 'clipsearch[map]'"
_NICE = 10  # the page is to answer meanwhile
_STOPPED = "The map was stopped."
_ENDED = "The map ended early; the terminal of clipsearch ui says why."


def is_installed() -> bool:
    """Whether there is openTSNE, which lays maps out."""
    importlib.invalidate_caches()  # it may have been installed since
    return importlib.util.find_spec("openTSNE") is not None


@dataclass(frozen=True)
class MakingState:
    """How far it is. done : images with a place, of ``total``. problem : why the last one came
    to nothing, None where it came to its end."""

    is_running: bool = False
    done: int = 0
    total: int = 0
    problem: str | None = None


class MapMaking:
    """Lays out the map of an index. Safe for threads.

    unkept : the map that was made last, where the index could not keep it.
    """

    def __init__(self) -> None:
        self.unkept: Coordinates | None = None
        self._state = MakingState()
        self._process: BaseProcess | None = None
        self._lock = threading.Lock()

    def state(self) -> MakingState:
        """How far it is now."""
        with self._lock:
            return self._state

    def start(self, index: Path, space: str | None, total: int, *, anew: bool) -> None:
        """Begin; PageError (409) while one is being made, or without openTSNE.

        space : as in ``open_generation``. total : how many images there are. anew : lay out
        another, where else new images are placed on the one that is there.
        """
        if not is_installed():
            raise PageError(f"A map needs one more package: {INSTALL}", status=409)
        with self._lock:
            if self._state.is_running:
                raise PageError("A map is being made already.", status=409)
            self._state = MakingState(True, 0, total)
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe(duplex=False)
        process = spawn.Process(
            target=lay_out, args=(os.fspath(index), space, anew, theirs), daemon=True
        )
        try:
            process.start()
        except OSError:
            with self._lock:
                self._state = MakingState(problem=_ENDED)
            raise
        theirs.close()
        with self._lock:
            self._process = process
        threading.Thread(target=self._follow, args=(process, ours, total), daemon=True).start()

    def stop(self) -> None:
        """End the one that is being made, if there is one; the map that was there stays."""
        with self._lock:
            process = self._process
            if process is None:
                return
            # From here on what it still tells is of no account: another may have begun.
            self._process = None
            self._state = MakingState(problem=_STOPPED)
        process.terminate()

    def _follow(self, process: BaseProcess, told: Connection, total: int) -> None:
        """Take in what the process tells until its end."""
        problem: str | None = _ENDED
        with contextlib.suppress(EOFError, OSError), told:
            while True:
                what = told.recv()
                if isinstance(what, int):
                    with self._lock:
                        if self._process is process:
                            self._state = MakingState(True, min(what, total), total)
                elif isinstance(what, str):
                    problem = what
                else:
                    (self.unkept,), problem = what, None
                    break
        process.join()
        with self._lock:
            if self._process is process:  # it was not stopped
                self._process = None
                self._state = MakingState(problem=problem)


def lay_out(index: str, space: str | None, anew: bool, tell: Connection) -> None:
    """What the process does. It tells how many images have a place (int), an error (str) or, at
    the end, the map where the index could not keep it, else None, in a tuple of one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page, which ends this
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    place = Path(index)
    try:
        state = open_generation(place, space)
        found = update_map(place, state, anew=anew, on_progress=tell.send)
        kept = None
        with contextlib.suppress(ClipsearchError, OSError):
            kept = read_map(place, state.manifest.uuid)
    except (ClipsearchError, OSError, MemoryError) as error:
        message, status = public_message(error)
        if status >= 500:
            log.exception("the map")
        tell.send(message)
        return
    is_kept = kept is not None and np.array_equal(kept.xy, found.xy)
    tell.send((None if is_kept else found,))
