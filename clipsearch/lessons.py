"""What the confirmed examples of a label set come to, in an index as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.abstaining import AbstainingScorer, Abstention, abstention
from clipsearch.confirmed_labels import ConfirmedLabels
from clipsearch.conformal import Coverage, coverage_of, fair_examples
from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.generation import Generation
from clipsearch.label_examples import GIVEN, Example, UsableExamples, usable_examples
from clipsearch.label_set_files import NoneRule
from clipsearch.label_tree import has_tree, least_probabilities
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.records import Int32
from clipsearch.scoring import LabelScorer, Scorer
from clipsearch.searching import sample_rows
from clipsearch.shards import Int64
from clipsearch.taught_labels import Taught, TaughtScorer, teach
from clipsearch.text_vectors import TextVectors
from clipsearch.threads import single_threaded_blas

MOST_FITTED = 4096
"""Examples that are fitted; of more, as many of every label: the time that a fit takes grows with
them. The others are confirmed all the same."""


@dataclass(frozen=True)
class Lesson:
    """What the examples of a set come to, in an index and with labels as they are now.

    labels : the C labels. classes : (C, dim) float32 class vectors. examples : those that are
    usable. taught : by those at the positions ``fitted``; None without any. confirmed : what the
    images of all are called. least : see ``Labelling``.
    """

    labels: tuple[str, ...]
    classes: Float32
    logit_scale: float
    examples: UsableExamples
    taught: Taught | None
    fitted: Int64
    confirmed: ConfirmedLabels
    least: Float32 | None = None

    def scorer(self, top: int) -> Scorer:
        """What labels images by it; at most as many labels an image as there are."""
        top = max(1, min(top, len(self.labels)))
        if self.taught is None:
            return LabelScorer(self.classes, self.logit_scale, top)
        return TaughtScorer(self.classes, self.logit_scale, self.taught, top)

    def coverage(self, state: Generation, wanted: float) -> Coverage:
        """What makes label sets that hold the true label of so many images, by what is said of
        the examples without them. Raises as ``coverage_of``."""
        fair, is_random = fair_examples([one.chosen for one in self.examples.examples])
        places = np.flatnonzero(fair)
        if len(places) > MOST_FITTED:  # those that are fitted are no fair share of all
            places = np.sort(np.random.default_rng(0).permutation(places)[:MOST_FITTED])
        odds = self._without_them(state, places)
        return coverage_of(odds, self.examples.labels[places], wanted, is_random=is_random)

    def _without_them(self, state: Generation, places: Int64) -> Float32:
        """(m, C) probabilities of the labels of m examples, as they are without each of them:
        those that are not fitted have taught nothing."""
        odds = np.empty((len(places), len(self.labels)), np.float32)
        if self.taught is None:
            return odds
        is_fitted = np.isin(places, self.fitted)
        odds[is_fitted] = self.taught.left_out[np.searchsorted(self.fitted, places[is_fitted])]
        scorer = TaughtScorer(self.classes, self.logit_scale, self.taught)
        start, others = 0, np.flatnonzero(~is_fitted)
        with single_threaded_blas():
            for ids, rows in state.vectors.blocks_of(
                self.examples.ids[places[others]], scorer.block_rows
            ):
                odds[others[start : start + len(ids)]] = scorer.probabilities(rows)
                start += len(ids)
        return odds


def lesson_of(
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    templates: str | Sequence[str],
    context: str | None,
    examples: Sequence[Example],
) -> Lesson:
    """Fit the examples of a set; see ``ImageIndex.classify`` for what makes labels class vectors,
    and for what is raised."""
    names = check_labels(labels)
    if has_tree(labels):
        raise LabelError(
            "labels below other labels cannot be taught: take the parents out of the set with "
            "'clipsearch classify --labels @NAME --remove PARENT --save-as NAME'"
        )
    classes = class_vectors(labels, texts, templates, context)
    usable = usable_examples(state, examples, names)
    scale = state.space.logit_scale
    taught, fitted = None, _spread(usable.labels, MOST_FITTED)
    if len(fitted):
        rows = state.vectors.take(usable.ids[fitted])[1]
        labelled = usable.labels[fitted]
        # What a person shows unasked may be mistakes alone; what was asked about is not.
        given = sum(usable.examples[place].chosen == GIVEN for place in fitted.tolist())
        typical = sample_rows(state) if 2 * given > len(fitted) else None
        taught = teach(classes, scale, rows, labelled, typical=typical)
    confirmed = ConfirmedLabels(usable.ids, usable.labels, _cosines(state, classes, usable))
    least = least_probabilities(labels)
    return Lesson(names, classes, scale, usable, taught, fitted, confirmed, least)


def _spread(labels: Int32, most: int) -> Int64:
    """Positions of at most ``most`` examples, rising: all, or as many of every label as of any,
    as far as it has them, drawn at random and always the same."""
    if len(labels) <= most:
        return np.arange(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        here = np.flatnonzero(labels == label)
        turn[here] = np.random.default_rng(len(here)).permutation(len(here))
    chosen = np.lexsort((np.arange(len(labels)), turn))[:most]
    return np.sort(chosen)


def _cosines(state: Generation, classes: Float32, usable: UsableExamples) -> Float32:
    """(n,) of every example and its label; of none of these, of the label it is nearest to."""
    found = np.empty(len(usable), np.float32)
    start = 0
    for ids, rows in state.vectors.blocks_of(usable.ids):
        part = slice(start, start + len(ids))
        with single_threaded_blas():
            cosines = rows @ classes.T
        own = np.where(usable.labels[part] >= 0, usable.labels[part], cosines.argmax(axis=1))
        found[part] = cosines[np.arange(len(ids)), own]
        start = part.stop
    return found


def abstaining(
    state: Generation,
    texts: TextVectors,
    lesson: Lesson,
    top: int,
    none: str | float | NoneRule,
    allowed: Int64 | None,
) -> tuple[Scorer, Abstention | None]:
    """What labels images by a lesson, and what tells which of them have none of the labels."""
    scorer = lesson.scorer(top)
    abstains = abstention(state, texts, lesson.labels, lesson.classes, none, allowed)
    if abstains is not None:
        scorer = AbstainingScorer(scorer, abstains, plain=lesson.taught is None)
    return scorer, abstains
