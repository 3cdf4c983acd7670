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
from clipsearch.paths import MISSING, PRESENT, read_paths, relative_bytes
from clipsearch.shards import int_array
from indexer.commit import Committer
from indexer.containers import Presence
from indexer.file_table import binary_array
from indexer.known import KnownFiles, read_known, read_skipped
from indexer.sources import absolute_path, root_of
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
    force : also when none of the files is to be found at the new place.

    Raises OptionError when the index knows nothing in ``old``, or nothing of it is in ``new``;
    and as ``writing`` does.
    """
    source, target = absolute_path(old), absolute_path(new)
    if source == target:
        raise OptionError(f"expected two different folders, got {source} twice")
    with writing(index) as committer:
        manifest = committer.manifest
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
        there = sum(
            is_there(_rebased(Path(known.place(manifest, row)), source, target)) for row in sample
        )
        if not there and not force:
            raise OptionError(
                f"none of {len(sample):,} files from {source} is in {target}, so nothing was "
                "changed (--force moves them all the same)"
            )
        _rewrite(committer, source, target)
        return Moved(len(rows), len(sample), there)


def _rebased(path: Path, source: Path, target: Path) -> Path:
    return target / path.relative_to(source) if path.is_relative_to(source) else path


def _rows_in(manifest: Manifest, known: KnownFiles, root: Root, source: Path) -> list[int]:
    """The known rows of one root that lie in ``source``."""
    if Path(root.path).is_relative_to(source):
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
        path = str(_rebased(Path(root.path), source, target))
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
        ids, paths = [], []
        pairs = zip(table.column("root").to_pylist(), table.column("path").to_pylist(), strict=True)
        for root_id, path in pairs:
            old = Path(manifest.root(root_id).path, relative_bytes(path))
            root, below = root_of(_rebased(old, source, target), new_roots)
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
        return table

    skipped = read_skipped(committer.store, manifest)
    committer.replace_paths(
        _one_of_each(replaced(read_paths(committer.store, manifest))),
        skipped=replaced(skipped) if len(skipped) else None,
        roots=new_roots,
        next_root=next_root,
        sources=tuple(str(_rebased(Path(path), source, target)) for path in manifest.sources),
    )


def _one_of_each(table: pa.Table) -> pa.Table:
    """Where two files have come to the same path, the one that is present counts."""
    keys = list(
        zip(table.column("root").to_pylist(), table.column("path").to_pylist(), strict=True)
    )
    states = table.column("state").to_pylist()
    best: dict[tuple[int, bytes], int] = {}
    for row, key in enumerate(keys):
        if key not in best or (states[best[key]] == MISSING and states[row] == PRESENT):
            best[key] = row
    return table.take(int_array(np.array(sorted(best.values()), np.int64)))
