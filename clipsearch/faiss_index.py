"""FAISS kinds of the vector index: the only module that imports faiss."""

from __future__ import annotations

import mmap
import os
import secrets
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, QueryError
from clipsearch.shards import Int64
from clipsearch.store import seal, sealed_size, sync_folder
from clipsearch.vector_index import TopK, check_queries


class FaissIndex:
    """Exhaustive search over fp16 codes (``SQfp16``, inner product, with ids).

    The codes are the very numbers of the shards, so it finds what an exact scan finds, up to
    the order in which float32 sums are taken; FAISS decodes fp16 several times faster than
    NumPy does.
    """

    kind = "sqfp16"

    def __init__(self, dim: int, index: Any = None) -> None:
        self.dim = dim
        if index is None:
            quantizer = faiss.ScalarQuantizer.QT_fp16
            scalar = faiss.IndexScalarQuantizer(dim, quantizer, faiss.METRIC_INNER_PRODUCT)
            index = faiss.IndexIDMap(scalar)
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: Int64, vectors: Float32) -> None:
        if vectors.shape != (len(ids), self.dim):
            raise QueryError(f"expected {len(ids)} x {self.dim} vectors, got {vectors.shape}")
        # FAISS rounds halves away from the even number that NumPy, and so a shard, goes to.
        rows = np.ascontiguousarray(vectors, dtype=np.float16).astype(np.float32)
        self._index.add_with_ids(rows, np.asarray(ids, np.int64))

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Float32, Int64]:
        queries = check_queries(queries, self.dim, k)
        best = TopK(len(queries), k)
        asked = min(k + 1, len(self))
        if not (asked and len(queries) and (allowed is None or len(allowed))):
            return best.scores, best.ids
        parameters = None
        if allowed is not None:
            selector = faiss.IDSelectorBatch(np.ascontiguousarray(allowed, np.int64))
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        while True:
            scores, ids = self._index.search(queries, asked, params=parameters)
            # Of equal scores FAISS keeps any. Where those of the k-th place may go on beyond
            # what was asked for, ask for more, so that the lower ids win here.
            goes_on = (ids[:, -1] >= 0) & (scores[:, -1] == scores[:, min(k, asked) - 1])
            if asked == len(self) or not goes_on.any():
                break
            asked = min(4 * asked, len(self))
        best.add(np.where(ids < 0, -np.inf, scores).astype(np.float32), ids)
        return best.scores, best.ids

    @property
    def ids(self) -> Int64:
        """(n,) int64, in the order in which they were added."""
        return np.asarray(faiss.vector_to_array(self._index.id_map), np.int64)

    def rows(self, start: int, stop: int) -> Float32:
        """(stop - start, dim) float32: the vectors from the ``start``-th on, as stored."""
        inner = faiss.downcast_index(self._index.index)
        return np.asarray(inner.reconstruct_n(start, stop - start), np.float32)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(6)}"
        try:
            faiss.write_index(self._index, str(temporary))
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

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            # FAISS reads past the end of a file that was cut short, and takes the process along.
            with (
                open(path, "rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                whole = sealed_size(mapped) is not None
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC) if whole else None
        except (RuntimeError, MemoryError, OSError, ValueError) as error:
            raise IndexFormatError(f"{path} is not a saved FAISS index") from error
        if index is None:
            raise IndexFormatError(f"{path} is not a whole FAISS index")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT or not hasattr(index, "id_map"):
            raise IndexFormatError(f"{path} is not an inner-product FAISS index with ids")
        return cls(index.d, index)
