"""The Parquet files of an index: their schemas, and the only code that reads or writes them.

Every file carries, in its schema metadata, the kind of table it is and the uuid of the index
it belongs to, so that a file that strayed in from another index can be told.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, IndexReadError
from clipsearch.manifest import FileRef, ShardRef
from clipsearch.store import Store

Int64 = npt.NDArray[np.int64]
Float16 = npt.NDArray[np.float16]

CURE = "mend it with 'clipsearch verify --repair'"
"""What every message about a damaged file of an index ends with."""

_UTC = pa.timestamp("us", tz="UTC")

IMAGE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),  # pixels, as displayed
        pa.field("height", pa.int32()),
        pa.field("orientation", pa.int8()),  # EXIF, 1 to 8
        pa.field("frames", pa.int32()),
        pa.field("taken_at", pa.timestamp("us")),  # wall clock where it was taken
        pa.field("utc_offset_minutes", pa.int16()),
        pa.field("taken_at_source", pa.string()),
        pa.field("lat", pa.float64()),
        pa.field("lon", pa.float64()),
        pa.field("altitude", pa.float64()),  # metres
        pa.field("camera", pa.string()),
        pa.field("lens", pa.string()),
        pa.field("keywords", pa.list_(pa.string())),
        pa.field("description", pa.string()),
        pa.field("rating", pa.int16()),
        pa.field("phash", pa.uint64()),
        pa.field("exif", pa.map_(pa.string(), pa.string())),
    ]
)
"""A row per distinct image content. Of an imported image whose file was not there nothing is
known: ``sha256`` is a stand-in then, ``bytes`` is 0, and all the rest is null."""

PATH_SCHEMA = pa.schema(
    [
        pa.field("root", pa.int32(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),  # relative to the root, "/" between parts
        pa.field("name", pa.string(), nullable=False),  # the same, for display
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("inode", pa.uint64(), nullable=False),
        pa.field("id", pa.int64(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # present, missing or forgotten
        pa.field("first_seen", _UTC, nullable=False),
        pa.field("last_seen", _UTC, nullable=False),  # when a scan last had news of this file
    ]
)
"""Where each content is. A later row for the same root and path supersedes an earlier one."""

SKIPPED_SCHEMA = pa.schema(
    [
        pa.field("root", pa.int32(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("seen_at", _UTC, nullable=False),
        pa.field("max_megapixels", pa.float64()),  # the limit then
    ]
)
"""The images that could not be taken, and why."""

DELETED_SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False)])
"""Tombstones: ids that no longer count."""


def embedding_schema(dim: int) -> pa.Schema:
    """``id`` and ``embedding``: dim little-endian fp16 numbers, a unit vector, as raw bytes.

    A binary column maps; a list column of the same numbers reads ten to twenty times slower.
    """
    return pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("embedding", pa.binary(2 * dim), nullable=False),
        ]
    )


def embedding_table(ids: Int64, vectors: Float32) -> pa.Table:
    """The table of (n,) ids and (n, dim) float32 unit rows, stored as fp16."""
    if vectors.ndim != 2 or len(vectors) != len(ids):  # else Arrow would read past the rows
        raise ValueError(f"expected {len(ids)} rows of vectors, got shape {vectors.shape}")
    dim = vectors.shape[1]
    data = np.ascontiguousarray(vectors, dtype="<f2")
    column = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(2 * dim), len(ids), [None, pa.py_buffer(data)]
    )
    return pa.table([pa.array(ids, pa.int64()), column], schema=embedding_schema(dim))


def as_numpy(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """A column of whole numbers without nulls, or of true and false, as a NumPy array.

    ``to_numpy`` would do, but imports pandas wherever that is installed: a third of the time
    of a cold search.
    """
    if column.type == pa.bool_():
        return as_numpy(column.cast(pa.uint8())).astype(bool)
    parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    dtype = np.dtype(str(column.type))
    arrays = [
        np.frombuffer(part.buffers()[1], dtype, len(part), part.offset * dtype.itemsize)
        for part in parts
        if len(part)
    ]
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate([np.empty(0, dtype), *arrays])


def int_array(values: npt.NDArray[Any]) -> pa.Array:
    """An Arrow array over whole numbers, without a copy and without pandas."""
    values = np.ascontiguousarray(values)
    kind = {"i4": pa.int32(), "i8": pa.int64(), "u8": pa.uint64()}[values.dtype.str[1:]]
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])


def vectors_of(table: pa.Table) -> tuple[Int64, Float16]:
    """(n,) int64 ids and (n, dim) fp16 rows of an embedding table, without a copy of a
    one-chunk column."""
    chunks = table.column("embedding").chunks
    if len(chunks) == 1:
        column = chunks[0]
    else:  # concat_arrays wants at least one
        column = pa.concat_arrays([*chunks, pa.nulls(0, table.schema.field("embedding").type)])
    width = column.type.byte_width
    data = column.buffers()[1]
    start = column.offset * width
    matrix = (
        np.frombuffer(data, "<f2", count=len(column) * width // 2, offset=start)
        if data is not None and len(column)
        else np.empty(0, "<f2")
    ).reshape(len(column), width // 2)
    return as_numpy(table.column("id")), matrix


def write_table(store: Store, name: str, table: pa.Table, *, kind: str, index_uuid: str) -> FileRef:
    """Write ``table`` as the new file ``name``.

    Embeddings are stored uncompressed so that they can be read at memory speed; everything
    else is compressed. Every page has a checksum, which ``read_table`` compares.
    """
    labelled = table.replace_schema_metadata(
        {"clipsearch.kind": kind, "clipsearch.index": index_uuid}
    )
    sink = pa.BufferOutputStream()
    if kind == "embeddings":
        pq.write_table(
            labelled,
            sink,
            compression="none",
            use_dictionary=False,
            write_statistics=["id"],
            row_group_size=max(1, len(table)),
            write_page_checksum=True,
        )
    else:
        pq.write_table(
            labelled, sink, compression="zstd", row_group_size=65_536, write_page_checksum=True
        )
    data = sink.getvalue()
    store.put_if_absent(name, data)
    return FileRef(name, len(table), data.size, hashlib.sha256(data).hexdigest())


def write_shard(
    store: Store,
    name: str,
    table: pa.Table,
    *,
    kind: str,
    index_uuid: str,
    recipe: dict[str, object] | None = None,
) -> ShardRef:
    """Write a shard: a table with at least one row, in order of its ``id`` column."""
    ref = write_table(store, name, table, kind=kind, index_uuid=index_uuid)
    ids = table.column("id")
    return ShardRef(
        ref.name, ref.rows, ref.bytes, ref.sha256, ids[0].as_py(), ids[-1].as_py(), recipe or {}
    )


def read_table(store: Store, ref: FileRef, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file the manifest names.

    Raises IndexFormatError when it is missing or damaged, IndexReadError when the system does
    not let it be read.
    """
    try:
        with store.open_mapped(ref.name) as file:
            # Not pq.read_table, which imports pyarrow.dataset and with it pandas.
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            table = parquet.read(None if columns is None else list(columns))
    except FileNotFoundError:
        raise IndexFormatError(f"the index has lost {ref.name}: {CURE}") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        # Arrow's own complaints about a file's content are OSErrors without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise IndexReadError(
                f"cannot read {ref.name} in the index: {os.strerror(error.errno)}; see to its "
                "permissions and its disk"
            ) from error
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise IndexFormatError(
            f"{ref.name} in the index is damaged ({first_line}): {CURE}"
        ) from error
    if len(table) != ref.rows:
        raise IndexFormatError(
            f"{ref.name} in the index has {len(table):,} rows, the manifest says {ref.rows:,}: "
            f"{CURE}"
        )
    return table


def read_tables(
    store: Store, refs: Iterable[FileRef], schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of several files, in order, as one table; an empty one when there are none."""
    refs = tuple(refs)
    store.bring({ref.name: ref.bytes for ref in refs})
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    tables: list[pa.Table] = []
    for ref in refs:
        table = read_table(store, ref, columns).replace_schema_metadata(None)
        try:
            for field in wanted:
                # A column that came with a later version: the older shards have no value for it.
                if field.nullable and field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
            table = table.select(wanted.names)
            # Casting takes Arrow's compute functions, whose import takes as long as a search.
            tables.append(table if table.schema.equals(wanted) else table.cast(wanted))
        except (pa.ArrowException, KeyError, ValueError):
            raise IndexFormatError(
                f"{ref.name} in the index has other columns than expected: {CURE}"
            ) from None
    return pa.concat_tables(tables) if tables else pa.Table.from_batches([], wanted)
