"""What is said over the pipes between the indexer and its decoder processes.

A message is a length (4 bytes, little-endian), a JSON header of that length, and the raw parts
whose sizes the header gives under "parts". Nothing that is read here can run code.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any

import numpy as np

from clipsearch.encoder import ImageGeometry
from clipsearch.errors import ImageError, OptionError
from clipsearch.images import DecodedImage
from clipsearch.photo_metadata import PhotoMetadata
from clipsearch.picture_sizes import ScaledPhoto

READY = b"clipsearch decoder: ready\n"
"""The line that a worker begins with, before its first message."""

_LENGTH = struct.Struct("<I")

_NOTHING: tuple[object, ...] = (None, (), {})
"""What a field of metadata says that says nothing; each is the default of its field."""


@dataclass(frozen=True)
class FilePart:
    """An image file inside another file, as a member of a tar is: ``size`` bytes of the file
    ``path``, from the byte ``offset`` on."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True)
class RemoteImage:
    """An image in object storage, of ``size`` bytes. It is read before a decoder hears of it:
    what a network takes is no fault of the image."""

    url: str
    size: int


@dataclass(frozen=True)
class NamedBytes:
    """An image file that is in memory, and what it is called: of some RAW photos only the name
    tells that they are."""

    name: str
    data: bytes


LocalSource = str | FilePart | bytes | NamedBytes
"""Where an image is: the path of its file, a part of a file, or the bytes of its file."""

Source = LocalSource | RemoteImage
"""The same, or a URL."""


@dataclass(frozen=True)
class Message:
    """header : what JSON can say. parts : raw bytes beside it; bytearrays when they were read."""

    header: dict[str, Any]
    parts: Sequence[bytes | bytearray | memoryview] = ()


@dataclass(frozen=True)
class DecodeOptions:
    """How to decode; the options of ``read_image``. seconds : the time one file may take.

    resize, jpeg : "host", or "device" where it is for a device to resize the pictures, and to
    decode ordinary JPEGs; see ``device_decode``.
    """

    geometry: ImageGeometry
    decode: str
    max_megapixels: float
    thumbnail_side: int | None
    seconds: float
    resize: str = "host"
    jpeg: str = "host"


def write_message(stream: IO[bytes], message: Message) -> None:
    """Write one message and flush. Raises OSError when nobody reads any more."""
    header = {**message.header, "parts": [len(part) for part in message.parts]}
    # Not escaped: JSON would read two surrogates that stand alone as one character.
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream.write(_LENGTH.pack(len(text)) + text)
    for part in message.parts:
        stream.write(part)
    stream.flush()


def read_message(stream: IO[bytes]) -> Message | None:
    """The next message, or None where the stream ends.

    Raises EOFError when it ends within a message, ValueError for what is no message.
    """
    length = stream.read(_LENGTH.size)
    if not length:
        return None
    if len(length) < _LENGTH.size:
        raise EOFError
    text = _read_exactly(stream, _LENGTH.unpack(length)[0])
    header = json.loads(text.decode("utf-8", "surrogatepass"))
    if not isinstance(header, dict):
        raise ValueError("the header of a message is an object")
    return Message(header, [_read_exactly(stream, size) for size in header.pop("parts", ())])


def _read_exactly(stream: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    if stream.readinto(data) != size:  # type: ignore[attr-defined]
        raise EOFError
    return data


def request_message(source: LocalSource, options: DecodeOptions) -> Message:
    """The message that asks for one image."""
    header: dict[str, Any] = {"options": _as_dict(options)}
    if isinstance(source, NamedBytes):
        return Message({**header, "source": "bytes", "name": source.name}, [source.data])
    if isinstance(source, bytes):
        return Message({**header, "source": "bytes"}, [source])
    if isinstance(source, FilePart):
        header |= {"source": "part", "offset": source.offset, "size": source.size}
        return Message(header, [_whole_path(source.path)])
    return Message({**header, "source": "path"}, [_whole_path(source)])


@functools.lru_cache(maxsize=8)
def _as_dict(options: DecodeOptions) -> dict[str, Any]:
    # Made once a run, not once an image.
    return dataclasses.asdict(options)


def _whole_path(path: str) -> bytes:
    # The worker may be older than the last os.chdir() here. Joined, not normalised: "link/.."
    # is not always the folder that the link is in.
    return os.fsencode(path if os.path.isabs(path) else os.path.join(os.getcwd(), path))


def read_request(message: Message) -> tuple[LocalSource, DecodeOptions]:
    """The inverse of ``request_message``; paths are whole."""
    header, (part,) = message.header, message.parts
    options = DecodeOptions(**header["options"])
    options = dataclasses.replace(options, geometry=ImageGeometry(**header["options"]["geometry"]))
    if header["source"] == "bytes":
        data = bytes(part)
        return (NamedBytes(header["name"], data) if "name" in header else data), options
    path = os.fsdecode(bytes(part))
    if header["source"] == "part":
        return FilePart(path, header["offset"], header["size"]), options
    return path, options


def image_message(image: DecodedImage) -> Message:
    """The answer that is an image."""
    # What is not known is left out: most of it, of most pictures.
    metadata = {
        name: value for name, value in vars(image.metadata).items() if value not in _NOTHING
    }
    if image.metadata.taken_at is not None:
        metadata["taken_at"] = image.metadata.taken_at.isoformat()
    header: dict[str, Any] = {"size": image.size, "shape": image.pixels.shape, "metadata": metadata}
    # A view: the copy would cost a twentieth of what decoding a small photo does.
    pixels = np.ascontiguousarray(image.pixels).reshape(-1).data
    parts: list[bytes | memoryview] = [image.sha256, pixels]
    if image.scaled is not None:
        header["scaled"] = [image.scaled.size, image.scaled.box]
    if image.jpeg is not None:
        header["is_undecoded"] = True
        parts.append(image.jpeg)
    elif image.thumbnail is not None:
        parts.append(image.thumbnail)
    return Message({"image": header}, parts)


def error_message(error: ImageError | OptionError) -> Message:
    """The answer that says why there is no image."""
    reason = error.reason if isinstance(error, ImageError) else None
    return Message({"error": {"reason": reason, "message": str(error)}})


def read_answer(message: Message) -> DecodedImage:
    """The image of an answer, as it was in the worker; its pixels can be written to.

    Raises the ImageError or OptionError that the answer tells, and ValueError, KeyError or
    TypeError for an answer that makes no sense.
    """
    if "error" in message.header:
        error = message.header["error"]
        if error["reason"] is None:
            raise OptionError(error["message"])
        raise ImageError(error["reason"], error["message"])
    image = message.header["image"]
    sha256, pixels, *more = message.parts
    last = bytes(more[0]) if more else None
    is_undecoded = image.get("is_undecoded", False)
    metadata = dict(image["metadata"])
    metadata["keywords"] = tuple(metadata.get("keywords", ()))
    if "taken_at" in metadata:
        metadata["taken_at"] = datetime.fromisoformat(metadata["taken_at"])
    return DecodedImage(
        pixels=np.frombuffer(pixels, np.uint8).reshape(image["shape"]),
        sha256=bytes(sha256),
        size=image["size"],
        thumbnail=None if is_undecoded else last,
        metadata=PhotoMetadata(**metadata),
        jpeg=last if is_undecoded else None,
        scaled=ScaledPhoto(*map(tuple, image["scaled"])) if "scaled" in image else None,
    )
