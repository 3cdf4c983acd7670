"""How long a run will take, and how large its parts should be."""

from __future__ import annotations

import time

import numpy as np

from clipsearch.encoder import Encoder, Space
from clipsearch.errors import ImageError
from indexer.config import IndexConfig
from indexer.containers import sources_of
from indexer.look import Look

_PROBE_IMAGES = 16
_SHARD_ROWS = (32, 8_192)  # what a shard keeps in memory, thumbnails above all, has a bound
_SHARD_ROWS_UNMEASURED = 256


def estimate(
    encoder: Encoder | None, space: Space, seen: Look, config: IndexConfig
) -> tuple[float | None, int]:
    """Seconds the encoding will take, None when it is too little to measure, and how many
    files make a shard of the wanted length; from a trial on a few of the images."""
    rows = seen.plan.encode
    if encoder is None or len(rows) <= _PROBE_IMAGES:
        return None, _SHARD_ROWS_UNMEASURED
    from indexer.decode import decode_in_order

    chosen = rows[:: len(rows) // _PROBE_IMAGES][:_PROBE_IMAGES]
    files = seen.scan.images.files(chosen)
    decoded = decode_in_order(
        # At hand beforehand: to find a row of a Parquet file takes time that no shard takes.
        list(sources_of(files, {root.id: root.path for root in seen.manifest.roots})),
        space.geometry,
        decode=config.decode,
        max_megapixels=config.max_megapixels,
        thumbnail_side=config.thumbnail_side,
        threads=config.threads,
        look_ahead=config.threads,
        seconds=config.decode_seconds,
    )
    pixels: list[np.ndarray] = []
    begin = 0.0
    for position, image in enumerate(decoded):
        # The first ones set things up, and say nothing of the thousands to come.
        if position == min(config.threads, len(chosen) // 2):
            begin = time.perf_counter()
        if not isinstance(image, ImageError):
            pixels.append(image.pixels)
    timed = len(chosen) - min(config.threads, len(chosen) // 2)
    decoding = (time.perf_counter() - begin) / timed
    if len(pixels) < 2:
        return None, _SHARD_ROWS_UNMEASURED
    batch = np.stack(pixels)
    encoder.encode_images(batch)
    begin = time.perf_counter()
    encoder.encode_images(batch)
    encoding = (time.perf_counter() - begin) / len(batch)
    # On a CPU both take turns on the same cores; beside a GPU the slower one counts.
    on_cpu = encoder.recipe["device"] == "cpu"
    each = decoding + encoding if on_cpu else max(decoding, encoding)
    shard_rows = int(config.shard_seconds / max(each, 1e-6))
    return each * len(rows), min(max(shard_rows, _SHARD_ROWS[0]), _SHARD_ROWS[1])
