"""Keywords for hits, in XMP sidecars beside the photos. The photos themselves stay as they are.

A sidecar that is there is added to: ``photo.jpg.xmp`` (darktable, digiKam, Immich), else
``photo.xmp`` (Lightroom) when no other file but the photo has that stem, so that it cannot be
the sidecar of a raw file. Else ``photo.jpg.xmp`` is made.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipsearch import xmp_source
from clipsearch.errors import SidecarError
from clipsearch.export_record import ExportedFile
from clipsearch.export_rows import ExportRow
from clipsearch.export_writing import (
    Destination,
    ExportReport,
    LeftOutError,
    carry_out,
)
from clipsearch.file_kinds import container_of, inside
from clipsearch.image_index import ImageIndex
from clipsearch.manifest import index_around
from clipsearch.xmp_sidecar import add_keywords, clean_keyword, own_keywords

_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def export_sidecars(
    index: ImageIndex,
    rows: Sequence[ExportRow],
    keywords: Mapping[int, Sequence[str]] | Sequence[str],
    *,
    about: str = "",
    dry_run: bool = False,
) -> ExportReport:
    """Put keywords below ``clipsearch`` into the sidecars of ``rows``.

    keywords : the same for all photos, or those of each by its id; see
    ``xmp_sidecar.clean_keyword`` for what becomes of odd characters.

    A sidecar that is no sound XMP is left as it is and listed; so are photos that are not
    there and folders that are read-only. Raises OptionError for a keyword without letters,
    and ExportError when a disk fails.
    """
    words = _Words(keywords)
    folders = _Folders()
    planned: dict[Path, ExportedFile] = {}
    asked: dict[Path, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    already: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    for row in rows:
        wanted = words.of(row.id)
        if not wanted:
            continue
        try:
            place = folders.sidecar_of(row.path)
            if place in asked:  # two photos share it
                wanted = tuple(dict.fromkeys((*asked[place][0], *wanted)))
            file = _plan(place, row, wanted)
        except LeftOutError as error:
            left_out.append((row.path, str(error)))
            continue
        if file is None:
            already.append(row.path)
        else:
            planned[place] = file
            asked[place] = wanted, row.keywords

    def write(destination: Destination) -> None:
        _write(destination, *asked[destination.file.path])

    return carry_out(
        index.path,
        "xmp",
        list(planned.values()),
        write,
        about=about,
        already=already,
        left_out=left_out,
        dry_run=dry_run,
    )


class _Words:
    """The cleaned keywords of each photo."""

    def __init__(self, keywords: Mapping[int, Sequence[str]] | Sequence[str]) -> None:
        self._each = keywords if isinstance(keywords, Mapping) else None
        self._all = () if isinstance(keywords, Mapping) else self._clean(keywords)
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def of(self, image_id: int) -> tuple[str, ...]:
        if self._each is None:
            return self._all
        raw = tuple(self._each.get(image_id, ()))
        if raw not in self._known:
            self._known[raw] = self._clean(raw)
        return self._known[raw]

    @staticmethod
    def _clean(raw: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(clean_keyword(word) for word in raw))


class _Folders:
    """Finds sidecars; lists each folder once."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def sidecar_of(self, photo: Path) -> Path:
        """The sidecar of a photo, there or not. Raises LeftOutError."""
        container = container_of(photo)
        if container is not None:
            raise LeftOutError(f"it is {inside(container)}, where it can have no sidecar")
        if not photo.is_file():
            raise LeftOutError("it is not there now: is the disk plugged in?")
        folder = photo.parent
        if folder not in self._names:
            if index_around(folder) is not None:
                raise LeftOutError("it lies inside an index, where nothing is written")
            by_stem: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    by_stem.setdefault(os.path.splitext(name)[0], []).append(name)
            except OSError as error:
                raise LeftOutError(f"its folder cannot be read: {error.strerror}") from None
            self._names[folder] = by_stem
        names = self._names[folder]
        for stem in (photo.name, photo.stem):
            found = sorted(name for name in names.get(stem, ()) if name.lower().endswith(".xmp"))
            others = [name for name in names.get(stem, ()) if name not in (*found, photo.name)]
            if found and (stem == photo.name or not others):
                return folder / found[0]
        return folder / f"{photo.name}.xmp"


def _plan(place: Path, row: ExportRow, keywords: tuple[str, ...]) -> ExportedFile | None:
    """What to write for a photo; None when its sidecar has all the keywords. LeftOutError."""
    if not os.access(place.parent, os.W_OK):
        raise LeftOutError(f"its folder is read-only: {place.parent}")
    original, mtime_ns, mode = _read(place)
    try:
        held = own_keywords(original) if original is not None else frozenset()
        data = add_keywords(original, keywords, row.keywords)
    except SidecarError as error:
        raise LeftOutError(f"its sidecar {place.name} is left as it is: {error}") from None
    if data == original:
        return None
    return ExportedFile(
        place,
        hashlib.sha256(data).hexdigest(),
        source=row.path,
        original=original,
        mtime_ns=mtime_ns,
        mode=mode,
        keywords=tuple(word for word in keywords if word not in held),
    )


def _read(place: Path) -> tuple[bytes | None, int, int]:
    """(bytes, mtime in ns, mode) of a sidecar; None for one that is not there. LeftOutError."""
    try:
        found = os.lstat(place)
        if not stat.S_ISREG(found.st_mode):
            raise LeftOutError(f"{place.name} beside it is no plain file")
        if found.st_size > xmp_source.MAX_BYTES:
            raise LeftOutError(f"{place.name} beside it is too large for a sidecar")
        if not os.access(place, os.W_OK):
            raise LeftOutError(f"its sidecar {place.name} is read-only")
        return place.read_bytes(), found.st_mtime_ns, stat.S_IMODE(found.st_mode)
    except FileNotFoundError:
        return None, 0, 0
    except OSError as error:
        raise LeftOutError(f"its sidecar {place.name} cannot be read: {error.strerror}") from None


def _write(
    destination: Destination, keywords: Sequence[str], photo_keywords: Sequence[str]
) -> None:
    file = destination.file
    original = _read(file.path)[0]
    if original != file.original:
        raise LeftOutError(f"another program changed {file.path.name} meanwhile: export again")
    data = add_keywords(original, keywords, photo_keywords)
    try:
        with open(destination.temporary, "xb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        if original is not None:
            os.chmod(destination.temporary, file.mode)
        destination.place(hashlib.sha256(data).hexdigest(), over=original is not None)
    except FileExistsError:
        raise LeftOutError(f"another program made {file.path.name} meanwhile") from None
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        raise LeftOutError(f"its folder is read-only: {file.path.parent}") from None
