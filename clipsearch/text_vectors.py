"""Text vectors of one space, kept between runs: exact prompt -> float32 vector, in SQLite.

One file per user and space, shared by all indexes of that space. A query whose texts are all in
the cache needs no encoder, so it never imports torch. The cache is a convenience: whatever goes
wrong with its file costs time, never an answer and never an error. Prompts are stored as they
were typed, in the user's own cache folder.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clipsearch.encoder import Encoder, Float32, Space
from clipsearch.errors import SpaceMismatchError

_SCHEMA_VERSION = 1
_BUSY_SECONDS = 5.0
_LOOKUP = 500  # SQLite of old takes 999 variables a statement
_UNIT_TOLERANCE = 1e-3

T = TypeVar("T")


def default_cache_path(fingerprint: str, cache_dir: Path | None = None) -> Path:
    """Where the text vectors of the space with this fingerprint live.

    cache_dir : the program's cache folder; None takes the system's place for it.
    """
    if cache_dir is None:
        import platformdirs

        cache_dir = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    return cache_dir / "text" / f"{fingerprint[:16]}.sqlite"


class TextVectorCache:
    """Exact prompt -> float32 vector, in one SQLite file. Safe for threads and processes.

    A file that cannot be opened or written is done without; a damaged or foreign one is replaced.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._given_up = False

    def get_many(self, texts: Sequence[str]) -> dict[str, Float32]:
        """The cached ones among ``texts``, each with its vector (dim,)."""
        wanted = [text for text in dict.fromkeys(texts) if _storable(text)]

        def read(connection: sqlite3.Connection) -> dict[str, Float32]:
            found: dict[str, Float32] = {}
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                query = f"SELECT prompt, vector FROM vectors WHERE prompt IN ({marks})"
                for prompt, blob in connection.execute(query, part):
                    if isinstance(blob, bytes) and len(blob) % 4 == 0:
                        found[prompt] = np.frombuffer(blob, "<f4").astype(np.float32)
            return found

        return (self._attempt(read) if wanted else None) or {}

    def put_many(self, texts: Sequence[str], vectors: Float32) -> None:
        """Keep the rows of ``vectors`` (n, dim) under the n ``texts``.

        Raises ValueError if the two differ in number.
        """
        if len(texts) != len(vectors):
            raise ValueError(f"expected {len(texts)} vectors, got {len(vectors)}")
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        pairs = [(t, row.tobytes()) for t, row in zip(texts, rows, strict=True) if _storable(t)]

        def write(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", pairs)
            return True

        if pairs:
            self._attempt(write)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            self._drop()

    def _attempt(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """``action`` on the open file, or None where the file does not let itself be used."""
        with self._lock:
            for _ in range(2):
                if self._given_up:
                    return None
                try:
                    return action(self._open())
                except (sqlite3.OperationalError, sqlite3.InterfaceError, OSError):
                    # Locked for too long, read-only, disk full, no folder: do without this time.
                    self._given_up = self._connection is None
                    self._drop()
                    return None
                except sqlite3.DatabaseError:
                    self._replace()
            self._given_up = True
            return None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._owner == os.getpid():
            return self._connection
        # After a fork the parent's connection must not be used, nor closed, by the child.
        self._connection = None
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._owner = connection, os.getpid()
        return connection

    def _drop(self) -> None:
        if self._connection is not None and self._owner == os.getpid():
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _replace(self) -> None:
        self._drop()
        for suffix in ("", "-wal", "-shm", "-journal"):
            try:
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            except OSError:
                self._given_up = True


@dataclass(frozen=True)
class TextCounts:
    """Different texts that came from the cache, and that had to be encoded."""

    cached: int = 0
    encoded: int = 0


class TextVectors:
    """Text vectors of one space: from the cache where they are there, else from its encoder.

    load : loads the encoder; called at most once, and only when a text is missing.
    last, total : what the last call, and all calls, took from where.
    """

    def __init__(
        self, space: Space, load: Callable[[], Encoder], cache: TextVectorCache | None
    ) -> None:
        self.space = space
        self.last = TextCounts()
        self.total = TextCounts()
        self._load = load
        self._cache = cache
        self._encoder: Encoder | None = None
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows, in their order.

        Raises SpaceMismatchError if the encoder that was loaded is of another space, and what
        loading it raises.
        """
        different = list(dict.fromkeys(texts))
        known: dict[str, Float32] = {}
        if self._cache is not None and different:
            found = self._cache.get_many(different)
            known = {text: row for text, row in found.items() if self._is_sound(row)}
        missing = [text for text in different if text not in known]
        if missing:
            rows = self._loaded().encode_texts(missing)
            known.update(zip(missing, rows, strict=True))
            if self._cache is not None:
                self._cache.put_many(missing, rows)
        counts = TextCounts(len(different) - len(missing), len(missing))
        with self._lock:
            self.last = counts
            self.total = TextCounts(
                self.total.cached + counts.cached, self.total.encoded + counts.encoded
            )
        result = np.empty((len(texts), self.space.dim), dtype=np.float32)
        for position, text in enumerate(texts):
            result[position] = known[text]
        return result

    def _is_sound(self, row: Float32) -> bool:
        # A NaN fails the comparison too.
        return row.shape == (self.space.dim,) and bool(
            abs(float(np.linalg.norm(row)) - 1.0) < _UNIT_TOLERANCE
        )

    def _loaded(self) -> Encoder:
        with self._lock:
            if self._encoder is None:
                encoder = self._load()
                if encoder.space.fingerprint != self.space.fingerprint:
                    raise SpaceMismatchError(
                        f"expected text vectors of space {self.space.id}, "
                        f"but the model that was loaded gives {encoder.space.id}: "
                        f"name the model of the index, or index again with this one"
                    )
                self._encoder = encoder
            return self._encoder


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, from a file name for instance
        return False
    return True


def _prepare(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _SCHEMA_VERSION):
        raise sqlite3.DatabaseError(f"expected schema {_SCHEMA_VERSION}, got {version}")
    connection.execute("PRAGMA synchronous=NORMAL")
    if version == _SCHEMA_VERSION:
        return
    # Some network file systems cannot do WAL; the default journal is slower, not wrong.
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")
    with _transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS vectors (prompt TEXT PRIMARY KEY, vector BLOB NOT NULL)"
        )
        connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[Any]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
