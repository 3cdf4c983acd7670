"""Counts, examples and histograms of labels, taken up while images are labelled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.records import Int32, LabelSummary
from clipsearch.shards import Int64

BINS = 10
"""Of the histogram of probabilities."""

_ROWS_AT_ONCE = 65_536


class LabelTally:
    """What became of the C labels ``names``, over images that come in order of id."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.images = 0
        self.unlabelled = 0
        self._histograms = np.zeros((len(self.names), BINS), np.int64)
        self._best = np.full(len(self.names), -1.0, np.float32)
        self._best_ids = np.full(len(self.names), -1, np.int64)
        self._waiting: list[tuple[Int64, Int32, Float32]] = []
        self._rows_waiting = 0

    def add(self, ids: Int64, labels: Int32, probabilities: Float32) -> None:
        """Take in n images, each with its best label, -1 for none, and that label's probability:
        (n,) each."""
        self.images += len(ids)
        has_label = labels >= 0
        if not has_label.all():
            self.unlabelled += int(np.count_nonzero(~has_label))
            ids, labels, probabilities = ids[has_label], labels[has_label], probabilities[has_label]
        # A label set of thousands costs much a call and little a row.
        self._waiting.append((ids, labels, probabilities))
        self._rows_waiting += len(ids)
        if self._rows_waiting >= _ROWS_AT_ONCE:
            self.settle()

    def merge(self, later: LabelTally) -> None:
        """Take in what another has counted, of images with higher ids and the same labels."""
        self.settle()
        later.settle()
        self.images += later.images
        self.unlabelled += later.unlabelled
        self._histograms += later._histograms
        is_better = later._best > self._best  # of equals the lower id, which is here
        self._best_ids[is_better] = later._best_ids[is_better]
        self._best = np.maximum(self._best, later._best)

    def settle(self) -> None:
        """Count what waits to be counted: what is left is small, and can be sent."""
        if not self._rows_waiting:
            return
        ids, labels, odds = (
            np.concatenate([part[column] for part in self._waiting]) for column in range(3)
        )
        self._waiting, self._rows_waiting = [], 0
        bins = np.minimum((odds * BINS).astype(np.int64), BINS - 1)
        counted = np.bincount(labels * np.int64(BINS) + bins, minlength=self._histograms.size)
        self._histograms += counted.reshape(self._histograms.shape)
        best = self._best.copy()
        np.maximum.at(best, labels, odds)
        # The last one written stays: of equals the lowest id, and of none that came earlier.
        is_best = (odds == best[labels]) & (odds > self._best[labels])
        rows = np.flatnonzero(is_best)[::-1]
        self._best_ids[labels[rows]] = ids[rows]
        self._best = best

    def summary(self) -> list[LabelSummary]:
        """Count, share, best example and histogram of every label, most frequent first."""
        self.settle()
        counts = self._histograms.sum(axis=1)
        return [
            LabelSummary(
                label=self.names[label],
                count=int(counts[label]),
                share=float(counts[label]) / max(1, self.images),
                example_id=int(self._best_ids[label]) if counts[label] else None,
                example_probability=float(self._best[label]) if counts[label] else None,
                histogram=tuple(self._histograms[label].tolist()),
            )
            for label in np.argsort(-counts, kind="stable")
        ]
