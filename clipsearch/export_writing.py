"""How every export writes: the record first, then each file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipsearch.errors import ExportError, OptionError, RemoteError
from clipsearch.export_record import ExportedFile, ExportRecord, begin_record
from clipsearch.manifest import index_around
from clipsearch.store import make_folder, sync_folder


@dataclass(frozen=True)
class ExportReport:
    """What an export did; with ``dry_run`` what it would do.

    files : those written. already : those that were there as they would be written.
    left_out : photos for which nothing was written, and why. record : where what is needed for
    an undo stands; None when nothing was written.
    """

    kind: str
    files: tuple[ExportedFile, ...]
    already: tuple[Path, ...] = ()
    left_out: tuple[tuple[Path, str], ...] = ()
    record: Path | None = None
    dry_run: bool = False


class LeftOutError(Exception):
    """One photo cannot be exported; ``str(error)`` says why. The others can."""


Write = Callable[["Destination"], None]


@dataclass
class Destination:
    """One file that is being written: make it at ``temporary``, then ``place`` it."""

    record: ExportRecord
    number: int

    def __post_init__(self) -> None:
        self.temporary = self.record.temporary(self.file)

    @property
    def file(self) -> ExportedFile:
        """What the record says of it."""
        return self.record.files[self.number]

    def place(self, sha256: str | None = None, over: bool = False) -> None:
        """Give the finished temporary file its name.

        sha256 : of its bytes, noted first where the record says otherwise. over : whether what
        has the name now makes way. Raises FileExistsError, OSError.
        """
        if sha256 is not None and sha256 != self.file.sha256:
            self.record.files[self.number] = replace(self.file, sha256=sha256)
            self.record.save()
        if over:
            os.replace(self.temporary, self.file.path)
        else:
            rename_new(self.temporary, self.file.path)


def carry_out(
    index: Path,
    kind: str,
    planned: Sequence[ExportedFile],
    write: Write,
    *,
    folders: Sequence[Path] = (),
    about: str = "",
    already: Sequence[Path] = (),
    left_out: Sequence[tuple[Path, str]] = (),
    dry_run: bool = False,
) -> ExportReport:
    """Write the planned files, one after the other, under a record.

    folders : those to make first, outer first. Raises ExportError when the place written to
    fails, as with a full disk, or the bucket that is read from: what was written by then is whole,
    and can be taken back.
    """
    missed = list(left_out)
    if dry_run or not planned:
        return ExportReport(kind, tuple(planned), tuple(already), tuple(missed), None, dry_run)
    try:
        record = begin_record(index, kind, planned, folders, about)
    except OSError as error:
        raise ExportError(f"nothing was written: {_reason(error)}") from error
    done: list[ExportedFile] = []
    at = "the folder"
    try:
        for folder in folders:
            make_folder(folder)
        for number, file in enumerate(planned):
            at = str(file.path)
            destination = Destination(record, number)
            try:
                write(destination)
                done.append(destination.file)
            except LeftOutError as error:
                missed.append((file.source or file.path, str(error)))
            finally:
                with contextlib.suppress(OSError):
                    destination.temporary.unlink()
        for place in {file.path.parent for file in done}:
            sync_folder(place)
    except (OSError, RemoteError) as error:
        if not done:
            _leave_nothing(record, folders)
            raise ExportError(f"nothing was written: {_reason(error)}") from error
        raise ExportError(
            f"stopped at {at}: {_reason(error)}. {len(done):,} of {len(planned):,} files were "
            f"written, each whole; 'clipsearch export --undo {record.name} "
            f"--index {shlex.quote(os.fspath(index))}' takes them away again"
        ) from error
    if done:
        # Gone is the record when somebody took the export back while it was at work.
        if len(done) < len(planned) or not record.file.exists():
            record.files = done
            record.save()
    else:
        _leave_nothing(record, folders)
    return ExportReport(
        kind, tuple(done), tuple(already), tuple(missed), record.file if done else None
    )


def _leave_nothing(record: ExportRecord, folders: Sequence[Path]) -> None:
    """Clear away an export that wrote no file: the folders it made, and its record."""
    for folder in reversed(folders):
        with contextlib.suppress(OSError):
            folder.rmdir()
    with contextlib.suppress(OSError):
        record.delete()


def rename_new(temporary: Path, path: Path) -> None:
    """Give a file its name; FileExistsError when something has that name already."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here (FAT, some shares)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.rename(temporary, path)


def sha256_of(path: Path) -> str:
    """The sha256 of a file, hex. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_inside_index(path: Path) -> None:
    """Raise OptionError when ``path`` is or lies in an index."""
    if index_around(path) is not None:
        raise OptionError(f"{path} lies inside an index: choose another place")


def folders_to_make(folder: Path) -> list[Path]:
    """``folder`` and those above it that are not there, outer first."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    return missing[::-1]


def _reason(error: OSError | RemoteError) -> str:
    if isinstance(error, RemoteError):
        return str(error)
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    place = f" ({os.fsdecode(error.filename)})" if error.filename is not None else ""
    return f"{error.strerror or error}{place}"
