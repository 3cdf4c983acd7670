"""Images ranked by several encoders together.

An encoder's cosines to a query are brought to one measure, standard deviations above their mean
over the collection (the z-norm by which speaker and image retrieval fuse systems; Jain,
Nandakumar & Ross, "Score normalization in multimodal biometric systems", Pattern Recognition
2005), and averaged with the weights. The mean is put into standard deviations again, so that an
image that one of the encoders has not seen can be compared with those that all have.

Every vector of every space is scored, as ``exact_search`` does for one: roughly in float32, which
also gives means and deviations, then those that may be among the best again in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32, Space
from clipsearch.errors import QueryError
from clipsearch.exact_search import RowScan, contenders, slack_of
from clipsearch.query import Query
from clipsearch.query_encoders import QueryEncoders
from clipsearch.questions import question_of
from clipsearch.searching import Cut, Question
from clipsearch.shards import Int64

if TYPE_CHECKING:
    from clipsearch.filters import Filter
    from clipsearch.fused_index import Fused

Float64 = npt.NDArray[np.float64]

_SMALLEST_SPREAD = 1e-6  # below it there is none, but for rounding
_FEWEST_WHOLE = 10
_ROUNDING = 1e-4  # of sums of float32 scores of some tens
_DELETED = -1


def fused_question(
    fused: Fused,
    encoders: Callable[[Space], QueryEncoders],
    query: Query,
    *,
    where: Filter | None,
    allowed: Int64 | None,
    strengths: bool,
) -> Question:
    """What ``query`` asks of several spaces of one generation.

    Raises as ``question_of``; QueryError for an indexed image that lacks a vector in one of them.
    """
    asked = [at for at, share in enumerate(fused.shares) if share > 0 or at == 0]
    questions = []
    for place in asked:
        state = fused.states[place]
        _refuse_lacking(fused, place, query)
        questions.append(
            question_of(
                state, encoders(state.space), query,
                where=where, allowed=allowed, strengths=strengths,
            )
        )  # fmt: skip
    first = questions[0]
    vectors = [question.vector for question in questions if question.vector is not None]
    shares = [fused.shares[place] for place in asked]
    ranking = FusedRanking([RowScan(fused.states[at].vectors) for at in asked], vectors, shares)
    return Question(
        vector=first.vector,
        allowed=allowed,
        without=frozenset().union(*(question.without for question in questions)),
        cut=_cut([question.cut for question in questions], ranking),
        sort=query.sort,
        collapse=query.collapse,
        where=where,
        ranking=ranking,
    )


def _refuse_lacking(fused: Fused, place: int, query: Query) -> None:
    """An indexed image that is named by its id is a query in all spaces, or in none."""
    state = fused.states[place]
    for part in (*query.like, *query.unlike):
        image = part[0] if isinstance(part, tuple) else part
        if place == 0 or not isinstance(image, int | np.integer):
            continue
        known = len(fused.first.vectors.take_half([int(image)])[0])
        if known and not len(state.vectors.take_half([int(image)])[0]):
            raise QueryError(
                f"image {image} has no vector of {state.space.model}: 'clipsearch index' encodes "
                "it when its file is there"
            )


def _cut(cuts: Sequence[Cut | None], ranking: FusedRanking) -> Cut | None:
    """What hits must reach: a number their score, else the mean of what each space says."""
    first = cuts[0]
    if first is None or first.standardise is None:
        return first
    tells = [cut.standardise for cut in cuts if cut is not None and cut.standardise is not None]

    def standardise(ids: Int64, scores: Float32) -> Float32:
        cosines = ranking.cosines_of(ids)
        standings = [tell(ids, own) for tell, own in zip(tells, cosines, strict=True)]
        return ranking.mean(np.stack(standings))

    return Cut(automatic=first.automatic, standardise=standardise, cuts=first.cuts)


class FusedRanking:
    """Ranks the images of the first of several spaces by all of them: ``searching.Ranking``.

    scans : the vectors of each. queries : (dim,) float32 unit vector of each. shares : what each
    counts, 1 in all. An image that lacks a vector in a space is ranked by the others; one that
    lacks all of those that count, by the first space.
    """

    def __init__(
        self, scans: Sequence[RowScan], queries: Sequence[Float32], shares: Sequence[float]
    ) -> None:
        self._scans, self._queries = tuple(scans), tuple(queries)
        self._shares = np.array(shares, np.float64)
        self._ids = scans[0].vectors.ids
        self._is_aligned = [np.array_equal(scan.vectors.ids, self._ids) for scan in scans]

    def best(self, count: int, allowed: Int64 | None) -> tuple[Float32, Float32, Int64]:
        """See ``searching.Ranking``; scores are standard deviations above the mean of the
        collection, the cosines those in the first space. Equals go by id."""
        rough, measure = self._rough
        if allowed is None:
            rows = contenders(rough, count, measure.slack)
        else:
            rows, _ = self._scans[0].live_rows(allowed)
            rows = rows[contenders(rough[rows], count, measure.slack)]
        cosines = self._cosines(rows)
        scores = measure.scores(cosines)
        order = np.lexsort((rows, -scores))[:count]
        return (
            scores[order].astype(np.float32),
            cosines[0, order].astype(np.float32),
            self._ids[rows[order]],
        )

    def cosines_of(self, ids: Int64) -> Float32:
        """(spaces, n) float32 cosines of (n,) ids of the first space, in any order; nan where one
        lacks a vector."""
        wanted, places = np.unique(ids, return_inverse=True)
        return self._cosines(np.searchsorted(self._ids, wanted))[:, places].astype(np.float32)

    def mean(self, values: Float32) -> Float32:
        """(spaces, n) values, nan where there is none -> their (n,) means by the shares."""
        means = np.empty(values.shape[1], np.float32)
        kinds = _kinds(values, self._shares)
        for kind in _different(kinds):
            rows = kinds == kind
            means[rows] = _weighted(values[:, rows], _shares_of(kind, self._shares))
        return means

    def _cosines(self, rows: Int64) -> Float64:
        """(spaces, n) float64 cosines of (n,) rising rows of the first space."""
        cosines = np.full((len(self._scans), len(rows)), np.nan)
        for place, (scan, query) in enumerate(zip(self._scans, self._queries, strict=True)):
            if self._is_aligned[place]:
                cosines[place] = scan.scores(rows, query)
            else:
                own, here = scan.live_rows(self._ids[rows])
                cosines[place, here] = scan.scores(own, query)
        return cosines

    @functools.cached_property
    def _rough(self) -> tuple[Float32, _Measure]:
        """(n,) float32 scores of the rows of the first space, -inf where one is deleted, and what
        they are measured by."""
        planes: list[Float32] = []
        means, spreads = np.zeros(len(self._scans)), np.ones(len(self._scans))
        for place, (scan, query) in enumerate(zip(self._scans, self._queries, strict=True)):
            products = scan.products(query)
            there = products[products > -np.inf]
            if len(there):
                means[place] = there.mean(dtype=np.float64)
                spreads[place] = _divisor(there)
            planes.append(self._in_first(place, products))
        slacks = np.array([float(slack_of(query)) for query in self._queries])
        kinds = _kinds(planes, self._shares)
        kinds[planes[0] == -np.inf] = _DELETED
        whole = np.isfinite(planes).all(axis=0)
        # A few images would say little of how kinds compare.
        is_enough = whole.sum() >= min(_FEWEST_WHOLE, max(1, np.count_nonzero(kinds != _DELETED)))
        measure = _Measure(self._shares, means, spreads, {}, {}, slacks)
        scores = np.full(len(self._ids), -np.inf, np.float32)
        for kind in _different(kinds[kinds != _DELETED]):
            sums = measure.sums(planes, kind)
            if is_enough:
                measure.centres[kind] = float(sums[whole].mean(dtype=np.float64))
                measure.widths[kind] = _divisor(sums[whole])
            rows = kinds == kind
            scores[rows] = measure.standardised(sums[rows], kind)
        return scores, measure

    def _in_first(self, place: int, products: Float32) -> Float32:
        """(n,) products of the rows of the first space; nan where one has none."""
        if self._is_aligned[place]:
            return products
        own, here = self._scans[place].live_rows(self._ids)
        moved = np.full(len(self._ids), np.nan, np.float32)
        moved[here] = products[own]
        return moved


@dataclass(frozen=True)
class _Measure:
    """What the cosines of one query are measured by.

    means, spreads : (spaces,) of each over the collection. centres, widths : by kind, which is a
    bit for each space that an image has, the mean and deviation of what the spaces come to, over
    the images that have all of them; empty where these are too few. slacks : (spaces,) how far a
    float32 product may be off.
    """

    shares: Float64
    means: Float64
    spreads: Float64
    centres: dict[int, float]
    widths: dict[int, float]
    slacks: Float64

    @property
    def slack(self) -> np.float32:
        """How far a float32 score may be off."""
        return np.float32(
            max(
                _ROUNDING + float(_shares_of(kind, self.shares) @ (self.slacks / self.spreads))
                / self.widths.get(kind, 1.0)
                for kind in (*self.widths, 0)
            )
        )  # fmt: skip

    def sums(self, cosines: Sequence[Float32] | Float64, kind: int) -> Any:
        """(n,) means of the standardised cosines of n images, by the shares of their kind."""
        shares = _shares_of(kind, self.shares) / self.spreads
        total = _weighted(cosines, shares)
        total -= total.dtype.type(shares @ self.means)
        return total

    def standardised(self, sums: Float32 | Float64, kind: int) -> Any:
        """Sums in standard deviations above the mean of the collection."""
        return (sums - sums.dtype.type(self.centres.get(kind, 0.0))) / sums.dtype.type(
            self.widths.get(kind, 1.0)
        )

    def scores(self, cosines: Float64) -> Float64:
        """(spaces, n) float64 cosines -> (n,) scores."""
        scores = np.empty(cosines.shape[1], np.float64)
        kinds = _kinds(cosines, self.shares)
        for kind in _different(kinds):
            rows = kinds == kind
            scores[rows] = self.standardised(self.sums(cosines[:, rows], kind), kind)
        return scores


def _divisor(values: Float32) -> float:
    """The standard deviation of some numbers; 1 where they differ by rounding alone, as those of
    one image do, which then stay small."""
    spread = float(values.std(dtype=np.float64))
    return spread if spread > _SMALLEST_SPREAD else 1.0


def _kinds(values: Sequence[Float32] | Float32 | Float64, shares: Float64) -> Int64:
    """(n,) int64, a bit for each space that counts and has a number of an image."""
    kinds = np.zeros(len(values[0]), np.int64)
    for place, (own, share) in enumerate(zip(values, shares, strict=True)):
        if share > 0:
            kinds |= (~np.isnan(own)).astype(np.int64) << place
    return kinds


def _different(kinds: Int64) -> list[int]:
    """The kinds that there are. Sorting them, as ``np.unique`` does, takes far longer."""
    return np.flatnonzero(np.bincount(kinds)).tolist()


def _shares_of(kind: int, shares: Float64) -> Float64:
    """What the spaces of a kind of images count, 1 in all; those without any go by the first."""
    own = np.array([share if kind >> place & 1 else 0.0 for place, share in enumerate(shares)])
    if not own.any():
        own[0] = 1.0
    own /= own.sum()
    return own


def _weighted(values: Sequence[Float32] | Float32 | Float64, weights: Float64) -> Any:
    """(n,) sums of the rows of values that have a weight, in their own precision."""
    total = np.zeros(len(values[0]), values[0].dtype)
    for own, weight in zip(values, weights, strict=True):
        if weight > 0:
            total += own * total.dtype.type(weight)
    return total
