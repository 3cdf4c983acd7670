"""Nearest neighbours over one generation: FAISS where it covers, an exact scan of the rest.

``cache/faiss/<space>/current.json`` says which shards ``<token>.faiss`` covers. Rows added
since are scanned exactly and merged; deleted rows never come back.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError
from clipsearch.manifest import Manifest
from clipsearch.shards import Int64
from clipsearch.store import replace_file
from clipsearch.vector_index import (
    NO_ID,
    TopK,
    VectorIndex,
    check_queries,
    choose_kind,
    exact_search,
    inner_products,
)
from clipsearch.vectors import BLOCK_ROWS, Vectors

_CURRENT = "current.json"
_TOKEN = re.compile(r"[0-9a-f]{12}")
_REBUILD_SHARE = 0.05
_REBUILD_ROWS = 4096

# Up to these shares of all vectors, those allowed are read one by one: a scan has to convert
# all the others as well, and FAISS to look at every id, a hundred times as fast as NumPy
# reads a row.
_FEW_FOR_A_SCAN = 0.5
_FEW_FOR_FAISS = 0.01


def faiss_folder(cache: Path, space_id: str) -> Path:
    """Where the FAISS files of a space lie inside a cache folder."""
    return cache / "faiss" / space_id


def _state(folder: Path, manifest: Manifest, space_id: str) -> dict[str, Any] | None:
    """``current.json`` when it is of this index and space and covers its first shards."""
    try:
        state = json.loads((folder / _CURRENT).read_bytes())
        shards = manifest.embeddings.get(space_id, ())[: len(state["shards"])]
        usable = (
            state["index"] == manifest.uuid
            and state["space"] == manifest.spaces[space_id].fingerprint
            and state["shards"] == [shard.sha256 for shard in shards]
            and _TOKEN.fullmatch(str(state["token"])) is not None
            and (folder / f"{state['token']}.faiss").is_file()
            and isinstance(state["rows"], int)
            and state["last_id"] == (shards[-1].last_id if shards else NO_ID)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return state if usable else None


def faiss_file_will_do(cache: Path, manifest: Manifest, space_id: str) -> bool:
    """Whether the FAISS file there covers all vectors but a few, which are scanned exactly."""
    state = _state(faiss_folder(cache, space_id), manifest, space_id)
    if state is None:
        return False
    covered = int(state["rows"])
    uncovered = sum(shard.rows for shard in manifest.embeddings.get(space_id, ())) - covered
    return uncovered <= max(_REBUILD_ROWS, _REBUILD_SHARE * covered)


def build_faiss_file(cache: Path, manifest: Manifest, space_id: str, vectors: Vectors) -> None:
    """Write the FAISS file over all live vectors."""
    from clipsearch.faiss_index import FaissIndex

    folder = faiss_folder(cache, space_id)
    index = FaissIndex(vectors.dim)
    for ids, rows in vectors.blocks():
        index.add(ids, rows)
    token = secrets.token_hex(6)
    index.save(folder / f"{token}.faiss")
    shards = manifest.embeddings.get(space_id, ())
    document = {
        "index": manifest.uuid,
        "space": manifest.spaces[space_id].fingerprint,
        "generation": manifest.generation,
        "kind": index.kind,
        "rows": len(vectors.ids),
        "vectors": len(index),
        "last_id": shards[-1].last_id if shards else NO_ID,
        "token": token,
        "shards": [shard.sha256 for shard in shards],
    }
    replace_file(folder / _CURRENT, json.dumps(document, indent=1).encode())
    for stray in folder.glob("*.faiss"):
        if stray.stem != token and _TOKEN.fullmatch(stray.stem):
            with contextlib.suppress(OSError):  # still mapped by a reader on Windows
                stray.unlink()


class VectorSearch:
    """The k best images of queries over ``vectors``; safe to call from several threads."""

    def __init__(self, vectors: Vectors, cache: Path, manifest: Manifest, space_id: str) -> None:
        self.vectors = vectors
        self._live_after: int | None = None
        self._live: Int64 | None = None
        self._index: VectorIndex | None = None
        if choose_kind(len(vectors.ids), vectors.dim) != "exact":
            self._open_faiss(faiss_folder(cache, space_id), manifest, space_id)

    def _open_faiss(self, folder: Path, manifest: Manifest, space_id: str) -> None:
        state = _state(folder, manifest, space_id)
        if state is None:
            return
        from clipsearch.faiss_index import FaissIndex

        try:
            index = FaissIndex.load(folder / f"{state['token']}.faiss")
        except IndexFormatError:  # a damaged cache costs time, never an answer
            return
        if index.dim != self.vectors.dim or len(index) != state.get("vectors", len(index)):
            return
        self._index = index
        self._live_after = int(state["last_id"])
        if len(self.vectors.deleted):
            self._live = np.setdiff1d(self.vectors.ids, self.vectors.deleted)

    @property
    def kind(self) -> str:
        """The kind of index that answers: "exact" or a FAISS kind."""
        return "exact" if self._index is None else self._index.kind

    def search(
        self, queries: Float32, k: int, *, allowed: Int64 | None = None, exact: bool = False
    ) -> tuple[Float32, Int64]:
        """(m, dim) float32 queries -> (m, k) float32 scores and (m, k) int64 ids, where k is
        at most the number of vectors.

        allowed : (a,) int64 rising; only these ids may come back.
        exact : scan every vector even where a FAISS file covers them.
        """
        queries = check_queries(queries, self.vectors.dim, k)
        k = min(k, max(1, len(self.vectors.ids)))
        scans = self._index is None or exact
        few = (_FEW_FOR_A_SCAN if scans else _FEW_FOR_FAISS) * len(self.vectors.ids)
        if allowed is not None and len(allowed) <= few:
            return exact_search(self.vectors.blocks_of(allowed), queries, k)
        if self._index is None or exact:
            return exact_search(self.vectors.blocks(), queries, k, allowed)
        best = TopK(len(queries), k)
        live = self._live
        if allowed is not None:  # a deleted image must not take the place of a live one
            live = np.setdiff1d(allowed, self.vectors.deleted)
        _, ids = self._index.search(queries, k, live)
        for row, query in enumerate(queries):
            # Scored anew as the tail is, so that equal vectors tie wherever they are.
            wanted = np.sort(ids[row])
            scored = []
            for start in range(0, len(wanted), BLOCK_ROWS):  # of all images they take much room
                found, rows = self.vectors.take(wanted[start : start + BLOCK_ROWS])
                scored.append((inner_products(rows, query), found))
            best.add_row(
                row,
                np.concatenate([scores for scores, _ in scored]),
                np.concatenate([found for _, found in scored]),
            )
        tail = self.vectors.blocks(after=self._live_after)
        tail_scores, tail_ids = exact_search(tail, queries, k, allowed)
        best.add(tail_scores, tail_ids)
        return best.scores, best.ids
