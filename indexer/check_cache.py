"""The cache against the shards: the fp16 matrix, the FAISS file, the thumbnails.

Whatever is wrong here costs time and never the truth; what is not there is made again by itself.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.errors import IndexFormatError
from clipsearch.generation import cache_folder, user_cache_folder
from clipsearch.manifest import Manifest, ShardRef
from clipsearch.shards import Float16, Int64
from clipsearch.store import LocalStore
from clipsearch.thumbnails import check_thumbnails, thumbnail_file
from clipsearch.vector_index import IVF_PQ
from clipsearch.vector_index_file import CURRENT, faiss_folder
from clipsearch.vectors import VectorCache
from indexer.check_shards import CacheCheck, SoundShards
from indexer.findings import CACHE, Tally

_EARLIER_KIND = "sqfp16"  # a copy of all vectors, which the matrix is as well
_ASKED, _NOMINATED, _PROBES = 16, 100, 16
_ALIKE = 0.02


def cache_folders(index: Path, uuid: str) -> list[Path]:
    """The cache in the index, and the one that stands in for it where the index is read-only."""
    return [folder for folder in (cache_folder(index), user_cache_folder(uuid)) if folder.is_dir()]


def display_name(index: Path, path: Path) -> str:
    """A file as findings name it: relative to the index when it lies there."""
    try:
        return path.relative_to(index).as_posix()
    except ValueError:
        return str(path)


def cache_checks(
    tally: Tally, manifest: Manifest, deleted: Int64 | None
) -> dict[str, list[CacheCheck]]:
    """By space, what compares its caches with its shards; notes where there is no cache."""
    checks: dict[str, list[CacheCheck]] = {}
    folders = cache_folders(tally.index, manifest.uuid)
    for space_id in manifest.spaces:
        made: list[CacheCheck] = []
        for folder in folders:
            matrix = MatrixCheck(tally, folder, manifest, space_id)
            faiss = FaissCheck(tally, folder, manifest, space_id, deleted)
            made += [check for check in (matrix, faiss) if check.is_open]
        if not any(isinstance(check, MatrixCheck) for check in made) and not tally.findings:
            tally.note("no-cache", "cache", "has no vectors; the next search makes them again")
        checks[space_id] = made
    return checks


class _Check:
    """What the matrix and the FAISS file share: a ``current.json`` that names shards."""

    def __init__(self, tally: Tally, folder: Path, manifest: Manifest, space_id: str) -> None:
        self.tally = tally
        self.folder = folder
        self.manifest = manifest
        self.shards = manifest.embeddings.get(space_id, ())
        self.space = manifest.spaces[space_id]
        self.is_open = False

    def name(self, file: str) -> str:
        return display_name(self.tally.index, self.folder / file)

    def complain(self, kind: str, file: str, message: str) -> None:
        """Report a finding; what is wrong once is not looked at any further."""
        self.tally.cache(kind, self.name(file), message)
        self.is_open = False

    def complain_of_absent(self, file: str) -> None:
        """A file that ``current.json`` names is not there; it may have the name wrong itself."""
        others = sorted(path.name for path in self.folder.glob(f"*{Path(file).suffix}"))
        if others:
            self.complain("damaged", CURRENT, f"names {file}, and {others[0]} is what is there")
        else:
            self.complain("missing", file, f"is not there, and {CURRENT} names it")

    def read_state(self) -> dict[str, Any] | None:
        """``current.json`` when it is of this index, space and shards, else None and a finding;
        None alone when there is none."""
        try:
            data = (self.folder / CURRENT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.tally.unreadable(self.name(CURRENT), error, CACHE)
            return None
        try:
            state = json.loads(data)
            owner, fingerprint = str(state["index"]), str(state["space"])
            hashes = [item if isinstance(item, str) else item[0] for item in state["shards"]]
            generation = int(state["generation"])
            LocalStore(self.folder).path(str(state["token"]))
        except (ValueError, KeyError, TypeError, IndexError, RecursionError, IndexFormatError):
            self.complain("damaged", CURRENT, "is not what was written")
            return None
        if owner != self.manifest.uuid:
            self.complain("foreign", CURRENT, f"the cache belongs to another index ({owner})")
        elif fingerprint != self.space.fingerprint:
            self.complain("foreign", CURRENT, "the cache holds vectors of another model")
        elif hashes != [shard.sha256 for shard in self.shards[: len(hashes)]]:
            self.complain("foreign", CURRENT, "names shards that the index does not have")
        elif generation > self.manifest.generation:
            self.complain("foreign", CURRENT, f"is of generation {generation}, not made yet")
        else:
            result: dict[str, Any] = state
            return result
        return None


class MatrixCheck(_Check):
    """The fp16 matrix of one space, row by row and byte by byte."""

    def __init__(self, tally: Tally, folder: Path, manifest: Manifest, space_id: str) -> None:
        own = VectorCache(folder, manifest, space_id).folder
        super().__init__(tally, own, manifest, space_id)
        state = self.read_state()
        if state is None:
            return
        covered = len(state["shards"])
        if covered < len(self.shards):  # of a FAISS file that is nothing out of the way
            self.tally.note(
                "behind",
                self.name(CURRENT),
                f"covers {covered} of {len(self.shards)} shards; the rest is read as it is",
            )
        counts = [[shard.sha256, shard.rows] for shard in self.shards[:covered]]
        rows = sum(shard.rows for shard in self.shards[:covered])
        if state["shards"] != counts or (state.get("rows"), state.get("dim")) != (
            rows,
            self.space.dim,
        ):
            self.complain("damaged", CURRENT, f"expected {rows:,} rows of {self.space.dim} numbers")
            return
        self._starts = {}
        start = 0
        for shard in self.shards[:covered]:
            self._starts[shard.name] = start
            start += shard.rows
        self._matrix = f"{state['token']}.f16"
        self._ids = f"{state['token']}.ids"
        self.is_open = True
        vectors = self._map(self._matrix, "<f2", (rows, self.space.dim))
        ids = None if vectors is None else self._map(self._ids, "<i8", (rows,))
        if vectors is not None and ids is not None:
            self._mapped = (vectors, ids)

    def _map(self, file: str, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any] | None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            found = (self.folder / file).stat().st_size
            if found < size:
                self.complain("damaged", file, f"expected {size:,} bytes, found {found:,}")
                return None
            if not size:
                return np.empty(shape, dtype)
            return np.memmap(self.folder / file, dtype=dtype, mode="r", shape=shape)
        except (FileNotFoundError, NotADirectoryError):
            self.complain_of_absent(file)
        except OSError as error:
            self.tally.unreadable(self.name(file), error, CACHE)
            self.is_open = False
        return None

    def compare(self, shard: ShardRef, ids: Int64, vectors: Float16) -> None:
        if not self.is_open or shard.name not in self._starts:
            return
        start = self._starts[shard.name]
        stop = start + len(ids)
        matrix, cached_ids = self._mapped
        # As bits: a NaN would differ from itself, and 0.0 be the same as -0.0.
        differ = (matrix[start:stop].view(np.uint16) != vectors.view(np.uint16)).any(axis=1)
        self.tally.compared += len(ids)
        if not np.array_equal(cached_ids[start:stop], ids):
            self.complain("damaged", self._ids, f"holds other ids than {shard.name}")
        if differ.any():
            self.complain(
                "damaged",
                self._matrix,
                f"{int(differ.sum()):,} vectors are not those of {shard.name}",
            )


class FaissCheck(_Check):
    """The FAISS file of one space: its seal, its ids, its vectors."""

    def __init__(
        self,
        tally: Tally,
        folder: Path,
        manifest: Manifest,
        space_id: str,
        deleted: Int64 | None,
    ) -> None:
        super().__init__(tally, faiss_folder(folder, space_id), manifest, space_id)
        self._deleted = deleted
        state = self.read_state()
        if state is None:
            return
        self._covered = self.shards[: len(state["shards"])]
        rows = sum(shard.rows for shard in self._covered)
        last = self._covered[-1].last_id if self._covered else -1
        if (state.get("rows"), state.get("last_id")) != (rows, last):
            self.complain("damaged", CURRENT, f"expected {rows:,} rows up to id {last}")
            return
        if state.get("kind") == _EARLIER_KIND:
            self.tally.note("old", self.name(CURRENT), "is no longer used; indexing removes it")
            return
        if state.get("kind") != IVF_PQ:
            self.complain("damaged", CURRENT, f"expected the kind {IVF_PQ}")
            return
        self._file = f"{state['token']}.faiss"
        if state.get("effort") is not None:  # else it says that every search is exact
            self._open(state)

    def _open(self, state: dict[str, Any]) -> None:
        path = self.folder / self._file
        if not path.is_file():
            self.complain_of_absent(self._file)
            return
        from clipsearch.faiss_index import FaissIndex

        try:
            if _checksum(path) != state.get("crc32"):
                self.complain("damaged", self._file, "is not the FAISS file that was written")
                return
            index = FaissIndex.load(path)
            ids = index.ids
        except OSError as error:
            self.tally.unreadable(self.name(self._file), error, CACHE)
            return
        except IndexFormatError as error:
            if isinstance(error.__cause__, OSError):
                self.tally.unreadable(self.name(self._file), error.__cause__, CACHE)
            else:
                self.complain("damaged", self._file, "is not the FAISS file that was written")
            return
        if index.dim != self.space.dim or not len(index) == len(ids) == state.get("vectors"):
            self.complain(
                "damaged",
                self._file,
                f"holds {len(index):,} vectors of {index.dim} numbers, "
                f"{CURRENT} says {state.get('vectors')} of {self.space.dim}",
            )
        elif len(ids) and not bool((np.diff(ids) > 0).all()):
            self.complain("damaged", self._file, "holds an id twice")
        else:
            self._index, self._ids = index, ids
            self.is_open = True

    def compare(self, shard: ShardRef, ids: Int64, vectors: Float16) -> None:
        if not self.is_open or shard.name not in {covered.name for covered in self._covered}:
            return
        first, stop = np.searchsorted(self._ids, [shard.first_id, shard.last_id + 1])
        found = self._ids[first:stop]
        if len(np.setdiff1d(found, ids)):
            self.complain("damaged", self._file, f"holds ids that {shard.name} does not have")
            return
        # Without the tombstones nobody can say which vectors should be there.
        if self._deleted is not None:
            lost = np.setdiff1d(np.setdiff1d(ids, found), self._deleted)
            if len(lost):
                message = f"lacks {len(lost):,} vectors of {shard.name}"
                self.complain("damaged", self._file, message)
                return
        self.tally.compared += len(found)
        if len(found) and self._finds(found, vectors[np.searchsorted(ids, found)]) < 0.5:
            self.complain("damaged", self._file, f"holds other vectors than {shard.name}")

    def _finds(self, ids: Int64, vectors: Float16) -> float:
        """The share of some of the vectors that the index nominates by themselves. Its codes are
        lossy: what it holds cannot be compared number by number."""
        some = np.unique(np.linspace(0, len(ids) - 1, _ASKED).astype(np.int64))
        hits = 0
        for row in some:
            query = vectors[row].astype(np.float32)
            count = max(1, min(_NOMINATED, len(self._index) // 4))
            scores, found = self._index.nominate(query, count, _PROBES)
            # One of very many like it need not be among those nominated.
            hits += bool(ids[row] in found or scores[-1] > scores[0] - _ALIKE)
        return hits / len(some)


def _checksum(path: Path) -> int:
    """The CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            checksum = zlib.crc32(data, checksum)
    return checksum


def check_all_thumbnails(tally: Tally, manifest: Manifest, shards: SoundShards) -> None:
    """Compare the thumbnails with their image shards; a note for what is not there."""
    cache = cache_folder(tally.index)
    absent = 0
    for ref, ids in shards.images.values():
        name = display_name(tally.index, thumbnail_file(cache, ref.name))
        try:
            wrong = check_thumbnails(cache, ref.name, manifest.uuid, ids)
        except (FileNotFoundError, NotADirectoryError):
            absent += 1
        except OSError as error:
            tally.unreadable(name, error, CACHE)
        else:
            if wrong is not None:
                tally.cache("damaged", name, wrong)
    if absent:
        tally.note(
            "no-thumbnails",
            "cache/thumbnails",
            f"{absent:,} of {len(shards.images):,} files are not there; a search does without",
        )
