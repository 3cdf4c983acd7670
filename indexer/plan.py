"""Compare what is on the disk with what the index knows: what to encode, what to note."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.manifest import Manifest
from clipsearch.paths import MISSING, PRESENT, read_paths, relative_bytes
from clipsearch.shards import IMAGE_SCHEMA, SKIPPED_SCHEMA, read_tables
from clipsearch.store import Store
from indexer.scan import FoundFile, Scan

RETRIED_REASONS = frozenset({"vanished", "unreadable"})
"""Skipped files that every run tries again; the others only when they have changed."""


@dataclass(frozen=True, slots=True)
class KnownPath:
    """A row of the paths table."""

    root: int
    path: bytes
    size: int
    mtime_ns: int
    inode: int
    id: int
    state: str
    first_seen: object


@dataclass
class Copies:
    """Further files that held the content ``sha256`` when they were looked at."""

    sha256: bytes
    files: list[FoundFile] = field(default_factory=list)


@dataclass
class Plan:
    """What a run has to do.

    encode : files whose content the index does not hold, in order of root and path.
    same_as : for a file of ``encode``, the further new files that hold the same content.
    known : files whose content has an id already: copies, moved files, and touched ones.
    unchanged : files that are as they were. skipped : files that were skipped before and have
    not changed since. vanished : rows of files that a scanned folder no longer holds.
    """

    encode: list[FoundFile] = field(default_factory=list)
    same_as: dict[tuple[int, bytes], Copies] = field(default_factory=dict)
    known: list[tuple[FoundFile, int]] = field(default_factory=list)
    unchanged: int = 0
    skipped: list[FoundFile] = field(default_factory=list)
    vanished: list[KnownPath] = field(default_factory=list)

    @property
    def new_bytes(self) -> int:
        """Bytes of the files to encode."""
        return sum(found.size for found in self.encode)


def read_known(store: Store, manifest: Manifest) -> dict[tuple[int, bytes], KnownPath]:
    """The paths table by root and path."""
    table = read_paths(store, manifest)
    columns = [
        table.column(name).to_pylist()
        for name in ("root", "path", "size", "mtime_ns", "inode", "id", "state", "first_seen")
    ]
    rows = (KnownPath(*values) for values in zip(*columns, strict=True))
    return {(row.root, row.path): row for row in rows}


def read_skipped(store: Store, manifest: Manifest) -> pa.Table:
    """The skipped table."""
    refs = [manifest.skipped] if manifest.skipped else []
    return read_tables(store, refs, SKIPPED_SCHEMA)


def absolute(manifest: Manifest, found: FoundFile) -> str:
    """Where a found file is."""
    return os.path.join(manifest.root(found.root).path, relative_bytes(found.path))


def file_sha256(path: str) -> bytes | None:
    """The sha256 of a file, None when it cannot be read (the encoder will say why)."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def make_plan(
    scan: Scan,
    store: Store,
    manifest: Manifest,
    known: dict[tuple[int, bytes], KnownPath],
    threads: int,
    retried: frozenset[str] = RETRIED_REASONS,
) -> Plan:
    """Tell new, changed, moved, copied, vanished and unchanged files apart.

    Path, size and time of change decide first. Only a file that is new or changed *and* as
    long as some other content is read and hashed here; all others are hashed when they are
    read to be encoded. ``retried`` are the reasons for which a skipped file is tried again
    although it has not changed.
    """
    plan = Plan()
    skipped = {
        (row["root"], row["path"]): (row["size"], row["mtime_ns"], row["reason"])
        for row in read_skipped(store, manifest).to_pylist()
    }
    fresh: list[FoundFile] = []
    for found in scan.images:
        before = known.get(found.key)
        if before is not None and (before.size, before.mtime_ns) == (found.size, found.mtime_ns):
            if before.state == PRESENT:
                plan.unchanged += 1
            else:
                plan.known.append((found, before.id))
            continue
        was_skipped = skipped.get(found.key)
        if (
            was_skipped is not None
            and was_skipped[:2] == (found.size, found.mtime_ns)
            and was_skipped[2] not in retried
        ):
            plan.skipped.append(found)
            continue
        fresh.append(found)
    _group_by_content(plan, fresh, store, manifest, threads)
    plan.vanished = _vanished(scan, manifest, known)
    return plan


def _group_by_content(
    plan: Plan, fresh: list[FoundFile], store: Store, manifest: Manifest, threads: int
) -> None:
    by_size: dict[int, int] = defaultdict(int)
    for found in fresh:
        by_size[found.size] += 1
    contents = _known_contents(store, manifest, by_size.keys())
    known_sizes = {size for size, _ in contents}
    doubtful = [
        found
        for found in fresh
        if found.size > 0 and (by_size[found.size] > 1 or found.size in known_sizes)
    ]
    with ThreadPoolExecutor(threads) as pool:
        hashes = dict(
            zip(
                (found.key for found in doubtful),
                pool.map(lambda found: file_sha256(absolute(manifest, found)), doubtful),
                strict=True,
            )
        )
    first_of: dict[bytes, FoundFile] = {}
    for found in fresh:
        content = hashes.get(found.key)
        if content is None:
            plan.encode.append(found)
        elif (found.size, content) in contents:
            plan.known.append((found, contents[found.size, content]))
        elif content in first_of:
            copies = plan.same_as.setdefault(first_of[content].key, Copies(content))
            copies.files.append(found)
        else:
            first_of[content] = found
            plan.encode.append(found)


def _known_contents(
    store: Store, manifest: Manifest, sizes: Iterable[int]
) -> dict[tuple[int, bytes], int]:
    """(bytes, sha256) -> id of the contents that are as long as one of ``sizes``."""
    table = read_tables(store, manifest.images, IMAGE_SCHEMA, ["id", "sha256", "bytes"])
    table = table.filter(pc.is_in(table.column("bytes"), pa.array(list(sizes), pa.int64())))
    lengths = table.column("bytes").to_pylist()
    hashes = table.column("sha256").to_pylist()
    ids = table.column("id").to_pylist()
    return {(length, sha): id_ for length, sha, id_ in zip(lengths, hashes, ids, strict=True)}


def _vanished(
    scan: Scan, manifest: Manifest, known: dict[tuple[int, bytes], KnownPath]
) -> list[KnownPath]:
    """Rows that a scanned folder should hold and does not. What lies in a place that the scan
    passed over is not gone."""
    seen = {found.key for found in scan.images}
    gone = [
        row
        for key, row in known.items()
        if row.state != MISSING
        and key not in seen
        and any(row.root == root and row.path.startswith(prefix) for root, prefix in scan.scanned)
    ]
    if not scan.passed_over:
        return gone
    return [row for row in gone if not _passed_over(scan, manifest, row)]


def _passed_over(scan: Scan, manifest: Manifest, row: KnownPath) -> bool:
    path = Path(manifest.root(row.root).path, relative_bytes(row.path))
    return any(str(place) in scan.passed_over for place in (path, *path.parents))
