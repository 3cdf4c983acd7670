"""Bringing a vector database up to an index: what is new or changed goes up, what is gone goes.

Ids are cut into blocks of equal width. Of each the database keeps a mark: the signature of the
files that its rows came from, and the digest of the rows. A block whose signature is the same is
not read; one whose digest is the same is not sent. A mark is written after its rows, so a sync that
was killed goes on where it was, and whatever happens to an index (new images, deletions, new
metadata, merged or mended shards) is one case.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.database_fields import ImageFields, Row
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.manifest import Manifest
from clipsearch.milvus_index import MOST_HITS, Mark, MilvusIndex
from clipsearch.shards import Float16, Int64

BLOCK_IDS = 4_096
RECORD = -1
"""The block under which the database keeps what was synced last, as a whole."""
_MARKS_AT_ONCE = MOST_HITS // 2
_FORM = 1
"""Of rows; what was sent in another form is sent again."""

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class SyncRecord:
    """What a sync that went through to its end left in the database.

    content : of ``content_of``. next_id : of the index then. cut : fields that are not held whole.
    """

    generation: int
    content: str
    next_id: int
    images: int
    cut: tuple[str, ...] = ()


@dataclass(frozen=True)
class SyncReport:
    """What a sync did. sent : images put up, new or again. removed : images taken away."""

    images: int
    sent: int
    removed: int
    generation: int
    made: bool


@dataclass(frozen=True)
class Block:
    """The ids from ``first`` to before ``stop``."""

    number: int

    @property
    def first(self) -> int:
        return self.number * BLOCK_IDS

    @property
    def stop(self) -> int:
        return self.first + BLOCK_IDS


def content_of(manifest: Manifest, space_id: str) -> str:
    """What the images of a space hang on: the same for generations that differ in paths alone."""
    shards = manifest.embeddings.get(space_id, ())
    gone = manifest.deleted.sha256 if manifest.deleted is not None else ""
    return _digest(
        _FORM, [ref.sha256 for ref in shards], [ref.sha256 for ref in manifest.images], gone
    )


def record_of(index: MilvusIndex) -> SyncRecord | None:
    """What was synced last; None where nothing was synced to its end."""
    document = index.mark(RECORD)
    if document is None:
        return None
    try:
        return SyncRecord(
            generation=int(document["generation"]),
            content=str(document["content"]),
            next_id=int(document["next_id"]),
            images=int(document["images"]),
            cut=tuple(map(str, document["cut"])),
        )
    except (KeyError, TypeError, ValueError):
        return None


def blocks_of(manifest: Manifest) -> Iterator[Block]:
    """The blocks that the ids of an index lie in."""
    for number in range(-(-manifest.next_id // BLOCK_IDS)):
        yield Block(number)


def live_rows(state: Generation, block: Block) -> tuple[Int64, Float16]:
    """The (n,) rising ids of a block that can be found, and their (n, dim) fp16 rows."""
    first, stop = np.searchsorted(state.vectors.ids, (block.first, block.stop))
    return state.vectors.take_half(state.vectors.ids[first:stop])


def sync(
    state: Generation, index: MilvusIndex, on_progress: OnProgress = lambda done, total: None
) -> SyncReport:
    """Make ``index`` hold the images of one generation of its space, and nothing else.

    Raises VectorDatabaseError, IndexFormatError. Run again after either, or after a kill, it goes
    on where it was.
    """
    made = not index.exists()
    if made:
        index.create()
    fields = ImageFields(state)
    sent = removed = done = 0
    total = len(state.vectors)
    marks: dict[int, Mark] = {}
    cut: set[str] = set()
    for block in blocks_of(state.manifest):
        if block.number % _MARKS_AT_ONCE == 0 and not made:
            marks = index.marks(block.number, block.number + _MARKS_AT_ONCE)
        mark = marks.get(block.number)
        signature = _signature(state, block)
        if mark is None or mark.signature != signature:
            ids, half = live_rows(state, block)
            rows, too_long = fields.rows(ids)
            digest = rows_digest(ids, half, rows)
            if mark is None or mark.digest != digest:
                if not made:
                    # A sync that was killed may have sent some of them, whatever the mark says.
                    removed += _remove_others(index, block, ids)
                if len(ids):
                    index.add(ids, widen(half), rows)
                sent += len(ids)
            mark = Mark(signature, digest, len(ids), too_long)
            index.put_mark(block.number, dataclasses.asdict(mark))
        cut.update(mark.cut)
        done += mark.images
        on_progress(done, total)
    removed += _remove_beyond(index, state.manifest, made)
    _finish(state, index, cut)
    return SyncReport(total, sent, removed, state.manifest.generation, made)


def _remove_others(index: MilvusIndex, block: Block, ids: Int64) -> int:
    strays = np.setdiff1d(index.ids_between(block.first, block.stop), ids)
    index.delete(strays)
    return len(strays)


def _remove_beyond(index: MilvusIndex, manifest: Manifest, made: bool) -> int:
    """Images of ids that the index has not given out: it was put back to an older state."""
    if made:
        return 0
    last = -(-manifest.next_id // BLOCK_IDS)
    removed = 0
    while len(strays := index.ids_between(last * BLOCK_IDS, 2**62)):
        index.delete(strays)
        removed += len(strays)
    while marks := index.marks(last, None):
        index.drop_marks(list(marks))
    return removed


def _finish(state: Generation, index: MilvusIndex, cut: set[str]) -> None:
    record = SyncRecord(
        generation=state.manifest.generation,
        content=content_of(state.manifest, state.space.id),
        next_id=state.manifest.next_id,
        images=len(state.vectors),
        cut=tuple(sorted(cut)),
    )
    if record != record_of(index):
        index.flush()
        index.put_mark(RECORD, dataclasses.asdict(record))


def _signature(state: Generation, block: Block) -> str:
    """Of the files that the rows of a block are read from."""
    manifest = state.manifest
    shards = (*manifest.embeddings.get(state.space.id, ()), None, *manifest.images)
    names: list[str] = []
    for ref in shards:
        if ref is None:
            names.append("")
        elif ref.first_id < block.stop and ref.last_id >= block.first:
            names.append(ref.sha256)
    first, stop = np.searchsorted(state.vectors.deleted, (block.first, block.stop))
    return _digest(_FORM, names, state.vectors.deleted[first:stop].tolist())


def rows_digest(ids: Int64, half: Float16, rows: list[Row]) -> str:
    """Of the rows themselves: ids, vectors and fields."""
    digest = hashlib.sha256(_digest(_FORM, rows).encode())
    digest.update(np.ascontiguousarray(ids, "<i8").tobytes())
    digest.update(np.ascontiguousarray(half, "<f2").tobytes())
    return digest.hexdigest()


def _digest(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
