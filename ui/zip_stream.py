"""A zip archive of originals, made while it is sent: no file and no archive is ever held whole."""

from __future__ import annotations

import io
import re
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from clipsearch.generation import Generation
from clipsearch.metadata_columns import displayed
from ui.original_files import Original, open_original
from ui.page_errors import PageError

_UNFIT = re.compile(r'[\x00-\x1f\x7f"\\/:*?<>|]')
_EARLIEST, _LATEST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""That a zip archive can say."""
_ZIP64_FROM = 1 << 31
NOT_INCLUDED = "NOT INCLUDED.txt"


class _Outbox(io.RawIOBase):
    """Keeps what is written until it is taken; it cannot be sought in, as nothing that is sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def zip_of_originals(state: Generation, ids: Sequence[int]) -> Iterator[bytes]:
    """The archive, piece by piece: the files of the images in their order, as they are (photos
    are compressed already), each under its own name.

    What cannot be had any more is named, with the reason, in a text file at the end.
    """
    outbox = _Outbox()
    used: set[str] = {NOT_INCLUDED.casefold()}
    lacking: list[str] = []
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
        for image_id in ids:
            try:
                original = open_original(state, image_id)
            except PageError as error:
                place = state.paths.places(image_id)[:1]
                name = displayed(place[0].path.name) if place else f"image {image_id}"
                lacking.append(f"{name}: {error}")
                continue
            name = free_name(displayed(original.path.name), used)
            with original.file, archive.open(_entry(name, original), "w") as entry:
                for chunk in original.chunks():
                    entry.write(chunk)
                    yield outbox.taken()
            yield outbox.taken()
        if lacking:
            archive.writestr(NOT_INCLUDED, "\n".join(lacking) + "\n")
    yield outbox.taken()


def free_name(name: str, used: set[str]) -> str:
    """A name that no other file of the archive has, upper and lower case alike, fit for every
    system; it is added to ``used``."""
    plain = PurePath(_UNFIT.sub("_", name).strip(" .") or "photo")
    candidate, count = plain.name, 1
    while candidate.casefold() in used:
        count += 1
        candidate = f"{plain.stem} ({count}){plain.suffix}"
    used.add(candidate.casefold())
    return candidate


def _entry(name: str, original: Original) -> zipfile.ZipInfo:
    changed = time.localtime(original.changed)[:6]
    entry = zipfile.ZipInfo(name, min(max(changed, _EARLIEST), _LATEST))
    entry.external_attr = 0o644 << 16
    entry.file_size = original.size if original.size >= _ZIP64_FROM else 0
    return entry
