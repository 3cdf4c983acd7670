"""Two labellings of the same images compared: how far they agree, and what became of what.

Labels are the same when their texts are, but for case and spaces; to have none of the labels
counts as a label. Agreement beyond chance is Cohen's kappa ("A coefficient of agreement for
nominal scales", Educational and Psychological Measurement 1960).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.label_set_files import CLASSIFY, TAG, LabelRows, LabelSet
from clipsearch.prompts import same_label
from clipsearch.records import Classification, Int32
from clipsearch.shards import Int64

NONE = -1
"""The code of an image that has none of the labels."""

_MOST_CELLS = 1 << 22  # that are counted in a table, more by sorting


@dataclass(frozen=True)
class Labelled:
    """One side of a comparison: images, each with one label at most.

    name : what to call it. labels : the C labels.
    ids : (n,) int64, rising, each once. codes : (n,) int32 positions in ``labels``, NONE for
    none of them. certain : (n,) float32, the probability of the label, nan where there is none.
    """

    name: str
    labels: tuple[str, ...]
    ids: Int64
    codes: Int32
    certain: Float32

    def of(self, ids: Int64) -> Labelled:
        """What it says of those of the (a,) rising ``ids`` that it knows."""
        _, rows, _ = np.intersect1d(self.ids, ids, assume_unique=True, return_indices=True)
        return dataclasses.replace(
            self, ids=self.ids[rows], codes=self.codes[rows], certain=self.certain[rows]
        )

    def renumbered(self, old: Int64, new: Int64) -> Labelled:
        """What it says of the (a,) distinct ids ``old``, as that of the ids ``new``."""
        _, rows, places = np.intersect1d(self.ids, old, assume_unique=True, return_indices=True)
        order = np.argsort(new[places])
        rows = rows[order]
        return dataclasses.replace(
            self, ids=new[places][order], codes=self.codes[rows], certain=self.certain[rows]
        )


@dataclass(frozen=True)
class LabelChange:
    """What ``images`` images are called, None for none of the labels. example : the id of the
    most certain of them."""

    a: str | None
    b: str | None
    images: int
    example: int


@dataclass(frozen=True)
class Comparison:
    """What two labellings, a and b, say of the images that both know.

    names : of a and b. labels : those of a, and those of b that a does not have.
    shared : how many labels both have. ids : (n,) int64, rising. a, b : (n,) int32 positions in
    ``labels``, NONE for none of them. a_certain, b_certain : (n,) float32, see ``Labelled``.
    only_a, only_b : how many images only one of them knows.
    """

    names: tuple[str, str]
    labels: tuple[str, ...]
    shared: int
    ids: Int64
    a: Int32
    b: Int32
    a_certain: Float32
    b_certain: Float32
    only_a: int
    only_b: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def differing(self) -> int:
        """How many images are called something else."""
        return int(np.count_nonzero(self.a != self.b))

    @property
    def agreement(self) -> float | None:
        """The share of the images that both call the same; None without an image, or where a and
        b have no label in common."""
        return 1 - self.differing / len(self) if len(self) and self.shared else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: 1 where they agree, 0 where they agree as often as chance would have
        it. None where that says nothing: as ``agreement``, and where both call every image the
        same one thing."""
        agreed = self.agreement
        if agreed is None:
            return None
        count = len(self.labels) + 1
        shares = [np.bincount(codes + 1, minlength=count) / len(self) for codes in (self.a, self.b)]
        by_chance = float(shares[0] @ shares[1])
        return None if by_chance > 1 - 1e-12 else (agreed - by_chance) / (1 - by_chance)

    def certain(self) -> Float32:
        """(n,) float32, how sure both are of what they say: the lower of their probabilities, of
        an image that has no label on one side that of the other; nan where both have none."""
        return np.fmin(self.a_certain, self.b_certain)

    def disagreements(self, a: str | None = None, b: str | None = None) -> npt.NDArray[np.intp]:
        """The rows of the images that are called something else, the most certain ones first and
        of equals the lowest id.

        a, b : only those that a, or b, calls so; "" for none of the labels. Raises LabelError
        for a label that is not there.
        """
        differ = self.a != self.b
        for wanted, codes in ((a, self.a), (b, self.b)):
            if wanted is not None:
                differ &= codes == self._code(wanted)
        rows = np.flatnonzero(differ)
        return rows[np.argsort(-self.certain()[rows], kind="stable")]

    def changes(self) -> list[LabelChange]:
        """What became of what, the most frequent first; not what stayed."""
        return [change for change in self.table() if change.a != change.b]

    def table(self) -> list[LabelChange]:
        """Every pair of what a and b call an image that occurs, the most frequent first."""
        width = len(self.labels) + 1
        cells = (self.a + np.int64(1)) * width + (self.b + 1)
        order = np.argsort(-np.nan_to_num(self.certain(), nan=-1.0), kind="stable")
        if width * width <= _MOST_CELLS:
            counts = np.bincount(cells, minlength=width * width)
            first = np.full(width * width, -1, np.int64)
            first[cells[order[::-1]]] = order[::-1]  # the last one written stays
            found = np.flatnonzero(counts)
            counts, first = counts[found], first[found]
        else:
            found, firsts, counts = np.unique(cells[order], return_index=True, return_counts=True)
            first = order[firsts]
        ranked = np.argsort(-counts, kind="stable")
        return [
            LabelChange(
                a=self.label(cell // width - 1),
                b=self.label(cell % width - 1),
                images=count,
                example=image,
            )
            for cell, count, image in zip(
                found[ranked].tolist(),
                counts[ranked].tolist(),
                self.ids[first[ranked]].tolist(),
                strict=True,
            )
        ]

    def label(self, code: int) -> str | None:
        """The label of a code, None for NONE."""
        return None if code == NONE else self.labels[code]

    def _code(self, label: str) -> int:
        if not label.strip():
            return NONE
        known = [same_label(one) for one in self.labels]
        if same_label(label) not in known:
            raise LabelError(
                f"neither {self.names[0]} nor {self.names[1]} has the label {label!r}: expected "
                f"one of {_some(self.labels)}, or nothing for images without a label"
            )
        return known.index(same_label(label))


def labelled(label_set: LabelSet, rows: LabelRows, name: str | None = None) -> Labelled:
    """A saved set as one side of a comparison; name : what to call it, None for its own.

    Of a set of ``discover`` it is how certain an image is by its rank among the others, as its
    margins are no probabilities. Raises LabelError for a set of several labels an image.
    """
    if label_set.kind == TAG:
        raise LabelError(
            f"{label_set.name} is a set of tags, any number an image: expected sets of classify "
            "or discover, which give an image one label"
        )
    certain = rows.second
    if label_set.kind != CLASSIFY and len(certain):
        ranks = np.empty(len(certain), np.float32)
        ranks[np.argsort(certain, kind="stable")] = np.arange(1, len(certain) + 1) / len(certain)
        certain = ranks
    certain = np.where(rows.labels < 0, np.float32("nan"), certain).astype(np.float32)
    return Labelled(name or label_set.name, label_set.labels, rows.ids, rows.labels, certain)


def labelled_by(result: Classification, name: str) -> Labelled:
    """What ``classify`` has found as one side of a comparison."""
    codes = result.labels[:, 0]
    certain = np.where(codes < 0, np.float32("nan"), result.probabilities[:, 0])
    return Labelled(name, result.label_names, result.ids, codes, certain.astype(np.float32))


def compare(a: Labelled, b: Labelled) -> Comparison:
    """Compare what two labellings say of the images that both know."""
    labels = list(a.labels)
    places = {same_label(label): place for place, label in enumerate(labels)}
    shared = 0
    moved = np.empty(len(b.labels) + 1, np.int32)
    moved[NONE] = NONE  # its last place
    for place, label in enumerate(b.labels):
        key = same_label(label)
        if key in places:
            shared += 1
        else:
            places[key] = len(labels)
            labels.append(label)
        moved[place] = places[key]
    ids, in_a, in_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    return Comparison(
        names=(a.name, b.name),
        labels=tuple(labels),
        shared=shared,
        ids=ids,
        a=a.codes[in_a],
        b=moved[b.codes[in_b]],
        a_certain=a.certain[in_a],
        b_certain=b.certain[in_b],
        only_a=len(a.ids) - len(ids),
        only_b=len(b.ids) - len(ids),
    )


def _some(labels: Sequence[str], most: int = 12) -> str:
    more = len(labels) - most
    return ", ".join(labels[:most]) + (f" and {more} more" if more > 0 else "")
