"""Re-base a folder: the photos are the same, their place is another."""

from __future__ import annotations

import dataclasses
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from clipsearch.errors import OptionError
from clipsearch.file_kinds import CONTAINER_EXTENSIONS
from clipsearch.manifest import Manifest, Root
from clipsearch.paths import PRESENT, read_paths, relative_bytes
from clipsearch.remote_paths import place_of
from clipsearch.shards import int_array
from indexer.commit import Committer
from indexer.containers import Presence
from indexer.file_table import binary_array
from indexer.known import KnownFiles, read_known, read_skipped
from indexer.presence import look_at
from indexer.sources import absolute_path, root_of, spelled_as_known
from indexer.writing import writing

_LOOKED_FOR = 200


@dataclass(frozen=True)
class Moved:
    """What ``move`` did. ``files`` have another path now; of ``looked_for`` of them, picked at
    random, ``there`` were at their new place."""

    files: int
    looked_for: int
    there: int


def move(
    index: str | os.PathLike[str],
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    force: bool = False,
) -> Moved:
    """Say that what was in the folder ``old`` is in ``new`` now. No image is read or encoded.

    old : a folder of the index, one inside it, or one above it; it need not be there.
    force : also when files are still in ``old``, or most are not in ``new``.

    Raises OptionError when the index knows nothing in ``old``, or what it knows there is not in
    ``new`` now; and as ``writing`` does.
    """
    with writing(index) as committer:
        manifest = committer.manifest
        source, target = (spelled_as_known(absolute_path(p), manifest.roots) for p in (old, new))
        if source == target:
            raise OptionError(f"expected two different folders, got {source} twice")
        known = read_known(committer.store, manifest)
        rows = np.array(
            [row for root in manifest.roots for row in _rows_in(manifest, known, root, source)],
            np.int64,
        )
        if not len(rows):
            names = ", ".join(root.path for root in manifest.roots)
            raise OptionError(f"the index knows no file in {source}; its folders are {names}")
        sample = random.sample(rows.tolist(), min(_LOOKED_FOR, len(rows)))
        is_there = Presence()
        places = [place_of(known.place(manifest, row)) for row in sample]
        still = sum(map(is_there, places))
        there = sum(
            is_there(place) and _may_be(place, int(known.sizes[row]))
            for row, place in zip(
                sample, (_rebased(place, source, target) for place in places), strict=True
            )
        )
        if not force and (still or 2 * there < len(sample)):
            what = f"{still:,} are still in {source}" if still else f"{there:,} are in {target}"
            raise OptionError(
                f"of {len(sample):,} files looked for, {what}: nothing was changed (--force moves "
                "them in the index all the same)"
            )
        _rewrite(committer, source, target)
        return Moved(len(rows), len(sample), there)


def _may_be(place: Path, size: int) -> bool:
    """Whether a file that is there may be one of ``size`` bytes, 0 for not known; in a tar, nobody
    looks."""
    if not size:
        return True
    try:
        found = look_at(place)
    except OSError:
        return True
    return found is None or found.st_size == size


def _rebased(path: Path, source: Path, target: Path) -> Path:
    return target / path.relative_to(source) if path.is_relative_to(source) else path


def _rows_in(manifest: Manifest, known: KnownFiles, root: Root, source: Path) -> list[int]:
    """The known rows of one root that lie in ``source``."""
    if place_of(root.path).is_relative_to(source):
        region = (root.id, b"")
    elif source.is_relative_to(root.path):
        region = (root.id, os.fsencode(source.relative_to(root.path).as_posix()) + b"/")
    else:
        return []
    rows: list[int] = np.flatnonzero(known.below([region])).tolist()
    return rows


def _rewrite(committer: Committer, source: Path, target: Path) -> None:
    """Give every path its new root and rest, in one commit.

    Roots at or below ``source`` move with it; where two now have the same path they become one.
    Every other file in ``source`` gets the root that holds its new place.
    """
    manifest = committer.manifest
    roots: dict[str, Root] = {}
    for root in manifest.roots:
        path = str(_rebased(place_of(root.path), source, target))
        roots.setdefault(path, dataclasses.replace(root, path=path))
    next_root = manifest.next_root
    # A tar is no root, but its folder is.
    home = target.parent if target.suffix.lower() in CONTAINER_EXTENSIONS else target
    home = target if target.is_dir() else home
    if not any(home.is_relative_to(path) for path in roots):
        roots[str(home)] = Root(next_root, str(home))
        next_root += 1
    new_roots = tuple(roots.values())

    def replaced(table: pa.Table) -> pa.Table:
        ids, paths, moved = [], [], []
        pairs = zip(table.column("root").to_pylist(), table.column("path").to_pylist(), strict=True)
        for root_id, path in pairs:
            old = place_of(manifest.root(root_id).path, relative_bytes(path))
            new = _rebased(old, source, target)
            root, below = root_of(new, new_roots)
            moved.append(new != old)
            ids.append(root.id)
            paths.append(below)
        names = pa.array([path.decode("utf-8", "replace") for path in paths], pa.string())
        columns = {
            "root": int_array(np.array(ids, np.int32)),
            "path": binary_array(paths),
            "name": names,
        }
        for name, column in columns.items():
            table = table.set_column(
                table.schema.get_field_index(name), table.schema.field(name), column
            )
        return _one_of_each(table, moved)

    skipped = read_skipped(committer.store, manifest)
    committer.replace_paths(
        replaced(read_paths(committer.store, manifest)),
        skipped=replaced(skipped) if len(skipped) else None,
        roots=new_roots,
        next_root=next_root,
        sources=tuple(str(_rebased(place_of(path), source, target)) for path in manifest.sources),
    )


def _one_of_each(table: pa.Table, moved: list[bool]) -> pa.Table:
    """Where two files have come to the same path, one counts: the one that is present, and then
    the one that was there before."""
    keys = zip(table.column("root").to_pylist(), table.column("path").to_pylist(), strict=True)
    is_paths = "state" in table.column_names
    states = table.column("state").to_pylist() if is_paths else [PRESENT] * len(table)
    best: dict[tuple[int, bytes], tuple[bool, bool, int]] = {}
    for row, key in enumerate(keys):
        rank = (states[row] != PRESENT, moved[row], row)
        best[key] = min(best.get(key, rank), rank)
    return table.take(int_array(np.array(sorted(row for _, _, row in best.values()), np.int64)))
