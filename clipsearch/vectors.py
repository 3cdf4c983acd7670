"""Mapped views of a space's vectors.

Beside the Parquet shards, which are the truth, ``cache/vectors/<space>/`` holds the same fp16
numbers as one raw row-major matrix that maps: ``<token>.f16`` with its ``<token>.ids`` (int64),
and ``current.json`` that says which index, space and shards they cover. The matrix only ever
grows at its end; a reader maps just the rows that ``current.json`` and its own generation of
the manifest agree on, and takes the rest from the shards. Deleting the cache loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError
from clipsearch.half import widen
from clipsearch.manifest import Manifest, ShardRef
from clipsearch.shards import CURE, Float16, Int64, embedding_schema, read_table, vectors_of
from clipsearch.store import Store, replace_file

BLOCK_ROWS = 16_384
_CURRENT = "current.json"
_TOKEN = re.compile(r"[0-9a-f]{12}")
_NO_IDS = np.empty(0, np.int64)


@dataclass(frozen=True)
class Vectors:
    """The vectors of one space at one generation.

    ids : (n,) int64, rising.
    segments : (n_i, dim) little-endian fp16 matrices that together have n rows, mapped where
        the cache has them.
    deleted : (d,) int64, rising: ids that no longer count.
    """

    ids: Int64
    segments: tuple[Float16, ...]
    dim: int
    deleted: Int64

    def __len__(self) -> int:
        """How many vectors count."""
        return len(self.ids) - self._deleted_here()

    def _deleted_here(self) -> int:
        rows = np.searchsorted(self.ids, self.deleted)
        inside = rows < len(self.ids)
        return int((self.ids[rows[inside]] == self.deleted[inside]).sum())

    def pieces(
        self, rows: int = BLOCK_ROWS, *, after: int | None = None
    ) -> Iterator[tuple[Int64, Float16]]:
        """Yield (ids, fp16 rows) in order of id, at most ``rows`` at a time, as views of what
        is mapped: cheap to make, and read when they are used. Deleted ids are among them."""
        start = 0
        first = 0 if after is None else int(np.searchsorted(self.ids, after, side="right"))
        for segment in self.segments:
            stop = start + len(segment)
            for begin in range(max(start, first), stop, rows):
                end = min(begin + rows, stop)
                yield self.ids[begin:end], segment[begin - start : end - start]
            start = stop

    def live(self, ids: Int64, matrix: Float16) -> tuple[Int64, Float16]:
        """A piece without its deleted rows; itself where none is deleted."""
        first, last = np.searchsorted(self.deleted, (ids[0], ids[-1] + 1))
        if first == last:
            return ids, matrix
        kept = ~np.isin(ids, self.deleted[first:last], assume_unique=True)
        return ids[kept], matrix[kept]

    def blocks(
        self, rows: int = BLOCK_ROWS, *, after: int | None = None
    ) -> Iterator[tuple[Int64, Float32]]:
        """Yield (ids, float32 rows) in order of id, at most ``rows`` at a time.

        Deleted ids are left out; with ``after`` only ids above it come.
        """
        for ids, matrix in self.pieces(rows, after=after):
            ids, matrix = self.live(ids, matrix)
            if len(ids):
                yield ids, widen(matrix)

    def take_half(self, ids: Sequence[int] | Int64) -> tuple[Int64, Float16]:
        """The (m,) ids of ``ids`` that are here and not deleted, rising, and their (m, dim)
        fp16 rows."""
        wanted = np.setdiff1d(np.asarray(ids, np.int64), self.deleted)
        positions = np.searchsorted(self.ids, wanted)
        inside = positions < len(self.ids)
        wanted, positions = wanted[inside], positions[inside]
        here = self.ids[positions] == wanted
        wanted, positions = wanted[here], positions[here]
        rows = np.empty((len(wanted), self.dim), np.float16)
        start = 0
        for segment in self.segments:
            # Positions rise, so those of a segment are side by side.
            first, last = np.searchsorted(positions, (start, start + len(segment)))
            if last > first:
                np.take(segment, positions[first:last] - start, axis=0, out=rows[first:last])
            start += len(segment)
        return wanted, rows

    def take(self, ids: Sequence[int] | Int64) -> tuple[Int64, Float32]:
        """``take_half`` with float32 rows."""
        here, rows = self.take_half(ids)
        return here, widen(rows)

    def live_pieces(self, allowed: Int64 | None = None) -> Iterator[tuple[Int64, Float16]]:
        """Yield (ids, fp16 rows) of all vectors that count, in order of id; of those of the
        (a,) rising ids ``allowed`` where they are given."""
        if allowed is not None:
            for start in range(0, len(allowed), BLOCK_ROWS):
                yield self.take_half(allowed[start : start + BLOCK_ROWS])
            return
        for ids, matrix in self.pieces():
            ids, matrix = self.live(ids, matrix)
            if len(ids):
                yield ids, matrix

    def blocks_of(self, ids: Int64, rows: int = BLOCK_ROWS) -> Iterator[tuple[Int64, Float32]]:
        """``take`` of (a,) rising ids, at most ``rows`` at a time."""
        for start in range(0, len(ids), rows):
            yield self.take(ids[start : start + rows])


def _covered(shards: Sequence[ShardRef]) -> list[list[Any]]:
    return [[shard.sha256, shard.rows] for shard in shards]


def _common_prefix(state: dict[str, Any], shards: Sequence[ShardRef]) -> int:
    """How many of ``shards`` the cache covers, from the first on."""
    count = 0
    for cached, wanted in zip(state["shards"], _covered(shards), strict=False):
        if cached != wanted:
            break
        count += 1
    return count


class VectorCache:
    """The matrix files of one space in ``folder``."""

    def __init__(self, folder: Path, manifest: Manifest, space_id: str) -> None:
        self.folder = folder / "vectors" / space_id
        self._manifest = manifest
        self._space = manifest.spaces[space_id]
        self._shards = manifest.embeddings.get(space_id, ())

    def _state(self) -> dict[str, Any] | None:
        """``current.json`` when it is of this index and space and its files are whole."""
        try:
            state = json.loads((self.folder / _CURRENT).read_bytes())
            rows, dim = int(state["rows"]), int(state["dim"])
            token = str(state["token"])
            if _TOKEN.fullmatch(token) is None:
                return None
            whole = (
                state["index"] == self._manifest.uuid
                and state["space"] == self._space.fingerprint
                and dim == self._space.dim
                and sum(count for _, count in state["shards"]) == rows
                and (self.folder / f"{token}.f16").stat().st_size >= rows * dim * 2
                and (self.folder / f"{token}.ids").stat().st_size >= rows * 8
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
        return state if whole else None

    def update(self, store: Store) -> None:
        """Make the cache cover every shard of the manifest.

        Rows are appended where the cache covers the first shards already, else a new matrix
        is written under a new name. Only the holder of the writer's lock may append.
        """
        state = self._state()
        covered = _common_prefix(state, self._shards) if state else 0
        if state and covered == len(self._shards) == len(state["shards"]):
            return
        if state is None or covered < len(state["shards"]):
            state, covered = None, 0
        try:
            self._write(store, state, covered)
        except FileNotFoundError:  # a reader has just replaced the matrix by one of its own
            self._write(store, None, 0)

    def build(self, store: Store) -> None:
        """Write a new matrix over every shard of the manifest; safe beside other readers."""
        self._write(store, None, 0)

    def _write(self, store: Store, state: dict[str, Any] | None, covered: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        token = str(state["token"]) if state else secrets.token_hex(6)
        try:
            rows = self._write_matrix(store, token, covered, "r+b" if state else "xb")
        except BaseException:
            if state is None:  # half a matrix would only fill the disk
                for suffix in (".f16", ".ids"):
                    with contextlib.suppress(OSError):
                        (self.folder / f"{token}{suffix}").unlink()
            raise
        document = {
            "index": self._manifest.uuid,
            "space": self._space.fingerprint,
            "generation": self._manifest.generation,
            "dim": self._space.dim,
            "rows": rows,
            "token": token,
            "shards": _covered(self._shards),
        }
        replace_file(self.folder / _CURRENT, json.dumps(document, indent=1).encode())
        self._remove_others(token)

    def _write_matrix(self, store: Store, token: str, covered: int, mode: str) -> int:
        """Write the shards after the first ``covered`` behind their rows; how many rows there
        are then."""
        rows = sum(shard.rows for shard in self._shards[:covered])
        with (
            open(self.folder / f"{token}.f16", mode) as matrix,
            open(self.folder / f"{token}.ids", mode) as ids_file,
        ):
            # A run that was killed may have left rows that no current.json counts.
            matrix.seek(rows * self._space.dim * 2)
            ids_file.seek(rows * 8)
            store.bring({shard.name: shard.bytes for shard in self._shards[covered:]})
            for shard in self._shards[covered:]:
                ids, vectors = read_vectors(store, shard, self._space.dim)
                matrix.write(vectors.tobytes())
                ids_file.write(ids.astype("<i8").tobytes())
                rows += len(ids)
            for file in (matrix, ids_file):
                file.flush()
                os.fsync(file.fileno())
        return rows

    def _remove_others(self, token: str) -> None:
        for stray in self.folder.iterdir():
            ours = _TOKEN.fullmatch(stray.stem) and stray.suffix in (".f16", ".ids")
            if ours and stray.stem != token:
                with contextlib.suppress(OSError):  # still mapped by a reader on Windows
                    stray.unlink()

    def mapped(self) -> tuple[int, Float16, Int64] | None:
        """How many of the first shards the cache covers, and their matrix and ids, mapped; None
        where it covers none, or was replaced under our eyes."""
        state = self._state()
        covered = _common_prefix(state, self._shards) if state else 0
        if not state or not covered:
            return None
        rows, dim = sum(shard.rows for shard in self._shards[:covered]), self._space.dim
        token = state["token"]
        try:
            matrix = _mapped(self.folder / f"{token}.f16", "<f2", (rows, dim))
            return covered, matrix, _mapped(self.folder / f"{token}.ids", "<i8", (rows,))
        except (OSError, ValueError):
            return None

    def open(self, store: Store, deleted: Int64) -> Vectors:
        """Map what the cache covers and read the rest from the shards."""
        dim = self._space.dim
        covered = 0
        segments: list[Float16] = []
        id_parts: list[Int64] = []
        mapped = self.mapped()
        if mapped is not None and agrees(mapped[2], self._shards[: mapped[0]]):
            covered, matrix, cached_ids = mapped
            segments.append(matrix)
            id_parts.append(cached_ids)
        store.bring({shard.name: shard.bytes for shard in self._shards[covered:]})
        for shard in self._shards[covered:]:
            ids, vectors = read_vectors(store, shard, dim)
            segments.append(vectors)
            id_parts.append(ids)
        # One part stays mapped: its ids are looked at once, and not copied.
        ids = id_parts[0] if len(id_parts) == 1 else np.concatenate([_NO_IDS, *id_parts])
        if not (covered == len(self._shards) or _rise(ids)):
            raise IndexFormatError(f"the ids of the index's embedding shards do not rise: {CURE}")
        return Vectors(ids, tuple(segments), dim, deleted)

    def usable(self) -> bool:
        """Whether there is a cache at all that belongs to this index and its first shards."""
        state = self._state()
        return state is not None and bool(
            not self._shards or _common_prefix(state, self._shards) > 0
        )

    def covers_all(self) -> bool:
        """Whether the cache covers every shard of the manifest."""
        state = self._state()
        return state is not None and _common_prefix(state, self._shards) == len(self._shards)


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if 0 in shape:
        return np.empty(shape, dtype)
    # A plain view of the mapping: what is computed from it is then a plain array as well.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))


def _rise(ids: Int64) -> bool:
    return bool((ids[1:] > ids[:-1]).all())


def agrees(ids: Int64, shards: Sequence[ShardRef]) -> bool:
    """Whether cached ids rise and, shard by shard, begin and end where the manifest says."""
    if not _rise(ids):
        return False
    start = 0
    for shard in shards:
        stop = start + shard.rows
        if ids[start] != shard.first_id or ids[stop - 1] != shard.last_id:
            return False
        start = stop
    return True


def read_vectors(store: Store, shard: ShardRef, dim: int) -> tuple[Int64, Float16]:
    """(n,) int64 ids and (n, dim) fp16 rows of one embedding shard."""
    table = read_table(store, shard)
    if not table.schema.equals(embedding_schema(dim), check_metadata=False):
        raise IndexFormatError(
            f"{shard.name} in the index does not hold ids and vectors of {dim} numbers: {CURE}"
        )
    return vectors_of(table)
