"""What is compared: saved sets, their versions, another index, and two models of one index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from clipsearch.abstaining import OFF
from clipsearch.errors import LabelError, OptionError
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex, open_index
from clipsearch.label_comparison import Labelled, labelled, labelled_by
from clipsearch.label_definitions import labels_of_set
from clipsearch.label_examples import read_examples
from clipsearch.label_history import label_set_versions, read_version_rows, split_version
from clipsearch.label_set_files import CLASSIFY, LabelSet
from clipsearch.label_sets import labels_folder, read_label_rows, read_label_set
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, read_tables
from clipsearch.taught_labelling import classify_taught

OpenSpace = Callable[[str], ImageIndex]


def saved_side(index: ImageIndex, reference: str) -> Labelled:
    """What the saved set, or its version, of that name says of the images that are there:
    "animals", "@animals" or "animals@3".

    Raises LabelError, and as ``read_label_rows`` and ``read_version_rows``.
    """
    name, number = split_version(_bare(reference))
    if number is None:
        found, rows = read_label_rows(index.path, name)
        return labelled(found, rows).of(_live(index.state()))
    found, rows = read_version_rows(index.path, name, number)
    return labelled(found, rows, f"{found.name}@{number}").of(_live(index.state()))


def with_version_before(index: ImageIndex, reference: str) -> tuple[Labelled, Labelled]:
    """The version before that of ``reference``, and that; LabelError where there is none."""
    name, number = split_version(_bare(reference))
    versions = label_set_versions(index.path, name)
    name = versions[-1].label_set.name
    now = number or next(one.number for one in versions if one.is_current)
    before = [one.number for one in versions if one.number < now]
    if not before:
        raise LabelError(
            f"there is no version of {name} before {now} to compare it with: name a second set, "
            "or an index with --with"
        )
    return saved_side(index, f"{name}@{before[-1]}"), saved_side(index, f"{name}@{now}")


def side_of_other(index: ImageIndex, other: ImageIndex, reference: str) -> Labelled:
    """What a set saved in another index says of the images of this one: those of the same
    content, by its sha256. Raises as ``saved_side``."""
    side = saved_side(other, reference)
    here, there = same_content(index.state(), other.state())
    renumbered = side.renumbered(there, here)
    return dataclasses.replace(renumbered, name=f"{side.name} of {other.path.name}")


def same_content(a: Generation, b: Generation) -> tuple[Int64, Int64]:
    """(m,) ids of the images of one index whose content the other has too, and theirs there."""
    import pyarrow.compute as pc

    tables = [
        read_tables(state.store, state.manifest.images, IMAGE_SCHEMA, ["id", "sha256"])
        for state in (a, b)
    ]
    contents = [table.column("sha256").combine_chunks() for table in tables]
    ids: list[Int64] = [as_numpy(table.column("id")) for table in tables]
    if not len(ids[0]) or not len(ids[1]):
        return ids[0][:0], ids[1][:0]
    found = pc.index_in(contents[0], value_set=contents[1])
    places = as_numpy(pc.fill_null(found, pa.scalar(-1, pa.int32())))
    has_one = places >= 0
    return ids[0][has_one], ids[1][places[has_one]]


def sides_of_models(
    index: ImageIndex, reference: str, open_space: OpenSpace | None = None
) -> tuple[Labelled, Labelled]:
    """What two models of the index say with the labels of a saved set: the model that answers
    by default, and the one beside it. Both label every image anew.

    open_space : opens the index with the space of that id, None for ``open_index``.
    Raises OptionError where there are not two models, LabelError for a set of ``tag``, and as
    ``read_label_set`` and ``ImageIndex.classify``.
    """
    manifest = index.state().manifest
    spaces = sorted(manifest.spaces.values(), key=lambda one: one.id != manifest.default_space)
    if len(spaces) != 2:
        there = ", ".join(space.model for space in spaces)
        cure = (
            "'clipsearch model add MODEL' adds those of another"
            if len(spaces) < 2
            else "'clipsearch model drop MODEL' removes those of one"
        )
        raise OptionError(
            f"expected an index with the vectors of two models, got {len(spaces)} ({there}): {cure}"
        )
    found = read_label_set(index.path, _bare(reference))
    if found.kind != CLASSIFY:
        raise LabelError(f"{found.name} is no set of classify, so no other model can label by it")
    opened = open_space or (lambda space: open_index(index.path, space=space))
    a, b = (side_of_model(opened(space.id), found) for space in spaces)
    return a, b


def side_of_model(index: ImageIndex, label_set: LabelSet) -> Labelled:
    """What the model that an index is opened with says with a saved set: its labels and what is
    said of them, and its examples. What was fitted for another model is fitted anew, as it is
    when sets are carried over (``carried_labels``)."""
    labels = labels_of_set(label_set)
    none = OFF if label_set.none is None else label_set.none.setting
    if label_set.teaching is not None:
        result = classify_taught(
            index.path, index.state(), index.text_vectors(),
            labels, label_set.templates, label_set.context,
            examples=read_examples(labels_folder(index.path), label_set), none=none,
        ).columns()  # fmt: skip
    else:
        result = index.classify(
            labels, templates=label_set.templates, context=label_set.context, none=none
        )
    return labelled_by(result, index.space.model)


def _live(state: Generation) -> Int64:
    return np.setdiff1d(state.vectors.ids, state.vectors.deleted, assume_unique=True)


def _bare(reference: str) -> str:
    return reference.strip().removeprefix("@")
