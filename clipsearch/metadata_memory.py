"""What filters of one open generation ask for again: columns, and which images passed a test.

A generation never changes, so what was read once stays true. Memory is bounded: columns within
a number of bytes, answers as a bit an image, of both those that were used last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.metadata_columns import Mask, flat_rows
from clipsearch.recent import Recent
from clipsearch.shards import IMAGE_SCHEMA, Int64, as_numpy, read_tables

if TYPE_CHECKING:
    from clipsearch.generation import Generation

COLUMN_BYTES = 96 << 20
ANSWER_BYTES = 8 << 20

Column: TypeAlias = Any
"""A chunked array; of a column of lists (the (m,) int64 row of each value, the values)."""


class MetadataMemory:
    """Columns of the images of one generation, and the answers to tests of them."""

    def __init__(self, state: Generation) -> None:
        self._store = state.store
        self._refs = state.manifest.images
        self._vectors = state.vectors
        self._columns: Recent[Column] = Recent(COLUMN_BYTES)
        self._answers: Recent[npt.NDArray[np.uint8]] = Recent(ANSWER_BYTES)

    @functools.cached_property
    def live(self) -> Int64:
        """(n,) rising ids of the images that can be found."""
        ids, deleted = self._vectors.ids, self._vectors.deleted
        return np.setdiff1d(ids, deleted, assume_unique=True) if len(deleted) else ids

    @functools.cached_property
    def ids(self) -> Int64:
        """(m,) the ids of the rows of the image shards."""
        parts = [np.empty(0, np.int64)]
        for ref in self._refs:
            # Ids rise, and are whole numbers: without a gap they are known.
            if ref.last_id - ref.first_id + 1 == ref.rows:
                parts.append(np.arange(ref.first_id, ref.last_id + 1))
            else:
                table = read_tables(self._store, [ref], IMAGE_SCHEMA, ["id"])
                parts.append(as_numpy(table.column("id")))
        return np.concatenate(parts)

    @functools.cached_property
    def rows_are_live(self) -> bool:
        """Whether the rows of the shards are the images that can be found, one by one."""
        return np.array_equal(self.ids, self.live)

    def columns(self, names: Sequence[str]) -> dict[str, Column]:
        """Columns of the image shards: texts as a dictionary and codes, keywords as (the row
        of each, those texts), numbers and times as they are."""
        found = {name: self._columns.get(name) for name in names}
        absent = [name for name, column in found.items() if column is None]
        if absent:
            table = read_tables(self._store, self._refs, IMAGE_SCHEMA, absent)
            for name in absent:
                column = _prepared(table.column(name))
                self._columns.put(name, column, _bytes_of(column))
                found[name] = column
        return {name: column for name, column in found.items() if column is not None}

    def answer(self, key: str, test: Callable[[], Mask]) -> Mask:
        """(n,) bool over ``live``: what ``test`` answers, asked once for each ``key``."""
        bits = self._answers.get(key)
        if bits is None:
            mask = test()
            bits = np.packbits(mask)
            self._answers.put(key, bits, bits.nbytes + 2 * len(key))
            return mask
        return np.unpackbits(bits, count=len(self.live)).view(np.bool_)


def _prepared(column: pa.ChunkedArray) -> Column:
    if pa.types.is_list(column.type):
        rows, texts = flat_rows(column)
        return rows, _encoded(pa.chunked_array([texts]))
    if pa.types.is_string(column.type):
        return _encoded(column)
    return pa.chunked_array([pa.concat_arrays([*column.chunks, pa.nulls(0, column.type)])])


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.dictionary_encode()  # all chunks share one dictionary


def _bytes_of(column: Column) -> int:
    if isinstance(column, pa.ChunkedArray):
        return _arrow_bytes(column)
    rows, texts = column
    return int(rows.nbytes) + _arrow_bytes(texts)


def _arrow_bytes(column: Any) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    sizes: list[int] = [chunk.indices.nbytes for chunk in column.chunks]
    sizes += [chunk.dictionary.nbytes for chunk in column.chunks[:1]]  # which all chunks share
    return sum(sizes)
