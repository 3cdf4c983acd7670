"""FAISS kinds of the vector index: the only module that imports faiss."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError, QueryError
from clipsearch.shards import Int64
from clipsearch.store import sync_folder
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
            index = faiss.IndexIDMap2(scalar)
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: Int64, vectors: Float32) -> None:
        if vectors.shape != (len(ids), self.dim):
            raise QueryError(f"expected {len(ids)} x {self.dim} vectors, got {vectors.shape}")
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
        self._index.add_with_ids(rows, np.asarray(ids, np.int64))

    def search(
        self, queries: Float32, k: int, allowed: Int64 | None = None
    ) -> tuple[Float32, Int64]:
        queries = check_queries(queries, self.dim, k)
        best = TopK(len(queries), k)
        # One more than asked for, so that ties at the end are decided by id here.
        asked = min(k + 1, len(self))
        if asked and (allowed is None or len(allowed)):
            parameters = None
            if allowed is not None:
                selector = faiss.IDSelectorBatch(np.ascontiguousarray(allowed, np.int64))
                parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            scores, ids = self._index.search(queries, asked, params=parameters)
            best.add(np.where(ids < 0, -np.inf, scores).astype(np.float32), ids)
        return best.scores, best.ids

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(6)}"
        try:
            faiss.write_index(self._index, str(temporary))
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)

    @classmethod
    def load(cls, path: Path) -> Self:
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexFormatError(f"{path} is not a saved FAISS index") from error
        if index.metric_type != faiss.METRIC_INNER_PRODUCT or not hasattr(index, "id_map"):
            raise IndexFormatError(f"{path} is not an inner-product FAISS index with ids")
        return cls(index.d, index)
