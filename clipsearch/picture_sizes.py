"""The sizes of what is made of a picture, and which part of a picture that its decoder scaled is
the photo."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ImageFile

from clipsearch.encoder import ImageGeometry

Size = tuple[int, int]
"""(width, height) in pixels."""

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge in pixels."""

LIBJPEG = ("JPEG", "MPO")

_LEAST_SIDE = 320
"""Pixels of the longer side that "fast" leaves a picture: those of the usual thumbnail, also where
none is made, so that an image has the same vector with it and without."""


@dataclass(frozen=True)
class ScaledPhoto:
    """A photo that its decoder made smaller.

    size : the photo's own, upright. box : where it is in the upright picture. A decoder rounds
    sides up: the last column and row may stand for fewer pixels than the others, and to take
    them for whole ones would shift or stretch all, and could make the encoder's picture, cut out
    of the middle, another.
    """

    size: Size
    box: Box


def resized_size_of(size: Size, geometry: ImageGeometry) -> Size:
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


def within(size: Size, side: int) -> Size:
    """The (width, height) of a thumbnail: neither side longer than ``side``, nor than it was."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def scaled_sizes(shown: Size, geometry: ImageGeometry, thumbnail_side: int | None) -> Size:
    """The least (width, height) that a photo of the size ``shown`` is scaled to by "fast": twice
    what the encoder's pixels are cut out of, and no less than a thumbnail."""
    width, height = resized_size_of(shown, geometry)
    small = within(shown, max(_LEAST_SIDE, thumbnail_side or 0))
    return max(2 * width, small[0]), max(2 * height, small[1])


def scale_in_decoder(
    image: ImageFile.ImageFile,
    orientation: int,
    geometry: ImageGeometry,
    thumbnail_side: int | None,
) -> ScaledPhoto | None:
    """Let a JPEG, opened and not yet loaded, be decoded at 1/2, 1/4 or 1/8, but not below
    ``scaled_sizes``. None where that leaves it as it is."""
    if image.format not in LIBJPEG:
        return None
    stored, is_turned = image.size, orientation >= 5
    shown = stored[::-1] if is_turned else stored
    least = scaled_sizes(shown, geometry, thumbnail_side)
    drafted = image.draft(None, least[::-1] if is_turned else least)
    if drafted is None or image.size == stored:
        return None
    (_, _, right, lower) = drafted[1]
    return scaled_photo(stored, image.size, (right, lower), orientation)


def scaled_photo(
    stored: Size, scaled: Size, edges: tuple[float, float], orientation: int
) -> ScaledPhoto:
    """The photo of the size ``stored`` in the file, of which a decoder made a picture of the size
    ``scaled``, which is to be turned as ``orientation`` says. edges : of the picture, before it is
    turned, up to where the photo goes to the right and down."""
    is_turned = orientation >= 5
    (wide, high), (right, lower) = scaled, edges
    if is_turned:
        wide, high, right, lower = high, wide, lower, right
    # Where the turn brings what was the last column or row.
    left = wide - right if orientation in (2, 3, 6, 7) else 0.0
    upper = high - lower if orientation in (3, 4, 7, 8) else 0.0
    shown = stored[::-1] if is_turned else stored
    return ScaledPhoto(shown, (left, upper, left + right, upper + lower))
