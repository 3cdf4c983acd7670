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
from clipsearch.picture_sizes import (
    LIBJPEG,
    ScaledPhoto,
    resized_size_of,
    scale_in_decoder,
    within,
)
from clipsearch.remote_urls import is_remote

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

RESIZED_PIXELS = 64_000_000
"""A picture one pixel high would be resized to gigabytes before its middle is cut out."""

_WHOLE_FILE = 1 << 40
"""Bytes that a JPEG decoder is handed at once: all that there are. Pillow's pieces of 64 KiB make
libjpeg begin each piece's last block anew, and read near their ends by its slow path."""

_MOVED_PIXELS = 2_000_000
"""More are resized where they were decoded: they would cross two memories and a pipe."""

# 0.6 of the work of bicubic, which for a 500-pixel photo is nearly as much as decoding it. Not
# "hamming", as light: its screenshots and pages of text differ from their copies' by too much for
# `dups`.
_THUMBNAIL_FILTER = Image.Resampling.BILINEAR
# JPEG: WebP of the same size and likeness takes ten times as long, half of a small photo's work.
_THUMBNAIL_QUALITY = 80


@dataclass(frozen=True)
class DecodedImage:
    """An image file, decoded once for everything that is kept of it.

    pixels : (geometry.height, geometry.width, 3) uint8 RGB, upright, for ``encode_images``.
    sha256 : 32 bytes, of the file as it is. size : bytes of the file.
    thumbnail : a JPEG file, upright, or None when none was asked for.
    jpeg : the file itself where a device is still to decode it (``undecoded_jpeg``): there are
        no pixels, thumbnail and hash then.
    scaled : where the photo is in ``pixels`` that are still to be resized, if its decoder made
        it smaller.
    """

    pixels: UInt8
    sha256: bytes
    size: int
    thumbnail: bytes | None
    metadata: PhotoMetadata
    jpeg: bytes | None = None
    scaled: ScaledPhoto | None = None


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
        size wanted, nor below 320 pixels, which is several times faster for camera photos and
        changes pixels a little. Other formats and small JPEGs are decoded as by "exact".
    max_megapixels : larger pictures are refused before they are decoded.
    thumbnail_side : longest side of the thumbnail in pixels, never more than the picture's own;
        None for no thumbnail.

    Raises ImageError (any reason), and OptionError for another ``decode``.
    """
    _check_decode(decode)
    data = read_file(path, max_megapixels)
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
    resize: str = "host",
) -> DecodedImage:
    """Decode an image file whose bytes are in memory already; options as in ``read_image``.

    name : what the image is called. The bytes tell the format; only a RAW photo that is built
        like a TIFF, and does not say more, is told from one by the ending of its name.
    resize : "device" leaves that to ``device_pixels``: ``pixels`` are the picture's own then,
        (h, w, 3) or grey (h, w), unless these are so many that moving them would take longer.

    Raises ImageError (empty, too_large, truncated, corrupt, unsupported), OptionError.
    """
    _check_decode(decode)
    scaled: ScaledPhoto | None = None

    def before_loading(image: ImageFile.ImageFile, orientation: int) -> None:
        nonlocal scaled
        if image.format in LIBJPEG:
            image.decodermaxblock = _WHOLE_FILE
        if decode == "fast":
            scaled = scale_in_decoder(image, orientation, geometry, thumbnail_side)

    if is_raw(data, name):
        from clipsearch.raw_photo import read_raw

        least_side = max(geometry.width, geometry.height)
        with only_image_errors(data, "RAW"):
            image, turn, metadata = read_raw(data, least_side, max_megapixels, before_loading)
            picture = to_rgb_or_grey(_turned(image, turn))
    else:
        picture, metadata = _decode(data, max_megapixels, before_loading)
    with only_image_errors(data, metadata.format):
        is_moved = resize == "device" and picture.width * picture.height <= _MOVED_PIXELS
        pixels = np.array(picture) if is_moved else fit_to_geometry(picture, geometry, scaled)
        thumbnail = None if thumbnail_side is None else _thumbnail(picture, thumbnail_side, scaled)
        phash = perceptual_hash(picture, scaled.box if scaled else None)
        metadata = replace(metadata, phash=phash)
    sha256 = hashlib.sha256(data).digest()
    left = scaled if is_moved else None  # to be taken account of where it is resized
    return DecodedImage(pixels, sha256, len(data), thumbnail, metadata, scaled=left)


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


def fit_to_geometry(
    image: Image.Image, geometry: ImageGeometry, scaled: ScaledPhoto | None = None
) -> UInt8:
    """Resize, crop or pad a picture, already upright, to (height, width, 3) uint8 RGB.

    Follows open_clip's evaluation transform to the bit, with two differences: colours are
    converted before resizing rather than after (the same for RGB and grey), transparency goes
    onto white, and pictures more than a thousand times longer than wide are cut before they are
    resized.

    scaled : of a photo that its decoder made smaller: the sizes follow from those of the photo.
    """
    image = to_rgb_or_grey(image)
    resized_size = resized_size_of(scaled.size if scaled else image.size, geometry)
    resampling = _RESAMPLING[geometry.interpolation]
    if geometry.resize_mode == "shortest" and geometry.height != geometry.width:
        # open_clip does not hand the interpolation on in this one case.
        resampling = Image.Resampling.BICUBIC
    if resized_size[0] * resized_size[1] > RESIZED_PIXELS:
        image = _cut_middle(image, resized_size, geometry)
        resized_size, scaled = resized_size_of(image.size, geometry), None
    if scaled is not None or image.size != resized_size:
        image = image.resize(resized_size, resampling, scaled.box if scaled else None)
    if geometry.resize_mode != "squash":
        fill = geometry.fill if geometry.resize_mode == "longest" else 0
        image = _centre_crop(image, geometry.width, geometry.height, fill)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _check_decode(decode: str) -> None:
    if decode not in ("exact", "fast"):
        raise OptionError(f'decode is "exact" or "fast", not {decode!r}')


def most_bytes_of_file(max_megapixels: float) -> int:
    """How long a file may be. No picture within the limit needs more than 16 bytes a pixel; a
    film with the name of a photo must not fill the memory."""
    return int(min(max_megapixels, 1e9) * 16e6) + (64 << 20)


def read_file(path: str | bytes | os.PathLike[str], max_megapixels: float) -> bytes:
    """The bytes of an image file, which may be in object storage. Raises ImageError: vanished,
    unreadable, unsupported (of what begins like no image), too_large; and RemoteError."""
    most = most_bytes_of_file(max_megapixels)
    if is_remote(os.fsdecode(path)):
        from clipsearch.remote_images import read_object

        return read_object(os.fsdecode(path), most=most)
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


def _upright(image: Image.Image) -> Image.Image:
    # Asked again after load(): TIFF and HEIF are upright by then, and say so.
    exif = attempt(image.getexif)
    return image if exif is None else _turned(image, to_orientation(exif.get(0x0112)))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)


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


def _thumbnail(picture: Image.Image, side: int, scaled: ScaledPhoto | None) -> bytes:
    size, box = (scaled.size, scaled.box) if scaled else (picture.size, None)
    small = picture.resize(within(size, side), _THUMBNAIL_FILTER, box, reducing_gap=2.0)
    return thumbnail_file(small)


def thumbnail_file(small: Image.Image) -> bytes:
    """A picture of a thumbnail's size, RGB or grey, as the JPEG file that is kept of it."""
    small.info.clear()  # a comment of the photo's would be written along, if it fits
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=_THUMBNAIL_QUALITY)
    return stream.getvalue()
