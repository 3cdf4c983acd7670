"""Take an export back: remove what it wrote, and nothing else.

A file goes when it is still, to the byte, what was written; a sidecar gets back the bytes it had.
What somebody changed since is theirs: of a sidecar only the keywords that were put in are taken
out, and anything else is left alone, with a word why. So is a copy whose original is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from clipsearch import xmp_source
from clipsearch.errors import ClipsearchError, SidecarError
from clipsearch.export_record import ExportedFile, ExportRecord, find_record, list_records
from clipsearch.export_succession import Succession
from clipsearch.export_writing import sha256_of
from clipsearch.file_kinds import container_of
from clipsearch.manifest import utc_now
from clipsearch.remote_images import find_object
from clipsearch.remote_urls import is_remote
from clipsearch.store import write_durably
from clipsearch.xmp_sidecar import EMPTY_SIDECAR, remove_keywords


@dataclass
class UndoReport:
    """What an undo did; with ``dry_run`` what it would do.

    record : the export's name. removed : files that are gone now. restored : sidecars with
    their bytes of before. cleaned : sidecars that were changed since, without our keywords now.
    gone : files that were not there any more. left : what was left alone, and why.
    """

    record: str
    kind: str
    dry_run: bool
    removed: list[Path] = field(default_factory=list)
    restored: list[Path] = field(default_factory=list)
    cleaned: list[Path] = field(default_factory=list)
    gone: list[Path] = field(default_factory=list)
    left: list[tuple[Path, str]] = field(default_factory=list)


def undo_export(index: Path, which: str = "last", *, dry_run: bool = False) -> UndoReport:
    """Take back the export of this name, or the last one.

    The record goes too, unless something had to be left; then it stays and the same undo may
    be asked for again. An export that was killed half-way is taken back as well.

    Raises ExportError when there is no such record.
    """
    record = find_record(index, which)
    report = UndoReport(record.name, record.kind, dry_run)
    succession = Succession(
        [other for other in list_records(index) if other.file.name > record.file.name]
    )
    remaining: list[ExportedFile] = []
    for file in reversed(record.files):
        try:
            _take_back(record, file, report, succession)
        except OSError as error:
            report.left.append((file.path, error.strerror or str(error)))
        if report.left and report.left[-1][0] == file.path:
            remaining.append(file)
    if dry_run:
        return report
    succession.save()
    for folder in reversed(record.folders):
        with contextlib.suppress(OSError):  # somebody keeps something in it
            folder.rmdir()
    if remaining:
        record.files = remaining[::-1]
        record.taken_back_at = utc_now()
        record.save()
    else:
        record.delete()
    return report


def _take_back(
    record: ExportRecord, file: ExportedFile, report: UndoReport, succession: Succession
) -> None:
    if not report.dry_run:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            record.temporary(file).unlink()
    try:
        found = os.lstat(file.path)
    except (FileNotFoundError, NotADirectoryError):
        if _is_out_of_reach(record, file.path):
            report.left.append((file.path, "its folder is not there now: is the disk plugged in?"))
        else:
            report.gone.append(file.path)
        return
    if file.link is not None:
        if stat.S_ISLNK(found.st_mode) and os.readlink(file.path) == file.link:
            _remove(file, report)
        else:
            report.left.append((file.path, "it is another file now"))
    elif not stat.S_ISREG(found.st_mode):
        report.left.append((file.path, "it is no plain file now"))
    elif record.kind == "xmp":
        _take_back_sidecar(record, file, found, report, succession)
    elif file.sha256 is not None and sha256_of(file.path) == file.sha256:
        if file.source is not None and not _is_there(file.source):
            report.left.append((file.path, "its original is not there now: this may be the last"))
        else:
            _remove(file, report)
    elif file.sha256 is None:
        report.gone.append(file.path)  # it never got its name: this one is another's
    else:
        report.left.append((file.path, "it was changed since"))


def _is_out_of_reach(record: ExportRecord, place: Path) -> bool:
    """Whether the folder that ``place`` was in is gone, and not by the removal of one that the
    export had made: its disk may come back."""
    made = next((folder for folder in record.folders if place.is_relative_to(folder)), place)
    return not made.parent.is_dir()


def _is_there(photo: Path) -> bool:
    if is_remote(photo):
        try:
            return find_object(photo) is not None
        except ClipsearchError:  # it may be there; a copy that may be the last one stays
            return False
    return photo.exists() or container_of(photo) is not None


def _remove(file: ExportedFile, report: UndoReport) -> None:
    if not report.dry_run:
        file.path.unlink()
    report.removed.append(file.path)


def _take_back_sidecar(
    record: ExportRecord,
    file: ExportedFile,
    found: os.stat_result,
    report: UndoReport,
    succession: Succession,
) -> None:
    if found.st_size > xmp_source.MAX_BYTES:
        report.left.append((file.path, "it was changed since, and is too large for a sidecar"))
        return
    data = file.path.read_bytes()
    if data == file.original:  # it was never written to, or somebody was here before us
        report.gone.append(file.path)
        return
    if hashlib.sha256(data).hexdigest() == file.sha256:
        if file.original is None:
            _remove(file, report)
            return
        if not report.dry_run:
            _rewrite(record, file, file.original, found)
            os.chmod(file.path, file.mode)
            os.utime(file.path, ns=(found.st_atime_ns, file.mtime_ns))
        report.restored.append(file.path)
        return
    try:
        rest = remove_keywords(data, file.keywords)
        succession.pass_over(file, data)
    except SidecarError as error:
        report.left.append((file.path, f"it was changed since, and {error}"))
        return
    if rest == EMPTY_SIDECAR and file.original is None:
        _remove(file, report)
    elif rest == data:
        report.gone.append(file.path)
    else:
        if not report.dry_run:
            _rewrite(record, file, rest, found)
        report.cleaned.append(file.path)


def _rewrite(record: ExportRecord, file: ExportedFile, data: bytes, found: os.stat_result) -> None:
    temporary = record.temporary(file)
    try:
        write_durably(temporary, data)
        os.chmod(temporary, stat.S_IMODE(found.st_mode))
        os.replace(temporary, file.path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
