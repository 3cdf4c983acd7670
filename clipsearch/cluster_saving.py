"""Saving discoveries: tables first and then the JSON that names them, under the label sets' lock.

The label sets that follow a discovery are written after it. A process that is killed in between
leaves them behind, which they tell themselves; whoever opens the discovery next brings them up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from clipsearch import __version__
from clipsearch.cluster_files import (
    PARTS,
    Edit,
    SavedDiscovery,
    Tables,
    check_discovery_name,
    clusters_folder,
    discovery_bytes,
    discovery_names,
    is_table_of,
    json_name,
    parse_discovery,
    table_name,
)
from clipsearch.cluster_labels import (
    following,
    refuse_empty,
    refuse_label_set,
    stale_label_sets,
    write_cluster_labels,
)
from clipsearch.cluster_reading import tables_are_whole
from clipsearch.cluster_tables import file_bytes, table_of
from clipsearch.clusters import Discovery
from clipsearch.errors import ClusterError, IndexFormatError
from clipsearch.generation import Generation
from clipsearch.label_set_files import check_name, same_name
from clipsearch.label_set_saving import labels_lock
from clipsearch.manifest import FileRef, utc_now
from clipsearch.shared_folders import file_names, remove_file
from clipsearch.store import TEMPORARY_PREFIX, make_folder, replace_file

MOST_UNDO = 10
"""Edits that can be undone: the tables from before each are kept."""


class SavedMeanwhileError(Exception):
    """Somebody has saved the discovery since it was read."""


def refuse_discovery(
    index: Path, name: str, label_set: str | None = None, replace: bool = False
) -> tuple[str, str | None]:
    """The names of a discovery and its label set, fit to be saved: to be asked before the work
    is done. replace : over a discovery that was changed by hand.

    Raises ClusterError for a name that cannot be a file's, differs from another's in case alone,
    or is of a discovery that would be lost; LabelError for those of a label set.
    """
    name = check_discovery_name(name)
    _refuse_case_clash(index, name)
    if label_set is not None:
        label_set = check_name(label_set)
        refuse_label_set(index, name, label_set, replace)
    there = _there(index, name)
    if there is None or replace:
        return name, label_set
    others = [one for one in following(index, there) if one != label_set]
    if there.edits or others:
        why = "was changed by hand" if there.edits else f"leads the label set {others[0]}"
        raise ClusterError(
            f"there is a discovery {name} that {why}: expected --replace to put a new one in its "
            "place, or another name"
        )
    return name, label_set


def save_discovery(
    index: Path,
    state: Generation,
    name: str,
    discovery: Discovery,
    *,
    label_set: str | None = None,
    replace: bool = False,
) -> SavedDiscovery:
    """Save a new discovery under its name, over what had that name; whole or not at all.

    label_set : the name of a label set to save its clusters as, which follows them from then on;
    sets that followed what had the name before stay as they are.

    Raises as ``refuse_discovery``, ClusterError for a name of a cluster that cannot be saved,
    IndexLockedError, OSError.
    """
    if label_set is not None:
        refuse_empty(discovery)
    with labels_lock(index) as labels:
        name, label_set = refuse_discovery(index, name, label_set, replace)
        new = SavedDiscovery(
            name=name,
            facts=discovery.facts,
            tables=_no_tables(discovery.facts.generation),  # which `state` may be past
            next_key=next_key_of(discovery),
            label_sets=() if label_set is None else (label_set,),
            edits=(),
            saved_at="",
            software="",
        )
        saved = _written(index, new, discovery, None)
        if label_set is not None:
            write_cluster_labels(index, labels, state, label_set, saved, discovery)
    return saved


def save_again(
    index: Path,
    state: Generation,
    before: SavedDiscovery,
    was: Discovery,
    now: Discovery,
    *,
    edit: str | None = None,
) -> SavedDiscovery:
    """Save a discovery that has changed, and the label sets that follow it.

    before, was : as it was read. edit : what a person did, to be undone some day; None where new
    images came.

    Raises SavedMeanwhileError where it is no longer what was read, and as ``save_discovery``.
    """
    with labels_lock(index) as labels:
        expect_unchanged(index, before)
        new = dataclasses.replace(
            before,
            tables=dataclasses.replace(before.tables, generation=state.manifest.generation),
            next_key=max(before.next_key, next_key_of(now)),
        )
        if edit is not None:
            new = dataclasses.replace(
                new, edits=_forgetting([*before.edits, Edit(edit, utc_now(), before.tables)])
            )
        saved = before if now is was and new == before else _written(index, new, now, was)
        for name in stale_label_sets(index, saved):
            write_cluster_labels(index, labels, state, name, saved, now)
    return saved


def save_undone(index: Path, before: SavedDiscovery) -> str:
    """Put the tables from before the last edit back; what that was, in words.

    Raises ClusterError where there is nothing to undo, or nothing whole to go back to; as
    ``save_again``; IndexReadError.
    """
    with labels_lock(index):
        expect_unchanged(index, before)
        last = before.edits[-1] if before.edits else None
        if last is None or last.before is None:
            raise ClusterError(
                f"the discovery {before.name} has no change left to undo"
                + (f": of {len(before.edits)} the last {MOST_UNDO} are kept" if last else "")
            )
        if not tables_are_whole(index, last.before):
            raise ClusterError(
                f"cannot undo '{last.what}': the tables of the discovery {before.name} from before "
                "it are damaged or gone; the clusters stay as they are"
            )
        _name_tables(
            clusters_folder(index),
            dataclasses.replace(
                before, tables=last.before, edits=before.edits[:-1], saved_at=utc_now()
            ),
        )
    return last.what


def save_label_set_of(
    index: Path,
    state: Generation,
    before: SavedDiscovery,
    discovery: Discovery,
    name: str,
    replace: bool = False,
) -> SavedDiscovery:
    """Save the clusters as the label set ``name``, which follows them from then on.

    Raises as ``refuse_label_set`` and ``save_again``.
    """
    name = check_name(name)
    refuse_empty(discovery)
    with labels_lock(index) as labels:
        expect_unchanged(index, before)
        refuse_label_set(index, before.name, name, replace)
        saved = before
        if name not in before.label_sets:
            saved = dataclasses.replace(before, label_sets=(*before.label_sets, name))
            _name_tables(clusters_folder(index), saved)
        write_cluster_labels(index, labels, state, name, saved, discovery)
    return saved


def remove_discovery(index: Path, name: str) -> None:
    """Remove the files of a discovery, damaged or not; label sets stay."""
    with labels_lock(index):
        folder = clusters_folder(index)
        remove_file(folder / json_name(name), missing_ok=True)
        _remove_tables(folder, name, set())


def expect_unchanged(index: Path, before: SavedDiscovery) -> None:
    """SavedMeanwhileError where a discovery is no longer what was read; for the holder of the
    lock."""
    if _there(index, before.name) != before:
        raise SavedMeanwhileError


def _there(index: Path, name: str) -> SavedDiscovery | None:
    try:
        return parse_discovery(name, (clusters_folder(index) / json_name(name)).read_bytes())
    except (FileNotFoundError, NotADirectoryError, IndexFormatError):
        return None  # not there, or damaged: it can be written over


def _refuse_case_clash(index: Path, name: str) -> None:
    for other in discovery_names(index):
        if other != name and same_name(other) == same_name(name):
            raise ClusterError(
                f"there is a discovery {other}, and {name} differs from it in case alone: "
                f"save it as {other}, or under another name"
            )


def next_key_of(discovery: Discovery) -> int:
    """The lowest key above those of all clusters."""
    return max((cluster.key for cluster in discovery.clusters), default=-1) + 1


def _forgetting(edits: list[Edit]) -> tuple[Edit, ...]:
    """The edits, of which only the last can be undone."""
    old = len(edits) - MOST_UNDO
    return tuple(
        dataclasses.replace(edit, before=None) if place < old else edit
        for place, edit in enumerate(edits)
    )


def _written(
    index: Path, new: SavedDiscovery, now: Discovery, was: Discovery | None
) -> SavedDiscovery:
    """Write the tables that are not as they were, and the JSON that names them."""
    folder = clusters_folder(index)
    make_folder(folder)
    _remove_strays(folder)
    token = secrets.token_hex(6)
    refs = new.tables.refs()
    written: list[str] = []
    try:
        for part, ref, data in _changed_tables(new, now, was):
            refs[part] = dataclasses.replace(ref, name=table_name(new.name, part, token))
            replace_file(folder / refs[part].name, data)
            written.append(refs[part].name)
        saved = dataclasses.replace(
            new,
            tables=Tables(**refs, generation=new.tables.generation),
            saved_at=utc_now(),
            software=f"clipsearch {__version__}",
        )
        _name_tables(folder, saved)
    except BaseException:
        there = _there(index, new.name)  # it may have got its name, and then failed
        for file in written:
            if there is None or file not in there.files():
                with contextlib.suppress(OSError):
                    (folder / file).unlink()
        raise
    return saved


def _changed_tables(
    new: SavedDiscovery, now: Discovery, was: Discovery | None
) -> Iterator[tuple[str, FileRef, pa.Buffer]]:
    """What each table that is not as it was holds, and what vouches for it."""
    same: set[str] = set()
    if was is not None and [c.key for c in was.clusters] == [c.key for c in now.clusters]:
        if was.assignment is now.assignment:
            same.add("assignments")
        if was.model is now.model:
            same.add("centroids")
    for part in PARTS:
        if part not in same:
            table = table_of(part, now)
            data = file_bytes(table, new.facts.index)
            digest = hashlib.sha256(data).hexdigest()
            if digest != getattr(new.tables, part).sha256:
                yield part, FileRef("", len(table), data.size, digest), data


def _name_tables(folder: Path, saved: SavedDiscovery) -> None:
    """Write the JSON of a discovery, and remove the tables that it does not name."""
    replace_file(folder / json_name(saved.name), discovery_bytes(saved))
    _remove_tables(folder, saved.name, saved.files())


def _remove_tables(folder: Path, name: str, kept: set[str]) -> None:
    for file in file_names(folder):
        if is_table_of(name, file) and file not in kept:
            with contextlib.suppress(OSError):  # open in a reader on Windows; the next save tries
                remove_file(folder / file)


def _remove_strays(folder: Path) -> None:
    """Remove what a process that was killed has left half-written; for the holder of the lock."""
    for stray in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            stray.unlink()


def _no_tables(generation: int) -> Tables:
    nothing = FileRef("", 0, 0, "")
    return Tables(nothing, nothing, nothing, generation)
