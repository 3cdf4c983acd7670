"""The folders that may be indexed from the page: those the operator named, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ui.page_errors import PageError

_MOST_SHOWN = 500
_MOST_LETTERS = 4096


@dataclass(frozen=True)
class FolderListing:
    """One folder: its own name, and those of the folders in it, which may be entered. ``more``
    are there beyond the first 500."""

    name: str
    folders: tuple[str, ...]
    more: int


class AllowedFolders:
    """What a browser may name is the number of an allowed folder and a path below it, with ``/``
    between the parts. Links are followed before it is looked where a path leads."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.roots = tuple(Path(folder).resolve() for folder in folders)

    def resolve(self, root: int, below: str) -> Path:
        """The real folder; PageError (403) for one that is not within the allowed one, and (404)
        where there is none."""
        if not 0 <= root < len(self.roots):
            raise PageError("This folder may not be indexed from the page.", 403)
        if "\0" in below or len(below) > _MOST_LETTERS:
            raise PageError("There is no such folder.", 404)
        allowed = self.roots[root]
        # An absolute path would replace the root, and a link or '..' leave it: both show here.
        try:
            place = (allowed / below).resolve()
        except (OSError, RuntimeError):  # a link that leads to itself
            raise PageError("There is no such folder.", 404) from None
        if not place.is_relative_to(allowed):
            raise PageError("This folder may not be indexed from the page.", 403)
        try:
            there = place.is_dir()
        except OSError:
            there = False
        if not there:
            raise PageError("There is no such folder.", 404)
        return place

    def contains(self, place: str | os.PathLike[str]) -> bool:
        """Whether a folder is one of the allowed ones, or within one, and is there."""
        real = Path(place).resolve()
        return real.is_dir() and any(real.is_relative_to(root) for root in self.roots)

    def listing(self, root: int, below: str) -> FolderListing:
        """What is in a folder. Hidden folders, indexes, and links that lead outside are left out;
        so are names that are no text, which a browser could not send back."""
        place = self.resolve(root, below)
        names = []
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if self._is_shown(entry):
                        names.append(entry.name)
        except OSError:
            raise PageError("This folder cannot be read.", 403) from None
        names.sort(key=str.casefold)
        return FolderListing(place.name, tuple(names[:_MOST_SHOWN]), len(names[_MOST_SHOWN:]))

    def _is_shown(self, entry: os.DirEntry[str]) -> bool:
        if entry.name.startswith(".") or entry.name.endswith(".index"):
            return False
        try:
            entry.name.encode()
            is_shown = entry.is_dir()
            if is_shown and entry.is_symlink():
                is_shown = self.contains(entry.path)
        except (OSError, RuntimeError, UnicodeEncodeError):
            return False
        return is_shown
