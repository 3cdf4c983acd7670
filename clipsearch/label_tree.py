"""Labels below labels, and how sure an image's label has to be.

A broad label is as probable as all that is below it together. From the top down an image gets,
of the labels side by side, the most probable one as long as that reaches its threshold: so one
that is a bird for certain and a crane perhaps is a bird, and one that reaches no label at the
top has none. A label below another has to reach ``BELOW_LEAST`` where nothing else is said, one
at the top nothing: as a rule ``abstaining`` tells which images have no label.

A parent of which words, synonyms or descriptions are given stands, too, for others of its kind
than those below it: its own words count beside theirs. See benchmarks/class_names.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.half import widen
from clipsearch.label_definitions import LabelDefinitions, refuse_groups
from clipsearch.records import Int32
from clipsearch.scoring import Rows, ScoredBlock, best_labels
from clipsearch.shards import Float16, Int64

BELOW_LEAST = 0.5
"""The least probability of a label below another, where nothing else is said."""

_NUMBERS_PER_BLOCK = 1 << 19
_LEAST_ROWS, _MOST_ROWS = 16, 4096

Block = TypeVar("Block", bound=ScoredBlock)


def has_tree(labels: Sequence[str]) -> bool:
    """Whether one of the labels is below another."""
    return isinstance(labels, LabelDefinitions) and labels.has_tree


def refuse_tree(labels: Sequence[str], who: str) -> None:
    """LabelError where labels have parents, thresholds or groups, of which ``who`` ("votes",
    say) know nothing."""
    refuse_groups(labels)
    if isinstance(labels, LabelDefinitions) and (labels.has_tree or labels.has_thresholds):
        raise LabelError(
            f"{who} know nothing of parents and thresholds: leave them out of the labels' file, or "
            "label without"
        )


def least_probabilities(labels: Sequence[str]) -> Float32 | None:
    """(C,) what each label has to reach where none is below another; None where there are no
    thresholds, or a ``TreeScorer`` sees to them."""
    if not isinstance(labels, LabelDefinitions) or labels.has_tree or not labels.has_thresholds:
        return None
    return _least(labels)


def reached(block: Block, least: Float32) -> Block:
    """A block with no label where the best one's probability is below what it has to reach; such
    an image's runner-up is that label."""
    first = block.labels[:, 0]
    falls_short = (first >= 0) & (block.probabilities[:, 0] < least[first])
    if not falls_short.any():
        return block
    labels, nearest = block.labels.copy(), block.runners_up.copy()
    nearest[falls_short] = first[falls_short]
    labels[falls_short] = -1
    return dataclasses.replace(block, labels=labels, runners_up=nearest)


class TreeScorer:
    """Scores blocks of images against labels some of which are below others. Safe for threads.

    labels : C of them. classes : (C, dim) their class vectors, of which those count that nothing
    is below, and those of parents of which words are given. logit_scale : probabilities are
    softmax(logit_scale * cosine) over these, and sums of them.
    top : how many labels to keep of each image: after the one it gets the best that are neither
    above nor below it, as many as there are.

    The score of a label is its cosine, that of a parent log(sum of exp(logit_scale * score) of
    what is below it) / logit_scale; a label's probability is exp(-log_sum) as in ``ScoredBlock``.
    """

    def __init__(
        self, labels: LabelDefinitions, classes: Float32, logit_scale: float, top: int = 1
    ) -> None:
        self._scale, self._top = np.float32(logit_scale), top
        self._columns = np.array(_columns(labels), np.int32)
        self._matrix = np.ascontiguousarray(classes[self._columns].T)
        self._least = _least(labels)
        self._lines = labels.lines
        self._inner = np.array(sorted({up for line in self._lines for up in line[1:]}), np.int32)
        is_inner = np.zeros(len(labels), bool)
        is_inner[self._inner] = True
        self._bare = np.flatnonzero(~is_inner[self._columns])  # columns that nothing is below
        self._column_of = np.full(len(labels), -1, np.int32)
        self._column_of[self._columns[self._bare]] = self._bare
        ends: dict[int, list[int]] = {}
        for column, label in enumerate(self._columns.tolist()):
            for above in self._lines[label]:
                ends.setdefault(above, [column, column])[1] = column + 1
        # Columns of one label follow each other, so that its probability is a sum of neighbours.
        self._ends = np.array([end for label in self._inner.tolist() for end in ends[label]])
        self._steps = _steps(labels)
        self._hidden, self._starts = self._hidden_columns()
        self.block_rows = max(_LEAST_ROWS, min(_MOST_ROWS, _NUMBERS_PER_BLOCK // len(labels)))
        self.products = self._matrix.size

    def score(self, ids: Int64, rows: Rows) -> ScoredBlock:
        """The labels of images of (n,) ``ids``, whose unit vectors are (n, dim) ``rows``."""
        wide = widen(cast(Float16, rows)) if rows.dtype == np.float16 else cast(Float32, rows)
        cosines = wide @ self._matrix
        best = cosines.max(axis=1, keepdims=True)
        padded = np.zeros((len(ids), cosines.shape[1] + 1), np.float32)  # a sum may end there
        odds = padded[:, :-1]
        np.subtract(cosines, best, out=odds)
        odds *= self._scale
        np.exp(odds, out=odds)
        sums = odds.sum(axis=1, keepdims=True)
        odds /= sums
        every = np.empty((len(ids), len(self._least)), np.float32)
        every[:, self._columns[self._bare]] = odds[:, self._bare]
        every[:, self._inner] = np.minimum(np.add.reduceat(padded, self._ends, axis=1)[:, ::2], 1)
        given, nearest = self._descend(every)
        chosen = np.where(given >= 0, given, nearest)
        images = np.arange(len(ids))
        first = every[images, chosen]
        log_sums = -np.log(first)
        scores = np.empty((len(ids), self._top), np.float32)
        labels = np.full((len(ids), self._top), -1, np.int32)
        chances = np.zeros((len(ids), self._top), np.float32)
        column = self._column_of[chosen]
        soft = best[:, 0] + (np.log(sums[:, 0]) - log_sums) / self._scale
        scores[:, 0] = np.where(column >= 0, cosines[images, column], soft)
        labels[:, 0], chances[:, 0] = chosen, first
        others, their = self._others(chosen, cosines)
        ranks = min(self._top - 1, others.shape[1])
        is_there = others >= 0
        labels[:, 1 : 1 + ranks] = others[:, :ranks]
        scores[:, 1 + ranks :] = -np.inf
        scores[:, 1 : 1 + ranks] = their[:, :ranks]
        chances[:, 1 : 1 + ranks] = np.exp(self._scale * (their[:, :ranks] - best)) / sums
        runners_up = np.where(is_there[:, 0], others[:, 0], -1).astype(np.int32)
        runners_up[given < 0] = nearest[given < 0]
        labels[given < 0] = -1
        return ScoredBlock(
            ids=ids,
            labels=labels,
            scores=scores,
            probabilities=chances,
            margins=np.where(is_there[:, 0], scores[:, 0] - their[:, 0], np.float32(np.nan)),
            runners_up=runners_up,
            log_sums=log_sums,
        )

    def _descend(self, every: Float32) -> tuple[Int32, Int32]:
        """(n,) what each image is called, -1 for nothing; and (n,) the most probable label at the
        top. every : (n, C) probabilities."""
        given = np.full(len(every), -1, np.int32)
        nearest = given
        for above, below in self._steps:
            here = np.flatnonzero(given == above)
            odds = every[np.ix_(here, below)]
            best = odds.argmax(axis=1)
            found = below[best]
            if above < 0:
                nearest = found
            is_enough = odds[np.arange(len(here)), best] >= self._least[found]
            given[here[is_enough]] = found[is_enough]
        return given, nearest

    def _others(self, chosen: Int32, cosines: Float32) -> tuple[Int32, Float32]:
        """The best labels that are neither above nor below those ``chosen``, best first: (n, k)
        labels, -1 where there are no more, and their cosines."""
        left = cosines.copy()
        counts = self._starts[chosen + 1] - self._starts[chosen]
        ends = np.cumsum(counts)
        places = np.repeat(self._starts[chosen] - (ends - counts), counts) + np.arange(counts.sum())
        left[np.repeat(np.arange(len(chosen)), counts), self._hidden[places]] = -np.inf
        ranked, scores = best_labels(left, min(left.shape[1], max(1, self._top - 1)))
        found: Int32 = np.where(scores > -np.inf, self._columns[ranked], -1).astype(np.int32)
        return found, scores

    def _hidden_columns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of each label the columns of what is above and below it and of itself, one after the
        other, and where they start."""
        hidden: list[list[int]] = [[] for _ in self._lines]
        own = {label: column for column, label in enumerate(self._columns.tolist())}
        for label, line in enumerate(self._lines):
            for above in line:
                if label in own:
                    hidden[above].append(own[label])
                if above in own and above != label:
                    hidden[label].append(own[above])
        starts = np.cumsum([0, *map(len, hidden)], dtype=np.int64)
        return np.array([column for row in hidden for column in row], np.int64), starts


def _columns(labels: LabelDefinitions) -> list[int]:
    """The labels that have columns, all that are below a label one after the other."""
    below = {above: down.tolist() for above, down in _steps(labels)}
    columns = []
    waiting = below[-1][::-1]
    while waiting:
        place = waiting.pop()
        item = labels.definitions[place]
        if place not in below or item.words or item.synonyms or item.descriptions:
            columns.append(place)
        waiting += below.get(place, [])[::-1]
    return columns


def _least(labels: LabelDefinitions) -> Float32:
    usual = (0.0 if parent < 0 else BELOW_LEAST for parent in labels.parents)
    given = (item.threshold for item in labels.definitions)
    return np.array(
        [least if asked is None else asked for asked, least in zip(given, usual, strict=True)],
        np.float32,
    )


def _steps(labels: LabelDefinitions) -> list[tuple[int, Int32]]:
    """From the top down: a label, -1 for what is above all, and the labels right below it."""
    below: dict[int, list[int]] = {}
    for place, parent in enumerate(labels.parents):
        below.setdefault(parent, []).append(place)
    steps: list[tuple[int, Int32]] = []
    edge = [-1]
    while edge:
        steps += [(label, np.array(below[label], np.int32)) for label in edge]
        edge = [down for label in edge for down in below[label] if down in below]
    return steps
