"""Which images have no vector in a space yet, and which files hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clipsearch.file_kinds import container_of
from clipsearch.manifest import Manifest, ShardRef
from clipsearch.remote_urls import is_remote
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, read_tables
from clipsearch.spaces import shard_number
from clipsearch.store import LocalStore
from indexer.containers import label_in, member_positions
from indexer.file_table import FoundFile
from indexer.known import KnownFile, KnownFiles, read_known
from indexer.presence import holds_anything, is_gone
from indexer.vector_task import KnownImage


@dataclass(frozen=True)
class Encodable:
    """Images of one image shard that lack a vector and have a file that is there."""

    number: str
    images: tuple[KnownImage, ...]


class KnownPlaces:
    """The files of images, as far as they are there now. Each container is listed once."""

    def __init__(self, store: LocalStore, manifest: Manifest) -> None:
        self._manifest = manifest
        self._known: KnownFiles = read_known(store, manifest)
        # Of several files of an image, one that was there at the last scan comes first.
        self._order = np.lexsort((self._known.missing, self._known.ids))
        self._ids = self._known.ids[self._order]
        self._away = {root.id for root in manifest.roots if not holds_anything(root.path)}
        self._members: dict[str, dict[bytes, tuple[int, int]]] = {}

    def files(self, image_id: int) -> tuple[FoundFile, ...]:
        """The files that may hold an image, those that are there."""
        first, last = np.searchsorted(self._ids, [image_id, image_id + 1])
        found = (self._file(int(row)) for row in self._order[first:last])
        return tuple(file for file in found if file is not None)

    def _file(self, row: int) -> FoundFile | None:
        known = self._known.row(row)
        if known.root in self._away:
            return None
        path = self._known.place(self._manifest, row)
        if is_remote(path):  # whether it is there shows when it is read
            return None if self._known.missing[row] else _found(known)
        try:
            container = container_of(path)
            if container is None:
                return None if is_gone(path) else _found(known)
        except ValueError:  # a NUL in the name
            return None
        place = str(container)
        if place not in self._members:
            self._members[place] = member_positions(container)
        label = label_in(container, path)
        if label not in self._members[place]:
            return None
        size, position = self._members[place][label]
        below = known.path[: len(known.path) - len(label) - 1]
        size = size or known.size
        return dataclasses.replace(_found(known), size=size, container=below, position=position)


def _found(known: KnownFile) -> FoundFile:
    return FoundFile(known.root, known.path, known.size, known.mtime_ns, known.inode)


def encodable(
    store: LocalStore, manifest: Manifest, lacking: dict[str, Int64], places: KnownPlaces
) -> Iterator[Encodable]:
    """The images of ``lacking`` (see ``lacking_ids``) that have a file, shard by shard."""
    for ref in manifest.images:
        number = shard_number(ref.name)
        if number not in lacking:
            continue
        hashes = _hashes(store, ref, lacking[number])
        images = []
        for image_id, sha256 in hashes:
            files = places.files(image_id)
            if files:
                images.append(KnownImage(image_id, sha256, files))
        if images:
            yield Encodable(number, tuple(images))


def _hashes(store: LocalStore, ref: ShardRef, wanted: Int64) -> list[tuple[int, bytes]]:
    table = read_tables(store, [ref], IMAGE_SCHEMA, ["id", "sha256"])
    rows = np.searchsorted(as_numpy(table.column("id")), wanted)
    column = table.column("sha256").combine_chunks()
    return [
        (image_id, column[row].as_py())
        for image_id, row in zip(wanted.tolist(), rows.tolist(), strict=True)
    ]
