"""Saving label sets: under a lock of their own, a table first and then the JSON that names it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout

from clipsearch import __version__
from clipsearch.cluster_files import clusters_folder, parse_discovery
from clipsearch.cluster_files import json_name as discovery_json_name
from clipsearch.errors import ClipsearchError, IndexLockedError, LabelError
from clipsearch.generation import Generation
from clipsearch.label_definitions import definitions_dict
from clipsearch.label_set_files import (
    CLASSIFY,
    LabelRows,
    LabelSet,
    NoneRule,
    check_name,
    examples_name,
    is_file_of,
    json_name,
    same_name,
    set_bytes,
    table_name,
)
from clipsearch.label_set_tables import table_bytes
from clipsearch.label_sets import known_name, label_set_names, read_label_set
from clipsearch.label_version_files import current_set, keep_version, remove_other_files, succession
from clipsearch.manifest import FileRef, utc_now
from clipsearch.prompts import resolve_templates
from clipsearch.records import Classification
from clipsearch.shared_folders import file_names, remove_file, shared_writes
from clipsearch.store import (
    CLUSTERS,
    LABELS,
    TEMPORARY_PREFIX,
    make_folder,
    replace_file,
    sync_folder,
)

LOCK_NAME = "labels.lock"
PART_PREFIX = f"{TEMPORARY_PREFIX}part-"
"""Of the files of a set that is being written, without the lock, while its images are scored."""
_WAIT_SECONDS = 30.0  # to save takes moments; whoever holds the lock longer is stuck
_STRAY_SECONDS = 3600.0  # a part that nobody has written to for so long


@contextlib.contextmanager
def labels_lock(index: Path) -> Iterator[Path]:
    """Hold the lock of the label sets, which is not the writer's; the folder they are in.

    Raises IndexLockedError when another process keeps it for half a minute, and as
    ``shared_writes``.
    """
    folder = index / LABELS
    make_folder(folder)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=_WAIT_SECONDS)
    except Timeout:
        raise IndexLockedError(
            f"another process is saving a label set of {index}: wait for it, or stop it"
        ) from None
    try:
        with shared_writes(index, LABELS, CLUSTERS):
            yield folder
    finally:
        lock.release()


def save_label_set(
    index: Path, new: LabelSet, rows: LabelRows, examples: pa.Buffer | None = None
) -> LabelSet:
    """Save a label set under its name, over what had that name, which becomes an earlier version;
    whole or not at all.

    examples : the bytes of the file that ``new.teaching`` vouches for, whatever it is called.

    Raises LabelError for a name or labels that cannot be saved, and as ``refuse_name``,
    IndexLockedError, OSError.
    """
    saved, files = _ready(new, rows, examples)
    with labels_lock(index) as folder:
        return _write(index, folder, saved, files)


def write_label_set(
    index: Path, folder: Path, new: LabelSet, rows: LabelRows, examples: pa.Buffer | None = None
) -> LabelSet:
    """``save_label_set`` for the holder of the lock. folder : where the sets are."""
    return _write(index, folder, *_ready(new, rows, examples))


def _ready(
    new: LabelSet, rows: LabelRows, examples: pa.Buffer | None = None
) -> tuple[LabelSet, dict[str, pa.Buffer]]:
    """A set as it is to be saved, and the bytes of its files by their names."""
    name = check_name(new.name)
    data = table_bytes(new, rows)
    token = secrets.token_hex(6)
    table = table_name(name, token)
    files = {table: data}
    teaching = new.teaching
    if teaching is not None and examples is not None:
        teaching = dataclasses.replace(teaching, name=examples_name(name, token))
        files[teaching.name] = examples
    digest = hashlib.sha256(data).hexdigest()
    saved = dataclasses.replace(
        new,
        name=name,
        saved_at=utc_now(),
        software=f"clipsearch {__version__}",
        table=FileRef(table, len(rows.ids), data.size, digest),
        teaching=teaching,
    )
    return saved, files


def _write(index: Path, folder: Path, saved: LabelSet, files: Mapping[str, pa.Buffer]) -> LabelSet:
    refuse_name(index, saved)
    _remove_strays(folder)
    try:
        for name, data in files.items():
            replace_file(folder / name, data)
    except BaseException:
        _remove_files(folder, list(files))
        raise
    return _name_files(folder, saved, list(files))


def commit_label_set(index: Path, saved: LabelSet, parts: Mapping[Path, str]) -> LabelSet:
    """Give the files of a set their names, and then the set its own, over what had that name;
    whole or not at all. The set with the version that it has now.

    parts : files beside the sets, forced to the disk already, and their names.

    Raises LabelError as ``refuse_name``, IndexLockedError, OSError.
    """
    with labels_lock(index) as folder:
        refuse_name(index, saved)
        _remove_strays(folder)
        named: list[str] = []
        try:
            for part, name in parts.items():
                os.replace(part, folder / name)
                named.append(name)
            sync_folder(folder)
        except BaseException:
            _remove_files(folder, named)
            raise
        return _name_files(folder, saved, named)


def refuse_name(index: Path, new: LabelSet) -> None:
    """LabelError where another set's name differs from that of ``new`` in case alone, or where
    the set of this name follows a discovery and ``new`` does not: it would be lost when the
    clusters change, or they in it."""
    name = new.name
    for other in label_set_names(index):
        if other != name and same_name(other) == same_name(name):
            raise LabelError(
                f"there is a label set {other}, and {name} differs from it in case alone: "
                f"save it as {other}, or under another name"
            )
    leader = followed(index, name)
    if leader is not None and new.discovery != leader:
        raise LabelError(
            f"the label set {name} follows the clusters of the discovery {leader}: save under "
            f"another name, or let it go first with 'clipsearch labels {name} --forget'"
        )


def followed(index: Path, name: str) -> str | None:
    """The discovery that the label set ``name`` follows; None where it follows none, or is not
    there."""
    try:
        leader = read_label_set(index, name).discovery
        if leader is None:
            return None
        data = (clusters_folder(index) / discovery_json_name(leader)).read_bytes()
        return leader if name in parse_discovery(leader, data).label_sets else None
    except (ClipsearchError, OSError):  # damaged, or gone: then nothing leads it
        return None


def _remove_strays(folder: Path) -> None:
    """Remove what a process that was killed has left half-written."""
    for stray in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            age = time.time() - stray.stat().st_mtime
            if not stray.name.startswith(PART_PREFIX) or age > _STRAY_SECONDS:
                stray.unlink()


def _name_files(folder: Path, saved: LabelSet, files: Sequence[str]) -> LabelSet:
    """Write the JSON that names ``files``, which are in place, keep what it is written over as
    an earlier version, and remove what no version needs any more."""
    history = succession(folder, saved)
    written = list(files)
    try:
        if history.leaving is not None:
            written.append(keep_version(folder, history.leaving))
        replace_file(folder / json_name(saved.name), set_bytes(history.saved))
    except BaseException:
        # Stopped or failed after the JSON had its name, the set is saved, and needs its files.
        now = current_set(folder, saved.name)
        if now is None or now.table is None or now.table.name not in written:
            _remove_files(folder, written)
        raise
    kept = [*history.kept, *([history.leaving] if history.leaving is not None else [])]
    remove_other_files(folder, saved.name, kept, set(files))
    return history.saved


def delete_label_set(index: Path, name: str) -> None:
    """Remove a saved label set, damaged or not; LabelError when there is none of that name."""
    known = known_name(index, name)
    with labels_lock(index) as folder:
        remove_file(folder / json_name(known), missing_ok=True)
        _remove_files(folder, [file for file in file_names(folder) if is_file_of(known, file)])


def save_classification(
    index: Path,
    state: Generation,
    name: str,
    result: Classification,
    templates: str | Sequence[str],
    context: str | None,
) -> LabelSet:
    """Save each image's best label under ``name``; raises as ``save_label_set``.

    templates, context : what ``result`` was made with.
    """
    rows = LabelRows(
        result.ids, result.labels[:, 0], result.scores[:, 0], result.probabilities[:, 0]
    )
    new = new_label_set(state, name, CLASSIFY, result.label_names, templates, context)
    rule = NoneRule("off", 0.0)
    if result.threshold is not None:
        rule = NoneRule("auto", result.threshold)
    return save_label_set(index, dataclasses.replace(new, none=rule), rows)


def new_label_set(
    state: Generation,
    name: str,
    kind: str,
    labels: Sequence[str],
    templates: str | Sequence[str],
    context: str | None,
) -> LabelSet:
    """A label set of this generation, not saved yet."""
    return LabelSet(
        name=check_name(name),
        kind=kind,
        labels=tuple(labels),
        templates=resolve_templates(templates),
        context=context,
        index=state.manifest.uuid,
        space=state.space.fingerprint,
        generation=state.manifest.generation,
        next_id=state.manifest.next_id,
        saved_at="",
        software="",
        definitions=definitions_dict(labels),
    )


def _remove_files(folder: Path, files: Sequence[str]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # open in a reader on Windows; the next save tries
            remove_file(folder / file)
