"""Images that are handed in to search with: encoded once, then known by a token.

No file is kept, in memory or on a disk: of each image only its vector and a small picture stay.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from clipsearch.encoder import Float32
from clipsearch.errors import ImageError
from clipsearch.images import decode_image
from clipsearch.query_terms import decode_of
from ui.library import Library
from ui.page_errors import PageError
from ui.uploads import DECODING, check_upload

MOST_HELD = 512
_TOKEN = "up-"
_THUMBNAIL_SIDE = 320


@dataclass(frozen=True)
class QueryImage:
    """An image that was handed in.

    token : what it is asked for by; nobody can guess it. vector : (dim,) float32 unit vector in
    the space ``fingerprint``. thumbnail : a JPEG file, upright, without metadata.
    known_id : the image of the index with the very same bytes, None when there is none.
    """

    token: str
    vector: Float32
    fingerprint: str
    thumbnail: bytes
    width: int
    height: int
    known_id: int | None


class QueryImages:
    """The images that were handed in last, at most ``most``: some 20 kB each. Safe for threads."""

    def __init__(self, library: Library, most: int = MOST_HELD) -> None:
        self._library = library
        self._most = most
        self._held: OrderedDict[str, QueryImage] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, data: bytes) -> QueryImage:
        """Encode an image file and hold it; PageError for what is no image that may be decoded,
        NoIndexError, and the errors of loading the model."""
        made = self.encoded(data)
        with self._lock:
            self._held[made.token] = made
            while len(self._held) > self._most:
                self._held.popitem(last=False)
        return made

    def encoded(self, data: bytes) -> QueryImage:
        """The same, for one question only: it is not held."""
        settings = self._library.settings
        data = check_upload(data, settings)
        index = self._library.index()
        space = index.space
        try:
            with DECODING:
                image = decode_image(
                    data,
                    "image",
                    space.geometry,
                    decode=decode_of(index.state()),
                    max_megapixels=settings.most_pixels / 1e6,
                    thumbnail_side=_THUMBNAIL_SIDE,
                )
        except ImageError as error:
            raise PageError(f"This image cannot be taken: {error}") from None
        known = index.id_of(data)
        if known is not None:
            vector = index.vectors_of([known])[1][0]
        else:
            vector = index.encoder().encode_images(image.pixels[None])[0]
        return QueryImage(
            token=_TOKEN + secrets.token_urlsafe(16),
            vector=vector,
            fingerprint=space.fingerprint,
            thumbnail=image.thumbnail or b"",
            width=image.metadata.width,
            height=image.metadata.height,
            known_id=known,
        )

    def get(self, token: str) -> QueryImage:
        """The image of a token; PageError (404) when it is not held, or the index has come to
        answer with another model since."""
        with self._lock:
            found = self._held.get(token)
            if found is not None:
                self._held.move_to_end(token)
        if found is None or found.fingerprint != self._library.index().space.fingerprint:
            raise PageError("This image is not held any more: hand it in again.", status=404)
        return found
