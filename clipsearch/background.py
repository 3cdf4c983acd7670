"""What scores look like in general: the background that the score of a query is held against.

Cosines of different queries cannot be compared: broad words lie nearer to every picture, and a
picture with much in it lies nearer to every word. A *standardised* score can: how many standard
deviations an image's cosine lies above what comes of chance (the z-norm of speaker recognition;
`Auckenthaler et al. 2000 <https://doi.org/10.1006/dspr.1999.0360>`_).

- Words are held against the image's cosines to some six hundred words of everyday English
  (``background_words``), the twentieth of them that fit it best left out: those may well be
  what it shows. That needs nothing of the collection: an image has the same standardised
  score whether it is alone or one of a million.
- A query with an image in it has far higher cosines, and no word tells how high is high. It is
  held against its own cosines to a fixed sample of the collection, which
  ``cache/background/<space>/sample.npz`` keeps. Deleting that file loses nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsearch.background_words import background_prompts
from clipsearch.encoder import Float32
from clipsearch.errors import QueryError
from clipsearch.generation import Generation
from clipsearch.prompts import EncodesTexts
from clipsearch.query import Term
from clipsearch.shards import Float16, Int64
from clipsearch.store import replace_file
from clipsearch.text_vectors import TextVectors
from clipsearch.vectors import Vectors

SAMPLE_IMAGES = 512
"""How many images of a collection stand for all of it: enough to know a spread within 3 %."""
FEWEST_IMAGES = 20
"""With fewer images in the collection nothing can be said of a query with an image in it."""
FITTING_SHARE = 0.05
"""This share of the words, those that fit an image best, is not part of its background."""
_BLOCK_ROWS = 4096
_SMALLEST_SPREAD = 1e-4  # a picture that is equally near to every word is near to none


def prepare_background(texts: EncodesTexts) -> None:
    """Encode the background words, unless they are remembered already.

    Whoever has the encoder loaded calls this, so that the first query need not load it. It
    takes as long as some six hundred texts take. Raises what the encoder raises.
    """
    texts.encode(background_prompts())


def open_background(state: Generation, texts: TextVectors) -> Background:
    """The background of one generation of an index. Nothing is read or encoded until asked for."""
    return Background(state, texts)


def text_weights(terms: Sequence[Term]) -> tuple[float, ...]:
    """The weights of a query's terms in its unit vector: what they are after ``combine``.

    Raises QueryError when there is no term or they cancel each other out.
    """
    total = sum((term.weight * term.vector.astype(np.float64) for term in terms), np.zeros(1))
    length = float(np.linalg.norm(total))
    if not terms or not length > 0:
        raise QueryError("the query is empty, or its parts cancel each other out")
    return tuple(term.weight / length for term in terms)


class Background:
    """Standardises scores of one generation of an index. Threads may share it."""

    def __init__(self, state: Generation, texts: EncodesTexts) -> None:
        self._state = state
        self._texts = texts

    @functools.cached_property
    def words(self) -> Float32:
        """(C, dim) float32 unit rows: the background words."""
        return self._texts.encode(background_prompts())

    @functools.cached_property
    def sample(self) -> tuple[Int64, Float32]:
        """(m,) rising ids of at most ``SAMPLE_IMAGES`` images, evenly spread over the
        collection, and their (m, dim) float32 rows."""
        return _sample(self._state)

    def statistics(self, ids: Int64) -> tuple[Float32, Float32]:
        """Mean and standard deviation of the cosines of images to the background words, those
        that fit each image best left out (``FITTING_SHARE``).

        ids : (n,) int64, in any order. Returns (n,) float32 means and (n,) float32 spreads;
        nan for an image that is not here. Computed from the stored vectors, a block at a time.
        """
        words = np.ascontiguousarray(self.words.T)
        kept = words.shape[1] - round(FITTING_SHARE * words.shape[1])
        wanted, where = np.unique(np.asarray(ids, np.int64), return_inverse=True)
        means = np.full(len(wanted), np.nan, np.float32)
        spreads = np.full(len(wanted), np.nan, np.float32)
        for start in range(0, len(wanted), _BLOCK_ROWS):
            found, rows = self._state.vectors.take(wanted[start : start + _BLOCK_ROWS])
            places = np.searchsorted(wanted, found)
            cosines = np.partition(rows @ words, kept - 1, axis=1)[:, :kept]
            means[places] = cosines.mean(axis=1)
            spreads[places] = cosines.std(axis=1)
        return means[where], spreads[where]

    def standardise(
        self,
        query: Float32,
        ids: Int64,
        cosines: Float32,
        *,
        weights: Sequence[float] = (1.0,),
        with_image: bool = False,
    ) -> Float32:
        """Cosines of a query as standard deviations above the background.

        query : (dim,) float32 unit vector. ids : (n,) int64, in any order. cosines : (n,)
        float32, those of ``query`` and these images. weights : what its texts weigh in the
        unit vector (see ``text_weights``). with_image : an image or a vector of unknown origin
        is part of it; then the weights do not matter.

        Returns (n,) float32; nan where it cannot be said: for an image that is not here, and
        with an image in the query for every one of fewer than ``FEWEST_IMAGES``.
        """
        if with_image:
            mean, spread = self._of_collection(query)
            return ((cosines - mean) / np.float32(max(spread, _SMALLEST_SPREAD))).astype(np.float32)
        means, spreads = self.statistics(ids)
        # As if each text were any word: the mean of the sum, and the spread of a sum of
        # independent words. A single text weighs 1.
        shift = np.float32(np.sum(weights))
        width = np.float32(np.sqrt(np.sum(np.square(weights))))
        spreads = np.maximum(width * spreads, np.float32(_SMALLEST_SPREAD))
        standardised: Float32 = ((cosines - shift * means) / spreads).astype(np.float32)
        return standardised

    def _of_collection(self, query: Float32) -> tuple[np.float32, float]:
        """Mean and standard deviation of a query's cosines to the sample of the collection."""
        ids, rows = self.sample
        if len(ids) < FEWEST_IMAGES:
            return np.float32(np.nan), float("nan")
        cosines = rows @ np.asarray(query, np.float32)
        return np.float32(cosines.mean()), float(cosines.std())


# -- the sample of the collection -----------------------------------------------------------


def sample_file(cache: Path, space_id: str) -> Path:
    """Where the sample of a space lies inside a cache folder."""
    return cache / "background" / space_id / "sample.npz"


def _sample(state: Generation) -> tuple[Int64, Float32]:
    """The sample that is kept, or a new one, which is kept where that is possible."""
    file = sample_file(state.cache, state.space.id)
    identity = _identity(state)
    kept = _read(file, identity, state.space.dim)
    if kept is None:
        kept = _draw(state.vectors)
        # A read-only or full disk costs time, never an answer.
        with contextlib.suppress(OSError):
            _write(file, identity, *kept)
    ids, rows = kept
    return ids, rows.astype(np.float32)


def _identity(state: Generation) -> str:
    """What a sample is a sample of: index, space, and which images count."""
    shards = state.manifest.embeddings.get(state.space.id, ())
    deleted = state.manifest.deleted
    parts = [
        state.manifest.uuid,
        state.space.fingerprint,
        SAMPLE_IMAGES,
        [shard.sha256 for shard in shards],
        deleted.sha256 if deleted else None,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _draw(vectors: Vectors) -> tuple[Int64, Float16]:
    live = np.setdiff1d(vectors.ids, vectors.deleted) if len(vectors.deleted) else vectors.ids
    count = min(SAMPLE_IMAGES, len(live))
    ids, rows = vectors.take(live[np.arange(count) * len(live) // max(1, count)])
    return ids, rows.astype(np.float16)  # what is stored is fp16: nothing is lost


def _write(file: Path, identity: str, ids: Int64, rows: Float16) -> None:
    sink = io.BytesIO()
    np.savez(sink, identity=np.frombuffer(identity.encode(), np.uint8), ids=ids, rows=rows)
    replace_file(file, sink.getvalue())


def _read(file: Path, identity: str, dim: int) -> tuple[Int64, Float16] | None:
    """The sample in ``file``; None when it is missing, damaged, or a sample of something else."""
    # A file of ours is this small. What claims to be larger is not read, let alone unpacked.
    largest = SAMPLE_IMAGES * (2 * dim + 8) + 4096
    try:
        if os.stat(file).st_size > largest:
            return None
        with np.load(file, allow_pickle=False) as data:
            if sum(member.file_size for member in data.zip.infolist()) > largest:
                return None
            mine = data["identity"].tobytes() == identity.encode()
            ids, rows = data["ids"], data["rows"]
    except Exception:  # a damaged zip file raises nearly anything
        return None
    whole = (
        mine
        and (ids.dtype, rows.dtype) == (np.int64, np.float16)
        and ids.ndim == 1
        and rows.shape == (len(ids), dim)
        and bool((np.diff(ids) > 0).all())
        and bool(np.isfinite(rows).all())
    )
    return (ids, rows) if whole else None
