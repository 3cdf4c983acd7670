"""Dates as people write them, read as periods of wall-clock time.

"2019-07" is not a moment: it is all of July. So every form stands for a period, from its
start up to, and without, its end. Where a photo was taken is where the clock hung: nothing here
knows a time zone.

The general date parsers guess: "01/02/2019" is January to them, "2019-13" is a day in November,
and "2019" is today's day in that year. A filter that guesses finds the wrong photos, so what has
two readings is refused here, with both spelled out.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from clipsearch.errors import FilterError

FORMS = '2019, 2019-07, 2019-07-04, "2019-07-04 12:30", "July 2019", "last month", "3 days ago"'
"""What a message shows as dates that are understood."""

_LONGEST = 60
_MONTH_NAMES = (  # calendar's own speak the language of the system
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTHS = {
    short: number
    for number, name in enumerate(_MONTH_NAMES, 1)
    for short in (name, name[:3], *(["sept"] if name == "september" else []))
}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_UNITS = ("minute", "hour", "day", "week", "month", "year")
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_COUNT = rf"(\d{{1,6}}|{'|'.join(_NUMBERS)})"
_UNIT = rf"({'|'.join(_UNITS)})s?"


@dataclass(frozen=True)
class Period:
    """From ``start`` up to, and without, ``end``: wall-clock times without a time zone."""

    start: datetime
    end: datetime


def parse_period(text: str, now: datetime | None = None) -> Period:
    """The period that ``text`` stands for; of a relative one, as seen from ``now``.

    2019, 2010s, 2019-07, 2019-07-04 (with / . or : as well, and 20190704),
    2019-07-04 12:30, 2019-07-04 12:30:05, July 2019, 4 July 2019, July 4, 2019; today, yesterday,
    this or last week, month or year (a week begins on Monday), 3 days ago (that day), 2 hours
    ago (that hour), last 7 days (today and the six before).

    Raises FilterError for all else, and for what could be two dates, such as 01/02/2019.
    """
    now = now or datetime.now()
    words = " ".join(text.split())
    if not words:
        raise FilterError(f"expected a date such as {FORMS}; got nothing")
    if len(words) <= _LONGEST:
        for pattern, read in _READERS:
            match = pattern.fullmatch(words)
            if match is not None:
                try:
                    return read(match, now)
                except FilterError:
                    raise
                except (ValueError, OverflowError) as error:
                    raise FilterError(f"{words!r} is no date: {_reason(error)}") from None
    shown = words if len(words) <= _LONGEST else words[:_LONGEST] + "..."
    raise FilterError(f"expected a date such as {FORMS}; got {shown!r}")


def _reason(error: Exception) -> str:
    if isinstance(error, OverflowError):
        return "it lies before the year 1 or after the year 9999"
    return str(error).split(", not")[0]  # Python's "month must be in 1..12, not 13"


def _ending_at(start: datetime, end: Callable[[], datetime]) -> Period:
    try:
        return Period(start, end())
    except (OverflowError, ValueError):  # of the last year that there is
        return Period(start, datetime.max)


def _year(year: int, years: int = 1) -> Period:
    start = datetime(year, 1, 1)
    return _ending_at(start, lambda: datetime(year + years, 1, 1))


def _month(year: int, month: int) -> Period:
    start = datetime(year, month, 1)
    return _ending_at(start, lambda: _months_after(start, 1))


def _day(moment: datetime, days: int = 1) -> Period:
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return _ending_at(start, lambda: start + timedelta(days=days))


def _months_after(moment: datetime, months: int) -> datetime:
    """The same day of another month, or that month's last."""
    count = moment.year * 12 + moment.month - 1 + months
    year, month = count // 12, count % 12 + 1
    if not 1 <= year <= 9999:
        raise OverflowError
    return moment.replace(
        year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1])
    )


def _earlier(now: datetime, count: int, unit: str) -> datetime:
    if unit in ("month", "year"):
        return _months_after(now, -count * (12 if unit == "year" else 1))
    return now - timedelta(**{f"{unit}s": count})


def _count(word: str) -> int:
    return _NUMBERS[word.lower()] if word.lower() in _NUMBERS else int(word)


# -- readers: a match of a form -> its period -----------------------------------------------


def _read_day(match: re.Match[str], now: datetime) -> Period:
    return _day(datetime(int(match[1]), int(match[2]), int(match[3])))


def _read_moment(match: re.Match[str], now: datetime) -> Period:
    year, month, day, hour, minute = (int(match[place]) for place in range(1, 6))
    second = int(match[6] or 0)
    if match[7]:
        microsecond = int(match[7].ljust(6, "0"))
        length = timedelta(microseconds=1)
    else:
        microsecond = 0
        length = timedelta(seconds=1) if match[6] else timedelta(minutes=1)
    start = datetime(year, month, day, hour, minute, second, microsecond)
    return _ending_at(start, lambda: start + length)


def _read_named_day(match: re.Match[str], now: datetime) -> Period:
    found = match.groupdict()
    return _day(datetime(int(found["year"]), _MONTHS[found["month"].lower()], int(found["day"])))


def _read_calendar(match: re.Match[str], now: datetime) -> Period:
    """This or last week, month or year."""
    back = int(match[1].lower() == "last")
    unit = match[2].lower()
    if unit == "year":
        return _year(now.year - back)
    if unit == "month":
        month = _months_after(now, -back)
        return _month(month.year, month.month)
    return _day(now - timedelta(days=now.weekday() + 7 * back), days=7)


def _read_ago(match: re.Match[str], now: datetime) -> Period:
    unit = match[2].lower()
    then = _earlier(now, _count(match[1]), unit)
    if unit == "minute":
        start = then.replace(second=0, microsecond=0)
        return _ending_at(start, lambda: start + timedelta(minutes=1))
    if unit == "hour":
        start = then.replace(minute=0, second=0, microsecond=0)
        return _ending_at(start, lambda: start + timedelta(hours=1))
    return _day(then)


def _read_last(match: re.Match[str], now: datetime) -> Period:
    """The last so many days up to the end of today; hours and minutes up to now."""
    count, unit = _count(match[1]), match[2].lower()
    if count < 1:
        raise ValueError("it is over before it begins")
    then = _earlier(now, count, unit)
    if unit in ("minute", "hour"):
        return Period(then, now + timedelta(microseconds=1))
    return Period(_day(then + timedelta(days=1)).start, _day(now).end)


def _refuse_order(match: re.Match[str], now: datetime) -> Period:
    first, second, year = int(match[1]), int(match[2]), match[3]
    if len(year) == 4:
        readings = [
            f"{year}-{month:02}-{day:02}"
            for month, day in ((second, first), (first, second))
            if 1 <= month <= 12 and 1 <= day <= 31
        ]
        if readings:
            raise FilterError(
                f"{match[0]!r} has its year last, which people read in two ways: write "
                + " or ".join(dict.fromkeys(readings))
            )
    raise FilterError(f"{match[0]!r} can be read in several ways: write year-month-day")


def _refuse_zone(match: re.Match[str], now: datetime) -> Period:
    raise FilterError(
        f"{match[0]!r} names a time zone: dates here are by the clock where the photo was taken, "
        "so write it without"
    )


def _refuse_no_year(match: re.Match[str], now: datetime) -> Period:
    raise FilterError(f"{match[0]!r} lacks its year: write it as in 'July 2019'")


_Reader = Callable[[re.Match[str], datetime], Period]
_DAY = r"(\d{4})[-/.:](\d{1,2})[-/.:](\d{1,2})"
_CLOCK = r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,6}))?)?"
_DAY_OF_MONTH = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"


def _form(pattern: str, read: _Reader) -> tuple[re.Pattern[str], _Reader]:
    return re.compile(pattern, re.IGNORECASE | re.ASCII), read


_READERS: list[tuple[re.Pattern[str], _Reader]] = [
    _form(r"(\d{4})", lambda match, now: _year(int(match[1]))),
    _form(r"(\d{3}0)s", lambda match, now: _year(int(match[1]), 10)),
    _form(r"(\d{4})[-/.](\d{1,2})", lambda match, now: _month(int(match[1]), int(match[2]))),
    _form(_DAY, _read_day),
    _form(r"(\d{4})(\d{2})(\d{2})", _read_day),
    _form(rf"{_DAY}[ T]{_CLOCK}", _read_moment),
    _form(rf"{_DAY}[ T]{_CLOCK} ?(?:Z|UTC|[+-]\d{{1,2}}:?\d{{2}})", _refuse_zone),
    _form(
        rf"({_MONTH})\.?,? (\d{{4}})",
        lambda match, now: _month(int(match[2]), _MONTHS[match[1].lower()]),
    ),
    _form(rf"{_DAY_OF_MONTH}\.? (?P<month>{_MONTH})\.?,? (?P<year>\d{{4}})", _read_named_day),
    _form(rf"(?P<month>{_MONTH})\.? {_DAY_OF_MONTH},? (?P<year>\d{{4}})", _read_named_day),
    _form(rf"(?:\d{{1,2}}\.? )?(?:{_MONTH})\.?(?: \d{{1,2}})?", _refuse_no_year),
    _form(r"today", lambda match, now: _day(now)),
    _form(r"yesterday", lambda match, now: _day(now - timedelta(days=1))),
    _form(r"(this|last) (week|month|year)", _read_calendar),
    _form(rf"{_COUNT} {_UNIT} ago", _read_ago),
    _form(rf"(?:the )?(?:last|past) {_COUNT} {_UNIT}", _read_last),
    _form(r"(\d{1,2})[-/. ](\d{1,2})[-/. ](\d{4}|\d{2})", _refuse_order),
]
