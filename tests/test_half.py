"""fp16 to float32 on the bits: the same numbers as NumPy's own conversion."""

from __future__ import annotations

import numpy as np
import pytest

from clipsearch.half import WIDEN_ROWS, widen


def test_every_finite_number_comes_out_exactly() -> None:
    every = np.arange(65_536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    rows = finite.reshape(-1, 62)
    assert rows.size == 63_488
    assert np.array_equal(widen(rows).view(np.uint32), rows.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("count", [0, 1, WIDEN_ROWS - 1, WIDEN_ROWS, 2 * WIDEN_ROWS + 3])
def test_any_number_of_rows(count: int) -> None:
    rows = np.random.default_rng(count).standard_normal((count, 7)).astype(np.float16)
    out = np.full((count, 7), np.nan, np.float32)
    assert widen(rows, out) is out
    assert np.array_equal(out, rows.astype(np.float32))


def test_rows_that_may_not_be_written_and_are_not_contiguous() -> None:
    matrix = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float16)
    matrix.flags.writeable = False
    assert np.array_equal(widen(matrix[::3]), matrix[::3].astype(np.float32))
