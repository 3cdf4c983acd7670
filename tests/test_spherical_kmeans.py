"""Spherical k-means against its definition in float64, and where there is little to cluster."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest

import clipsearch.spherical_kmeans as module
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError, QueryError
from clipsearch.group_means import group_means, group_sums, mean_row, off_mean, unit_rows
from clipsearch.spherical_kmeans import (
    SAME,
    nearest_centroids,
    settle_centroids,
    train_centroids,
)


def drawn(rows: int, dim: int, seed: int = 0) -> Float32:
    """Unit rows in no groups."""
    return unit_rows(np.random.default_rng(seed).standard_normal((rows, dim)))


def grouped(groups: int, each: int, dim: int, spread: float = 0.1) -> tuple[Float32, Float32]:
    """Unit rows around unit middles, ``each`` of one after the other, and the middles."""
    middles = drawn(groups, dim, 7)
    noise = np.random.default_rng(8).standard_normal((groups * each, dim)) * spread
    return unit_rows(np.repeat(middles, each, axis=0) + noise), middles


def mean_cosine(rows: Float32, centroids: Float32) -> float:
    products = rows.astype(np.float64) @ centroids.astype(np.float64).T
    return float(products.max(axis=1).mean())


def reference_step(rows: Float32, centroids: Float32) -> npt.NDArray[np.float64]:
    """One step of Dhillon and Modha's, as it is written down."""
    wide = rows.astype(np.float64)
    labels = (wide @ centroids.astype(np.float64).T).argmax(axis=1)
    sums = np.stack([wide[labels == group].sum(axis=0) for group in np.unique(labels)])
    step: npt.NDArray[np.float64] = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    return step


def test_groups_that_are_there_are_found() -> None:
    rows, middles = grouped(30, 40, 32, 0.03)
    centroids = train_centroids(rows, 30, seed=0)
    assert centroids.shape == (30, 32)
    assert centroids.dtype == np.float32
    nearest = middles @ centroids.T
    assert sorted(nearest.argmax(axis=1).tolist()) == list(range(30))
    assert nearest.max(axis=1).min() > 0.995
    assert np.abs(np.linalg.norm(centroids, axis=1) - 1).max() < 1e-6


def test_centroids_are_where_a_step_of_the_definition_leaves_them() -> None:
    rows = drawn(2000, 16)
    centroids = train_centroids(rows, 12, seed=3, iterations=200)
    again = reference_step(rows, centroids)
    assert again.shape == (12, 16)
    # It ends when the mean cosine no longer rises by 1e-6: what is left to move is little.
    assert mean_cosine(rows, again.astype(np.float32)) - mean_cosine(rows, centroids) < 2e-6
    sizes = np.bincount(nearest_centroids(rows, centroids).labels, minlength=12)
    assert sizes.min() > 0
    assert (np.diff(sizes) <= 0).all()  # the largest group first


def test_every_step_is_that_of_the_definition() -> None:
    rows = drawn(3000, 24)
    start = rows[:9]
    ours = settle_centroids(rows, start, iterations=1)
    theirs = reference_step(rows, start)
    # The same centroids, ours in the order of their sizes.
    assert np.abs((ours @ theirs.T).max(axis=1) - 1).max() < 1e-6
    assert sorted((ours @ theirs.T).argmax(axis=1).tolist()) == list(range(9))


@pytest.mark.parametrize(("rows", "k"), [(3000, 50), (8000, 200)])
def test_as_good_as_faiss(rows: int, k: int) -> None:
    import faiss

    sample = unit_rows(np.random.default_rng(1).standard_normal((rows, 64)) * 0.97 ** np.arange(64))
    peer = faiss.Kmeans(64, k, niter=25, spherical=True, seed=1, min_points_per_centroid=1)
    peer.train(sample)
    ours = mean_cosine(sample, train_centroids(sample, k, seed=1))
    assert ours > mean_cosine(sample, unit_rows(peer.centroids)) - 0.0005


@pytest.mark.parametrize("work", [0, 1 << 23])
def test_as_good_where_centroids_are_drawn_many_at_a_time_or_among_few(
    work: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = grouped(40, 100, 16, 0.15)
    best = mean_cosine(rows, train_centroids(rows, 40, seed=1))
    monkeypatch.setattr(module, "_WORK_OF_CHOICE", work)
    centroids = train_centroids(rows, 40, seed=1)
    assert len(centroids) == 40
    assert best - 0.01 < mean_cosine(rows, centroids) < best + 0.01
    few = np.repeat(drawn(60, 16), 100, axis=0)
    assert len(train_centroids(few, 60, seed=0)) == 60


def test_the_same_on_any_number_of_threads() -> None:
    program = """
import hashlib, numpy as np, clipsearch.threads as threads
import clipsearch.spherical_kmeans as kmeans, clipsearch.group_means as means
kmeans._WORK_ALONE = means._WORTH_THREADS = 0
kmeans.worker_count = means.worker_count = lambda: {threads}
rows = means.unit_rows(np.random.default_rng(0).standard_normal((5000, 48)))
print(hashlib.sha256(kmeans.train_centroids(rows, 40, seed=5, iterations=6)).hexdigest())
"""
    digests = set()
    for threads in (1, 3):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
        ran = subprocess.run(
            [sys.executable, "-c", program.format(threads=threads)],
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        assert ran.stderr == ""
        digests.add(ran.stdout)
    assert len(digests) == 1


def test_another_seed_begins_elsewhere_and_ends_as_well() -> None:
    rows = drawn(3000, 32)
    one, same, other = (train_centroids(rows, 20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert abs(mean_cosine(rows, one) - mean_cosine(rows, other)) < 0.003


@pytest.mark.parametrize("copies", [1, 2, 5000])
@pytest.mark.parametrize("k", [1, 2, 700])
def test_one_picture_again_and_again(copies: int, k: int) -> None:
    picture = drawn(1, 8)
    centroids = train_centroids(np.repeat(picture, copies, axis=0), k, seed=0)
    assert centroids.shape == (1, 8)
    assert np.abs(centroids - picture).max() < 5e-6


def test_more_clusters_than_pictures() -> None:
    rows = drawn(9, 8)
    centroids = train_centroids(rows, 50, seed=0)
    assert centroids.shape == (9, 8)
    assert mean_cosine(rows, centroids) > 1 - 1e-6


def test_more_clusters_than_different_pictures() -> None:
    different = drawn(40, 16)
    rows = different[np.random.default_rng(0).integers(40, size=600)]
    centroids = train_centroids(rows, 100, seed=0)
    assert centroids.shape == (40, 16)
    products = centroids @ centroids.T - 2 * np.eye(40)
    assert products.max() < 1 - SAME
    assert mean_cosine(rows, centroids) > 1 - 1e-6


def test_what_half_precision_rounds_differently_is_one_picture() -> None:
    picture = drawn(1, 512)[0]
    step = np.random.default_rng(0).uniform(-1, 1, (100, 512)) * 2.0**-12
    rows = unit_rows((picture * (1 + step)).astype(np.float16).astype(np.float32))
    assert len(np.unique(rows, axis=0)) == 100
    assert len(train_centroids(rows, 10, seed=0)) == 1


def test_opposite_pictures_have_no_mean() -> None:
    rows = np.array([[1, 0], [-1, 0]], np.float32)
    centroids = train_centroids(rows, 1, seed=0)
    assert centroids.shape == (1, 2)
    assert np.abs(np.linalg.norm(centroids, axis=1) - 1).max() < 1e-6


def test_a_centroid_of_nobody_moves_to_the_farthest_picture() -> None:
    rows, _ = grouped(3, 50, 8, 0.02)
    nowhere = unit_rows(-rows.sum(axis=0, keepdims=True))
    start = np.concatenate([rows[:1], rows[1:2], nowhere])
    centroids = settle_centroids(rows, start)
    assert len(centroids) == 3
    assert sorted(nearest_centroids(rows, centroids).labels[[0, 50, 100]].tolist()) == [0, 1, 2]


def test_nearest_are_those_of_float64() -> None:
    rows, centroids = drawn(5000, 40), drawn(33, 40, 1)
    found = nearest_centroids(rows, centroids)
    products = rows.astype(np.float64) @ centroids.astype(np.float64).T
    assert np.array_equal(found.labels, products.argmax(axis=1))
    assert np.abs(found.cosines - products.max(axis=1)).max() < 1e-6


def test_progress_rises_to_its_end() -> None:
    told: list[tuple[int, int]] = []
    train_centroids(drawn(300, 8), 5, seed=0, iterations=7, on_progress=lambda *at: told.append(at))
    done = [at for at, _ in told]
    assert done == sorted(done)
    assert {every for _, every in told} == {done[-1]}
    assert done[0] == 0
    assert done[-1] >= 7


@pytest.mark.parametrize(
    ("rows", "k", "error"),
    [
        (np.zeros((0, 4), np.float32), 2, QueryError),
        (np.zeros((3, 4), np.float32), 2, QueryError),
        (np.full((3, 4), np.nan, np.float32), 2, QueryError),
        (np.full((3, 4), np.inf, np.float32), 2, QueryError),
        (np.full((3, 4), 2, np.float32), 2, QueryError),
        (np.ones(4, np.float32), 2, QueryError),
        (np.eye(4, dtype=np.float32), 0, OptionError),
        (np.eye(4, dtype=np.float32), -3, OptionError),
    ],
)
def test_what_cannot_be_clustered(rows: Float32, k: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        train_centroids(rows, k, seed=0)


def test_means_of_groups_are_those_of_float64() -> None:
    rows = drawn(7000, 20)
    groups = np.random.default_rng(0).integers(11, size=7000).astype(np.int32)
    groups[groups == 4] = 5  # one group is empty
    wide = rows.astype(np.float64)
    sums = np.zeros((11, 20))
    np.add.at(sums, groups, wide)
    assert np.abs(group_sums(rows, groups, 11) - sums).max() < 1e-4
    assert (group_sums(rows, groups, 11)[4] == 0).all()
    mean = wide.mean(axis=0)
    assert np.abs(mean_row(rows) - mean).max() < 1e-7
    left = wide - mean
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    assert np.abs(off_mean(rows, mean) - left).max() < 1e-6
    groups[groups > 4] -= 1
    means, sizes = group_means(rows, groups)
    assert np.array_equal(sizes, np.bincount(groups))
    truth = np.stack([wide[groups == group].mean(axis=0) for group in range(10)])
    assert np.abs(means - truth).max() < 1e-6


def test_a_picture_that_is_the_mean_keeps_its_direction() -> None:
    rows = np.repeat(drawn(1, 6), 4, axis=0)
    assert np.abs(off_mean(rows, mean_row(rows)) - rows).max() < 1e-6


def test_a_seed_below_zero() -> None:
    with pytest.raises(OptionError, match="seed of 0 or more, got -1"):
        train_centroids(drawn(3, 4), 2, seed=-1)
