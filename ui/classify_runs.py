"""Classifying the whole collection while the page goes on: runs, one after the other.

A run is begun, looked at while it goes on, and kept for a while when it is done: some 40 bytes
an image. Only one scores at a time; a few more may wait.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipsearch.classify import Labelling
from clipsearch.errors import ClipsearchError
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex
from clipsearch.records import Classification, LabelSummary
from clipsearch.saved_labelling import SavedLabelling
from clipsearch.scoring import ScoredBlock
from clipsearch.taught_labelling import TaughtLabelling
from clipsearch.text_vectors import TextVectors
from ui.collection_labels import begin_labelling, examples_of, label_notes
from ui.label_requests import LabelRequest
from ui.library import Library
from ui.page_errors import PageError, public_message

log = logging.getLogger("clipsearch.ui")

MOST_KEPT = 6
MOST_ROWS = 4_000_000
"""Of all results that are kept while another is made."""
MOST_WAITING = 3
_COLUMNS = ("ids", "labels", "scores", "probabilities", "margins", "runners_up")

WAITING, WORDS, IMAGES = "waiting", "words", "images"
DONE, FAILED, STOPPED = "done", "failed", "stopped"
_ENDED = (DONE, FAILED, STOPPED)


class _Stopped(Exception):
    """Somebody has stopped the run."""


@dataclass
class ClassifyRun:
    """One classification of the collection.

    token : by which it is asked for. state : waiting, words (they are encoded), images (these are
    scored), done, failed, stopped. done, total : texts or images, of the state it is in.
    error, status : why it failed, fit to be shown. result, summary : what came of it, of
    generation ``generation`` of the index with the uuid ``index``. taught : by how many examples.
    saved_as : the label set it was last saved as; saving : whether it is being saved now;
    saving_error : why it could not be.
    """

    token: str
    request: LabelRequest
    state: str = WAITING
    done: int = 0
    total: int = 0
    error: str | None = None
    status: int = 400
    result: Classification | None = None
    summary: list[LabelSummary] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    generation: int = 0
    index: str = ""
    taught: int = 0
    saved_as: str | None = None
    saving: bool = False
    saving_error: str | None = None
    stop_wanted: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)
    orders: OrderedDict[tuple[int, str], Any] = field(default_factory=OrderedDict, repr=False)

    @property
    def has_ended(self) -> bool:
        """Whether it goes on no more."""
        return self.state in _ENDED

    @property
    def rows(self) -> int:
        """How many images its result holds."""
        return 0 if self.result is None else len(self.result)

    def set(self, **values: Any) -> None:
        """Change what it is; whoever waits for that is told."""
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait(self, seconds: float) -> None:
        """Until it has ended and is not being saved, or ``seconds`` have passed."""
        with self.changed:
            self.changed.wait_for(lambda: self.has_ended and not self.saving, timeout=seconds)


class ClassifyRuns:
    """The runs of a page; safe for threads."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._runs: OrderedDict[str, ClassifyRun] = OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # scoring takes all processors there are

    def begin(self, request: LabelRequest) -> ClassifyRun:
        """Begin to classify every image; PageError (429) where enough are waiting."""
        index = self._library.index()
        if not len(index):
            raise PageError("The index holds no photos yet.", 409)
        run = ClassifyRun(secrets.token_urlsafe(16), request)
        with self._lock:
            if sum(not one.has_ended for one in self._runs.values()) > MOST_WAITING:
                raise PageError("Other labels are being classified: try again in a moment.", 429)
            self._runs[run.token] = run
            rows = sum(one.rows for one in self._runs.values())
            for token, one in [pair for pair in self._runs.items() if pair[1].has_ended]:
                if len(self._runs) > MOST_KEPT or rows > MOST_ROWS:
                    rows -= one.rows
                    del self._runs[token]
        self._start(lambda: self._classify(run, index))
        return run

    def find(self, token: str) -> ClassifyRun:
        """A run; PageError (404) when it is not kept any more."""
        with self._lock:
            run = self._runs.get(token)
            if run is None:
                raise PageError("This result is not kept any more: classify again.", 404)
            self._runs.move_to_end(token)
            return run

    def finished(self, token: str) -> tuple[ClassifyRun, Classification]:
        """A run that is done, and its result; PageError (409) for any other."""
        run = self.find(token)
        if run.result is None:
            told = "It was stopped." if run.state == STOPPED else "The result is not there yet."
            raise PageError(run.error or told, 409)
        if self._library.index().state().manifest.uuid != run.index:  # its ids mean other images
            raise PageError("The index was made anew: classify again.", 409)
        return run, run.result

    def stop(self, token: str) -> ClassifyRun:
        """End a run that goes on."""
        run = self.find(token)
        run.stop_wanted = True
        return run

    def save(self, token: str, name: str) -> ClassifyRun:
        """Begin to save a finished run as the label set ``name``, over what has its name: every
        image is labelled again, mostly from what is remembered, so that the set remembers too."""
        run, _ = self.finished(token)
        index = self._library.index()
        with run.changed:
            if run.saving:
                raise PageError("It is being saved already.", 409)
            run.saving, run.saving_error, run.stop_wanted = True, None, False
        self._start(lambda: self._save(run, index, name))
        return run

    def exclusively(self, do: Callable[[], Any], seconds: float = 60.0) -> Any:
        """What ``do`` returns, once no run is scoring; PageError (503) when that takes long."""
        if not self._turn.acquire(timeout=seconds):
            raise PageError("Other labels are being classified: try again in a moment.", 503)
        try:
            return do()
        finally:
            self._turn.release()

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="clipsearch-classify", daemon=True).start()

    def _classify(self, run: ClassifyRun, index: ImageIndex) -> None:
        try:
            with self._turn:
                state = index.state()
                texts = _watched_texts(run, index, state)
                labelling = begin_labelling(index, state, texts, run.request, None)
                result = _columns(run, labelling, len(state.vectors))
                notes = label_notes(run.request, state, texts)
            run.set(
                state=DONE, done=len(result), total=len(result), result=result, notes=notes,
                summary=labelling.summary(),
                generation=state.manifest.generation, index=state.manifest.uuid,
                taught=examples_of(labelling),
            )  # fmt: skip
        except _Stopped:
            run.set(state=STOPPED)
        except Exception as error:
            run.set(state=FAILED, **_told(error))

    def _save(self, run: ClassifyRun, index: ImageIndex, name: str) -> None:
        error: str | None = None
        try:
            with self._turn:
                state = index.state()
                texts = index.encoders.texts(state.space)
                labelling = begin_labelling(index, state, texts, run.request, name)
                if isinstance(labelling, SavedLabelling):
                    with labelling:
                        _pass_over(labelling)
                        labelling.save()
                elif isinstance(labelling, TaughtLabelling):
                    _pass_over(labelling)
                    labelling.save()
        except PermissionError:
            error = "The index cannot be written to: nothing was saved."
        except Exception as failure:
            error = _told(failure)["error"]
        run.set(saving=False, saving_error=error, saved_as=run.saved_as if error else name)


def _told(error: Exception) -> dict[str, Any]:
    message, status = public_message(error)
    if status >= 500 or not isinstance(error, ClipsearchError):
        log.error("classify", exc_info=error)
    return {"error": message, "status": status}


def _watched_texts(run: ClassifyRun, index: ImageIndex, state: Generation) -> TextVectors:
    texts = index.encoders.texts(state.space)

    def told(done: int, total: int) -> None:
        if run.stop_wanted:
            raise _Stopped
        run.set(state=WORDS, done=done, total=total)

    told(0, 0)
    texts.on_progress = told
    return texts


def _columns(run: ClassifyRun, labelling: Labelling, images: int) -> Classification:
    """Every image's label, as ``Labelling.columns`` gives them, telling how far it is."""
    run.set(state=IMAGES, done=0, total=images)
    parts: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, "in_set")}
    told = time.monotonic()
    for block in labelling:
        if run.stop_wanted:
            raise _Stopped
        for name in _COLUMNS:
            parts[name].append(getattr(block, name))
        if block.in_set is not None:
            parts["in_set"].append(block.in_set)
        if time.monotonic() - told > 0.1:
            told = time.monotonic()
            run.set(done=labelling.images)
    if not parts["ids"]:
        raise PageError("The index holds no photos any more.", 409)
    return Classification(
        label_names=labelling.label_names,
        in_set=np.concatenate(parts["in_set"]) if parts["in_set"] else None,
        threshold=None if labelling.abstention is None else labelling.abstention.rule.threshold,
        seconds=labelling.seconds,
        texts_encoded=labelling.texts.encoded,
        texts_cached=labelling.texts.cached,
        **{name: np.concatenate(parts[name]) for name in _COLUMNS},
    )


def _pass_over(blocks: Labelling) -> None:
    block: ScoredBlock
    for block in blocks:
        del block


def label_position(result: Classification, label: str) -> int:
    """The position of a label; PageError (404) for one that was not asked for."""
    names: Sequence[str] = result.label_names
    if label not in names:
        raise PageError("There is no such label in this result.", 404)
    return names.index(label)
