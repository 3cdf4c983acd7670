"""The HTTP API of the Index tab: what the index holds, and indexing.

Everything is answered for whoever may use the page; only folders that the operator allowed can be
looked into or indexed.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi import Query as Parameter

from ui.checks import check_choice, check_count, check_text
from ui.index_runs import IndexRuns
from ui.library import Library
from ui.page_errors import PageError
from ui.skipped_images import IN_WORDS, skipped_images


def index_routes(library: Library) -> APIRouter:
    """The routes, to be put under ``/api``."""
    runs = IndexRuns(library)
    routes = APIRouter(prefix="/api/indexing")

    @routes.get("")
    def overview() -> dict[str, Any]:
        has_index = library.has_index
        return {
            "status": status_document(library) if has_index else None,
            "run": runs.document(),
            "folders": [
                {"name": root.name or str(root), "path": _shown(root)}
                for root in runs.folders.roots
            ],
            "can_update": bool(runs.known_folders()),
            "models": [] if has_index else runs.models(),
        }

    @routes.get("/run")
    def run() -> dict[str, Any] | None:
        return runs.document()

    @routes.post("/run")
    def start(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any] | None:
        if body.get("update") is True:
            runs.update()
        else:
            root = check_count(body.get("root"), "root", 0, 10_000)
            below, model = body.get("below") or "", body.get("model")
            check_text(below, "below", library.settings, 4096)
            check_text(model, "model", library.settings)
            runs.add(root, below, model)
        return runs.document()

    @routes.post("/cancel")
    def cancel() -> dict[str, Any] | None:
        runs.cancel()
        return runs.document()

    @routes.get("/folders")
    def folders(
        root: Annotated[int, Parameter(ge=0, le=10_000)],
        below: Annotated[str, Parameter(max_length=4096)] = "",
    ) -> dict[str, Any]:
        listing = runs.folders.listing(root, below)
        return {"name": listing.name, "folders": list(listing.folders), "more": listing.more}

    @routes.get("/skipped")
    def skipped(
        reason: Annotated[str | None, Parameter(max_length=40)] = None,
        offset: Annotated[int, Parameter(ge=0, le=100_000_000)] = 0,
        limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
    ) -> dict[str, Any]:
        if reason is not None:
            check_choice(reason, "reason", IN_WORDS)
        library.index()  # NoIndexError where there is none
        if library.path is None:
            raise PageError("There is no index.", 409)
        return skipped_images(library.path, offset, limit, reason)

    return routes


def status_document(library: Library) -> dict[str, Any]:
    """What the index holds, in counts and bytes."""
    status = library.index().status()
    space = status.spaces[0] if status.spaces else None
    return {
        "name": library.index().path.stem,
        "images": status.images,
        "files": status.files_present,
        "copies": status.copies,
        "missing": status.files_missing,
        "skipped": status.skipped,
        "lacking": space.lacking if space else 0,
        "bytes": status.truth_bytes,
        "cache_bytes": status.cache_bytes,
        "model": _model_name(status.model),
        "dimensions": status.dim,
        "search": status.search_kind,
        "updated_at": status.updated_at,
        "generation": status.generation,
        "folders": [
            {"path": _shown(root["path"]), "scanned_at": root["scanned_at"], "there": root["there"]}
            for root in status.roots
        ],
    }


def _model_name(model: str | None) -> str | None:
    """Without the folders before it, where a model is a folder."""
    return os.path.basename(model) if model and os.path.isabs(model) else model


def _shown(path: str | os.PathLike[str]) -> str:
    return os.fsencode(path).decode("utf-8", "replace")
