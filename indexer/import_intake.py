"""Take imported vectors in: tell new images, copies and known ones apart, read the files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clipsearch.encoder import Float32, Space
from clipsearch.errors import ImageError
from clipsearch.manifest import Manifest
from clipsearch.shards import IMAGE_SCHEMA, as_numpy, read_tables
from clipsearch.store import LocalStore
from indexer.commit import Committer
from indexer.config import IndexConfig
from indexer.decode import decode_in_order
from indexer.digest_table import DIGEST_BYTES, DigestTable
from indexer.import_check import unit_rows
from indexer.import_places import ImportPlaces, PlacedImage
from indexer.import_report import ImportReport
from indexer.import_shard import NewImage, PendingImport, import_recipe, stand_in_sha256
from indexer.import_source import ImportSource, Matrix
from indexer.known import KnownFiles, read_known
from indexer.sidecars import Sidecars

if TYPE_CHECKING:
    from clipsearch.images import DecodedImage

SHARD_ROWS = 8_192
"""Vectors that are read at a time, and the most that one commit brings in."""

_OF_THIS_RUN = -1


class _Row(NamedTuple):
    """One vector on its way in. known : its position in the known files; -1 for a new place.
    info : of the file, None when there is none."""

    path: bytes
    root: int
    below: bytes
    known: int
    info: os.stat_result | None
    vector: Float32


class Intake:
    """Takes vectors in, one after the other; knows what the index holds and has just got."""

    def __init__(
        self,
        committer: Committer,
        source: ImportSource,
        space: Space,
        places: ImportPlaces,
        report: ImportReport,
        tell: Callable[[int, int], None],
    ) -> None:
        manifest = committer.manifest
        self._geometry = space.geometry
        self._places = places
        self._report = report
        self._tell = tell
        self._config = IndexConfig.from_dict(manifest.config)
        self._sidecars = Sidecars()
        self._next_id = manifest.next_id
        self._pending = PendingImport(committer, space.id, import_recipe(source))
        self._known = read_known(committer.store, manifest)
        self._known_places = _digests_of_places(self._known)
        self._seen_again: set[int] = set()
        self._contents = _digests_of_contents(committer.store, manifest)
        self._since = time.monotonic()

    def block(self, first: int, names: list[bytes], block: Matrix) -> None:
        """Take in a block of vectors, of which the first is row ``first`` of all."""
        vectors, not_finite, zero = unit_rows(block)
        rows: list[_Row] = []
        for position, name in enumerate(names):
            path = self._places.absolute(name)
            if path is None:
                self._report.skip(first + position, name, "no path")
            elif not_finite[position]:
                self._report.skip(first + position, name, "not finite")
            elif zero[position]:
                self._report.skip(first + position, name, "zero")
            else:
                row = self._row(path, vectors[position])
                if row is None:
                    self._report.already_there += 1
                else:
                    rows.append(row)
        self._tell(first + len(names) - len(rows), self._report.found)
        with contextlib.closing(self._decoded(rows)) as decoded:
            for position, (row, image) in enumerate(zip(rows, decoded, strict=True)):
                self._take(row, image)
                late = time.monotonic() - self._since > self._config.shard_seconds
                if late or len(self._pending.places) >= SHARD_ROWS:
                    self._pending.commit()
                    self._since = time.monotonic()
                self._tell(first + len(names) - len(rows) + position + 1, self._report.found)

    def finish(self) -> None:
        """Commit what is left."""
        self._pending.commit()

    def _row(self, path: bytes, vector: Float32) -> _Row | None:
        """The vector of an image at ``path``; None when there is nothing new about it."""
        root, below = self._places.key(path)
        digest = _digest_of_place(root, below)
        info = _stat(path)
        known = self._known_places.get(digest)
        if known is None:
            self._known_places.add(digest, _OF_THIS_RUN)
            return _Row(path, root, below, -1, info, vector)
        if known == _OF_THIS_RUN or known in self._seen_again or info is None:
            return None  # a file that is gone since is for 'index' to note
        files = self._known
        as_it_was = (info.st_size, info.st_mtime_ns) == (files.sizes[known], files.mtimes[known])
        if as_it_was and not files.missing[known]:
            return None
        self._seen_again.add(known)
        return _Row(path, root, below, known, info, vector)

    def _decoded(self, rows: list[_Row]) -> Generator[DecodedImage | ImageError | None, None, None]:
        """The image of each row; None where there is no file."""
        decoded = decode_in_order(
            [os.fsdecode(row.path) for row in rows if row.info is not None],
            self._geometry,
            decode=self._config.decode,
            max_megapixels=self._config.max_megapixels,
            thumbnail_side=self._config.thumbnail_side,
            threads=self._config.threads,
            look_ahead=4 * self._config.threads,
        )
        for row in rows:
            yield None if row.info is None else next(decoded)

    def _take(self, row: _Row, image: DecodedImage | ImageError | None) -> None:
        report, pending = self._report, self._pending
        if image is None or isinstance(image, ImageError):
            if row.known >= 0:
                report.already_there += 1  # as an image without a file, and so it stays
                return
            lost = row.info is None or (image is not None and image.reason == "vanished")
            report.not_there += lost
            report.unreadable += not lost
            sha256 = stand_in_sha256(row.path, row.vector)
            pending.images.append(NewImage(self._next_id, sha256, 0, row.vector))
            pending.places.append(PlacedImage(self._next_id, row.root, row.below))
            self._next_id += 1
            report.imported += 1
            return
        before = int(self._known.ids[row.known]) if row.known >= 0 else -1
        image_id = self._contents.get(image.sha256)
        if image_id is None:
            image_id = self._next_id
            self._next_id += 1
            self._contents.add(image.sha256, image_id)
            metadata = self._sidecars.complete(image.metadata, os.fsdecode(row.path))
            pending.images.append(
                NewImage(image_id, image.sha256, image.size, row.vector, metadata, image.thumbnail)
            )
            report.imported += 1
        elif image_id == before:
            report.already_there += 1  # touched, no more
        else:
            report.copies += 1
        assert row.info is not None
        first_seen = int(self._known.first_seen[row.known]) if row.known >= 0 else -1
        pending.places.append(
            PlacedImage(
                image_id,
                row.root,
                row.below,
                row.info.st_size,
                row.info.st_mtime_ns,
                row.info.st_ino,
                before,
                first_seen,
            )
        )


def _stat(path: bytes) -> os.stat_result | None:
    """What the system says of a regular file; None when there is none."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return None
    return info if stat.S_ISREG(info.st_mode) else None


def _digest_of_place(root: int, below: bytes) -> bytes:
    return hashlib.sha256(b"%d\0" % root + below).digest()


def _digests_of_places(known: KnownFiles) -> DigestTable:
    """Place -> position in ``known``."""
    digests = bytearray()
    position = 0
    for chunk in known.paths.chunks:
        for path in chunk:
            digests += _digest_of_place(int(known.roots[position]), path.as_py())[:DIGEST_BYTES]
            position += 1
    matrix = np.frombuffer(bytes(digests), np.uint8).reshape(-1, DIGEST_BYTES)
    return DigestTable(matrix, np.arange(position))


def _digests_of_contents(store: LocalStore, manifest: Manifest) -> DigestTable:
    """sha256 -> id."""
    table = read_tables(store, manifest.images, IMAGE_SCHEMA, ["id", "sha256"])
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, 32 * len(chunk), 32 * chunk.offset)
        for chunk in table.column("sha256").chunks
        if len(chunk)
    ]
    digests = np.concatenate([np.empty(0, np.uint8), *parts]).reshape(-1, 32)
    return DigestTable(digests, as_numpy(table.column("id")))
