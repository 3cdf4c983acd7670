"""Images in a column of a Parquet file: list them, and read them a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsearch.errors import SourceError
from clipsearch.shards import Int64, as_numpy
from indexer.containers import DamagedError, Listing, member_label

_IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "data")
_KEY_NAMES = ("image_path", "path", "key", "__key__", "id")
_BATCH_BYTES = 8 << 20
_SNIFFED = 16
_ARROW_ERRORS = (pa.ArrowException, OSError, ValueError)


class ParquetImages:
    """The images of one Parquet file. Not for several threads at a time.

    Raises SourceError for a file without a column of images, DamagedError for one that is no
    Parquet file, FileNotFoundError.
    """

    def __init__(self, path: str) -> None:
        try:
            # Streamed: a row group may be larger than the memory.
            self._file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        except FileNotFoundError:
            raise
        except _ARROW_ERRORS as error:
            raise DamagedError(f"expected a Parquet file: {_line(error)}") from None
        try:
            self._schema = self._file.schema_arrow
            self._column, self._is_struct = _image_column(self._schema)
        except BaseException:
            self._file.close()
            raise
        metadata = self._file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        self._bytes = [group.total_byte_size for group in groups]
        self._batches: Iterator[tuple[int, Any]] = iter(())
        self._group = -1
        self._first = 0  # the rows of the batch at hand begin here
        self._batch: Any = None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ParquetImages:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _values(self, group: int) -> Iterator[tuple[int, Any]]:
        """The number of the first row, and the binary values, of small pieces of a row group."""
        first = int(self._starts[group])
        rows = int(self._starts[group + 1]) - first
        size = max(1, min(1024, rows * _BATCH_BYTES // max(self._bytes[group], 1)))
        name = f"{self._column}.bytes" if self._is_struct else self._column
        for batch in self._file.iter_batches(
            size, row_groups=[group], columns=[name], use_threads=False
        ):
            values = batch.column(0)
            if self._is_struct:
                values = pc.struct_field(values, "bytes")
            yield first, values
            first += len(batch)

    def read(self, row: int) -> bytes:
        """The image file in a row; quick when rows are asked for in their order.

        Raises DamagedError when it cannot be read, or is null.
        """
        try:
            group = int(np.searchsorted(self._starts, row, side="right")) - 1
            if self._batch is None or group != self._group or row < self._first:
                self._group, self._batches = group, self._values(group)
                self._first, self._batch = next(self._batches)
            while row >= self._first + len(self._batch):
                self._first, self._batch = next(self._batches)
            value = self._batch[row - self._first].as_py()
        except (*_ARROW_ERRORS, StopIteration) as error:
            self._batch = None
            raise DamagedError(f"row {row} cannot be read: {_line(error)}") from None
        if value is None:
            raise DamagedError(f"row {row} holds no image")
        return bytes(value)

    def check(self) -> None:
        """Raise SourceError when the first values of the column are no images."""
        from clipsearch.image_formats import SNIFF_BYTES, sniff_format

        seen = 0
        try:
            for group in range(len(self._bytes)):
                for _, values in self._values(group):
                    for value in values.drop_null()[: _SNIFFED - seen]:
                        if sniff_format(value.as_py()[:SNIFF_BYTES]) is not None:
                            return
                        seen += 1
                    if seen >= _SNIFFED:
                        break
                if seen >= _SNIFFED:
                    break
        except _ARROW_ERRORS:
            return  # what can be read is for the listing to find out
        if seen:
            raise SourceError(
                f"expected image files in its binary column {self._column!r}, got other bytes"
            )

    def labels(self) -> list[bytes]:
        """A name for every row, no two alike: the first column of names without repetition,
        else the number of the row. Raises DamagedError."""
        for name in self._key_columns():
            try:
                column = self._file.read(columns=[name], use_threads=False).column(0)
            except _ARROW_ERRORS as error:
                raise DamagedError(f"its column {name!r} cannot be read: {_line(error)}") from None
            if name.endswith(".path"):
                column = pc.struct_field(column, "path")
            if column.null_count:
                continue
            keys = column.to_pylist()
            labels = [
                member_label(key if isinstance(key, bytes) else str(key).encode()) for key in keys
            ]
            if len(set(labels)) == len(labels) and all(labels):
                return labels
        return [b"%08d" % row for row in range(len(self))]

    def _key_columns(self) -> Iterator[str]:
        for name in _KEY_NAMES:
            if self._schema.names.count(name) == 1 and name != self._column:
                kind = self._schema.field(name).type
                if pa.types.is_integer(kind) or _is_text(kind) or _is_binary(kind):
                    yield name
        if self._is_struct:
            kind = self._schema.field(self._column).type
            if kind.get_field_index("path") >= 0 and _is_text(kind.field("path").type):
                yield f"{self._column}.path"

    def listing(self, known: Mapping[bytes, int]) -> Listing:
        """The images with their sizes. To tell those the values must be read, so row groups of
        which all sizes are ``known`` are passed over."""
        listing = Listing()
        labels = self.labels()
        for group in range(len(self._bytes)):
            rows = range(int(self._starts[group]), int(self._starts[group + 1]))
            sizes = [known.get(labels[row], -1) for row in rows]
            if min(sizes, default=0) < 0:
                sizes = []
                try:
                    for _, values in self._values(group):
                        sizes.extend(_lengths(values).tolist())
                except _ARROW_ERRORS as error:
                    row = rows.start + len(sizes)
                    listing.damage = (
                        f"rows {row:,} to {rows.stop - 1:,} cannot be read: {_line(error)}"
                    )
            for row, size in zip(rows, sizes, strict=False):
                if size < 0:
                    listing.ignored["row without an image"] += 1
                else:
                    listing.add(labels[row], size, row)
        return listing


def _lengths(values: Any) -> Int64:
    """(n,) bytes of each value, -1 for null."""
    lengths = pc.binary_length(values).cast(pa.int64())
    return (
        np.where(as_numpy(values.is_null()), -1, as_numpy(lengths))
        if len(values)
        else np.empty(0, np.int64)
    )


def _image_column(schema: Any) -> tuple[str, bool]:
    """The name of the column of images, and whether it is a struct<bytes, path>."""
    fields = [field for field in schema if schema.names.count(field.name) == 1]
    structs = [
        field.name
        for field in fields
        if pa.types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and _is_binary(field.type.field("bytes").type)
    ]
    plain = [field.name for field in fields if _is_binary(field.type)]
    for names, is_struct in ((structs, True), (plain, False)):
        preferred = [name for name in _IMAGE_NAMES if name in names]
        if preferred:
            return preferred[0], is_struct
        if len(names) == 1:
            return names[0], is_struct
    shown = [f"{field.name} {field.type}" for field in schema][:8]
    raise SourceError(
        "expected a binary column of image files (named image, jpg, png, bytes or the like, or "
        "the only one) or a struct<bytes, path> as Hugging Face writes it, got the columns "
        + (", ".join(shown) or "none")
    )


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
