"""Ways to put the same labels into words, compared on the same images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipsearch.errors import LabelError
from clipsearch.evaluation import KEPT, Evaluation, evaluate
from clipsearch.image_index import ImageIndex
from clipsearch.label_definitions import (
    NOTHING_SAID,
    LabelDefinition,
    LabelDefinitions,
    refuse_groups,
)
from clipsearch.labelled_images import LabelledImages, some_of
from clipsearch.prompts import class_vectors, resolve_templates, same_label
from clipsearch.scoring import LabelScorer

ONE_TEMPLATE = "a photo of a {}."
ALL_CHOICES = ("simple", "name", "one", "openai")
"""What "all" stands for; the first is what ``classify`` asks with."""


@dataclass(frozen=True)
class PromptChoice:
    """One way to put labels into words. name : what it is called beside its figures."""

    name: str
    labels: Sequence[str]
    templates: tuple[str, ...]
    context: str | None = None


def named_templates(asked: str) -> tuple[str, tuple[str, ...]]:
    """What a choice of templates is called, and the templates: "name" (the class name alone),
    "one" (``ONE_TEMPLATE``), or what ``resolve_templates`` takes, and raises LabelError for."""
    text = asked.strip()
    if text in ("name", "none"):
        return "name alone", ("{}",)
    if text == "one":
        return f'one template, "{ONE_TEMPLATE}"', (ONE_TEMPLATE,)
    try:
        templates = resolve_templates(text)
    except LabelError as error:
        known = ", ".join(("all", *ALL_CHOICES))
        if "{" in text or Path(text).is_file():
            raise
        raise LabelError(
            f"expected prompts as {known}, a file of templates, or a text with {{}} where the "
            f"class goes; got {asked!r}"
        ) from error
    if len(templates) == 1 and "{" in text:
        return f'"{text}"', templates
    return f"{Path(text).name} ({_templates(len(templates))})", templates


def prompt_choices(
    labels: Sequence[str],
    asked: Sequence[str] = ("simple",),
    context: str | None = None,
    described: Sequence[str] | None = None,
) -> tuple[PromptChoice, ...]:
    """Every choice of templates that is asked for; with a context each of them with it, too, and
    with descriptions each with those.

    asked : see ``named_templates``; "all" for ``ALL_CHOICES``. described : the same labels, with
    other words and descriptions; see ``with_descriptions``. Raises LabelError.
    """
    wanted = [one for name in asked for one in (ALL_CHOICES if name == "all" else (name,))]
    context = (context or "").strip()
    choices: dict[str, PromptChoice] = {}
    for name, templates in map(named_templates, wanted):
        plain = PromptChoice(name, labels, templates)
        choices.setdefault(name, plain)
        if context:
            told = f'{name}, "{context}"'
            choices.setdefault(told, replace(plain, name=told, context=context))
        if described is not None:
            told = f"{name}, described"
            choices.setdefault(told, replace(plain, name=told, labels=described))
    return tuple(choices.values())


def prompt_labels(samples: LabelledImages, worded: Sequence[str] | None = None) -> Sequence[str]:
    """The classes of some images as labels to ask for, in the words that prompts have for them.

    worded : labels that have words of their own, such as those of a file. Of a tree and of
    thresholds nothing is left: every image is to have one of all the classes.
    """
    if isinstance(worded, LabelDefinitions):
        refuse_groups(worded)
        samples = replace(samples, words={})
        return with_descriptions(samples, worded)
    if not samples.words:
        return samples.classes
    items = (LabelDefinition(words=samples.words.get(name)) for name in samples.classes)
    return LabelDefinitions(samples.classes, tuple(items))


def with_descriptions(
    samples: LabelledImages, definitions: Sequence[str], source: str = "the file"
) -> LabelDefinitions:
    """The classes with what ``definitions`` say of them: other words, synonyms, descriptions.

    Raises LabelError where they say nothing of any of the classes.
    """
    said = {}
    if isinstance(definitions, LabelDefinitions):
        for name, item in zip(definitions.names, definitions.definitions, strict=True):
            said[same_label(name)] = replace(item, parent=None, threshold=None)
    if not any(same_label(name) in said for name in samples.classes):
        raise LabelError(
            f"{source} describes none of the classes: expected a table such as "
            f'[labels."{samples.classes[0]}"] with descriptions, it has '
            f"{some_of(list(definitions))}"
        )
    items = []
    for name in samples.classes:
        item = said.get(same_label(name), NOTHING_SAID)
        items.append(replace(item, words=item.words or samples.words.get(name)))
    return LabelDefinitions(samples.classes, tuple(items))


def evaluate_choices(
    index: ImageIndex,
    samples: LabelledImages,
    choices: Sequence[PromptChoice],
    model: str,
    on_choice: Callable[[PromptChoice], None] = lambda choice: None,
) -> list[Evaluation]:
    """Label the same images by every choice, from the vectors of ``index``. Raises as
    ``evaluate``, and what encodes texts raises."""
    found = []
    state, texts = index.state(), index.text_vectors()
    top = min(KEPT, len(samples.classes))
    for choice in choices:
        on_choice(choice)
        classes = class_vectors(choice.labels, texts, choice.templates, choice.context)
        scorer = LabelScorer(classes, state.space.logit_scale, top)
        found.append(evaluate(state, samples, scorer, choice.name, model))
    return found


def _templates(count: int) -> str:
    return "1 template" if count == 1 else f"{count} templates"
