"""The image files that names on a command line stand for: files, and folders of them.

Names are all that is looked at; whether a file is an image shows when it is decoded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from clipsearch.file_kinds import readable_extensions
from clipsearch.manifest import MANIFEST_NAME

_NUMBER = re.compile(r"(\d+)")

NaturalKey = tuple[tuple[str | int, ...], str]


def natural_key(name: str) -> NaturalKey:
    """What sorts names as people count: "IMG_2" before "IMG_10", whatever their case."""
    parts = _NUMBER.split(name.casefold())
    # Every second part is a number, so that numbers only ever meet numbers.
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts)), name


def image_files(
    folder: str | os.PathLike[str],
    when_unreadable: Callable[[str, OSError], object] = lambda place, error: None,
) -> Iterator[str]:
    """The image files in ``folder`` and below it, in natural order, as paths that begin with it.

    Files count whose ending promises an image read here. Passed over are, as when a folder is
    indexed, hidden folders, indexes, and what macOS leaves beside files on foreign disks. Links
    to folders are followed, each real folder once.

    when_unreadable : hears of a folder that cannot be listed; without it such folders are
    passed over.
    """
    endings = readable_extensions()
    visited: set[tuple[int, int]] = set()

    def listing(place: str) -> Iterator[os.DirEntry[str]]:
        try:
            status = os.stat(place)
            identity = (status.st_dev, status.st_ino)
            if status.st_ino and identity in visited:
                return iter(())
            visited.add(identity)
            with os.scandir(place) as entries:
                return iter(sorted(entries, key=lambda entry: natural_key(entry.name)))
        except OSError as error:
            when_unreadable(place, error)
            return iter(())

    open_folders = [listing(os.fspath(folder))]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif _is(entry.is_dir):
            if not _is_passed_over(entry):
                open_folders.append(listing(entry.path))
        elif (
            os.path.splitext(entry.name)[1].lower() in endings
            and not entry.name.startswith("._")
            and _is(entry.is_file)
        ):
            yield entry.path


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself, for instance
        return False


def _is_passed_over(folder: os.DirEntry[str]) -> bool:
    if folder.name.startswith((".", "@eaDir")):
        return True
    return folder.name.endswith(".index") and Path(folder.path, MANIFEST_NAME).is_file()
