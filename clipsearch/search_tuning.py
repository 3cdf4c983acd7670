"""How hard an approximate index has to look: chosen and measured on texts, never on images.

Texts lie off the cloud of images, and an index finds for them less than it finds for the very
vectors it holds. So half of a set of texts chooses the cheapest effort that reaches the recall
that is wanted, and the other half, which had no say in that, tells what it reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.exact_search import Float64
from clipsearch.manifest import MeasuredSearch, utc_now
from clipsearch.shards import Int64

K = 10
TARGET = 0.95
"""The recall@10 that is wanted: of the ten best images of a text, so many are found."""

FEWEST_TEXTS = 200
"""With fewer texts, half of them to choose by, nothing is said."""

_SEED = 0
_Z = 1.959963984540054  # 95 %


@dataclass(frozen=True)
class Effort:
    """What a search of an approximate index looks into, and how many rows it then scores anew."""

    probes: int
    candidates: int


EFFORTS = (
    Effort(4, 200),
    Effort(8, 400),
    Effort(16, 400),
    Effort(16, 1000),
    Effort(32, 1000),
    Effort(64, 1000),
    Effort(128, 1000),
    Effort(256, 1000),
    Effort(256, 2000),
    Effort(512, 2000),
    Effort(512, 4000),
)
"""From the cheapest to the dearest. Words for what a collection does not show need the most: the
images that are nearest to them lie far apart."""

UNMEASURED = EFFORTS[8]
"""Where there are no texts to choose by."""


def interval(recall: float, queries: int) -> tuple[float, float]:
    """The 95 % interval of a mean recall over so many queries: Wilson's, each query counted as
    one trial. The hits of one query hang together; counted one by one they would promise more
    than is known."""
    share = _Z * _Z / queries
    middle = (recall + share / 2) / (1 + share)
    half = _Z / (1 + share) * math.sqrt(recall * (1 - recall) / queries + share / (4 * queries))
    return max(0.0, middle - half), min(1.0, middle + half)


def recalls(found: Sequence[Float64], truth: Sequence[Float64]) -> Float64:
    """(n,) the share of each query's true hits that were found, by scores: (k,) exact ones of
    what was found, and of the true best. Of equals any is as good."""
    return np.array(
        [np.mean(mine >= best[-1]) for mine, best in zip(found, truth, strict=True)], np.float64
    )


def tune(
    texts: Float32,
    truth: Sequence[Float64],
    scores_at: Callable[[Float32, Effort], Float64],
    *,
    kind: str,
    rows: int,
    efforts: Sequence[Effort] = EFFORTS,
) -> tuple[Effort | None, MeasuredSearch]:
    """The cheapest effort whose recall is ``TARGET`` or more by a standard error, None where
    none is; and what was measured with it, or with the dearest.

    texts : (n, dim) float32 unit rows, n at least 2. truth : for each the (K,) exact scores of
    its best images. scores_at : (dim,) text and effort -> (K,) exact scores of what is found.
    """
    order = np.random.default_rng(_SEED).permutation(len(texts))
    choosing, held_out = order[: len(texts) // 2], order[len(texts) // 2 :]

    def recalls_at(effort: Effort, which: Int64) -> Float64:
        found = [scores_at(texts[number], effort) for number in which]
        return recalls(found, [truth[number] for number in which])

    chosen = None
    for effort in efforts:
        reached = recalls_at(effort, choosing)
        if reached.mean() - reached.std() / math.sqrt(len(reached)) >= TARGET:
            chosen = effort
            break
    used = chosen or efforts[-1]
    recall = float(recalls_at(used, held_out).mean())
    low, high = interval(recall, len(held_out))
    return chosen, MeasuredSearch(
        kind=kind,
        rows=rows,
        k=K,
        target=TARGET,
        reached=chosen is not None,
        queries=len(held_out),
        recall=recall,
        low=low,
        high=high,
        probes=used.probes,
        candidates=used.candidates,
        measured_at=utc_now(),
    )
