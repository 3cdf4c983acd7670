"""The HTTP API and the pictures, put together: what they share is made here."""

from __future__ import annotations

from fastapi import FastAPI

from ui.classify_routes import classify_routes
from ui.discover_routes import discover_routes
from ui.duplicate_routes import duplicate_routes
from ui.export_routes import export_routes
from ui.facets import facet_routes
from ui.image_routes import image_routes
from ui.index_routes import index_routes
from ui.label_routes import label_routes
from ui.library import Library
from ui.map_routes import map_routes
from ui.media import media_routes
from ui.one_image_routes import one_image_routes
from ui.page_settings import PageSettings
from ui.query_images import QueryImages
from ui.search_routes import search_routes, upload_media
from ui.turns import export_turns, picture_turns, search_turns


def add_search_api(app: FastAPI, library: Library) -> QueryImages:
    """Add what searches and what shows images to ``app``; the images that were handed in."""
    images = QueryImages(library)
    app.include_router(search_routes(library, images, search_turns()))
    app.include_router(image_routes(library))
    app.include_router(facet_routes(library))
    app.include_router(upload_media(images))
    app.include_router(media_routes(library, picture_turns()))
    return images


def add_api(app: FastAPI, library: Library, settings: PageSettings) -> None:
    """Add ``api/...`` and ``media/...`` to ``app``."""
    images = add_search_api(app, library)
    app.include_router(export_routes(library, images, export_turns()))
    app.include_router(classify_routes(library, settings))
    app.include_router(label_routes(library, settings))
    app.include_router(one_image_routes(library, settings))
    app.include_router(discover_routes(library, settings))
    app.include_router(duplicate_routes(library))
    app.include_router(map_routes(library))
    app.include_router(index_routes(library))
