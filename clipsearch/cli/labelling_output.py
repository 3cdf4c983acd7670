"""What ``classify`` says to a person of a labelling that is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipsearch.cli.output import (
    counted,
    display_path,
    for_display,
    human_seconds,
    on_terminal,
    table,
)

if TYPE_CHECKING:
    from clipsearch.classify import Labelling
    from clipsearch.image_index import ImageIndex

_MOST_SHOWN = 60
"""Lines of a summary on a terminal: of a thousand labels nobody reads the last."""


def label_summary(opened: ImageIndex, labelling: Labelling) -> str:
    """A line for every label: images, share and best example; then for none of these."""
    rows = []
    for line in labelling.summary():
        example = ""
        if line.example_id is not None:
            place = opened.paths().first_places([line.example_id])[0]
            example = display_path(place.path) if place is not None else ""
        rows.append((for_display(line.label), f"{line.count:,}", f"{line.share:.1%}", example))
    shown = rows[:_MOST_SHOWN] if on_terminal() else rows
    if labelling.abstention is not None or labelling.unlabelled:
        share = labelling.unlabelled / max(1, labelling.images)
        shown.append(("(none of these)", f"{labelling.unlabelled:,}", f"{share:.1%}", ""))
    told = table(("label", "images", "share", "best example"), shown, " rr")
    more = len(labelling.label_names) - _MOST_SHOWN if on_terminal() else 0
    return told + (f"\n... and {counted(more, 'label')} more: see --out FILE" if more > 0 else "")


def tell_speed(labelling: Labelling) -> None:
    """How much was scored, how fast, and what was remembered."""
    rate = labelling.images / max(labelling.seconds, 1e-9)
    texts = labelling.texts
    click.echo(
        f"{_what_was_scored(labelling)} in {human_seconds(labelling.seconds)} "
        f"({rate:,.0f} images/s); no image was opened. "
        f"Of {counted(texts.encoded + texts.cached, 'prompt')} {texts.cached:,} were remembered.",
        err=True,
    )


def _what_was_scored(labelling: Labelling) -> str:
    from clipsearch.saved_labelling import SavedLabelling

    labels = counted(len(labelling.label_names), "label")
    scored = f"Scored {counted(labelling.images, 'image')} against {labels}"
    if not isinstance(labelling, SavedLabelling) or labelling.base is None:
        return scored
    new = labelling.images_scored
    known = labelling.images - new
    if not known:
        return scored
    name = labelling.base.name
    parts = [f"{counted(new, 'image')} against {labels}"] if new else []
    if labelling.columns_scored:
        changed = counted(labelling.columns_scored, "changed label")
        parts.append(f"{counted(known, 'image')} against {changed}")
    if not parts:
        return f"Scored nothing, {counted(known, 'image')} and {labels} are remembered by {name},"
    return f"Scored {' and '.join(parts)}, the rest is remembered by {name},"
