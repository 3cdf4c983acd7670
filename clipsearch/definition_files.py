"""Files that say what labels are, beyond their names.

TOML or JSON; all of it may be left out:

    [labels.crane]
    words = "crane bird"                      # what the model reads in place of the name
    synonyms = ["whooping crane"]
    descriptions = ["a tall grey bird with long legs and a long neck"]
    parent = "bird"
    threshold = 0.6                           # the least probability it is given with

    [groups.season]                           # one of these an image
    labels = ["summer", "winter"]

    [groups.things]                           # any number of these
    labels = ["crane", "bicycle"]
    exclusive = false
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipsearch.errors import LabelError
from clipsearch.label_definitions import (
    NOTHING_SAID,
    LabelDefinition,
    LabelDefinitions,
    LabelGroup,
)
from clipsearch.prompts import check_labels, read_labels_file, same_label, text_lines

FILE_ENDINGS = (".toml", ".json")
_LABEL_KEYS = ("words", "synonyms", "descriptions", "parent", "threshold")
_GROUP_KEYS = ("labels", "exclusive")
_FILE_KEYS = ("labels", "groups")
_MOST_BYTES = 64 << 20


def read_labels(path: str | Path) -> Sequence[str]:
    """The labels of a file: of definitions where it ends in .toml or .json, else one a line.

    Raises LabelError for a file that is missing, no text, or holds what labels cannot be.
    """
    if Path(path).suffix.lower() in FILE_ENDINGS:
        return read_definitions(path)
    return read_labels_file(path)


def read_definitions(path: str | Path) -> LabelDefinitions:
    """The definitions in a TOML or JSON file; raises LabelError as ``read_labels`` does."""
    place = Path(path)
    document = _document(place)
    try:
        return definitions_of(document)
    except LabelError as error:
        raise LabelError(f"{place}: {error}") from None


def labels_in(name: str, data: bytes) -> Sequence[str]:
    """The labels in what a file called ``name`` holds, as ``read_labels`` has them of the file;
    raises LabelError as that does, with the name alone."""
    if Path(name).suffix.lower() not in FILE_ENDINGS:
        return check_labels(text_lines(data, "labels", name))
    document = _parsed(Path(name), data)
    try:
        return definitions_of(document)
    except LabelError as error:
        raise LabelError(f"{name}: {error}") from None


def definitions_of(document: object) -> LabelDefinitions:
    """The definitions in what a TOML or JSON file holds.

    A parent, and a label of a group, of which nothing else is said need not stand among the
    labels. Raises LabelError for anything that is not as the file's form has it.
    """
    table = _table(document, "the file", _FILE_KEYS)
    labels = table.get("labels", {})
    if isinstance(labels, list):  # nothing is said of any
        labels = {label: {} for label in _texts(labels, "labels")}
    named = _table(labels, "labels")
    items = {name: _definition(name, value) for name, value in named.items()}
    groups = tuple(
        _group(name, value) for name, value in _table(table.get("groups", {}), "groups").items()
    )
    known = {same_label(name) for name in items}
    mentioned = [label for group in groups for label in group.labels]
    mentioned += [item.parent for item in items.values() if item.parent is not None]
    for label in mentioned:
        if same_label(label) not in known:
            known.add(same_label(label))
            items[label] = NOTHING_SAID
    if not items:
        raise LabelError("no label is there: expected a table such as [labels.cat]")
    return LabelDefinitions(tuple(items), tuple(items.values()), groups)


def _document(path: Path) -> object:
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LabelError(f"expected a file of labels at {path}: {reason}") from None
    except ValueError as error:  # a name with a NUL in it
        raise LabelError(f"expected a file of labels at {str(path)!r}: {error}") from None
    return _parsed(path, data)


def _parsed(path: Path, data: bytes) -> object:
    if len(data) > _MOST_BYTES:
        raise LabelError(f"{path} is larger than {_MOST_BYTES >> 20} MB: no file of labels is")
    form = path.suffix.lower().removeprefix(".").upper()
    try:
        text = data.decode("utf-8-sig")
        if form == "TOML":
            import tomllib

            return tomllib.loads(text)
        return json.loads(text, object_pairs_hook=_without_repeats)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise LabelError(f"{path} is no UTF-8 text: save it as UTF-8") from None
    except RecursionError:
        raise LabelError(f"{path} is no {form} of labels: it is nested too deeply") from None
    except ValueError as error:
        raise LabelError(f"{path} is no {form}: {error}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise LabelError(f"{name!r} is there twice: keep one")
        found[name] = value
    return found


def _table(value: object, what: str, keys: Sequence[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LabelError(f"expected {what} to be a table, got {_shown(value)}")
    for key in value if keys is not None else ():
        if key not in (keys or ()):
            raise LabelError(f"{what} has {key!r}: expected {', '.join(keys or ())}")
    return value


def _definition(name: str, value: object) -> LabelDefinition:
    what = f"label {name!r}"
    if isinstance(value, list):  # no more than other words
        value = {"synonyms": value}
    table = _table(value, what, _LABEL_KEYS)
    for key in ("words", "parent"):
        if key in table:
            table[key] = _text(table[key], f"{what}: {key}")
    for key in ("synonyms", "descriptions"):
        if key in table:
            table[key] = _texts(table[key], f"{what}: {key}")
    if "threshold" in table:
        table["threshold"] = _share(table["threshold"], f"{what}: threshold")
    return LabelDefinition(**table)


def _group(name: str, value: object) -> LabelGroup:
    what = f"the group {name!r}"
    table = _table({"labels": value} if isinstance(value, list) else value, what, _GROUP_KEYS)
    labels = _texts(table.get("labels", []), f"{what}: labels")
    if not labels:
        raise LabelError(f"{what} has no labels")
    exclusive = table.get("exclusive", True)
    if not isinstance(exclusive, bool):
        raise LabelError(f"{what}: expected exclusive to be true or false, got {_shown(exclusive)}")
    return LabelGroup(name, labels, exclusive)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise LabelError(f"expected {what} to be words, got {_shown(value)}")
    return " ".join(value.split())


def _texts(value: object, what: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple):
        raise LabelError(f"expected {what} to be a list of words, got {_shown(value)}")
    return tuple(dict.fromkeys(_text(item, what) for item in values))


def _share(value: object, what: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:  # type: ignore[operator]
        raise LabelError(f"expected {what} to be a probability from 0 to 1, got {_shown(value)}")
    return float(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a very large number"
    return text if len(text) <= 60 else text[:57] + "..."
