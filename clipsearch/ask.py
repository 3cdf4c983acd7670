"""Ask me: the images whose labels are most worth confirming next.

An image is worth a question when many images that are labelled in doubt look like it, and none
that is confirmed does. That is a facility location (Wei, Iyer & Bilmes 2015, "Submodularity in
data subset selection and active learning"): with doubts w_j and the similarity
K_ij = exp(-beta |f_i - f_j|^2) of ``teach`` the questions S are to make

    sum over images j of w_j * max over i in S and the confirmed of K_ij

large, and the greedy choice comes within 1 - 1/e of the best. So a question is uncertain, typical
and unlike the others at once. A few of the questions are drawn at random instead, and say so: only
of those does the share that was labelled rightly tell something of the whole collection.

No matrix of the collection is held. One pass over the labels keeps some thousands of images, each
with a chance that grows with its doubt, and what those stand for (``sampling``).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsearch.abstaining import without_labels
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.sampling import Float64, PrioritySample, RandomSample
from clipsearch.scoring import ScoredBlock, Scorer, score_blocks
from clipsearch.shards import Int64
from clipsearch.threads import in_order, single_threaded_blas

ASKED, RANDOM = "asked", "random"
RANDOM_SHARE = 0.2
MOST_QUESTIONS = 1000
"""At once: nobody answers more before the answers to the first change what is worth asking."""

_SAMPLE = 4096
_NARROWNESS = 4.5
"""beta, in units of the collection's spread (1 - the mean cosine of two images). Measured by
benchmarks/calibration.py: 3 to 6 are alike, 1 asks too much of the centre of the collection."""
_LEAST_DOUBT = 0.01  # where no image is in doubt, those that are typical are asked about
_SAME_PICTURE = 0.95  # cosine from which a second question would tell nothing
_LOOKS_LIKE = 0.1  # similarity from which an image counts as one that a question stands for
_PLAIN = 0.9  # probability from which the next label is not worth a word
_ROWS = 512
_FACTS = 4


@dataclass(frozen=True)
class Question:
    """An image to ask about.

    how : "asked", chosen for what its answer tells, or "random", drawn from all that are not
        confirmed. Only random ones are a fair sample: see ``calibration`` and ``conformal``.
    label, runner_up : positions of the label that it has and of the next; -1 where it has none
        of them, and the next is then the nearest. probability : of the label, or the nearest.
    in_set : see ``ScoredBlock``; nan where that was not asked.
    alike : about how many images look like it and like no better question, itself among them.
    """

    id: int
    how: str
    label: int
    runner_up: int
    probability: float
    in_set: float
    alike: int

    def why(self, names: Sequence[str]) -> str:
        """In a few words, for a person; ``names`` are the labels."""
        if self.how == RANDOM:
            return "drawn at random"
        label = names[self.label] if self.label >= 0 else "none of these"
        doubt = f"{label}?"
        if self.runner_up >= 0 and not (self.label >= 0 and self.probability >= _PLAIN):
            doubt = f"{label} or {names[self.runner_up]}?"
        return doubt if self.alike < 2 else f"{doubt} {self.alike:,} look like it"


def images_to_ask(
    state: Generation,
    scorer: Scorer,
    confirmed: Int64,
    count: int,
    *,
    threshold: float | None = None,
    random_share: float = RANDOM_SHARE,
    allowed: Int64 | None = None,
    seed: int = 0,
) -> list[Question]:
    """The ``count`` images to ask about next, those whose answers tell most first, random ones
    spread among them; fewer where there are no more.

    scorer : gives every image its best label and the next (``top=2``, where there are two).
    confirmed : (c,) int64 ids, in any order, of images whose labels are known: they are left
        out, and so is what looks like them.
    threshold : where blocks have ``in_set``, what it has to reach for an image to get a label.
    random_share : 0 to 1, of the questions. 1 draws a fair sample and nothing else.
    allowed : (a,) rising ids to ask about.
    seed : the same one goes on along the same random order as long as images are confirmed.

    Time: one pass over all labels and 4096 x 4096 similarities. Memory: some 100 MB. The answer
    does not depend on the number of threads.
    Raises OptionError for a ``count``, ``random_share`` or ``seed`` that makes no sense.
    """
    if not 1 <= count <= MOST_QUESTIONS:
        raise OptionError(f"expected 1 to {MOST_QUESTIONS} questions at once, got {count}")
    if not 0 <= random_share <= 1:
        raise OptionError(f"expected a share of random questions from 0 to 1, got {random_share}")
    if seed < 0:
        raise OptionError(f"expected a seed of 0 or more, got {seed}")
    confirmed = np.unique(np.asarray(confirmed, np.int64))
    doubtful = PrioritySample(_SAMPLE, seed, _FACTS)
    drawn = RandomSample(math.floor(count * random_share + 0.5), seed, _FACTS)
    images = len(state.vectors) if allowed is None else len(allowed)
    for block in score_blocks(state.vectors.live_pieces(allowed), scorer, images):
        open_ = ~np.isin(block.ids, confirmed)
        facts = _facts(block, threshold)[open_]
        doubts = np.maximum(doubt(block, threshold)[open_], _LEAST_DOUBT)
        doubtful.add(block.ids[open_], doubts, facts)
        drawn.add(block.ids[open_], facts)
    random = [_question(row, RANDOM, 1) for row in _rows(*drawn.chosen())]
    ids, weights, counts, facts = doubtful.chosen()
    wanted = count - len(random)
    asked: list[Question] = []
    if wanted and len(ids):
        known = np.union1d(confirmed, np.array([question.id for question in random], np.int64))
        chosen, alike = _greedy(state, ids, weights, counts, known, wanted)
        found = _rows(ids[chosen], facts[chosen])
        asked = [
            _question(row, ASKED, round(float(number)))
            for row, number in zip(found, alike, strict=True)
        ]
    return _mixed(asked, random)


def doubt(block: ScoredBlock, threshold: float | None = None) -> Float64:
    """(n,) float64 in 0..1: 1 less the lead of an image's best answer over the next best.

    The answers are its labels, by their probabilities, and, where the block has ``in_set`` and
    a ``threshold`` is given, none of these: its odds are those of ``in_set`` in units of the
    odds of the threshold, so that an image on the threshold is as likely in as out. Where the
    scorer itself has said none of these, all that its best label lacks is taken for that.
    """
    odds = np.nan_to_num(block.probabilities.astype(np.float64), nan=0.0)
    best = odds[:, 0]
    second = odds[:, 1] if odds.shape[1] > 1 else 1 - best
    is_none = block.labels[:, 0] < 0
    best, second = np.where(is_none, 1 - best, best), np.where(is_none, best, second)
    if block.in_set is None or threshold is None:
        return np.clip(1 - (best - second), 0, 1)
    inside = np.clip(block.in_set.astype(np.float64), 1e-9, 1 - 1e-9)
    least = min(max(threshold, 1e-9), 1 - 1e-9)
    inside = inside * (1 - least) / (inside * (1 - least) + (1 - inside) * least)
    inside[is_none] = 1  # that is counted already
    answers = np.sort(np.stack([inside * best, inside * second, 1 - inside]), axis=0)
    lead: Float64 = answers[2] - answers[1]
    return np.clip(1 - lead, 0, 1)


def _facts(block: ScoredBlock, threshold: float | None) -> Float64:
    """(n, 4): label, runner-up, probability and in_set of every image."""
    inside = np.full(len(block.ids), np.nan) if block.in_set is None else block.in_set
    if threshold is not None:
        block = without_labels(block, block.in_set, threshold)
    return np.stack(
        [block.labels[:, 0], block.runners_up, block.probabilities[:, 0], inside], axis=1
    ).astype(np.float64)


def _rows(ids: Int64, facts: Float64) -> list[tuple[int, list[float]]]:
    return list(zip(ids.tolist(), facts.tolist(), strict=True))


def _question(row: tuple[int, list[float]], how: str, alike: int) -> Question:
    image_id, (label, runner_up, probability, in_set) = row
    return Question(image_id, how, int(label), int(runner_up), probability, in_set, alike)


def _mixed(asked: list[Question], random: list[Question]) -> list[Question]:
    """Random ones evenly spread among the others, whose order stays: who stops half-way has
    answered some of both."""
    total = len(asked) + len(random)
    result: list[Question] = []
    for place in range(total):
        before, after = (n * len(random) // total for n in (place, place + 1))
        result.append(random[before] if after > before else asked[place - before])
    return result


def _greedy(
    state: Generation,
    ids: Int64,
    weights: Float64,
    counts: Float64,
    known: Int64,
    wanted: int,
) -> tuple[Int64, Float64]:
    """Positions of at most ``wanted`` of the (m,) rising ``ids``, best first, and how many images
    each stands for.

    weights : what every one adds to the sum to be made large. counts : how many images every
    one stands for. known : ids that are confirmed, or will be.
    """
    _, rows = state.vectors.take(ids)
    centre = (counts[:, None] * rows).sum(axis=0) / counts.sum()
    spread = max(1 - float(centre @ centre), 1e-3)
    beta = _NARROWNESS / spread
    covered = np.zeros(len(ids), np.float32)
    free = np.ones(len(ids), bool)
    with single_threaded_blas():
        for _, theirs in state.vectors.blocks_of(known, _ROWS):
            cosines = rows @ theirs.T
            nearest = cosines.max(axis=1)
            free &= nearest < _SAME_PICTURE
            np.maximum(covered, _similarity(nearest, beta), out=covered)
        similar = np.empty((len(ids), len(ids)), np.float32)

        def fill(start: int) -> None:
            part = similar[start : start + _ROWS]
            _similarity(np.matmul(rows[start : start + _ROWS], rows.T, out=part), beta)

        for _ in in_order(fill, range(0, len(ids), _ROWS)):
            pass
    same = float(np.exp(-2 * beta * (1 - _SAME_PICTURE)))
    masses = weights.astype(np.float32)

    def gain(place: int) -> float:
        return float((np.maximum(similar[place] - covered, 0) * masses).sum())

    # What a question adds only shrinks as others are chosen, so an old number is a bound.
    queue = [(-gain(place), place) for place in np.flatnonzero(free).tolist()]
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and len(chosen) < wanted:
        _, place = heapq.heappop(queue)
        if not free[place]:
            continue
        now = gain(place)
        if queue and (-now, place) > queue[0]:
            heapq.heappush(queue, (-now, place))
            continue
        chosen.append(place)
        np.maximum(covered, similar[place], out=covered)
        free &= similar[place] < same
    picked = np.array(chosen, np.int64)
    if not len(picked):
        return picked, np.zeros(0)
    closest = similar[picked].argmax(axis=0)
    near = similar[picked].max(axis=0) >= _LOOKS_LIKE
    alike = np.bincount(closest[near], weights=counts[near], minlength=len(picked))
    return picked, np.maximum(alike, 1)


def _similarity(cosines: Float32, beta: float) -> Float32:
    """exp(-beta |f - f'|^2) of unit vectors, in place."""
    np.subtract(cosines, 1, out=cosines)
    np.multiply(cosines, np.float32(2 * beta), out=cosines)
    return np.exp(np.minimum(cosines, 0, out=cosines), out=cosines)
