"""Which labels somebody asks for: what a browser or a program sends, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.abstaining import AUTO, OFF
from clipsearch.cluster_reading import read_discovery
from clipsearch.definition_files import definitions_of
from clipsearch.errors import LabelError
from clipsearch.label_definitions import LabelDefinitions, labels_of_set
from clipsearch.label_set_files import CLASSIFY, LabelSet, NoneRule
from clipsearch.label_sets import read_label_set
from clipsearch.prompts import TEMPLATE_SETS, WordedLabels, resolve_templates, same_label
from ui.checks import check_text
from ui.library import Library
from ui.page_errors import PageError
from ui.page_settings import PageSettings

SOURCES = ("labels", "definitions", "set", "discovery")
KEYS = (*SOURCES, "group", "templates", "context", "none")

_LONGEST_LABEL = 300
_MOST_TYPED = 400_000  # letters of all labels together
_WORDINGS_A_LABEL = 6  # names and descriptions of a label, on average
_MOST_TEMPLATES = 100
_LONGEST_TEMPLATE = 300
_MOST_PROMPTS = 250_000
_BREAKS = re.compile(r"[,\n\r;\t]+")


@dataclass(frozen=True)
class LabelRequest:
    """Labels as they were asked for.

    names : the labels; ``LabelDefinitions`` where more is said of them. templates, context, none :
    as in ``ImageIndex.classify``; templates are texts, never a file. saved : the set they are.
    title : what they are called, None for labels that were typed. repeated : how many were there
    twice, and left out.
    """

    names: Sequence[str]
    templates: tuple[str, ...]
    context: str | None
    none: str | float | NoneRule
    saved: LabelSet | None = None
    title: str | None = None
    repeated: int = 0


def typed_labels(text: str) -> tuple[tuple[str, ...], int]:
    """The labels of a text with commas, semicolons, tabs or new lines between them, each once,
    and how many were there again."""
    labels = [" ".join(part.split()) for part in _BREAKS.split(text)]
    return _once([label for label in labels if label])


def label_request(
    body: Mapping[str, Any], library: Library, settings: PageSettings
) -> LabelRequest:
    """What ``body`` asks for; other keys than ``KEYS`` are not looked at.

    Exactly one of ``labels`` (a list, or a text as in ``typed_labels``; "@NAME" is a set),
    ``definitions`` (what a file of definitions holds, with ``group``, one of its groups),
    ``set`` (a saved label set) and ``discovery`` (the names of its clusters). ``templates``:
    "simple", "openai", "none", one text with {} or a list of such. ``none``: "auto", "off" or a
    number from 0 to 1.

    Raises PageError, LabelError, ClusterError and what reading a saved set raises.
    """
    named = body.get("labels")
    if isinstance(named, str) and named.strip().startswith("@"):
        body = {**body, "labels": None, "set": named.strip()[1:]}
    given = [key for key in SOURCES if body.get(key) not in (None, "", [], {})]
    if not given:
        raise PageError("Type at least one label, such as: dog, cat, a cup of coffee")
    if len(given) > 1:
        raise PageError(f"Labels: expected one of {', '.join(SOURCES)}, got {' and '.join(given)}.")
    templates = _templates(body.get("templates"))
    context = check_text(body.get("context"), "context", settings, 300).strip() or None
    none = _none(body.get("none"))
    if given == ["set"]:
        if body.get("templates") is not None or context is not None:
            raise PageError("A saved label set has its own templates and context.")
        return _saved(check_text(body["set"], "set", settings, 200), library, none)
    names: Sequence[str]
    title, repeated = None, 0
    if given == ["labels"]:
        names, repeated = _typed(body["labels"], settings)
    elif given == ["discovery"]:
        title = check_text(body["discovery"], "discovery", settings, 200)
        names = cluster_names(library.index().path, title)
    else:
        names = _defined(body["definitions"], body.get("group"), settings)
    check_size(names, templates, settings)
    rule = AUTO if none is None else none
    return LabelRequest(names, templates, context, rule, title=title, repeated=repeated)


def refuse_others(body: dict[str, Any], keys: tuple[str, ...]) -> None:
    """PageError for a key that means nothing here, which may be a slip of the pen."""
    for key in body:
        if key not in keys:
            raise PageError(f"{key[:40]}: expected one of {', '.join(keys)}")


def check_size(
    names: Sequence[str], templates: Sequence[str], settings: PageSettings
) -> Sequence[str]:
    """The labels, if there are not too many, nor too many words in them; else PageError (413)."""
    if len(names) > settings.most_labels:
        raise PageError(
            f"Expected at most {settings.most_labels:,} labels, got {len(names):,}.", 413
        )
    wordings = len(names)
    if isinstance(names, WordedLabels):
        said = names.wordings()
        texts = [text for one in said for text in (*one.names, *one.descriptions)]
        wordings = len(texts)
        if wordings > max(200, _WORDINGS_A_LABEL * settings.most_labels):
            raise PageError(f"{wordings:,} names and descriptions are too many.", 413)
        if any(len(text) > settings.most_text for text in texts):
            raise PageError(f"A description has more than {settings.most_text:,} letters.", 413)
    for name in names:
        if len(name) > _LONGEST_LABEL:
            raise PageError(f"A label has more than {_LONGEST_LABEL} letters.", 413)
    if wordings * len(templates) > _MOST_PROMPTS:
        raise PageError(
            f"{wordings:,} labels with {len(templates)} templates are too many prompts: "
            "choose fewer templates.",
            413,
        )
    return names


def cluster_names(index: Path, discovery: str) -> tuple[str, ...]:
    """The names of the clusters of a saved discovery, each once; raises ClusterError."""
    _, found = read_discovery(index, discovery)
    names, _ = _once([cluster.name.strip() for cluster in found.clusters])
    if not names:
        raise LabelError(f"the discovery {discovery!r} has no clusters that could be labels")
    return names


def none_rule_of(saved: LabelSet, none: str | float | None, fingerprint: str) -> Any:
    """Which images get none of the labels of a saved set: what is asked, else what the set goes
    by; what was fitted for another model is fitted anew. fingerprint : of the space now."""
    if none is not None:
        return none
    if saved.none is None:
        return OFF if saved.kind == CLASSIFY else AUTO
    return saved.none if saved.space == fingerprint else saved.none.setting


def _saved(name: str, library: Library, none: str | float | None) -> LabelRequest:
    index = library.index()
    found = read_label_set(index.path, name)
    labels = labels_of_set(found)
    rule = none_rule_of(found, none, index.space.fingerprint)
    return LabelRequest(labels, found.templates, found.context, rule, saved=found, title=found.name)


def _typed(value: object, settings: PageSettings) -> tuple[tuple[str, ...], int]:
    if isinstance(value, str):
        return typed_labels(check_text(value, "labels", settings, _MOST_TYPED))
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise PageError("labels: expected a text with commas, or a list of texts")
    if len(value) > 4 * settings.most_labels:
        raise PageError(f"Expected at most {settings.most_labels:,} labels.", 413)
    return _once([" ".join(one.replace("\0", "").split()) for one in value if one.strip()])


def _once(labels: Sequence[str]) -> tuple[tuple[str, ...], int]:
    kept: dict[str, str] = {}
    for label in labels:
        kept.setdefault(same_label(label), label)
    return tuple(kept.values()), len(labels) - len(kept)


def _defined(document: object, group: object, settings: PageSettings) -> Sequence[str]:
    if isinstance(document, dict) and len(document.get("labels") or ()) > settings.most_labels:
        raise PageError(f"Expected at most {settings.most_labels:,} labels.", 413)
    labels: LabelDefinitions = definitions_of(document)
    if not labels.groups:
        return labels
    names = [one.name for one in labels.groups]
    if group is None and len(names) > 1:
        raise PageError(f"These labels are in groups: choose one of {', '.join(names)}.")
    chosen = next((one for one in labels.groups if group in (None, one.name)), None)
    if chosen is None:
        raise PageError(f"group: expected one of {', '.join(names)}")
    if not chosen.exclusive:
        raise PageError(
            f"An image can have several labels of the group {chosen.name}, and gets one here: "
            "the command 'clipsearch tag' is for those."
        )
    return labels.of_group(chosen)


def _templates(value: object) -> tuple[str, ...]:
    """Never a file: whoever asks the page is not always who owns the machine."""
    if value in (None, ""):
        return TEMPLATE_SETS["simple"]
    if isinstance(value, str):
        known = TEMPLATE_SETS.get(value.strip())
        if known is not None:
            return known
        value = [value]
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise PageError("templates: expected a name, a text with {} in it, or a list of those")
    if len(value) > _MOST_TEMPLATES or any(len(one) > _LONGEST_TEMPLATE for one in value):
        raise PageError(
            f"templates: expected at most {_MOST_TEMPLATES} of {_LONGEST_TEMPLATE} letters", 413
        )
    for one in value:
        if "{}" not in one:
            names = ", ".join(TEMPLATE_SETS)
            raise PageError(
                f"templates: expected {names}, or a text with {{}} where the label goes"
            )
    return resolve_templates(tuple(one.replace("\0", "") for one in value))


def _none(value: object) -> str | float | None:
    if value is None or value == "":
        return None
    if value is True or value is False:
        return AUTO if value else OFF
    if isinstance(value, str) and value in (AUTO, OFF):
        return value
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    raise PageError('none: expected "auto", "off", or a number from 0 to 1')
