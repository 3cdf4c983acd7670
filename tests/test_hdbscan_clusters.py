"""HDBSCAN: what it groups, what it leaves out, and where there is little."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import clipsearch.hdbscan_clusters as module
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError, QueryError
from clipsearch.group_means import unit_rows
from clipsearch.hdbscan_clusters import hdbscan_clusters


def drawn(rows: int, dim: int, seed: int = 0) -> Float32:
    return unit_rows(np.random.default_rng(seed).standard_normal((rows, dim)))


def scattered(groups: int, each: int, strays: int, dim: int = 48) -> Float32:
    """Groups of ``each`` around middles, one after the other, then rows in no group."""
    middles = np.repeat(drawn(groups, dim, 3), each, axis=0)
    noise = np.random.default_rng(4).standard_normal(middles.shape) * 0.04
    return np.concatenate([unit_rows(middles + noise), drawn(strays, dim, 5)])


def test_groups_are_found_and_strays_left_out() -> None:
    rows = scattered(12, 30, 20)
    groups = hdbscan_clusters(rows, 10)
    assert groups.dtype == np.int32
    inside = groups[:360].reshape(12, 30)
    assert (inside == inside[:, :1]).all()
    assert sorted(inside[:, 0].tolist()) == list(range(12))
    assert (groups[360:] == -1).mean() > 0.4  # others hang on the group that is nearest


def test_no_group_is_smaller_than_asked() -> None:
    rows = np.concatenate([scattered(3, 30, 0), scattered(5, 8, 0)[24:40]])
    small, large = hdbscan_clusters(rows, 5), hdbscan_clusters(rows, 20)
    assert small.max() + 1 > large.max() + 1 == 3
    assert np.bincount(large[large >= 0]).min() >= 20


def test_more_rows_than_are_grouped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.random.default_rng(0).permutation(1240)
    rows = scattered(6, 200, 40)[order]
    whole = hdbscan_clusters(rows, 10)
    monkeypatch.setattr(module, "MOST_POINTS", 500)
    spread = hdbscan_clusters(rows, 10)
    assert spread.max() == whole.max() == 5
    members = order < 1200
    both = (whole >= 0) & (spread >= 0) & members
    assert both.sum() > 0.9 * 1200
    assert len({*zip(whole[both].tolist(), spread[both].tolist(), strict=True)}) == 6
    assert (spread[~members] == -1).mean() > 0.6


def test_little_to_group() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hdbscan_clusters(drawn(1, 4), 2).tolist() == [-1]
        assert hdbscan_clusters(drawn(3, 4), 5).tolist() == [-1] * 3
        assert set(hdbscan_clusters(drawn(2, 4), 2).tolist()) <= {-1, 0}
        assert hdbscan_clusters(np.repeat(drawn(1, 8), 50, axis=0), 5).tolist() == [0] * 50
        twice = np.repeat(drawn(2, 8), 20, axis=0)
        assert hdbscan_clusters(twice, 5).tolist() == [0] * 20 + [1] * 20


def test_what_cannot_be_grouped() -> None:
    with pytest.raises(OptionError, match="expected groups of 2 or more images, got 1"):
        hdbscan_clusters(drawn(5, 4), 1)
    with pytest.raises(QueryError, match="expected one vector or more"):
        hdbscan_clusters(np.zeros((0, 4), np.float32), 5)
    with pytest.raises(QueryError, match="finite"):
        hdbscan_clusters(np.full((9, 4), np.nan, np.float32), 5)
