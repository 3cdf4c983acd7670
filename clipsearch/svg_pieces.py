"""What charts are drawn with: elements of SVG as text, escaped.

Places across are shares of the width (per cent), places down are pixels: a chart fills whatever
is there for it, and its letters keep their size on a small screen. Colours are classes of
``templates/charts.css``; style attributes are not used, which the pages' policy forbids.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence

from clipsearch.html_pages import shown

SERIES_COLOURS = 8
"""Series beyond these have the colours of the first again."""


def escaped(text: str) -> str:
    """Text for an element or an attribute."""
    return html.escape(shown(text))


def number(value: float) -> str:
    """A coordinate: two decimals at the most."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"


def share(value: float) -> str:
    """A place across, or down a plot, given as 0..1."""
    return f"{number(100 * value)}%"


def percent(value: float) -> str:
    """0.762 as "76.2%"; a dash for nan."""
    return "–" if math.isnan(value) else f"{value:.1%}"


def whole_percent(value: float) -> str:
    """0.2 as "20%"."""
    return f"{value:.0%}"


def element(name: str, inside: str = "", **attributes: object) -> str:
    """One element. Underscores of attributes become hyphens (a last one goes), None is left out;
    ``inside`` is markup already."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{inside}</{name}>"


def titled(title: str, *inside: str, class_: str | None = None) -> str:
    """A group that says what it is when it is pointed at."""
    return element("g", element("title", escaped(title)) + "".join(inside), class_=class_)


def words(text: str, **attributes: object) -> str:
    """A text element."""
    return element("text", escaped(text), **attributes)


def chart(title: str, height: float, *inside: str, class_: str = "chart") -> str:
    """A whole chart, ``height`` pixels high, that says what it is to those who cannot see it."""
    return element(
        "svg", "".join(inside),
        class_=class_, role="img", aria_label=title, width="100%", height=number(height),
    )  # fmt: skip


def series_class(position: int) -> str:
    """The class that colours one series."""
    return f"series-{position % SERIES_COLOURS}"


def text_width(text: str, size: float = 12) -> float:
    """About how many pixels a text takes at a font size of ``size``."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return size * (0.6 * (len(text) - wide) + wide)


def shortened(text: str, pixels: float, size: float = 12) -> str:
    """As much of a text as about fits into ``pixels``."""
    plain = " ".join(shown(text).split())
    if text_width(plain, size) <= pixels:
        return plain
    while plain and text_width(plain + "…", size) > pixels:
        plain = plain[:-1]
    return plain.rstrip() + "…"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in low..high, about so many, as far apart as 1, 2, 2.5 or 5 times a power of
    ten."""
    extent = high - low
    if not (math.isfinite(extent) and extent > 0):
        return [low]
    rough = extent / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= 0.999 * rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def legend(series: Sequence[str], marks: Sequence[str] | None = None) -> str:
    """The names of series beside their colours, as an HTML list. marks : paths around 0, 0."""
    items = []
    for position, name in enumerate(series):
        path = marks[position % len(marks)] if marks else "M-6-6h12v12h-12z"
        sign = element(
            "svg", element("path", d=path, class_=series_class(position)),
            class_="sign", width=14, height=14, viewBox="-7 -7 14 14", aria_hidden="true",
        )  # fmt: skip
        items.append(element("li", sign + element("span", escaped(name), dir="auto")))
    return element("ul", "".join(items), class_="legend")
