"""Filters: the text form and the tree undo each other; what cannot be read is said where."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from clipsearch.errors import FilterError, QueryError
from clipsearch.filter_dates import parse_period
from clipsearch.filter_fields import FIELDS, Value
from clipsearch.filters import (
    MAX_DEPTH,
    And,
    Contains,
    Equal,
    Filter,
    HasLabel,
    In,
    InFolder,
    Known,
    Near,
    Not,
    Or,
    Range,
    Within,
    all_of,
    any_of,
    parse_filter,
)

NOW = datetime(2026, 11, 21, 9, 5)


def day(year: int, month: int = 1, day: int = 1) -> datetime:
    return datetime(year, month, day)


def taken(low: datetime | None, high: datetime | None) -> Range:
    return Range("taken", low, high, high_open=True)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ('camera = "Canon EOS 5D"', Equal("camera", "Canon EOS 5D")),
        ("camera = Canon EOS 5D", Equal("camera", "Canon EOS 5D")),
        ("CAMERA='it''s'", Equal("camera", "it's")),
        ('name = "say ""hi"""', Equal("name", 'say "hi"')),
        ("camera = “Canon”", Equal("camera", "Canon")),
        ("camera != nikon", Not(Equal("camera", "nikon"))),
        ('name ~ "beach"', Contains("name", "beach")),
        ("name !~ beach", Not(Contains("name", "beach"))),
        ("format in (PNG, GIF)", In("format", ("PNG", "GIF"))),
        ("format not in (PNG)", Not(In("format", ("PNG",)))),
        ("id in (3, 4)", In("id", (3, 4))),
        ("width < 800", Range("width", high=800, high_open=True)),
        ("800px >= height", Range("height", high=800)),
        ("800 < width <= 1600", Range("width", 800, 1600, low_open=True)),
        ("1600 >= width > 800", Range("width", 800, 1600, low_open=True)),
        ("width between 800 and 1600 and missing",
         And((Range("width", 800, 1600), Equal("missing", True)))),
        ("width = 800..1600", Range("width", 800, 1600)),
        ("bytes > 5MB", Range("bytes", low=5_000_000, low_open=True)),
        ("bytes = 300 kB", Equal("bytes", 300_000)),
        ("bytes < 2MiB", Range("bytes", high=2 << 20, high_open=True)),
        ("megapixels >= 2.5MP", Range("megapixels", low=2.5)),
        ("lat > -33.9", Range("lat", low=-33.9, low_open=True)),
        ("rating = -1", Equal("rating", -1)),
        ("taken = 2019", taken(day(2019), day(2020))),
        ("taken > 2019", Range("taken", low=day(2020))),
        ("taken >= 2019-07", Range("taken", low=day(2019, 7))),
        ("taken < 2019-07", taken(None, day(2019, 7))),
        ("taken <= 2019-07", taken(None, day(2019, 8))),
        ("taken <= 3 days ago", taken(None, day(2026, 11, 19))),
        ("taken = 2019-07 .. last month", taken(day(2019, 7), day(2026, 11))),
        ("taken between July 2018 and 2019", taken(day(2018, 7), day(2020))),
        ("taken in (2017, 2019-05)",
         taken(day(2017), day(2018)) | taken(day(2019, 5), day(2019, 6))),
        ("modified >= yesterday", Range("modified", low=day(2026, 11, 20))),
        ("lens is known", Known("lens")),
        ("lens is unknown", Not(Known("lens"))),
        ("lens is not known", Not(Known("lens"))),
        ("lens is not unknown", Known("lens")),
        ("missing", Equal("missing", True)),
        ("not missing", Not(Equal("missing", True))),
        ("missing = no", Equal("missing", False)),
        ("label = dog", HasLabel("dog")),
        ('label = "set:dog"', HasLabel("set:dog")),
        ("label in (a, b)", HasLabel("a") | HasLabel("b")),
        ('in "/photos/a b"', InFolder("/photos/a b")),
        ("in /photos/2019/../2020", InFolder("/photos/2019/../2020")),
        ("folder = /photos", InFolder("/photos")),
        ("folder ~ rome", Contains("folder", "rome")),
        ("near(48.85, 2.35, 5)", Near(48.85, 2.35, 5)),
        ("NEAR ( -33.86 , 151.2 , 500m )", Near(-33.86, 151.2, 0.5)),
        ("within(-20, 170, -10, -175)", Within(-20, 170, -10, -175)),
        ("exif.Flash = 16", Equal("exif.Flash", "16")),
        ("exif.ISOSpeedRatings >= 800", Range("exif.ISOSpeedRatings", low=800)),
        ("keyword = golden retriever or rating >= 4 and missing",
         Or((Equal("keyword", "golden retriever"),
             And((Range("rating", low=4), Equal("missing", True)))))),
        ("(missing or lens is known) AND NOT (format = png OR width < 800)",
         And((Or((Equal("missing", True), Known("lens"))),
              Not(Or((Equal("format", "png"), Range("width", high=800, high_open=True))))))),
        ("not not missing", Not(Not(Equal("missing", True)))),
        ("(((missing)))", Equal("missing", True)),
    ],
)  # fmt: skip
def test_reads(text: str, tree: Filter) -> None:
    assert parse_filter(text, NOW) == tree
    assert parse_filter(str(tree)) == tree


def test_folders_are_from_here(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert parse_filter("in ../photos") == InFolder(f"{tmp_path}/../photos")
    assert parse_filter('in "a b"') == InFolder(f"{tmp_path}/a b")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("USERPROFILE", "/home/ada")
    assert parse_filter('in "~/x"') == InFolder("/home/ada/x")


# -- the one undoes the other ---------------------------------------------------------------


_TEXTS = [
    "a",
    "and",
    " or ",
    'say "hi"',
    "it's",
    "“”",
    "(",
    "x=y",
    "..",
    "\n\t",
    "\x00",
    "日本",
    "é",
]
_TEXTS += ["\udcff\udce9", "not", "3 days ago", "a, b", "~", "\\", "%_*", "0" * 300, "in", "🎉"]


def random_tree(chance: random.Random, depth: int = 0) -> Filter:
    text = chance.choice(_TEXTS) + chance.choice(["", *_TEXTS])
    number = chance.choice(
        [0, -1, 5, 10**18, -0.0, 1e-9, 2.5, 1e17, chance.uniform(-90, 90), chance.randrange(999)]
    )
    moment = day(1, 1, 1) + timedelta(microseconds=chance.choice([1, 10**6, 86_400 * 10**6]) *
                                      chance.randrange(3 * 10**5))  # fmt: skip
    names: dict[str, list[str]] = {}
    for name, kind in FIELDS.items():
        names.setdefault(kind, []).append(name)
    text_field = chance.choice([*names["text"], "exif.Flash"])
    number_field, date_field = chance.choice(names["number"]), chance.choice(names["date"])
    values: tuple[Value, ...] = tuple(chance.choices(_TEXTS, k=chance.randint(1, 4)))
    opens = [chance.random() < 0.5 for _ in range(2)]
    later = moment + timedelta(seconds=chance.randrange(1, 10**6))
    leaves: list[Callable[[], Filter]] = [
        lambda: Equal(text_field, text),
        lambda: Equal(number_field, number),
        lambda: Equal("missing", chance.random() < 0.5),
        lambda: In(text_field, values),
        lambda: In(number_field, (number, 3, 4.5)),
        lambda: Contains(chance.choice([text_field, "folder"]), text),
        lambda: Range(number_field, number, None, *opens),
        lambda: Range(number_field, None, number, *opens),
        lambda: Range(number_field, number, number + 1.5, *opens),
        lambda: Range("exif.FNumber", number, None, *opens),
        lambda: Range(date_field, moment, None, *opens),
        lambda: Range(date_field, None, moment, *opens),
        lambda: Range(date_field, moment, later, *opens),
        lambda: Range(date_field, moment, datetime.max, *opens),
        lambda: Known(chance.choice([text_field, number_field, date_field, "folder", "missing"])),
        lambda: InFolder("/" + text.replace("\0", "")),
        lambda: HasLabel(text),
        lambda: Near(chance.uniform(-90, 90), chance.uniform(-180, 180), chance.uniform(0, 9999)),
        lambda: Within(chance.uniform(-90, 0), chance.uniform(-180, 180), 1e-7, -180),
    ]
    if depth > 5 or chance.random() < 0.4:
        return chance.choice(leaves)()
    kind = chance.randrange(3)
    if kind == 0:
        return Not(random_tree(chance, depth + 1))
    parts = tuple(random_tree(chance, depth + 1) for _ in range(chance.randint(2, 3)))
    return And(parts) if kind == 1 else Or(parts)


def test_text_and_tree_undo_each_other() -> None:
    chance = random.Random(7)
    kinds = set()
    for _ in range(1500):
        tree = random_tree(chance)
        kinds.add(type(tree))
        assert parse_filter(str(tree)) == tree, str(tree)
    assert len(kinds) == 12


def test_one_form_of_each_tree() -> None:
    a, b, c = Known("lens"), Known("camera"), Known("lat")
    assert (a & b) & c == a & (b & c) == And((a, b, c)) == parse_filter(f"({a} and {b}) and {c}")
    assert (a | b) | c == Or((a, b, c))
    assert And((a, b)) != Or((a, b))
    assert ~a == Not(a)
    assert all_of([a]) is a
    assert any_of([]) is None
    assert Equal("rating", 4.0) == Equal("rating", 4)
    closed = Range("taken", day(2019), day(2020), low_open=True, high_open=False)
    tick = timedelta(microseconds=1)
    assert closed == taken(day(2019) + tick, day(2020) + tick)
    assert Range("taken", day(2019), day(2019)) == taken(day(2019), day(2019) + tick)
    assert len({a & b, And((a, b)), a | b}) == 2


# -- what cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "position", "part"),
    [
        ("camrea = x", 1, "did you mean camera"),
        ("missing and  widht > 3", 14, "did you mean width"),
        ("date > 2019", 1, "did you mean taken?"),
        ("size > 3", 1, "bytes or megapixels"),
        ("nera(1, 2, 3)", 1, "near(LAT, LON, KM)"),
        ("qqq = 1", 1, "there are taken, camera, lens"),
        ("exif. = 3", 1, "no field"),
        ("camera = Canon or Nikon", 19, "FIELD in (ONE, OTHER)"),
        ("camera", 7, "expected =, !=, <"),
        ("camera =", 9, "expected a value; got the end"),
        ("camera = Canon width > 3", 22, 'got ">"'),
        ("camera > Canon", 10, "no order"),
        ("(missing", 9, 'expected ")"; got the end'),
        ("missing)", 8, "expected and, or, or the end"),
        ("missing missing", 9, "in quotes"),
        ("and", 1, "expected a test"),
        ("missing and", 12, "got the end"),
        ('camera = "abc', 10, 'quote " is never closed'),
        ("name = a!b", 9, "! cannot stand here"),
        ("width = abc", 9, "expected a number such as 5px for width"),
        ("width = 5MB", 9, "expected a number"),
        ("width = ٣", 9, "expected a number"),
        ("width = 1e999", 9, "finite"),
        ("width = " + "9" * 5000, 9, "expected a number"),
        ("width between 5 and 3", 15, "lower bound of width first, got 5 and then 3"),
        ("5 < width > 3", 11, "expected < or <="),
        ("taken > 01/02/2019", 9, "2019-02-01 or 2019-01-02"),
        ("taken > 2019-13", 9, "month must be in 1..12"),
        ("taken ~ 2019", 9, "taken is no text"),
        ("2020 < taken < 2019", 1, "lower bound of taken first"),
        ("missing = maybe", 11, "expected true or false"),
        ('name ~ ""', 8, 'got ""'),
        ("name = " + "x" * 5000, 8, "at most 4096"),
        ("near(95, 0, 1)", 1, "latitude of -90 to 90"),
        ("near(1, 200, 1)", 1, "longitude of -180 to 180"),
        ("near(1, 2, -1)", 1, "distance"),
        ("near(1, 2)", 10, 'expected ","'),
        ("within(5, 0, -5, 3)", 1, "north of its north"),
        ("label is known", 7, "the label's name"),
        ("in", 3, "expected a value"),
        ('in "a\0b"', 4, "NUL"),
        ("taken is 2019", 10, "known or unknown"),
        ("x" * 100_000 + " = 1", 1, "no field"),
    ],
)  # fmt: skip
def test_errors_say_where(text: str, position: int, part: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text, NOW)
    if text != "label is known":
        assert caught.value.position == position
    assert part in str(caught.value)
    assert str(caught.value).startswith("filter, character ") or text == "label is known"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert isinstance(caught.value, QueryError)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_empty(text: str) -> None:
    with pytest.raises(FilterError, match="the filter is empty"):
        parse_filter(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "not " * 40_000 + "missing",
        "(" * 3000 + "missing" + ")" * 3000,
        "not (missing and " * 3000 + "missing" + ")" * 3000,
        "missing or (missing and (" * 3000,
    ],
    ids=["open", "not", "brackets", "mixed", "unclosed"],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(FilterError, match="nests more than 50 deep"):
        parse_filter(text)


def test_depth_is_the_trees_own() -> None:
    tree: Filter = Known("lens")
    for _ in range(MAX_DEPTH - 1):
        tree = Not(tree)
    assert parse_filter(str(tree)) == tree
    with pytest.raises(FilterError, match="50 deep"):
        Not(tree)


@pytest.mark.parametrize("text", ['"' * 199_999, "'" + "x" * 199_000, " " * 199_999 + "!", "“" * 9])
def test_long_quotes(text: str) -> None:
    with pytest.raises(FilterError):
        parse_filter(text)


def test_long_filters() -> None:
    tree = In("name", tuple(f"IMG_{number}.JPG" for number in range(8000)))
    assert parse_filter(str(tree)) == tree
    with pytest.raises(FilterError, match="at most 200,000 characters"):
        parse_filter("missing and " * 20_000 + "missing")


def test_nonsense_never_raises_anything_else() -> None:
    chance = random.Random(3)
    words = [
        "camera",
        "taken",
        "and",
        "or",
        "not",
        "in",
        "is",
        "known",
        "between",
        "near",
        "(",
        ")",
    ]
    words += [
        ",",
        "..",
        "=",
        "!=",
        "<",
        "~",
        '"',
        "'",
        "3",
        "2019-07",
        "5MB",
        "\x00",
        "\udcff",
        "é",
    ]
    read = 0
    for _ in range(20_000):
        text = " ".join(chance.choices(words, k=chance.randint(1, 9)))
        try:
            tree = parse_filter(text)
        except FilterError:
            continue
        read += 1
        assert parse_filter(str(tree)) == tree
    assert read > 20


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Equal("nothing", 1), "no field"),
        (lambda: Equal("width", "x"), "expected a number"),
        (lambda: Equal("width", True), "expected a number"),
        (lambda: Equal("width", float("nan")), "finite"),
        (lambda: Equal("width", 10**400), "finite"),
        (lambda: Range("width", low=-(10**400)), "finite"),
        (lambda: Equal("camera", 5), "expected a text"),
        (lambda: Equal("missing", "yes"), "true or false"),
        (lambda: Equal("taken", "2019"), "a filter of its own"),
        (lambda: In("camera", ()), "at least one value"),
        (lambda: Range("taken", low=2019), "without a time zone"),
        (lambda: Range("taken", low=datetime.now().astimezone()), "without a time zone"),
        (lambda: Range("width"), "expected a bound"),
        (lambda: Range("camera", low=1), "no order"),
        (lambda: Near(float("nan"), 0, 1), "finite"),
        (lambda: Near(0, 0, float("inf")), "finite"),
        (lambda: InFolder(""), "expected a text"),
    ],
)
def test_trees_are_checked_where_they_are_made(make: Callable[[], Filter], part: str) -> None:
    with pytest.raises(FilterError, match=part):
        make()


def test_the_documented_expressions() -> None:
    text = (Path(__file__).parents[1] / "docs" / "filters.md").read_text(encoding="utf-8")
    examples = text.split("```")[1].strip().splitlines()
    assert len(examples) == 10
    for example in examples:
        tree = parse_filter(example)
        assert parse_filter(str(tree)) == tree
    table = text.split("| field | holds |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`(?=[,` |])", table)) >= FIELDS.keys()
    for date in re.findall(r"`([^`]+)`", text.split("## Dates")[1].split("A week")[0]):
        assert parse_period(date, NOW).start < parse_period(date, NOW).end
