"""Exports into the same sidecars, one after the other, taken back in any order.

A later export holds as the bytes of before what an earlier one had written. When the earlier
one is taken back first, the records of the later ones are told what those bytes are without it;
so the last undo leaves the sidecar as it was before them all.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import replace

from clipsearch.export_record import ExportedFile, ExportRecord
from clipsearch.xmp_sidecar import remove_keywords


class Succession:
    """The exports into sidecars that came after one that is being taken back.

    later : their records, oldest first.
    """

    def __init__(self, later: Sequence[ExportRecord]) -> None:
        self._later = [record for record in later if record.kind == "xmp"]
        self._numbers = [
            {file.path: number for number, file in enumerate(record.files)}
            for record in self._later
        ]
        self._changed: list[ExportRecord] = []

    def pass_over(self, file: ExportedFile, data: bytes) -> None:
        """Take ``file`` out of the line of exports that led to ``data``, what is there now.

        Nothing is changed where somebody else wrote into that line. Raises SidecarError.
        """
        line = [
            (record, numbers[file.path])
            for record, numbers in zip(self._later, self._numbers, strict=True)
            if file.path in numbers
        ]
        if not line:
            return
        originals = [record.files[number].original for record, number in line]
        written = [*originals[1:], data]  # by each of them, as the next one found it
        wrote = [file.sha256, *(record.files[number].sha256 for record, number in line)]
        if any(
            held is None or hashlib.sha256(held).hexdigest() != sha256
            for held, sha256 in zip([*originals, data], wrote, strict=True)
        ):
            return
        before, mtime_ns, mode = file.original, file.mtime_ns, file.mode
        for (record, number), held in zip(line, written, strict=True):
            assert held is not None
            now = remove_keywords(held, file.keywords)
            record.files[number] = replace(
                record.files[number],
                original=before,
                mtime_ns=mtime_ns,
                mode=mode,
                sha256=hashlib.sha256(now).hexdigest(),
            )
            before = now
            if record not in self._changed:
                self._changed.append(record)

    def save(self) -> None:
        """Write the records that were told something. What cannot be written stays as it was:
        then its undo takes out its keywords alone."""
        for record in self._changed:
            with contextlib.suppress(OSError):
                record.save()
