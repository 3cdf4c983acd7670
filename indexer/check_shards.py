"""The files of an index against its manifest: bytes, checksums, owners, rows, ids, vectors."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.errors import ClipsearchError
from clipsearch.manifest import FileRef, Manifest, ShardRef
from clipsearch.shards import IMAGE_SCHEMA, Float16, Int64, as_numpy, read_tables
from clipsearch.spaces import shard_number
from clipsearch.store import LocalStore
from clipsearch.vectors import read_vectors
from indexer.findings import Tally

_UNIT_TOLERANCE = 2e-3  # fp16 rounds each number by up to 0.0005 of itself
_BLOCK_ROWS = 16_384


class CacheCheck(Protocol):
    """Hears every sound embedding shard of its space, in order."""

    def compare(self, shard: ShardRef, ids: Int64, vectors: Float16) -> None: ...


@dataclass
class SoundShards:
    """The shards that are what the manifest says.

    images : by stem ("00000"), the reference and its (n,) int64 ids. embeddings : by space, the
    references. unsure : (first, last) ids of the shards that are not sound.
    """

    images: dict[str, tuple[ShardRef, Int64]] = field(default_factory=dict)
    embeddings: dict[str, list[ShardRef]] = field(default_factory=dict)
    unsure: list[tuple[int, int]] = field(default_factory=list)

    def ids(self) -> Int64:
        """(n,) int64 rising: the ids of every sound image shard."""
        parts = [ids for _, ids in self.images.values()]
        return np.sort(np.concatenate([np.empty(0, np.int64), *parts]))

    def not_in_doubt(self, ids: Int64) -> Int64:
        """Those of ``ids`` that no unsound shard may hold."""
        for first, last in self.unsure:
            ids = ids[(ids < first) | (ids > last)]
        return ids


def is_whole(tally: Tally, store: LocalStore, ref: FileRef, kind: str, uuid: str) -> bool:
    """Whether a file has the bytes the manifest says, and is of this kind and index."""
    try:
        size, digest = _size_and_digest(store.local(ref.name))
        if (size, digest) != (ref.bytes, ref.sha256) and store.bring_again(ref.name):
            size, digest = _size_and_digest(store.local(ref.name))
    except (FileNotFoundError, NotADirectoryError):
        tally.error("missing", ref.name, "is not there")
        return False
    except OSError as error:
        tally.unreadable(ref.name, error)
        return False
    tally.files += 1
    tally.bytes += size
    labels = _labels(store, ref)
    owner = labels.get("clipsearch.index", uuid)
    if owner != uuid:
        tally.error("foreign", ref.name, f"belongs to another index ({owner})")
        return False
    if (size, digest) != (ref.bytes, ref.sha256):
        was = f"{ref.bytes:,} bytes of checksum {ref.sha256[:8]}"
        tally.error(
            "damaged", ref.name, f"expected {was}, found {size:,} bytes of checksum {digest[:8]}"
        )
        return False
    if labels.get("clipsearch.kind") != kind:
        found = labels.get("clipsearch.kind", "no table of an index")
        tally.error("foreign", ref.name, f"expected {kind}, found {found}")
        return False
    tally.rows += ref.rows
    return True


def _size_and_digest(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def _labels(store: LocalStore, ref: FileRef) -> dict[str, str]:
    """The labels in a Parquet file's schema; none when it has no readable foot."""
    with contextlib.suppress(pa.ArrowException, OSError, ValueError):
        with store.open_mapped(ref.name) as file:
            labels = pq.ParquetFile(file).schema_arrow.metadata or {}
        return {
            name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for name, value in labels.items()
        }
    return {}


def check_shards(
    tally: Tally,
    store: LocalStore,
    manifest: Manifest,
    caches: dict[str, list[CacheCheck]],
    done: Callable[[], None],
    deleted: Int64 | None = None,
) -> SoundShards:
    """Check image and embedding shards, alone and against each other.

    caches : by space, who compares a cache with the shards. ``done`` is called after each file.
    deleted : (d,) rising, the tombstones, whose images need no vector; None when they are not
    known. An index of several spaces may be on its way from one to the other: that images have
    no vector in one of them is a note then.
    """
    sound = SoundShards()
    _check_order(tally, manifest.images)
    for ref in manifest.images:
        ids = _image_ids(tally, store, ref, manifest.uuid)
        if ids is not None and _ids_fit(tally, ref, ids):
            sound.images[shard_number(ref.name)] = (ref, ids)
        else:
            sound.unsure.append((ref.first_id, ref.last_id))
        done()
    for space_id, refs in manifest.embeddings.items():
        _check_order(tally, refs)
        pairs = _Pairs(tally, manifest, space_id, sound, deleted)
        pairs.check_numbers()
        kept = sound.embeddings.setdefault(space_id, [])
        for ref in refs:
            rows = _embeddings(tally, store, ref, manifest, space_id)
            if rows is not None and _ids_fit(tally, ref, rows[0]):
                for cache in caches.get(space_id, []):
                    cache.compare(ref, *rows)
                if _vectors_fit(tally, ref, rows[1]) and pairs.fits(ref, rows[0]):
                    kept.append(ref)
            done()
        pairs.note_lacking()
    highest = max((ref.last_id for ref in manifest.images), default=-1)
    if highest >= manifest.next_id:
        tally.error(
            "counter",
            "manifest.json",
            f"gives out id {manifest.next_id} next, and id {highest} is taken",
        )
    return sound


def _image_ids(tally: Tally, store: LocalStore, ref: ShardRef, uuid: str) -> Int64 | None:
    if not is_whole(tally, store, ref, "images", uuid):
        return None
    try:  # all columns, so that every page's checksum is compared
        table = read_tables(store, [ref], IMAGE_SCHEMA)
    except ClipsearchError as error:
        tally.error("damaged", ref.name, _what(error))
        return None
    return as_numpy(table.column("id"))


def _embeddings(
    tally: Tally, store: LocalStore, ref: ShardRef, manifest: Manifest, space_id: str
) -> tuple[Int64, Float16] | None:
    if not is_whole(tally, store, ref, "embeddings", manifest.uuid):
        return None
    try:
        return read_vectors(store, ref, manifest.spaces[space_id].dim)
    except ClipsearchError as error:
        tally.error("damaged", ref.name, _what(error))
        return None


def _what(error: ClipsearchError) -> str:
    """The message of a reading error without its cure, which stands beside it here."""
    return str(error).rpartition(": ")[0] or str(error)


def _check_order(tally: Tally, refs: tuple[ShardRef, ...]) -> None:
    highest = -1
    for ref in refs:
        if ref.first_id <= highest:
            tally.error(
                "ids",
                ref.name,
                f"begins with id {ref.first_id}, and an earlier shard goes up to {highest}",
            )
        highest = max(highest, ref.last_id)


def _ids_fit(tally: Tally, ref: ShardRef, ids: Int64) -> bool:
    if not len(ids) or not bool((np.diff(ids) > 0).all()):
        tally.error("ids", ref.name, "its ids do not rise from row to row")
        return False
    if (ids[0], ids[-1]) != (ref.first_id, ref.last_id):
        tally.error(
            "ids",
            ref.name,
            f"expected ids {ref.first_id} to {ref.last_id}, found {ids[0]} to {ids[-1]}",
        )
        return False
    return True


class _Pairs:
    """The image shards beside the embeddings of one space."""

    def __init__(
        self,
        tally: Tally,
        manifest: Manifest,
        space_id: str,
        sound: SoundShards,
        deleted: Int64 | None,
    ) -> None:
        self._tally = tally
        self._sound = sound
        self._deleted = deleted
        self._space = manifest.spaces[space_id]
        self._images = {shard_number(ref.name): ref for ref in manifest.images}
        self._embeddings = {shard_number(ref.name): ref for ref in manifest.embeddings[space_id]}
        self._may_lack = len(manifest.spaces) > 1
        self._lacking = 0

    def check_numbers(self) -> None:
        """Every shard of one kind has one of the other."""
        for number in self._images.keys() - self._embeddings.keys():
            ref = self._images[number]
            if self._may_lack:
                if number in self._sound.images:
                    self._lacking += len(self._live(self._sound.images[number][1]))
                continue
            self._tally.error("unpaired", ref.name, f"has no vectors in the space {self._space.id}")
            self._sound.images.pop(number, None)
            self._sound.unsure.append((ref.first_id, ref.last_id))
        for number in self._embeddings.keys() - self._images.keys():
            self._tally.error(
                "unpaired",
                self._embeddings[number].name,
                "has vectors of images that are not there",
            )

    def _live(self, ids: Int64) -> Int64:
        return ids if self._deleted is None else np.setdiff1d(ids, self._deleted)

    def fits(self, ref: ShardRef, ids: Int64) -> bool:
        """Whether an embedding shard has the ids of its image shard, as far as they count."""
        pair = self._sound.images.get(shard_number(ref.name))
        if pair is None or np.array_equal(pair[1], ids):
            return True
        lacking = self._live(np.setdiff1d(pair[1], ids))
        if self._may_lack:
            self._lacking += len(lacking)
        if len(np.setdiff1d(ids, pair[1])) or (len(lacking) and not self._may_lack):
            self._tally.error("ids", ref.name, f"does not hold the ids of {pair[0].name}")
            return False
        return True

    def note_lacking(self) -> None:
        """Say how many images have no vector in the space."""
        if self._lacking:
            images = "1 image has" if self._lacking == 1 else f"{self._lacking:,} images have"
            self._tally.note(
                "lacking",
                f"embeddings/{self._space.id}",
                f"{images} no vector of {self._space.model}",
                "'clipsearch index' encodes those whose files are there",
            )


def _vectors_fit(tally: Tally, ref: ShardRef, vectors: Float16) -> bool:
    bad = 0
    for start in range(0, len(vectors), _BLOCK_ROWS):
        rows = vectors[start : start + _BLOCK_ROWS].astype(np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        bad += int((~(np.abs(lengths - 1) <= _UNIT_TOLERANCE)).sum())  # nan is bad, too
    if bad:
        tally.error("vectors", ref.name, f"{bad:,} of {len(vectors):,} vectors have no unit length")
    return not bad
