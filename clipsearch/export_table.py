"""Tables of hits: CSV, JSON (one object a line) and Parquet."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from clipsearch.export_rows import ExportRow
from clipsearch.export_single_file import export_single_file
from clipsearch.export_writing import ExportReport
from clipsearch.image_index import ImageIndex

_ROWS_AT_ONCE = 65_536


def export_table(
    index: ImageIndex,
    rows: Sequence[ExportRow],
    path: Path,
    kind: str,
    *,
    force: bool = False,
    about: str = "",
    dry_run: bool = False,
) -> ExportReport:
    """Write ``rows`` as a table to ``path``, which appears only when it is complete.

    kind : "csv", "json" or "parquet". force : replace a file that is there and that no export
    wrote; see ``export_single_file``. Raises OptionError, ExportError.
    """

    def write(file: IO[bytes]) -> None:
        write_table(file, rows, kind)

    return export_single_file(index, kind, path, write, force=force, about=about, dry_run=dry_run)


def write_table(file: IO[bytes], rows: Iterable[ExportRow], kind: str) -> None:
    """Write ``rows`` to an open file, as "csv", "json" or "parquet"."""
    if kind == "parquet":
        _write_parquet(file, rows)
        return
    if kind == "csv":
        file.write(_csv_lines([_COLUMN_NAMES]))
    for chunk in _chunks(rows):
        records = [table_record(row) for row in chunk]
        if kind == "csv":
            file.write(_csv_lines(_csv_cells(record) for record in records))
        else:
            file.writelines(_json_line(record) for record in records)


_COLUMN_NAMES = (
    "id", "path", "path_base64", "missing", "score", "cosine", "strength", "taken_at", "width",
    "height", "camera", "lens", "lat", "lon", "keywords", "rating", "description", "format",
    "bytes", "sha256",
)  # fmt: skip


def table_record(row: ExportRow) -> dict[str, Any]:
    """A row as plain values, in the order of the columns. ``path`` is text; where it is not
    UTF-8 its bytes stand in ``path_base64``, else that is None."""
    raw = os.fsencode(row.path)
    try:
        text, encoded = raw.decode("utf-8"), None
    except UnicodeDecodeError:
        text, encoded = raw.decode("utf-8", "replace"), base64.b64encode(raw).decode("ascii")
    return {
        "id": row.id,
        "path": text,
        "path_base64": encoded,
        "missing": row.missing,
        "score": _rounded(row.score),
        "cosine": _rounded(row.cosine),
        "strength": row.strength,
        "taken_at": row.taken_at,
        "width": row.width,
        "height": row.height,
        "camera": row.camera,
        "lens": row.lens,
        "lat": row.lat,
        "lon": row.lon,
        "keywords": list(row.keywords),
        "rating": row.rating,
        "description": row.description,
        "format": row.format,
        "bytes": row.bytes,
        "sha256": row.sha256.hex() if row.sha256 else None,
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def _chunks(rows: Iterable[ExportRow]) -> Iterator[list[ExportRow]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _ROWS_AT_ONCE)):
        yield chunk


def _json_line(record: dict[str, Any]) -> bytes:
    if record["path_base64"] is None:
        del record["path_base64"]
    if record["taken_at"] is not None:
        record["taken_at"] = record["taken_at"].isoformat()
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _csv_cells(record: dict[str, Any]) -> list[object]:
    when = record["taken_at"]
    cells = {
        **record,
        "missing": "true" if record["missing"] else "false",
        "taken_at": when.isoformat() if when is not None else None,
        "keywords": "; ".join(record["keywords"]),
    }
    return list(cells.values())


def _csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode("utf-8", "replace")


def _write_parquet(file: IO[bytes], rows: Iterable[ExportRow]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "id": pa.int64(),
        "missing": pa.bool_(),
        "score": pa.float32(),
        "cosine": pa.float32(),
        "taken_at": pa.timestamp("us"),
        "width": pa.int32(),
        "height": pa.int32(),
        "lat": pa.float64(),
        "lon": pa.float64(),
        "keywords": pa.list_(pa.string()),
        "rating": pa.int16(),
        "bytes": pa.int64(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMN_NAMES])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for chunk in _chunks(rows):
            records = [table_record(row) for row in chunk]
            writer.write_table(pa.Table.from_pylist(records, schema=schema))
