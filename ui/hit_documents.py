"""Hits as the API tells them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipsearch.generation import Generation
from clipsearch.metadata_columns import displayed, numbers_of
from clipsearch.records import Hit


def hit_documents(state: Generation, pages: Sequence[Sequence[Hit]]) -> list[list[dict[str, Any]]]:
    """The hits of each page as documents, with what the table of images says of their sizes."""
    ids = [hit.id for page in pages for hit in page]
    sizes = dict(zip(ids, image_sizes(state, ids), strict=True))
    return [[hit_document(hit, *sizes[hit.id]) for hit in page] for page in pages]


def hit_document(hit: Hit, width: int | None, height: int | None) -> dict[str, Any]:
    """One hit. Numbers that are not known are None: nan is no JSON."""
    return {
        "id": hit.id,
        "name": displayed(hit.path.name),
        "score": None if math.isnan(hit.score) else round(hit.score, 4),
        "cosine": None if math.isnan(hit.cosine) else round(hit.cosine, 4),
        "strength": hit.strength,
        "taken_at": hit.taken_at.isoformat() if hit.taken_at else None,
        "width": width,
        "height": height,
        "missing": hit.missing,
        "folded": len(hit.folded),
    }


def image_sizes(state: Generation, ids: Sequence[int]) -> list[tuple[int | None, int | None]]:
    """Width and height in pixels as shown of each image; None where that is not known."""
    if not ids:
        return []
    memory = state.metadata
    columns = memory.columns(["width", "height"])
    wanted = np.asarray(ids, np.int64)
    rows = np.minimum(np.searchsorted(memory.ids, wanted), max(0, len(memory.ids) - 1))
    here = memory.ids[rows] == wanted
    sides: list[list[int | None]] = []
    for name in ("width", "height"):
        values, known = numbers_of(columns[name])
        sides.append(
            [
                int(values[row]) if there and known[row] else None
                for row, there in zip(rows.tolist(), here.tolist(), strict=True)
            ]
        )
    return list(zip(*sides, strict=True))
