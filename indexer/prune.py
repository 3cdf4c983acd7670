"""Forget the files that are missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.errors import OptionError
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.paths import FORGOTTEN
from clipsearch.shards import Int64
from clipsearch.store import LocalStore
from indexer.containers import Presence
from indexer.known import KnownFiles, read_known
from indexer.path_changes import PathChanges
from indexer.sources import absolute_path
from indexer.writing import writing


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` forgot, or would.

    files : missing files forgotten. images : images that no file holds any longer; they are
    found no more. back : files noted as missing that are there again (an ``index`` run will see
    them). kept : missing files left alone, by folder, because that folder is not there now.
    """

    files: int
    images: int
    back: int
    kept: dict[str, int]
    paths: tuple[Path, ...]


def prune(
    index: str | os.PathLike[str],
    folders: Sequence[str | os.PathLike[str]] = (),
    *,
    dry_run: bool = False,
) -> Pruned:
    """Forget missing files: all but those in folders that are not there now (an unplugged disk),
    or all below ``folders``, be they there or not.

    Raises OptionError for a folder that the index does not know, and as ``writing`` does.
    """
    wanted = [absolute_path(folder) for folder in folders]
    if dry_run:
        store = LocalStore(Path(index))
        manifest = read_manifest(store, str(index))
        return _choose(manifest, read_known(store, manifest), wanted)[1]
    with writing(index) as committer:
        known = read_known(committer.store, committer.manifest)
        rows, pruned = _choose(committer.manifest, known, wanted)
        if len(rows):
            changes = PathChanges(committer.now)
            changes.again(known, rows, FORGOTTEN)
            committer.commit(changes, merge=True)
        return pruned


def _choose(manifest: Manifest, known: KnownFiles, wanted: Sequence[Path]) -> tuple[Int64, Pruned]:
    for folder in wanted:
        if not any(
            folder.is_relative_to(root.path) or Path(root.path).is_relative_to(folder)
            for root in manifest.roots
        ):
            names = ", ".join(root.path for root in manifest.roots)
            raise OptionError(f"{folder} is in none of the folders of the index ({names})")
    kept: dict[str, int] = {}
    back = 0
    rows: list[int] = []
    paths: list[Path] = []
    is_there = Presence()
    there = {root.id: _holds_anything(root.path) for root in manifest.roots}
    for row in np.flatnonzero(known.missing).tolist():
        path = Path(known.place(manifest, row))
        named = any(path.is_relative_to(folder) for folder in wanted)
        root = int(known.roots[row])
        if wanted and not named:
            continue
        if is_there(path):
            back += 1
        elif named or there[root]:
            rows.append(row)
            paths.append(path)
        else:
            name = manifest.root(root).path
            kept[name] = kept.get(name, 0) + 1
    chosen = np.array(rows, np.int64)
    held = np.delete(known.ids, chosen)
    images = len(np.setdiff1d(known.ids[chosen], held))
    return chosen, Pruned(len(rows), images, back, kept, tuple(paths))


def _holds_anything(folder: str) -> bool:
    """Whether a folder is there; the empty place where a disk is mounted is not the disk."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
