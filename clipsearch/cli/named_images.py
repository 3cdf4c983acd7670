"""The images that are named on a command line: files, folders of them, and standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from clipsearch.cli.output import for_display
from clipsearch.errors import ImageError, OptionError

if TYPE_CHECKING:
    from clipsearch.image_labels import ImageFile

_STDIN = "-"
_STDIN_BYTES = 1 << 28


@dataclass
class NamedImages:
    """The images that were named. named : as they were. images, names : of those and of what is
    in folders among them, and how each is called. skipped : how many could not be taken so far."""

    named: tuple[str, ...]
    names: list[str] = field(default_factory=list)
    images: list[ImageFile] = field(default_factory=list)
    skipped: int = 0

    def add(self, name: str, image: ImageFile) -> None:
        self.names.append(name)
        self.images.append(image)

    def skip(self, name: str, error: ImageError) -> None:
        """Tell why an image is passed over; where it is all that was named, raise ImageError."""
        told = "the image on standard input" if name == _STDIN else name
        if name == _STDIN and error.reason == "unsupported":
            error = ImageError(error.reason, f"{error}; for a list of files there is xargs")
        if self.named == (name,):
            raise ImageError(error.reason, f"cannot take {told}: {error}")
        self.skipped += 1
        click.echo(f"Skipped {for_display(told)}: {for_display(str(error))}", err=True)

    def refuse_if_skipped(self) -> None:
        """To be asked where no image was taken: raise ImageError unless there was none."""
        if self.skipped:
            raise ImageError("unreadable", "none of the images that were named could be taken")


def named_images(named: Sequence[str]) -> NamedImages:
    """The files, and those in the folders, that were named; and the image on standard input."""
    from clipsearch.image_files import image_files

    if named.count(_STDIN) > 1:
        raise OptionError("there is one image on standard input: name - once")
    wanted = NamedImages(tuple(named))

    def unlistable(place: str, error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        wanted.skip(place, ImageError("unreadable", f"the folder cannot be listed: {reason}"))

    for name in named:
        if name == _STDIN:
            wanted.add(name, _piped_image())
        elif os.path.isdir(name):
            for path in image_files(name, unlistable):
                wanted.add(path, path)
        elif not os.path.lexists(name):
            wanted.skip(name, ImageError("vanished", "there is no such file"))
        else:
            wanted.add(name, name)
    return wanted


def _piped_image() -> bytes:
    if sys.stdin.isatty():
        raise OptionError("- is an image on standard input, and that is a terminal: name a file")
    data = sys.stdin.buffer.read(_STDIN_BYTES)
    if not data:
        raise ImageError("empty", "expected an image on standard input, got nothing")
    return data
