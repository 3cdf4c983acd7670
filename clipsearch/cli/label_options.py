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
    from clipsearch.label_set_files import LabelSet, NoneRule

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class AskedLabels:
    """The labels asked for, and how they become prompts. names : ``LabelDefinitions`` where more
    is said of them. saved : the set they come from."""

    names: Sequence[str]
    templates: str | tuple[str, ...]
    context: str | None
    saved: LabelSet | None
    reworded: tuple[tuple[str, str], ...] = ()


def label_options(function: F) -> F:
    """--labels, --labels-file, --templates, --context and --save-as."""
    options = [
        click.option(
            "--labels",
            metavar="A,B,C",
            help="The labels, with commas between them; @NAME for those of a saved set.",
        ),
        click.option(
            "--labels-file",
            metavar="FILE",
            type=click.Path(path_type=str),
            help="A file with one label a line; or, where it ends in .toml or .json, with other "
            "words for the labels, what is broader, thresholds and groups: see the README.",
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
    from clipsearch.label_definitions import LabelDefinitions

    if not (add or remove or reword):
        return asked
    if asked.saved is None:
        raise OptionError("--add, --remove and --reword go with a saved set: --labels @NAME")
    renamed = [_old_and_new(text, asked.names) for text in reword]
    names: Sequence[str] = edited_labels(
        asked.names,
        add=[label for text in add for label in text.split(",")],
        remove=[label for text in remove for label in _named(text, asked.names)],
        reword=renamed,
    )
    if isinstance(asked.names, LabelDefinitions):
        names = asked.names.edited(names, dict(renamed))
    return dataclasses.replace(asked, names=names, reworded=tuple(renamed))


def none_rule(asked: AskedLabels, none: str | None) -> str | float | NoneRule:
    """What says which images have none of the labels: --none, else what the saved set that was
    asked for has gone by, else "auto". A threshold that the collection gave to other labels
    says nothing of these; a set of before there were thresholds labels every image still.

    Raises OptionError as ``none_setting``.
    """
    from clipsearch.abstaining import AUTO, OFF, none_setting
    from clipsearch.label_set_files import CLASSIFY

    if none is not None:
        return none_setting(none.strip().lower())
    if asked.saved is not None and asked.saved.none is not None:
        is_edited = tuple(asked.names) != asked.saved.labels
        return AUTO if is_edited and asked.saved.none.setting == AUTO else asked.saved.none
    return OFF if asked.saved is not None and asked.saved.kind == CLASSIFY else AUTO


def _named(text: str, labels: Sequence[str]) -> list[str]:
    """The labels with commas between them, or the one that has commas in it."""
    from clipsearch.prompts import same_label

    return [text] if same_label(text) in map(same_label, labels) else text.split(",")


def _old_and_new(text: str, labels: Sequence[str]) -> tuple[str, str]:
    """ "cat=house cat" -> ("cat", "house cat"); a label of the set may have a = in it."""
    from clipsearch.prompts import same_label

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
    from clipsearch.definition_files import read_labels
    from clipsearch.label_definitions import labels_of_set
    from clipsearch.prompts import parse_labels

    if (labels is None) == (labels_file is None):
        raise LabelError('give the labels either as --labels "a,b" or with --labels-file FILE')
    if labels is None or not labels.lstrip().startswith("@"):
        names = parse_labels(labels) if labels is not None else read_labels(labels_file or "")
        return AskedLabels(names, templates or "simple", context, None)
    from clipsearch.label_sets import read_label_set

    source = click.get_current_context().get_parameter_source
    typed = (click.core.ParameterSource.COMMANDLINE,)  # what a settings file says is no wish here
    for name in ("templates", "context"):
        if source(name) in typed:
            raise OptionError(f"a saved label set has its own {name}: leave out --{name}")
    found = read_label_set(index, labels.strip().removeprefix("@"))
    return AskedLabels(labels_of_set(found), found.templates, found.context, found)
