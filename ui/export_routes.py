"""The HTTP API of taking results away: ``api/export``, as a table, a list of paths, or a zip
archive of the originals. Nothing is written on this computer."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from clipsearch.export_rows import ExportRow, rows_of_hits, rows_of_ids
from clipsearch.export_table import write_table
from clipsearch.image_index import ImageIndex
from ui.checks import check_choice, check_ids
from ui.library import Library
from ui.media import attachment
from ui.page_errors import PageError
from ui.query_images import QueryImages
from ui.request_images import read_body
from ui.search_questions import SearchQuestion, read_question
from ui.turns import Turns
from ui.zip_stream import zip_of_originals

MOST_ROWS = 50_000
MOST_IDS = 10_000
MOST_FILES = 2_000
_BODY_BYTES = 1 << 20

FORMATS = {
    "csv": ("csv", "text/csv; charset=utf-8"),
    "json": ("ndjson", "application/x-ndjson"),
    "parquet": ("parquet", "application/vnd.apache.parquet"),
    "paths": ("txt", "text/plain; charset=utf-8"),
    "zip": ("zip", "application/zip"),
}
"""What can be made: its ending, its type."""


def export_routes(library: Library, images: QueryImages, exports: Turns) -> APIRouter:
    """The routes, to be put under ``/api``. exports : what bounds how many are made at once."""
    routes = APIRouter(prefix="/api")

    @routes.get("/export")
    async def of_a_search(request: Request) -> Response:
        items = request.query_params.multi_items()
        kind = check_choice(request.query_params.get("format"), "format", FORMATS)

        def work() -> Response:
            beside = ("format", "offset", "limit")
            question = read_question(items, images, library.settings, beside=beside)
            index = library.index()
            return exported(index, rows_of_search(index, question), kind)

        return await exports.run(work)

    @routes.post("/export")
    async def of_a_selection(request: Request) -> Response:
        kind, ids = await read_selection(request)

        def work() -> Response:
            index = library.index()
            known = set(index.vectors_of(ids)[0].tolist())
            rows = rows_of_ids(index, [image_id for image_id in ids if image_id in known])
            return exported(index, rows, kind)

        return await exports.run(work)

    return routes


async def read_selection(request: Request) -> tuple[str, list[int]]:
    """The format and the ids that a body asks for: JSON {"format": ..., "ids": [...]}, or the
    same as a form with the ids separated by commas, which a browser saves while it comes.

    Raises PageError.
    """
    body = await read_body(request, _BODY_BYTES, "This selection is too long.")
    asked: Any
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        from urllib.parse import parse_qs

        try:
            fields = parse_qs(body.decode("ascii"), max_num_fields=10)
            texts = ",".join(fields.get("ids", [])).split(",")
            asked = {
                "format": fields.get("format", [""])[0],
                "ids": [int(text) for text in texts if text.strip()],
            }
        except ValueError:
            raise PageError("Expected a form with format=csv and ids=1,2,3") from None
    else:
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise PageError('Expected JSON such as {"format": "csv", "ids": [1, 2]}') from None
    if not isinstance(asked, dict) or not set(asked) <= {"format", "ids"}:
        raise PageError('Expected JSON such as {"format": "csv", "ids": [1, 2]}')
    kind = check_choice(asked.get("format"), "format", FORMATS)
    ids = check_ids(asked.get("ids"), "ids", MOST_IDS)
    if not ids:
        raise PageError("Nothing is selected.")
    return kind, ids


def rows_of_search(index: ImageIndex, question: SearchQuestion) -> list[ExportRow]:
    """All hits of a question; PageError (413) when they are too many for one answer."""
    found = index.search(question.query, k=MOST_ROWS + 1, strengths=True)
    if len(found) > MOST_ROWS:
        raise PageError(
            f"These are more than {MOST_ROWS:,} photos: narrow the search, or use "
            "'clipsearch export', which takes any number.",
            status=413,
        )
    return rows_of_hits(index, found)


def exported(index: ImageIndex, rows: Sequence[ExportRow], kind: str) -> Response:
    """The rows as a file to be saved; PageError when there is none, or too many for a zip."""
    if not rows:
        raise PageError("There is nothing to export.", status=404)
    ending, media_type = FORMATS[kind]
    headers = {
        "Content-Disposition": attachment(f"{index.path.stem}.{ending}"),
        "Cache-Control": "private, no-store",
    }
    if kind == "zip":
        if len(rows) > MOST_FILES:
            raise PageError(
                f"A zip holds at most {MOST_FILES:,} photos, and these are {len(rows):,}: "
                "'clipsearch export --to copy' takes any number.",
                status=413,
            )
        pieces = zip_of_originals(index.state(), [row.id for row in rows])
        return StreamingResponse(pieces, media_type=media_type, headers=headers)
    sink = io.BytesIO()
    if kind == "paths":
        sink.writelines(os.fsencode(row.path) + b"\n" for row in rows)
    else:
        write_table(sink, rows, kind)
    return Response(sink.getvalue(), media_type=media_type, headers=headers)
