"""What searches are held against, encoded while a run has the model at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from clipsearch.background import prepare_background
from clipsearch.encoder import Encoder
from clipsearch.text_vectors import TextVectorCache, TextVectors, default_cache_path
from indexer.report import Event, Preparing


def remember_background(encoder: Encoder, tell: Callable[[Event], None]) -> None:
    """Encode what searches are held against while the model is there, so that the first search
    need not load it for that. The run is finished: a search meets, and tells, what fails here."""

    def needed() -> Encoder:
        tell(Preparing())
        return encoder

    with contextlib.suppress(Exception):
        cache = TextVectorCache(default_cache_path(encoder.space.fingerprint))
        prepare_background(TextVectors(encoder.space, needed, cache))
