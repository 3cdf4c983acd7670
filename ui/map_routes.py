"""The HTTP API of the map: what there is, its points, and having it laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from fastapi import Query as Parameter

import clipsearch
from clipsearch.filters import In
from clipsearch.query import Query
from ui.checks import check_ids
from ui.hit_documents import hit_documents
from ui.library import Library
from ui.map_making import INSTALL, MapMaking, is_installed
from ui.map_scenes import MapScenes
from ui.page_errors import PageError

MAP_MODULES = Path(clipsearch.__file__).parent / "templates" / "map"
"""The JavaScript modules that the page shares with the map of ``discover --plot``."""
_MOST_PHOTOS = 120
_LONGEST_NAME = 200


def map_routes(library: Library) -> APIRouter:
    """``api/map`` and what is below it."""
    routes = APIRouter(prefix="/api/map")
    making = MapMaking()
    scenes = MapScenes(library, making)

    @routes.get("")
    def about() -> dict[str, Any]:
        images, placed = scenes.placed()
        now = making.state()
        return {
            "images": images,
            "placed": placed,
            "clusters": [choice.name for choice in scenes.choices()],
            "making": {"done": now.done, "total": now.total} if now.is_running else None,
            "problem": now.problem,
            "install": None if is_installed() else INSTALL,
        }

    @routes.get("/scene")
    def scene(
        request: Request, clusters: Annotated[str, Parameter(max_length=_LONGEST_NAME)] = ""
    ) -> Response:
        found = scenes.scene(clusters)
        tag = f'"{found.tag}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(found.data, media_type="application/octet-stream", headers=headers)

    @routes.post("/make", status_code=202)
    def make(document: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        anew = document.get("anew", False)
        if not isinstance(anew, bool):
            raise PageError("anew: expected true or false")
        index = library.index()
        making.start(index.path, library.settings.space, len(index), anew=anew)
        return about()

    @routes.post("/stop")
    def stop(document: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        making.stop()
        return about()

    @routes.post("/photos")
    def photos(document: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        """Hits of some ids, in their order; those that are gone are left out."""
        ids = check_ids(document.get("ids"), "ids", _MOST_PHOTOS)
        if not ids:
            return {"hits": []}
        index = library.index()
        found = index.search(Query(where=In("id", tuple(ids))), k=len(ids))
        hits = {hit["id"]: hit for hit in hit_documents(index.state(), [found])[0]}
        return {"hits": [hits[image] for image in ids if image in hits]}

    return routes
