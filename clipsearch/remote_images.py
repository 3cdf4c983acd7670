"""Image files in object storage: listed, looked at and read by their URLs.

A read is a ranged GET of one byte more than the object should have, so that one which was replaced
by a larger one is told from what was listed. Whether one object or all of its bucket is out of
reach makes a difference: an image is skipped for the one, and a run ends with the other.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from clipsearch.errors import ClipsearchError, ImageError, RemoteError
from clipsearch.remote_urls import RemoteUrl, parse_url

if TYPE_CHECKING:
    from clipsearch.object_store import ObjectStore, RemoteFile

_PART_BYTES = 16 << 20
_CHANGED = "the object changed while it was read: run again"


@functools.lru_cache(maxsize=64)
def _opened(url: str) -> ObjectStore:
    from clipsearch.object_store import ObjectStore  # and with it obstore, only when needed

    return ObjectStore(url)


def _store(url: str) -> ObjectStore:
    # Here, where everything comes by: roots of an index lead to a network that nobody named.
    if os.environ.get("CLIPSEARCH_OFFLINE", "") not in ("", "0"):
        raise RemoteError(f"CLIPSEARCH_OFFLINE forbids the network, and {url} is not here")
    return _opened(url)


def forget_connections() -> None:
    """Open buckets anew from here on, as the environment says by then."""
    _opened.cache_clear()


def _place(url: object) -> tuple[ObjectStore, str]:
    """The store of the bucket, and the name in it."""
    parts = parse_url(url)
    return _store(str(RemoteUrl(parts.scheme, parts.bucket, ""))), parts.prefix


def list_objects(folder: object) -> Iterator[RemoteFile]:
    """All objects below ``folder``, as they come, by their names below it. Raises RemoteError."""
    yield from _store(str(parse_url(folder))).list()


def holds_objects(folder: object) -> bool:
    """Whether there is anything below ``folder``. Raises RemoteError."""
    return next(list_objects(folder), None) is not None


def find_object(url: object) -> RemoteFile | None:
    """Size and time of the object at ``url``, None where there is none. Raises RemoteError."""
    store, name = _place(url)
    try:
        return store.head(name) if name else None
    except FileNotFoundError:
        return None


def bucket_trouble(url: object) -> ClipsearchError | None:
    """Why nothing can be had at ``url`` and around it now; None where its bucket answers.

    Asked by listing what lies below ``url``, which may be nothing: whoever may come to one folder
    of a bucket is as a rule not allowed to list all of it.
    """
    try:
        store, name = _place(url)
        next(store.list(name), None)
    except ClipsearchError as error:  # among them that the extra is not installed
        return error
    return None


def read_object(url: object, size: int | None = None, most: int | None = None) -> bytes:
    """The bytes of the object at ``url``.

    size : how many it should have, where that is known. most : refuse one that has more.

    Raises ImageError (vanished, unreadable, too_large) of the object, and RemoteError where the
    whole bucket is out of reach.
    """
    store, name = _place(url)
    try:
        if size is None:
            size = store.head(name).size
        if most is not None and size > most:
            raise ImageError("too_large", f"the file has more than {most >> 20} MiB")
        data = _read(store, name, size)
    except FileNotFoundError as error:
        raise ImageError("vanished", "the object is not there any more") from error
    except RemoteError as error:
        if bucket_trouble(url) is not None:
            raise
        raise ImageError("unreadable", f"the object cannot be read: {error}") from error
    if len(data) != size:
        raise ImageError("unreadable", _CHANGED)
    return data


def _read(store: ObjectStore, name: str, size: int) -> bytes:
    from clipsearch.object_store import ReplacedError

    if size <= _PART_BYTES:
        # No range of an empty object can be asked for.
        return store.read_range(name, 0, size + 1) if size else store.get(name)
    found = store.head(name)
    if found.size != size:
        return b""
    try:
        return b"".join(
            store.read_range(name, start, min(_PART_BYTES, size - start), found.etag)
            for start in range(0, size, _PART_BYTES)
        )
    except ReplacedError:
        return b""


def read_beginning(url: object, length: int) -> bytes | None:
    """Up to ``length`` bytes that the object at ``url`` begins with; None where it cannot be
    read. Raises RemoteError where the whole bucket is out of reach."""
    store, name = _place(url)
    try:
        return store.read_range(name, 0, length)
    except FileNotFoundError:
        return None
    except RemoteError:
        if bucket_trouble(url) is not None:
            raise
        return None
