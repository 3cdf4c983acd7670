"""Several spaces of one index asked together: which they are, and what each of them counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from clipsearch.encoder import Space
from clipsearch.errors import IndexFormatError, OptionError, QueryError
from clipsearch.fusion import normalised
from clipsearch.generation import Generation, beside
from clipsearch.image_index import ImageIndex
from clipsearch.query import Query, as_filter
from clipsearch.query_encoders import QueryEncoders
from clipsearch.records import Classification, Hits
from clipsearch.searching import answer
from clipsearch.shards import Int64
from clipsearch.spaces import lacking_ids, space_named

if TYPE_CHECKING:
    from clipsearch.classify import Labelling
    from clipsearch.filters import Filter
    from clipsearch.label_set_files import NoneRule

T = TypeVar("T")


@dataclass(frozen=True)
class Fused:
    """One generation of an index, opened in several spaces.

    states : that which the index answers in first. shares : what each counts, 1 in all.
    """

    states: tuple[Generation, ...]
    shares: tuple[float, ...]

    @property
    def first(self) -> Generation:
        """The generation in the space that the index answers in, whose images are asked for."""
        return self.states[0]


@dataclass
class FusedIndex:
    """An index whose questions are answered by several of its spaces together. One object may
    serve many threads.

    index : the images that can be found are those with a vector in the space that it answers in.
    An image that lacks one in another space is judged by the others.
    weights : by the name of a model or space, what it counts, from 0 on; only their proportions
    matter. None for all spaces that have a vector of every image, all the same.

    Making one raises OptionError where there is but one such space, or a weight makes no sense.
    """

    index: ImageIndex
    weights: Mapping[str, float] | None = None
    _opened: Fused | None = field(init=False, repr=False, default=None)
    _encoders: dict[str, QueryEncoders] = field(init=False, repr=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.answered(lambda fused: None)

    def spaces(self) -> list[tuple[Space, float]]:
        """The spaces that are asked, and what each counts, 1 in all."""
        return self.answered(
            lambda fused: [
                (state.space, share)
                for state, share in zip(fused.states, fused.shares, strict=True)
                if share > 0
            ]
        )

    def answered(self, ask: Callable[[Fused], T]) -> T:
        """What ``ask`` answers; asked again of the newest generation where a writer has cleared
        away a table that it wanted to read."""
        while True:
            state = self.index.state()
            try:
                return ask(self._fused(state))
            except IndexFormatError:
                if not self.index.refresh() and self.index.state() is state:
                    raise

    def encoders(self, space: Space) -> QueryEncoders:
        """What encodes questions in one of the spaces."""
        if space.fingerprint == self.index.space.fingerprint:
            return self.index.encoders
        with self._lock:
            known = self._encoders.get(space.fingerprint)
            if known is None:
                kept = self.index.text_cache
                if kept is not None:  # a file holds the texts of one space
                    kept = kept.with_name(f"{kept.stem}-{space.id}{kept.suffix}")
                known = QueryEncoders(None, self.index.device, kept)
                self._encoders[space.fingerprint] = known
            known.on_progress = self.index.encoders.on_progress
            return known

    def search(
        self,
        query: str | Query,
        *,
        k: int | None = 10,
        offset: int = 0,
        strengths: bool = False,
    ) -> Hits:
        """``ImageIndex.search`` by several encoders: exact over all vectors of all spaces.

        A hit's ``score`` is how many standard deviations it is above the mean of the collection,
        by the weighted mean of the encoders' own such scores; ``cosine`` is that in the space
        that the index answers in. A ``min_score`` is compared with the score.

        Raises as that does, QueryError for a vector, which is of one space alone.
        """
        from clipsearch.fused_search import fused_question

        query = Query(query) if isinstance(query, str) else query
        where = query.filter()
        if not query.has_terms:
            raise QueryError("several models can be asked for words or images only: give some")
        if query.vector is not None:
            raise QueryError("a vector is of one model: ask the index itself, without fusing")

        def ask(fused: Fused) -> Hits:
            question = fused_question(
                fused, self.encoders, query,
                where=where, allowed=self._allowed(fused.first, where), strengths=strengths,
            )  # fmt: skip
            return answer(fused.first, question, k=k, offset=offset)

        return self.answered(ask)

    def label(
        self,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] = "simple",
        context: str | None = None,
        top: int = 1,
        where: str | Filter | None = None,
        none: str | float | NoneRule = "auto",
        cosines: bool = False,
    ) -> Labelling:
        """``ImageIndex.label`` by several encoders; see ``fusion``.

        none : which images have none of the labels, as the space that the index answers in says.
        cosines : blocks tell the cosines in that space, too (``fusion.FusedBlock``).
        """
        from clipsearch.fused_labelling import label_fused

        wanted = None if where is None else as_filter(where)
        return self.answered(
            lambda fused: label_fused(
                fused, self.encoders, labels, templates, context,
                top=top, allowed=self._allowed(fused.first, wanted), none=none, cosines=cosines,
            )
        )  # fmt: skip

    def classify(
        self,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] = "simple",
        context: str | None = None,
        top: int = 1,
        where: str | Filter | None = None,
        none: str | float | NoneRule = "auto",
    ) -> Classification:
        """``ImageIndex.classify`` by several encoders: ``label`` as whole columns."""
        labelling = self.label(
            labels, templates=templates, context=context, top=top, where=where, none=none
        )
        return labelling.columns()

    def _allowed(self, state: Generation, where: Filter | None) -> Int64 | None:
        if where is None:
            return None
        from clipsearch.metadata import matching_ids

        return matching_ids(self.index.path, state, where)

    def _fused(self, state: Generation) -> Fused:
        with self._lock:
            if self._opened is None or self._opened.first is not state:
                weights = space_weights(state, self.weights, self.index.path)
                first = weights.pop(state.space.id, 0.0)
                others = [(beside(state, space), share) for space, share in weights.items()]
                self._opened = Fused(
                    (state, *(other for other, _ in others)),
                    (first, *(share for _, share in others)),
                )
            return self._opened


def space_weights(
    state: Generation, weights: Mapping[str, float] | None, place: Path
) -> dict[str, float]:
    """By the id of a space, what it counts, 1 in all: see ``FusedIndex``.

    place : the index, for messages. Raises OptionError.
    """
    manifest = state.manifest
    if len(manifest.spaces) < 2:
        raise OptionError(
            f"the index at {place} has the vectors of one model only, {state.space.model}, so "
            f"there is nothing to fuse: 'clipsearch model add MODEL --index {place}' adds those "
            "of another"
        )
    if weights is not None:
        return _named(state, weights, place)
    whole, lacking = [state.space.id], []
    for space in manifest.spaces.values():
        if space.id == state.space.id:
            continue
        if lacking_ids(state.store, manifest, space.id, state.vectors.deleted):
            lacking.append(space)
        else:
            whole.append(space.id)
    if len(whole) < 2:
        name = lacking[0].model
        raise OptionError(
            f"images have no vector of {name}, so there is nothing to fuse it with: "
            "'clipsearch index' encodes them when their files are there, and --fuse with weights "
            f"({state.space.model}=1,{name}=1) does without them"
        )
    return dict.fromkeys(whole, 1.0 / len(whole))


def _named(state: Generation, weights: Mapping[str, float], place: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    shares = normalised(list(weights.values()))
    for name, share in zip(weights, shares, strict=True):
        space = space_named(state.manifest, name, str(place))
        if space.id in found:
            raise OptionError(f"{name!r} has a weight twice: expected each model once")
        found[space.id] = share
    return {space: share for space, share in found.items() if share > 0}


def fuse(index: ImageIndex, weights: Mapping[str, float] | None = None) -> FusedIndex:
    """Ask several spaces of an index together; see ``FusedIndex``."""
    return FusedIndex(index, weights)
