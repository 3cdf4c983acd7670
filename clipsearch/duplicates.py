"""Duplicates: files with the same bytes, copies of one picture, and bursts. Nothing is deleted
here or anywhere in this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from clipsearch.bursts import burst_groups, burst_labels
from clipsearch.copies import CopyFinder, copy_candidates, copy_groups
from clipsearch.duplicate_groups import (
    BURST,
    COPY,
    EXACT,
    DuplicateFile,
    DuplicateGroup,
    Duplicates,
)
from clipsearch.errors import OptionError
from clipsearch.generation import Generation
from clipsearch.indexed_files import IndexedFile, IndexedFiles
from clipsearch.keep_best import SAME_PIXELS, Candidate, best_copy, best_file, best_shot
from clipsearch.picture_facts import PictureFacts, read_facts
from clipsearch.same_picture import DuplicateSettings, SamePicture, take_vectors
from clipsearch.shards import Int64
from clipsearch.thumbnail_pixels import sharpness

NEAR = "near"
KINDS = (EXACT, NEAR, COPY, BURST)

_HIT_GAP = 5
"""Of a burst not every shot may be among the hits: between two that are, so many times longer
may have passed."""


def find_duplicates(
    state: Generation,
    kind: str,
    settings: DuplicateSettings | None = None,
    *,
    allowed: Int64 | None = None,
) -> Duplicates:
    """The groups of one of ``KINDS``; see ``find_exact`` and ``find_near``."""
    if kind not in KINDS:
        raise OptionError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    if kind == EXACT:
        return find_exact(state, allowed=allowed)
    kinds = (COPY, BURST) if kind == NEAR else (kind,)
    return find_near(state, settings, kinds=kinds, allowed=allowed)


def find_exact(state: Generation, *, allowed: Int64 | None = None) -> Duplicates:
    """Groups of files with the same bytes, whatever they are called.

    allowed : (a,) int64 rising; only these images are looked at.

    A file that was edited, or whose tags alone were, has other bytes: it may be a copy, which
    ``find_near`` tells.
    """
    files = IndexedFiles(state)
    ids = _allowed(np.setdiff1d(files.ids(least=2), state.vectors.deleted), allowed)
    facts = read_facts(state, ids)
    groups = []
    for row, image_id in enumerate(facts.ids.tolist()):
        found = files.of(image_id)
        if len(found) < 2:
            continue
        keep, reason = _choose(facts, [row] * len(found), found, {}, best_file)
        everything = [_file(facts, row, file, 1.0, facts.hashed[row] and 0) for file in found]
        others = everything[:keep] + everything[keep + 1 :]
        groups.append(DuplicateGroup(EXACT, everything[keep], reason, tuple(others)))
    return _sorted(groups, files)


def find_near(
    state: Generation,
    settings: DuplicateSettings | None = None,
    *,
    kinds: Collection[str] = (COPY, BURST),
    allowed: Int64 | None = None,
) -> Duplicates:
    """Groups of files that show the same: copies of one picture, and bursts of one scene.

    kinds : "copy", "burst" or both. allowed : (a,) int64 rising; only these images are looked
    at.

    A group of copies has every file of its images, those with the same bytes too. The shots of
    a burst are different pictures; of those that have copies only the best copy is among them.

    Raises OptionError for a kind that is not known.
    """
    if not set(kinds) <= {COPY, BURST}:
        raise OptionError(f"expected the kinds {COPY} and {BURST}, got {', '.join(kinds)}")
    files = IndexedFiles(state)
    finder = _NearFinder(state, settings or DuplicateSettings(), files, allowed)
    copies, redundant = finder.copies()
    groups = copies if COPY in kinds else []
    if BURST in kinds:
        groups = [*groups, *finder.bursts(redundant)]
    return _sorted(groups, files)


def collapse(state: Generation, ids: Int64, settings: DuplicateSettings | None = None) -> Int64:
    """For each of (n,) image ids, the best first, the id that stands for it: (n,) int64.

    That is the first before it that stands for itself and is a copy of it or a shot of the
    same burst; else its own.
    """
    settings = settings or DuplicateSettings()
    ids = np.asarray(ids, np.int64)
    known, _ = state.vectors.take(ids)
    facts = read_facts(state, known)
    candidates = copy_candidates(facts, settings.max_bits)
    copies = CopyFinder(SamePicture(state, facts.take(candidates), settings))
    bursts = _burst_labels(state, facts, settings, _HIT_GAP * settings.seconds)
    shots = {int(bursts[rows[0]]): rows for rows in burst_groups(bursts)}
    place = np.full(len(facts), -1, np.int64)  # among the candidates
    place[candidates] = np.arange(len(candidates))
    free = np.ones(len(candidates), bool)
    stands_for = np.full(len(facts), -1, np.int64)
    rows = np.searchsorted(facts.ids, ids)
    rows[(rows == len(facts)) | (facts.ids[np.minimum(rows, len(facts) - 1)] != ids)] = -1
    for row in rows[rows >= 0].tolist():
        if stands_for[row] >= 0:
            continue
        alike = [np.array([row])]
        if place[row] >= 0:
            free[place[row]] = False
            alike.append(candidates[copies.take(int(place[row]), free)])
        if bursts[row] >= 0:
            others = shots.pop(int(bursts[row]), alike[0])
            alike.append(others[stands_for[others] < 0])
        taken = np.concatenate(alike)
        stands_for[taken] = row
        free[place[taken[place[taken] >= 0]]] = False
    result = ids.copy()
    result[rows >= 0] = facts.ids[stands_for[rows[rows >= 0]]]
    return result


class _NearFinder:
    def __init__(
        self,
        state: Generation,
        settings: DuplicateSettings,
        files: IndexedFiles,
        allowed: Int64 | None,
    ) -> None:
        self.state, self.settings, self.files = state, settings, files
        live = np.setdiff1d(state.vectors.ids, state.vectors.deleted)
        ids = _allowed(np.intersect1d(live, files.ids()), allowed)
        self.facts = read_facts(state, ids)

    def copies(self) -> tuple[list[DuplicateGroup], Int64]:
        """The groups of copies, and the rows of ``facts`` that are in one and not its best."""
        candidates = copy_candidates(self.facts, self.settings.max_bits)
        same = SamePicture(self.state, self.facts.take(candidates), self.settings)
        found = [candidates[rows] for rows in copy_groups(same)]
        sharp = self._sharpness(found, ties_only=True)
        groups, redundant = [], [np.empty(0, np.int64)]
        for rows in found:
            there = self._there(rows)
            if len(there) < 2:
                continue
            keep, reason = self._best(there, sharp, best_copy)
            # What was like another best may not be like this one.
            rows = np.array([row for row in there if row != keep])
            own, others = np.searchsorted(candidates, keep), np.searchsorted(candidates, rows)
            confirmed = set(candidates[same.of(int(own), others)].tolist())
            there = {row: there[row] for row in there if row == keep or row in confirmed}
            if len(there) < 2:
                continue
            redundant.append(np.array(sorted(confirmed)))
            groups.append(self._group(COPY, there, keep, reason))
        return groups, np.concatenate(redundant)

    def bursts(self, redundant: Int64) -> list[DuplicateGroup]:
        """The bursts among the rows of ``facts`` that are not ``redundant``."""
        facts = self.facts.take(np.setdiff1d(np.arange(len(self.facts)), redundant))
        rows_of = np.searchsorted(self.facts.ids, facts.ids)
        labels = _burst_labels(self.state, facts, self.settings, self.settings.seconds)
        found = [rows_of[rows] for rows in burst_groups(labels)]
        sharp = self._sharpness(found, ties_only=False)
        groups = []
        for rows in found:
            there = self._there(rows)
            if len(there) < 2:
                continue
            keep, reason = self._best(there, sharp, best_shot)
            there = {row: files[:1] for row, files in there.items()}
            groups.append(self._group(BURST, there, keep, reason))
        return groups

    def _there(self, rows: Int64) -> dict[int, list[IndexedFile]]:
        found = {row: self.files.of(int(self.facts.ids[row])) for row in rows.tolist()}
        return {row: files for row, files in found.items() if files}

    def _sharpness(self, groups: Sequence[Int64], *, ties_only: bool) -> dict[int, float]:
        """Image id to sharpness, where it may matter."""
        wanted = [np.empty(0, np.int64)]
        for rows in groups:
            pixels = self.facts.pixels[rows]
            largest = rows[pixels >= SAME_PIXELS * pixels.max()]
            if len(largest) > 1 or not ties_only:
                wanted.append(largest)
        return sharpness(self.state, np.unique(self.facts.ids[np.concatenate(wanted)]))

    def _best(
        self,
        there: dict[int, list[IndexedFile]],
        sharp: dict[int, float],
        choose: Callable[[Sequence[Candidate]], tuple[int, str]],
    ) -> tuple[int, str]:
        rows = list(there)
        files = [there[row][0] for row in rows]
        position, reason = _choose(self.facts, rows, files, sharp, choose)
        return rows[position], reason

    def _group(
        self, kind: str, there: dict[int, list[IndexedFile]], keep: int, reason: str
    ) -> DuplicateGroup:
        facts = self.facts
        rows = np.array(list(there))
        vectors = take_vectors(self.state, np.sort(facts.ids[rows])).astype(np.float32)
        vectors = vectors[np.argsort(np.argsort(facts.ids[rows]))]
        cosines = vectors @ vectors[list(there).index(keep)]
        found = []
        for row, cosine in zip(there, cosines.tolist(), strict=True):
            bits = None
            if facts.hashed[row] and facts.hashed[keep]:
                bits = int(np.bitwise_count(facts.hashes[row] ^ facts.hashes[keep]))
            for file in there[row]:
                found.append((row != keep, -cosine, _file(facts, row, file, cosine, bits)))
        files = [file for *_, file in sorted(found, key=lambda item: item[:2])]
        return DuplicateGroup(kind, files[0], reason, tuple(files[1:]))


def _burst_labels(
    state: Generation, facts: PictureFacts, settings: DuplicateSettings, seconds: float
) -> Int64:
    return burst_labels(
        facts,
        lambda rows: take_vectors(state, facts.ids[rows]),
        seconds,
        settings.burst_cosine,
    )


def _allowed(ids: Int64, allowed: Int64 | None) -> Int64:
    return ids if allowed is None else np.intersect1d(ids, allowed)


def _choose(
    facts: PictureFacts,
    rows: Sequence[int],
    files: Sequence[IndexedFile],
    sharp: dict[int, float],
    choose: Callable[[Sequence[Candidate]], tuple[int, str]],
) -> tuple[int, str]:
    return choose(
        [
            Candidate(
                path=file.path,
                pixels=int(facts.pixels[row]),
                sharpness=sharp.get(int(facts.ids[row]), math.nan),
                has_camera=bool(facts.cameras[row] >= 0),
                lossless=bool(facts.lossless[row]),
                size=file.size,
                mtime_ns=file.mtime_ns,
                in_container=file.in_container,
            )
            for row, file in zip(rows, files, strict=True)
        ]
    )


def _file(
    facts: PictureFacts, row: int, file: IndexedFile, cosine: float, bits: int | None
) -> DuplicateFile:
    width, height = facts.sides[row].tolist()
    return DuplicateFile(
        id=int(facts.ids[row]),
        path=file.path,
        size=file.size,
        width=width,
        height=height,
        cosine=min(1.0, cosine),
        bits=bits,
        movable=not file.in_container,
    )


def _sorted(groups: list[DuplicateGroup], files: IndexedFiles) -> Duplicates:
    order = sorted(groups, key=lambda group: (-group.bytes_to_free, group.keep.id, group.kind))
    return Duplicates(tuple(order), files.changed)
