"""The manifest: what goes in comes out, and no damage goes unnoticed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from clipsearch.encoder import ImageGeometry, Space
from clipsearch.errors import IndexFormatError, IndexNotFoundError
from clipsearch.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileRef,
    Manifest,
    MeasuredSearch,
    Root,
    ShardRef,
    new_manifest,
    read_manifest,
    write_manifest,
)
from clipsearch.store import LocalStore

SPACE = Space("toy-0123456789ab", "0" * 64, "toy", 8, 14.25, -1.5, ImageGeometry(32, 48, "longest"))
NOT_UTF8 = os.fsdecode(b"/photos/caf\xe9/\xff")
FULL = dataclasses.replace(
    new_manifest("clipsearch test"),
    generation=7,
    next_id=30,
    next_shard=2,
    next_root=3,
    roots=(Root(0, NOT_UTF8, "2026-01-01T00:00:00+00:00"), Root(2, "/ph\u00f6tos/\U0001f98a")),
    default_space=SPACE.id,
    spaces={SPACE.id: SPACE, "b": dataclasses.replace(SPACE, id="b", logit_bias=None)},
    images=(ShardRef("images/00000.parquet", 3, 100, "a" * 64, 0, 4, {"device": "cpu", "x": 0.1}),),
    embeddings={
        SPACE.id: (ShardRef(f"embeddings/{SPACE.id}/00000.parquet", 3, 50, "b" * 64, 0, 4),),
        "b": (ShardRef("embeddings/b/00000.parquet", 3, 50, "c" * 64, 0, 4),),
    },
    paths=(FileRef("paths/1.parquet", 5, 5, "d" * 64), FileRef("paths/2.parquet", 1, 1, "e" * 64)),
    skipped=FileRef("skipped/1.parquet", 1, 9, "f" * 64),
    deleted=FileRef("deleted/1.parquet", 2, 9, "9" * 64),
    config={"exclude": ["*.tmp"], "nested": {"none": None, "yes": True}},
    searches={
        "b": MeasuredSearch("x", 9, 10, 0.95, True, 314, 0.97, 0.96, 0.98, 16, 400, "2026-01-01")
    },
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def put_document(store: LocalStore, document: Any) -> None:
    """Write a document with a right checksum, as a newer or foreign program might."""
    if isinstance(document, dict):
        document.pop("checksum", None)
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        document["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    store.replace(MANIFEST_NAME, json.dumps(document).encode())


@pytest.mark.parametrize("manifest", [FULL, new_manifest("x")], ids=["full", "empty"])
def test_round_trip(store: LocalStore, manifest: Manifest) -> None:
    write_manifest(store, manifest)
    assert read_manifest(store, "here") == manifest
    assert store.get(MANIFEST_NAME).isascii()


def test_root_of_bytes_that_are_not_utf8(store: LocalStore) -> None:
    write_manifest(store, FULL)
    root = read_manifest(store, "here").root(0)
    assert os.fsencode(root.path) == b"/photos/caf\xe9/\xff"


def test_no_flipped_byte_goes_unnoticed(store: LocalStore) -> None:
    write_manifest(store, FULL)
    good = store.get(MANIFEST_NAME)
    chance = random.Random(5)
    caught = 0
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= chance.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        (store.root / MANIFEST_NAME).write_bytes(bad)
        try:
            # White space between the parts may change, what they say may not.
            assert read_manifest(store, "here") == FULL
        except IndexFormatError:
            caught += 1
    assert caught > 0.8 * len(good)


def test_no_cut_goes_unnoticed(store: LocalStore) -> None:
    write_manifest(store, FULL)
    good = store.get(MANIFEST_NAME)
    for length in range(0, len(good) - 1, 7):
        (store.root / MANIFEST_NAME).write_bytes(good[:length])
        with pytest.raises(IndexFormatError, match="damaged"):
            read_manifest(store, "here")


def test_one_changed_number(store: LocalStore) -> None:
    write_manifest(store, FULL)
    text = store.get(MANIFEST_NAME)
    assert text.count(b'"next_id": 30') == 1
    store.replace(MANIFEST_NAME, text.replace(b'"next_id": 30', b'"next_id": 20'))
    with pytest.raises(IndexFormatError, match="checksum does not match"):
        read_manifest(store, "here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe\xfd",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[]",
        b"3",
        b"null",
        b'"clipsearch index"',
        b'{"format": "something else"}',
        b'{"format": "clipsearch index"}',
        b'{"format": "clipsearch index", "format_version": "1"}',
        b'{"format": "clipsearch index", "format_version": 1}',
        b"1" * 10_000,
    ],
    ids=lambda data: repr(data[:30]),
)
def test_foreign_file(store: LocalStore, data: bytes) -> None:
    store.replace(MANIFEST_NAME, data)
    with pytest.raises(IndexFormatError) as error:
        read_manifest(store, "here")
    assert "here" in str(error.value)
    assert "\n" not in str(error.value)


def test_newer_version_says_upgrade(store: LocalStore) -> None:
    write_manifest(store, FULL)
    document = json.loads(store.get(MANIFEST_NAME))
    document["format_version"] = FORMAT_VERSION + 1
    document["new_thing"] = {}
    put_document(store, document)
    with pytest.raises(IndexFormatError, match=rf"version {FORMAT_VERSION + 1}.*upgrade"):
        read_manifest(store, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("roots", [{"id": 1}]),
        ("roots", 3),
        ("spaces", []),
        ("spaces", {"a": 1}),
        ("embeddings", [1]),
        ("images", [{"name": "a"}]),
        ("paths", None),
        ("skipped", "x"),
        ("searches", [1]),
        ("searches", {"b": {"kind": "x"}}),
        ("searches", {"b": {**dataclasses.asdict(FULL.searches["b"]), "recall": "1"}}),
    ],
)
def test_wrong_shape_with_a_right_checksum(store: LocalStore, key: str, value: object) -> None:
    write_manifest(store, FULL)
    document = json.loads(store.get(MANIFEST_NAME))
    document[key] = value
    put_document(store, document)
    with pytest.raises(IndexFormatError, match="damaged"):
        read_manifest(store, "here")


def test_missing_field(store: LocalStore) -> None:
    write_manifest(store, FULL)
    for name in [item.name for item in dataclasses.fields(Manifest)]:
        document = json.loads(store.get(MANIFEST_NAME))
        del document[name]
        other = LocalStore(store.root / name)
        put_document(other, document)
        if name == "sources":  # which the first manifests did not have: the roots stand in
            assert read_manifest(other, "x").sources == tuple(root.path for root in FULL.roots)
            continue
        if name == "searches":
            assert read_manifest(other, "x") == dataclasses.replace(FULL, searches={})
            continue
        with pytest.raises(IndexFormatError, match=name):
            read_manifest(other, "here")


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match="no index at there"):
        read_manifest(LocalStore(tmp_path), "there")
    with pytest.raises(IndexNotFoundError):
        read_manifest(LocalStore(tmp_path / "gone"), "there")
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(IndexNotFoundError):
        read_manifest(LocalStore(file), "there")


def test_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(IndexFormatError, match="cannot read"):
        read_manifest(LocalStore(tmp_path), "here")


def test_files_names_everything() -> None:
    names = [ref.name for ref in FULL.files()]
    assert sorted(names) == sorted(
        [
            "images/00000.parquet",
            f"embeddings/{SPACE.id}/00000.parquet",
            "embeddings/b/00000.parquet",
            "paths/1.parquet",
            "paths/2.parquet",
            "skipped/1.parquet",
            "deleted/1.parquet",
        ]
    )
    assert new_manifest("x").files() == []


def test_files_are_all_there_is(mini_index: Path) -> None:
    store = LocalStore(mini_index)
    manifest = read_manifest(store, "here")
    assert sorted(ref.name for ref in manifest.files()) == [
        name for name in store.list("") if name.endswith(".parquet")
    ]
    for ref in manifest.files():
        data = store.get(ref.name)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (ref.bytes, ref.sha256)


def test_unknown_root() -> None:
    assert FULL.root(2).path.startswith("/ph")
    with pytest.raises(IndexFormatError, match="root 1"):
        FULL.root(1)


@pytest.mark.parametrize(
    "change",
    [
        {"uuid": "../../elsewhere"},
        {"uuid": "no uuid"},
        {"config": [1]},
        {"next_id": "7"},
        {"roots": [{"id": 0, "path": None, "scanned_at": None}]},
    ],
)
def test_a_manifest_that_means_mischief(store: LocalStore, change: dict[str, Any]) -> None:
    write_manifest(store, FULL)
    document = json.loads(store.get(MANIFEST_NAME))
    put_document(store, {**document, **change})
    with pytest.raises(IndexFormatError, match="damaged"):
        read_manifest(store, "here")


@pytest.mark.parametrize("name", ["/tmp/victim", "..", "../victim", "a/b", "", "UPPER", "a\\b"])
def test_a_space_cannot_lead_elsewhere(store: LocalStore, name: str) -> None:
    """Folders of the cache are named after a space, and files in them are removed."""
    write_manifest(store, FULL)
    text = store.get(MANIFEST_NAME).decode().replace(SPACE.id, json.dumps(name)[1:-1])
    put_document(store, json.loads(text))
    with pytest.raises(IndexFormatError, match="damaged"):
        read_manifest(store, "here")


@pytest.mark.parametrize("name", ["images/../../x.parquet", "paths/0000001.parquet", "x.parquet"])
def test_a_shard_lies_in_its_own_folder(store: LocalStore, name: str) -> None:
    write_manifest(store, FULL)
    document = json.loads(store.get(MANIFEST_NAME))
    document["images"][0]["name"] = name
    put_document(store, document)
    with pytest.raises(IndexFormatError, match="damaged"):
        read_manifest(store, "here")


def test_what_a_later_version_adds_is_passed_over(store: LocalStore) -> None:
    write_manifest(store, FULL)
    document = json.loads(store.get(MANIFEST_NAME))
    document["report"] = {"recall": 1.0}
    document["roots"][0]["label"] = "holidays"
    document["spaces"][SPACE.id]["modality"] = "image"
    document["images"][0]["first_taken"] = "2020-01-01"
    put_document(store, document)
    assert read_manifest(store, "here") == FULL


def test_a_recipe_is_written_once(store: LocalStore) -> None:
    shards = tuple(
        ShardRef(f"images/{number:05d}.parquet", 1, 1, "c" * 64, number, number, {"device": "cpu"})
        for number in range(50)
    )
    many = dataclasses.replace(FULL, images=shards)
    write_manifest(store, many)
    assert store.get(MANIFEST_NAME).count(b'"device"') == 1
    assert read_manifest(store, "here") == many
