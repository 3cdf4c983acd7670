"""The paths table as a file that maps: neither time nor memory grows with the index.

``cache/places/<token>.places`` holds the columns of ``PlaceRows`` one behind the other, little
endian: ids (int64), offsets of the paths (n + 1 int64), roots (int32), missing (one byte), the
bytes of the paths. ``current.json`` says which index and which files of its paths table that
is, and has a checksum of itself and of every 4096 rows, which are compared when one of those
rows is first used. Files are only ever added under new names, and deleting the folder loses
nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clipsearch.manifest import FileRef, Manifest
from clipsearch.place_rows import PlaceRows, path_lengths
from clipsearch.shards import Int64
from clipsearch.store import TEMPORARY_PREFIX, make_folder, replace_file, sync_folder

CURRENT = "current.json"
BLOCK_ROWS = 4096

_SUFFIX = ".places"
_TOKEN = re.compile(r"[0-9a-f]{12}")


@dataclass
class MappedRows(PlaceRows):
    """``PlaceRows`` over a mapped file, and what a block of them has to add up to."""

    offsets: Int64 = field(default_factory=lambda: np.zeros(1, np.int64))
    data: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    sums: tuple[int, ...] = ()
    compared: set[int] = field(default_factory=set)

    def is_sound(self, rows: Int64 | None = None) -> bool:
        every = range(len(self.sums))
        # Not np.unique, which imports numpy.ma.
        for block in every if rows is None else set((rows // BLOCK_ROWS).tolist()):
            if block not in self.compared:
                if self._sum(block) != self.sums[block]:
                    return False
                self.compared.add(block)
        return True

    def _sum(self, block: int) -> int | None:
        start, stop = block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, len(self))
        offsets = self.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        if not 0 <= first <= last <= len(self.data):
            return None
        return _sum_of(
            self.ids[start:stop],
            offsets,
            self.roots[start:stop],
            self.missing[start:stop].view(np.uint8),
            self.data[first:last],
        )


def _sum_of(*parts: npt.NDArray[Any]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(np.ascontiguousarray(part).view(np.uint8).data, total)
    return total


class PlaceCache:
    """The mapped paths table in ``folder``, the cache of an index."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder / "places"
        self._uuid = manifest.uuid
        self._refs = manifest.paths

    def state(self) -> dict[str, Any] | None:
        """``current.json`` when it is as it was written and of this index."""
        try:
            state = json.loads((self.folder / CURRENT).read_bytes())
            is_ours = (
                state.pop("check") == _check_of(state)
                and state["index"] == self._uuid
                and _TOKEN.fullmatch(state["token"]) is not None
                and isinstance(state["tables"], list)
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return state if is_ours else None

    def covered(self, state: dict[str, Any]) -> int:
        """How many files of the paths table, from the first on, the mapped one is made of; 0
        when it is made of another."""
        tables = _named(self._refs)
        count = len(state["tables"])
        return count if state["tables"] == tables[:count] else 0

    def file(self, state: dict[str, Any]) -> Path:
        """The file that a state speaks of."""
        return self.folder / f"{state['token']}{_SUFFIX}"

    def open(self) -> tuple[MappedRows | None, int]:
        """The rows that are mapped, and how many files of the paths table they stand for; None
        and 0 when there is no such file that will do."""
        state = self.state()
        covered = self.covered(state) if state is not None else 0
        if state is None or not covered:
            return None, 0
        try:
            rows = self._map(state)
        except (OSError, ValueError, KeyError, TypeError):  # gone, or another layout
            return None, 0
        return (rows, covered) if rows is not None else (None, 0)

    def usable(self) -> bool:
        """Whether there is a file at all that these rows can be mapped from."""
        return self.open()[1] > 0

    def covers_all(self) -> bool:
        """Whether the file stands for the whole paths table."""
        return self.open()[1] == len(self._refs)

    def _map(self, state: dict[str, Any]) -> MappedRows | None:
        count, text_bytes = int(state["rows"]), int(state["bytes"])
        path = self.file(state)
        if path.stat().st_size != _file_size(count, text_bytes):
            return None
        data = np.memmap(path, np.uint8, "r")
        parts = np.split(np.asarray(data), np.cumsum(_widths(count)))
        ids, offsets = parts[0].view("<i8"), parts[1].view("<i8")
        # What is looked up in them has to rise; the rest is compared when it is used.
        if not bool((ids[1:] >= ids[:-1]).all()):
            return None
        paths = pa.Array.from_buffers(
            pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(parts[4])]
        )
        rows = MappedRows(
            ids,
            parts[3].view(np.bool_),
            parts[2].view("<i4"),
            (paths,),
            offsets=offsets,
            data=parts[4],
            sums=tuple(state["sums"]),
        )
        rows.totals = tuple(state["totals"])
        return rows

    def write(self, rows: PlaceRows) -> None:
        """Make these rows, which stand for the whole paths table, the mapped ones; safe beside
        readers and other writers. Raises OSError."""
        make_folder(self.folder)
        token = secrets.token_hex(6)
        temporary = self.folder / f"{TEMPORARY_PREFIX}{token}"
        whole = self.folder / f"{token}{_SUFFIX}"
        try:
            with open(temporary, "xb") as file:
                text_bytes, sums = _write_columns(file, rows)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, whole)
            sync_folder(self.folder)
            state = {
                "index": self._uuid,
                "tables": _named(self._refs),
                "token": token,
                "rows": len(rows),
                "bytes": text_bytes,
                "totals": list(rows.totals),
                "sums": sums,
            }
            document = {**state, "check": _check_of(state)}
            replace_file(self.folder / CURRENT, json.dumps(document).encode())
        except BaseException:  # a file that nothing names would only fill the disk
            for file_of_none in (temporary, whole):
                with contextlib.suppress(OSError):
                    file_of_none.unlink()
            raise
        self._remove_others(token)

    def _remove_others(self, token: str) -> None:
        now = self.state()  # another writer may have been quicker
        if now is not None:
            token = now["token"]
        for stray in self.folder.glob(f"*{_SUFFIX}"):
            if _TOKEN.fullmatch(stray.stem) and stray.stem != token:
                with contextlib.suppress(OSError):  # still mapped by a reader on Windows
                    stray.unlink()

    def clear(self) -> None:
        """Remove the files; who reads them falls back to the paths table meanwhile."""
        for file in (self.folder / CURRENT, *self.folder.glob(f"*{_SUFFIX}")):
            file.unlink(missing_ok=True)


def _named(refs: Sequence[FileRef]) -> list[list[Any]]:
    return [[ref.name, ref.sha256] for ref in refs]


def _check_of(state: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _widths(count: int) -> list[int]:
    """The bytes of each column of numbers."""
    return [8 * count, 8 * (count + 1), 4 * count, count]


def _file_size(count: int, text_bytes: int) -> int:
    return sum(_widths(count)) + text_bytes


def _write_columns(file: BinaryIO, rows: PlaceRows) -> tuple[int, list[int]]:
    """How many bytes the paths have, and the checksum of every block of rows."""
    blocks = [
        np.arange(start, min(start + BLOCK_ROWS, len(rows)))
        for start in range(0, len(rows), BLOCK_ROWS)
    ]
    lengths = [path_lengths(rows.paths(block)) for block in blocks]
    offsets = np.zeros(len(rows) + 1, "<i8")
    np.cumsum(np.concatenate([np.empty(0, np.int64), *lengths]), out=offsets[1:])
    columns: list[npt.NDArray[Any]] = [
        rows.ids.astype("<i8", copy=False),
        offsets,
        rows.roots.astype("<i4", copy=False),
        rows.missing.view(np.uint8),
    ]
    for column in columns:
        file.write(np.ascontiguousarray(column).data)
    sums: list[int] = []
    for block in blocks:
        paths = rows.paths(block)
        first, last = paths.offset, paths.offset + len(paths)
        starts = np.frombuffer(paths.buffers()[1], "<i8")
        text = np.frombuffer(paths.buffers()[2] or b"", np.uint8)[starts[first] : starts[last]]
        file.write(text.data)
        start, stop = int(block[0]), int(block[-1]) + 1
        numbers = [column[start : stop + (column is offsets)] for column in columns]
        sums.append(_sum_of(*numbers, text))
    return int(offsets[-1]), sums
