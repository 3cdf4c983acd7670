"""``--fuse``: several models of the index answer together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.cli.output import for_display, on_terminal
from clipsearch.errors import OptionError

if TYPE_CHECKING:
    from clipsearch.classify import Labelling
    from clipsearch.cli.label_options import AskedLabels
    from clipsearch.cli.search_options import Asked
    from clipsearch.filters import Filter
    from clipsearch.fused_index import FusedIndex
    from clipsearch.image_index import ImageIndex
    from clipsearch.label_set_files import NoneRule
    from clipsearch.records import Hits

F = TypeVar("F", bound=Callable[..., Any])

_EQUAL = "="
"""What --fuse without weights stands for."""


class FuseCommand(click.Command):
    """A command whose --fuse may stand alone: the word after it belongs to it where that gives
    weights, as in mini=0.3, and to the command otherwise."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        if sum(arg.partition("=")[0] == "--fuse" for arg in args[:end]) > 1:
            raise OptionError(
                "--fuse is there twice: give all weights at once, as in --fuse mini=0.3,photo1k=0.7"
            )
        for place in range(end):
            if args[place] == "--fuse" and not (place + 1 < end and "=" in args[place + 1]):
                args = [*args[:place], f"--fuse={_EQUAL}", *args[place + 1 :]]
        return super().parse_args(ctx, args)


def fuse_option(function: F) -> F:
    """--fuse; of a ``FuseCommand``."""
    return click.option(
        "--fuse", metavar="[MODEL=WEIGHT,...]",
        help="Let all models of the index answer together, each as much as any other, or by "
        "weights: --fuse mini=0.3,photo1k=0.7. Better than the better one alone only with weights "
        "that suit them: 'clipsearch evaluate --fuse' finds some.",
    )(function)  # fmt: skip


def parse_weights(text: str) -> dict[str, float] | None:
    """ "mini=0.3,photo1k=0.7" -> what each counts; None for all the same. A model's name may be a
    path with commas and = in it.

    Raises OptionError for what is no weight, or a model that is there twice.
    """
    if text.strip() in ("", _EQUAL):
        return None
    weights: dict[str, float] = {}
    name = ""
    for part in text.split(","):
        name = f"{name},{part}" if name else part
        model, _, number = name.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            continue  # a comma of the name
        model = model.strip()
        if not model or not math.isfinite(weight) or weight < 0:
            raise _no_weights(text)
        if model in weights:
            raise OptionError(f"{model!r} has two weights in --fuse: expected one")
        weights[model], name = weight, ""
    if name:
        raise _no_weights(text)
    return weights


def _no_weights(text: str) -> OptionError:
    return OptionError(
        f"expected models and weights from 0 on after --fuse, such as mini=0.3,photo1k=0.7, got "
        f"{text!r}"
    )


def _together(opened: ImageIndex, fuse: str) -> FusedIndex:
    """The models of the index that --fuse names; a person is told which, and how much each counts.
    Raises as ``FusedIndex``."""
    from clipsearch.fused_index import FusedIndex

    index = FusedIndex(opened, parse_weights(fuse))
    if on_terminal():
        told = ", ".join(f"{space.model} {share:.2f}" for space, share in index.spaces())
        click.echo(f"Asked together: {for_display(told)}.", err=True)
    return index


def fused_hits(opened: ImageIndex, fuse: str, asked: Asked, *, strengths: bool) -> Hits:
    """What the models of the index find together. Raises as ``FusedIndex.search``."""
    index = _together(opened, fuse)
    return index.search(asked.query, k=asked.k, offset=asked.offset, strengths=strengths)


def begin_fused(
    opened: ImageIndex,
    fuse: str,
    asked: AskedLabels,
    *,
    top: int,
    where: Filter | None,
    none: str | float | NoneRule,
    cosines: bool,
) -> Labelling:
    """Begin to label by the models of the index together. Raises as ``FusedIndex.label``."""
    return _together(opened, fuse).label(
        asked.names, templates=asked.templates, context=asked.context,
        top=top, where=where, none=none, cosines=cosines,
    )  # fmt: skip
