"""FAISS file, rows added since, and deletions: together they answer as an exact scan does."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import approximate_search, exact_search, vector_index, vector_index_file
from clipsearch.encoder import Float32, ImageGeometry, Space
from clipsearch.errors import QueryError
from clipsearch.exact_search import RowScan
from clipsearch.faiss_index import FaissIndex
from clipsearch.manifest import Manifest, MeasuredSearch, ShardRef, new_manifest
from clipsearch.search_tuning import EFFORTS, UNMEASURED, Effort, interval, recalls, tune
from clipsearch.shards import Int64
from clipsearch.vector_index_file import bring_up_index_file, faiss_folder
from clipsearch.vector_search import VectorSearch
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
    monkeypatch.setattr(vector_index_file, "_TAIL_ROWS", 300)
    monkeypatch.setattr(approximate_search, "_LARGEST_SHARE", 0.5)


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


def make_file(
    cache: Path,
    manifest: Manifest,
    count: int,
    deleted: Int64 = NOTHING,
    texts: Float32 | None = None,
) -> MeasuredSearch | None:
    vectors = make_vectors(count, deleted)
    return bring_up_index_file(cache, manifest, "toy-1", lambda: vectors, texts)


def state_of(cache: Path) -> dict[str, Any]:
    place = faiss_folder(cache, "toy-1") / "current.json"
    return dict(json.loads(place.read_text()))


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
    make_file(tmp_path, manifest, 900)
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "ivf-pq"
    check(search, 900)


def test_small_collections_are_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 900 * DIM * 2)
    assert open_search(tmp_path, manifest, 900).kind == "exact"
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 900 * DIM * 2 - 1)
    assert open_search(tmp_path, manifest, 900).kind == "ivf-pq"


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
    make_file(tmp_path, make_manifest(500, 140), 640)
    manifest = make_manifest(500, 140, 60, 200)
    search = open_search(tmp_path, manifest, 900, deleted)
    assert search.kind == "ivf-pq"
    check(search, 900, deleted)


@pytest.mark.parametrize("by_faiss", [False, True], ids=["numpy", "faiss"])
@pytest.mark.parametrize("deleted", [NOTHING, IDS[1::3]], ids=["none", "a third"])
def test_allowed_rows_however_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: Int64, by_faiss: bool
) -> None:
    """Recall is 1 against brute force, whichever way the allowed rows are looked at; the index
    is never asked, so that no filter makes a search miss what it allows."""
    monkeypatch.setattr(exact_search, "NUMPY_BYTES", 0 if by_faiss else 10**9)
    make_file(tmp_path, make_manifest(500, 140), 640)
    search = open_search(tmp_path, make_manifest(500, 140, 60, 200), 900, deleted)
    assert search.kind == "ivf-pq"
    scans: list[int] = []
    original = RowScan.products

    def spy(self: RowScan, query: Float32, start: int = 0) -> Float32:
        scans.append(start)
        return original(self, query, start)

    def never(*arguments: object) -> None:
        raise AssertionError("the index was asked")

    monkeypatch.setattr(RowScan, "products", spy)
    monkeypatch.setattr(FaissIndex, "nominate", never)
    products = QUERIES.astype(np.float64) @ ROWS.astype(np.float64).T
    rng = np.random.default_rng(8)
    for count in (0, 1, 5, 9, 112, 113, 449, 451, 899, 900):
        rows = np.sort(rng.choice(900, count, replace=False))
        keep = rows[~np.isin(IDS[rows], deleted)]
        for exact in (False, True):
            scans.clear()
            for query in range(len(QUERIES)):
                scores, ids = search.search(QUERIES[query], 20, allowed=IDS[rows], exact=exact)
                order = np.lexsort((keep, -products[query, keep].round(6)))[:20]
                assert ids[0, : len(order)].tolist() == IDS[keep[order]].tolist()
                assert (ids[0, len(order) :] == -1).all()
                np.testing.assert_allclose(
                    scores[0, : len(order)], products[query, keep[order]], atol=1e-5
                )
            assert scans == ([0] * len(QUERIES) if len(keep) > 900 / 8 else [])


def test_the_file_is_opened_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_file(tmp_path, make_manifest(900), 900)
    opened: list[Path] = []
    original = FaissIndex.load

    def spy(path: Path, *, mapped: bool = True) -> FaissIndex:
        opened.append(path)
        return original(path, mapped=mapped)

    monkeypatch.setattr(FaissIndex, "load", spy)
    search = open_search(tmp_path, make_manifest(900), 900)
    search.search(QUERIES, 5, allowed=IDS[:600])
    search.search(QUERIES, 5, exact=True)
    assert opened == []
    for _ in range(3):
        search.search(QUERIES, 5)
    assert len(opened) == 1


def test_the_tail_is_not_in_the_file(tmp_path: Path) -> None:
    """Both parts really answer: without the file's rows, and without the tail's, hits go."""
    make_file(tmp_path, make_manifest(500, 140), 640)
    search = open_search(tmp_path, make_manifest(500, 140, 260), 900)
    assert search._approximate is not None
    assert len(search._approximate[0]._index) == 640
    assert search._approximate[0]._covered == 640
    _, ids = search.search(ROWS[3:4].astype(np.float32), 5)
    assert ids[0].tolist() == IDS[[3, 200, 450, 700, 899]].tolist()


def test_file_over_live_vectors_only(tmp_path: Path) -> None:
    deleted = IDS[5:300]
    manifest = make_manifest(500, 400)
    make_file(tmp_path, manifest, 900, deleted)
    search = open_search(tmp_path, manifest, 900, deleted)
    assert search.kind == "ivf-pq"
    assert search._approximate is not None
    assert len(search._approximate[0]._index) == 605
    check(search, 900, deleted)


def test_empty_index(tmp_path: Path) -> None:
    manifest = make_manifest()
    assert make_file(tmp_path, manifest, 0) is None
    scores, ids = open_search(tmp_path, manifest, 0).search(QUERIES, 5)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()


def test_never_more_columns_than_vectors(tmp_path: Path) -> None:
    manifest = make_manifest(40)
    make_file(tmp_path, manifest, 40)
    search = open_search(tmp_path, manifest, 40)
    for exact in (True, False):
        assert search.search(QUERIES, 10**9, exact=exact)[1].shape == (len(QUERIES), 40)


def test_bad_queries(tmp_path: Path) -> None:
    manifest = make_manifest(40)
    make_file(tmp_path, manifest, 40)
    search = open_search(tmp_path, manifest, 40)
    for queries, k in ((QUERIES[:, :5], 3), (np.full_like(QUERIES, np.nan), 3), (QUERIES, 0)):
        with pytest.raises(QueryError):
            search.search(queries, k)


# -- caches that must not be believed -----------------------------------------------------


def change_state(cache: Path, changes: dict[str, Any]) -> None:
    place = faiss_folder(cache, "toy-1") / "current.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))


@pytest.mark.slow
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
    make_file(tmp_path, manifest, 900)
    change_state(tmp_path, changes)
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "exact"
    check(search, 900)
    make_file(tmp_path, manifest, 900)
    if changes != {"vectors": 17}:
        assert open_search(tmp_path, manifest, 900).kind == "ivf-pq"


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '"x"', "[" * 50_000, "\xff\xfe"])
def test_state_that_is_none(tmp_path: Path, text: str) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    (faiss_folder(tmp_path, "toy-1") / "current.json").write_bytes(text.encode("latin-1"))
    assert open_search(tmp_path, manifest, 900).kind == "exact"
    make_file(tmp_path, manifest, 900)
    assert open_search(tmp_path, manifest, 900).kind == "ivf-pq"


def test_other_shards_under_the_same_uuid(tmp_path: Path) -> None:
    make_file(tmp_path, make_manifest(500, 400), 900)
    assert open_search(tmp_path, make_manifest(500), 500).kind == "exact"
    assert open_search(tmp_path, make_manifest(500, 400, uuid="other"), 900).kind == "exact"


@pytest.mark.parametrize("kept", [0, 10, 5000, -1])
def test_truncated_file(tmp_path: Path, kept: int) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    place.write_bytes(place.read_bytes()[:kept])
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "exact"
    check(search, 900)


def test_file_of_another_dimension(tmp_path: Path) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    few = ROWS[:, :8].astype(np.float32)
    narrow = FaissIndex.train(few, 900)
    narrow.add(IDS, few)
    narrow.save(place)
    search = open_search(tmp_path, manifest, 900)
    assert search.kind == "exact"
    check(search, 900)


def test_file_with_ids_that_are_not_ours(tmp_path: Path) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    other = FaissIndex.train(ROWS.astype(np.float32), 900)
    other.add(IDS + 10**6, ROWS.astype(np.float32))
    other.save(place)
    _, ids = open_search(tmp_path, manifest, 900).search(QUERIES, 5)
    assert np.isin(ids, [*IDS, -1]).all()


def test_file_that_names_an_image_twice(tmp_path: Path) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    other = FaissIndex.train(ROWS.astype(np.float32), 900)
    other.add(IDS // 2 * 2, ROWS.astype(np.float32))
    other.save(place)
    search = open_search(tmp_path, manifest, 900)
    assert search.kind != "exact"
    _, ids = search.search(QUERIES, 5)
    assert all(len(set(row)) == 5 for row in ids.tolist())


# -- when it is written ---------------------------------------------------------------------


def test_a_file_that_covers_nearly_all_stays(tmp_path: Path) -> None:
    folder = faiss_folder(tmp_path, "toy-1")
    make_file(tmp_path, make_manifest(400), 400)
    (first,) = folder.glob("*.faiss")
    make_file(tmp_path, make_manifest(400, 300), 700)
    assert [*folder.glob("*.faiss")] == [first]
    assert state_of(tmp_path)["rows"] == 400
    make_file(tmp_path, make_manifest(400, 301), 701)
    (second,) = folder.glob("*.faiss")
    assert second != first
    assert len(FaissIndex.load(second)) == 701
    check(open_search(tmp_path, make_manifest(400, 301), 701), 701)


def test_it_is_added_to_until_it_has_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector_index_file, "_TAIL_ROWS", 10)
    trained: list[int] = []
    original = FaissIndex.train.__func__  # type: ignore[attr-defined]

    def spy(cls: type[FaissIndex], sample: Float32, rows: int) -> FaissIndex:
        trained.append(rows)
        return original(cls, sample, rows)  # type: ignore[no-any-return]

    monkeypatch.setattr(FaissIndex, "train", classmethod(spy))
    make_file(tmp_path, make_manifest(400), 400)
    sizes = [400]
    for size, wanted in ((100, [400]), (300, [400]), (60, [400, 860])):
        sizes.append(size)
        manifest, count = make_manifest(*sizes), sum(sizes)
        make_file(tmp_path, manifest, count)
        assert trained == wanted
        (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
        np.testing.assert_array_equal(FaissIndex.load(place).ids, IDS[:count])
        check(open_search(tmp_path, manifest, count), count)


def test_a_damaged_file_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index_file, "_TAIL_ROWS", 10)
    make_file(tmp_path, make_manifest(500), 500)
    (place,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    place.write_bytes(place.read_bytes()[:5000])
    make_file(tmp_path, make_manifest(500, 400), 900)
    check(open_search(tmp_path, make_manifest(500, 400), 900), 900)
    assert open_search(tmp_path, make_manifest(500, 400), 900).kind == "ivf-pq"


def test_what_an_earlier_version_left_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    change_state(tmp_path, {"kind": "sqfp16"})
    assert open_search(tmp_path, manifest, 900).kind == "exact"
    (earlier,) = faiss_folder(tmp_path, "toy-1").glob("*.faiss")
    make_file(tmp_path, manifest, 900)
    assert open_search(tmp_path, manifest, 900).kind == "ivf-pq"
    assert not earlier.exists()
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 10**9)
    assert make_file(tmp_path, manifest, 900) is None
    assert [*faiss_folder(tmp_path, "toy-1").iterdir()] == []


# -- what the index cannot answer -------------------------------------------------------------


def with_effort(search: VectorSearch, effort: Effort) -> VectorSearch:
    assert search._approximate is not None
    search._approximate = (search._approximate[0], effort)
    return search


@pytest.mark.parametrize("deleted", [NOTHING, IDS[:880], np.delete(IDS, [7, 500, 880])])
def test_as_many_as_there_are(tmp_path: Path, deleted: Int64) -> None:
    """Lists that run dry, and all but a few deleted: k come wherever there are k."""
    make_file(tmp_path, make_manifest(900), 900)
    search = with_effort(open_search(tmp_path, make_manifest(900), 900, deleted), Effort(1, 20))
    live = 900 - len(deleted)
    for k in (1, 10, 200, 899, 900, 5000):
        scores, ids = search.search(QUERIES, k)
        assert ((ids >= 0).sum(axis=1) == min(k, live)).all()
        assert not np.isin(ids, deleted).any()
        assert all(len(set(row[row >= 0].tolist())) == min(k, live) for row in ids)
        assert (np.diff(scores[:, : min(k, live)], axis=1) <= 0).all()


def test_little_effort_finds_less(tmp_path: Path) -> None:
    """The answers above do not come from a scan: what is not nominated is not found."""
    make_file(tmp_path, make_manifest(900), 900)
    queries = unit(200, seed=5)
    search = open_search(tmp_path, make_manifest(900), 900)
    truth = search.search(queries, 10, exact=True)[1]
    shares = []
    for effort in (Effort(1, 40), Effort(100, 40), Effort(100, 80), Effort(100, 900)):
        found = with_effort(search, effort).search(queries, 10)[1]
        shares.append(np.mean([np.isin(a, b).mean() for a, b in zip(found, truth, strict=True)]))
    assert shares[0] < shares[1] < shares[2] < shares[3] == 1
    assert shares[0] < 0.7


def test_the_more_are_deleted_the_further_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest(900)
    make_file(tmp_path, manifest, 900)
    nominate, asked = FaissIndex.nominate, []

    def noted(self: FaissIndex, query: Float32, count: int, probes: int) -> Any:
        asked.append(probes)
        return nominate(self, query, count, probes)

    monkeypatch.setattr(FaissIndex, "nominate", noted)
    for deleted in (NOTHING, IDS[:450], IDS[:800]):
        open_search(tmp_path, manifest, 900, deleted).search(QUERIES[:1], 4)
    assert asked == [UNMEASURED.probes, 2 * UNMEASURED.probes, 9 * UNMEASURED.probes]


def test_equals_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More equal vectors than are nominated: the lowest ids still come."""
    alike = ROWS.copy()
    alike[100:800] = alike[100]
    vectors = Vectors(IDS, (alike,), DIM, NOTHING)
    manifest = make_manifest(900)
    bring_up_index_file(tmp_path, manifest, "toy-1", lambda: vectors, None)
    search = with_effort(VectorSearch(vectors, tmp_path, manifest, "toy-1"), Effort(100, 50))
    _, ids = search.search(alike[100].astype(np.float32), 5)
    assert ids[0].tolist() == IDS[100:105].tolist()


def test_many_threads_on_one_search(tmp_path: Path) -> None:
    make_file(tmp_path, make_manifest(500, 140), 640)
    search = open_search(tmp_path, make_manifest(500, 140, 260), 900, IDS[::9])
    with_effort(search, Effort(2, 100))
    queries = unit(30, seed=6)
    asked = [
        (queries[n], 1 + 7 * (n % 5), (None, IDS[::2], IDS[:40])[n % 3], n % 4 == 0)
        for n in range(30)
    ]
    alone = [search.search(q, k, allowed=allowed, exact=exact) for q, k, allowed, exact in asked]
    assert any(not np.array_equal(alone[n][1], alone[n + 1][1]) for n in range(29))
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            together = pool.map(
                lambda a: search.search(a[0], a[1], allowed=a[2], exact=a[3]), asked
            )
            for (scores, ids), (wanted_scores, wanted) in zip(together, alone, strict=True):
                np.testing.assert_array_equal(ids, wanted)
                np.testing.assert_array_equal(scores, wanted_scores)


# -- how hard it looks, and what that finds -----------------------------------------------------


TEXTS = unit(300, seed=7)


def test_chosen_and_measured_on_texts(tmp_path: Path) -> None:
    measured = make_file(tmp_path, make_manifest(900), 900, texts=TEXTS)
    assert measured is not None
    assert (measured.kind, measured.rows, measured.k, measured.queries) == ("ivf-pq", 900, 10, 150)
    assert measured.reached
    assert measured.low < measured.recall <= measured.high
    assert (measured.low, measured.high) == interval(measured.recall, 150)
    manifest = dataclasses.replace(make_manifest(900), searches={"toy-1": measured})
    search = open_search(tmp_path, manifest, 900)
    assert search.measured == measured
    # What is reported is what the held-out half finds, through the search that answers.
    held_out = np.random.default_rng(0).permutation(300)[150:]
    found = search.search(TEXTS[held_out], 10)[1]
    truth = search.search(TEXTS[held_out], 10, exact=True)[1]
    share = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth, strict=True)])
    assert share == pytest.approx(measured.recall, abs=1e-9)
    before = state_of(tmp_path)
    assert make_file(tmp_path, manifest, 900, texts=TEXTS) == measured  # nothing is done again
    assert state_of(tmp_path) == before


def test_texts_that_come_later(tmp_path: Path) -> None:
    manifest = make_manifest(900)
    assert make_file(tmp_path, manifest, 900) is None
    search = open_search(tmp_path, manifest, 900)
    assert search.measured is None
    assert search._approximate is not None
    assert search._approximate[1] == UNMEASURED
    before = state_of(tmp_path)["token"]
    assert make_file(tmp_path, manifest, 900, texts=TEXTS[:199]) is None  # too few to say
    assert make_file(tmp_path, manifest, 900, texts=TEXTS) is not None
    assert state_of(tmp_path)["token"] == before  # measured, not made again


def test_a_recall_that_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FaissIndex,
        "nominate",
        lambda self, query, count, probes: (
            np.linspace(1, 0, count, dtype=np.float32),
            np.where(np.arange(count) < 20, np.resize(IDS, count), -1),
        ),
    )
    manifest = make_manifest(900)
    measured = make_file(tmp_path, manifest, 900, texts=TEXTS)
    assert measured is not None
    assert not measured.reached
    assert measured.recall < 0.95
    assert [*faiss_folder(tmp_path, "toy-1").glob("*.faiss")] == []
    manifest = dataclasses.replace(manifest, searches={"toy-1": measured})
    search = open_search(tmp_path, manifest, 900)
    assert (search.kind, search.measured) == ("exact", measured)
    check(search, 900)
    monkeypatch.setattr(FaissIndex, "train", lambda *arguments: 1 / 0)
    assert make_file(tmp_path, manifest, 900, texts=TEXTS) == measured  # nor is it tried again


def test_the_cheapest_that_reaches_is_chosen() -> None:
    """The choosing half alone decides; the other half alone is reported."""
    texts = np.arange(400, dtype=np.float32)[:, None]
    choosing = set(np.random.default_rng(0).permutation(400)[:200].tolist())
    truth = [np.linspace(2, 1, 10)] * 400
    efforts = (Effort(1, 1), Effort(2, 2), Effort(3, 3))

    def scores_at(text: Float32, effort: Effort) -> np.ndarray:
        misses = {1: 1, 2: 0, 3: 0}[effort.probes] if int(text[0]) in choosing else 2
        return np.concatenate([truth[0][: 10 - misses], np.zeros(misses)])

    chosen, measured = tune(texts, truth, scores_at, kind="x", rows=7, efforts=efforts)
    assert chosen == efforts[1]
    assert (measured.recall, measured.queries, measured.probes) == (0.8, 200, 2)


def test_intervals() -> None:
    assert interval(0.95, 300) == pytest.approx((0.9192, 0.9695), abs=1e-3)
    assert interval(1.0, 100)[1] == 1.0
    assert interval(1.0, 100)[0] == pytest.approx(0.9630, abs=1e-3)
    assert interval(0.0, 100)[0] == pytest.approx(0, abs=1e-9)
    assert recalls(
        [np.array([3.0, 2.0]), np.array([3.0, 1.0])], [np.array([3.0, 2.0])] * 2
    ).tolist() == [1, 0.5]
    costs = [effort.probes * effort.candidates for effort in EFFORTS]
    assert costs == sorted(costs)


def test_deleting_the_cache_loses_nothing(tmp_path: Path) -> None:
    manifest = make_manifest(500, 400)
    make_file(tmp_path, manifest, 900)
    search = open_search(tmp_path, manifest, 900)
    for place in faiss_folder(tmp_path, "toy-1").iterdir():
        place.unlink()
    check(search, 900)  # what is mapped stays mapped
    check(open_search(tmp_path, manifest, 900), 900)
