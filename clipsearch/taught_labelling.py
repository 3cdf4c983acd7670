"""Labelling with a set that was taught: confirmed examples beside the class vectors.

The examples are fitted anew each time (``taught_labels``: moments), and every image is scored
again with what came of it; nothing of that is kept but the examples themselves. An image that is
an example has the label that it was given, whatever the others say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.abstaining import OFF, Abstention, rule_of
from clipsearch.classify import Labelling
from clipsearch.conformal import Coverage
from clipsearch.errors import IndexFormatError, IndexReadError, LabelError
from clipsearch.generation import Generation
from clipsearch.label_examples import (
    Example,
    examples_bytes,
    examples_ref,
)
from clipsearch.label_set_files import CLASSIFY, LabelRows, LabelSet, NoneRule
from clipsearch.label_set_saving import (
    labels_lock,
    new_label_set,
    refuse_name,
    write_label_set,
)
from clipsearch.label_sets import read_label_rows, read_label_set
from clipsearch.lessons import Lesson, abstaining, lesson_of
from clipsearch.prompts import same_label
from clipsearch.records import Int32
from clipsearch.scoring import ScoredBlock, Scorer, score_blocks
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextVectors
from clipsearch.vote_scoring import VotedBlock

OTHER, NOT_THERE = -2, -3


@dataclass(frozen=True)
class Before:
    """What images were called before. labels : (n,) int32 positions in the labels that are used
    now, -1 for none of them, OTHER for a label that is not among them."""

    ids: Int64
    labels: Int32

    def of(self, ids: Int64) -> Int32:
        """(m,) what the rising ``ids`` were called, NOT_THERE for an image that was not."""
        places = np.searchsorted(self.ids, ids)
        found = np.full(len(ids), NOT_THERE, np.int32)
        inside = np.flatnonzero(places < len(self.ids))
        same = inside[self.ids[places[inside]] == ids[inside]]
        found[same] = self.labels[places[same]]
        return found

    def counts(self, labels: int) -> Int64:
        """(1 + labels,) how many images had none of them, and each of them."""
        known = self.labels[self.labels >= -1]
        return np.bincount(known + 1, minlength=labels + 1)


class TaughtLabelling(Labelling):
    """A ``Labelling`` by a ``Lesson``. Iterate over it to the end; then ``save`` may follow.

    lesson : what it goes by. compared : how many images so far there were before; changed : how
    many of those have another label now, or none, or one where they had none.
    coverage : what makes label sets, None where nobody asked. in_sets : how many labels there
    were in the label sets so far.
    """

    def __init__(
        self,
        lesson: Lesson,
        top: int,
        texts: TextVectors,
        scorer: Scorer,
        state: Generation,
        allowed: Int64 | None,
        abstention: Abstention | None,
        before: Before | None,
        saving: Saving | None,
        coverage: Coverage | None = None,
    ) -> None:
        images = len(state.vectors) if allowed is None else len(allowed)
        blocks = score_blocks(state.vectors.live_pieces(allowed), scorer, images)
        super().__init__(lesson.labels, top, texts.total, blocks, abstention)
        self.lesson = lesson
        self.compared = self.changed = self.in_sets = 0
        self.coverage = coverage
        self._before = before
        self._saving = saving
        self._rows: list[LabelRows] = []

    def final(self, block: ScoredBlock) -> ScoredBlock:
        block = self.lesson.confirmed.put_into(super().final(block))
        given = block.labels[:, 0]
        if self._before is not None:
            earlier = self._before.of(block.ids)
            self.compared += int(np.count_nonzero(earlier != NOT_THERE))
            self.changed += int(np.count_nonzero((earlier != NOT_THERE) & (earlier != given)))
        if self._saving is not None:
            scores, odds = block.scores[:, 0].copy(), block.probabilities[:, 0].copy()
            self._rows.append(LabelRows(block.ids, given.copy(), scores, odds))
        return block if self.coverage is None else self._covered(block, self.coverage)

    def _covered(self, block: ScoredBlock, coverage: Coverage) -> ScoredBlock:
        """A block with label sets, and no more labels beside them than were asked for."""
        covered = coverage.sets(block.labels, block.probabilities)
        self.in_sets += int(np.count_nonzero(covered >= 0))
        if isinstance(block, VotedBlock):
            block = dataclasses.replace(block, cosines=block.cosines[:, : self.top])
        return dataclasses.replace(
            block,
            labels=block.labels[:, : self.top],
            scores=block.scores[:, : self.top],
            probabilities=block.probabilities[:, : self.top],
            covered=covered,
        )

    def save(self) -> LabelSet:
        """Save every image's label and the examples, over what had the set's name. Nothing else
        is remembered: whoever classifies with the set next scores every image.

        Raises LabelError where another process has saved the set since, which would lose what
        that one was told; IndexLockedError, OSError; ValueError when it is not to be saved.
        """
        if self._saving is None:
            raise ValueError("expected a labelling that was begun with save_as")
        nothing = np.empty(0, np.float32)
        parts = [LabelRows(np.empty(0, np.int64), np.empty(0, np.int32), nothing, nothing)]
        parts += self._rows
        return self._saving.save(
            LabelRows(
                np.concatenate([part.ids for part in parts]),
                np.concatenate([part.labels for part in parts]),
                np.concatenate([part.scores for part in parts]),
                np.concatenate([part.second for part in parts]),
            )
        )


@dataclass(frozen=True)
class Saving:
    """What is to be saved once all images are labelled.

    new : the set. examples : all of them, those that rest too. begun_from : what had the set's
    name when it began, None where nothing had it.
    """

    index: Path
    new: LabelSet
    examples: tuple[Example, ...]
    begun_from: LabelSet | None

    def save(self, rows: LabelRows) -> LabelSet:
        data = examples_bytes(self.examples, self.new.index) if self.examples else None
        teaching = None if data is None else examples_ref(data, len(self.examples))
        new = dataclasses.replace(self.new, teaching=teaching)
        with labels_lock(self.index) as folder:
            there = set_there(self.index, new.name)
            if there != self.begun_from:
                raise LabelError(
                    f"the label set {new.name} was saved by another process meanwhile: nothing "
                    "was changed, run the same command again"
                )
            return write_label_set(self.index, folder, new, rows, data)


def set_there(index: Path, name: str) -> LabelSet | None:
    """The set of a name; None where there is none that can be read."""
    try:
        return read_label_set(index, name)
    except (LabelError, IndexFormatError, IndexReadError):
        return None


def classify_taught(
    index: Path,
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    *,
    examples: Sequence[Example],
    before: Before | None = None,
    save_as: str | None = None,
    top: int = 1,
    allowed: Int64 | None = None,
    none: str | float | NoneRule = OFF,
    coverage: float | None = None,
) -> TaughtLabelling:
    """Give every image, or those of the rising ids ``allowed``, its best ``top`` labels, by what
    some examples teach.

    labels, templates, context, none : see ``ImageIndex.classify``.
    examples : those of labels that are not among ``labels``, and of images that are gone, rest.
    before : what images are called now, to compare with.
    save_as : a name to save the result under, with all examples, once ``save`` is called; of
    every image, so not with ``allowed``.
    coverage : the share of images whose label set is to hold the true label; see ``conformal``.

    Raises LabelError, OptionError as ``coverage_of``, and the errors of ``load_encoder``.
    """
    if save_as is not None and allowed is not None:
        raise LabelError("a saved label set is of every image: leave out the filter, or save_as")
    lesson = lesson_of(state, texts, labels, templates, context, examples)
    top = max(1, min(top, len(lesson.labels)))
    covers = None if coverage is None else lesson.coverage(state, coverage)
    ranked = top if covers is None else max(top, covers.most_labels(len(lesson.labels)))
    scorer, abstains = abstaining(state, texts, lesson, ranked, none, allowed)
    saving: Saving | None = None
    if save_as is not None:
        new = dataclasses.replace(
            new_label_set(state, save_as, CLASSIFY, labels, templates, context),
            none=rule_of(abstains),
        )
        refuse_name(index, new)
        saving = Saving(index, new, tuple(examples), set_there(index, new.name))
    return TaughtLabelling(
        lesson, top, texts, scorer, state, allowed, abstains, before, saving, covers
    )


def labels_before(index: Path, name: str, labels: Sequence[str]) -> Before:
    """What the images of a saved set of ``classify`` are called in it. Raises as
    ``read_label_rows``."""
    label_set, rows = read_label_rows(index, name)
    places = {same_label(label): place for place, label in enumerate(labels)}
    codes = [places.get(same_label(label), OTHER) for label in label_set.labels]
    return Before(rows.ids, np.array([*codes, -1], np.int32)[rows.labels])
