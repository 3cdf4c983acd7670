"""The date that the name of a photo tells, for photos that tell none themselves."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

EARLIEST = datetime(1990, 1, 1)
"""Before this no camera or phone put dates into names."""

_YEAR = r"(?P<year>199\d|20\d\d)"
_ANY_YEAR = re.compile(_YEAR)
_COMPACT_DAY = rf"{_YEAR}(?P<month>\d\d)(?P<day>\d\d)"
_PARTED_DAY = rf"{_YEAR}(?P<mark>[-_.])(?P<month>\d\d)(?P=mark)(?P<day>\d\d)"
_COMPACT_CLOCK = r"(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?P<fraction>\d{3})?(?![0-9])"
_PARTED_CLOCK = (
    r"(?P<hour>\d\d?)(?P<colon>[-_.:])(?P<minute>\d\d)(?P=colon)(?P<second>\d\d)(?![0-9])"
    r"(?:[ \u202f_]?(?P<half>[AaPp])[Mm]\b)?"
)
# Macs say "at" in the language of their user.
_BETWEEN = r"(?:[-_.T ]|,? |-at-|[ _](?:at|um|à|a las|a la|alle|om|kl\.|às|klo|o)[ _])"
# What programs put directly before a date; after any other letter or digit it is none, but a
# part of an id.
_PREFIX = (
    r"(?:(?<![0-9A-Za-z])(?<![0-9][.])|(?<=^IMG)|(?<=^VID)|(?<=^MVIMG)|(?<=^PANO)|(?<=^P)|(?<=^WP)"
    r"|(?<=^Screenshot)|(?<=_BURST))"
)
_FORMS = tuple(
    re.compile(_PREFIX + form)
    for form in (
        _COMPACT_DAY + _BETWEEN + _COMPACT_CLOCK,
        _PARTED_DAY + _BETWEEN + _PARTED_CLOCK,
        _PARTED_DAY + _BETWEEN + _COMPACT_CLOCK,
        _COMPACT_DAY + _BETWEEN + _PARTED_CLOCK,
        _COMPACT_DAY + _COMPACT_CLOCK,
        _PARTED_DAY + r"(?![0-9A-Za-z]|[-_.]\d\d?[-_.])",
    )
)
# Eight digits alone are more often a number than a date: only where a name begins with them, or
# behind a word that cameras and messengers write.
_LONE_DAY = re.compile(
    r"^(?:(?:IMG|VID|MVIMG|PANO|WP|PXL|DSC|DSCN|Screenshot|Photo|Image|signal|Snapchat|FB_IMG)"
    rf"[-_ ])?{_COMPACT_DAY}(?![0-9A-Za-z]|[-_ ]\d{{4}})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class NameDate:
    """A date in a name.

    moment : wall clock, midnight when only the day is told. has_clock : whether more is told.
    utc_offset_minutes : 0 where the clock is known to be UTC, else None.
    """

    moment: datetime
    has_clock: bool
    utc_offset_minutes: int | None = None


def date_of_name(name: str, now: datetime | None = None) -> NameDate | None:
    """The date in a file's name (without its folder), None when there is no plausible one.

    Understood are the names that phones, cameras, messengers and screenshots give
    (``IMG_20190704_123456``, ``PXL_20190704_103456789``, ``IMG-20190704-WA0001``,
    ``Screenshot_2019-07-04-12-00-00``, ``2019-07-04 12.34.56``), where the date is one of the
    calendar, from 1990 to a day after ``now`` (by default, now). Pixel phones (``PXL_``) write
    UTC, all others the wall clock.
    """
    name = unicodedata.normalize("NFC", name)
    if _ANY_YEAR.search(name) is None:  # most names: what follows would take ten times as long
        return None
    stem = name.rpartition(".")[0] or name
    latest = (now or datetime.now()) + timedelta(days=1)
    for found in _dates(stem):
        if EARLIEST <= found.moment <= latest:
            is_utc = found.has_clock and stem.startswith("PXL_")
            return NameDate(found.moment, found.has_clock, 0 if is_utc else None)
    return None


def _dates(stem: str) -> Iterator[NameDate]:
    """What could be dates, the most telling first."""
    for form in (*_FORMS, _LONE_DAY):
        for match in form.finditer(stem):
            if (found := _as_date(match.groupdict())) is not None:
                yield found


def _as_date(parts: dict[str, str | None]) -> NameDate | None:
    hour = int(parts.get("hour") or 0)
    if half := parts.get("half"):
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half in "Pp" else 0)
    try:
        moment = datetime(
            int(parts["year"] or 0),
            int(parts["month"] or 0),
            int(parts["day"] or 0),
            hour,
            int(parts.get("minute") or 0),
            int(parts.get("second") or 0),
            1000 * int(parts.get("fraction") or 0),
        )
    except ValueError:  # no such day, or no such time of day
        return None
    return NameDate(moment, parts.get("hour") is not None)
