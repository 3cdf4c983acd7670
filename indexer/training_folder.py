"""The folder that a training works in: one run at a time, and what an interrupted one leaves."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from clipsearch.errors import OptionError
from clipsearch.store import make_folder
from indexer.lock import HOLDER_NAME, LOCK_NAME, look_at_lock, writer_lock

MODEL, PHOTOS, TEST = "model", "photos.pixels", "test.pixels"
TRAININGS = ("rehearsal", "training")
_CHECKPOINTS = frozenset(f"{what}.safetensors" for what in TRAININGS)
_OWN_NAMES = (
    {LOCK_NAME, HOLDER_NAME, MODEL, PHOTOS, TEST}
    | _CHECKPOINTS
    | {f"{what}.part" for what in TRAININGS}
)
_UNFINISHED = ".tmp"
"""What a file begins with that safetensors is writing: one that was killed leaves it."""


@contextlib.contextmanager
def work_folder(work: Path) -> Iterator[Path]:
    """The folder that a run works in, held against others. Where a run was cut short that had
    trained something, it stays with that.

    Raises OptionError where it holds other things or cannot be made, IndexLockedError while
    another run works in it.
    """
    there = os.listdir(work) if work.is_dir() else []
    inside = {name for name in there if not name.startswith(_UNFINISHED)}
    if there and (LOCK_NAME not in there or inside - _OWN_NAMES):
        raise OptionError(f"{work} is needed to work in, and holds other things: move it away")
    try:
        make_folder(work)
    except OSError as error:
        raise OptionError(f"cannot make the folder {work}: {error.strerror}") from error
    try:
        with writer_lock(work):
            _empty(work, keep=_CHECKPOINTS)
            try:
                yield work
            except BaseException:
                _empty(work, keep=_CHECKPOINTS)
                raise
            _empty(work)
    finally:
        with contextlib.suppress(OSError):
            if os.listdir(work) == [LOCK_NAME] and not look_at_lock(work)[0]:
                (work / LOCK_NAME).unlink()
            work.rmdir()


def _empty(work: Path, keep: frozenset[str] = frozenset()) -> None:
    for entry in work.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in (LOCK_NAME, HOLDER_NAME) and entry.name not in keep:
            with contextlib.suppress(OSError):
                entry.unlink()
