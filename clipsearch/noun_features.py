"""What the words of a vocabulary say of the centres of small clusters.

Pictures of one thing can look quite unlike; their words are alike. So small clusters are merged
by both: the centre, and the nouns that it is near to (after TAC, Li et al. 2024,
https://arxiv.org/abs/2310.11989). The nouns are asked about centres, not about every image: a
centre averages over what is accidental in its images.
"""

from __future__ import annotations

import numpy as np

from clipsearch.encoder import Float32, Float64
from clipsearch.shards import Int64
from clipsearch.threads import in_order, single_threaded_blas

NOUNS_PER_CENTRE = 5
NOUN_WEIGHT = 0.7
"""What the nouns count for beside the centre, as lengths of vectors."""
_FEWEST_CENTRES = 3  # of two, one's z-norm says only what the other's says
_NUMBERS_PER_BLOCK = 1 << 21
_LEAST_SPREAD = 1e-6


def select_nouns(centres: Float32, nouns: Float32, per_centre: int = NOUNS_PER_CENTRE) -> Int64:
    """The nouns that tell centres apart: each belongs to the centre that it is nearest to, and
    every centre keeps the nearest few of its own.

    centres : (c, dim) float32 unit rows. nouns : (w, dim) likewise. Near is the double z-norm
    of the cosines, over the nouns and then over the centres; with fewer than three centres the
    cosine itself. Returns the (m,) rising positions of m <= c * per_centre nouns.
    """
    owners, nearness = _nearest_centres(centres, nouns)
    order = np.lexsort((-nearness, owners))
    owned = owners[order]
    first = np.searchsorted(owned, owned)  # where the nouns of the same centre begin
    kept: Int64 = np.sort(order[np.arange(len(order)) - first < per_centre])
    return kept


def noun_features(centres: Float32, nouns: Float32, logit_scale: float) -> Float32:
    """(c, dim) unit rows of centres -> (c, dim) float32 unit rows: the mean of the (m, dim)
    nouns, weighted by the softmax of their cosines at the model's own ``logit_scale``."""
    found = np.empty_like(centres)
    columns = np.ascontiguousarray(nouns.T)
    step = max(1, _NUMBERS_PER_BLOCK // max(1, len(nouns)))

    def fill(start: int) -> None:
        logits = np.float32(logit_scale) * (centres[start : start + step] @ columns)
        logits -= logits.max(axis=1, keepdims=True)
        found[start : start + step] = np.exp(logits, out=logits) @ nouns

    with single_threaded_blas():  # the same sums whatever the number of threads
        for _ in in_order(fill, range(0, len(centres), step)):
            pass
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    found /= np.maximum(lengths, np.float32(1e-12))
    return found


def guided_points(
    centres: Float32, vocabulary: Float32, logit_scale: float, weight: float = NOUN_WEIGHT
) -> Float32:
    """What the centres of small clusters are merged by: (c, 2 * dim) float32 unit rows, centre
    and nouns side by side. vocabulary : (w, dim) unit rows of all nouns there are; of none, the
    centres themselves come back."""
    if not len(vocabulary):
        return centres
    nouns = vocabulary[select_nouns(centres, vocabulary)]
    features = noun_features(centres, nouns, logit_scale)
    points = np.concatenate([centres, np.float32(weight) * features], axis=1)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def _nearest_centres(centres: Float32, nouns: Float32) -> tuple[Int64, Float32]:
    """Of each of (w, dim) nouns the nearest of (c, dim) centres and how near it is, see
    ``select_nouns``. Holds some of the w x c numbers at a time: there can be 400 million."""
    columns = np.ascontiguousarray(centres.T)
    step = max(1, _NUMBERS_PER_BLOCK // len(centres))
    starts = range(0, len(nouns), step)
    means, spreads = np.zeros(len(centres)), np.ones(len(centres))

    def moments(start: int) -> tuple[Float64, Float64]:
        wide = (nouns[start : start + step] @ columns).astype(np.float64)
        return wide.sum(axis=0), np.square(wide).sum(axis=0)

    def nearest(start: int) -> tuple[Int64, Float32]:
        near = nouns[start : start + step] @ columns
        if len(centres) >= _FEWEST_CENTRES:
            near -= means.astype(np.float32)
            near /= spreads.astype(np.float32)
            near -= near.mean(axis=1, keepdims=True)
            near /= np.maximum(near.std(axis=1, keepdims=True), np.float32(_LEAST_SPREAD))
        owners = near.argmax(axis=1)
        return owners, near[np.arange(len(near)), owners]

    with single_threaded_blas():  # the same sums whatever the number of threads
        if len(centres) >= _FEWEST_CENTRES:
            squares = np.zeros(len(centres))
            for first, second in in_order(moments, starts):
                means += first
                squares += second
            means /= len(nouns)
            spreads = np.sqrt(np.maximum(squares / len(nouns) - np.square(means), 0.0))
            spreads = np.maximum(spreads, _LEAST_SPREAD)
        found = list(in_order(nearest, starts))
    owners, nearness = (np.concatenate(part) for part in zip(*found, strict=True))
    return owners, nearness
