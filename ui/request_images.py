"""An image in the body of a request: read into memory up to a limit, never onto a disk."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ui.page_errors import PageError
from ui.page_settings import PageSettings

_MOST_FIELDS = 100
_FIELD_BYTES = 16_384
_FORM_BYTES = 262_144
"""What a form may need around the image."""


async def read_image_body(
    request: Request, settings: PageSettings, field_bytes: int = _FIELD_BYTES
) -> tuple[bytes, list[tuple[str, str]]]:
    """The file of an image, and the fields that came with it.

    The body is either the file itself, whatever type it is said to be, or a form
    (multipart/form-data) with one file and, if need be, fields of at most ``field_bytes`` each.
    Raises PageError: 413 for more than the settings allow, without waiting for the rest of it.
    """
    most = settings.most_upload_bytes
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await _read_form(request, most, field_bytes)
    return await read_body(request, most, _too_large(most)), []


async def read_body(request: Request, most: int, too_long: str) -> bytes:
    """The body of at most ``most`` bytes; PageError (413), saying ``too_long``, as soon as more
    come."""
    return b"".join([piece async for piece in _at_most(request, most, too_long)])


async def _read_form(
    request: Request, most: int, field_bytes: int
) -> tuple[bytes, list[tuple[str, str]]]:
    stream = _at_most(request, most + _FORM_BYTES, _too_large(most))
    parser = MultiPartParser(
        request.headers, stream, max_files=1, max_fields=_MOST_FIELDS, max_part_size=field_bytes
    )
    parser.spool_max_size = most + _FORM_BYTES  # larger files would be written to a disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        why = getattr(error, "message", "it has no boundary")
        raise PageError(f"This form cannot be read: {why}") from None
    try:
        files: list[bytes] = []
        fields: list[tuple[str, str]] = []
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append(await value.read())
            else:
                fields.append((name, value))
        if len(files) != 1:
            raise PageError("Expected one image file in the form, such as -F image=@photo.jpg")
        return files[0], fields
    finally:
        await form.close()


def _too_large(most: int) -> str:
    return f"Expected an image of at most {most >> 20} MB."


async def _at_most(request: Request, most: int, too_long: str) -> AsyncGenerator[bytes, None]:
    length = 0
    async for piece in request.stream():
        length += len(piece)
        if length > most:
            raise PageError(too_long, 413)
        yield piece
