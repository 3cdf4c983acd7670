"""The index file of a space: which vectors it covers, and when it is made, added to or left.

``cache/faiss/<space>/current.json`` says which shards ``<token>.faiss`` covers and how hard a
search has to look. Both can be deleted at any time: then every search is exact.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.approximate_search import ApproximateSearch
from clipsearch.encoder import Float32
from clipsearch.errors import IndexFormatError
from clipsearch.exact_search import RowScan
from clipsearch.manifest import Manifest, MeasuredSearch
from clipsearch.search_tuning import FEWEST_TEXTS, UNMEASURED, Effort, K, tune
from clipsearch.store import replace_file
from clipsearch.vector_index import EXACT, IVF_PQ, NO_ID, VectorIndex, choose_kind
from clipsearch.vectors import BLOCK_ROWS, Vectors

if TYPE_CHECKING:
    from clipsearch.faiss_index import FaissIndex

CURRENT = "current.json"
_TOKEN = re.compile(r"[0-9a-f]{12}")

_TAIL_SHARE = 0.01
_TAIL_ROWS = 65_536
"""So many rows are scanned beside the index in 2 ms; with more of them it is added to."""

_TRAINED_FOR = 2
"""An index is trained anew when there are so many times the rows it was trained for."""

_SEED = 0


@dataclass(frozen=True)
class IndexFile:
    """An index file, opened: over the first ``covered`` rows of the vectors."""

    index: VectorIndex
    covered: int
    effort: Effort


def faiss_folder(cache: Path, space_id: str) -> Path:
    """Where the index file of a space lies inside a cache folder."""
    return cache / "faiss" / space_id


def _state(folder: Path, manifest: Manifest, space_id: str) -> dict[str, Any] | None:
    """``current.json`` when it is of this index, space and version and covers its first shards."""
    try:
        state = json.loads((folder / CURRENT).read_bytes())
        shards = manifest.embeddings.get(space_id, ())[: len(state["shards"])]
        numbers = [state[name] for name in ("rows", "vectors", "trained_rows")]
        effort = state["effort"]
        numbers += [] if effort is None else [effort["probes"], effort["candidates"]]
        usable = (
            state["index"] == manifest.uuid
            and state["space"] == manifest.spaces[space_id].fingerprint
            and state["kind"] == IVF_PQ
            and "crc32" in state
            and state["shards"] == [shard.sha256 for shard in shards]
            and all(isinstance(number, int) and number >= 1 for number in numbers)
            and state["rows"] == sum(shard.rows for shard in shards)
            and _TOKEN.fullmatch(str(state["token"])) is not None
            and (effort is None or (folder / f"{state['token']}.faiss").is_file())
            and state["last_id"] == (shards[-1].last_id if shards else NO_ID)
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return state if usable else None


def _open(
    folder: Path, state: dict[str, Any], dim: int, *, mapped: bool = True
) -> FaissIndex | None:
    from clipsearch.faiss_index import FaissIndex

    try:
        index = FaissIndex.load(folder / f"{state['token']}.faiss", mapped=mapped)
    except IndexFormatError:  # a damaged cache costs time, never an answer
        return None
    return index if index.dim == dim and len(index) == state["vectors"] else None


def open_index_file(
    cache: Path, manifest: Manifest, space_id: str, vectors: Vectors
) -> IndexFile | None:
    """Open the index file over the first of ``vectors``; None where there is none to be used."""
    folder = faiss_folder(cache, space_id)
    state = _state(folder, manifest, space_id)
    if state is None or state["effort"] is None:
        return None
    covered = int(np.searchsorted(vectors.ids, state["last_id"], side="right"))
    index = _open(folder, state, vectors.dim) if covered else None
    if index is None:
        return None
    effort = Effort(state["effort"]["probes"], state["effort"]["candidates"])
    return IndexFile(index, covered, effort)


def bring_up_index_file(
    cache: Path,
    manifest: Manifest,
    space_id: str,
    open_vectors: Callable[[], Vectors],
    texts: Float32 | None,
) -> MeasuredSearch | None:
    """Make the index file, add to it or leave it, as the vectors of the space call for; what
    is known of its recall, None where there is none or nothing is known.

    open_vectors : all vectors of the space. Deleted ones belong among them: one that comes back
    with its old id must be found. texts : (n, dim) float32 unit rows of different texts to
    measure with, None where there are none at hand.
    """
    folder = faiss_folder(cache, space_id)
    shards = manifest.embeddings.get(space_id, ())
    rows = sum(shard.rows for shard in shards)
    if choose_kind(rows, manifest.spaces[space_id].dim) == EXACT:
        _clear(folder)
        return None
    if texts is not None and len(texts) < FEWEST_TEXTS:
        texts = None
    state = _state(folder, manifest, space_id)
    if state is not None and rows - state["rows"] <= max(_TAIL_ROWS, _TAIL_SHARE * state["rows"]):
        known = manifest.searches.get(space_id)
        if known is not None and known.measured_at == state.get("measured_at"):
            return known
        if texts is None:
            return None
    vectors = open_vectors()
    index, token, trained_rows = _made(folder, state, vectors)
    effort: Effort | None = UNMEASURED
    measured: MeasuredSearch | None = None
    if texts is not None:
        effort, measured = _tuned(vectors, index, texts)
    checksum = state["crc32"] if state is not None and token is not None else None
    if effort is not None and token is None:
        token = secrets.token_hex(6)
        checksum = index.save(folder / f"{token}.faiss")
    document = {
        "index": manifest.uuid,
        "space": manifest.spaces[space_id].fingerprint,
        "generation": manifest.generation,
        "kind": index.kind,
        "rows": len(vectors.ids),
        "vectors": len(index),
        "trained_rows": trained_rows,
        "last_id": shards[-1].last_id,
        # Where no effort reaches the recall that is wanted, every search is exact.
        "effort": effort and {"probes": effort.probes, "candidates": effort.candidates},
        "measured_at": measured and measured.measured_at,
        "crc32": checksum,  # of the whole file; opening it looks at its ends alone
        "token": token or secrets.token_hex(6),
        "shards": [shard.sha256 for shard in shards],
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / CURRENT, json.dumps(document, indent=1).encode())
    _remove_others(folder, str(document["token"]) if effort is not None else None)
    return measured


def _made(
    folder: Path, state: dict[str, Any] | None, vectors: Vectors
) -> tuple[FaissIndex, str | None, int]:
    """An index over all of ``vectors``, the token of the file that holds it already, and how
    many rows it was trained for."""
    if state is not None and state["effort"] is not None:
        grown = len(vectors.ids) > state["rows"]
        if len(vectors.ids) <= _TRAINED_FOR * state["trained_rows"]:
            index = _open(folder, state, vectors.dim, mapped=not grown)
            if index is not None:
                for ids, rows in vectors.blocks(after=state["last_id"]):
                    index.add(ids, rows)
                return index, None if grown else state["token"], state["trained_rows"]
    from clipsearch.faiss_index import FaissIndex, training_rows

    count = len(vectors.ids)
    chosen = np.random.default_rng(_SEED).choice(
        count, training_rows(count, vectors.dim), replace=False
    )
    _, sample = vectors.take(vectors.ids[np.sort(chosen)])
    index = FaissIndex.train(sample, count)
    del sample
    for ids, rows in vectors.blocks(BLOCK_ROWS):
        index.add(ids, rows)
    return index, None, count


def _tuned(
    vectors: Vectors, index: VectorIndex, texts: Float32
) -> tuple[Effort | None, MeasuredSearch]:
    scan = RowScan(vectors)
    approximate = ApproximateSearch(scan, index, len(vectors.ids))
    truth = [scores for scores, _ in scan.best_of_many(texts, K)]
    return tune(
        texts,
        truth,
        lambda text, effort: approximate.best(text, K, effort)[0],
        kind=index.kind,
        rows=len(vectors.ids),
    )


def _remove_others(folder: Path, token: str | None) -> None:
    for stray in folder.glob("*.faiss"):
        if stray.stem != token and _TOKEN.fullmatch(stray.stem):
            with contextlib.suppress(OSError):  # still mapped by a reader on Windows
                stray.unlink()


def _clear(folder: Path) -> None:
    """Remove what an earlier version, or a larger collection, left."""
    with contextlib.suppress(OSError):
        (folder / CURRENT).unlink(missing_ok=True)
    _remove_others(folder, None)
