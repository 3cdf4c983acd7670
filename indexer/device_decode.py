"""Photos whose JPEGs are decoded, or whose pictures are resized, on a device.

Decoder processes read the files and their metadata, and decode what is no ordinary JPEG; the
device does the rest of many images at a time. What comes out is as from ``decode_in_order``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from clipsearch.encoder import Encoder, ImageGeometry, UInt8
from clipsearch.errors import ImageError
from clipsearch.images import DecodedImage, fit_to_geometry
from indexer.config import IndexConfig
from indexer.decode import decode_in_order
from indexer.decode_messages import DecodeOptions, Source
from indexer.decode_pool import DecodeSession
from indexer.encode_plan import EncodePlan
from indexer.stage_clock import StageClock
from indexer.tuning import free_device_memory, is_memory_error

if TYPE_CHECKING:
    import torch

AT_A_TIME = 64
_PIXELS_AT_A_TIME = 100_000_000
"""300 MB on the device while they are decoded."""

Decoded = DecodedImage | ImageError


def finish_on_device(
    decoded: Iterable[Decoded],
    options: DecodeOptions,
    device: str,
    clock: StageClock | None = None,
) -> Generator[Decoded, None, None]:
    """Yield the images of ``decoded`` in order, each with pixels of the geometry of ``options``.

    decoded : as decoded with ``options``: JPEGs that are left to the device, pictures that are
        to be resized, and what is finished or cannot be taken, which goes through.
    device : "cuda:0", "cpu". A JPEG that it does not take is decoded in a process after all.
    clock : hears how long the device's share takes, which counts as decoding.
    """
    stages = clock or StageClock()
    session = DecodeSession(dataclasses.replace(options, jpeg="host", resize="host"))
    try:
        for chunk in _chunks(decoded):
            with stages.busy("decode"):
                finished = _finished(chunk, options, device, session)
            yield from finished
    finally:
        session.cancel()
        close = getattr(decoded, "close", None)
        if close is not None:
            close()


def _chunks(decoded: Iterable[Decoded]) -> Iterator[list[Decoded]]:
    chunk: list[Decoded] = []
    pixels = 0
    for image in decoded:
        chunk.append(image)
        if isinstance(image, DecodedImage) and image.jpeg is not None:
            pixels += image.metadata.width * image.metadata.height
        if len(chunk) == AT_A_TIME or pixels >= _PIXELS_AT_A_TIME:
            yield chunk
            chunk, pixels = [], 0
    if chunk:
        yield chunk


def _finished(
    chunk: list[Decoded], options: DecodeOptions, device: str, session: DecodeSession
) -> list[Decoded]:
    import torch

    from clipsearch.device_jpeg import complete_jpegs

    there = torch.device(device)
    jpegs = {
        row: image
        for row, image in enumerate(chunk)
        if isinstance(image, DecodedImage) and image.jpeg is not None
    }
    completed: list[DecodedImage | None]
    try:
        completed = complete_jpegs(
            list(jpegs.values()), options.geometry, options.thumbnail_side, there
        )
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
        # Others, or the encoder itself, have taken the device's memory: the processes have theirs.
        completed = [None] * len(jpegs)
        free_device_memory()
    refused = []
    for row, done in zip(jpegs, completed, strict=True):
        if done is None:
            refused.append(row)
        else:
            chunk[row] = done
    if refused:
        files = [jpegs[row].jpeg or b"" for row in refused]
        # As many at a time as there are, of a chunk at most.
        with ThreadPoolExecutor(4, thread_name_prefix="decode-again") as pool:
            for row, image in zip(refused, pool.map(_decode_with(session), files), strict=True):
                chunk[row] = image
    _resize(chunk, options.geometry, there)
    return chunk


def _decode_with(session: DecodeSession) -> Callable[[bytes], Decoded]:
    def decode(file: bytes) -> Decoded:
        try:
            return session.decode(file)
        except ImageError as error:
            return error

    return decode


def _resize(chunk: list[Decoded], geometry: ImageGeometry, device: torch.device) -> None:
    """Bring the pictures of the chunk that were handed over whole to the geometry."""
    import torch
    from PIL import Image

    from clipsearch.device_pixels import fit_pictures
    from clipsearch.device_queue import own_stream

    target = (geometry.height, geometry.width, 3)
    whole = {
        row: image
        for row, image in enumerate(chunk)
        if isinstance(image, DecodedImage)
        and (image.pixels.shape != target or image.scaled is not None)
    }
    if not whole:
        return
    arrays = [image.pixels for image in whole.values()]
    scaled = [image.scaled for image in whole.values()]
    pixels: Sequence[UInt8]
    try:
        with torch.inference_mode(), own_stream(device):
            batch = fit_pictures(arrays, geometry, device, scaled)
            pixels = batch.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    except RuntimeError as error:
        if not is_memory_error(error):
            raise
        pixels = [
            fit_to_geometry(Image.fromarray(array), geometry, photo)
            for array, photo in zip(arrays, scaled, strict=True)
        ]
        free_device_memory()
    for (row, image), fitted in zip(whole.items(), pixels, strict=True):
        chunk[row] = dataclasses.replace(image, pixels=fitted, scaled=None)


def decode_for(
    sources: Iterable[Source],
    geometry: ImageGeometry,
    *,
    device: str,
    resize: str,
    jpeg: str,
    decode: str,
    max_megapixels: float,
    thumbnail_side: int | None,
    threads: int,
    look_ahead: int,
    seconds: float = 60.0,
    is_stopped: Callable[[], bool] = lambda: False,
    clock: StageClock | None = None,
) -> Generator[Decoded, None, None]:
    """As ``decode_in_order``, with what ``resize`` and ``jpeg`` ("host", "device") leave to the
    device done there."""
    options = DecodeOptions(
        geometry, decode, max_megapixels, thumbnail_side, seconds, resize=resize, jpeg=jpeg
    )
    is_on_host = resize == jpeg == "host"
    decoded = decode_in_order(
        sources,
        geometry,
        decode=decode,
        max_megapixels=max_megapixels,
        thumbnail_side=thumbnail_side,
        threads=threads,
        # The device's share begins with a chunk that is complete.
        look_ahead=look_ahead if is_on_host else max(look_ahead, AT_A_TIME + 2 * threads),
        seconds=seconds,
        is_stopped=is_stopped,
        clock=clock,
        resize=resize,
        jpeg=jpeg,
    )
    return decoded if is_on_host else finish_on_device(decoded, options, device, clock)


def decode_for_plan(
    sources: Iterable[Source],
    encoder: Encoder,
    config: IndexConfig,
    plan: EncodePlan,
    *,
    thumbnail_side: int | None,
    is_stopped: Callable[[], bool],
    clock: StageClock,
) -> Generator[Decoded, None, None]:
    """The images of a task, decoded as its settings and its plan say."""
    return decode_for(
        sources,
        encoder.space.geometry,
        device=str(encoder.recipe["device"]).split()[0],
        resize=plan.resize,
        jpeg=plan.jpeg,
        decode=config.decode,
        max_megapixels=config.max_megapixels,
        thumbnail_side=thumbnail_side,
        threads=plan.workers,
        look_ahead=plan.batch_size + 2 * plan.workers,
        seconds=config.decode_seconds,
        is_stopped=is_stopped,
        clock=clock,
    )
