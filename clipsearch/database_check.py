"""Whether a vector database holds what the index holds: every id, and a sample of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipsearch.database_fields import ImageFields, other_fields
from clipsearch.database_sync import Block, OnProgress, blocks_of, content_of, live_rows, record_of
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.milvus_index import MilvusIndex
from clipsearch.shards import Int64

SAMPLE = 1_000
"""Images whose vectors and fields are compared."""
_AT_ONCE = 256
_FAR = 1e-6
"""Of a number of a vector: what is sent is exact in float32, and comes back so."""


@dataclass(frozen=True)
class CheckReport:
    """What differs. Of each kind (n,) rising ids.

    synced : the generation that the database was brought to last; None where never to the end.
    behind : whether the index has changed since.
    missing : in the index alone. extra : in the database alone. other_vectors, other_fields : of
    the ``compared`` images, those that have others.
    """

    images: int
    synced: int | None
    behind: bool
    missing: Int64
    extra: Int64
    compared: int
    other_vectors: Int64
    other_fields: Int64

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        kinds = (self.missing, self.extra, self.other_vectors, self.other_fields)
        return self.synced is not None and not self.behind and not any(map(len, kinds))


def check(
    state: Generation,
    index: MilvusIndex,
    *,
    sample: int = SAMPLE,
    seed: int | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> CheckReport:
    """Compare ``index`` with one generation of its space; nothing is changed.

    sample : how many images are compared whole, drawn from all. seed : of the draw; None for
    another one each time. Raises VectorDatabaseError, IndexFormatError.
    """
    total = len(state.vectors)
    nothing = np.empty(0, np.int64)
    if not index.exists():
        live = np.setdiff1d(state.vectors.ids, state.vectors.deleted)
        return CheckReport(total, None, True, live, nothing, 0, nothing, nothing)
    record = record_of(index)
    drawn = _drawn(state, min(sample, total), seed)
    fields = ImageFields(state)
    missing, extra, vectors, others = [nothing], [nothing], [nothing], [nothing]
    done = compared = 0
    for block in blocks_of(state.manifest):
        ids, half = live_rows(state, block)
        there = index.ids_between(block.first, block.stop)
        missing.append(np.setdiff1d(ids, there))
        extra.append(np.setdiff1d(there, ids))
        chosen = _of_block(drawn, block)
        chosen = chosen[np.isin(chosen, there)]
        for start in range(0, len(chosen), _AT_ONCE):
            part = chosen[start : start + _AT_ONCE]
            here, found, rows = index.take(part)
            own = widen(half[np.searchsorted(ids, here)])
            vectors.append(here[np.abs(own - found).max(axis=1, initial=0) > _FAR])
            wanted, _ = fields.rows(here)
            pairs = zip(here.tolist(), wanted, rows, strict=True)
            differ = [image_id for image_id, mine, theirs in pairs if other_fields(mine, theirs)]
            others.append(np.array(differ, np.int64))
            compared += len(here)
        done += len(ids)
        on_progress(done, total)
    last = max((block.stop for block in blocks_of(state.manifest)), default=0)
    extra.append(index.ids_between(last, 2**62))
    return CheckReport(
        images=total,
        synced=None if record is None else record.generation,
        behind=record is None or record.content != content_of(state.manifest, state.space.id),
        missing=np.concatenate(missing),
        extra=np.concatenate(extra),
        compared=compared,
        other_vectors=np.concatenate(vectors),
        other_fields=np.concatenate(others),
    )


def _drawn(state: Generation, count: int, seed: int | None) -> Int64:
    ids = np.setdiff1d(state.vectors.ids, state.vectors.deleted, assume_unique=True)
    return np.sort(np.random.default_rng(seed).choice(ids, count, replace=False))


def _of_block(drawn: Int64, block: Block) -> Int64:
    first, stop = np.searchsorted(drawn, (block.first, block.stop))
    return drawn[first:stop]
