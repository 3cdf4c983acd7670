"""Pictures of any size to the pixels of an encoder, on the device that encodes them.

What ``images.fit_to_geometry`` does with Pillow, with torch: the pictures go to the device as
the decoder left them, one byte a channel, and are resized, cropped or padded there. Two passes,
each rounded to whole grey levels, as Pillow has them: of photos made smaller hardly a pixel
differs, and by one grey level.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import pad

from clipsearch.device_queue import Tensor, to_device
from clipsearch.encoder import ImageGeometry, UInt8
from clipsearch.images import RESIZED_PIXELS, fit_to_geometry
from clipsearch.picture_sizes import Box, ScaledPhoto, Size, resized_size_of

_GREATEST_SCALE = 60
"""A device's kernel keeps the weights of one pixel in 48 KiB, which is what its filter takes at
about 90 times the size. Pictures that are made smaller still are left to Pillow."""

_RESIZED_TOGETHER = 8_000_000
"""Pixels of equal pictures that are resized in one call: as float32 that is 96 MB."""


def fit_pictures(
    pictures: Sequence[UInt8 | Tensor],
    geometry: ImageGeometry,
    device: torch.device,
    scaled: Sequence[ScaledPhoto | None] | None = None,
) -> Tensor:
    """(n, 3, height, width) uint8 on ``device``: each picture resized, then cropped or padded.

    pictures : upright; (h, w, 3) RGB or (h, w) grey uint8 arrays of any size, or such pictures
        as tensors that are on the device already, (3, h, w) or (1, h, w), which it ``resizes``.
    scaled : for each of them, of a photo that its decoder made smaller, where that is in it.
    """
    photos = [None] * len(pictures) if scaled is None else scaled
    out = torch.empty(
        (len(pictures), 3, geometry.height, geometry.width), dtype=torch.uint8, device=device
    )
    rows = [row for row, one in enumerate(pictures) if not torch.is_tensor(one)]
    left_to_pillow = [row for row in rows if not _fits_here(pictures[row], photos[row], geometry)]
    on_device: list[Tensor | None] = [one if torch.is_tensor(one) else None for one in pictures]
    taken = [row for row in rows if row not in left_to_pillow]
    arrays = [np.ascontiguousarray(pictures[row]) for row in taken]
    # What Pillow fits goes along in the same copy.
    arrays += [
        fit_to_geometry(Image.fromarray(np.asarray(pictures[row])), geometry, photos[row])
        for row in left_to_pillow
    ]
    for row, tensor in zip(taken + left_to_pillow, to_device(arrays, device), strict=True):
        on_device[row] = tensor
    for row in left_to_pillow:
        fitted = on_device[row]
        assert fitted is not None
        out[row] = fitted
    others = [row for row in range(len(pictures)) if row not in set(left_to_pillow)]
    for group in _groups(others, on_device, photos):
        batch = torch.stack([on_device[row] for row in group])
        out[group] = _fit(batch, geometry, photos[group[0]])
    return out


def _size(picture: UInt8 | Tensor) -> Size:
    """(width, height)."""
    height, width = picture.shape[-2:] if torch.is_tensor(picture) else picture.shape[:2]
    return int(width), int(height)


def resizes(size: Size, wanted: Size) -> bool:
    """Whether a device resizes pictures of one (width, height) to the other."""
    is_small = wanted[0] * wanted[1] <= RESIZED_PIXELS
    return is_small and max(size[0] / wanted[0], size[1] / wanted[1]) <= _GREATEST_SCALE


def _fits_here(
    picture: UInt8 | Tensor, scaled: ScaledPhoto | None, geometry: ImageGeometry
) -> bool:
    size = _size(picture)
    return resizes(size, resized_size_of(scaled.size if scaled else size, geometry))


def _groups(
    rows: list[int], pictures: Sequence[Tensor | None], photos: Sequence[ScaledPhoto | None]
) -> Iterator[list[int]]:
    """The rows of pictures of one shape, and of photos of one size, as many as are resized in one
    call."""

    def shape(row: int) -> tuple[tuple[int, ...], tuple[object, ...]]:
        picture, photo = pictures[row], photos[row]
        assert picture is not None
        return tuple(picture.shape), () if photo is None else (photo.size, photo.box)

    for ((_, height, width), _photo), alike in itertools.groupby(
        sorted(rows, key=shape), key=shape
    ):
        together = list(alike)
        most = max(1, _RESIZED_TOGETHER // (height * width))
        for start in range(0, len(together), most):
            yield together[start : start + most]


def _fit(batch: Tensor, geometry: ImageGeometry, scaled: ScaledPhoto | None) -> Tensor:
    """(n, c, h, w) uint8 -> (n, 3, height, width) uint8; c is 1 or 3."""
    own = (batch.shape[-1], batch.shape[-2])
    size = resized_size_of(scaled.size if scaled else own, geometry)
    mode = geometry.interpolation
    if geometry.resize_mode == "shortest" and geometry.height != geometry.width:
        mode = "bicubic"  # as open_clip, see fit_to_geometry
    batch = resize(batch, size, mode, scaled.box if scaled else None)
    if geometry.resize_mode != "squash":
        fill = geometry.fill if geometry.resize_mode == "longest" else 0
        batch = _centre_crop(batch, geometry.width, geometry.height, fill)
    return batch.expand(-1, 3, -1, -1)


def resize(batch: Tensor, size: Size, mode: str, box: Box | None = None) -> Tensor:
    """(n, c, h, w) uint8 -> (n, c, height, width) uint8, antialiased as Pillow's ``resize``.

    size : (width, height). mode : "bicubic" or "bilinear". box : what of the picture is taken,
        less than a pixel away from two of its edges at most, and at the others; None for all.
    """
    width, height = size
    high, wide = batch.shape[-2:]
    left, upper, right, lower = box or (0.0, 0.0, float(wide), float(high))
    # A kernel begins at the first pixel: what does not, does so in the mirror.
    mirrored = [axis for axis, start in ((-1, left), (-2, upper)) if start > 0]
    if mirrored:
        batch = batch.flip(mirrored)
    across, down = (width, right - left, -1), (height, lower - upper, -2)
    # Pillow begins with the height only here.
    passes = (down, across) if high > 100 * wide and height < high else (across, down)
    for pixels, taken, axis in passes:
        if pixels != batch.shape[axis] or taken != batch.shape[axis]:
            batch = _one_pass(batch, pixels, taken, axis, mode)
    if mirrored:
        batch = batch.flip(mirrored)
    return batch.to(torch.uint8)


_KERNELS = {
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa,
}
"""What ``interpolate`` calls, which does not take a size and a scale both."""


def _one_pass(batch: Tensor, pixels: int, taken: float, axis: int, mode: str) -> Tensor:
    """The first ``taken`` pixels along an axis, -1 or -2, resized to ``pixels``: float32 of whole
    numbers 0 .. 255."""
    size = list(batch.shape[-2:])
    size[axis] = pixels
    scales: list[float | None] = [None, None]
    scales[axis] = pixels / taken
    resized = _KERNELS[mode](batch.to(torch.float32), size, False, *scales)
    # Pillow rounds halves up.
    return resized.add_(0.5).floor_().clamp_(0, 255)


def _centre_crop(batch: Tensor, width: int, height: int, fill: int) -> Tensor:
    wide, high = max(width, batch.shape[-1]), max(height, batch.shape[-2])
    left, top = (wide - batch.shape[-1]) // 2, (high - batch.shape[-2]) // 2
    if (wide, high) != (batch.shape[-1], batch.shape[-2]):
        right, bottom = wide - batch.shape[-1] - left, high - batch.shape[-2] - top
        batch = pad(batch, (left, right, top, bottom), value=fill)
    left, top = round((wide - width) / 2.0), round((high - height) / 2.0)
    return batch[..., top : top + height, left : left + width]
