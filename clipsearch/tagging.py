"""What ``tag`` returns: any number of labels an image, as columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.label_set_files import LabelRows
from clipsearch.records import Int32
from clipsearch.shards import Int64
from clipsearch.tag_statistics import CorpusStatistics


@dataclass(frozen=True)
class TagSummary:
    """How many images have a label: ``share`` is ``count`` over all images; ``example_id`` is
    the image where it scores best, None when no image has it."""

    label: str
    count: int
    share: float
    example_id: int | None
    example_score: float | None


@dataclass(frozen=True)
class Tagging:
    """Any number of labels for every image, as columns.

    label_names : the C labels, in the order asked.
    ids : (n,) int64, rising: every image that was looked at.
    starts : (n + 1,) int64: the tags of image ``i`` are ``starts[i]`` to ``starts[i + 1]`` of
        the columns below, best first.
    labels : (t,) int32, positions in ``label_names``.
    scores : (t,) float32, z2. cosines : (t,) float32, of image and class vector.
    thresholds : C numbers that z2 had to pass. most : the limit of labels an image, or None.
    statistics : what was usual for each label, and the floor.
    templates, context : how the labels became prompts.
    definitions : what is said of the labels, as ``LabelSet`` has it.
    scored : how many images were scored now; of the others a saved set remembered the tags.
    seconds : time the scoring took. texts_encoded, texts_cached : prompts that took the
        encoder, and prompts that were remembered.
    """

    label_names: tuple[str, ...]
    ids: Int64
    starts: Int64
    labels: Int32
    scores: Float32
    cosines: Float32
    thresholds: tuple[float, ...]
    most: int | None
    statistics: CorpusStatistics
    templates: str | tuple[str, ...]
    context: str | None
    scored: int
    seconds: float = 0.0
    texts_encoded: int = 0
    texts_cached: int = 0
    definitions: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def untagged(self) -> int:
        """How many images have no label."""
        return int((np.diff(self.starts) == 0).sum())

    def labels_of(self, image_id: int) -> tuple[str, ...]:
        """The labels of one image, best first; KeyError when the image was not looked at."""
        row = int(np.searchsorted(self.ids, image_id))
        if row == len(self.ids) or self.ids[row] != image_id:
            raise KeyError(image_id)
        codes = self.labels[self.starts[row] : self.starts[row + 1]]
        return tuple(self.label_names[code] for code in codes.tolist())

    def tag_ids(self) -> Int64:
        """(t,) int64: the image of every tag."""
        return np.repeat(self.ids, np.diff(self.starts))

    def rows(self) -> LabelRows:
        """The tags as a label set keeps them: an image without one has a row without a label,
        which says that it was looked at."""
        per_image = np.diff(self.starts)
        counts = np.maximum(per_image, 1)
        is_tag = np.repeat(per_image > 0, counts)
        labels = np.full(len(is_tag), -1, np.int32)
        scores, cosines = np.zeros((2, len(is_tag)), np.float32)
        labels[is_tag], scores[is_tag], cosines[is_tag] = self.labels, self.scores, self.cosines
        return LabelRows(np.repeat(self.ids, counts), labels, scores, cosines)

    def summary(self) -> list[TagSummary]:
        """Count, share and best example of every label, most frequent first."""
        counts = np.bincount(self.labels, minlength=len(self.label_names))
        # Label by label, the best score first; among equals the lowest id.
        order = np.lexsort((-self.scores, self.labels))
        first = np.searchsorted(self.labels[order], np.arange(len(counts)))
        image_ids = self.tag_ids()
        rows: list[TagSummary] = []
        for position in np.argsort(-counts, kind="stable").tolist():
            count = int(counts[position])
            best = int(order[first[position]]) if count else -1
            rows.append(
                TagSummary(
                    label=self.label_names[position],
                    count=count,
                    share=count / max(1, len(self.ids)),
                    example_id=int(image_ids[best]) if count else None,
                    example_score=float(self.scores[best]) if count else None,
                )
            )
        return rows


def tagging_of(rows: LabelRows, **others: Any) -> Tagging:
    """The tagging of ``rows``, in order of id, of which an image without a tag has one without
    a label. others : the fields of ``Tagging`` that are no columns."""
    ids, first = np.unique(rows.ids, return_index=True)
    has = rows.labels >= 0
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(has, dtype=np.int64)])
    return Tagging(
        ids=ids,
        starts=before[np.append(first, len(rows.ids))],
        labels=rows.labels[has],
        scores=rows.scores[has],
        cosines=rows.second[has],
        **others,
    )
