"""A query made ready for one generation: one vector, who may answer, and what is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipsearch.background import open_background, text_weights
from clipsearch.cutoff import cut_off
from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.query import Query, Term, balance, combine
from clipsearch.query_encoders import QueryEncoders
from clipsearch.query_terms import query_terms
from clipsearch.searching import Cut, Nominating, Question, sample_rows
from clipsearch.shards import Int64

if TYPE_CHECKING:
    from clipsearch.filters import Filter


def question_of(
    state: Generation,
    encoders: QueryEncoders,
    query: Query,
    *,
    where: Filter | None,
    allowed: Int64 | None,
    strengths: bool,
    nominating: Nominating | None = None,
) -> Question:
    """What ``query`` asks of a generation.

    where : its filter. allowed : the rising ids that may come back, None for all. strengths :
    tell how strong hits are without a cut-off too. nominating : what searches in place of the
    index, ``where`` included.

    Raises QueryError, ImageError, and the errors of ``load_encoder`` for what has to be encoded.
    """
    parts = query_terms(state, encoders, query)
    vector, cut = None, None
    if parts.terms:
        mixed = len({term.is_image for term in parts.terms}) > 1
        terms = balance(parts.terms, sample_rows(state)) if mixed else parts.terms
        vector = combine(terms)
        images = len(state.vectors) if allowed is None else len(allowed)
        if nominating is not None:
            images = nominating.images
        cut = _cut(state, encoders, query, terms, vector, images, strengths)
    return Question(
        vector=vector,
        allowed=allowed,
        without=parts.named,
        cut=cut,
        sort=query.sort,
        collapse=query.collapse,
        where=where,
        nominating=nominating,
    )


def _cut(
    state: Generation,
    encoders: QueryEncoders,
    query: Query,
    terms: Sequence[Term],
    vector: Float32,
    images: int,
    strengths: bool,
) -> Cut | None:
    """What hits of a query over so many images must reach."""
    if isinstance(query.min_score, float):
        return Cut(query.min_score)
    if query.min_score is None and not strengths:
        return None
    background = open_background(state, encoders.texts(state.space))
    with_image = query.vector is not None or any(term.is_image for term in terms)
    weights = text_weights(terms)

    def standardise(ids: Int64, cosines: Float32) -> Float32:
        return background.standardise(vector, ids, cosines, weights=weights, with_image=with_image)

    automatic = cut_off(images, with_image=with_image)
    return Cut(automatic=automatic, standardise=standardise, cuts=query.min_score == "auto")
