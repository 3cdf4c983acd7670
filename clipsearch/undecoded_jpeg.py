"""Ordinary JPEGs of which only the metadata is read here: a device decodes them."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import ImageFile

from clipsearch.image_formats import SNIFF_BYTES, only_image_errors, open_image, sniff_format
from clipsearch.images import DecodedImage
from clipsearch.photo_metadata import read_metadata

_RGB_IDS = [ord(letter) for letter in "RGB"]


def undecoded_jpeg(data: bytes, max_megapixels: float) -> DecodedImage | None:
    """The image of a JPEG file with ``jpeg`` in place of pixels, thumbnail and hash; None for
    what no device decodes as Pillow does, other formats among it.

    Raises ImageError (too_large, truncated, corrupt) as ``decode_image`` does.
    """
    if sniff_format(data[:SNIFF_BYTES]) != "JPEG":
        return None
    image = open_image(data, max_megapixels=max_megapixels)
    if not _is_ordinary(image, data):
        return None
    with only_image_errors(data, "JPEG"):
        metadata = read_metadata(image)
    nothing = np.empty((0, 0, 3), np.uint8)
    return DecodedImage(
        nothing, hashlib.sha256(data).digest(), len(data), None, metadata, jpeg=data
    )


def _is_ordinary(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether it is baseline, grey or of the usual colours, and whole."""
    info = image.info
    return (
        image.format in ("JPEG", "MPO")
        and image.mode in ("RGB", "L")
        and not info.get("progressive")
        # Colours that are RGB in the file, which says so in one way or another.
        and info.get("adobe_transform", 1) != 0
        and [layer[0] for layer in getattr(image, "layer", ())] != _RGB_IDS
        # Of one that is cut short Pillow is to say so; a device may fill in grey.
        and data.rstrip(b"\0").endswith(b"\xff\xd9")
    )
