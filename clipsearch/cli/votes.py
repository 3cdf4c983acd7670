"""The part of ``classify`` that lets images that are alike vote."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.cli.output import counted

if TYPE_CHECKING:
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.cluster_votes import VotedLabelling
    from clipsearch.filters import Filter
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_set_files import NoneRule

F = TypeVar("F", bound=Callable[..., Any])


def vote_options(function: F) -> F:
    """--by-cluster and --clusters."""
    options = [
        click.option(
            "--by-cluster",
            "vote",
            type=click.Choice(["decide", "temper"]),
            is_flag=False,
            flag_value="temper",
            help="Let images that are alike vote. temper (what the option alone means): an "
            "image's labels go also by how often its likes have them. decide: a group gets one "
            "label. Off by default: measured, temper adds 1 to 6 points where the photos show few "
            "of the labels, takes 0 to 2 where they show all, and up to 8 from labels of a handful "
            "of photos; decide adds nothing.",
        ),
        click.option(
            "--clusters",
            metavar="NAME",
            help="With --by-cluster: the clusters of the saved discovery NAME vote, instead of "
            "groups of 5 (decide) or 20 images (temper). Do not let clusters decide that are wider "
            "than the labels.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def begin_votes(
    opened: ImageIndex,
    asked: AskedLabels,
    save_as: str | None,
    vote: str,
    clusters: str | None,
    *,
    top: int,
    where: Filter | None,
    none: str | float | NoneRule,
) -> VotedLabelling:
    """Begin to label by cluster; the votes are counted when this returns."""
    from clipsearch.cli.stage_progress import StageProgress
    from clipsearch.cluster_votes import classify_by_cluster

    state = opened.state()
    allowed = None if where is None else opened.matching(where)
    assignment = None
    if clusters is not None:
        from clipsearch.saved_clusters import open_discovery

        name = clusters.strip().removeprefix("@")
        assignment = open_discovery(opened.path, state, name).discovery.assignment
    with StageProgress() as progress:
        return classify_by_cluster(
            opened.path, state, opened.text_vectors(),
            asked.names, asked.templates, asked.context,
            vote=vote, clusters=assignment, top=top, allowed=allowed, save_as=save_as,
            on_progress=progress, none=none,
        )  # fmt: skip


def tell_votes(voted: VotedLabelling) -> None:
    """How many voted, and what that changed."""
    share = voted.overruled / max(1, voted.images)
    click.echo(
        f"{counted(voted.groups, 'group')} voted: {voted.overruled:,} of "
        f"{counted(voted.images, 'image')} ({share:.1%}) have another label than alone.",
        err=True,
    )
