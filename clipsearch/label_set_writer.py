"""Saving what ``classify`` found while it finds it: in memory that does not grow with the index.

Both files of a set are written beside the sets as the images come, under names that nobody reads;
once all are there, they get their names and the set's JSON follows, under the lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
import time
from pathlib import Path
from types import TracebackType

import numpy as np

from clipsearch import __version__
from clipsearch.best_rows import BestRows
from clipsearch.encoder import Float32
from clipsearch.label_scores import ScoresWriter
from clipsearch.label_set_files import LabelRows, LabelSet, check_name, scores_name, table_name
from clipsearch.label_set_saving import PART_PREFIX, commit_label_set, refuse_name
from clipsearch.label_set_tables import arrow_table, table_writer
from clipsearch.label_sets import labels_folder
from clipsearch.manifest import FileRef, utc_now
from clipsearch.records import Int32
from clipsearch.store import make_folder

_ROWS_TOGETHER = 262_144  # a row group of the table


class LabelSetWriter:
    """A label set of ``classify`` being saved; nothing is seen of it before ``commit``.

    Use it as a context: what was not committed at its end is removed.

    new : the set, not saved yet. rows : how many images will come. classes : (C, dim) class
    vectors, None for a set that remembers no scores. logit_scale : of the probabilities.
    shards : sha256 of those that are scored.

    Raises LabelError for a name or labels that cannot be saved, OSError.
    """

    def __init__(
        self,
        index: Path,
        new: LabelSet,
        rows: int,
        classes: Float32 | None,
        logit_scale: float,
        shards: tuple[str, ...],
    ) -> None:
        self._shards = shards
        self._index = index
        self._new = dataclasses.replace(new, name=check_name(new.name))
        self._token = secrets.token_hex(6)
        self._waiting: list[LabelRows] = []
        self._waiting_rows = 0
        self._rows = 0
        folder = labels_folder(index)
        refuse_name(index, self._new)
        make_folder(folder)
        part = f"{PART_PREFIX}{os.getpid()}-{self._token}"
        self._parts = [folder / f"{part}.parquet"]
        if classes is not None:
            self._parts.append(folder / f"{part}.scores")
        self._scores: ScoresWriter | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove_parts)
            self._file = undo.enter_context(open(self._parts[0], "xb"))
            self._table = table_writer(self._new, self._file)
            if classes is not None:
                self._scores = ScoresWriter(self._parts[1], rows, classes, logit_scale)
            undo.pop_all()

    def __enter__(self) -> LabelSetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def add(self, best: BestRows, labels: Int32) -> None:
        """The next images, with all that is to be remembered of them. labels : (n,) what each
        is called, -1 for none of the labels."""
        if self._scores is not None:
            self._scores.add(best)
        probabilities = (1.0 / best.sums).astype(np.float32)
        self._waiting.append(LabelRows(best.ids, labels, best.scores[0], probabilities))
        self._waiting_rows += len(best.ids)
        self._rows += len(best.ids)
        if self._waiting_rows >= _ROWS_TOGETHER:
            self._write_table()

    def commit(self, drift: float = 0.0) -> LabelSet:
        """Let the set have its name, over what had that before. drift : see ``ScoresRef``.

        Raises LabelError for a name that differs from another set's in case alone,
        IndexLockedError, OSError, and ValueError when not all images came.
        """
        self._write_table()
        self._table.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        with open(self._parts[0], "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = self._new.name
        table, scores = table_name(name, self._token), scores_name(name, self._token)
        remembered = None
        if self._scores is not None:
            remembered = self._scores.finish(scores, drift, self._shards)
        saved = dataclasses.replace(
            self._new,
            saved_at=utc_now(),
            software=f"clipsearch {__version__}",
            table=FileRef(table, self._rows, self._parts[0].stat().st_size, digest),
            scores=remembered,
        )
        moves = dict(zip(self._parts, (table, scores), strict=False))
        return commit_label_set(self._index, saved, moves)

    def discard(self) -> None:
        """Remove what was not committed."""
        with contextlib.suppress(Exception):  # it would write its footer, and is not wanted
            self._table.close()
        with contextlib.suppress(OSError):
            self._file.close()
        if self._scores is not None:
            self._scores.close()
        self._remove_parts()

    def _write_table(self) -> None:
        if not self._waiting:
            return
        columns = [
            np.concatenate([getattr(rows, field.name) for rows in self._waiting])
            for field in dataclasses.fields(LabelRows)
        ]
        self._table.write_table(arrow_table(self._new, LabelRows(*columns)))
        self._waiting, self._waiting_rows = [], 0
        for part in self._parts:  # a long run is no stray
            with contextlib.suppress(OSError):
                os.utime(part, (time.time(), time.time()))

    def _remove_parts(self) -> None:
        for part in self._parts:
            with contextlib.suppress(OSError):
                part.unlink()
