"""Indexing from the page: what may be indexed, one run at a time."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from clipsearch.model_names import weights_here
from clipsearch.presets import PRESETS
from clipsearch.remote_urls import is_remote
from ui.allowed_folders import AllowedFolders
from ui.index_process import IndexProcess
from ui.library import Library
from ui.page_errors import PageError

_SECONDS_TO_STOP = 30.0
_MADE_WITH = "the model the page was started with"


class IndexRuns:
    """Starts and stops ``clipsearch index`` for one library. Safe for threads.

    The run belongs to the page and not to a visitor: whoever opens the page again, or from
    elsewhere, finds it as it is. The account of the last one stays until the next begins.
    """

    def __init__(self, library: Library) -> None:
        self.library = library
        self.folders = AllowedFolders(library.settings.allowed_folders)
        self._lock = threading.Lock()
        self._last: IndexProcess | None = None
        self._runs = 0

    def document(self) -> dict[str, Any] | None:
        """How far the run is, or how the last one ended; None before the first. ``number`` counts
        them."""
        with self._lock:
            last, number = self._last, self._runs
        return None if last is None else {"number": number, **last.document()}

    def add(self, root: int, below: str, model: str | None) -> None:
        """Index an allowed folder, or one within it. model : one of ``models()``, where there is
        no index yet; None where there is one, which keeps its own."""
        folder = self.folders.resolve(root, below)
        options = []
        if not self.library.has_index:
            if model not in [choice["name"] for choice in self.models()]:
                raise PageError("Choose one of the models that are on this machine.")
            options = ["--model", str(model)]
            if model == _MADE_WITH:
                options = ["--model", str(self.library.settings.model)]
        elif model is not None:
            raise PageError("The index keeps the model that it was made with.")
        self._start([*options, "--", str(folder)], folder.name)

    def update(self) -> None:
        """Look again at those folders of the index that may be indexed from the page."""
        known = self.known_folders()
        if not known:
            raise PageError("No folder of the index may be indexed from the page.", 403)
        title = "1 folder" if len(known) == 1 else f"{len(known):,} folders"
        self._start(["--", *known], title)

    def known_folders(self) -> list[str]:
        """The folders of the index that may be indexed from the page, and are there. Of object
        storage only who may type a URL at the command line decides."""
        if not self.library.has_index:
            return []
        roots = self.library.index().status().roots
        paths = [root["path"] for root in roots if not is_remote(root["path"])]
        return [path for path in paths if self.folders.contains(path)]

    def cancel(self) -> None:
        """Stop the run; what is finished is kept."""
        with self._lock:
            if self._last is None or not self._last.is_running:
                raise PageError("Nothing is being indexed.", 409)
            self._last.cancel()

    def close(self) -> None:
        """Stop the run, and wait for it to save what is finished."""
        with self._lock:
            last = self._last
        if last is not None and last.is_running:
            last.cancel()
            last.wait(_SECONDS_TO_STOP)

    def models(self) -> list[dict[str, Any]]:
        """The models that a new index can be made with: those on this machine, the best known
        first, each with what is to be known of it."""
        given = self.library.settings.model
        choices = []
        if given is not None:
            choices.append({"name": _MADE_WITH, "note": ""})
        here = [preset for preset in PRESETS if weights_here(preset.model) is not None]
        here.sort(key=lambda preset: preset.name != "balanced" and preset.hub_repo is not None)
        here.sort(key=lambda preset: preset.hub_repo is None)
        choices += [{"name": preset.name, "note": preset.note} for preset in here]
        return choices

    def _start(self, arguments: list[str], title: str) -> None:
        place = self.library.path
        if place is None:
            raise PageError(
                "The page does not know where to put an index. "
                "Start it with a place: clipsearch ui photos.index",
                409,
            )
        options = ["--index", str(place.absolute())]
        if self.library.settings.device is not None:
            options += ["--device", self.library.settings.device]
        with self._lock:
            if self._last is not None and self._last.is_running:
                raise PageError("Something is being indexed already: wait for it or stop it.", 409)
            if self._runs == 0:
                atexit.register(self.close)
            self._last = IndexProcess([*options, *arguments], title)
            self._runs += 1
