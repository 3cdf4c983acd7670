"""FAISS file, rows added since, and deletions: together they answer as an exact scan does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import vector_index, vector_search
from clipsearch.encoder import Float32, ImageGeometry, Space
from clipsearch.errors import QueryError
from clipsearch.faiss_index import FaissIndex
from clipsearch.manifest import Manifest, ShardRef, new_manifest
from clipsearch.shards import Int64
from clipsearch.vector_search import (
    VectorSearch,
    build_faiss_file,
    faiss_file_will_do,
    faiss_folder,
)
from clipsearch.vectors import Vectors

DIM = 100
SPACE = Space("toy-1", "f" * 64, "toy", DIM, 100.0, None, ImageGeometry(8, 8))
NOTHING = np.empty(0, np.int64)
IDS = np.cumsum(np.random.default_rng(4).integers(1, 4, 900)).astype(np.int64)


def unit(count: int, seed: int = 0) -> Float32:
    rows = np.random.default_rng(seed).standard_normal((count, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


ROWS = unit(900).astype(np.float16)
ROWS[[3, 200, 450, 700, 899]] = ROWS[3]  # the same picture in every part
QUERIES = np.concatenate([unit(6, seed=1), ROWS[3:4].astype(np.float32)])


@pytest.fixture(autouse=True)
def _faiss_for_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 0)
    monkeypatch.setattr(vector_search, "_REBUILD_ROWS", 300)


def make_manifest(*sizes: int, uuid: str = "one index") -> Manifest:
    shards = []
    start = 0
    for number, size in enumerate(sizes):
        first, last = int(IDS[start]), int(IDS[start + size - 1])
        shards.append(ShardRef(f"{number}", size, 1, f"sha of {number}", first, last))
        start += size
    return dataclasses.replace(
        new_manifest("test"), uuid=uuid, spaces={"toy-1": SPACE}, embeddings={"toy-1": (*shards,)}
    )


def make_vectors(count: int, deleted: Int64 = NOTHING) -> Vectors:
    middle = count // 3
    return Vectors(IDS[:count], (ROWS[:middle], ROWS[middle:count]), DIM, deleted)


def open_search(
    cache: Path, manifest: Manifest, count: int, deleted: Int64 = NOTHING
) -> VectorSearch:
    return VectorSearch(make_vectors(count, deleted), cache, manifest, "toy-1")


def check(search: VectorSearch, count: int, deleted: Int64 = NOTHING) -> None:
    """Assert that the answers are those of float64 NumPy over the live vectors."""
    live = ~np.isin(IDS[:count], deleted)
    odd = IDS[:count][1::2]
    for allowed in (None, odd, NOTHING, np.array([10**9])):
        keep = live if allowed is None else live & np.isin(IDS[:count], allowed)
        rows = ROWS[:count][keep].astype(np.float64)
        products = (QUERIES.astype(np.float64) @ rows.T).astype(np.float32)
        # Equal rows are made to have equal scores in the reference, too.
        for twin in np.flatnonzero((ROWS[:count][keep] == ROWS[3]).all(axis=1)):
            products[:, twin] = (QUERIES.astype(np.float64) * ROWS[3].astype(np.float64)).sum(1)
        for k in (1, 4, 30):
            for exact in (False, True):
                scores, ids = search.search(QUERIES, k, allowed=allowed, exact=exact)
                for row in range(len(QUERIES)):
                    order = np.lexsort((IDS[:count][keep], -products[row]))[:k]
                    hits = len(order)
                    np.testing.assert_allclose(scores[row, :hits], products[row, order], atol=1e-5)
                    np.testing.assert_array_equal(ids[row, :hits], IDS[:count][keep][order])
                    assert np.isneginf(scores[row, hits:]).all()
                    assert (ids[row, hits:] == -1).all()


def test_faiss_answers(tmp_path: Path) -> None:
    manifest = make_manifest(500, 400)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "sqfp16"
    check(search, 900)


def test_small_collections_are_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_manifest(900)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 900 * DIM * 2)
    assert open_search(tmp_path, manifest, 900).kind == "exact"
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 900 * DIM * 2 - 1)
    assert open_search(tmp_path, manifest, 900).kind == "sqfp16"


@pytest.mark.parametrize(
    "deleted",
    [
        NOTHING,
        IDS[[3]],
        IDS[[200, 899]],
        IDS[::2],
        IDS[1::4],
        IDS[:640],
        IDS[640:],
        IDS,
        np.array([-3, 10**9]),
    ],
    ids=["none", "one", "in both", "half", "allowed ones", "covered", "tail", "all", "unknown"],
)
def test_tail_and_deletions(tmp_path: Path, deleted: Int64) -> None:
    build_faiss_file(tmp_path, make_manifest(500, 140), "toy-1", make_vectors(640))
    manifest = make_manifest(500, 140, 60, 200)
    search = open_search(tmp_path, manifest, 900, deleted)
    assert search.kind == "sqfp16"
    check(search, 900, deleted)


@pytest.mark.parametrize("deleted", [NOTHING, IDS[1::3]], ids=["none", "a third"])
def test_allowed_rows_however_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: Int64
) -> None:
    """Recall is 1 against brute force, whichever way the allowed rows are looked at; the few
    are read one by one, so that no filter makes a search miss what it allows."""
    build_faiss_file(tmp_path, make_manifest(500, 140), "toy-1", make_vectors(640))
    search = open_search(tmp_path, make_manifest(500, 140, 60, 200), 900, deleted)
    assert search.kind == "sqfp16"
    taken: list[int] = []
    original = Vectors.blocks_of

    def spy(self: Vectors, ids: Int64, rows: int = 3) -> Any:
        taken.append(len(ids))
        return original(self, ids, rows)

    monkeypatch.setattr(Vectors, "blocks_of", spy)
    products = QUERIES.astype(np.float64) @ ROWS.astype(np.float64).T
    rng = np.random.default_rng(8)
    for count in (0, 1, 5, 9, 10, 100, 449, 451, 899, 900):
        rows = np.sort(rng.choice(900, count, replace=False))
        keep = rows[~np.isin(IDS[rows], deleted)]
        for exact in (False, True):
            taken.clear()
            scores, ids = search.search(QUERIES, 20, allowed=IDS[rows], exact=exact)
            assert taken == ([count] if count <= (450 if exact else 9) else [])
            for query in range(len(QUERIES)):
                order = np.lexsort((keep, -products[query, keep].round(6)))[:20]
                assert ids[query, : len(order)].tolist() == IDS[keep[order]].tolist()
                assert (ids[query, len(order) :] == -1).all()
                np.testing.assert_allclose(
                    scores[query, : len(order)], products[query, keep[order]], atol=1e-5
                )


def test_the_tail_is_not_in_the_file(tmp_path: Path) -> None:
    """Both parts really answer: without the file's rows, and without the tail's, hits go."""
    build_faiss_file(tmp_path, make_manifest(500, 140), "toy-1", make_vectors(640))
    search = open_search(tmp_path, make_manifest(500, 140, 260), 900)
    assert search._index is not None
    assert len(search._index) == 640
    assert search._live_after == IDS[639]
    _, ids = search.search(ROWS[3:4].astype(np.float32), 5)
    assert ids[0].tolist() == IDS[[3, 200, 450, 700, 899]].tolist()


def test_file_over_live_vectors_only(tmp_path: Path) -> None:
    deleted = IDS[5:300]
    manifest = make_manifest(500, 400)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900, deleted))
    search = open_search(tmp_path, manifest, 900, deleted)
    assert search.kind == "sqfp16"
    assert search._index is not None
    assert len(search._index) == 605
    check(search, 900, deleted)


def test_empty_index(tmp_path: Path) -> None:
    manifest = make_manifest()
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(0))
    scores, ids = open_search(tmp_path, manifest, 0).search(QUERIES, 5)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()


def test_never_more_columns_than_vectors(tmp_path: Path) -> None:
    manifest = make_manifest(40)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(40))
    search = open_search(tmp_path, manifest, 40)
    for exact in (True, False):
        assert search.search(QUERIES, 10**9, exact=exact)[1].shape == (len(QUERIES), 40)


def test_bad_queries(tmp_path: Path) -> None:
    manifest = make_manifest(40)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(40))
    search = open_search(tmp_path, manifest, 40)
    for queries, k in ((QUERIES[:, :5], 3), (np.full_like(QUERIES, np.nan), 3), (QUERIES, 0)):
        with pytest.raises(QueryError):
            search.search(queries, k)


# -- caches that must not be believed -----------------------------------------------------


def change_state(cache: Path, changes: dict[str, Any]) -> None:
    place = faiss_folder(cache, "toy-1") / "current.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"index": "another"},
        {"space": "0" * 64},
        {"shards": ["sha of 1", "sha of 0"]},
        {"shards": ["sha of 0", "sha of 1", "sha of 2"]},
        {"shards": 7},
        {"shards": None},
        {"token": "../../x"},
        {"token": "gone"},
        {"last_id": "x"},
        {"last_id": None},
        {"last_id": 3},
        {"rows": None},
        {"vectors": 17},
    ],
    ids=str,
)
def test_foreign_or_stale_state(tmp_path: Path, changes: dict[str, Any]) -> None:
    manifest = make_manifest(500, 400)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    change_state(tmp_path, changes)
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "exact"
    check(search, 900)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    if changes != {"vectors": 17}:
        assert open_search(tmp_path, manifest, 900).kind == "sqfp16"


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '"x"', "[" * 50_000, "\xff\xfe"])
def test_state_that_is_none(tmp_path: Path, text: str) -> None:
    manifest = make_manifest(900)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    (faiss_folder(tmp_path, "toy-1") / "current.json").write_bytes(text.encode("latin-1"))
    assert open_search(tmp_path, manifest, 900).kind == "exact"
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    assert open_search(tmp_path, manifest, 900).kind == "sqfp16"


def test_other_shards_under_the_same_uuid(tmp_path: Path) -> None:
    build_faiss_file(tmp_path, make_manifest(500, 400), "toy-1", make_vectors(900))
    assert open_search(tmp_path, make_manifest(500), 500).kind == "exact"
    assert open_search(tmp_path, make_manifest(500, 400, uuid="other"), 900).kind == "exact"


@pytest.mark.parametrize("kept", [0, 10, 5000, -1])
def test_truncated_file(tmp_path: Path, kept: int) -> None:
    manifest = make_manifest(900)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    place.write_bytes(place.read_bytes()[:kept])
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "exact"
    check(search, 900)


def test_file_of_another_dimension(tmp_path: Path) -> None:
    manifest = make_manifest(900)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    narrow = FaissIndex(8)
    narrow.add(IDS, np.ascontiguousarray(ROWS[:, :8].astype(np.float32)))
    narrow.save(place)
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "exact"
    check(search, 900)


def test_file_with_ids_that_are_not_ours(tmp_path: Path) -> None:
    manifest = make_manifest(900)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    other = FaissIndex(DIM)
    other.add(IDS + 10**6, ROWS.astype(np.float32))
    other.save(place)
    _, ids = open_search(tmp_path, manifest, 900).search(QUERIES, 5)
    assert np.isin(ids, [*IDS, -1]).all()


# -- when it is written ---------------------------------------------------------------------


def test_a_file_that_covers_nearly_all_will_do(tmp_path: Path) -> None:
    folder = faiss_folder(tmp_path, "toy-1")
    assert not faiss_file_will_do(tmp_path, make_manifest(500), "toy-1")
    build_faiss_file(tmp_path, make_manifest(500), "toy-1", make_vectors(500))
    (first,) = folder.glob("*.faiss")
    assert faiss_file_will_do(tmp_path, make_manifest(500, 300), "toy-1")
    assert not faiss_file_will_do(tmp_path, make_manifest(500, 301), "toy-1")
    build_faiss_file(tmp_path, make_manifest(500, 301), "toy-1", make_vectors(801))
    (second,) = folder.glob("*.faiss")
    assert second != first
    assert len(FaissIndex.load(second)) == 801


def test_deleting_the_cache_loses_nothing(tmp_path: Path) -> None:
    manifest = make_manifest(500, 400)
    build_faiss_file(tmp_path, manifest, "toy-1", make_vectors(900))
    search = open_search(tmp_path, manifest, 900)
    for place in faiss_folder(tmp_path, "toy-1").iterdir():
        place.unlink()
    check(search, 900)  # what is mapped stays mapped
    check(open_search(tmp_path, manifest, 900), 900)
