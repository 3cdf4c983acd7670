"""Do several encoders together find images by words better than the better one of them?

Answered on captions, each of which is to find its image. Images are ranked as ``search --fuse``
ranks them: by the weighted mean of the encoders' standard scores. What is the same for all images
cancels, so that the score of a caption is one product: of the image's vectors behind each other,
and the caption's behind each other, each over how far its cosines spread. For an image's captions
the spread is the mean one of the encoder, so that captions are not measured one by one there.

Weights are fitted on the captions of half of the images, and measured on the other half, both
ways round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.captions import Captions
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.fused_evaluation import CHANCE, fit_weights, sign_test
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.prompts import EncodesTexts
from clipsearch.retrieval_evaluation import RANKS, Retrieval, nearer, retrieval
from clipsearch.sampling import Float64, uniform
from clipsearch.shards import Float16, Int64
from clipsearch.vectors import Vectors

_MOST_FITTED = 1000
_LOGIT_SPREAD = 3.0
"""Of logits of which a temperature near 1 makes fair probabilities, as of labels'."""
_SMALLEST_SPREAD = 1e-6
_ROWS_AT_ONCE = 4096
_SEED, _STREAM = 0, 10


@dataclass(frozen=True)
class FusedRetrieval:
    """What captions find by several encoders.

    singles : by each alone. equal, fitted : by all, with equal weights and with fitted ones.
    weights : fitted on all images, 1 in all: what ``--fuse`` takes for other searches.
    hits : of ``singles``, ``equal`` and ``fitted`` in this order, (m,) bool whether each caption
    finds its image first.
    """

    singles: tuple[Retrieval, ...]
    equal: Retrieval
    fitted: Retrieval
    weights: tuple[float, ...]
    hits: tuple[npt.NDArray[np.bool_], ...]

    @property
    def verdict(self) -> str:
        """Whether fusing beats the better single encoder, in a sentence or two."""
        first = min(RANKS)
        recalls = [one.text_to_image[first] for one in self.singles]
        best = int(np.argmax(recalls))
        told, better, worse = [], [], []
        for found, hits in zip((self.equal, self.fitted), self.hits[-2:], strict=True):
            gained = int(np.count_nonzero(hits & ~self.hits[best]))
            lost = int(np.count_nonzero(~hits & self.hits[best]))
            chance = sign_test(gained, lost)
            better.append(gained > lost and chance < CHANCE)
            worse.append(gained < lost and chance < CHANCE)
            recall = found.text_to_image[first]
            told.append(f"{recall:.1%} (gains {gained:,}, loses {lost:,}; p = {chance:.2g})")
        weights = ", ".join(
            f"{one.model} {weight:.2f}"
            for one, weight in zip(self.singles, self.weights, strict=True)
        )
        says = "beat" if any(better) else "are worse than" if all(worse) else "do not clearly beat"
        who = "the better" if len(self.singles) == 2 else "the best"
        return (
            f"At finding a caption's image first the models together {says} "
            f"{self.singles[best].model}, {who} one alone ({recalls[best]:.1%}): equal weights "
            f"{told[0]}; fitted weights, {weights}, {told[1]}."
        )


def evaluate_fused_retrieval(
    states: Sequence[Generation],
    texts: Sequence[EncodesTexts],
    captions: Captions,
    models: Sequence[str],
) -> FusedRetrieval:
    """Recall of captions and images by each of several encoders, and by all together.

    states : one generation of an index, opened in the space of each. texts : what encodes for
    each. models : what they are called. Captions of images that lack a vector in one of the
    spaces do not count.

    Raises OptionError for fewer than two encoders, and where no image is left, and what encoding
    raises.
    """
    if len(states) < 2:
        raise OptionError("expected two models or more to fuse, got one: name another --model")
    captions = _in_all(states, captions)
    ids, owners = np.unique(captions.ids, return_inverse=True)
    vectors = [state.vectors for state in states]
    words = [source.encode(captions.texts) for source in texts]
    spreads = np.stack([_spreads(own, ids, rows) for own, rows in zip(vectors, words, strict=True)])
    joined = JoinedVectors(vectors)

    def ranked(weights: Sequence[float]) -> tuple[Int64, Int64]:
        of_caption, _ = nearer(joined, ids, owners, _joined(words, weights, spreads))
        usual = np.repeat(spreads.mean(axis=1, keepdims=True), spreads.shape[1], axis=1)
        _, of_image = nearer(joined, ids, owners, _joined(words, weights, usual))
        return of_caption, of_image

    alone = [nearer(own, ids, owners, rows) for own, rows in zip(vectors, words, strict=True)]
    equal = ranked([1.0] * len(states))
    half = np.argsort(uniform(ids, _SEED, _STREAM), kind="stable") < (len(ids) + 1) // 2
    of_caption, of_image = equal[0].copy(), equal[1].copy()
    for side in (half, ~half) if len(ids) > 1 else ():
        weights = _fitted(vectors, words, spreads, ids, owners, np.flatnonzero(~side))
        found = ranked(weights)
        of_caption[side[owners]], of_image[side] = found[0][side[owners]], found[1][side]
    together = " + ".join(models)
    return FusedRetrieval(
        singles=tuple(
            retrieval(model, captions, *found) for model, found in zip(models, alone, strict=True)
        ),
        equal=retrieval(f"{together}, equal weights", captions, *equal),
        fitted=retrieval(f"{together}, fitted weights", captions, of_caption, of_image),
        weights=_fitted(vectors, words, spreads, ids, owners, np.arange(len(ids))),
        hits=tuple(found < 1 for found in (*(one for one, _ in alone), equal[0], of_caption)),
    )


class JoinedVectors:
    """The vectors of several spaces, one behind the other."""

    def __init__(self, vectors: Sequence[Vectors]) -> None:
        self._vectors = tuple(vectors)

    def live_pieces(self, allowed: Int64 | None = None) -> Iterator[tuple[Int64, Float16]]:
        """See ``Vectors.live_pieces``; of images that have a vector in all of them."""
        first, *others = self._vectors
        for ids, rows in first.live_pieces(allowed):
            parts = [rows]
            for other in others:
                found, own = other.take_half(ids)
                if len(found) < len(ids):
                    raise ValueError("expected images with a vector in every space")
                parts.append(own)
            yield ids, np.concatenate(parts, axis=1)


def _in_all(states: Sequence[Generation], captions: Captions) -> Captions:
    """The captions whose images have a vector in every space."""
    ids = np.unique(captions.ids)
    for state in states:
        ids = state.vectors.take_half(ids)[0]
    kept = np.flatnonzero(np.isin(captions.ids, ids))
    if not len(kept):
        raise OptionError("no image with a caption has a vector of every model: nothing to fuse")
    if len(kept) == len(captions):
        return captions
    left = len(np.unique(captions.ids)) - len(ids)
    lack = "1 image lacks" if left == 1 else f"{left:,} images lack"
    return Captions(
        captions.ids[kept],
        tuple(captions.texts[row] for row in kept.tolist()),
        captions.missing,
        (*captions.notes, f"{lack} a vector of one of the models, and were left out"),
    )


def _spreads(vectors: Vectors, ids: Int64, words: Float32) -> Float64:
    """(m,) float64 standard deviations of the cosines of (m, dim) words to the images, from the
    covariance of these: their cosines are never held."""
    total, products = np.zeros(vectors.dim), np.zeros((vectors.dim, vectors.dim))
    for _, piece in vectors.live_pieces(ids):
        for start in range(0, len(piece), _ROWS_AT_ONCE):
            rows = widen(piece[start : start + _ROWS_AT_ONCE]).astype(np.float64)
            total += rows.sum(axis=0)
            products += rows.T @ rows
    mean = total / len(ids)
    covariance = products / len(ids) - np.outer(mean, mean)
    spreads = np.empty(len(words))
    for start in range(0, len(words), _ROWS_AT_ONCE):
        some = words[start : start + _ROWS_AT_ONCE].astype(np.float64)
        squares = ((some @ covariance) * some).sum(axis=1)
        spreads[start : start + _ROWS_AT_ONCE] = np.sqrt(np.maximum(squares, 0))
    return np.maximum(spreads, _SMALLEST_SPREAD)


def _joined(words: Sequence[Float32], weights: Sequence[float], spreads: Float64) -> Float32:
    """(m, dims) the words of each space over their spread, one behind the other; the factors of
    a caption are 1 in all."""
    factors = np.array(weights)[:, None] / spreads
    usual = factors.sum(axis=0)
    factors /= usual
    parts = [own * factor[:, None] for own, factor in zip(words, factors, strict=True)]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)


def _fitted(
    vectors: Sequence[Vectors],
    words: Sequence[Float32],
    spreads: Float64,
    ids: Int64,
    owners: npt.NDArray[np.intp],
    images: npt.NDArray[np.intp],
) -> tuple[float, ...]:
    """The weights with which captions of some images, a thousand at most, find them."""
    drawn = images[np.argsort(uniform(ids[images], _SEED, _STREAM + 1), kind="stable")]
    chosen = np.sort(drawn[:_MOST_FITTED])
    rows = np.flatnonzero(np.isin(owners, chosen))
    rows = rows[np.argsort(uniform(rows, _SEED, _STREAM + 2), kind="stable")[:_MOST_FITTED]]
    logits = []
    for own, texts, spread in zip(vectors, words, spreads, strict=True):
        cosines = texts[rows] @ own.take(ids[chosen])[1].T
        logits.append(cosines * (_LOGIT_SPREAD / spread[rows])[:, None])
    return fit_weights(logits, np.searchsorted(chosen, owners[rows]))
