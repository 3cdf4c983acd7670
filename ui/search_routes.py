"""The HTTP API of searching: ``api/status``, ``api/search``, ``api/similar``, ``api/uploads``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from clipsearch.generation import Generation
from clipsearch.metadata import folders_without_images
from clipsearch.query_language import language_note
from clipsearch.records import Hits
from clipsearch.threads import single_threaded_blas
from ui.hit_documents import hit_documents
from ui.library import Library
from ui.page_errors import INDEX_COMMAND, PAGE_COMMAND, NoIndexError, PageError
from ui.query_images import QueryImages
from ui.request_images import read_image_body
from ui.search_questions import SearchQuestion, read_question
from ui.turns import Turns

CLOSEST = 12
"""So many are brought where nothing stands out."""


def search_routes(library: Library, images: QueryImages, searches: Turns) -> APIRouter:
    """The routes, to be put under ``/api``. searches : what bounds how many run at once."""
    routes = APIRouter(prefix="/api")

    @routes.get("/status")
    def status() -> dict[str, Any]:
        return status_document(library)

    @routes.get("/search")
    async def search(request: Request) -> dict[str, Any]:
        items = request.query_params.multi_items()
        return await searches.run(
            lambda: answer(library, read_question(items, images, library.settings))
        )

    @routes.post("/search")
    async def search_with_image(request: Request) -> dict[str, Any]:
        return await _with_image(request, cuts_words=True)

    @routes.get("/similar")
    async def similar(request: Request) -> dict[str, Any]:
        items = request.query_params.multi_items()
        if not any(name == "like" and value.strip() for name, value in items):
            raise PageError("Say which image: like=ID, or POST the file of an image.")
        return await searches.run(
            lambda: answer(
                library, read_question(items, images, library.settings, cuts_words=False)
            )
        )

    @routes.post("/similar")
    async def similar_to_image(request: Request) -> dict[str, Any]:
        return await _with_image(request, cuts_words=False)

    async def _with_image(request: Request, cuts_words: bool) -> dict[str, Any]:
        data, fields = await read_image_body(request, library.settings)
        items = [*request.query_params.multi_items(), *fields]

        def work() -> dict[str, Any]:
            vector = images.encoded(data).vector
            question = read_question(
                items, images, library.settings, handed_in=vector, cuts_words=cuts_words
            )
            return answer(library, question)

        return await searches.run(work)

    @routes.post("/uploads", status_code=201)
    async def upload(request: Request) -> dict[str, Any]:
        data, fields = await read_image_body(request, library.settings)
        if fields:
            raise PageError("Expected the file of an image and nothing else.")
        taken = await searches.run(lambda: images.take(data))
        return {
            "upload": taken.token,
            "thumbnail": f"media/upload/{taken.token}",
            "width": taken.width,
            "height": taken.height,
            "id": taken.known_id,
        }

    return routes


def upload_media(images: QueryImages) -> APIRouter:
    """``media/upload/TOKEN``: the small picture of an image that was handed in."""
    routes = APIRouter(prefix="/media")

    @routes.get("/upload/{token}")
    def thumbnail(token: str) -> Response:
        return Response(
            images.get(token).thumbnail,
            media_type="image/jpeg",
            headers={"Cache-Control": "private, max-age=3600"},
        )

    return routes


def status_document(library: Library) -> dict[str, Any]:
    """What the index is, in a few words; where there is none, the commands that make one
    and show it."""
    try:
        index = library.index()
    except NoIndexError:
        return {"name": None, "images": 0, "command": INDEX_COMMAND, "then": PAGE_COMMAND}
    manifest = index.state().manifest
    return {
        "name": index.path.stem,
        "images": len(index),
        "missing": index.paths().missing,
        "skipped": manifest.skipped.rows if manifest.skipped else 0,
        "model": index.space.model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1],
        "generation": index.generation,
        "key": manifest.uuid[:8],
        "created_at": manifest.created_at,
        "updated_at": manifest.updated_at,
    }


def answer(library: Library, question: SearchQuestion) -> dict[str, Any]:
    """The hits of a question as a document; raises as ``ImageIndex.search``.

    A search spreads its blocks over threads of its own. With threads of BLAS inside of those each
    takes 56 ms of processor time on 100,000 images, without them 41 (two processors).
    """
    with single_threaded_blas():
        return _answer(library, question)


def _answer(library: Library, question: SearchQuestion) -> dict[str, Any]:
    started = time.perf_counter()
    index = library.index()
    generation = index.generation
    query = question.query
    found = index.search(query, k=question.limit, offset=question.offset, strengths=True)
    below = found.below
    if question.has_cut and not found.hits and not question.offset:
        # Nothing stands out: the closest, so that there is something to look at.
        closest = replace(query, min_score=None, sort="relevance")
        below = index.search(closest, k=CLOSEST, strengths=True).hits
    elif found.hits or question.offset:
        below = ()
    state = index.state()
    hits, closest_hits = hit_documents(state, [found.hits, below])
    return {
        "hits": hits,
        "total": found.total,
        "searched": found.searched,
        "below": closest_hits,
        "took_ms": round(1000 * (time.perf_counter() - started), 1),
        "generation": generation,
        "note": _note(found, question, state),
    }


def _note(found: Hits, question: SearchQuestion, state: Generation) -> str | None:
    """A line for a person: a folder that holds nothing, words the model may not know."""
    if question.offset:
        return None
    where = question.query.filter()
    if where is not None and not found.searched and folders_without_images(state, where):
        # Not which: a folder that begins with ~ has become one of the server's by now.
        return "Nothing in the index is in this folder."
    return language_note(question.words, state.space.model) if question.words else None
