"""Dates as people write them: periods, and no guesses."""

from __future__ import annotations

import locale
from datetime import datetime

import pytest

from clipsearch.errors import FilterError
from clipsearch.filter_dates import parse_period

NOW = datetime(2026, 11, 21, 9, 5, 7)  # a Saturday


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2019", "2019-01-01", "2020-01-01"),
        ("1990s", "1990-01-01", "2000-01-01"),
        ("2019-07", "2019-07-01", "2019-08-01"),
        ("2019-12", "2019-12-01", "2020-01-01"),
        ("2019-7", "2019-07-01", "2019-08-01"),
        ("2019/07", "2019-07-01", "2019-08-01"),
        ("2019-07-04", "2019-07-04", "2019-07-05"),
        ("2020-02-29", "2020-02-29", "2020-03-01"),
        ("2019.7.4", "2019-07-04", "2019-07-05"),
        ("2019:07:04", "2019-07-04", "2019-07-05"),
        ("20190704", "2019-07-04", "2019-07-05"),
        ("2019-07-04 12:30", "2019-07-04T12:30", "2019-07-04T12:31"),
        ("2019-07-04T23:59", "2019-07-04T23:59", "2019-07-05T00:00"),
        ("2019-07-04 12:30:05", "2019-07-04T12:30:05", "2019-07-04T12:30:06"),
        ("2019-07-04 12:30:05.25", "2019-07-04T12:30:05.250000", "2019-07-04T12:30:05.250001"),
        ("July 2019", "2019-07-01", "2019-08-01"),
        ("  jul.   2019 ", "2019-07-01", "2019-08-01"),
        ("SEPT 2020", "2020-09-01", "2020-10-01"),
        ("4 July 2019", "2019-07-04", "2019-07-05"),
        ("July 4th, 2019", "2019-07-04", "2019-07-05"),
        ("4. Dec 2019", "2019-12-04", "2019-12-05"),
        ("today", "2026-11-21", "2026-11-22"),
        ("Yesterday", "2026-11-20", "2026-11-21"),
        ("this week", "2026-11-16", "2026-11-23"),
        ("last week", "2026-11-09", "2026-11-16"),
        ("this month", "2026-11-01", "2026-12-01"),
        ("last month", "2026-10-01", "2026-11-01"),
        ("this year", "2026-01-01", "2027-01-01"),
        ("last year", "2025-01-01", "2026-01-01"),
        ("3 days ago", "2026-11-18", "2026-11-19"),
        ("a week ago", "2026-11-14", "2026-11-15"),
        ("two weeks ago", "2026-11-07", "2026-11-08"),
        ("1 month ago", "2026-10-21", "2026-10-22"),
        ("2 years ago", "2024-11-21", "2024-11-22"),
        ("2 hours ago", "2026-11-21T07:00", "2026-11-21T08:00"),
        ("10 minutes ago", "2026-11-21T08:55", "2026-11-21T08:56"),
        ("last 7 days", "2026-11-15", "2026-11-22"),
        ("the past 3 months", "2026-08-22", "2026-11-22"),
        ("last 2 hours", "2026-11-21T07:05:07", "2026-11-21T09:05:07.000001"),
        ("0001", "0001-01-01", "0002-01-01"),
        ("9999", "9999-01-01", "9999-12-31T23:59:59.999999"),
        ("9999-12-31", "9999-12-31", "9999-12-31T23:59:59.999999"),
    ],
)
def test_periods(text: str, start: str, end: str) -> None:
    period = parse_period(text, NOW)
    assert (period.start, period.end) == (at(start), at(end))


def test_months_of_other_lengths() -> None:
    march = datetime(2024, 3, 31, 12)
    assert parse_period("1 month ago", march).start == at("2024-02-29")
    assert parse_period("last month", march).start == at("2024-02-01")
    assert parse_period("1 year ago", datetime(2024, 2, 29)).start == at("2023-02-28")
    assert parse_period("last month", datetime(2024, 1, 31)).start == at("2023-12-01")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("01/02/2019", "write 2019-02-01 or 2019-01-02"),
        ("1.2.2019", "write 2019-02-01 or 2019-01-02"),
        ("25/12/2019", "write 2019-12-25"),
        ("31-31-2019", "in several ways"),
        ("1.2.19", "year-month-day"),
        ("2019-13", "month must be in 1..12"),
        ("2019-02-30", "day is out of range"),
        ("2019-07-04 25:00", "hour must be in 0..23"),
        ("31 June 2019", "day is out of range"),
        ("0000", "year 0 is out of range"),
        ("99999 years ago", "before the year 1"),
        ("999999 days ago", "before the year 1"),
        ("last 0 days", "over before it begins"),
        ("2019-07-04T12:30Z", "time zone"),
        ("2019-07-04 12:30 +02:00", "time zone"),
        ("July", "lacks its year"),
        ("4 July", "lacks its year"),
        ("summer 2019", "expected a date such as 2019"),
        ("monday", "expected a date such as 2019"),
        ("13", "expected a date such as 2019"),
        ("٢٠١٩", "expected a date such as 2019"),
        ("", "got nothing"),
        ("x" * 100_000, "expected a date such as 2019"),
        ("1" * 100_000 + " days ago", "expected a date such as 2019"),
        ("2019\x00", "expected a date such as 2019"),
    ],
)
def test_no_guesses(text: str, part: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_period(text, NOW)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.position is None


def test_every_day_reads_back() -> None:
    for year in (1826, 1970, 2024, 2026):
        for month in range(1, 13):
            period = parse_period(f"{year}-{month:02}", NOW)
            days = (period.end - period.start).days
            assert parse_period(f"{year}-{month}-{days}", NOW).end == period.end
            with pytest.raises(FilterError):
                parse_period(f"{year}-{month}-{days + 1}", NOW)


def test_months_are_english_whatever_the_system_speaks() -> None:
    before = locale.setlocale(locale.LC_TIME)
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8"):
        try:
            locale.setlocale(locale.LC_TIME, name)
        except locale.Error:
            continue
        try:
            assert parse_period("May 2019", NOW).start == at("2019-05-01")
        finally:
            locale.setlocale(locale.LC_TIME, before)
    assert parse_period("october 2019", NOW).start == at("2019-10-01")
