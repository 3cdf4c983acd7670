"""Printing: tables for a terminal, lines for a pipe, NDJSON, CSV and NUL-ended paths."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

# Control characters, and those that reorder what stands around them.
_CONTROL = dict.fromkeys(
    (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    "\N{REPLACEMENT CHARACTER}",
)


def format_options(null: bool = True) -> Callable[[F], F]:
    """The --json, --csv and -0 flags, handed on as ``output``: "auto", "json", "csv", "null"."""

    def decorate(function: F) -> F:
        options = [
            click.option("--json", "output", flag_value="json", help="One JSON object a line."),
            click.option("--csv", "output", flag_value="csv", help="CSV with a header line."),
        ]
        if null:
            options.append(
                click.option(
                    "-0",
                    "--null",
                    "output",
                    flag_value="null",
                    help="Paths ended by NUL, for xargs -0.",
                )
            )
        for option in options:
            function = option(function)
        return function

    return decorate


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def write_bytes(data: bytes) -> None:
    """Write to standard output as it is: a file name may be no text at all."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def for_display(text: str) -> str:
    """Text safe to show on a terminal: no control characters, no half surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROL)


def display_path(path: Path) -> str:
    """A path for a person: relative to here when it lies below."""
    try:
        return for_display(str(path.relative_to(Path.cwd())))
    except ValueError:
        return for_display(str(path))


def path_fields(path: Path) -> dict[str, str]:
    """``path`` for JSON and CSV; where it is no UTF-8 its bytes stand beside it."""
    text = str(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return {
            "path": os.fsencode(path).decode("utf-8", "replace"),
            "path_base64": base64.b64encode(os.fsencode(path)).decode("ascii"),
        }
    return {"path": text}


def json_line(document: dict[str, Any]) -> bytes:
    """One line of NDJSON; what is no text in a string becomes a question mark."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace") + b"\n"


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV with \\n line ends."""
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode("utf-8", "replace")


def text_width(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(0 if unicodedata.combining(letter) else 2 if wide(letter) else 1 for letter in text)


def wide(letter: str) -> bool:
    """Whether a terminal gives a letter two cells."""
    return unicodedata.east_asian_width(letter) in ("W", "F")


def padded(text: str, width: int) -> str:
    """Text and as many spaces as make ``width`` cells of a terminal; nothing is cut."""
    return text + " " * (width - text_width(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> str:
    """An aligned table. ``right`` has an "r" at the place of every right-aligned column.

    Nothing is cut: a path must be fit to copy.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(text_width(line[column]) for line in lines) for column in range(len(header))]
    printed = []
    for line in lines:
        cells = []
        for column, cell in enumerate(line):
            gap = " " * (widths[column] - text_width(cell))
            is_right = right[column : column + 1] == "r"
            cells.append(gap + cell if is_right else cell + gap)
        printed.append("  ".join(cells).rstrip())
    return "\n".join(printed)


def human_bytes(count: float) -> str:
    """1536 -> "1.5 kB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return (
                f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
            )
        count /= 1000
    raise AssertionError


def human_seconds(seconds: float) -> str:
    """90 -> "1 min 30 s", 0.0123 -> "12 ms"."""
    if seconds < 0.1:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """1, "image" -> "1 image"; 2 -> "2 images"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
