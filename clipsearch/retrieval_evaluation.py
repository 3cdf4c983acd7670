"""How well words find images, and images words: recall at k, from captions.

As CLIP_benchmark computes it: of a caption, whether its image is among the k that are nearest to
it; of an image, whether any one of its captions is among the k nearest of all captions. Captions
go into the text encoder as they are, without a template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clipsearch.captions import Captions
from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.prompts import EncodesTexts
from clipsearch.sampling import Float64
from clipsearch.scoring import rounding_bound
from clipsearch.shards import Float16, Int64

RANKS = (1, 5, 10)
_IMAGES_AT_ONCE, _TEXTS_AT_ONCE = 1024, 4096  # 16 MB of scores
_PAIRS_AT_ONCE = 4096

Exact = Callable[[npt.NDArray[np.intp], npt.NDArray[np.intp]], Float64]


class LivePieces(Protocol):
    """Where the vectors of images come from, a piece at a time: ``Vectors``, and what is made of
    several."""

    def live_pieces(self, allowed: Int64 | None = None) -> Iterator[tuple[Int64, Float16]]:
        """See ``Vectors.live_pieces``."""
        ...


@dataclass(frozen=True)
class Retrieval:
    """What the captions of some images found, by the vectors of one model.

    text_to_image, image_to_text : by k, the share of captions whose image is among the k best,
    and of images of which a caption is. notes : what has to be known of that, a line each.
    """

    model: str
    images: int
    captions: int
    text_to_image: dict[int, float]
    image_to_text: dict[int, float]
    notes: tuple[str, ...] = ()


def evaluate_retrieval(
    state: Generation,
    texts: EncodesTexts,
    captions: Captions,
    *,
    model: str,
    ranks: Sequence[int] = RANKS,
) -> Retrieval:
    """Recall at k in both directions among the images that have captions, and those captions.

    An image is a content: files that are copies of each other are one, with the captions of all.
    Of equal scores the right one goes first, and what float32 cannot tell apart is compared in
    float64: figures depend neither on blocks nor on threads. The vectors of the captions are held,
    2 KB each at 512 numbers; those of the images are read in blocks.

    Raises OptionError when an image has no vector in the space, and what encoding raises.
    """
    ids, owners = np.unique(captions.ids, return_inverse=True)
    there = state.vectors.take_half(ids)[0]
    if len(there) < len(ids):
        raise OptionError(
            f"{len(ids) - len(there):,} of {len(ids):,} images have no vector of {model}: "
            "'clipsearch index' encodes them when their files are there"
        )
    of_caption, of_image = nearer(state.vectors, ids, owners, texts.encode(captions.texts))
    return retrieval(model, captions, of_caption, of_image, ranks)


def retrieval(
    model: str,
    captions: Captions,
    of_caption: Int64,
    of_image: Int64,
    ranks: Sequence[int] = RANKS,
) -> Retrieval:
    """The recall that numbers of nearer images and captions come to, see ``nearer``."""
    notes = list(captions.notes)
    if max(ranks) >= len(of_image):
        are = "there is 1 image" if len(of_image) == 1 else f"there are {len(of_image):,} images"
        notes.append(
            f"{are}: the best {max(ranks)} are all of them, so that recall there says nothing"
        )
    return Retrieval(
        model=model,
        images=len(of_image),
        captions=len(captions),
        text_to_image={k: float((of_caption < k).mean()) for k in ranks},
        image_to_text={k: float((of_image < k).mean()) for k in ranks},
        notes=tuple(notes),
    )


def nearer(
    vectors: LivePieces, ids: Int64, owners: npt.NDArray[np.intp], texts: Float32
) -> tuple[Int64, Int64]:
    """How many images are nearer to each caption than its own, (m,), and how many captions are
    nearer to each image than the nearest of its own, (n,).

    ids : (n,) rising. owners : (m,) positions in ids. texts : (m, dim). Nearer is what has the
    higher product; the absolute values of the numbers that are summed come to 1 at the most.
    """
    of_text = np.empty(len(texts))
    of_image = np.full(len(ids), -np.inf)
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(len(ids) + 1))
    begin = 0
    for here, rows in vectors.live_pieces(ids):
        own = order[starts[begin] : starts[begin + len(here)]]
        of_text[own] = _products(rows, texts, owners[own] - begin, own)
        begin += len(here)
    np.maximum.at(of_image, owners, of_text)
    slack = 1.5 * rounding_bound(texts.shape[1])  # and what limits lose as float32
    nearer_images = np.zeros(len(texts), np.int64)
    nearer_texts = np.zeros(len(ids), np.int64)
    begin = 0
    for here, piece in vectors.live_pieces(ids):
        for first in range(0, len(here), _IMAGES_AT_ONCE):
            rows = piece[first : first + _IMAGES_AT_ONCE]
            images = slice(begin + first, begin + first + len(rows))
            wide = widen(rows)
            for start in range(0, len(texts), _TEXTS_AT_ONCE):
                part = slice(start, start + _TEXTS_AT_ONCE)
                scores = wide @ texts[part].T
                exact = _of_tile(rows, texts, start)
                above = _above(scores, of_text[None, part], slack, exact)
                nearer_images[part] += above.sum(axis=0)
                above = _above(scores, of_image[images, None], slack, exact)
                nearer_texts[images] += above.sum(axis=1)
        begin += len(here)
    return nearer_images, nearer_texts


def _of_tile(rows: Float16, texts: Float32, start: int) -> Exact:
    return lambda images, columns: _products(rows, texts, images, columns + start)


def _above(scores: Float32, limits: Float64, slack: float, exact: Exact) -> npt.NDArray[np.bool_]:
    """(r, c) bool: which scores are above the limits, (1, c) or (r, 1) of them. slack : by how
    much a score may be wrong."""
    above = scores > (limits + slack).astype(np.float32)
    near = np.nonzero((scores >= (limits - slack).astype(np.float32)) & ~above)
    above[near] = exact(*near) > np.broadcast_to(limits, scores.shape)[near]
    return above


def _products(
    rows: Float16, texts: Float32, images: npt.NDArray[np.intp], columns: npt.NDArray[np.intp]
) -> Float64:
    """(p,) products of some rows of both in float64; equal vectors give equal ones."""
    found = np.empty(len(images))
    for start in range(0, len(images), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        pairs = rows[images[part]].astype(np.float64)
        pairs *= texts[columns[part]]
        found[part] = pairs.sum(axis=1)
    return found
