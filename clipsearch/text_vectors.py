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
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from clipsearch.encoder import Float32, Space
from clipsearch.errors import SpaceMismatchError, TextCacheError

_SCHEMA_VERSION = 1
_BUSY_SECONDS = 5.0
_PAGE_BYTES = 16384
_LOOKUP = 500  # SQLite of old takes 999 variables a statement
_UNIT_TOLERANCE = 1e-3
_CHUNK_SECONDS = 2.0  # of encoding, which is what an interruption loses at most
_FIRST_CHUNK, _LARGEST_CHUNK = 64, 8192

T = TypeVar("T")


def default_cache_path(fingerprint: str, cache_dir: Path | None = None) -> Path:
    """Where the text vectors of the space with this fingerprint live.

    cache_dir : the program's cache folder; None takes the system's place for it.
    """
    if cache_dir is None:
        import platformdirs

        cache_dir = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    return cache_dir / "text" / f"{fingerprint[:16]}.sqlite"


class EncodesText(Protocol):
    """What turns texts into vectors of a space: an ``Encoder``, or a ``TextTower``."""

    @property
    def space(self) -> Space: ...

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows."""
        ...


class TextVectorCache:
    """Exact prompt -> float32 vector, in one SQLite file. Safe for threads and processes.

    A file that cannot be opened or written is done without; a damaged or foreign one is replaced.
    fingerprint : of the space whose texts these are; a file of another one is foreign. None where
    the file's name says which.
    """

    def __init__(self, path: str | Path, fingerprint: str | None = None) -> None:
        self.path = Path(path)
        self.fingerprint = fingerprint
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._given_up = False

    def get_many(self, texts: Sequence[str]) -> dict[str, Float32]:
        """The cached ones among ``texts``, each with its vector (dim,)."""
        return {
            text: np.frombuffer(blob, "<f4").astype(np.float32)
            for text, blob in self.get_bytes(texts).items()
        }

    def get_bytes(self, texts: Sequence[str]) -> dict[str, bytes]:
        """The cached ones among ``texts``, each with its vector as little-endian float32."""
        wanted = [text for text in dict.fromkeys(texts) if _storable(text)]

        def read(connection: sqlite3.Connection) -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                query = f"SELECT prompt, vector FROM vectors WHERE prompt IN ({marks})"
                for prompt, blob in connection.execute(query, part):
                    if isinstance(blob, bytes) and len(blob) % 4 == 0:
                        found[prompt] = blob
            return found

        return (self._attempt(read) if wanted else None) or {}

    def put_many(self, texts: Sequence[str], vectors: Float32) -> bool:
        """Keep the rows of ``vectors`` (n, dim) under the n ``texts``; whether they are kept.

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

        return not pairs or bool(self._attempt(write))

    def can_keep(self) -> bool:
        """Whether the file can be written now."""

        def try_it(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                return True

        return bool(self._attempt(try_it))

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
            if self.fingerprint is not None:
                _claim(connection, self.fingerprint)
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
    """Text vectors of one space: from the cache where they are there, else from what encodes.

    load : loads that; called at most once, and only when a text is missing.
    last, total : what the last call, and all calls, took from where.
    on_progress : called while texts are encoded with how many are done, and of how many.
    """

    def __init__(
        self, space: Space, load: Callable[[], EncodesText], cache: TextVectorCache | None
    ) -> None:
        self.space = space
        self.last = TextCounts()
        self.total = TextCounts()
        self.on_progress: Callable[[int, int], None] | None = None
        self._load = load
        self._cache = cache
        self._encoder: EncodesText | None = None
        self._lock = threading.Lock()

    def encode(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows, in their order.

        What is encoded is kept every few seconds: after an interruption the same call goes on
        from there. Raises SpaceMismatchError if the encoder that was loaded is of another
        space, and what loading it raises.
        """
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        rows = np.empty((len(places), self.space.dim), dtype=np.float32)
        missing = self._remembered(places, rows)
        for first, encoded in self._encoded(missing):
            part = missing[first : first + len(encoded)]
            rows[[places[text] for text in part]] = encoded
        self._count(TextCounts(len(places) - len(missing), len(missing)))
        if len(places) == len(texts):
            return rows
        repeated: Float32 = rows[[places[text] for text in texts]]
        return repeated

    def keep(self, texts: Sequence[str]) -> TextCounts:
        """See that all of ``texts`` are in the cache; how many were, and how many came to it.

        Takes no more memory than a chunk of them. Raises TextCacheError as soon as they cannot
        be kept, and as ``encode`` does.
        """
        if self._cache is None or not self._cache.can_keep():
            raise self._not_kept()
        different = list(dict.fromkeys(texts))
        missing: list[str] = []
        for start in range(0, len(different), _LARGEST_CHUNK):
            part = different[start : start + _LARGEST_CHUNK]
            rows = np.empty((len(part), self.space.dim), dtype=np.float32)
            missing += self._remembered({text: i for i, text in enumerate(part)}, rows)
        for _ in self._encoded(missing, must_keep=True):
            pass
        counts = TextCounts(len(different) - len(missing), len(missing))
        self._count(counts)
        return counts

    def _count(self, counts: TextCounts) -> None:
        with self._lock:
            self.last = counts
            self.total = TextCounts(
                self.total.cached + counts.cached, self.total.encoded + counts.encoded
            )

    def _remembered(self, places: dict[str, int], rows: Float32) -> list[str]:
        """Put what the cache has of the texts into their rows; the texts it has not."""
        if self._cache is None or not places:
            return list(places)
        length = 4 * self.space.dim
        found = self._cache.get_bytes(list(places))
        known = {text: blob for text, blob in found.items() if len(blob) == length}
        if known:
            stored = np.frombuffer(b"".join(known.values()), "<f4").reshape(len(known), -1)
            with np.errstate(over="ignore"):
                norms = np.sqrt(np.einsum("ij,ij->i", stored, stored))
            sound = np.abs(norms - 1) < _UNIT_TOLERANCE  # not a number is not
            rows[[places[text] for text in known]] = stored
            for text, is_sound in zip(list(known), sound.tolist(), strict=True):
                if not is_sound:
                    del known[text]
        return [text for text in places if text not in known]

    def _encoded(self, texts: list[str], must_keep: bool = False) -> Iterator[tuple[int, Float32]]:
        """Encode and keep some seconds' worth of texts at a time: the first one's place, and
        the rows."""
        if not texts:
            return
        encoder = self._loaded()
        first, step = 0, _FIRST_CHUNK
        while first < len(texts):
            if self.on_progress is not None:
                self.on_progress(first, len(texts))
            begin = time.perf_counter()
            part = texts[first : first + step]
            rows = encoder.encode_texts(part)
            is_kept = self._cache is not None and self._cache.put_many(part, rows)
            if must_keep and not is_kept:
                raise self._not_kept()
            yield first, rows
            first += len(part)
            rate = len(part) / max(time.perf_counter() - begin, 1e-6)
            step = max(1, min(_LARGEST_CHUNK, 4 * step, int(rate * _CHUNK_SECONDS)))
        if self.on_progress is not None:
            self.on_progress(len(texts), len(texts))

    def _not_kept(self) -> TextCacheError:
        place = "a file for them" if self._cache is None else str(self._cache.path)
        return TextCacheError(
            f"cannot keep text vectors in {place}: expected a folder that can be written, with "
            "room on its disk"
        )

    def _loaded(self) -> EncodesText:
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
    # Rows of 2 to 4 KB would each leave half a page of the usual 4 KB empty.
    connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
    # Some network file systems cannot do WAL; the default journal is slower, not wrong.
    with contextlib.suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode=WAL")
    with _transaction(connection):
        connection.execute(
            "CREATE TABLE IF NOT EXISTS vectors (prompt TEXT PRIMARY KEY, vector BLOB NOT NULL)"
        )
        connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")


def _claim(connection: sqlite3.Connection, fingerprint: str) -> None:
    """Note whose texts these are, or raise DatabaseError for a file that is another space's."""
    mine = zlib.crc32(fingerprint.encode()) >> 1  # the field has 32 bits and a sign
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    if owner not in (0, mine):
        raise sqlite3.DatabaseError("the texts are those of another space")
    if owner == 0:
        with contextlib.suppress(sqlite3.OperationalError):  # which may be read and not written
            connection.execute(f"PRAGMA application_id={mine}")


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
