"""The HTTP API of one image against labels."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request

from ui.checks import check_count
from ui.label_requests import KEYS, label_request, refuse_others
from ui.library import Library
from ui.one_image import ImageLabeller
from ui.page_errors import PageError
from ui.page_settings import PageSettings
from ui.request_images import read_image_body
from ui.turns import Turns
from ui.uploads import check_upload

_FIELD_BYTES = 200_000
_MOST_TOP = 50
_USUAL_TOP = "5"


def one_image_routes(library: Library, settings: PageSettings) -> APIRouter:
    """``api/classify-image``: an image file, or a form with one; what else is asked stands in the
    fields of the form or behind the address."""
    routes = APIRouter(prefix="/api")
    labeller = ImageLabeller(library, settings)
    turns = Turns(1, waiting=32)  # the model takes all processors

    @routes.post("/classify-image")
    async def classify_image(request: Request) -> dict[str, Any]:
        data, given = await read_image_body(request, settings, _FIELD_BYTES)
        fields = {**request.query_params, **dict(given)}
        return await turns.run(lambda: label(data, fields))

    def label(data: bytes, fields: dict[str, str]) -> dict[str, Any]:
        refuse_others(fields, (*KEYS, "top"))
        top = fields.get("top", _USUAL_TOP)
        count = check_count(
            int(top) if top.isascii() and top.isdigit() and len(top) < 9 else None,
            "top", 1, _MOST_TOP,
        )  # fmt: skip
        body: dict[str, Any] = {key: value for key, value in fields.items() if key != "top"}
        for key in ("labels", "definitions", "templates"):
            if body.get(key, "").lstrip().startswith(('["', '{"')):
                body[key] = _json_of(body[key], key)
        check_upload(data, settings)
        return labeller.label(data, label_request(body, library, settings), count)

    return routes


def _json_of(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise PageError(f"{name}: this is no JSON") from None
