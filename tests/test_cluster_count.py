"""The chosen number of clusters: silhouettes against scikit-learn's, known numbers, real photos."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

import clipsearch.cluster_count as module
from clipsearch.cluster_count import choose_count, silhouettes
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError, QueryError
from clipsearch.group_means import unit_rows


def drawn(rows: int, dim: int, seed: int = 0) -> Float32:
    return unit_rows(np.random.default_rng(seed).standard_normal((rows, dim)))


def clustered(groups: int, rows: int, dim: int, spread: float, seed: int) -> Float32:
    """Rows in a cone, in groups of unequal sizes."""
    rng = np.random.default_rng(seed)
    cone = rng.standard_normal(dim)
    middles = unit_rows(rng.standard_normal((groups, dim)) + 1.5 * cone)
    of_group = rng.choice(groups, rows, p=rng.dirichlet(np.full(groups, 5.0)))
    return unit_rows(middles[of_group] + spread * rng.standard_normal((rows, dim)) / np.sqrt(dim))


def test_silhouettes_are_scikit_learns() -> None:
    rows = drawn(900, 20)
    groups = np.random.default_rng(1).integers(12, size=900).astype(np.int32)
    groups[:2] = 40, 41  # each alone in a group, and numbers that nothing has
    found = silhouettes(rows, groups)
    truth = silhouette_samples(rows.astype(np.float64), groups, metric="cosine")
    assert np.abs(found - truth).max() < 1e-5
    assert found[0] == found[1] == 0


def test_one_group_has_no_silhouette() -> None:
    assert (silhouettes(drawn(5, 3), np.zeros(5, np.int32)) == 0).all()


@pytest.mark.parametrize(("groups", "rows"), [(3, 150), (12, 600), (40, 1000)])
def test_the_number_of_groups_that_are_there(groups: int, rows: int) -> None:
    for seed in range(2):
        chosen = choose_count(clustered(groups, rows, 64, 0.5, seed), seed=0)
        assert abs(chosen.k - groups) <= max(1, 0.15 * groups)
        assert chosen.criterion == "silhouette gap"
        assert chosen.value > 0.1
        assert [k for k, _ in chosen.curve] == sorted({k for k, _ in chosen.curve})


def test_a_cloud_without_groups_is_one() -> None:
    for seed in range(2):
        long = drawn(476, 256, seed) * 0.97 ** np.arange(256)
        chosen = choose_count(unit_rows(long + 0.7 * drawn(1, 256, seed + 9)), seed=seed)
        assert (chosen.k, chosen.value) == (1, 0.0)
        assert len(chosen.curve) > 10


@pytest.mark.slow
def test_a_large_sample_is_drawn_from_and_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 2000)
    monkeypatch.setattr(module, "_LINKED", 400)
    rows = clustered(30, 6000, 48, 0.6, 2)
    chosen = [choose_count(rows, seed=seed, most=90) for seed in range(5)]
    ks = [one.k for one in chosen]
    assert max(ks) - min(ks) <= 0.2 * min(ks)  # within 10 % of their middle
    assert 25 <= min(ks) <= max(ks) <= 36
    assert choose_count(rows, seed=0, most=90) == chosen[0]
    assert chosen[0].curve != chosen[1].curve


def test_few_pictures_are_the_same_whatever_the_seed() -> None:
    rows = clustered(6, 200, 32, 0.8, 1)
    assert choose_count(rows, seed=0) == choose_count(rows, seed=99)


def test_no_more_than_asked() -> None:
    rows = clustered(20, 600, 64, 0.4, 0)
    chosen = choose_count(rows, seed=0, most=7)
    assert 2 <= chosen.k <= 7
    assert max(k for k, _ in chosen.curve) <= 7
    assert choose_count(rows, seed=0, most=1).k == 1


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_few_pictures(rows: int) -> None:
    assert 1 <= choose_count(drawn(rows, 8), seed=0).k <= max(1, rows // 2)


def test_one_picture_again_and_again() -> None:
    chosen = choose_count(np.repeat(drawn(1, 8), 300, axis=0), seed=0)
    assert chosen.k == 1
    assert np.isfinite([value for _, value in chosen.curve]).all()


def test_two_pictures_again_and_again() -> None:
    assert choose_count(np.repeat(drawn(2, 8), 100, axis=0), seed=0).k == 2


def test_progress_rises_to_its_end() -> None:
    told: list[tuple[int, int]] = []
    choose_count(drawn(80, 8), seed=0, on_progress=lambda *at: told.append(at))
    assert [done for done, _ in told] == list(range(1, told[0][1] + 1))


def test_what_cannot_be_counted() -> None:
    with pytest.raises(QueryError, match="expected one vector"):
        choose_count(np.zeros((0, 3), np.float32), seed=0)
    with pytest.raises(QueryError, match="finite"):
        choose_count(np.full((4, 3), np.nan, np.float32), seed=0)
    with pytest.raises(OptionError, match="got 0"):
        choose_count(drawn(4, 3), seed=0, most=0)
    with pytest.raises(OptionError, match="seed of 0 or more, got -1"):
        choose_count(drawn(4, 3), seed=-1)
