"""Whether something is there, gone, or only out of reach: a file that cannot be looked at is not
gone, and nothing may be forgotten for it."""

from __future__ import annotations

import errno
import os
import stat

from clipsearch.manifest import FORMAT, MANIFEST_NAME

PathName = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# A name that is too long is the name of nothing; a link to itself leads nowhere.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


def is_gone_error(error: OSError) -> bool:
    """Whether ``error`` says that there is nothing, rather than that it cannot be looked at."""
    return error.errno in _GONE


def look_at(path: PathName) -> os.stat_result | None:
    """What ``path`` leads to; None when that is nothing. Raises OSError for what cannot be
    looked at: no permission, a dead network drive, a disk that fails."""
    try:
        return os.stat(path)
    except ValueError:  # a NUL in the name
        return None
    except OSError as error:
        if is_gone_error(error):
            return None
        raise


def is_gone(path: PathName) -> bool:
    """Whether there is certainly no file at ``path``; a folder or a pipe in its place is none."""
    try:
        found = look_at(path)
    except OSError:
        return False
    return found is None or not stat.S_ISREG(found.st_mode)


def holds_anything(folder: PathName) -> bool:
    """Whether a folder is there; the empty place where a disk is mounted is not the disk."""
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
