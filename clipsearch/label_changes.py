"""What an edit of a label set changes: which labels stay, which go, which are new."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.best_rows import NO_LABEL
from clipsearch.errors import LabelError
from clipsearch.prompts import check_labels, same_label
from clipsearch.records import Int32

_FEW_COLUMNS = 8  # with few labels either way takes moments
_MERGING = 6


@dataclass(frozen=True)
class LabelChange:
    """From the labels of a set to others.

    before, after : how many labels there were, and are. kept : (before + 1,) int32, the new
    position of every old label, NO_LABEL for one that goes and, at the end, for none.
    removed : old positions. added : new positions. A label that has changed its place among
    those that stay is removed and added: which of equal scores is first depends on it.
    """

    before: int
    after: int
    kept: Int32
    removed: tuple[int, ...]
    added: tuple[int, ...]

    @property
    def columns(self) -> int:
        """How many columns of scores it takes."""
        return len(self.removed) + len(self.added)

    @property
    def is_small(self) -> bool:
        """Whether scoring it is cheaper than scoring all labels: to merge a column with what is
        remembered costs about as much as to score six."""
        return self.columns <= min(self.after, max(_FEW_COLUMNS, self.after // _MERGING))


def label_change(old: Sequence[str], new: Sequence[str]) -> LabelChange:
    """The change that scores fewest labels; no label is twice in ``old`` or in ``new``."""
    places = {label: position for position, label in enumerate(new)}
    both = [(position, places[label]) for position, label in enumerate(old) if label in places]
    kept = np.full(len(old) + 1, NO_LABEL, np.int32)
    for position, place in _rising(both):
        kept[position] = place
    stays = {int(place) for place in kept if place >= 0}
    return LabelChange(
        before=len(old),
        after=len(new),
        kept=kept,
        removed=tuple(position for position in range(len(old)) if kept[position] < 0),
        added=tuple(place for place in range(len(new)) if place not in stays),
    )


def _rising(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of ``pairs``, which rise in their first number, that rises in its second
    too (patience sorting)."""
    ends: list[int] = []  # the lowest second number that a rising part of each length ends in
    last: list[int] = []  # and which pair has it
    before: list[int] = []
    for number, (_, place) in enumerate(pairs):
        length = bisect.bisect_left(ends, place)
        before.append(last[length - 1] if length else -1)
        ends[length : length + 1] = [place]
        last[length : length + 1] = [number]
    found = []
    number = last[-1] if last else -1
    while number >= 0:
        found.append(pairs[number])
        number = before[number]
    return found[::-1]


def edited_labels(
    labels: Sequence[str],
    *,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    reword: Sequence[tuple[str, str]] = (),
) -> tuple[str, ...]:
    """``labels`` with some removed, some worded otherwise, in their place, and some added at
    the end. Upper and lower case, and how many spaces, are the same where a label is named.

    reword : pairs of a label and what it is to be.

    Raises LabelError for a label to remove or reword that is not there or is named twice, one to
    add or reword to that is empty or there already, and where no label would be left.
    """
    for label in (*add, *(instead for _, instead in reword)):
        if not label.strip():
            raise LabelError("a label to add or to reword to is empty: expected words, such as cat")
    places = {same_label(label): position for position, label in enumerate(labels)}
    edited: list[str | None] = list(labels)
    touched: set[int] = set()
    changes: list[tuple[str, str | None]] = [(label, None) for label in remove]
    changes += reword
    for label, instead in changes:
        position = places.get(same_label(label))
        if position is None:
            raise LabelError(f"there is no label {label!r} in the set: it has {_some(labels)}")
        if position in touched:
            raise LabelError(f"label {labels[position]!r} is to be changed twice: say it once")
        touched.add(position)
        edited[position] = instead
    left = [label for label in edited if label is not None] + list(add)
    if not left:
        raise LabelError(
            "no label would be left: expected a set to keep at least one; "
            "'clipsearch labels NAME --forget' removes the whole set"
        )
    there = {same_label(label) for label in edited if label is not None}
    for label in add:
        if same_label(label) in there:
            raise LabelError(f"label {label.strip()!r} is in the set already")
    return check_labels(left)


def _some(labels: Sequence[str], shown: int = 12) -> str:
    more = len(labels) - shown
    return ", ".join(labels[:shown]) + (f" and {more} more" if more > 0 else "")
