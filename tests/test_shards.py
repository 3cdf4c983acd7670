"""Parquet files: exact numbers, the promised layout, and damage that is told, not read."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsearch.errors import IndexFormatError
from clipsearch.manifest import FileRef, ShardRef, read_manifest
from clipsearch.shards import (
    PATH_SCHEMA,
    embedding_schema,
    embedding_table,
    read_table,
    read_tables,
    vectors_of,
    write_shard,
    write_table,
)
from clipsearch.store import LocalStore
from clipsearch.vectors import read_vectors

DIM = 24


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def unit_rows(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def write(
    store: LocalStore, ids: np.ndarray, rows: np.ndarray, name: str = "e/0.parquet"
) -> ShardRef:
    table = embedding_table(ids, rows)
    return write_shard(
        store, name, table, kind="embeddings", index_uuid="the-uuid", recipe={"a": 1}
    )


def test_round_trip_is_exact(store: LocalStore) -> None:
    ids = np.array([3, 4, 10, 2**62], np.int64)
    rows = unit_rows(4)
    rows[1, :4] = [0.0, -0.0, 6e-8, 65504.0]  # zero of both signs, least and greatest fp16
    ref = write(store, ids, rows)
    assert (ref.rows, ref.first_id, ref.last_id, ref.recipe) == (4, 3, 2**62, {"a": 1})
    read_ids, vectors = read_vectors(store, ref, DIM)
    np.testing.assert_array_equal(read_ids, ids)
    assert vectors.dtype == np.dtype("<f2")
    assert vectors.tobytes() == rows.astype("<f2").tobytes()


def test_readme_way_to_open(store: LocalStore) -> None:
    rows = unit_rows(100)
    write(store, np.arange(100), rows)
    table = pq.read_table(store.root / "e/0.parquet")
    matrix = np.frombuffer(table["embedding"].combine_chunks().buffers()[1], "<f2").reshape(-1, DIM)
    np.testing.assert_array_equal(matrix, rows.astype(np.float16))


def test_readme_way_on_a_real_index(mini_index: Path) -> None:
    store = LocalStore(mini_index)
    manifest = read_manifest(store, "here")
    assert manifest.default_space is not None
    dim = manifest.spaces[manifest.default_space].dim
    (shard,) = manifest.embeddings[manifest.default_space]
    table = pq.read_table(mini_index / shard.name)
    matrix = np.frombuffer(table["embedding"].combine_chunks().buffers()[1], "<f2").reshape(-1, dim)
    assert len(matrix) == shard.rows
    np.testing.assert_allclose(np.linalg.norm(matrix.astype(np.float32), axis=1), 1, atol=2e-3)
    np.testing.assert_array_equal(read_vectors(store, shard, dim)[1], matrix)


def test_layout_on_the_disk(store: LocalStore) -> None:
    write(store, np.arange(1000), unit_rows(1000))
    metadata = pq.read_metadata(store.root / "e/0.parquet")
    assert metadata.num_row_groups == 1
    column = metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.compression) == ("embedding", "UNCOMPRESSED")
    assert column.physical_type == "FIXED_LEN_BYTE_ARRAY"
    assert metadata.schema.column(1).length == 2 * DIM
    assert not any("DICTIONARY" in encoding for encoding in column.encodings)
    assert not column.has_dictionary_page
    schema = pq.read_schema(store.root / "e/0.parquet")
    assert schema.equals(embedding_schema(DIM), check_metadata=False)
    assert schema.field("embedding").type == pa.binary(2 * DIM)
    assert schema.metadata[b"clipsearch.index"] == b"the-uuid"
    assert schema.metadata[b"clipsearch.kind"] == b"embeddings"


def test_other_tables_are_compressed(mini_index: Path) -> None:
    manifest = read_manifest(LocalStore(mini_index), "here")
    for ref in [*manifest.images, *manifest.paths]:
        group = pq.read_metadata(mini_index / ref.name).row_group(0)
        assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_empty_table(store: LocalStore) -> None:
    table = embedding_table(np.empty(0, np.int64), np.empty((0, DIM), np.float32))
    ref = write_table(store, "e/0.parquet", table, kind="embeddings", index_uuid="u")
    assert ref.rows == 0
    ids, vectors = vectors_of(read_table(store, ref))
    assert ids.shape == (0,)
    assert vectors.shape == (0, DIM)
    ids, vectors = vectors_of(embedding_schema(DIM).empty_table())
    assert vectors.shape == (0, DIM)


def test_sliced_and_chunked_tables() -> None:
    rows = unit_rows(50).astype(np.float16)
    table = embedding_table(np.arange(50), rows.astype(np.float32))
    ids, vectors = vectors_of(table.slice(7, 20))
    np.testing.assert_array_equal(ids, np.arange(7, 27))
    np.testing.assert_array_equal(vectors, rows[7:27])
    pieces = pa.concat_tables([table.slice(40, 10), table.slice(3, 0), table.slice(5, 6)])
    ids, vectors = vectors_of(pieces)
    np.testing.assert_array_equal(ids, [*range(40, 50), *range(5, 11)])
    np.testing.assert_array_equal(vectors, rows[[*range(40, 50), *range(5, 11)]])
    assert vectors_of(table.slice(10, 0))[1].shape == (0, DIM)


def test_a_whole_table_is_not_copied() -> None:
    table = embedding_table(np.arange(5), unit_rows(5))
    first, second = vectors_of(table)[1], vectors_of(table)[1]
    assert np.shares_memory(first, second)


@pytest.mark.parametrize("shape", [(4, DIM), (6, DIM), (5,)])
def test_as_many_ids_as_vectors(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 5 rows"):
        embedding_table(np.arange(5), np.zeros(shape, np.float32))


def test_a_name_is_written_once(store: LocalStore) -> None:
    write(store, np.arange(5), unit_rows(5))
    before = store.get("e/0.parquet")
    with pytest.raises(FileExistsError):
        write(store, np.arange(6), unit_rows(6))
    assert store.get("e/0.parquet") == before


def one_line(error: pytest.ExceptionInfo[IndexFormatError]) -> None:
    assert "\n" not in str(error.value)
    assert "e/0.parquet" in str(error.value)


def test_missing_file(store: LocalStore) -> None:
    ref = write(store, np.arange(5), unit_rows(5))
    store.delete(ref.name)
    with pytest.raises(IndexFormatError, match="has lost") as error:
        read_table(store, ref)
    one_line(error)


def test_folder_in_place_of_a_file(store: LocalStore) -> None:
    ref = write(store, np.arange(5), unit_rows(5))
    store.delete(ref.name)
    (store.root / ref.name).mkdir()
    with pytest.raises(IndexFormatError, match="damaged") as error:
        read_table(store, ref)
    one_line(error)


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 8, 500, -9, -8, -5, -1])
def test_truncated_file(store: LocalStore, kept: int) -> None:
    ref = write(store, np.arange(50), unit_rows(50))
    data = store.get(ref.name)
    store.replace(ref.name, data[:kept])
    with pytest.raises(IndexFormatError, match="damaged") as error:
        read_table(store, ref)
    one_line(error)


def test_row_count_of_the_manifest(store: LocalStore) -> None:
    ref = write(store, np.arange(50), unit_rows(50))
    with pytest.raises(IndexFormatError, match="has 50 rows, the manifest says 1,051") as error:
        read_table(store, dataclasses.replace(ref, rows=1051))
    one_line(error)


def test_flipped_bytes_never_become_other_numbers(store: LocalStore) -> None:
    rows = unit_rows(40)
    ref = write(store, np.arange(40), rows)
    good = store.get(ref.name)
    chance = random.Random(1)
    wanted = rows.astype("<f2").tobytes()
    caught = 0
    positions = range(0, len(good), 3)
    for position in positions:
        bad = bytearray(good)
        bad[position] ^= chance.choice([1, 128, 255])
        store.replace(ref.name, bytes(bad))
        try:
            ids, vectors = read_vectors(store, ref, DIM)
        except IndexFormatError:
            caught += 1
        else:  # a byte that says nothing, such as a statistic
            np.testing.assert_array_equal(ids, np.arange(40))
            assert vectors.tobytes() == wanted
    assert caught > 0.6 * len(positions)


def test_flipped_bytes_of_a_compressed_table(store: LocalStore) -> None:
    now = datetime.now(UTC)
    table = pa.Table.from_pylist(
        [
            {
                "root": 0,
                "path": b"p%d" % i,
                "name": f"p{i}",
                "size": i,
                "mtime_ns": i,
                "inode": i,
                "id": i,
                "state": "present",
                "first_seen": now,
                "last_seen": now,
            }
            for i in range(30)
        ],
        schema=PATH_SCHEMA,
    )
    ref = write_table(store, "e/0.parquet", table, kind="paths", index_uuid="u")
    good = store.get(ref.name)
    wanted = table.to_pylist()
    for position in range(0, len(good), 5):
        bad = bytearray(good)
        bad[position] ^= 0x81
        store.replace(ref.name, bytes(bad))
        with contextlib.suppress(IndexFormatError):
            assert read_tables(store, [ref], PATH_SCHEMA).to_pylist() == wanted


def test_wrong_dimension_and_foreign_columns(store: LocalStore) -> None:
    ref = write(store, np.arange(5), unit_rows(5))
    with pytest.raises(IndexFormatError, match="vectors of 25 numbers"):
        read_vectors(store, ref, DIM + 1)
    table = pa.table({"id": [1, 2], "other": ["a", "b"]})
    other = write_table(store, "o.parquet", table, kind="x", index_uuid="u")
    with pytest.raises(IndexFormatError, match="does not hold ids and vectors"):
        read_vectors(store, ShardRef(other.name, 2, other.bytes, other.sha256, 1, 2), DIM)
    with pytest.raises(IndexFormatError, match="other columns"):
        read_tables(store, [other], PATH_SCHEMA)
    with pytest.raises(IndexFormatError, match="other columns"):
        read_tables(store, [other], pa.schema([pa.field("other", pa.int64())]))
    with pytest.raises(IndexFormatError):
        read_tables(store, [other], PATH_SCHEMA, ["path"])


def test_tables_one_after_the_other(store: LocalStore) -> None:
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("word", pa.string())])
    refs: list[FileRef] = []
    for number, words in enumerate([["a", "b"], [], ["c"]]):
        ids = pa.array(range(len(words)), pa.int64())
        table = pa.table([ids, pa.array(words, pa.string())], schema=schema)
        refs.append(
            write_table(store, f"{number}.parquet", table, kind="x", index_uuid=str(number))
        )
    assert read_tables(store, refs, schema).column("word").to_pylist() == ["a", "b", "c"]
    assert read_tables(store, refs, schema, ["word"]).column_names == ["word"]
    assert read_tables(store, [], schema, ["word"]).schema == pa.schema([schema.field("word")])
    assert len(read_tables(store, [], schema)) == 0
