"""Checking what a browser sends, on the server: whoever is let in may still send anything."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from ui.page_errors import PageError
from ui.page_settings import PageSettings

_MOST_DEPTH = 60


def check_text(value: object, name: str, settings: PageSettings, most: int | None = None) -> str:
    """A text of at most ``most`` letters, ``most_text`` of them by default; None is empty.

    What is no letter anywhere goes: NUL, and halves of surrogate pairs, which JSON can carry and
    no encoder of texts can take.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PageError(f"{name}: expected text, got {_kind(value)}")
    limit = settings.most_text if most is None else most
    if len(value) > limit:
        raise PageError(f"{name}: expected at most {limit:,} letters, got {len(value):,}", 413)
    return _letters(value)


def only_letters(value: Any) -> Any:
    """A JSON value whose texts, names of members too, have nothing in them that is no letter
    anywhere; see ``check_text``. PageError where it is nested deeper than any question is."""
    return _only_letters(value, _MOST_DEPTH)


def check_choice(value: object, name: str, allowed: Collection[str]) -> str:
    """One of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise PageError(f"{name}: expected one of {', '.join(sorted(allowed))}")
    return value


def check_flag(value: object, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise PageError(f"{name}: expected true or false, got {_kind(value)}")
    return value


def check_number(value: object, name: str, low: float, high: float) -> float:
    """A number from ``low`` to ``high``; no infinity, and no NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PageError(f"{name}: expected a number from {low:,} to {high:,}, got {_kind(value)}")
    if not low <= value <= high or not math.isfinite(value):
        raise PageError(f"{name}: expected {low:,} to {high:,}, got {str(value)[:30]}")
    return float(value)


def check_count(value: object, name: str, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PageError(f"{name}: expected a whole number from {low:,} to {high:,}")
    if not low <= value <= high:
        # Of a number of a million digits nobody wants to read them, and str() would not make them.
        got = f"{value:,}" if abs(value) < 10**18 else "a far larger number"
        raise PageError(f"{name}: expected {low:,} to {high:,}, got {got}")
    return value


def check_ids(values: object, name: str, most: int) -> list[int]:
    """At most ``most`` different ids, in their order."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise PageError(f"{name}: expected a list of ids")
    if len(values) > most:
        raise PageError(f"{name}: expected at most {most:,} ids, got {len(values):,}", 413)
    return list(dict.fromkeys(check_count(value, name, 0, 2**62) for value in values))


def check_texts(values: object, name: str, settings: PageSettings, most: int) -> list[str]:
    """At most ``most`` texts, each as of ``check_text``."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise PageError(f"{name}: expected a list of texts")
    if len(values) > most:
        raise PageError(f"{name}: expected at most {most:,} texts, got {len(values):,}", 413)
    return [check_text(value, name, settings) for value in values]


def _only_letters(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _letters(value)
    if not isinstance(value, list | dict):
        return value
    if not depth:
        raise PageError("This question is nested too deeply.")
    if isinstance(value, list):
        return [_only_letters(part, depth - 1) for part in value]
    return {_letters(name): _only_letters(part, depth - 1) for name, part in value.items()}


def _letters(text: str) -> str:
    return text.encode("utf-8", "ignore").decode().replace("\0", "")


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", type(None): "nothing"}
    if isinstance(value, dict):
        return "an object"
    return kinds.get(type(value), "a list" if isinstance(value, list | tuple) else "something else")
