"""Terms and their sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from clipsearch.encoder import Float32
from clipsearch.errors import QueryError
from clipsearch.query import Term, combine, text_term, vector_term


def axis(position: int, weight: float = 1.0) -> Term:
    return Term(np.eye(4, dtype=np.float32)[position], weight)


def test_sum_is_weighted_and_of_unit_length() -> None:
    np.testing.assert_allclose(combine([axis(0), axis(1)]), [0.5**0.5, 0.5**0.5, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(combine([axis(0, 3), axis(2, -4)]), [0.6, 0, -0.8, 0], rtol=1e-6)
    assert combine([axis(0)]).dtype == np.float32
    np.testing.assert_array_equal(combine([axis(3, 0.001)]), axis(3).vector)
    np.testing.assert_array_equal(combine([axis(3, 1e-9)]), axis(3).vector)
    np.testing.assert_array_equal(combine([axis(3, 1e9)]), axis(3).vector)
    np.testing.assert_array_equal(combine([axis(3, -2)]), -axis(3).vector)


def test_order_does_not_matter() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    terms = [vector_term(row, 4, weight) for row, weight in zip(rows, range(-2, 3), strict=True)]
    np.testing.assert_allclose(combine(terms), combine(terms[::-1]), atol=1e-7)


@pytest.mark.parametrize(
    "terms",
    [
        [],
        [axis(0), axis(0, -1)],
        [axis(0, 0.0)],
        [axis(0, 1e6), axis(0, -1e6)],
        [axis(0, float("nan"))],
        [axis(0, float("inf"))],
        [axis(0), axis(1, float("-inf"))],
    ],
    ids=["none", "cancel", "no weight", "cancel at large", "nan", "inf", "-inf"],
)
def test_sums_that_mean_nothing(terms: list[Term]) -> None:
    with pytest.raises(QueryError):
        combine(terms)


def test_terms_that_nearly_cancel() -> None:
    vector = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    with pytest.raises(QueryError, match="cancel"):
        combine([vector_term(vector, 512), vector_term(vector * np.float32(3.1), 512, -1)])


@pytest.mark.parametrize(
    "vector",
    [
        [3.0, 0, 0, 4.0],
        (3, 0, 0, 4),
        np.array([3, 0, 0, 4]),
        np.array([3e30, 0, 0, 4e30], np.float32),
        np.array([3e-30, 0, 0, 4e-30], np.float32),
        np.array([3e200, 0, 0, 4e200]),
        np.array([3e-3, 0, 0, 4e-3], np.float16) / np.float16(1),
    ],
    ids=["list", "tuple", "ints", "large", "tiny", "float64", "half"],
)
def test_vector_comes_to_unit_length(vector: object) -> None:
    term = vector_term(vector, 4, 0.5)
    np.testing.assert_allclose(term.vector, [0.6, 0, 0, 0.8], rtol=1e-3)
    assert np.linalg.norm(term.vector) == pytest.approx(1, abs=1e-6)
    assert term.vector.dtype == np.float32
    assert term.weight == 0.5


@pytest.mark.parametrize(
    "vector",
    [
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [[1, 2, 3, 4]],
        3.0,
        None,
        "abcd",
        ["a", "b", "c", "d"],
        [1, 2, 3, None],
        [1, 2, 3, float("nan")],
        [1, 2, 3, float("inf")],
        [0, 0, 0, 0],
        [[1], [2, 3], 4, 5],
        {"a": 1},
    ],
    ids=str,
)
def test_bad_vectors(vector: object) -> None:
    with pytest.raises(QueryError):
        vector_term(vector, 4)


def test_text_is_encoded_as_typed_but_for_spaces() -> None:
    asked: list[Sequence[str]] = []

    def encode(texts: Sequence[str]) -> Float32:
        asked.append(texts)
        return np.eye(4, dtype=np.float32)[: len(texts)]

    term = text_term("  Two\tdogs \n on a  beach ", encode, -2.0)
    assert asked == [["Two dogs on a beach"]]
    np.testing.assert_array_equal(term.vector, [1, 0, 0, 0])
    assert term.weight == -2.0
    for empty in ("", " ", "\n\t", "\u3000"):
        with pytest.raises(QueryError, match="empty"):
            text_term(empty, encode)
    assert len(asked) == 1
