"""Bring finished work into the index: tables first, then the manifest, in one step."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clipsearch import __version__
from clipsearch.backends import REFERENCE, why_not
from clipsearch.encoder import Space
from clipsearch.errors import OptionError
from clipsearch.generation import cache_folder
from clipsearch.manifest import (
    FileRef,
    Manifest,
    MeasuredSearch,
    Root,
    ShardRef,
    utc_now,
    write_manifest,
)
from clipsearch.paths import merged_name, read_paths
from clipsearch.place_cache import PlaceCache
from clipsearch.place_rows import read_place_rows
from clipsearch.shards import (
    DELETED_SCHEMA,
    SKIPPED_SCHEMA,
    Int64,
    as_numpy,
    int_array,
    read_tables,
    write_table,
)
from clipsearch.store import LocalStore, open_store
from clipsearch.vector_index import EXACT, choose_kind
from clipsearch.vector_index_file import bring_up_index_file
from clipsearch.vectors import VectorCache
from indexer.background_texts import remembered_texts
from indexer.path_changes import PathChanges

if TYPE_CHECKING:
    from indexer.shard_task import SkippedFile

TABLE_FOLDERS = ("images", "embeddings", "paths", "skipped", "deleted")
_MERGE_AFTER = 64
_KEY_AND_ID = ("root", "path", "id", "state")
_ORDER = [("root", "ascending"), ("path", "ascending")]


class Committer:
    """Writes generations of one index. Only for the holder of the writer's lock."""

    def __init__(self, index: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        self.index = index
        self.store = open_store(index)
        self.now = datetime.now(UTC)

    def add_space(self, space: Space) -> None:
        """Make ``space`` known to the index; the first one answers questions."""
        self.manifest = dataclasses.replace(
            self.manifest,
            spaces={**self.manifest.spaces, space.id: space},
            default_space=self.manifest.default_space or space.id,
        )

    def commit(
        self,
        paths: PathChanges | None = None,
        skipped: pa.Table | None = None,
        *,
        merge: bool = False,
        **changes: Any,
    ) -> None:
        """Make one new generation.

        paths : rows for the paths table. skipped : the whole new skipped table, None when it
        stays. merge : make one table of the paths tables. changes : fields of the manifest.

        Raises OptionError for a new shard of vectors whose back-end was not admitted.
        """
        self._refuse_foreign(changes.get("embeddings", {}))
        generation = self.manifest.generation + 1
        if paths is not None and len(paths):
            ref = self._write(f"paths/{generation:07d}.parquet", paths.table(), "paths")
            changes["paths"] = (*self.manifest.paths, ref)
        with_new = dataclasses.replace(self.manifest, **changes)
        merge = merge or len(with_new.paths) > _MERGE_AFTER
        if merge:
            merged = read_paths(self.store, with_new)
            merged = merged.sort_by(_ORDER)
            changes["paths"] = (self._write(merged_name(generation), merged, "paths"),)
        deleted = self._deleted_after(paths, with_new) if paths is not None else None
        if deleted is not None:
            changes["deleted"] = self._write_deleted(deleted)
        if skipped is not None:
            changes["skipped"] = self._write_skipped(skipped)
        self._write_manifest(changes)
        if merge:  # else every reader would have to read all places until the run is over
            self._map_places()

    def _refuse_foreign(self, embeddings: Mapping[str, Iterable[ShardRef]]) -> None:
        """Raises OptionError for a new shard whose recipe may not mix with the others'."""
        for space_id, refs in embeddings.items():
            known = {ref.name for ref in self.manifest.embeddings.get(space_id, ())}
            for ref in refs:
                reason = why_not(ref.recipe) if ref.name not in known else None
                if reason is not None:
                    raise OptionError(
                        f"the vectors of {ref.name} are refused: {reason}; encode the images "
                        f"again with --backend {REFERENCE}"
                    )

    def replace_paths(
        self, paths: pa.Table, *, skipped: pa.Table | None = None, **changes: Any
    ) -> None:
        """Make one new generation with ``paths`` as the whole paths table, which holds every
        place once and none that is forgotten. Images that lose their last place are buried."""
        generation = self.manifest.generation + 1
        before = as_numpy(read_paths(self.store, self.manifest, _KEY_AND_ID).column("id"))
        buried = np.setdiff1d(before, as_numpy(paths.column("id")))
        ref = self._write(merged_name(generation), paths.sort_by(_ORDER), "paths")
        changes["paths"] = (ref,)
        if len(buried):
            changes["deleted"] = self._write_deleted(np.union1d(self.deleted(), buried))
        if skipped is not None:
            changes["skipped"] = self._write_skipped(skipped)
        self._write_manifest(changes)
        self._map_places()

    def _write(self, name: str, table: pa.Table, kind: str) -> FileRef:
        name = self.store.unused(name)
        return write_table(self.store, name, table, kind=kind, index_uuid=self.manifest.uuid)

    def _write_skipped(self, table: pa.Table) -> FileRef:
        return self._write(f"skipped/{self.manifest.generation + 1:07d}.parquet", table, "skipped")

    def _write_deleted(self, ids: Int64) -> FileRef:
        table = pa.table([int_array(ids)], schema=DELETED_SCHEMA)
        return self._write(f"deleted/{self.manifest.generation + 1:07d}.parquet", table, "deleted")

    def _write_manifest(self, changes: dict[str, Any]) -> None:
        self.manifest = dataclasses.replace(
            self.manifest,
            generation=self.manifest.generation + 1,
            software=f"clipsearch {__version__}",
            updated_at=utc_now(),
            **changes,
        )
        write_manifest(self.store, self.manifest)

    def noted_roots(self, scanned: Iterable[int]) -> tuple[Root, ...]:
        """The roots, those ``scanned`` with the time it is now."""
        ids, now = set(scanned), utc_now()
        return tuple(
            dataclasses.replace(root, scanned_at=now) if root.id in ids else root
            for root in self.manifest.roots
        )

    def note_scan(self, scanned: Iterable[int]) -> None:
        """Note that roots were scanned just now. Nothing else is new, so this is no new
        generation."""
        self.manifest = dataclasses.replace(self.manifest, roots=self.noted_roots(scanned))
        write_manifest(self.store, self.manifest)

    def needs_texts(self) -> bool:
        """Whether ``bring_up_cache`` wants the background texts, to measure a search with."""
        return any(self._is_approximate(space_id) for space_id in self.manifest.spaces)

    def _is_approximate(self, space_id: str) -> bool:
        rows = sum(shard.rows for shard in self.manifest.embeddings.get(space_id, ()))
        return choose_kind(rows, self.manifest.spaces[space_id].dim) != EXACT

    def bring_up_cache(self) -> None:
        """Bring what is rebuildable up to this generation, and note what was measured of it."""
        cache = cache_folder(self.index)
        self._map_places()
        searches: dict[str, MeasuredSearch] = {}
        for space_id, space in self.manifest.spaces.items():
            vector_cache = VectorCache(cache, self.manifest, space_id)
            vector_cache.update(self.store)
            measured = bring_up_index_file(
                cache,
                self.manifest,
                space_id,
                # With the deleted ones, which are sorted out when searching: one that comes back
                # with its old id must be found.
                functools.partial(vector_cache.open, self.store, np.empty(0, np.int64)),
                remembered_texts(space) if self._is_approximate(space_id) else None,
            )
            if measured is not None:
                searches[space_id] = measured
        if searches != self.manifest.searches:  # which is no new generation: nothing else is new
            self.manifest = dataclasses.replace(self.manifest, searches=searches)
            write_manifest(self.store, self.manifest)

    def _map_places(self) -> None:
        places = PlaceCache(cache_folder(self.index), self.manifest)
        if self.manifest.paths and not places.covers_all():
            rows = read_place_rows(self.store, self.manifest.paths)
            # Without room or the right to write, whoever searches reads the tables.
            with contextlib.suppress(OSError):
                places.write(rows)

    def deleted(self) -> Int64:
        """The tombstones, rising."""
        refs = [self.manifest.deleted] if self.manifest.deleted else []
        return np.sort(as_numpy(read_tables(self.store, refs, DELETED_SCHEMA).column("id")))

    def _deleted_after(self, paths: PathChanges, after: Manifest) -> Int64 | None:
        """All tombstones once ``paths`` are in, or None when they stay as they are.

        An image is buried when the last file that held it now holds another content or was
        forgotten, and comes back, with its id, when a file holds it again.
        """
        let_go = paths.let_go
        if not len(let_go) and self.manifest.deleted is None:
            return None
        old = self.deleted()
        gone = let_go
        if len(let_go):
            held = as_numpy(read_paths(self.store, after, _KEY_AND_ID).column("id"))
            gone = np.setdiff1d(let_go, held)
        new = np.setdiff1d(np.union1d(old, gone), np.setdiff1d(paths.held, gone))
        return None if np.array_equal(new, old) else new


def skipped_table(
    skipped: Iterable[SkippedFile], now: datetime, max_megapixels: float | None
) -> pa.Table:
    """Rows for the skipped table. max_megapixels : the limit that they were held to."""
    rows = [
        {
            "root": lost.file.root,
            "path": lost.file.path,
            "name": lost.file.name,
            "size": lost.file.size,
            "mtime_ns": lost.file.mtime_ns,
            "reason": lost.reason,
            "message": lost.message,
            "seen_at": now,
            "max_megapixels": max_megapixels,
        }
        for lost in skipped
    ]
    return pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA)


def remove_leftovers(store: LocalStore, manifest: Manifest) -> None:
    """Clear files that no manifest names any more: superseded tables, and what a run that
    was killed had not committed. Readers that still hold an old table re-read the manifest."""
    named = {ref.name for ref in manifest.files()}
    for name in store.leftovers(TABLE_FOLDERS, named):
        with contextlib.suppress(OSError):  # still mapped by a reader on Windows
            store.delete(name)
    store.remove_temporary_files()
