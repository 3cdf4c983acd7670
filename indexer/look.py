"""Look at the sources and compare with the index, without writing anything."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.errors import SourceError
from clipsearch.file_kinds import RAW_CURE, RAW_EXTENSIONS
from clipsearch.manifest import Manifest
from clipsearch.paths import place_text
from clipsearch.remote_paths import RemotePath, place_of
from clipsearch.store import Store, open_store
from indexer.config import IndexConfig
from indexer.file_table import binary_array, same_rows
from indexer.known import KnownFiles, read_known, read_skipped
from indexer.plan import ALL_REASONS, RETRIED_REASONS, Plan, absolute, encode_bytes, make_plan
from indexer.presence import holds_anything
from indexer.report import Difference, Forecast
from indexer.scan import Scan, scan
from indexer.scan_containers import add_members, known_containers
from indexer.sources import (
    PathName,
    Sources,
    assign_roots,
    regions_of,
    resolve_sources,
    topmost,
)


@dataclass(frozen=True)
class Look:
    """What is on the disk beside what the index knows; ``manifest`` has the new roots."""

    manifest: Manifest
    sources: Sources
    scan: Scan
    known: KnownFiles
    plan: Plan


def look(
    place: Path,
    manifest: Manifest,
    sources: Sequence[PathName],
    listed: Iterable[PathName],
    config: IndexConfig,
    threads: int,
    retry: bool = False,
) -> Look:
    """Scan ``sources`` and the ``listed`` files and compare. No sources at all are those that
    were named before, and the files that the index knows elsewhere. retry : try every skipped
    file again.

    Raises SourceError for sources that are none, and when there is nothing to do with them.
    """
    store = open_store(place)
    listed = list(listed)
    known = read_known(store, manifest)
    if not sources and not listed:
        if not manifest.sources and not len(known):
            raise SourceError("no folder of images was named")
        sources, listed = manifest.sources, _known_elsewhere(store, manifest, known)
    resolved = resolve_sources(sources, manifest.roots, listed)
    roots = assign_roots(manifest, resolved)
    next_root = max([manifest.next_root - 1, *(root.id for root in roots)]) + 1
    named = topmost([*map(place_of, manifest.sources), *resolved.folders, *resolved.containers])
    manifest = dataclasses.replace(
        manifest, roots=roots, next_root=next_root, sources=tuple(map(str, named))
    )
    containers = known_containers(manifest, known) | set(map(os.fsencode, resolved.containers))
    found = scan(resolved, roots, config.exclude, place, containers)
    add_members(found, resolved, roots, config.exclude, known, store, manifest)
    if not len(found.images) and not found.absent:
        regions = [*found.scanned, *found.offline]
        if not known.below(regions).any():
            raise SourceError(_nothing_there(resolved, found))
    retried = ALL_REASONS if retry else RETRIED_REASONS
    plan = make_plan(found, store, manifest, known, threads, retried, config.max_megapixels)
    return Look(manifest, resolved, found, known, plan)


def _known_elsewhere(store: Store, manifest: Manifest, known: KnownFiles) -> list[PathName]:
    """The files that the index knows, or skipped, and that lie in none of its sources: they came
    one by one."""
    tops = map(place_of, manifest.sources)
    regions = [region for top in tops for region in regions_of(top, manifest.roots)]
    places: list[PathName] = [
        known.place(manifest, row) for row in np.flatnonzero(~known.below(regions)).tolist()
    ]
    skipped = read_skipped(store, manifest)
    for root_id, path in zip(
        skipped.column("root").to_pylist(), skipped.column("path").to_pylist(), strict=True
    ):
        if not any(root_id == root and path.startswith(prefix) for root, prefix in regions):
            places.append(place_text(manifest.root(root_id).path, path))
    return places


def _nothing_there(sources: Sources, found: Scan) -> str:
    if sources.gone:
        return f"no such folder or file: {sources.gone[0]}"
    others = sum(found.ignored.values())
    if found.unreadable and all(isinstance(folder, RemotePath) for folder in sources.folders):
        return "could not read {}: {}".format(*found.unreadable[0])
    files = [*sources.containers, *sources.files, *sources.members]
    names = ", ".join(map(str, [*sources.folders, *files[:3]]))
    message = (
        f"no images in {names} ({others:,} other files): expected .jpg, .png, .webp, .heic, "
        ".tiff and the like"
    )
    raw = sum(count for kind, count in found.ignored.items() if kind in RAW_EXTENSIONS)
    many = "" if raw == 1 else "s"
    return f"{message}; for the {raw:,} RAW photo{many}: {RAW_CURE}" if raw else message


def differences(seen: Look) -> Iterator[Difference]:
    """What a run would do, file by file: "new", "changed", "moved" (from ``before``), "copy",
    "touched", "returned", "missing"."""
    plan, known, images, manifest = seen.plan, seen.known, seen.scan.images, seen.manifest
    left: dict[int, list[str]] = {}
    places = known.ids.tolist()
    gone = set(plan.vanished.tolist())
    away = [root.id for root in manifest.roots if not holds_anything(root.path)]
    missing = np.flatnonzero(known.missing & ~np.isin(known.roots, away))
    for row in [*plan.vanished.tolist(), *missing.tolist()]:
        left.setdefault(places[row], []).append(known.place(manifest, row))
    moved: set[str] = set()
    for row in plan.noted.tolist():
        path = absolute(manifest, images.file(row))
        image_id, before = int(plan.ids[row]), int(plan.match[row])
        if before >= 0 and places[before] == image_id:
            was_missing = bool(known.missing[before])
            yield Difference("returned" if was_missing else "touched", path)
        elif before >= 0:
            yield Difference("changed", path)
        elif left.get(image_id):
            origin = left[image_id].pop(0)
            moved.add(origin)
            yield Difference("moved", path, origin)
        else:
            yield Difference("copy", path)
    for row in plan.encode.tolist():
        kind = "new" if plan.match[row] < 0 else "changed"
        yield Difference(kind, absolute(manifest, images.file(row)))
        for copy in plan.same_as[row].rows if row in plan.same_as else ():
            yield Difference("copy", absolute(manifest, images.file(copy)))
    for row in [*sorted(gone), *plan.offline.tolist()]:
        path = known.place(manifest, row)
        if path not in moved:
            yield Difference("missing", path)


def forecast(seen: Look, place: Path) -> Forecast:
    """What a run would do, in numbers."""
    counts: dict[str, int] = {}
    for difference in differences(seen):
        counts[difference.kind] = counts.get(difference.kind, 0) + 1
    return Forecast(
        index=open_store(place).place,
        found=seen.scan.found,
        unchanged=seen.plan.unchanged,
        encode=len(seen.plan.encode),
        encode_bytes=encode_bytes(seen.plan, seen.scan),
        skipped=len(seen.plan.skipped),
        ignored=sum(seen.scan.ignored.values()),
        ignored_kinds=dict(seen.scan.ignored.most_common()),
        changes=counts,
        offline=offline_folders(seen),
        not_there=len(seen.scan.absent) - known_absent(seen),
        unreadable=tuple(seen.scan.unreadable),
    )


def offline_folders(seen: Look) -> tuple[str, ...]:
    """The folders of the index that were asked about and are not there now."""
    names = []
    for root, prefix in seen.scan.offline:
        path = place_of(seen.manifest.root(root).path, os.fsdecode(prefix))
        names.append(str(path))
    return tuple(dict.fromkeys(names))


def known_absent(seen: Look) -> int:
    """How many of the listed files that are not there the index knows."""
    if not seen.scan.absent:
        return 0
    roots = np.array([root for root, _ in seen.scan.absent], np.int32)
    paths = pa.chunked_array([binary_array([path for _, path in seen.scan.absent])])
    return int((same_rows(roots, paths, seen.known.roots, seen.known.paths) >= 0).sum())
