"""Both passes of ``tag`` in parts, carried out elsewhere; see ``label_parts``.

Sums come back block by block and are added up in the order of the images: floating-point numbers
added in another order would be others, and with them, now and then, a tag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.label_parts import Part, open_part
from clipsearch.label_set_files import LabelRows
from clipsearch.spread_scoring import Spread
from clipsearch.tag_blocks import in_order_of_id, tag_blocks
from clipsearch.tag_statistics import (
    BlockSums,
    CorpusStatistics,
    RowScale,
    block_sums,
    floor_stride,
    statistics_of,
)
from clipsearch.vector_ranges import VectorRanges


@dataclass(frozen=True)
class SumsOfPart:
    """The first pass over parts. Can be pickled. stride : see ``floor_stride``."""

    vectors: VectorRanges
    classes: Float32
    scale: RowScale
    floor_share: float
    stride: int

    def __call__(self, part: Part) -> tuple[BlockSums, ...]:
        """Raises as ``VectorRanges.open``."""
        blocks = open_part(self.vectors, part).blocks()
        found = tuple(
            block_sums(blocks, self.stride, self.classes, self.scale, self.floor_share, part.before)
        )
        # Of whole numbers the order does not matter: one histogram travels for all.
        for sums in found[1:]:
            found[0].counts[:] += sums.counts
        none = np.zeros(1, np.int64)
        return tuple(
            dataclasses.replace(sums, counts=none) if place else sums
            for place, sums in enumerate(found)
        )


@dataclass(frozen=True)
class TagsOfPart:
    """The second pass over parts. Can be pickled."""

    vectors: VectorRanges
    classes: Float32
    scale: RowScale
    statistics: CorpusStatistics
    limits: tuple[float, ...]
    most: int | None

    def __call__(self, part: Part) -> LabelRows:
        """Raises as ``VectorRanges.open``."""
        blocks = open_part(self.vectors, part).blocks()
        return tag_blocks(blocks, self.classes, self.scale, self.statistics, self.limits, self.most)


def spread_statistics(
    spread: Spread,
    state: Generation,
    classes: Float32,
    scale: RowScale,
    background: Sequence[str],
    floor_share: float,
) -> CorpusStatistics:
    """``corpus_statistics`` of all images. Raises what ``spread`` raises."""
    work = SumsOfPart(
        spread.ranges(state), classes, scale, floor_share, floor_stride(len(state.vectors))
    )

    def each() -> Iterator[BlockSums]:
        for found in spread.over_parts(state, work):
            yield from found

    return statistics_of(each(), len(classes), background, floor_share)


def spread_tags(
    spread: Spread,
    state: Generation,
    classes: Float32,
    scale: RowScale,
    statistics: CorpusStatistics,
    limits: tuple[float, ...],
    most: int | None,
) -> LabelRows:
    """``tag_blocks`` of all images. Raises what ``spread`` raises."""
    work = TagsOfPart(spread.ranges(state), classes, scale, statistics, limits, most)
    return in_order_of_id(list(spread.over_parts(state, work)))
