"""What else a made-up corpus says of its images: dates, cameras, places, sizes, and paths."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from clipsearch.shards import IMAGE_SCHEMA, PATH_SCHEMA, Int64, int_array

CAMERAS = (
    ("Apple iPhone 12", 4032, 3024, 0.21),
    ("Apple iPhone 7", 4032, 3024, 0.16),
    ("Samsung Galaxy S10", 4032, 3024, 0.14),
    ("Canon EOS 5D Mark III", 5760, 3840, 0.12),
    ("Nikon D750", 6016, 4016, 0.1),
    ("Sony ILCE-7M3", 6000, 4000, 0.08),
    ("Fujifilm X-T3", 6240, 4160, 0.05),
    ("Panasonic DMC-TZ10", 4000, 3000, 0.03),
    ("Ricoh GR III", 6000, 4000, 0.01),
)
"""Name, pixels and share of each camera; the other tenth of the images names none."""
ONE_IN_A_HUNDRED = 'camera = "Ricoh GR III"'
"""A filter that one image in a hundred passes."""
CITIES = ((48.86, 2.35), (52.52, 13.40), (40.71, -74.01), (35.68, 139.69), (-33.87, 151.21))
MISSED_EVERY = 999
"""One file in so many could not be taken: its id is given to nobody, as in a real index."""
_FIRST_DAY = np.datetime64("2006-01-01", "us").astype(np.int64)
_SPAN = 19 * 365 * 86_400 * 1_000_000  # microseconds from the first photo to the last


def ids_of(first: int, count: int) -> Int64:
    """(count,) int64 ids of the images from the ``first``-th on."""
    numbers = np.arange(first, first + count)
    ids: Int64 = numbers + numbers // MISSED_EVERY
    return ids


def concept_names(count: int) -> list[str]:
    """The names of concepts, which are labels as well: "concept 0000", "concept 0001", ..."""
    return [f"concept {number:04d}" for number in range(count)]


class CorpusTables:
    """The rows of the two tables. total : images in all; concepts : their names."""

    def __init__(self, total: int, concepts: Sequence[str], seed: int) -> None:
        self._total = total
        self._concepts = np.array(concepts, object)
        self._seed = seed
        now = datetime.now(UTC)
        self._now_us = int(now.timestamp() * 1e6)

    def block(self, number: int, first: int, concepts: Int64) -> tuple[pa.Table, pa.Table]:
        """The rows of ``images`` and of ``paths`` for one block.

        first : how many images stand before it. concepts : (n, 3) int64, as in ``ImageBlock``.
        """
        count = len(concepts)
        rng = np.random.default_rng([self._seed, 100, number])
        ids = ids_of(first, count)
        taken = self._moments(first, count)
        camera = np.searchsorted(
            np.cumsum([share for *_, share in CAMERAS]), rng.random(count), side="right"
        )
        sizes = np.exp(rng.normal(14.9, 0.45, count)).astype(np.int64)  # about 3 MB
        images = self._images(rng, ids, taken, camera, sizes, concepts)
        return images, self._paths(ids, taken, sizes)

    def _moments(self, first: int, count: int) -> Int64:
        """(count,) microseconds since 1970: photos come in order of time."""
        numbers = np.arange(first, first + count)
        moments: Int64 = _FIRST_DAY + (numbers * (_SPAN // max(1, self._total))) // 10**6 * 10**6
        return moments

    def _images(
        self,
        rng: np.random.Generator,
        ids: Int64,
        taken: Int64,
        camera: Int64,
        sizes: Int64,
        concepts: Int64,
    ) -> pa.Table:
        count = len(ids)
        named = camera < len(CAMERAS)
        which = np.minimum(camera, len(CAMERAS) - 1)
        upright = rng.random(count) < 0.3
        sides = np.array([camera[1:3] for camera in CAMERAS], np.int32)[which]
        sides[upright] = sides[upright, ::-1]
        placed = rng.random(count) < 0.4
        city = np.array(CITIES)[rng.integers(len(CITIES), size=count)]
        city = city + rng.normal(0, 0.1, city.shape)
        dated = rng.random(count) < 0.95
        stars = rng.integers(1, 6, size=count).astype(np.int16)
        unrated = rng.random(count) >= 0.05
        nothing = pa.nulls(count, pa.string())
        columns = {
            "id": int_array(ids),
            "sha256": pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(32), count, [None, pa.py_buffer(rng.bytes(32 * count))]
            ),
            "bytes": int_array(sizes),
            "format": pa.array(["JPEG"] * count, pa.string()),
            "width": pa.array(sides[:, 0]),
            "height": pa.array(sides[:, 1]),
            "orientation": pa.array(np.where(upright, 6, 1).astype(np.int8)),
            "frames": pa.array(np.ones(count, np.int32)),
            "taken_at": pa.array(taken, mask=~dated).cast(pa.timestamp("us")),
            "utc_offset_minutes": pa.nulls(count, pa.int16()),
            "taken_at_source": pa.array(
                np.full(count, "exif:DateTimeOriginal", object), pa.string(), mask=~dated
            ),
            "lat": pa.array(city[:, 0], mask=~placed),
            "lon": pa.array(city[:, 1], mask=~placed),
            "altitude": pa.nulls(count, pa.float64()),
            "camera": pa.array(
                np.array([name for name, *_ in CAMERAS], object)[which], pa.string(), mask=~named
            ),
            "lens": nothing,
            "keywords": self._keywords(concepts),
            "description": nothing,
            "rating": pa.array(stars, mask=unrated),
            "phash": pa.array(rng.integers(0, 2**64, size=count, dtype=np.uint64)),
            "exif": pa.MapArray.from_arrays(
                np.zeros(count + 1, np.int32), pa.array([], pa.string()), pa.array([], pa.string())
            ),
        }
        return pa.table([columns[name] for name in IMAGE_SCHEMA.names], schema=IMAGE_SCHEMA)

    def _keywords(self, concepts: Int64) -> pa.Array:
        """What each image shows, in words: the truth by which answers are judged."""
        there = concepts >= 0
        offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
        return pa.ListArray.from_arrays(
            offsets, pa.array(self._concepts[concepts[there]], pa.string())
        )

    def _paths(self, ids: Int64, taken: Int64, sizes: Int64) -> pa.Table:
        days = np.datetime_as_string(taken.astype("datetime64[us]"), unit="D").tolist()
        names = [
            f"{day[:4]}/{day}/IMG_{image_id:08d}.jpg"
            for day, image_id in zip(days, ids.tolist(), strict=True)
        ]
        count = len(ids)
        utc = pa.timestamp("us", tz="UTC")
        seen = int_array(np.full(count, self._now_us, np.int64)).cast(utc)
        return pa.table(
            [
                int_array(np.zeros(count, np.int32)),
                pa.array([name.encode() for name in names], pa.binary()),
                pa.array(names, pa.string()),
                int_array(sizes),
                int_array(1000 * taken),
                int_array((ids + 1).astype(np.uint64)),
                int_array(ids),
                pa.array(["present"] * count, pa.string()),
                seen,
                seen,
            ],
            schema=PATH_SCHEMA,
        )


def digest(*parts: object) -> str:
    """A sha256 (hex) of what a corpus was made with."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
