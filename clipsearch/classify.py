"""One label an image, from stored vectors alone."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from clipsearch.generation import Generation
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.records import Classification
from clipsearch.scoring import ScoredBlock, score_blocks
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextVectors


def classify(
    state: Generation,
    texts: TextVectors,
    labels: Sequence[str],
    templates: str | Sequence[str] = "simple",
    context: str | None = None,
    top: int = 1,
    allowed: Int64 | None = None,
) -> Classification:
    """Give every image, or those of the rising ids ``allowed``, its best ``top`` labels.

    labels, templates, context : see ``ImageIndex.classify``, which also says what is raised.
    """
    names = check_labels(labels)
    top = max(1, min(top, len(names)))
    classes = class_vectors(names, texts, templates, context)
    begin = time.perf_counter()
    rows = state.vectors.blocks() if allowed is None else state.vectors.blocks_of(allowed)
    blocks = list(score_blocks(rows, classes, state.space.logit_scale, top))
    seconds = time.perf_counter() - begin
    empty = ScoredBlock(
        ids=np.empty(0, np.int64),
        labels=np.empty((0, top), np.int32),
        scores=np.empty((0, top), np.float32),
        probabilities=np.empty((0, top), np.float32),
        margins=np.empty(0, np.float32),
        runners_up=np.empty(0, np.int32),
    )
    columns = {
        name: np.concatenate([getattr(block, name) for block in [empty, *blocks]])
        for name in ("ids", "labels", "scores", "probabilities", "margins", "runners_up")
    }
    return Classification(
        label_names=tuple(names),
        seconds=seconds,
        texts_encoded=texts.total.encoded,
        texts_cached=texts.total.cached,
        **columns,
    )
