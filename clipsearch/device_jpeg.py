"""JPEGs decoded on the device that encodes them, with torchvision (nvJPEG on CUDA).

A device takes ordinary ones only: 8 bits, RGB or grey. The picture is then made smaller by a
whole factor, to no less than twice what is wanted, as a JPEG decoder does it for "fast".
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from clipsearch.device_pixels import fit_pictures, resize, resizes
from clipsearch.device_queue import Tensor, own_stream
from clipsearch.encoder import ImageGeometry, UInt8
from clipsearch.images import DecodedImage, thumbnail_file
from clipsearch.perceptual_hash import perceptual_hash
from clipsearch.picture_sizes import (
    Box,
    ScaledPhoto,
    Size,
    resized_size_of,
    scaled_photo,
    scaled_sizes,
    within,
)
from clipsearch.threads import in_order

_FACTORS = (8, 4, 2)
"""By which a JPEG decoder makes pictures smaller."""

_HASH_SIDE = 64
"""A picture is reduced to no less, each side on its own, before it is hashed, as Pillow does."""


@functools.cache
def decodes_jpeg(device: str) -> bool:
    """Whether torchvision decodes JPEGs on the device ("cuda:0", "cpu"): one is tried."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 16), (200, 100, 50)).save(stream, "JPEG")
    try:
        (picture,) = _decode([stream.getvalue()], torch.device(device))
        return (
            picture.device.type == torch.device(device).type
            and tuple(picture.shape) == (3, 16, 32)
            and abs(int(picture[0, 8, 8]) - 200) < 8
        )
    except Exception:  # not built with it, no driver, a release that has it no longer, ...
        return False


def decode_jpegs(files: Sequence[bytes], device: torch.device) -> list[Tensor | None]:
    """Each JPEG file as a (3, h, w) uint8 tensor on the device, not turned upright; None for
    those that the device does not take."""
    if not files:
        return []
    try:
        return list(_decode(files, device))
    except Exception:
        if len(files) == 1:
            return [None]
    # A call gives all or nothing. In halves, so that one bad file costs few calls.
    half = len(files) // 2
    return decode_jpegs(files[:half], device) + decode_jpegs(files[half:], device)


def _decode(files: Sequence[bytes], device: torch.device) -> list[Tensor]:
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [torch.from_numpy(np.frombuffer(file, np.uint8).copy()) for file in files]
    if device.type == "cuda":
        # nvJPEG's own engine does not wait for work of this stream that still reads the memory
        # which it gets for its pictures (pytorch/vision #9606).
        torch.cuda.current_stream(device).synchronize()
    pictures: list[Tensor] = decode_jpeg(data, mode=ImageReadMode.RGB, device=device)
    return pictures


def upright(picture: Tensor, orientation: int) -> Tensor:
    """A (c, h, w) picture turned as its EXIF orientation 1 .. 8 asks."""
    match orientation:
        case 2:
            return picture.flip(2)
        case 3:
            return picture.flip(1, 2)
        case 4:
            return picture.flip(1)
        case 5:
            return picture.transpose(1, 2)
        case 6:
            return picture.transpose(1, 2).flip(2)
        case 7:
            return picture.transpose(1, 2).flip(1, 2)
        case 8:
            return picture.transpose(1, 2).flip(1)
        case _:
            return picture


def reduced(
    picture: Tensor, orientation: int, geometry: ImageGeometry, thumbnail_side: int | None
) -> tuple[Tensor, ScaledPhoto | None]:
    """The (c, h, w) picture of a file, turned upright, at 1/2, 1/4 or 1/8 of its size, but no
    smaller than the thumbnail, and than twice what the encoder's pixels are cut out of.

    With it where the photo is in the picture, None where it has its own size.
    """
    height, width = picture.shape[-2:]
    shown = (height, width) if orientation >= 5 else (width, height)
    factor = _factor(shown, geometry, thumbnail_side)
    if factor == 1:
        return upright(picture, orientation), None
    # Before it is turned, as a decoder does it: the cells begin where the file does.
    small = _mean_of_cells(picture, (factor, factor))
    size, edges = (small.shape[-1], small.shape[-2]), (width / factor, height / factor)
    scaled = scaled_photo((width, height), size, edges, orientation)
    return upright(small, orientation), scaled


def _factor(size: Size, geometry: ImageGeometry, thumbnail_side: int | None) -> int:
    wide, high = scaled_sizes(size, geometry, thumbnail_side)
    most = min(size[0] // wide, size[1] // high)
    return next((factor for factor in _FACTORS if factor <= most), 1)


def _takes(image: DecodedImage, geometry: ImageGeometry, thumbnail_side: int | None) -> bool:
    """False of a strip so long that a device cannot resize it: Pillow can."""
    size = (image.metadata.width, image.metadata.height)
    factor = _factor(size, geometry, thumbnail_side)
    least = (-(-size[0] // factor), -(-size[1] // factor))
    wanted = [resized_size_of(least, geometry)]
    if thumbnail_side is not None:
        wanted.append(within(size, thumbnail_side))
    return all(resizes(least, one) for one in wanted)


def _mean_of_cells(picture: Tensor, cell: tuple[int, int]) -> Tensor:
    """A (c, h, w) picture of a pixel for each cell of (high, wide) pixels. Those at the right and
    at the bottom may have fewer pixels, as a JPEG decoder has them, and Pillow."""
    if cell == (1, 1):
        return picture
    mean = avg_pool2d(picture[None].to(torch.float32), cell, ceil_mode=True)[0]
    return mean.add_(0.5).floor_().to(torch.uint8)


def complete_jpegs(
    images: Sequence[DecodedImage],
    geometry: ImageGeometry,
    thumbnail_side: int | None,
    device: torch.device,
) -> list[DecodedImage | None]:
    """Images of which only the metadata was read (``jpeg`` holds the file) with their pixels,
    thumbnail and hash; None for those that the device does not take."""
    with torch.inference_mode(), own_stream(device):
        decoded: list[Tensor | None] = [None] * len(images)
        rows = [row for row, one in enumerate(images) if _takes(one, geometry, thumbnail_side)]
        whole = decode_jpegs([images[row].jpeg or b"" for row in rows], device)
        while whole:  # the list must keep no picture alive
            decoded[rows.pop()] = whole.pop()
        taken = [row for row, picture in enumerate(decoded) if picture is not None]
        pictures, scaled = list[Tensor](), list[ScaledPhoto | None]()
        for row in taken:
            turn = images[row].metadata.orientation
            picture, photo = reduced(decoded[row], turn, geometry, thumbnail_side)
            pictures.append(picture)
            scaled.append(photo)
            decoded[row] = None  # the whole picture is not needed any more
        fitted = fit_pictures(pictures, geometry, device, scaled)
        pixels = fitted.permute(0, 2, 3, 1).cpu().numpy()
        boxes = [_box(*each) for each in zip(pictures, scaled, strict=True)]
        small = [
            _mean_of_cells(picture, _hash_cell(box))
            for picture, box in zip(pictures, boxes, strict=True)
        ]
        small = [picture.permute(1, 2, 0) for picture in small]
        if thumbnail_side is not None:
            shown = [(images[row].metadata.width, images[row].metadata.height) for row in taken]
            sizes = [within(size, thumbnail_side) for size in shown]
            small += [_thumbnail(*each) for each in zip(pictures, sizes, boxes, strict=True)]
        arrays = _to_host(small)
    rest: list[UInt8 | None] = [*arrays[len(taken) :]] or [None] * len(taken)
    parts = zip(taken, pixels, arrays, boxes, rest, strict=False)

    def kept(part: tuple[int, UInt8, UInt8, Box, UInt8 | None]) -> DecodedImage:
        row, own, hashed, box, thumbnail = part
        high, wide = _hash_cell(box)
        left, upper, right, lower = box
        in_cells = (left / wide, upper / high, right / wide, lower / high)
        phash = perceptual_hash(Image.fromarray(hashed), in_cells)
        return replace(
            images[row],
            pixels=own,
            thumbnail=None if thumbnail is None else thumbnail_file(Image.fromarray(thumbnail)),
            metadata=replace(images[row].metadata, phash=phash),
            jpeg=None,
        )

    completed: list[DecodedImage | None] = [None] * len(images)
    # Pillow writes a JPEG without the interpreter's lock.
    for row, image in zip(taken, in_order(kept, parts), strict=True):
        completed[row] = image
    return completed


def _box(picture: Tensor, scaled: ScaledPhoto | None) -> Box:
    """Where the photo is in its picture."""
    if scaled is not None:
        return scaled.box
    return 0.0, 0.0, float(picture.shape[-1]), float(picture.shape[-2])


def _hash_cell(box: Box) -> tuple[int, int]:
    """By how much Pillow's ``reducing_gap`` reduces the height and the width first."""
    left, upper, right, lower = box
    return max(1, int((lower - upper) / _HASH_SIDE)), max(1, int((right - left) / _HASH_SIDE))


def _thumbnail(picture: Tensor, size: Size, box: Box) -> Tensor:
    (width, height), (left, upper, right, lower) = size, box
    # As Pillow's ``reducing_gap`` of 2 has it.
    wide = max(1, int((right - left) / width / 2))
    high = max(1, int((lower - upper) / height / 2))
    small = _mean_of_cells(picture, (high, wide))
    in_cells = (left / wide, upper / high, right / wide, lower / high)
    return resize(small[None], size, "bilinear", in_cells)[0].permute(1, 2, 0)


def _to_host(pictures: Sequence[Tensor]) -> list[UInt8]:
    """Each uint8 tensor as an array, in one copy."""
    if not pictures:
        return []
    flat = torch.cat([picture.reshape(-1) for picture in pictures]).cpu()
    parts = torch.split(flat, [picture.numel() for picture in pictures])
    return [part.view(picture.shape).numpy() for part, picture in zip(parts, pictures, strict=True)]
