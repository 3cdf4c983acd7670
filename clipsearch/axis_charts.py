"""Charts with two axes as SVG: lines, and how often labels are right by how sure they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from clipsearch.calibration import Reliability
from clipsearch.svg_pieces import (
    chart,
    element,
    escaped,
    legend,
    number,
    percent,
    series_class,
    share,
    shortened,
    ticks,
    titled,
    whole_percent,
    words,
)

_LEFT, _ACROSS = 0.12, 0.83  # of the width
_DOWN = 240  # pixels
_COUNTS_DOWN = 56
_MARKS = (
    "M0-4.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z",  # a disc
    "M-4-4h8v8h-8z",
    "M0-5.5L5 4H-5z",
    "M0-5.5L5.5 0L0 5.5L-5.5 0z",
    "M0 5.5L5-4H-5z",
    "M-5-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",  # a cross
)


def lines(
    title: str,
    x: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    places: Sequence[float] | None = None,
    low: float | None = 0.0,
    high: float | None = 1.0,
    form: Callable[[float], str] = percent,
) -> str:
    """Lines over a common axis, with a legend below them.

    x : what stands below each of the n points. places : (n,) rising numbers where they are drawn;
    None as far apart from each other. series : by name n values each; nan leaves a gap.
    low, high : of the axis; None as the values need it. form : writes a value.
    """
    known = [value for row in series.values() for value in row if math.isfinite(value)]
    bottom, top = _range(known, low, high)
    across = _spread(places if places is not None else list(range(len(x))))
    pieces = [_grid(bottom, top, form)]
    last = -math.inf
    for place, name in zip(across, x, strict=True):
        if place - last >= 0.08 or place == across[-1]:  # so that they do not overlap
            pieces.append(_below(place, name))
            last = place
    for position, (name, row) in enumerate(series.items()):
        if len(row) != len(x):
            raise ValueError(f"{name} has {len(row)} values for {len(x)} places")
        high_up = [(top - value) / (top - bottom) for value in row]
        pieces.append(_line(across, high_up, position))
        for place, at, below, value in zip(across, high_up, x, row, strict=True):
            if math.isfinite(value):
                sign = element("path", d=_MARKS[position % len(_MARKS)])
                told = element("title", escaped(f"{name}, {below}: {form(value)}"))
                spot = element("svg", told + sign, x=share(place), y=share(at), overflow="visible")
                pieces.append(element("g", spot, class_=series_class(position) + " mark"))
    drawn = chart(title, _DOWN + 36, _plot(pieces, 10, _DOWN), class_="chart axes")
    return element("div", drawn + legend(list(series), _MARKS), class_="charted")


def reliability_diagram(title: str, reliability: Reliability) -> str:
    """How often labels are right, by how sure they are: an honest model's bars end at the broken
    line. Below, how many labels are in each bin."""
    pieces = [_grid(0.0, 1.0, percent)]
    counted = []
    most = max(1, int(reliability.counts.max(initial=0)))
    rows = zip(
        reliability.edges[:-1].tolist(), reliability.edges[1:].tolist(),
        reliability.counts.tolist(), reliability.confidences.tolist(),
        reliability.accuracies.tolist(), strict=True,
    )  # fmt: skip
    for left, right, count, confidence, accuracy in rows:
        if not count:
            continue
        about = (
            f"confidence {left:.0%} to {right:.0%}: {count:,} labels, mean confidence "
            f"{confidence:.1%}, right {accuracy:.1%}"
        )
        x, width = share(left + 0.004), share(max(right - left - 0.008, 0.002))
        bar = element(
            "rect", x=x, y=share(1 - accuracy), width=width, height=share(accuracy),
            class_=series_class(0),
        )  # fmt: skip
        dot = element("circle", cx=share(confidence), cy=share(1 - accuracy), r=3.5, class_="dot")
        pieces.append(titled(about, bar, dot))
        tall = count / most
        strip = element(
            "rect", x=x, y=share(1 - tall), width=width, height=share(tall),
            class_=series_class(1),
        )  # fmt: skip
        middle = share((left + right) / 2)
        figure = words(_short_count(count), x=middle, y=share(1 - tall), dy=-3, class_="tiny")
        counted.append(titled(about, strip, figure))
    honest = element("path", d="M0 100L100 0", class_="honest", vector_effect="non-scaling-stroke")
    pieces.append(_stretched(honest))
    pieces += [_below(place, whole_percent(place)) for place in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    top = _DOWN + 62
    base = element("line", x1=0, x2="100%", y1="100%", y2="100%", class_="grid")
    return chart(
        title,
        top + _COUNTS_DOWN + 18,
        _plot(pieces, 10, _DOWN),
        words("confidence", x=share(_LEFT + _ACROSS / 2), y=_DOWN + 42, class_="soft middle"),
        _plot([*counted, base], top, _COUNTS_DOWN),
        words("labels", x=0, y=top + _COUNTS_DOWN, class_="soft"),
        class_="chart axes square",
    )


def _plot(pieces: Sequence[str], top: float, height: float) -> str:
    """What lies between the axes."""
    return element(
        "svg", "".join(pieces), x=share(_LEFT), y=number(top), width=share(_ACROSS),
        height=number(height), overflow="visible",
    )  # fmt: skip


def _range(known: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    bottom = low if low is not None else min(known, default=0.0)
    top = high if high is not None else max(known, default=1.0)
    if top - bottom < 1e-9:
        bottom, top = bottom - 0.5, top + 0.5
    room = 0.05 * (top - bottom)
    return (bottom if low is not None else bottom - room, top if high is not None else top + room)


def _spread(places: Sequence[float]) -> list[float]:
    """Places across, 0..1, with a margin at both ends."""
    first, extent = places[0] if places else 0.0, (places[-1] - places[0]) if places else 0.0
    if extent <= 0:
        return [0.5] * len(places)
    return [0.04 + 0.92 * (place - first) / extent for place in places]


def _grid(bottom: float, top: float, form: Callable[[float], str]) -> str:
    """Lines across the plot at round values, which stand before them."""
    pieces = []
    values = ticks(bottom, top)
    if form is percent and all(abs(100 * value - round(100 * value)) < 1e-9 for value in values):
        form = whole_percent
    for value in values:
        at = share((top - value) / (top - bottom))
        pieces.append(element("line", x1=0, x2="100%", y1=at, y2=at, class_="grid"))
        pieces.append(words(form(value), x=-6, y=at, dy=4, class_="soft end"))
    return "".join(pieces)


def _below(place: float, name: str) -> str:
    text = words(shortened(name, 90), x=share(place), y="100%", dy=18, class_="soft middle")
    return titled(name, text)


def _line(across: Sequence[float], down: Sequence[float], position: int) -> str:
    path, drawing = [], False
    for x, y in zip(across, down, strict=True):
        if math.isfinite(y):
            path.append(f"{'L' if drawing else 'M'}{number(100 * x)} {number(100 * y)}")
        drawing = math.isfinite(y)
    drawn = element("path", d="".join(path), class_="line", vector_effect="non-scaling-stroke")
    return element("g", _stretched(drawn), class_=series_class(position))


def _stretched(inside: str) -> str:
    """What is drawn on 100 by 100, over the whole plot; lines keep their width."""
    return element(
        "svg", inside, width="100%", height="100%", viewBox="0 0 100 100",
        preserveAspectRatio="none", overflow="visible",
    )  # fmt: skip


def _short_count(count: int) -> str:
    if count < 1000:
        return str(count)
    if count < 1_000_000:
        return f"{count / 1000:.1f}k" if count < 10_000 else f"{count // 1000}k"
    return f"{count / 1e6:.1f}M"
