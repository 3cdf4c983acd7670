"""Saved label sets: what ``classify`` and ``tag`` found, kept below ``<index>/labels/``.

They have a lock of their own (``label_set_saving``), so that a set can be saved while a long
index run goes on, and no generation: a set belongs to the index and says at which generation it
was scored. Its rows are keyed by id; what became of an image since is for the reader to sort out
(``live``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsearch.encoder import Space
from clipsearch.errors import IndexFormatError, IndexReadError, LabelError
from clipsearch.label_definitions import LabelDefinitions, labels_of_set
from clipsearch.label_scores import RememberedScores, open_scores
from clipsearch.label_set_files import (
    LabelRows,
    LabelSet,
    cure,
    is_file_of,
    json_name,
    names_in,
    parse_set,
    same_name,
)
from clipsearch.label_set_tables import table_rows
from clipsearch.manifest import read_manifest
from clipsearch.prompts import same_label
from clipsearch.shards import Int64
from clipsearch.shared_folders import fetched, file_names, shared_folder
from clipsearch.store import LABELS, open_store

NONE = "none"
"""Of a set, what has none of its labels."""
_SHOWN = 12


def labels_folder(index: Path) -> Path:
    """Where the label sets of an index are."""
    return shared_folder(index, LABELS)


def label_set_names(index: Path) -> list[str]:
    """The names of the saved label sets, in order."""
    return names_in(labels_folder(index))


def label_set_files(index: Path, name: str) -> list[str]:
    """The files of the set ``name`` in the folder of the label sets, older ones too."""
    found = file_names(labels_folder(index))
    return [file for file in found if file == json_name(name) or is_file_of(name, file)]


def list_label_sets(index: Path) -> list[LabelSet]:
    """What the saved label sets are, without their rows, in order of name.

    Raises IndexFormatError for one that is damaged or of another index.
    """
    uuid = _uuid(index)
    return [_read_set(index, name, uuid) for name in label_set_names(index)]


def read_label_set(index: Path, name: str) -> LabelSet:
    """What a saved label set is, without its rows; upper and lower case are the same.

    Raises LabelError when there is none of that name (it lists those there are),
    IndexFormatError for one that is damaged or of another index, IndexReadError.
    """
    return _read_set(index, known_name(index, name), _uuid(index))


def read_label_rows(index: Path, name: str) -> tuple[LabelSet, LabelRows]:
    """A saved label set and its rows, of one moment; errors as ``read_label_set``."""
    uuid = _uuid(index)
    name = known_name(index, name)
    found = _read_set(index, name, uuid)
    while True:
        try:
            return found, table_rows(found, _bytes_of(index, found))
        except FileNotFoundError:  # saved anew between our two looks
            again = _read_set(index, name, uuid)
            if again.table == found.table:
                raise IndexFormatError(
                    f"the label set {name} has lost its table: {cure(name)}"
                ) from None
            found = again


def read_remembered(index: Path, name: str) -> tuple[LabelSet, RememberedScores | None]:
    """A saved label set and what it remembers of every image; None where that is nothing, or
    lost or damaged. Errors as ``read_label_set``."""
    found = read_label_set(index, name)
    while True:
        if found.scores is None:
            return found, None
        scores = open_scores(labels_folder(index), found.scores, len(found.labels))
        if scores is not None:
            return found, scores
        again = read_label_set(index, name)
        if again.scores == found.scores:
            return found, None
        found = again  # saved anew between our two looks


def ids_with_label(index: Path, name: str, live: Int64 | None = None) -> Int64:
    """The (n,) int64 rising ids of the images with a label, from the saved sets.

    name : "dog" for any set, "pets:dog" for the set pets, "pets:none" for what has none of its
    labels, unless "none" is one of them. An image with a label has those above it, too.
    live : ids that count, rising; None for all that were ever scored.

    Raises LabelError when no set has that label, and as ``read_label_rows``.
    """
    found: list[Int64] = []
    of_set, _, label = name.partition(":")
    names = label_set_names(index)
    if label and same_name(of_set) in map(same_name, names):
        asked, names = label, [of_set]
    else:
        asked = name
    known: list[str] = []
    for set_name in names:
        label_set = read_label_set(index, set_name)
        known += label_set.labels
        is_none = asked is not name and same_label(asked) == NONE
        if _position(label_set.labels, asked) is None and not is_none:
            continue
        label_set, rows = read_label_rows(index, set_name)
        code = _position(label_set.labels, asked)  # it may just have been saved anew
        if code is None:
            code = -1 if is_none else -2
        found.append(rows.ids[np.isin(rows.labels, _at_or_below(label_set, code))])
    if not found:
        there = _some(list(dict.fromkeys(known)))
        raise LabelError(
            f"no saved label set has the label {asked!r}: "
            + (f"expected one of {there}" if known else "save one with classify --save-as NAME")
        )
    ids = np.unique(np.concatenate(found))
    return ids if live is None else np.intersect1d(ids, live, assume_unique=True)


def _at_or_below(label_set: LabelSet, code: int) -> list[int]:
    """The codes of a label and of those below it; of none and of nothing themselves."""
    labels = labels_of_set(label_set)
    if code < 0 or not isinstance(labels, LabelDefinitions):
        return [code]
    return [place for place, line in enumerate(labels.lines) if code in line]


def labels_of(index: Path, set_name: str, ids: Sequence[int] | Int64) -> list[tuple[str, ...]]:
    """The labels of each of ``ids`` in a saved set, best first; () for an image without one.

    Raises as ``read_label_rows``.
    """
    label_set, rows = read_label_rows(index, set_name)
    wanted = np.asarray(ids, np.int64)
    starts = np.searchsorted(rows.ids, wanted, side="left")
    stops = np.searchsorted(rows.ids, wanted, side="right")
    return [
        tuple(label_set.labels[code] for code in rows.labels[start:stop].tolist() if code >= 0)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]


def is_of_space(label_set: LabelSet, space: Space) -> bool:
    """Whether a set was scored with the encoder of ``space``."""
    return label_set.space == space.fingerprint


def _uuid(index: Path) -> str:
    return read_manifest(open_store(index), str(index)).uuid


def known_name(index: Path, name: str) -> str:
    """The name a set was saved under; LabelError when there is none of that name."""
    names = label_set_names(index)
    for known in names:
        if same_name(known) == same_name(name):
            return known
    there = f"expected one of {_some(names)}" if names else "none is saved yet (--save-as NAME)"
    raise LabelError(f"there is no label set {name!r}: {there}")


def _read_set(index: Path, name: str, uuid: str) -> LabelSet:
    try:
        data = (labels_folder(index) / json_name(name)).read_bytes()
    except FileNotFoundError:  # deleted since its name was read
        raise LabelError(f"there is no label set {name!r} any more") from None
    except OSError as error:
        raise _unreadable(json_name(name), error) from error
    found = parse_set(name, data)
    if found.index != uuid:
        raise IndexFormatError(
            f"the label set {name} belongs to another index ({found.index}): {cure(name)}"
        )
    return found


def _bytes_of(index: Path, label_set: LabelSet) -> bytes:
    file = label_set.table.name if label_set.table is not None else ""
    try:
        return fetched(labels_folder(index) / file).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: str, error: OSError) -> IndexReadError:
    reason = os.strerror(error.errno or errno.EIO)
    return IndexReadError(
        f"cannot read labels/{file} in the index: {reason}; see to its permissions and its disk"
    )


def _position(labels: Sequence[str], label: str) -> int | None:
    wanted = same_label(label)
    for position, here in enumerate(labels):
        if same_label(here) == wanted:
            return position
    return None


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
