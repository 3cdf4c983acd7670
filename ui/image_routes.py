"""The HTTP API of one image: ``api/images/ID``, all that is known of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from clipsearch.file_kinds import container_of
from clipsearch.metadata_columns import displayed
from clipsearch.metadata_rows import metadata_of
from clipsearch.remote_urls import is_remote
from ui.image_labels import ImageLabels
from ui.library import Library
from ui.original_files import is_there
from ui.search_questions import read_id

_COLUMNS = (
    *("bytes", "format", "width", "height", "taken_at", "utc_offset_minutes", "taken_at_source"),
    *("lat", "lon", "altitude", "camera", "lens", "keywords", "description", "rating", "exif"),
)
_SHOWN_EXIF = (
    *("ExposureTime", "FNumber", "ISOSpeedRatings", "PhotographicSensitivity", "FocalLength"),
    *("FocalLengthIn35mmFilm", "ExposureBiasValue", "Flash", "WhiteBalance", "Artist"),
    *("Copyright", "Software", "ImageDescription"),
)
"""The tags that a person looks for; the others are in an export."""
_LONGEST = 300


def image_routes(library: Library) -> APIRouter:
    """The routes, to be put under ``/api``."""
    routes = APIRouter(prefix="/api")
    labels = ImageLabels()

    @routes.get("/images/{image_id}")
    def image(image_id: str) -> dict[str, Any]:
        return image_document(library, labels, library.known_id(read_id(image_id)))

    return routes


def image_document(library: Library, labels: ImageLabels, image_id: int) -> dict[str, Any]:
    """All that is known of an image that is in the index."""
    index = library.index()
    state = index.state()
    row = metadata_of(state, [image_id], _COLUMNS).to_pylist()[0]
    places = state.paths.places(image_id)
    path = places[0].path if places else Path()
    taken = row["taken_at"]
    exif = dict(row["exif"] or ())
    return {
        "id": image_id,
        "name": _text(path.name),
        "path": _text(path),
        "folder": _text(path.parent),
        "copies": [_text(place.path) for place in places[1:] if not place.missing],
        "missing": places[0].missing if places else True,
        "original": is_there(state, image_id),
        "packed": not is_remote(path) and container_of(path) is not None,
        "width": row["width"],
        "height": row["height"],
        "bytes": row["bytes"] or None,
        "format": row["format"],
        "taken_at": taken.isoformat() if taken else None,
        "taken_at_source": row["taken_at_source"],
        "utc_offset_minutes": row["utc_offset_minutes"],
        "camera": row["camera"],
        "lens": row["lens"],
        "place": None if row["lat"] is None else {"lat": row["lat"], "lon": row["lon"]},
        "altitude": row["altitude"],
        "keywords": [word for word in row["keywords"] or () if word],
        "description": row["description"],
        "rating": row["rating"],
        "labels": labels.of(index.path, image_id),
        "exif": {name: exif[name][:_LONGEST] for name in _SHOWN_EXIF if exif.get(name)},
    }


def _text(path: str | os.PathLike[str]) -> str:
    return displayed(os.fspath(path))
