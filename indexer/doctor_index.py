"""The part of ``doctor`` that looks at an index: can it be read, searched, added to."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from clipsearch.errors import ClipsearchError, IndexNotFoundError
from clipsearch.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, read_manifest
from clipsearch.remote_urls import is_remote
from clipsearch.store import open_store
from indexer.doctor import OK, PROBLEM, WARNING, Check, guarded, room, writable


def check_index(named: str | None) -> list[Check]:
    """What there is to say about the index named, or else the one a search would ask."""
    found: list[Check] = []
    place: Path | None = None

    def find() -> Iterator[Check]:
        nonlocal place
        from clipsearch.cli.places import existing_index

        try:
            place = existing_index(named)
        except IndexNotFoundError:
            yield Check(OK, "index", "none here: clipsearch index FOLDER makes one")

    found += guarded("index", find)
    if place is None:
        return found
    manifest: Manifest | None = None

    def read(place: Path) -> Iterator[Check]:
        nonlocal manifest
        try:
            store = open_store(place)
            manifest = read_manifest(store, str(place))
        except ClipsearchError as error:
            message, _, cure = str(error).rpartition(": ")
            yield Check(PROBLEM, "index", message or cure, cure)
            return
        yield Check(
            OK,
            "index",
            f"{store.place}: format {FORMAT_VERSION}, generation {manifest.generation}, "
            f"{sum(ref.rows for ref in manifest.images):,} images",
        )

    found += guarded("index", functools.partial(read, place))
    if not place.is_dir():
        return found
    found += guarded("index folder", functools.partial(_writable, place))
    found += guarded("index disk", functools.partial(room, "index disk", place))
    found += guarded("writer", functools.partial(_writer, place))
    if manifest is not None:
        found += guarded("index model", functools.partial(_model, manifest))
        found += guarded("folders", functools.partial(_roots, manifest))
        found += guarded("index files", functools.partial(_files, place, manifest))
        found += guarded("clusters", functools.partial(_discoveries, place, manifest))
    return found


def _writable(place: Path) -> Iterator[Check]:
    yield from writable(
        "index folder", place, WARNING, "the index can be searched, and not added to"
    )


def _writer(place: Path) -> Iterator[Check]:
    from indexer.lock import look_at_lock

    is_held, holder = look_at_lock(place)
    if is_held:
        yield Check(OK, "writer", f"another process is writing{holder}; searching goes on")
    elif holder:
        yield Check(OK, "writer", f"none; {holder.strip(' ()')} has died, which is harmless")
    else:
        yield Check(OK, "writer", "none")


def _model(manifest: Manifest) -> Iterator[Check]:
    from clipsearch.model_names import weights_here

    for space in manifest.spaces.values():
        cure = f"clipsearch model get {shlex.quote(space.model)}"
        if os.path.isabs(space.model):
            cure = "name the folder's new place with --model"
        try:
            is_here = weights_here(space.model) is not None
            why = "its files are not on this machine"
        except ClipsearchError as error:
            is_here, why = False, str(error).splitlines()[0]
        if is_here:
            yield Check(OK, "index model", f"{space.model}, is here")
        elif space.id == manifest.default_space:
            yield Check(PROBLEM, "index model", f"{space.model}: {why}", cure)
        else:
            message = f"{space.model}, which the index has vectors of beside its own: {why}"
            if os.path.isabs(space.model):
                cure = "clipsearch model add FOLDER, where it is now"
            cure += f", or clipsearch model drop {shlex.quote(space.model)}"
            yield Check(WARNING, "index model", message, cure)


def _roots(manifest: Manifest) -> Iterator[Check]:
    for root in manifest.roots:
        if is_remote(root.path):
            # Asked after only where that is wanted: it would take a network.
            yield Check(OK, "folder", f"{root.path}, in object storage")
        elif os.path.isdir(root.path):
            yield Check(OK, "folder", root.path)
        else:
            yield Check(
                WARNING,
                "folder",
                f"{root.path} is not there now; its images can be found, and not opened",
                "plug in its disk",
            )


def _discoveries(place: Path, manifest: Manifest) -> Iterator[Check]:
    """The saved discoveries: can they be read, and are they of the model that answers now."""
    from clipsearch.cluster_files import discovery_names
    from clipsearch.cluster_reading import read_saved_discovery

    names = discovery_names(place)
    space = manifest.spaces.get(manifest.default_space or "")
    for name in names:
        try:
            saved = read_saved_discovery(place, name)
        except ClipsearchError as error:
            message, _, cure = str(error).rpartition(": ")
            yield Check(WARNING, "clusters", message or cure, cure)
            continue
        tables = saved.tables
        counts = f"{tables.clusters.rows:,} clusters, {tables.assignments.rows:,} images"
        if space is None or saved.facts.space == space.fingerprint:
            yield Check(OK, "clusters", f"{name}: {counts}")
        else:
            message = f"{name}: {counts}, made with another model than the index has now"
            yield Check(WARNING, "clusters", message, "clipsearch discover makes new ones")


def _files(place: Path, manifest: Manifest) -> Iterator[Check]:
    """A quick look: every file there, and as long as it should be. ``verify`` reads them."""
    store = open_store(place)
    wrong = []
    for ref in manifest.files():
        try:
            size = store.size(ref.name)
        except OSError as error:
            wrong.append(f"{ref.name}: {error.strerror}")
        else:
            if size != ref.bytes:
                wrong.append(f"{ref.name}: expected {ref.bytes:,} bytes, found {size:,}")
    cure = shlex.join(["clipsearch", "verify", "--repair", "--index", str(place)])
    for message in wrong[:5]:
        yield Check(PROBLEM, "index files", message, cure)
    if not wrong:
        files = f"all {len(manifest.files()):,} files beside {MANIFEST_NAME} are there"
        yield Check(OK, "index files", f"{files}; 'clipsearch verify' reads them")
