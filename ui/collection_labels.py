"""Labelling a collection with what somebody asked for, as the command line does."""

from __future__ import annotations

from clipsearch.ambiguous_names import alike_labels, ambiguous_names
from clipsearch.classify import Labelling
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex
from clipsearch.label_examples import read_examples
from clipsearch.label_sets import labels_folder
from clipsearch.prompts import class_vectors
from clipsearch.saved_labelling import classify_beside
from clipsearch.searching import sample_rows
from clipsearch.taught_labelling import TaughtLabelling, classify_taught
from clipsearch.text_vectors import TextVectors
from ui.label_requests import LabelRequest

_MOST_NOTES = 4


def begin_labelling(
    index: ImageIndex,
    state: Generation,
    texts: TextVectors,
    request: LabelRequest,
    save_as: str | None,
) -> Labelling:
    """Begin to label every image, by the examples of a set that was taught, else beside what a
    saved set remembers. save_as : a name to save the result under, None not to.

    Raises as ``classify_taught`` and ``classify_beside``.
    """
    saved = request.saved
    if saved is not None and saved.teaching is not None:
        return classify_taught(
            index.path, state, texts, request.names, request.templates, request.context,
            examples=read_examples(labels_folder(index.path), saved),
            save_as=save_as, none=request.none,
        )  # fmt: skip
    return classify_beside(
        index.path, state, texts, request.names, request.templates, request.context,
        base=None if saved is None else saved.name, save_as=save_as, none=request.none,
    )  # fmt: skip


def examples_of(labelling: Labelling) -> int:
    """By how many examples it goes."""
    return len(labelling.lesson.examples) if isinstance(labelling, TaughtLabelling) else 0


def label_notes(request: LabelRequest, state: Generation, texts: TextVectors) -> list[str]:
    """What is worth saying of labels that are not a saved set's."""
    notes = []
    if request.repeated:
        again = "label was" if request.repeated == 1 else "labels were"
        notes.append(f"{request.repeated:,} {again} there twice, and left out.")
    if request.saved is not None:
        return notes
    if request.context is None:
        found = ambiguous_names(request.names, None)
        notes += [
            f"“{name.label}” may be several things ({', '.join(name.meanings)}): say which, as in "
            f"“{name.label} ({name.meanings[0]})”."
            for name in found[:_MOST_NOTES]
        ]
    classes = class_vectors(request.names, texts, request.templates, request.context)
    pairs = alike_labels(request.names, classes, sample_rows(state), state.space.logit_scale)
    notes += [
        f"The model hardly tells “{pair.one}” from “{pair.other}” on these photos: keep one, or "
        "word them further apart."
        for pair in pairs[:_MOST_NOTES]
    ]
    return notes
