"""RAW photos, opened by LibRaw; the only rawpy import. It comes with the extra "raw"."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageFile

from clipsearch.embedded_text import EmbeddedText, parse_xmp
from clipsearch.errors import ImageError
from clipsearch.exif import attempt, to_orientation
from clipsearch.file_kinds import RAW_CURE
from clipsearch.image_formats import check_size, open_image
from clipsearch.photo_metadata import PhotoMetadata, metadata_of
from clipsearch.raw_structure import ends_early, read_raw_exif

_LONG_SIDE = 640
"""A preview that is smaller is no picture to judge a photo by."""

# LibRaw's turn of a picture (1 mirror, 2 upside down, 4 transpose) as an EXIF orientation
_ORIENTATION = {0: 1, 1: 2, 3: 3, 2: 4, 4: 5, 6: 6, 7: 7, 5: 8}


def read_raw(
    data: bytes,
    least_side: int,
    max_megapixels: float,
    before_loading: Callable[[ImageFile.ImageFile, int], None],
) -> tuple[Image.Image, int, PhotoMetadata]:
    """(picture, EXIF orientation that turns it upright, metadata without ``phash``) of a photo.

    The picture is the JPEG that the camera laid into the file, where that has ``least_side``
    pixels on its shorter side and 640 on its longer one; else the photo developed, at half its
    size where that is enough. What is chosen depends on the file and ``least_side`` alone.

    before_loading : called with the JPEG and its orientation, opened and not yet decoded.

    Raises ImageError: unsupported (without rawpy, too), too_large, truncated, corrupt.
    """
    try:
        import rawpy
    except ImportError as error:
        raise ImageError("unsupported", f"a RAW photo: {RAW_CURE} to read it") from error
    if ends_early(data):
        raise ImageError("truncated", "the RAW data ends early (file cut short?)")
    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            sizes = raw.sizes
            check_size(sizes.raw_width, sizes.raw_height, max_megapixels)
            turn = _ORIENTATION.get(sizes.flip, 1)
            metadata = _metadata(data, sizes.width, sizes.height, turn)
            preview = _preview(rawpy, raw, least_side, turn, max_megapixels, before_loading)
            if preview is not None:
                return *preview, metadata
            halves = sorted((sizes.width // 2, sizes.height // 2))
            pixels = raw.postprocess(
                half_size=halves[0] >= least_side and halves[1] >= _LONG_SIDE,
                use_camera_wb=True,
                output_bps=8,
                user_flip=0,
            )
            return Image.fromarray(pixels), turn, metadata
    except rawpy.LibRawError as error:
        raise _as_image_error(rawpy, error) from error


def _metadata(data: bytes, width: int, height: int, turn: int) -> PhotoMetadata:
    exif, packet = read_raw_exif(data)
    orientation = to_orientation(exif.main.get(0x0112) or turn)
    if turn >= 5:
        width, height = height, width
    xmp = attempt(lambda: parse_xmp(packet)) or EmbeddedText()
    return metadata_of(exif, xmp, EmbeddedText(), "RAW", (width, height), orientation)


def _preview(
    rawpy: Any,
    raw: Any,
    least_side: int,
    turn: int,
    max_megapixels: float,
    before_loading: Callable[[ImageFile.ImageFile, int], None],
) -> tuple[Image.Image, int] | None:
    """The JPEG inside and its orientation; None when there is none, or none that will do."""
    try:
        thumb = raw.extract_thumb()
        if thumb.format != rawpy.ThumbFormat.JPEG:
            return None
        image = open_image(thumb.data, max_megapixels=max_megapixels)
        width, height = image.size
        if min(width, height) < least_side or max(width, height) < _LONG_SIDE:
            return None
        if turn >= 5 and (width < height) != (raw.sizes.width < raw.sizes.height):
            turn = 1  # a camera that turns its previews itself
        before_loading(image, turn)
        image.load()
    except (rawpy.LibRawError, ImageError, OSError, ValueError, SyntaxError):
        return None  # a damaged preview is no loss
    return image, turn


def _as_image_error(rawpy: Any, error: Exception) -> ImageError:
    if isinstance(error, rawpy.LibRawIOError):
        return ImageError("truncated", "the RAW data ends early (file cut short?)")
    if isinstance(error, rawpy.LibRawUnsufficientMemoryError | rawpy.LibRawTooBigError):
        return ImageError("too_large", "the RAW needs more memory than there is")
    if isinstance(error, rawpy.LibRawFileUnsupportedError | rawpy.LibRawNotImplementedError):
        return ImageError("unsupported", "a kind of RAW that is not read here")
    return ImageError("corrupt", "the RAW data is damaged")
