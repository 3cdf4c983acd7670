"""FAISS's scanner over a matrix in place, against NumPy in float64."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from clipsearch.faiss_scan import all_products, best_products
from clipsearch.shards import Float16


def _matrix(rows: int, dim: int, seed: int = 0) -> Float16:
    drawn = np.random.default_rng(seed).standard_normal((rows, dim))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.asarray(drawn.astype("<f2"))


@pytest.mark.parametrize("dim", [3, 5, 16, 100, 512])
@pytest.mark.parametrize("rows", [0, 1, 3, 1000])
def test_products_are_those_of_float64(rows: int, dim: int) -> None:
    matrix, query = _matrix(rows, dim), _matrix(1, dim, 1)[0].astype(np.float32)
    truth = matrix.astype(np.float64) @ query.astype(np.float64)
    assert np.abs(all_products(matrix, query) - truth).max(initial=0) < 1e-6
    scores, found = best_products(matrix, query, 10)
    assert len(found) == min(10, rows)
    assert np.abs(np.sort(truth)[::-1][:10] - scores).max(initial=0) < 1e-6
    assert np.array_equal(np.argsort(-truth, kind="stable")[:10], found)


def test_damaged_rows_leave_the_others_in_their_places() -> None:
    matrix, query = _matrix(1000, 16), _matrix(1, 16, 1)[0].astype(np.float32)
    truth = matrix.astype(np.float64) @ query.astype(np.float64)
    matrix[10, 3] = np.nan
    matrix[20, 3] = -np.inf * np.sign(query[3])
    products = all_products(matrix, query)
    assert np.isneginf(products[[10, 20]]).all()
    others = np.delete(np.arange(1000), [10, 20])
    assert np.abs(products - truth)[others].max() < 1e-6


def test_a_mapped_file_over_several_spans_and_threads(tmp_path: Path) -> None:
    rows, dim = 150_000, 8
    _matrix(rows, dim).tofile(tmp_path / "matrix.f16")
    matrix = np.asarray(np.memmap(tmp_path / "matrix.f16", "<f2", "r", shape=(rows, dim)))
    queries = _matrix(4, dim, 2).astype(np.float32)
    truth = matrix.astype(np.float64) @ queries.T.astype(np.float64)
    wrong: list[int] = []

    def ask(which: int) -> None:
        products = all_products(matrix, queries[which])
        scores, _ = best_products(matrix, queries[which], 50)
        best = np.sort(truth[:, which])[::-1][:50]
        if np.abs(products - truth[:, which]).max() > 1e-6 or np.abs(scores - best).max() > 1e-6:
            wrong.append(which)

    threads = [threading.Thread(target=ask, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_more_than_there_are() -> None:
    matrix, query = _matrix(7, 4), np.ones(4, np.float32)
    scores, found = best_products(matrix, query, 100)
    assert sorted(found.tolist()) == list(range(7))
    assert (np.diff(scores) <= 0).all()
