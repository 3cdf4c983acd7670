"""Record batches of results as NDJSON, CSV and plain lines, a whole column at a time."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.metadata_columns import is_known
from clipsearch.shards import as_numpy

_DECIMALS = 6
_SCALE = 10.0**_DECIMALS
_quoted = json.encoder.encode_basestring


class ResultText:
    """Turns batches of ``schema`` into text.

    form : "json" (an object a line), "csv", or "plain" (path, label and the first of the
    columns "probability" and "score" with tabs between them; of a row without a label the path
    and two tabs where there are probabilities, else nothing). Numbers have six decimals, of a
    plain line four. A path that is no UTF-8 has replacement characters, and beside it in JSON
    its bytes as ``path_base64``; plain lines have it as it is, and of white space in a label
    one space.
    """

    def __init__(self, form: str, schema: pa.Schema) -> None:
        self._names: list[str] = schema.names
        self._lines = {"json": self._json, "csv": self._csv, "plain": self._plain}[form]
        self.head: bytes = _csv_bytes([self._names]) if form == "csv" else b""
        self._quoted_names: tuple[pa.Array | None, list[str]] = (None, [])

    def lines(self, batch: pa.RecordBatch) -> bytes:
        """The rows of one batch. ``head`` goes before the first."""
        return self._lines(batch) if len(batch) else b""

    def _csv(self, batch: pa.RecordBatch) -> bytes:
        columns = [
            path_texts(column)[0] if name == "path" else _values(column)
            for name, column in zip(self._names, batch.columns, strict=True)
        ]
        return _csv_bytes(zip(*columns, strict=True))

    def _json(self, batch: pa.RecordBatch) -> bytes:
        fields: list[str] = []
        columns: list[list[Any]] = []
        odd: dict[int, str] = {}
        for name, column in zip(self._names, batch.columns, strict=True):
            kind = "%s"
            if name == "path":
                texts, odd = path_texts(column)
                cells: list[Any] = list(map(_quoted, texts))
            elif pa.types.is_dictionary(column.type):
                cells = self._quoted_labels(column)
            elif pa.types.is_list(column.type):
                cells = [
                    "null" if texts is None else f"[{', '.join(map(_quoted, texts))}]"
                    for texts in column.to_pylist()
                ]
            else:
                cells = _values(column)
                if column.null_count:
                    cells = ["null" if cell is None else repr(cell) for cell in cells]
                else:
                    kind = "%r"
            fields.append(f"{_quoted(name)}: {kind}")
            columns.append(cells)
        line = "{" + ", ".join(fields) + "}\n"
        lines = [line % cells for cells in zip(*columns, strict=True)]
        for row, data in odd.items():
            lines[row] = f'{lines[row][:-2]}, "path_base64": "{data}"}}\n'
        return "".join(lines).encode("utf-8", "replace")

    def _quoted_labels(self, column: pa.DictionaryArray) -> list[str]:
        if self._quoted_names[0] is not column.dictionary:
            quoted = [*map(_quoted, column.dictionary.to_pylist()), "null"]
            self._quoted_names = column.dictionary, quoted
        return list(map(self._quoted_names[1].__getitem__, _codes(column).tolist()))

    def _plain(self, batch: pa.RecordBatch) -> bytes:
        has_odds = "probability" in self._names
        numbers = _values(batch.column("probability" if has_odds else "score"))
        if has_odds and "group" in self._names:  # of any number of labels there is a score alone
            scores = _values(batch.column("score"))
            numbers = [s if p is None else p for p, s in zip(numbers, scores, strict=True)]
        labels = [
            None if label is None else " ".join(label.split()).encode("utf-8", "replace")
            for label in [*batch.column("label").dictionary.to_pylist(), None]
        ]
        cells = zip(
            _raw_paths(batch.column("path")),
            map(labels.__getitem__, _codes(batch.column("label")).tolist()),
            numbers,
            strict=True,
        )
        if batch.column("label").null_count == 0:
            return b"".join(b"%s\t%s\t%.4f\n" % row for row in cells)
        return b"".join(
            b"%s\t\t\n" % row[0] if row[1] is None else b"%s\t%s\t%.4f\n" % row
            for row in cells
            if (has_odds and "group" not in self._names) or row[1] is not None
        )


def path_texts(column: pa.BinaryArray) -> tuple[list[str], dict[int, str]]:
    """(n,) paths as text, "" for null; and by row the base64 of those that are no UTF-8."""
    data, offsets = _data_of(column)
    if data.isascii():  # so are most
        text = data.decode("ascii")
        return [text[a:b] for a, b in itertools.pairwise(offsets)], {}
    texts: list[str] = []
    odd: dict[int, str] = {}
    for row, path in enumerate(_raw_paths(column)):
        try:
            texts.append(path.decode())
        except UnicodeDecodeError:
            texts.append(path.decode("utf-8", "replace"))
            odd[row] = base64.b64encode(path).decode("ascii")
    return texts, odd


def _raw_paths(column: pa.BinaryArray) -> list[bytes]:
    data, offsets = _data_of(column)
    return [data[a:b] for a, b in itertools.pairwise(offsets)]


def _data_of(column: pa.BinaryArray) -> tuple[bytes, list[int]]:
    """The bytes of all values, and where each begins and ends in them. A null is empty."""
    _, starts, data = column.buffers()
    offsets = np.frombuffer(starts, np.int32, len(column) + 1, 4 * column.offset)
    first, last = int(offsets[0]), int(offsets[-1])
    whole = bytes(memoryview(data)[first:last]) if data is not None else b""
    return whole, (offsets - first).tolist()


def _codes(column: pa.DictionaryArray) -> npt.NDArray[np.int64]:
    """(n,) codes, -1 for null."""
    codes = as_numpy(column.indices).astype(np.int64)
    codes[~is_known(column.indices)] = -1
    return codes


def _values(column: pa.Array) -> list[Any]:
    """(n,) values as CSV and JSON have them, None for null; of texts in a list CSV has one text
    with bars between them."""
    if pa.types.is_list(column.type):
        return [None if texts is None else "|".join(texts) for texts in column.to_pylist()]
    if pa.types.is_dictionary(column.type):
        names = [*column.dictionary.to_pylist(), None]
        return list(map(names.__getitem__, _codes(column).tolist()))
    if pa.types.is_integer(column.type):
        values: list[Any] = as_numpy(column).tolist()
        return values
    numbers = np.frombuffer(column.buffers()[1], np.float32, len(column), 4 * column.offset)
    cells: list[Any] = rounded(numbers)
    for row in np.flatnonzero(~(is_known(column) & np.isfinite(numbers))).tolist():
        cells[row] = None
    return cells


def rounded(numbers: npt.NDArray[np.float32]) -> list[float]:
    """(n,) ``round(number, 6)``: the double nearest to the decimal number."""
    scaled = np.where(np.isfinite(numbers), numbers, 0).astype(np.float64) * _SCALE
    cells: list[float] = (np.rint(scaled) / _SCALE).tolist()
    # The product is itself rounded: near a half, and where it is huge, it does not tell.
    from_half = np.abs(np.abs(scaled - np.trunc(scaled)) - 0.5)
    for row in np.flatnonzero((from_half < 1e-6) | (np.abs(scaled) > 1e9)).tolist():
        cells[row] = round(float(numbers[row]), _DECIMALS)
    return cells


def _csv_bytes(rows: Any) -> bytes:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode("utf-8", "replace")
