"""Labels and templates: from words to one unit vector a class.

Per class every template is filled in and encoded, the unit vectors are averaged and the mean is
brought back to unit length (Radford et al. 2021). Imports no torch: the templates are data and
the vectors come from whatever encodes texts, as a rule ``text_vectors.TextVectors``.
"""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.prompt_templates import OPENAI_TEMPLATES, SIMPLE_TEMPLATES

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "simple": SIMPLE_TEMPLATES,
    "openai": OPENAI_TEMPLATES,
    "none": ("{}",),
}
# 20,000 labels by 80 templates would be gigabytes at once; a block is tens of megabytes.
_PROMPTS_PER_BLOCK = 8192


SYNONYMS_WEIGHT, DESCRIPTIONS_WEIGHT = 0.25, 0.1
"""What a label's other names, and its descriptions, together count for beside its name: so much
that they help a name that says little, so little that they take next to nothing from a good one;
see benchmarks/class_names.py."""


class EncodesTexts(Protocol):
    """Anything that turns n texts into (n, dim) float32 unit rows."""

    def encode(self, texts: Sequence[str]) -> Float32: ...


@dataclass(frozen=True)
class Wording:
    """How one label is put into words.

    names : each goes into every template. descriptions : prompts as they are.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...] = ()


class WordedLabels(Sequence[str]):
    """Labels of which something else is asked than their names."""

    @abstractmethod
    def wordings(self) -> Sequence[Wording]:
        """How each label is put into words."""


def parse_labels(text: str) -> tuple[str, ...]:
    """Labels of a comma-separated text: ``"cat, hot dog"`` -> ``("cat", "hot dog")``.

    Raises LabelError as ``check_labels`` does.
    """
    return check_labels(text.split(",") if text.strip() else ())


def read_labels_file(path: str | Path) -> tuple[str, ...]:
    """Labels of a UTF-8 file, one a line; blank lines and lines that begin with # are skipped.

    Raises LabelError for a file that is missing, not UTF-8 text, or holds bad labels.
    """
    return check_labels(text_lines(Path(path), "labels"))


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, stripped. One label is allowed; what to make of it is the caller's decision.

    Raises LabelError if there is none, one is empty, or two differ only in case or spaces.
    """
    if isinstance(labels, str):
        raise LabelError(f"expected a sequence of labels, got one text {labels!r}")
    if not labels:
        raise LabelError("no label given: expected at least one, such as cat,dog")
    stripped = tuple(label.strip() for label in labels)
    seen: dict[str, str] = {}
    for position, label in enumerate(stripped, start=1):
        if not label:
            raise LabelError(f"label {position} of {len(stripped)} is empty: remove it or name it")
        key = same_label(label)
        if key in seen:
            raise LabelError(f"label {label!r} is there twice (also as {seen[key]!r}): keep one")
        seen[key] = label
    return stripped


def same_label(label: str) -> str:
    """What is equal for labels that differ in case or spaces alone: a set has one of them."""
    return " ".join(label.casefold().split())


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Templates by set name ("simple", "openai", "none"), as a literal with ``{}``, as the path
    of a text file with one template a line, or as a sequence of literals.

    Raises LabelError for an unknown name, a missing file, or a template without a plain ``{}``.
    """
    if isinstance(templates, str):
        if templates in TEMPLATE_SETS:
            return TEMPLATE_SETS[templates]
        if "{" in templates:
            found: Sequence[str] = (templates,)
        elif Path(templates).is_file():
            found = text_lines(Path(templates), "templates")
        else:
            raise LabelError(
                f"expected templates as {', '.join(TEMPLATE_SETS)}, a file, or a text with {{}} "
                f"where the label goes; got {templates!r}"
            )
    else:
        found = templates
    if not found:
        raise LabelError("no template given: expected at least one, such as 'a photo of a {}.'")
    for template in found:
        _parse_template(template)
    return tuple(found)


def class_prompts(
    labels: Sequence[str], templates: str | Sequence[str] = "simple", context: str | None = None
) -> list[list[str]]:
    """Every label in every template: C lists of T prompts.

    context : appended to each label as "label, context", such as "a type of pet".
    Raises LabelError as ``check_labels`` and ``resolve_templates`` do.
    """
    return _prompts(check_labels(labels), templates, context)


def _prompts(
    names: Sequence[str], templates: str | Sequence[str], context: str | None
) -> list[list[str]]:
    parsed = [_parse_template(template) for template in resolve_templates(templates)]
    suffix = f", {context.strip()}" if context is not None and context.strip() else ""
    return [[(name + suffix).join(parts) for parts in parsed] for name in names]


def filled(words: Sequence[str], templates: str | Sequence[str] = "simple") -> list[str]:
    """Every word in every template, word by word. Raises as ``resolve_templates``."""
    parsed = [_parse_template(template) for template in resolve_templates(templates)]
    return [word.join(parts) for word in words for parts in parsed]


def class_vectors(
    labels: Sequence[str],
    text_vectors: EncodesTexts,
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
) -> Float32:
    """One vector a label: (C, dim) float32 unit rows, in the order of ``labels``.

    Equal to ``open_clip.build_zero_shot_classifier``, transposed. ``WordedLabels`` are asked for
    in their own words: to the vector of the first name the mean vectors of the other names and
    of the descriptions are added, with the weights above. Raises LabelError as ``class_prompts``
    does, and what the encoder raises.
    """
    if not isinstance(labels, WordedLabels):
        return _name_vectors(check_labels(labels), text_vectors, templates, context)
    wordings = labels.wordings()
    names = list(dict.fromkeys(name for wording in wordings for name in wording.names))
    texts = list(dict.fromkeys(text for wording in wordings for text in wording.descriptions))
    of_names = _name_vectors(names, text_vectors, templates, context)
    of_texts = _unit(text_vectors.encode(texts)) if texts else of_names[:0]
    name_places = {name: place for place, name in enumerate(names)}
    text_places = {text: place for place, text in enumerate(texts)}
    classes = of_names[[name_places[wording.names[0]] for wording in wordings]]
    for row, wording in zip(classes, wordings, strict=True):
        others = of_names[[name_places[name] for name in wording.names[1:]]]
        described = of_texts[[text_places[text] for text in wording.descriptions]]
        for more, weight in ((others, SYNONYMS_WEIGHT), (described, DESCRIPTIONS_WEIGHT)):
            if len(more):
                row += np.float32(weight) * _unit(more.mean(axis=0))
        if len(others) or len(described):
            row[:] = _unit(row)
    return classes


def _name_vectors(
    names: Sequence[str],
    text_vectors: EncodesTexts,
    templates: str | Sequence[str],
    context: str | None,
) -> Float32:
    prompts = _prompts(names, templates, context)
    per_class = len(prompts[0])
    step = max(1, _PROMPTS_PER_BLOCK // per_class)
    blocks = []
    for start in range(0, len(prompts), step):
        block = prompts[start : start + step]
        rows = text_vectors.encode([prompt for row in block for prompt in row])
        means = _unit(rows.reshape(len(block), per_class, -1)).mean(axis=1)
        blocks.append(_unit(means))
    return np.concatenate(blocks)


def _unit(rows: Float32) -> Float32:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: Float32 = (rows / np.maximum(norms, 1e-12)).astype(np.float32, copy=False)
    return unit


def _parse_template(template: str) -> list[str]:
    """The literal parts around each ``{}``, so that braces inside a label stay as they are."""
    wrong = LabelError(
        f"expected a template with {{}} where the label goes and no other field, got {template!r}"
    )
    parts = [""]
    try:
        for literal, field, format_spec, conversion in string.Formatter().parse(template):
            parts[-1] += literal
            if field is None:
                continue
            if field or format_spec or conversion:
                raise wrong
            parts.append("")
    except ValueError:
        raise wrong from None
    if len(parts) == 1:
        raise wrong
    return parts


def text_lines(source: Path | bytes, what: str, called: str = "standard input") -> list[str]:
    """The lines of UTF-8 text, stripped, without blank ones and those that begin with #.

    source : a file, or what was read from one that is called ``called``. what : what the lines
    are, for the LabelError that is raised where there are none, or no text.
    """
    name = called if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise LabelError(f"expected a file of {what} at {name}: {reason}") from None
    except ValueError as error:  # a name with a NUL in it
        raise LabelError(f"expected a file of {what} at {name!r}: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise LabelError(f"{name} is no UTF-8 text: save it as UTF-8 with one of the {what} a line")
    lines = (line.strip() for line in text.splitlines())
    kept = [line for line in lines if line and not line.startswith("#")]
    if not kept:
        raise LabelError(f"{name} holds no {what}: expected one a line")
    return kept
