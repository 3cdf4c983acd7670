"""The text form of a filter, read by recursive descent.

    filter   = all ("or" all)*
    all      = part ("and" part)*
    part     = "not" part | "(" filter ")" | test
    test     = FIELD ("=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~") VALUE    ~ is contains
             | FIELD "=" VALUE ".." VALUE  |  FIELD "between" VALUE "and" VALUE
             | VALUE ("<" | "<=" | ">" | ">=") FIELD [the same again VALUE]
             | FIELD ["not"] "in" "(" VALUE ("," VALUE)* ")"
             | FIELD "is" ["not"] ("known" | "unknown")  |  "missing"
             | "in" FOLDER
             | "near" "(" LAT "," LON "," KM ")"
             | "within" "(" SOUTH "," WEST "," NORTH "," EAST ")"

A value is in quotes of either kind (a quote in it is written twice), or bare words up to the
next ``and``, ``or``, sign, comma, ``..`` or bracket: ``camera = Canon EOS 5D and ...``. Words of
the language and names of fields may be written in any case.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

from clipsearch.errors import FilterError
from clipsearch.filter_dates import Period, parse_period
from clipsearch.filter_fields import Value, absolute_folder, kind_of, parse_number, shown
from clipsearch.filter_tokens import Token, located, read_tokens
from clipsearch.filters import (
    MAX_DEPTH,
    Contains,
    Equal,
    Filter,
    HasLabel,
    In,
    InFolder,
    Known,
    Near,
    Not,
    Range,
    Within,
    all_of,
    any_of,
)

_ORDER = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""The signs of order, and what each becomes from the other side."""
_COMPARE = {"=", "!=", "~", "!~", *_ORDER}
_YES = {"true": True, "yes": True, "false": False, "no": False}


class Parser:
    """Reads one text; see the grammar above."""

    def __init__(self, text: str, now: datetime | None = None) -> None:
        self._tokens = read_tokens(text)
        self._place = 0
        self._depth = 0
        self._now = now or datetime.now()

    def parse(self) -> Filter:
        """The tree of the whole text; FilterError when it is none."""
        if self._next.kind == "end":
            raise FilterError('the filter is empty: write one such as camera = "Canon EOS 5D"')
        tree = self._any()
        if self._next.kind != "end":
            raise self._expected("and, or, or the end")
        return tree

    # -- tokens -------------------------------------------------------------------------

    @property
    def _next(self) -> Token:
        return self._tokens[self._place]

    def _take(self) -> Token:
        token = self._next
        if token.kind != "end":
            self._place += 1
        return token

    def _expected(self, what: str) -> FilterError:
        hint = ""
        if self._next.kind in ("word", "quoted") and self._place:
            before = self._tokens[self._place - 1]
            if before.kind in ("word", "quoted"):
                hint = "; several words that belong together go in quotes"
        return FilterError(f"expected {what}; got {self._next}{hint}", self._next.position)

    def _sign(self, sign: str) -> None:
        if not self._next.is_sign(sign):
            raise self._expected(f'"{sign}"')
        self._take()

    # -- combinations -------------------------------------------------------------------

    def _any(self) -> Filter:
        parts = [self._all()]
        while self._next.is_word("or"):
            self._take()
            parts.append(self._all())
        with located(self._next):
            return any_of(parts) or parts[0]

    def _all(self) -> Filter:
        parts = [self._part()]
        while self._next.is_word("and"):
            self._take()
            parts.append(self._part())
        with located(self._next):
            return all_of(parts) or parts[0]

    def _part(self) -> Filter:
        token = self._next
        if not (token.is_word("not") or token.is_sign("(")):
            return self._test()
        self._take()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise FilterError(f"the filter nests more than {MAX_DEPTH} deep", token.position)
        if token.is_sign("("):
            tree = self._any()
            self._sign(")")
        else:
            part = self._part()
            with located(token):
                tree = Not(part)
        self._depth -= 1
        return tree

    # -- tests --------------------------------------------------------------------------

    def _test(self) -> Filter:
        token = self._next
        after = self._tokens[min(self._place + 1, len(self._tokens) - 1)]
        if token.is_word("near", "within") and after.is_sign("("):
            return self._place_test()
        if token.is_word("in"):
            self._take()
            return self._compare("folder", "=", *self._value("folder"))
        if token.kind == "quoted" or (token.kind == "word" and re.match(r"[+-]?\.?\d", token.text)):
            return self._value_first()
        return self._field_first(self._field())

    def _field(self) -> str:
        token = self._next
        if token.kind != "word" or token.is_word("and", "or", "is", "between"):
            raise self._expected('a test such as camera = "Canon EOS 5D" or near(48.85, 2.35, 5)')
        name = token.text.lower()
        if name.startswith("exif."):
            name = "exif." + token.text[5:]
        try:
            kind_of(name)
        except FilterError as error:
            hint = ""
            if self._place and self._tokens[self._place - 1].is_word("and", "or"):
                hint = '; several values are written "FIELD in (ONE, OTHER)"'
            raise FilterError(f"{error}{hint}", token.position) from None
        self._take()
        return name

    def _field_first(self, name: str) -> Filter:
        token = self._next
        if token.kind == "sign" and token.text in _COMPARE:
            self._take()
            value, at = self._value(name)
            if token.text == "=" and self._next.is_sign(".."):
                self._take()
                return self._between(name, value, at)
            return self._compare(name, token.text, value, at)
        if token.is_word("between"):
            self._take()
            value, at = self._value()
            if not self._next.is_word("and"):
                raise self._expected("and")
            self._take()
            return self._between(name, value, at)
        if token.is_word("is"):
            self._take()
            return self._is_known(name)
        if token.is_word("in"):
            self._take()
            return self._one_of(name)
        if token.is_word("not") and self._tokens[self._place + 1].is_word("in"):
            self._take()
            self._take()
            return Not(self._one_of(name))
        if kind_of(name) == "flag":
            return Equal(name, True)
        raise self._expected(f"=, !=, <, <=, >, >=, ~, in, between or is after {name}")

    def _is_known(self, name: str) -> Filter:
        is_not = self._next.is_word("not")
        if is_not:
            self._take()
        if not self._next.is_word("known", "unknown"):
            raise self._expected("known or unknown")
        word = self._take().text.lower()
        return Known(name) if (word == "known") != is_not else Not(Known(name))

    def _one_of(self, name: str) -> Filter:
        if not self._next.is_sign("("):
            return self._compare(name, "=", *self._value(name))
        self._take()
        values = [self._value(name)]
        while self._next.is_sign(","):
            self._take()
            values.append(self._value(name))
        if not self._next.is_sign(")"):
            raise self._expected('"," or ")"')
        self._take()
        at = values[0][1]
        with located(at):
            if kind_of(name) in ("text", "number"):
                return In(name, tuple(self._read(name, value, token) for value, token in values))
            parts = [self._compare(name, "=", value, token) for value, token in values]
            return any_of(parts) or parts[0]

    def _value_first(self) -> Filter:
        value, at = self._value()
        sign = self._next.text if self._next.is_sign(*_ORDER) else ""
        if not sign:
            raise self._expected("<, <=, > or >= and a field after a value")
        self._take()
        name = self._field()
        first = self._compare(name, _ORDER[sign], value, at)
        if not self._next.is_sign(*_ORDER):
            return first
        if self._next.text[0] != sign[0]:
            raise self._expected(f"{sign[0]} or {sign[0]}=, as on the left of {name}")
        again = self._take().text
        second = self._compare(name, again, *self._value())
        assert isinstance(first, Range)
        assert isinstance(second, Range)
        low, high = (first, second) if sign[0] == "<" else (second, first)
        with located(at):
            return replace(low, high=high.high, high_open=high.high_open)

    def _place_test(self) -> Filter:
        word = self._take()
        names = ["the latitude", "the longitude", "the distance"]
        if word.is_word("within"):
            names = ["the south", "the west", "the north", "the east"]
        self._sign("(")
        numbers: list[float] = []
        for place, name in enumerate(names):
            if place:
                self._sign(",")
            value, at = self._value()
            with located(at):
                numbers.append(parse_number(name, value))
        self._sign(")")
        with located(word):
            return Within(*numbers) if len(numbers) == 4 else Near(*numbers)

    # -- values -------------------------------------------------------------------------

    def _value(self, name: str = "") -> tuple[str, Token]:
        """A value as text, and the token it begins with."""
        first = self._next
        if first.kind == "quoted":
            self._take()
            return first.text, first
        text = ""
        end = first.position
        while (self._next.kind == "word" and not self._next.is_word("and", "or")) or (
            name == "folder" and self._next.is_sign("..")  # ../photos
        ):
            token = self._take()
            text += (" " if token.position > end else "") + token.text
            end = token.position + len(token.text)
        if not text:
            raise self._expected("a value")
        return text, first

    def _read(self, name: str, value: str, at: Token) -> Value:
        with located(at):
            kind = kind_of(name)
            if kind == "number":
                return parse_number(name, value)
            if kind == "flag":
                if value.lower() not in _YES:
                    raise FilterError(f"expected true or false for {name}, got {shown(value)}")
                return _YES[value.lower()]
            return value

    def _period(self, value: str) -> Period:
        return parse_period(value, self._now)

    def _between(self, name: str, low: str, at: Token) -> Filter:
        high, high_at = self._value()
        first = self._compare(name, ">=", low, at)
        second = self._compare(name, "<=", high, high_at)
        assert isinstance(first, Range)
        assert isinstance(second, Range)
        with located(at):
            return replace(first, high=second.high, high_open=second.high_open)

    def _compare(self, name: str, sign: str, value: str, at: Token) -> Filter:
        with located(at):
            if sign in ("!=", "!~"):
                return Not(self._compare(name, "=" if sign == "!=" else "~", value, at))
            if sign == "~":
                return Contains(name, value)
            kind = kind_of(name)
            if sign == "=":
                if kind == "date":
                    period = self._period(value)
                    return Range(name, period.start, period.end, high_open=True)
                if kind == "folder":
                    return InFolder(absolute_folder(value) if value else value)
                if kind == "label":
                    return HasLabel(value)
                return Equal(name, self._read(name, value, at))
            bound = self._bound(name, kind, sign, value)
            if sign[0] == "<":
                return Range(name, high=bound, high_open=sign == "<" or kind == "date")
            return Range(name, low=bound, low_open=sign == ">" and kind != "date")

    def _bound(self, name: str, kind: str, sign: str, value: str) -> int | float | datetime:
        """A bound; of a period the end that the sign means: ``<= 2019`` has all of it in."""
        if kind == "date":
            period = self._period(value)
            return period.end if sign in ("<=", ">") else period.start
        if kind == "number" or name.startswith("exif."):
            return parse_number(name, value)
        raise FilterError(f"{name} has no order: compare it with =, !=, ~ or in")
