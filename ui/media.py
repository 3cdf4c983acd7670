"""Pictures of the library, by id alone: thumbnails, previews, originals.

An id stands for one content and is never given to another, so a picture may be kept by a browser
for good; only under the same address another index may answer on another day. So what has the
key of the index in its address (``?v=``) is kept, and all else is asked for again, which costs an
answer without a body.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from clipsearch.image_index import ImageIndex
from clipsearch.recent import Recent
from ui.library import Library
from ui.original_files import open_original, picture_of
from ui.search_questions import read_id
from ui.turns import Turns

THUMBNAIL_SIDE = 320
PREVIEW_SIDE = 1600
_HELD_BYTES = 64 << 20
_UNFIT = re.compile(r'[\x00-\x1f\x7f"\\/:*?<>|]')


def media_routes(library: Library, pictures: Turns) -> APIRouter:
    """``media/thumbnail/ID``, ``media/preview/ID`` and ``media/original/ID``.

    pictures : what bounds how many are decoded at once.
    """
    routes = APIRouter(prefix="/media")
    made: Recent[bytes] = Recent(_HELD_BYTES)

    def make(index: ImageIndex, image_id: int, side: int) -> bytes:
        key = f"{index.state().manifest.uuid} {image_id} {side}"
        data = made.get(key)
        if data is None:
            data = picture_of(index.state(), image_id, side, library.settings.most_pixels)
            made.put(key, data, len(data))
        return data

    @routes.get("/thumbnail/{image_id}")
    async def thumbnail(image_id: str, request: Request) -> Response:
        return await _picture(image_id, request, THUMBNAIL_SIDE, stored=True)

    @routes.get("/preview/{image_id}")
    async def preview(image_id: str, request: Request) -> Response:
        return await _picture(image_id, request, PREVIEW_SIDE, stored=False)

    async def _picture(text: str, request: Request, side: int, stored: bool) -> Response:
        number = read_id(text)

        def look() -> tuple[ImageIndex, dict[str, str], bytes | None]:
            index = library.index()
            headers = _kept(index, request, f"{library.known_id(number)}-{side}")
            if _is_known(request, headers["ETag"]):
                return index, headers, b""
            return index, headers, index.thumbnail(number) if stored else None

        index, headers, data = await run_in_threadpool(look)
        if data == b"":
            return Response(status_code=304, headers=headers)
        if data is None:
            data = await pictures.run(lambda: make(index, number, side))
        return Response(data, media_type="image/jpeg", headers=headers)

    @routes.get("/original/{image_id}")
    async def original(image_id: str, request: Request) -> Response:
        number = read_id(image_id)
        found = await pictures.run(
            lambda: open_original(library.index().state(), library.known_id(number))
        )
        headers = {
            "Content-Length": str(found.size),
            "Content-Disposition": attachment(found.path.name),
            "Cache-Control": "private, no-cache",
        }
        return StreamingResponse(found.chunks(), media_type=found.media_type, headers=headers)

    return routes


def attachment(name: str) -> str:
    """The Content-Disposition of a file to be saved under ``name``, whatever is in that."""
    plain = _UNFIT.sub("_", unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode()))
    ascii_only = plain.encode("ascii", "replace").decode().replace("?", "_")
    return f"attachment; filename=\"{ascii_only}\"; filename*=UTF-8''{quote(plain, safe='')}"


def _kept(index: ImageIndex, request: Request, name: str) -> dict[str, str]:
    """The headers that say how long a picture may be kept, and by what it is known again."""
    key = index.state().manifest.uuid
    keeps = request.query_params.get("v") == key[:8]
    return {
        "ETag": f'"{key[:8]}-{name}"',
        "Cache-Control": "private, max-age=31536000, immutable" if keeps else "private, no-cache",
    }


def _is_known(request: Request, etag: str) -> bool:
    """Whether whoever asks has the picture of this tag."""
    tags = request.headers.get("if-none-match", "")[:1000].split(",")
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in tags)
