"""List the images in a tar, as webdataset writes them, without reading or extracting any."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator

from indexer.containers import Listing, member_label, name_kind

_BLOCK = 512
_LONGEST_READ = 16 << 20


class _Headers(io.FileIO):
    """A tar of which only headers are read: a damaged one may promise a name of gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _LONGEST_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size) or b""


class _Tar(tarfile.TarFile):
    members: list[tarfile.TarInfo]


def list_tar(path: str) -> Listing:
    """The images of a tar: where the bytes of each begin. Of two members of the same name the
    last counts, as when a tar is unpacked.

    What comes behind a damaged place is not found; ``damage`` says so. Raises OSError.
    """
    listing = Listing()
    with _Headers(path) as file:
        size = os.fstat(file.fileno()).st_size
        for info in _members(file, size, listing):
            label = member_label(os.fsencode(_plain(info.name)))
            kind = name_kind(label.rpartition(b"/")[2])
            if info.isdir():
                continue
            if not info.isreg():
                kind = "link" if info.issym() or info.islnk() else "not a regular file"
            elif kind is None and info.issparse():
                kind = "sparse member"
            if kind is None:
                listing.add(label, info.size, info.offset_data)
            else:
                listing.ignored[kind] += 1
    return listing


def _plain(name: str) -> str:
    """``name`` without what no file name can hold: lone surrogates of damaged headers."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "replace").decode()
    return name


def _members(file: _Headers, size: int, listing: Listing) -> Iterator[tarfile.TarInfo]:
    """The members up to the end, or up to a damaged place."""
    try:
        tar = _Tar(fileobj=file, encoding="utf-8", errors="surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        listing.damage = f"expected a tar that is not compressed: {error}"
        return
    try:
        while True:
            info = tar.next()
            if info is None:
                break
            tar.members.clear()  # else it keeps them all
            yield info
        file.seek(tar.offset)
        end = file.read(_BLOCK)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        listing.damage = _damage(tar.offset, size, str(error))
        return
    # tarfile takes a damaged header for the end.
    if end.strip(b"\0"):
        listing.damage = _damage(tar.offset, size, "no header of a member")
    elif len(end) < _BLOCK:
        listing.damage = "the tar ends without the mark of its end: it may have been cut short"


def _damage(offset: int, size: int, why: str) -> str:
    if offset > size:
        return f"the tar is cut short at byte {size:,}"
    return f"the tar is damaged at byte {offset:,} ({why}); what comes behind was not found"
