"""Which bytes are opened as an image, by which decoder, and what is said when they are not."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from clipsearch.errors import ImageError
from clipsearch.file_kinds import RAW_EXTENSIONS
from clipsearch.raw_structure import begins_like_raw, is_raw_tiff

SNIFF_BYTES = 128
"""How many leading bytes ``sniff_format`` looks at."""

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
)

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)

# Files that often carry the name of an image; naming them spares a person the riddle.
_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"<", "HTML, SVG or XML"),
    (b"PK\x03\x04", "a zip archive"),
    (b"MZ", "a program"),
    (b"\x7fELF", "a program"),
    (b"8BPS", "a Photoshop document"),
)

_UNSUPPORTED_WORDS = re.compile(
    r"not available|unsupported|not supported|unknown pixel mode|unknown data organi"
    r"|not implemented|cannot handle",
    re.IGNORECASE,
)
_TRUNCATED_WORDS = re.compile(r"truncat|unexpected end|end of file|end of data", re.IGNORECASE)


def _open_heif(stream: io.BytesIO) -> ImageFile.ImageFile:
    # Imported on the first HEIC only. The class is called directly rather than registered, so
    # that reading a photo here does not change what Image.open does elsewhere in the process.
    from pillow_heif import HeifImageFile

    image: ImageFile.ImageFile = HeifImageFile(stream, "")
    return image


# The decoders are called without Image.open for two reasons. Image.open tries every format it
# knows, some of which run other programs (EPS); and it holds every picture to the process-wide
# Image.MAX_IMAGE_PIXELS, which threads cannot change for themselves. ``open_image`` has its own
# limit instead.
_OPENERS: dict[str, Callable[[Any], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "HEIF": _open_heif,
}


def sniff_format(head: bytes) -> str | None:
    """The image format that a file beginning with ``head`` has, or None when we read no such.

    head : the first ``SNIFF_BYTES`` bytes, or all of a shorter file.
    """
    if begins_like_raw(head):  # before the TIFFs: a CR2 begins like one
        return "RAW"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        # "mif1" leads both HEIC and AVIF files; only the list of compatible brands tells.
        size = int.from_bytes(head[:4], "big")
        listed = head[16 : min(size, len(head))]
        brands = {head[8:12], *(listed[i : i + 4] for i in range(0, len(listed), 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    return None


def is_raw(data: bytes, name: str) -> bool:
    """Whether an image file is a RAW photo. Its bytes say so; where they are built like a TIFF
    and tell no more, the ending of ``name`` does."""
    kind = sniff_format(data[:SNIFF_BYTES])
    if kind != "TIFF":
        return kind == "RAW"
    return os.path.splitext(name)[1].lower() in RAW_EXTENSIONS or is_raw_tiff(data)


def unsupported_error(head: bytes) -> ImageError:
    """The error for a file that begins with ``head`` and is no image we read."""
    guess = next((what for magic, what in _STRANGERS if head.lstrip()[:8].startswith(magic)), None)
    if guess is None and head[4:8] == b"ftyp":
        guess = "a video"
    message = "not an image format that is read here"
    return ImageError("unsupported", f"{message} (it looks like {guess})" if guess else message)


def open_image(data: bytes, *, max_megapixels: float) -> ImageFile.ImageFile:
    """Read the header of an image; its pixels are decoded later, by ``image.load()``.

    data : the bytes of the whole file. max_megapixels : width * height / 1e6 that is allowed.

    Raises ImageError: empty, unsupported, too_large, truncated, corrupt.
    """
    if not data:
        raise ImageError("empty", "the file is empty (0 bytes)")
    head = data[:SNIFF_BYTES]
    kind = sniff_format(head)
    if kind is None:
        raise unsupported_error(head)
    with only_image_errors(data, kind):
        image = _OPENERS[kind](io.BytesIO(data))
    check_size(*image.size, max_megapixels)
    return image


def check_size(width: int, height: int, max_megapixels: float) -> None:
    """Raise ImageError (too_large) for a picture of more than so many million pixels."""
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise ImageError(
            "too_large",
            f"the picture has {megapixels:.1f} megapixels ({width} x {height}), "
            f"more than the {max_megapixels:g} allowed",
        )


@contextmanager
def only_image_errors(data: bytes, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into an ImageError.

    data : the bytes being decoded, to tell a file cut short from a damaged one.
    kind : their format, as ``sniff_format`` names it.
    """
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", f"the {kind} claims more pixels than is safe") from error
    except MemoryError as error:
        raise ImageError("too_large", f"the {kind} needs more memory than there is") from error
    except Exception as error:
        # Hostile bytes draw SyntaxError, struct.error, zlib.error, KeyError and a dozen others
        # out of the decoders; a list of them would be wrong with the next release.
        text = str(error)
        if _TRUNCATED_WORDS.search(text) or _ends_early(data, kind):
            raise ImageError(
                "truncated", f"the {kind} data ends early (file cut short?)"
            ) from error
        if isinstance(error, UnidentifiedImageError) or _UNSUPPORTED_WORDS.search(text):
            raise ImageError("unsupported", f"a kind of {kind} that is not read here") from error
        raise ImageError("corrupt", f"the {kind} data is damaged") from error


def _ends_early(data: bytes, kind: str) -> bool:
    """Whether the container itself says that bytes are missing at the end."""
    match kind:
        case "JPEG":
            return not data.rstrip(b"\x00").endswith(b"\xff\xd9")
        case "PNG":
            return b"IEND" not in data[-64:]
        case "GIF":
            return not data.rstrip(b"\x00").endswith(b"\x3b")
        case "WEBP":
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case "BMP":
            return len(data) < 26 or int.from_bytes(data[2:6], "little") > len(data)
        case "HEIF" | "AVIF":
            return _boxes_end_early(data)
        case _:
            return False


def _boxes_end_early(data: bytes) -> bool:
    """Whether the last top-level ISO BMFF box is longer than what is left of the file."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        elif size == 0:
            return False
        if size < 8:
            return False
        at += size
    return at != len(data)
