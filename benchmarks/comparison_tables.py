"""The figures of a comparison as text tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from comparison_results import Comparison
from damaged_pictures import DAMAGE, STYLES

from clipsearch.svg_pieces import percent


def tables(found: Comparison) -> str:
    """All tables, one below the other."""
    blocks = [
        (f"{len(found.truth)} test photos of {len(found.labels)} classes", _accuracy(found)),
        ("networks", _costs(found)),
        ("classes without training photos", _withheld(found)),
        ("damaged and redrawn photos", changed_rows(found)),
        ("photos a class to learn from", curve_rows(found)),
    ]
    return "\n\n".join(f"{title}\n{aligned(rows)}" for title, rows in blocks if rows)


def duration(seconds: float) -> str:
    """ "0.4 s", "12 s", "7 min"."""
    if math.isnan(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _accuracy(found: Comparison) -> list[list[str]]:
    rows = [["method", "learned from", "in", "top-1", "95 %", "mean/class", "top-5", "ECE"]]
    for result in found.clean:
        low, high = result.interval
        rows.append([
            result.method.name, f"{result.method.photos:,} photos", duration(result.seconds),
            percent(result.accuracy), f"{100 * low:.1f}-{100 * high:.1f}",
            percent(result.mean_per_class), percent(result.top5),
            f"{result.calibration_error:.3f}",
        ])  # fmt: skip
    return rows


def _costs(found: Comparison) -> list[list[str]]:
    rows = [["network", "million numbers", "MB", "pixels", "photos/s", "without reading"]]
    return rows + [
        [name, f"{cost.parameters / 1e6:.1f}", f"{cost.megabytes:.1f}", str(cost.pixels),
         f"{cost.rate:.0f}", f"{cost.bare:.0f}"]
        for name, cost in found.costs.items()
    ]  # fmt: skip


def _withheld(found: Comparison) -> list[list[str]]:
    if found.withheld is None:
        return []
    names = ", ".join(found.labels[place] for place in found.withheld.classes)
    rows = [["method", "trained on", f"not: {names}", "all"]]
    for result in found.withheld.results:
        known, out = found.withheld.shares(result)
        rows.append([result.method.name, percent(known), percent(out), percent(result.accuracy)])
    return rows


def changed_rows(found: Comparison) -> list[list[str]]:
    """Accuracy by method and change, and the means of damage and of styles."""
    columns = list(found.changed)
    if not columns:
        return []
    heads = [f"{kind} {severity}" if severity else kind for kind, severity in columns]
    rows = [["method", "as they are", "damaged", "redrawn", *heads]]
    for result in found.clean:
        name = result.method.name
        means = [found.mean_changed(name, list(DAMAGE)), found.mean_changed(name, list(STYLES))]
        each = [found.changed_accuracy(name, kind, severity) for kind, severity in columns]
        rows.append([name, *(f"{100 * one:.1f}" for one in (result.accuracy, *means, *each))])
    return rows


def curve_rows(found: Comparison) -> list[list[str]]:
    """Accuracy by method and number of photos; with the spread where there are several draws."""
    counts = sorted({count for by in found.curve.values() for count in by if count})
    rows = [["method", *(str(count) for count in counts), "all"]]
    for name, by_count in found.curve.items():
        rows.append([name, *(_mean(by_count.get(count, ())) for count in (*counts, 0))])
    return rows


def _mean(found: Sequence[float]) -> str:
    if not found:
        return "–"
    spread = f" ±{100 * np.std(found):.1f}" if len(set(found)) > 1 else ""
    return f"{100 * np.mean(found):.1f}{spread}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns below each other; figures to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )  # fmt: skip
