"""The terms of a query: its texts and images as vectors of one generation's space."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsearch.errors import ImageError, QueryError
from clipsearch.generation import Generation
from clipsearch.query import (
    NOT_WEIGHT,
    Image,
    Query,
    Term,
    text_term,
    vector_term,
    weighted_images,
    weighted_texts,
)
from clipsearch.query_encoders import QueryEncoders
from clipsearch.remote_paths import whole_place
from clipsearch.remote_urls import is_remote

if TYPE_CHECKING:
    from clipsearch.images import DecodedImage


@dataclass(frozen=True)
class QueryTerms:
    """The terms of a query, and the ids of the indexed images among them."""

    terms: tuple[Term, ...]
    named: frozenset[int]


def query_terms(state: Generation, encoders: QueryEncoders, query: Query) -> QueryTerms:
    """What a query sums up to.

    Raises QueryError, ImageError, and the errors of ``load_encoder`` for what has to be encoded.
    """
    texts: list[tuple[str, float]] = []
    if query.text is not None:
        texts.append((query.text, 1.0))
    texts += weighted_texts(query.plus)
    texts += [(text, -NOT_WEIGHT * boost) for text, boost in weighted_texts(query.minus)]
    encode = encoders.texts(state.space).encode
    terms = [text_term(text, encode, weight) for text, weight in texts]
    images = weighted_images(query.like)
    images += [(image, -NOT_WEIGHT * boost) for image, boost in weighted_images(query.unlike)]
    named: set[int] = set()
    for image, weight in images:
        if isinstance(image, np.ndarray):
            terms.append(vector_term(image, state.space.dim, weight, True))
            continue
        known = known_id(state, image)
        if known is not None:
            named.add(known)
            term = vector_term(state.vectors.take([known])[1][0], state.space.dim, weight, True)
        else:
            pixels = _decoded(state, image).pixels
            encoder = encoders.encoder(state.space)
            term = Term(encoder.encode_images(pixels[None])[0], weight, True)
        terms.append(term)
    if query.vector is not None:
        terms.append(vector_term(query.vector, state.space.dim))
    return QueryTerms(tuple(terms), frozenset(named))


def known_id(state: Generation, image: Image) -> int | None:
    """The id of an image that is in the index, None for one that has to be encoded."""
    if isinstance(image, int | np.integer):
        if not 0 <= image < 1 << 63 or not len(state.vectors.take([int(image)])[0]):
            raise QueryError(f"there is no image {image} in the index")
        return int(image)
    if isinstance(image, bytes):
        found = state.hashes.get(hashlib.sha256(image).digest())
    else:
        if not os.fspath(image):
            raise QueryError("expected an image file, got an empty name")
        path = whole_place(image)
        # The photo may be on a disk that is unplugged; its vector is here all the same.
        here = path.is_file() if not is_remote(path) else False
        found = state.hashes.get(_sha256_of(path)) if here else state.paths.id_at(path)
    if found is None or not len(state.vectors.take([found])[0]):
        return None
    return found


def decode_of(state: Generation) -> str:
    """How the photos of the index are decoded, "exact" or "fast": an image that is asked with is
    decoded in the same way."""
    return "fast" if state.manifest.config.get("decode") == "fast" else "exact"


def _decoded(state: Generation, image: str | os.PathLike[str] | bytes | int) -> DecodedImage:
    # Here, because words alone do without Pillow.
    from clipsearch.images import decode_image, read_image

    geometry, decode = state.space.geometry, decode_of(state)
    name = "the image" if isinstance(image, bytes) else image
    try:
        if isinstance(image, bytes):
            return decode_image(image, "the image", geometry, decode=decode, thumbnail_side=None)
        path = whole_place(str(image))
        if not is_remote(path) and not path.exists():
            where = "neither on the disk nor in the index"
            if state.paths.id_at(path) is not None:
                where = f"and the index has no vector of {state.space.model} for it"
            raise ImageError("vanished", f"no such file, {where}")
        return read_image(path, geometry, decode=decode, thumbnail_side=None)
    except ImageError as error:
        raise ImageError(error.reason, f"cannot take {name}: {error}") from error


def _sha256_of(path: Path) -> bytes:
    """The sha256 of a file, empty when it cannot be read (who decodes it says why)."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
