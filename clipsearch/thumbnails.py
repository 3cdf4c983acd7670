"""Thumbnails made while indexing: one Arrow file per image shard, read by mapping.

``cache/thumbnails/00000.arrow`` holds ``id`` and ``image`` (JPEG bytes) for the images of
``images/00000.parquet``, in order of id, and a seal behind them. The seal vouches for both ends;
a checksum in the schema, which only ``check_thumbnails`` reads, for every picture. Deleting the
folder loses nothing but time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.manifest import Manifest
from clipsearch.shards import Int64, as_numpy
from clipsearch.store import replace_file, seal, sealed_size

_SCHEMA = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), pa.field("image", pa.large_binary())]
)


def thumbnail_file(cache: Path, shard_name: str) -> Path:
    """Where the thumbnails of an image shard are."""
    stem = shard_name.rsplit("/", 1)[-1].removesuffix(".parquet")
    return cache / "thumbnails" / f"{stem}.arrow"


def write_thumbnails(
    cache: Path, shard_name: str, index_uuid: str, ids: Sequence[int], images: Sequence[bytes]
) -> None:
    """Write the thumbnails of one image shard."""
    schema = _SCHEMA.with_metadata(
        {"clipsearch.index": index_uuid, "clipsearch.sha256": _checksum(ids, images)}
    )
    table = pa.table([pa.array(ids, pa.int64()), pa.array(images, pa.large_binary())], schema)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table)
    with sink.getbuffer() as data:
        mark = seal(data)
    sink.seek(0, io.SEEK_END)
    sink.write(mark)
    replace_file(thumbnail_file(cache, shard_name), sink.getvalue())


def _checksum(ids: Iterable[int], images: Iterable[bytes | None]) -> str:
    digest = hashlib.sha256()
    for image_id, image in zip(ids, images, strict=True):
        data = image or b""
        digest.update(struct.pack("<qQ", image_id, len(data)))
        digest.update(data)
    return digest.hexdigest()


def check_thumbnails(cache: Path, shard_name: str, index_uuid: str, ids: Int64) -> str | None:
    """What is wrong with the thumbnails of one image shard, whose (n,) rising ids are ``ids``.

    None when they are as they were written. Files of before there was a checksum are taken at
    their seal's word. Raises OSError (FileNotFoundError when there are none).
    """
    try:
        with pa.memory_map(os.fsencode(thumbnail_file(cache, shard_name)), "r") as file:
            data = file.read_buffer()
            size = sealed_size(data)
            if size is None:
                return "its seal does not fit it"
            reader = pa.ipc.open_file(pa.BufferReader(data.slice(0, size)))
            labels = reader.schema.metadata or {}
            if labels.get(b"clipsearch.index") != index_uuid.encode():
                return "it is of another index"
            table = reader.read_all()
            table.validate(full=True)
            if not np.array_equal(as_numpy(table.column("id")), ids):
                return f"it does not hold the images of {shard_name}"
            wanted = labels.get(b"clipsearch.sha256")
            images = (image.as_py() for image in table.column("image"))
            if wanted is not None and wanted != _checksum(ids.tolist(), images).encode():
                return "its pictures are not those that were written"
    except (pa.ArrowException, ValueError, KeyError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    except OSError as error:
        if error.errno is None:
            return (str(error).splitlines() or [type(error).__name__])[0]
        raise
    return None


def read_thumbnail(cache: Path, manifest: Manifest, image_id: int) -> bytes | None:
    """The thumbnail of one image as JPEG bytes, None when the cache does not have it."""
    for shard in manifest.images:
        if not shard.first_id <= image_id <= shard.last_id:
            continue
        with _open(cache, shard.name, manifest.uuid) as table:
            if table is None:
                return None
            ids = as_numpy(table.column("id"))
            row = int(np.searchsorted(ids, image_id))
            if row == len(ids) or ids[row] != image_id:
                return None
            image: bytes | None = table.column("image")[row].as_py()
            return image or None  # compacting keeps a place for one that was lost
    return None


def read_thumbnails(cache: Path, shard_name: str, index_uuid: str) -> dict[int, bytes]:
    """All thumbnails of one image shard by id; none when the cache does not have them."""
    with _open(cache, shard_name, index_uuid) as table:
        if table is None:
            return {}
        ids, images = table.column("id").to_pylist(), table.column("image").to_pylist()
        return dict(zip(ids, images, strict=True))


def thumbnails_of(cache: Path, manifest: Manifest, ids: Int64) -> Iterator[tuple[int, bytes]]:
    """(id, JPEG bytes) of those of the (n,) rising ``ids`` that the cache has, in their order."""
    for shard in manifest.images:
        start, stop = np.searchsorted(ids, [shard.first_id, shard.last_id + 1])
        if start == stop:
            continue
        with _open(cache, shard.name, manifest.uuid) as table:
            if table is None:
                continue
            held = as_numpy(table.column("id"))
            images = table.column("image")
            for image_id in ids[start:stop][np.isin(ids[start:stop], held)].tolist():
                image: bytes | None = images[int(np.searchsorted(held, image_id))].as_py()
                if image:
                    yield image_id, image


@contextlib.contextmanager
def _open(cache: Path, shard_name: str, index_uuid: str) -> Iterator[pa.Table | None]:
    """The mapped table of one shard's thumbnails; None when it is missing, damaged or another
    index's."""
    try:
        file = pa.memory_map(os.fsencode(thumbnail_file(cache, shard_name)), "r")
    except OSError:
        yield None
        return
    with file:
        yield _table(file, index_uuid)


def _table(file: pa.MemoryMappedFile, index_uuid: str) -> pa.Table | None:
    try:
        data = file.read_buffer()
        size = sealed_size(data)
        if size is None:
            return None
        reader = pa.ipc.open_file(pa.BufferReader(data.slice(0, size)))
        schema = reader.schema
        if not schema.equals(_SCHEMA) or schema.metadata is None:
            return None
        if schema.metadata.get(b"clipsearch.index") != index_uuid.encode():
            return None
        table = reader.read_all()
        table.validate(full=True)  # a wrong offset would be followed anywhere
    except (OSError, pa.ArrowException, ValueError):
        return None
    return table
