"""Images in other processes for ``classify IMAGE``: what ``label_images`` decodes with there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from clipsearch.encoder import ImageGeometry
from clipsearch.errors import ImageError
from clipsearch.image_labels import ImageFile, Pixels
from clipsearch.threads import worker_count
from indexer.config import IndexConfig
from indexer.decode import decode_in_order, start_workers


def start_decoders(images: int) -> None:
    """Begin to start as many decoder processes as so many images take.

    Raises ClipsearchError when the system refuses one.
    """
    start_workers(min(images, worker_count()))


def decoded_pixels(images: Iterable[ImageFile], geometry: ImageGeometry, look_ahead: int) -> Pixels:
    """See ``image_labels.Decode``. A decoder that crashes or hangs on a file costs that alone."""
    usual = IndexConfig(decode="exact")  # the labels are open_clip's to the bit
    sources = (image if isinstance(image, bytes) else os.fspath(image) for image in images)
    decoded = decode_in_order(
        sources, geometry,
        decode=usual.decode, max_megapixels=usual.max_megapixels, thumbnail_side=None,
        threads=worker_count(), look_ahead=look_ahead, seconds=usual.decode_seconds,
    )  # fmt: skip
    with contextlib.closing(decoded):
        for image in decoded:
            yield image if isinstance(image, ImageError) else image.pixels
