"""The filter options of a command: what they stand for, and how they are refused."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from clipsearch.cli.filter_options import filter_from_options, filter_options
from clipsearch.errors import FilterError
from clipsearch.filter_options import FilterOptions
from clipsearch.filters import Filter, parse_filter

NOW = datetime(2026, 11, 21, 9, 5)


@click.command()
@click.argument("words", nargs=-1)
@filter_options
def command(words: tuple[str, ...], filters: FilterOptions | None) -> None:
    where = filter_from_options(filters, NOW)
    click.echo(json.dumps([words, where and str(where), filters and dataclasses.asdict(filters)]))


def typed(*arguments: str) -> tuple[list[str], str | None, dict[str, object] | None]:
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    words, where, filters = json.loads(result.output)
    return words, where, filters


def means(text: str) -> str:
    return str(parse_filter(text, NOW))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--since", "2019"], "taken >= 2019"),
        (["--until", "2019"], "taken <= 2019"),
        (["--until", "2019-07-04 12:30"], "taken <= 2019-07-04 12:30"),
        (["--since", "last month", "--until", "3 days ago"], "2026-10-01 <= taken < 2026-11-19"),
        (["--since=2019", "--until=2019"], "taken = 2019"),
        (["--in", "/photos/a b"], 'in "/photos/a b"'),
        (["--in", "/a", "--in", "/b"], "in /a or in /b"),
        (["--camera", "canon"], "camera ~ canon"),
        (["--camera", "canon", "--camera", "iPhone 13"], 'camera ~ canon or camera ~ "iPhone 13"'),
        (["--near", "48.85,2.35,5"], "near(48.85, 2.35, 5)"),
        (["--near", "-33.86,151.2,5"], "near(-33.86, 151.2, 5)"),
        (["--near", "-33.86, -151.2, 500m"], "near(-33.86, -151.2, 0.5)"),
        (["--box", "-20,170,-10,-170"], "within(-20, 170, -10, -170)"),
        (["--min-size", "2MP"], "megapixels >= 2"),
        (["--min-size", "0.3 mp"], "megapixels >= 0.3"),
        (["--min-size", "1600"], "width >= 1600 or height >= 1600"),
        (
            ["--min-size", "1200x1600"],
            "(width >= 1600 and height >= 1200) or (width >= 1200 and height >= 1600)",
        ),
        (["--label", "dog"], "label = dog"),
        (["--label", "dog", "--label", "set:beach"], 'label = dog and label = "set:beach"'),
        (["--where", "rating > 3 or missing"], "rating > 3 or missing"),
        (
            ["--camera=a", "--camera=b", "--where", "rating > 3 or missing", "--since", "2019"],
            "taken >= 2019 and (camera ~ a or camera ~ b) and (rating > 3 or missing)",
        ),
    ],
)  # fmt: skip
def test_options_stand_for_filters(arguments: list[str], text: str) -> None:
    words, where, filters = typed("dog", *arguments, "beach")
    assert words == ["dog", "beach"]
    assert where == means(text)
    assert filters is not None
    kept = FilterOptions(**{k: tuple(v) if isinstance(v, list) else v for k, v in filters.items()})  # type: ignore[arg-type]
    assert str(kept.to_filter(NOW)) == where


def test_none_set() -> None:
    assert typed("dog") == (["dog"], None, None)
    assert FilterOptions().to_filter() is None


def test_folders_are_from_where_they_were_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, where, filters = typed("--in", "sub/", "--in", "../x")
    assert where == means(f'in "{tmp_path}/sub/" or in "{tmp_path}/../x"')
    assert filters is not None
    assert filters["folders"] == [f"{tmp_path}/sub/", f"{tmp_path}/../x"]
    odd = os.fsdecode(b"caf\xe9 ")
    result = FilterOptions(folders=(odd,)).to_filter()
    assert result == parse_filter(f'in "{tmp_path}/{odd}"')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (FilterOptions(since="01/02/2019"), "--since: '01/02/2019' has its year last"),
        (FilterOptions(until="soon"), "--until: expected a date such as 2019"),
        (FilterOptions(since=""), "--since: expected a date"),
        (FilterOptions(since="2020", until="2019"), "--since 2020 begins after --until 2019"),
        (FilterOptions(folders=("",)), "--in: expected a folder"),
        (FilterOptions(folders=("a\0b",)), "--in: a folder's name cannot hold a NUL"),
        (FilterOptions(cameras=(" ",)), "--camera: expected a text"),
        (FilterOptions(near="1,2"), "--near: expected LAT,LON,KM, such as 48.85,2.35,5; got '1,2'"),
        (FilterOptions(near="1,2,3,4"), "--near: expected LAT,LON,KM"),
        (FilterOptions(near="91,2,3"), "--near: expected a latitude of -90 to 90"),
        (FilterOptions(near="nan,2,3"), "--near: expected a number"),
        (FilterOptions(near="1,2,inf"), "--near: expected a number"),
        (FilterOptions(near="1,2,-3"), "--near: expected a distance"),
        (FilterOptions(near="1,2,1e300"), "--near: expected a finite number"),
        (FilterOptions(box="5,0,-5,3"), "--box: expected a box as SOUTH"),
        (FilterOptions(min_size="big"), "--min-size: expected megapixels such as 2MP"),
        (FilterOptions(min_size="-5"), "--min-size: expected megapixels"),
        (FilterOptions(min_size="1.2.3MP"), "--min-size: expected a number"),
        (FilterOptions(with_labels=("",)), "--label: expected a text"),
        (FilterOptions(where="camra = 3"), "--where: filter, character 1: there is no field"),
        (FilterOptions(where=""), "--where: the filter is empty"),
    ],
    ids=str,
)  # fmt: skip
def test_refusals_name_the_option(options: FilterOptions, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        options.to_filter(NOW)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_help_is_short() -> None:
    text = CliRunner().invoke(command, ["--help"], terminal_width=100).output
    for name in ("since", "until", "in", "camera", "near", "box", "min-size", "label", "where"):
        assert f"--{name} " in text
    assert len(text.splitlines()) < 25


def test_a_tree_passes_through() -> None:
    tree = FilterOptions(where="not (in /a or near(1, 2, 3))").to_filter()
    assert isinstance(tree, Filter)
    assert parse_filter(str(tree)) == tree
