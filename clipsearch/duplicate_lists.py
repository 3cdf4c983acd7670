"""Lists of the files of groups of duplicates: which to part with, and which to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsearch.duplicate_groups import DuplicateGroup
from clipsearch.errors import OptionError

OTHERS, KEEP, ALL = "others", "keep", "all"
LISTS = (OTHERS, KEEP, ALL)


@dataclass(frozen=True)
class PathList:
    """paths : each once. inside : how many were left out because they lie in a tar or Parquet
    file, so that they cannot be moved by themselves."""

    paths: tuple[Path, ...]
    inside: int = 0


def path_list(groups: Sequence[DuplicateGroup], wanted: str) -> PathList:
    """The paths of the files to part with ("others"), to keep ("keep"), or of "all".

    The best of some copies may be one of the others of a burst: what any group keeps is never
    among the others. Raises OptionError for another list.
    """
    if wanted not in LISTS:
        raise OptionError(f"expected one of {', '.join(LISTS)}, got {wanted!r}")
    kept = {group.keep.path for group in groups}
    paths: dict[Path, None] = {}
    inside = 0
    for group in groups:
        for file in {OTHERS: group.others, KEEP: (group.keep,), ALL: group.files}[wanted]:
            if wanted == OTHERS and file.path in kept:
                continue
            if wanted == OTHERS and not file.movable:
                inside += 1
                continue
            paths[file.path] = None
    return PathList(tuple(paths), inside)
