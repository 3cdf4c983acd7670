"""Whether two images are one picture: resized, recompressed, lightly cropped or edited.

A perceptual hash within some bits, the encoder (cosine) and the thumbnails' pixels must all say
so: each is fooled by other things. Two exposures are never one picture, however alike they look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.hash_neighbours import MAX_BITS, distances
from clipsearch.picture_facts import NO_TIME, Bools, PictureFacts
from clipsearch.shards import Float16, Int64
from clipsearch.thumbnail_pixels import ThumbnailGrids

_SECOND = 1_000_000

# The hash sets a bit for each frequency above the median: about half of the 64, unless most
# frequencies are not there at all, as in a blank page or a plain colour. Such a hash says little.
_POOR_SET_BITS = 16

_BLIND_BITS, _BLIND_COSINE = 4, 0.9
"""What is asked of two images where a thumbnail is missing, and the pixels cannot be compared."""

_SAME_SIZE_BITS = 4
"""Of two files of one size and one second, a copy made by recompressing differs in fewer bits
than the next exposure of a burst."""

_TAKE = 16_384


@dataclass(frozen=True)
class DuplicateSettings:
    """What counts as a copy and as a burst; measured by benchmarks/duplicates.py.

    max_bits : of the 64-bit perceptual hash, in how many copies may differ.
    min_cosine : the least cosine of copies.
    min_correlation : the least correlation of the grey values of their thumbnails, over the
        whole of one and the best of several windows of the other.
    seconds : the longest time between a shot of a burst and the next.
    burst_cosine : the least cosine of neighbours in a burst.
    """

    max_bits: int = 10
    min_cosine: float = 0.5
    min_correlation: float = 0.975
    seconds: float = 2.0
    burst_cosine: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.max_bits <= MAX_BITS:
            raise OptionError(f"max_bits must be 0 to {MAX_BITS}, got {self.max_bits}")
        for name in ("min_cosine", "min_correlation", "burst_cosine"):
            if not -1 <= getattr(self, name) <= 1:  # nan too
                raise OptionError(f"{name} must be -1 to 1, got {getattr(self, name)}")
        if not 0 <= self.seconds <= 86_400:
            raise OptionError(f"seconds must be 0 to 86400 (a day), got {self.seconds}")


class SamePicture:
    """The relation over the n images of ``facts``.

    vectors : (n, dim) float16 unit rows, of the same images in the same order.
    """

    def __init__(self, state: Generation, facts: PictureFacts, settings: DuplicateSettings) -> None:
        self.facts = facts
        self.settings = settings
        self.vectors = take_vectors(state, facts.ids)
        self._pixels = facts.pixels
        self._timed = facts.exposed & (facts.taken != NO_TIME) & (facts.cameras >= 0)
        self._grids = ThumbnailGrids(state, facts.ids)

    def cosines(self, row: int, others: Int64) -> Float32:
        """(m,) float32 cosines of an image to ``others`` (rows)."""
        mine = self.vectors[row].astype(np.float32)
        products = np.empty(len(others), np.float32)
        for start in range(0, len(others), _TAKE):
            theirs = self.vectors[others[start : start + _TAKE]].astype(np.float32)
            products[start : start + _TAKE] = theirs @ mine
        return products

    def bits(self, row: int, others: Int64) -> Int64:
        """(m,) int64: in how many bits the hashes differ."""
        return distances(self.facts.hashes[others], self.facts.hashes[row]).astype(np.int64)

    def of(self, row: int, others: Int64) -> Int64:
        """Those of ``others`` (rows) that are the same picture as the image ``row``."""
        facts = self.facts
        if not facts.hashed[row]:
            return others[:0]
        near = facts.hashed[others] & (self.bits(row, others) <= self.settings.max_bits)
        others = others[near]
        if len(others):
            others = others[~self._other_exposure(row, others)]
        if not len(others):
            return others
        cosines = self.cosines(row, others)
        same = cosines >= self.settings.min_cosine
        others, cosines = others[same], cosines[same]
        seen = self._grids.has(others) & bool(self._grids.has(np.array([row]))[0])
        same = np.zeros(len(others), bool)
        larger = self._pixels[others] > self._pixels[row]
        # Nothing was resized, and neither format loses anything: only an edit would differ.
        same_size = (facts.sides[others] == facts.sides[row]).all(axis=1)
        unchanged = same_size & facts.lossless[others] & bool(facts.lossless[row])
        if seen.any():
            same[seen] = self._grids.alike(
                row,
                others[seen],
                larger[seen],
                same_size[seen],
                unchanged[seen],
                self.settings.min_correlation,
            )
        same[~seen] = self._alike_unseen(row, others[~seen], cosines[~seen]) & ~unchanged[~seen]
        return others[same]

    def _other_exposure(self, row: int, others: Int64) -> Bools:
        """Whether the camera says that these are other shots than ``row``."""
        facts = self.facts
        if not self._timed[row]:
            return np.zeros(len(others), bool)
        same_camera = self._timed[others] & (facts.cameras[others] == facts.cameras[row])
        mine, theirs = facts.taken[row], facts.taken[others]
        same_second = mine // _SECOND == theirs // _SECOND
        # Programs that save a copy often drop the fraction of the second.
        no_fraction = (mine % _SECOND == 0) | (theirs % _SECOND == 0)
        other_time = (mine != theirs) & ~(same_second & no_fraction)
        # Without fractions the shots of one second share their time; their pixels differ more
        # than those of a copy of the same size do.
        same_size: Bools = (facts.sides[others] == facts.sides[row]).all(axis=1)
        moved = self.bits(row, others) > _SAME_SIZE_BITS
        result: Bools = same_camera & (other_time | (no_fraction & same_size & moved))
        return result

    def _alike_unseen(self, row: int, others: Int64, cosines: Float32) -> Bools:
        """Of pictures that cannot be compared: whether hash and cosine are beyond doubt."""
        hashes = self.facts.hashes
        telling = np.bitwise_count(hashes[others] & hashes[row]) >= _POOR_SET_BITS
        close = (self.bits(row, others) <= _BLIND_BITS) & (cosines >= _BLIND_COSINE)
        result: Bools = telling & close
        return result


def take_vectors(state: Generation, ids: Int64) -> Float16:
    """(n, dim) float16 rows of (n,) rising ``ids``, all of which have a vector."""
    rows = np.empty((len(ids), state.vectors.dim), np.float16)
    for start in range(0, len(ids), _TAKE):
        _, block = state.vectors.take(ids[start : start + _TAKE])
        rows[start : start + _TAKE] = block
    return rows
