"""``ImageIndex``: what a user opens to search and classify a collection.

Everything here works on stored vectors. An image file is opened only when it is itself the
query and is not in the index.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipsearch.encoder import Encoder, Float32, Space
from clipsearch.errors import (
    ImageError,
    IndexFormatError,
    QueryError,
)
from clipsearch.generation import Generation, cache_folder, is_of, open_generation
from clipsearch.manifest import FORMAT_VERSION, read_manifest
from clipsearch.model_names import resolve_model_name
from clipsearch.paths import PathTable
from clipsearch.prompts import check_labels, class_vectors
from clipsearch.query import Term, combine, text_term, vector_term
from clipsearch.query_encoders import QueryEncoders
from clipsearch.records import Classification, Hit, Hits, IndexStatus
from clipsearch.scoring import ScoredBlock, score_blocks
from clipsearch.shards import Int64
from clipsearch.text_vectors import TextVectors
from clipsearch.thumbnails import read_thumbnail

ImagePath = str | os.PathLike[str]


@dataclass
class ImageIndex:
    """An index opened for questions. One object may serve many threads.

    path : the index folder. model : where its model is now, for a model folder that moved;
    its fingerprint must match. device : see ``load_encoder``. text_cache : the SQLite file of
    text vectors; None is the user's own, shared by all indexes of the space.
    """

    path: Path
    model: str | None = None
    device: str | None = None
    text_cache: Path | None = None
    _generation: Generation = field(init=False, repr=False)
    _encoders: QueryEncoders = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self._generation = open_generation(self.path)
        self._encoders = QueryEncoders(self.model, self.device, self.text_cache)
        if self.model is not None and resolve_model_name(self.model) != self.space.model:
            self.encoder()  # a wrong model is refused even where remembered vectors would answer

    def __len__(self) -> int:
        """How many images can be found."""
        return len(self._generation.vectors)

    @property
    def space(self) -> Space:
        """The embedding space that questions are answered in."""
        return self._generation.space

    @property
    def generation(self) -> int:
        """The generation of the index that is open."""
        return self._generation.manifest.generation

    def refresh(self) -> bool:
        """Open what was committed since; True when there was something new."""
        fresh = read_manifest(self._generation.store, str(self.path))
        if is_of(fresh, self._generation.manifest):
            return False
        self._generation = open_generation(self.path)
        return True

    def _with_paths(self) -> Generation:
        """The open generation, its table of paths at hand.

        A writer may have cleared that away before it was first asked for; then the newest
        generation is opened instead.
        """
        while True:
            state = self._generation
            try:
                _ = state.paths
            except IndexFormatError:
                if not self.refresh():
                    raise
            else:
                return state

    # -- encoding queries ---------------------------------------------------------------

    def encoder(self) -> Encoder:
        """The encoder of this index's space, loaded once. Never touches a network.

        Raises SpaceMismatchError when the model found is not the one the index was made with.
        """
        return self._encoders.encoder(self.space)

    def text_vectors(self) -> TextVectors:
        """What turns texts into vectors of this index's space, remembered ones first."""
        return self._encoders.texts(self.space)

    # Another thread may refresh the index meanwhile: every question is answered by the one
    # generation it began with, so that vectors of two spaces cannot meet.

    def _image_term(self, state: Generation, image: ImagePath) -> tuple[Term, int | None]:
        """The term of an image file, and its id when its content is in the index."""
        from clipsearch.images import read_image

        path = Path(os.path.abspath(image))
        # The photo may be on a disk that is unplugged; its vector is here all the same.
        here = path.is_file()
        known = state.hashes.get(_sha256_of(path)) if here else state.paths.id_at(path)
        if known is not None:
            found, rows = state.vectors.take([known])
            if len(found):
                return vector_term(rows[0], state.space.dim), known
        if not path.exists():
            raise ImageError("vanished", "no such file, neither on the disk nor in the index")
        decoded = read_image(path, state.space.geometry, thumbnail_side=None)
        encoder = self._encoders.encoder(state.space)
        return Term(encoder.encode_images(decoded.pixels[None])[0]), None

    # -- questions ----------------------------------------------------------------------

    def search(
        self,
        text: str | None = None,
        *,
        image: ImagePath | None = None,
        vector: Sequence[float] | Float32 | None = None,
        k: int = 10,
        min_score: float | None = None,
        exact: bool = False,
    ) -> Hits:
        """The k images nearest to some words, an image file, a vector, or their sum.

        vector : (dim,) numbers in this index's space. min_score : leave out lower scores.
        exact : scan every vector even where an approximate index could answer.

        Raises QueryError, ImageError, and the errors of ``load_encoder``.
        """
        state = self._with_paths()
        terms: list[Term] = []
        if text is not None:
            terms.append(text_term(text, self._encoders.texts(state.space).encode))
        if image is not None:
            terms.append(self._image_term(state, image)[0])
        if vector is not None:
            terms.append(vector_term(vector, state.space.dim))
        return _nearest(state, combine(terms), k, min_score, exact, without=None)

    def similar(
        self,
        image: ImagePath | int,
        *,
        k: int = 10,
        min_score: float | None = None,
        exact: bool = False,
    ) -> Hits:
        """The k images most like an image file or the indexed image of this id, itself left
        out.

        Raises QueryError for an id that is not in the index, ImageError, and the errors of
        ``load_encoder`` when the file is not in the index and has to be encoded.
        """
        state = self._with_paths()
        known: int | None
        if isinstance(image, int | np.integer):
            known = int(image)
            found, rows = state.vectors.take([known])
            if not len(found):
                raise QueryError(f"there is no image {image} in {self.path}")
            term = vector_term(rows[0], state.space.dim)
        else:
            term, known = self._image_term(state, image)
        return _nearest(state, term.vector, k, min_score, exact, without=known)

    def class_vectors(
        self, labels: Sequence[str], templates: str = "simple", context: str | None = None
    ) -> tuple[Float32, TextVectors]:
        """The (C, dim) class vectors of a label set, and the source that counted how many
        prompts it had to encode."""
        texts = self.text_vectors()
        return class_vectors(labels, texts, templates, context), texts

    def classify(
        self,
        labels: Sequence[str],
        *,
        templates: str = "simple",
        context: str | None = None,
        top: int = 1,
    ) -> Classification:
        """Give every image its best label, from stored vectors alone.

        labels : the label set, at least one, no two alike.
        templates : "simple" (7), "openai" (80), "none", a file of templates, or one template
            with {} in it. context : added to every label, such as "a type of pet".
        top : how many labels to keep for each image.

        Raises LabelError and the errors of ``load_encoder``.
        """
        names = check_labels(labels)
        top = max(1, min(top, len(names)))
        state = self._generation
        texts = self._encoders.texts(state.space)
        classes = class_vectors(names, texts, templates, context)
        begin = time.perf_counter()
        scale = state.space.logit_scale
        blocks = list(score_blocks(state.vectors.blocks(), classes, scale, top))
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

    # -- looking things up --------------------------------------------------------------

    def vectors_of(self, ids: Sequence[int] | Int64) -> tuple[Int64, Float32]:
        """The rising (m,) ids of ``ids`` that are here, and their (m, dim) float32 rows."""
        return self._generation.vectors.take(ids)

    def paths(self) -> PathTable:
        """Where every image is."""
        return self._with_paths().paths

    def thumbnail(self, image_id: int) -> bytes | None:
        """The JPEG thumbnail made while indexing, None when the cache has lost it."""
        for cache in (cache_folder(self.path), self._generation.cache):
            data = read_thumbnail(cache, self._generation.manifest, image_id)
            if data is not None:
                return data
        return None

    def status(self) -> IndexStatus:
        """Counts, sizes, model and freshness."""
        state = self._with_paths()
        manifest = state.manifest
        caches = {cache_folder(self.path), state.cache}
        return IndexStatus(
            path=str(self.path),
            uuid=manifest.uuid,
            generation=manifest.generation,
            format_version=FORMAT_VERSION,
            created_at=manifest.created_at,
            updated_at=manifest.updated_at,
            images=len(state.vectors),
            files_present=state.paths.present,
            files_missing=state.paths.missing,
            copies=state.paths.copies,
            skipped=manifest.skipped.rows if manifest.skipped else 0,
            model=state.space.model,
            space=state.space.id,
            dim=state.space.dim,
            roots=tuple(
                {
                    "path": root.path,
                    "scanned_at": root.scanned_at,
                    "there": os.path.isdir(root.path),
                }
                for root in manifest.roots
            ),
            truth_bytes=sum(ref.bytes for ref in manifest.files()),
            cache_bytes=sum(_bytes_below(cache) for cache in caches),
            search_kind=state.search.kind,
        )


def _nearest(
    state: Generation,
    query: Float32,
    k: int,
    min_score: float | None,
    exact: bool,
    without: int | None,
) -> Hits:
    """The k images of one generation nearest to a (dim,) query, the image ``without`` left out."""
    if k < 1:
        raise QueryError(f"k must be 1 or more, got {k}")
    asked = k + (without is not None)
    scores, ids = state.search.search(query[None], asked, exact=exact)
    hits: list[Hit] = []
    for score, image_id in zip(scores[0].tolist(), ids[0].tolist(), strict=True):
        if image_id < 0 or image_id == without or len(hits) == k:
            continue
        if min_score is not None and score < min_score:
            continue
        places = state.paths.places(image_id)
        if not places:
            continue
        hits.append(
            Hit(
                id=image_id,
                path=places[0].path,
                score=score,
                cosine=score,
                copies=tuple(place.path for place in places[1:] if not place.missing),
                missing=places[0].missing,
            )
        )
    return Hits(tuple(hits), "exact" if exact else state.search.kind, len(state.vectors))


def _bytes_below(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # a writer has just replaced it
            total += file.stat().st_size if file.is_file() else 0
    return total


def _sha256_of(path: Path) -> bytes:
    """The sha256 of a file, empty when it cannot be read (who decodes it says why)."""
    import hashlib

    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""


def open_index(
    path: ImagePath,
    *,
    model: str | None = None,
    device: str | None = None,
    text_cache: Path | None = None,
) -> ImageIndex:
    """Open an index for questions; see ``ImageIndex``.

    Raises IndexNotFoundError when there is none, IndexFormatError when it is damaged.
    """
    return ImageIndex(Path(path), model=model, device=device, text_cache=text_cache)
