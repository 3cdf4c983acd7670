"""Teaching a saved label set: examples are confirmed, corrected or taken back, and every image
is labelled again from stored vectors by what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.abstaining import OFF
from clipsearch.ask import RANDOM_SHARE, Question, images_to_ask
from clipsearch.errors import LabelError
from clipsearch.generation import Generation
from clipsearch.image_lookup import images_named, shown_image
from clipsearch.label_definitions import LabelDefinitions, labels_of_set
from clipsearch.label_examples import (
    Correction,
    Example,
    contents_of,
    new_examples,
    read_examples,
    with_examples,
)
from clipsearch.label_set_files import CLASSIFY, LabelSet, NoneRule
from clipsearch.label_sets import is_of_space, labels_folder, read_label_set
from clipsearch.lessons import abstaining, lesson_of
from clipsearch.query import Image
from clipsearch.shards import Int64
from clipsearch.taught_labelling import (
    Before,
    TaughtLabelling,
    classify_taught,
    labels_before,
)
from clipsearch.text_vectors import TextVectors


@dataclass(frozen=True)
class Teaching:
    """A set that is being taught: iterate over ``labelling``, then its ``save`` may follow.

    label_set : what it was, and before what its images were called. new : the examples that were
    given now. corrected : how many of them had another label. forgotten : how many examples were
    taken back.
    """

    label_set: LabelSet
    before: Before
    labelling: TaughtLabelling
    new: tuple[Example, ...]
    corrected: int
    forgotten: int


def set_to_teach(index: Path, name: str) -> LabelSet:
    """The saved set of ``classify`` that is to be taught.

    Raises LabelError for a set that has other labels than one an image, and as
    ``read_label_set``.
    """
    found = read_label_set(index, name)
    if found.kind != CLASSIFY:
        raise LabelError(
            f"the label set {found.name} was saved by {found.kind}: expected one that classify "
            f"has saved; 'clipsearch classify --labels @{found.name} --save-as NAME' makes one "
            "with its labels"
        )
    labels = labels_of_set(found)
    if isinstance(labels, LabelDefinitions) and (labels.has_tree or labels.groups):
        raise LabelError(
            f"the label set {found.name} has parents or groups, which examples cannot teach: "
            "expected labels of which an image has one"
        )
    return found


def begin_teaching(
    index: Path,
    state: Generation,
    texts: TextVectors,
    name: str,
    corrections: Sequence[Correction] = (),
    forget: Sequence[Image] = (),
) -> Teaching:
    """Teach the saved set ``name`` what is said of some images, beside what it was taught.

    corrections : what images are; they count over earlier ones of the same images. forget :
    images that are no examples any more.

    Nothing is saved until ``labelling`` has passed and ``labelling.save`` is called. Raises
    LabelError and QueryError as ``new_examples``, LabelError for an image to forget that is no
    example, as ``set_to_teach``, ``read_examples`` and ``classify_taught``.
    """
    label_set = set_to_teach(index, name)
    examples = read_examples(labels_folder(index), label_set)
    new = new_examples(state, label_set.labels, corrections)
    gone = _examples_of(state, examples, forget)
    left = tuple(example for example in examples if example.sha256 not in gone)
    labels = labels_of_set(label_set)
    before = labels_before(index, label_set.name, label_set.labels)
    labelling = classify_taught(
        index, state, texts, labels, label_set.templates, label_set.context,
        examples=with_examples(left, new), before=before, save_as=label_set.name,
        none=_rule(state, label_set),
    )  # fmt: skip
    corrected = _corrected(before, new, labelling.label_names)
    return Teaching(label_set, before, labelling, tuple(new), corrected, len(examples) - len(left))


def questions_about(
    index: Path,
    state: Generation,
    texts: TextVectors,
    label_set: LabelSet,
    count: int,
    *,
    random_share: float = RANDOM_SHARE,
    allowed: Int64 | None = None,
    seed: int = 0,
) -> list[Question]:
    """The ``count`` images whose labels it helps most to confirm; see ``images_to_ask``.

    label_set : from ``set_to_teach``. Raises as ``read_examples`` and ``images_to_ask`` do, and
    the errors of ``load_encoder``.
    """
    examples = read_examples(labels_folder(index), label_set)
    labels = labels_of_set(label_set)
    lesson = lesson_of(state, texts, labels, label_set.templates, label_set.context, examples)
    scorer, abstains = abstaining(state, texts, lesson, 2, _rule(state, label_set), allowed)
    return images_to_ask(
        state, scorer, lesson.examples.ids, count,
        threshold=None if abstains is None else abstains.rule.threshold,
        random_share=random_share, allowed=allowed, seed=seed,
    )  # fmt: skip


def _rule(state: Generation, label_set: LabelSet) -> str | NoneRule:
    """What tells which images have none of the labels: as it was, but that a threshold of
    another model is found anew."""
    if label_set.none is None:
        return OFF
    return label_set.none if is_of_space(label_set, state.space) else label_set.none.setting


def _examples_of(
    state: Generation, examples: Sequence[Example], images: Sequence[Image]
) -> set[bytes]:
    """The contents of those examples that some images are."""
    by_id = {example.id: example.sha256 for example in examples}
    # One whose image is gone from the index can still be named by its id.
    known = {image: by_id[image] for image in images if isinstance(image, int) and image in by_id}
    others = [image for image in images if image not in known]
    ids = images_named(state, others)
    contents = contents_of(state, np.unique(np.array(ids, np.int64)))
    there = {example.sha256 for example in examples}
    for image, image_id in zip(others, ids, strict=True):
        if contents[image_id] not in there:
            raise LabelError(
                f"{shown_image(image)} is no example of the set: --examples lists those that are"
            )
    return {*known.values(), *contents.values()}


def _corrected(before: Before, new: Sequence[Example], labels: Sequence[str]) -> int:
    """How many examples say something else than their images were called."""
    codes = {label: code for code, label in enumerate(labels)}
    given = [-1 if one.label is None else codes[one.label] for one in new]
    earlier = before.of(np.array([one.id for one in new], np.int64))
    return int(np.count_nonzero(earlier != np.array(given, np.int32)))
