"""Compare what is on the disk with what the index knows: what to encode, what to note."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from clipsearch.file_kinds import RAW_EXTENSIONS, container_of, reads_raw
from clipsearch.manifest import Manifest
from clipsearch.paths import place_text, relative_bytes
from clipsearch.remote_urls import is_remote
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, int_array, read_tables
from clipsearch.store import Store
from indexer.containers import is_in_parquet, part_sha256, sources_of
from indexer.file_table import FileTable, FoundFile, binary_array, same_rows
from indexer.known import KnownFiles, read_skipped
from indexer.presence import is_gone
from indexer.scan import Scan

RETRIED_REASONS = frozenset({"vanished", "unreadable"})
"""Skipped files that every run tries again; the others only when they have changed."""

ALL_REASONS = RETRIED_REASONS | {"corrupt", "truncated", "unsupported", "too_large", "empty"}
"""Every reason for which an image may be skipped."""

_OBJECTS_AT_ONCE = 16


def _no_rows() -> Int64:
    return np.empty(0, np.int64)


@dataclass
class Copies:
    """Further files (rows of the scan) that held the content ``sha256`` when they were read."""

    sha256: bytes
    rows: list[int] = field(default_factory=list)


@dataclass
class Plan:
    """What a run has to do. "Rows" are of the scan's images, "known rows" of the known files.

    match : (n,) for every found image its known row, -1 for a new path.
    ids : (n,) the id of every found image that has one already, -1 for the others.
    encode : rows whose content the index does not hold: first those never tried, in order of
    root and path, then those that were skipped before. same_as : for a row of ``encode``, the
    further new files that hold the same content.
    noted : rows whose content has an id already: copies, moved files, and touched ones.
    unchanged : how many files are as they were. skipped : rows that were skipped before and have
    not changed since.
    vanished : known rows of files that a scanned folder, or a list, no longer has.
    offline : known rows, present so far, in folders that are not there now.
    """

    match: Int64 = field(default_factory=_no_rows)
    ids: Int64 = field(default_factory=_no_rows)
    encode: Int64 = field(default_factory=_no_rows)
    same_as: dict[int, Copies] = field(default_factory=dict)
    noted: Int64 = field(default_factory=_no_rows)
    unchanged: int = 0
    skipped: Int64 = field(default_factory=_no_rows)
    vanished: Int64 = field(default_factory=_no_rows)
    offline: Int64 = field(default_factory=_no_rows)


def absolute(manifest: Manifest, found: FoundFile) -> str:
    """Where a found file is."""
    return place_text(manifest.root(found.root).path, found.path)


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
    known: KnownFiles,
    threads: int,
    retried: frozenset[str] = RETRIED_REASONS,
    max_megapixels: float | None = None,
) -> Plan:
    """Tell new, changed, moved, copied, vanished and unchanged files apart.

    Path, size and time of change decide first. Only a file that is new or changed *and* as
    long as some other content is read and hashed here; all others are hashed when they are
    read to be encoded. ``retried`` are the reasons for which a skipped file is tried again
    although it has not changed. max_megapixels : the limit now; what was too large for a lower
    one is tried again as well.
    """
    images = scan.images
    plan = Plan(same_rows(images.roots, images.paths, known.roots, known.paths))
    plan.ids = np.full(len(images), -1, np.int64)
    there = np.flatnonzero(plan.match >= 0)
    before = plan.match[there]
    same = (images.sizes[there] == known.sizes[before]) & (
        images.mtimes[there] == known.mtimes[before]
    )
    there, before = there[same], before[same]
    plan.ids[there] = known.ids[before]
    plan.unchanged = int((~known.missing[before]).sum())
    returned = there[known.missing[before]]
    fresh = np.flatnonzero(plan.ids < 0)
    if len(fresh):
        was_skipped = _skipped_before(plan, images, fresh, store, manifest, retried, max_megapixels)
        fresh = images.in_reading_order(np.setdiff1d(fresh, plan.skipped))
        _group_by_content(plan, images, fresh, store, manifest, threads)
        tried = np.isin(plan.encode, was_skipped)
        # Behind the others, so that a file that cannot be read gives no other file another id.
        plan.encode = np.concatenate([plan.encode[~tried], plan.encode[tried]])
    plan.noted = np.sort(np.concatenate([returned, plan.noted]))
    _find_the_missing(plan, scan, manifest, known)
    return plan


def _skipped_before(
    plan: Plan,
    images: FileTable,
    fresh: Int64,
    store: Store,
    manifest: Manifest,
    retried: frozenset[str],
    max_megapixels: float | None,
) -> Int64:
    """The rows of ``fresh`` that were skipped before. Those that are to stay so are put into
    ``plan.skipped``."""
    table = read_skipped(store, manifest)
    if not len(table):
        return _no_rows()
    match = same_rows(
        images.roots[fresh],
        images.paths.take(int_array(fresh)),
        as_numpy(table.column("root")),
        table.column("path"),
    )
    tried, rows = fresh[match >= 0], match[match >= 0]
    reasons = np.array(table.column("reason").to_pylist(), object)[rows]
    as_it_was = (
        (as_numpy(table.column("size"))[rows] == images.sizes[tried])
        & (as_numpy(table.column("mtime_ns"))[rows] == images.mtimes[tried])
        & ~np.isin(reasons.astype(str), sorted(retried))
    )
    if max_megapixels is not None:
        limits = table.column("max_megapixels").to_pylist()
        too_large = np.array([limit is not None and limit < max_megapixels for limit in limits])
        as_it_was &= ~(too_large[rows] & (reasons == "too_large"))
    plan.skipped = tried[as_it_was]
    again: Int64 = tried[~as_it_was]
    return again


def _group_by_content(
    plan: Plan,
    images: FileTable,
    fresh: Int64,
    store: Store,
    manifest: Manifest,
    threads: int,
) -> None:
    sizes = images.sizes[fresh]
    distinct, counts = np.unique(sizes, return_counts=True)
    contents = _known_contents(store, manifest, distinct)
    known_sizes = np.array(sorted({size for size, _ in contents}), np.int64)
    doubtful = fresh[
        (sizes > 0) & (np.isin(sizes, distinct[counts > 1]) | np.isin(sizes, known_sizes))
    ]
    if any(is_remote(root.path) for root in manifest.roots):
        from indexer.remote_hashes import certainly_singular

        roots = {root.id: root.path for root in manifest.roots}
        singular = certainly_singular(images, doubtful, set(known_sizes.tolist()), roots)
        doubtful = doubtful[~np.isin(doubtful, sorted(singular))]
    hashes = _hashes(images, doubtful, manifest, threads)
    first_of: dict[bytes, int] = {}
    encode = np.ones(len(fresh), bool)
    noted: list[int] = []
    for place in np.flatnonzero(np.isin(fresh, doubtful)).tolist():
        row = int(fresh[place])
        content = hashes[row]
        if content is None:
            continue
        known_id = contents.get((int(images.sizes[row]), content))
        if known_id is not None:
            plan.ids[row] = known_id
            noted.append(row)
        elif content in first_of:
            plan.same_as.setdefault(first_of[content], Copies(content)).rows.append(row)
        else:
            first_of[content] = row
            continue
        encode[place] = False
    plan.encode = fresh[encode]
    plan.noted = np.array(noted, np.int64)


def _hashes(
    images: FileTable, rows: Int64, manifest: Manifest, threads: int
) -> dict[int, bytes | None]:
    """The sha256 of the content of each row, None where it cannot be read."""
    roots = {root.id: root.path for root in manifest.roots}
    hashes: dict[int, bytes | None] = {}
    in_memory: list[int] = []
    if images.parts is not None:
        # Only in their order can rows of a Parquet file be read quickly.
        in_memory = [row for row in rows.tolist() if is_in_parquet(images.file(row))]
        sources = sources_of(images.files(in_memory), roots) if in_memory else ()
        for row, data in zip(in_memory, sources, strict=True):
            hashes[row] = hashlib.sha256(data).digest() if isinstance(data, bytes) else None

    def hash_row(row: int) -> bytes | None:
        found = images.file(row)
        if is_remote(roots[found.root]):
            from indexer.remote_hashes import remote_sha256

            return remote_sha256(absolute(manifest, found), found.size)
        if found.container:
            container = os.path.join(roots[found.root], relative_bytes(found.container))
            return part_sha256(container, found.position, found.size)
        return file_sha256(absolute(manifest, found))

    others = rows[~np.isin(rows, in_memory)].tolist() if in_memory else rows.tolist()
    if any(map(is_remote, roots.values())):
        threads = max(threads, _OBJECTS_AT_ONCE)  # that wait for a network
    with ThreadPoolExecutor(threads) as pool:
        hashes.update(zip(others, pool.map(hash_row, others), strict=True))
    return hashes


def _known_contents(store: Store, manifest: Manifest, sizes: Int64) -> dict[tuple[int, bytes], int]:
    """(bytes, sha256) -> id of the contents that are as long as one of ``sizes``."""
    table = read_tables(store, manifest.images, IMAGE_SCHEMA, ["id", "sha256", "bytes"])
    wanted = np.flatnonzero(np.isin(as_numpy(table.column("bytes")), sizes))
    table = table.take(int_array(wanted))
    lengths = table.column("bytes").to_pylist()
    hashes = table.column("sha256").to_pylist()
    ids = table.column("id").to_pylist()
    return {(length, sha): id_ for length, sha, id_ in zip(lengths, hashes, ids, strict=True)}


def _find_the_missing(plan: Plan, scan: Scan, manifest: Manifest, known: KnownFiles) -> None:
    """What a scanned folder should hold and does not has vanished, unless it lies in a place
    that the scan passed over; what is in a folder that is not there at all is only offline."""
    unseen = np.ones(len(known), bool)
    unseen[plan.match[plan.match >= 0]] = False
    unseen &= ~known.missing
    offline = unseen & known.below(scan.offline)
    plan.offline = np.flatnonzero(offline)
    gone = unseen & ~offline & known.below(scan.scanned)
    if scan.absent:
        roots = np.array([root for root, _ in scan.absent], np.int32)
        paths = pa.chunked_array([binary_array([path for _, path in scan.absent])])
        rows = same_rows(roots, paths, known.roots, known.paths)
        rows = rows[rows >= 0]
        gone[rows] |= unseen[rows]
    rows = known.outside(manifest, np.flatnonzero(gone), scan.passed_over)
    plan.vanished = rows if reads_raw() else _without_raw_photos(rows, manifest, known)


def _without_raw_photos(rows: Int64, manifest: Manifest, known: KnownFiles) -> Int64:
    """Those of ``rows`` that are no RAW photos, or such as are gone indeed: a scan passes over
    RAW photos while the extra that reads them is not installed."""
    kept = []
    for row in rows.tolist():
        place = known.place(manifest, row)
        is_raw = os.path.splitext(place)[1].lower() in RAW_EXTENSIONS
        if not is_raw or (container_of(place) is None and is_gone(place)):
            kept.append(row)
    return np.array(kept, np.int64)


def encode_bytes(plan: Plan, scan: Scan) -> int:
    """Bytes of the files to encode."""
    return int(scan.images.sizes[plan.encode].sum())
