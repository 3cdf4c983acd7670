"""Vectors as CLIP makes them, drawn at random: two clouds, with concepts in both.

Images and texts of CLIP lie in two narrow cones apart from each other, the modality gap
(`Liang et al. 2022 <https://arxiv.org/abs/2203.02053>`_): a text is nearer to every other text
than to the image it describes. So each vector here is the sum of what its whole cloud has in
common, of its concepts, and of what is its own. Energies (squares of lengths) sum to one:

- image = 0.36 cloud + 0.31 concepts (one to three, the first the strongest) + 0.33 its own
- text  = 0.50 cloud + 0.08 the image side of its concept + 0.20 the text side of it + 0.22 wording

Ten concepts each are of one subject and share 0.75 of their energy: a dog is taken for a wolf
rather than for a teapot. Concepts and what is an image's own do not fill the space evenly: the
variance along its axes falls as the power -0.8 of their rank, which leaves about 74 of 512 that
count. What only texts have spreads along axes of theirs. All axes are turned at random, for no
single number of a vector means anything in a real space either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.threads import single_threaded_blas

Int64 = npt.NDArray[np.int64]

IMAGE_CLOUD, IMAGE_CONCEPTS, IMAGE_OWN = 0.36, 0.31, 0.33
TEXT_CLOUD, TEXT_OF_IMAGES, TEXT_OF_TEXTS, TEXT_WORDING = 0.50, 0.08, 0.20, 0.22
CLOUD_COSINE = 0.235  # of what the two clouds have in common: 0.10 between any text and any image
SPECTRUM_POWER = 0.8
SUBJECT, OF_ONE_SUBJECT = 0.75, 10
MOST_CONCEPTS = 3
_HOW_MANY = (0.55, 0.3, 0.15)  # images of one, two and three concepts
_ZIPF_SHIFT = 20  # Zipf-Mandelbrot: the size of a concept is as 1 / (rank + this)


@dataclass(frozen=True)
class ImageBlock:
    """Some images: (n, dim) float32 unit rows, and the (n, 3) int64 concepts of each, the main
    one first and -1 where there is none."""

    vectors: Float32
    concepts: Int64


class VectorModel:
    """Where everything lies in one made-up space. The same arguments, the same vectors.

    dim : length of a vector, from 8 on. concepts : how many things there are pictures of.
    """

    def __init__(self, dim: int, concepts: int, seed: int) -> None:
        if dim < 8 or concepts < 1:
            raise ValueError(f"expected dim >= 8 and concepts >= 1, got {dim} and {concepts}")
        self.dim, self.concepts, self.seed = dim, concepts, seed
        rng = self._rng(0)
        self._image_axes, self._text_axes = (_turned_axes(rng, dim) for _ in range(2))
        # The two clouds lie off each other and off what varies.
        image_cloud, other = np.linalg.qr(rng.standard_normal((dim, 2)))[0].T
        text_cloud = CLOUD_COSINE * image_cloud + np.sqrt(1 - CLOUD_COSINE**2) * other
        self.image_cloud = image_cloud.astype(np.float32)
        self.text_cloud = text_cloud.astype(np.float32)
        self._off_clouds = np.stack([image_cloud, other]).astype(np.float32)
        self.concept_rows = self._related(self._rng(1), self._image_axes)
        size = 1.0 / (np.arange(concepts) + _ZIPF_SHIFT)
        self.shares = size / size.sum()

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *stream])

    def _directions(self, rng: np.random.Generator, axes: Float32, count: int) -> Float32:
        """(count, dim) float32 unit rows that spread along ``axes``, off both clouds."""
        rows = rng.standard_normal((count, self.dim), dtype=np.float32) @ axes
        rows -= (rows @ self._off_clouds.T) @ self._off_clouds
        return unit_rows(rows)

    def _related(self, rng: np.random.Generator, axes: Float32) -> Float32:
        """(concepts, dim) float32 unit rows, those of one subject near to each other."""
        subjects = self._directions(rng, axes, -(-self.concepts // OF_ONE_SUBJECT))
        own = self._directions(rng, axes, self.concepts)
        # Neighbours in size are of different subjects.
        shared = subjects[np.arange(self.concepts) % len(subjects)]
        return unit_rows(np.sqrt(SUBJECT) * shared + np.sqrt(1 - SUBJECT) * own)

    def images(self, block: int, count: int) -> ImageBlock:
        """The ``count`` images of a block; a block is the same whatever the others are."""
        rng = self._rng(2, block)
        concepts = np.searchsorted(
            np.cumsum(self.shares)[:-1], rng.random((count, MOST_CONCEPTS)), side="right"
        ).astype(np.int64)
        how_many = 1 + np.searchsorted(np.cumsum(_HOW_MANY)[:-1], rng.random(count), side="right")
        concepts[np.arange(MOST_CONCEPTS) >= how_many[:, None]] = -1
        weights = np.array([1.0, 0.5, 0.35], np.float32) * (concepts >= 0)
        mixed = np.zeros((count, self.dim), np.float32)
        for rank in range(MOST_CONCEPTS):
            rows = np.flatnonzero(concepts[:, rank] >= 0)
            mixed[rows] += weights[rows, rank, None] * self.concept_rows[concepts[rows, rank]]
        vectors = self._directions(rng, self._image_axes, count) * np.float32(np.sqrt(IMAGE_OWN))
        vectors += np.float32(np.sqrt(IMAGE_CONCEPTS)) * unit_rows(mixed)
        vectors += np.float32(np.sqrt(IMAGE_CLOUD)) * self.image_cloud
        return ImageBlock(unit_rows(vectors), concepts)

    def query_concepts(self, count: int) -> Int64:
        """(count,) the concept that each held-out query asks for."""
        return self._rng(3).integers(self.concepts, size=count)

    def query_texts(self, count: int) -> Float32:
        """(count, dim) float32 unit rows of held-out queries: other words for a concept than its
        prompts have."""
        asked = self.query_concepts(count)
        return self._worded(self.concept_rows[asked], self._text_sides()[asked], self._rng(4))

    def concept_texts(self, prompts: int) -> Float32:
        """(concepts * prompts, dim) float32 unit rows: every concept in so many prompts."""
        sides = (self.concept_rows, self._text_sides())
        return self._worded(*(np.repeat(side, prompts, axis=0) for side in sides), self._rng(5))

    def other_texts(self, count: int) -> Float32:
        """(count, dim) float32 unit rows of texts for things that no image shows."""
        rng = self._rng(6)
        of_images = self._directions(rng, self._image_axes, count)
        return self._worded(of_images, self._directions(rng, self._text_axes, count), rng)

    def _text_sides(self) -> Float32:
        return self._related(self._rng(7), self._text_axes)

    def _worded(self, of_images: Float32, of_texts: Float32, rng: np.random.Generator) -> Float32:
        wording = rng.standard_normal(of_images.shape, dtype=np.float32)
        wording -= (wording @ self._off_clouds.T) @ self._off_clouds
        rows = np.float32(np.sqrt(TEXT_CLOUD)) * self.text_cloud
        rows = rows + np.float32(np.sqrt(TEXT_OF_IMAGES)) * of_images
        rows += np.float32(np.sqrt(TEXT_OF_TEXTS)) * of_texts
        rows += np.float32(np.sqrt(TEXT_WORDING)) * unit_rows(wording)
        return unit_rows(rows)


def _turned_axes(rng: np.random.Generator, dim: int) -> Float32:
    """(dim, dim) float32 axes of falling length, of squared length 1 in all."""
    with single_threaded_blas():  # two threads are slower here, and much so on a busy machine
        turned = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    variance = (1.0 + np.arange(dim)) ** -SPECTRUM_POWER
    axes: Float32 = (np.sqrt(variance / variance.sum())[:, None] * turned).astype(np.float32)
    return axes


def unit_rows(rows: npt.NDArray[np.floating]) -> Float32:
    """(n, dim) float32 rows of unit length."""
    unit: Float32 = (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)
    return unit
