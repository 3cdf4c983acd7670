"""The files of a saved discovery: ``clusters/<name>.json`` and the Parquet tables it names.

The JSON says what the discovery is and vouches for each table by its sha256: the centroids, the
clusters with their names, and the assignments of the images. What changes comes in a table of a
new name, before the JSON that names it; the tables from before an edit stay, so that it can be
undone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.clusters import DiscoveryFacts
from clipsearch.errors import ClusterError, IndexFormatError
from clipsearch.label_set_files import is_name, names_in, same_name
from clipsearch.manifest import FileRef
from clipsearch.shared_folders import file_names, shared_folder
from clipsearch.store import CLUSTERS

FORMAT = "clipsearch discovery"
FORMAT_VERSION = 1
UNNAMED = "discovered"
"""The name of a discovery that was given none."""
PARTS = ("centroids", "clusters", "assignments")
_TOKEN = r"[0-9a-f]{12}"
_MOST_KEY = 1 << 30  # keys are int32


@dataclass(frozen=True)
class Tables:
    """The Parquet tables of a discovery as it was at one moment, by their names inside
    ``clusters/``. generation : of the index whose images are assigned."""

    centroids: FileRef
    clusters: FileRef
    assignments: FileRef
    generation: int

    def refs(self) -> dict[str, FileRef]:
        """The tables by what they hold."""
        return {part: getattr(self, part) for part in PARTS}


@dataclass(frozen=True)
class Edit:
    """One change by a person. what : in words. at : ISO 8601, UTC. before : the tables that it
    replaced, None where it can no longer be undone."""

    what: str
    at: str
    before: Tables | None


@dataclass(frozen=True)
class SavedDiscovery:
    """What a saved discovery is, beside its tables.

    next_key : of the next new cluster; it only rises. label_sets : those that follow it. edits :
    what was done to it by hand, the last one at the end.
    """

    name: str
    facts: DiscoveryFacts
    tables: Tables
    next_key: int
    label_sets: tuple[str, ...]
    edits: tuple[Edit, ...]
    saved_at: str
    software: str

    @property
    def state(self) -> str:
        """What changes whenever the clusters or what is in them does."""
        text = self.tables.clusters.sha256 + self.tables.assignments.sha256
        return hashlib.sha256(text.encode()).hexdigest()

    def files(self) -> set[str]:
        """The names of all its tables, those that an undo brings back among them."""
        every = [self.tables, *(edit.before for edit in self.edits if edit.before is not None)]
        return {ref.name for tables in every for ref in tables.refs().values()}


def clusters_folder(index: Path) -> Path:
    """Where the discoveries of an index are."""
    return shared_folder(index, CLUSTERS)


def check_discovery_name(name: str) -> str:
    """The name of a discovery, fit to be a file name on every system.

    Raises ClusterError for one that is not.
    """
    normal = unicodedata.normalize("NFC", name)
    if not is_name(normal):
        raise ClusterError(
            f"{name!r} is no name for a discovery: expected up to 64 letters, digits and - _ . "
            "such as pets or trip-2024, beginning with a letter or digit, and not a device of "
            "Windows such as con"
        )
    return normal


def discovery_names(index: Path) -> list[str]:
    """The names of the saved discoveries, damaged ones too, in order."""
    return names_in(clusters_folder(index))


def json_name(name: str) -> str:
    """ "pets" -> "pets.json"."""
    return f"{name}.json"


def table_name(name: str, part: str, token: str) -> str:
    """A table of a discovery; ``token`` is 12 hexadecimal digits."""
    return f"{name}.{token}.{part}.parquet"


def is_table_of(name: str, file: str, part: str = "|".join(PARTS)) -> bool:
    """Whether ``file`` is a table of the discovery ``name``, now or earlier."""
    normal = unicodedata.normalize("NFC", file)
    return re.fullmatch(rf"{re.escape(name)}\.{_TOKEN}\.({part})\.parquet", normal) is not None


def discovery_files(index: Path, name: str) -> list[str]:
    """The files of a discovery in its folder, older ones too."""
    found = file_names(clusters_folder(index))
    return [file for file in found if file == json_name(name) or is_table_of(name, file)]


def cure(name: str) -> str:
    """What every message about a damaged discovery ends with."""
    return f"discover anew, or remove it with 'clipsearch clusters {name} --forget'"


def damaged(name: str, why: str) -> IndexFormatError:
    """The error for a discovery whose files are not what was saved."""
    return IndexFormatError(f"the discovery {name} is damaged ({why}): {cure(name)}")


def discovery_bytes(saved: SavedDiscovery) -> bytes:
    """``saved`` as JSON, with a checksum over itself."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(saved)}
    document = json.loads(json.dumps(document, allow_nan=False))
    document["checksum"] = _checksum(document)
    return (json.dumps(document, indent=1) + "\n").encode("ascii")


def parse_discovery(name: str, data: bytes) -> SavedDiscovery:
    """The discovery in the bytes of ``clusters/<name>.json``.

    Raises IndexFormatError when they are damaged, foreign, or of a newer format.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise damaged(name, "not JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise IndexFormatError(
            f"{CLUSTERS}/{json_name(name)} in the index is no discovery: {cure(name)}"
        )
    version = document.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise IndexFormatError(
            f"the discovery {name} has format version {version}, this clipsearch reads up to "
            f"{FORMAT_VERSION}: upgrade clipsearch"
        )
    if document.pop("checksum", None) != _checksum(document):
        raise damaged(name, "its checksum does not match")
    try:
        found = _parse(document)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise damaged(name, str(error)) from error
    if same_name(found.name) != same_name(name):  # a file that somebody has renamed
        raise IndexFormatError(
            f"{CLUSTERS}/{json_name(name)} in the index holds the discovery {found.name}: rename "
            f"it back, or {cure(name)}"
        )
    return found


def _parse(document: dict[str, Any]) -> SavedDiscovery:
    name = check_discovery_name(document["name"])
    edits = tuple(
        Edit(
            str(edit["what"]),
            str(edit["at"]),
            None if edit["before"] is None else _tables(name, edit["before"]),
        )
        for edit in document["edits"]
    )
    if not all(isinstance(label_set, str) for label_set in document["label_sets"]):
        raise ValueError("its label sets are no names")
    next_key = int(document["next_key"])
    if not 0 <= next_key <= _MOST_KEY:
        raise ValueError(f"{next_key} can be no key")
    return SavedDiscovery(
        name=name,
        facts=_facts(document["facts"]),
        tables=_tables(name, document["tables"]),
        next_key=next_key,
        label_sets=tuple(document["label_sets"]),
        edits=edits,
        saved_at=str(document["saved_at"]),
        software=str(document["software"]),
    )


def _tables(name: str, document: dict[str, Any]) -> Tables:
    refs = {part: FileRef(**document[part]) for part in PARTS}
    for part, ref in refs.items():
        whole = all(type(number) is int and number >= 0 for number in (ref.rows, ref.bytes))
        if not whole or not is_table_of(name, ref.name, part):
            raise ValueError(f"{ref.name!r} is no table of its {part}")
    return Tables(**refs, generation=int(document["generation"]))


def _facts(document: dict[str, Any]) -> DiscoveryFacts:
    """Keys of a later version are passed over, and what an earlier one lacks is its default."""
    known = {item.name for item in dataclasses.fields(DiscoveryFacts)}
    fields = {name: value for name, value in document.items() if name in known}
    fields["curve"] = tuple((int(k), float(value)) for k, value in fields["curve"])
    for name in ("method", "index", "space", "made_at"):
        if not isinstance(fields[name], str):
            raise ValueError(f"its {name} is no text")
    for name in ("vocabulary", "where"):
        if not isinstance(fields.get(name), str | None):
            raise ValueError(f"its {name} is no text")
    return DiscoveryFacts(**fields)


def _checksum(document: dict[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
