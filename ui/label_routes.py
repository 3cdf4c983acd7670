"""The HTTP API of where labels come from: saved sets, discoveries, files that are handed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from starlette.concurrency import run_in_threadpool

from clipsearch.cluster_files import discovery_names
from clipsearch.definition_files import labels_in
from clipsearch.errors import ClipsearchError
from clipsearch.label_definitions import LabelDefinitions
from clipsearch.label_sets import label_set_names, read_label_set
from clipsearch.prompts import TEMPLATE_SETS
from ui.label_requests import check_size, cluster_names
from ui.library import Library
from ui.page_errors import PageError
from ui.page_settings import PageSettings
from ui.request_images import read_body

_MOST_FILE_BYTES = 2 << 20
_ENDINGS = (".txt", ".toml", ".json", "")
_SHOWN_LABELS = 8


def label_routes(library: Library, settings: PageSettings) -> APIRouter:
    """``api/label-sources``, ``api/label-sources/labels`` and ``api/label-file``."""
    routes = APIRouter(prefix="/api")

    @routes.get("/label-sources")
    def label_sources() -> dict[str, Any]:
        if not library.has_index:
            return {"images": None, "sets": [], "discoveries": []}
        index = library.index()
        place = index.path
        return {
            "images": len(index),
            "sets": [document for name in label_set_names(place)
                     if (document := set_document(place, name)) is not None],
            "discoveries": [{"name": name} for name in discovery_names(place)],
        }  # fmt: skip

    @routes.get("/label-sources/labels")
    def labels_of_source(
        of_set: str | None = Parameter(None, alias="set", max_length=200),
        discovery: str | None = Parameter(None, max_length=200),
    ) -> dict[str, Any]:
        place = library.index().path
        if of_set is not None:
            labels: tuple[str, ...] = read_label_set(place, of_set).labels
        elif discovery is not None:
            labels = cluster_names(place, discovery)
        else:
            raise PageError("Expected set or discovery.")
        return {"labels": labels[: settings.most_labels], "total": len(labels)}

    @routes.post("/label-file")
    async def label_file(request: Request, name: str = Parameter(max_length=300)) -> dict[str, Any]:
        too_long = f"Expected a file of at most {_MOST_FILE_BYTES >> 20} MB."
        data = await read_body(request, _MOST_FILE_BYTES, too_long)
        return await run_in_threadpool(file_document, name, data)

    def file_document(name: str, data: bytes) -> dict[str, Any]:
        ending = Path(name.replace("\\", "/")).suffix.lower()
        if ending not in _ENDINGS:
            raise PageError("Expected a file of labels: .txt with one a line, .toml or .json.")
        labels = labels_in(f"labels{ending}", data)
        check_size(labels, TEMPLATE_SETS["simple"], settings)
        has_more = isinstance(labels, LabelDefinitions) and not labels.is_plain
        return {
            "labels": list(labels),
            "definitions": labels.to_dict()
            if has_more and isinstance(labels, LabelDefinitions)
            else None,
            "groups": [group.name for group in labels.groups if group.exclusive]
            if isinstance(labels, LabelDefinitions)
            else [],
        }

    return routes


def set_document(place: Path, name: str) -> dict[str, Any] | None:
    """A saved label set as the page lists it; None for one that cannot be read."""
    try:
        found = read_label_set(place, name)
    except ClipsearchError:
        return None
    return {
        "name": found.name,
        "kind": found.kind,
        "labels": len(found.labels),
        "first": found.labels[:_SHOWN_LABELS],
        "taught": 0 if found.teaching is None else found.teaching.rows,
        "context": found.context,
        "saved_at": found.saved_at,
    }
