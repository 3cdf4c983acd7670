"""Open an existing index to change it: the lock, the manifest, and what commits changes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from clipsearch.errors import IndexNotFoundError, OptionError
from clipsearch.manifest import MANIFEST_NAME, read_for_writing
from clipsearch.store import index_folder, open_store
from indexer.commit import Committer
from indexer.lock import writer_lock


@contextlib.contextmanager
def writing(index: str | os.PathLike[str]) -> Iterator[Committer]:
    """The committer of an index, for as long as the writer's lock is held.

    Raises IndexNotFoundError, IndexFormatError, IndexLockedError, and OptionError for an index
    that may not be written.
    """
    place = index_folder(index)
    if not (place / MANIFEST_NAME).is_file():  # before the lock makes a file in a stranger's folder
        raise IndexNotFoundError(f"no index at {place}")
    if not os.access(place, os.W_OK):
        raise OptionError(f"no permission to write to the index at {place}")
    with writer_lock(place):
        yield Committer(place, read_for_writing(open_store(place), str(place)))
