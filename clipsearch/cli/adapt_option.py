"""``classify --adapt``: labels that go by how often each label is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.cli.output import counted

if TYPE_CHECKING:
    from clipsearch.adapt import AdaptedLabelling
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.filters import Filter
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_set_files import NoneRule

F = TypeVar("F", bound=Callable[..., Any])


def adapt_option(function: F) -> F:
    """--adapt."""
    return click.option(
        "--adapt", is_flag=True,
        help="Find out how often each label is there, and let labels go by that too. Off by "
        "default: measured, it adds half a point to nine where the photos show few of the labels, "
        "and where they show more than a third it leaves all as they are; labels of one or two "
        "photos beside large ones can lose them.",
    )(function)  # fmt: skip


def begin_adapted(
    opened: ImageIndex,
    asked: AskedLabels,
    save_as: str | None,
    *,
    top: int,
    where: Filter | None,
    none: str | float | NoneRule,
) -> AdaptedLabelling:
    """Begin to label; how often each label is there is known when this returns. Raises as
    ``classify_adapted``."""
    from clipsearch.adapt import classify_adapted
    from clipsearch.cli.stage_progress import StageProgress

    allowed = None if where is None else opened.matching(where)
    with StageProgress() as progress:
        return classify_adapted(
            opened.path, opened.state(), opened.text_vectors(),
            asked.names, asked.templates, asked.context,
            top=top, allowed=allowed, save_as=save_as, on_progress=progress, none=none,
        )  # fmt: skip


def tell_adapted(labelling: AdaptedLabelling) -> None:
    """What was found, and what came of it."""
    from clipsearch.label_shares import ADAPTED, FEW_IMAGES, MANY_THERE

    shares, labels = labelling.shares, counted(len(labelling.label_names), "label")
    if shares.outcome == ADAPTED:
        share = labelling.overruled / max(1, labelling.images)
        click.echo(
            f"The photos show about {shares.there:.0f} of {labels}: {labelling.overruled:,} of "
            f"{counted(labelling.images, 'image')} ({share:.1%}) have another label than alone.",
            err=True,
        )
        return
    if shares.outcome == FEW_IMAGES:
        why = f"there are fewer images than labels ({shares.images:,}, {labels})"
    elif shares.outcome == MANY_THERE:
        why = f"the photos show about {shares.there:.0f} of {labels}, more than a third"
    else:
        why = "one label would have taken the images of many others"
    click.echo(f"Nothing was adapted: {why}.", err=True)
