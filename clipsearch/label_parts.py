"""A collection cut into parts, and what becomes of the labels of one of them.

A part is scored by whoever can read its vectors: it is told what to do by a ``PartScorer``, which
can be pickled, and gives back every image's labels, or only what there is to count of them.
Parts are cut where ``Vectors.live_pieces`` cuts, so that the very same products are made as by
one process that scores the whole collection: the answer is the same, number for number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.abstaining import AbstainingScorer, Abstention, without_labels
from clipsearch.encoder import Float32
from clipsearch.label_tally import LabelTally
from clipsearch.label_tree import reached
from clipsearch.none_of_these import KnownParts
from clipsearch.scoring import ScoredBlock, Scorer, score_blocks
from clipsearch.shards import Int64
from clipsearch.vector_ranges import VectorRanges
from clipsearch.vectors import BLOCK_ROWS, Vectors

MOST_ROWS = 16 * BLOCK_ROWS
"""Of a part: what waits in memory is some of them, and what is lost with a worker is one."""
_PARTS_EACH = 8  # parts for a worker at least: the slowest one is not waited for long


@dataclass(frozen=True)
class Part:
    """Some images of a collection.

    first, last : rows of its vectors, from and to before. allowed : (a,) rising ids of those that
    are wanted, None for all. deleted : (d,) rising ids of those that no longer count.
    before : how many images that count come before them, where all are wanted.
    known : what is remembered of some of them for "none of these": (k,) rising ids, and sums.
    """

    first: int
    last: int
    allowed: Int64 | None
    deleted: Int64
    before: int = 0
    known: tuple[Int64, Float32] | None = None


@dataclass(frozen=True)
class PartLabels:
    """What became of a part.

    images : how many were labelled. block : the labels of all of them, as a scorer gives them; None
    where they were only counted: ``tally`` then has what the labels come to.
    found : what is to be remembered for "none of these": ids and sums.
    """

    images: int
    block: ScoredBlock | None
    tally: LabelTally | None
    found: tuple[tuple[Int64, Float32], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What makes the labels of a block final.

    names : the labels. threshold : which ``in_set`` has to reach, None where all images have a
    label. least : (C,) what the labels' probabilities have to reach, None for nothing.
    """

    names: tuple[str, ...]
    threshold: float | None = None
    least: Float32 | None = None

    def of(self, block: ScoredBlock) -> ScoredBlock:
        """A block without the labels of images that are to have none."""
        if self.threshold is not None:
            block = without_labels(block, block.in_set, self.threshold)
        return block if self.least is None else reached(block, self.least)


def verdict_of(
    names: Sequence[str], abstention: Abstention | None, least: Float32 | None
) -> Verdict:
    """The same as ``Labelling.final``."""
    threshold = None if abstention is None else abstention.rule.threshold
    return Verdict(tuple(names), threshold, least)


def part_rows(images: int, workers: int) -> int:
    """How many rows a part has: of many images so many that each worker has several."""
    even = images // max(1, workers * _PARTS_EACH)
    return min(MOST_ROWS, max(1, -(-even // BLOCK_ROWS)) * BLOCK_ROWS)


def parts_of(vectors: Vectors, allowed: Int64 | None, rows: int) -> Iterator[Part]:
    """All images, or those of the rising ids ``allowed``, in order, ``rows`` at most in a part."""
    if allowed is not None:
        for start in range(0, len(allowed), rows):
            wanted = allowed[start : start + rows]
            first, last = np.searchsorted(vectors.ids, (wanted[0], wanted[-1] + 1)).tolist()
            if last > first:
                yield Part(first, last, wanted, _deleted(vectors, first, last))
        return
    begin = before = 0
    for segment in vectors.segments:
        end = begin + len(segment)
        for first in range(begin, end, rows):
            last = min(first + rows, end)
            deleted = _deleted(vectors, first, last)
            yield Part(first, last, None, deleted, before)
            before += last - first - len(deleted)
        begin = end


def _deleted(vectors: Vectors, first: int, last: int) -> Int64:
    """Those of the ids from ``first`` to before ``last`` that no longer count."""
    ids = vectors.ids[first:last]
    begin, end = np.searchsorted(vectors.deleted, (ids[0], ids[-1] + 1))
    deleted: Int64 = vectors.deleted[begin:end]
    is_here = ids[np.searchsorted(ids, deleted)] == deleted
    return np.asarray(deleted[is_here], np.int64)


@dataclass(frozen=True)
class PartScorer:
    """Labels parts of one collection. Can be pickled.

    scorer : what labels blocks; an ``AbstainingScorer`` without what it knows of images.
    rows : whether every image's labels are wanted, not only what they come to.
    remembers : whether sums are wanted that were not known.
    """

    vectors: VectorRanges
    scorer: Scorer
    verdict: Verdict
    rows: bool
    remembers: bool = False

    def __call__(self, part: Part) -> PartLabels:
        """Raises as ``VectorRanges.open``."""
        vectors = open_part(self.vectors, part)
        known = KnownParts(part.known)
        scorer = self.scorer
        if isinstance(scorer, AbstainingScorer):
            scorer = scorer.knowing(known)
        tally = None if self.rows else LabelTally(self.verdict.names)
        kept: list[ScoredBlock] = []
        images = 0
        pieces = vectors.live_pieces(part.allowed)
        for block in score_blocks(pieces, scorer, len(vectors)):
            images += len(block.ids)
            if tally is None:
                kept.append(block)
            else:
                final = self.verdict.of(block)
                tally.add(final.ids, final.labels[:, 0], final.probabilities[:, 0])
        if tally is not None:
            tally.settle()
        found = tuple(known.found) if self.remembers else ()
        return PartLabels(images, joined(kept) if kept else None, tally, found)


def open_part(vectors: VectorRanges, part: Part) -> Vectors:
    """The vectors of a part, whose pieces are those of the whole collection. Raises as
    ``VectorRanges.open``."""
    here = vectors.open(part.first, part.last, part.deleted)
    if part.allowed is not None or len(here.segments) == 1:
        return here
    # What is one matrix elsewhere may be many shards here.
    return dataclasses.replace(here, segments=(np.concatenate(here.segments),))


def joined(blocks: Sequence[ScoredBlock]) -> ScoredBlock:
    """Blocks of one scorer, at least one, as one."""
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(blocks[0]):
        parts = [getattr(block, field.name) for block in blocks]
        columns[field.name] = None if parts[0] is None else np.concatenate(parts)
    return type(blocks[0])(**columns)
