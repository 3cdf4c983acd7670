"""Pictures made worse, or drawn anew: what a camera, a bad connection or a hand does to them.

Damage has the five severities of ImageNet-C (Hendrycks & Dietterich, "Benchmarking Neural Network
Robustness to Common Corruptions and Perturbations", ICLR 2019), on pictures of 224 pixels as
there, made here with Pillow and NumPy. Styles have none. The noise of a picture depends on its
number alone, so everybody tested gets the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from clipsearch.encoder import UInt8

SIDE = 224
"""Pixels of the square pictures that severities are meant for."""
SEVERITIES = (1, 2, 3, 4, 5)

_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)  # standard deviation, of colours 0..1
_BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)  # standard deviation, pixels
_QUALITY = (25, 18, 15, 10, 7)
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_PIXELS = (0.6, 0.5, 0.4, 0.3, 0.25)  # of the side

_BRUSH = 4  # radius of a stroke, pixels
_POSTER_BITS = 2  # of each colour


def _noise(picture: UInt8, severity: int, number: int) -> UInt8:
    chance = np.random.default_rng([number, severity])
    grains = chance.standard_normal(picture.shape, np.float32) * (255 * _NOISE[severity - 1])
    return (picture + grains).clip(0, 255).round().astype(np.uint8)


def _blur(picture: UInt8, severity: int, _: int) -> UInt8:
    filtered = Image.fromarray(picture).filter(ImageFilter.GaussianBlur(_BLUR[severity - 1]))
    return np.asarray(filtered)


def _jpeg(picture: UInt8, severity: int, _: int) -> UInt8:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY[severity - 1])
    return np.asarray(Image.open(file).convert("RGB"))


def _contrast(picture: UInt8, severity: int, _: int) -> UInt8:
    level = picture.mean(axis=(0, 1), keepdims=True)
    faded = (picture - level) * _CONTRAST[severity - 1] + level
    return faded.clip(0, 255).round().astype(np.uint8)


def _pixelate(picture: UInt8, severity: int, _: int) -> UInt8:
    height, width = picture.shape[:2]
    share = _PIXELS[severity - 1]
    small = Image.fromarray(picture).resize(
        (max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def _sketch(picture: UInt8, *_: int) -> UInt8:
    """Pencil: what differs from its surroundings is dark, all else is paper."""
    grey = ImageOps.grayscale(Image.fromarray(picture))
    soft = np.asarray(grey.filter(ImageFilter.GaussianBlur(5)), np.float32)
    paper = np.minimum(np.asarray(grey, np.float32) * 255 / np.maximum(soft, 1), 255) / 255
    lines = (255 * paper**2).round().astype(np.uint8)
    return np.repeat(lines[:, :, None], 3, axis=2)


def _poster(picture: UInt8, *_: int) -> UInt8:
    """A few flat and strong colours."""
    flat = Image.fromarray(picture).filter(ImageFilter.MedianFilter(5))
    return np.asarray(ImageOps.posterize(ImageEnhance.Color(flat).enhance(1.8), _POSTER_BITS))


def _painting(picture: UInt8, *_: int) -> UInt8:
    """Strokes of a brush, after Kuwahara's filter: a pixel takes the mean of that one of the four
    squares at its corners which varies least."""
    span, reach = _BRUSH + 1, _BRUSH
    wide = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    wide = wide.astype(np.float64)
    means = _box_means(wide, span)
    spread = (_box_means(wide**2, span) - means**2).sum(axis=2)
    height, width = picture.shape[:2]
    corners = [(down, right) for down in (0, reach) for right in (0, reach)]
    spreads = np.stack([spread[y : y + height, x : x + width] for y, x in corners])
    colours = np.stack([means[y : y + height, x : x + width] for y, x in corners])
    least = spreads.argmin(axis=0)[None, :, :, None]
    painted = np.take_along_axis(colours, least, axis=0)[0]
    return painted.clip(0, 255).round().astype(np.uint8)


def _box_means(values: npt.NDArray[np.float64], span: int) -> npt.NDArray[np.float64]:
    """(h - span + 1, w - span + 1, 3) means of squares, by their top left corners."""
    sums = np.pad(values, ((1, 0), (1, 0), (0, 0))).cumsum(axis=0).cumsum(axis=1)
    whole = sums[span:, span:] - sums[:-span, span:] - sums[span:, :-span] + sums[:-span, :-span]
    return whole / span**2


DAMAGE: dict[str, Callable[[UInt8, int, int], UInt8]] = {
    "noise": _noise,
    "blur": _blur,
    "JPEG": _jpeg,
    "contrast": _contrast,
    "pixelate": _pixelate,
}
STYLES: dict[str, Callable[[UInt8, int, int], UInt8]] = {
    "sketch": _sketch,
    "poster": _poster,
    "painting": _painting,
}


def changed_picture(kind: str, severity: int, picture: UInt8, number: int) -> UInt8:
    """A (height, width, 3) picture with one kind of damage, or in a style.

    severity : 1..5; a style takes none. number : of the picture, which decides its noise.
    """
    made = (DAMAGE | STYLES)[kind](picture, severity, number)
    return np.ascontiguousarray(made)
