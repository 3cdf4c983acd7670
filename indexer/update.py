"""What one run brings into the index: the files that need no encoding, then shard by shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from clipsearch.generation import cache_folder
from clipsearch.manifest import Manifest
from clipsearch.paths import FORGOTTEN, MISSING
from clipsearch.shards import Int64, as_numpy, int_array
from clipsearch.vectors import VectorCache
from indexer.commit import Committer, skipped_table
from indexer.containers import Presence
from indexer.file_table import binary_array, same_rows
from indexer.known import KnownFiles, read_skipped
from indexer.path_changes import PathChanges
from indexer.plan import RETRIED_REASONS, Plan
from indexer.presence import holds_anything
from indexer.scan import Scan

if TYPE_CHECKING:
    from indexer.shard_task import ShardInfo, SkippedFile


class Update:
    """Commits a plan as it is carried out. ``plan.ids`` is filled in along the way."""

    def __init__(self, committer: Committer, scan: Scan, plan: Plan, known: KnownFiles) -> None:
        self._committer = committer
        self._scan = scan
        self._plan = plan
        self._known = known

    def _changes(self) -> PathChanges:
        return PathChanges(self._committer.now)

    def note_files(self) -> None:
        """Commit what needs no encoding: copies, moved, touched and vanished files."""
        plan = self._plan
        changes = self._changes()
        if len(plan.noted) or len(plan.vanished) or len(plan.offline):
            self._note_changes(changes)
        skipped = self._skipped_still()
        if len(changes) or skipped is not None:
            self._committer.commit(changes, skipped)

    def _note_changes(self, changes: PathChanges) -> None:
        plan, known = self._plan, self._known
        noted_ids = plan.ids[plan.noted]
        changes.present(self._scan.images, plan.noted, noted_ids, known, plan.match)
        holds = ~known.missing
        # A place that is gone or about to get another content holds its image no longer.
        holds[plan.vanished] = False
        changed = plan.match >= 0
        changed[changed] = known.ids[plan.match[changed]] != plan.ids[changed]
        holds[plan.match[changed]] = False
        held = np.union1d(noted_ids, known.ids[holds])
        # A file that moved, or a copy that went, is no loss: forget the old place. One that is
        # in a folder that is not there now may come back with it.
        moved = np.isin(known.ids[plan.vanished], held)
        changes.again(known, plan.vanished[moved], FORGOTTEN)
        changes.again(known, plan.vanished[~moved], MISSING)
        changes.again(known, plan.offline, MISSING)
        self._look_for_others(changes, noted_ids)

    def _look_for_others(self, changes: PathChanges, noted_ids: Int64) -> None:
        """Content that turned up here may be gone from where it was: a file that was missing
        has moved; one in a folder that this run does not look into is looked for."""
        plan, known = self._plan, self._known
        manifest = self._committer.manifest
        elsewhere = np.isin(known.ids, noted_ids)
        elsewhere[plan.match[plan.match >= 0]] = False
        elsewhere[plan.vanished] = False
        elsewhere[plan.offline] = False
        for state, rows in _by_whether_the_root_is_there(
            manifest, known, np.flatnonzero(elsewhere)
        ):
            gone = _not_there(manifest, known, rows)
            if state == MISSING:
                gone &= ~known.missing[rows]
            changes.again(known, rows[gone], state)

    def add_shard(self, info: ShardInfo) -> None:
        """Commit a finished shard and the copies of its images."""
        from indexer.shard_task import SkippedFile

        plan, known = self._plan, self._known
        rows: list[int] = []
        ids: list[int] = []
        skipped: list[SkippedFile] = []
        for found, image_id, sha256 in info.indexed:
            copies = plan.same_as.get(found.row)
            rows.append(found.row)
            ids.append(image_id)
            if copies is None:
                continue
            if copies.sha256 == sha256:
                rows.extend(copies.rows)
                ids.extend([image_id] * len(copies.rows))
            else:
                message = "another file of the same content changed while it was read: run again"
                skipped.extend(
                    SkippedFile(place, "vanished", message)
                    for place in self._scan.images.files(copies.rows)
                )
        for lost in info.skipped:
            copies = plan.same_as.get(lost.file.row)
            skipped.append(lost)
            if copies is not None:
                if lost.reason in RETRIED_REASONS:  # which says nothing of the copies
                    message = f"another file of the same content was {lost.reason}: run again"
                    lost = SkippedFile(lost.file, "unreadable", message)
                skipped.extend(
                    dataclasses.replace(lost, file=place)
                    for place in self._scan.images.files(copies.rows)
                )
        changes = self._changes()
        taken = np.array(rows, np.int64)
        plan.ids[taken] = ids
        changes.present(self._scan.images, taken, plan.ids[taken], known, plan.match)
        for state in (MISSING, FORGOTTEN):
            # What is there and cannot be read just now may be what it was. What vanished is
            # missing; what holds another content, which is no image, is known no more.
            before = [
                int(plan.match[lost.file.row])
                for lost in skipped
                if lost.reason != "unreadable" and (lost.reason == "vanished") == (state == MISSING)
            ]
            old = np.array([row for row in before if row >= 0], np.int64)
            changes.again(known, old, state)
        self._committer.commit(
            changes, self._skipped_after(taken, skipped), **self._manifest_changes(info)
        )
        manifest = self._committer.manifest
        cache = VectorCache(cache_folder(self._committer.index), manifest, info.task.space_id)
        cache.update(self._committer.store)

    def _manifest_changes(self, info: ShardInfo) -> dict[str, Any]:
        manifest, task = self._committer.manifest, info.task
        changes: dict[str, Any] = {
            "next_id": max(manifest.next_id, task.first_id + len(task.files)),
            "next_shard": max(manifest.next_shard, task.number + 1),
        }
        if info.images is not None and info.embeddings is not None:
            of_space = manifest.embeddings.get(task.space_id, ())
            changes["images"] = (*manifest.images, info.images)
            changes["embeddings"] = {
                **manifest.embeddings,
                task.space_id: (*of_space, info.embeddings),
            }
        return changes

    def _skipped_still(self) -> pa.Table | None:
        """The skipped table without the rows that are settled already: files that are gone or
        hold a known content. None when all stay."""
        table = read_skipped(self._committer.store, self._committer.manifest)
        if not len(table):
            return None
        plan, images = self._plan, self._scan.images
        roots, paths = as_numpy(table.column("root")), table.column("path")
        match = same_rows(roots, paths, images.roots, images.paths)
        stays = np.ones(len(table), bool)
        for root, prefix in self._scan.scanned:
            inside = roots == root
            if prefix:
                inside &= np.array([path.startswith(prefix) for path in paths.to_pylist()], bool)
            stays[inside] = False
        if self._scan.absent:
            listed = set(self._scan.absent)
            pairs = zip(roots.tolist(), paths.to_pylist(), strict=True)
            stays &= np.array([pair not in listed for pair in pairs], bool)
        here = match >= 0
        stays[here] = plan.ids[match[here]] < 0  # to be tried again, or to stay skipped
        return None if stays.all() else table.take(int_array(np.flatnonzero(stays)))

    def _skipped_after(self, taken: Int64, skipped: list[SkippedFile]) -> pa.Table | None:
        """The skipped table once a shard is in; None when it stays as it is."""
        table = read_skipped(self._committer.store, self._committer.manifest)
        rows = np.concatenate([taken, np.array([lost.file.row for lost in skipped], np.int64)])
        stays = self._none_of(table, rows)
        if not skipped and len(stays) == len(table):
            return None
        limit = self._committer.manifest.config.get("max_megapixels")
        new = skipped_table(skipped, self._committer.now, limit)
        return pa.concat_tables([table.take(int_array(stays)), new])

    def _none_of(self, table: pa.Table, rows: Int64) -> Int64:
        """Positions of the rows of ``table`` that are none of these files of the scan."""
        images = self._scan.images
        if not len(table) or not len(rows):
            return np.arange(len(table))
        paths = pa.chunked_array([binary_array(images.paths.take(int_array(rows)).to_pylist())])
        match = same_rows(
            as_numpy(table.column("root")), table.column("path"), images.roots[rows], paths
        )
        return np.flatnonzero(match < 0)

    def finish(self, *, changed: bool) -> None:
        """Merge the small tables, note the scan, bring the cache up."""
        committer = self._committer
        scanned = [root for root, prefix in self._scan.scanned if not prefix]
        is_scattered = len(committer.manifest.paths) > 1
        if changed or is_scattered:
            committer.commit(merge=is_scattered, roots=committer.noted_roots(scanned))
        else:
            committer.note_scan(scanned)
        committer.bring_up_cache()


def _by_whether_the_root_is_there(
    manifest: Manifest, known: KnownFiles, rows: Int64
) -> Iterable[tuple[str, Int64]]:
    """What a file that is not at its place has become: forgotten where its root is there,
    missing where the root is not, and the rows of each."""
    for root in manifest.roots:
        of_root = rows[known.roots[rows] == root.id]
        if len(of_root):
            yield (FORGOTTEN if holds_anything(root.path) else MISSING), of_root


def _not_there(manifest: Manifest, known: KnownFiles, rows: Int64) -> Any:
    """(n,) bool."""
    is_there = Presence()
    return np.array([not is_there(known.place(manifest, row)) for row in rows.tolist()], bool)
