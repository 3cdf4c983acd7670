"""Forget the files that are missing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.errors import OptionError
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.paths import FORGOTTEN
from clipsearch.remote_paths import RemotePath, place_of
from clipsearch.remote_urls import is_remote
from clipsearch.shards import Int64
from clipsearch.store import index_folder, open_store
from indexer.containers import Presence
from indexer.known import KnownFiles, read_known
from indexer.path_changes import PathChanges
from indexer.presence import holds_anything
from indexer.sources import absolute_path, spelled_as_known
from indexer.writing import writing


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` forgot, or would.

    files : missing files forgotten. images : images that no file holds any longer; they are
    found no more. back : files noted as missing that are there again (an ``index`` run will see
    them). kept : missing files left alone, by folder, because that folder is not there now, or
    is empty as the place of a disk is. gone : of the files forgotten, how many were in which
    folder that is there no more, as whole.
    """

    files: int
    images: int
    back: int
    kept: dict[str, int]
    gone: dict[str, int]
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
    if dry_run:
        store = open_store(index_folder(index))
        manifest = read_manifest(store, str(index))
        return _choose(manifest, read_known(store, manifest), folders)[1]
    with writing(index) as committer:
        known = read_known(committer.store, committer.manifest)
        rows, pruned = _choose(committer.manifest, known, folders)
        if len(rows):
            changes = PathChanges(committer.now)
            changes.again(known, rows, FORGOTTEN)
            committer.commit(changes, merge=True)
        return pruned


def _choose(
    manifest: Manifest, known: KnownFiles, folders: Sequence[str | os.PathLike[str]]
) -> tuple[Int64, Pruned]:
    wanted = [spelled_as_known(absolute_path(folder), manifest.roots) for folder in folders]
    for folder in wanted:
        if not any(
            folder.is_relative_to(root.path) or place_of(root.path).is_relative_to(folder)
            for root in manifest.roots
        ):
            names = ", ".join(root.path for root in manifest.roots)
            raise OptionError(f"{folder} is in none of the folders of the index ({names})")
    back = 0
    kept: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    rows: list[int] = []
    paths: list[Path] = []
    is_there = Presence()
    where = _Whereabouts()
    for row in np.flatnonzero(known.missing).tolist():
        path = place_of(known.place(manifest, row))
        named = any(path.is_relative_to(folder) for folder in wanted)
        if wanted and not named:
            continue
        root = manifest.root(int(known.roots[row])).path
        # What a bucket that does not answer holds is not known, and is not asked of each file.
        is_silent = is_remote(root) and where.of(place_of(root), root)[0] is not None
        if not is_silent and is_there(path):
            back += 1
            continue
        away, topmost = where.of(path.parent, root)
        if away is not None and not named:
            kept[away] += 1
            continue
        rows.append(row)
        paths.append(path)
        if topmost is not None:
            gone[topmost] += 1
    chosen = np.array(rows, np.int64)
    held = np.delete(known.ids, chosen)
    images = len(np.setdiff1d(known.ids[chosen], held))
    return chosen, Pruned(len(rows), images, back, dict(kept), dict(gone), tuple(paths))


class _Whereabouts:
    """What has become of the folders that files were in; each is looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], tuple[str | None, str | None]] = {}

    def of(self, folder: Path, root: str) -> tuple[str | None, str | None]:
        """(the place of a disk that may be away, the topmost folder that is there no more), of
        which one may be None, or both."""
        key = (folder, root)
        if is_remote(root):
            folder = place_of(root)  # it has no folders that could be gone
            key = (folder, root)
        if key not in self._known:
            self._known[key] = self._look(folder, place_of(root))
        return self._known[key]

    def _look(self, folder: Path, root: Path) -> tuple[str | None, str | None]:
        if not holds_anything(root):
            return str(root), None
        if isinstance(root, RemotePath):
            return None, None
        topmost = None
        while folder != root and not os.path.isdir(folder) and folder.parent != folder:
            topmost, folder = str(folder), folder.parent
        is_empty = folder != root and not holds_anything(folder)
        return (str(folder) if is_empty else None), topmost
