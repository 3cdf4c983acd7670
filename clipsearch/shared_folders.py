"""What people save in an index - label sets, discoveries, searches - where the index is a mirror.

These are files in folders: JSON that is replaced, and tables of names that are never used again.
A folder of a mirror is brought up to what is in storage before it is looked at; its tables come
when they are read. Who writes does so in ``shared_writes``: at its end tables go up first, and
then each JSON, over the very state that was there at the beginning. For any other index nothing
here does anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.errors import IndexConflictError, IndexLockedError
from clipsearch.store import TEMPORARY_PREFIX, is_mirror, make_folder, replace_file

if TYPE_CHECKING:
    from clipsearch.mirror_store import MirrorStore
    from clipsearch.object_store import ETag

_LOCK_NAME = ".remote.lock"
_FRESH_SECONDS = 5.0
_WAIT_SECONDS = 30.0
_COME_AT_ONCE = (".json", ".version")
_REPLACED = (*_COME_AT_ONCE, "map.parquet")
_LARGE = 8 << 20
_AT_ONCE = 8

_looked: dict[tuple[Path, str], float] = {}
_open: dict[tuple[Path, str], _SharedFolder] = {}
"""The folders that this process is writing to."""


def shared_folder(index: Path, name: str) -> Path:
    """The folder ``name`` of an index, with what is in storage now where it is a mirror.

    Raises RemoteError.
    """
    key = (index, name)
    if key in _open or not is_mirror(index):
        return index / name
    now = time.monotonic()
    if now - _looked.get(key, -_FRESH_SECONDS) >= _FRESH_SECONDS:
        with contextlib.suppress(IndexLockedError), _lock(index, 0.0):  # else it is being written
            _SharedFolder(index, name).pull()
        _looked[key] = now
    return index / name


@contextlib.contextmanager
def shared_writes(index: Path, *names: str) -> Iterator[None]:
    """For as long as folders of an index are written to; what was, is in storage afterwards.

    Where the body fails, nothing goes up, and what it left here goes with the next look.

    Raises IndexConflictError where somebody elsewhere has changed the same meanwhile,
    IndexLockedError, RemoteError.
    """
    if not is_mirror(index):
        yield
        return
    with _lock(index, _WAIT_SECONDS):
        folders = [_SharedFolder(index, name) for name in names]
        try:
            for name, folder in zip(names, folders, strict=True):
                folder.pull()
                _open[index, name] = folder
            yield
            _push(folders)
        finally:
            for name in names:
                _open.pop((index, name), None)
                _looked.pop((index, name), None)


def fetched(path: Path) -> Path:
    """``path``, a file in such a folder, fetched where only storage has it yet."""
    index = path.parent.parent
    if path.exists() or not is_mirror(index):
        return path
    folder = _open.get((index, path.parent.name)) or _SharedFolder(index, path.parent.name)
    folder.fetch(path.name)
    return path


def file_names(folder: Path) -> list[str]:
    """The names of the files in such a folder, those that only storage has among them.

    FileNotFoundError where there is no such folder.
    """
    here = os.listdir(folder)
    if not is_mirror(folder.parent):
        return here
    shared = _open.get((folder.parent, folder.name)) or _SharedFolder(folder.parent, folder.name)
    return sorted({*here, *shared.names()})


def remove_file(path: Path, *, missing_ok: bool = False) -> None:
    """Remove a file of such a folder, in ``shared_writes`` where it is a mirror."""
    folder = _open.get((path.parent.parent, path.parent.name))
    if folder is not None:
        folder.removed.add(path.name)
        missing_ok = True
    path.unlink(missing_ok=missing_ok)


def _push(folders: list[_SharedFolder]) -> None:
    """Bring to storage what was changed: tables, then each JSON in the order in which they were
    written, and at last what is to go."""
    changes = [(change, folder) for folder in folders for change in folder.changes()]
    changes.sort(key=lambda one: one[0])
    try:
        for (_, _, name), folder in changes:
            folder.send(name)
        for folder in folders:
            folder.clear()
    finally:
        for folder in folders:
            folder.save()


@contextlib.contextmanager
def _lock(index: Path, seconds: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(index / _LOCK_NAME)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise IndexLockedError(
            f"another process is saving to {index}: wait for it, or stop it"
        ) from None
    try:
        yield
    finally:
        lock.release()


class _SharedFolder:
    """One folder of a mirror. ``known`` : by name, what is in storage: "etag", "version", and
    "stat", what the file here was when it was the same; None where it has not come."""

    def __init__(self, index: Path, name: str) -> None:
        from clipsearch.mirror_store import MirrorStore

        self.store: MirrorStore = MirrorStore(index)
        self.name = name
        self.folder = index / name
        self._file = index / f".remote-{name}.json"
        self.known: dict[str, dict[str, Any]] = {}
        self.removed: set[str] = set()
        self._before: dict[str, list[int]] = {}
        with contextlib.suppress(OSError, ValueError):
            self.known = dict(json.loads(self._file.read_bytes()))

    def names(self) -> set[str]:
        """The files in storage, but for those that were removed just now."""
        return self.known.keys() - self.removed

    def pull(self) -> None:
        """Take over what is in storage: what has changed there, or was left here half-done, goes;
        what is small comes."""
        there = {
            file.name.removeprefix(f"{self.name}/"): file.etag
            for file in self.store.remote.list(self.name)
        }
        # A name that leads elsewhere, on Windows by a backslash or a drive, is none of ours.
        there = {name: etag for name, etag in there.items() if Path(name).name == name != ".."}
        for name, stat in self._files().items():
            known = self.known.get(name)
            is_same = known is not None and name in there and _is_one(known, there[name])
            if not is_same or (name.endswith(_REPLACED) and (known or {}).get("stat") != stat):
                (self.folder / name).unlink(missing_ok=True)
        if there:
            make_folder(self.folder)
        files = self._files()
        self.known = {
            name: (
                self.known[name]
                if name in files and name in self.known
                else {"etag": etag.etag, "version": etag.version, "stat": None}
            )
            for name, etag in there.items()
        }
        wanted = [name for name in there if name.endswith(_COME_AT_ONCE) and name not in files]
        with ThreadPoolExecutor(_AT_ONCE, "clipsearch-fetch") as pool:
            list(pool.map(self._take, wanted))
        self.save()
        self._before = self._files()

    def fetch(self, name: str) -> None:
        """Have a file here that storage may have."""
        make_folder(self.folder)
        with contextlib.suppress(FileNotFoundError):
            found = self.store.remote.download(f"{self.name}/{name}", self.folder / name)
            if name.endswith(_REPLACED):
                self._remember(name, found.etag.etag, found.etag.version)
                self.save()
            stat = _stat(self.folder / name)
            if stat is not None and (self.folder.parent, self.name) in _open:
                self._before[name] = stat

    def _take(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
            data, etag = self.store.remote.get_with_etag(f"{self.name}/{name}")
            replace_file(self.folder / name, data)
            self._remember(name, etag.etag, etag.version)

    def _remember(self, name: str, etag: str | None, version: str | None) -> None:
        stat = _stat(self.folder / name)
        self.known[name] = {"etag": etag, "version": version, "stat": stat}

    def changes(self) -> list[tuple[bool, int, str]]:
        """What was written here since ``pull``: whether it is JSON, when, and its name."""
        now = self._files()
        changed = [name for name, stat in now.items() if self._before.get(name) != stat]
        return [(name.endswith(".json"), now[name][0], name) for name in changed]

    def clear(self) -> None:
        """Remove from storage what was removed here."""
        gone = sorted(({*self._before} | self.removed) - self._files().keys())
        self.store.remote.delete(*(f"{self.name}/{name}" for name in gone))
        for name in gone:
            self.known.pop(name, None)

    def send(self, name: str) -> None:
        """Bring a file to storage; a JSON only over the state that ``pull`` found."""
        from clipsearch.object_store import ETag, ReplacedError

        full, path, known = f"{self.name}/{name}", self.folder / name, self.known.get(name)
        remote = self.store.remote
        try:
            if not name.endswith(".json"):
                large = path.stat().st_size > _LARGE
                etag = remote.upload(path, full) if large else remote.replace(full, _bytes(path))
            elif known is None:
                etag = remote.put_if_absent(full, _bytes(path))
            else:
                etag = remote.replace(full, _bytes(path), ETag(known["etag"], known["version"]))
        except (FileExistsError, ReplacedError):
            raise IndexConflictError(
                f"somebody else has changed {full} at {self.store.url} meanwhile: run the same "
                "command again"
            ) from None
        self._remember(name, etag.etag, etag.version)

    def _files(self) -> dict[str, list[int]]:
        """What is here by name, without what is being written and the lock."""
        found = {}
        for name in os.listdir(self.folder) if self.folder.is_dir() else ():
            if not name.startswith(TEMPORARY_PREFIX) and not name.endswith(".lock"):
                stat = _stat(self.folder / name)
                if stat is not None:
                    found[name] = stat
        return found

    def save(self) -> None:
        """Keep what is known of storage for the next process."""
        replace_file(self._file, json.dumps(self.known).encode())


def _is_one(known: dict[str, Any], listed: ETag) -> bool:
    """Whether a listing names the state that is known. Azure's has no quotation marks."""
    one, other = known["etag"], listed.etag
    return one == other or bool(one and other and one.strip('"') == other.strip('"'))


def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def _stat(path: Path) -> list[int] | None:
    """What is another one whenever a file was written again."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]
