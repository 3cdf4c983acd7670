"""What a person says of images, as text: IMAGE=LABEL, or a CSV of images and labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import LabelError
from clipsearch.label_examples import ASKED, GIVEN, RANDOM, Correction, label_of_set
from clipsearch.prompts import same_label
from clipsearch.query import Image

NONE_WORDS = ("none", "none of these", "(none of these)")
"""What stands for none of the labels, unless a label of the set is called so."""

_COLUMNS = ("path", "id", "label", "chosen")
_MOST_BYTES = 1 << 30


def none_word(labels: Sequence[str]) -> str:
    """What stands for none of the labels, and is no label itself."""
    known = {same_label(label) for label in labels}
    return next((word for word in NONE_WORDS[1:] if word not in known), NONE_WORDS[0])


@dataclass(frozen=True)
class CorrectionsFile:
    """What a CSV says. unanswered : how many of its rows have no label."""

    corrections: tuple[Correction, ...]
    unanswered: int


def image_meant(text: str) -> Image:
    """An image by its id, which is digits alone, or by its path: ./7 is one.

    Raises LabelError for an empty text.
    """
    if not text.strip():
        raise LabelError("an image is not named: expected its file, or its id")
    if text.isascii() and text.isdigit():
        return int(text)
    return text


def parse_correction(text: str, labels: Sequence[str]) -> Correction:
    """ "photos/a.jpg=lion" or "17=lion"; there may be a = in the path and in the label.
    ``NONE_WORDS`` say that the image shows none of the labels.

    Raises LabelError for a label that is not in the set, and for a text of another form.
    """
    cuts = [place for place, letter in enumerate(text) if letter == "="]
    if not cuts:
        raise LabelError(f"expected IMAGE=LABEL, such as photos/a.jpg=lion, got {text!r}")
    known = {same_label(label) for label in labels}
    # The longest label that the set has: what stands before it is the path.
    for cut in cuts:
        if same_label(text[cut + 1 :]) in known:
            return Correction(image_meant(text[:cut]), label_of_set(text[cut + 1 :], labels))
    label = text[cuts[-1] + 1 :]
    if not label.strip():
        raise LabelError(
            f"{text!r} names no label: expected IMAGE=LABEL; --none IMAGE says that it shows none "
            "of the labels"
        )
    if same_label(label) in NONE_WORDS:
        return Correction(image_meant(text[: cuts[-1]]), None)
    return Correction(image_meant(text[: cuts[-1]]), label_of_set(label, labels))


def read_corrections(path: str | Path, labels: Sequence[str]) -> CorrectionsFile:
    """A CSV with a row for every image: the columns path (or id) and label, and chosen where
    ``ask`` chose it, named in its first line; or without one, path and label.

    A label that is empty is no answer; ``NONE_WORDS`` say that the image shows none. Relative
    paths begin at the working folder.

    Raises LabelError for a file that cannot be read, and for a row that is not as it should be.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LabelError(f"expected a CSV of corrections at {str(path)!r}: {reason}") from None
    if len(data) > _MOST_BYTES:
        raise LabelError(f"{path} is larger than {_MOST_BYTES >> 30} GB: expected path and label")
    # A path need not be UTF-8: what is not stays as it is.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(row)]
    except csv.Error as error:
        raise LabelError(f"{path} is no CSV: {error}") from None
    if not rows:
        raise LabelError(f"{path} is empty: expected a row for every image, path and label")
    columns = [name.strip().lower() for name in rows[0]]
    if "label" in columns and ("path" in columns or "id" in columns):
        body, first = rows[1:], 2
        places = {name: columns.index(name) for name in _COLUMNS if name in columns}
    else:
        body, first, places = rows, 1, {"path": 0, "label": 1}
    found: list[Correction] = []
    for number, row in enumerate(body, first):
        cells = {name: row[place] if place < len(row) else "" for name, place in places.items()}
        try:
            one = _correction(cells, len(row), labels)
        except LabelError as error:
            raise LabelError(f"{path}, row {number}: {error}") from None
        if one is not None:
            found.append(one)
    return CorrectionsFile(tuple(found), len(body) - len(found))


def _correction(cells: dict[str, str], width: int, labels: Sequence[str]) -> Correction | None:
    if width < 2:
        raise LabelError("expected path and label with a comma between them")
    label = cells["label"].strip()
    if not label:
        return None
    named = cells.get("path", "")
    image = named if named.strip() else image_meant(cells.get("id", "").strip())
    chosen = cells.get("chosen", "").strip() or GIVEN
    if chosen not in (GIVEN, ASKED, RANDOM):
        raise LabelError(f"expected chosen to be {GIVEN}, {ASKED} or {RANDOM}, got {chosen!r}")
    known = {same_label(one) for one in labels}
    if same_label(label) in NONE_WORDS and same_label(label) not in known:
        return Correction(image, None, chosen)
    return Correction(image, label_of_set(label, labels), chosen)
