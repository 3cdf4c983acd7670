"""One conformance suite for everything that finds nearest vectors, against exact NumPy.

A further kind of index joins by one line in ``KINDS``.
"""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from clipsearch.encoder import Float32, ImageGeometry, Space
from clipsearch.errors import IndexFormatError, QueryError
from clipsearch.faiss_index import FaissIndex
from clipsearch.manifest import new_manifest
from clipsearch.shards import Int64
from clipsearch.vector_index import (
    EXACT_BYTES,
    NO_ID,
    ExactIndex,
    TopK,
    choose_kind,
    exact_search,
    inner_products,
)
from clipsearch.vector_search import VectorSearch
from clipsearch.vectors import Vectors

GAP = 2e-5  # scores farther apart than this must come in the right order


class Searches(Protocol):
    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Float32, Int64]: ...


Make = Callable[[Int64, Float32], Searches]


def exact(ids: Int64, rows: Float32) -> ExactIndex:
    index = ExactIndex(rows.shape[1])
    for part in np.array_split(np.arange(len(ids)), 3):  # what is added in parts is one index
        index.add(ids[part], rows[part])
    return index


def by_faiss(ids: Int64, rows: Float32) -> FaissIndex:
    index = FaissIndex(rows.shape[1])
    for part in np.array_split(np.arange(len(ids)), 3):
        index.add(ids[part], rows[part])
    return index


class Whole:
    """``VectorSearch`` in the shape of the protocol: it takes its vectors from an index."""

    def __init__(self, ids: Int64, rows: Float32) -> None:
        dim = rows.shape[1]
        space = Space("toy", "f" * 64, "toy", dim, 1.0, None, ImageGeometry(8, 8))
        manifest = dataclasses.replace(new_manifest("test"), spaces={"toy": space})
        order = np.argsort(ids)
        halves = np.array_split(rows[order].astype(np.float16), 2)
        vectors = Vectors(ids[order], tuple(halves), dim, np.empty(0, np.int64))
        self.inner = VectorSearch(vectors, Path("no cache"), manifest, "toy")

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Float32, Int64]:
        scores, ids = self.inner.search(queries, k, allowed=allowed)
        missing = k - scores.shape[1]  # it never answers with more columns than vectors
        return (
            np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
            np.pad(ids, ((0, 0), (0, missing)), constant_values=NO_ID),
        )


KINDS: dict[str, Make] = {"exact": exact, "faiss": by_faiss, "search": Whole}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
SAVED: dict[str, type[ExactIndex] | type[FaissIndex]] = {"exact": ExactIndex, "faiss": FaissIndex}
each_saved = pytest.mark.parametrize("kind", SAVED.values(), ids=SAVED)


def unit(count: int, dim: int, seed: int = 0) -> Float32:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def scattered_ids(count: int) -> Int64:
    return np.cumsum(np.random.default_rng(99).integers(1, 5, count)).astype(np.int64)


def reference(
    ids: Int64, rows: Float32, queries: Float32, k: int, allowed: Int64 | None = None
) -> tuple[np.ndarray, Int64]:
    """The right answer, in float64, over the fp16 values of ``rows``."""
    wanted_scores = np.full((len(queries), k), -np.inf)
    wanted_ids = np.full((len(queries), k), NO_ID, np.int64)
    keep = np.ones(len(ids), bool) if allowed is None else np.isin(ids, allowed)
    products = queries.astype(np.float64) @ rows.astype(np.float16).astype(np.float64)[keep].T
    for row, scores in enumerate(products):
        order = np.lexsort((ids[keep], -scores))[:k]
        wanted_scores[row, : len(order)] = scores[order]
        wanted_ids[row, : len(order)] = ids[keep][order]
    return wanted_scores, wanted_ids


def check(
    index: Searches,
    ids: Int64,
    rows: Float32,
    queries: Float32,
    k: int,
    allowed: Int64 | None = None,
) -> None:
    scores, found = index.search(queries, k, allowed)
    assert [scores.dtype, found.dtype] == [np.dtype(np.float32), np.dtype(np.int64)]
    assert scores.shape == found.shape == (len(queries), k)
    wanted_scores, wanted = reference(ids, rows, queries, k + 1, allowed)
    np.testing.assert_allclose(scores, wanted_scores[:, :k], atol=1e-5)
    before = np.full((len(queries), 1), np.inf)
    with np.errstate(invalid="ignore"):  # inf - inf beyond the last hit
        steps = -np.diff(np.concatenate([before, wanted_scores], axis=1), axis=1)
    clear = (steps[:, :k] > GAP) & (steps[:, 1:] > GAP) | (wanted[:, :k] == NO_ID)
    assert clear.mean() > 0.8, "the data leaves too much open for a test"
    np.testing.assert_array_equal(found[clear], wanted[:, :k][clear])


@each_kind
@pytest.mark.parametrize(("count", "dim"), [(1000, 512), (3000, 100), (40_000, 32), (37, 7)])
@pytest.mark.parametrize("k", [1, 10])
def test_equals_the_reference(make: Make, count: int, dim: int, k: int) -> None:
    ids, rows, queries = scattered_ids(count), unit(count, dim), unit(9, dim, seed=1)
    index = make(ids, rows)
    check(index, ids, rows, queries, k)
    check(index, ids, rows, queries[:1], k)


@each_kind
def test_image_finds_itself(make: Make) -> None:
    ids, rows = scattered_ids(500), unit(500, 64)
    scores, found = make(ids, rows).search(rows, 1)
    np.testing.assert_array_equal(found[:, 0], ids)
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-3)


@each_kind
def test_one_query_may_be_flat(make: Make) -> None:
    ids, rows = scattered_ids(50), unit(50, 16)
    index = make(ids, rows)
    flat, two = index.search(rows[7], 5), index.search(rows[7:8], 5)
    np.testing.assert_array_equal(flat[1], two[1])
    assert flat[1].shape == (1, 5)


@each_kind
@pytest.mark.parametrize("k", [1, 5, 60, 200, 1001])
def test_allowed(make: Make, k: int) -> None:
    ids, rows, queries = scattered_ids(1000), unit(1000, 48), unit(5, 48, seed=1)
    index = make(ids, rows)
    everything = np.arange(ids[-1] + 1)
    unknown = np.setdiff1d(everything, ids)
    mixed = np.union1d(unknown[:100], ids[100:150])
    for allowed in (ids, everything, ids[:1], ids[500:560], ids[::7], mixed):
        check(index, ids, rows, queries, k, allowed.astype(np.int64))
    for nothing in (np.empty(0, np.int64), unknown, np.array([-7, NO_ID], np.int64)):
        scores, found = index.search(queries, k, nothing)
        assert np.isneginf(scores).all()
        assert (found == NO_ID).all()
        assert found.shape == (5, k)


@each_kind
@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_more_asked_for_than_there_is(make: Make, count: int) -> None:
    ids, rows = scattered_ids(count), unit(count, 20)
    index = make(ids, rows)
    for k in (1, 2, 10, 50):
        scores, found = index.search(unit(3, 20, seed=1), k)
        check(index, ids, rows, unit(3, 20, seed=1), k)
        assert ((found == NO_ID) == np.isneginf(scores)).all()
        assert ((found >= 0).sum(axis=1) == min(k, count)).all()


@each_kind
def test_no_query(make: Make) -> None:
    ids, rows = scattered_ids(20), unit(20, 8)
    scores, found = make(ids, rows).search(np.empty((0, 8), np.float32), 4)
    assert scores.shape == found.shape == (0, 4)


@each_kind
@pytest.mark.parametrize("dim", [7, 32, 100, 511, 512])
@pytest.mark.parametrize("copies", [2, 5, 60, 400])
def test_equal_vectors_come_by_id(make: Make, dim: int, copies: int) -> None:
    """However many there are, wherever they stand, and wherever k cuts through them."""
    ids, rows = scattered_ids(1003), unit(1003, dim)
    twins = np.sort(np.random.default_rng(2).choice(1003, copies, replace=False))
    rows[twins] = rows[twins[0]]
    queries = np.concatenate([rows[twins[:1]], unit(4, dim, seed=5)])
    index = make(ids, rows)
    for k in (1, copies - 1, copies, copies + 3, 1003):
        scores, found = index.search(queries, k)
        np.testing.assert_array_equal(found[0, :copies], ids[twins][:k])
        assert len(set(scores[0, : min(k, copies)].tolist())) == 1
        for row in found:
            here = row[np.isin(row, ids[twins])]
            np.testing.assert_array_equal(here, ids[twins][: len(here)])
    half = ids[twins[1::2]]
    if len(half):
        _, found = index.search(queries[:1], 3, half)
        np.testing.assert_array_equal(found[0, : len(half)], half[:3])


@each_kind
def test_ids_added_out_of_order(make: Make) -> None:
    ids = np.array([50, 3, 40, 7, 9, 1], np.int64)
    rows = np.repeat(unit(1, 16), 6, axis=0)
    _, found = make(ids, rows).search(rows[:2], 4)
    np.testing.assert_array_equal(found, [[1, 3, 7, 9]] * 2)


@each_kind
def test_all_vectors_alike(make: Make) -> None:
    ids = scattered_ids(2000)
    rows = np.repeat(unit(1, 32), 2000, axis=0)
    _, found = make(ids, rows).search(rows[:1], 7)
    np.testing.assert_array_equal(found[0], ids[:7])


@each_kind
def test_pages_do_not_overlap(make: Make) -> None:
    ids, rows = scattered_ids(300), np.repeat(unit(100, 24), 3, axis=0)
    index = make(ids, rows)
    _, whole = index.search(unit(2, 24, seed=1), 300)
    assert [sorted(row) for row in whole.tolist()] == [ids.tolist()] * 2
    for k in (1, 2, 17, 50, 299):
        np.testing.assert_array_equal(index.search(unit(2, 24, seed=1), k)[1], whole[:, :k])


@each_kind
def test_opposite_vectors_rank_last(make: Make) -> None:
    rows = unit(20, 16)
    rows[4] = -rows[0]
    scores, found = make(np.arange(20), rows).search(rows[:1], 20)
    assert found[0, -1] == 4
    assert scores[0, -1] == pytest.approx(-1, abs=1e-3)


@each_kind
@pytest.mark.parametrize(
    ("queries", "k"),
    [
        (np.ones((2, 7), np.float32), 3),
        (np.ones((2, 9), np.float32), 3),
        (np.ones((1, 1, 8), np.float32), 3),
        (np.ones(3, np.float32), 3),
        (np.full((1, 8), np.nan, np.float32), 3),
        (np.array([[1, 0, 0, 0, 0, 0, 0, np.inf]], np.float32), 3),
        (np.ones((1, 8), np.float32), 0),
        (np.ones((1, 8), np.float32), -1),
    ],
)
def test_bad_queries(make: Make, queries: Float32, k: int) -> None:
    with pytest.raises(QueryError):
        make(np.arange(5), unit(5, 8)).search(queries, k)


@each_kind
def test_queries_of_other_types(make: Make) -> None:
    ids, rows = scattered_ids(50), unit(50, 8)
    index = make(ids, rows)
    wide = unit(4, 16, seed=3)[:, ::2]
    wanted = index.search(np.ascontiguousarray(wide), 5)[1]
    others: list[Any] = [wide, wide.astype(np.float64), np.asfortranarray(wide)]
    for queries in others:
        np.testing.assert_array_equal(index.search(queries, 5)[1], wanted)


@each_kind
def test_threads_find_the_same(make: Make) -> None:
    ids, rows = scattered_ids(5000), unit(5000, 64)
    index = make(ids, rows)
    queries = unit(24, 64, seed=1)
    allowed = ids[::2]
    alone = [index.search(query, 9, allowed if n % 2 else None) for n, query in enumerate(queries)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            together = pool.map(
                lambda n: index.search(queries[n], 9, allowed if n % 2 else None), range(24)
            )
            for (scores, found), (wanted_scores, wanted) in zip(together, alone, strict=True):
                np.testing.assert_array_equal(found, wanted)
                np.testing.assert_array_equal(scores, wanted_scores)


# -- what is added, saved and loaded ------------------------------------------------------


@each_saved
def test_add_checks_shapes(kind: type[ExactIndex] | type[FaissIndex]) -> None:
    index = kind(8)
    for rows in (unit(3, 8), unit(4, 9), unit(4, 8)[0]):
        with pytest.raises(QueryError, match="expected 4 x 8"):
            index.add(np.arange(4), rows)
    assert len(index) == 0
    index.add(np.arange(4), unit(4, 8))
    assert len(index) == 4


@each_saved
def test_every_number_of_fp16_is_kept(kind: type[ExactIndex] | type[FaissIndex]) -> None:
    numbers = np.arange(2**16, dtype=np.uint16).view(np.float16)
    rows = numbers[np.isfinite(numbers)].astype(np.float32)[:, None]
    index = kind(1)
    index.add(np.arange(len(rows)), rows)
    scores, ids = index.search(np.ones((1, 1), np.float32), len(rows))
    np.testing.assert_array_equal(scores[0], rows[ids[0], 0])


@each_saved
def test_rounds_as_the_shards_do(kind: type[ExactIndex] | type[FaissIndex]) -> None:
    rows = unit(20_000, 1) * np.random.default_rng(1).random((20_000, 1), np.float32)
    rows[:2, 0] = [1 + 2**-11, 1 + 3 * 2**-11]  # halfway between two numbers of fp16
    index = kind(1)
    index.add(np.arange(len(rows)), rows)
    scores, ids = index.search(np.ones((1, 1), np.float32), len(rows))
    np.testing.assert_array_equal(scores[0], rows.astype(np.float16)[ids[0], 0])


@each_saved
def test_caller_may_use_its_arrays_again(kind: type[ExactIndex] | type[FaissIndex]) -> None:
    index = kind(8)
    ids, rows = np.arange(4), unit(4, 8)
    query = rows[2].copy()
    index.add(ids, rows)
    ids[:], rows[:] = 77, 0
    assert index.search(query, 1)[1].tolist() == [[2]]


@each_saved
@pytest.mark.parametrize("count", [0, 1, 700])
def test_save_and_load(
    kind: type[ExactIndex] | type[FaissIndex], count: int, tmp_path: Path
) -> None:
    ids, rows, queries = scattered_ids(count), unit(count, 40), unit(6, 40, seed=1)
    index = kind(40)
    index.add(ids, rows)
    place = tmp_path / "deep" / "saved"
    index.save(place)
    loaded = kind.load(place)
    assert (loaded.dim, len(loaded), loaded.kind) == (40, count, index.kind)
    before, after = index.search(queries, 8), loaded.search(queries, 8)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    index.save(place)  # over a file that is mapped
    np.testing.assert_array_equal(loaded.search(queries, 8)[1], before[1])
    assert [path.name for path in place.parent.iterdir()] == ["saved"]


@each_saved
@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 1000, b"IxMp" + b"\xff" * 500, b"PK\3\4"])
def test_load_foreign(
    kind: type[ExactIndex] | type[FaissIndex], content: bytes, tmp_path: Path
) -> None:
    place = tmp_path / "saved"
    with pytest.raises(IndexFormatError):
        kind.load(place)
    place.write_bytes(content)
    with pytest.raises(IndexFormatError):
        kind.load(place)
    place.unlink()
    place.mkdir()
    with pytest.raises(IndexFormatError):
        kind.load(place)


def test_load_other_arrays(tmp_path: Path) -> None:
    place = tmp_path / "saved.npz"
    ids, rows = np.arange(3), np.zeros((3, 4), np.float16)
    for arrays in (
        {"ids": ids},
        {"ids": ids, "rows": rows[:2]},
        {"ids": ids, "rows": rows[:, 0]},
        {"ids": ids, "rows": rows.astype(np.float64)},
        {"ids": ids.astype(str), "rows": rows},
    ):
        np.savez(place, **arrays)
        with pytest.raises(IndexFormatError):
            ExactIndex.load(place)
    np.save(tmp_path / "plain.npy", ids)
    with pytest.raises(IndexFormatError):
        ExactIndex.load(tmp_path / "plain.npy")


@each_saved
def test_damaged_file(kind: type[ExactIndex] | type[FaissIndex], tmp_path: Path) -> None:
    """Cut or changed anywhere, it is refused or answers as before; it never ends the process."""
    index = kind(16)
    ids, rows = np.arange(20), unit(20, 16)
    index.add(ids, rows)
    place = tmp_path / "saved"
    index.save(place)
    wanted = index.search(rows, 4)
    good = place.read_bytes()
    for length in range(0, len(good), 3):
        place.write_bytes(good[:length])
        with pytest.raises(IndexFormatError):
            kind.load(place)
    refused = 0
    for position in range(0, len(good), 2):
        for change in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= change
            place.write_bytes(bad)
            try:
                loaded = kind.load(place)
            except IndexFormatError:
                refused += 1
            else:
                np.testing.assert_array_equal(loaded.search(rows, 4)[1], wanted[1])
    assert refused > 0.7 * (len(good) / 2) * 3


def test_faiss_file_of_another_kind(tmp_path: Path) -> None:
    import faiss

    from clipsearch.store import seal

    flat = faiss.IndexFlatIP(8)
    by_distance = faiss.IndexIDMap(faiss.IndexFlatL2(8))
    for number, index in enumerate((flat, by_distance)):
        place = tmp_path / str(number)
        faiss.write_index(index, str(place))
        with pytest.raises(IndexFormatError):
            FaissIndex.load(place)
        data = place.read_bytes()
        place.write_bytes(data + seal(memoryview(data)))
        with pytest.raises(IndexFormatError, match="inner-product"):
            FaissIndex.load(place)


# -- the parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 2, 7, 100, 1000])
def test_exact_search_does_not_depend_on_blocks(block: int) -> None:
    ids, rows = scattered_ids(1000), unit(1000, 100).astype(np.float16)
    rows[500:600] = rows[3]
    queries = np.concatenate([rows[3:4].astype(np.float32), unit(3, 100, seed=1)])
    blocks = [
        (ids[start : start + block], rows[start : start + block].astype(np.float32))
        for start in range(0, 1000, block)
    ]
    scores, found = exact_search(blocks, queries, 20)
    whole_scores, whole = exact_search([(ids, rows.astype(np.float32))], queries, 20)
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(scores, whole_scores)


def test_top_k_keeps_the_best_in_any_order() -> None:
    chance = np.random.default_rng(0)
    scores = chance.integers(0, 30, (3, 400)).astype(np.float32)  # many ties
    ids = chance.permutation(400).astype(np.int64)
    best = TopK(3, 25)
    for start in range(0, 400, 23):
        best.add(scores[:, start : start + 23], ids[start : start + 23])
    for row in range(3):
        order = np.lexsort((ids, -scores[row]))[:25]
        np.testing.assert_array_equal(best.ids[row], ids[order])
        np.testing.assert_array_equal(best.scores[row], scores[row, order])


def test_top_k_with_a_row_of_ids_for_each_query() -> None:
    best = TopK(2, 2)
    scores = np.array([[1, 3, 2], [-np.inf, 5, -np.inf]], np.float32)
    best.add(scores, np.array([[10, 11, 12], [NO_ID, 21, NO_ID]], np.int64))
    assert best.ids.tolist() == [[11, 12], [21, NO_ID]]
    assert best.scores.tolist() == [[3, 2], [5, -np.inf]]


def test_choice_by_size() -> None:
    rows = EXACT_BYTES // 1024
    assert choose_kind(rows, 512) == "exact"
    assert choose_kind(rows + 1, 512) == "sqfp16"
    assert choose_kind(0, 512) == "exact"


def test_scores_of_many_take_little_room() -> None:
    rows = np.random.default_rng(4).standard_normal((50_000, 64), dtype=np.float32)
    expected = (rows.astype(np.float64) * rows[7].astype(np.float64)).sum(axis=1)
    tracemalloc.start()
    try:
        scores = inner_products(rows, rows[7])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(scores, expected.astype(np.float32))
    assert peak < 4_000_000  # in float64 all rows are 25.6 MB
