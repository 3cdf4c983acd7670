"""Labels by cluster: images that are alike vote on what they are called.

Two passes over the stored vectors, in blocks. The first sums up every group. In the second

- "decide" gives all members of a group the labels of the group's mean vector: those of the
  highest mean cosine;
- "temper" takes how often each label is right among the *other* members, going by their
  probabilities, for what was known beforehand of an image (Bayes' rule): of two labels that
  fit an image alike the one wins that its likes have.

"temper" pays where a collection shows few of the labels. Where all are there and some are rare
it takes from the rare ones; "decide" pays nowhere that was measured, and with clusters that are
wider than the labels it ruins them: see benchmarks/by_cluster.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from clipsearch.abstaining import OFF, Abstention, abstention, rule_of
from clipsearch.classify import Labelling
from clipsearch.cluster_model import Piece, pieces_of
from clipsearch.clusters import Assignment
from clipsearch.errors import LabelError, OptionError
from clipsearch.generation import Generation
from clipsearch.label_groups import GivenGroups, Groups, label_groups
from clipsearch.label_set_files import CLASSIFY, LabelRows, LabelSet, NoneRule
from clipsearch.label_set_saving import new_label_set, save_label_set
from clipsearch.label_tree import refuse_tree
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.scoring import Rows, ScoredBlock
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextVectors
from clipsearch.threads import in_order, single_threaded_blas
from clipsearch.vote_scoring import DECIDE, TEMPER, Decided, GroupCount, Tempered, VotedBlock

VOTES = (DECIDE, TEMPER)

GROUP_IMAGES = {DECIDE: 5, TEMPER: 20}
"""About how many images vote together, unless clusters are given: those that one label decides
for must be of one kind, those that only temper may be more; see benchmarks/by_cluster.py."""

Progress = Callable[[str, int, int], None]


class VotedLabelling(Labelling):
    """A ``Labelling`` by cluster. Iterate over it to the end; then ``save`` may follow.

    groups : how many voted. seconds : with the first pass. overruled : how many images, so far,
    have another label than they would have alone.
    """

    def __init__(
        self,
        label_names: Sequence[str],
        top: int,
        texts: TextVectors,
        groups: int,
        blocks: Iterator[tuple[VotedBlock, int]],
        saved: tuple[Path, LabelSet] | None,
        seconds: float,
        abstention: Abstention | None = None,
    ) -> None:
        super().__init__(label_names, top, texts.total, self._counted(blocks), abstention)
        self.groups = groups
        self.overruled = 0
        self._saved = saved
        self._counting = seconds
        self._rows: list[LabelRows] = []

    def __iter__(self) -> Iterator[ScoredBlock]:
        for block in super().__iter__():
            self.seconds += self._counting
            yield block
        self.seconds += self._counting

    def _counted(self, blocks: Iterator[tuple[VotedBlock, int]]) -> Iterator[ScoredBlock]:
        for block, overruled in blocks:
            self.overruled += overruled
            if self._saved is not None:
                given = block if self.abstention is None else self.abstention.unlabelled(block)
                self._rows.append(
                    LabelRows(
                        block.ids,
                        given.labels[:, 0].copy(),
                        block.scores[:, 0].copy(),
                        block.probabilities[:, 0].copy(),
                    )
                )
            yield block

    def save(self) -> LabelSet:
        """Save every image's label, over what had the set's name. Nothing is remembered to go
        on from: whoever classifies with the set next scores every image.

        Raises as ``save_label_set``; ValueError when it is not to be saved.
        """
        if self._saved is None:
            raise ValueError("expected a labelling that was begun with save_as")
        rows = [LabelRows(*map(np.empty, (0,) * 4, (np.int64, np.int32, np.float32, np.float32)))]
        columns = [
            np.concatenate([getattr(part, name) for part in rows + self._rows])
            for name in ("ids", "labels", "scores", "second")
        ]
        return save_label_set(*self._saved, LabelRows(*columns))


def classify_by_cluster(
    index: Path,
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    *,
    vote: str,
    clusters: Assignment | None = None,
    top: int = 1,
    allowed: Int64 | None = None,
    save_as: str | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
    none: str | float | NoneRule = OFF,
) -> VotedLabelling:
    """Give every image, or those of the rising ids ``allowed``, the ``top`` labels that it and
    its likes agree on; the first pass is over when this returns.

    vote : one of ``VOTES``. clusters : who votes together, as a discovery has it; images in
    none of its clusters keep their own labels. None for groups of a few images each, found by
    how they look and by what the labels say of them.
    save_as : a name to save the result under, once ``save`` is called; not with ``allowed``.
    none : see ``ImageIndex.classify``; the image itself decides, whatever its likes vote.
    on_progress : called with what is being done, how much of it and of how much.

    Raises OptionError for another vote, LabelError, and the errors of ``load_encoder``.
    """
    if vote not in VOTES:
        raise OptionError(f"expected one of {', '.join(VOTES)}, got {vote!r}")
    if save_as is not None and allowed is not None:
        raise LabelError("a saved label set is of every image: leave out the filter, or save_as")
    names = check_labels(labels)
    refuse_tree(labels, "votes")
    top = max(1, min(top, len(names)))
    classes = class_vectors(labels, texts, templates, context)
    abstains = abstention(state, texts, names, classes, none, allowed)
    saved = None
    if save_as is not None:
        new = new_label_set(state, save_as, CLASSIFY, labels, templates, context)
        rule = rule_of(abstains)
        saved = (index, dataclasses.replace(new, none=rule))
    begin = time.perf_counter()
    tell = on_progress or (lambda stage, done, total: None)
    images = len(state.vectors) if allowed is None else len(allowed)
    scale = state.space.logit_scale
    groups: Groups
    if clusters is not None or not images:
        groups = GivenGroups(clusters or _nobody())
    else:
        tell("Grouping", 0, 0)
        groups = label_groups(
            state.vectors, classes, scale, GROUP_IMAGES[vote], allowed=allowed, seed=seed
        )
    count = GroupCount(groups, classes, scale, vote)
    with single_threaded_blas():
        for done in count.take_in(state.vectors, allowed):
            tell("Voting", done, images)
        kind = Decided if vote == DECIDE else Tempered
        scorer = kind(classes, scale, top, count.sums())
    blocks = voted_blocks(state, scorer, allowed, abstains)
    seconds = time.perf_counter() - begin
    return VotedLabelling(names, top, texts, groups.count, blocks, saved, seconds, abstains)


def _nobody() -> Assignment:
    return Assignment(
        np.empty(0, np.int64), np.empty(0, np.int32),
        np.empty(0, np.float32), np.empty(0, np.float32),
    )  # fmt: skip


class VotedScorer(Protocol):
    """What labels blocks of images, and tells how many have another label than alone. Safe for
    threads."""

    @property
    def block_rows(self) -> int: ...
    def score(self, ids: Int64, rows: Rows) -> tuple[VotedBlock, int]:
        """The labels of images of (n,) ``ids``, whose unit vectors are (n, dim) ``rows``."""
        ...


def voted_blocks(
    state: Generation, scorer: VotedScorer, allowed: Int64 | None, abstains: Abstention | None
) -> Iterator[tuple[VotedBlock, int]]:
    """What a scorer says of all images, or of the rising ids ``allowed``, from several threads;
    and of how far they belong to the labels, where that was asked for."""

    def score(piece: Piece) -> tuple[VotedBlock, int]:
        block, overruled = scorer.score(*piece)
        if abstains is not None:
            block = abstains.told(block, piece[1], plain=False)
        return block, overruled

    with single_threaded_blas():
        pieces = pieces_of(state.vectors, scorer.block_rows, allowed)
        yield from in_order(score, pieces)
