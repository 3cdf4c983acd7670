"""Tables that say what images show, and what the classes of folders are called."""

from __future__ import annotations

import csv
import io
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.captions import CAPTION_COLUMNS
from clipsearch.definition_files import read_labels
from clipsearch.errors import LabelError
from clipsearch.label_definitions import LabelDefinitions

TABLE_ENDINGS = (".csv", ".tsv", ".txt")
PATH_COLUMNS = ("path", "image", "file", "filename", "filepath")
LABEL_COLUMNS = ("label", "class", "category")
_NAME_COLUMNS = (("folder", "class", "wnid", "id", "label"), ("name", "words"))
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class LabelledPaths:
    """What a table says: absolute paths, and as many labels. unlabelled : how many of its rows
    have no label, and are left out."""

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    unlabelled: int = 0


def read_labelled_table(table: Path) -> LabelledPaths:
    """A CSV, or with tabs a TSV, with a row for every image: a column path (or image, file,
    filename) and a column label (or class, category), named in its first line.

    Relative paths begin at the folder of the table. Raises LabelError for a file that cannot be
    read, has not those columns, or has no row with a label.
    """
    rows = _rows(table, "path and label")
    columns = [name.strip().casefold() for name in rows[0]]
    path_at = _column(columns, PATH_COLUMNS)
    label_at = _column(columns, LABEL_COLUMNS)
    if path_at is None or label_at is None:
        wanted = PATH_COLUMNS if path_at is None else LABEL_COLUMNS
        there = ", ".join(" ".join(name.split())[:40] for name in rows[0][:8])
        is_other = not set(columns).isdisjoint(CAPTION_COLUMNS)
        cure = "; captions go with --captions TABLE, after the folder of the images"
        raise LabelError(
            f"{table} has no column {' or '.join(wanted[:3])}: expected one in its first line, "
            f"which has {there}{cure if is_other else ''}"
        )
    home = Path(os.path.abspath(table)).parent
    paths, labels, unlabelled = [], [], 0
    for number, row in enumerate(rows[1:], 2):
        named = row[path_at].strip() if path_at < len(row) else ""
        label = " ".join(row[label_at].split()) if label_at < len(row) else ""
        if not named or "\0" in named:
            raise LabelError(f"{table}, row {number}: expected the path of an image, got {named!r}")
        if not label:
            unlabelled += 1
            continue
        paths.append(Path(os.path.abspath(home / os.path.expanduser(named))))
        labels.append(label.encode("utf-8", "replace").decode())
    if not paths:
        raise LabelError(
            f"{table} has no row with a label: expected one for every image, path and label"
        )
    return LabelledPaths(tuple(paths), tuple(labels), unlabelled)


def read_class_names(path: str | Path) -> Mapping[str, str]:
    """What the classes of folders are called: a CSV of folder and name; or, where it ends in
    .toml or .json, folders and names, or the definitions of labels, of which ``words`` count.

    Raises LabelError for a file that cannot be read, and for one that says nothing.
    """
    place = Path(path)
    if place.suffix.lower() in (".toml", ".json"):
        names = _plain_names(place)
        if names is None:
            labels = read_labels(place)
            assert isinstance(labels, LabelDefinitions)
            names = {
                label: item.words
                for label, item in zip(labels.names, labels.definitions, strict=True)
                if item.words is not None
            }
    else:
        rows = _rows(place, "folder and name")
        first = [cell.strip().casefold() for cell in rows[0][:2]]
        if len(first) == 2 and all(
            cell in known for cell, known in zip(first, _NAME_COLUMNS, strict=True)
        ):
            rows = rows[1:]
        names = {}
        for number, row in enumerate(rows, 1):
            cells = [" ".join(cell.split()) for cell in row[:2]]
            if len(cells) < 2 or not all(cells):
                raise LabelError(f"{place}, row {number}: expected folder and name, got {row!r}")
            if cells[0] in names and names[cells[0]] != cells[1]:
                raise LabelError(f"{place}, row {number}: {cells[0]!r} is there twice: keep one")
            names[cells[0]] = cells[1]
    if not names:
        raise LabelError(f"{place} names no class: expected a row for every folder, folder,name")
    return names


def _plain_names(place: Path) -> dict[str, str] | None:
    """Folders and names as one table; None where the file has another form, or is damaged: what
    reads definitions says what is wrong with it then."""
    try:
        text = place.read_bytes().decode("utf-8-sig")
        found = tomllib.loads(text) if place.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        return None
    return {str(folder): " ".join(name.split()) for folder, name in found.items()}


def _column(columns: Sequence[str], names: Sequence[str]) -> int | None:
    return next((columns.index(name) for name in names if name in columns), None)


def _rows(table: Path, what: str) -> list[list[str]]:
    """The rows that hold something; LabelError where there is none. what : they are to hold."""
    try:
        with open(table, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LabelError(f"expected a table at {str(table)!r}: {reason}") from None
    if len(data) > _MOST_BYTES:
        raise LabelError(f"{table} is larger than {_MOST_BYTES >> 30} GB: expected {what}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise LabelError(f"{table} is no UTF-8 text: save it as UTF-8")
    # A path need not be UTF-8: what is not stays as it is.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    first = text.partition("\n")[0]
    between = max("\t,;", key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=between)
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise LabelError(f"{table} is no CSV: {error}") from None
    if not rows:
        raise LabelError(f"{table} is empty: expected rows of {what}")
    return rows
