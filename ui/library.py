"""The index behind the page: opened once, brought up to date while it is used."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch.errors import ClipsearchError, IndexNotFoundError
from clipsearch.image_index import ImageIndex, open_index
from ui.page_errors import NoIndexError, PageError
from ui.page_settings import PageSettings

if TYPE_CHECKING:
    from clipsearch.database_search import DatabaseSearch

FRESH_SECONDS = 1.0
"""How old the knowledge of the newest generation may be."""


class Library:
    """The index of a page. Safe for threads; there need not be an index yet.

    path : the index folder, None for a page without one. database : what its searches go
    through, None for the index itself.
    """

    def __init__(
        self, path: Path | None, settings: PageSettings, database: DatabaseSearch | None = None
    ) -> None:
        self.path = path
        self.settings = settings
        self.database = database
        self._index: ImageIndex | None = None
        self._looked = 0.0
        self._lock = threading.Lock()

    @property
    def has_index(self) -> bool:
        """Whether there is an index now."""
        return self.path is not None and (self.path / "manifest.json").is_file()

    def index(self) -> ImageIndex:
        """The index as it is now; raises NoIndexError, and as ``open_index``."""
        if self.path is None:
            raise NoIndexError
        with self._lock:
            now = time.monotonic()
            if self._index is None:
                try:
                    self._index = open_index(
                        self.path,
                        model=self.settings.model,
                        device=self.settings.device,
                        space=self.settings.space,
                        database=self.database,
                    )
                except IndexNotFoundError:
                    raise NoIndexError from None
                self._looked = now
            elif now - self._looked > FRESH_SECONDS:
                # What is open answers still where the newest cannot be read this moment.
                self._looked = now
                try:
                    self._index.refresh()
                except (ClipsearchError, OSError):
                    if not self.has_index:
                        self._index = None
                        raise NoIndexError from None
            return self._index

    def warm_up(self) -> None:
        """Ask something, so that the first question of a person finds all in memory: the text
        half of the model, the everyday words that answers are held against. What is wrong is told
        to whoever asks, and not here."""
        if self.has_index:
            with contextlib.suppress(ClipsearchError, OSError):
                import clipsearch.faiss_scan  # noqa: F401  # which scans faster, once it is there

                self.index().search("a photo", k=1, strengths=True)

    def known_id(self, image_id: int) -> int:
        """The id, if an image of it can be found; PageError (404) for any other number."""
        index = self.index()
        if not 0 <= image_id < index.next_id or not len(index.vectors_of([image_id])[0]):
            raise PageError("There is no such image in the index.", status=404)
        return image_id
