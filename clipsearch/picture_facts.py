"""What tells copies and bursts apart and the best of them: a row per image, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.generation import Generation
from clipsearch.hash_neighbours import UInt64
from clipsearch.manifest import ShardRef
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, read_tables

Bools = npt.NDArray[np.bool_]

NO_TIME = np.iinfo(np.int64).min

# The moment of the exposure itself. EXIF's DateTime is that of the last change, and what was
# taken from a name or a sidecar may be anything.
_EXPOSURE_SOURCES = ("exif:DateTimeOriginal", "exif:DateTimeDigitized")

_COLUMNS = (
    "id", "bytes", "format", "width", "height", "taken_at", "taken_at_source", "camera", "phash",
)  # fmt: skip


@dataclass(frozen=True)
class PictureFacts:
    """Of n images, in rising order of ``ids`` (int64):

    hashes : (n,) uint64 perceptual hashes; 0 where ``hashed`` (bool) is false.
    pixels : (n,) int64, width times height, and ``sides`` (n, 2) int32 width and height; 0
        where unknown.
    sizes : (n,) int64 bytes of the file.
    taken : (n,) int64 microseconds, wall clock; ``NO_TIME`` where unknown.
    exposed : (n,) bool, whether ``taken`` is the moment of the exposure, by EXIF.
    cameras : (n,) int64, the same number for the same camera; -1 where unknown.
    lossless : (n,) bool, whether the file's format keeps every pixel as it was.
    """

    ids: Int64
    hashes: UInt64
    hashed: Bools
    sides: npt.NDArray[np.int32]
    sizes: Int64
    taken: Int64
    exposed: Bools
    cameras: Int64
    lossless: Bools

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pixels(self) -> Int64:
        area: Int64 = self.sides.astype(np.int64).prod(axis=1)
        return area

    def take(self, rows: Int64 | Bools) -> PictureFacts:
        """The facts of some rows, which must stay in rising order."""
        return PictureFacts(
            *(getattr(self, name)[rows] for name in PictureFacts.__dataclass_fields__)
        )


def _numbers(column: pa.ChunkedArray, kind: pa.DataType, missing: int) -> npt.NDArray[np.generic]:
    return as_numpy(pc.fill_null(column.cast(kind), missing))


def _codes(column: pa.ChunkedArray) -> tuple[Int64, list[str]]:
    """(n,) int64 codes of texts, -1 for none, and the texts they stand for."""
    encoded = column.dictionary_encode()  # all chunks share one dictionary
    parts = [as_numpy(pc.fill_null(chunk.indices, -1)) for chunk in encoded.chunks]
    names = encoded.chunk(0).dictionary.to_pylist() if parts else []
    return np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64), names


def is_one_of(column: pa.ChunkedArray, wanted: Sequence[str]) -> Bools:
    """(n,) bool: which texts of a column are among ``wanted``; none is not."""
    codes, names = _codes(column)
    table = np.array([*(name in wanted for name in names), False], bool)  # -1 is the last
    result: Bools = table[codes]
    return result


def read_facts(state: Generation, ids: Int64) -> PictureFacts:
    """The facts of those of the rising ``ids`` that the index holds."""
    table = read_tables(state.store, _shards_of(state, ids), IMAGE_SCHEMA, _COLUMNS)
    here = as_numpy(table.column("id"))
    facts = PictureFacts(
        ids=here,
        hashes=_numbers(table.column("phash"), pa.uint64(), 0).astype(np.uint64),
        hashed=as_numpy(pc.is_valid(table.column("phash"))),
        sides=np.stack(
            [_numbers(table.column(side), pa.int32(), 0) for side in ("width", "height")], axis=1
        ).astype(np.int32),
        sizes=as_numpy(table.column("bytes")).astype(np.int64),
        taken=_numbers(table.column("taken_at"), pa.int64(), NO_TIME).astype(np.int64),
        exposed=is_one_of(table.column("taken_at_source"), _EXPOSURE_SOURCES),
        cameras=_codes(table.column("camera"))[0],
        lossless=is_one_of(table.column("format"), ("PNG", "TIFF", "BMP", "RAW")),
    )
    return facts.take(np.isin(here, ids))


def _shards_of(state: Generation, ids: Int64) -> list[ShardRef]:
    """The image shards that may hold some of the rising ``ids``."""
    return [
        shard
        for shard in state.manifest.images
        if np.searchsorted(ids, shard.first_id) < np.searchsorted(ids, shard.last_id, side="right")
    ]
