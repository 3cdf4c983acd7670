"""The files of earlier versions of a saved label set, for whoever holds the lock.

When a set of ``classify`` or ``tag`` is saved over, its JSON becomes ``<name>.<token>.version``
beside the table of that token, which stays, as do the examples it names. What it remembered of
every image goes: that only saved time. At most ``MOST_VERSIONS`` are kept. A version file that
bears the token of the set itself was left by a process that was killed, and counts for nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

from clipsearch.errors import IndexFormatError
from clipsearch.label_set_files import (
    CLASSIFY,
    TAG,
    LabelSet,
    is_file_of,
    is_version_of,
    json_name,
    parse_set,
    set_bytes,
    version_name,
)
from clipsearch.manifest import FileRef
from clipsearch.shared_folders import fetched, file_names, remove_file
from clipsearch.store import replace_file

MOST_VERSIONS = 5
"""Earlier versions of a set that are kept: a million images are some ten megabytes each."""

_KEPT = (CLASSIFY, TAG)
"""Kinds of sets that have versions; one of "discover" has those of its discovery."""


@dataclasses.dataclass(frozen=True)
class Succession:
    """How a set takes its name: ``saved`` is it with its version; ``kept`` are the earlier ones
    that stay, ``leaving`` is the one to be kept from now on, if there is one."""

    saved: LabelSet
    kept: tuple[LabelSet, ...]
    leaving: LabelSet | None


def succession(folder: Path, new: LabelSet) -> Succession:
    """What becomes of the versions there are when ``new`` is saved. A set that is just what
    is there already is no new version. Versions that were undone are let go of."""
    if new.kind not in _KEPT:
        return Succession(new, (), None)
    before = current_set(folder, new.name)
    if before is not None and before.index != new.index:
        before = None  # put here from another index
    earlier = [one for one in earlier_sets(folder, new.name) if one.index == new.index]
    if before is None or before.kind not in _KEPT:
        version = max([one.version for one in earlier], default=0) + 1
        return Succession(dataclasses.replace(new, version=version), _newest(earlier), None)
    kept = [one for one in earlier if one.version < before.version]
    if _is_same(before, new):
        saved = dataclasses.replace(new, version=before.version)
        return Succession(saved, _newest(earlier), None)
    version = max(one.version for one in [before, *earlier]) + 1
    saved = dataclasses.replace(new, version=version)
    if not has_table(folder, before):
        return Succession(saved, _newest(kept), None)
    return Succession(saved, _newest([*kept, before])[:-1], before)


def _newest(sets: list[LabelSet]) -> tuple[LabelSet, ...]:
    return tuple(sorted(sets, key=lambda one: one.version)[-MOST_VERSIONS:])


def _is_same(before: LabelSet, new: LabelSet) -> bool:
    """Whether two sets say the same of the same images, whenever they were saved."""

    def meaning(label_set: LabelSet) -> LabelSet:
        return dataclasses.replace(
            label_set,
            generation=0, next_id=0, saved_at="", software="", scores=None, version=0,
            table=_unnamed(label_set.table), teaching=_unnamed(label_set.teaching),
        )  # fmt: skip

    return meaning(before) == meaning(new)


def _unnamed(file: FileRef | None) -> FileRef | None:
    return None if file is None else dataclasses.replace(file, name="")


def has_table(folder: Path, label_set: LabelSet) -> bool:
    """Whether the table of a set is there, and the one that was saved."""
    if label_set.table is None:
        return False
    try:
        with open(fetched(folder / label_set.table.name), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == label_set.table.sha256
    except OSError:
        return False


def keep_version(folder: Path, leaving: LabelSet) -> str:
    """Write the file in which a set is found once another has its name; what it is called.
    Raises OSError."""
    kept = dataclasses.replace(leaving, scores=None)
    name = version_name(leaving)
    replace_file(folder / name, set_bytes(kept))
    return name


def current_set(folder: Path, name: str) -> LabelSet | None:
    """The set that has the name now; None where there is none that can be read."""
    return _parsed(folder / json_name(name), name)


def earlier_sets(folder: Path, name: str) -> list[LabelSet]:
    """The versions that were kept and can be read, the first first; those that were undone have
    higher numbers than the set itself."""
    now = current_set(folder, name)
    own = now.table.name if now is not None and now.table is not None else ""
    found = [_parsed(folder / file, name) for file in version_files(folder, name)]
    there = [one for one in found if one is not None and one.table and one.table.name != own]
    return sorted(there, key=lambda one: one.version)


def version_files(folder: Path, name: str) -> list[str]:
    """The names of the version files of a set, in order, those that cannot be read too."""
    try:
        return sorted(file for file in file_names(folder) if is_version_of(name, file))
    except FileNotFoundError:
        return []


def _parsed(path: Path, name: str) -> LabelSet | None:
    try:
        return parse_set(name, path.read_bytes())
    except (IndexFormatError, OSError):
        return None


def remove_other_files(folder: Path, name: str, sets: Iterable[LabelSet], named: set[str]) -> None:
    """Remove the files of the set ``name`` that neither ``named`` has nor ``sets`` name."""
    wanted = set(named)
    for one in sets:
        wanted |= {version_name(one), *files_named(one)}
    for file in file_names(folder):
        if is_file_of(name, file) and file not in wanted:
            with contextlib.suppress(OSError):  # open in a reader on Windows; the next save tries
                remove_file(folder / file)


def files_named(label_set: LabelSet) -> set[str]:
    """The table of a set, and its examples if it has any."""
    return {file.name for file in (label_set.table, label_set.teaching) if file is not None}
