"""Whether vectors are fit to be imported: numbers that make a direction, of the right model."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Encoder, Float32
from clipsearch.errors import ImageError, SpaceMismatchError
from indexer.config import IndexConfig
from indexer.decode import decode_in_order
from indexer.import_source import ImportSource, Matrix

CHECKED_IMAGES = 16
LOOKED_AT = 512
"""As many vectors are drawn to find images that are there: enough where one in thirty is."""

LEAST_COSINE = 0.95
"""The same picture through the same model gives 0.999 and more in half precision, and 0.97 and
more with another library's resizing. Other models agree on nothing (about 0), and two different
photos in one model, which is what a list in another order gives, stay well below."""


def unit_rows(block: Matrix) -> tuple[Float32, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(n, dim) float32 rows of length 1, and two (n,) bool: rows that are not finite, and rows
    that are zero. Neither of those has a direction; they come out as zeros."""
    rows = np.asarray(block, np.float64)
    largest = np.abs(rows).max(axis=1, initial=0.0)  # nan where one of them is
    not_finite = ~np.isfinite(largest)
    zero = largest == 0
    # By the largest number first: the squares of tiny and of huge ones would be 0 and infinite.
    scale = np.where(not_finite | zero, 1.0, largest)
    rows = np.where((not_finite | zero)[:, None], 0.0, rows / scale[:, None])
    lengths = np.linalg.norm(rows, axis=1)
    return (
        (rows / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32),
        not_finite,
        zero,
    )


def drawn_rows(count: int) -> list[int]:
    """Rows to look at for the check, of ``count``, in a random order: the same on every run."""
    rng = np.random.default_rng(count)
    drawn: list[int] = rng.permutation(count)[:LOOKED_AT].tolist() if count < 1 << 20 else []
    # A permutation of very many rows would cost memory in proportion.
    return drawn or list(dict.fromkeys(rng.integers(0, count, LOOKED_AT).tolist()))


def there(rows: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Those of (row, absolute path) whose file is there, no more than the check may want."""
    found: list[tuple[int, bytes]] = []
    for row, path in rows:
        if os.path.isfile(path):
            found.append((row, path))
        if len(found) == 2 * CHECKED_IMAGES:  # some may be no readable images
            break
    return found


def mean_cosine(
    source: ImportSource,
    rows: Sequence[tuple[int, bytes]],
    encoder: Encoder,
    config: IndexConfig,
) -> tuple[float | None, int]:
    """The mean cosine of given vectors and those that ``encoder`` makes of the same images,
    and over how many images that is; None over no images.

    rows : (row, absolute path) of images that are there; 16 that can be read are taken.
    """
    given, not_finite, zero = unit_rows(source.take([row for row, _ in rows]))
    usable = np.flatnonzero(~(not_finite | zero))
    decoded = decode_in_order(
        [os.fsdecode(rows[position][1]) for position in usable.tolist()],
        encoder.space.geometry,
        decode=config.decode,
        max_megapixels=config.max_megapixels,
        thumbnail_side=None,
        threads=config.threads,
        look_ahead=config.threads,
    )
    pixels: list[npt.NDArray[np.uint8]] = []
    taken: list[int] = []
    for position, image in zip(usable.tolist(), decoded, strict=True):
        if not isinstance(image, ImageError):
            pixels.append(image.pixels)
            taken.append(position)
        if len(taken) == CHECKED_IMAGES:
            break
    if not taken:
        return None, 0
    made = encoder.encode_images(np.stack(pixels))
    return float((made * given[taken]).sum(axis=1).mean()), len(taken)


def refuse_if_foreign(cosine: float, images: int, model: str) -> None:
    """SpaceMismatchError when the mean cosine says that ``model`` did not make the vectors."""
    if cosine < LEAST_COSINE:
        raise SpaceMismatchError(
            f"these vectors were not made by {model}: mean cosine {cosine:.2f} over {images} "
            f"images, expected {LEAST_COSINE} or more. Name their model with --model, or look "
            "whether the paths are in the order of the vectors (--no-check imports them anyway)"
        )
