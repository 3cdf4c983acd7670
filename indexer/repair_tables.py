"""Mend the small tables: paths, skipped files and tombstones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from clipsearch.manifest import FileRef, Manifest
from clipsearch.paths import MISSING, read_paths
from clipsearch.shards import (
    DELETED_SCHEMA,
    IMAGE_SCHEMA,
    Int64,
    as_numpy,
    read_tables,
    write_table,
)
from clipsearch.store import LocalStore
from indexer.findings import Finding


@dataclass
class Work:
    """A repair under way: the manifest as it will be, and what was found wrong with the old one.

    actions : what was done, a line each. next_run : whether an ``index`` run has to follow.
    """

    store: LocalStore
    manifest: Manifest
    errors: tuple[Finding, ...]
    actions: list[str] = field(default_factory=list)
    next_run: bool = False

    def has(self, file: str) -> bool:
        """Whether a file has an error."""
        return any(finding.file == file for finding in self.errors)

    def why(self, name: str) -> str:
        """The kinds of a file's errors, "" when it has none."""
        kinds = [finding.kind for finding in self.errors if finding.file == name]
        return ", ".join(dict.fromkeys(kinds))

    def ids(self) -> Int64:
        """(n,) int64: the ids of every image that is left."""
        table = read_tables(self.store, self.manifest.images, IMAGE_SCHEMA, ["id"])
        return as_numpy(table.column("id"))

    def tombstones(self) -> Int64:
        """(d,) int64 rising: the ids that the old table buries, as far as it can be read."""
        ref = self.manifest.deleted
        if ref is None or (self.has(ref.name) and self.why(ref.name) != "ids"):
            return np.empty(0, np.int64)
        return np.unique(as_numpy(read_tables(self.store, [ref], DELETED_SCHEMA).column("id")))

    def deleted(self) -> Int64:
        """(d,) int64 rising: the tombstones of the manifest as it is now."""
        refs = [self.manifest.deleted] if self.manifest.deleted else []
        return np.sort(as_numpy(read_tables(self.store, refs, DELETED_SCHEMA).column("id")))

    def write(self, kind: str, table: pa.Table) -> FileRef:
        name = f"{kind}/{self.manifest.generation + 1:07d}-repaired.parquet"
        return write_table(
            self.store, self.store.unused(name), table, kind=kind, index_uuid=self.manifest.uuid
        )


def mend_paths(work: Work, shards_dropped: bool) -> bool:
    """Take out lost tables, and the places of images that are lost; True when places of
    images that are still here may be lost as well."""
    lost = {
        ref.name
        for ref in work.manifest.paths
        if any(f.file == ref.name and f.kind not in ("paths", "no-place") for f in work.errors)
    }
    stray = any(finding.kind == "paths" for finding in work.errors)
    if not (lost or stray or shards_dropped):
        return False
    sound = tuple(ref for ref in work.manifest.paths if ref.name not in lost)
    with_sound = dataclasses.replace(work.manifest, paths=sound)
    rows = read_paths(work.store, with_sound)
    known_root = np.isin(as_numpy(rows.column("root")), [r.id for r in work.manifest.roots])
    keep = known_root & np.isin(as_numpy(rows.column("id")), work.ids())
    taken = rows.filter(pa.array(~keep))
    for name in sorted(lost):
        work.actions.append(f"{name}: taken out ({work.why(name)})")
    if len(taken):
        missing = taken.column("state").to_pylist().count(MISSING)
        away = f", {missing:,} of them not there when last looked for" if missing else ""
        work.actions.append(
            f"paths: {len(taken):,} files whose images were lost are new again{away}"
        )
    refs: tuple[FileRef, ...] = ()
    if keep.any():
        refs = (work.write("paths", rows.filter(pa.array(keep))),)
    work.manifest = dataclasses.replace(work.manifest, paths=refs)
    work.next_run = True
    return bool(lost)


def mend_skipped(work: Work) -> None:
    """Take out a table that is not sound: at worst some files are tried in vain once more."""
    ref = work.manifest.skipped
    if ref is not None and work.has(ref.name):
        work.actions.append(
            f"{ref.name}: taken out ({work.why(ref.name)}); those files are tried again"
        )
        work.manifest = dataclasses.replace(work.manifest, skipped=None)
        work.next_run = True


def mend_deleted(work: Work, places_lost: bool) -> None:
    """Make the tombstones fit what is left.

    An image is buried when its last file is forgotten: the tombstones are the images without
    a place, so a lost table can be made again from the paths. Where places are lost too,
    nobody is buried on that account: the next run finds them by their content.
    """
    ref = work.manifest.deleted
    ids = work.ids()
    is_lost = ref is not None and work.has(ref.name)
    if places_lost:
        wanted = np.intersect1d(work.tombstones(), ids) if not is_lost else ids[:0]
    elif is_lost or any(finding.kind == "no-place" for finding in work.errors):
        held = as_numpy(read_paths(work.store, work.manifest).column("id"))
        wanted = np.setdiff1d(ids, held)
    else:
        wanted = np.intersect1d(work.tombstones(), ids)
    if not is_lost and np.array_equal(wanted, work.tombstones()):
        return
    if is_lost and ref is not None:
        work.actions.append(
            f"{ref.name}: made again from the paths ({work.why(ref.name)})"
            if not places_lost
            else f"{ref.name}: taken out ({work.why(ref.name)})"
        )
    elif len(np.setdiff1d(wanted, work.tombstones())):
        work.actions.append(
            f"deleted: {len(np.setdiff1d(wanted, work.tombstones())):,} images that no file "
            "holds no longer count; they come back with their file"
        )
    table = pa.table([pa.array(wanted, pa.int64())], schema=DELETED_SCHEMA)
    work.manifest = dataclasses.replace(
        work.manifest, deleted=work.write("deleted", table) if len(wanted) else None
    )
