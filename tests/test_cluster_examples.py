"""The images that stand for a cluster, against what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clipsearch.cluster_examples import doubtful_of, rows_by_cluster, typical_of
from clipsearch.cluster_model import assign
from clipsearch.clusters import Assignment, ClusterModel
from clipsearch.vectors import Vectors


def _vectors(matrix: np.ndarray, deleted: tuple[int, ...] = ()) -> Vectors:
    ids = np.arange(10, 10 + len(matrix), dtype=np.int64)
    half = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype("<f2")
    cut = len(half) // 3
    return Vectors(ids, (half[:cut], half[cut:]), half.shape[1], np.array(deleted, np.int64))


def _model(centroids: np.ndarray, owners: list[int] | None = None) -> ClusterModel:
    centroids = (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).astype(np.float32)
    owners = list(range(len(centroids))) if owners is None else owners
    return ClusterModel(centroids, np.array(owners, np.int32))


def _assignment(clusters: list[int], cosines: list[float], margins: list[float]) -> Assignment:
    return Assignment(
        np.arange(len(clusters), dtype=np.int64),
        np.array(clusters, np.int32),
        np.array(cosines, np.float32),
        np.array(margins, np.float32),
    )


@pytest.mark.parametrize("count", [1, 7, 5000])
@pytest.mark.parametrize("owners", [None, [2, 0, 1, 0, -1, 2, 2]])
def test_assignment_against_numpy(count, owners):
    draws = np.random.default_rng(count)
    vectors = _vectors(draws.normal(size=(count, 24)), deleted=(13, 500) if count > 7 else ())
    model = _model(draws.normal(size=(7, 24)), owners)
    found = assign(vectors, model)

    ids = np.setdiff1d(vectors.ids, vectors.deleted)
    rows = np.concatenate(vectors.segments)[ids - 10].astype(np.float64)
    scores = rows @ model.centroids.astype(np.float64).T
    assert found.ids.tolist() == ids.tolist()
    expected = model.owners[scores.argmax(axis=1)]
    assert found.clusters.tolist() == expected.tolist()
    np.testing.assert_allclose(found.cosines, scores.max(axis=1), atol=2e-6)
    others = np.where(model.owners[None] == expected[:, None], -np.inf, scores).max(axis=1)
    np.testing.assert_allclose(found.margins, scores.max(axis=1) - others, atol=4e-6)


def test_only_some_images():
    draws = np.random.default_rng(0)
    vectors, model = _vectors(draws.normal(size=(300, 8))), _model(draws.normal(size=(3, 8)))
    wanted = np.array([12, 40, 41, 299, 309], np.int64)
    done: list[int] = []
    some = assign(vectors, model, allowed=wanted, on_progress=done.append)
    everything = assign(vectors, model)
    assert some.ids.tolist() == wanted.tolist()
    assert some.clusters.tolist() == everything.clusters[wanted - 10].tolist()
    assert done[-1] == 5


def test_no_image_and_a_single_cluster():
    model = _model(np.eye(4)[:1])
    nothing = assign(_vectors(np.empty((0, 4)).reshape(0, 4)), model)
    assert len(nothing) == 0
    alone = assign(_vectors(np.eye(4)), model)
    assert alone.clusters.tolist() == [0, 0, 0, 0]
    assert alone.cosines.tolist() == [1, 0, 0, 0]
    assert np.isnan(alone.margins).all()


def test_rows_of_each_cluster_come_nearest_first():
    found = _assignment([1, 0, 1, -1, 1, 0], [0.5, 0.9, 0.5, 0.1, 0.8, 0.95], [0.1] * 6)
    assert [rows.tolist() for rows in rows_by_cluster(found, 3)] == [[5, 1], [4, 0, 2], []]


def test_typical_images_are_not_all_one_shot():
    draws = np.random.default_rng(2)
    centre = np.zeros(32)
    centre[0] = 1
    shot = centre + 0.05 * draws.normal(size=32) / 32**0.5
    others = centre + 0.5 * draws.normal(size=(6, 32)) / 32**0.5
    matrix = np.concatenate([np.tile(shot, (5, 1)) + 1e-3 * draws.normal(size=(5, 32)), others])
    vectors, model = _vectors(matrix), _model(centre[None])
    found = assign(vectors, model)
    (rows,) = rows_by_cluster(found, 1)
    typical = typical_of(vectors, found, rows, 4)
    best = found.ids[np.lexsort((found.ids, -found.cosines))]
    assert typical[0] == best[0]
    assert len(set(typical)) == 4
    assert sum(image_id < 15 for image_id in typical) == 1, "one of five equal shots is enough"
    everything = typical_of(vectors, found, rows, 11)
    assert sorted(everything) == vectors.ids.tolist(), "where all are wanted, all come"


def test_doubtful_images_are_those_between_clusters():
    found = _assignment(
        [0] * 5 + [1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.9], [0.3, 0.01, 0.2, 0.01, 0.4, 0.1]
    )
    rows = list(rows_by_cluster(found, 2))
    assert doubtful_of(found, rows[0]) == (3, 1), "at most half; of equal margins the farther one"
    assert doubtful_of(found, rows[1]) == ()
    assert doubtful_of(found, rows[0], typical=(1, 3)) == (2, 0)
    alone = _assignment([0] * 4, [0.9, 0.2, 0.8, 0.3], [float("nan")] * 4)
    assert doubtful_of(alone, next(rows_by_cluster(alone, 1))) == (1, 3)
