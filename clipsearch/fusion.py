"""Several encoders asked together: the labels that all of them find likely.

The fused log-probability of a label is the weighted mean of what the encoders give it, up to what
is the same for all labels of an image: a logarithmic opinion pool (Genest & Zidek, "Combining
Probability Distributions: A Critique and an Annotated Bibliography", Statistical Science 1986).
Before that every encoder's logits are brought to the same spread over the labels, or the one that
exaggerates most would decide alone (``benchmarks/fusion.py``). The spread they are brought to is
the mean of their own, so that a single encoder stays exactly what it is.

The sum of products that comes of it is one product: of the image's vectors behind each other, and
the class vectors of a label behind each other, each by its factor. So whatever scores labels by
cosines scores fused ones too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.records import Int32
from clipsearch.scoring import LabelScorer, Rows, ScoredBlock, Scorer
from clipsearch.searching import sample_rows
from clipsearch.shards import Float16, Int64
from clipsearch.vectors import Vectors

Bools = npt.NDArray[np.bool_]
MakeScorer = Callable[[Float32, float, int], Scorer]
"""From (C, dim) class vectors, a logit scale, and how many labels to keep of an image."""

_SAMPLED = 1024
_ROWS_AT_ONCE = 256
_ROWS_JOINED = 2048  # both halves and the whole find room in a cache
_SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class FusedBlock(ScoredBlock):
    """Labels by several encoders.

    scores : means of the encoders' cosines, weighted by the factors that their spreads and
        weights come to, 1 in all; softmax(fused scale * score) is the probability.
    cosines : (n, top) float32, of the image and the class vectors in the space of the index that
        was asked first; nan where there is no label.
    """

    cosines: Float32


def normalised(weights: Sequence[float]) -> tuple[float, ...]:
    """The weights, 1 in all. Raises OptionError where one is below 0 or not finite, or all are
    0."""
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        told = ", ".join(f"{weight:g}" for weight in weights)
        raise OptionError(f"expected weights from 0 on, got {told}")
    largest = max(weights, default=0.0)
    if not largest > 0:
        raise OptionError("expected a weight above 0, got none: no model would be asked")
    parts = [weight / largest for weight in weights]  # their sum could leave the range
    return tuple(part / sum(parts) for part in parts)


def spread_of_cosines(state: Generation, classes: Float32) -> float:
    """How far an image's cosines to the (C, dim) ``classes`` spread over them: their standard
    deviation, the mean over at most 1,024 images spread evenly over the collection."""
    rows = sample_rows(state)
    rows = rows[:: max(1, len(rows) // _SAMPLED)]
    spreads = [
        (rows[start : start + _ROWS_AT_ONCE] @ classes.T).std(axis=1, dtype=np.float64)
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    return float(np.concatenate(spreads).mean()) if spreads else 0.0


def fused_scorer(
    states: Sequence[Generation],
    classes: Sequence[Float32],
    weights: Sequence[float],
    top: int = 1,
    *,
    cosines: bool = False,
    make: MakeScorer = LabelScorer,
) -> FusedScorer:
    """What labels images by several spaces of one index.

    states : one generation of the index, opened in each space; the vectors that are handed to the
    scorer are those of the first. classes : of each space its (C, dim) class vectors of the same C
    labels. weights : what each space counts, from 0 on; only their proportions matter. top : how
    many labels to keep of each image. cosines : whether to tell them, see ``FusedBlock``.
    make : what scores joined vectors.

    Raises OptionError for weights that make no sense, and where the three differ in number.
    """
    if not len(states) == len(classes) == len(weights) > 0:
        raise OptionError(
            f"expected class vectors and a weight for each of {len(states)} models, got "
            f"{len(classes)} and {len(weights)}"
        )
    shares = normalised(weights)
    spreads = [
        spread_of_cosines(state, rows) if share > 0 else 1.0
        for state, rows, share in zip(states, classes, shares, strict=True)
    ]
    if min(spreads) < _SMALLEST_SPREAD:  # of one label, or no image: nothing to go by
        spreads = [1.0 / state.space.logit_scale for state in states]
    return FusedScorer(states, classes, shares, spreads, top, cosines, make)


class FusedScorer:
    """Scores blocks of images in several spaces. Safe for threads.

    An image that lacks a vector in a space is labelled by the others, with their weights; one
    that lacks all of those that have a weight, by the first space.
    """

    def __init__(
        self,
        states: Sequence[Generation],
        classes: Sequence[Float32],
        shares: Sequence[float],
        spreads: Sequence[float],
        top: int,
        cosines: bool,
        make: MakeScorer,
    ) -> None:
        self._states, self._classes = tuple(states), tuple(classes)
        self._shares, self._spreads = tuple(shares), tuple(spreads)
        self._make, self._top, self._cosines = make, top, cosines
        self._active = tuple(place for place, share in enumerate(shares) if share > 0)
        self._scorers: dict[tuple[int, ...], Scorer] = {}
        whole = self._scorer(self._active)
        self.block_rows = min(whole.block_rows, _ROWS_JOINED)
        self.products = whole.products

    def factors(self, places: Sequence[int]) -> tuple[tuple[float, ...], float]:
        """What the cosines of some spaces are multiplied by, 1 in all, and the logit scale of
        their sum."""
        if len(places) == 1:
            return (1.0,), self._states[places[0]].space.logit_scale
        shares = [self._shares[place] for place in places]
        wide = [self._states[at].space.logit_scale * self._spreads[at] for at in places]
        common = sum(s * w for s, w in zip(shares, wide, strict=True)) / sum(shares)
        per_cosine = [
            common * share / sum(shares) / self._spreads[place]
            for share, place in zip(shares, places, strict=True)
        ]
        scale = sum(per_cosine)
        return tuple(one / scale for one in per_cosine), scale

    def _scorer(self, places: tuple[int, ...]) -> Scorer:
        """What scores images by the vectors of some spaces, one behind the other."""
        known = self._scorers.get(places)
        if known is None:
            factors, scale = self.factors(places)
            parts = [
                np.float32(factor) * self._classes[place]
                for factor, place in zip(factors, places, strict=True)
            ]
            joined = np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)
            known = self._scorers[places] = self._make(joined, scale, self._top)
        return known

    def score(self, ids: Int64, rows: Rows) -> ScoredBlock:
        """The labels of images of (n,) ``ids``, whose unit vectors in the first space are (n,
        dim) ``rows``. A ``FusedBlock`` where cosines are told."""
        of_space: dict[int, tuple[Bools, Rows]] = {0: (np.ones(len(ids), bool), rows)}
        for place in self._active:
            if place > 0:
                of_space[place] = _looked_up(self._states[place], ids)
        # Which of the spaces each image has, as a number with a bit a space.
        has = np.zeros(len(ids), np.int64)
        for place in self._active:
            has |= of_space[place][0].astype(np.int64) << place
        has[has == 0] = 1
        kinds = np.unique(has)
        if len(kinds) == 1:
            block = self._score_alike(int(kinds[0]), ids, of_space, None)
        else:
            block = _put_together(ids, self._parts(kinds, has, ids, of_space))
        if not self._cosines:
            return block
        fields = {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
        return FusedBlock(**fields, cosines=_cosines_of(rows, self._classes[0], block.labels))

    def _parts(
        self,
        kinds: Int64,
        has: Int64,
        ids: Int64,
        of_space: dict[int, tuple[Bools, Rows]],
    ) -> list[tuple[npt.NDArray[np.intp], ScoredBlock]]:
        parts = []
        for kind in kinds.tolist():
            some = np.flatnonzero(has == kind)
            parts.append((some, self._score_alike(kind, ids[some], of_space, some)))
        return parts

    def _score_alike(
        self,
        kind: int,
        ids: Int64,
        of_space: dict[int, tuple[Bools, Rows]],
        some: npt.NDArray[np.intp] | None,
    ) -> ScoredBlock:
        """The labels of images that have the same spaces; some: which of all rows they are."""
        places = tuple(place for place in range(len(self._states)) if kind >> place & 1)
        vectors = [of_space[place][1] for place in places]
        if some is not None:
            vectors = [part[some] for part in vectors]
        joined = vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1)
        return self._scorer(places).score(ids, cast(Rows, joined))


def _looked_up(state: Generation, ids: Int64) -> tuple[Bools, Float16]:
    """(n,) which of the ids, of images that count, have a vector, and (n, dim) fp16 rows, which
    of others say nothing."""
    side_by_side = _slice_of(state.vectors, ids)
    if side_by_side is not None:
        return np.ones(len(ids), bool), side_by_side
    found, rows = state.vectors.take_half(ids)
    if not len(found):
        return np.zeros(len(ids), bool), np.zeros((len(ids), state.vectors.dim), np.float16)
    places = np.minimum(np.searchsorted(found, ids), len(found) - 1)
    return np.asarray(found[places] == ids), rows[places]


def _slice_of(vectors: Vectors, ids: Int64) -> Float16 | None:
    """The rows of ids that lie side by side in one segment, as they are mapped; else None."""
    if not len(ids):
        return None
    first = int(np.searchsorted(vectors.ids, ids[0]))
    last = first + len(ids)
    if not np.array_equal(vectors.ids[first:last], ids):
        return None
    start = 0
    for segment in vectors.segments:
        if start <= first and last <= start + len(segment):
            return segment[first - start : last - start]
        start += len(segment)
    return None


def _put_together(
    ids: Int64, parts: Sequence[tuple[npt.NDArray[np.intp], ScoredBlock]]
) -> ScoredBlock:
    """One block of those of some of its rows each."""
    names = ("labels", "scores", "probabilities", "margins", "runners_up", "log_sums")
    columns = {}
    for name in names:
        first = getattr(parts[0][1], name)
        columns[name] = np.empty((len(ids), *first.shape[1:]), first.dtype)
        for rows, block in parts:
            columns[name][rows] = getattr(block, name)
    return ScoredBlock(ids=ids, **columns)


def _cosines_of(rows: Rows, classes: Float32, labels: Int32) -> Float32:
    """(n, top) float32 cosines of (n, dim) rows to their labels, nan for -1."""
    cosines = np.full(labels.shape, np.nan, np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        own = rows[part]
        wide = widen(cast(Float16, own)) if own.dtype == np.float16 else cast(Float32, own)
        for rank in range(labels.shape[1]):
            here = labels[part, rank]
            products = (wide * classes[np.maximum(here, 0)]).sum(axis=1)
            cosines[part, rank] = np.where(here >= 0, products, np.float32(np.nan))
    return cosines
