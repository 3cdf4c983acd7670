"""Labels in groups: of some an image has one, of others any number.

A group of labels that exclude each other is labelled as ``classify`` does, any other as ``tag``
does; each is saved as a set of its own, called after the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.abstaining import OFF
from clipsearch.errors import LabelError
from clipsearch.generation import Generation
from clipsearch.label_definitions import LabelDefinitions, LabelGroup
from clipsearch.label_set_files import LabelSet, NoneRule, check_name
from clipsearch.saved_labelling import SavedLabelling, classify_beside
from clipsearch.shards import Int64
from clipsearch.tag import save_tagging, tag
from clipsearch.tagging import Tagging
from clipsearch.text_vectors import TextVectors


@dataclass(frozen=True)
class GroupLabels:
    """What became of one group: one of ``labelling``, for labels that exclude each other, and
    ``tagging`` is there. set_name : what it is to be saved as, None where it is not."""

    group: LabelGroup
    labels: LabelDefinitions
    labelling: SavedLabelling | None
    tagging: Tagging | None
    set_name: str | None

    def save(self, index: Path, state: Generation) -> LabelSet:
        """Save it, over what had its name; of a labelling every block must have passed. Raises as
        ``SavedLabelling.save`` and ``save_tagging``; ValueError when it is not to be saved."""
        if self.labelling is not None:
            return self.labelling.save()
        if self.set_name is None or self.tagging is None:
            raise ValueError("expected a group that was begun with save_as")
        return save_tagging(index, state, self.set_name, self.tagging)


def group_set_name(name: str, group: LabelGroup) -> str:
    """What the set of a group is called: "trip", season -> "trip.season". LabelError where that is
    no name for a set."""
    return check_name(f"{name}.{group.name}")


def label_group(
    index: Path,
    state: Generation,
    texts: TextVectors,
    labels: LabelDefinitions,
    group: LabelGroup,
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    *,
    save_as: str | None = None,
    allowed: Int64 | None = None,
    none: str | float | NoneRule = OFF,
) -> GroupLabels:
    """Begin to label every image with the labels of one of the groups of ``labels``.

    templates, context, none : see ``ImageIndex.classify``; none is for labels that exclude each
    other. save_as : the name that the sets of all groups begin with. allowed : rising ids of the
    images that are labelled, for labels that exclude each other.

    Raises as ``classify_beside`` and ``tag``; LabelError for ``allowed`` and other labels.
    """
    of_group = labels.of_group(group)
    name = None if save_as is None else group_set_name(save_as, group)
    if group.exclusive:
        labelling = classify_beside(
            index, state, texts, of_group, templates, context,
            save_as=name, allowed=allowed, none=none,
        )  # fmt: skip
        return GroupLabels(group, of_group, labelling, None, name)
    if allowed is not None:
        raise LabelError(
            f"what is usual for the labels of the group {group.name!r} is told by all images: "
            "leave out the filter, or the group"
        )
    tagging = tag(state, texts, of_group, templates=templates, context=context)
    return GroupLabels(group, of_group, None, tagging, name)
