"""Labels that go by the whole collection: ``classify --adapt``.

Where few of the labels are there, an image is likelier to show one of those. How often each is
there is found first (``label_shares``, which also tells when that would do harm: then nothing is
adapted); then every image is labelled from its cosines and half of what those shares say.

What was tried beside it, class means that move towards the images they get, changes accuracy by
two points at the most, and as published (StatA) gains up to three and loses up to seven:
benchmarks/adapt.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from clipsearch.abstaining import OFF, Abstention, abstention, rule_of
from clipsearch.cluster_votes import Progress, VotedLabelling, voted_blocks
from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.label_set_files import CLASSIFY, LabelSet, NoneRule
from clipsearch.label_set_saving import new_label_set
from clipsearch.label_shares import ADAPTED, LabelShares, estimate_shares
from clipsearch.label_tree import refuse_tree
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.scoring import LabelScorer, Rows
from clipsearch.shards import Float16, Int64
from clipsearch.text_vectors import TextVectors
from clipsearch.vote_scoring import VotedBlock


class AdaptedLabelling(VotedLabelling):
    """A ``Labelling`` in which all images vote on how often each label is there. Iterate over it
    to the end; then ``save`` may follow. shares : what was found before the first block."""

    def __init__(
        self,
        label_names: Sequence[str],
        top: int,
        texts: TextVectors,
        shares: LabelShares,
        blocks: Iterator[tuple[VotedBlock, int]],
        saved: tuple[Path, LabelSet] | None,
        seconds: float,
        abstention: Abstention | None = None,
    ) -> None:
        super().__init__(label_names, top, texts, 1, blocks, saved, seconds, abstention)
        self.shares = shares


class AdaptedScorer:
    """Labels of images, by how often each label is there. Safe for threads.

    classes : (C, dim) float32 unit rows. shares : (C,) float64, positive, sum to 1.
    """

    def __init__(self, classes: Float32, logit_scale: float, top: int, shares: LabelShares) -> None:
        self._alone = LabelScorer(classes, logit_scale, top)
        self.block_rows = self._alone.block_rows
        self._shift: Float32 | None = None
        if shares.outcome == ADAPTED:
            self._shift = (shares.log_odds() / logit_scale).astype(np.float32)
            # As one more dimension, in which every image is 1: near ties are told exactly.
            wide = np.concatenate([classes, self._shift[:, None]], axis=1)
            self._adapted = LabelScorer(wide, logit_scale, top)

    def score(self, ids: Int64, rows: Rows) -> tuple[VotedBlock, int]:
        """The labels of some images, and how many would have another alone."""
        block = alone = self._alone.score(ids, rows)
        cosines = block.scores
        if self._shift is not None:
            wide = np.ones((len(rows), rows.shape[1] + 1), np.float32)
            wide[:, :-1] = widen(cast(Float16, rows)) if rows.dtype == np.float16 else rows
            block = self._adapted.score(ids, wide)
            cosines = block.scores - self._shift[block.labels]
        changed = int(np.count_nonzero(block.labels[:, 0] != alone.labels[:, 0]))
        return VotedBlock(**vars(block), cosines=cosines), changed


def classify_adapted(
    index: Path,
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    *,
    top: int = 1,
    allowed: Int64 | None = None,
    save_as: str | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
    none: str | float | NoneRule = OFF,
) -> AdaptedLabelling:
    """Give every image, or those of the rising ids ``allowed``, its best ``top`` labels, given
    how often each is there; that is known when this returns.

    labels, templates, context : see ``ImageIndex.classify``; none too: images that show none of
    the labels are left out when it is found how often each is there, too.
    save_as : a name to save the result under, once ``save`` is called; not with ``allowed``.
    on_progress : called with what is being done, how much of it and of how much.

    Raises LabelError, also for labels with parents or thresholds of their own, OptionError for
    another ``none``, and the errors of ``load_encoder``.
    """
    if save_as is not None and allowed is not None:
        raise LabelError("a saved label set is of every image: leave out the filter, or save_as")
    names = check_labels(labels)
    top = max(1, min(top, len(names)))
    refuse_tree(labels, "adapted labels")
    classes = class_vectors(labels, texts, templates, context)
    abstains = abstention(state, texts, names, classes, none, allowed)
    saved = None
    if save_as is not None:
        new = new_label_set(state, save_as, CLASSIFY, labels, templates, context)
        rule = rule_of(abstains)
        saved = (index, dataclasses.replace(new, none=rule))
    scale = state.space.logit_scale
    begin = time.perf_counter()
    if on_progress is not None:
        on_progress("Looking at what is there", 0, 0)
    shares = estimate_shares(
        state.vectors, classes, scale, none=abstains, allowed=allowed, seed=seed
    )
    blocks = voted_blocks(state, AdaptedScorer(classes, scale, top, shares), allowed, abstains)
    seconds = time.perf_counter() - begin
    return AdaptedLabelling(names, top, texts, shares, blocks, saved, seconds, abstains)
