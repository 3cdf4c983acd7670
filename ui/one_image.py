"""One image that is handed in, against labels: with an index or without one.

The image is looked at in memory and forgotten: no file is made of it, and no event takes the name
of one.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterable
from typing import Any

from clipsearch.encoder import Encoder, ImageGeometry, load_encoder
from clipsearch.errors import ImageError, ModelNotChosenError
from clipsearch.image_labels import ImageFile, ImageLabels, Pixels, label_images, texts_of
from clipsearch.images import decode_image
from clipsearch.model_names import choose_model
from clipsearch.photo_metadata import PhotoMetadata
from clipsearch.presets import BUILT_IN
from clipsearch.text_vectors import TextVectors
from ui.label_requests import LabelRequest
from ui.library import Library
from ui.page_errors import PageError
from ui.page_settings import PageSettings
from ui.uploads import DECODING

_PREVIEW_SIDE = 900
_SHOWN_BY_BROWSERS = frozenset({"JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP"})


class ImageLabeller:
    """Labels images one at a time, with the model of the index, else with the one that the
    operator named, else with one that is on this machine, else with the built-in one."""

    def __init__(self, library: Library, settings: PageSettings) -> None:
        self._library = library
        self._settings = settings
        self._turn = threading.Lock()  # a picture of many pixels is a lot of memory
        self._own: Encoder | None = None
        self._own_texts: TextVectors | None = None

    def label(self, data: bytes, request: LabelRequest, top: int) -> dict[str, Any]:
        """The best ``top`` labels of an image file, as the API tells them.

        Raises PageError, and as ``label_images``.
        """
        with self._turn:
            encoder, texts, note = self._model()
            seen: list[tuple[PhotoMetadata, bytes | None]] = []

            def decode(images: Iterable[ImageFile], geometry: ImageGeometry, ahead: int) -> Pixels:
                for image in images:
                    assert isinstance(image, bytes)
                    try:
                        with DECODING:
                            found = decode_image(
                                image, "image", geometry,
                                max_megapixels=self._settings.most_pixels / 1e6,
                                thumbnail_side=_PREVIEW_SIDE,
                            )  # fmt: skip
                    except ImageError as error:
                        yield error
                    else:
                        seen.append((found.metadata, found.thumbnail))
                        yield found.pixels

            answer = next(
                label_images(
                    encoder, [data], request.names, templates=request.templates,
                    context=request.context, top=top, texts=texts, decode=decode,
                )
            )  # fmt: skip
        if answer.error is not None:
            status = 413 if answer.error.reason == "too_large" else 400
            raise PageError(f"This image cannot be taken: {answer.error}.", status)
        return self._told(answer, request, encoder, note, *seen[0])

    def _model(self) -> tuple[Encoder, TextVectors, str | None]:
        if self._library.has_index:
            index = self._library.index()
            return index.encoder(), index.text_vectors(), None
        if self._own is None:
            self._own = load_encoder(self._name(), device=self._settings.device)
            self._own_texts = texts_of(self._own)
        assert self._own_texts is not None
        note = None
        if self._own.space.model == BUILT_IN:
            why = "" if self._settings.model else "There is no index and no other model here: "
            note = (
                f"{why}mini answers, the small built-in model. It knows little: start the page "
                "with a better one with --model, or with an index."
            )
        return self._own, self._own_texts, note

    def _name(self) -> str:
        if self._settings.model is not None:
            return self._settings.model
        try:
            return choose_model()
        except ModelNotChosenError:
            return BUILT_IN

    def _told(
        self,
        answer: ImageLabels,
        request: LabelRequest,
        encoder: Encoder,
        note: str | None,
        metadata: PhotoMetadata,
        preview: bytes | None,
    ) -> dict[str, Any]:
        notes = [] if note is None else [note]
        if len(request.names) == 1:
            notes.append(
                "With a single label the probability is always 100 %: add others that it might be."
            )
        shown = None
        if metadata.format not in _SHOWN_BY_BROWSERS and preview is not None:
            shown = "data:image/jpeg;base64," + base64.b64encode(preview).decode("ascii")
        return {
            "labels": [
                {
                    "label": best.label,
                    "probability": round(best.probability, 6),
                    "cosine": round(best.score, 4),
                }
                for best in answer.labels
            ],
            "asked": len(request.names),
            "runner_up": answer.runner_up,
            "format": metadata.format,
            "width": metadata.width,
            "height": metadata.height,
            "preview": shown,
            "model": model_name(encoder),
            "notes": notes,
        }


def model_name(encoder: Encoder) -> str:
    """A model's name without the folder that it may lie in."""
    return encoder.space.model.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
