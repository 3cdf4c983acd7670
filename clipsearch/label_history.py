"""Earlier versions of a saved label set: listed, read, and gone back to.

To go back keeps the version that was left: until the set is saved again, one can go forward to
it. ``label_version_files`` says which files that takes.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import IndexFormatError, LabelError
from clipsearch.label_examples import read_examples
from clipsearch.label_set_files import (
    LabelRows,
    LabelSet,
    json_name,
    set_bytes,
)
from clipsearch.label_set_saving import labels_lock, refuse_name
from clipsearch.label_set_tables import table_rows
from clipsearch.label_sets import known_name, labels_folder, read_label_rows, read_label_set
from clipsearch.label_version_files import (
    current_set,
    earlier_sets,
    files_named,
    has_table,
    keep_version,
    remove_other_files,
)
from clipsearch.shared_folders import fetched
from clipsearch.store import replace_file


@dataclass(frozen=True)
class Version:
    """One version of a saved set. is_current : it has the name now."""

    label_set: LabelSet
    is_current: bool

    @property
    def number(self) -> int:
        return self.label_set.version


def label_set_versions(index: Path, name: str) -> list[Version]:
    """The versions of a saved set by rising number: those kept, and the set itself.

    Raises as ``read_label_set``.
    """
    now = read_label_set(index, name)
    earlier = [
        one for one in earlier_sets(labels_folder(index), now.name) if one.index == now.index
    ]
    found = [Version(one, False) for one in earlier if one.version != now.version]
    return sorted([*found, Version(now, True)], key=lambda version: version.number)


def split_version(reference: str) -> tuple[str, int | None]:
    """ "animals@3" -> ("animals", 3), "animals" -> ("animals", None).

    Raises LabelError for what follows the @ where that is no number of a version.
    """
    name, mark, number = reference.rpartition("@")
    if not mark:
        return reference, None
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 10 and int(number)):
        raise LabelError(f"expected a version such as {name}@3, got {reference!r}")
    return name, int(number)


def read_version_rows(index: Path, name: str, number: int) -> tuple[LabelSet, LabelRows]:
    """A version of a saved set and its rows.

    Raises LabelError when it is not there (it lists those there are), and as
    ``read_label_rows``.
    """
    now = read_label_set(index, name)
    if now.version == number:
        return read_label_rows(index, now.name)
    found = _version(index, now.name, number)
    return found, read_rows_of_version(labels_folder(index), found)


def undo_label_set(index: Path, name: str) -> tuple[LabelSet | None, LabelSet]:
    """Go back to the version before; may be done again. What the set was (None where that was
    damaged), and what it is now.

    Raises LabelError when there is none before, and as ``go_to_version``.
    """
    name = known_name(index, name)
    try:
        now = read_label_set(index, name)
    except IndexFormatError:
        earlier = earlier_sets(labels_folder(index), name)
        if not earlier:
            raise
        return None, go_to_version(index, name, earlier[-1].version)
    before = [one.number for one in label_set_versions(index, name) if one.number < now.version]
    if not before:
        raise LabelError(
            f"there is no version of {name} before {now.version}: "
            + (
                "its clusters have a history of their own, see 'clipsearch clusters'"
                if now.discovery is not None
                else "expected it to have been saved over, by teach or classify --save-as"
            )
        )
    return now, go_to_version(index, name, before[-1])


def go_to_version(index: Path, name: str, number: int) -> LabelSet:
    """Let the set be again what it was as version ``number``; whole or not at all. What it is
    now is kept, where it is sound.

    Raises LabelError when there is no such version (it lists those there are),
    IndexFormatError when it is damaged (nothing is changed then), IndexLockedError, OSError.
    """
    name = known_name(index, name)
    with labels_lock(index) as folder:
        now = current_set(folder, name)
        if now is not None and now.version == number:
            return now
        found = _version(index, name, number)
        refuse_name(index, found)
        read_rows_of_version(folder, found)
        read_examples(folder, found)
        others = [one for one in earlier_sets(folder, name) if one.version != number]
        if now is not None and has_table(folder, now):
            keep_version(folder, now)
            others.append(now)
        replace_file(folder / json_name(name), set_bytes(found))
        remove_other_files(folder, name, others, files_named(found))
    return found


def without_examples(index: Path, name: str) -> LabelSet:
    """Let a saved set be what it is, but that no examples are known to have taught it: where
    they are damaged. Raises as ``read_label_set``, IndexLockedError, OSError."""
    with labels_lock(index) as folder:
        found = dataclasses.replace(read_label_set(index, name), teaching=None)
        replace_file(folder / json_name(found.name), set_bytes(found))
        named = files_named(found) | ({found.scores.name} if found.scores is not None else set())
        remove_other_files(folder, found.name, earlier_sets(folder, found.name), named)
    return found


def _version(index: Path, name: str, number: int) -> LabelSet:
    there = []
    with contextlib.suppress(LabelError, IndexFormatError):  # one may leave a damaged set
        there.append(read_label_set(index, name))
    of_index = there[0].index if there else None
    for one in earlier_sets(labels_folder(index), name):
        if of_index is None or one.index == of_index:
            if one.version == number:
                return one
            there.append(one)
    listed = ", ".join(str(one.version) for one in sorted(there, key=lambda one: one.version))
    raise LabelError(
        f"there is no version {number} of {name}: "
        + (f"expected one of {listed}" if there else "no version of it is kept")
    )


def read_rows_of_version(folder: Path, found: LabelSet) -> LabelRows:
    """The rows of a version that is kept, or to be; IndexFormatError where it is damaged.
    folder : where the sets are."""
    assert found.table is not None
    what = f"version {found.version} of the label set {found.name}"
    try:
        return table_rows(found, fetched(folder / found.table.name).read_bytes())
    except FileNotFoundError:
        raise IndexFormatError(
            f"{what} has lost its table: go to another, see 'clipsearch labels {found.name} "
            "--versions'"
        ) from None
    except IndexFormatError as error:
        why = str(error).partition("(")[2].rpartition(")")[0]
        raise IndexFormatError(
            f"{what} is damaged ({why}): go to another, see 'clipsearch labels {found.name} "
            "--versions'"
        ) from error
