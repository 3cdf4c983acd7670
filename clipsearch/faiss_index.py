"""FAISS kinds of the vector index."""

from __future__ import annotations

import mmap
import os
import secrets
import zlib
from pathlib import Path
from typing import Any, Self

import faiss as _typed_faiss
import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, QueryError
from clipsearch.shards import Int64
from clipsearch.store import seal, sealed_size, sync_folder
from clipsearch.vector_index import IVF_PQ

faiss: Any = _typed_faiss  # its type hints leave out most of what is set here

_ROWS_A_LIST = 400
_MOST_LISTS = 8192
_TRAINED_A_LIST = 50
_TRAINING_BYTES = 512 * 1024 * 1024
_CODES = 16
_ROUNDS = 10  # of k-means; more change recall by less than 0.001


def list_count(rows: int) -> int:
    """How many inverted lists ``rows`` vectors are split into: a power of two."""
    lists: int = 1 << max(0, (rows // _ROWS_A_LIST).bit_length() - 1)
    return min(_MOST_LISTS, lists)


def training_rows(rows: int, dim: int) -> int:
    """How many of ``rows`` vectors an index is trained on: enough for its lists, in bounded
    memory."""
    wanted = max(_TRAINED_A_LIST * list_count(rows), 20_000)
    return min(rows, wanted, max(1, _TRAINING_BYTES // (4 * dim)))


class FaissIndex:
    """Inverted lists of product codes, four bits for every two numbers (``IVF,PQx4fs``, inner
    product, with ids).

    The lists are those of `Jégou et al. 2011 <https://doi.org/10.1109/TPAMI.2010.57>`_, the
    codes are compared in registers (`André et al. 2017 <https://doi.org/10.1145/3078971.3078992>`_).
    """

    kind = IVF_PQ

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def train(cls, sample: Float32, rows: int) -> Self:
        """An empty index for about ``rows`` vectors like the (n, dim) float32 rows ``sample``,
        of which there is at least one."""
        dim = sample.shape[1]
        parts = dim // 2 if dim % 2 == 0 else dim
        lists = min(list_count(rows), max(1, len(sample) // _CODES))
        index = faiss.index_factory(dim, f"IVF{lists},PQ{parts}x4fs", faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # no warning on the caller's terminal
        index.pq.cp.min_points_per_centroid = 1
        index.cp.niter = _ROUNDS
        points = np.ascontiguousarray(sample, np.float32)
        if len(points) < _CODES:  # a code of four bits wants as many points
            points = points[np.arange(_CODES) % len(points)]
        index.train_q1(len(points), faiss.swig_ptr(points), False, index.metric_type)
        # Hundreds of tiny k-means: threads that wait for each other make them no sooner, and
        # many times slower beside other work. The number is that of the calling thread alone.
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            index.train(points)
        finally:
            faiss.omp_set_num_threads(threads)
        return cls(index)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: Int64, vectors: Float32) -> None:
        if vectors.shape != (len(ids), self.dim):
            raise QueryError(f"expected {len(ids)} x {self.dim} vectors, got {vectors.shape}")
        if len(ids):
            rows = np.ascontiguousarray(vectors, np.float32)
            self._index.add_with_ids(rows, np.asarray(ids, np.int64))

    def nominate(self, query: Float32, count: int, probes: int) -> tuple[Float32, Int64]:
        # Threads share the index: what is asked of it is never set on it.
        asked = faiss.SearchParametersIVF(nprobe=min(probes, int(self._index.nlist)))
        rows = np.ascontiguousarray(query[None], np.float32)
        scores, ids = self._index.search(rows, count, params=asked)
        return np.where(ids[0] < 0, -np.inf, scores[0]).astype(np.float32), ids[0]

    @property
    def ids(self) -> Int64:
        """(n,) int64, rising."""
        lists = self._index.invlists
        parts = [np.empty(0, np.int64)]
        for number in range(int(self._index.nlist)):
            size = int(lists.list_size(number))
            if size:
                ids = lists.get_ids(number)
                parts.append(np.array(faiss.rev_swig_ptr(ids, size), np.int64))
                lists.release_ids(number, ids)
        return np.sort(np.concatenate(parts))

    def save(self, path: Path) -> int:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(6)}"
        try:
            checksum = _write(self._index, temporary)
            with open(temporary, "r+b") as file:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    mark = seal(mapped)
                file.seek(0, os.SEEK_END)
                file.write(mark)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        return zlib.crc32(mark, checksum)

    @classmethod
    def load(cls, path: Path, *, mapped: bool = True) -> Self:
        """Open an index that ``save`` wrote; IndexFormatError when it is damaged.

        mapped : False to read it into memory, so that it can be added to.
        """
        try:
            # FAISS reads past the end of a file that was cut short, and takes the process along.
            with (
                open(path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
            ):
                whole = sealed_size(view) is not None
            flags = faiss.IO_FLAG_MMAP_IFC if mapped else 0
            index = faiss.read_index(str(path), flags) if whole else None
        except (RuntimeError, MemoryError, OSError, ValueError) as error:
            raise IndexFormatError(f"{path} is not a saved FAISS index") from error
        if index is None:
            raise IndexFormatError(f"{path} is not a whole FAISS index")
        if not isinstance(index, faiss.IndexIVFPQFastScan) or (
            index.metric_type != faiss.METRIC_INNER_PRODUCT
        ):
            raise IndexFormatError(f"{path} is not an inner-product FAISS index of this kind")
        return cls(index)


def _write(index: Any, path: Path) -> int:
    """Write the index; the CRC-32 of it. FAISS itself would tell of a full disk on the terminal
    alone."""
    checksum = 0
    with open(path, "wb") as file:

        def write(data: bytes) -> int:
            nonlocal checksum
            checksum = zlib.crc32(data, checksum)
            return file.write(data)

        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
    return checksum
