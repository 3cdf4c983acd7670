"""The HTTP API of classifying the collection."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Response
from fastapi import Query as Parameter
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator

from clipsearch.label_set_files import check_name, same_name
from clipsearch.label_sets import label_set_names, read_label_set
from ui.checks import check_choice, check_text, only_letters
from ui.classified_images import (
    ALL,
    BEST,
    DOUBTFUL,
    NONE,
    gallery,
    ranked_rows,
    written_table,
)
from ui.classify_runs import DONE, FAILED, ClassifyRun, ClassifyRuns, label_position
from ui.label_requests import KEYS, label_request, refuse_others
from ui.library import Library
from ui.page_errors import PageError
from ui.page_settings import PageSettings
from ui.turns import Turns

_LONGEST_WAIT = 60.0
_MOST_TAUGHT = 500
_FORMS = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}

JsonObject = Annotated[dict[str, Any], Body(), AfterValidator(only_letters)]


def classify_routes(library: Library, settings: PageSettings) -> APIRouter:
    """``api/classify``, ``api/classify/RUN`` with ``images``, ``table``, ``save`` and ``stop``, and
    ``api/label-sets/NAME/teach``."""
    routes = APIRouter(prefix="/api")
    runs = ClassifyRuns(library)
    # Who waits for a run must not keep the threads that thumbnails are served with.
    waits, tables = Turns(8, waiting=64), Turns(1, waiting=16)

    @routes.post("/classify")
    async def classify(body: JsonObject) -> dict[str, Any]:
        refuse_others(body, (*KEYS, "wait"))
        seconds = wait_of(body)

        def begun() -> ClassifyRun:
            run = runs.begin(label_request(body, library, settings))
            run.wait(seconds)
            return run

        return run_document(await waits.run(begun))

    @routes.get("/classify/{token}")
    async def look(
        token: str, wait: float = Parameter(0.0, ge=0, le=_LONGEST_WAIT)
    ) -> dict[str, Any]:
        run = runs.find(token)
        await waits.run(lambda: run.wait(wait))
        return run_document(run)

    @routes.post("/classify/{token}/stop")
    async def stop(token: str) -> dict[str, Any]:
        run = runs.stop(token)
        await waits.run(lambda: run.wait(2.0))
        return run_document(run)

    @routes.get("/classify/{token}/images")
    def images(
        token: str,
        label: str | None = Parameter(None, max_length=400),
        without: bool = False,
        order: str = Parameter(BEST, max_length=20),
        offset: int = Parameter(0, ge=0, le=2**40),
        limit: int = Parameter(60, ge=1, le=120),
    ) -> dict[str, Any]:
        run, result = runs.finished(token)
        check_choice(order, "order", (BEST, DOUBTFUL))
        wanted = ALL
        if without:
            wanted = NONE
        elif label is not None:
            wanted = label_position(result, label)
        rows = ranked_rows(run, result, wanted, order)
        state = library.index().state()
        return {
            "hits": gallery(state, result, rows[offset:], limit),
            "total": len(rows),
            "searched": len(result),
            "below": [],
            "took_ms": 0.0,
            "generation": run.generation,
            "note": None,
        }

    @routes.get("/classify/{token}/table")
    async def table(token: str, form: str = Parameter("csv", max_length=20)) -> Response:
        run, result = runs.finished(token)
        check_choice(form, "form", tuple(_FORMS))
        places = library.index().paths()
        name = file_name(run.saved_as or run.request.title or "labels", form)
        chunks = await tables.run(lambda: written_table(result, places, form))
        return StreamingResponse(
            chunks,
            media_type=_FORMS[form],
            headers={
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            },
        )

    @routes.post("/classify/{token}/save")
    async def save(token: str, body: JsonObject) -> dict[str, Any]:
        refuse_others(body, ("name", "replace", "wait"))
        name = check_name(check_text(body.get("name"), "name", settings, 200).strip())
        there = [one for one in label_set_names(library.index().path)
                 if same_name(one) == same_name(name)]  # fmt: skip
        if there and body.get("replace") is not True:
            raise PageError(f"There is a label set {there[0]} already.", 409)
        seconds = wait_of(body)
        run = runs.save(token, there[0] if there else name)
        await waits.run(lambda: run.wait(seconds))
        return run_document(run)

    @routes.post("/label-sets/{name}/teach")
    async def teach(name: str, body: JsonObject) -> dict[str, Any]:
        return await waits.run(lambda: taught(name, body))

    def taught(name: str, body: dict[str, Any]) -> dict[str, Any]:
        refuse_others(body, ("images",))
        given = body.get("images")
        if not isinstance(given, dict) or not 1 <= len(given) <= _MOST_TAUGHT:
            raise PageError(f"images: expected 1 to {_MOST_TAUGHT} ids, each with its label")
        index = library.index()
        found = read_label_set(index.path, check_text(name, "name", settings, 200))
        examples: dict[Any, str | None] = {}
        for key, label in given.items():
            if not key.isascii() or not key.isdigit() or len(key) > 19:
                raise PageError("images: expected ids")
            if label is not None and label not in found.labels:
                raise PageError(f"images: expected labels of the set {found.name}, or null")
            examples[library.known_id(int(key))] = label
        try:
            lesson = runs.exclusively(lambda: index.teach(found.name, examples))
        except PermissionError:
            raise PageError("The index cannot be written to: nothing was taught.", 409) from None
        return {
            "set": found.name,
            "new": len(lesson.new),
            "corrected": lesson.corrected,
            "changed": lesson.labelling.changed,
            "examples": len(lesson.labelling.lesson.examples),
        }

    return routes


def run_document(run: ClassifyRun) -> dict[str, Any]:
    """A run as the API tells it; PageError where it has failed."""
    if run.state == FAILED:
        raise PageError(run.error or "It failed.", run.status)
    document: dict[str, Any] = {
        "run": run.token,
        "state": run.state,
        "done": run.done,
        "total": run.total,
        "title": run.request.title,
        "set": None if run.request.saved is None else run.request.saved.name,
        "saving": run.saving,
        "saved_as": run.saved_as,
        "saving_error": run.saving_error,
    }
    result = run.result
    if run.state != DONE or result is None:
        return document
    return document | {
        "images": len(result),
        "unlabelled": result.unlabelled,
        "labels": [
            {
                "label": one.label,
                "count": one.count,
                "share": round(one.share, 6),
                "example": one.example_id,
                "probability": None
                if one.example_probability is None
                else round(one.example_probability, 4),
            }
            for one in run.summary
        ],
        "threshold": result.threshold,
        "seconds": round(result.seconds, 3),
        "texts_encoded": result.texts_encoded,
        "examples": run.taught,
        "notes": run.notes,
        "generation": run.generation,
    }


def wait_of(body: dict[str, Any]) -> float:
    """How long to wait for a run at the most, in seconds."""
    seconds = body.get("wait", 20)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise PageError("wait: expected seconds")
    if not 0 <= seconds <= _LONGEST_WAIT:
        raise PageError(f"wait: expected 0 to {_LONGEST_WAIT:.0f} seconds")
    return float(seconds)


def file_name(title: str, form: str) -> str:
    """A name for a download that is safe in a header, and on every system."""
    plain = "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "-"
        for letter in title
    ).strip("-")
    return f"{plain[:60] or 'labels'}.{form}"
