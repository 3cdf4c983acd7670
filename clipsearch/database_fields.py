"""What a vector database holds of an image beside its vector: the fields that filters ask for.

Texts are held folded (``metadata_columns.folded``), as filters compare them; dates as microseconds
by the clock where the photo was taken. What is not known is null. Where an image lies, its labels
and its other EXIF tags are not here: those change by themselves, or are too many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from clipsearch.errors import IndexFormatError
from clipsearch.generation import Generation
from clipsearch.manifest import ShardRef
from clipsearch.metadata_columns import flat_rows, folded
from clipsearch.shards import CURE, IMAGE_SCHEMA, Int64, as_numpy, int_array, read_tables

Kind = Literal["integer", "number", "text", "texts"]
Row = dict[str, Any]
"""By field, a number, a text, a list of texts, or None."""

FIELDS: dict[str, Kind] = {
    "taken": "integer",
    "camera": "text",
    "lens": "text",
    "keyword": "texts",
    "description": "text",
    "format": "text",
    "width": "integer",
    "height": "integer",
    "megapixels": "number",
    "bytes": "integer",
    "rating": "integer",
    "orientation": "integer",
    "frames": "integer",
    "lat": "number",
    "lon": "number",
    "altitude": "number",
    "source": "text",
}
"""By the names that filters have for them, what they hold."""

MOST_TEXT_BYTES = 65_535
MOST_TEXTS = 4_096
"""What the database takes of one text, and of one list of them."""

_COLUMNS = {"taken": "taken_at", "keyword": "keywords", "source": "taken_at_source"}
_SHARDS_HELD = 2


class ImageFields:
    """Reads the fields of images of one generation. Not safe for threads."""

    def __init__(self, state: Generation) -> None:
        self._state = state
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._cut: set[str] = set()

    def rows(self, ids: Int64) -> tuple[list[Row], tuple[str, ...]]:
        """The fields of (n,) rising ids, and those of which something was too long, so that the
        database does not hold all of it. Raises IndexFormatError where the index lost an image."""
        self._cut = set()
        rows: list[Row] = []
        for ref in self._state.manifest.images:
            first, stop = np.searchsorted(ids, (ref.first_id, ref.last_id + 1))
            if first == stop:
                continue
            table = self._table(ref)
            known = as_numpy(table.column("id"))
            places = np.minimum(np.searchsorted(known, ids[first:stop]), len(known) - 1)
            if not np.array_equal(known[places], ids[first:stop]):
                break
            rows += self._fields(table.take(int_array(places)))
        if len(rows) != len(ids):
            raise IndexFormatError(f"the index has vectors of images that it lost: {CURE}")
        return rows, tuple(sorted(self._cut))

    def _table(self, ref: ShardRef) -> pa.Table:
        table = self._tables.get(ref.name)
        if table is None:
            names = [name for name in FIELDS if name != "megapixels"]
            columns = ["id", *(_COLUMNS.get(name, name) for name in names)]
            table = read_tables(self._state.store, [ref], IMAGE_SCHEMA, columns)
            self._tables[ref.name] = table
            if len(self._tables) > _SHARDS_HELD:
                self._tables.popitem(last=False)
        return table

    def _fields(self, table: pa.Table) -> list[Row]:
        columns: dict[str, list[Any]] = {}
        for name, kind in FIELDS.items():
            if name == "megapixels":
                continue
            column = table.column(_COLUMNS.get(name, name))
            if kind == "text":
                columns[name] = [self._text(name, text) for text in folded(column).to_pylist()]
            elif kind == "texts":
                columns[name] = self._lists(name, column)
            elif name == "taken":
                columns[name] = column.cast(pa.int64()).to_pylist()
            else:
                columns[name] = column.to_pylist()
        # 0 bytes is an imported image whose file was not there.
        columns["bytes"] = [size or None for size in columns["bytes"]]
        columns["megapixels"] = [
            None if width is None or height is None else float(width) * height / 1e6
            for width, height in zip(columns["width"], columns["height"], strict=True)
        ]
        return [
            dict(zip(FIELDS, values, strict=True))
            for values in zip(*(columns[name] for name in FIELDS), strict=True)
        ]

    def _text(self, name: str, text: str | None) -> str | None:
        if text is None or len(text) * 4 <= MOST_TEXT_BYTES:
            return text
        data = text.encode()
        if len(data) <= MOST_TEXT_BYTES:
            return text
        self._cut.add(name)
        return data[:MOST_TEXT_BYTES].decode("utf-8", "ignore")

    def _lists(self, name: str, column: pa.ChunkedArray) -> list[list[str] | None]:
        lists: list[list[str]] = [[] for _ in range(len(column))]
        parents, words = flat_rows(column)
        for parent, word in zip(parents.tolist(), folded(words).to_pylist(), strict=True):
            if word is None:
                continue
            if len(lists[parent]) == MOST_TEXTS:
                self._cut.add(name)
                continue
            text = self._text(name, word)
            assert text is not None
            lists[parent].append(text)
        # A list of nothing says as little as none.
        return [words or None for words in lists]


def other_fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The fields in which two rows differ."""
    return [name for name in FIELDS if one.get(name) != other.get(name)]
