"""The small tables of an index: the manifest's two copies, paths, skipped, deleted, leftovers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clipsearch.errors import ClipsearchError, IndexFormatError, IndexNotFoundError
from clipsearch.manifest import COPY_NAME, MANIFEST_NAME, FileRef, Manifest, read_manifest
from clipsearch.paths import FORGOTTEN, MISSING, PRESENT, read_paths
from clipsearch.shards import (
    DELETED_SCHEMA,
    PATH_SCHEMA,
    SKIPPED_SCHEMA,
    Int64,
    as_numpy,
    read_tables,
)
from clipsearch.store import LocalStore
from indexer.check_shards import SoundShards, is_whole
from indexer.findings import Tally

_SHARD_FOLDERS = ("images", "embeddings")  # the small tables leave a superseded one every run


@dataclass
class SoundTables:
    """What the tables say; None where one is not sound.

    paths : the rows that count (PATH_SCHEMA). deleted : (d,) int64 rising.
    """

    paths: pa.Table | None = None
    deleted: Int64 | None = None


def check_manifests(tally: Tally, store: LocalStore) -> Manifest | None:
    """The manifest to go by: the copy where the manifest itself is lost, None without either.

    Raises IndexNotFoundError when neither is there, and what ``read_manifest`` raises when the
    copy cannot say more than the manifest does (a newer format, another kind of folder).
    """
    manifest, manifest_error = _read(tally, store, MANIFEST_NAME)
    copy, copy_error = _read(tally, store, COPY_NAME)
    if manifest is None and copy is None:
        if tally.findings:  # at least one may be good, and cannot be read
            return None
        if isinstance(manifest_error, IndexNotFoundError):
            if isinstance(copy_error, IndexNotFoundError):
                raise manifest_error
        elif manifest_error is not None and not str(manifest_error).endswith("'"):
            raise manifest_error  # a newer format, or no index: nothing of that can be mended
        tally.error(
            "damaged",
            MANIFEST_NAME,
            "it and its copy are both lost, so nobody knows what belongs together",
            "restore the index from a backup, or index the photos into a new folder",
        )
        return None
    if manifest is None:
        if isinstance(manifest_error, IndexNotFoundError):
            tally.error("missing", MANIFEST_NAME, f"is not there; {COPY_NAME} is good")
        elif manifest_error is not None:
            tally.error("damaged", MANIFEST_NAME, f"cannot be used; {COPY_NAME} is good")
        return copy
    if copy is None:
        if isinstance(copy_error, IndexNotFoundError):
            tally.note("missing", COPY_NAME, "is not there; the next 'clipsearch index' writes it")
        elif copy_error is not None:
            tally.error("damaged", COPY_NAME, f"cannot be used; {MANIFEST_NAME} is good")
    else:
        _compare(tally, manifest, copy)
    return manifest


def _read(
    tally: Tally, store: LocalStore, name: str
) -> tuple[Manifest | None, ClipsearchError | None]:
    try:
        store.get(name)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        tally.unreadable(name, error)
        return None, None
    try:
        return read_manifest(store, str(tally.index), name), None
    except (IndexFormatError, IndexNotFoundError) as error:
        return None, error


def _compare(tally: Tally, manifest: Manifest, copy: Manifest) -> None:
    if copy.uuid != manifest.uuid:
        tally.error("foreign", COPY_NAME, f"belongs to another index ({copy.uuid})")
    elif copy.generation > manifest.generation:
        tally.note(
            "older",
            MANIFEST_NAME,
            f"is of generation {manifest.generation}, its copy of {copy.generation}: an older one "
            "was put back; no number is given out twice all the same",
        )
    elif copy.generation == manifest.generation:
        # A scan that found nothing new notes its time in both, one after the other.
        if copy.files() != manifest.files():
            tally.error("disagrees", COPY_NAME, f"names other files than {MANIFEST_NAME}")
    elif copy.generation == manifest.generation - 1:
        tally.note("behind", COPY_NAME, "is one generation behind, as after a kill")
    else:
        tally.error(
            "behind",
            COPY_NAME,
            f"is of generation {copy.generation}, the manifest of {manifest.generation}",
        )


def read_deleted(
    tally: Tally, store: LocalStore, manifest: Manifest, done: Callable[[], None]
) -> Int64 | None:
    """(d,) int64 rising: the tombstones; None when their table is not sound."""
    if manifest.deleted is None:
        return np.empty(0, np.int64)
    table = _table(tally, store, manifest.deleted, "deleted", DELETED_SCHEMA, manifest)
    done()
    if table is None:
        return None
    ids = np.sort(as_numpy(table.column("id")))
    if len(np.unique(ids)) < len(ids):
        tally.error("ids", manifest.deleted.name, "names an image twice")
    return ids


def check_tables(
    tally: Tally,
    store: LocalStore,
    manifest: Manifest,
    shards: SoundShards,
    deleted: Int64 | None,
    done: Callable[[], None],
) -> SoundTables:
    """Check paths, skipped and deleted, and look for files that no manifest names."""
    known = shards.ids()
    if deleted is not None and manifest.deleted is not None:
        strange = shards.not_in_doubt(np.setdiff1d(deleted, known))
        if len(strange):
            tally.error(
                "ids", manifest.deleted.name, f"names {len(strange):,} images that are not there"
            )
    if manifest.skipped is not None:
        _table(tally, store, manifest.skipped, "skipped", SKIPPED_SCHEMA, manifest)
        done()
    whole = True
    for ref in manifest.paths:
        whole &= _table(tally, store, ref, "paths", PATH_SCHEMA, manifest) is not None
        done()
    tables = SoundTables(None, deleted)
    if whole:
        tables.paths = read_paths(store, manifest)
        _check_paths(tally, manifest, tables.paths, shards, known, deleted)
    _note_leftovers(tally, store, manifest)
    return tables


def _table(
    tally: Tally, store: LocalStore, ref: FileRef, kind: str, schema: pa.Schema, manifest: Manifest
) -> pa.Table | None:
    if not is_whole(tally, store, ref, kind, manifest.uuid):
        return None
    try:
        return read_tables(store, [ref], schema)
    except ClipsearchError as error:
        tally.error("damaged", ref.name, str(error).rpartition(": ")[0] or str(error))
        return None


def _check_paths(
    tally: Tally,
    manifest: Manifest,
    paths: pa.Table,
    shards: SoundShards,
    known: Int64,
    deleted: Int64 | None,
) -> None:
    file = manifest.paths[-1].name if manifest.paths else "paths"
    roots = as_numpy(paths.column("root"))
    strange = int((~np.isin(roots, [root.id for root in manifest.roots])).sum())
    if strange:
        tally.error("paths", file, f"{strange:,} files are in a folder the index does not know")
    states = set(paths.column("state").to_pylist()) - {PRESENT, MISSING, FORGOTTEN}
    if states:
        tally.error("paths", file, f"files are said to be {', '.join(sorted(states))}")
    ids = as_numpy(paths.column("id"))
    lost = shards.not_in_doubt(np.setdiff1d(ids, known))
    if len(lost):
        tally.error("paths", file, f"files hold {len(lost):,} images that no shard has")
    if deleted is not None:
        homeless = np.setdiff1d(np.setdiff1d(known, ids), deleted)
        if len(homeless):
            tally.error(
                "no-place",
                file,
                f"{len(homeless):,} images have no file: 'clipsearch index' over the folders "
                "finds those that are still there by their content, without encoding them; "
                "--repair then lets the others go",
            )


def _note_leftovers(tally: Tally, store: LocalStore, manifest: Manifest) -> None:
    named = {ref.name for ref in manifest.files()}
    for name in store.leftovers(_SHARD_FOLDERS, named):
        tally.note(
            "leftover",
            name,
            "belongs to no generation, as after a kill; the next 'clipsearch index' clears it away",
        )
