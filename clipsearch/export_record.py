"""Records of exports: what is needed to take one back, written before its first file.

``<index>/exports/<time>-<kind>-<token>.json`` names every file that will be written, by path
and sha256, and holds the bytes of every sidecar that was there before. Where the index is
read-only the record goes to the user's data folder instead.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipsearch.errors import ExportError, ExportRecordError
from clipsearch.manifest import read_manifest
from clipsearch.remote_paths import place_of
from clipsearch.remote_urls import is_remote
from clipsearch.store import EXPORTS, is_mirror, open_store, replace_file

_FORMAT = "clipsearch export"
_VERSION = 1


@dataclass(frozen=True)
class ExportedFile:
    """A file that an export writes.

    sha256 : of what is written, hex; None for a link, and for what is not known before it is
        made. link : what a symbolic link points to. source : the photo that it is made from.
    original : the bytes that were there before, None when nothing was. mtime_ns, mode : theirs.
    keywords : those put into a sidecar, which it did not hold before.
    """

    path: Path
    sha256: str | None = None
    link: str | None = None
    source: Path | None = None
    original: bytes | None = None
    mtime_ns: int = 0
    mode: int = 0
    keywords: tuple[str, ...] = ()


@dataclass
class ExportRecord:
    """One export. ``file`` : the record's own file. ``folders`` : those it made, outer first.

    taken_back_at : when an undo went over it and had to leave something, else None.
    """

    file: Path
    kind: str
    started_at: str
    token: str
    folders: list[Path]
    files: list[ExportedFile]
    about: str = ""
    taken_back_at: str | None = None

    @property
    def name(self) -> str:
        """What a person calls it: the name of its file without the ending."""
        return self.file.stem

    def temporary(self, file: ExportedFile) -> Path:
        """Where a file is made before it gets its name; an undo clears that away too."""
        key = hashlib.sha256(os.fsencode(file.path.name)).hexdigest()[:12]
        return file.path.with_name(f".clipsearch-{self.token}-{key}.tmp")

    def save(self) -> None:
        """Write the record durably, over the one of before."""
        replace_file(self.file, json.dumps(self._document(), indent=1).encode())

    def delete(self) -> None:
        """Remove the record, and its folder when that is empty then."""
        self.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.file.parent.rmdir()

    def _document(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "kind": self.kind,
            "about": self.about,
            "started_at": self.started_at,
            "token": self.token,
            "taken_back_at": self.taken_back_at,
            "folders": [_path_out(folder) for folder in self.folders],
            "files": [_file_out(file) for file in self.files],
        }


def record_folders(index: Path) -> tuple[Path, Path]:
    """Where the records of an index are: in it, and for one that is read-only or in object
    storage in the user's data."""
    import platformdirs

    uuid = read_manifest(open_store(index), str(index)).uuid
    mine = Path(platformdirs.user_data_dir("clipsearch", appauthor=False), "exports", uuid)
    return index / EXPORTS, mine


def begin_record(
    index: Path,
    kind: str,
    files: Sequence[ExportedFile],
    folders: Sequence[Path] = (),
    about: str = "",
) -> ExportRecord:
    """Write the record of an export that is about to begin. Raises OSError."""
    now = datetime.now(UTC)
    token = secrets.token_hex(4)
    name = f"{now:%Y%m%dT%H%M%S}-{now.microsecond:06d}-{kind}-{token}.json"
    inside, mine = record_folders(index)
    record = ExportRecord(
        inside / name, kind, now.isoformat(timespec="seconds"), token, list(folders), list(files),
        about,
    )  # fmt: skip
    if is_mirror(index):  # it can go any time, and what was exported is here
        record.file = mine / name
    try:
        record.save()
    except OSError:
        if os.access(index, os.W_OK):
            raise
        record.file = mine / name
        record.save()
    return record


def list_records(index: Path) -> list[ExportRecord]:
    """The records of an index that can be read, oldest first."""
    return _all_records(index)[0]


def unreadable_records(index: Path) -> list[tuple[Path, ExportError]]:
    """The files of the other records, oldest first, and what is wrong with each."""
    return _all_records(index)[1]


def _all_records(index: Path) -> tuple[list[ExportRecord], list[tuple[Path, ExportError]]]:
    files = [
        file
        for folder in record_folders(index)
        if folder.is_dir()
        for file in folder.glob("*.json")
    ]
    found: list[ExportRecord] = []
    unreadable: list[tuple[Path, ExportError]] = []
    for file in sorted(files, key=lambda file: file.name):
        try:
            found.append(read_record(file))
        except ExportError as error:
            if file.exists():  # else somebody has just taken that export back
                unreadable.append((file, error))
    return found, unreadable


def find_record(index: Path, which: str) -> ExportRecord:
    """The record of this name (or the start of it, when no other starts so); "last" is the
    newest that nobody has taken back yet. Raises ExportError when there is none, or it cannot
    be read."""
    records, unreadable = _all_records(index)
    if which == "last":
        left = [record for record in records if record.taken_back_at is None]
        if unreadable and (not left or unreadable[-1][0].name > left[-1].file.name):
            raise unreadable[-1][1]  # to take another one back is not what was meant
        if left:
            return left[-1]
        raise ExportError("there is no export to take back: 'clipsearch export --list' shows all")
    wanted = which.removesuffix(".json")
    found = [record for record in records if record.name.startswith(wanted)] if wanted else []
    exact = [record for record in found if record.name == wanted]
    for file, error in unreadable:
        if wanted and (file.stem == wanted or (not found and file.stem.startswith(wanted))):
            raise error
    if len(exact or found) != 1:
        problem = "several records begin with" if found else "there is no record"
        raise ExportError(f"{problem} {which!r}: 'clipsearch export --list' shows all")
    return (exact or found)[0]


def read_record(file: Path) -> ExportRecord:
    """Read one record. Raises ExportRecordError when it is damaged, ExportError when it is of a
    newer version or the system does not hand it out."""
    try:
        document = json.loads(file.read_bytes())
        if document["format"] != _FORMAT:
            raise ValueError("it is no record of an export")
        if document["version"] > _VERSION:
            raise ExportError(f"{file} was written by a newer clipsearch: use that one")
        return ExportRecord(
            file,
            str(document["kind"]),
            str(document["started_at"]),
            _plain_token(document["token"]),
            [_path_in(folder) for folder in document["folders"]],
            [_file_in(entry) for entry in document["files"]],
            str(document["about"]),
            document["taken_back_at"],
        )
    except OSError as error:
        raise ExportError(f"cannot read the record {file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise ExportRecordError(
            f"the record {file} is damaged, so that its export cannot be taken back ({error}): "
            "remove it; 'clipsearch export --list' shows the others"
        ) from None


def _plain_token(token: object) -> str:
    if not isinstance(token, str) or not token.isalnum():
        raise ValueError("its token is no token")
    return token


def _path_out(path: Path | str) -> str | dict[str, str]:
    text = os.fspath(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return {"base64": base64.b64encode(os.fsencode(text)).decode("ascii")}
    return text


def _text_in(value: str | dict[str, str]) -> str:
    return value if isinstance(value, str) else os.fsdecode(base64.b64decode(value["base64"]))


def _path_in(value: str | dict[str, str]) -> Path:
    path = Path(_text_in(value))
    if not path.is_absolute():
        raise ValueError("it names a file by a path that is not absolute")
    return path


def _source_in(value: str | dict[str, str]) -> Path:
    text = _text_in(value)
    return place_of(text) if is_remote(text) else _path_in(value)


def _file_out(file: ExportedFile) -> dict[str, Any]:
    document: dict[str, Any] = {"path": _path_out(file.path)}
    if file.sha256 is not None:
        document["sha256"] = file.sha256
    if file.link is not None:
        document["link"] = _path_out(file.link)
    if file.source is not None:
        document["source"] = _path_out(file.source)
    if file.original is not None:
        packed = zlib.compress(file.original)
        document["original_zlib_base64"] = base64.b64encode(packed).decode("ascii")
        document["mtime_ns"], document["mode"] = file.mtime_ns, file.mode
    if file.keywords:
        document["keywords"] = list(file.keywords)
    return document


def _file_in(document: dict[str, Any]) -> ExportedFile:
    packed = document.get("original_zlib_base64")
    link, source = document.get("link"), document.get("source")
    return ExportedFile(
        _path_in(document["path"]),
        document.get("sha256"),
        None if link is None else _text_in(link),
        None if source is None else _source_in(source),
        None if packed is None else zlib.decompress(base64.b64decode(packed)),
        int(document.get("mtime_ns", 0)),
        int(document.get("mode", 0)),
        tuple(document.get("keywords", ())),
    )
