"""Scoring a collection somewhere else: cut into parts, carried out by a runner, put together.

What carries the parts out may be threads, processes or a cluster: it takes one function and many
tasks, and gives the results in the order of the tasks, as ``map`` does. What ``classify`` does with
the blocks that come back is what it does with its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from clipsearch.abstaining import AbstainingScorer, Abstention
from clipsearch.background_sums import BackgroundSums
from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.label_parts import Part, PartScorer, part_rows, parts_of, verdict_of
from clipsearch.label_tally import LabelTally
from clipsearch.none_of_these import KnownParts
from clipsearch.scoring import ScoredBlock, Scorer
from clipsearch.shards import Int64
from clipsearch.vector_ranges import VectorRanges, ranges_of
from clipsearch.vectors import Vectors

Result = TypeVar("Result")


class Carry(Protocol):
    """Carries out a function over parts, and gives the results in their order."""

    def __call__(
        self, work: Callable[[Part], Result], parts: Iterable[Part], /
    ) -> Iterator[Result]: ...


@dataclass(frozen=True)
class Spread:
    """How a collection is scored elsewhere.

    carry : what carries the parts out. place : the index, as whoever scores sees it; None for the
    folder in which it is open. workers : how many parts are scored at a time, about.
    rows : whether every image's labels are wanted, not only what they come to.
    rows_a_part : None for what suits the workers. on_progress : hears of images done and of all.
    """

    carry: Carry
    place: str | None = None
    workers: int = 1
    rows: bool = True
    rows_a_part: int | None = None
    on_progress: Callable[[int, int], None] = lambda done, images: None

    def blocks(
        self,
        state: Generation,
        scorer: Scorer,
        allowed: Int64 | None,
        names: Sequence[str],
        abstention: Abstention | None = None,
        least: Float32 | None = None,
    ) -> Generator[ScoredBlock | LabelTally, None, None]:
        """The labels of all images, or of the ``allowed``, in order of id: blocks, or, without
        ``rows``, what final blocks have been counted to.

        names, abstention, least : see ``Labelling``. Raises what ``carry`` raises.
        """
        known: BackgroundSums | None = None
        if isinstance(scorer, AbstainingScorer):
            known = scorer.abstention.known
            scorer = scorer.knowing(KnownParts())
        remembers = known is not None and known.missing > 0
        work = PartScorer(
            self.ranges(state), scorer, verdict_of(names, abstention, least),
            self.rows, remembers,
        )  # fmt: skip
        vectors = state.vectors
        images = len(vectors) if allowed is None else len(allowed)
        rows = self.rows_a_part or part_rows(images, self.workers)
        parts = (_knowing(part, vectors, known) for part in parts_of(vectors, allowed, rows))
        done = 0
        with _closing(self.carry(work, parts)) as results:
            for result in results:
                for ids, sums in result.found:
                    assert known is not None
                    known.add(ids, sums)
                done += result.images
                self.on_progress(done, images)
                if result.tally is not None:
                    yield result.tally
                elif result.block is not None:
                    yield result.block

    def ranges(self, state: Generation) -> VectorRanges:
        """The vectors of a generation, for whoever scores."""
        return ranges_of(state, self.place)

    def over_parts(self, state: Generation, work: Callable[[Part], Result]) -> Iterator[Result]:
        """What ``work`` makes of parts that together are all images, in order. Raises what
        ``carry`` raises."""
        images = len(state.vectors)
        under_way: deque[int] = deque()

        def parts() -> Iterator[Part]:
            rows = self.rows_a_part or part_rows(images, self.workers)
            for part in parts_of(state.vectors, None, rows):
                under_way.append(part.last - part.first - len(part.deleted))
                yield part

        done = 0
        with _closing(self.carry(work, parts())) as results:
            for result in results:
                done += under_way.popleft()
                self.on_progress(done, images)
                yield result


@contextlib.contextmanager
def _closing(results: Iterator[Result]) -> Iterator[Iterator[Result]]:
    """What is under way has ended before anybody goes on."""
    try:
        yield results
    finally:
        if isinstance(results, Generator):
            results.close()


def _knowing(part: Part, vectors: Vectors, known: BackgroundSums | None) -> Part:
    """A part with what is remembered of its images."""
    if known is None:
        return part
    ids = vectors.ids[part.first : part.last]
    if part.allowed is not None:
        ids = ids[np.isin(ids, part.allowed, assume_unique=True)]
    sums = known.of(ids)
    is_known = ~np.isnan(sums)
    if not is_known.any():
        return part
    return dataclasses.replace(part, known=(ids[is_known], sums[is_known]))
