"""Filters as a person sets them one by one: since when, in which folder, near what place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from clipsearch.errors import FilterError
from clipsearch.filter_dates import parse_period
from clipsearch.filter_fields import absolute_folder, parse_number
from clipsearch.filters import (
    Contains,
    Filter,
    HasLabel,
    InFolder,
    Near,
    Range,
    Within,
    all_of,
    any_of,
    parse_filter,
)

_PIXELS = re.compile(r"(\d{1,6})(?: ?px)?", re.IGNORECASE | re.ASCII)
_SIDES = re.compile(r"(\d{1,6}) ?[x×] ?(\d{1,6})", re.IGNORECASE | re.ASCII)
_MEGAPIXELS = re.compile(r"[\d.]+ ?mp", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class FilterOptions:
    """The filter options of one command, as they were typed; all that are set must hold.

    since, until : dates, see ``parse_period``; ``until`` includes the whole of its period.
    folders : any of these. cameras : a part of the name of any of these. near : "LAT,LON,KM".
    box : "SOUTH,WEST,NORTH,EAST". min_size : "2MP", "1600" (longer side) or "1600x1200" (longer
    and shorter side). with_labels : all of these. where : an expression, see ``parse_filter``.

    Being texts, they can be kept and read again later, when "last week" is another.
    """

    since: str | None = None
    until: str | None = None
    folders: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    near: str | None = None
    box: str | None = None
    min_size: str | None = None
    with_labels: tuple[str, ...] = ()
    where: str | None = None

    def to_filter(self, now: datetime | None = None) -> Filter | None:
        """Their filter, None when none is set. Relative dates are seen from ``now``.

        Raises FilterError, which names the option.
        """
        now = now or datetime.now()
        parts: list[Filter | None] = [self._taken(now)]
        with _option("--in"):
            parts.append(any_of([InFolder(_folder(folder)) for folder in self.folders]))
        with _option("--camera"):
            parts.append(any_of([Contains("camera", _words(name)) for name in self.cameras]))
        if self.near is not None:
            with _option("--near"):
                names = ["the latitude", "the longitude", "the distance"]
                parts.append(Near(*_numbers(self.near, "LAT,LON,KM", names, "48.85,2.35,5")))
        if self.box is not None:
            with _option("--box"):
                names = ["the south", "the west", "the north", "the east"]
                form, example = "SOUTH,WEST,NORTH,EAST", "47,5,55,15"
                parts.append(Within(*_numbers(self.box, form, names, example)))
        if self.min_size is not None:
            with _option("--min-size"):
                parts.append(_at_least(self.min_size.strip()))
        with _option("--label"):
            parts.append(all_of([HasLabel(label.strip()) for label in self.with_labels]))
        if self.where is not None:
            with _option("--where"):
                parts.append(parse_filter(self.where, now))
        return all_of([part for part in parts if part is not None])

    def _taken(self, now: datetime) -> Filter | None:
        low = high = None
        if self.since is not None:
            with _option("--since"):
                low = parse_period(self.since, now).start
        if self.until is not None:
            with _option("--until"):
                high = parse_period(self.until, now).end
        if low is None and high is None:
            return None
        if low is not None and high is not None and low >= high:
            raise FilterError(
                f"--since {self.since} begins after --until {self.until} has ended: "
                "give the earlier date to --since"
            )
        return Range("taken", low, high, high_open=True)


@contextlib.contextmanager
def _option(name: str) -> Iterator[None]:
    try:
        yield
    except FilterError as error:
        raise FilterError(f"{name}: {error}") from None


def _folder(text: str) -> str:
    if not text:
        raise FilterError("expected a folder, got an empty name")
    return absolute_folder(text)


def _words(text: str) -> str:
    return " ".join(text.split())


def _numbers(text: str, form: str, names: list[str], example: str) -> list[float]:
    parts = text.split(",")
    if len(parts) != len(names):
        raise FilterError(f"expected {form}, such as {example}; got {text[:60]!r}")
    return [parse_number(name, part) for name, part in zip(names, parts, strict=True)]


def _at_least(text: str) -> Filter:
    """Pictures are as large upright as on their side."""
    if match := _SIDES.fullmatch(text):
        longer, shorter = sorted(map(int, match.groups()), reverse=True)
        wide = Range("width", low=longer) & Range("height", low=shorter)
        return wide | (Range("width", low=shorter) & Range("height", low=longer))
    if match := _PIXELS.fullmatch(text):
        side = int(match[1])
        return Range("width", low=side) | Range("height", low=side)
    if _MEGAPIXELS.fullmatch(text):
        return Range("megapixels", low=parse_number("megapixels", text))
    raise FilterError(
        "expected megapixels such as 2MP, the longer side such as 1600, or both sides such as "
        f"1600x1200; got {text[:60]!r}"
    )
