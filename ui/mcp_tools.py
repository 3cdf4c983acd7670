"""What assistants may ask over the Model Context Protocol: search, similar, classify.

Gradio speaks the protocol, with its extra; the names, arguments and docstrings of the functions
here are what an assistant is told of them. They read, and change nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from clipsearch.errors import ClipsearchError
from ui.checks import check_count, check_text
from ui.image_labels import ImageLabels
from ui.image_routes import image_document
from ui.label_requests import label_request
from ui.library import Library
from ui.page_errors import public_message
from ui.page_settings import PageSettings
from ui.query_images import QueryImages
from ui.search_questions import read_question
from ui.search_routes import answer

log = logging.getLogger("clipsearch.ui")

MOST_HITS = 60
_TOLD = ("id", "name", "score", "strength", "taken_at", "width", "height")


class PhotoTools:
    """The tools over one library. Each answers with JSON, and {"error": ...} where it cannot."""

    def __init__(self, library: Library, settings: PageSettings) -> None:
        self._library = library
        self._settings = settings
        self._images = QueryImages(library)
        self._labels = ImageLabels()

    def search_photos(
        self,
        query: str,
        without: str = "",
        since: str = "",
        until: str = "",
        where: str = "",
        limit: int = 10,
    ) -> str:
        """Find photos by what they show.

        Args:
            query: What to look for, in plain words, such as "two dogs on a beach". Empty for the
                newest photos.
            without: What the photos should not show.
            since: Only photos taken then or later, such as 2019 or 2019-07-04.
            until: Only photos taken then or earlier.
            where: A filter on what is known of the photos, such as camera ~ canon and width > 2000.
            limit: How many photos to bring, at most 60.

        Returns:
            JSON with the photos, best first; the ids are what the other tools take.
        """
        parts = [("q", query), ("not", without), ("since", since), ("until", until)]
        return self._told(lambda: self._found([*parts, ("where", where)], limit))

    def similar_photos(self, image_id: int, limit: int = 10) -> str:
        """Find photos that look like a photo of the library.

        Args:
            image_id: The id of the photo, from another tool's answer.
            limit: How many photos to bring, at most 60.

        Returns:
            JSON with the photos, most similar first.
        """

        def work() -> dict[str, Any]:
            known = self._library.known_id(check_count(image_id, "image_id", 0, 2**62))
            return self._found([("like", str(known))], limit)

        return self._told(work)

    def classify_photos(self, labels: str) -> str:
        """Sort all photos of the library under labels, and count them.

        Args:
            labels: Two or more labels with commas between them, such as "dog, cat, a landscape".

        Returns:
            JSON with the number of photos of each label, the id of its best example, and how many
            photos show none of them.
        """

        def work() -> dict[str, Any]:
            asked = label_request({"labels": labels}, self._library, self._settings)
            found = self._library.index().classify(
                asked.names, templates=asked.templates, context=asked.context, none=asked.none
            )
            return {
                "photos": len(found),
                "none_of_these": found.unlabelled,
                "labels": [
                    {"label": one.label, "photos": one.count, "example": one.example_id}
                    for one in found.summary()
                ],
            }

        return self._told(work)

    def photo_details(self, image_id: int) -> str:
        """All that is known of one photo: its path, date, camera, place, keywords and labels.

        Args:
            image_id: The id of the photo, from another tool's answer.

        Returns:
            JSON.
        """

        def work() -> dict[str, Any]:
            known = self._library.known_id(check_count(image_id, "image_id", 0, 2**62))
            return image_document(self._library, self._labels, known)

        return self._told(work)

    def _found(self, parts: list[tuple[str, str]], limit: int) -> dict[str, Any]:
        wanted = check_count(limit, "limit", 1, MOST_HITS)
        items = [(name, check_text(value, name, self._settings)) for name, value in parts]
        question = read_question([*items, ("limit", str(wanted))], self._images, self._settings)
        found = answer(self._library, question)
        told: dict[str, Any] = {
            "photos": [{name: hit[name] for name in _TOLD} for hit in found["hits"]]
        }
        if not found["hits"]:
            told["closest"] = [{name: hit[name] for name in _TOLD} for hit in found["below"]]
        if found["note"]:
            told["note"] = found["note"]
        return told

    def _told(self, work: Callable[[], dict[str, Any]]) -> str:
        try:
            return json.dumps(work(), ensure_ascii=False)
        except (ClipsearchError, OSError, ValueError) as error:
            message, status = public_message(error)
            if status >= 500:
                log.exception("a tool")
            return json.dumps({"error": message})


def add_mcp_tools(library: Library, settings: PageSettings) -> None:
    """Offer the tools, inside ``gr.Blocks``."""
    tools = PhotoTools(library, settings)
    for tool in (
        tools.search_photos,
        tools.similar_photos,
        tools.classify_photos,
        tools.photo_details,
    ):
        gr.api(tool, api_name=tool.__name__)
