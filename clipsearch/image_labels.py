"""Images against a list of labels, without an index: one picture, or as many as there are.

Every image is decoded and encoded here and now. Its cosines to the class vectors become
probabilities by a softmax over the labels at the model's own logit scale (Radford et al. 2021),
which is what the Hugging Face zero-shot-image-classification pipeline computes with one template.

>>> from clipsearch import label_images
>>> for found in label_images("mini", ["photo.jpg"], ["cat", "dog", "car"]):
...     print(found.image, [(best.label, best.probability) for best in found.labels])
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from clipsearch.encoder import Encoder, Float32, ImageGeometry, UInt8, load_encoder
from clipsearch.errors import ImageError, OptionError
from clipsearch.label_definitions import LabelDefinitions, refuse_groups
from clipsearch.label_tree import TreeScorer, has_tree, least_probabilities, reached
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.scoring import LabelScorer, ScoredBlock, Scorer
from clipsearch.text_vectors import EncodesText, TextVectorCache, TextVectors, default_cache_path
from clipsearch.threads import in_order

ImageFile = str | os.PathLike[str] | bytes
"""An image: where its file is, or, as bytes, the file itself."""

Pixels = Generator[UInt8 | ImageError, None, None]
Decode = Callable[[Iterable[ImageFile], ImageGeometry, int], Pixels]
"""Decodes images in their order, so many ahead at most: (height, width, 3) uint8 as the geometry
wants them, or why there are none."""


@dataclass(frozen=True)
class LabelProbability:
    """One of an image's labels. probability : softmax over all labels that were asked for, at
    the model's logit scale. score : the cosine of image and class vector (that of a label above
    others: see ``TreeScorer``)."""

    label: str
    probability: float
    score: float


@dataclass(frozen=True)
class ImageLabels:
    """What one image shows, of the labels that were asked for.

    image : as it was asked for. labels : best first; none for an image that could not be taken,
    and for one whose best label does not reach the threshold that it was given.
    margin : the best score less the runner-up's, nan without a second label.
    runner_up : the second label; of an image without a label the nearest one.
    error : why the image could not be taken, else None.
    """

    image: ImageFile
    labels: tuple[LabelProbability, ...] = ()
    margin: float = float("nan")
    runner_up: str | None = None
    error: ImageError | None = None


def label_images(
    model: str | Encoder,
    images: Iterable[ImageFile],
    labels: Sequence[str],
    *,
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    top: int = 5,
    texts: TextVectors | None = None,
    device: str | None = None,
    batch_size: int = 32,
    decode: str | Decode = "exact",
    max_megapixels: float = 200.0,
) -> Iterator[ImageLabels]:
    """The best ``top`` labels of every image, in the order of ``images``, while they are asked for.

    model : what ``load_encoder`` takes (nothing is downloaded), or an encoder.
    images : asked for as they are needed. One that cannot be taken costs nothing but itself: its
    ``error`` says why.
    labels, templates, context : as in ``ImageIndex.classify``, but without groups.
    texts : the text vectors of the encoder's space; None takes the user's own cache of them.
    device : see ``load_encoder``. batch_size : images a call of the encoder; as many wait decoded.
    decode, max_megapixels : see ``read_image``. Images are decoded in threads, so that a decoder
    that crashes on a damaged file ends the process; or by what is given here instead.

    Raises LabelError, OptionError and the errors of ``load_encoder`` before an image is looked at.
    """
    names = check_labels(labels)
    refuse_groups(labels)
    if isinstance(images, str | bytes | os.PathLike):
        raise OptionError(f"expected a sequence of images, got one {type(images).__name__}")
    if top < 1 or batch_size < 1:
        raise OptionError(f"top and batch_size are 1 or more, got {top} and {batch_size}")
    if not callable(decode):
        decode = _in_threads(decode, max_megapixels)
    encoder = load_encoder(model, device=device) if isinstance(model, str) else model
    texts = texts_of(encoder) if texts is None else texts
    classes = class_vectors(labels, texts, templates, context)
    scorer = _scorer(labels, classes, encoder.space.logit_scale, min(top, len(names)))
    least = least_probabilities(labels)

    def found() -> Iterator[ImageLabels]:
        # A block of the scorer's is smaller than a batch only of very many labels.
        step = min(batch_size, scorer.block_rows)
        asked: deque[ImageFile] = deque()

        def noted() -> Iterator[ImageFile]:
            for image in images:
                asked.append(image)
                yield image

        with contextlib.closing(decode(noted(), encoder.space.geometry, step)) as waiting:
            while batch := list(islice(waiting, step)):
                yield from labelled([asked.popleft() for _ in batch], batch)

    def labelled(
        batch: Sequence[ImageFile], decoded: Sequence[UInt8 | ImageError]
    ) -> Iterator[ImageLabels]:
        pixels = [image for image in decoded if not isinstance(image, ImageError)]
        block: ScoredBlock | None = None
        if pixels:
            rows = encoder.encode_images(np.stack(pixels))
            block = scorer.score(np.arange(len(rows), dtype=np.int64), rows)
            block = block if least is None else reached(block, least)
        row = 0
        for image, taken in zip(batch, decoded, strict=True):
            if isinstance(taken, ImageError) or block is None:
                assert isinstance(taken, ImageError)
                yield ImageLabels(image, error=taken)
            else:
                yield _image_labels(image, block, row, names)
                row += 1

    return found()


def texts_of(encoder: Encoder) -> TextVectors:
    """What turns texts into vectors of an encoder's space: the user's cache of them first, then
    the fastest that there is on this machine."""

    def load() -> EncodesText:
        from clipsearch.text_tower_export import fastest_for_texts

        return fastest_for_texts(encoder)

    cache = TextVectorCache(default_cache_path(encoder.space.fingerprint))
    return TextVectors(encoder.space, load, cache)


def _scorer(labels: Sequence[str], classes: Float32, logit_scale: float, top: int) -> Scorer:
    if isinstance(labels, LabelDefinitions) and has_tree(labels):
        return TreeScorer(labels, classes, logit_scale, top)
    return LabelScorer(classes, logit_scale, top)


def _in_threads(decode: str, max_megapixels: float) -> Decode:
    """Decodes in threads of this process. Raises OptionError for another ``decode``."""
    if decode not in ("exact", "fast"):
        raise OptionError(f'decode is "exact" or "fast", not {decode!r}')
    from clipsearch.images import decode_image, read_image

    def decoded(images: Iterable[ImageFile], geometry: ImageGeometry, look_ahead: int) -> Pixels:
        def pixels(image: ImageFile) -> UInt8 | ImageError:
            try:
                if isinstance(image, bytes):
                    return decode_image(
                        image, "the image", geometry,
                        decode=decode, max_megapixels=max_megapixels, thumbnail_side=None,
                    ).pixels  # fmt: skip
                if not os.path.lexists(image):
                    return ImageError("vanished", "there is no such file")
                return read_image(
                    image, geometry,
                    decode=decode, max_megapixels=max_megapixels, thumbnail_side=None,
                ).pixels  # fmt: skip
            except ImageError as error:
                return error

        yield from in_order(pixels, images, look_ahead=look_ahead)

    return decoded


def _image_labels(
    image: ImageFile, block: ScoredBlock, row: int, names: Sequence[str]
) -> ImageLabels:
    ranked = zip(
        block.labels[row].tolist(),
        block.probabilities[row].tolist(),
        block.scores[row].tolist(),
        strict=True,
    )
    second = int(block.runners_up[row])
    return ImageLabels(
        image,
        tuple(
            LabelProbability(names[label], probability, score)
            for label, probability, score in ranked
            if label >= 0
        ),
        float(block.margins[row]),
        names[second] if second >= 0 else None,
    )
