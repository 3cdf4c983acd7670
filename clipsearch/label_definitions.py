"""What is said of labels beyond their names: other words for them, what is broader, how sure an
image's label has to be, and which of them exclude each other.

``definition_files`` reads it from a TOML or JSON file; it is kept with a saved label set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from clipsearch.errors import LabelError
from clipsearch.prompts import WordedLabels, Wording, check_labels, same_label

if TYPE_CHECKING:
    from clipsearch.label_set_files import LabelSet


@dataclass(frozen=True)
class LabelDefinition:
    """What is said of one label.

    words : what the model reads in place of the label's name. synonyms : other names.
    descriptions : whole sentences or phrases, that go into no template. parent : the label that
    is broader. threshold : the least probability, 0 to 1, that an image gets the label with;
    None for what is usual (see ``label_tree``).
    """

    words: str | None = None
    synonyms: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    parent: str | None = None
    threshold: float | None = None

    def wording(self, name: str) -> Wording:
        """How the label called ``name`` is put into words."""
        return Wording((self.words or name, *self.synonyms), self.descriptions)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a file: what is not said is not there."""
        every = dataclasses.asdict(self)
        return {key: value for key, value in every.items() if value not in (None, ())}


NOTHING_SAID = LabelDefinition()


@dataclass(frozen=True)
class LabelGroup:
    """Labels that belong together. exclusive : an image has one of them; any number otherwise."""

    name: str
    labels: tuple[str, ...]
    exclusive: bool = True


@dataclass(frozen=True)
class LabelDefinitions(WordedLabels):
    """Labels, with what is said of each: to everything that takes labels a sequence of names.

    names : the labels, no two alike, parents among them. definitions : one for each.
    groups : none where all labels exclude each other.

    Raises LabelError for labels that ``check_labels`` refuses, a parent or a label of a group
    that is not among the names, and labels that are broader than themselves.
    """

    names: tuple[str, ...]
    definitions: tuple[LabelDefinition, ...]
    groups: tuple[LabelGroup, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", check_labels(self.names))
        if len(self.names) != len(self.definitions):
            raise ValueError(f"{len(self.names)} names, {len(self.definitions)} definitions")
        self._check_tree()
        self._check_groups()

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self.names[index]

    def __len__(self) -> int:
        return len(self.names)

    def wordings(self) -> tuple[Wording, ...]:
        """How each label is put into words."""
        pairs = zip(self.names, self.definitions, strict=True)
        return tuple(definition.wording(name) for name, definition in pairs)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """The position of the label above each, -1 for one that has none above it."""
        places = {same_label(name): place for place, name in enumerate(self.names)}
        return tuple(
            -1 if item.parent is None else places[same_label(item.parent)]
            for item in self.definitions
        )

    @cached_property
    def lines(self) -> tuple[tuple[int, ...], ...]:
        """The position of each label and of what is above it, the nearest first."""
        lines = []
        for place in range(len(self.names)):
            line = [place]
            while self.parents[line[-1]] >= 0:
                line.append(self.parents[line[-1]])
            lines.append(tuple(line))
        return tuple(lines)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is said of any label."""
        return not self.groups and all(item == NOTHING_SAID for item in self.definitions)

    @property
    def has_tree(self) -> bool:
        """Whether a label is above another."""
        return any(item.parent is not None for item in self.definitions)

    @property
    def has_thresholds(self) -> bool:
        """Whether a label has a threshold of its own."""
        return any(item.threshold is not None for item in self.definitions)

    def of_group(self, group: LabelGroup) -> LabelDefinitions:
        """The labels of a group, with what is said of them; where they exclude each other, with
        those above them."""
        places = {same_label(name): place for place, name in enumerate(self.names)}
        wanted: set[int] = set()
        for label in group.labels:
            place = places[same_label(label)]
            while place >= 0 and place not in wanted:
                wanted.add(place)
                place = self.parents[place] if group.exclusive else -1
        kept = sorted(wanted)
        items = [self.definitions[place] for place in kept]
        if not group.exclusive:
            items = [dataclasses.replace(item, parent=None) for item in items]
        return LabelDefinitions(tuple(self.names[place] for place in kept), tuple(items))

    def edited(
        self, names: Sequence[str], renamed: Mapping[str, str] | None = None
    ) -> LabelDefinitions:
        """What is said of the labels ``names``, some of them new. A label below one that is not
        there any more comes below none.

        renamed : what labels are called now; they keep all but their ``words``.

        Raises as the class.
        """
        now = {same_label(old): new for old, new in (renamed or {}).items()}
        before: dict[str, LabelDefinition] = {}
        there = {same_label(name) for name in names}
        for name, item in zip(self.names, self.definitions, strict=True):
            if same_label(name) in now:
                item = dataclasses.replace(item, words=None)
            if item.parent is not None:
                parent = now.get(same_label(item.parent), item.parent)
                item = dataclasses.replace(
                    item, parent=parent if same_label(parent) in there else None
                )
            before[same_label(now.get(same_label(name), name))] = item
        groups = []
        for group in self.groups:
            called = (now.get(same_label(label), label) for label in group.labels)
            left = tuple(label for label in called if same_label(label) in there)
            if left:
                groups.append(dataclasses.replace(group, labels=left))
        return LabelDefinitions(
            tuple(names),
            tuple(before.get(same_label(name), NOTHING_SAID) for name in names),
            tuple(groups),
        )

    def to_dict(self) -> dict[str, Any]:
        """What ``definition_files.definitions_of`` reads."""
        pairs = zip(self.names, self.definitions, strict=True)
        document: dict[str, Any] = {"labels": {name: item.to_dict() for name, item in pairs}}
        if self.groups:
            document["groups"] = {
                group.name: {"labels": group.labels, "exclusive": group.exclusive}
                for group in self.groups
            }
        return document

    def _check_tree(self) -> None:
        there = {same_label(name) for name in self.names}
        for name, item in zip(self.names, self.definitions, strict=True):
            if item.parent is not None and same_label(item.parent) not in there:
                raise LabelError(f"the parent {item.parent!r} of {name!r} is not among the labels")
        for place, name in enumerate(self.names):
            above, steps = self.parents[place], 0
            while above >= 0 and above != place and steps < len(self.names):
                above, steps = self.parents[above], steps + 1
            if above == place:
                raise LabelError(
                    f"label {name!r} is below itself: expected parents to end in a label without "
                    "a parent"
                )

    def _check_groups(self) -> None:
        if not self.groups:
            return
        there = {same_label(name) for name in self.names}
        used = set(self.parents)
        seen: set[str] = set()
        called: set[str] = set()
        for group in self.groups:
            if not group.name.strip():
                raise LabelError("a group has no name")
            if same_label(group.name) in called:  # their sets would be one
                raise LabelError(f"the group {group.name!r} is there twice: name one otherwise")
            called.add(same_label(group.name))
            labels = {same_label(label) for label in check_labels(group.labels)}
            if labels - there:
                raise LabelError(f"the group {group.name!r} has a label that is not there")
            if not group.exclusive:
                self._check_tags(group, labels)
            seen |= labels
        for place, name in enumerate(self.names):
            if same_label(name) not in seen and place not in used:
                raise LabelError(
                    f"label {name!r} is in no group: put it into one, or leave out all groups"
                )

    def _check_tags(self, group: LabelGroup, labels: set[str]) -> None:
        for name, item in zip(self.names, self.definitions, strict=True):
            if same_label(name) in labels and item.threshold is not None:
                raise LabelError(
                    f"label {name!r} has a threshold, a probability, and the group {group.name!r} "
                    "of any number of labels has no probabilities: leave one out"
                )


def refuse_groups(labels: Sequence[str]) -> None:
    """LabelError where labels are in groups, and so do not all exclude each other."""
    if isinstance(labels, LabelDefinitions) and labels.groups:
        raise LabelError(
            "the labels are in groups: 'clipsearch classify' labels each group by itself, and so "
            "does clipsearch.grouped_labels"
        )


# -- labels that may have definitions, or may not ----------------------------------------


def definitions_dict(labels: Sequence[str]) -> dict[str, Any] | None:
    """What a saved set keeps of labels beside their names; None where nothing is said of them."""
    if not isinstance(labels, LabelDefinitions) or labels.is_plain:
        return None
    return labels.to_dict()


def labels_of_set(label_set: LabelSet) -> Sequence[str]:
    """The labels of a saved set, with their definitions where it has them."""
    if label_set.definitions is None:
        return label_set.labels
    from clipsearch.definition_files import definitions_of

    return definitions_of(label_set.definitions).edited(label_set.labels)


def check_definitions(document: object, labels: Sequence[str]) -> None:
    """ValueError where ``document`` holds no definitions of just these labels."""
    from clipsearch.definition_files import definitions_of

    try:
        names = definitions_of(document).names
    except LabelError as error:
        raise ValueError(str(error)) from None
    if sorted(names) != sorted(labels):
        raise ValueError("its definitions are of other labels")


def some_labels(labels: Sequence[str], places: Sequence[int]) -> Sequence[str]:
    """The labels at some places, with their wordings and without what is said of their tree."""
    names = tuple(labels[place] for place in places)
    if not isinstance(labels, LabelDefinitions):
        return names
    return LabelDefinitions(
        names,
        tuple(
            dataclasses.replace(labels.definitions[place], parent=None, threshold=None)
            for place in places
        ),
    )


def wording_keys(labels: Sequence[str]) -> list[str]:
    """What is equal for labels of two sets that have the same name and the same class vector."""
    if not isinstance(labels, WordedLabels):
        return list(labels)
    return [
        name if wording == Wording((name,)) else f"{name}\0{wording.names}\0{wording.descriptions}"
        for name, wording in zip(labels, labels.wordings(), strict=True)
    ]
