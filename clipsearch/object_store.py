"""Object storage at ``s3://``, ``gs://`` and ``az://``: the only import of ``obstore``.

Credentials come from the environment alone (AWS_*, GOOGLE_*, AZURE_*). What fails for a moment is
tried again, each time after a longer wait. A write is whole or not there; one that is conditional
says so when somebody else was quicker.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clipsearch.errors import MissingExtraError, RemoteAccessError, RemoteError
from clipsearch.remote_urls import join_url, parse_url

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")

TEMPORARY_PREFIX = ".tmp-"
"""As in clipsearch.store, which this module can do without."""
_PART_BYTES = 8 << 20
_AT_ONCE = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RETRIES = 6
_LONGEST_WAIT = timedelta(seconds=10)
_GIVE_UP = timedelta(seconds=120)
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_REGION, AWS_ENDPOINT_URL)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


@dataclass(frozen=True)
class ETag:
    """One state of an object, as the storage calls it. Two that are equal are the same bytes."""

    etag: str | None
    version: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """An object by its name below the URL of its store. size : bytes. mtime_ns : when it was
    last written, nanoseconds since 1970."""

    name: str
    size: int
    mtime_ns: int
    etag: ETag


class ReplacedError(Exception):
    """A conditional write or read found another state of the object than the one named."""


class ObjectStore:
    """The objects below one URL, by names with ``/`` between their parts.

    Threads may share one; to another process only its URL goes. Everything raises RemoteError
    where the storage cannot be reached, RemoteAccessError where it forbids what was asked.

    retries : how often a request is tried again that failed for a moment, 6 times where None.

    Raises OptionError for a URL that is none, MissingExtraError without ``obstore``.
    """

    def __init__(self, url: object, *, retries: int | None = None) -> None:
        self._url = parse_url(url)
        self._retries = _RETRIES if retries is None else retries
        self.url = str(self._url)
        self._obstore = _obstore()
        try:
            self._store = self._opened()
        except Exception as error:  # without an account, or with settings that make no sense
            raise self._told(error, "") from None

    def __reduce__(self) -> tuple[Callable[..., ObjectStore], tuple[str]]:
        return (ObjectStore, (self.url,))

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    def _opened(self) -> Any:
        import obstore.store as stores

        scheme, bucket = self._url.scheme, self._url.bucket
        settings: dict[str, Any] = {
            "retry_config": {
                "max_retries": self._retries,
                "retry_timeout": _GIVE_UP,
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": _LONGEST_WAIT,
                    "base": 2,
                },
            },
            # The whole of a request, with a large body over a slow line.
            "client_options": {"timeout": timedelta(minutes=10), "allow_http": _may_be_plain()},
        }
        if self._url.prefix:
            settings["prefix"] = self._url.prefix
        if scheme == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")
            if endpoint:
                settings["endpoint"] = endpoint
            return stores.S3Store(bucket, **settings)
        if scheme == "gs":
            return stores.GCSStore(bucket, **settings)
        return stores.AzureStore(bucket, **settings)

    # -- reading ------------------------------------------------------------------------

    def get(self, name: str) -> bytes:
        """All bytes of ``name``; FileNotFoundError when it is not there."""
        return self.get_with_etag(name)[0]

    def get_with_etag(self, name: str) -> tuple[bytes, ETag]:
        """All bytes of ``name`` and what state they are; FileNotFoundError."""
        return self._ask(name, lambda: self._read(name, None))

    def get_if_changed(self, name: str, etag: ETag) -> tuple[bytes, ETag] | None:
        """As ``get_with_etag``; None where it is still in the state ``etag``."""
        try:
            return self._ask(name, lambda: self._read(name, {"if_none_match": etag.etag}))
        except self._obstore.exceptions.NotModifiedError:
            return None

    def _read(self, name: str, options: dict[str, Any] | None) -> tuple[bytes, ETag]:
        result = self._obstore.get(self._store, name, options=options)
        return bytes(result.bytes()), _etag(result.meta)

    def read_range(self, name: str, start: int, length: int, etag: ETag | None = None) -> bytes:
        """Up to ``length`` bytes of ``name`` from ``start`` on, fewer where it ends before.

        etag : the state that is meant; ReplacedError where it is in another. FileNotFoundError.
        """
        if length <= 0:
            return b""
        options: dict[str, Any] = {"range": (start, start + length)}
        if etag is not None and etag.etag is not None:
            options["if_match"] = etag.etag

        def ask() -> bytes:
            return bytes(self._obstore.get(self._store, name, options=options).bytes())

        return self._ask(name, ask)

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several (start, length) of ``name``, several at a time; near ones in one request.

        Every range must lie inside the object. FileNotFoundError.
        """
        if not ranges:
            return []
        starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]

        def ask() -> list[bytes]:
            found = self._obstore.get_ranges(self._store, name, starts=starts, lengths=lengths)
            return [bytes(part) for part in found]

        return self._ask(name, ask)

    def head(self, name: str) -> RemoteFile:
        """Size, time and state of ``name``; FileNotFoundError."""
        return self._ask(name, lambda: _file(self._obstore.head(self._store, name)))

    def list(self, folder: str = "") -> Iterator[RemoteFile]:
        """The objects below ``folder`` ("" for all), as they come, page by page.

        Markers of folders, which hold nothing, are left out.
        """
        stream = self._ask(folder, lambda: self._obstore.list(self._store, folder or None))
        while True:
            page = self._ask(folder, functools.partial(next, stream, None))
            if page is None:
                return
            for meta in page:
                if meta["size"] or not meta["path"].endswith("/"):
                    yield _file(meta)

    def download(self, name: str, path: Path) -> RemoteFile:
        """Write ``name`` to the new or replaced file ``path``, a large one in several parts at a
        time; whole or not at all.

        FileNotFoundError, OSError of the disk.
        """
        temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        try:
            with open(temporary, "xb") as file:
                found, data = self._ask(name, lambda: self._first_part(name))
                file.write(data)
                if found.size > len(data):
                    file.truncate(found.size)
                    self._fetch_parts(found, temporary, len(data))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        return found

    def _first_part(self, name: str) -> tuple[RemoteFile, bytes]:
        """What an object is, and its first bytes: all of a small one, in one request."""
        try:
            result = self._obstore.get(self._store, name, options={"range": (0, _PART_BYTES)})
        except self._obstore.exceptions.GenericError as error:
            if "416" not in str(error) and "InvalidRange" not in str(error):
                raise
            result = self._obstore.get(self._store, name)  # an empty one has no first byte
        return _file(result.meta), bytes(result.bytes())

    def _fetch_parts(self, found: RemoteFile, path: Path, done: int) -> None:
        def fetch(start: int) -> None:
            length = min(_PART_BYTES, found.size - start)
            try:
                data = self.read_range(found.name, start, length, found.etag)
            except ReplacedError:
                data = b""
            if len(data) != length:
                raise RemoteError(
                    f"{join_url(self.url, found.name)} changed while it was read: run again"
                )
            with open(path, "r+b") as file:
                file.seek(start)
                file.write(data)

        with ThreadPoolExecutor(_AT_ONCE, "clipsearch-download") as pool:
            parts = [pool.submit(fetch, start) for start in range(done, found.size, _PART_BYTES)]
            try:
                for part in parts:
                    part.result()
            except BaseException:
                for part in parts:
                    part.cancel()
                raise

    # -- writing ------------------------------------------------------------------------

    def put_if_absent(self, name: str, data: bytes | memoryview) -> ETag:
        """Write ``name``; FileExistsError when it is there already, with other bytes.

        With the same bytes it is as a rule this very write, whose answer was lost.
        """

        def ask() -> Any:
            return self._obstore.put(self._store, name, data, mode="create")

        try:
            return _etag(self._ask(name, ask))
        except self._obstore.exceptions.AlreadyExistsError:
            written = self._written(name, data)
            if written is not None:
                return written
            raise FileExistsError(join_url(self.url, name)) from None

    def replace(self, name: str, data: bytes | memoryview, etag: ETag | None = None) -> ETag:
        """Write ``name``, whether or not it is there already.

        etag : write it only over this state, and raise ReplacedError where it is in another, or
        gone.
        """
        mode: Any = "overwrite"
        if etag is not None:
            known = {"e_tag": etag.etag, "version": etag.version}
            mode = {key: value for key, value in known.items() if value is not None}

        def ask() -> Any:
            return self._obstore.put(self._store, name, data, mode=mode)

        try:
            return _etag(self._ask(name, ask))
        except (ReplacedError, FileNotFoundError):
            # Where only the answer to this very write was lost, a second try finds itself.
            written = self._written(name, data)
            if etag is not None and written is not None:
                return written
            raise ReplacedError(join_url(self.url, name)) from None

    def upload(self, path: Path, name: str) -> ETag:
        """Write the file ``path`` as ``name``, a large one in parts; nothing is seen of it before
        the last part is there."""

        def ask() -> Any:
            return self._obstore.put(
                self._store, name, path, chunk_size=_PART_BYTES, max_concurrency=_AT_ONCE
            )

        return _etag(self._ask(name, ask))

    def delete(self, *names: str) -> None:
        """Remove objects; nothing happens with those that are not there."""
        if names:
            with contextlib.suppress(FileNotFoundError):
                self._ask(names[0], lambda: self._obstore.delete(self._store, [*names]))

    def _written(self, name: str, data: bytes | memoryview) -> ETag | None:
        """The state of ``name`` where it holds ``data``."""
        try:
            there, etag = self.get_with_etag(name)
        except FileNotFoundError:
            return None
        return etag if there == bytes(data) else None

    # -- errors -------------------------------------------------------------------------

    def _ask(self, name: str, ask: Callable[[], T]) -> T:
        """What ``ask`` gives; errors of the library as those of this one."""
        errors = self._obstore.exceptions
        try:
            return _interruptible(ask)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise self._told(error, name) from None
            raise FileNotFoundError(2, "not there", join_url(self.url, name)) from None
        except errors.PreconditionError:
            raise ReplacedError(join_url(self.url, name)) from None
        except (errors.AlreadyExistsError, errors.NotModifiedError):
            raise
        except (errors.BaseError, ValueError) as error:
            raise self._told(error, name) from None

    def _told(self, error: Exception, name: str) -> RemoteError:
        """One line for an error of the library, which tells of requests and their headers."""
        text, scheme = str(error), self._url.scheme
        place = join_url(self.url, name)
        variables = f"set {_VARIABLES[scheme]} in the environment"
        kind = type(error).__name__
        if "NoSuchBucket" in text or "ContainerNotFound" in text:
            return RemoteError(f"there is no bucket {scheme}://{self._url.bucket}: make it first")
        if _without_credentials(text):
            return RemoteAccessError(f"no credentials for {place}: {variables}")
        if kind in ("UnauthenticatedError", "PermissionDeniedError") or "403 Forbidden" in text:
            return RemoteAccessError(
                f"no access to {place}{_code(text)}: {variables}, or ask for it"
            )
        if kind in ("InvalidPathError", "ValueError"):
            first = text.split("\n")[0]
            return RemoteError(f"{place} holds a name that cannot be used: {first}")
        return RemoteError(f"cannot reach {place}: {_reason(text)}")


def _interruptible(ask: Callable[[], T]) -> T:
    """What ``ask`` gives. While the library waits for a network it hears no Ctrl-C, so the thread
    that would hear it lets another one wait."""
    if threading.current_thread() is not threading.main_thread():
        return ask()
    done: Future[T] = Future()

    def carry_out() -> None:
        try:
            result = ask()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    threading.Thread(target=carry_out, name="clipsearch-storage", daemon=True).start()
    return done.result()


@functools.cache
def _obstore() -> ModuleType:
    try:
        import obstore
        import obstore.exceptions
    except ImportError:
        raise MissingExtraError(
            "object storage needs an extra: pip install 'clipsearch[cloud]'"
        ) from None
    return obstore


def _may_be_plain() -> bool:
    """Whether the user's own endpoint is plain HTTP, as that of a server on this machine is."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT")
    named = any(os.environ.get(name, "").startswith("http://") for name in names)
    return named or os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() == "true"


def _etag(meta: Any) -> ETag:
    version = meta["version"]  # S3 calls the only one of a bucket without versions "null"
    return ETag(meta["e_tag"], None if version == "null" else version)


def _file(meta: Any) -> RemoteFile:
    # In whole microseconds: a float of so many nanoseconds would round differently each time.
    since = meta["last_modified"] - _EPOCH
    mtime_ns = (since // timedelta(microseconds=1)) * 1000
    return RemoteFile(meta["path"], meta["size"], mtime_ns, _etag(meta))


def _without_credentials(text: str) -> bool:
    # The address at which a rented machine would be asked for credentials of its own.
    signs = (
        "169.254.169.254",
        "metadata.google.internal",
        "Account must be specified",
        "Missing AccessKeyId",
        "Missing SecretAccessKey",
    )
    return any(sign in text for sign in signs)


def _code(text: str) -> str:
    found = re.search(r"<Code>(\w+)</Code>", text)
    return f" ({found[1]})" if found else ""


def _reason(text: str) -> str:
    """The beginning of what the library says, without what is there for its developers."""
    first = " ".join(re.split(r"\n|Debug source", text)[0].split())
    found = re.search(r"Server returned non-2xx status code: ([^:]*)", first)
    if found:
        return found[1].strip() + _code(text)
    if "error sending request" in first or "dns error" in text:
        return "no connection; see to the network and the endpoint"
    return first[:200]
