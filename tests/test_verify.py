"""verify finds whatever is not as it was written, and --repair puts it right."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clipsearch import Query, open_index, vector_index
from clipsearch.errors import (
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    IndexReadError,
    OptionError,
)
from clipsearch.faiss_index import FaissIndex
from clipsearch.generation import cache_folder
from clipsearch.manifest import COPY_NAME, FileRef, Manifest, read_manifest, write_manifest
from clipsearch.paths import read_paths
from clipsearch.shards import (
    DELETED_SCHEMA,
    IMAGE_SCHEMA,
    PATH_SCHEMA,
    as_numpy,
    embedding_table,
    read_table,
    read_tables,
    vectors_of,
    write_shard,
    write_table,
)
from clipsearch.store import LocalStore
from clipsearch.vectors import VectorCache, read_vectors
from indexer import build_index
from indexer.commit import remove_leftovers
from indexer.demo import demo_pictures
from indexer.findings import Finding, Verification
from indexer.lock import writer_lock
from indexer.repair import Repair, repair_index
from indexer.verify import verify_index
from tests.conftest import Cli

_KINDS = {
    "manifest": "manifest.json",
    "copy": "manifest.copy.json",
    "images": "images/00000.parquet",
    "later images": "images/00001.parquet",
    "embeddings": "embeddings/*/00000.parquet",
    "paths": "paths/*.parquet",
    "skipped": "skipped/*.parquet",
    "deleted": "deleted/*.parquet",
    "matrix": "cache/vectors/*/*.f16",
    "ids": "cache/vectors/*/*.ids",
    "matrix state": "cache/vectors/*/current.json",
    "faiss": "cache/faiss/*/*.faiss",
    "faiss state": "cache/faiss/*/current.json",
    "thumbnails": "cache/thumbnails/00000.arrow",
}
_WHERE: dict[str, Callable[[int], int]] = {
    "start": lambda size: 0,
    "quarter": lambda size: size // 4,
    "middle": lambda size: size // 2,
    "end": lambda size: size - 1,
}


@pytest.fixture(autouse=True)
def _index_file_for_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "EXACT_BYTES", 0)
    monkeypatch.setattr(vector_index, "FEWEST_ROWS", 1)


@pytest.fixture(scope="module")
def _full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(photos, index): two shards, a skipped file, a copy, and a buried image."""
    home = tmp_path_factory.mktemp("full")
    photos = home / "photos"
    photos.mkdir()
    for picture in demo_pictures():
        shutil.copyfile(picture, photos / picture.name)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture at all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_index, "EXACT_BYTES", 0)
        patch.setattr(vector_index, "FEWEST_ROWS", 1)
        build_index(photos, home / "full.index", encoder="mini")
        with Image.open(photos / "lion.jpg") as image:
            image.convert("L").save(photos / "grey.png")
            image.rotate(90, expand=True).save(photos / "lion.jpg")
        build_index(photos, home / "full.index")
    manifest = read_manifest(LocalStore(home / "full.index"), "here")
    remove_leftovers(LocalStore(home / "full.index"), manifest)
    assert len(manifest.images) == 2
    assert manifest.skipped is not None
    assert manifest.deleted is not None
    return photos, home / "full.index"


@pytest.fixture
def photos(_full: tuple[Path, Path]) -> Path:
    return _full[0]


@pytest.fixture
def place(_full: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(_full[1], tmp_path / "full.index"))


@pytest.fixture
def other(_full: tuple[Path, Path], tmp_path: Path) -> Path:
    """Another index of the same photos, with shards of the same names and lengths."""
    build_index(_full[0], tmp_path / "other.index", encoder="mini")
    return tmp_path / "other.index"


def manifest_of(place: Path) -> Manifest:
    return read_manifest(LocalStore(place), str(place))


def only(place: Path, pattern: str) -> Path:
    (found,) = place.glob(pattern)
    return found


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x01
    path.write_bytes(data)


def bad(found: Verification) -> list[Finding]:
    return [finding for finding in found.findings if finding.severity != "note"]


def named(found: Verification, file: Path, place: Path) -> list[Finding]:
    return [finding for finding in bad(found) if place / finding.file == file]


def assert_sound(place: Path, photos: Path) -> None:
    """Nothing is wrong, and every photo finds its own content."""
    found = verify_index(place, sample=100)
    assert bad(found) == []
    assert found.encoded >= 10
    assert found.lowest_cosine is not None
    assert found.lowest_cosine > 0.999
    index = open_index(place)
    for photo in photos.iterdir():
        if photo.name != "broken.jpg":
            known = index.id_of(photo)
            assert known is not None
            hit = index.search(Query(vector=index.vectors_of([known])[1][0]), k=1)[0]
            assert hit.cosine > 0.999
            assert hit.path.read_bytes() == photo.read_bytes()


def mend(place: Path, photos: Path, **options: int) -> Repair:
    """Repair, and do what it says comes next."""
    done = repair_index(place, **options)
    assert done.is_mended, done.after.findings
    assert done.actions
    if done.next_command:
        assert str(photos) in done.next_command
        build_index(photos, place)
    assert_sound(place, photos)
    return done


def snapshot(place: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.read_bytes())
        for file in place.rglob("*")
        if file.is_file()
    }


def change(place: Path, **changes: object) -> None:
    write_manifest(LocalStore(place), dataclasses.replace(manifest_of(place), **changes))  # type: ignore[arg-type]


def replace_shard(place: Path, number: int, kind: str, table: pa.Table) -> None:
    """Write a shard anew, with the manifest's word for it."""
    store, manifest = LocalStore(place), manifest_of(place)
    space = str(manifest.default_space)
    refs = list(manifest.images if kind == "images" else manifest.embeddings[space])
    old = refs[number]
    store.delete(old.name)
    refs[number] = write_shard(
        store, old.name, table, kind=kind, index_uuid=manifest.uuid, recipe=old.recipe
    )
    if kind == "images":
        change(place, images=tuple(refs))
    else:
        change(place, embeddings={space: tuple(refs)})
    # What the cache says is judged by other tests.
    shutil.rmtree(place / "cache")


def replace_vectors(place: Path, edit: Callable[[np.ndarray], object]) -> None:
    manifest = manifest_of(place)
    ref = manifest.embeddings[str(manifest.default_space)][0]
    ids, stored = vectors_of(read_table(LocalStore(place), ref))
    vectors = stored.astype(np.float32)
    edit(vectors)
    replace_shard(place, 0, "embeddings", embedding_table(ids, vectors))


def replace_paths(place: Path, edit: Callable[[list[dict[str, object]]], object]) -> None:
    store, manifest = LocalStore(place), manifest_of(place)
    rows = read_paths(store, manifest).to_pylist()
    edit(rows)
    table = pa.Table.from_pylist(rows, PATH_SCHEMA)
    name = "paths/0000099.parquet"
    change(place, paths=(write_table(store, name, table, kind="paths", index_uuid=manifest.uuid),))


# -- what is sound ------------------------------------------------------------------------


def test_sound_index(place: Path, photos: Path) -> None:
    before = snapshot(place)
    found = verify_index(place)
    assert found.findings == ()
    manifest = manifest_of(place)
    assert found.files == len(manifest.files())
    assert found.bytes == sum(ref.bytes for ref in manifest.files())
    rows = sum(ref.rows for ref in manifest.images)
    assert found.rows == sum(ref.rows for ref in manifest.files())
    assert rows < found.compared <= 2 * rows  # the matrix; FAISS covers what it did at first
    assert found.encoded == rows - 1  # one is buried
    assert_sound(place, photos)
    assert snapshot(place) == before
    repair = repair_index(place)
    assert (repair.actions, repair.next_command) == ((), "")
    assert snapshot(place) == before


def test_seed_draws_the_same_sample(place: Path) -> None:
    first = verify_index(place, sample=3)
    again = verify_index(place, sample=3, seed=first.seed)
    assert again == first
    assert verify_index(place, sample=0).lowest_cosine is None
    with pytest.raises(OptionError):
        verify_index(place, sample=-1)


def test_no_index(tmp_path: Path, pictures: Path) -> None:
    for run in (verify_index, repair_index):
        for nothing in (tmp_path / "absent", pictures):
            with pytest.raises(IndexNotFoundError):
                run(nothing)
    assert not (pictures / "writer.lock").exists()


# -- one byte -----------------------------------------------------------------------------


@pytest.mark.parametrize("where", _WHERE)
@pytest.mark.parametrize("kind", _KINDS)
def test_one_byte(place: Path, photos: Path, kind: str, where: str) -> None:
    file = only(place, _KINDS[kind])
    flip(file, _WHERE[where](file.stat().st_size))
    found = verify_index(place, sample=0)
    assert named(found, file, place), found.findings
    assert len(bad(found)) == 1
    wanted = "cache" if kind in list(_KINDS)[8:] else "error"
    assert bad(found)[0].severity == wanted
    assert "verify --repair" in bad(found)[0].cure
    done = mend(place, photos)
    if wanted == "cache":
        assert done.next_command == ""
        assert not (place / "damaged").exists()
    elif kind not in ("manifest", "copy"):
        assert any(file.name in action for action in done.actions)
    again = verify_index(place, sample=0)
    assert bad(again) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["manifest", "images", "paths", "matrix"])
def test_one_byte_at_the_command_line(cli: Cli, place: Path, photos: Path, kind: str) -> None:
    file = only(place, _KINDS[kind])
    flip(file, file.stat().st_size // 2)
    at = ("--index", place)
    done = cli("verify", "--sample", "0", *at)
    assert done.returncode == 2
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [place / line[2] for line in lines if line[0] != "note"] == [file]
    assert "clipsearch verify --repair" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
    mended = cli("verify", "--repair", "--sample", "0", *at)
    assert mended.returncode == 0, mended.stderr
    assert mended.stdout
    if "Next: clipsearch index" in mended.stderr.decode():
        assert cli("index", photos, *at).returncode in (0, 3)
    assert cli("verify", *at).returncode == 0


# -- files that are lost, or another's -----------------------------------------------------


@pytest.mark.parametrize("kind", list(_KINDS)[2:8])
def test_missing_file(place: Path, photos: Path, kind: str) -> None:
    file = only(place, _KINDS[kind])
    file.unlink()
    (finding,) = bad(verify_index(place, sample=0))
    assert (finding.kind, place / finding.file) == ("missing", file)
    mend(place, photos)


@pytest.mark.parametrize("kind", ["images", "embeddings"])
def test_foreign_shard(place: Path, other: Path, photos: Path, kind: str) -> None:
    stranger = only(other, _KINDS[kind])
    file = only(place, _KINDS[kind])
    shutil.copyfile(stranger, file)
    (finding,) = bad(verify_index(place, sample=0))
    assert (finding.kind, place / finding.file) == ("foreign", file)
    # Somebody may even have made the manifest agree.
    store, manifest = LocalStore(place), manifest_of(place)
    data = store.get(finding.file)
    space = str(manifest.default_space)
    refs = manifest.images if kind == "images" else manifest.embeddings[space]
    forged = dataclasses.replace(refs[0], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if kind == "images":
        change(place, images=(forged, *refs[1:]))
    else:
        change(place, embeddings={space: (forged, *refs[1:])})
    assert "foreign" in {finding.kind for finding in bad(verify_index(place, sample=0))}
    mend(place, photos)
    assert data in [path.read_bytes() for path in (place / "damaged").rglob(file.name)]


def test_table_of_another_kind(place: Path) -> None:
    store, manifest = LocalStore(place), manifest_of(place)
    assert manifest.deleted is not None
    table = read_table(store, manifest.deleted)
    ref = write_table(
        store, "deleted/0000099.parquet", table, kind="paths", index_uuid=manifest.uuid
    )
    change(place, deleted=ref)
    (finding,) = bad(verify_index(place, sample=0))
    assert (finding.kind, finding.file) == ("foreign", ref.name)


@pytest.mark.parametrize("part", ["vectors", "faiss", "thumbnails"])
def test_swapped_cache(place: Path, other: Path, photos: Path, part: str) -> None:
    shutil.rmtree(place / "cache" / part)
    shutil.copytree(other / "cache" / part, place / "cache" / part)
    found = verify_index(place, sample=0)
    assert bad(found)
    assert all(f.severity == "cache" and f"cache/{part}" in f.file for f in bad(found))
    assert "another index" in bad(found)[0].message
    mend(place, photos)


def test_swapped_matrix_under_our_own_name(place: Path, other: Path, photos: Path) -> None:
    file, ids = only(place, _KINDS["matrix"]), only(place, _KINDS["ids"])
    data = np.fromfile(file, "<f2").reshape(-1, 256)
    data[[0, 5]] = data[[5, 0]]
    file.write_bytes(data.tobytes())
    (finding,) = bad(verify_index(place, sample=0))
    assert place / finding.file == file
    assert finding.message.startswith("2 vectors")
    ids.unlink()
    assert named(verify_index(place, sample=0), ids, place)[0].kind == "missing"
    mend(place, photos)


@pytest.mark.parametrize("fault", ["vectors", "lacks", "strange"])
def test_faiss_file_that_is_whole_and_wrong(place: Path, photos: Path, fault: str) -> None:
    file, state = only(place, _KINDS["faiss"]), only(place, _KINDS["faiss state"])
    ids = FaissIndex.load(file).ids
    _, rows = open_index(place).vectors_of(ids)
    rows = np.concatenate([rows, rows[:1]])[: len(ids)]  # one is buried
    wrong = FaissIndex.train(rows, len(rows))
    if fault == "vectors":
        wrong.add(ids, -rows)
    elif fault == "lacks":
        wrong.add(ids[1:], rows[1:])
    else:
        wrong.add(np.append(ids[:-1], ids[-1] + 1000), rows)
    changes = {"crc32": wrong.save(file), "vectors": len(wrong)}
    state.write_text(json.dumps({**json.loads(state.read_text()), **changes}))
    found = verify_index(place, sample=0)
    message = {"vectors": "other vectors", "lacks": "lacks 1", "strange": "lacks 1"}[fault]
    assert message in named(found, file, place)[0].message
    assert all(finding.severity == "cache" for finding in bad(found))
    mend(place, photos)


def test_one_byte_of_the_faiss_file(place: Path, photos: Path) -> None:
    """Far from the ends a search does not look; verify does."""
    file = only(place, _KINDS["faiss"])
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (finding,) = named(verify_index(place, sample=0), file, place)
    assert finding.kind == "damaged"
    mend(place, photos)


def test_what_an_earlier_version_left(place: Path, photos: Path) -> None:
    state = only(place, _KINDS["faiss state"])
    state.write_text(json.dumps({**json.loads(state.read_text()), "kind": "sqfp16"}))
    found = verify_index(place, sample=0)
    assert found.is_sound
    assert [finding.kind for finding in found.findings] == ["old"]
    build_index(photos, place)
    assert verify_index(place, sample=0).findings == ()
    assert json.loads(state.read_text())["kind"] == "ivf-pq"


def test_cache_that_is_gone_is_a_note(place: Path, photos: Path) -> None:
    shutil.rmtree(place / "cache")
    found = verify_index(place, sample=0)
    assert found.is_sound
    assert {finding.kind for finding in found.findings} == {"no-cache", "no-thumbnails"}
    assert_sound(place, photos)


# -- what the shards hold ------------------------------------------------------------------


def swap_first_two(vectors: np.ndarray) -> None:
    vectors[[0, 1]] = vectors[[1, 0]]


def test_exchanged_vectors(place: Path, photos: Path) -> None:
    replace_vectors(place, swap_first_two)
    assert bad(verify_index(place, sample=0)) == []
    found = verify_index(place, sample=100, seed=3)
    assert [finding.kind for finding in bad(found)] == ["vector", "vector"]
    assert found.lowest_cosine is not None
    assert found.lowest_cosine < 0.99
    assert bad(found)[0].cure.endswith("--sample 100 --seed 3")
    assert repair_index(place).actions == ()  # without a sample there is nothing to see
    mend(place, photos, sample=100, seed=3)


def set_nan(vectors: np.ndarray) -> None:
    vectors[2, 7] = np.nan


def set_long(vectors: np.ndarray) -> None:
    vectors[3] *= 1.01


@pytest.mark.parametrize("edit", [set_nan, set_long])
def test_vectors_of_no_unit_length(
    place: Path, photos: Path, edit: Callable[[np.ndarray], None]
) -> None:
    replace_vectors(place, edit)
    (finding,) = bad(verify_index(place, sample=0))
    assert finding.kind == "vectors"
    assert finding.message.startswith("1 of")
    mend(place, photos)


@pytest.mark.parametrize("fault", ["falling", "overlap", "pair", "counter", "unpaired", "rows"])
def test_ids_and_rows(place: Path, photos: Path, fault: str) -> None:
    store, manifest = LocalStore(place), manifest_of(place)
    space = str(manifest.default_space)
    refs = manifest.embeddings[space]
    table = read_tables(store, manifest.images[:1], IMAGE_SCHEMA)
    if fault == "falling":
        order = [0, 2, 1, *range(3, len(table))]
        replace_shard(place, 0, "images", table.take(pa.array(order)))
    elif fault == "overlap":
        ids, vectors = read_vectors(store, refs[1], 256)
        replace_shard(place, 1, "embeddings", embedding_table(ids * 0 + 1, vectors.astype("f4")))
    elif fault == "pair":
        ids, vectors = read_vectors(store, refs[0], 256)
        keep = np.arange(len(ids)) != 4
        replace_shard(
            place, 0, "embeddings", embedding_table(ids[keep], vectors[keep].astype("f4"))
        )
    elif fault == "counter":
        change(place, next_id=1)
        shutil.copyfile(place / "manifest.json", place / COPY_NAME)
    elif fault == "unpaired":
        change(place, embeddings={space: refs[:1]})
        shutil.rmtree(place / "cache")
    else:
        wrong = dataclasses.replace(manifest.images[0], rows=manifest.images[0].rows + 1)
        change(place, images=(wrong, *manifest.images[1:]))
    kinds = {"falling": "ids", "overlap": "ids", "pair": "ids", "rows": "damaged"}
    found = verify_index(place, sample=0)
    assert kinds.get(fault, fault) in {finding.kind for finding in bad(found)}
    highest = manifest.next_id
    mend(place, photos)
    assert manifest_of(place).next_id >= highest


@pytest.mark.parametrize("fault", ["root", "id", "state"])
def test_paths_that_lead_nowhere(place: Path, photos: Path, fault: str) -> None:
    value = {"root": 77, "id": 7777, "state": "elsewhere"}[fault]

    def edit(rows: list[dict[str, object]]) -> None:
        rows[0][fault] = value

    replace_paths(place, edit)
    found = verify_index(place, sample=0)
    assert "paths" in {finding.kind for finding in bad(found)}
    if fault != "state":
        mend(place, photos)


def test_image_without_a_place(place: Path) -> None:
    def edit(rows: list[dict[str, object]]) -> None:
        gone = rows[0]["id"]
        rows[:] = [row for row in rows if row["id"] != gone]

    replace_paths(place, edit)
    (finding,) = bad(verify_index(place, sample=0))
    assert finding.kind == "no-place"
    assert repair_index(place).next_command == ""
    assert bad(verify_index(place)) == []


def test_tombstone_of_nobody(place: Path, photos: Path) -> None:
    store, manifest = LocalStore(place), manifest_of(place)
    assert manifest.deleted is not None
    ids = [*as_numpy(read_table(store, manifest.deleted).column("id")).tolist(), 7777]
    table = pa.table([pa.array(ids, pa.int64())], schema=DELETED_SCHEMA)
    ref = write_table(
        store, "deleted/0000099.parquet", table, kind="deleted", index_uuid=manifest.uuid
    )
    change(place, deleted=ref)
    (finding,) = bad(verify_index(place, sample=0))
    assert (finding.kind, finding.file) == ("ids", ref.name)
    mend(place, photos)


# -- the manifests -------------------------------------------------------------------------


def test_both_manifests_lost(cli: Cli, place: Path) -> None:
    for name in ("manifest.json", COPY_NAME):
        flip(place / name, 700)
    before = snapshot(place)
    (finding,) = bad(verify_index(place))
    assert "both lost" in finding.message
    assert "--repair" not in finding.cure
    with pytest.raises(IndexFormatError, match="backup"):
        repair_index(place)
    assert cli("verify", "--index", place).returncode == 2
    assert {name: data for name, data in snapshot(place).items() if "writer" not in name} == {
        name: data for name, data in before.items() if "writer" not in name
    }


def test_newer_format_is_no_damage(place: Path) -> None:
    for name in ("manifest.json", COPY_NAME):
        text = (place / name).read_text()
        (place / name).write_text(text.replace('"format_version": 1', '"format_version": 2'))
    for run in (verify_index, repair_index):
        with pytest.raises(IndexFormatError, match="upgrade"):
            run(place)


def test_a_map_is_looked_at(place: Path) -> None:
    from clipsearch.map_coordinates import map_coordinates
    from clipsearch.map_files import map_file, save_map

    state = open_index(place).state()
    save_map(place, state.manifest.uuid, map_coordinates(state))
    assert not [one for one in verify_index(place, sample=0).findings if "map" in one.file]
    data = bytearray(map_file(place).read_bytes())
    data[len(data) // 2] ^= 1
    map_file(place).write_bytes(data)
    (finding,) = [one for one in verify_index(place, sample=0).findings if "map" in one.file]
    assert (finding.severity, finding.kind, finding.file) == (
        "note",
        "discovery",
        "clusters/map.parquet",
    )
    assert finding.cure == "delete it, and the next map is laid out anew"


def test_manifest_that_is_gone(place: Path, photos: Path) -> None:
    (place / "manifest.json").unlink()
    (finding,) = bad(verify_index(place, sample=0))
    assert (finding.kind, finding.file) == ("missing", "manifest.json")
    before = read_manifest(LocalStore(place), "here", COPY_NAME)
    mend(place, photos)
    after = manifest_of(place)
    assert after.generation > before.generation
    assert after.files() == before.files()


def test_copy_behind_or_gone(place: Path, photos: Path) -> None:
    old = (place / COPY_NAME).read_bytes()
    change(place, generation=manifest_of(place).generation + 1)
    (place / COPY_NAME).write_bytes(old)
    found = verify_index(place, sample=0)
    assert [finding.kind for finding in found.findings] == ["behind"]
    assert found.is_sound
    change(place, generation=manifest_of(place).generation + 2)
    (place / COPY_NAME).write_bytes(old)
    assert not verify_index(place, sample=0).is_sound
    mend(place, photos)
    (place / COPY_NAME).unlink()
    found = verify_index(place, sample=0)
    assert [finding.kind for finding in found.findings] == ["missing"]
    assert found.is_sound


def test_copy_of_another_index(place: Path, other: Path, photos: Path) -> None:
    shutil.copyfile(other / COPY_NAME, place / COPY_NAME)
    (finding,) = bad(verify_index(place, sample=0))
    assert (finding.kind, finding.file) == ("foreign", COPY_NAME)
    uuid = manifest_of(place).uuid
    mend(place, photos)
    assert read_manifest(LocalStore(place), "here", COPY_NAME).uuid == uuid


# -- what a repair keeps and loses ---------------------------------------------------------


def test_lost_shard_gets_new_ids_and_keeps_the_rest(place: Path, photos: Path) -> None:
    store, before = LocalStore(place), manifest_of(place)
    kept = read_tables(store, before.images[1:], IMAGE_SCHEMA, ["id"]).column("id").to_pylist()
    damaged = (place / before.images[0].name).read_bytes()
    flip(place / before.images[0].name, 500)
    repair_index(place)
    report = build_index(photos, place)
    after = manifest_of(place)
    ids = read_tables(store, after.images, IMAGE_SCHEMA, ["id"]).column("id").to_pylist()
    assert set(kept) < set(ids)
    assert min(set(ids) - set(kept)) >= before.next_id
    assert report.new == len(ids) - len(kept)
    (copy,) = (place / "damaged").rglob("images/00000.parquet")
    assert len(copy.read_bytes()) == len(damaged)
    (sister,) = (place / "damaged").rglob("embeddings/*/00000.parquet")
    assert hashlib.sha256(sister.read_bytes()).hexdigest() in {
        ref.sha256 for ref in before.embeddings[str(before.default_space)]
    }


def test_lost_paths_are_found_by_content(place: Path, photos: Path) -> None:
    before = manifest_of(place)
    store = LocalStore(place)
    assert before.deleted is not None
    buried = read_table(store, before.deleted).column("id").to_pylist()
    for ref in before.paths:
        (place / ref.name).unlink()
    done = repair_index(place)
    assert done.is_mended
    assert manifest_of(place).deleted == before.deleted  # nobody was buried meanwhile
    report = build_index(photos, place)
    assert report.new == 0
    after = manifest_of(place)
    assert after.images == before.images
    assert after.deleted is not None
    assert read_table(store, after.deleted).column("id").to_pylist() == buried
    assert_sound(place, photos)


def test_places_and_tombstones_lost_together(place: Path) -> None:
    before = manifest_of(place)
    assert before.deleted is not None
    for ref in (*before.paths, before.deleted):
        (place / ref.name).unlink()
    assert repair_index(place).is_mended
    assert manifest_of(place).deleted is None  # nobody is buried for want of a place just now


def test_lost_tombstones_are_made_again(place: Path) -> None:
    store, before = LocalStore(place), manifest_of(place)
    assert before.deleted is not None
    buried = read_table(store, before.deleted).column("id").to_pylist()
    (place / before.deleted.name).unlink()
    done = repair_index(place)
    assert done.next_command == ""
    after = manifest_of(place)
    assert after.deleted is not None
    assert read_table(store, after.deleted).column("id").to_pylist() == buried


def test_repair_touches_no_photo(place: Path, photos: Path) -> None:
    before = snapshot(photos)
    for pattern in ("images/00000.parquet", "paths/*.parquet", "skipped/*.parquet"):
        flip(only(place, pattern), 300)
    mend(place, photos)
    assert snapshot(photos) == before


def test_repair_killed_before_its_manifest(
    place: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(place / "images/00000.parquet", 300)
    before = manifest_of(place)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("indexer.repair.write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            repair_index(place)
    assert manifest_of(place) == before
    assert all((place / ref.name).is_file() for ref in before.files())
    mend(place, photos)


def test_leftovers_are_notes(place: Path) -> None:
    shutil.copyfile(place / "images/00000.parquet", place / "images/00009.parquet")
    found = verify_index(place, sample=0)
    assert [(f.kind, f.file) for f in found.findings] == [("leftover", "images/00009.parquet")]
    assert found.is_sound


# -- locked, read-only, unreadable ---------------------------------------------------------


def test_locked_index(place: Path, cli: Cli) -> None:
    flip(place / "images/00000.parquet", 300)
    before = snapshot(place)
    with writer_lock(place):
        assert not verify_index(place, sample=0).is_sound
        done = cli("verify", "--repair", "--index", place)
        assert done.returncode == 2
        assert b"another process is writing" in done.stderr
    with writer_lock(place), pytest.raises(IndexLockedError):
        repair_index(place)
    after = snapshot(place)
    assert {k: v for k, v in after.items() if "writer" not in k} == {
        k: v for k, v in before.items() if "writer" not in k
    }


def test_read_only_index(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(place / "images/00000.parquet", 300)
    before = snapshot(place)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert not verify_index(place, sample=2).is_sound
    with pytest.raises(OptionError, match="no permission"):
        repair_index(place)
    assert snapshot(place) == before


@pytest.mark.parametrize("number", [13, 5])
def test_what_cannot_be_read_is_not_damage(
    place: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import builtins

    really_open = builtins.open
    locked = str(place / "images/00000.parquet")

    def refuse(file: object, *rest: object, **options: object) -> object:
        if str(file) == locked:
            raise OSError(number, os.strerror(number), locked)
        return really_open(file, *rest, **options)  # type: ignore[call-overload]

    before = snapshot(place)
    monkeypatch.setattr(builtins, "open", refuse)
    (finding,) = bad(verify_index(place, sample=0))
    assert finding.kind == "unreadable"
    assert os.strerror(number) in finding.message
    assert "--repair" not in finding.cure
    with pytest.raises(IndexReadError, match="nothing was changed"):
        repair_index(place)
    monkeypatch.undo()
    after = snapshot(place)
    assert {k: v for k, v in after.items() if "writer" not in k} == {
        k: v for k, v in before.items() if "writer" not in k
    }


def test_reading_errors_say_what_they_are(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, manifest = LocalStore(place), manifest_of(place)

    def refuse(self: LocalStore, name: str) -> object:
        raise PermissionError(13, "Permission denied", name)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "open_mapped", refuse)
        with pytest.raises(IndexReadError, match="Permission denied"):
            read_table(store, manifest.images[0])
    shard = place / manifest.images[0].name
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(IndexFormatError, match="clipsearch verify --repair"):
        read_tables(store, manifest.images, IMAGE_SCHEMA)


# -- the sample ----------------------------------------------------------------------------


def test_files_that_are_gone_or_changed(place: Path, photos: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(photos, tmp_path / "own"))
    build_index(own, tmp_path / "own.index", encoder="mini")
    (own / "tower.jpg").unlink()
    (own / "bus.png").touch()
    quiet = own / "groot.jpeg"
    stamp = quiet.stat().st_mtime_ns
    flip(quiet, quiet.stat().st_size // 2)
    os.utime(quiet, ns=(stamp, stamp))
    found = verify_index(tmp_path / "own.index", sample=100)
    assert found.not_there == 1
    assert found.changed == 2
    assert [(f.kind, f.file) for f in found.findings] == [("changed", str(quiet))]
    assert found.is_sound


def test_model_that_is_not_here(place: Path) -> None:
    manifest = manifest_of(place)
    spaces = {
        key: dataclasses.replace(space, model="ViT-B-32-256/datacomp_s34b_b86k")
        for key, space in manifest.spaces.items()
    }
    change(place, spaces=spaces)
    found = verify_index(place)
    assert found.is_sound
    assert [finding.kind for finding in found.findings] == ["no-model"]
    assert found.encoded == 0
    assert verify_index(place, model="mini").encoded > 5


# -- the command line ----------------------------------------------------------------------


@pytest.mark.slow
def test_command_line(cli: Cli, place: Path) -> None:
    done = cli("verify", "--index", place)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"All is well" in done.stderr
    flip(only(place, _KINDS["matrix"]), 100)
    done = cli("verify", "--index", place, "--sample", "0")
    assert done.returncode == 2
    (line,) = done.stdout.decode().splitlines()
    assert line.split("\t")[:2] == ["cache", "damaged"]
    assert b"only its cache" in done.stderr
    done = cli("verify", "--index", place, "--sample", "4", "--seed", "5", "--json")
    *findings, summary = map(json.loads, done.stdout.splitlines())
    assert [finding["severity"] for finding in findings] == ["cache"]
    assert (summary["caches"], summary["errors"], summary["sound"]) == (1, 0, False)
    assert (summary["seed"], summary["encoded"]) == (5, 4)
    done = cli("verify", "--index", place, "--repair", "--json")
    *actions, summary = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 0
    assert actions[0]["action"].startswith("cache/vectors/")
    assert summary["mended"] is True
    assert cli("verify", "--index", place.parent / "absent.index").returncode == 2


def test_the_fixture_that_everybody_uses(cli: Cli, mini_index: Path) -> None:
    assert cli("verify", "--index", mini_index).returncode == 0
    manifest = manifest_of(mini_index)
    cache = VectorCache(cache_folder(mini_index), manifest, str(manifest.default_space))
    assert cache.covers_all()
    assert isinstance(manifest.paths[0], FileRef)
