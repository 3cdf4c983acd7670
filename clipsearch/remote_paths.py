"""Places in object storage as paths, so that what names an image is a ``Path`` wherever it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PosixPath, WindowsPath

from clipsearch.remote_urls import SCHEMES, is_remote, parse_url

if sys.platform == "win32":
    _SystemPath = WindowsPath
else:
    _SystemPath = PosixPath


class RemotePath(_SystemPath):
    """An object, or what lies below a prefix, as a path whose text is its URL.

    Parts, parents and what is relative to it are a path's; there is nothing of it on the disk.
    """

    def __str__(self) -> str:
        text = super().__str__().replace(os.sep, "/")
        scheme, colon, rest = text.partition(":")
        if scheme in SCHEMES and rest.startswith("/"):
            return f"{scheme}{colon}/{rest}"  # a Path makes one slash of two
        return text

    def __fspath__(self) -> str:
        return str(self)

    def __bytes__(self) -> bytes:
        return os.fsencode(str(self))

    def as_posix(self) -> str:
        return str(self)

    def is_absolute(self) -> bool:
        return is_remote(self)

    @property
    def bucket(self) -> RemotePath:
        """The bucket that it is in."""
        return type(self)(*self.parts[:2])


def place_of(name: str | os.PathLike[str], below: str = "") -> Path:
    """The path of ``name``, which may be a URL of object storage, or of ``below`` in it."""
    if is_remote(name):
        return RemotePath(str(name), below)
    return Path(name, below)


def whole_place(name: str | os.PathLike[str]) -> Path:
    """As ``place_of``, absolute; links are left as they are.

    Raises OptionError for a URL that names no place in object storage.
    """
    if is_remote(name):
        return RemotePath(str(parse_url(name)))
    return Path(os.path.abspath(name))
