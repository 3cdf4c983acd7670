"""Filters in the language of Milvus; what that cannot say becomes a list of ids.

Two values only, as everywhere: a test on what is not known is false, and its ``not`` true. Milvus
knows a third, so ``not`` is carried down to the tests, where each says what it means of null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from datetime import datetime

from clipsearch.database_fields import FIELDS
from clipsearch.filters import (
    And,
    Contains,
    Equal,
    Filter,
    In,
    Known,
    Not,
    Or,
    Range,
    Within,
)
from clipsearch.metadata_columns import folded, microseconds, string_array
from clipsearch.shards import Int64

MOST_IDS = 20_000
"""Of all lists in one expression together; beyond it the index itself answers sooner."""
_MOST_TEXT = 2_000_000
_MOST_INTEGER = 2**63 - 1


class _TooManyIds(Exception):
    """Milvus is not the place to ask this."""


def expression(
    where: Filter, matching: Callable[[Filter], Int64], cut: Collection[str] = ()
) -> str | None:
    """``where`` as Milvus reads it; None where that would take too many ids.

    matching : the rising ids that pass a test that Milvus cannot say. cut : the fields that it
    does not hold whole.
    """
    try:
        text = _Translation(matching, cut).of(where, True)
    except _TooManyIds:
        return None
    return text if len(text) <= _MOST_TEXT else None


class _Translation:
    def __init__(self, matching: Callable[[Filter], Int64], cut: Collection[str]) -> None:
        self._matching = matching
        self._cut = cut
        self._ids = 0

    def of(self, where: Filter, holds: bool) -> str:
        """The expression of the images that pass, or of those that do not."""
        if isinstance(where, Not):
            return self.of(where.part, not holds)
        if isinstance(where, And | Or):
            word = "and" if isinstance(where, And) == holds else "or"
            return "(" + f" {word} ".join(self.of(part, holds) for part in where.parts) + ")"
        said = self._said(where, holds)
        return self._listed(where, holds) if said is None else said

    def _listed(self, where: Filter, holds: bool) -> str:
        ids = self._matching(where)
        self._ids += len(ids)
        if self._ids > MOST_IDS:
            raise _TooManyIds
        if not len(ids):
            return "id < 0" if holds else "id >= 0"
        return f"id {'in' if holds else 'not in'} {ids.tolist()}"

    def _said(self, where: Filter, holds: bool) -> str | None:
        """One test; None where Milvus cannot say it."""
        if isinstance(where, Within):
            return _box(where, holds)
        if not isinstance(where, Equal | In | Contains | Range | Known):
            return None
        if where.field == "id":
            return _of_number("id", where, holds, True, nullable=False)
        kind = FIELDS.get(where.field)
        if kind is None or (where.field in self._cut and not isinstance(where, Known)):
            return None
        if isinstance(where, Known):
            return f"{where.field} is {'not null' if holds else 'null'}"
        if kind in ("integer", "number"):
            return _of_number(where.field, where, holds, kind == "integer")
        return _of_text(where.field, where, holds, kind == "texts")


def _or_null(name: str, positive: str, negative: str, holds: bool, nullable: bool = True) -> str:
    if not nullable:
        return positive if holds else f"({negative})"
    return f"({name} is not null and {positive})" if holds else f"({name} is null or {negative})"


def _of_number(
    name: str,
    test: Equal | In | Contains | Range | Known,
    holds: bool,
    whole: bool,
    nullable: bool = True,
) -> str | None:
    if isinstance(test, Known):  # only of the id, which every image has
        return "id >= 0" if holds else "id < 0"
    if isinstance(test, Range):
        parts: list[tuple[str, str]] = []
        for bound, opened, (sign, other) in (
            (test.low, test.low_open, (">", "<=")),
            (test.high, test.high_open, ("<", ">=")),
        ):
            if bound is None:
                continue
            number = _number(bound, whole)
            if number is None:
                return None
            if not opened:
                sign, other = f"{sign}=", other[0]
            parts.append((f"{name} {sign} {number}", f"{name} {other} {number}"))
        positive = " and ".join(part for part, _ in parts)
        negative = " or ".join(part for _, part in parts)
        if len(parts) > 1:
            negative = f"({negative})"
        return _or_null(name, positive, negative, holds, nullable)
    if isinstance(test, Contains):
        return None
    values = test.values if isinstance(test, In) else (test.value,)
    numbers = [_number(value, whole) for value in values]
    if any(number is None for number in numbers):
        return None
    listed = ", ".join(str(number) for number in numbers)
    if whole:
        return _or_null(name, f"{name} in [{listed}]", f"{name} not in [{listed}]", holds, nullable)
    # Lists of numbers with a point are compared as texts by some versions.
    positive = " or ".join(f"{name} == {number}" for number in numbers)
    negative = " and ".join(f"{name} != {number}" for number in numbers)
    return _or_null(name, f"({positive})", f"({negative})", holds, nullable)


def _number(value: object, whole: bool) -> str | None:
    if isinstance(value, datetime):
        return str(microseconds(value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if whole:
        return str(value) if isinstance(value, int) and abs(value) <= _MOST_INTEGER else None
    number = float(value)
    return repr(number) if math.isfinite(number) else None


def _of_text(
    name: str, test: Equal | In | Contains | Range | Known, holds: bool, several: bool
) -> str | None:
    if isinstance(test, Contains):
        pattern = _folded(test.text)
        if several or not _plain(pattern) or any(letter in pattern for letter in "%_\\"):
            return None
        like = f'{name} like "%{_escaped(pattern)}%"'
        return _or_null(name, like, f"not ({like})", holds)
    if isinstance(test, Equal):
        values: tuple[object, ...] = (test.value,)
    elif isinstance(test, In):
        values = test.values
    else:
        return None
    texts = [_folded(str(value)) for value in values]
    if not all(map(_plain, texts)):
        return None
    if several:
        tests = [f'array_contains({name}, "{_escaped(text)}")' for text in texts]
        positive = "(" + " or ".join(tests) + ")"
        return _or_null(name, positive, f"not {positive}", holds)
    listed = ", ".join(f'"{_escaped(text)}"' for text in texts)
    return _or_null(name, f"{name} in [{listed}]", f"{name} not in [{listed}]", holds)


def _folded(text: str) -> str:
    found: str = folded(string_array([text]))[0].as_py()
    return found


def _plain(text: str) -> bool:
    """Whether a text has nothing in it that a lexer may stumble over."""
    return text.isprintable() and "\\" not in text


def _escaped(text: str) -> str:
    return text.replace('"', '\\"')


def _box(box: Within, holds: bool) -> str:
    south, west, north, east = (
        repr(float(side)) for side in (box.south, box.west, box.north, box.east)
    )
    if box.west <= box.east:
        inside, outside = (
            f"(lon >= {west} and lon <= {east})",
            f"(lon < {west} or lon > {east})",
        )
    else:
        inside, outside = (
            f"(lon >= {west} or lon <= {east})",
            f"(lon < {west} and lon > {east})",
        )
    # 180 degrees east is 180 degrees west.
    edges = [side for side in (-180.0, 180.0) if _between(-side, box)]
    for side in edges:
        inside = f"({inside} or lon == {side})"
        outside = f"({outside} and lon != {side})"
    if holds:
        return (
            f"(lat is not null and lon is not null and lat >= {south} and lat <= {north} "
            f"and {inside})"
        )
    return f"(lat is null or lon is null or lat < {south} or lat > {north} or {outside})"


def _between(longitude: float, box: Within) -> bool:
    if box.west <= box.east:
        return box.west <= longitude <= box.east
    return longitude >= box.west or longitude <= box.east
