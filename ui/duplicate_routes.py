"""The HTTP API of duplicates: ``api/duplicates``. Nothing is ever deleted here."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Body, Response
from fastapi import Query as Parameter

from clipsearch.cli.duplicate_output import (
    DUPLICATE_COLUMNS,
    duplicate_document,
    duplicate_rows,
)
from clipsearch.cli.output import csv_lines, json_line, path_fields
from clipsearch.duplicate_groups import DuplicateFile, DuplicateGroup
from clipsearch.duplicate_lists import LISTS, path_list
from clipsearch.duplicates import KINDS
from ui.checks import check_choice, check_count
from ui.duplicate_searches import DuplicateSearches, chosen
from ui.library import Library
from ui.page_errors import PageError

_PATIENCE_SECONDS, _LOOK_SECONDS = 1.5, 0.05
"""A question waits so long for its answer, without a thread; then it is told to ask again."""

_MOST_FILES = 60
_MOST_CHOICES = 20_000
_MEDIA = {"txt": "text/plain", "csv": "text/csv", "json": "application/x-ndjson"}

Document = Annotated[dict[str, Any], Body()]


def duplicate_routes(library: Library) -> APIRouter:
    """The routes, to be put at the root."""
    routes = APIRouter(prefix="/api/duplicates")
    searches = DuplicateSearches(library)

    @routes.get("")
    async def duplicates(
        kind: str = "exact",
        offset: int = Parameter(0, ge=0, le=100_000_000),
        limit: int = Parameter(20, ge=1, le=100),
        again: bool = False,
    ) -> dict[str, Any]:
        kind = check_choice(kind, "kind", KINDS)
        search = await anyio.to_thread.run_sync(lambda: searches.start(kind, again=again))
        with anyio.move_on_after(_PATIENCE_SECONDS):
            while not search.done():
                await anyio.sleep(_LOOK_SECONDS)
        if not search.done():
            return {"kind": kind, "running": True, "groups": [], "total": None}
        found = search.result()
        groups = found.duplicates
        return {
            "kind": kind,
            "running": False,
            "search": found.number,
            "generation": found.generation,
            "looked_at": found.looked_at,
            "total": len(groups),
            "files": sum(len(group.others) for group in groups),
            "bytes_to_free": sum(group.bytes_to_free for group in groups),
            "changed": groups.changed,
            "groups": [
                group_document(group, position)
                for position, group in enumerate(groups[offset : offset + limit], start=offset)
            ],
        }

    @routes.get("/files")
    def files(
        kind: str,
        search: int = Parameter(ge=1),
        group: int = Parameter(ge=0),
        offset: int = Parameter(0, ge=0, le=100_000_000),
    ) -> dict[str, Any]:
        """More files of a group that has very many."""
        kind = check_choice(kind, "kind", KINDS)
        groups = searches.found(kind, search).duplicates
        if group >= len(groups):
            raise PageError("There is no such group.", 404)
        everything = groups[group].files
        return {
            "files": [
                file_document(file, place)
                for place, file in enumerate(
                    everything[offset : offset + _MOST_FILES], start=offset
                )
            ],
            "total": len(everything),
        }

    @routes.post("/list")
    def write_list(document: Document) -> Response:
        """A list of files, as a download."""
        kind = check_choice(document.get("kind"), "kind", KINDS)
        wanted = check_choice(document.get("list", "others"), "list", LISTS)
        form = check_choice(document.get("format", "txt"), "format", _MEDIA)
        number = check_count(document.get("search"), "search", 1, 2**53)
        groups = chosen(searches.found(kind, number), read_choices(document.get("choices")))
        left_out = 0
        if form == "txt":
            found = path_list(groups, wanted)
            left_out = found.inside
            data = b"".join(os.fsencode(path) + b"\n" for path in found.paths)
        elif form == "csv":
            data = csv_lines([DUPLICATE_COLUMNS, *duplicate_rows(groups)])
        else:
            data = b"".join(json_line(duplicate_document(group)) for group in groups)
        name = f"{kind}-{wanted}.{form}" if form == "txt" else f"{kind}-duplicates.{form}"
        return Response(
            data,
            media_type=_MEDIA[form],
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
                "Clipsearch-Left-Out": json.dumps(left_out),
            },
        )

    return routes


def group_document(group: DuplicateGroup, position: int) -> dict[str, Any]:
    """A group with the first of its files; the first of all is the one to keep."""
    return {
        "group": position,
        "kind": group.kind,
        "reason": group.reason,
        "bytes_to_free": group.bytes_to_free,
        "total": len(group.files),
        "files": [
            file_document(file, place) for place, file in enumerate(group.files[:_MOST_FILES])
        ],
    }


def file_document(file: DuplicateFile, place: int) -> dict[str, Any]:
    """A file of a group. place : among its files, 0 is the one to keep."""
    return {
        "file": place,
        "id": file.id,
        "name": path_fields(file.path)["path"].rsplit("/", 1)[-1].rsplit("\\", 1)[-1],
        **path_fields(file.path),
        "folder": path_fields(file.path.parent)["path"],
        "bytes": file.size,
        "width": file.width or None,
        "height": file.height or None,
        "cosine": round(file.cosine, 4),
        "bits": file.bits,
        "movable": file.movable,
    }


def read_choices(value: object) -> dict[int, int | None]:
    """What to keep of which group: {"3": 1} the second file of the fourth group, {"5": null} all
    of the sixth."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise PageError("choices: expected which file to keep by the number of a group")
    if len(value) > _MOST_CHOICES:
        raise PageError(f"choices: expected at most {_MOST_CHOICES:,}, got {len(value):,}", 413)
    found: dict[int, int | None] = {}
    for key, choice in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise PageError("choices: expected the numbers of groups")
        found[int(key)] = None if choice is None else check_count(choice, "choice", 0, 10**9)
    return found
