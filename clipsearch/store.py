"""Where an index's files live: a small protocol and the local folder.

Names are relative, with ``/`` between their parts, whatever the system. A name is either
written once (shards, tables) or replaced atomically (the manifest); nothing is ever changed
in place, so a reader holding an old file keeps reading the old bytes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from clipsearch.errors import IndexFormatError
from clipsearch.remote_urls import is_remote

TEMPORARY_PREFIX = ".tmp-"
LABELS = "labels"
"""The folder of saved label sets, which have a lock of their own."""
CLUSTERS = "clusters"
"""The folder of saved discoveries, under the lock of the label sets."""
EXPORTS = "exports"
"""The folder of the records of exports, each of them one process's own."""
SEARCHES = "searches"
"""The folder of saved searches."""
MIRROR_MARK = ".remote.json"
"""In a folder that stands for an index in object storage; says which (``mirror_store``)."""

_SEAL = struct.Struct("<8sQI")  # mark, bytes before the seal, CRC-32 of their two ends
_SEAL_MARK = b"clipseal"
_SEALED_END = 4096


class Store(Protocol):
    """What an index needs of a place to live in."""

    def get(self, name: str) -> bytes:
        """All bytes of ``name``; FileNotFoundError when it is not there."""
        ...

    def get_to_replace(self, name: str) -> bytes:
        """As ``get``, for whoever is going to ``replace`` what it read: where others can write
        meanwhile, that fails with IndexConflictError once one has."""
        ...

    def bring(self, sizes: Mapping[str, int | None]) -> None:
        """These files will be read now: have them at hand, where they come from afar, several
        at a time. sizes : in bytes, None where that is not known. Those that are lost are left
        to whoever reads them."""
        ...

    def unused(self, name: str) -> str:
        """The name to write a new file under: ``name`` itself, cleared of what a run that was
        killed has left there, or one with a part of its own where others may be at work."""
        ...

    def put_if_absent(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write ``name`` durably; FileExistsError when it is there already."""
        ...

    def replace(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write ``name`` durably and atomically, whether or not it is there already."""
        ...

    def list(self, folder: str) -> list[str]:
        """Sorted names of the files below ``folder`` ("" for all), temporary files left out."""
        ...

    def leftovers(self, folders: Iterable[str], named: set[str]) -> Sequence[str]:
        """The tables in ``folders`` that are not ``named`` and that no writer can still be about
        to name."""
        ...

    def delete(self, name: str) -> None:
        """Remove ``name``; nothing happens when it is not there."""
        ...

    def open_mapped(self, name: str) -> pa.NativeFile:
        """A read-only, seekable Arrow file over ``name``, mapped where the store can."""
        ...


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (POSIX; Windows does so by itself)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it; a new one survives a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_durably(path: Path, data: bytes | pa.Buffer) -> None:
    """Write ``data`` to the new file ``path`` and force it to the disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes | pa.Buffer) -> None:
    """Write ``path`` durably and atomically: a temporary name, fsync, rename, fsync."""
    make_folder(path.parent)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    try:
        write_durably(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def seal(data: pa.Buffer | memoryview) -> bytes:
    """What ``sealed_size`` wants to find behind ``data`` at the end of a file.

    FAISS and Arrow believe what the head and foot of a file say, and a wrong number there
    ends the process. The seal vouches for the length and for 4 KiB at each end.
    """
    view = memoryview(data)
    ends = zlib.crc32(view[-_SEALED_END:], zlib.crc32(view[:_SEALED_END]))
    return _SEAL.pack(_SEAL_MARK, len(view), ends)


def sealed_size(data: pa.Buffer | memoryview) -> int | None:
    """How many bytes stand before the seal of a file's ``data``; None when the seal is missing
    or does not fit them."""
    view = memoryview(data)
    size = len(view) - _SEAL.size
    if size < 0 or bytes(view[size:]) != seal(view[:size]):
        return None
    return size


class LocalStore:
    """A :class:`Store` in a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        """What ``open_store`` opens it by, on every machine that can."""
        return str(self.root.absolute())

    def path(self, name: str) -> Path:
        """The file behind ``name``. A name that leads out of the store is refused."""
        parts = name.split("/")
        # A backslash, and the colon of a drive or a stream, lead elsewhere on Windows.
        leads_out = any(part in ("", ".", "..") for part in parts)
        if leads_out or any(character in name for character in "\\:\0"):
            raise IndexFormatError(f"the index names a file outside itself: {name!r}")
        return self.root.joinpath(*parts)

    def get(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def get_to_replace(self, name: str) -> bytes:
        return self.get(name)  # the writer's lock keeps others away

    def bring(self, sizes: Mapping[str, int | None]) -> None:
        pass

    def local(self, name: str) -> Path:
        """The file behind ``name``, to be read here."""
        return self.path(name)

    def look_again(self, names: Iterable[str]) -> None:
        """Believe nothing that is remembered of ``names``: they are going to be checked."""

    def bring_again(self, name: str) -> bool:
        """Whether ``name``, which is damaged here, could be had anew."""
        return False

    def unused(self, name: str) -> str:
        self.delete(name)
        return name

    def leftovers(self, folders: Iterable[str], named: set[str]) -> Sequence[str]:
        found = [name for folder in folders for name in self.list(folder)]
        return [name for name in found if name.endswith(".parquet") and name not in named]

    def put_if_absent(self, name: str, data: bytes | pa.Buffer) -> None:
        target = self.path(name)
        make_folder(target.parent)
        temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        try:
            write_durably(temporary, data)
            try:
                os.link(temporary, target)
            except FileExistsError:
                raise
            except OSError:
                # No hard links here (FAT, some shares). One writer holds the lock, so
                # looking first and renaming second is as safe.
                if target.exists():
                    raise FileExistsError(str(target)) from None
                os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        sync_folder(target.parent)

    def replace(self, name: str, data: bytes | pa.Buffer) -> None:
        replace_file(self.path(name), data)

    def size(self, name: str) -> int:
        """Of ``name`` in bytes; OSError when it is not there."""
        return self.path(name).stat().st_size

    def list(self, folder: str) -> list[str]:
        start = self.path(folder) if folder else self.root
        return sorted(
            found.relative_to(self.root).as_posix()
            for found in start.rglob("*")
            if found.is_file() and not found.name.startswith(TEMPORARY_PREFIX)
        )

    def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def open_mapped(self, name: str) -> pa.NativeFile:
        path = self.path(name)
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            return pa.BufferReader(b"")
        return pa.memory_map(os.fsencode(path), "r")

    def remove_temporary_files(self) -> None:
        """Clear what a killed writer left half-written. Only for the holder of the writer's
        lock; a label set, a discovery, or the record of an export, may be half-written by
        somebody else at this moment."""
        others = [self.root / name for name in (LABELS, CLUSTERS, EXPORTS)]
        for stray in self.root.rglob(f"{TEMPORARY_PREFIX}*"):
            if stray.parent not in others:
                with contextlib.suppress(OSError):
                    stray.unlink()


def open_store(place: str | os.PathLike[str]) -> LocalStore:
    """The store of the index at ``place``: a folder, a URL of object storage, or the mirror of
    one. Raises as ``mirror_store.mirror_folder``."""
    if is_remote(place):
        from clipsearch.mirror_store import MirrorStore, mirror_folder

        return MirrorStore(mirror_folder(place))
    folder = Path(place)
    if is_mirror(folder):
        from clipsearch.mirror_store import MirrorStore

        return MirrorStore(folder)
    return LocalStore(folder)


def is_mirror(folder: Path) -> bool:
    """Whether a folder stands for an index in object storage.

    Only one in the user's own cache can: the mark in a folder that somebody has sent must not
    lead to a network, nor what is saved in that folder to somebody's bucket.
    """
    if not (folder / MIRROR_MARK).is_file():
        return False
    with contextlib.suppress(OSError, IndexError):
        return os.path.samefile(folder.absolute().parents[1], mirrors_folder())
    return False


def mirrors_folder() -> Path:
    """Where mirrors are: each in a folder of its own, named after its URL."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("clipsearch", appauthor=False), "remote")


def index_folder(index: str | os.PathLike[str]) -> Path:
    """The absolute folder of an index; of one at a URL, its mirror here, with the manifest that
    is in storage now. Raises as ``mirror_store.mirror_of``."""
    if is_remote(index):
        from clipsearch.mirror_store import mirror_of

        return mirror_of(index)
    return Path(os.path.abspath(index))
