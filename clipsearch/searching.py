"""From a query vector and a filter to hits: candidates, cut-off, folding, order, a page.

Nothing but the open generation is needed here; what encodes and reads files has been done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.cutoff import CutOff
from clipsearch.encoder import Float32
from clipsearch.errors import QueryError
from clipsearch.generation import Generation
from clipsearch.query import Sort
from clipsearch.records import Hit, Hits
from clipsearch.shards import Int64

if TYPE_CHECKING:
    from clipsearch.filters import Filter

SAMPLE_ROWS = 4096
"""How many images stand for the collection where a spread over it is wanted."""

_POOL = 256
_BELOW = 5


@dataclass(frozen=True)
class Cut:
    """What a hit must reach: ``least`` of its score, or where ``automatic`` is given, that of
    its standardised score.

    standardise : ids and scores of images -> (n,) float32 standardised scores.
    cuts : False to tell how strong hits are, and to leave none out.
    """

    least: float = -np.inf
    automatic: CutOff | None = None
    standardise: Callable[[Int64, Float32], Float32] | None = None
    cuts: bool = True

    def standings(self, ids: Int64, scores: Float32) -> Float32:
        """What is compared with the cut-off."""
        return scores if self.standardise is None else self.standardise(ids, scores)

    def passes(self, standings: Float32) -> npt.NDArray[np.bool_]:
        """Which of a query's best images are hits."""
        if self.automatic is not None:
            return self.automatic.passes(standings)
        return standings >= np.float32(self.least)

    def strength_of(self, standing: float) -> str | None:
        """Strong, fair or weak; None without an automatic cut-off."""
        return None if self.automatic is None else self.automatic.strength_of(standing)


class Ranking(Protocol):
    """What ranks images otherwise than by their cosine to the query."""

    def best(self, count: int, allowed: Int64 | None) -> tuple[Float32, Float32, Int64]:
        """(k,) float32 scores, falling, (k,) float32 cosines and (k,) int64 ids of the ``count``
        best images, or of as many as there are, of those of the rising ids ``allowed``."""
        ...


class Nominating(Protocol):
    """What finds the best of those that pass a question's filter elsewhere than in the index."""

    @property
    def kind(self) -> str: ...

    @property
    def images(self) -> int:
        """How many pass."""
        ...

    def search(self, query: Float32, k: int) -> tuple[Float32, Int64]:
        """(dim,) float32 query -> (n,) float32 scores, falling, and (n,) ids: the k best, or as
        many as there are."""
        ...


@dataclass(frozen=True)
class Question:
    """A query made ready for one generation.

    vector : (dim,) float32 unit vector, None to list what passes the filter.
    allowed : rising ids that may come back, None for all. without : ids that may not.
    where : the filter they come from: of several copies the one it asks for is shown.
    ranking : what ranks by something else than the cosine to ``vector``.
    nominating : what searches in place of the index; ``allowed`` is None then, whatever passes.
    """

    vector: Float32 | None
    allowed: Int64 | None
    without: frozenset[int]
    cut: Cut | None
    sort: Sort
    collapse: bool
    where: Filter | None = None
    ranking: Ranking | None = None
    nominating: Nominating | None = None

    @property
    def cuts(self) -> bool:
        """Whether some of what is found may be left out."""
        return self.cut is not None and self.cut.cuts


@dataclass(frozen=True)
class _Ranked:
    """Candidates in order, best first: ids, scores, cosines, what the cut-off looks at (nan where
    nothing is asked), and whether they are all there are."""

    ids: Int64
    scores: Float32
    cosines: Float32
    standings: Float32
    complete: bool

    def rows(self, chosen: slice | npt.NDArray[np.bool_] | Int64) -> _Ranked:
        return _Ranked(
            self.ids[chosen],
            self.scores[chosen],
            self.cosines[chosen],
            self.standings[chosen],
            self.complete,
        )


def sample_rows(state: Generation) -> Float32:
    """(n, dim) float32 vectors spread evenly over the collection, n at most ``SAMPLE_ROWS``."""
    ids = state.vectors.ids
    step = max(1, -(-len(ids) // SAMPLE_ROWS))
    return state.vectors.take(ids[::step])[1]


def answer(
    state: Generation, question: Question, *, k: int | None, offset: int = 0, exact: bool = False
) -> Hits:
    """The hits ``offset`` .. ``offset + k`` of a question; all of them with ``k`` None.

    Raises QueryError for a ``k`` or ``offset`` that makes no sense.
    """
    if k is not None and k < 1:
        raise QueryError(f"k must be 1 or more, got {k}")
    if offset < 0:
        raise QueryError(f"offset must be 0 or more, got {offset}")
    wanted = None if k is None else offset + k
    # Sorting by date asks which image comes first of all that pass, not of the best few.
    if question.sort == "date" and (question.cuts or question.vector is None):
        wanted = None
    ranked, below, folded = _gather(state, question, wanted, exact)
    if question.sort == "date":
        # Without a cut-off every image is a hit: then the page that was asked for is sorted.
        if question.vector is not None and not question.cuts and k is not None:
            ranked, offset = _slice(ranked, offset, k), 0
        ranked = _by_date(state, ranked)
    total = len(ranked.ids) if ranked.complete else None
    page = _slice(ranked, offset, k)
    # What is filtered, or ranked otherwise, is searched exactly, and opens no index file.
    scans = exact or question.allowed is not None or question.ranking is not None
    if question.nominating is not None:
        kind, searched = question.nominating.kind, question.nominating.images
    else:
        kind = "exact" if scans else state.search.kind
        searched = len(state.vectors) if question.allowed is None else len(question.allowed)
    room = _BELOW if k is None else min(_BELOW, max(0, k - len(page.ids)))
    return Hits(
        hits=_hits(state, question, page, folded),
        kind=kind,
        searched=searched,
        total=total,
        below=_hits(state, question, _slice(below, 0, room), {}) if room else (),
    )


def _slice(ranked: _Ranked, start: int, count: int | None) -> _Ranked:
    return ranked.rows(slice(start, None if count is None else start + count))


def _gather(
    state: Generation, question: Question, wanted: int | None, exact: bool
) -> tuple[_Ranked, _Ranked, dict[int, tuple[int, ...]]]:
    """Those that pass, the next best that do not, and who is folded under whom.

    The pool of candidates grows until enough of it pass, or none of its last half does.
    """
    everything = len(state.vectors.ids)
    pool = everything if wanted is None else wanted + len(question.without)
    if question.cuts or question.collapse:
        pool = max(_POOL, 2 * pool)
    if question.cuts and wanted is None:
        pool = 4096
    while True:
        ranked = _candidates(state, question, min(pool, everything), exact)
        passes = np.ones(len(ranked.ids), bool)
        if question.cut is not None and question.cut.cuts:
            passes = question.cut.passes(ranked.standings)
        spent = question.cuts and not passes[len(passes) // 2 :].any()
        complete = ranked.complete or spent
        if wanted is None and not complete:
            pool *= 4
            continue
        passing, below = ranked.rows(passes), ranked.rows(~passes)
        folded: dict[int, tuple[int, ...]] = {}
        if question.collapse:
            passing, folded = _fold(state, passing)
        if complete or (wanted is not None and len(passing.ids) >= wanted):
            return replace(passing, complete=complete), below, folded
        pool *= 4


def _candidates(state: Generation, question: Question, count: int, exact: bool) -> _Ranked:
    """The ``count`` best, or all that are allowed where nothing is asked."""
    if question.vector is None:
        ids = question.allowed if question.allowed is not None else state.vectors.ids
        if len(state.vectors.deleted):
            ids = np.setdiff1d(ids, state.vectors.deleted, assume_unique=True)
        ids = _without(ids, question.without)
        nothing = np.full(len(ids), np.nan, np.float32)
        return _Ranked(ids, nothing, nothing, nothing, True)
    if question.allowed is not None and not len(question.allowed):
        empty = np.empty(0, np.float32)
        return _Ranked(np.empty(0, np.int64), empty, empty, empty, True)
    if question.ranking is not None:
        scores, cosines, ids = question.ranking.best(max(1, count), question.allowed)
        complete = len(ids) < count or count >= len(state.vectors.ids)
    elif question.nominating is not None:
        scores, ids = question.nominating.search(question.vector, max(1, count))
        cosines = scores
        complete = len(ids) < count or count >= len(state.vectors.ids)
    else:
        found, found_ids = state.search.search(
            question.vector[None], max(1, count), allowed=question.allowed, exact=exact
        )
        ids, real = found_ids[0], found_ids[0] >= 0
        complete = not bool(real.all()) or count >= len(state.vectors.ids)
        ids, scores = ids[real], found[0][real]
        cosines = scores
    if question.without:
        kept = ~np.isin(ids, np.array(sorted(question.without), np.int64))
        ids, scores, cosines = ids[kept], scores[kept], cosines[kept]
    standings = scores if question.cut is None else question.cut.standings(ids, scores)
    return _Ranked(ids, scores, cosines, standings, complete)


def _without(ids: Int64, without: frozenset[int]) -> Int64:
    if not without:
        return ids
    kept: Int64 = ids[~np.isin(ids, np.array(sorted(without), np.int64))]
    return kept


def _fold(state: Generation, ranked: _Ranked) -> tuple[_Ranked, dict[int, tuple[int, ...]]]:
    from clipsearch.duplicates import collapse

    stands_for = collapse(state, ranked.ids)
    folded: dict[int, list[int]] = {}
    for own, best in zip(ranked.ids.tolist(), stands_for.tolist(), strict=True):
        if own != best:
            folded.setdefault(best, []).append(own)
    alone = ranked.rows(stands_for == ranked.ids)
    return alone, {best: tuple(others) for best, others in folded.items()}


def _by_date(state: Generation, ranked: _Ranked) -> _Ranked:
    """Newest first, those without a date last, equals as they were."""
    from clipsearch.metadata_rows import moments_of

    moments, known = moments_of(state, ranked.ids)
    # Without a date: after the oldest. A stable sort keeps equals in their order.
    return ranked.rows(np.lexsort((np.where(known, -moments, 0), ~known)))


def _hits(
    state: Generation,
    question: Question,
    ranked: _Ranked,
    folded: dict[int, tuple[int, ...]],
) -> tuple[Hit, ...]:
    if not len(ranked.ids):
        return ()
    from clipsearch.metadata_rows import dates_of

    taken = dates_of(state, ranked.ids)
    cut = question.cut
    hits: list[Hit] = []
    for row, image_id in enumerate(ranked.ids.tolist()):
        places = state.paths.places(image_id)
        if question.where is not None and len(places) > 1:
            from clipsearch.metadata import asked_places_first

            places = asked_places_first(places, question.where)
        if not places:
            continue
        hits.append(
            Hit(
                id=image_id,
                path=places[0].path,
                score=float(ranked.scores[row]),
                cosine=float(ranked.cosines[row]),
                copies=tuple(place.path for place in places[1:] if not place.missing),
                missing=places[0].missing,
                strength=cut.strength_of(float(ranked.standings[row])) if cut is not None else None,
                taken_at=taken[row],
                folded=folded.get(image_id, ()),
            )
        )
    return tuple(hits)
