"""Filters: one small tree of tests on what is known of an image, and its text form.

``parse_filter`` reads it, ``str`` writes it, and the one undoes the other. The tree names no
database; ``metadata.matching_ids`` answers it from the Parquet files of an index.

    camera = "Canon EOS 5D" and taken >= 2019-07 and not (format in (PNG, GIF) or width < 800)

Two values only: a test on something that is not known is false, so its ``not`` is true. A photo
without a date is in ``not taken >= 2019``; say ``taken is known and ...`` to leave it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from clipsearch.errors import FilterError
from clipsearch.filter_fields import (
    Value,
    bound_text,
    check_place,
    check_text,
    checked,
    checked_moment,
    checked_number,
    kind_of,
    quoted,
    written,
)

MAX_DEPTH = 50
"""So deep may a filter nest: far more than a person writes, far less than the stack holds."""


class Filter:
    """A test that an image passes or fails. ``a & b``, ``a | b`` and ``~a`` combine them."""

    depth: int = 1

    def __and__(self, other: Filter) -> Filter:
        return And((self, other))

    def __or__(self, other: Filter) -> Filter:
        return Or((self, other))

    def __invert__(self) -> Filter:
        return Not(self)


@dataclass(frozen=True)
class Equal(Filter):
    """The field is this: a text (case does not count), a number, or a flag."""

    field: str
    value: Value

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", checked(self.field, self.value))

    def __str__(self) -> str:
        return f"{self.field} = {written(self.value)}"


@dataclass(frozen=True)
class In(Filter):
    """The field is one of these."""

    field: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        values = tuple(dict.fromkeys(checked(self.field, value) for value in self.values))
        if not values:
            raise FilterError(f"expected at least one value for {self.field}, got none")
        object.__setattr__(self, "values", values)

    def __str__(self) -> str:
        return f"{self.field} in ({', '.join(map(written, self.values))})"


@dataclass(frozen=True)
class Contains(Filter):
    """The text of the field has this somewhere in it; case does not count."""

    field: str
    text: str

    def __post_init__(self) -> None:
        if kind_of(self.field) not in ("text", "folder"):
            raise FilterError(f"{self.field} is no text, so ~ does not go with it")
        check_text(self.text)

    def __str__(self) -> str:
        return f"{self.field} ~ {quoted(self.text)}"


@dataclass(frozen=True)
class Range(Filter):
    """The field, a number or a date, lies between two bounds; None leaves a side open.

    A bound counts in unless it is ``open``. Of dates the lower one counts in and the upper one
    does not; another wish is brought into that form. ``exif.NAME`` compares as a number.
    """

    field: str
    low: int | float | datetime | None = None
    high: int | float | datetime | None = None
    low_open: bool = False
    high_open: bool = False

    def __post_init__(self) -> None:
        kind = kind_of(self.field)
        if kind not in ("number", "date") and not self.field.startswith("exif."):
            raise FilterError(f"{self.field} has no order: compare it with =, != or in")
        if self.low is None and self.high is None:
            raise FilterError(f"expected a bound for {self.field}, got none")
        for name in ("low", "high"):
            bound = getattr(self, name)
            is_open = bound is not None and getattr(self, f"{name}_open")
            if kind == "date" and bound is not None:
                bound = checked_moment(self.field, bound)
                if is_open != (name == "high"):
                    bound += min(timedelta(microseconds=1), datetime.max - bound)
                is_open = name == "high"
            elif bound is not None:
                bound = checked_number(self.field, bound)
            object.__setattr__(self, name, bound)
            object.__setattr__(self, f"{name}_open", is_open)
        if self.low is not None and self.high is not None and self.low > self.high:  # type: ignore[operator]
            raise FilterError(
                f"expected the lower bound of {self.field} first, got {bound_text(self.low)} "
                f"and then {bound_text(self.high)}"
            )

    def __str__(self) -> str:
        below = "<" if self.high_open else "<="
        if self.low is None:
            return f"{self.field} {below} {bound_text(self.high)}"
        if self.high is None:
            return f"{self.field} {'>' if self.low_open else '>='} {bound_text(self.low)}"
        above = "<" if self.low_open else "<="
        return f"{bound_text(self.low)} {above} {self.field} {below} {bound_text(self.high)}"


@dataclass(frozen=True)
class Known(Filter):
    """There is something in the field."""

    field: str

    def __post_init__(self) -> None:
        if kind_of(self.field) == "label":
            raise FilterError("expected the label's name, as in label = dog")

    def __str__(self) -> str:
        return f"{self.field} is known"


@dataclass(frozen=True)
class InFolder(Filter):
    """A file of the image lies in this folder, in one below it, or in this tar file.

    folder : absolute. Upper and lower case count as the system's file names do.
    """

    folder: str

    def __post_init__(self) -> None:
        check_text(self.folder)
        if "\0" in self.folder:
            raise FilterError("a folder's name cannot hold a NUL character")

    def __str__(self) -> str:
        return f"in {quoted(self.folder)}"


@dataclass(frozen=True)
class HasLabel(Filter):
    """The image has this label of a saved label set; "SET:LABEL" asks one set only."""

    name: str

    def __post_init__(self) -> None:
        check_text(self.name)

    def __str__(self) -> str:
        return f"label = {quoted(self.name)}"


@dataclass(frozen=True)
class Near(Filter):
    """Taken at most ``km`` kilometres from a point, along the great circle."""

    lat: float
    lon: float
    km: float

    def __post_init__(self) -> None:
        check_place(self.lat, self.lon)
        if not 0 <= checked_number("the distance", self.km) <= 20_040:
            raise FilterError(f"expected a distance of 0 to 20,040 km, got {self.km:g}")

    def __str__(self) -> str:
        return f"near({self.lat!r}, {self.lon!r}, {self.km!r})"


@dataclass(frozen=True)
class Within(Filter):
    """Taken inside a box of degrees, edges included. A box whose west is greater than its east
    crosses the 180th meridian."""

    south: float
    west: float
    north: float
    east: float

    def __post_init__(self) -> None:
        check_place(self.south, self.west)
        check_place(self.north, self.east)
        if self.south > self.north:
            raise FilterError(
                f"expected a box as SOUTH, WEST, NORTH, EAST; its south {self.south:g} lies "
                f"north of its north {self.north:g}"
            )

    def __str__(self) -> str:
        return f"within({self.south!r}, {self.west!r}, {self.north!r}, {self.east!r})"


@dataclass(frozen=True)
class _Several(Filter):
    parts: tuple[Filter, ...]
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # "(a and b) and c" is "a and b and c": one form of each tree, so that it reads back.
        flat = [
            inner
            for part in self.parts
            for inner in (part.parts if isinstance(part, _Several) and type(part) is type(self)
                          else (part,))
        ]  # fmt: skip
        if len(flat) < 2:
            raise ValueError(f"expected two or more parts, got {len(flat)}")
        object.__setattr__(self, "parts", tuple(flat))
        object.__setattr__(self, "depth", _deeper(flat))


class And(_Several):
    """All of the parts, two or more."""

    def __str__(self) -> str:
        return " and ".join(
            f"({part})" if isinstance(part, Or) else str(part) for part in self.parts
        )


class Or(_Several):
    """At least one of the parts, two or more."""

    def __str__(self) -> str:
        return " or ".join(map(str, self.parts))


@dataclass(frozen=True)
class Not(Filter):
    """Exactly the images that ``part`` leaves out, those of which nothing is known too."""

    part: Filter
    depth: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", _deeper([self.part]))

    def __str__(self) -> str:
        return f"not ({self.part})" if isinstance(self.part, _Several) else f"not {self.part}"


def all_of(filters: Sequence[Filter]) -> Filter | None:
    """Their ``And``; the one itself, or None, when there are not two."""
    return And(tuple(filters)) if len(filters) > 1 else next(iter(filters), None)


def any_of(filters: Sequence[Filter]) -> Filter | None:
    """Their ``Or``; the one itself, or None, when there are not two."""
    return Or(tuple(filters)) if len(filters) > 1 else next(iter(filters), None)


def parse_filter(text: str, now: datetime | None = None) -> Filter:
    """The tree of a filter's text; see ``filter_parser`` for the grammar.

    Relative dates are seen from ``now``, relative folders from the current one: the tree holds
    both as absolute. Raises FilterError, which says where, what was expected and what came.
    """
    from clipsearch.filter_parser import Parser

    return Parser(text, now).parse()


def _deeper(parts: Sequence[Filter]) -> int:
    depth = 1 + max(part.depth for part in parts)
    if depth > MAX_DEPTH:
        raise FilterError(f"the filter nests more than {MAX_DEPTH} deep")
    return depth
