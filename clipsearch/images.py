"""One image: open safely, orient, decode to the encoder's size.

"exact" decoding gives, for upright RGB and grey pictures, the pixels that open_clip's own
evaluation transform gives, bit for bit; "fast" lets the JPEG decoder scale down first.
Pillow's warnings about odd files are left to the application to show or silence.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFile

from clipsearch.colour import to_rgb_or_grey
from clipsearch.encoder import ImageGeometry, UInt8
from clipsearch.errors import ImageError, OptionError
from clipsearch.exif import attempt, to_orientation
from clipsearch.image_formats import (
    SNIFF_BYTES,
    is_raw,
    only_image_errors,
    open_image,
    sniff_format,
    unsupported_error,
)
from clipsearch.perceptual_hash import perceptual_hash
from clipsearch.photo_metadata import PhotoMetadata, read_metadata

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}

_RESIZED_PIXELS = 64_000_000
"""A picture one pixel high would be resized to gigabytes before its middle is cut out."""

# JPEG: WebP of the same size and likeness takes ten times as long, half of a small photo's work.
_THUMBNAIL_QUALITY = 80


@dataclass(frozen=True)
class DecodedImage:
    """An image file, decoded once for everything that is kept of it.

    pixels : (geometry.height, geometry.width, 3) uint8 RGB, upright, for ``encode_images``.
    sha256 : 32 bytes, of the file as it is. size : bytes of the file.
    thumbnail : a JPEG file, upright, or None when none was asked for.
    """

    pixels: UInt8
    sha256: bytes
    size: int
    thumbnail: bytes | None
    metadata: PhotoMetadata


def read_image(
    path: str | bytes | os.PathLike[str],
    geometry: ImageGeometry,
    *,
    decode: str = "exact",
    max_megapixels: float = 200.0,
    thumbnail_side: int | None = 320,
) -> DecodedImage:
    """Read, hash and decode one image file; the file is read once.

    path : str, path object or bytes (file names need not be text).
    decode : "exact", or "fast": JPEGs are scaled by their decoder to no less than twice the
        size wanted, which is several times faster for camera photos and changes pixels a little.
    max_megapixels : larger pictures are refused before they are decoded.
    thumbnail_side : longest side of the thumbnail in pixels, never more than the picture's own;
        None for no thumbnail.

    Raises ImageError (any reason), and OptionError for another ``decode``.
    """
    _check_decode(decode)
    data = _read_file(path, max_megapixels)
    return decode_image(
        data,
        os.fsdecode(path),
        geometry,
        decode=decode,
        max_megapixels=max_megapixels,
        thumbnail_side=thumbnail_side,
    )


def decode_image(
    data: bytes,
    name: str,
    geometry: ImageGeometry,
    *,
    decode: str = "exact",
    max_megapixels: float = 200.0,
    thumbnail_side: int | None = 320,
) -> DecodedImage:
    """Decode an image file whose bytes are in memory already; options as in ``read_image``.

    name : what the image is called. The bytes tell the format; only a RAW photo that is built
        like a TIFF, and does not say more, is told from one by the ending of its name.

    Raises ImageError (empty, too_large, truncated, corrupt, unsupported), OptionError.
    """
    _check_decode(decode)

    def before_loading(image: ImageFile.ImageFile, orientation: int) -> None:
        if decode == "fast":
            _scale_in_decoder(image, orientation, geometry, thumbnail_side)

    if is_raw(data, name):
        from clipsearch.raw_photo import read_raw

        least_side = max(geometry.width, geometry.height)
        with only_image_errors(data, "RAW"):
            image, turn, metadata = read_raw(data, least_side, max_megapixels, before_loading)
            picture = to_rgb_or_grey(_turned(image, turn))
    else:
        picture, metadata = _decode(data, max_megapixels, before_loading)
    with only_image_errors(data, metadata.format):
        pixels = fit_to_geometry(picture, geometry)
        thumbnail = None if thumbnail_side is None else _thumbnail(picture, thumbnail_side)
        metadata = replace(metadata, phash=perceptual_hash(picture))
    return DecodedImage(pixels, hashlib.sha256(data).digest(), len(data), thumbnail, metadata)


def _decode(
    data: bytes,
    max_megapixels: float,
    before_loading: Callable[[ImageFile.ImageFile, int], None],
) -> tuple[Image.Image, PhotoMetadata]:
    """The upright picture, RGB or grey, and its metadata without ``phash``."""
    image = open_image(data, max_megapixels=max_megapixels)
    with only_image_errors(data, sniff_format(data[:SNIFF_BYTES]) or "image"):
        if image.format == "PNG":
            image.load()  # its EXIF and XMP may stand behind the pixels
        # Before load() for the others: a TIFF is turned upright there and forgets that it was.
        metadata = read_metadata(image)
        before_loading(image, metadata.orientation)
        image.load()
        return to_rgb_or_grey(_upright(image)), metadata


def fit_to_geometry(image: Image.Image, geometry: ImageGeometry) -> UInt8:
    """Resize, crop or pad a picture, already upright, to (height, width, 3) uint8 RGB.

    Follows open_clip's evaluation transform to the bit, with two differences: colours are
    converted before resizing rather than after (the same for RGB and grey), transparency goes
    onto white, and pictures more than a thousand times longer than wide are cut before they are
    resized.
    """
    image = to_rgb_or_grey(image)
    resized_size = _resized_size(image.size, geometry)
    resampling = _RESAMPLING[geometry.interpolation]
    if geometry.resize_mode == "shortest" and geometry.height != geometry.width:
        # open_clip does not hand the interpolation on in this one case.
        resampling = Image.Resampling.BICUBIC
    if resized_size[0] * resized_size[1] > _RESIZED_PIXELS:
        image = _cut_middle(image, resized_size, geometry)
        resized_size = _resized_size(image.size, geometry)
    if image.size != resized_size:
        image = image.resize(resized_size, resampling)
    if geometry.resize_mode != "squash":
        fill = geometry.fill if geometry.resize_mode == "longest" else 0
        image = _centre_crop(image, geometry.width, geometry.height, fill)
    return np.array(image.convert("RGB"))


def _check_decode(decode: str) -> None:
    if decode not in ("exact", "fast"):
        raise OptionError(f'decode is "exact" or "fast", not {decode!r}')


def _read_file(path: str | bytes | os.PathLike[str], max_megapixels: float) -> bytes:
    # No picture within the limit needs more than 16 bytes a pixel; a film with the name of a
    # photo must not fill the memory.
    most = int(max_megapixels * 16e6) + (64 << 20)
    try:
        # Looked at before it is opened: opening a pipe waits for a writer, a device may act.
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            what = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise ImageError("unreadable", f"this is {what}")
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            if os.fstat(file.fileno()).st_size > most:
                raise ImageError("too_large", f"the file has more than {most >> 20} MiB")
            head = file.read(SNIFF_BYTES)
            if head and sniff_format(head) is None:
                raise unsupported_error(head)
            file.seek(0)
            return file.readall()
    except FileNotFoundError as error:
        raise ImageError("vanished", "the file is not there any more") from error
    except (OSError, ValueError, MemoryError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.ENOTDIR:
            raise ImageError("vanished", "the file is not there any more") from error
        why = os.strerror(number).lower() if number else type(error).__name__
        raise ImageError("unreadable", f"the file cannot be read: {why}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    # A pipe put in the file's place since it was looked at must not block either.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _scale_in_decoder(
    image: ImageFile.ImageFile,
    orientation: int,
    geometry: ImageGeometry,
    thumbnail_side: int | None,
) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8, but not below what is made of it."""
    if image.format not in ("JPEG", "MPO"):
        return
    shown = image.size if orientation < 5 else (image.size[1], image.size[0])
    width, height = (2 * side for side in _resized_size(shown, geometry))
    if thumbnail_side is not None:
        small = _within(shown, thumbnail_side)
        width, height = max(width, small[0]), max(height, small[1])
    if orientation >= 5:
        width, height = height, width
    image.draft(None, (width, height))


def _upright(image: Image.Image) -> Image.Image:
    # Asked again after load(): TIFF and HEIF are upright by then, and say so.
    exif = attempt(image.getexif)
    return image if exif is None else _turned(image, to_orientation(exif.get(0x0112)))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


def _resized_size(size: tuple[int, int], geometry: ImageGeometry) -> tuple[int, int]:
    """(width, height) before cropping, with the rounding of torchvision and of open_clip."""
    width, height = size
    if geometry.resize_mode == "squash":
        return geometry.width, geometry.height
    if geometry.resize_mode == "shortest" and geometry.width == geometry.height:
        short = geometry.width
        long = int(short * max(size) / min(size))
        return (short, long) if width <= height else (long, short)
    ratios = (height / geometry.height, width / geometry.width)
    ratio = max(ratios) if geometry.resize_mode == "longest" else min(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _cut_middle(
    image: Image.Image, resized_size: tuple[int, int], geometry: ImageGeometry
) -> Image.Image:
    """The middle of an extremely long picture: what the crop keeps, and as much again."""
    width = min(image.width, 2 + 2 * geometry.width * image.width // resized_size[0])
    height = min(image.height, 2 + 2 * geometry.height * image.height // resized_size[1])
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _centre_crop(image: Image.Image, width: int, height: int, fill: int) -> Image.Image:
    if image.width < width or image.height < height:
        canvas_size = (max(width, image.width), max(height, image.height))
        colour = fill if image.mode == "L" else (fill, fill, fill)
        canvas = Image.new(image.mode, canvas_size, colour)
        canvas.paste(
            image, ((canvas_size[0] - image.width) // 2, (canvas_size[1] - image.height) // 2)
        )
        image = canvas
    left = round((image.width - width) / 2.0)
    top = round((image.height - height) / 2.0)
    return image.crop((left, top, left + width, top + height))


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _thumbnail(picture: Image.Image, side: int) -> bytes:
    small = picture.resize(_within(picture.size, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    small.info.clear()  # a comment of the photo's would be written along, if it fits
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_THUMBNAIL_QUALITY)
    return stream.getvalue()
