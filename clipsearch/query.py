"""A query as data, and the terms of text, image and vector that sum to one query vector."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import QueryError

if TYPE_CHECKING:
    from clipsearch.filter_options import FilterOptions
    from clipsearch.filters import Filter

Image = str | os.PathLike[str] | int | bytes
"""An image in a query: its file, the id of an indexed one, or the bytes of a file."""
ImagePart = Image | Float32 | tuple[Image | Float32, float]
"""An image in a query or its vector, with a boost or without."""
Sort = Literal["relevance", "date"]

NOT_WEIGHT = 0.5
"""How much a term that repels counts, beside 1 for one that attracts. A whole one drags the
query away from everything the two have in common (``benchmarks/combining.py``)."""
IMAGE_SPREAD = 0.5
"""In a query of words and images, how far the scores of an image spread over the collection,
beside those of the words. Cosines of two images spread far more than those of a text and an
image: left alone, the image would decide everything (``benchmarks/combining.py``)."""

_BOOST = re.compile(r"(?s)(.*\S)\s*\^\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*")


@dataclass(frozen=True)
class Query:
    """What to look for. Every part is optional, but there must be one.

    text : words. plus, minus : more words that attract or repel, each a text or a pair of
        text and boost. like, unlike : images that attract or repel, each a file, an id or bytes, or
        a pair with a boost; or the (dim,) vector of one that was encoded before. Indexed images
        that are named here are left out of the answer.
    vector : (dim,) numbers in the index's space.
    where : what hits must fulfil: an expression of ``clipsearch.filters``, its tree, or the
        filter options of a command, of which "last week" is the week before the question.
    min_score : leave out lower scores; "auto" asks for a cut-off that fits the query.
    sort : "relevance", or "date" for the newest first.
    collapse : fold near-duplicates under the best of them.
    """

    text: str | None = None
    plus: tuple[str | tuple[str, float], ...] = ()
    minus: tuple[str | tuple[str, float], ...] = ()
    like: tuple[ImagePart, ...] = ()
    unlike: tuple[ImagePart, ...] = ()
    vector: Sequence[float] | Float32 | None = None
    where: str | Filter | FilterOptions | None = None
    min_score: float | Literal["auto"] | None = None
    sort: Sort = "relevance"
    collapse: bool = False

    def __post_init__(self) -> None:
        if self.sort not in ("relevance", "date"):
            raise QueryError(f"sort is 'relevance' or 'date', got {self.sort!r}")
        if not (self.text is None or isinstance(self.text, str)):
            raise QueryError(f"text is a str or None, got {self.text!r}")
        if self.min_score is not None and self.min_score != "auto":
            # NumPy's numbers too, of which float32 is no float.
            number = isinstance(self.min_score, numbers.Real)
            if not number or math.isnan(self.min_score):
                raise QueryError(f"min_score is a number, 'auto' or None, got {self.min_score!r}")
            object.__setattr__(self, "min_score", float(self.min_score))
        for name in ("plus", "minus", "like", "unlike"):
            if not isinstance(getattr(self, name), tuple | list):
                raise QueryError(f"{name} is a sequence of parts, got {getattr(self, name)!r}")

    @property
    def has_terms(self) -> bool:
        """Whether anything is asked for, and not only filtered."""
        return (
            self.text is not None
            or self.vector is not None
            or any((self.plus, self.minus, self.like, self.unlike))
        )

    def filter(self, now: datetime | None = None) -> Filter | None:
        """What ``where`` stands for, relative dates seen from ``now``; raises FilterError."""
        if self.where is None:
            return None
        return as_filter(self.where, now)


@dataclass(frozen=True)
class Term:
    """One part of a query: a unit (dim,) float32 vector and its weight (negative repels)."""

    vector: Float32
    weight: float = 1.0
    is_image: bool = False


def as_filter(where: str | Filter | FilterOptions, now: datetime | None = None) -> Filter | None:
    """The filter that an expression or filter options stand for; None for options of which
    none is set. Raises FilterError."""
    from clipsearch.filter_options import FilterOptions
    from clipsearch.filters import parse_filter

    if isinstance(where, str):
        return parse_filter(where, now)
    return where.to_filter(now) if isinstance(where, FilterOptions) else where


def parse_boost(text: str) -> tuple[str, float]:
    """``"snow^2"`` -> ``("snow", 2.0)``; without a boost at its end the weight is 1.

    QueryError when the boost is not above 0 and finite.
    """
    match = _BOOST.fullmatch(text)
    if match is None:
        return text, 1.0
    try:
        boost = float(match[2])
    except ValueError:
        return text, 1.0
    return match[1], check_boost(boost, text)


def check_boost(boost: float, part: object) -> float:
    """The boost; QueryError when it is not above 0 and finite."""
    if not (isinstance(boost, numbers.Real) and 0 < boost < math.inf):
        raise QueryError(
            f"expected a boost above 0 such as ^2, got {boost} in {part!r}; what is not wanted "
            "goes into --not or --unlike"
        )
    return float(boost)


def weighted_texts(
    parts: Sequence[str | tuple[str, float]],
) -> list[tuple[str, float]]:
    """Texts with their boosts, 1 where none is given."""
    pairs = [(part, 1.0) if isinstance(part, str) else part for part in parts]
    return [(text, check_boost(boost, text)) for text, boost in pairs]


def weighted_images(
    parts: Sequence[ImagePart],
) -> list[tuple[Image | Float32, float]]:
    """Images and their vectors with their boosts, 1 where none is given."""
    pairs = [part if isinstance(part, tuple) else (part, 1.0) for part in parts]
    return [
        (image, check_boost(boost, "a vector" if isinstance(image, np.ndarray) else image))
        for image, boost in pairs
    ]


def text_term(text: str, encode: Callable[[Sequence[str]], Float32], weight: float = 1.0) -> Term:
    """The term of some words; QueryError when there are none."""
    words = " ".join(text.split())
    if not words:
        raise QueryError('the query is empty: say what to look for, such as "a dog on a beach"')
    return Term(encode([words])[0], weight)


def vector_term(vector: object, dim: int, weight: float = 1.0, is_image: bool = False) -> Term:
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
    return Term((values / np.linalg.norm(values)).astype(np.float32), weight, is_image)


def balance(terms: Sequence[Term], sample: Float32) -> list[Term]:
    """The terms, those of images scaled to spread ``IMAGE_SPREAD`` times as far as the others.

    sample : (n, dim) float32 image vectors of the collection. Queries of one kind, and samples
    too small to tell a spread, are left alone.
    """
    images = [term for term in terms if term.is_image]
    others = [term for term in terms if not term.is_image]
    if not images or not others or len(sample) < 2:
        return list(terms)

    def spread(some: Sequence[Term]) -> float:
        return float(np.mean([np.std(sample @ term.vector) for term in some]))

    wanted, found = IMAGE_SPREAD * spread(others), spread(images)
    if not wanted > 0 or not found > 0:
        return list(terms)
    scale = wanted / found
    return [
        Term(term.vector, term.weight * scale, True) if term.is_image else term for term in terms
    ]


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
