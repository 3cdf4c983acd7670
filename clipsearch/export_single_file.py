"""Exports that are one file: when one may be replaced, and how it is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from clipsearch.errors import OptionError
from clipsearch.export_record import ExportedFile, ExportRecord, list_records
from clipsearch.export_writing import (
    Destination,
    ExportReport,
    carry_out,
    refuse_inside_index,
    sha256_of,
)
from clipsearch.image_index import ImageIndex


def export_single_file(
    index: ImageIndex,
    kind: str,
    path: Path,
    write: Callable[[IO[bytes]], None],
    *,
    force: bool,
    about: str,
    dry_run: bool,
) -> ExportReport:
    """Let ``write`` fill a file that gets its name when it is complete.

    A file that an earlier export wrote, and nobody changed since, is replaced; any other one
    only with ``force``, and for good. Raises OptionError, ExportError.
    """
    path = Path(os.path.abspath(path))
    refuse_inside_index(path)
    if not path.parent.is_dir():
        raise OptionError(f"there is no folder {path.parent} to write {path.name} into")
    if path.is_dir():
        raise OptionError(f"cannot write {path}: it is a folder")
    if path.exists() and not path.is_file():
        raise OptionError(f"cannot write {path}: it is no plain file")
    earlier = _earlier(index, path)
    if os.path.lexists(path) and earlier is None and not force:
        raise OptionError(
            f"{path} is there already, and is not as an export left it: choose another name, or "
            "replace it for good with --force"
        )

    def make(destination: Destination) -> None:
        with open(destination.temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        with open(destination.temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        destination.place(digest, over=force or earlier is not None)

    report = carry_out(index.path, kind, [ExportedFile(path)], make, about=about, dry_run=dry_run)
    if earlier is not None and report.files and not dry_run:
        earlier.delete()  # what it wrote is no more
    return report


def _earlier(index: ImageIndex, path: Path) -> ExportRecord | None:
    """The record of the export that left ``path`` as it is now."""
    for record in reversed(list_records(index.path)):
        if len(record.files) == 1 and record.files[0].path == path:
            file = record.files[0]
            if file.sha256 and path.is_file() and sha256_of(path) == file.sha256:
                return record
    return None
