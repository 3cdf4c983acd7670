"""Photos of hits in a folder of their own: as copies, or as symbolic links to the originals."""

from __future__ import annotations

import errno
import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from clipsearch.errors import ExportError, ImageError, OptionError
from clipsearch.export_record import ExportedFile
from clipsearch.export_rows import ExportRow
from clipsearch.export_writing import (
    Destination,
    ExportReport,
    LeftOutError,
    carry_out,
    folders_to_make,
    refuse_inside_index,
    sha256_of,
)
from clipsearch.file_kinds import container_of, inside
from clipsearch.image_index import ImageIndex

_LONGEST_NAME = 240
"""Bytes of a file name, of the 255 that file systems take."""
_CHUNK = 1 << 20

# What a system or a disk says that has no symbolic links, or does not give them to this user.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_WINDOWS_NO_RIGHT = 1314

ReadMember = Callable[[Path, Path], bytes]
"""(container, path in it) -> the image file's bytes. Raises ImageError."""


def export_folder(
    index: ImageIndex,
    rows: Sequence[ExportRow],
    folder: Path,
    *,
    link: bool = False,
    numbered: bool = False,
    read_member: ReadMember | None = None,
    about: str = "",
    dry_run: bool = False,
) -> ExportReport:
    """Copy, or link, the photos of ``rows`` into ``folder``, which is made when it is not there.

    Nothing in the folder is ever replaced. A photo keeps its name; where another one has it,
    the first eight digits of its sha256 follow the name. A photo that is there already, from
    an earlier export, is not written again. A copy appears when it is complete and its bytes
    are those that were read; it keeps the time of its last change.

    numbered : put the rank before each name, so that the folder sorts by it.
    read_member : reads images in tars and Parquet files; without it they are left out, and
        they cannot be linked.

    Raises OptionError, and ExportError when the folder cannot be written to.
    """
    folder = Path(os.path.abspath(folder))
    refuse_inside_index(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise OptionError(f"expected a folder after --out, but {folder} is a file")
    planned: list[ExportedFile] = []
    already: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    names = _Names(folder)
    digits = len(str(len(rows)))
    for rank, row in enumerate(rows, 1):
        prefix = f"{rank:0{digits}d}-" if numbered else ""
        try:
            sha256 = _content(row, link, read_member)
        except LeftOutError as error:
            left_out.append((row.path, str(error)))
            continue
        target = os.fspath(row.path) if link else None
        file = names.choose(row.path, prefix, sha256, target)
        if file is None:
            already.append(row.path)
        else:
            planned.append(file)

    def write(destination: Destination) -> None:
        if link:
            _link(destination)
        else:
            _copy(destination, read_member)

    return carry_out(
        index.path,
        "symlinks" if link else "copy",
        planned,
        write,
        folders=folders_to_make(folder),
        about=about,
        already=already,
        left_out=left_out,
        dry_run=dry_run,
    )


def _content(row: ExportRow, link: bool, read_member: ReadMember | None) -> str:
    """The sha256 (hex) of a photo, as far as it is known without reading it."""
    container = container_of(row.path)
    if container is not None:
        if link:
            raise LeftOutError(f"it is {inside(container)}, where a link cannot point: copy it")
        if read_member is None:
            raise LeftOutError(f"it is {inside(container)}")
    elif not row.path.is_file():
        raise LeftOutError("it is not there now: is the disk plugged in?")
    try:
        # Of a photo that changed since it was indexed the size nearly always tells.
        is_same = container is not None or row.path.stat().st_size == row.bytes
        if row.sha256 is not None and is_same:
            return row.sha256.hex()
        if container is not None and read_member is not None:
            return hashlib.sha256(read_member(container, row.path)).hexdigest()
        return sha256_of(row.path)
    except (OSError, ImageError) as error:
        raise LeftOutError(f"it cannot be read: {error}") from None


class _Names:
    """Gives each photo a name in the folder that nothing else has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            here = os.listdir(folder)
        except FileNotFoundError:
            here = []
        # Names that differ in case, or in how an accent is written, are one on some systems.
        self._there: dict[str, list[str]] = {}
        for name in here:
            self._there.setdefault(_folded(name), []).append(name)
        self._planned: dict[str, tuple[str, str | None]] = {}
        self._hashes: dict[str, str] = {}

    def choose(
        self, photo: Path, prefix: str, sha256: str, link: str | None
    ) -> ExportedFile | None:
        """The file to write for a photo; None when it is there, or planned, already."""
        number = 0
        while True:
            suffix = "" if number == 0 else f"-{sha256[:8]}"
            suffix += f"-{number}" if number > 1 else ""
            name = _fitting(prefix, photo.stem, suffix + photo.suffix)
            key = _folded(name)
            if key in self._planned:
                if self._planned[key] == (sha256, link):
                    return None
            elif key not in self._there:
                self._planned[key] = (sha256, link)
                return ExportedFile(
                    self._folder / name, None if link is not None else sha256, link, photo
                )
            elif any(self._is_same(other, sha256, link) for other in self._there[key]):
                return None
            number += 1

    def _is_same(self, name: str, sha256: str, link: str | None) -> bool:
        place = self._folder / name
        try:
            if link is not None or place.is_symlink():
                return place.is_symlink() and link is not None and os.readlink(place) == link
            if not place.is_file():
                return False
            if name not in self._hashes:
                self._hashes[name] = sha256_of(place)
            return self._hashes[name] == sha256
        except OSError:
            return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _fitting(prefix: str, stem: str, ending: str) -> str:
    room = _LONGEST_NAME - len(os.fsencode(prefix)) - len(os.fsencode(ending))
    raw = os.fsencode(stem)
    if len(raw) <= room:
        return prefix + stem + ending
    # The cut may go through a letter; what is left of it would be no UTF-8.
    return prefix + raw[: max(1, room)].decode("utf-8", "ignore") + ending


def _link(destination: Destination) -> None:
    link = destination.file.link or ""
    try:
        os.symlink(link, destination.file.path)
    except FileExistsError:
        raise LeftOutError("another file took its name meanwhile: export again") from None
    except (OSError, NotImplementedError) as error:
        refused = isinstance(error, NotImplementedError) or (
            error.errno in _NO_LINKS or getattr(error, "winerror", None) == _WINDOWS_NO_RIGHT
        )
        if not refused:
            raise
        raise ExportError(
            f"symbolic links cannot be made in {destination.file.path.parent}: this disk or this "
            "system does not allow them; use --to copy"
        ) from error


def _copy(destination: Destination, read_member: ReadMember | None) -> None:
    photo = destination.file.source
    assert photo is not None
    container = container_of(photo)
    digest = hashlib.sha256()
    times: tuple[int, int] | None = None
    if container is not None and read_member is not None:
        try:
            data = read_member(container, photo)
        except ImageError as error:
            raise LeftOutError(str(error)) from None
        digest.update(data)
        with open(destination.temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    else:
        try:
            source = open(photo, "rb")  # noqa: SIM115
        except OSError as error:
            raise LeftOutError(f"it cannot be read: {error.strerror}") from None
        with source, open(destination.temporary, "xb") as file:
            found = os.fstat(source.fileno())
            times = (found.st_atime_ns, found.st_mtime_ns)
            while data := _read(source.read):
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
    if times is not None:
        os.utime(destination.temporary, ns=times)
    try:
        destination.place(digest.hexdigest())
    except FileExistsError:
        raise LeftOutError("another file took its name meanwhile: export again") from None


def _read(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(_CHUNK)
    except OSError as error:  # of the photo's disk, not of the folder's
        raise LeftOutError(f"it cannot be read: {error.strerror or error}") from None
