"""Saved searches: a query by name, and what is new since somebody last looked.

``searches/<name>.json`` in the index holds the query and how far the ids had come. Ids only
rise, so an image is new to a search when its id is not below that.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.errors import IndexFormatError, IndexReadError, QueryError
from clipsearch.filter_options import FilterOptions
from clipsearch.image_index import ImageIndex
from clipsearch.manifest import utc_now
from clipsearch.query import Image, ImagePart, Query
from clipsearch.records import Hits
from clipsearch.remote_paths import whole_place
from clipsearch.shared_folders import remove_file, shared_folder, shared_writes
from clipsearch.store import SEARCHES, replace_file

_NAME = re.compile(r"[\w][\w .-]{0,62}[\w]|[\w]")
_VERSION = 1


@dataclass(frozen=True)
class SavedSearch:
    """A query by its name. Images with ids from ``next_id`` on are new to it; ``looked_at``
    is when somebody last looked (ISO 8601, UTC)."""

    name: str
    query: Query
    next_id: int
    looked_at: str


def save_search(index: ImageIndex, name: str, query: Query) -> None:
    """Keep ``query`` as ``name``, in place of what had that name; what is indexed now is not
    new to it.

    Raises QueryError for a name that cannot be a file's, and for an image given as bytes.
    """
    kept = dataclasses.replace(
        query,
        like=tuple(_kept_image(index, part) for part in query.like),
        unlike=tuple(_kept_image(index, part) for part in query.unlike),
    )
    _write(index.path, SavedSearch(name, kept, index.next_id, utc_now()))


def saved_searches(index: Path) -> list[SavedSearch]:
    """All saved searches of an index, by name; raises as ``saved_search`` does."""
    return [saved_search(index, name) for name in saved_search_names(index)]


def saved_search_names(index: Path) -> list[str]:
    """The names of all saved searches of an index, damaged ones too, in order."""
    folder = shared_folder(index, SEARCHES)
    names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
    return [name for name in names if _NAME.fullmatch(name)]


def saved_search(index: Path, name: str) -> SavedSearch:
    """One saved search.

    Raises QueryError when there is none of this name, IndexFormatError when it is damaged.
    """
    path = _path(index, name)
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        fields: dict[str, Any] = document["query"]
        for part in ("plus", "minus", "like", "unlike"):
            fields[part] = tuple((value, float(boost)) for value, boost in fields[part])
        if isinstance(fields["where"], dict):
            fields["where"] = _filter_options(fields["where"])
        return SavedSearch(
            name, Query(**fields), int(document["next_id"]), str(document["looked_at"])
        )
    except (FileNotFoundError, NotADirectoryError):
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.json")))
        raise QueryError(
            f"there is no saved search {name!r}: "
            + (f"expected one of {known}" if known else "search WORDS --save NAME makes one")
        ) from None
    except OSError as error:
        raise IndexReadError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, QueryError, RecursionError) as error:
        raise IndexFormatError(
            f"the saved search at {path} is damaged: remove it with "
            f"{_forgetting(index, name)} and save it again"
        ) from error


def _forgetting(index: Path, name: str) -> str:
    command = ["clipsearch", "saved", name, "--forget", "--index", os.fspath(index)]
    return f"'{shlex.join(command)}'"


def forget_search(index: Path, name: str) -> None:
    """Remove a saved search, a damaged one too; QueryError when there is none of this name."""
    with shared_writes(index, SEARCHES):
        path = _path(index, name)
        if not path.is_file():
            saved_search(index, name)
        remove_file(path, missing_ok=True)


def new_hits(index: ImageIndex, saved: SavedSearch, *, k: int | None = None) -> Hits:
    """The hits of a saved search among the images that came since somebody last looked."""
    return index.search(saved.query, k=k, first_id=saved.next_id)


def mark_seen(index: ImageIndex, saved: SavedSearch) -> None:
    """Remember that somebody has looked at all that ``index`` holds."""
    _write(index.path, dataclasses.replace(saved, next_id=index.next_id, looked_at=utc_now()))


def _path(index: Path, name: str) -> Path:
    if _NAME.fullmatch(name) is None:
        raise QueryError(
            f"expected a name of letters, digits, spaces, dots, - and _ (64 at most), got {name!r}"
        )
    return shared_folder(index, SEARCHES) / f"{name}.json"


def _write(index: Path, saved: SavedSearch) -> None:
    fields = dataclasses.asdict(saved.query)
    where = saved.query.where
    if where is not None and not isinstance(where, FilterOptions):
        fields["where"] = str(where)
    if fields["vector"] is not None:
        fields["vector"] = np.asarray(fields["vector"], np.float64).tolist()
    for part in ("plus", "minus", "like", "unlike"):
        fields[part] = [
            list(value) if isinstance(value, tuple) else [value, 1.0] for value in fields[part]
        ]
    document = {
        "version": _VERSION,
        "query": fields,
        "next_id": saved.next_id,
        "looked_at": saved.looked_at,
    }
    with shared_writes(index, SEARCHES):
        replace_file(_path(index, saved.name), json.dumps(document, indent=1).encode("ascii"))


def _filter_options(fields: dict[str, Any]) -> FilterOptions:
    """Filter options as they were typed: "last week" is another one by now."""
    texts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return FilterOptions(**texts)


def _kept_image(index: ImageIndex, part: ImagePart) -> tuple[Image, float]:
    image, boost = part if isinstance(part, tuple) else (part, 1.0)
    if isinstance(image, np.ndarray):
        raise QueryError("a search with the vector of an image cannot be saved: name its file")
    known = index.id_of(image)
    if known is not None:  # which holds wherever the file goes
        return known, boost
    if isinstance(image, bytes):
        raise QueryError("a search with an image from standard input cannot be saved: name a file")
    return str(whole_place(str(image))), boost
