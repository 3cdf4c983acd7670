"""The manifest: the one file that says what an index holds.

``manifest.json`` is read whole, checked, and replaced atomically, after every file it names
is on the disk. A reader keeps the generation it opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from clipsearch.encoder import ImageGeometry, Space
from clipsearch.errors import IndexFormatError, IndexNotFoundError
from clipsearch.store import Store

MANIFEST_NAME = "manifest.json"
FORMAT = "clipsearch index"
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
class Manifest:
    """What one generation of an index holds.

    ``next_id``, ``next_shard`` and ``next_root`` only ever rise, so that nothing is reused.
    ``images`` and, per space, ``embeddings`` are shards in order of their ids. ``paths`` are
    tables of which a later row for the same root and path supersedes an earlier one.
    ``deleted`` holds the ids that no longer count. ``config`` is how the index was built.
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
    default_space: str | None = None
    spaces: dict[str, Space] = field(default_factory=dict)
    images: tuple[ShardRef, ...] = ()
    embeddings: dict[str, tuple[ShardRef, ...]] = field(default_factory=dict)
    paths: tuple[FileRef, ...] = ()
    skipped: FileRef | None = None
    deleted: FileRef | None = None
    config: dict[str, Any] = field(default_factory=dict)

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
    """Replace the manifest. Everything it names must be in the store already."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
    # ASCII escapes keep the surrogates by which Python holds file names that are not UTF-8.
    document = json.loads(json.dumps(document))
    document["checksum"] = _checksum(document)
    store.replace(MANIFEST_NAME, (json.dumps(document, indent=1) + "\n").encode("ascii"))


def read_manifest(store: Store, place: str) -> Manifest:
    """Read and check the manifest.

    place : the index as the user named it, for messages.

    Raises IndexNotFoundError when there is none, IndexFormatError when it is damaged, foreign
    or of a newer format.
    """
    try:
        data = store.get(MANIFEST_NAME)
    except (FileNotFoundError, NotADirectoryError):
        raise IndexNotFoundError(
            f"no index at {place}: make one with 'clipsearch index FOLDER --index {place}'"
        ) from None
    except OSError as error:
        raise IndexFormatError(f"cannot read the index at {place}: {error.strerror}") from error
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise IndexFormatError(
            f"{place}/{MANIFEST_NAME} is damaged (not JSON): restore it from a copy, or index again"
        ) from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise IndexFormatError(f"{place} is not a clipsearch index")
    version = document.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise IndexFormatError(
            f"{place} has format version {version}, this clipsearch reads up to "
            f"{FORMAT_VERSION}: upgrade clipsearch"
        )
    expected = document.pop("checksum", None)
    if expected != _checksum(document):
        raise IndexFormatError(
            f"{place}/{MANIFEST_NAME} is damaged (its checksum does not match): restore it from "
            "a copy, or index again"
        )
    try:
        return _parse(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise IndexFormatError(f"{place}/{MANIFEST_NAME} is damaged ({error})") from error


def _parse(document: dict[str, Any]) -> Manifest:
    fields = {item.name: document[item.name] for item in dataclasses.fields(Manifest)}
    fields["roots"] = tuple(Root(**root) for root in document["roots"])
    fields["spaces"] = {
        space_id: Space(**{**space, "geometry": ImageGeometry(**space["geometry"])})
        for space_id, space in document["spaces"].items()
    }
    fields["images"] = tuple(ShardRef(**shard) for shard in document["images"])
    fields["embeddings"] = {
        space_id: tuple(ShardRef(**shard) for shard in shards)
        for space_id, shards in document["embeddings"].items()
    }
    fields["paths"] = tuple(FileRef(**ref) for ref in document["paths"])
    for name in ("skipped", "deleted"):
        fields[name] = FileRef(**document[name]) if document[name] else None
    return Manifest(**fields)
