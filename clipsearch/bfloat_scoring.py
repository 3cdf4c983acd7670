"""The same labels from bfloat16 products, where the processor multiplies those faster.

Products of bfloat16 numbers only pick the labels that could be among an image's best; those are
scored again in float32 as elsewhere, and settled in float64 where they are nearly equal. How
far a rounded product can be from the true one follows from what rounding took away, by Cauchy
and Schwarz, so the labels are those of ``LabelScorer`` for every image. To make that bound
small, what all labels and what all images have in common is taken off before rounding: the
first changes no order, the second comes back as one number a label.

Probabilities keep the rounding of the labels that are far from the best: about one percent.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from clipsearch.encoder import Float32
from clipsearch.scoring import LabelScorer, best_labels, rounding_bound

_HALF_UNIT = 2.0**-9  # of the last place of a bfloat16, relative
_PAIRS_AT_ONCE = 4096
_PROBE_ROWS = 1024


def bfloat16_gain(dim: int, labels: int) -> float:
    """How many times as fast bfloat16 products are here as float32 ones: a short measurement."""
    left = torch.full((_PROBE_ROWS, dim), 0.01)
    right = torch.full((min(labels, 1000), dim), 0.01)
    seconds = []
    with torch.inference_mode():
        for kind in (torch.float32, torch.bfloat16):
            a, b = left.to(kind), right.to(kind).T
            taken = []
            for _ in range(4):
                begin = time.perf_counter()
                torch.mm(a, b)
                taken.append(time.perf_counter() - begin)
            seconds.append(min(taken))
    return seconds[0] / seconds[1]


class BfloatScorer(LabelScorer):
    """A ``LabelScorer`` whose matrix products are bfloat16.

    typical : (n, dim) rows of some images of the collection, n >= 1, whose mean is taken off.
    The other arguments are those of ``LabelScorer``.
    """

    def __init__(
        self, classes: Float32, logit_scale: float, top: int = 1, *, typical: Float32
    ) -> None:
        super().__init__(classes, logit_scale, top)
        common = typical.mean(axis=0)
        self._common = torch.from_numpy(common)
        self._shared = classes.mean(axis=0)
        centred = classes - self._shared
        self._offsets = centred @ common
        self._centred = torch.from_numpy(centred).to(torch.bfloat16).T
        rounded = self._centred.T.float().numpy()
        self._label_length = float(np.linalg.norm(centred, axis=1).max())
        self._label_loss = float(np.linalg.norm(centred - rounded, axis=1).max())
        self._threads = torch.get_num_threads()

    def _multiply(self, vectors: Float32, scores: Float32) -> None:
        # A setting of this thread, and what threads that begin from now on would have.
        torch.set_num_threads(1)
        try:
            bounds = self._multiply_rounded(vectors, scores)
        finally:
            torch.set_num_threads(self._threads)
        # The best of the rounded scores are within a bound of the true ones, so what may pass
        # them is within two.
        wanted = min(scores.shape[1], max(self.top, 2))
        least = best_labels(scores, wanted)[1][:, -1:] - 2 * bounds[:, None]
        # Several times faster than nonzero() of two dimensions.
        rows, labels = np.divmod(np.flatnonzero(scores >= least), scores.shape[1])
        for start in range(0, len(rows), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            pairs = vectors[rows[part]], self.classes[labels[part]]
            scores[rows[part], labels[part]] = np.einsum("ij,ij->i", *pairs)

    def _multiply_rounded(self, vectors: Float32, scores: Float32) -> Float32:
        """Fill ``scores`` from bfloat16 products; (n,) bounds of how far each image's are from
        the true ones."""
        with torch.inference_mode():
            centred = torch.from_numpy(vectors) - self._common
            rounded = centred.to(torch.bfloat16)
            torch.from_numpy(scores).copy_(torch.mm(rounded, self._centred))
            lengths = torch.linalg.vector_norm(centred, dim=1).numpy()
            losses = torch.linalg.vector_norm(centred - rounded.float(), dim=1).numpy()
        largest = np.maximum(scores.max(axis=1), -scores.min(axis=1))
        scores += self._offsets
        scores += (vectors @ self._shared)[:, None]
        lost = losses * self._label_length + (lengths + losses) * self._label_loss
        sums = 3 * rounding_bound(vectors.shape[1])
        return np.asarray(1.01 * (lost + _HALF_UNIT * largest) + sums, np.float32)
