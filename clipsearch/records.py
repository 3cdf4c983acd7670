"""What queries return: small frozen records and columnar results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.manifest import MeasuredSearch
from clipsearch.shards import Int64

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Hit:
    """One image that answers a query.

    id : the image's id in the index. path : where it is (or was: ``missing``).
    score : what ranks, higher is better; nan where nothing was asked but a filter.
    cosine : cosine to the query vector.
    copies : where else the last scan found the same content.
    missing : the last scan did not find it at ``path``.
    strength : "strong", "fair" or "weak" (below the cut-off), None without an automatic cut-off.
    taken_at : when the photo was taken, wall clock there; None when that is not known.
    folded : ids of the near-duplicates that this hit stands for, where they were to be folded.
    """

    id: int
    path: Path
    score: float
    cosine: float
    copies: tuple[Path, ...] = ()
    missing: bool = False
    strength: str | None = None
    taken_at: datetime | None = None
    folded: tuple[int, ...] = ()


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """Hits in the order asked for: by default of falling score.

    kind : what searched, "exact", a FAISS kind or "milvus". searched : how many images.
    total : how many hits there are on all pages, None where not all were looked for.
    below : the best that stayed below the cut-off, for a person to look at.
    """

    hits: tuple[Hit, ...]
    kind: str
    searched: int
    total: int | None = None
    below: tuple[Hit, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Hit]: ...
    def __getitem__(self, index: int | slice) -> Hit | Sequence[Hit]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


@dataclass(frozen=True)
class LabelSummary:
    """How often a label won: ``share`` is ``count`` over all images, unlabelled ones too;
    ``example_id`` is the image it won with the highest probability, None when it never won.

    histogram : of the images it won, how many with a probability of 0 to 0.1, 0.1 to 0.2, and
    so on: ten numbers.
    """

    label: str
    count: int
    share: float
    example_id: int | None
    example_probability: float | None
    histogram: tuple[int, ...] = ()


@dataclass(frozen=True)
class Classification:
    """One label (or the best few) for every image, as columns.

    label_names : the C labels, in the order asked.
    ids : (n,) int64, rising.
    labels : (n, top) int32, positions in ``label_names``, best first; -1 in all columns of an
        image that has none of the labels. Its other columns are what they would be if it had to
        have one.
    scores : (n, top) float32, cosine of image and class vector.
    probabilities : (n, top) float32, softmax over all C labels at the model's logit scale.
    margins : (n,) float32, best score less the runner-up's; nan with a single label.
    runners_up : (n,) int32, position of the second label; -1 with a single label.
    in_set : (n,) float32, 0 to 1, how far an image belongs to the labels at all; None where
        every image was to have one. threshold : below which it has none.
    seconds : time the scoring took. texts_encoded, texts_cached : prompts that took the
        encoder, and prompts that were remembered.
    """

    label_names: tuple[str, ...]
    ids: Int64
    labels: Int32
    scores: Float32
    probabilities: Float32
    margins: Float32
    runners_up: Int32
    seconds: float = 0.0
    texts_encoded: int = 0
    texts_cached: int = 0
    in_set: Float32 | None = None
    threshold: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def unlabelled(self) -> int:
        """How many images have none of the labels."""
        return int(np.count_nonzero(self.labels[:, 0] < 0))

    def label_of(self, image_id: int) -> str | None:
        """The label of one image, None when it has none; KeyError when it was not classified."""
        row = int(np.searchsorted(self.ids, image_id))
        if row == len(self.ids) or self.ids[row] != image_id:
            raise KeyError(image_id)
        label = int(self.labels[row, 0])
        return self.label_names[label] if label >= 0 else None

    def summary(self) -> list[LabelSummary]:
        """Count, share, best example and histogram of every label, most frequent first."""
        from clipsearch.label_tally import LabelTally

        tally = LabelTally(self.label_names)
        tally.add(self.ids, self.labels[:, 0], self.probabilities[:, 0])
        return tally.summary()


@dataclass(frozen=True)
class SpaceStatus:
    """What one space of an index holds. vectors : of images that count; lacking : images that
    count and have no vector in it."""

    model: str
    space: str
    dim: int
    is_default: bool
    vectors: int
    lacking: int


@dataclass(frozen=True)
class IndexStatus:
    """What an index holds: counts, sizes in bytes, model and freshness. spaces : what it holds
    of every model, the one it answers with first. backends : how many of the vectors it answers
    with each back-end computed, "imported" those that came from elsewhere."""

    path: str
    uuid: str
    generation: int
    format_version: int
    created_at: str
    updated_at: str
    images: int
    files_present: int
    files_missing: int
    copies: int
    skipped: int
    model: str | None
    space: str | None
    dim: int | None
    roots: tuple[dict[str, Any], ...]
    truth_bytes: int
    cache_bytes: int
    search_kind: str
    search_measured: MeasuredSearch | None = None
    spaces: tuple[SpaceStatus, ...] = ()
    backends: dict[str, int] = field(default_factory=dict)
