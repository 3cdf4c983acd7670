"""Classifying beside a saved label set: by what it remembers, and so that it remembers.

A set that was saved for the same space, templates and context answers for all that has not
changed since (``label_deltas``); any other set, and none, means that every image is scored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.abstaining import OFF, AbstainingScorer, Abstention, abstention, rule_of
from clipsearch.best_rows import BEST, best_rows
from clipsearch.classify import Labelling
from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, IndexReadError, LabelError
from clipsearch.generation import Generation
from clipsearch.label_changes import LabelChange, label_change
from clipsearch.label_definitions import (
    LabelDefinitions,
    labels_of_set,
    refuse_groups,
    some_labels,
    wording_keys,
)
from clipsearch.label_deltas import MOST_DRIFT, DeltaPiece, DeltaScorer
from clipsearch.label_scores import RememberedScores
from clipsearch.label_set_files import CLASSIFY, LabelSet, NoneRule
from clipsearch.label_set_saving import new_label_set
from clipsearch.label_set_writer import LabelSetWriter
from clipsearch.label_sets import is_of_space, read_remembered
from clipsearch.label_tally import LabelTally
from clipsearch.label_tree import TreeScorer, has_tree, least_probabilities
from clipsearch.manifest import ShardRef
from clipsearch.prompts import check_labels, class_vectors, resolve_templates
from clipsearch.records import Int32
from clipsearch.scoring import LabelScorer, ScoredBlock, Scorer, score_blocks
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextVectors
from clipsearch.threads import in_order, single_threaded_blas, worker_count

if TYPE_CHECKING:
    from clipsearch.spread_scoring import Spread

_WORTH_THREADS = 1 << 16  # images


class SavedLabelling(Labelling):
    """A ``Labelling`` that goes by what a set remembers, or is to be saved, or both.

    Iterate over it to the end, then ``save``. Use it as a context where it is to be saved: what
    was not saved by its end is removed.

    base : the set it goes by, None where every image is scored. change : from its labels to
    these. images_scored : how many images were scored against all labels so far; the others
    were remembered, and only ``columns_scored`` labels were scored for them.
    """

    def __init__(
        self,
        label_names: Sequence[str],
        top: int,
        texts: TextVectors,
        *,
        base: LabelSet | None,
        change: LabelChange | None,
        writer: LabelSetWriter | None,
        abstention: Abstention | None = None,
        least: Float32 | None = None,
    ) -> None:
        super().__init__(label_names, top, texts.total, (), abstention, least)
        self.base = base
        self.change = change
        self.images_scored = 0
        self.saving_seconds = 0.0
        self._writer = writer
        self._drift = 0.0

    @property
    def columns_scored(self) -> int:
        """How many labels were scored for the images that were remembered."""
        return 0 if self.change is None else self.change.columns

    def save(self) -> LabelSet:
        """Save the set, whole, over what had its name. Every block must have passed.

        Raises as ``LabelSetWriter.commit``; ValueError when it is not to be saved.
        """
        if self._writer is None:
            raise ValueError("expected a labelling that was begun with save_as")
        return self._writer.commit(self._drift)

    def __enter__(self) -> SavedLabelling:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.discard()

    def score_all(
        self,
        state: Generation,
        scorer: Scorer,
        allowed: Int64 | None,
        plain: bool = True,
        spread: Spread | None = None,
    ) -> None:
        """Let the blocks be those of all images, or of the ``allowed``, scored anew. plain : see
        ``Abstention``. spread : who scores them, every image's labels wanted."""
        if self.abstention is not None:
            scorer = AbstainingScorer(scorer, self.abstention, plain)
        images = len(state.vectors) if allowed is None else len(allowed)
        scored: Iterable[ScoredBlock | LabelTally]
        if spread is not None:
            scored = spread.blocks(state, scorer, allowed, self.label_names)
        else:
            scored = score_blocks(state.vectors.live_pieces(allowed), scorer, images)
        self._blocks = self._all_blocks(scored)

    def score_changes(self, state: Generation, scorer: DeltaScorer) -> None:
        """Let the blocks be those that a ``DeltaScorer`` gives."""
        self._blocks = self._changed_blocks(state, scorer)

    def _all_blocks(self, scored: Iterable[ScoredBlock | LabelTally]) -> Iterator[ScoredBlock]:
        for block in scored:
            if isinstance(block, LabelTally):
                raise ValueError("expected every image's labels: what is to be saved has them all")
            self.images_scored += len(block.ids)
            if self._writer is not None:
                begin = time.perf_counter()
                self._writer.add(best_rows(block), self._given(block))
                self._not_scoring(begin)
            yield dataclasses.replace(
                block,
                labels=block.labels[:, : self.top],
                scores=block.scores[:, : self.top],
                probabilities=block.probabilities[:, : self.top],
            )

    def _changed_blocks(self, state: Generation, scorer: DeltaScorer) -> Iterator[ScoredBlock]:
        workers = worker_count() if len(state.vectors.ids) >= _WORTH_THREADS else 1
        scale = state.space.logit_scale

        def score(piece: tuple[Int64, object]) -> tuple[DeltaPiece, ScoredBlock]:
            found = scorer.score(piece)  # type: ignore[arg-type]
            block = found.best.block(self.top, scale)
            if self.abstention is not None and len(block.ids):
                block = self.abstention.told(block, None)
            return found, block

        lost = vague = 0.0
        with single_threaded_blas():
            for piece, block in in_order(score, scorer.pieces(), workers):
                if not len(block.ids):
                    continue
                self.images_scored += piece.scored
                lost, vague = max(lost, piece.lost), max(vague, piece.vague)
                if self._writer is not None:
                    begin = time.perf_counter()
                    self._writer.add(piece.best, self._given(block))
                    self._not_scoring(begin)
                yield block
        self._drift = scorer.drift(lost, vague)

    def _given(self, block: ScoredBlock) -> Int32:
        """(n,) what every image is called, -1 for none of the labels."""
        return self.final(block).labels[:, 0]

    def _not_scoring(self, begin: float) -> None:
        self.saving_seconds += time.perf_counter() - begin


def classify_beside(
    index: Path,
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    *,
    base: str | None = None,
    save_as: str | None = None,
    top: int = 1,
    allowed: Int64 | None = None,
    none: str | float | NoneRule = OFF,
    spread: Spread | None = None,
) -> SavedLabelling:
    """Give every image, or those of the rising ids ``allowed``, its best ``top`` labels, as
    ``classify`` does, from what a saved set remembers as far as that goes.

    labels, templates, context, none : see ``ImageIndex.classify``.
    base : the set to go by, whatever its labels; None for the one that ``save_as`` names, if it
    is there. One of other templates, another context or another model, of ``tag`` or of an
    earlier version has nothing to say, and every image is scored.
    save_as : a name to save the result under, once ``save`` is called; of every image, so not
    with ``allowed``.

    spread : who scores the images in the place of this process: all of them, whatever a set
    remembers.

    Raises LabelError, the errors of ``load_encoder``, and for what is to be saved those of
    ``LabelSetWriter``; for ``base`` those of ``read_label_set``.
    """
    if save_as is not None and allowed is not None:
        raise LabelError("a saved label set is of every image: leave out the filter, or save_as")
    names = check_labels(labels)
    refuse_groups(labels)
    top = max(1, min(top, len(names)))
    # What is remembered of labels does not tell how probable those above them are.
    anew = has_tree(labels) or spread is not None
    found, remembered = (None, None) if anew else _base(index, base, save_as)
    change: LabelChange | None = None
    scale = state.space.logit_scale
    if found is not None and remembered is not None:
        if top <= BEST and _is_alike(found, remembered, state, templates, context):
            before = wording_keys(labels_of_set(found))
            change = label_change(before, wording_keys(labels))
        if change is not None and not change.is_small:
            change = None
    if change is None or remembered is None:
        classes = class_vectors(labels, texts, templates, context)
    else:
        classes = _changed_classes(labels, change, remembered, texts, templates, context)
    kept = max(top, min(BEST, len(names))) if save_as is not None or change is not None else top
    scorer = LabelScorer(classes, scale, kept)
    abstains = abstention(state, texts, names, classes, none, allowed)
    writer: LabelSetWriter | None = None
    if save_as is not None:
        new = dataclasses.replace(
            new_label_set(state, save_as, CLASSIFY, labels, templates, context),
            none=rule_of(abstains),
        )
        shards = tuple(shard.sha256 for shard in _shards(state))
        columns = None if has_tree(labels) else classes
        writer = LabelSetWriter(index, new, len(state.vectors), columns, scale, shards)
    result = SavedLabelling(
        names, top, texts, base=None if change is None else found, change=change, writer=writer,
        abstention=abstains, least=least_probabilities(labels),
    )  # fmt: skip
    if isinstance(labels, LabelDefinitions) and labels.has_tree:
        tree = TreeScorer(labels, classes, scale, top)
        result.score_all(state, tree, allowed, plain=False, spread=spread)
    elif change is None or remembered is None:
        result.score_all(state, scorer, allowed, spread=spread)
    else:
        result.score_changes(
            state,
            DeltaScorer(
                state.vectors, scorer, change, remembered, _unlike(state, remembered),
                top=top, keep_all=save_as is not None, allowed=allowed,
            ),
        )  # fmt: skip
    return result


def _base(
    index: Path, base: str | None, save_as: str | None
) -> tuple[LabelSet | None, RememberedScores | None]:
    if base is not None:
        return read_remembered(index, base)
    # What is to be written over may be damaged, or not there yet.
    with contextlib.suppress(LabelError, IndexFormatError, IndexReadError):
        if save_as is not None:
            return read_remembered(index, save_as)
    return None, None


def _is_alike(
    found: LabelSet,
    remembered: RememberedScores,
    state: Generation,
    templates: str | Sequence[str],
    context: str | None,
) -> bool:
    """Whether the same label has the same scores there and now, near enough to go on from."""
    ref = remembered.ref
    return (
        is_of_space(found, state.space)
        and (ref.dim, ref.logit_scale) == (state.vectors.dim, state.space.logit_scale)
        and found.templates == resolve_templates(templates)
        and (found.context or "").strip() == (context or "").strip()
        and ref.drift <= MOST_DRIFT
    )


def _shards(state: Generation) -> tuple[ShardRef, ...]:
    return state.manifest.embeddings.get(state.space.id, ())


def _unlike(state: Generation, remembered: RememberedScores) -> list[tuple[int, int]]:
    """The first and last id of every shard that was not scored then, as it is now."""
    scored = set(remembered.ref.shards)
    return [
        (shard.first_id, shard.last_id) for shard in _shards(state) if shard.sha256 not in scored
    ]


def _changed_classes(
    labels: Sequence[str],
    change: LabelChange,
    remembered: RememberedScores,
    texts: TextVectors,
    templates: str | Sequence[str],
    context: str | None,
) -> Float32:
    """The class vectors of labels that stay, as they are remembered, and of those that come."""
    classes = np.empty((change.after, remembered.ref.dim), np.float32)
    stays = change.kept[: change.before] >= 0
    classes[change.kept[: change.before][stays]] = remembered.classes[stays]
    if change.added:
        added = some_labels(labels, change.added)
        classes[list(change.added)] = class_vectors(added, texts, templates, context)
    return classes
