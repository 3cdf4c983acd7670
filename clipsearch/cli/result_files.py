"""Result files of ``classify`` and ``tag``: Parquet, CSV or NDJSON, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from clipsearch.cli.output import csv_lines, json_line, path_fields
from clipsearch.errors import OptionError
from clipsearch.manifest import index_around

_FORMATS = (".parquet", ".csv", ".json", ".jsonl", ".ndjson")
_ROWS_AT_ONCE = 65_536


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


def write_result(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """Write ``rows``, which have ``columns``, to ``path``; it appears only when it is complete."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}.tmp")
    chunks = _chunks(rows)
    try:
        with open(temporary, "xb") as file:
            if path.suffix.lower() == ".parquet":
                _write_parquet(file, chunks, columns)
            elif path.suffix.lower() == ".csv":
                file.write(csv_lines([columns]))
                for chunk in chunks:
                    file.write(csv_lines([list(_with_text_path(row).values()) for row in chunk]))
            else:
                for chunk in chunks:
                    file.writelines(
                        json_line({**row, **path_fields(Path(row["path"]))}) for row in chunk
                    )
        os.replace(temporary, path)
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _ROWS_AT_ONCE)):
        yield chunk


def _with_text_path(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "path": path_fields(Path(row["path"]))["path"]}


def _write_parquet(
    file: IO[bytes], chunks: Iterable[list[dict[str, Any]]], columns: Sequence[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "id": pa.int64(),
        "path": pa.string(),
        "rank": pa.int32(),
        "label": pa.string(),
        "score": pa.float32(),
        "cosine": pa.float32(),
        "probability": pa.float32(),
        "margin": pa.float32(),
        "runner_up": pa.string(),
    }
    schema = pa.schema([(name, types[name]) for name in columns])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in chunks:
            rows = [_with_text_path(row) for row in chunk]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
