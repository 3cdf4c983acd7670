"""The paths table in memory: where each image content is."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.errors import IndexFormatError
from clipsearch.manifest import Manifest
from clipsearch.shards import PATH_SCHEMA, Int64, read_tables
from clipsearch.store import Store

PRESENT = "present"
MISSING = "missing"
FORGOTTEN = "forgotten"


def latest_rows(table: pa.Table) -> pa.Table:
    """The rows that count: the last one of every (root, path), forgotten ones left out."""
    if len(table) == 0:
        return table
    keys = pc.binary_join_element_wise(
        table.column("root").cast(pa.string()).cast(pa.binary()), table.column("path"), b"\0"
    )
    codes = keys.combine_chunks().dictionary_encode().indices.to_numpy()
    # np.unique keeps the first of equals; over reversed rows that is the last one written.
    _, from_the_end = np.unique(codes[::-1], return_index=True)
    rows = table.take(pa.array(np.sort(len(table) - 1 - from_the_end)))
    return rows.filter(pc.not_equal(rows.column("state"), FORGOTTEN))


def read_paths(store: Store, manifest: Manifest) -> pa.Table:
    """All rows of the paths table that count, in the order they were written."""
    table = read_tables(store, manifest.paths, PATH_SCHEMA)
    return latest_rows(table).combine_chunks()


def relative_bytes(path: bytes) -> str:
    """A stored path as text for this system, whatever bytes it is made of."""
    return os.fsdecode(path)


@dataclass(frozen=True)
class Place:
    """One place of an image: its path and whether the last scan found it there."""

    path: Path
    missing: bool


class PathTable:
    """Looks up the places of an image."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        table = read_paths(store, manifest)
        ids = table.column("id").to_numpy()
        # Present files come before missing ones, else in the order they were first written.
        missing = pc.equal(table.column("state"), MISSING).to_numpy(zero_copy_only=False)
        order = np.lexsort((np.arange(len(ids)), missing, ids))
        self._ids: Int64 = ids[order]
        self._missing = missing[order]
        self._roots = table.column("root").to_numpy()[order]
        self._paths = table.column("path").take(pa.array(order))
        self._root_paths = {root.id: root.path for root in manifest.roots}
        self.present = int((~missing).sum())
        self.missing = int(missing.sum())
        self.copies = len(ids) - len(np.unique(ids))

    def __len__(self) -> int:
        return len(self._ids)

    def _place(self, row: int) -> Place:
        root_id = int(self._roots[row])
        if root_id not in self._root_paths:
            raise IndexFormatError(f"the index names a root {root_id} that it does not hold")
        root = self._root_paths[root_id]
        relative = relative_bytes(self._paths[row].as_py())
        return Place(Path(root, relative), bool(self._missing[row]))

    def places(self, image_id: int) -> list[Place]:
        """Every place of an image, present ones first; empty when it has none."""
        start = int(np.searchsorted(self._ids, image_id, side="left"))
        stop = int(np.searchsorted(self._ids, image_id, side="right"))
        return [self._place(row) for row in range(start, stop)]

    def first_places(self, ids: Iterable[int] | Int64) -> list[Place | None]:
        """The first place of each image, None for an id that has none."""
        wanted = np.asarray(list(ids) if not isinstance(ids, np.ndarray) else ids, np.int64)
        rows = np.searchsorted(self._ids, wanted, side="left")
        return [
            self._place(int(row)) if row < len(self._ids) and self._ids[row] == image_id else None
            for row, image_id in zip(rows, wanted, strict=True)
        ]

    def id_at(self, path: Path) -> int | None:
        """The image whose content was last seen at the absolute ``path``, or None."""
        for root_id, root_path in self._root_paths.items():
            try:
                relative = path.relative_to(root_path)
            except ValueError:
                continue
            key = os.fsencode(relative.as_posix())
            found = pc.and_(
                pc.equal(self._paths, pa.scalar(key, pa.binary())),
                pc.equal(pa.array(self._roots), pa.scalar(root_id, pa.int32())),
            )
            rows = np.flatnonzero(found.to_numpy(zero_copy_only=False))
            if len(rows):
                return int(self._ids[rows[0]])
        return None
