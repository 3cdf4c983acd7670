"""Bring finished work into the index: tables first, then the manifest, in one step."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipsearch import __version__
from clipsearch.encoder import Space
from clipsearch.generation import cache_folder
from clipsearch.manifest import Manifest, utc_now, write_manifest
from clipsearch.paths import FORGOTTEN, MISSING, PRESENT, read_paths, relative_bytes
from clipsearch.shards import (
    DELETED_SCHEMA,
    PATH_SCHEMA,
    SKIPPED_SCHEMA,
    Int64,
    as_numpy,
    read_tables,
    write_table,
)
from clipsearch.store import LocalStore
from clipsearch.vector_search import build_faiss_file
from clipsearch.vectors import VectorCache
from indexer.plan import RETRIED_REASONS, KnownPath, Plan, read_skipped
from indexer.scan import FoundFile, Scan
from indexer.shard_task import ShardInfo, SkippedFile

_MERGE_AFTER = 64


class Committer:
    """Writes generations of one index. Only for the holder of the writer's lock."""

    def __init__(
        self,
        index: Path,
        manifest: Manifest,
        known: dict[tuple[int, bytes], KnownPath],
    ) -> None:
        self.manifest = manifest
        self.index = index
        self._store = LocalStore(index)
        self._known = known
        self._now = datetime.now(UTC)

    def add_space(self, space: Space) -> None:
        """Make ``space`` known to the index; the first one answers questions."""
        self.manifest = dataclasses.replace(
            self.manifest,
            spaces={**self.manifest.spaces, space.id: space},
            default_space=self.manifest.default_space or space.id,
        )

    def note_files(self, scan: Scan, plan: Plan) -> None:
        """Commit what needs no encoding: copies, moved, touched and vanished files."""
        rows = [self._path_row(found, image_id) for found, image_id in plan.known]
        # A place that is gone or about to get another content holds its image no longer.
        left = {(gone.root, gone.path) for gone in plan.vanished}
        left.update(found.key for found in plan.encode)
        left.update(copy.key for copies in plan.same_as.values() for copy in copies.files)
        held = {row["id"] for row in rows} | {
            row.id for key, row in self._known.items() if row.state == PRESENT and key not in left
        }
        for gone in plan.vanished:
            # A file that moved, or a copy that went, is no loss: forget the old place.
            state = FORGOTTEN if gone.id in held else MISSING
            rows.append({**dataclasses.asdict(gone), "state": state})
        # Content that turned up here may be gone from where it was: a file that was missing has
        # moved; one in a folder that this run does not look into is looked for.
        again = {image_id for _, image_id in plan.known}
        done = {found.key for found in scan.images} | {
            (row.root, row.path) for row in plan.vanished
        }
        for key, row in self._known.items():
            if row.id not in again or key in done:
                continue
            if row.state == MISSING:
                rows.append({**dataclasses.asdict(row), "state": FORGOTTEN})
            elif not os.path.lexists(
                os.path.join(self.manifest.root(row.root).path, relative_bytes(row.path))
            ):
                rows.append({**dataclasses.asdict(row), "state": MISSING})
        skipped = self._skipped_rows(scan, plan)
        if rows or skipped is not None:
            self._commit(rows, skipped)

    def add_shard(self, info: ShardInfo, plan: Plan) -> None:
        """Commit a finished shard and the copies of its images."""
        rows: list[dict[str, Any]] = []
        skipped: list[SkippedFile] = []
        for found, image_id, sha256 in info.indexed:
            rows.append(self._path_row(found, image_id))
            copies = plan.same_as.get(found.key)
            if copies is None:
                continue
            if copies.sha256 == sha256:
                rows.extend(self._path_row(place, image_id) for place in copies.files)
            else:
                message = "another file of the same content changed while it was read: run again"
                skipped.extend(SkippedFile(place, "vanished", message) for place in copies.files)
        for lost in info.skipped:
            copies = plan.same_as.get(lost.file.key)
            for place in (lost.file, *(copies.files if copies is not None else ())):
                skipped.append(dataclasses.replace(lost, file=place))
                before = self._known.get(place.key)
                if before is not None:
                    # What cannot be read just now may be what it was; else what was here is gone.
                    state = MISSING if lost.reason in RETRIED_REASONS else FORGOTTEN
                    rows.append({**dataclasses.asdict(before), "state": state})
        table = None
        if skipped:
            table = pa.concat_tables(
                [read_skipped(self._store, self.manifest), self._skipped_table(skipped)]
            )
        task = info.task
        changes: dict[str, Any] = {
            "next_id": max(self.manifest.next_id, task.first_id + len(task.files)),
            "next_shard": max(self.manifest.next_shard, task.number + 1),
        }
        if info.images is not None and info.embeddings is not None:
            of_space = self.manifest.embeddings.get(task.space_id, ())
            changes["images"] = (*self.manifest.images, info.images)
            changes["embeddings"] = {
                **self.manifest.embeddings,
                task.space_id: (*of_space, info.embeddings),
            }
        self._commit(rows, table, **changes)
        VectorCache(cache_folder(self.index), self.manifest, task.space_id).update(self._store)

    def finish(self, scan: Scan, *, changed: bool) -> None:
        """Merge the small tables, note the scan, bring the cache up."""
        scanned = {root for root, prefix in scan.scanned if not prefix}
        now = utc_now()
        roots = tuple(
            dataclasses.replace(root, scanned_at=now) if root.id in scanned else root
            for root in self.manifest.roots
        )
        if changed:
            self._commit([], None, merge=len(self.manifest.paths) > 1, roots=roots)
        else:
            # Nothing is new, so this is no new generation; only the scan was.
            self.manifest = dataclasses.replace(self.manifest, roots=roots)
            write_manifest(self._store, self.manifest)
        for space_id in self.manifest.spaces:
            cache = VectorCache(cache_folder(self.index), self.manifest, space_id)
            cache.update(self._store)
            vectors = cache.open(self._store, self._deleted())
            build_faiss_file(cache_folder(self.index), self.manifest, space_id, vectors)

    def _deleted(self) -> Int64:
        """The tombstones, rising."""
        refs = [self.manifest.deleted] if self.manifest.deleted else []
        return np.sort(as_numpy(read_tables(self._store, refs, DELETED_SCHEMA).column("id")))

    def _deleted_after(self, path_rows: Sequence[dict[str, Any]], after: Manifest) -> Int64 | None:
        """All tombstones once ``path_rows`` are in, or None when they stay as they are.

        An image is buried when the last file that held it now holds another content, and comes
        back, with its id, when a file holds it again.
        """
        let_go: set[int] = set()
        for row in path_rows:
            before = self._known.get((row["root"], row["path"]))
            if before is not None and (row["id"] != before.id or row["state"] == FORGOTTEN):
                let_go.add(before.id)
        if not let_go and self.manifest.deleted is None:
            return None
        old = self._deleted()
        back = np.array(sorted({row["id"] for row in path_rows}), np.int64)
        if let_go:
            held = as_numpy(read_paths(self._store, after).column("id"))
            gone = np.setdiff1d(np.array(sorted(let_go), np.int64), held)
            back = np.setdiff1d(back, gone)
        else:
            gone = np.empty(0, np.int64)
        new = np.setdiff1d(np.union1d(old, gone), back)
        return None if np.array_equal(new, old) else new

    def _path_row(self, found: FoundFile, image_id: int) -> dict[str, Any]:
        before = self._known.get(found.key)
        return {
            "root": found.root,
            "path": found.path,
            "size": found.size,
            "mtime_ns": found.mtime_ns,
            "inode": found.inode,
            "id": image_id,
            "state": PRESENT,
            "first_seen": before.first_seen if before is not None else self._now,
        }

    def _skipped_rows(self, scan: Scan, plan: Plan) -> pa.Table | None:
        """The skipped table without the rows that this run settles; None when all stay."""
        table = read_skipped(self._store, self.manifest)
        still = {found.key for found in plan.skipped}
        stay = [
            (root, path) in still
            or not any(root == place and path.startswith(prefix) for place, prefix in scan.scanned)
            for root, path in zip(
                table.column("root").to_pylist(), table.column("path").to_pylist(), strict=True
            )
        ]
        return None if all(stay) else table.filter(pa.array(stay, pa.bool_()))

    def _skipped_table(self, skipped: Iterable[SkippedFile]) -> pa.Table:
        rows = [
            {
                "root": lost.file.root,
                "path": lost.file.path,
                "name": lost.file.name,
                "size": lost.file.size,
                "mtime_ns": lost.file.mtime_ns,
                "reason": lost.reason,
                "message": lost.message,
                "seen_at": self._now,
            }
            for lost in skipped
        ]
        return pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA)

    def _commit(
        self,
        path_rows: Sequence[dict[str, Any]],
        skipped: pa.Table | None,
        *,
        merge: bool = False,
        **changes: Any,
    ) -> None:
        generation = self.manifest.generation + 1
        uuid = self.manifest.uuid
        if path_rows:
            table = pa.Table.from_pylist(
                [
                    {
                        **row,
                        "name": row["path"].decode("utf-8", "replace"),
                        "last_seen": self._now,
                    }
                    for row in path_rows
                ],
                schema=PATH_SCHEMA,
            )
            name = f"paths/{generation:07d}.parquet"
            self._store.delete(name)
            ref = write_table(self._store, name, table, kind="paths", index_uuid=uuid)
            changes["paths"] = (*self.manifest.paths, ref)
        if merge or len(changes.get("paths", ())) > _MERGE_AFTER:
            with_new = dataclasses.replace(
                self.manifest, paths=changes.get("paths", self.manifest.paths)
            )
            name = f"paths/{generation:07d}-merged.parquet"
            self._store.delete(name)
            merged = read_paths(self._store, with_new)
            ref = write_table(self._store, name, merged, kind="paths", index_uuid=uuid)
            changes["paths"] = (ref,)
        deleted = self._deleted_after(path_rows, dataclasses.replace(self.manifest, **changes))
        if deleted is not None:
            name = f"deleted/{generation:07d}.parquet"
            self._store.delete(name)
            table = pa.table([pa.array(deleted, pa.int64())], schema=DELETED_SCHEMA)
            changes["deleted"] = write_table(
                self._store, name, table, kind="deleted", index_uuid=uuid
            )
        if skipped is not None:
            name = f"skipped/{generation:07d}.parquet"
            self._store.delete(name)
            changes["skipped"] = write_table(
                self._store, name, skipped, kind="skipped", index_uuid=uuid
            )
        self.manifest = dataclasses.replace(
            self.manifest,
            generation=generation,
            software=f"clipsearch {__version__}",
            updated_at=utc_now(),
            **changes,
        )
        write_manifest(self._store, self.manifest)


def remove_leftovers(store: LocalStore, manifest: Manifest) -> None:
    """Clear files that no manifest names any more: superseded tables, and what a run that
    was killed had not committed. Readers that still hold an old table re-read the manifest."""
    named = {ref.name for ref in manifest.files()}
    for folder in ("images", "embeddings", "paths", "skipped", "deleted"):
        for name in store.list(folder):
            if name.endswith(".parquet") and name not in named:
                with contextlib.suppress(OSError):  # still mapped by a reader on Windows
                    store.delete(name)
    store.remove_temporary_files()
