"""What lies beside a photo, or stands in its name, and tells more of it than the photo does.

Only gaps are filled: what a photo says itself stands, except that a date found here comes
before EXIF's date of the last change and the time of a GPS fix (see ``PhotoMetadata``).
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from clipsearch.embedded_text import EmbeddedText, parse_xmp, user_keywords
from clipsearch.exif import attempt, parse_date
from clipsearch.photo_metadata import PhotoMetadata
from indexer.name_dates import NameDate, date_of_name
from indexer.takeout import TakeoutRecord, comparable, is_titled, parse_takeout, takeout_names

MAX_SIDECAR_BYTES = 1 << 20
"""A longer sidecar is not read; Takeout's have 1 to 4 KB."""

_FOLDERS = 64
_STANDING = frozenset(
    {"exif:DateTimeOriginal", "exif:DateTimeDigitized", "xmp", "xmp-sidecar", "takeout"}
)
"""The sources of a date that stand whatever lies beside the photo, or beside another copy."""

# name of a sidecar without its ending, comparable -> its names as they are
_Named = dict[str, list[str]]


class Sidecars:
    """Completes what photos tell of themselves. A folder is listed once while its photos pass.

    ``now`` : no later date is believed (by more than a day); by default, now.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self._now = now
        self._folders: OrderedDict[str, tuple[_Named, _Named]] = OrderedDict()

    def complete(self, metadata: PhotoMetadata, path: str) -> PhotoMetadata:
        """``metadata`` of the photo at ``path``, with what is known from beside it and from its
        name. Never raises for what lies there. May be called again, for a copy at another place.
        """
        folder, name = os.path.split(path)
        xmp = takeout = None
        packets, records = self._listing(folder)
        if packets:
            xmp = _read_xmp(folder, name, packets)
        if records:
            takeout = self._read_takeout(folder, name, records)
        return _completed(metadata, xmp, takeout, self._date_of(name))

    def complete_by_name(self, metadata: PhotoMetadata, name: str) -> PhotoMetadata:
        """The same for a photo that lies in no folder, as in a tar: by its name alone."""
        return _completed(metadata, None, None, self._date_of(os.path.basename(name)))

    def _date_of(self, name: str) -> NameDate | None:
        return date_of_name(name, self._now)

    def _listing(self, folder: str) -> tuple[_Named, _Named]:
        """The XMP and the JSON files in a folder."""
        if folder in self._folders:
            self._folders.move_to_end(folder)
            return self._folders[folder]
        packets: _Named = {}
        records: _Named = {}
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    ending = entry.name[-5:].lower()
                    if ending == ".json":
                        records.setdefault(comparable(entry.name[:-5]), []).append(entry.name)
                    elif ending.endswith(".xmp"):
                        packets.setdefault(comparable(entry.name[:-4]), []).append(entry.name)
        except OSError:
            pass  # photos can be read in a folder that cannot be listed
        self._folders[folder] = packets, records
        if len(self._folders) > _FOLDERS:
            self._folders.popitem(last=False)
        return packets, records

    def _read_takeout(self, folder: str, photo: str, records: _Named) -> TakeoutRecord | None:
        for key, original in takeout_names(comparable(photo)):
            for name in sorted(records.get(key, ())):
                data = _read(os.path.join(folder, name))
                record = None if data is None else parse_takeout(data, self._now)
                if record is not None and is_titled(record, original):
                    return record
        return None


def _read_xmp(folder: str, photo: str, packets: _Named) -> EmbeddedText | None:
    """The XMP of ``photo.jpg.xmp`` and, for what that does not tell, of ``photo.xmp``: programs
    differ in where they write it, and several may have."""
    whole = comparable(photo)
    texts: list[EmbeddedText] = []
    for key in (whole, whole.rpartition(".")[0]):
        for name in sorted(packets.get(key, ())):
            data = _read(os.path.join(folder, name))
            text = attempt(lambda data=data: parse_xmp(data))  # type: ignore[misc]
            if text is not None:
                texts.append(text)
    if len(texts) < 2:
        return texts[0] if texts else None
    return EmbeddedText(
        keywords=tuple(word for text in texts for word in text.keywords),
        description=next((text.description for text in texts if text.description), None),
        rating=next((text.rating for text in texts if text.rating is not None), None),
        lens=next((text.lens for text in texts if text.lens), None),
        dates=tuple(date for text in texts for date in text.dates),
        position=next((text.position for text in texts if text.position), None),
    )


def _read(path: str) -> bytes | None:
    """A small regular file, None for anything else: a pipe would be waited for."""
    try:
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_SIDECAR_BYTES:
                return None
            data = file.read(MAX_SIDECAR_BYTES + 1)
    except (OSError, ValueError):
        return None
    return data if data and len(data) <= MAX_SIDECAR_BYTES else None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _completed(
    metadata: PhotoMetadata,
    xmp: EmbeddedText | None,
    takeout: TakeoutRecord | None,
    named: NameDate | None,
) -> PhotoMetadata:
    changes: dict[str, object] = {}
    taken = _taken(metadata, xmp, takeout, named)
    if taken is not None:
        names = ("taken_at", "utc_offset_minutes", "taken_at_source")
        changes.update(zip(names, taken, strict=True))
    if xmp is not None:
        changes["keywords"] = user_keywords((*metadata.keywords, *xmp.keywords))
        if metadata.rating is None:
            changes["rating"] = xmp.rating
        if metadata.lens is None:
            changes["lens"] = xmp.lens
    if metadata.lat is None:
        if xmp is not None and xmp.position is not None:
            changes["lat"], changes["lon"] = xmp.position
        elif takeout is not None and takeout.lat is not None:
            changes.update(lat=takeout.lat, lon=takeout.lon, altitude=takeout.altitude)
    if metadata.description is None:
        texts = [beside.description for beside in (xmp, takeout) if beside is not None]
        if (description := next(filter(None, texts), None)) is not None:
            changes["description"] = description
    return replace(metadata, **changes) if changes else metadata  # type: ignore[arg-type]


def _taken(
    metadata: PhotoMetadata,
    xmp: EmbeddedText | None,
    takeout: TakeoutRecord | None,
    named: NameDate | None,
) -> tuple[datetime, int | None, str] | None:
    """(taken_at, utc_offset_minutes, taken_at_source); None to leave them as they are."""
    if metadata.taken_at is not None and metadata.taken_at_source in _STANDING:
        return None
    for text in xmp.dates if xmp is not None else ():
        if moment := parse_date(text):
            return *moment, "xmp-sidecar"
    if takeout is not None and takeout.taken_at is not None:
        clocks = _wall_clocks(metadata, named)
        return *_on_the_wall(takeout.taken_at, clocks), "takeout"
    if metadata.taken_at is None and named is not None:
        return named.moment, named.utc_offset_minutes, "name"
    return None


def _wall_clocks(metadata: PhotoMetadata, named: NameDate | None) -> Iterator[datetime]:
    if metadata.taken_at is not None and metadata.taken_at_source == "exif:DateTime":
        yield metadata.taken_at
    if named is not None and named.has_clock and named.utc_offset_minutes is None:
        yield named.moment


def _on_the_wall(utc: datetime, clocks: Iterator[datetime]) -> tuple[datetime, int]:
    """Takeout tells the moment and not the time zone, so ``utc`` itself, with offset 0; unless
    a clock shows the same moment in some time zone: a whole number of quarters of an hour away."""
    for clock in clocks:
        seconds = (clock - utc) / timedelta(seconds=1)
        quarters = round(seconds / 900)
        if -48 <= quarters <= 56 and abs(seconds - 900 * quarters) <= 2:
            return utc + timedelta(minutes=15 * quarters), 15 * quarters
    return utc, 0
