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
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from clipsearch.errors import IndexFormatError

TEMPORARY_PREFIX = ".tmp-"
LABELS = "labels"
"""The folder of saved label sets, which have a lock of their own."""
CLUSTERS = "clusters"
"""The folder of saved discoveries, under the lock of the label sets."""
EXPORTS = "exports"
"""The folder of the records of exports, each of them one process's own."""
SEARCHES = "searches"
"""The folder of saved searches."""

_SEAL = struct.Struct("<8sQI")  # mark, bytes before the seal, CRC-32 of their two ends
_SEAL_MARK = b"clipseal"
_SEALED_END = 4096


class Store(Protocol):
    """What an index needs of a place to live in."""

    def get(self, name: str) -> bytes:
        """All bytes of ``name``; FileNotFoundError when it is not there."""
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
