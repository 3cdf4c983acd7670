"""Result files of ``classify`` and ``tag``: Parquet, CSV or NDJSON, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Protocol

import pyarrow as pa

from clipsearch.cli import silence_stdout
from clipsearch.cli.output import write_bytes
from clipsearch.cli.result_text import ResultText, path_texts
from clipsearch.errors import OptionError
from clipsearch.manifest import index_around
from clipsearch.metadata_columns import string_array

_FORMATS = (".parquet", ".csv", ".json", ".jsonl", ".ndjson")
_ROWS_AT_ONCE = 65_536
"""The rows of a row group, and what waits in memory for one."""


def check_out_path(named: str) -> Path:
    """The file to write; OptionError when its ending or its folder will not do."""
    path = Path(named)
    if path.suffix.lower() not in _FORMATS:
        raise OptionError(
            f"expected a file name ending in {', '.join(_FORMATS)} after --out, got {named}"
        )
    folder = path.absolute().parent
    if not folder.is_dir():
        raise OptionError(f"there is no folder {folder} to write {path.name} into")
    if index_around(folder) is not None:
        raise OptionError(f"{named} lies inside an index: choose another folder for --out")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise OptionError(f"cannot write {named}: it is a folder, or its folder is read-only")
    return path


Write = Callable[[pa.RecordBatch], None]


@contextlib.contextmanager
def result_writer(path: Path, schema: pa.Schema) -> Iterator[Write]:
    """Hands out what writes batches of ``schema`` to ``path``, which appears when all went well.

    ``path`` in the schema are the system's bytes, which the file has as text; JSON also has, for
    those that are no UTF-8, ``path_base64``. Raises OptionError when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
    try:
        with contextlib.ExitStack() as stack:
            with _told(path):
                file = open(temporary, "xb")  # noqa: SIM115
                stack.callback(_close_quietly, file)
                sink = _sink(path, file, schema)
                stack.callback(sink.abandon)

            def write(batch: pa.RecordBatch) -> None:
                with _told(path):
                    sink.write(batch)

            yield write
            with _told(path):
                sink.close()
                file.close()
        with _told(path):
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def printed_results(form: str, schema: pa.Schema, is_all: bool = True) -> Iterator[Write]:
    """Hands out what prints batches of ``schema``; form : see ``ResultText``.

    is_all : whether printing is all there is to do. Raises BrokenPipeError then when the reader
    has had enough; where a file or a set is made as well, that goes on.
    """

    def show(data: bytes) -> None:
        try:
            write_bytes(data)
        except BrokenPipeError:
            if is_all:
                raise
            silence_stdout()

    text = ResultText(form, schema)
    show(text.head)
    yield lambda batch: show(text.lines(batch))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}") from error


def _close_quietly(file: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # what went wrong has been told
        file.close()


class _Sink(Protocol):
    def write(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


def _sink(path: Path, file: IO[bytes], schema: pa.Schema) -> _Sink:
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _ParquetSink(file, schema)
    return _TextSink(file, ResultText("csv" if ending == ".csv" else "json", schema))


class _TextSink:
    def __init__(self, file: IO[bytes], text: ResultText) -> None:
        self._file = file
        self._text = text
        file.write(text.head)

    def write(self, batch: pa.RecordBatch) -> None:
        self._file.write(self._text.lines(batch))

    def close(self) -> None:
        self._file.flush()

    def abandon(self) -> None: ...


class _ParquetSink:
    def __init__(self, file: IO[bytes], schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        path = schema.get_field_index("path")
        self._schema = schema.set(path, pa.field("path", pa.string()))
        # Labels are written as their codes, and read as texts: a program that opens the file
        # needs to know nothing of dictionaries.
        labels = [field.name for field in schema if pa.types.is_dictionary(field.type)]
        self._writer = pq.ParquetWriter(
            file, self._schema, compression="zstd", use_dictionary=labels, store_schema=False
        )
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(_with_texts(batch, self._schema))
        self._rows += len(batch)
        if self._rows >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            table = pa.Table.from_batches(self._waiting, self._schema)
            self._writer.write_table(table, row_group_size=len(table))
        self._waiting, self._rows = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        # Left open, it would write its end when it is cleared away, into a file that is closed.
        if self._writer.is_open:
            with contextlib.suppress(OSError, ValueError):
                self._writer.close()
            self._writer.is_open = False


def _with_texts(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    raw = batch.column("path")
    try:
        texts = raw.cast(pa.string())
    except pa.ArrowInvalid:  # some are no UTF-8
        texts = string_array(path_texts(raw)[0])
    columns = [texts if name == "path" else batch.column(name) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
