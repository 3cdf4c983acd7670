"""Ranges of one generation's vectors, read by whoever can see the index.

Another process, on this machine or another, opens just the rows that it is to look at: mapped
where the index's matrix covers them, from their shards where it does not. It goes by the manifest
that it was given and never by a newer one, so all that look at the same collection see the same
rows, whatever a writer commits meanwhile.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import os
import socket

import numpy as np

from clipsearch.errors import IndexFormatError, IndexNotFoundError, IndexReadError
from clipsearch.generation import Generation, cache_folder, is_of, user_cache_folder
from clipsearch.manifest import Manifest, ShardRef, read_manifest
from clipsearch.remote_urls import is_remote
from clipsearch.shards import Float16, Int64
from clipsearch.store import LocalStore, open_store
from clipsearch.vectors import VectorCache, Vectors, agrees, read_vectors


class VectorRanges:
    """Where the vectors of a space lie, at one generation. Can be pickled: then it is little, and
    opens the index where it arrives.

    place : the index folder, as every machine sees it, or its URL. manifest : of the generation.
    """

    def __init__(self, place: str, manifest: Manifest, space_id: str) -> None:
        self.place, self.space_id = place, space_id
        shards = manifest.embeddings.get(space_id, ())
        # What no vector depends on stays where it is: a manifest of a billion images is large.
        self.manifest = dataclasses.replace(
            manifest, images=(), paths=(), skipped=None, deleted=None, roots=(), sources=(),
            embeddings={space_id: shards}, searches={},
        )  # fmt: skip
        self._shards = shards
        self._starts = [0, *itertools.accumulate(shard.rows for shard in shards)]

    def __reduce__(self) -> tuple[type[VectorRanges], tuple[str, Manifest, str]]:
        return VectorRanges, (self.place, self.manifest, self.space_id)

    def open(self, first: int, last: int, deleted: Int64) -> Vectors:
        """Rows ``first`` to before ``last`` of the generation, in one segment where they are
        mapped. deleted : the ids among them that no longer count, rising.

        Raises IndexNotFoundError where this machine does not see the index, and IndexFormatError
        or IndexReadError for shards that cannot be read, or that a writer has cleared away since.
        """
        begin = bisect.bisect_right(self._starts, first) - 1
        end = bisect.bisect_left(self._starts, last)
        shards = self._shards[begin:end]
        mapped = self._mapped
        if mapped is not None and mapped[0] >= end:
            _, matrix, ids = mapped
            if agrees(ids[self._starts[begin] : self._starts[end]], shards):
                return Vectors(ids[first:last], (matrix[first:last],), matrix.shape[1], deleted)
        try:
            return self._from_shards(shards, first - self._starts[begin], last - first, deleted)
        except (IndexFormatError, IndexReadError) as error:
            raise self._why(error) from error

    @functools.cached_property
    def _store(self) -> LocalStore:
        return open_store(self.place)

    @functools.cached_property
    def _mapped(self) -> tuple[int, Float16, Int64] | None:
        """The matrix of the first shards. It stays mapped when a writer replaces its file."""
        for folder in (cache_folder(self._store.root), user_cache_folder(self.manifest.uuid)):
            mapped = VectorCache(folder, self.manifest, self.space_id).mapped()
            if mapped is not None:
                return mapped
        return None

    def _from_shards(
        self, shards: tuple[ShardRef, ...], skipped: int, rows: int, deleted: Int64
    ) -> Vectors:
        dim = self.manifest.spaces[self.space_id].dim
        self._store.bring({shard.name: shard.bytes for shard in shards})
        ids: list[Int64] = [np.empty(0, np.int64)]
        segments: list[Float16] = []
        for shard in shards:
            here, matrix = read_vectors(self._store, shard, dim)
            here, matrix = here[skipped : skipped + rows], matrix[skipped : skipped + rows]
            skipped, rows = 0, rows - len(here)
            ids.append(here)
            segments.append(matrix)
        return Vectors(np.concatenate(ids), tuple(segments), dim, deleted)

    def _why(self, error: IndexFormatError | IndexReadError) -> Exception:
        """What to say of shards that could not be read."""
        try:
            now = read_manifest(self._store, self.place)
        except IndexNotFoundError:
            return IndexNotFoundError(
                f"the machine {socket.gethostname()} sees no index at {self.place}: every machine "
                "of the cluster has to see it in the same place (a shared file system), or it has "
                "to be in an object store"
            )
        except (IndexFormatError, IndexReadError):
            return error
        if is_of(now, self.manifest):
            return error
        return IndexFormatError(
            f"the index at {self.place} has changed while it was read: run the same command again"
        )


def ranges_of(state: Generation, place: str | None = None) -> VectorRanges:
    """Of an open generation. place : see ``VectorRanges``; None for where it was opened."""
    where = state.store.place if place is None else place
    return VectorRanges(
        where if is_remote(where) else os.path.abspath(where), state.manifest, state.space.id
    )
