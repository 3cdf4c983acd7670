"""What ``clipsearch evaluate`` does: from a folder, a table or an index to every figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clipsearch.captions import read_captions
from clipsearch.definition_files import read_labels
from clipsearch.errors import OptionError
from clipsearch.evaluation import Evaluation
from clipsearch.evaluation_run import (
    EvaluationRun,
    captions_together,
    evaluate_captions,
    evaluate_models,
    evaluate_together,
    what_models_have_seen,
    with_vectors,
)
from clipsearch.labelled_images import in_classes
from clipsearch.labelled_table import read_class_names
from clipsearch.prompt_choices import prompt_choices, prompt_labels, with_descriptions
from indexer.evaluation_index import EvaluationIndex
from indexer.evaluation_source import EvaluationSettings, EvaluationSource
from indexer.report import Event


@dataclass(frozen=True)
class Evaluated:
    """What came of it. found : the index, opened with every model. left_out : images that could
    not be read or are not there."""

    run: EvaluationRun
    found: EvaluationIndex
    left_out: int = 0


def evaluate_source(
    settings: EvaluationSettings,
    on_event: Callable[[Event], None] | None = None,
    on_texts: Callable[[int, int], None] | None = None,
) -> Evaluated:
    """Encode what is not encoded yet, label every image by all models and prompts, and measure.

    on_event : see ``build_index``. on_texts : see ``ImageIndex.watch_texts``.

    Raises OptionError, SourceError and LabelError for what cannot be evaluated, before anything
    is encoded where that shows already, and as ``keep_index``.
    """
    names = read_class_names(settings.names) if settings.names is not None else {}
    labels = read_labels(settings.labels_file) if settings.labels_file is not None else None
    described = read_labels(settings.descriptions) if settings.descriptions is not None else None
    captions = read_captions(settings.captions) if settings.captions is not None else None
    prompt_choices(("a", "b"), settings.prompts)  # what is wrong with them shows before the work
    source = EvaluationSource(settings, names, any_number=labels is not None)
    known = source.classes()
    if known is not None and labels is not None:
        known = in_classes(known, labels)
    words_from = str(settings.descriptions)
    if known is not None and described is not None:
        with_descriptions(known, described, words_from)
    if settings.fuse and not source.is_indexed:
        _refuse_single(len(set(settings.models)))
    found = source.index(on_event)
    if settings.fuse:
        _refuse_single(len(found.opened))
    for opened in found.opened.values():
        if on_texts is not None:
            opened.watch_texts(on_texts)
    samples, left_out = source.samples(found, labels)
    evaluations: list[Evaluation] = []
    verdict = None
    if samples is not None:
        samples = with_vectors(samples, found.opened)
        if not len(samples):
            raise OptionError("no image is left that has a vector of every model: see --fresh")
        asked = prompt_labels(samples, labels)
        words = None
        if described is not None:
            words = with_descriptions(samples, described, words_from)
        choices = prompt_choices(asked, settings.prompts, settings.context, words)
        evaluations = evaluate_models(found.opened, samples, choices)
        if settings.fuse:
            together, verdict = evaluate_together(found.opened, samples, choices[0])
            evaluations += together
    retrievals = []
    if captions is not None:
        retrievals = evaluate_captions(found.opened, captions)
        left_out += max(len(lost) for _, lost in retrievals)
        if settings.fuse:
            retrievals += [(one, ()) for one in captions_together(found.opened, captions)]
    run = EvaluationRun(
        title=f"How good labels are: {source.told}"
        if evaluations
        else f"How well words find images: {source.told}",
        source=source.path,
        evaluations=tuple(evaluations),
        retrievals=tuple(one for one, _ in retrievals),
        rates=found.rates,
        notes=(
            *(samples.notes if samples is not None else ()),
            *source.notes,
            *dict.fromkeys(note for one, _ in retrievals for note in one.notes),
            *what_models_have_seen(found.opened),
        ),
        verdict=verdict,
    )
    return Evaluated(run, found, left_out)


def _refuse_single(models: int) -> None:
    if models < 2:
        raise OptionError(
            "expected two models or more to fuse, got one: name another --model, or bring it into "
            "an index with 'clipsearch model add' and name that with --index"
        )
