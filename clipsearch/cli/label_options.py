"""The options that say which labels: of ``classify`` and ``tag``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.errors import LabelError, OptionError

if TYPE_CHECKING:
    from clipsearch.label_set_files import LabelSet

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class AskedLabels:
    """The labels asked for, and how they become prompts. saved : the set they come from."""

    names: tuple[str, ...]
    templates: str | tuple[str, ...]
    context: str | None
    saved: LabelSet | None


def label_options(function: F) -> F:
    """--labels, --labels-file, --templates, --context and --save-as."""
    options = [
        click.option(
            "--labels",
            metavar="A,B,C",
            help="The labels, with commas between them; @NAME for those of a saved set.",
        ),
        click.option(
            "--labels-file", type=click.Path(path_type=str), help="A file with one label a line."
        ),
        click.option(
            "--templates",
            metavar="NAME",
            help="simple (7 prompts a label; the default), openai (80), none, a file, or one like "
            '"a sketch of a {}".',
        ),
        click.option(
            "--context", help='What the labels are, such as "a type of pet"; helps a little.'
        ),
        click.option(
            "--save-as",
            metavar="NAME",
            help="Save the labels and what every image got in the index, as the set NAME.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def asked_labels(
    index: Path,
    labels: str | None,
    labels_file: str | None,
    templates: str | None,
    context: str | None,
) -> AskedLabels:
    """What the options say; a saved set brings its own templates and context.

    Raises LabelError, OptionError, and what reading a saved set raises.
    """
    from clipsearch.prompts import parse_labels, read_labels_file

    if (labels is None) == (labels_file is None):
        raise LabelError('give the labels either as --labels "a,b" or with --labels-file FILE')
    if labels is None or not labels.lstrip().startswith("@"):
        names = parse_labels(labels) if labels is not None else read_labels_file(labels_file or "")
        return AskedLabels(names, templates or "simple", context, None)
    from clipsearch.label_sets import read_label_set

    source = click.get_current_context().get_parameter_source
    typed = (click.core.ParameterSource.COMMANDLINE,)  # what a settings file says is no wish here
    for name in ("templates", "context"):
        if source(name) in typed:
            raise OptionError(f"a saved label set has its own {name}: leave out --{name}")
    found = read_label_set(index, labels.strip().removeprefix("@"))
    return AskedLabels(found.labels, found.templates, found.context, found)
