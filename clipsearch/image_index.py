"""``ImageIndex``: what a user opens to search and classify a collection.

Everything here works on stored vectors. An image file is opened only when it is itself the
query and is not in the index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from clipsearch.encoder import Encoder, Float32, Space
from clipsearch.errors import (
    IndexFormatError,
    QueryError,
)
from clipsearch.generation import Generation, cache_folder, is_of, open_generation
from clipsearch.index_status import index_status
from clipsearch.manifest import read_manifest
from clipsearch.model_names import resolve_model_name
from clipsearch.path_table import PathTable
from clipsearch.prompts import class_vectors
from clipsearch.query import Image, Query, as_filter
from clipsearch.query_encoders import QueryEncoders
from clipsearch.query_terms import known_id
from clipsearch.questions import question_of
from clipsearch.records import Classification, Hits, IndexStatus
from clipsearch.remote_urls import is_remote
from clipsearch.searching import answer
from clipsearch.shards import Int64
from clipsearch.store import index_folder
from clipsearch.text_vectors import TextVectors
from clipsearch.thumbnails import read_thumbnail

if TYPE_CHECKING:
    from clipsearch.classify import Labelling
    from clipsearch.cluster_recipe import OnStage
    from clipsearch.clusters import Discovery
    from clipsearch.database_search import DatabaseSearch, Nominated
    from clipsearch.duplicate_groups import Duplicates
    from clipsearch.filters import Filter
    from clipsearch.label_set_files import NoneRule
    from clipsearch.nouns import Vocabulary
    from clipsearch.same_picture import DuplicateSettings
    from clipsearch.spread_scoring import Spread
    from clipsearch.tagging import Tagging
    from clipsearch.teaching import Teaching
    from clipsearch.wordnet import WordNet

T = TypeVar("T")
ImagePath = str | os.PathLike[str]


@dataclass
class ImageIndex:
    """An index opened for questions. One object may serve many threads.

    path : the index folder; the mirror of it where a URL was given. model : where its model is
    now, for a model folder that moved; its fingerprint must match. device : see
    ``load_encoder``. text_cache : the SQLite file of text vectors; None is the user's own, shared
    by all indexes of the space.
    space_name : of an index with vectors of several models, the model, or the id of the space, to
    answer with; None is the one that the index answers with by default.
    database : what searches with words and images go through, in place of the vectors here.
    """

    path: Path
    model: str | None = None
    device: str | None = None
    text_cache: Path | None = None
    space_name: str | None = None
    database: DatabaseSearch | None = None
    _generation: Generation = field(init=False, repr=False)
    _encoders: QueryEncoders = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.path = index_folder(self.path) if is_remote(self.path) else Path(self.path)
        self._generation = open_generation(self.path, self.space_name)
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

    @property
    def next_id(self) -> int:
        """The id that the next new image will have; all that are here have lower ones."""
        return self._generation.manifest.next_id

    def refresh(self) -> bool:
        """Open what was committed since; True when there was something new."""
        fresh = read_manifest(self._generation.store, str(self.path))
        if is_of(fresh, self._generation.manifest):
            return False
        self._generation = open_generation(self.path, self.space_name)
        return True

    def state(self) -> Generation:
        """The open generation, its table of paths at hand: what the functions of ``tag``,
        ``duplicates``, ``metadata`` and the like take. It never changes.

        A writer may have cleared that away before it was first asked for; then the newest
        generation is opened instead.
        """
        while True:
            state = self._generation
            try:
                _ = state.paths
            except IndexFormatError:
                # Where another thread was quicker there is nothing new to open.
                if not self.refresh() and state is self._generation:
                    raise
            else:
                return state

    def of_newest(self, ask: Callable[[Generation], T]) -> T:
        """What ``ask`` answers; asked again of the newest generation where a writer has cleared
        away a table that it wanted to read."""
        while True:
            state = self.state()
            try:
                return ask(state)
            except IndexFormatError:
                if not self.refresh() and state is self._generation:
                    raise

    # -- encoding queries ---------------------------------------------------------------

    def encoder(self) -> Encoder:
        """The encoder of this index's space, loaded once. Never touches a network.

        Raises SpaceMismatchError when the model found is not the one the index was made with.
        """
        return self._encoders.encoder(self.space)

    @property
    def encoders(self) -> QueryEncoders:
        """What encodes the questions that are asked of this index."""
        return self._encoders

    def watch_texts(self, on_progress: Callable[[int, int], None]) -> None:
        """Have ``on_progress`` called while many texts are encoded: how many are, and of how
        many."""
        self._encoders.on_progress = on_progress

    def text_vectors(self) -> TextVectors:
        """What turns texts into vectors of this index's space, remembered ones first."""
        return self._encoders.texts(self.space)

    # Another thread may refresh the index meanwhile: every question is answered by the one
    # generation it began with, so that vectors of two spaces cannot meet.

    # -- questions ----------------------------------------------------------------------

    def search(
        self,
        query: str | Query,
        *,
        k: int | None = 10,
        offset: int = 0,
        exact: bool = False,
        first_id: int | None = None,
        strengths: bool = False,
    ) -> Hits:
        """The images that answer some words, or a ``Query`` of words, images and a filter.

        k : how many hits to bring, None for all; offset : how many to pass over before them.
        exact : scan every vector even where an approximate index could answer.
        first_id : only images with this id or a later one; ids rise with every new image.
        strengths : tell how strong every hit is, without a cut-off too.

        Raises QueryError, ImageError, LabelError for a label in the filter that nobody knows,
        and the errors of ``load_encoder``.
        """
        query = Query(query) if isinstance(query, str) else query
        where = query.filter()
        if not query.has_terms and where is None:
            raise QueryError("the query is empty: give words, an image, a vector or a filter")

        def ask(state: Generation) -> Hits:
            nominated = None
            if query.has_terms and not exact:
                nominated = self._nominated(state, where, first_id)
            question = question_of(
                state,
                self._encoders,
                query,
                where=where,
                allowed=None if nominated else self._allowed(state, where, first_id),
                strengths=strengths,
                nominating=nominated,
            )
            return answer(state, question, k=k, offset=offset, exact=exact)

        return self.of_newest(ask)

    def _nominated(
        self, state: Generation, where: Filter | None, first_id: int | None
    ) -> Nominated | None:
        """What the database answers, None where the index answers itself."""
        if self.database is None:
            return None

        def matching(test: Filter) -> Int64:
            ids = self._matching(state, test)
            assert ids is not None
            return ids

        return self.database.nominated(
            state, where, first_id, matching, lambda: self._allowed(state, where, first_id)
        )

    def _allowed(
        self, state: Generation, where: Filter | None, first_id: int | None
    ) -> Int64 | None:
        allowed = self._matching(state, where)
        if first_id is None:
            return allowed
        ids = state.vectors.ids if allowed is None else allowed
        return np.setdiff1d(ids[ids >= first_id], state.vectors.deleted)

    def _matching(self, state: Generation, where: Filter | None) -> Int64 | None:
        if where is None:
            return None
        from clipsearch.metadata import matching_ids

        return matching_ids(self.path, state, where)

    def matching(self, where: str | Filter) -> Int64:
        """The rising ids of the images that fulfil an expression of ``clipsearch.filters``.

        Raises FilterError, and LabelError for a label that no saved set has.
        """
        from clipsearch.metadata import matching_ids

        wanted = as_filter(where)
        assert wanted is not None
        return self.of_newest(lambda state: matching_ids(self.path, state, wanted))

    def similar(self, image: Image, *, k: int | None = 10, exact: bool = False) -> Hits:
        """The images most like an image file or the indexed image of this id, itself left out.

        The same as ``search(Query(like=(image,)))``.
        """
        return self.search(Query(like=(image,)), k=k, exact=exact)

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
        templates: str | Sequence[str] = "simple",
        context: str | None = None,
        top: int = 1,
        where: str | Filter | None = None,
        fast: bool = False,
        base: str | None = None,
        none: str | float | NoneRule = "auto",
    ) -> Classification:
        """Give every image its best label, from stored vectors alone.

        labels : the label set, at least one, no two alike; or ``LabelDefinitions``, which say
        more of them than their names (``clipsearch.label_definitions``).
        templates : "simple" (7), "openai" (80), "none", a file of templates, or one template
            with {} in it. context : added to every label, such as "a type of pet".
        top : how many labels to keep for each image. where : label only the images that fulfil
        this expression of ``clipsearch.filters``.
        fast : multiply in bfloat16 through torch where the processor is quicker at that. The
        labels and their scores are the same; probabilities are right to about one percent.
        base : a saved label set that remembers: only labels that it does not have, and images
        that are new, are scored. ``clipsearch.saved_labelling`` saves sets, too.
        none : which images get none of the labels, going by some six hundred everyday words:
        "auto" for those below a threshold that the collection itself gives, "off" for no image,
        or a threshold from 0 to 1 for ``in_set``. A saved set's rule keeps its threshold.

        Raises LabelError, OptionError for another ``none``, QueryError for the expression, and
        the errors of ``load_encoder``.
        """
        return self.label(
            labels,
            templates=templates,
            context=context,
            top=top,
            where=where,
            fast=fast,
            base=base,
            none=none,
        ).columns()

    def label(
        self,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] = "simple",
        context: str | None = None,
        top: int = 1,
        where: str | Filter | None = None,
        fast: bool = False,
        base: str | None = None,
        none: str | float | NoneRule = "auto",
        spread: Spread | None = None,
    ) -> Labelling:
        """``classify`` block by block, in memory that does not grow with the collection.

        The images are scored while whoever asked iterates over what comes back. spread : who
        scores them in the place of this process; without ``base`` and ``fast``.
        """
        wanted = None if where is None else as_filter(where)
        state, allowed = self._generation, None
        if wanted is not None:
            state, allowed = self.of_newest(lambda state: (state, self._matching(state, wanted)))
        texts = self._encoders.texts(state.space)
        if base is None:
            from clipsearch.classify import classify

            return classify(
                state, texts, labels, templates, context, top, allowed, fast, none, spread
            )
        from clipsearch.saved_labelling import classify_beside

        return classify_beside(
            self.path, state, texts, labels, templates, context,
            base=base, top=top, allowed=allowed, none=none,
        )  # fmt: skip

    def teach(
        self,
        name: str,
        labels: Mapping[Image, str | None] | None = None,
        *,
        forget: Sequence[Image] = (),
        dry_run: bool = False,
    ) -> Teaching:
        """Teach the saved label set ``name`` what some images show, label every image again by
        that, from stored vectors alone, and save it as a new version of the set.

        labels : of images, as files or ids, the label of the set that each shows, None for none
        of them; they count over earlier ones of the same images.
        forget : images that are no examples any more. dry_run : save nothing.

        What it came to is in ``labelling`` of what comes back: ``changed``, how many images have
        another label now, ``lesson.taught``, how well the examples do that are left out.
        ``clipsearch.label_history`` goes back to the version before.

        Raises LabelError for an unknown set, label or example, QueryError for an id that is not
        in the index, as ``teaching.begin_teaching``, IndexLockedError, OSError.
        """
        from clipsearch.label_examples import Correction
        from clipsearch.teaching import begin_teaching

        said = [Correction(image, label) for image, label in (labels or {}).items()]
        begun = begin_teaching(self.path, self.state(), self.text_vectors(), name, said, forget)
        for _ in begun.labelling:
            pass
        if not dry_run:
            begun.labelling.save()
        return begun

    def tag(
        self,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] = "simple",
        context: str | None = None,
        most: int | None = None,
    ) -> Tagging:
        """Give every image those labels that it shows, from stored vectors alone.

        most : how many labels an image can have. ``clipsearch.tag`` has more to set, and tags
        by what a saved set remembers. Raises as ``classify`` does.
        """
        from clipsearch.tag import tag

        state = self.state()
        texts = self._encoders.texts(state.space)
        return tag(state, texts, labels, templates=templates, context=context, most=most)

    def discover(
        self,
        n_clusters: int | None = None,
        *,
        method: str = "recipe",
        least_size: int | None = None,
        vocabulary: Vocabulary | str | None = "imagenet",
        wordnet: WordNet | None = None,
        shared_names: bool = False,
        seed: int = 0,
        where: str | Filter | None = None,
        on_stage: OnStage = lambda stage, done, total: None,
    ) -> Discovery:
        """Groups of images that look alike, with suggested names, from stored vectors alone.

        n_clusters : at most so many; None for as many as the images fall into.
        method : "recipe" (images and words), "kmeans", "agglomerative" or "hdbscan".
        least_size : images of smaller clusters, and later ones like them, are in none; None
        for 2, or 1 where n_clusters is given.
        vocabulary : what to take names from, or what ``nouns.read_vocabulary`` takes; None for
        clusters that are numbered. wordnet, shared_names, seed, on_stage : see
        ``clipsearch.discover``.
        where : look only at the images that fulfil this expression of ``clipsearch.filters``.

        ``clipsearch.cluster_saving`` keeps what was found, ``clipsearch.saved_clusters`` opens
        and changes it. Raises OptionError, LabelError, and as ``matching`` does.
        """
        from clipsearch.discover import DiscoverSettings, discover
        from clipsearch.nouns import read_vocabulary

        if isinstance(vocabulary, str):
            vocabulary = read_vocabulary(vocabulary)
        settings = DiscoverSettings(
            method, n_clusters, least_size, vocabulary, wordnet, shared_names, seed
        )
        wanted = None if where is None else as_filter(where)
        return self.of_newest(
            lambda state: discover(
                state,
                self._encoders.texts(state.space),
                settings,
                allowed=self._matching(state, wanted),
                where=None if wanted is None else str(wanted),
                on_stage=on_stage,
            )
        )

    def duplicates(
        self,
        kind: str = "near",
        settings: DuplicateSettings | None = None,
        *,
        where: str | Filter | None = None,
    ) -> Duplicates:
        """Groups of files that show the same, and which of each to keep.

        kind : "exact" (the same bytes), "copy" (one picture resized, recompressed, lightly
        edited), "burst" (shots of one scene, seconds apart) or "near" (copies and bursts).
        where : look only at the images that fulfil this expression of ``clipsearch.filters``.

        Raises OptionError for another kind, and as ``matching`` does.
        """
        from clipsearch.duplicates import find_duplicates

        wanted = None if where is None else as_filter(where)
        return self.of_newest(
            lambda state: find_duplicates(
                state, kind, settings, allowed=self._matching(state, wanted)
            )
        )

    # -- looking things up --------------------------------------------------------------

    def id_of(self, image: Image) -> int | None:
        """The id of an image of the index, by its file, its bytes or its id; None for others.

        Raises QueryError for an id that is not in the index.
        """
        return known_id(self.state(), image)

    def vectors_of(self, ids: Sequence[int] | Int64) -> tuple[Int64, Float32]:
        """The rising (m,) ids of ``ids`` that are here, and their (m, dim) float32 rows."""
        return self._generation.vectors.take(ids)

    def paths(self) -> PathTable:
        """Where every image is."""
        return self.state().paths

    def thumbnail(self, image_id: int) -> bytes | None:
        """The JPEG thumbnail made while indexing, None when the cache has lost it."""
        for cache in (cache_folder(self.path), self._generation.cache):
            data = read_thumbnail(cache, self._generation.manifest, image_id)
            if data is not None:
                return data
        return None

    def status(self) -> IndexStatus:
        """Counts, sizes, model and freshness."""
        return index_status(self.path, self.state())


def open_index(
    path: ImagePath,
    *,
    model: str | None = None,
    device: str | None = None,
    text_cache: Path | None = None,
    space: str | None = None,
    database: DatabaseSearch | None = None,
) -> ImageIndex:
    """Open an index for questions; see ``ImageIndex``. space : its ``space_name``.

    Raises IndexNotFoundError when there is none, IndexFormatError when it is damaged,
    OptionError when it has no vectors of ``space``.
    """
    return ImageIndex(
        Path(path),
        model=model,
        device=device,
        text_cache=text_cache,
        space_name=space,
        database=database,
    )
