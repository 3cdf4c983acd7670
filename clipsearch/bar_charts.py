"""Bars of measured figures as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.svg_pieces import (
    chart,
    element,
    number,
    percent,
    series_class,
    share,
    shortened,
    titled,
    words,
)

_LABELS, _PLOT = 0.34, 0.5  # of the width; the figures have the rest
_ROW, _HEADING = 22, 26  # pixels
_LONGEST_LABEL = 230.0


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    value : nan where there is none. low, high : an interval that it lies in, nan for none.
    text : what stands behind it, None for the value. about : what is said when it is pointed at.
    series : decides its colour.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    text: str | None = None
    about: str | None = None
    series: int = 0


def bars(
    title: str,
    rows: Sequence[Bar],
    *,
    most: float | None = 1.0,
    mark: float | None = None,
    form: Callable[[float], str] = percent,
) -> str:
    """Horizontal bars below each other, their names before them and their values behind.

    most : the value that fills the width, None for the largest. mark : a value to draw a line at,
    such as the mean. form : writes a value.
    """
    full = _full([row.value for row in rows], most)
    drawn = [_bar(row, place * _ROW, full, form) for place, row in enumerate(rows)]
    height = max(1, len(rows)) * _ROW
    return chart(title, height, *drawn, _mark(mark, full, 0, height))


def grouped_bars(
    title: str,
    groups: Sequence[str],
    series: Sequence[str],
    values: npt.ArrayLike,
    *,
    intervals: npt.ArrayLike | None = None,
    most: float | None = 1.0,
    form: Callable[[float], str] = percent,
) -> str:
    """Bars in groups: of each group one of every series, named where they stand.

    values : (g, s), nan where there is none. intervals : (g, s, 2), the low and high ends.
    most, form : as ``bars``.
    """
    table = np.asarray(values, np.float64).reshape(len(groups), len(series))
    ends = np.full((*table.shape, 2), np.nan)
    if intervals is not None:
        ends[:] = np.asarray(intervals, np.float64).reshape(ends.shape)
    full = _full(table.ravel().tolist(), most)
    pieces, top = [], 0
    for group, row, ends_here in zip(groups, table.tolist(), ends.tolist(), strict=True):
        heading = words(shortened(group, 3 * _LONGEST_LABEL), x=0, y=top + 17, class_="heading")
        pieces.append(titled(group, heading))
        top += _HEADING
        for position, (name, value) in enumerate(zip(series, row, strict=True)):
            if not math.isnan(value):
                low, high = ends_here[position]
                one = Bar(name, value, low, high, series=position, about=f"{group}, {name}")
                pieces.append(_bar(one, top, full, form))
                top += _ROW
        top += 6
    return chart(title, max(top, _ROW), *pieces)


def _full(values: Sequence[float], most: float | None) -> float:
    """The value that fills the width."""
    if most is None:
        most = max((value for value in values if math.isfinite(value)), default=1.0)
    return most if most > 0 else 1.0


def _bar(row: Bar, top: int, full: float, form: Callable[[float], str]) -> str:
    text = row.text if row.text is not None else form(row.value)
    label = words(shortened(row.label, _LONGEST_LABEL), x=0, y=15)
    # What does not fit is cut where the bars begin.
    pieces = [element("svg", label, x=0, y=top, width=share(_LABELS - 0.01), height=_ROW)]
    pieces.append(_strip(top, _PLOT, "track"))
    if math.isfinite(row.value):
        length = _PLOT * min(max(row.value / full, 0.0), 1.0)
        pieces.append(_strip(top, length, series_class(row.series)))
    if math.isfinite(row.low) and math.isfinite(row.high):
        low, high = (
            share(_LABELS + _PLOT * min(max(end / full, 0.0), 1.0)) for end in (row.low, row.high)
        )
        middle = top + _ROW // 2
        for x1, x2, half in ((low, high, 0), (low, low, 4), (high, high, 4)):
            ends = {"y1": str(middle - half), "y2": str(middle + half)}
            pieces.append(element("line", x1=x1, x2=x2, **ends, class_="interval"))
    behind = share(_LABELS + _PLOT + 0.012)
    pieces.append(words(text, x=behind, y=top + 15, class_="figure"))
    about = f"{row.about or row.label}: {text}"
    if math.isfinite(row.low) and math.isfinite(row.high):
        about += f" ({form(row.low)} to {form(row.high)})"
    return titled(about, *pieces)


def _strip(top: int, length: float, kind: str) -> str:
    return element(
        "rect", x=share(_LABELS), y=top + 4, width=share(length), height=_ROW - 8, rx=2,
        class_=kind,
    )  # fmt: skip


def _mark(value: float | None, full: float, top: float, height: float) -> str:
    if value is None or not math.isfinite(value):
        return ""
    at = share(_LABELS + _PLOT * min(max(value / full, 0.0), 1.0))
    return element(
        "line", x1=at, x2=at, y1=number(top), y2=number(top + height), class_="reference"
    )
