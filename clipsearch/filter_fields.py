"""The fields of a filter: what each holds, and what may be compared with it."""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Literal

from clipsearch.errors import FilterError
from clipsearch.remote_paths import place_of
from clipsearch.remote_urls import is_remote

Kind = Literal["text", "number", "date", "flag", "folder", "label"]
Value = str | int | float | bool

FIELDS: dict[str, Kind] = {
    "taken": "date",  # by the clock where it was taken
    "camera": "text",  # make and model
    "lens": "text",
    "keyword": "text",  # one of them
    "description": "text",
    "folder": "folder",  # the folder or one below it
    "path": "text",  # whole, from the root of the disk
    "name": "text",  # of the file, with its ending
    "format": "text",  # JPEG, PNG, HEIF, ...
    "width": "number",  # pixels, as shown
    "height": "number",
    "megapixels": "number",
    "bytes": "number",  # of the file
    "rating": "number",  # stars 0 to 5, -1 for rejected
    "orientation": "number",  # EXIF, 1 to 8
    "frames": "number",
    "lat": "number",  # degrees, north positive
    "lon": "number",  # degrees, east positive
    "altitude": "number",  # metres
    "modified": "date",  # the file, by this computer's clock
    "source": "text",  # where the date comes from, such as exif:DateTimeOriginal
    "missing": "flag",  # the last scan found no file of it
    "label": "label",  # of a saved label set
    "id": "number",
}
"""Every field, and what it holds. ``exif.NAME`` is any other EXIF tag, by its name."""

MAX_TEXT = 4096
"""Characters of one text in a filter."""
_MAX_NUMBER = 10**18

_EXIF_NAME = re.compile(r"exif\.[A-Za-z0-9_]{1,80}")


def kind_of(name: str) -> Kind:
    """What the field ``name`` holds; FilterError, with the nearest names, when there is none."""
    if name in FIELDS:
        return FIELDS[name]
    if _EXIF_NAME.fullmatch(name):
        return "text"
    raise FilterError(f"there is no field {shown(name)}{_suggestion(name)}")


_MEANT = {
    "date": "taken", "time": "taken", "year": "taken", "make": "camera", "model": "camera",
    "tag": "keyword", "tags": "keyword", "size": "bytes or megapixels", "file": "name",
    "filename": "name", "filesize": "bytes", "dir": "folder", "directory": "folder",
    "stars": "rating", "gps": "near(LAT, LON, KM)", "place": "near(LAT, LON, KM)",
    "type": "format", "extension": "format", "caption": "description", "title": "description",
    "mtime": "modified", "elevation": "altitude", "exif": "exif.NAME, such as exif.Flash",
}  # fmt: skip


def _suggestion(name: str) -> str:
    import difflib

    lower = name[:60].lower()
    if lower in _MEANT:
        return f"; did you mean {_MEANT[lower]}?"
    places = {"near": "near(LAT, LON, KM)", "within": "within(SOUTH, WEST, NORTH, EAST)"}
    close = difflib.get_close_matches(lower, [*FIELDS, *places], n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(places.get(name, name) for name in close)}?"
    return f"; there are {', '.join(FIELDS)}, exif.NAME"


def shown(text: str) -> str:
    """What was typed, for a message: quoted, and cut where it is long."""
    return f'"{text if len(text) <= 40 else text[:40] + "..."}"'


_NUMBER = re.compile(
    r"([+-]?(?:\d{1,25}(?:\.\d{0,25})?|\.\d{1,25})(?:e[+-]?\d{1,3})?) ?([a-z]*)",
    re.IGNORECASE | re.ASCII,
)
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_UNITS: dict[str, dict[str, float]] = {
    "bytes": dict(_BYTES),
    "megapixels": {"mp": 1},
    "width": {"px": 1},
    "height": {"px": 1},
    "altitude": {"m": 1, "km": 1000},
    "the distance": {"km": 1, "m": 0.001},
}


def parse_number(name: str, text: str) -> int | float:
    """A number for the field ``name``, with a unit where it has some: 5MB, 2MP, 800px."""
    match = _NUMBER.fullmatch(" ".join(text.split()))
    units = _UNITS.get(name, {})
    if match is None or (match[2] and match[2].lower() not in units):
        unit = f" such as 5{'MB' if name == 'bytes' else next(iter(units))}" if units else ""
        raise FilterError(f"expected a number{unit} for {name}, got {shown(text)}")
    number = int(match[1]) if match[1].lstrip("+-").isdecimal() else float(match[1])
    factor = units.get(match[2].lower(), 1) if match[2] else 1
    return number if factor == 1 else number * factor


def absolute_folder(text: str) -> str:
    """A folder as typed, as an absolute path. Its ``..`` stay: what they mean is a matter of
    the links on the way."""
    if is_remote(text):
        return str(place_of(text))
    folder = os.path.expanduser(text) if text.startswith("~") else text
    return folder if os.path.isabs(folder) else os.path.join(os.getcwd(), folder)


def checked(name: str, value: Value) -> Value:
    """A value that the field can be equal to; FilterError when it cannot."""
    kind = kind_of(name)
    if kind == "number":
        return checked_number(name, value)
    if kind == "flag":
        if not isinstance(value, bool):
            raise FilterError(f"expected true or false for {name}, got {written(value)}")
        return value
    if kind != "text":
        raise FilterError(f"{name} has a filter of its own: parse_filter('{name} = ...') makes it")
    if not isinstance(value, str):
        raise FilterError(f"expected a text for {name}, got {value!r}")
    check_text(value)
    return value


def check_text(text: str) -> None:
    """FilterError for a text that is empty or longer than MAX_TEXT."""
    if not text:
        raise FilterError('expected a text, got ""; for what is not there, say "... is unknown"')
    if len(text) > MAX_TEXT:
        raise FilterError(f"expected a text of at most {MAX_TEXT} characters, got {len(text)}")


def checked_number(name: str, value: object) -> int | float:
    """A finite number, whole ones as int; FilterError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FilterError(f"expected a number for {name}, got {value!r}")
    if not -_MAX_NUMBER <= value <= _MAX_NUMBER:  # which nan is not
        raise FilterError(f"expected a finite number of at most 10^18 for {name}")
    return int(value) if value == int(value) else value


def checked_moment(name: str, value: object) -> datetime:
    """A wall-clock time; FilterError for anything else."""
    if not isinstance(value, datetime) or value.tzinfo is not None:
        raise FilterError(f"expected a date without a time zone for {name}, got {value!r}")
    return value


def check_place(lat: float, lon: float) -> None:
    """FilterError for degrees that are nowhere on the globe."""
    for name, value, limit in (("latitude", lat, 90), ("longitude", lon, 180)):
        if not abs(checked_number(f"the {name}", value)) <= limit:
            raise FilterError(f"expected a {name} of -{limit} to {limit} degrees, got {value:g}")


def written(value: Value) -> str:
    """A value as the parser reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted(value) if isinstance(value, str) else repr(value)


def quoted(text: str) -> str:
    """A text as the parser reads it, whatever is in it."""
    return '"' + text.replace('"', '""') + '"'


def bound_text(bound: int | float | datetime | None) -> str:
    """A bound as the parser reads it; of a date as little as says it all."""
    if not isinstance(bound, datetime):
        return repr(bound)
    day = f"{bound.year:04}-{bound.month:02}-{bound.day:02}"
    if bound.time() == datetime.min.time():
        return day
    clock = f"{bound:%H:%M}"
    if bound.second or bound.microsecond:
        clock += f":{bound:%S}"
    return f"{day} {clock}" + (f".{bound.microsecond:06}" if bound.microsecond else "")
