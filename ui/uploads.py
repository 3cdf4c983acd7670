"""Images that are handed in: how large they may be, of what kind, and where Gradio keeps them."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import threading
import warnings
from pathlib import Path

from clipsearch.errors import ImageError
from ui.page_errors import PageError
from ui.page_settings import PageSettings

MOST_KEPT_BYTES = 1 << 30
"""Of all files that were handed in through Gradio's forms, together; they live for an hour."""

KEEP_SECONDS = 3600

DECODING = threading.BoundedSemaphore(2)
"""To be held while an image that was handed in is decoded: one of the most pixels allowed takes
several hundred megabytes until it is scaled down."""

_NO_IMAGE = (
    "This file is not an image that can be read here: JPEG, PNG, WebP, HEIC, AVIF, TIFF, GIF and "
    "BMP can."
)


def check_upload(data: bytes, settings: PageSettings) -> bytes:
    """The bytes of an image file that may be decoded; PageError for all others.

    Only the header is read: a small file that would unfold to gigabytes never does. What the file
    is called, and what kind the browser says it is, counts for nothing.
    """
    from clipsearch.image_formats import SNIFF_BYTES, open_image, sniff_format

    if not data:
        raise PageError("The file is empty.")
    if len(data) > settings.most_upload_bytes:
        raise PageError(f"Expected an image of at most {settings.most_upload_bytes >> 20} MB.", 413)
    kind = sniff_format(data[:SNIFF_BYTES])
    if kind == "RAW":
        raise PageError("RAW photos are not taken here: hand in the JPEG of the camera.", 415)
    if kind is None:
        raise PageError(_NO_IMAGE, 415)
    try:
        open_image(data, max_megapixels=settings.most_pixels / 1e6).close()
    except ImageError as error:
        if error.reason == "too_large":
            most = settings.most_pixels // 1_000_000
            raise PageError(
                f"Expected an image of at most {most:,} million pixels.", 413
            ) from error
        if error.reason == "unsupported":
            raise PageError(_NO_IMAGE, 415) from error
        raise PageError("The image is damaged: it cannot be read.") from error
    return data


@functools.cache
def upload_folder() -> Path:
    """Where Gradio keeps what it is handed: a folder of this process alone, readable by its user
    alone, deleted when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="clipsearch-ui-")).resolve()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio asks for it whenever it needs it
    os.environ["GRADIO_EXAMPLES_CACHE"] = str(folder / "examples")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def uploaded_file(place: object, settings: PageSettings) -> Path:
    """The file that an event names, if it was handed in; PageError for any other on the disk.

    Links are followed before the place is judged.
    """
    if not isinstance(place, str | os.PathLike) or "\0" in os.fspath(place):
        raise PageError("This file was not handed in.", 400)
    try:
        path = Path(place).resolve()
        size = path.stat().st_size
    except (OSError, ValueError, RuntimeError):
        raise PageError("This file was not handed in, or it is gone: choose it again.") from None
    if not path.is_relative_to(upload_folder()) or not path.is_file():
        raise PageError("This file was not handed in, or it is gone: choose it again.")
    if size > settings.most_upload_bytes:
        raise PageError(f"Expected a file of at most {settings.most_upload_bytes >> 20} MB.", 413)
    return path


def kept_bytes() -> int:
    """What all files that were handed in take on the disk just now."""
    total = 0
    for folder, _, names in os.walk(upload_folder()):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # deleted meanwhile
                continue
    return total


def limit_pillow(settings: PageSettings) -> None:
    """Hold every decoding of this process by Pillow to ``most_pixels``, Gradio's own too.

    Pillow refuses twice its limit, and only warns of more than once: the warning is an error here.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = settings.most_pixels
    warnings.simplefilter("error", Image.DecompressionBombWarning)
