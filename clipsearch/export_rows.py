"""What is exported: rows of hits, or of photos that another command named."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from clipsearch.image_index import ImageIndex
from clipsearch.metadata_rows import metadata_of
from clipsearch.paths import MISSING, read_paths, relative_bytes
from clipsearch.records import Hit
from clipsearch.remote_paths import whole_place

_COLUMNS = (
    "sha256", "bytes", "format", "width", "height", "taken_at", "camera", "lens",
    "lat", "lon", "keywords", "description", "rating",
)  # fmt: skip


@dataclass(frozen=True)
class ExportRow:
    """One photo to export, in rank order.

    path : absolute. score, cosine, strength : of the hit; None where nothing was scored.
    sha256 : of the content when it was indexed, None where that is not known; bytes : its size.
    The others are the columns of the index's table of images.
    """

    id: int
    path: Path
    missing: bool = False
    score: float | None = None
    cosine: float | None = None
    strength: str | None = None
    sha256: bytes | None = None
    bytes: int | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    taken_at: datetime | None = None
    camera: str | None = None
    lens: str | None = None
    lat: float | None = None
    lon: float | None = None
    keywords: tuple[str, ...] = ()
    description: str | None = None
    rating: int | None = None


def rows_of_hits(index: ImageIndex, hits: Iterable[Hit]) -> list[ExportRow]:
    """A row for each hit, in their order, with what the index knows of the photo."""
    listed = list(hits)
    known = _metadata(index, [hit.id for hit in listed])
    return [
        ExportRow(
            id=hit.id,
            path=whole_place(hit.path),
            missing=hit.missing,
            score=None if math.isnan(hit.score) else hit.score,
            cosine=None if math.isnan(hit.cosine) else hit.cosine,
            strength=hit.strength,
            **known[hit.id],
        )
        for hit in listed
    ]


def rows_of_ids(index: ImageIndex, ids: Sequence[int]) -> list[ExportRow]:
    """A row for each image, in their order; one that has no place any more is left out.

    Raises QueryError for an id that is not in the index.
    """
    known = _metadata(index, ids)
    return [
        ExportRow(id=image_id, path=place.path, missing=place.missing, **known[image_id])
        for image_id, place in zip(ids, index.paths().first_places(ids), strict=True)
        if place is not None
    ]


def rows_of_names(
    index: ImageIndex, names: Sequence[str]
) -> tuple[list[ExportRow], list[tuple[Path, str]]]:
    """A row for each photo named by its path, or by its id (digits alone; ./7 is a path).

    A photo named twice counts once. The second list holds what is not in the index, and why.
    Relative paths begin at the working folder.
    """
    places = _places(index)
    by_id = index.paths()
    found: list[tuple[int, Path, bool]] = []
    unknown: list[tuple[Path, str]] = []
    for name in dict.fromkeys(names):
        if name.isascii() and name.isdigit():
            first = by_id.first_places([int(name)])[0] if int(name) < 1 << 63 else None
            if first is None:
                unknown.append((Path(name), "no image has this id"))
            else:
                found.append((int(name), first.path, first.missing))
            continue
        path = whole_place(name)
        if os.fspath(path) in places:
            image_id, missing = places[os.fspath(path)]
            found.append((image_id, path, missing))
        else:
            unknown.append((path, "it is not in the index"))
    unique = {path: (image_id, missing) for image_id, path, missing in found}
    known = _metadata(index, [image_id for image_id, _ in unique.values()])
    rows = [
        ExportRow(id=image_id, path=path, missing=missing, **known[image_id])
        for path, (image_id, missing) in unique.items()
    ]
    return rows, unknown


def _places(index: ImageIndex) -> dict[str, tuple[int, bool]]:
    """Every path of the index -> (id, whether it is missing)."""
    state = index.state()
    roots = {root.id: root.path for root in state.manifest.roots}
    table = read_paths(state.store, state.manifest, ["root", "path", "id", "state"])
    columns = (table.column(name).to_pylist() for name in ("root", "path", "id", "state"))
    return {
        os.path.join(roots[root], *relative_bytes(path).split("/")): (image_id, how == MISSING)
        for root, path, image_id, how in zip(*columns, strict=True)
        if root in roots
    }


def _metadata(index: ImageIndex, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    table = metadata_of(index.state(), ids, ["id", *_COLUMNS])
    known: dict[int, dict[str, Any]] = {}
    for row in table.to_pylist():
        image_id = row.pop("id")
        row["keywords"] = tuple(word for word in row["keywords"] or () if word)
        if not row["bytes"]:  # imported without its file: the sha256 is a stand-in
            row["sha256"], row["bytes"] = None, None
        known[image_id] = row
    return known
