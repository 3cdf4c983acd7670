"""A query: weighted terms of text, image, vector or indexed image, summed to one vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import QueryError


@dataclass(frozen=True)
class Term:
    """One part of a query: a unit (dim,) float32 vector and its weight (negative repels)."""

    vector: Float32
    weight: float = 1.0


def text_term(text: str, encode: Callable[[Sequence[str]], Float32], weight: float = 1.0) -> Term:
    """The term of some words; QueryError when there are none."""
    words = " ".join(text.split())
    if not words:
        raise QueryError('the query is empty: say what to look for, such as "a dog on a beach"')
    return Term(encode([words])[0], weight)


def vector_term(vector: object, dim: int, weight: float = 1.0) -> Term:
    """The term of a vector of the caller's; it is brought to unit length."""
    try:
        values = np.asarray(vector, np.float64)
    except (TypeError, ValueError) as error:
        raise QueryError(f"expected a vector of {dim} numbers ({error})") from error
    if values.shape != (dim,):
        raise QueryError(f"expected a vector of {dim} numbers, got shape {values.shape}")
    largest = float(np.abs(values).max())
    if not np.isfinite(largest) or largest == 0.0:
        raise QueryError("a query vector must be finite and not all zero")
    values = values / largest  # the squares of very large or tiny numbers leave the range
    return Term((values / np.linalg.norm(values)).astype(np.float32), weight)


def combine(terms: Sequence[Term]) -> Float32:
    """The (dim,) float32 unit vector of a query: the weighted sum of its terms.

    QueryError when there is no term, a weight is not finite, or the terms cancel out.
    """
    if not terms:
        raise QueryError("the query is empty: give words, an image or a vector")
    weights = sum(abs(term.weight) for term in terms)
    if not np.isfinite(weights):
        raise QueryError("the weight of a part of the query is not a finite number")
    total = np.zeros_like(terms[0].vector, dtype=np.float64)
    for term in terms:
        total += term.weight * term.vector.astype(np.float64)
    length = float(np.linalg.norm(total))
    if length <= 1e-6 * weights:
        raise QueryError("the parts of the query cancel each other out")
    return (total / length).astype(np.float32)
