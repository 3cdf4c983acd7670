"""The JSON that Google Takeout lays beside each photo: its name, and what it tells.

The naming rules are nowhere written down; these are what exports of many years show. A photo
``IMG_1.jpg`` has ``IMG_1.jpg.json`` or, since 2024, ``IMG_1.jpg.supplemental-metadata.json``,
all before ``.json`` cut to 46 characters. The number of a second photo of one name moves:
``IMG_1(1).jpg`` has ``IMG_1.jpg(1).json`` or ``IMG_1.jpg.supplemental-metadata(1).json``. What
was edited in Google Photos (``IMG_1-edited.jpg``, with a word of the user's language) has
the JSON of the original. The title inside is the full name, as it was when it was uploaded.
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from clipsearch.exif import clean

_ADDED = ".supplemental-metadata"
_LONGEST = 51
_SURELY_CUT = 40
"""A name as long as this may have been cut. In other units than characters (as UTF-16 counts
an emoji twice) the limit of 46 comes sooner."""

_NUMBERED = re.compile(r"^(?P<name>.*)\((?P<number>\d{1,4})\)$", re.DOTALL)
_EDITED = re.compile(
    r"-(?:edited|effects|smile|mix|animation|collage|bearbeitet|modifi[eé]|ha editado|editad[oa]"
    r"|editat|modificato|bewerkt|edytowane|redigerad|redigeret|redigert|muokattu|upraven[oéáý]"
    r"|szerkesztett|d[uü]zenlendi|изменено|编辑|编辑后|已修改|已編輯|編集済み|편집됨)$"
)
_EARLIEST_YEAR = 1826


@dataclass(frozen=True)
class TakeoutRecord:
    """What one JSON tells; None for what it does not.

    title : the name of the photo when it was uploaded. taken_at : UTC. lat, lon : signed
    decimal degrees. altitude : metres.
    """

    title: str | None = None
    taken_at: datetime | None = None
    lat: float | None = None
    lon: float | None = None
    altitude: float | None = None
    description: str | None = None


def parse_takeout(data: bytes, now: datetime | None = None) -> TakeoutRecord | None:
    """The record in a JSON file; None for what is none of Takeout's. Never raises for what
    the file holds.

    now : later dates (by more than a day) are none; by default, now.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    if not isinstance(document, dict) or "photoTakenTime" not in document:
        return None  # that of an album, or of another program
    position = _position(document.get("geoData")) or _position(document.get("geoDataExif"))
    lat, lon, altitude = position or (None, None, None)
    return TakeoutRecord(
        title=_text(document.get("title")),
        taken_at=_moment(document["photoTakenTime"], now),
        lat=lat,
        lon=lon,
        altitude=altitude,
        description=_text(document.get("description")),
    )


def takeout_names(photo: str) -> Iterator[tuple[str, str]]:
    """Yield (name of a JSON file without ``.json``, the original's name), likeliest first,
    under which the JSON of a photo of this name may lie.

    photo : a name without its folder, in the form that ``comparable`` gives.
    """
    for original, number in _originals(photo):
        whole = original + _ADDED
        for end in range(len(whole), len(original) + 1, -1):
            yield whole[:end] + number, original
        yield original + number, original
        for end in range(min(_LONGEST, len(original) - 1), _SURELY_CUT - 1, -1):
            yield original[:end] + number, original


def comparable(name: str) -> str:
    """A file name in the form in which names are compared: Unicode's NFC (a Mac unpacks to
    NFD), in lower case."""
    return unicodedata.normalize("NFC", name).casefold()


def is_titled(record: TakeoutRecord, original: str) -> bool:
    """Whether the title of a record fits a photo of the name ``original``, of which
    characters that no file system takes were replaced, and which may have been cut. The
    ending may differ: a photo may have been converted on its way. No title fits all."""
    if record.title is None:
        return True
    stem = _plain(_stem(original))
    for title in (record.title, html.unescape(record.title)):
        full = _plain(_stem(comparable(title)))
        if full == stem or _plain(comparable(title)) == stem:
            return True
        if len(stem) >= _SURELY_CUT and full.startswith(stem):
            return True
    return False


def _originals(photo: str) -> Iterator[tuple[str, str]]:
    """(name of the original, "(2)" or the like to stand behind it)."""
    stem, ending = _stem(photo), photo[len(_stem(photo)) :]
    yield photo, ""
    if match := _NUMBERED.match(stem):
        number = f"({match['number']})"
        yield match["name"] + ending, number
        if (edited := _EDITED.sub("", match["name"])) != match["name"]:
            yield edited + ending, number
    if (edited := _EDITED.sub("", stem)) != stem:
        yield edited + ending, ""
        if match := _NUMBERED.match(edited):  # IMG_1(1)-edited.jpg
            yield match["name"] + ending, f"({match['number']})"


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _plain(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def _text(value: object) -> str | None:
    return clean(value) if isinstance(value, str) else None


def _moment(value: object, now: datetime | None) -> datetime | None:
    stamp = value.get("timestamp") if isinstance(value, dict) else None
    if isinstance(stamp, str) and re.fullmatch(r"-?\d{1,12}", stamp):
        stamp = int(stamp)
    if type(stamp) is not int or stamp == 0:
        return None
    try:
        moment = datetime(1970, 1, 1) + timedelta(seconds=stamp)
    except OverflowError:
        return None
    latest = (now or datetime.now()) + timedelta(days=1)
    return moment if moment.year >= _EARLIEST_YEAR and moment <= latest else None


def _position(value: object) -> tuple[float, float, float | None] | None:
    """(latitude, longitude, altitude); all zero is Takeout's way to say none."""
    if not isinstance(value, dict):
        return None
    lat, lon, altitude = (_number(value.get(n)) for n in ("latitude", "longitude", "altitude"))
    if not (abs(lat) <= 90 and abs(lon) <= 180) or (lat, lon) == (0.0, 0.0):
        return None
    return lat, lon, None if altitude == 0 or math.isnan(altitude) else altitude


def _number(value: object) -> float:
    """nan for what is no number of a sensible size."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 100_000:
        return math.nan
    return float(value)
