"""The manifest: the one file that says what an index holds.

``manifest.json`` is read whole, checked, and replaced atomically, after every file it names
is on the disk. A reader keeps the generation it opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from clipsearch.encoder import ImageGeometry, Space
from clipsearch.errors import IndexFormatError, IndexNotFoundError
from clipsearch.store import Store

MANIFEST_NAME = "manifest.json"
COPY_NAME = "manifest.copy.json"
"""The same again, written right after it, for ``verify --repair``."""
_CURE = "mend it with 'clipsearch verify --repair --index"
FORMAT = "clipsearch index"
_FORMAT_WITHIN = 4096  # bytes of the beginning, where it stands first
FORMAT_VERSION = 1


@dataclass(frozen=True)
class FileRef:
    """One Parquet file of the index: its name in the store, rows, bytes and sha256 (hex)."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardRef(FileRef):
    """A shard: rows of rising ids, ``first_id`` to ``last_id``, and how it was computed."""

    first_id: int
    last_id: int
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Root:
    """A folder of photos. Paths in the index are relative to it.

    ``scanned_at`` is when a scan of it last finished (ISO 8601, UTC), or None.
    """

    id: int
    path: str
    scanned_at: str | None = None


@dataclass(frozen=True)
class MeasuredSearch:
    """What a search of an approximate index finds, measured on texts that had no say in how it
    was set up.

    kind : of the index; rows : how many vectors it covered. recall : the mean share of a text's
    ``k`` best images that it found, over ``queries`` texts; ``low`` and ``high`` its 95 %
    interval. ``target`` is what was wanted; where it was not ``reached``, searches are exact.
    probes, candidates : how hard it looked. measured_at : ISO 8601, UTC.
    """

    kind: str
    rows: int
    k: int
    target: float
    reached: bool
    queries: int
    recall: float
    low: float
    high: float
    probes: int
    candidates: int
    measured_at: str


@dataclass(frozen=True)
class Manifest:
    """What one generation of an index holds.

    ``next_id``, ``next_shard`` and ``next_root`` only ever rise, so that nothing is reused.
    ``images`` and, per space, ``embeddings`` are shards in order of their ids. ``paths`` are
    tables of which a later row for the same root and path supersedes an earlier one.
    ``deleted`` holds the ids that no longer count. ``config`` is how the index was built.
    ``sources`` are the folders, and files that hold images, that were named to be indexed: what
    is looked at when none is named. Each lies in a root; a root may be more than was named.
    ``searches`` says, per space, what the approximate search finds, where it was measured.
    """

    uuid: str
    generation: int
    software: str
    created_at: str
    updated_at: str
    next_id: int = 0
    next_shard: int = 0
    next_root: int = 0
    roots: tuple[Root, ...] = ()
    sources: tuple[str, ...] = ()
    default_space: str | None = None
    spaces: dict[str, Space] = field(default_factory=dict)
    images: tuple[ShardRef, ...] = ()
    embeddings: dict[str, tuple[ShardRef, ...]] = field(default_factory=dict)
    paths: tuple[FileRef, ...] = ()
    skipped: FileRef | None = None
    deleted: FileRef | None = None
    config: dict[str, Any] = field(default_factory=dict)
    searches: dict[str, MeasuredSearch] = field(default_factory=dict)

    def root(self, root_id: int) -> Root:
        """The root with this id; IndexFormatError when the index names one it does not have."""
        for root in self.roots:
            if root.id == root_id:
                return root
        raise IndexFormatError(f"the index names a root {root_id} that it does not hold")

    def files(self) -> list[FileRef]:
        """Every file this generation needs, the manifest itself left out."""
        references: list[FileRef] = [*self.images, *self.paths]
        for shards in self.embeddings.values():
            references.extend(shards)
        references.extend(ref for ref in (self.skipped, self.deleted) if ref is not None)
        return references


def utc_now() -> str:
    """The time now in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_manifest(software: str) -> Manifest:
    """The manifest of an index that holds nothing yet."""
    now = utc_now()
    return Manifest(
        uuid=str(uuid.uuid4()), generation=0, software=software, created_at=now, updated_at=now
    )


def _checksum(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Replace the manifest, then its copy. Everything it names must be in the store already."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    # ASCII escapes keep the surrogates by which Python holds file names that are not UTF-8.
    document = json.loads(json.dumps(document))
    # Thousands of shards share a few recipes: each is written once.
    recipes: dict[str, Any] = {}
    for shard in itertools.chain(document["images"], *document["embeddings"].values()):
        key = _checksum(shard["recipe"])[:12]
        recipes[key] = shard["recipe"]
        shard["recipe"] = key
    document["recipes"] = recipes
    document["checksum"] = _checksum(document)
    data = (json.dumps(document, indent=1) + "\n").encode("ascii")
    store.replace(MANIFEST_NAME, data)
    store.replace(COPY_NAME, data)


def index_around(path: Path) -> Path | None:
    """The index that ``path`` is or lies in, whole or damaged; None when in none.

    Many programs have a ``manifest.json``: one of theirs makes no index.
    """
    whole = Path(os.path.realpath(path))
    for place in (whole, *whole.parents):
        if (place / COPY_NAME).is_file():
            return place
        try:
            with open(place / MANIFEST_NAME, "rb") as file:
                if json.dumps(FORMAT).encode() in file.read(_FORMAT_WITHIN):
                    return place
        except OSError:
            continue
    return None


def read_for_writing(store: Store, place: str) -> Manifest:
    """The manifest, for the holder of the writer's lock.

    Where somebody has put an older manifest back, the copy remembers how far the counters had
    come: no id, no number of a shard and no generation is given out a second time.
    """
    manifest = read_manifest(store, place, to_replace=True)
    try:
        copy = read_manifest(store, place, COPY_NAME)
    except (IndexFormatError, IndexNotFoundError):
        return manifest
    if copy.uuid != manifest.uuid:
        return manifest
    counters = ("generation", "next_id", "next_shard", "next_root")
    highest = {name: max(getattr(manifest, name), getattr(copy, name)) for name in counters}
    return dataclasses.replace(manifest, **highest)


def read_manifest(
    store: Store, place: str, name: str = MANIFEST_NAME, *, to_replace: bool = False
) -> Manifest:
    """Read and check the manifest, or its copy.

    place : the index as the user named it, for messages. name : MANIFEST_NAME or COPY_NAME.
    to_replace : what is read will be replaced, see ``Store.get_to_replace``.

    Raises IndexNotFoundError when there is none, IndexFormatError when it is damaged, foreign
    or of a newer format.
    """
    try:
        data = store.get_to_replace(name) if to_replace else store.get(name)
    except (FileNotFoundError, NotADirectoryError):
        raise IndexNotFoundError(
            f"no index at {place}: make one with 'clipsearch index FOLDER --index {place}'"
        ) from None
    except OSError as error:
        raise IndexFormatError(f"cannot read {place}/{name}: {error.strerror}") from error
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise IndexFormatError(f"{place}/{name} is damaged (not JSON): {_CURE} {place}'") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise IndexFormatError(f"{place} is not a clipsearch index")
    version = document.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise IndexFormatError(
            f"{place} has format version {version}, this clipsearch reads up to "
            f"{FORMAT_VERSION}: upgrade clipsearch"
        )
    expected = document.pop("checksum", None)
    if expected != _checksum(document):
        raise IndexFormatError(
            f"{place}/{name} is damaged (its checksum does not match): {_CURE} {place}'"
        )
    try:
        return _parse(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IndexFormatError(f"{place}/{name} is damaged ({error}): {_CURE} {place}'") from error


T = TypeVar("T")


def _record(kind: type[T], document: dict[str, Any]) -> T:
    """A dataclass from JSON. Keys of a later version are passed over, and what an earlier one
    did not write takes its default, so that the format can grow without a new version."""
    known = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in document.items() if name in known})


def _reference(
    kind: type[FileRef], document: dict[str, Any], folder: str, recipes: dict[str, Any]
) -> Any:
    recipe = {"recipe": recipes[document["recipe"]]} if kind is ShardRef else {}
    reference = _record(kind, {**document, **recipe})
    numbers = [reference.rows, reference.bytes]
    if isinstance(reference, ShardRef):
        numbers += [reference.first_id, reference.last_id]
    stem = re.fullmatch(re.escape(folder) + r"/[0-9a-z-]+\.parquet", reference.name)
    if stem is None or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{reference.name!r} is no file of {folder}/")
    return reference


def _space(space_id: str, document: dict[str, Any]) -> Space:
    geometry = _record(ImageGeometry, document["geometry"])
    space = _record(Space, {**document, "geometry": geometry})
    # Folders are named after it, so it must not lead anywhere else.
    if space.id != space_id or re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,99}", space_id) is None:
        raise ValueError(f"{space_id!r} is no name of a space")
    return space


def _root(document: dict[str, Any]) -> Root:
    root = _record(Root, document)
    if not isinstance(root.id, int) or not isinstance(root.path, str):
        raise ValueError(f"{document!r} is no root")
    return root


def _measured(document: dict[str, Any]) -> MeasuredSearch:
    measured = _record(MeasuredSearch, document)
    counts = (measured.rows, measured.k, measured.queries, measured.probes, measured.candidates)
    shares = (measured.target, measured.recall, measured.low, measured.high)
    numbers = [isinstance(count, int) for count in counts]
    numbers += [isinstance(share, int | float) for share in shares]
    if not all(numbers) or not isinstance(measured.kind, str):
        raise ValueError(f"{document!r} is no measured search")
    return measured


def _parse(document: dict[str, Any]) -> Manifest:
    recipes = document.get("recipes", {})
    # All but these stood in the first manifests; a field of a later version needs a default here.
    later = {"sources": [root["path"] for root in document["roots"]], "searches": {}}
    document = {**later, **document}
    fields = {item.name: document[item.name] for item in dataclasses.fields(Manifest)}
    fields["sources"] = tuple(document["sources"])
    if not all(isinstance(source, str) for source in fields["sources"]):
        raise ValueError("the sources are no paths")
    if str(uuid.UUID(document["uuid"])) != document["uuid"]:
        raise ValueError(f"{document['uuid']!r} is no uuid")
    fields["roots"] = tuple(_root(root) for root in document["roots"])
    fields["spaces"] = {key: _space(key, space) for key, space in document["spaces"].items()}
    fields["images"] = tuple(
        _reference(ShardRef, shard, "images", recipes) for shard in document["images"]
    )
    fields["embeddings"] = {
        key: tuple(
            _reference(ShardRef, shard, f"embeddings/{fields['spaces'][key].id}", recipes)
            for shard in shards
        )
        for key, shards in document["embeddings"].items()
    }
    fields["paths"] = tuple(_reference(FileRef, ref, "paths", recipes) for ref in document["paths"])
    fields["searches"] = {key: _measured(of) for key, of in document["searches"].items()}
    for name in ("skipped", "deleted"):
        if document[name]:
            fields[name] = _reference(FileRef, document[name], name, recipes)
    manifest = Manifest(**fields)
    whole = (manifest.generation, manifest.next_id, manifest.next_shard, manifest.next_root)
    if not all(isinstance(number, int) for number in whole):
        raise ValueError("a counter is no whole number")
    if not isinstance(manifest.config, dict):
        raise ValueError("the settings are no table")
    return manifest
