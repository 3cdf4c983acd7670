"""One label an image, from stored vectors alone: block by block, or as whole columns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.abstaining import OFF, AbstainingScorer, Abstention, abstention
from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.label_definitions import LabelDefinitions, refuse_groups
from clipsearch.label_set_files import NoneRule
from clipsearch.label_tally import LabelTally
from clipsearch.label_tree import TreeScorer, has_tree, least_probabilities, reached
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.records import Classification, LabelSummary
from clipsearch.scoring import LabelScorer, ScoredBlock, Scorer, score_blocks
from clipsearch.searching import sample_rows
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextCounts, TextVectors

if TYPE_CHECKING:
    from clipsearch.spread_scoring import Spread

_FEW_LABELS = 64  # their products take no longer than reading the images does
_WORTH_ROUNDING = 1.5  # the candidates of rounded products have to be scored again
_COLUMNS = ("ids", "labels", "scores", "probabilities", "margins", "runners_up")


class Labelling:
    """Images being labelled: iterate once over its ``ScoredBlock``s, in order of id.

    Memory does not grow with the number of images. Once all blocks have passed, ``summary``
    tells what became of the labels.

    label_names : the C labels, in the order asked. top : how many each image gets.
    blocks : what a scorer says of the images; where only the summary is wanted, what others have
    counted already, which no iteration gives.
    abstention : what tells which images get none, None where all get one.
    least : (C,) what the labels' probabilities have to reach, None where nothing is asked.
    texts : prompts that took the encoder, and prompts that were remembered.
    seconds : how long it has taken so far, with what whoever iterates does with the blocks:
    the next ones are scored meanwhile.
    """

    def __init__(
        self,
        label_names: Sequence[str],
        top: int,
        texts: TextCounts,
        blocks: Iterable[ScoredBlock | LabelTally],
        abstention: Abstention | None = None,
        least: Float32 | None = None,
    ) -> None:
        self.abstention = abstention
        self.least = least
        self.label_names = tuple(label_names)
        self.top = top
        self.texts = texts
        self.seconds = 0.0
        self._blocks = blocks
        self._tally = LabelTally(self.label_names)

    def __iter__(self) -> Iterator[ScoredBlock]:
        begin = time.perf_counter()
        for scored in self._blocks:
            if isinstance(scored, LabelTally):
                self._tally.merge(scored)
                continue
            block = self.final(scored)
            self._tally.add(block.ids, block.labels[:, 0], block.probabilities[:, 0])
            self.seconds = time.perf_counter() - begin
            yield block
        self.seconds = time.perf_counter() - begin

    def final(self, block: ScoredBlock) -> ScoredBlock:
        """A block without the labels of images that are to have none."""
        if self.abstention is not None:
            block = self.abstention.unlabelled(block)
        return block if self.least is None else reached(block, self.least)

    @property
    def images(self) -> int:
        """How many images have passed so far."""
        return self._tally.images

    @property
    def unlabelled(self) -> int:
        """How many of them have none of the labels."""
        return self._tally.unlabelled

    def summary(self) -> list[LabelSummary]:
        """Count, share, best example and histogram of every label so far, most frequent first."""
        return self._tally.summary()

    def columns(self) -> Classification:
        """All blocks as whole columns: some 30 bytes an image."""
        top = self.top
        nothing = ScoredBlock(
            ids=np.empty(0, np.int64),
            labels=np.empty((0, top), np.int32),
            scores=np.empty((0, top), np.float32),
            probabilities=np.empty((0, top), np.float32),
            margins=np.empty(0, np.float32),
            runners_up=np.empty(0, np.int32),
            log_sums=np.empty(0, np.float32),
        )
        blocks = [nothing, *self]
        columns = {
            name: np.concatenate([getattr(block, name) for block in blocks]) for name in _COLUMNS
        }
        in_set = None
        if self.abstention is not None:
            parts = [block.in_set for block in blocks if block.in_set is not None]
            in_set = np.concatenate([np.empty(0, np.float32), *parts])
        return Classification(
            label_names=self.label_names,
            in_set=in_set,
            threshold=None if self.abstention is None else self.abstention.rule.threshold,
            seconds=self.seconds,
            texts_encoded=self.texts.encoded,
            texts_cached=self.texts.cached,
            **columns,
        )


def classify(
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    top: int = 1,
    allowed: Int64 | None = None,
    fast: bool = False,
    none: str | float | NoneRule = OFF,
    spread: Spread | None = None,
) -> Labelling:
    """Give every image, or those of the rising ids ``allowed``, its best ``top`` labels.

    labels, templates, context, fast, none : see ``ImageIndex.classify``, which also says what is
    raised: here, before the first block is asked for.
    spread : who scores the images, in the place of this process.
    """
    names = check_labels(labels)
    refuse_groups(labels)
    top = max(1, min(top, len(names)))
    scale = state.space.logit_scale
    classes = class_vectors(labels, texts, templates, context)
    scorer: Scorer | None
    if isinstance(labels, LabelDefinitions) and labels.has_tree:
        scorer = TreeScorer(labels, classes, scale, top)
    else:
        scorer = _fast_scorer(state, classes, top) if fast else None
    scorer = scorer or LabelScorer(classes, scale, top)
    abstains = abstention(state, texts, names, classes, none, allowed)
    if abstains is not None:
        scorer = AbstainingScorer(scorer, abstains, plain=not has_tree(labels))
    least = least_probabilities(labels)
    blocks: Iterable[ScoredBlock | LabelTally]
    if spread is not None:
        blocks = spread.blocks(state, scorer, allowed, names, abstains, least)
    else:
        images = len(state.vectors) if allowed is None else len(allowed)
        blocks = score_blocks(state.vectors.live_pieces(allowed), scorer, images)
    return Labelling(names, top, texts.total, blocks, abstains, least)


def _fast_scorer(state: Generation, classes: Float32, top: int) -> LabelScorer | None:
    """A scorer of bfloat16 products where they are faster, else None."""
    typical = sample_rows(state)
    if len(classes) < _FEW_LABELS or not len(typical):
        return None
    from clipsearch.bfloat_scoring import BfloatScorer, bfloat16_gain

    if bfloat16_gain(*classes.shape[::-1]) < _WORTH_ROUNDING:
        return None
    return BfloatScorer(classes, state.space.logit_scale, top, typical=typical)
