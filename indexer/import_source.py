"""Vectors computed elsewhere, and the names of their images, read block by block.

Two forms are known: what clip-retrieval writes (``img_emb/img_emb_0.npy`` beside
``metadata/metadata_0.parquet``), and one ``.npy`` with a list of names. Nothing here
unpickles anything.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clipsearch.errors import SourceError
from indexer.sources import PathName, absolute_path

NAME_COLUMNS = ("image_path", "path", "id")
"""The columns that may hold the names, in order of preference."""

_READ_BYTES = 1 << 20

Names = Callable[[], Iterator[bytes]]
Matrix = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ImportPart:
    """One file of vectors. matrix : (n, dim) float16, 32 or 64, mapped. names : called, gives
    the name of every row, b"" where there is none. from_files : both files, for messages."""

    matrix: Matrix
    names: Names
    from_files: tuple[Path, Path]


@dataclass(frozen=True)
class ImportSource:
    """All vectors to import. kind : "clip-retrieval" or "npy". dtype : of the first file."""

    kind: str
    parts: tuple[ImportPart, ...]
    dim: int
    dtype: str

    def __len__(self) -> int:
        return sum(len(part.matrix) for part in self.parts)

    def names(self) -> Iterator[bytes]:
        """The name of every vector, in order.

        SourceError when a file names more or fewer images than there are vectors.
        """
        for part in self.parts:
            count = 0
            for count, name in enumerate(part.names(), 1):
                if count > len(part.matrix):
                    break
                yield name
            if count != len(part.matrix):
                vectors, names = part.from_files
                more = "more than " if count > len(part.matrix) else ""
                raise SourceError(
                    f"{vectors} holds {len(part.matrix):,} vectors, but {names} names {more}"
                    f"{min(count, len(part.matrix)):,} images: expected a name for every vector, "
                    "in the same order"
                )

    def blocks(self, rows: int) -> Iterator[tuple[list[bytes], Matrix]]:
        """Yield (names, (m, dim) vectors as they are), at most ``rows`` at a time."""
        for part in self.parts:
            names = part.names()
            for start in range(0, len(part.matrix), rows):
                block = part.matrix[start : start + rows]
                yield list(itertools.islice(names, len(block))), block

    def take(self, rows: list[int]) -> Matrix:
        """(m, dim) the vectors of some rows, in that order."""
        picked = np.empty((len(rows), self.dim), np.float64)
        start = 0
        for part in self.parts:
            for position, row in enumerate(rows):
                if start <= row < start + len(part.matrix):
                    picked[position] = part.matrix[row - start]
            start += len(part.matrix)
        return picked


def open_import(source: PathName, paths: PathName | None = None) -> ImportSource:
    """Open vectors to import.

    source : a folder that clip-retrieval wrote, or a ``.npy`` of shape (n, dim).
    paths : for a ``.npy``, the file that names its n images: ``.npy`` (strings), ``.parquet``
        or ``.csv`` (a column image_path, path or id), or else text, a line (or a NUL) after
        each name.

    Raises SourceError for what is missing, of another shape or type, or does not fit together.
    """
    place = absolute_path(source)
    if not place.exists():
        raise SourceError(f"nothing to import at {source}: no such file or folder")
    if place.is_dir():
        if paths is not None:
            raise SourceError("a list of paths goes with a single .npy, not with a folder")
        pairs = _clip_retrieval_files(place)
        parts = tuple(_part(vectors, names) for vectors, names in pairs)
        kind = "clip-retrieval"
    else:
        if paths is None:
            raise SourceError(f"name the file that lists the images of {source} with --paths")
        parts = (_part(place, absolute_path(paths)),)
        kind = "npy"
    dims = {part.matrix.shape[1]: part.from_files[0] for part in parts}
    if len(dims) > 1:
        told = ", ".join(f"{file.name} of {dim}" for dim, file in dims.items())
        raise SourceError(f"expected vectors of one length in {source}, got {told} numbers")
    opened = ImportSource(kind, parts, next(iter(dims)), parts[0].matrix.dtype.name)
    if not len(opened):
        raise SourceError(f"{source} holds no vectors")
    return opened


def _clip_retrieval_files(folder: Path) -> list[tuple[Path, Path]]:
    """The pairs (vectors, metadata) in order of their number."""
    vectors = _numbered(folder / "img_emb", r"img_emb_(\d+)\.npy")
    if not vectors:
        raise SourceError(
            f"expected img_emb/img_emb_0.npy and so on in {folder}, as clip-retrieval writes "
            "them: found none (a single .npy is imported by its own name, with --paths)"
        )
    metadata = _numbered(folder / "metadata", r"metadata_(\d+)\.parquet")
    for number in sorted(vectors.keys() ^ metadata.keys()):
        file = vectors.get(number) or metadata[number]
        other = "metadata/metadata" if number in vectors else "img_emb/img_emb"
        raise SourceError(
            f"{folder} holds {file.parent.name}/{file.name}, but no {other}_{number} to go with "
            "it: fetch that file too, or move this one away"
        )
    return [(vectors[number], metadata[number]) for number in sorted(vectors)]


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for file in sorted(folder.glob("*")):
        match = re.fullmatch(pattern, file.name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise SourceError(
                f"{folder} holds number {number} twice ({found[number].name}, {file.name}): "
                "move one away"
            )
        found[number] = file
    return found


def _part(vectors: Path, names: Path) -> ImportPart:
    matrix = _mapped(vectors)
    if matrix.dtype.kind != "f" or matrix.dtype.itemsize > 8 or matrix.ndim != 2:
        raise SourceError(
            f"expected (n, dim) numbers of type float16, 32 or 64 in {vectors}, got shape "
            f"{matrix.shape} of {matrix.dtype}"
        )
    return ImportPart(matrix, _name_reader(names), (vectors, names))


def _mapped(file: Path) -> npt.NDArray[Any]:
    """The array of a ``.npy``, mapped; SourceError for anything else, Python objects too."""
    try:
        if file.stat().st_size < _READ_BYTES:  # and an array of no rows could not be mapped
            array = np.load(file, allow_pickle=False)
        else:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        why = str(error).splitlines()[0]
        if "pickle" in why or "object" in why.lower():
            why = "it holds Python objects, or is no .npy; those are never loaded"
        raise SourceError(f"cannot read the array in {file}: {why}") from None
    except OSError as error:
        raise SourceError(f"cannot read {file}: {error.strerror or error}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise SourceError(f"{file} is a .npz: take the .npy out of it and import that")
    return array


def _name_reader(file: Path) -> Names:
    """What reads the names in ``file``, by its ending."""
    if not file.is_file():
        raise SourceError(f"no such list of image paths: {file}")
    ending = file.suffix.lower()
    if ending == ".npy":
        names = _mapped(file)
        if names.dtype.kind not in "US" or names.ndim != 1:
            raise SourceError(
                f"expected one row of strings in {file}, got shape {names.shape} of {names.dtype}"
            )
        return lambda: (_as_bytes(name) for name in names)
    if ending == ".parquet":
        column = _parquet_column(file)
        return lambda: _of_parquet(file, column)
    if ending == ".csv":
        return lambda: _of_csv(file)
    return lambda: _of_text(file)


def _as_bytes(name: object) -> bytes:
    """A name as the bytes of a path; b"" for what can be none."""
    if name is None:
        return b""
    if isinstance(name, bytes):
        return bytes(name)
    try:
        return os.fsencode(str(name))
    except UnicodeEncodeError:
        return b""


def _parquet_column(file: Path) -> str:
    try:
        schema = pq.ParquetFile(file).schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"cannot read {file}: {why}") from None
    return _name_column(file, schema.names)


def _name_column(file: Path, columns: list[str]) -> str:
    for name in NAME_COLUMNS:
        if name in columns:
            return name
    raise SourceError(
        f"expected a column {', '.join(NAME_COLUMNS[:-1])} or {NAME_COLUMNS[-1]} in {file}, "
        f"got {', '.join(columns) or 'none'}"
    )


def _of_parquet(file: Path, column: str) -> Iterator[bytes]:
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(8_192, columns=[column], use_threads=False):
                for name in batch.column(0).to_pylist():
                    yield _as_bytes(name)
    except (pa.ArrowException, OSError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SourceError(f"cannot read {file}: {why}") from None


def _of_csv(file: Path) -> Iterator[bytes]:
    # Bytes that are no UTF-8 are carried along, as Python does with file names.
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines)
        header = next(rows, [])
        place = header.index(_name_column(file, header))
        try:
            for row in rows:
                if row:
                    yield _as_bytes(row[place] if place < len(row) else None)
        except csv.Error as error:
            raise SourceError(f"line {rows.line_num} of {file} is no CSV: {error}") from None


def _of_text(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as data:
        separator = b"\0" if b"\0" in data.read(_READ_BYTES) else b"\n"
        data.seek(0)
        rest = b""
        while block := data.read(_READ_BYTES):
            *names, rest = (rest + block).split(separator)
            yield from (name.removesuffix(b"\r") for name in names)
        if rest:  # the last line need not be ended
            yield rest.removesuffix(b"\r")
