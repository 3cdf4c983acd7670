"""Any picture Pillow can hold, as the 8-bit grey or RGB that a person would see."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms


def to_rgb_or_grey(image: Image.Image) -> Image.Image:
    """The same picture in mode "RGB" or "L"; the image itself when it is that already.

    Transparent parts become white. 16-bit grey keeps its upper 8 bits; 32-bit and floating grey
    are taken as they are within 0..255 (floats within 0..1 as fractions of white) and otherwise
    stretched from their least to their greatest value. Colour profiles are not applied, because
    the encoders saw pictures without them.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_grey(image)
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode in ("RGB", "L"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    try:
        with_alpha = image.convert("RGBA")
    except ValueError:  # a "transparency" note that does not fit the mode means nothing
        return image.convert("RGB")
    alpha = with_alpha.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return with_alpha.convert("RGB")
    canvas = Image.new("RGB", image.size, (255, 255, 255))
    canvas.paste(with_alpha, mask=alpha)
    return canvas


def _deep_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values >> 8).astype(np.uint8))
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    if low < 0 or high > 255:
        numbers = (numbers - low) * (255.0 / (high - low)) if high > low else numbers
    elif image.mode == "F" and high <= 1.0:
        numbers = numbers * 255.0
    return Image.fromarray(np.clip(np.rint(numbers), 0, 255).astype(np.uint8))


def _from_lab(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # None only when it works in place
    return converted
