"""What a saved label set remembers of every image: its best labels and the sum behind them.

Beside the table of a set lies ``<name>.<token>.scores``, column after column, so that a change
of the labels reads no more than it needs: ids, sums, the 8 best scores from the first on, their
labels, then the class vectors, and a checksum of every 65,536 rows of every column. The set's
JSON vouches for those checksums. The file is no part of the truth: where it is lost or damaged,
the images it spoke of are scored again.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from clipsearch.best_rows import BEST, BestRows
from clipsearch.encoder import Float32
from clipsearch.shards import Int64
from clipsearch.shared_folders import fetched

CHUNK_ROWS = 65_536
_PAGE = 4096
_ALIGNED = 64


@dataclass(frozen=True)
class ScoresRef:
    """The file of remembered scores, as a set's JSON names it.

    rows, bytes : of the file. dim : of the class vectors. logit_scale : behind the sums.
    seal : CRC-32 of class vectors and checksums. drift : how far the sums may be off by now,
    relatively, from what the set's changes have added up to. shards : sha256 of the embedding
    shards that were scored: a copy of the index may have other images under the same ids.
    """

    name: str
    rows: int
    bytes: int
    dim: int
    logit_scale: float
    seal: int
    drift: float
    shards: tuple[str, ...]


@dataclass(frozen=True)
class _Layout:
    """Where everything is in the file of a set of ``rows`` images and ``labels`` labels."""

    rows: int
    labels: int
    dim: int

    @property
    def code(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.labels < 0xFFFF else "<u4")

    @property
    def chunks(self) -> int:
        return -(-self.rows // CHUNK_ROWS)

    def columns(self) -> list[np.dtype[Any]]:
        return [np.dtype("<i8"), np.dtype("<f8"), *[np.dtype("<f4")] * BEST, *[self.code] * BEST]

    def starts(self) -> list[int]:
        """Of every column, of the class vectors, of the checksums; and the end."""
        starts = [0]
        sizes = [dtype.itemsize * self.rows for dtype in self.columns()]
        for size in (*sizes, 4 * self.labels * self.dim):
            starts.append(-(-(starts[-1] + size) // _ALIGNED) * _ALIGNED)
        return [*starts, starts[-1] + 4 * len(self.columns()) * self.chunks]


IDS, SUMS, SCORES, LABELS = 0, 1, 2, 2 + BEST  # the columns, in the order they lie in


def _checksum(values: npt.NDArray[Any]) -> int:
    """CRC-32 of the sums of every 4 KiB: five times as fast as that of the bytes themselves, and
    as good at telling a page that is not what was written."""
    data = values.view(np.uint8)
    whole = len(data) // _PAGE * _PAGE
    sums = data[:whole].view("<u8").reshape(-1, _PAGE // 8).sum(axis=1)
    return zlib.crc32(data[whole:].tobytes(), zlib.crc32(sums.tobytes()))


class RememberedScores:
    """The file of a set, mapped. Safe for threads.

    ids : (n,) rising. classes : (C, dim) float32, the class vectors of the set's labels.
    """

    def __init__(self, ref: ScoresRef, labels: int, mapped: mmap.mmap) -> None:
        layout = _Layout(ref.rows, labels, ref.dim)
        *starts, classes, checksums, _ = layout.starts()
        self.ref = ref
        self.code = layout.code
        self._columns = [
            np.frombuffer(mapped, dtype, ref.rows, start)
            for dtype, start in zip(layout.columns(), starts, strict=True)
        ]
        self.ids: Int64 = self._columns[IDS]
        self.classes: Float32 = np.frombuffer(mapped, "<f4", labels * ref.dim, classes).reshape(
            labels, ref.dim
        )
        self._checksums = np.frombuffer(
            mapped, "<u4", len(self._columns) * layout.chunks, checksums
        ).reshape(len(self._columns), layout.chunks)
        self._known: list[bool | None] = [None] * layout.chunks

    def column(self, number: int, rows: slice | Int64) -> npt.NDArray[Any]:
        """Some rows of a column: IDS, SUMS, SCORES + rank or LABELS + rank. Labels are codes,
        ``no_code`` where there is none."""
        return self._columns[number][rows]

    @property
    def no_code(self) -> int:
        return int(np.iinfo(self.code).max)

    def is_sound(self, chunk: int) -> bool:
        """Whether the rows from ``chunk * CHUNK_ROWS`` on are as they were written."""
        known = self._known[chunk]
        if known is None:
            rows = slice(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS)
            wanted = self._checksums[:, chunk].tolist()
            known = all(
                _checksum(column[rows]) == checksum
                for column, checksum in zip(self._columns, wanted, strict=True)
            )
            self._known[chunk] = known
        return known

    def all_sound(self) -> bool:
        """Whether every row is as it was written; reads the whole file."""
        return all(self.is_sound(chunk) for chunk in range(len(self._known)))


def open_scores(folder: Path, ref: ScoresRef, labels: int) -> RememberedScores | None:
    """The remembered scores of a set of ``labels`` labels; None where the file is lost, cut or
    not the one that the set vouches for. Its rows are not looked at."""
    *_, classes, _, end = _Layout(ref.rows, labels, ref.dim).starts()
    if end != ref.bytes or not end:
        return None
    try:
        with open(fetched(folder / ref.name), "rb") as file:
            if os.fstat(file.fileno()).st_size != end:
                return None
            mapped = mmap.mmap(file.fileno(), end, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    if zlib.crc32(memoryview(mapped)[classes:]) != ref.seal:
        return None
    return RememberedScores(ref, labels, mapped)


class ScoresWriter:
    """Writes the file of a set block by block, in memory that does not grow with it.

    path : a new file. rows : how many images there will be. classes : (C, dim) class vectors.
    """

    def __init__(self, path: Path, rows: int, classes: Float32, logit_scale: float) -> None:
        self.path = path
        self._layout = _Layout(rows, *classes.shape)
        self._starts = self._layout.starts()
        self._classes = np.ascontiguousarray(classes, "<f4")
        self._logit_scale = logit_scale
        self._written = 0
        self._file: IO[bytes] = open(path, "x+b")  # noqa: SIM115
        self._file.truncate(self._starts[-1])

    def add(self, best: BestRows) -> None:
        """Write the next rows, with all their BEST ranks."""
        codes = best.labels.astype(self._layout.code)  # NO_LABEL becomes the highest number
        columns = [best.ids, best.sums, *best.scores, *codes]
        for number, (dtype, values) in enumerate(zip(self._layout.columns(), columns, strict=True)):
            data = np.ascontiguousarray(values, dtype)
            self._file.seek(self._starts[number] + self._written * dtype.itemsize)
            self._file.write(data.data)
        self._written += len(best.ids)

    def finish(self, name: str, drift: float, shards: tuple[str, ...]) -> ScoresRef:
        """Force the file to the disk; how a set refers to it, as ``name``. drift, shards : see
        ``ScoresRef``.

        Raises ValueError when other than ``rows`` rows were written.
        """
        if self._written != self._layout.rows:
            raise ValueError(f"expected {self._layout.rows} rows, got {self._written}")
        classes, checksums, end = self._starts[-3:]
        tail = bytearray(end - classes)
        tail[: self._classes.nbytes] = self._classes.tobytes()
        tail[checksums - classes :] = self._checksums()
        self._file.seek(classes)
        self._file.write(tail)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        rows, dim = self._layout.rows, self._layout.dim
        seal = zlib.crc32(tail)
        return ScoresRef(name, rows, end, dim, self._logit_scale, seal, drift, shards)

    def _checksums(self) -> bytes:
        """Of every column and chunk, read back from the file."""
        layout = self._layout
        found = np.zeros((len(layout.columns()), layout.chunks), "<u4")
        self._file.flush()
        for number, dtype in enumerate(layout.columns()):
            self._file.seek(self._starts[number])
            for chunk in range(layout.chunks):
                rows = min(CHUNK_ROWS, layout.rows - chunk * CHUNK_ROWS)
                found[number, chunk] = _checksum(np.fromfile(self._file, dtype, rows))
        return found.tobytes()

    def close(self) -> None:
        """Give up: close the file and remove it."""
        with contextlib.suppress(OSError):  # a full disk does not take what is left to write
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
