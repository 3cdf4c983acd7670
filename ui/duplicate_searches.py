"""Looking for duplicates from the page: in the background, one kind at a time, and kept while the
index is as it was."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

from clipsearch.duplicate_groups import DuplicateFile, DuplicateGroup, Duplicates
from clipsearch.image_index import ImageIndex
from ui.library import Library
from ui.page_errors import PageError


@dataclass(frozen=True)
class FoundDuplicates:
    """number : of the search, to say later which one is meant. looked_at : seconds since 1970;
    files may have changed since."""

    number: int
    kind: str
    generation: int
    looked_at: float
    duplicates: Duplicates


class DuplicateSearches:
    """The duplicates of the index of a library. Safe for threads."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._searches: dict[str, tuple[int, int, Future[FoundDuplicates]]] = {}
        self._number = 0

    def start(self, kind: str, *, again: bool = False) -> Future[FoundDuplicates]:
        """The search for the duplicates of a kind of ``clipsearch.duplicates.KINDS``, begun
        unless there is one of this generation. again : look anew, at the files as they are now.
        """
        index = self._library.index()
        with self._lock:
            known = self._searches.get(kind)
            if known is None or (
                known[2].done()
                and (again or known[1] != index.generation or known[2].exception() is not None)
            ):
                known = self._start(index, kind)
            return known[2]

    def found(self, kind: str, number: int) -> FoundDuplicates:
        """What a search has found; PageError (409) where there was a newer one."""
        with self._lock:
            known = self._searches.get(kind)
        if known is None or known[0] != number or not known[2].done():
            raise PageError("The groups have changed since they were shown: look again.", 409)
        return known[2].result()

    def _start(self, index: ImageIndex, kind: str) -> tuple[int, int, Future[FoundDuplicates]]:
        self._number += 1
        future: Future[FoundDuplicates] = Future()
        search = (self._number, index.generation, future)
        self._searches[kind] = search
        threading.Thread(
            target=self._look, args=(index, kind, search), name="duplicates", daemon=True
        ).start()
        return search

    def _look(
        self, index: ImageIndex, kind: str, search: tuple[int, int, Future[FoundDuplicates]]
    ) -> None:
        number, generation, future = search
        try:
            with self._turn:
                begin = time.time()
                found = index.duplicates(kind)
        except BaseException as error:  # told to whoever waits for it
            future.set_exception(error)
        else:
            future.set_result(FoundDuplicates(number, kind, generation, begin, found))


def chosen(found: FoundDuplicates, choices: Mapping[int, int | None]) -> list[DuplicateGroup]:
    """The groups as somebody wants them: by the position of a group, which of its files to keep
    instead; None to keep all of it, so that it is left out.

    A group is left out, too, whose file to keep is not there any more as it was.

    Raises PageError for a position that is not there.
    """
    groups = list(found.duplicates)
    wanted: list[DuplicateGroup] = []
    for position, choice in choices.items():
        if not 0 <= position < len(groups):
            raise PageError("There is no such group.", 404)
        if choice is not None and not 0 <= choice < len(groups[position].files):
            raise PageError("There is no such file in that group.", 404)
    kept_whole = {
        file.path
        for position, choice in choices.items()
        if choice is None
        for file in groups[position].files
    }
    for position, group in enumerate(groups):
        choice = choices.get(position, 0)
        if choice is None:
            continue
        group = _keeping(group, choice)
        others = tuple(file for file in group.others if file.path not in kept_whole)
        if others and _is_as_it_was(group.keep):
            wanted.append(dataclasses.replace(group, others=others))
    return wanted


def _keeping(group: DuplicateGroup, choice: int) -> DuplicateGroup:
    if choice == 0:
        return group
    files = list(group.files)
    keep = files.pop(choice)
    return dataclasses.replace(group, keep=keep, others=tuple(files), reason="chosen by hand")


def _is_as_it_was(file: DuplicateFile) -> bool:
    if not file.movable:
        return True  # its container holds it; what that is like now was looked at just before
    try:
        return file.path.stat().st_size == file.size
    except OSError:
        return False
