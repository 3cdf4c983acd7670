"""A 64-bit hash of how a picture looks: copies in another size or quality differ in few bits.

The DCT hash of Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions"
(2010), section 3.2.1, in the form Krawetz gave it ("Looks Like It", 2011): 32 x 32 grey, the
8 x 8 lowest frequencies, one bit each for above the median.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from clipsearch.picture_sizes import Box

_SIDE = 32
_LOW = 8
_MIDDLE = (_LOW * _LOW - 1) // 2  # where the median of the 63 stands; np.median takes longer


def _dct_rows() -> npt.NDArray[np.float64]:
    """The first 8 rows of the orthonormal DCT-II of length 32: (8, 32) float64."""
    position, frequency = np.arange(_SIDE), np.arange(_LOW)[:, None]
    angles = np.pi * (2 * position + 1) * frequency / (2 * _SIDE)
    rows: npt.NDArray[np.float64] = np.cos(angles) * np.sqrt(2 / _SIDE)
    rows[0] /= np.sqrt(2)
    return rows


_DCT = _dct_rows()


def perceptual_hash(picture: Image.Image, box: Box | None = None) -> int:
    """The hash of an upright "RGB" or "L" picture, 0 .. 2**64 - 1.

    The highest bit is the lowest frequency; bits go by rows of vertical frequency. A picture of
    one colour hashes to 2**63 (black: 0).

    box : what counts of the picture, where its last pixels stand for less than the others. None
        for all of it.
    """
    small = picture.resize((_SIDE, _SIDE), Image.Resampling.BOX, box, 2.0).convert("L")
    grey = np.asarray(small, dtype=np.float64)
    # Rounded, so that the noise of the last float digits decides no bit of a flat picture.
    low = np.round(_DCT @ grey @ _DCT.T, 4).ravel()
    # The first term is the mean brightness, far above all others: it stays out of the median.
    bits = low > np.partition(low[1:], _MIDDLE)[_MIDDLE]
    bits[0] = low[0] > 0
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
