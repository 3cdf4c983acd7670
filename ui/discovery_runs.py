"""Discoveries that are made from the page: one at a time, in the background, with progress."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from clipsearch.cluster_files import UNNAMED, discovery_names
from clipsearch.cluster_saving import refuse_discovery, save_discovery
from clipsearch.clusters import Discovery
from clipsearch.discover import DiscoverSettings, discover
from clipsearch.errors import ClipsearchError, ClusterError, LabelError
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex
from clipsearch.label_set_files import same_name
from clipsearch.nouns import IMAGENET, Vocabulary, read_vocabulary
from clipsearch.prompts import same_label
from clipsearch.query_language import vocabulary_note
from clipsearch.wordnet import WordNet, find_wordnet
from ui.library import Library
from ui.page_errors import PageError, public_message

log = logging.getLogger("clipsearch.ui")

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
OWN_WORDS = "own words"
"""What a vocabulary is called that somebody typed in: it is kept with no index, so parts of a
split cluster get numbers after its name."""


@dataclass(frozen=True)
class Wish:
    """What somebody wants to be discovered.

    name : to keep it under. n_clusters : None for as many as stand out. least_size : see
    ``DiscoverSettings``. words : to take names from; None for the nouns of ImageNet, none at all
    for clusters with numbers. where : a filter expression, None for all images. replace : a
    discovery of that name that was changed by hand may go.
    """

    name: str = UNNAMED
    n_clusters: int | None = None
    least_size: int | None = None
    words: tuple[str, ...] | None = None
    where: str | None = None
    replace: bool = False


@dataclass(frozen=True)
class Run:
    """The newest run: ``state`` is one of those above, and ``stage`` what is being done while it
    goes on, of which ``done`` of ``total`` is done; total 0 where that is not known.

    message : why it failed, or what else is to be said.
    """

    name: str
    state: str
    stage: str
    done: int
    total: int
    began: float
    seconds: float = 0.0
    clusters: int = 0
    images: int = 0
    message: str | None = None

    def document(self) -> dict[str, Any]:
        """The run as the API tells it."""
        seconds = time.monotonic() - self.began if self.state == RUNNING else self.seconds
        return {
            "name": self.name,
            "state": self.state,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "seconds": round(seconds, 1),
            "clusters": self.clusters,
            "images": self.images,
            "message": self.message,
        }


class _StoppedError(Exception):
    """Somebody does not want it any more."""


class DiscoveryRuns:
    """Makes discoveries of the index of a library. Safe for threads."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._stop = threading.Event()

    def newest(self) -> Run | None:
        """The run that goes on, or the last that there was; None before the first."""
        return self._run

    def start(self, wish: Wish) -> Run:
        """Begin; PageError (409) while another goes on, and where the name cannot be had.

        Raises FilterError, and LabelError for words that will not do.
        """
        index = self._library.index()
        name = _free_name(index, wish)
        vocabulary = _vocabulary(wish.words)
        state = index.state()
        allowed = None if wish.where is None else index.matching(wish.where)
        with self._lock:
            if self._run is not None and self._run.state == RUNNING:
                raise PageError("A discovery is being made already: wait for it, or stop it.", 409)
            self._stop.clear()
            note = None
            if vocabulary is not None:
                note = vocabulary_note(vocabulary.words, state.space.model)
            self._run = Run(name, RUNNING, "beginning", 0, 0, time.monotonic(), message=note)
            # The one thread that replaces the run from here on is this one.
            threading.Thread(
                target=self._work,
                args=(index, state, wish, vocabulary, allowed, self._run),
                name="discover",
                daemon=True,
            ).start()
            return self._run

    def stop(self) -> Run | None:
        """Ask the run to end; what it found is not kept."""
        self._stop.set()
        return self._run

    def _work(
        self,
        index: ImageIndex,
        state: Generation,
        wish: Wish,
        vocabulary: Vocabulary | None,
        allowed: Any,
        run: Run,
    ) -> None:
        def tell(stage: str, done: int, total: int) -> None:
            if self._stop.is_set():
                raise _StoppedError
            self._run = replace(run, stage=stage, done=done, total=total)

        try:
            wordnet = find_wordnet() if vocabulary is not None else None
            found = self._found(index, state, wish, vocabulary, wordnet, allowed, tell)
            tell("saving", 0, 0)
            end = self._kept(index, state, found, wish, run)
        except _StoppedError:
            end = replace(run, state=STOPPED, message="Stopped: nothing was kept.")
        except Exception as error:  # told in the page, in full on the terminal
            message, status = public_message(error)
            if isinstance(error, PermissionError):
                message = "The index cannot be written, so clusters cannot be kept in it."
            elif status >= 500 or not isinstance(error, ClipsearchError):
                log.exception("discover")
            end = replace(run, state=FAILED, message=message)
        self._run = replace(end, stage=end.state, seconds=time.monotonic() - run.began)

    @staticmethod
    def _found(
        index: ImageIndex,
        state: Generation,
        wish: Wish,
        vocabulary: Vocabulary | None,
        wordnet: WordNet | None,
        allowed: Any,
        tell: Any,
    ) -> Discovery:
        texts = index.encoders.texts(state.space)
        texts.on_progress = lambda done, total: tell("reading the words", done, total)
        settings = DiscoverSettings(
            n_clusters=wish.n_clusters,
            least_size=wish.least_size,
            vocabulary=vocabulary,
            wordnet=wordnet,
        )
        return discover(state, texts, settings, allowed=allowed, where=wish.where, on_stage=tell)

    @staticmethod
    def _kept(index: ImageIndex, state: Generation, found: Discovery, wish: Wish, run: Run) -> Run:
        images = len(found.assignment)
        if not images:
            return replace(run, state=FAILED, message="There is no photo to group.")
        if not len(found):
            message = (
                "No photos are alike enough to be a group. Ask for a number of groups instead."
            )
            return replace(run, state=FAILED, images=images, message=message)
        saved = save_discovery(index.path, state, run.name, found, replace=wish.replace)
        return replace(run, name=saved.name, state=DONE, clusters=len(found), images=images)


def _free_name(index: ImageIndex, wish: Wish) -> str:
    try:
        return refuse_discovery(index.path, wish.name, replace=wish.replace)[0]
    except ClusterError:
        there = [n for n in discovery_names(index.path) if same_name(n) == same_name(wish.name)]
        if not there:
            raise  # no name at all
        raise PageError(
            f"There is a discovery {there[0]} already that was changed by hand, or that a label "
            "set follows: choose another name, or let it be replaced.",
            409,
        ) from None


def _vocabulary(words: tuple[str, ...] | None) -> Vocabulary | None:
    if words is None:
        return read_vocabulary(IMAGENET)
    if not words:
        return None
    different = {same_label(word): " ".join(word.split()) for word in reversed(words)}
    different.pop("", None)
    if not different:
        raise LabelError("expected words to take names from, got none")
    return Vocabulary(OWN_WORDS, tuple(reversed(different.values())))
