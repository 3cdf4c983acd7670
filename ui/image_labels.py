"""The labels of one image in all saved label sets, from tables read once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import ClipsearchError
from clipsearch.label_set_files import SECOND_SCORE, LabelRows, LabelSet
from clipsearch.label_sets import list_label_sets, read_label_rows
from clipsearch.recent import Recent

log = logging.getLogger("clipsearch.ui")

_HELD_BYTES = 64 << 20


class ImageLabels:
    """Looks up what an image is called. Tables are held while they are the newest of their set,
    within 64 MB. Safe for threads."""

    def __init__(self) -> None:
        self._rows: Recent[tuple[LabelSet, LabelRows]] = Recent(_HELD_BYTES)

    def of(self, index: Path, image_id: int) -> list[dict[str, Any]]:
        """{set, label, probability} for every label of the image, set by set, best first; a
        probability is None in sets that have none. A set that is damaged is passed over."""
        found: list[dict[str, Any]] = []
        try:
            label_sets = list_label_sets(index)
        except ClipsearchError as error:
            log.warning("label sets: %s", error)
            return found
        for label_set in label_sets:
            try:
                label_set, rows = self._rows_of(index, label_set)
            except ClipsearchError as error:
                log.warning("label set %s: %s", label_set.name, error)
                continue
            has_probability = SECOND_SCORE.get(label_set.kind) == "probability"
            start, stop = np.searchsorted(rows.ids, [image_id, image_id + 1])
            for row in range(int(start), int(stop)):
                label, second = int(rows.labels[row]), float(rows.second[row])
                if label >= 0:
                    found.append(
                        {
                            "set": label_set.name,
                            "label": label_set.labels[label],
                            "probability": round(second, 4)
                            if has_probability and np.isfinite(second)
                            else None,
                        }
                    )
        return found

    def _rows_of(self, index: Path, label_set: LabelSet) -> tuple[LabelSet, LabelRows]:
        key = f"{label_set.index} {label_set.name} {label_set.table}"
        held = self._rows.get(key)
        if held is None:
            held = read_label_rows(index, label_set.name)
            rows = held[1]
            size = sum(part.nbytes for part in (rows.ids, rows.labels, rows.scores, rows.second))
            self._rows.put(key, held, size)
        return held
