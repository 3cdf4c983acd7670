"""Charts: what is drawn is what was measured."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest

from clipsearch.calibration import reliability
from clipsearch.evaluation_charts import (
    Bar,
    bars,
    chart_style,
    grouped_bars,
    heat_map,
    lines,
    reliability_diagram,
)
from clipsearch.svg_pieces import escaped, percent, shortened, text_width, ticks

ODD = 'a "b" <c> & \x07\u202e</text><script>alert(1)</script>'


def drawn(markup: str) -> ElementTree.Element:
    """The chart, which has to be sound markup without anything a page's policy forbids."""
    assert "<script" not in markup
    assert "style=" not in markup
    assert "\x07" not in markup
    assert "\u202e" not in markup
    tree = ElementTree.fromstring(markup)
    for element in tree.iter():
        assert not any(name.startswith("on") or name == "href" for name in element.attrib)
        for name in ("x", "y", "width", "height", "cx", "cy", "d", "x1", "x2", "y1", "y2"):
            assert "nan" not in element.get(name, "")
            assert "inf" not in element.get(name, "")
    return tree


def of_class(tree: ElementTree.Element, name: str, tag: str) -> list[ElementTree.Element]:
    return [one for one in tree.iter(tag) if name in one.get("class", "").split()]


def texts(tree: ElementTree.Element) -> list[str]:
    return ["".join(one.itertext()) for one in tree.iter("text")]


def width(element: ElementTree.Element) -> float:
    return float(element.attrib["width"].removesuffix("%"))


def test_bars_are_as_long_as_their_values() -> None:
    rows = [Bar("cat", 0.25), Bar("dog", 1.0), Bar("no such", math.nan), Bar("none", 0.0)]
    tree = drawn(bars("Accuracy", rows, mark=0.5))
    assert (tree.get("role"), tree.get("aria-label")) == ("img", "Accuracy")
    lengths = [width(one) for one in of_class(tree, "series-0", "rect")]
    track = width(of_class(tree, "track", "rect")[0])
    assert [length / track for length in lengths] == pytest.approx([0.25, 1, 0], abs=1e-3)
    assert texts(tree) == ["cat", "25.0%", "dog", "100.0%", "no such", "–", "none", "0.0%"]
    assert next(one.text for one in tree.iter("title")) == "cat: 25.0%"
    tops = [float(one.attrib["y"]) for one in of_class(tree, "track", "rect")]
    assert len({after - before for before, after in pairwise(tops)}) == 1
    assert float(tree.attrib["height"]) >= tops[-1]
    reference = of_class(tree, "reference", "line")[0]
    start = float(of_class(tree, "track", "rect")[0].attrib["x"].removesuffix("%"))
    assert float(reference.attrib["x1"].removesuffix("%")) == pytest.approx(start + track / 2)


def test_bars_of_other_numbers_and_with_intervals() -> None:
    rows = [Bar("a", 20, 10, 30, series=1), Bar("b", 40, text="40 of 50", about="bee")]
    tree = drawn(bars("Seconds", rows, most=None, form=lambda value: f"{value:.0f} s"))
    (first,), (second,) = of_class(tree, "series-1", "rect"), of_class(tree, "series-0", "rect")
    assert width(first) / width(second) == pytest.approx(0.5, abs=1e-3)
    titles = [one.text for one in tree.iter("title")]
    assert titles == ["a: 20 s (10 s to 30 s)", "bee: 40 of 50"]
    through = of_class(tree, "interval", "line")[0]
    ends = [float(through.attrib[name].removesuffix("%")) for name in ("x1", "x2")]
    start = float(first.attrib["x"].removesuffix("%"))
    assert [(end - start) / width(second) for end in ends] == pytest.approx([0.25, 0.75], abs=1e-3)
    assert texts(drawn(bars("Nothing", []))) == []
    too_long = drawn(bars("Beyond", [Bar("x", 3.0), Bar("y", -1.0)]))
    assert [width(one) for one in of_class(too_long, "series-0", "rect")] == [
        width(of_class(too_long, "track", "rect")[0]), 0,
    ]  # fmt: skip


def test_grouped_bars_name_every_series() -> None:
    values = [[0.5, 0.25, math.nan], [0.75, 0.1, 0.9]]
    ends = np.full((2, 3, 2), np.nan)
    ends[0, 0] = 0.4, 0.6
    groups, series = ["one", "two & more"], ["mini", "photo1k", "both"]
    tree = drawn(grouped_bars("Prompts", groups, series, values, intervals=ends))
    assert texts(tree) == [
        "one", "mini", "50.0%", "photo1k", "25.0%",
        "two & more", "mini", "75.0%", "photo1k", "10.0%", "both", "90.0%",
    ]  # fmt: skip
    colours = [one.get("class") for one in tree.iter("rect") if one.get("class") != "track"]
    assert colours == ["series-0", "series-1", "series-0", "series-1", "series-2"]
    titles = [one.text for one in tree.iter("title")]
    assert "one, mini: 50.0% (40.0% to 60.0%)" in titles
    assert "two & more, both: 90.0%" in titles
    with pytest.raises(ValueError, match="reshape"):
        grouped_bars("Prompts", groups, series, [[1, 2], [3, 4]])


def test_lines_go_through_their_values() -> None:
    series = {"cnn": [0.0, 0.5, 1.0], "gap": [0.25, math.nan, 0.75], "none": [math.nan] * 3}
    markup = lines("Curve", ["1", "4", "all"], series)
    tree = drawn(markup)
    paths = [one.attrib["d"] for one in of_class(tree, "line", "path")]
    assert paths == ["M4 100L50 50L96 0", "M4 75M96 25", ""]
    spots = [
        (one.attrib["x"], one.attrib["y"])
        for group in of_class(tree, "mark", "g")
        for one in group.iter("svg")
    ]
    expected = [("4%", "100%"), ("50%", "50%"), ("96%", "0%"), ("4%", "75%"), ("96%", "25%")]
    assert spots == expected
    titles = [one.text for one in tree.iter("title")]
    assert "cnn, 4: 50.0%" in titles
    assert "gap, all: 75.0%" in titles
    assert ["".join(one.itertext()) for one in tree.iter("li")] == ["cnn", "gap", "none"]
    marks = [one.find("svg/path").attrib["d"] for one in tree.iter("li")]  # type: ignore[union-attr]
    assert len(set(marks)) == 3  # not told apart by colour alone
    assert {"0%", "20%", "100%"} <= set(texts(tree))
    with pytest.raises(ValueError, match="gap has 2 values for 3 places"):
        lines("Curve", ["1", "4", "all"], {"gap": [1.0, 2.0]})


def test_an_axis_is_as_the_values_need_it() -> None:
    tree = drawn(
        lines("Alpha", ["0", "0.1", "1"], {"a": [70, 80, 75]}, places=[0, 0.1, 1], low=None,
              high=None, form=lambda value: f"{value:g}")
    )  # fmt: skip
    path = of_class(tree, "line", "path")[0].attrib["d"]
    points = [tuple(map(float, one.split())) for one in re.findall(r"[\d.]+ [\d.]+", path)]
    assert [point[0] for point in points] == pytest.approx([4, 13.2, 96])
    top, bottom = points[1][1], points[0][1]
    assert (top, bottom) == pytest.approx((100 / 22, 2100 / 22), abs=0.01)
    assert points[2][1] == pytest.approx((top + bottom) / 2, abs=0.01)
    assert {"70", "80"} <= set(texts(tree))
    drawn(lines("One", ["all"], {"a": [0.5]}, low=None, high=None))
    drawn(lines("None", [], {}))


def test_reliability_diagram_shows_its_bins() -> None:
    confidences = [0.05, 0.15, 0.15, 0.95, 0.95, 0.95, 0.95]
    found = reliability(confidences, [False, True, False, True, True, True, False], bins=10)
    tree = drawn(reliability_diagram("Reliability", found))
    heights = [one.attrib["height"] for one in of_class(tree, "series-0", "rect")]
    assert heights == ["0%", "50%", "75%"]
    assert [one.attrib["height"] for one in of_class(tree, "series-1", "rect")] == [
        "25%", "50%", "100%",
    ]  # fmt: skip
    assert [(one.attrib["cx"], one.attrib["cy"]) for one in tree.iter("circle")] == [
        ("5%", "100%"), ("15%", "50%"), ("95%", "25%"),
    ]  # fmt: skip
    assert "confidence 90% to 100%: 4 labels, mean confidence 95.0%, right 75.0%" in [
        one.text for one in tree.iter("title")
    ]
    assert texts(tree)[-4:] == ["1", "2", "4", "labels"]
    drawn(reliability_diagram("Nothing", reliability([], [])))


@pytest.mark.parametrize(("classes", "named", "counted"), [(2, 1, 1), (25, 1, 1), (60, 1, 0),
                                                            (200, 0, 0)])  # fmt: skip
def test_heat_map_of_few_and_many_classes(classes: int, named: bool, counted: bool) -> None:
    draws = np.random.default_rng(classes)
    counts = np.zeros((classes, classes), np.int64)
    truth = draws.integers(0, classes, 12 * classes)
    given = np.where(draws.random(len(truth)) < 0.7, truth, draws.integers(0, classes, len(truth)))
    np.add.at(counts, (truth, given), 1)
    names = [f"class {number}" for number in range(classes)]
    markup = heat_map("Confusions", names, names, counts)
    tree = drawn(markup)
    squares = [rect for group in tree.iter("g") if group.get("class") in ("right", "wrong")
               for rect in group.iter("rect")]  # fmt: skip
    assert len(squares) == np.count_nonzero(counts)
    right = sum(len(list(group.iter("rect"))) for group in of_class(tree, "right", "g"))
    assert right == np.count_nonzero(counts.diagonal())
    (frame,) = of_class(tree, "track", "rect")
    left, top = float(frame.attrib["x"]), float(frame.attrib["y"])
    side = float(frame.attrib["width"]) / classes
    found = np.zeros_like(counts)
    for square in squares:
        half = float(square.attrib["width"]) / 2
        column = int((float(square.attrib["x"]) + half - left) // side)
        row = int((float(square.attrib["y"]) + half - top) // side)
        title = square.findtext("title", "")
        of_row, of_column, number = re.fullmatch(r"(.+) → (.+): (\d+) \(.+%\)", title).groups()  # type: ignore[union-attr]
        assert (of_row, of_column) == (names[row], names[column])
        found[row, column] = int(number)
    assert found.tolist() == counts.tolist()
    told = texts(tree)
    assert (names[1] in told) == named
    assert told.count("1") == (np.count_nonzero(counts == 1) if counted else 0)
    sizes = [float(one.get("font-size", 12)) for one in tree.iter("text")]
    assert min(sizes) > 7
    assert float(tree.attrib["width"]) < 1100
    assert float(frame.attrib["width"]) + left <= float(tree.attrib["width"])


def test_a_full_map_of_many_classes_stays_small() -> None:
    names = [str(number) for number in range(200)]
    markup = heat_map("Confusions", names, names, np.ones((200, 200), int))
    tree = drawn(markup)
    assert len(markup) < 1_500_000
    moves = sum(one.attrib["d"].count("M") for one in tree.iter("path"))
    assert moves == 40_000


def test_darker_is_more() -> None:
    tree = drawn(heat_map("m", ["a", "b"], ["a", "b"], [[9, 1], [5, 5]]))
    opacity = {
        rect.findtext("title", "").split(":")[0]: float(group.attrib["fill-opacity"])
        for group in tree.iter("g")
        if group.get("class") in ("right", "wrong")
        for rect in group.iter("rect")
    }
    assert opacity["a → a"] > opacity["b → a"] == opacity["b → b"] > opacity["a → b"] > 0.2
    given = drawn(heat_map("m", ["a"], ["x", "y"], [[3, 4]], shades=[[1.0, 0.01]], diagonal=False))
    assert not of_class(given, "right", "g")
    assert len(of_class(given, "wrong", "g")) == 2


def test_names_cannot_be_markup() -> None:
    for markup in (
        bars(ODD, [Bar(ODD, 0.5)]),
        grouped_bars(ODD, [ODD], [ODD], [[0.5]]),
        lines(ODD, [ODD], {ODD: [0.5]}),
        heat_map(ODD, [ODD], [ODD], [[1]], axes=(ODD, ODD)),
    ):
        tree = drawn(markup)
        assert any(text.startswith('a "b" <c>') for text in texts(tree))
    assert escaped("\ud800") == "?"


def test_numbers_and_texts() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0.693, 0.771) == [0.7, 0.72, 0.74, 0.76]
    assert ticks(0, 47) == [0, 10, 20, 30, 40]
    assert ticks(3, 3) == [3]
    assert (percent(0.762), percent(math.nan)) == ("76.2%", "–")
    assert shortened("short", 100) == "short"
    long = shortened("a name that is much too long for its place", 100)
    assert long.endswith("…")
    assert text_width(long) <= 100 < text_width("a name that is much too long for its place")
    assert text_width("猫") > text_width("c")


def test_every_class_has_a_style() -> None:
    style = chart_style()
    pages = (
        lines("t", ["a"], {str(number): [0.5] for number in range(9)})
        + heat_map("t", ["a", "b"], ["a", "b"], [[1, 2], [3, 4]])
        + reliability_diagram("t", reliability([0.5], [True]))
        + bars("t", [Bar("a", 1, 0, 1)], mark=1)
    )
    used = {name for found in re.findall(r'class="([^"]+)"', pages) for name in found.split()}
    assert {"series-0", "series-7", "honest", "wrong", "interval"} <= used
    plain = {"figure", "figures", "charted", "mark"}  # for a page to style, where it wants to
    assert {name for name in used - plain if f".{name}" not in style} == set()
