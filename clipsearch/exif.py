"""EXIF tags of an opened image, in Python values that can be trusted.

Cameras and programs write every kind of nonsense into EXIF: a wrong type, a zero denominator, a
date of all zeros, text in an unnamed encoding. Nothing here raises for what a file holds: a tag
that makes no sense is absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from PIL import ExifTags, Image

Tags = Mapping[int, object]
_T = TypeVar("_T")

TEXT_LIMIT = 512
"""Characters kept of one tag in ``short_texts``."""

_MAX_TAGS = 512
_MAX_NUMBERS = 64  # of one tag that is a list
_EARLIEST_YEAR = 1826  # the year of the oldest photograph there is

# Places of pixels, blobs and pointers: never text, and in a large TIFF costly to look at.
_STRUCTURE = frozenset(
    {0x0111, 0x0117, 0x0140, 0x0142, 0x0143, 0x0144, 0x0145, 0x014A, 0x015B, 0x0201, 0x0202}
    | {0x02BC, 0x83BB, 0x8649, 0x8769, 0x8773, 0x8825, 0x927C, 0xA005, 0x935C, 0xEA1C}
)
# What PhotoMetadata holds in fields of its own.
_IN_FIELDS = frozenset({0x010E, 0x0112, 0x4746, 0x4749, 0x9C9E, 0xA434})
_GPS_IN_FIELDS = frozenset({1, 2, 3, 4, 5, 6})
_XP_TAGS = frozenset({0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F})
_USER_COMMENT = 0x9286

_DATE = re.compile(
    r"\s*(\d{4})[:/.-](\d{1,2})[:/.-](\d{1,2})"
    r"(?:[ T]+(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:[.,](\d{1,9}))?)?)?"
    r"\s*(Z|[+-]\d{1,2}:?\d{2})?",
)
_OFFSET = re.compile(r"\s*([+-])(\d{1,2}):?(\d{2})\s*$")


@dataclass(frozen=True)
class ExifTagSets:
    """The tags of each directory by number; empty where there is none."""

    main: Tags = field(default_factory=dict)
    photo: Tags = field(default_factory=dict)
    gps: Tags = field(default_factory=dict)
    interop: Tags = field(default_factory=dict)


def attempt(read: Callable[[], _T]) -> _T | None:
    """What ``read`` returns, or None when what the file holds makes it raise."""
    try:
        return read()
    except Exception:
        return None


def read_exif(image: Image.Image) -> ExifTagSets:
    """All EXIF tags of an opened image."""
    return tag_sets(attempt(image.getexif))


def tag_sets(exif: Image.Exif | None) -> ExifTagSets:
    """All tags of an EXIF block, one by one, so that a bad one costs only itself."""
    if exif is None:
        return ExifTagSets()
    main: dict[int, object] = {}
    for tag in attempt(lambda: list(exif)) or []:
        if tag not in _STRUCTURE:
            value = attempt(lambda tag=tag: exif[tag])  # type: ignore[misc]
            if value is not None:
                main[tag] = value
    return ExifTagSets(
        main,
        attempt(lambda: dict(exif.get_ifd(ExifTags.IFD.Exif))) or {},
        attempt(lambda: dict(exif.get_ifd(ExifTags.IFD.GPSInfo))) or {},
        attempt(lambda: dict(exif.get_ifd(ExifTags.IFD.Interop))) or {},
    )


def to_text(value: object) -> str | None:
    """A tag as text: up to its first NUL, UTF-8 if it can be, else Windows-1252."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        try:
            raw = value.encode("latin-1")  # how Pillow came by it
        except UnicodeEncodeError:
            return clean(value)
    elif isinstance(value, bytes):
        raw = value
    else:
        return None
    raw = raw.split(b"\x00", 1)[0]
    try:
        return clean(raw.decode("utf-8"))
    except UnicodeDecodeError:
        return clean(raw.decode("cp1252", "replace"))


def clean(text: str) -> str | None:
    """Text without control characters and outer blanks; None when nothing is left."""
    kept = "".join(c for c in text.split("\x00", 1)[0] if c >= " " or c in "\n\t")
    return kept.encode("utf-8", "replace").decode("utf-8").strip() or None


def to_utf16_text(value: object) -> str | None:
    """One of Windows' XP tags, which hold UTF-16."""
    if isinstance(value, tuple) and all(isinstance(v, int) and 0 <= v < 256 for v in value):
        value = bytes(value)
    if not isinstance(value, bytes):
        return to_text(value)
    return clean(value.decode("utf-16-le", "replace"))


def to_number(value: object) -> float | None:
    """A tag as one finite number, else None."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes) and len(value) == 1:
        return float(value[0])
    if isinstance(value, str | bytes | tuple):
        return None
    number = attempt(lambda: float(value))  # type: ignore[arg-type]
    return number if number is not None and math.isfinite(number) else None


def to_numbers(value: object) -> list[float] | None:
    """A tag as finite numbers, None when any of them is not."""
    items = value if isinstance(value, tuple) else (value,)
    numbers = [to_number(item) for item in items[:_MAX_NUMBERS]]
    return None if None in numbers else [n for n in numbers if n is not None]


def to_orientation(value: object) -> int:
    """1 .. 8; 1 (upright) for what is no orientation."""
    return value if type(value) is int and 1 <= value <= 8 else 1


def parse_date(text: str | None) -> tuple[datetime, int | None] | None:
    """(wall clock, offset from UTC in minutes or None) of an EXIF or XMP date."""
    match = _DATE.match(text or "")
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    microsecond = int((fraction or "0").ljust(6, "0")[:6])
    try:
        moment = datetime(
            int(year), int(month), int(day),
            int(hour or 0), int(minute or 0), int(second or 0), microsecond,
        )  # fmt: skip
    except ValueError:
        return None
    if moment.year < _EARLIEST_YEAR:
        return None
    return moment, 0 if offset == "Z" else parse_offset(offset)


def parse_offset(text: str | None) -> int | None:
    """Minutes east of UTC of "+02:00"; None for what is no time zone of this earth."""
    match = _OFFSET.match(text or "")
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > 14 * 60 or int(match[3]) > 59:
        return None
    return -minutes if match[1] == "-" else minutes


def gps_position(gps: Tags) -> tuple[float, float] | None:
    """(latitude, longitude) in signed decimal degrees; None when absent, absurd or all zero.

    Without its hemisphere a coordinate is none: half of all guesses would be on the wrong side.
    """
    latitude = _degrees(gps.get(2), to_text(gps.get(1)), "N", "S", 90.0)
    longitude = _degrees(gps.get(4), to_text(gps.get(3)), "E", "W", 180.0)
    if latitude is None or longitude is None or latitude == longitude == 0.0:
        return None
    return latitude, longitude


def _degrees(value: object, side: str | None, plus: str, minus: str, limit: float) -> float | None:
    parts = to_numbers(value)
    letter = (side or "")[:1].upper()
    if not parts or len(parts) > 3 or letter not in (plus, minus) or min(parts) < 0:
        return None
    degrees = math.fsum(part / (1.0, 60.0, 3600.0)[place] for place, part in enumerate(parts))
    if degrees > limit:
        return None
    return -degrees if letter == minus else degrees


def gps_altitude(gps: Tags) -> float | None:
    """Metres above the sea, negative below."""
    metres = to_number(gps.get(6))
    if metres is None or not 0 <= abs(metres) <= 100_000:
        return None
    return -abs(metres) if to_number(gps.get(5)) == 1 else metres


def gps_moment(gps: Tags) -> datetime | None:
    """The time of the fix, UTC."""
    date = parse_date(to_text(gps.get(29)))
    clock = to_numbers(gps.get(7))
    if date is None or clock is None or len(clock) != 3:
        return None
    seconds = clock[0] * 3600 + clock[1] * 60 + clock[2]
    if min(clock) < 0 or seconds >= 86400:
        return None
    day = date[0].replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(seconds=round(seconds, 3))


def short_texts(exif: ExifTagSets) -> dict[str, str]:
    """The tags that have no field of their own, by name, each as text of bounded length."""
    texts: dict[str, str] = {}
    for tag, name, value in _named_tags(exif):
        text = attempt(lambda tag=tag, value=value: _describe(tag, value))  # type: ignore[misc]
        if text and len(texts) < _MAX_TAGS:
            texts.setdefault(name, text[:TEXT_LIMIT])
    return texts


def _named_tags(exif: ExifTagSets) -> Iterator[tuple[int, str, object]]:
    skipped = _STRUCTURE | _IN_FIELDS
    for tags in (exif.main, exif.photo):
        for tag, value in tags.items():
            if tag not in skipped:
                yield tag, ExifTags.TAGS.get(tag, f"0x{tag:04X}"), value
    for tag, value in exif.gps.items():
        if tag not in _GPS_IN_FIELDS:
            yield -1, ExifTags.GPSTAGS.get(tag, f"GPS0x{tag:04X}"), value
    interop_names = {int(member): member.name for member in ExifTags.Interop}
    for tag, value in exif.interop.items():
        yield -1, interop_names.get(tag, f"Interop0x{tag:04X}"), value


def _describe(tag: int, value: object) -> str | None:
    if tag in _XP_TAGS:
        return to_utf16_text(value)
    if tag == _USER_COMMENT:
        return _user_comment(value)
    if isinstance(value, str):
        return to_text(value)
    if isinstance(value, bytes):
        return _describe_bytes(value)
    numbers = to_numbers(value)
    return None if not numbers else " ".join(f"{number:.10g}" for number in numbers)


def _describe_bytes(value: bytes) -> str | None:
    """Short codes as text or as numbers; a blob is none."""
    if len(value) > 4 * TEXT_LIMIT:
        return None
    stripped = value.strip(b"\x00 ")
    if stripped and all(32 <= byte < 127 for byte in stripped):
        return stripped.decode("ascii")
    return " ".join(str(byte) for byte in value) if 0 < len(value) <= 8 else None


def _user_comment(value: object) -> str | None:
    if not isinstance(value, bytes):
        return to_text(value)
    code, rest = value[:8], value[8:]
    if code == b"UNICODE\x00":
        # The byte order is not said; Latin letters show it.
        little = rest[1::2].count(0) >= rest[0::2].count(0)
        return clean(rest.decode("utf-16-le" if little else "utf-16-be", "replace"))
    return to_text(rest if code in (b"ASCII\x00\x00\x00", bytes(8)) else value)
