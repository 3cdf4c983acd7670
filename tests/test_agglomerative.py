"""Average and Ward's linkage against SciPy's, and weights against the same points many times."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from clipsearch.agglomerative import average_linkage, ward_linkage
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError, QueryError
from clipsearch.group_means import unit_rows


def drawn(rows: int, dim: int, seed: int = 0) -> Float32:
    return unit_rows(np.random.default_rng(seed).standard_normal((rows, dim)))


def same_groups(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> bool:
    pairs = {(int(mine), int(theirs)) for mine, theirs in zip(one, other, strict=True)}
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize(("rows", "dim"), [(2, 3), (30, 2), (200, 16), (700, 64)])
def test_merges_and_heights_are_scipys(rows: int, dim: int) -> None:
    points = drawn(rows, dim)
    tree = average_linkage(points)
    truth = linkage(points.astype(np.float64), "average", metric="cosine")
    assert len(tree) == rows
    assert np.abs(tree.heights - truth[:, 2]).max() < 1e-6
    assert np.array_equal(np.sort(tree.merges, axis=1), np.sort(truth[:, :2], axis=1))
    for k in {1, 2, min(7, rows), rows}:
        assert same_groups(tree.cut(k), fcluster(truth, k, "maxclust"))


def test_a_weight_is_the_same_point_so_many_times() -> None:
    points = drawn(120, 12)
    weights = np.random.default_rng(1).integers(1, 9, 120)
    weights[::10] = 300  # so unequal that it matters
    tree = average_linkage(points, weights)
    every = np.repeat(points, weights, axis=0)
    truth = linkage(every.astype(np.float64), "average", metric="cosine")
    assert np.abs(tree.heights - truth[-119:, 2]).max() < 1e-6
    plain = average_linkage(points)
    for k in (5, 20, 60):
        theirs = fcluster(truth, k, "maxclust")
        assert same_groups(np.repeat(tree.cut(k), weights), theirs)
        assert not same_groups(np.repeat(plain.cut(k), weights), theirs)


def test_mean_vectors_are_merged_as_what_they_stand_for() -> None:
    """Groups of vectors, given as their means, merge at the mean distance over all pairs."""
    rows = drawn(300, 10)
    groups = np.arange(300) % 25
    means = np.stack([rows[groups == group].mean(axis=0) for group in range(25)])
    tree = average_linkage(means, np.bincount(groups))
    parts = tree.cut(2)[groups]
    pairs = 1 - rows[parts == 0].astype(np.float64) @ rows[parts == 1].astype(np.float64).T
    assert tree.heights[-1] == pytest.approx(pairs.mean(), abs=1e-6)


def test_groups_are_numbered_as_their_first_points_come() -> None:
    points = np.array([[0, 1], [1, 0], [0.01, 1], [1, 0.01], [-1, 0]], np.float32)
    tree = average_linkage(unit_rows(points))
    assert tree.cut(3).tolist() == [0, 1, 0, 1, 2]
    assert tree.cut(1).tolist() == [0] * 5
    assert tree.cut(5).tolist() == tree.cut(1000).tolist() == [0, 1, 2, 3, 4]
    assert tree.cut(3).dtype == np.int32


def test_every_cut_has_as_many_groups_as_it_should() -> None:
    tree = average_linkage(drawn(90, 5), np.arange(1, 91))
    before = tree.cut(1)
    for k in range(2, 91):
        groups = tree.cut(k)
        assert sorted(set(groups.tolist())) == list(range(k))
        # Each group lies within one of the cut before.
        assert len({*zip(groups.tolist(), before.tolist(), strict=True)}) == k
        before = groups
    assert (np.diff(tree.heights) >= 0).all()


def test_one_point_and_the_same_point_again() -> None:
    one = average_linkage(drawn(1, 4))
    assert len(one) == 1
    assert one.cut(1).tolist() == one.cut(9).tolist() == [0]
    same = average_linkage(np.repeat(drawn(1, 4), 6, axis=0), np.ones(6))
    assert np.abs(same.heights).max() < 1e-6
    assert len(set(same.cut(3).tolist())) == 3


def test_the_same_every_time() -> None:
    points = np.repeat(drawn(40, 6), 3, axis=0)  # full of equal distances
    first, second = average_linkage(points), average_linkage(points.copy())
    assert np.array_equal(first.merges, second.merges)
    assert np.array_equal(first.cut(40), np.repeat(np.arange(40), 3))


def test_what_cannot_be_merged() -> None:
    with pytest.raises(QueryError, match="expected one vector"):
        average_linkage(np.zeros((0, 3), np.float32))
    with pytest.raises(QueryError, match="finite"):
        average_linkage(np.full((2, 3), np.nan, np.float32))
    for weights in ([1.0], [1.0, 0.0], [1.0, np.nan], [1.0, -2.0]):
        with pytest.raises(QueryError, match="expected 2 weights above 0"):
            average_linkage(drawn(2, 3), weights)
    with pytest.raises(OptionError, match="expected 1 or more clusters, got 0"):
        average_linkage(drawn(2, 3)).cut(0)


@pytest.mark.parametrize(("rows", "dim"), [(2, 3), (30, 2), (200, 16), (700, 64)])
def test_wards_merges_are_scipys(rows: int, dim: int) -> None:
    points = np.random.default_rng(2).standard_normal((rows, dim)).astype(np.float32)
    tree = ward_linkage(points)
    truth = linkage(points.astype(np.float64), "ward")
    # SciPy gives the distance whose half square the merging adds.
    assert np.abs(np.sqrt(2 * tree.heights) - truth[:, 2]).max() < 1e-6
    for k in {1, 2, min(7, rows), rows}:
        assert same_groups(tree.cut(k), fcluster(truth, k, "maxclust"))


def test_wards_weight_is_the_same_point_so_many_times() -> None:
    points = drawn(80, 12)
    weights = np.random.default_rng(3).integers(1, 30, 80)
    tree = ward_linkage(points, weights)
    truth = linkage(np.repeat(points, weights, axis=0).astype(np.float64), "ward")
    assert np.abs(np.sqrt(2 * tree.heights) - truth[-79:, 2]).max() < 1e-6
    plain = ward_linkage(points)
    for k in (5, 20):
        theirs = fcluster(truth, k, "maxclust")
        assert same_groups(np.repeat(tree.cut(k), weights), theirs)
        assert not same_groups(np.repeat(plain.cut(k), weights), theirs)
    with pytest.raises(QueryError):
        ward_linkage(points, weights[:3])


def test_a_lone_vector_has_a_group_of_its_own_by_average_and_not_by_ward() -> None:
    rng = np.random.default_rng(4)
    two = unit_rows(np.repeat(np.eye(8)[:2], 40, axis=0) + 0.1 * rng.standard_normal((80, 8)))
    lone = unit_rows(-np.ones((1, 8)))
    points = np.concatenate([two, lone]).astype(np.float32)
    assert np.bincount(average_linkage(points).cut(2)).min() == 1
    assert np.bincount(ward_linkage(points).cut(2)).min() >= 40
