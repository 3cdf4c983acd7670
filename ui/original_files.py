"""The files of images, found by id and handed out only where they are what was indexed."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from clipsearch.errors import ClipsearchError, ImageError
from clipsearch.file_kinds import container_of
from clipsearch.generation import Generation
from clipsearch.image_formats import SNIFF_BYTES, sniff_format
from clipsearch.images import read_image
from clipsearch.metadata_rows import metadata_of
from clipsearch.remote_images import find_object, read_object
from clipsearch.remote_urls import is_remote
from ui.page_errors import PageError

_CHUNK = 1 << 20
_MOST_IN_MEMORY = 512 << 20

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "HEIF": "image/heif",
}


@dataclass(frozen=True)
class Original:
    """An open file, at its beginning, whose content is what was indexed.

    media_type : by its first bytes, never by its name; what is no common image is
    application/octet-stream. changed : when it last was, in seconds since 1970.
    """

    file: io.BufferedReader
    path: Path
    size: int
    media_type: str
    changed: float

    def chunks(self) -> Iterator[bytes]:
        """Its bytes; the file is closed behind them."""
        with self.file:
            while chunk := self.file.read(_CHUNK):
                yield chunk


def is_there(state: Generation, image_id: int) -> bool:
    """Whether a file of the image lies where the last scan found it, by itself. Object storage
    is taken at that scan's word: a page that is only looked at asks no network."""
    for place in state.paths.places(image_id):
        if is_remote(place.path):
            if not place.missing:
                return True
            continue
        try:
            if stat.S_ISREG(os.stat(place.path).st_mode):
                return True
        except (OSError, ValueError):
            continue
    return False


def open_original(state: Generation, image_id: int) -> Original:
    """The first file of the image that still has the content that was indexed.

    Raises PageError (404), which says what became of it.
    """
    sha256 = _indexed_content(state, image_id)
    changed = inside = False
    for place in state.paths.places(image_id):
        try:
            file = _open_regular(place.path)
        except (OSError, ValueError, ClipsearchError):
            inside |= not is_remote(place.path) and container_of(place.path) is not None
            continue
        with ExitStack() as on_the_way_out:
            on_the_way_out.callback(file.close)
            try:
                if sha256 is not None and hashlib.file_digest(file, "sha256").digest() != sha256:
                    changed = True
                    continue
                file.seek(0)
                head = file.read(SNIFF_BYTES)
                size, mtime = _size_and_time(file)
                file.seek(0)
            except OSError:  # a disk that fails, or is pulled out
                continue
            kind = MEDIA_TYPES.get(sniff_format(head) or "", "application/octet-stream")
            on_the_way_out.pop_all()  # whoever is handed the file closes it
            return Original(file, place.path, size, kind, mtime)
    raise _not_there(changed, inside)


def picture_of(state: Generation, image_id: int, side: int, most_pixels: int) -> bytes:
    """The picture of an image as an upright JPEG without metadata, its longer side ``side``
    pixels at most, made from its file.

    Raises PageError (404) where no file of it can be read any more.
    """
    sha256 = _indexed_content(state, image_id)
    changed = inside = False
    for place in state.paths.places(image_id):
        try:
            image = read_image(
                place.path,
                state.space.geometry,
                decode="fast",
                max_megapixels=most_pixels / 1e6,
                thumbnail_side=side,
            )
        except ClipsearchError as error:
            inside |= not is_remote(place.path) and container_of(place.path) is not None
            if isinstance(error, ImageError) and error.reason == "too_large":
                raise PageError(f"This photo is too large to show: {error}", 413) from None
            continue
        if sha256 is not None and image.sha256 != sha256:
            changed = True
            continue
        assert image.thumbnail is not None
        return image.thumbnail
    raise _not_there(changed, inside)


def _indexed_content(state: Generation, image_id: int) -> bytes | None:
    """The sha256 of what was indexed; None where that is not known."""
    row = metadata_of(state, [image_id], ["sha256", "bytes"]).to_pylist()[0]
    return row["sha256"] if row["bytes"] else None


def _open_regular(path: Path) -> io.BufferedReader:
    """A file, open; OSError where there is none, or a pipe or a device. One in object storage is
    read whole: ImageError, RemoteError."""
    if is_remote(path):
        return _RemoteFile(path)
    # Looked at before it is opened: opening a pipe waits for a writer.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("no regular file")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError("no regular file")


class _RemoteFile(io.BufferedReader):
    """An image of object storage, in memory."""

    def __init__(self, path: Path) -> None:
        found = find_object(path)
        if found is None or found.size > _MOST_IN_MEMORY:
            raise OSError("not there, or too large to be read at once")
        super().__init__(io.BytesIO(read_object(path, found.size)))
        self.size, self.mtime = found.size, found.mtime_ns / 1e9


def _size_and_time(file: io.BufferedReader) -> tuple[int, float]:
    if isinstance(file, _RemoteFile):
        return file.size, file.mtime
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime


def _not_there(changed: bool, inside: bool) -> PageError:
    if changed:
        why = "The file of this photo has changed since it was indexed."
    elif inside:
        why = "This photo lies in a tar or Parquet file: only its thumbnail is here."
    else:
        why = "The file of this photo is not there now."
    return PageError(why, status=404)
