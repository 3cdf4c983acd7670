"""What a person is told of labels that may not be what they seem."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipsearch.cli.output import for_display

if TYPE_CHECKING:
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.image_index import ImageIndex

_MOST_TOLD = 4


def tell_of_labels(opened: ImageIndex, asked: AskedLabels) -> None:
    """Print notes on names that mean several things, unless a context says what is meant, and
    on labels that the model cannot tell apart on these images. Whoever goes on with the labels
    of a saved set has been told."""
    if _has_been_told(asked):
        return
    from clipsearch.ambiguous_names import alike_labels
    from clipsearch.prompts import class_vectors
    from clipsearch.searching import sample_rows

    tell_of_names(asked)
    state = opened.state()
    classes = class_vectors(asked.names, opened.text_vectors(), asked.templates, asked.context)
    pairs = alike_labels(asked.names, classes, sample_rows(state), state.space.logit_scale)
    notes = [
        f"the model hardly tells {for_display(pair.one)} from {for_display(pair.other)} on these "
        "images: keep one, or word them further apart."
        for pair in pairs
    ]
    _tell(notes, "other pairs of labels", "are hardly told apart")


def tell_of_names(asked: AskedLabels) -> None:
    """Print the notes on names that mean several things alone."""
    if _has_been_told(asked) or (asked.context or "").strip():
        return
    from clipsearch.ambiguous_names import ambiguous_names
    from clipsearch.wordnet import find_wordnet

    notes = []
    for name in ambiguous_names(asked.names, find_wordnet()):
        label, meanings = for_display(name.label), ", ".join(name.meanings)
        say = for_display(f"{name.label} ({name.meanings[0]})")
        notes.append(f"{label} may be several things ({meanings}): say which, as in {say!r}.")
    _tell(notes, "other names", "mean several things")


def _has_been_told(asked: AskedLabels) -> bool:
    return asked.saved is not None and tuple(asked.names) == asked.saved.labels


def _tell(notes: list[str], others: str, what: str) -> None:
    for note in notes[:_MOST_TOLD]:
        click.echo(f"Note: {note}", err=True)
    more = len(notes) - _MOST_TOLD
    if more > 0:
        click.echo(f"Note: {more:,} {others} {what}.", err=True)
