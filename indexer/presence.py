"""Whether something is there, gone, or only out of reach: a file that cannot be looked at is not
gone, and nothing may be forgotten for it. What a name leads to may be in object storage, too."""

from __future__ import annotations

import errno
import os
import stat

from clipsearch.errors import RemoteError
from clipsearch.manifest import FORMAT, MANIFEST_NAME
from clipsearch.remote_images import bucket_trouble, find_object
from clipsearch.remote_urls import is_remote

PathName = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# A name that is too long is the name of nothing; a link to itself leads nowhere.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def is_gone_error(error: OSError) -> bool:
    """Whether ``error`` says that there is nothing, rather than that it cannot be looked at."""
    return error.errno in _GONE


def look_at(path: PathName) -> os.stat_result | None:
    """What ``path`` leads to; None when that is nothing. Raises OSError for what cannot be
    looked at: no permission, a dead network drive, a disk that fails, a bucket out of reach."""
    if is_remote(os.fsdecode(path)):
        return _look_at_object(os.fsdecode(path))
    try:
        return os.stat(path)
    except ValueError:  # a NUL in the name
        return None
    except OSError as error:
        if is_gone_error(error):
            return None
        raise


def _look_at_object(url: str) -> os.stat_result | None:
    try:
        found = find_object(url)
    except RemoteError as error:
        raise OSError(errno.EIO, str(error)) from error
    if found is None:
        return None
    seconds = found.mtime_ns // 10**9
    plain = (stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, found.size, seconds, seconds, seconds)
    return os.stat_result(plain, {"st_mtime_ns": found.mtime_ns})


def is_gone(path: PathName) -> bool:
    """Whether there is certainly no file at ``path``; a folder or a pipe in its place is none."""
    try:
        found = look_at(path)
    except OSError:
        return False
    return found is None or not stat.S_ISREG(found.st_mode)


def holds_anything(folder: PathName) -> bool:
    """Whether a folder is there; the empty place where a disk is mounted is not the disk. A
    bucket is there where it answers, and empty where it says so."""
    if is_remote(os.fsdecode(folder)):
        return bucket_trouble(os.fsdecode(folder)) is None
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def is_index(folder: PathName) -> bool:
    """Whether a folder is an index; one with some other ``manifest.json`` is not."""
    name = os.path.join(os.fsdecode(folder), MANIFEST_NAME)
    try:
        with open(name, "rb") as file:
            return f'"format": "{FORMAT}"'.encode() in file.read(4096)
    except OSError:
        return False
