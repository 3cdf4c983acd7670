"""The best labels of some images, a row a rank: what is remembered of them, and reported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.records import Int32
from clipsearch.scoring import ScoredBlock
from clipsearch.shards import Int64

Float64 = npt.NDArray[np.float64]

BEST = 8
"""How many labels of an image are remembered."""
NO_LABEL = -1


@dataclass(frozen=True)
class BestRows:
    """The best labels of some images, a row a rank.

    ids : (n,) rising. labels : (k, n) int32 positions, best first, NO_LABEL where no further
    one is known. scores : (k, n) float32; where there is no label, what no other label is above
    (-inf where there is no other). sums : (n,) of exp(logit_scale * (score - best)) over all
    labels.
    """

    ids: Int64
    labels: Int32
    scores: Float32
    sums: Float64

    def block(self, top: int, logit_scale: float) -> ScoredBlock:
        """The same as ``scoring`` gives it; the first ``max(top, 2)`` labels must be known,
        where there are so many."""
        odds = np.empty((top, len(self.ids)), np.float64)
        np.subtract(self.scores[:top], self.scores[0], out=odds)
        odds[0] = 1.0
        odds[1:] = np.exp(odds[1:] * logit_scale)
        odds /= self.sums
        alone = len(self.labels) == 1 or bool((self.labels[1] == NO_LABEL).any())
        count = len(self.ids)
        return ScoredBlock(
            ids=self.ids,
            labels=np.ascontiguousarray(self.labels[:top].T),
            scores=np.ascontiguousarray(self.scores[:top].T),
            probabilities=np.ascontiguousarray(odds.T, np.float32),
            margins=np.full(count, np.nan, np.float32)
            if alone
            else self.scores[0] - self.scores[1],
            runners_up=np.full(count, NO_LABEL, np.int32) if alone else self.labels[1].copy(),
            log_sums=np.log(self.sums).astype(np.float32),
        )


def best_rows(block: ScoredBlock) -> BestRows:
    """A block scored with ``top`` of BEST, or of all labels where there are fewer."""
    count, known = block.labels.shape
    labels = np.full((BEST, count), NO_LABEL, np.int32)
    scores = np.full((BEST, count), -np.inf, np.float32)
    labels[:known], scores[:known] = block.labels.T[:BEST], block.scores.T[:BEST]
    return BestRows(block.ids, labels, scores, np.exp(block.log_sums.astype(np.float64)))


def no_rows(ids: Int64, ranks: int) -> BestRows:
    """No image; of ``ids`` only the type is taken."""
    return BestRows(
        ids[:0],
        np.empty((ranks, 0), np.int32),
        np.empty((ranks, 0), np.float32),
        np.empty(0, np.float64),
    )


def first_ranks(best: BestRows, ranks: int) -> BestRows:
    """The same images, of each the first ``ranks`` labels."""
    return BestRows(best.ids, best.labels[:ranks], best.scores[:ranks], best.sums)


def put_rows(whole: BestRows, rows: npt.NDArray[np.intp], part: BestRows) -> None:
    """Write the first ranks of ``part`` into ``rows`` of ``whole``."""
    ranks = len(whole.labels)
    whole.labels[:, rows] = part.labels[:ranks]
    whole.scores[:, rows] = part.scores[:ranks]
    whole.sums[rows] = part.sums
