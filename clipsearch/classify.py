"""One label an image, from stored vectors alone: block by block, or as whole columns."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.label_tally import LabelTally
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.records import Classification, LabelSummary
from clipsearch.scoring import LabelScorer, ScoredBlock, score_blocks
from clipsearch.searching import sample_rows
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextCounts, TextVectors

_FEW_LABELS = 64  # their products take no longer than reading the images does
_WORTH_ROUNDING = 1.5  # the candidates of rounded products have to be scored again
_COLUMNS = ("ids", "labels", "scores", "probabilities", "margins", "runners_up")


class Labelling:
    """Images being labelled: iterate once over its ``ScoredBlock``s, in order of id.

    Memory does not grow with the number of images. Once all blocks have passed, ``summary``
    tells what became of the labels.

    label_names : the C labels, in the order asked. top : how many each image gets.
    texts : prompts that took the encoder, and prompts that were remembered.
    seconds : how long it has taken so far, with what whoever iterates does with the blocks:
    the next ones are scored meanwhile.
    """

    def __init__(
        self, label_names: Sequence[str], top: int, texts: TextCounts, blocks: Iterable[ScoredBlock]
    ) -> None:
        self.label_names = tuple(label_names)
        self.top = top
        self.texts = texts
        self.seconds = 0.0
        self._blocks = blocks
        self._tally = LabelTally(self.label_names)

    def __iter__(self) -> Iterator[ScoredBlock]:
        begin = time.perf_counter()
        for block in self._blocks:
            self._tally.add(block.ids, block.labels[:, 0], block.probabilities[:, 0])
            self.seconds = time.perf_counter() - begin
            yield block
        self.seconds = time.perf_counter() - begin

    @property
    def images(self) -> int:
        """How many images were labelled so far."""
        return self._tally.images

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
        return Classification(
            label_names=self.label_names,
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
) -> Labelling:
    """Give every image, or those of the rising ids ``allowed``, its best ``top`` labels.

    labels, templates, context, fast : see ``ImageIndex.classify``, which also says what is
    raised: here, before the first block is asked for.
    """
    names = check_labels(labels)
    top = max(1, min(top, len(names)))
    classes = class_vectors(names, texts, templates, context)
    scorer = _fast_scorer(state, classes, top) if fast else None
    scorer = scorer or LabelScorer(classes, state.space.logit_scale, top)
    images = len(state.vectors) if allowed is None else len(allowed)
    blocks = score_blocks(state.vectors.live_pieces(allowed), scorer, images)
    return Labelling(names, top, texts.total, blocks)


def _fast_scorer(state: Generation, classes: Float32, top: int) -> LabelScorer | None:
    """A scorer of bfloat16 products where they are faster, else None."""
    typical = sample_rows(state)
    if len(classes) < _FEW_LABELS or not len(typical):
        return None
    from clipsearch.bfloat_scoring import BfloatScorer, bfloat16_gain

    if bfloat16_gain(*classes.shape[::-1]) < _WORTH_ROUNDING:
        return None
    return BfloatScorer(classes, state.space.logit_scale, top, typical=typical)
