"""How well everyday words fit every image, all together, remembered.

"None of these" holds labels against some six hundred words. Their part is the same for every
label set but for the few words that mean a label, so ``cache/background/<space>/sums.npz`` keeps
one number an image: the log of the sum of exp(logit_scale * cosine) over all the words. With it
a label set costs one product for each word that it leaves out. The numbers are kept for every shard
by what the shard holds: those that come later are added, and deleting the file loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
from pathlib import Path
from typing import cast

import numpy as np

from clipsearch.encoder import Float32
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.scoring import Rows
from clipsearch.shards import Float16, Int64
from clipsearch.store import replace_file
from clipsearch.threads import in_order, single_threaded_blas

WORTH_KEEPING = 20_000  # images; of fewer the products take less than a tenth of a second
_ROWS_MULTIPLIED = 1024  # as float32 they fit into a core's cache, or nearly
_MOST_HEAD = 1 << 22  # bytes of the list of shards: of more than fifty thousand


def sums_file(cache: Path, space_id: str) -> Path:
    """Where the numbers of a space lie inside a cache folder."""
    return cache / "background" / space_id / "sums.npz"


def log_sums(logits: Float32) -> Float32:
    """(n,) logs of the sums over (n, k) of exp(logits), k >= 1; ``logits`` is written over."""
    best: Float32 = logits.max(axis=1)
    logits -= np.where(np.isfinite(best), best, 0)[:, None]
    np.exp(logits, out=logits)
    with np.errstate(divide="ignore"):
        best += np.log(logits @ np.ones(logits.shape[1], np.float32))
    return best


def sums_over(rows: Rows, columns: Float32, logit_scale: float) -> Float32:
    """(n,) the log of the sum of exp(logit_scale * cosine) of (n, dim) unit rows, fp16 or
    float32, over (dim, k) ``columns``, k >= 1."""
    sums = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS_MULTIPLIED):
        part = rows[start : start + _ROWS_MULTIPLIED]
        wide = widen(cast(Float16, part)) if part.dtype == np.float16 else cast(Float32, part)
        logits = wide @ columns
        logits *= np.float32(logit_scale)
        sums[start : start + _ROWS_MULTIPLIED] = log_sums(logits)
    return sums


def remember_sums(state: Generation, words: Float32) -> int:
    """Compute and write what is not known yet, so that the first label set need not; how many
    images that was. Where a collection is too small to remember it, nothing is done.

    words : (w, dim) float32 unit rows: ``background_prompts``, encoded.
    """
    known = BackgroundSums(state, words)
    if not known.missing:
        return 0
    columns = np.ascontiguousarray(words.T)
    scale = state.space.logit_scale

    def told(piece: tuple[Int64, Float16]) -> int:
        ids, rows = piece
        unknown = np.flatnonzero(np.isnan(known.of(ids)))
        if len(unknown):
            known.add(ids[unknown], sums_over(rows[unknown], columns, scale))
        return len(unknown)

    with single_threaded_blas():
        return sum(in_order(told, state.vectors.live_pieces()))


class BackgroundSums:
    """The numbers of one generation and some words. Safe for threads.

    words : (w, dim) float32 unit rows. Read when it is made; written once they are known of
    every image that counts. missing : of how many they are not known; 0, too, where they are not
    to be written.
    """

    def __init__(self, state: Generation, words: Float32) -> None:
        self._ids = state.vectors.ids
        self._file = sums_file(state.cache, state.space.id)
        self._shards = [
            (shard.sha256, shard.rows)
            for shard in state.manifest.embeddings.get(state.space.id, ())
        ]
        identity = [state.manifest.uuid, state.space.fingerprint, state.space.logit_scale]
        told = json.dumps(identity).encode() + np.ascontiguousarray(words, "<f4").tobytes()
        self._identity = hashlib.sha256(told).hexdigest()
        self._sums = np.full(len(self._ids), np.nan, np.float32)
        self._lock = threading.Lock()
        kept = len(self._ids) >= WORTH_KEEPING and sum(n for _, n in self._shards) == len(self._ids)
        if kept:
            self._read()
        self.missing = 0
        if kept:
            # What is deleted is never asked for.
            counts = ~np.isin(self._ids, state.vectors.deleted, assume_unique=True)
            self.missing = int(np.isnan(self._sums[counts]).sum())

    def of(self, ids: Int64) -> Float32:
        """(n,) float32 of (n,) rising ids of images that are here; nan where not known."""
        return self._sums[self._places(ids)]

    def add(self, ids: Int64, sums: Float32) -> None:
        """What was computed. Once all are known they are written, where that is possible."""
        if self.missing <= 0:
            return
        places = self._places(ids)
        with self._lock:
            self.missing -= int(np.isnan(self._sums[places]).sum())
            self._sums[places] = sums
            whole = self.missing == 0
        if whole:
            # A read-only or full disk costs time, never an answer.
            with contextlib.suppress(OSError):
                self._write()

    def _places(self, ids: Int64) -> slice | Int64:
        if not len(ids):
            return slice(0)
        first = int(np.searchsorted(self._ids, ids[0]))
        side_by_side = slice(first, first + len(ids))
        # As a rule a block is a piece of the collection.
        if np.array_equal(self._ids[side_by_side], ids):
            return side_by_side
        return np.searchsorted(self._ids, ids)

    def _write(self) -> None:
        sink = io.BytesIO()
        head = json.dumps({"identity": self._identity, "shards": self._shards}).encode()
        np.savez(sink, head=np.frombuffer(head, np.uint8), sums=self._sums)
        replace_file(self._file, sink.getvalue())

    def _read(self) -> None:
        """Take what the file knows of shards that are here; nothing of a file that is missing,
        damaged, or of something else."""
        try:
            size = os.stat(self._file).st_size
            with np.load(self._file, allow_pickle=False) as data:
                # numpy wrote it without compression: what claims to be larger is not unpacked.
                if sum(member.file_size for member in data.zip.infolist()) > size + _MOST_HEAD:
                    return
                head = json.loads(data["head"].tobytes())
                if head["identity"] != self._identity:
                    return
                sums = data["sums"]
            known: dict[str, Float32] = {}
            start = 0
            for name, rows in head["shards"]:
                known[name] = sums[start : start + rows]
                start += rows
            if sums.dtype != np.float32 or sums.shape != (start,) or np.isinf(sums).any():
                return
        except Exception:  # a damaged zip file raises nearly anything
            return
        start = 0
        for name, rows in self._shards:
            part = known.get(name)
            if part is not None and len(part) == rows:
                self._sums[start : start + rows] = part
            start += rows
