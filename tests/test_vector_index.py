"""One conformance suite for everything that finds nearest vectors, against exact NumPy.

A further kind of index joins by one line in ``KINDS``.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import tracemalloc
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from clipsearch import exact_search, faiss_index
from clipsearch.approximate_search import ApproximateSearch
from clipsearch.encoder import Float32, ImageGeometry, Space
from clipsearch.errors import IndexFormatError, QueryError
from clipsearch.exact_search import contenders, inner_products
from clipsearch.faiss_index import FaissIndex, list_count, training_rows
from clipsearch.manifest import new_manifest
from clipsearch.search_tuning import Effort
from clipsearch.shards import Int64
from clipsearch.vector_index import (
    EXACT_BYTES,
    FEWEST_ROWS,
    NO_ID,
    check_queries,
    choose_kind,
)
from clipsearch.vector_search import VectorSearch
from clipsearch.vectors import Vectors

GAP = 2e-5  # scores farther apart than this must come in the right order
NOTHING = np.empty(0, np.int64)


class Searches(Protocol):
    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Float32, Int64]: ...


Make = Callable[[Int64, Float32], Searches]


class Whole:
    """``VectorSearch`` with as many columns as were asked for."""

    def __init__(self, ids: Int64, rows: Float32, deleted: Int64 = NOTHING) -> None:
        dim = rows.shape[1]
        space = Space("toy", "f" * 64, "toy", dim, 1.0, None, ImageGeometry(8, 8))
        manifest = dataclasses.replace(new_manifest("test"), spaces={"toy": space})
        order = np.argsort(ids)
        parts = np.array_split(rows[order].astype(np.float16), 2)
        vectors = Vectors(ids[order], tuple(parts), dim, deleted)
        self.inner = VectorSearch(vectors, Path("no cache"), manifest, "toy")

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None, exact: bool = False
    ) -> tuple[Float32, Int64]:
        scores, ids = self.inner.search(queries, k, allowed=allowed, exact=exact)
        missing = k - scores.shape[1]  # it never answers with more columns than vectors
        return (
            np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf),
            np.pad(ids, ((0, 0), (0, missing)), constant_values=NO_ID),
        )


def by_faiss_scan(ids: Int64, rows: Float32) -> Whole:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "NUMPY_BYTES", 0)
        return Whole(ids, rows)


def index_over(ids: Int64, rows: Float32) -> FaissIndex:
    index = FaissIndex.train(rows, len(rows))
    for part in np.array_split(np.arange(len(ids)), 3):  # what is added in parts is one index
        index.add(ids[part], rows[part])
    return index


def by_index(ids: Int64, rows: Float32) -> Whole:
    """Half of all rows are nominated: enough for random vectors, whose codes tell little."""
    whole = Whole(ids, rows)
    if len(ids) >= FEWEST_ROWS:
        search = ApproximateSearch(whole.inner._scan, index_over(ids, rows), len(ids))
        whole.inner._approximate = (search, Effort(10**6, len(ids) // 2))
        assert whole.inner.kind == "ivf-pq"
    return whole


class InMilvus(Whole):
    """A copy in milvus-lite nominates; what is allowed is a filter there."""

    def __init__(self, ids: Int64, rows: Float32) -> None:
        from clipsearch.database_place import database_place
        from clipsearch.milvus_index import MilvusIndex, connect

        super().__init__(ids, rows)
        vectors = self.inner.vectors
        space = dataclasses.replace(self.inner._manifest.spaces["toy"], dim=vectors.dim)
        self.file = Path(tempfile.mkdtemp(prefix="milvus-")) / "vectors.db"
        place = database_place(str(self.file))
        self.index = MilvusIndex(place, connect(place, make=True), str(uuid.uuid4()), space)
        self.index.create()
        for some, matrix in vectors.blocks():
            self.index.add(some, matrix)

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None, exact: bool = False
    ) -> tuple[Float32, Int64]:
        from clipsearch.database_search import Nominated

        queries = check_queries(queries, self.index.dim, k)
        where = "" if allowed is None else f"id in {allowed.tolist()}"
        there = self.index.count(where)
        whole = Nominated(
            self.index, self.inner.scan, there, where, there, len(self.inner.scan), lambda: allowed
        )
        found_scores = np.full((len(queries), k), -np.inf, np.float32)
        found_ids = np.full((len(queries), k), NO_ID, np.int64)
        for row, query in enumerate(queries):
            scores, ids = whole.search(query, k)
            found_scores[row, : len(ids)], found_ids[row, : len(ids)] = scores, ids
        return found_scores, found_ids

    def close(self) -> None:
        from milvus_lite.server_manager import server_manager_instance

        server_manager_instance.release_server(str(self.file))
        shutil.rmtree(self.file.parent)


@pytest.fixture(autouse=True)
def _closed_copies() -> Iterator[None]:
    yield
    while COPIES:
        COPIES.pop().close()


COPIES: list[InMilvus] = []


def by_milvus(ids: Int64, rows: Float32) -> Whole:
    pytest.importorskip("milvus_lite")
    COPIES.append(InMilvus(ids, rows))
    return COPIES[-1]


KINDS: dict[str, Make] = {"numpy": Whole, "faiss scan": by_faiss_scan, "ivf-pq": by_index}
each_kind = pytest.mark.parametrize(
    "make",
    [*KINDS.values(), pytest.param(by_milvus, marks=pytest.mark.slow)],
    ids=[*KINDS, "milvus"],
)


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


@each_kind
def test_the_order_is_that_of_float64(make: Make) -> None:
    """Rows that differ in their last bits only: float32 cannot tell their scores apart."""
    rng = np.random.default_rng(3)
    rows = np.repeat(unit(1, 64), 3000, axis=0).astype(np.float16)
    flips = rng.integers(0, 64, 3000)
    rows[np.arange(3000), flips] = np.nextafter(
        rows[np.arange(3000), flips], np.where(rng.random(3000) < 0.5, 1, -1).astype(np.float16)
    )
    ids, queries = scattered_ids(3000), unit(5, 64, seed=1) * np.float32(0.01)
    index = make(ids, rows.astype(np.float32))
    for query in queries:
        products = (rows.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        order = np.lexsort((ids, -products))
        assert len(np.unique(products)) > 50
        for k in (1, 10, 700, 3000):
            np.testing.assert_array_equal(index.search(query, k)[1][0], ids[order][:k])
        np.testing.assert_array_equal(
            index.search(np.stack([query] * 5), 10)[1][4], ids[order][:10]
        )


# -- an index that nominates ----------------------------------------------------------------


def test_add_checks_shapes() -> None:
    index = FaissIndex.train(unit(64, 8), 64)
    for rows in (unit(3, 8), unit(4, 9), unit(4, 8)[0]):
        with pytest.raises(QueryError, match="expected 4 x 8"):
            index.add(np.arange(4), rows)
    assert len(index) == 0
    index.add(np.arange(4), unit(4, 8))
    assert (len(index), index.dim, index.ids.tolist()) == (4, 8, [0, 1, 2, 3])


def test_caller_may_use_its_arrays_again() -> None:
    index = FaissIndex.train(unit(64, 8), 64)
    ids, rows = np.arange(4), unit(4, 8)
    query = rows[2].copy()
    index.add(ids, rows)
    ids[:], rows[:] = 77, 0
    assert index.nominate(query, 1, 1)[1].tolist() == [2]


@pytest.mark.parametrize("dim", [7, 64])
def test_what_is_nominated(dim: int) -> None:
    ids, rows = scattered_ids(3000), unit(3000, dim)
    index = index_over(ids, rows)
    hits = 0
    for row in range(0, 3000, 100):
        scores, found = index.nominate(rows[row], 50, 10**6)
        assert (np.diff(scores) <= 0).all()
        assert np.isin(found, ids).all()
        hits += ids[row] in found
    assert hits == 30
    scores, found = index.nominate(rows[0], 4000, 10**6)
    assert (np.sort(found[:3000]) == ids).all()
    assert (found[3000:] == NO_ID).all()
    assert np.isneginf(scores[3000:]).all()
    assert 0 < (index.nominate(rows[0], 4000, 1)[1] >= 0).sum() < 3000  # only what it looks into


@pytest.mark.parametrize("count", [1, 700])
def test_save_and_load(count: int, tmp_path: Path) -> None:
    ids, rows, query = scattered_ids(count), unit(count, 40), unit(1, 40, seed=1)[0]
    index = index_over(ids, rows)
    place = tmp_path / "deep" / "saved"
    index.save(place)
    for mapped in (True, False):
        loaded = FaissIndex.load(place, mapped=mapped)
        assert (loaded.dim, len(loaded), loaded.kind) == (40, count, index.kind)
        np.testing.assert_array_equal(loaded.ids, ids)
        before, after = index.nominate(query, 8, 4), loaded.nominate(query, 8, 4)
        np.testing.assert_array_equal(before[0], after[0])
        np.testing.assert_array_equal(before[1], after[1])
    loaded.add(ids + 10**6, rows)
    assert len(loaded) == 2 * count
    mapped_index = FaissIndex.load(place)
    loaded.save(place)  # over a file that is mapped
    np.testing.assert_array_equal(mapped_index.nominate(query, 8, 4)[1], before[1])
    assert [path.name for path in place.parent.iterdir()] == ["saved"]


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 1000, b"IxMp" + b"\xff" * 500, b"PK\3\4"])
def test_load_foreign(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    with pytest.raises(IndexFormatError):
        FaissIndex.load(place)
    place.write_bytes(content)
    with pytest.raises(IndexFormatError):
        FaissIndex.load(place)
    place.unlink()
    place.mkdir()
    with pytest.raises(IndexFormatError):
        FaissIndex.load(place)


def test_a_disk_that_is_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    with pytest.raises(OSError, match="No space left"):
        faiss_index._write(index_over(np.arange(64), unit(64, 8))._index, Path("/dev/full"))


def test_damaged_file(tmp_path: Path) -> None:
    """Cut, or changed near its ends, it is refused. What is changed elsewhere is refused or
    nominates worse; it never ends the process."""
    place = tmp_path / "saved"
    rows = unit(3000, 8)
    checksum = index_over(np.arange(3000), rows).save(place)
    good = place.read_bytes()
    assert checksum == zlib.crc32(good)
    for length in range(0, len(good), 997):
        place.write_bytes(good[:length])
        with pytest.raises(IndexFormatError):
            FaissIndex.load(place)
    answered = 0
    for position in range(0, len(good), 61):
        bad = bytearray(good)
        bad[position] ^= 0x80
        place.write_bytes(bad)
        try:
            loaded = FaissIndex.load(place)
        except IndexFormatError:
            continue
        assert 4096 <= position < len(good) - 4096
        assert len(loaded.nominate(rows[0], 20, 100)[1]) == 20
        answered += 1
    assert answered > 100


def test_faiss_file_of_another_kind(tmp_path: Path) -> None:
    import faiss

    from clipsearch.store import seal

    lists = faiss.index_factory(8, "IVF1,PQ4x4fs", faiss.METRIC_L2)
    lists.train(unit(700, 8))
    others = (faiss.IndexFlatIP(8), faiss.IndexIDMap(faiss.IndexFlatIP(8)), lists)
    for number, index in enumerate(others):
        place = tmp_path / str(number)
        faiss.write_index(index, str(place))
        with pytest.raises(IndexFormatError):
            FaissIndex.load(place)
        data = place.read_bytes()
        place.write_bytes(data + seal(memoryview(data)))
        with pytest.raises(IndexFormatError, match="inner-product"):
            FaissIndex.load(place)


# -- the parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("slack", [0.0, 0.01, 10.0])
@pytest.mark.parametrize("k", [1, 3, 40, 999, 1000, 5000])
def test_contenders(slack: float, k: int) -> None:
    """Whatever the order, all that are within the slack of the k-th, and nothing else."""
    rng = np.random.default_rng(k)
    scores = rng.standard_normal(1000).astype(np.float32).round(2)
    scores[rng.choice(1000, 100)] = -np.inf
    for order in (np.arange(1000), np.argsort(scores), np.argsort(-scores)):
        mixed = scores[order]
        finite = np.sort(mixed[mixed > -np.inf])[::-1]
        least = finite[min(k, len(finite)) - 1] - np.float32(slack) if k < 1000 else -np.inf
        found = contenders(mixed, k, np.float32(slack))
        wanted = np.flatnonzero((mixed >= least) & (mixed > -np.inf))
        if k < len(finite):
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_array_equal(found, np.flatnonzero(mixed > -np.inf))


@pytest.mark.parametrize("make", [Whole, by_faiss_scan], ids=["numpy", "faiss scan"])
@pytest.mark.parametrize("block", [1, 7, 100, 5000])
def test_many_queries_at_once(make: Make, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix product for all finds what a scan for each does, whatever the block."""
    monkeypatch.setattr(exact_search, "BLOCK_ROWS", block)
    monkeypatch.setattr(exact_search, "_QUERIES_AT_ONCE", 4)
    ids, rows = scattered_ids(600), unit(600, 40)
    rows[300:400] = rows[3]
    queries = np.concatenate([rows[3:4], unit(9, 40, seed=1)])
    index = make(ids, rows)
    for allowed in (None, ids[::2], ids[:5], NOTHING):
        scores, found = index.search(queries, 20, allowed)
        for row, query in enumerate(queries):
            alone_scores, alone = index.search(query, 20, allowed)
            np.testing.assert_array_equal(found[row], alone[0])
            np.testing.assert_array_equal(scores[row], alone_scores[0])
        check(index, ids, rows, queries[1:], 20, allowed)


def test_choice_by_size() -> None:
    rows = EXACT_BYTES // 1024
    assert choose_kind(rows, 512) == "exact"
    assert choose_kind(rows + 1, 512) == "ivf-pq"
    assert choose_kind(0, 512) == "exact"
    assert choose_kind(FEWEST_ROWS - 1, 2**40) == "exact"


def test_what_an_index_is_trained_on() -> None:
    assert [list_count(rows) for rows in (0, 799, 800, 10**6, 10**7, 10**9)] == [
        1,
        1,
        2,
        2048,
        8192,
        8192,
    ]
    assert training_rows(100, 512) == 100
    assert training_rows(10**6, 512) == 50 * 2048
    assert training_rows(10**9, 4096) * 4096 * 4 <= 512 * 1024 * 1024


def test_scores_of_many_take_little_room() -> None:
    rows = np.random.default_rng(4).standard_normal((50_000, 64), dtype=np.float32)
    expected = (rows.astype(np.float64) * rows[7].astype(np.float64)).sum(axis=1)
    tracemalloc.start()
    try:
        scores = inner_products(rows, rows[7])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(scores, expected)
    assert peak < 4_000_000  # in float64 all rows are 25.6 MB
