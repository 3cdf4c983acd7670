"""The mapped cache of vectors: it may be old, torn, foreign or gone, and never wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipsearch.encoder import ImageGeometry, Space
from clipsearch.errors import IndexFormatError
from clipsearch.manifest import Manifest, ShardRef, new_manifest
from clipsearch.shards import Int64, embedding_table, write_shard
from clipsearch.store import LocalStore
from clipsearch.vectors import VectorCache, Vectors

DIM = 12
SPACE = Space("toy-1", "f" * 64, "toy", DIM, 100.0, None, ImageGeometry(8, 8))
NOTHING = np.empty(0, np.int64)


class Growing:
    """An index that grows by shards of (rows,) random unit vectors; ids leave gaps."""

    def __init__(self, place: Path, seed: int = 0) -> None:
        self.store = LocalStore(place)
        self.chance = np.random.default_rng(seed)
        self.ids = NOTHING
        self.rows = np.empty((0, DIM), np.float16)
        self.manifest = dataclasses.replace(
            new_manifest("test"), default_space=SPACE.id, spaces={SPACE.id: SPACE}
        )

    def grow(self, count: int) -> Manifest:
        first = int(self.ids[-1]) + 1 if len(self.ids) else 0
        ids = first + np.cumsum(self.chance.integers(1, 4, count)) - 1
        rows = self.chance.standard_normal((count, DIM)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        shards = self.manifest.embeddings.get(SPACE.id, ())
        shard = write_shard(
            self.store,
            f"embeddings/toy-1/{len(shards):05d}.parquet",
            embedding_table(ids, rows),
            kind="embeddings",
            index_uuid=self.manifest.uuid,
        )
        self.ids = np.concatenate([self.ids, ids])
        self.rows = np.concatenate([self.rows, rows.astype(np.float16)])
        self.manifest = dataclasses.replace(
            self.manifest,
            generation=self.manifest.generation + 1,
            embeddings={SPACE.id: (*shards, shard)},
        )
        return self.manifest

    @property
    def cache(self) -> VectorCache:
        return VectorCache(self.store.root / "cache", self.manifest, SPACE.id)

    def open(self, deleted: Int64 = NOTHING) -> Vectors:
        return self.cache.open(self.store, deleted)

    def check(self, vectors: Vectors | None = None) -> None:
        """Assert that the vectors are the very numbers of the shards."""
        vectors = vectors or self.open()
        np.testing.assert_array_equal(vectors.ids, self.ids)
        assert sum(map(len, vectors.segments)) == len(self.ids)
        joined = np.concatenate([*vectors.segments, np.empty((0, DIM), np.float16)])
        assert joined.tobytes() == self.rows.tobytes()


@pytest.fixture
def index(tmp_path: Path) -> Growing:
    growing = Growing(tmp_path / "index")
    growing.grow(30)
    growing.grow(50)
    return growing


def files(index: Growing) -> dict[str, Path]:
    return {path.name: path for path in (index.store.root / "cache/vectors/toy-1").iterdir()}


def matrix_file(index: Growing, suffix: str = ".f16") -> Path:
    (found,) = [path for name, path in files(index).items() if name.endswith(suffix)]
    return found


def change_state(index: Growing, changes: dict[str, Any]) -> None:
    place = files(index)["current.json"]
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


def test_without_a_cache(index: Growing) -> None:
    assert not index.cache.usable()
    assert not index.cache.covers_all()
    index.check()


def test_covered_vectors_come_mapped_from_one_matrix(index: Growing) -> None:
    index.cache.update(index.store)
    assert index.cache.covers_all()
    vectors = index.open()
    index.check(vectors)
    assert len(vectors.segments) == 1
    assert isinstance(vectors.segments[0].base, np.memmap)
    assert not vectors.segments[0].flags.writeable
    for _, rows in vectors.blocks(7):
        assert type(rows) is np.ndarray


def test_update_appends(index: Growing) -> None:
    index.cache.update(index.store)
    before = matrix_file(index)
    old_ids, old_rows = index.ids, index.rows
    old = index.open()
    index.grow(20)
    assert index.cache.usable()
    assert not index.cache.covers_all()
    index.check()  # the new shard comes from its file
    assert len(index.open().segments) == 2
    index.cache.update(index.store)
    assert matrix_file(index) == before
    assert before.stat().st_size == 100 * DIM * 2
    assert len(index.open().segments) == 1
    index.check()
    np.testing.assert_array_equal(old.ids, old_ids)
    assert old.segments[0].tobytes() == old_rows.tobytes()


def test_reader_of_an_older_generation(index: Growing) -> None:
    old_manifest, old_ids, old_rows = index.manifest, index.ids, index.rows
    index.grow(20)
    index.cache.update(index.store)
    old = VectorCache(index.store.root / "cache", old_manifest, SPACE.id)
    assert old.covers_all()
    vectors = old.open(index.store, NOTHING)
    np.testing.assert_array_equal(vectors.ids, old_ids)
    assert np.concatenate(vectors.segments).tobytes() == old_rows.tobytes()


def test_nothing_to_update_writes_nothing(index: Growing) -> None:
    index.cache.update(index.store)
    before = {name: path.stat().st_mtime_ns for name, path in files(index).items()}
    index.cache.update(index.store)
    assert {name: path.stat().st_mtime_ns for name, path in files(index).items()} == before


@pytest.mark.parametrize("garbage", [1, 7, 24, 4096])
def test_torn_append(index: Growing, garbage: int) -> None:
    index.cache.update(index.store)
    for suffix in (".f16", ".ids"):
        with open(matrix_file(index, suffix), "ab") as file:
            file.write(b"\xab" * garbage)
    index.check()
    token = matrix_file(index)
    index.grow(10)
    index.check()
    index.cache.update(index.store)
    assert matrix_file(index) == token
    assert len(index.open().segments) == 1
    index.check()


def test_deleted_cache(index: Growing) -> None:
    index.cache.update(index.store)
    for path in files(index).values():
        path.unlink()
    index.check()
    index.cache.update(index.store)
    assert index.cache.covers_all()
    index.check()


@pytest.mark.parametrize("suffix", [".f16", ".ids", "current.json"])
def test_one_file_of_the_cache_is_gone(index: Growing, suffix: str) -> None:
    index.cache.update(index.store)
    matrix_file(index, suffix).unlink()
    assert not index.cache.usable()
    index.check()
    index.cache.update(index.store)
    assert len(files(index)) == 3
    index.check()


@pytest.mark.parametrize("suffix", [".f16", ".ids", "current.json"])
@pytest.mark.parametrize("kept", [0, 8, -1])
def test_truncated_cache(index: Growing, suffix: str, kept: int) -> None:
    index.cache.update(index.store)
    place = matrix_file(index, suffix)
    place.write_bytes(place.read_bytes()[:kept])
    index.check()
    index.cache.update(index.store)
    assert index.cache.covers_all()
    index.check()


@pytest.mark.parametrize("position", [0, 1, 29, 30, 55, 79])
@pytest.mark.parametrize("value", [-5, 10**6])
def test_ids_of_the_cache_are_not_believed(index: Growing, position: int, value: int) -> None:
    index.cache.update(index.store)
    place = matrix_file(index, ".ids")
    ids = np.frombuffer(place.read_bytes(), "<i8").copy()
    ids[position] = value
    place.write_bytes(ids.tobytes())
    index.check()


def test_cache_of_another_index(index: Growing, tmp_path: Path) -> None:
    other = Growing(tmp_path / "other", seed=1)
    other.grow(30)
    other.grow(50)
    other.cache.update(other.store)
    (other.store.root / "cache").rename(index.store.root / "cache")
    assert not index.cache.usable()
    index.check()
    index.cache.update(index.store)
    assert index.cache.covers_all()
    assert len(files(index)) == 3
    index.check()


@pytest.mark.parametrize(
    "changes",
    [
        {"index": "someone else"},
        {"space": "0" * 64},
        {"dim": DIM + 1},
        {"dim": 0},
        {"rows": 10},
        {"rows": 10**9},
        {"rows": float("inf")},
        {"rows": None},
        {"shards": []},
        {"shards": 3},
        {"shards": [["x", 80]]},
        {"shards": [1, 2]},
        {"token": "../../../etc"},
        {"token": "absent"},
        {"token": None},
    ],
    ids=str,
)
def test_foreign_state_is_made_anew(index: Growing, changes: dict[str, Any]) -> None:
    index.cache.update(index.store)
    change_state(index, changes)
    assert not index.cache.covers_all()
    index.check()
    index.cache.update(index.store)
    assert index.cache.covers_all()
    index.check()


@pytest.mark.parametrize("text", ["", "[]", "3", '"a"', "{}", "[" * 50_000, "\xff"])
def test_state_that_is_none(index: Growing, text: str) -> None:
    index.cache.update(index.store)
    files(index)["current.json"].write_bytes(text.encode("latin-1"))
    assert not index.cache.usable()
    index.check()


def test_shards_made_anew(index: Growing) -> None:
    index.cache.update(index.store)
    again = Growing(index.store.root.parent / "again", seed=9)
    again.grow(30)
    again.grow(50)
    # The same index with other shards, as after compaction.
    again.manifest = dataclasses.replace(again.manifest, uuid=index.manifest.uuid)
    (index.store.root / "cache").rename(again.store.root / "cache")
    assert not again.cache.usable()
    again.check()
    again.cache.update(again.store)
    again.check()
    assert len(files(again)) == 3


def test_writer_that_fails_leaves_no_matrix(index: Growing) -> None:
    shards = index.manifest.embeddings[SPACE.id]
    index.store.delete(shards[1].name)
    with pytest.raises(IndexFormatError, match="has lost"):
        index.cache.build(index.store)
    assert files(index) == {}


def test_failed_append_keeps_the_cache(index: Growing) -> None:
    index.cache.update(index.store)
    ids, rows, manifest = index.ids, index.rows, index.manifest
    index.grow(10)
    index.store.delete(index.manifest.embeddings[SPACE.id][2].name)
    with pytest.raises(IndexFormatError, match="has lost"):
        index.cache.update(index.store)
    index.ids, index.rows, index.manifest = ids, rows, manifest
    assert index.cache.covers_all()
    index.check()


def test_ids_that_do_not_rise(index: Growing) -> None:
    first, second = index.manifest.embeddings[SPACE.id]
    index.manifest = dataclasses.replace(index.manifest, embeddings={SPACE.id: (second, first)})
    with pytest.raises(IndexFormatError, match="do not rise"):
        index.open()


def test_index_without_vectors(tmp_path: Path) -> None:
    empty = Growing(tmp_path / "index")
    empty.check()
    empty.cache.update(empty.store)
    assert empty.cache.covers_all()
    vectors = empty.open()
    assert len(vectors) == 0
    assert list(vectors.blocks()) == []
    assert vectors.take([1, 2])[1].shape == (0, DIM)
    empty.grow(5)
    empty.cache.update(empty.store)
    empty.check()
    assert len(empty.open().segments) == 1


def test_a_writer_beside_it_replaces_the_matrix(index: Growing) -> None:
    index.cache.update(index.store)
    reader = index.open()
    index.cache.build(index.store)
    index.check(reader)
    index.check()
    assert len(files(index)) == 3


@pytest.mark.parametrize("covered", [0, 1, 2])
@pytest.mark.parametrize("rows", [1, 2, 3, 29, 30, 31, 80, 1000])
def test_blocks_equal_numpy(tmp_path: Path, covered: int, rows: int) -> None:
    index = Growing(tmp_path / "index")
    for number, count in enumerate((30, 50)):
        index.grow(count)
        if number < covered:
            index.cache.update(index.store)
    gone = [NOTHING, index.ids[::3], index.ids[:31], index.ids, np.array([-4, 10**9])]
    for deleted in gone:
        vectors = index.open(deleted)
        live = ~np.isin(index.ids, deleted)
        assert len(vectors) == int(live.sum())
        for after in (None, -1, 0, int(index.ids[29]), int(index.ids[40]) - 1, int(index.ids[-1])):
            wanted = live if after is None else live & (index.ids > after)
            blocks = list(vectors.blocks(rows, after=after))
            assert all(0 < len(ids) <= rows for ids, _ in blocks)
            assert all(block.dtype == np.float32 for _, block in blocks)
            ids = np.concatenate([NOTHING, *(ids for ids, _ in blocks)])
            joined = np.concatenate(
                [np.empty((0, DIM), np.float32), *(block for _, block in blocks)]
            )
            np.testing.assert_array_equal(ids, index.ids[wanted])
            np.testing.assert_array_equal(joined, index.rows[wanted].astype(np.float32))
            np.testing.assert_array_equal(vectors.take(index.ids[wanted])[1], joined)


def test_take(index: Growing) -> None:
    index.cache.update(index.store)
    index.grow(10)
    vectors = index.open(index.ids[4:6])
    some = [int(index.ids[i]) for i in (85, 0, 4, 33, 0, 89, 29)]
    ids, rows = vectors.take([*some, -1, 10**12])
    kept = [0, 29, 33, 85, 89]
    np.testing.assert_array_equal(ids, index.ids[kept])
    np.testing.assert_array_equal(rows, index.rows[kept].astype(np.float32))
    assert rows.dtype == np.float32
    assert vectors.take([])[1].shape == (0, DIM)
    between = np.setdiff1d(np.arange(index.ids[-1]), index.ids)
    assert len(between) > 10
    assert len(vectors.take(between)[0]) == 0


def test_shard_of_another_dimension(index: Growing) -> None:
    wide = embedding_table(np.array([10**6]), np.zeros((1, DIM + 1), np.float32))
    shard = write_shard(index.store, "w.parquet", wide, kind="embeddings", index_uuid="u")
    shards: tuple[ShardRef, ...] = (*index.manifest.embeddings[SPACE.id], shard)
    index.manifest = dataclasses.replace(index.manifest, embeddings={SPACE.id: shards})
    with pytest.raises(IndexFormatError, match=f"vectors of {DIM} numbers"):
        index.open()
    assert isinstance(wide, pa.Table)
