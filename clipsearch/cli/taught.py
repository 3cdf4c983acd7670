"""The part of ``classify`` that goes by the examples of a saved set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipsearch.cli.output import counted

if TYPE_CHECKING:
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.conformal import Coverage
    from clipsearch.filters import Filter
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_set_files import NoneRule
    from clipsearch.taught_labelling import TaughtLabelling


def begin_taught(
    opened: ImageIndex,
    asked: AskedLabels,
    save_as: str | None,
    *,
    top: int,
    where: Filter | None,
    none: str | float | NoneRule,
    coverage: float | None,
) -> TaughtLabelling:
    """Begin to label by the examples of a saved set."""
    from clipsearch.label_examples import read_examples, reworded_examples
    from clipsearch.label_sets import labels_folder
    from clipsearch.taught_labelling import classify_taught

    assert asked.saved is not None
    examples = read_examples(labels_folder(opened.path), asked.saved)
    return classify_taught(
        opened.path, opened.state(), opened.text_vectors(),
        asked.names, asked.templates, asked.context,
        examples=reworded_examples(examples, asked.reworded), save_as=save_as, top=top,
        allowed=None if where is None else opened.matching(where), none=none, coverage=coverage,
    )  # fmt: skip


def is_taught_set(opened: ImageIndex, name: str) -> bool:
    """Whether there is a set of this name that has examples."""
    from clipsearch.taught_labelling import set_there

    there = set_there(opened.path, name)
    return there is not None and there.teaching is not None


def what_taught(labelling: TaughtLabelling) -> str:
    """How many examples there are, for a person."""
    examples = labelling.lesson.examples
    told = f"Taught by {counted(len(examples), 'example')}"
    resting = examples.resting + examples.gone
    if not resting:
        return f"{told}."
    return f"{told}; {resting:,} more {'is' if resting == 1 else 'are'} not used now."


def what_covers(labelling: TaughtLabelling, coverage: Coverage) -> str:
    """What the label sets hold, for a person."""
    labelled = labelling.images - labelling.unlabelled
    mean = labelling.in_sets / max(1, labelled)
    told = (
        f"The label set of an image holds its true label in {100 * coverage.wanted:.4g}% of them, "
        f"by {coverage.images:,} confirmed ones; it has {mean:.2f} labels on average."
    )
    if coverage.is_random:
        return told
    return f"{told} Not all of those were drawn at random: it is the share of images like them."
