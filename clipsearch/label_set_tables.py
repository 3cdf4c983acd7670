"""The Parquet file of a saved label set: a row for every image and label."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsearch.encoder import Float32
from clipsearch.errors import LabelError
from clipsearch.label_set_files import SECOND_SCORE, LabelRows, LabelSet, damaged
from clipsearch.shards import as_numpy, int_array

WORTH_THREADS = 1 << 20  # bytes of a Parquet file


def table_bytes(label_set: LabelSet, rows: LabelRows) -> pa.Buffer:
    """``rows`` as a Parquet file: id, label, score, and probability or cosine."""
    sink = pa.BufferOutputStream()
    with table_writer(label_set, sink) as writer:
        writer.write_table(arrow_table(label_set, rows))
    return sink.getvalue()


def table_writer(label_set: LabelSet, sink: Any) -> pq.ParquetWriter:
    """Writes tables of ``arrow_table`` to a file or an Arrow stream, one after the other.

    Raises LabelError for a label that no file can hold.
    """
    for label in label_set.labels:
        try:
            label.encode()
        except UnicodeEncodeError:
            raise LabelError(f"label {label!r} is no text, so it cannot be saved") from None
    nobody = np.empty(0, np.float32)
    empty = LabelRows(np.empty(0, np.int64), np.empty(0, np.int32), nobody, nobody)
    schema = arrow_table(label_set, empty).schema
    return pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True)


def arrow_table(label_set: LabelSet, rows: LabelRows) -> pa.Table:
    """``rows`` as the columns of a set's Parquet file."""
    without = rows.labels < 0
    validity = None
    if without.any():
        validity = pa.py_buffer(np.packbits(~without, bitorder="little").tobytes())
    count = len(rows.ids)

    def numbers(values: Float32) -> pa.Array:
        data = np.ascontiguousarray(values, "<f4")
        return pa.Array.from_buffers(pa.float32(), count, [validity, pa.py_buffer(data)])

    codes = np.ascontiguousarray(np.where(without, 0, rows.labels), "<i4")
    indices = pa.Array.from_buffers(pa.int32(), count, [validity, pa.py_buffer(codes)])
    words = pa.array(list(label_set.labels), pa.string())
    columns = {
        "id": int_array(rows.ids),
        "label": pa.DictionaryArray.from_arrays(indices, words),
        "score": numbers(rows.scores),
        SECOND_SCORE[label_set.kind]: numbers(rows.second),
    }
    return pa.table(columns).replace_schema_metadata(
        {"clipsearch.kind": "labels", "clipsearch.index": label_set.index}
    )


def table_rows(label_set: LabelSet, data: bytes) -> LabelRows:
    """The rows in the bytes of a set's Parquet file.

    Raises IndexFormatError when they are not those that the set vouches for.
    """
    ref = label_set.table
    if ref is None or hashlib.sha256(data).hexdigest() != ref.sha256:
        raise damaged(label_set.name, "its table is not the one that was saved")
    try:
        # A process that ends while Arrow still starts a thread for a few rows is aborted.
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=len(data) > WORTH_THREADS)
        labels, codes = table.column("label"), {word: i for i, word in enumerate(label_set.labels)}
        parts = [np.empty(0, np.int32)]
        for chunk in labels.chunks:
            here = np.array([codes[word] for word in chunk.dictionary.to_pylist()], np.int32)
            is_there = as_numpy(pc.is_valid(chunk))
            found = np.full(len(chunk), -1, np.int32)
            found[is_there] = here[as_numpy(chunk.indices)[is_there]]
            parts.append(found)
        rows = LabelRows(
            ids=as_numpy(table.column("id")),
            labels=np.concatenate(parts),
            scores=_numbers(table.column("score")),
            second=_numbers(table.column(SECOND_SCORE[label_set.kind])),
        )
    except (pa.ArrowException, AttributeError, KeyError, IndexError, OSError, ValueError) as error:
        raise damaged(label_set.name, f"its table cannot be read ({error})") from error
    if len(rows.ids) != ref.rows or not bool((np.diff(rows.ids) >= 0).all()):
        raise damaged(label_set.name, "its table has other rows than were saved")
    return rows


def _numbers(column: pa.ChunkedArray) -> Float32:
    parts = [as_numpy(chunk.view(pa.int32())).view(np.float32) for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.float32), *parts])
