"""The options that say which labels: of ``classify`` and ``tag``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
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


def edit_options(function: F) -> F:
    """--add, --remove and --reword, for ``edited``."""
    options = [
        click.option(
            "--add",
            metavar="A,B",
            multiple=True,
            help="With --labels @NAME: labels more than the set has. May repeat, as the next two.",
        ),
        click.option(
            "--remove", metavar="A,B", multiple=True, help="Labels of the set to leave out."
        ),
        click.option(
            "--reword",
            metavar="OLD=NEW",
            multiple=True,
            help="A label of the set, and what to call it instead. Only what changed is scored.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def edited(
    asked: AskedLabels, add: Sequence[str], remove: Sequence[str], reword: Sequence[str]
) -> AskedLabels:
    """The labels after --add, --remove and --reword.

    Raises LabelError as ``edited_labels``, and OptionError where no saved set was asked for or
    an option is not as it should be.
    """
    from clipsearch.label_changes import edited_labels

    if not (add or remove or reword):
        return asked
    if asked.saved is None:
        raise OptionError("--add, --remove and --reword go with a saved set: --labels @NAME")
    names = edited_labels(
        asked.names,
        add=[label for text in add for label in text.split(",")],
        remove=[label for text in remove for label in _named(text, asked.names)],
        reword=[_old_and_new(text, asked.names) for text in reword],
    )
    return dataclasses.replace(asked, names=names)


def _named(text: str, labels: Sequence[str]) -> list[str]:
    """The labels with commas between them, or the one that has commas in it."""
    from clipsearch.label_changes import same_label

    return [text] if same_label(text) in map(same_label, labels) else text.split(",")


def _old_and_new(text: str, labels: Sequence[str]) -> tuple[str, str]:
    """ "cat=house cat" -> ("cat", "house cat"); a label of the set may have a = in it."""
    from clipsearch.label_changes import same_label

    parts = text.split("=")
    if len(parts) < 2:
        raise OptionError(f"expected OLD=NEW after --reword, such as cat=house cat, got {text!r}")
    known = {same_label(label) for label in labels}
    pairs = [("=".join(parts[:cut]), "=".join(parts[cut:])) for cut in range(1, len(parts))]
    return next((pair for pair in pairs if same_label(pair[0]) in known), pairs[0])


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
