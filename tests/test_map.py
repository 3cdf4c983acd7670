"""Places on a map: of any number of images, kept, and extended without moving what is there."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import map_coordinates as module
from clipsearch import map_files, open_index
from clipsearch.cluster_files import check_discovery_name, discovery_files, json_name
from clipsearch.errors import IndexFormatError, MissingExtraError
from clipsearch.map_coordinates import Coordinates, map_coordinates
from clipsearch.map_files import MAP_FILE, map_file, map_problem, read_map, save_map, update_map
from clipsearch.map_neighbours import NearestPoints, neighbours_of_each
from clipsearch.vectors import Vectors

_DIM = 32
_GROUPS = 4


def _rows(count: int) -> Any:
    """(count, 32) unit rows about four directions, by position modulo four."""
    rng = np.random.default_rng(5)
    middles = rng.normal(size=(_GROUPS, _DIM))
    rows = middles[np.arange(count) % _GROUPS] + 0.5 * rng.normal(size=(count, _DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def _state(rows: Any, deleted: tuple[int, ...] = (), space: str = "a space") -> Any:
    """As much of a generation as a map needs; ids are 10, 13, 16, ..."""
    ids = 10 + 3 * np.arange(len(rows), dtype=np.int64)
    gone = np.array(deleted, np.int64)
    vectors = Vectors(ids, (rows,), rows.shape[1], gone)
    return SimpleNamespace(vectors=vectors, space=SimpleNamespace(fingerprint=space))


def _share_of_own_group(found: Coordinates, which: Any = slice(None)) -> float:
    """How many of the ten nearest images on the map are of an image's own group."""
    xy = found.xy.astype(np.float64)
    groups = (found.ids - 10) // 3 % _GROUPS
    apart = ((xy[which, None] - xy[None]) ** 2).sum(axis=2)
    nearest = np.argsort(apart, axis=1)[:, 1:11]
    return float((groups[nearest] == groups[which][:, None]).mean())


def test_images_that_are_alike_lie_side_by_side() -> None:
    done: list[int] = []
    found = map_coordinates(_state(_rows(160)), on_progress=done.append)
    assert found.ids.tolist() == list(range(10, 490, 3))
    assert found.xy.dtype == np.float32
    assert found.anchors.all()
    assert _share_of_own_group(found) > 0.97
    assert done == sorted(done)
    assert done[-1] == 160


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7])
def test_few_images_have_places_of_their_own(count: int) -> None:
    found = map_coordinates(_state(_rows(max(count, 1))[:count]))
    assert found.xy.shape == (count, 2)
    assert np.isfinite(found.xy).all()
    assert len(np.unique(found.xy, axis=0)) == count


@pytest.mark.parametrize("count", [5, 6, 8, 12, 20, 40])
def test_few_images_are_not_pulled_onto_one_spot(count: int) -> None:
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count + 2, _DIM))  # far apart, each from all others
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    found = map_coordinates(_state(rows[:count]))
    assert np.ptp(found.xy, axis=0).max() > 5
    grown = map_coordinates(_state(rows), previous=found)
    assert np.array_equal(grown.xy[:count], found.xy)
    assert np.isfinite(grown.xy).all()
    assert not grown.anchors[count:].any()


def test_nothing_is_placed_on_a_map_that_is_one_spot() -> None:
    rows = _rows(14)
    found = map_coordinates(_state(rows[:12]))
    one_spot = dataclasses.replace(found, xy=np.full_like(found.xy, 3))
    again = map_coordinates(_state(rows), previous=one_spot)
    assert again.anchors.all()
    assert np.ptp(again.xy, axis=0).max() > 5


@pytest.mark.parametrize("count", [3, 6, 120])
def test_equal_images_have_places_too(count: int) -> None:
    found = map_coordinates(_state(np.repeat(_rows(1), count, axis=0)))
    assert np.isfinite(found.xy).all()
    assert len(np.unique(found.xy, axis=0)) == count


def test_a_map_is_the_same_whatever_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_THREADS_FROM", 1)
    monkeypatch.setattr(module, "MOST_ANCHORS", 150)
    maps = []
    for threads in (1, 3):
        monkeypatch.setattr(module, "worker_count", lambda threads=threads: threads)
        monkeypatch.setattr("clipsearch.threads.worker_count", lambda threads=threads: threads)
        maps.append(map_coordinates(_state(_rows(200)), seed=3))
    assert np.array_equal(maps[0].xy, maps[1].xy)
    assert not np.array_equal(map_coordinates(_state(_rows(200)), seed=4).xy, maps[0].xy)


def test_of_many_images_a_sample_is_laid_out_and_the_rest_placed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_ANCHORS", 120)
    monkeypatch.setattr(module, "_PLACING_ROWS", 50)
    found = map_coordinates(_state(_rows(400)))
    assert found.ids.tolist() == list(range(10, 1210, 3))
    assert int(found.anchors.sum()) == 120
    assert _share_of_own_group(found, np.flatnonzero(~found.anchors)) > 0.95
    monkeypatch.setattr(module, "_PLACING_ROWS", 400)  # blocks are no business of the places
    assert np.allclose(map_coordinates(_state(_rows(400))).xy, found.xy, atol=1e-3)


def test_new_images_are_placed_and_old_ones_stay() -> None:
    rows = _rows(240)
    before = map_coordinates(_state(rows[:200]))
    after = map_coordinates(_state(rows), previous=before)
    assert np.array_equal(after.xy[:200], before.xy)
    assert after.anchors.tolist() == [True] * 200 + [False] * 40
    assert _share_of_own_group(after, np.arange(200, 240)) > 0.95
    # It is all the same whether they come together or in turn.
    partly = map_coordinates(_state(rows[:215]), previous=before)
    in_turn = map_coordinates(_state(rows), previous=partly)
    assert np.allclose(in_turn.xy, after.xy, atol=1e-3)
    assert np.array_equal(in_turn.anchors, after.anchors)


def test_images_that_are_gone_leave_the_others_where_they_are() -> None:
    rows = _rows(60)
    before = map_coordinates(_state(rows[:50]))
    after = map_coordinates(_state(rows, deleted=(10, 13, 40)), previous=before)
    assert set(before.ids) - set(after.ids) == {10, 13, 40}
    ids, xy = before.of(after.ids)
    assert np.array_equal(after.xy[np.isin(after.ids, ids)], xy)
    assert len(after.ids) == 57


def test_a_map_is_laid_out_anew_when_little_of_it_is_left() -> None:
    rows = _rows(110)
    found = map_coordinates(_state(rows[:50]))
    elsewhere = dataclasses.replace(found, xy=found.xy + 1000)

    def stays(state: Any, seed: int = 0) -> bool:
        again = map_coordinates(state, previous=elsewhere, seed=seed)
        assert len(again.ids) == len(state.vectors)
        return bool((again.xy > 500).all())

    assert stays(_state(rows[:50]))
    assert stays(_state(rows[:100]))  # the new ones are placed beside the old ones
    assert not stays(_state(rows[:101]))  # more than twice as many
    assert not stays(_state(rows[:50], space="another"))
    assert not stays(_state(rows[:50]), seed=1)
    assert stays(_state(rows[:50], deleted=tuple(range(10, 145, 3))))  # five are left
    assert not stays(_state(rows[:50], deleted=tuple(range(10, 148, 3))))


def test_a_map_may_be_of_some_images_only() -> None:
    only = np.array([11, 13, 16, 19, 22, 25, 28, 31], np.int64)  # 11 is no image
    found = map_coordinates(_state(_rows(40)), only=only)
    assert found.ids.tolist() == [13, 16, 19, 22, 25, 28, 31]
    assert found.laid_out == 7


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openTSNE", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'clipsearch\[map\]'"):
        map_coordinates(_state(_rows(9)))


def test_neighbours_are_the_exact_ones() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1100, 20)).astype(np.float32)
    others = rng.normal(size=(150, 20)).astype(np.float32)

    def check(exact: Any, found: Any, distances: Any, k: int) -> None:
        nearest = np.sort(exact, axis=1)[:, :k]
        assert found.shape == (len(exact), k)
        assert np.allclose(np.take_along_axis(exact, found, axis=1), nearest, atol=1e-5)
        assert np.allclose(distances, nearest, atol=1e-5)
        assert all(len(set(row)) == k for row in found.tolist())

    check(_distances(others, points), *NearestPoints(points, 15).find(others), 15)
    exact = _distances(points, points)
    np.fill_diagonal(exact, np.inf)
    check(exact, *neighbours_of_each(points, 90), 90)


def _distances(some: Any, others: Any) -> Any:
    return np.sqrt(((some[:, None].astype(np.float64) - others[None]) ** 2).sum(axis=2))


def test_of_fewer_points_all_are_neighbours() -> None:
    points = np.eye(3, dtype=np.float32)
    found, distances = NearestPoints(points, 15).find(points[:1] * 2)
    assert found[0].tolist()[0] == 0
    assert sorted(found[0].tolist()) == [0, 1, 2]
    assert distances[0, 0] == pytest.approx(1)


# -- kept in an index -----------------------------------------------------------------------


def test_the_map_of_an_index_is_kept_and_extended(mini_index: Path, pictures: Path) -> None:
    from indexer import build_index

    index = open_index(mini_index)
    first = update_map(mini_index, index.state())
    table = pq.read_table(map_file(mini_index))
    assert table.column("id").to_pylist() == first.ids.tolist()
    assert table.column("x").to_pylist() == first.xy[:, 0].tolist()
    assert table.schema.metadata[b"clipsearch.space"].decode() == index.space.fingerprint
    written = map_file(mini_index).read_bytes()
    again = update_map(mini_index, index.state())
    assert np.array_equal(again.xy, first.xy)
    assert map_file(mini_index).read_bytes() == written
    from PIL import Image

    more = pictures.parent / "more"
    more.mkdir()
    for number, picture in enumerate(sorted(pictures.iterdir())[:3]):
        with Image.open(picture) as opened:
            opened.convert("RGB").rotate(180).save(more / f"turned{number}.png")
    build_index(more, mini_index)
    index.refresh()
    grown = update_map(mini_index, index.state())
    assert len(grown.ids) == len(first.ids) + 3
    assert np.array_equal(grown.of(first.ids)[1], first.xy)
    assert len(pq.read_table(map_file(mini_index))) == len(grown.ids)
    assert update_map(mini_index, index.state(), anew=True).anchors.all()


def test_a_part_of_the_images_is_found_on_the_kept_map_or_gets_one_that_is_not_kept(
    mini_index: Path,
) -> None:
    state = open_index(mini_index).state()
    some = state.vectors.ids[:6]
    assert update_map(mini_index, state, only=some).ids.tolist() == some.tolist()
    assert not map_file(mini_index).exists()
    whole = update_map(mini_index, state)
    assert np.array_equal(update_map(mini_index, state, only=some).xy, whole.xy)


def test_a_damaged_map_is_told_and_laid_out_anew(mini_index: Path) -> None:
    index = open_index(mini_index)
    uuid = index.state().manifest.uuid
    assert map_problem(mini_index, uuid) is None  # there is none
    first = update_map(mini_index, index.state())
    assert map_problem(mini_index, uuid) is None
    whole = map_file(mini_index).read_bytes()
    rng, told = np.random.default_rng(1), 0
    for position in [0, len(whole) - 1, *rng.integers(4, len(whole), 60).tolist()]:
        data = bytearray(whole)
        data[position] ^= 0x41
        map_file(mini_index).write_bytes(data)
        message = map_problem(mini_index, uuid)
        if message is None:  # something that says nothing of the map
            found = read_map(mini_index, uuid)
            assert found is not None
            assert np.array_equal(found.xy, first.xy)
            assert np.array_equal(found.ids, first.ids)
        else:
            told += 1
            assert "delete it" in message
    assert told > 30
    map_file(mini_index).write_bytes(whole[: len(whole) // 2])
    assert np.array_equal(update_map(mini_index, index.state()).xy, first.xy)
    assert map_file(mini_index).read_bytes() == whole
    with pytest.raises(IndexFormatError, match="belongs to another index"):
        read_map(mini_index, "another")


def test_a_map_that_cannot_be_kept_is_a_map_still(
    mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(map_files, "replace_file", full)
    state = open_index(mini_index).state()
    assert len(update_map(mini_index, state).ids) == len(state.vectors)
    assert not map_file(mini_index).exists()


def test_a_discovery_named_map_and_the_map_are_no_business_of_each_other(mini_index: Path) -> None:
    state = open_index(mini_index).state()
    save_map(mini_index, state.manifest.uuid, map_coordinates(state))
    assert check_discovery_name("map") == "map"
    assert json_name("map") != MAP_FILE
    assert discovery_files(mini_index, "map") == []
