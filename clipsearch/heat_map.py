"""A table of numbers as shaded squares: a confusion matrix to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsearch.svg_pieces import element, escaped, number, shortened, text_width, titled, words

_WHOLE = 660  # pixels of the squares together, where that gives each a fair size
_LARGEST, _SMALLEST = 40.0, 5.0
_LEAST_NAMED, _LEAST_COUNTED = 10.5, 15.0
_MOST_LABEL = 170.0
_MOST_TITLES = 2_500
_LEVELS = 16
_GAP = 0.92  # of a square that is filled


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    counts: npt.ArrayLike,
    *,
    shades: npt.ArrayLike | None = None,
    axes: tuple[str, str] = ("truth", "label given"),
    diagonal: bool = True,
) -> str:
    """Squares, the darker the more; what is 0 stays empty.

    counts : (r, c) numbers from 0, written into the squares where there is room. shades : (r, c)
    in 0..1, None for each row's counts as shares of their sum. axes : what rows and columns are.
    diagonal : whether row i and column i are the same thing, and so of another colour.

    Names are left out where squares are too small for them. It is as wide as it has to be: a
    page lets it scroll.
    """
    table = np.asarray(counts)
    table = table.reshape(len(rows), len(columns))
    dark = row_shares(table) if shades is None else np.asarray(shades, np.float64)
    side = min(max(_WHOLE / max(1, len(rows), len(columns)), _SMALLEST), _LARGEST)
    side = round(side) if side > _LEAST_NAMED else side
    letters = min(12.0, side)
    named = side >= _LEAST_NAMED
    left = top = 26.0
    if named:
        left += _longest(rows, letters)
        top += _longest(columns, letters)
    pieces = [_frame(left, top, side, len(rows), len(columns))]
    if named:
        pieces += [_row_name(name, left, top + at * side, side, letters)
                   for at, name in enumerate(rows)]  # fmt: skip
        pieces += [_column_name(name, left + at * side, top, side, letters)
                   for at, name in enumerate(columns)]  # fmt: skip
    pieces += _squares(rows, columns, table, dark, (left, top, side), diagonal)
    wide, high = left + side * len(columns) + 2, top + side * len(rows) + 2
    pieces.append(words(axes[1], x=number(left), y=12, class_="soft"))
    pieces.append(
        words(axes[0], transform=f"translate(12 {number(high - 2)}) rotate(-90)", class_="soft")
    )
    return element(
        "svg", "".join(pieces), class_="chart heat", role="img", aria_label=title,
        width=number(wide), height=number(high), viewBox=f"0 0 {number(wide)} {number(high)}",
    )  # fmt: skip


def row_shares(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(r, c) counts as shares of their rows; a row of zeros stays one."""
    table = np.asarray(counts, np.float64)
    return np.asarray(table / np.maximum(table.sum(axis=1, keepdims=True), 1))


def _longest(names: Sequence[str], letters: float) -> float:
    return min(_MOST_LABEL, max((text_width(name, letters) for name in names), default=0)) + 8


def _frame(left: float, top: float, side: float, rows: int, columns: int) -> str:
    return element(
        "rect", x=number(left), y=number(top), width=number(side * columns),
        height=number(side * rows), class_="track",
    )  # fmt: skip


def _row_name(name: str, left: float, top: float, side: float, letters: float) -> str:
    text = words(
        shortened(name, _MOST_LABEL, letters), x=number(left - 5),
        y=number(top + side / 2 + letters / 3), class_="end", font_size=number(letters),
    )  # fmt: skip
    return titled(name, text)


def _column_name(name: str, left: float, top: float, side: float, letters: float) -> str:
    place = f"translate({number(left + side / 2 + letters / 3)} {number(top - 5)}) rotate(-90)"
    text = words(
        shortened(name, _MOST_LABEL, letters), transform=place, font_size=number(letters)
    )  # fmt: skip
    return titled(name, text)


def _squares(
    rows: Sequence[str],
    columns: Sequence[str],
    table: npt.NDArray[np.generic],
    dark: npt.NDArray[np.float64],
    place: tuple[float, float, float],
    diagonal: bool,
) -> list[str]:
    left, top, side = place
    down, across = np.nonzero(table)
    filled = _GAP * side if side >= _LEAST_NAMED else side
    inset = (side - filled) / 2
    # A root lets a few mistakes among many right ones still be seen.
    levels = np.clip(np.ceil(np.sqrt(dark[down, across]) * _LEVELS), 1, _LEVELS).astype(int)
    pieces: dict[tuple[str, int], list[str]] = {}
    figures: list[str] = []
    is_few = len(down) <= _MOST_TITLES
    for i, j, level in zip(down.tolist(), across.tolist(), levels.tolist(), strict=True):
        x, y = left + j * side + inset, top + i * side + inset
        kind = "right" if diagonal and i == j else "wrong"
        count = table[i, j].item()
        if is_few:
            about = f"{rows[i]} → {columns[j]}: {_count(count)} ({dark[i, j]:.1%})"
            square = element(
                "rect", element("title", escaped(about)), x=number(x), y=number(y),
                width=number(filled), height=number(filled),
            )  # fmt: skip
        else:
            square = (
                f"M{number(x)} {number(y)}h{number(filled)}v{number(filled)}h{number(-filled)}z"
            )
        pieces.setdefault((kind, level), []).append(square)
        if side >= _LEAST_COUNTED:
            text = _count(count)
            figures.append(
                words(
                    text, x=number(x + filled / 2), y=number(y + filled / 2 + 4),
                    class_="figure middle on" if level > 0.62 * _LEVELS else "figure middle",
                    font_size=number(min(11.0, 0.95 * filled / max(1.2, 0.6 * len(text)))),
                )
            )  # fmt: skip
    drawn = []
    for (kind, level), squares in sorted(pieces.items()):
        inside = "".join(squares) if is_few else element("path", d="".join(squares))
        drawn.append(element("g", inside, class_=kind, fill_opacity=number(level / _LEVELS)))
    return [*drawn, element("g", "".join(figures), class_="figures")]


def _count(count: float) -> str:
    if count != int(count):
        return f"{count:.2g}"
    return str(int(count)) if count < 10_000 else f"{count / 1000:.0f}k"
