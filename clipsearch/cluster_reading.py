"""Reading saved discoveries: which there are, and what each holds, as it was saved."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from clipsearch.cluster_files import (
    PARTS,
    SavedDiscovery,
    Tables,
    clusters_folder,
    cure,
    discovery_names,
    json_name,
    parse_discovery,
)
from clipsearch.cluster_tables import discovery_of
from clipsearch.clusters import Discovery
from clipsearch.errors import ClusterError, IndexFormatError, IndexReadError
from clipsearch.label_set_files import same_name
from clipsearch.manifest import read_manifest
from clipsearch.shared_folders import fetched
from clipsearch.store import CLUSTERS, open_store

_SHOWN = 12


def known_discovery(index: Path, name: str) -> str:
    """The name a discovery was saved under; ClusterError when there is none of that name."""
    names = discovery_names(index)
    for known in names:
        if same_name(known) == same_name(name):
            return known
    more = len(names) - _SHOWN
    there = f"expected one of {', '.join(names[:_SHOWN])}" + (
        f" and {more} more" if more > 0 else ""
    )
    if not names:
        there = "none is saved yet: 'clipsearch discover' makes one"
    raise ClusterError(f"there is no discovery {name!r}: {there}")


def read_saved_discovery(index: Path, name: str) -> SavedDiscovery:
    """What a saved discovery is, without its tables; upper and lower case are the same.

    Raises ClusterError when there is none of that name, IndexFormatError for one that is damaged
    or of another index, IndexReadError.
    """
    return _read_saved(index, known_discovery(index, name), _uuid(index))


def read_discovery(index: Path, name: str) -> tuple[SavedDiscovery, Discovery]:
    """A saved discovery as it was saved, of one moment; errors as ``read_saved_discovery``."""
    uuid = _uuid(index)
    name = known_discovery(index, name)
    found = _read_saved(index, name, uuid)
    while True:
        try:
            files = {part: _bytes_of(index, ref.name) for part, ref in found.tables.refs().items()}
        except FileNotFoundError:  # saved anew between our two looks
            again = _read_saved(index, name, uuid)
            if again.tables == found.tables:
                folder = clusters_folder(index)
                lost = [
                    part
                    for part in PARTS
                    if not fetched(folder / getattr(found.tables, part).name).exists()
                ]
                raise IndexFormatError(
                    f"the discovery {name} has lost its table of "
                    f"{(lost or ['clusters'])[0]}: {cure(name)}"
                ) from None
            found = again
        else:
            return found, discovery_of(found, files)


def tables_are_whole(index: Path, tables: Tables) -> bool:
    """Whether tables are there, and as they were saved; IndexReadError."""
    try:
        return all(
            hashlib.sha256(_bytes_of(index, ref.name)).hexdigest() == ref.sha256
            for ref in tables.refs().values()
        )
    except FileNotFoundError:
        return False


def _uuid(index: Path) -> str:
    return read_manifest(open_store(index), str(index)).uuid


def _read_saved(index: Path, name: str, uuid: str) -> SavedDiscovery:
    try:
        data = _bytes_of(index, json_name(name))
    except FileNotFoundError:  # removed since its name was read
        raise ClusterError(f"there is no discovery {name!r} any more") from None
    found = parse_discovery(name, data)
    if found.facts.index != uuid:
        raise IndexFormatError(
            f"the discovery {name} belongs to another index ({found.facts.index}): {cure(name)}"
        )
    return found


def _bytes_of(index: Path, file: str) -> bytes:
    try:
        return fetched(clusters_folder(index) / file).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise IndexReadError(
            f"cannot read {CLUSTERS}/{file} in the index: {reason}; see to its permissions and "
            "its disk"
        ) from error
