"""What searches are held against, encoded while a run has the model at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipsearch.background import prepare_background
from clipsearch.background_words import background_prompts
from clipsearch.encoder import Encoder, Float32, Space
from clipsearch.manifest import read_manifest
from clipsearch.store import open_store
from clipsearch.text_tower_export import fastest_for_texts
from clipsearch.text_tower_files import tower_file
from clipsearch.text_vectors import (
    EncodesText,
    TextVectorCache,
    TextVectors,
    default_cache_path,
)
from indexer.report import Event, Preparing


def remember_background(encoder: Encoder, tell: Callable[[Event], None]) -> None:
    """Keep a text tower, and encode what searches are held against, while the model is there, so
    that the first search need not load it. The run is finished: a search meets, and tells, what
    fails here."""
    has_told = False

    def fastest() -> EncodesText:
        nonlocal has_told
        if not has_told:
            has_told = True
            tell(Preparing())
        return fastest_for_texts(encoder)

    with contextlib.suppress(Exception):
        if not tower_file(encoder.space.fingerprint).exists():
            fastest()
        cache = TextVectorCache(default_cache_path(encoder.space.fingerprint))
        prepare_background(TextVectors(encoder.space, fastest, cache))


def remember_fits(index: Path) -> None:
    """Keep how well the background words fit every new image, so that the first label set need
    not work it out; see ``clipsearch.background_sums``. Whoever labels images makes up for what
    is missing."""
    from clipsearch.background_sums import WORTH_KEEPING, remember_sums
    from clipsearch.generation import open_generation

    with contextlib.suppress(Exception):
        manifest = read_manifest(open_store(index), str(index))
        if sum(shard.rows for shard in manifest.images) < WORTH_KEEPING:
            return
        state = open_generation(index)
        words = remembered_texts(state.space)
        if words is not None:
            remember_sums(state, words)


def remembered_texts(space: Space) -> Float32 | None:
    """(n, dim) float32 unit rows of the background texts of a space; None where they have not
    been encoded yet. Loads no model."""
    cache = TextVectorCache(default_cache_path(space.fingerprint))
    prompts = background_prompts()
    found = cache.get_many(prompts)
    cache.close()
    rows = [found.get(prompt) for prompt in prompts]
    sound = [row for row in rows if row is not None and row.shape == (space.dim,)]
    if len(sound) < len(prompts):
        return None
    texts = np.stack(sound)
    lengths = np.linalg.norm(texts, axis=1)
    return texts if bool((np.abs(lengths - 1) < 1e-3).all()) else None
