"""Thumbnails: read back as written, or not at all."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from clipsearch.image_index import open_index
from clipsearch.manifest import Manifest, ShardRef, new_manifest
from clipsearch.store import seal
from clipsearch.thumbnails import read_thumbnail, write_thumbnails

IDS = [0, 2, 3, 7]
PICTURES = [b"first", b"", b"\0" * 5000, bytes(range(256))]


def make_manifest(uuid: str = "one") -> Manifest:
    return dataclasses.replace(
        new_manifest("test"),
        uuid=uuid,
        images=(
            ShardRef("images/00000.parquet", 4, 1, "", 0, 7),
            ShardRef("images/00001.parquet", 2, 1, "", 9, 10),
        ),
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    write_thumbnails(tmp_path, "images/00000.parquet", "one", IDS, PICTURES)
    return tmp_path


def file_of(cache: Path) -> Path:
    return cache / "thumbnails" / "00000.arrow"


def test_read_back(cache: Path) -> None:
    manifest = make_manifest()
    for image_id, picture in zip(IDS, PICTURES, strict=True):
        assert read_thumbnail(cache, manifest, image_id) == (picture or None)
    for unknown in (-1, 1, 4, 8, 9, 10, 11, 10**12):
        assert read_thumbnail(cache, manifest, unknown) is None
    write_thumbnails(cache, "images/00001.parquet", "one", [9, 10], [b"nine", b"ten"])
    assert read_thumbnail(cache, manifest, 10) == b"ten"
    assert read_thumbnail(cache, manifest, 7) == PICTURES[3]


def test_a_real_index_has_them(mini_index: Path) -> None:
    index = open_index(mini_index)
    for image_id in index.classify(["a cat", "a tower"]).ids.tolist():
        data = index.thumbnail(image_id)
        assert data is not None
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            assert max(picture.size) > 64
    assert index.thumbnail(10**9) is None


def test_write_again(cache: Path) -> None:
    write_thumbnails(cache, "images/00000.parquet", "one", [0], [b"new"])
    assert read_thumbnail(cache, make_manifest(), 0) == b"new"
    assert read_thumbnail(cache, make_manifest(), 7) is None


def test_empty_shard(cache: Path) -> None:
    write_thumbnails(cache, "images/00000.parquet", "one", [], [])
    assert read_thumbnail(cache, make_manifest(), 0) is None


def test_of_another_index(cache: Path) -> None:
    assert read_thumbnail(cache, make_manifest("two"), 0) is None


def test_none_there(tmp_path: Path) -> None:
    assert read_thumbnail(tmp_path, make_manifest(), 0) is None


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"id": [0, 2], "image": [b"a", b"b"]}),
        pa.table({"id": [0, 2]}),
        pa.table({"id": ["0"], "image": [b"a"]}),
        pa.table({"x": [0]}),
    ],
    ids=["types", "no images", "ids of text", "nothing"],
)
@pytest.mark.parametrize("metadata", [None, {"clipsearch.index": "one"}, {"other": "one"}])
def test_foreign_arrow_file(cache: Path, table: pa.Table, metadata: dict[str, str] | None) -> None:
    sink = io.BytesIO()
    labelled = table.replace_schema_metadata(metadata)
    with pa.ipc.new_file(sink, labelled.schema) as writer:
        writer.write_table(labelled)
    data = sink.getvalue()
    for content in (data, data + seal(memoryview(data))):
        file_of(cache).write_bytes(content)
        assert read_thumbnail(cache, make_manifest(), 0) is None


def test_cut_file(cache: Path) -> None:
    good = file_of(cache).read_bytes()
    for length in [*range(0, len(good), 61), len(good) - 1]:
        file_of(cache).write_bytes(good[:length])
        assert read_thumbnail(cache, make_manifest(), 0) is None


def test_folder_in_its_place(cache: Path) -> None:
    file_of(cache).unlink()
    file_of(cache).mkdir()
    assert read_thumbnail(cache, make_manifest(), 0) is None


def test_changed_bytes_never_end_the_process(cache: Path) -> None:
    """Arrow believes the lengths in a file; some wrong ones would end the process."""
    good = file_of(cache).read_bytes()
    manifest = make_manifest()
    for position in range(0, len(good), 2 if len(good) < 8000 else 3):
        for change in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= change
            file_of(cache).unlink()
            file_of(cache).write_bytes(bad)
            assert read_thumbnail(cache, manifest, 7) in (None, PICTURES[3])
