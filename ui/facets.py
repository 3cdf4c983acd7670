"""What a collection can be filtered by, with how many photos each: ``api/facets``."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter

from clipsearch.errors import ClipsearchError
from clipsearch.generation import Generation
from clipsearch.label_set_files import LabelSet
from clipsearch.label_sets import NONE, list_label_sets, read_label_rows
from clipsearch.metadata_columns import displayed, numbers_of
from clipsearch.prompts import same_label
from clipsearch.shards import Int64
from ui.library import Library

log = logging.getLogger("clipsearch.ui")

MOST_CAMERAS = 200
MOST_FOLDERS = 300
MOST_SETS = 50
MOST_LABELS = 500
"""Of each: no menu is longer, and the filters themselves take every other value too."""

_MEGAPIXELS = (1, 2, 5, 12, 24, 48)

Bools = npt.NDArray[np.bool_]


def facet_routes(library: Library) -> APIRouter:
    """The routes, to be put under ``/api``."""
    routes = APIRouter(prefix="/api")
    facets = Facets(library)

    @routes.get("/facets")
    def of_the_library() -> dict[str, Any]:
        return facets.document()

    return routes


class Facets:
    """The facets of a library, counted once for each generation of the index and of its label
    sets. Safe for threads."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._of_images: tuple[object, dict[str, Any]] = (None, {})
        self._of_labels: tuple[object, list[dict[str, Any]]] = (None, [])

    def document(self) -> dict[str, Any]:
        """{years, cameras, folders, sizes, labels: [{value, name, count}, ...], images, dated,
        placed}. ``value`` is what the parameter of a search takes: of years ``since`` and
        ``until``, then ``camera``, ``in``, ``minsize``, ``label``.

        Raises NoIndexError.
        """
        index = self._library.index()
        state = index.state()
        sets = _label_sets(index.path)
        with self._lock:  # two that ask at once need not count twice
            key = (state.manifest.uuid, state.manifest.generation)
            if self._of_images[0] != key:
                self._of_images = key, count_images(state)
            labels_key = (key, tuple((found.name, found.table) for found in sets))
            if self._of_labels[0] != labels_key:
                self._of_labels = labels_key, count_labels(index.path, state, sets)
            return {**self._of_images[1], "labels": self._of_labels[1]}


def count_images(state: Generation) -> dict[str, Any]:
    """The facets of the images of one generation but for their labels."""
    memory = state.metadata
    columns = memory.columns(["taken_at", "camera", "width", "height", "lat"])
    here = np.isin(memory.ids, memory.live)
    taken, dated = numbers_of(columns["taken_at"])
    dated = dated & here
    placed = numbers_of(columns["lat"])[1] & here
    return {
        "images": len(memory.live),
        "dated": int(dated.sum()),
        "placed": int(placed.sum()),
        "years": _years(taken[dated]),
        "cameras": _cameras(columns["camera"], here),
        "sizes": _sizes(columns["width"], columns["height"], here),
        "folders": _folders(state),
    }


def _facet(value: str, name: str, count: int) -> dict[str, Any]:
    return {"value": value, "name": name, "count": count}


def _years(microseconds: Int64) -> list[dict[str, Any]]:
    """Newest first."""
    counts: Counter[int] = Counter()
    # Arrow's dates reach beyond Python's; NumPy's years do not mind.
    years = microseconds.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970
    for year, count in zip(*np.unique(years, return_counts=True), strict=True):
        counts[int(year)] = int(count)
    return [
        _facet(f"{year:04}", str(year), counts[year])
        for year in sorted(counts, reverse=True)
        if 1 <= year <= 9999
    ]


def _cameras(column: Any, here: Bools) -> list[dict[str, Any]]:
    """Those with the most photos first; as the filter, without regard to case."""
    if not column.num_chunks:
        return []
    texts: list[str | None] = column.chunk(0).dictionary.to_pylist()
    codes = np.concatenate(
        [np.asarray(chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
         for chunk in column.chunks]
    )  # fmt: skip
    codes = codes[here]
    counts = np.bincount(codes[codes >= 0], minlength=len(texts)).tolist()
    spelled: dict[str, str] = {}
    totals: Counter[str] = Counter()
    for text, count in zip(texts, counts, strict=True):
        words = " ".join((text or "").split())
        if words and count:
            spelled.setdefault(words.casefold(), words)
            totals[words.casefold()] += count
    return [_facet(spelled[key], spelled[key], n) for key, n in totals.most_common(MOST_CAMERAS)]


def _sizes(width: Any, height: Any, here: Bools) -> list[dict[str, Any]]:
    """At least so many megapixels."""
    (wide, known), (high, _) = numbers_of(width), numbers_of(height)
    megapixels = wide.astype(np.float64) * high / 1e6
    megapixels = megapixels[known & here]
    found = [(least, int((megapixels >= least).sum())) for least in _MEGAPIXELS]
    return [_facet(f"{least}MP", f"{least} MP or more", count) for least, count in found if count]


def _folders(state: Generation) -> list[dict[str, Any]]:
    """Folders that hold photos, those higher up first, and of each depth those with the most.

    ``name`` is seen from the folder that was indexed, whose own name begins it.
    """
    paths = state.paths
    kept = paths.counts & np.isin(paths.ids, state.metadata.live)
    ids, roots = paths.ids[kept], paths.root_ids[kept].tolist()
    relative = [
        path for path, keep in zip(paths.relative_paths.to_pylist(), kept, strict=True) if keep
    ]
    images: dict[tuple[int, bytes], set[int]] = {}
    for image_id, root, path in zip(ids.tolist(), roots, relative, strict=True):
        folder = path.rpartition(b"/")[0]
        images.setdefault((root, folder), set()).add(image_id)
    for root, folder in list(images):
        below = images[root, folder]
        while folder:
            folder = folder.rpartition(b"/")[0]
            images.setdefault((root, folder), set()).update(below)

    def order(key: tuple[int, bytes]) -> tuple[int, int, bytes]:
        depth = key[1].count(b"/") + 1 if key[1] else 0
        return depth, -len(images[key]), key[1]

    result = []
    for root, folder in sorted(images, key=order)[:MOST_FOLDERS]:
        top = Path(state.manifest.root(root).path)
        whole = displayed(os.path.join(top, os.fsdecode(folder)) if folder else str(top))
        name = displayed("/".join(part for part in (top.name, os.fsdecode(folder)) if part))
        result.append(_facet(whole, name or whole, len(images[root, folder])))
    return result


def _label_sets(index: Path) -> list[LabelSet]:
    try:
        return list_label_sets(index)[:MOST_SETS]
    except ClipsearchError as error:
        log.warning("label sets: %s", error)
        return []


def count_labels(index: Path, state: Generation, sets: list[LabelSet]) -> list[dict[str, Any]]:
    """The labels of the saved sets: {set, kind, labels: [{value, name, count}, ...]}, the most
    frequent first, and last what has none of them."""
    found = []
    for label_set in sets:
        try:
            label_set, rows = read_label_rows(index, label_set.name)
        except ClipsearchError as error:
            log.warning("label set %s: %s", label_set.name, error)
            continue
        here = np.isin(rows.ids, state.metadata.live)
        counts = np.bincount(rows.labels[here] + 1, minlength=len(label_set.labels) + 1).tolist()
        order = sorted(range(len(label_set.labels)), key=lambda row: -counts[row + 1])
        labels = [
            _facet(
                f"{label_set.name}:{label_set.labels[row]}", label_set.labels[row], counts[row + 1]
            )
            for row in order[:MOST_LABELS]
        ]
        has_none = any(same_label(label) == NONE for label in label_set.labels)
        if counts[0] and not has_none:
            labels.append(_facet(f"{label_set.name}:{NONE}", "none of these", counts[0]))
        found.append({"set": label_set.name, "kind": label_set.kind, "labels": labels})
    return found
