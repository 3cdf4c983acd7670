"""How well labels agree with what images are known to show: the figures the field tells.

Accuracy is counted per file, as CLIP_benchmark counts samples: a photo that is there twice counts
twice. Top-1 and top-5 accuracy are ``acc1`` and ``acc5`` there, and the mean over classes is
``mean_per_class_recall``.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.calibration import Bools, Reliability, reliability
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.labelled_images import LabelledImages
from clipsearch.records import Int32
from clipsearch.sampling import Float64
from clipsearch.scoring import Scorer, score_blocks
from clipsearch.shards import Int64

KEPT = 5
"""How many labels of every file are kept, best first, where there are so many."""

_MOST_WHOLE = 2000  # classes whose confusions are told as a whole matrix: 4 million numbers


@dataclass(frozen=True)
class Confusion:
    """``count`` files of the class ``truth`` have the label ``given``; ``share`` of the class."""

    truth: str
    given: str
    count: int
    share: float


@dataclass(frozen=True)
class Evaluation:
    """How well the labels of n files agree with what they are known to show.

    name : how the labels were put into words, "simple (7 templates)". model : "mini".
    samples : the files, and what each shows, one of C classes. ranked : (n, min(5, C)) int32
    positions in ``samples.classes``, best first. probabilities : (n, min(5, C)) float32 of those,
    softmax over all C labels at the model's logit scale. seconds : what labelling took, without
    encoding; nan where nobody measured it.
    """

    name: str
    model: str
    samples: LabelledImages
    ranked: Int32
    probabilities: Float32
    seconds: float = math.nan

    def __len__(self) -> int:
        """How many files there are."""
        return len(self.samples.truth)

    @property
    def given(self) -> Int32:
        """(n,) int32, the label of each file."""
        first: Int32 = self.ranked[:, 0]
        return first

    @cached_property
    def right(self) -> Bools:
        """(n,) bool, whether the label of each file is the true one."""
        return np.asarray(self.given == self.samples.truth)

    @cached_property
    def truth_ranks(self) -> Int32:
        """(n,) int32, at which place among the labels the true one is, from 1; 0 where it is
        behind those that are kept."""
        found = self.ranked == self.samples.truth[:, None]
        return np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0).astype(np.int32)

    @property
    def accuracy(self) -> float:
        """The share of files that have the true label: top-1."""
        return float(self.right.mean())

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of ``accuracy``, as that of a share of n draws."""
        share = self.accuracy
        return 1.96 * math.sqrt(share * (1 - share) / len(self))

    @property
    def top5(self) -> float:
        """The share of files whose true label is among the best five, or all where fewer."""
        return float((self.truth_ranks > 0).mean())

    @cached_property
    def per_class(self) -> Float64:
        """(C,) float64, the accuracy on the files of each class; nan where there is none."""
        count = len(self.samples.classes)
        right = np.bincount(self.samples.truth, self.right, count)
        with np.errstate(invalid="ignore"):
            return np.asarray(right / self.samples.counts)

    @property
    def mean_per_class(self) -> float:
        """The mean of ``per_class`` over the classes that have files: as ``accuracy``, however
        many files each has."""
        return float(np.nanmean(self.per_class))

    @cached_property
    def reliability(self) -> Reliability:
        """Whether the probabilities of the labels mean what they say; its ``error`` is the
        expected calibration error."""
        return reliability(np.minimum(self.probabilities[:, 0], 1.0), self.right)

    @property
    def confusion(self) -> Int64:
        """(C, C) int64, how many files of each class, a row, have each label, a column."""
        count = len(self.samples.classes)
        cells = self.samples.truth.astype(np.int64) * count + self.given
        return np.bincount(cells, minlength=count * count).reshape(count, count)

    def confusions(self, count: int | None = None) -> list[Confusion]:
        """The most frequent wrong labels, of equals in the order of classes. ``confusion`` without
        its many zeros."""
        classes = self.samples.classes
        wrong = np.flatnonzero(~self.right)
        cells = self.samples.truth[wrong].astype(np.int64) * len(classes) + self.given[wrong]
        pairs, counts = np.unique(cells, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:count]
        found = []
        for pair, files in zip(pairs[order].tolist(), counts[order].tolist(), strict=True):
            truth, given = divmod(pair, len(classes))
            share = files / int(self.samples.counts[truth])
            found.append(Confusion(classes[truth], classes[given], files, share))
        return found

    def mistakes(self, count: int | None = None) -> npt.NDArray[np.intp]:
        """The rows of at most ``count`` files with a wrong label, the most confident first."""
        wrong = np.flatnonzero(~self.right)
        order = np.argsort(-self.probabilities[wrong, 0], kind="stable")
        return np.asarray(wrong[order][:count])

    def worst_classes(self, count: int | None = None) -> npt.NDArray[np.intp]:
        """The classes of the lowest accuracy first, of equals the larger first; those without
        files are left out."""
        counts = self.samples.counts
        there = np.flatnonzero(counts > 0)
        order = np.lexsort((there, -counts[there], self.per_class[there]))
        return np.asarray(there[order][:count])

    def to_dict(self) -> dict[str, Any]:
        """For JSON. The confusion matrix is whole, rows are the truth; of more than 2,000 classes
        it is null, and ``confusions`` have all there is."""
        classes = self.samples.classes
        accuracies = [None if math.isnan(one) else one for one in self.per_class.tolist()]
        return {
            "name": self.name,
            "model": self.model,
            "files": len(self),
            "accuracy": self.accuracy,
            "margin": self.margin,
            "top5": self.top5,
            "mean_per_class": self.mean_per_class,
            **self.reliability.to_dict(),
            "overconfidence": self.reliability.overconfidence,
            "label_seconds": None if math.isnan(self.seconds) else self.seconds,
            "classes": [
                {"label": label, "files": files, "accuracy": accuracy}
                for label, files, accuracy in zip(
                    classes, self.samples.counts.tolist(), accuracies, strict=True
                )
            ],
            "confusion": self.confusion.tolist() if len(classes) <= _MOST_WHOLE else None,
            "confusions": [vars(one) for one in self.confusions()],
        }


def evaluate(
    state: Generation, samples: LabelledImages, scorer: Scorer, name: str, model: str
) -> Evaluation:
    """Label the images of ``samples`` by their stored vectors in ``state``.

    scorer : of the labels ``samples.classes``, which keeps ``min(5, C)`` of them or more, such
    as ``scoring.LabelScorer``. name, model : see ``Evaluation``.

    Raises OptionError when an image has no vector in the space.
    """
    begin = time.perf_counter()
    kept = min(KEPT, len(samples.classes))
    ids = np.unique(samples.ids)
    labels = np.empty((len(ids), kept), np.int32)
    probabilities = np.empty((len(ids), kept), np.float32)
    there = np.zeros(len(ids), bool)
    for block in score_blocks(state.vectors.live_pieces(ids), scorer, len(ids)):
        rows = np.searchsorted(ids, block.ids)
        labels[rows] = block.labels[:, :kept]
        probabilities[rows] = block.probabilities[:, :kept]
        there[rows] = True
    if not there.all():
        lacking = int(np.count_nonzero(~there))
        raise OptionError(
            f"{lacking:,} of {len(ids):,} images have no vector of {model}: "
            "'clipsearch index' encodes them when their files are there"
        )
    rows = np.searchsorted(ids, samples.ids)
    seconds = time.perf_counter() - begin
    return Evaluation(name, model, samples, labels[rows], probabilities[rows], seconds)
