"""An index in object storage, as a folder in the user's cache that stands for it: its mirror.

Tables are immutable by name, so each is fetched once, when it is first read, and stays. The
manifest is asked for again every time. What is written goes to the storage first and then here;
the manifest over the very state that was read, so that of two writers one learns that it was not
alone. Writers elsewhere cannot be locked out: every file of theirs has a name of its own, and
what nobody names is cleared away only once it is a day old. The mirror can be deleted any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from clipsearch.errors import IndexConflictError, IndexFormatError
from clipsearch.object_store import ETag, ObjectStore, RemoteFile, ReplacedError
from clipsearch.remote_urls import parse_url
from clipsearch.store import (
    MIRROR_MARK,
    TEMPORARY_PREFIX,
    LocalStore,
    make_folder,
    mirrors_folder,
    replace_file,
)

_MANIFEST = "manifest.json"
_COPY = "manifest.copy.json"
_ASKED_AGAIN = (_MANIFEST, _COPY)
_AT_ONCE = 4
_GRACE_SECONDS = 86_400.0  # no writer takes so long from a table to the manifest that names it
_UUID = re.compile(rb'"uuid": "([0-9a-f-]{36})"')
_TABLES = ("images", "embeddings", "paths", "skipped", "deleted")

_lock = threading.Lock()
_seen: dict[tuple[Path, str], tuple[bytes, ETag]] = {}
"""What was last read of a file that is asked for again, and its state."""
_to_replace: dict[tuple[Path, str], ETag | None] = {}
"""What a writer of this process has read in order to replace it; None for nothing there."""
_urls: dict[str, str] = {}
"""The mirrors that this process has opened, by folder."""


def mirror_folder(url: object) -> Path:
    """The mirror of an index at ``url``, made when it is not there; asks nobody.

    Raises OptionError for a URL that is none, OSError.
    """
    parts = parse_url(url)
    # One bucket of this name at every server.
    endpoints = [os.environ.get(f"AWS_ENDPOINT_URL{of}", "") for of in ("", "_S3")]
    token = hashlib.sha256("\n".join([str(parts), *endpoints]).encode()).hexdigest()[:16]
    folder = mirrors_folder() / token / re.sub(r"[^\w.-]", "_", parts.name)
    mark = folder / MIRROR_MARK
    if not mark.is_file():
        make_folder(folder)
        replace_file(mark, json.dumps({"url": str(parts)}).encode())
    _urls[str(folder)] = str(parts)
    return folder


def mirror_of(url: object) -> Path:
    """``mirror_folder``, with the manifest that is in storage now, or none where none is.

    Raises RemoteError, MissingExtraError, and as ``mirror_folder``.
    """
    folder = mirror_folder(url)
    with contextlib.suppress(FileNotFoundError):
        MirrorStore(folder).get(_MANIFEST)
    return folder


def url_of(folder: Path) -> str | None:
    """The URL that a mirror is of; None where its mark is damaged."""
    try:
        document = json.loads((folder / MIRROR_MARK).read_bytes())
        url = str(parse_url(document["url"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    _urls[str(folder)] = url
    return url


def named_by_urls(text: str) -> str:
    """``text`` for a person: mirrors by their URLs. Nobody named the folder."""
    for folder, url in _urls.items():
        text = text.replace(folder, url)
    return text


@functools.lru_cache(maxsize=64)
def _opened(url: str, endpoints: tuple[str, ...]) -> ObjectStore:
    return ObjectStore(url)


class MirrorStore(LocalStore):
    """The store of an index in object storage. root : its mirror."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        url = url_of(root)
        if url is None:
            raise IndexFormatError(
                f"{root / MIRROR_MARK} does not say which index this is: delete {root}"
            )
        self.url = url
        self._sizes: dict[str, int] | None = None
        names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
        self.remote = _opened(url, tuple(os.environ.get(name, "") for name in names))

    @property
    def place(self) -> str:
        return self.url

    # -- reading ------------------------------------------------------------------------

    def get(self, name: str) -> bytes:
        if name in _ASKED_AGAIN:
            return self._newest(name)[0]
        return self.local(name).read_bytes()

    def get_to_replace(self, name: str) -> bytes:
        key = (self.root, name)
        try:
            data, etag = self._newest(name)
        except FileNotFoundError:
            _to_replace[key] = None
            raise
        _to_replace[key] = etag
        return data

    def _newest(self, name: str) -> tuple[bytes, ETag]:
        key = (self.root, name)
        with _lock:
            known = _seen.get(key)
        try:
            fresh = None if known is None else self.remote.get_if_changed(name, known[1])
            if known is None:
                fresh = self.remote.get_with_etag(name)
        except FileNotFoundError:
            with _lock:
                _seen.pop(key, None)
            if name == _MANIFEST and self.path(name).exists():
                self._clear()  # whatever is there next may use the same names
            self.path(name).unlink(missing_ok=True)
            raise
        if fresh is None:
            assert known is not None
            return known
        if name == _MANIFEST:
            self._keep_to(fresh[0])
        self._note(name, *fresh)
        return fresh

    def _note(self, name: str, data: bytes, etag: ETag) -> None:
        """Remember what is in storage now; the copy here is for who looks whether it is there."""
        with _lock:
            _seen[self.root, name] = (data, etag)
        with contextlib.suppress(FileNotFoundError):
            if self.path(name).read_bytes() == data:
                return
        replace_file(self.path(name), data)

    def _keep_to(self, manifest: bytes) -> None:
        """Clear the mirror of what belongs to an index that was at the URL before, and of what
        newer tables have replaced."""
        try:
            there = self.path(_MANIFEST).read_bytes()
        except FileNotFoundError:
            return
        before, now = _UUID.search(there), _UUID.search(manifest)
        if before is not None and now is not None and before[1] != now[1]:
            self._clear()
        elif there != manifest:
            self._clear_old(manifest)

    def _clear(self) -> None:
        for folder in (*_TABLES, "cache"):
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def _clear_old(self, manifest: bytes) -> None:
        """Remove tables that the manifest does not name, and parts of a download that was killed,
        once nobody can be about to need them: as in storage, after a day."""
        before = time.time() - _GRACE_SECONDS
        for folder in _TABLES:
            for file in (self.root / folder).rglob("*"):
                name = file.relative_to(self.root).as_posix()
                if json.dumps(name).encode() not in manifest:
                    with contextlib.suppress(OSError):  # still mapped by a reader on Windows
                        if file.is_file() and file.stat().st_mtime < before:
                            file.unlink()

    def bring(self, sizes: Mapping[str, int | None]) -> None:
        wanted = [name for name, size in sizes.items() if not self._is_here(name, size)]
        if len(wanted) <= 1:
            for name in wanted:
                self._fetch(name)
            return
        with ThreadPoolExecutor(_AT_ONCE, "clipsearch-fetch") as pool:
            fetched = [pool.submit(self._fetch, name) for name in wanted]
            try:
                for one in fetched:
                    one.result()
            except BaseException:
                for one in fetched:
                    one.cancel()
                raise

    def _is_here(self, name: str, size: int | None) -> bool:
        try:
            found = self.path(name).stat().st_size
        except OSError:
            return False
        return size is None or found == size

    def _fetch(self, name: str) -> None:
        target = self.path(name)
        make_folder(target.parent)
        with contextlib.suppress(FileNotFoundError):  # whoever reads it says that it is lost
            self.remote.download(name, target)

    def local(self, name: str) -> Path:
        self.bring({name: None})
        return self.path(name)

    def look_again(self, names: Iterable[str]) -> None:
        self._sizes = None
        for name in names:
            try:
                is_same = self.size(name) == self.path(name).stat().st_size
            except FileNotFoundError:
                is_same = False
            if not is_same:
                self.path(name).unlink(missing_ok=True)

    def bring_again(self, name: str) -> bool:
        self.path(name).unlink(missing_ok=True)
        self.bring({name: None})
        return self.path(name).is_file()

    def size(self, name: str) -> int:
        if self._sizes is None:
            self._sizes = {file.name: file.size for of in _TABLES for file in self._files(of)}
        try:
            return self._sizes[name]
        except KeyError:
            raise FileNotFoundError(2, os.strerror(2), name) from None

    def open_mapped(self, name: str) -> pa.NativeFile:
        self.bring({name: None})
        return super().open_mapped(name)

    def list(self, folder: str) -> list[str]:
        return sorted(file.name for file in self._files(folder))

    def _files(self, folder: str) -> Iterable[RemoteFile]:
        for file in self.remote.list(folder):
            if not file.name.rpartition("/")[2].startswith(TEMPORARY_PREFIX):
                yield file

    # -- writing ------------------------------------------------------------------------

    def unused(self, name: str) -> str:
        """``images/00012.parquet`` -> ``images/00012-3f9a1c0b.parquet``: two writers must not
        meet in one name, or the one that loses would spoil what the other has committed."""
        folder, _, file = name.rpartition("/")
        stem = re.match(r"\d*", file)
        assert stem is not None
        rest = file[stem.end() :]
        return f"{folder}/{stem[0]}-{secrets.token_hex(4)}{rest}"

    def put_if_absent(self, name: str, data: bytes | pa.Buffer) -> None:
        self.path(name)  # refuses a name that leads out
        self.remote.put_if_absent(name, _plain(data))
        replace_file(self.path(name), data)

    def replace(self, name: str, data: bytes | pa.Buffer) -> None:
        self.path(name)
        if name == _MANIFEST:
            self._commit(name, bytes(data))
        else:
            etag = self.remote.replace(name, _plain(data))
            if name in _ASKED_AGAIN:
                self._note(name, bytes(data), etag)
            else:
                replace_file(self.path(name), data)

    def _commit(self, name: str, data: bytes) -> None:
        key = (self.root, name)
        known = _to_replace.get(key)
        try:
            if known is None:
                etag = self.remote.put_if_absent(name, data)
            else:
                etag = self.remote.replace(name, data, known)
        except (FileExistsError, ReplacedError):
            _to_replace.pop(key, None)
            raise IndexConflictError(
                f"another writer has committed to {self.url} meanwhile: run the same command again"
            ) from None
        _to_replace[key] = etag
        self._note(name, data, etag)

    def delete(self, name: str) -> None:
        self.remote.delete(name)
        super().delete(name)

    def leftovers(self, folders: Iterable[str], named: set[str]) -> Sequence[str]:
        before = (time.time() - _GRACE_SECONDS) * 1e9
        return sorted(
            file.name
            for folder in folders
            for file in self._files(folder)
            if file.name.endswith(".parquet") and file.name not in named and file.mtime_ns < before
        )


def _plain(data: bytes | pa.Buffer) -> bytes | memoryview:
    return data if isinstance(data, bytes) else memoryview(data).cast("B")
