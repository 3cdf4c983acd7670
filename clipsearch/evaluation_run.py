"""Everything that one evaluation found: of several ways to ask, and of several models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.evaluation import Evaluation
from clipsearch.presets import BUILT_IN

if TYPE_CHECKING:
    from clipsearch.captions import CaptionTable
    from clipsearch.image_index import ImageIndex
    from clipsearch.labelled_images import LabelledImages
    from clipsearch.prompt_choices import PromptChoice
    from clipsearch.retrieval_evaluation import Retrieval

_SEEN = {
    BUILT_IN: "mini was trained on photos of Tiny-ImageNet, Caltech-101, CIFAR-10 and Flickr8k: "
    "on classes of those its figures are not zero-shot"
}


@dataclass(frozen=True)
class EvaluationRun:
    """Everything that one ``clipsearch evaluate`` found.

    title : of the report. source : the folder, table or index that was evaluated, as it was
    named. evaluations : of every model and every way to ask, on the same files; the first is
    what the report is about; () where only captions were asked for. retrievals : one a model.
    rates : by model, images a second while they were encoded, None where their vectors were
    there already. notes : what somebody who reads the figures has to know, a line each.
    verdict : whether several models together beat the better one; None where nobody asked.
    """

    title: str
    source: str
    evaluations: tuple[Evaluation, ...] = ()
    retrievals: tuple[Retrieval, ...] = ()
    rates: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verdict: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        document: dict[str, Any] = {
            "title": self.title,
            "source": self.source,
            "evaluations": [one.to_dict() for one in self.evaluations],
            "retrievals": [dataclasses.asdict(one) for one in self.retrievals],
            "images_per_second": dict(self.rates),
            "notes": list(self.notes),
        }
        if self.verdict is not None:
            document["fusion"] = self.verdict
        return document


def evaluate_models(
    indexes: Mapping[str, ImageIndex], samples: LabelledImages, choices: Sequence[PromptChoice]
) -> list[Evaluation]:
    """Label the same files by every model and every choice of prompts, model by model.

    indexes : by what a model is called, an index that answers with it; see ``open_index``. The
    ids of ``samples`` are those of all of them. Raises as ``evaluate_choices``.
    """
    from clipsearch.prompt_choices import evaluate_choices

    return [
        evaluation
        for model, index in indexes.items()
        for evaluation in evaluate_choices(index, samples, choices, model)
    ]


def evaluate_together(
    indexes: Mapping[str, ImageIndex], samples: LabelledImages, choice: PromptChoice
) -> tuple[list[Evaluation], str]:
    """Label the files by all models together, with equal weights and with fitted ones; and whether
    that beats the better one alone. Arguments and errors as ``evaluate_models``."""
    from clipsearch.fused_evaluation import evaluate_fused
    from clipsearch.prompts import class_vectors

    classes = [
        class_vectors(choice.labels, index.text_vectors(), choice.templates, choice.context)
        for index in indexes.values()
    ]
    states = [index.state() for index in indexes.values()]
    found = evaluate_fused(states, samples, classes, choice.name, list(indexes))
    return [found.equal, found.fitted], found.verdict


def evaluate_captions(
    indexes: Mapping[str, ImageIndex], table: CaptionTable
) -> list[tuple[Retrieval, tuple[str, ...]]]:
    """What the captions of a table find by every model, and the images of it that are not there.

    Raises SourceError where none is there, and as ``evaluate_retrieval``.
    """
    from clipsearch.captions import captions_in
    from clipsearch.retrieval_evaluation import evaluate_retrieval

    found = []
    for model, index in indexes.items():
        captions = captions_in(index.state(), table)
        one = evaluate_retrieval(index.state(), index.text_vectors(), captions, model=model)
        found.append((one, captions.missing))
    return found


def captions_together(indexes: Mapping[str, ImageIndex], table: CaptionTable) -> list[Retrieval]:
    """What the captions of a table find by all models together, with equal weights and with fitted
    ones, and in its notes whether that beats the better one alone. Errors as
    ``evaluate_captions``."""
    from clipsearch.captions import captions_in
    from clipsearch.fused_retrieval import evaluate_fused_retrieval

    states = [index.state() for index in indexes.values()]
    texts = [index.text_vectors() for index in indexes.values()]
    captions = captions_in(states[0], table)
    found = evaluate_fused_retrieval(states, texts, captions, list(indexes))
    told = dataclasses.replace(found.fitted, notes=(*found.fitted.notes, found.verdict))
    return [found.equal, told]


def with_vectors(samples: LabelledImages, indexes: Mapping[str, ImageIndex]) -> LabelledImages:
    """Those of the files that have a vector of every model, so that all are compared on the same
    ones; of others a note tells."""
    for model, index in indexes.items():
        vectors = index.state().vectors
        live = np.setdiff1d(vectors.ids, vectors.deleted, assume_unique=True)
        there = np.isin(samples.ids, live)
        if not there.all():
            lost = int(np.count_nonzero(~there))
            have = "file has" if lost == 1 else "files have"
            note = f"{lost:,} {have} no vector of {model} and are left out"
            samples = samples.rows(np.flatnonzero(there), note)
    return samples


def what_models_have_seen(indexes: Mapping[str, ImageIndex]) -> list[str]:
    """What is known of the photos that models were trained on, a line each."""
    return [_SEEN[index.space.model] for index in indexes.values() if index.space.model in _SEEN]
