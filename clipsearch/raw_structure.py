"""What a RAW photo's bytes tell without developing it: that it is one, whether it is whole,
and its EXIF. Most are built like a TIFF; Canon's CR3 like a film, Fujifilm's RAF like neither."""

from __future__ import annotations

import io
import operator
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from PIL import Image, JpegImagePlugin

from clipsearch.exif import ExifTagSets, attempt, tag_sets

_MOST_DIRECTORIES = 32
_MOST_ENTRIES = 1024
_SUB_DIRECTORIES, _DNG_VERSION, _PHOTOMETRIC = 0x014A, 0xC612, 0x0106
_OF_A_SENSOR = (32803, 34892)  # a colour filter array; "linear raw"
# (where the parts of the picture are, how long they are): strips, tiles
_PARTS = ((0x0111, 0x0117), (0x0144, 0x0145))
_SIZES = {1: 1, 3: 2, 4: 4, 13: 4}  # bytes of a TIFF's whole numbers, by type
_CODES = {1: "B", 3: "H", 4: "I", 13: "I"}

_MAGIC = (
    b"IIRO", b"IIRS", b"MMOR", b"IIU\x00", b"FUJIFILMCCD-RAW ", b"\x00MRM",
    b"II\x1a\x00\x00\x00HEAPCCDR",
)  # fmt: skip


def begins_like_raw(head: bytes) -> bool:
    """Whether the first bytes are those of a RAW photo. Those of most are a TIFF's: see
    ``is_raw_tiff``."""
    return head.startswith(_MAGIC) or head[8:11] == b"CR\x02" or head[4:12] == b"ftypcrx "


def is_raw_tiff(data: bytes) -> bool:
    """Whether a file with the structure of a TIFF holds what a sensor saw."""
    return any(
        _DNG_VERSION in directory.numbers
        or directory.numbers.get(_PHOTOMETRIC, (0,))[0] in _OF_A_SENSOR
        for directory in _directories(data)
    )


def ends_early(data: bytes) -> bool:
    """Whether the file itself says that bytes are missing at its end. Previews come first: of
    half a file they may be whole."""
    if data.startswith(b"FUJIFILMCCD-RAW "):
        places: tuple[int, ...] = struct.unpack_from(">6I", data.ljust(108, b"\x00"), 84)
        end: int = max(map(operator.add, places[::2], places[1::2]))
        return end > len(data)
    if data[4:12] == b"ftypcrx ":
        return _end_of_boxes(data) != len(data)
    directories = list(_directories(data))
    for directory in directories:
        for offsets, lengths in _PARTS:
            at = directory.numbers.get(offsets, ())
            sizes = directory.numbers.get(lengths, ())
            if any(map(len(data).__lt__, map(operator.add, at, sizes))):
                return True
    return not directories and data[:4] in (b"II*\x00", b"MM\x00*")


def read_raw_exif(data: bytes) -> tuple[ExifTagSets, bytes | None]:
    """The EXIF tags of a RAW photo and its XMP packet. Empty, None where they cannot be read."""
    if data.startswith(b"FUJIFILMCCD-RAW "):
        at, size = struct.unpack_from(">2I", data.ljust(92, b"\x00"), 84)
        image = attempt(lambda: JpegImagePlugin.JpegImageFile(io.BytesIO(data[at : at + size])))
        exif = None if image is None else attempt(image.getexif)
        packet = None if image is None else image.info.get("xmp")
        return tag_sets(exif), packet if isinstance(packet, bytes) else None
    if data[4:12] == b"ftypcrx ":
        blocks = _canon_blocks(data)
        main, photo, gps = (
            tag_sets(attempt(lambda name=name: _load(blocks[name]))).main  # type: ignore[misc]
            for name in (b"CMT1", b"CMT2", b"CMT4")
        )
        return ExifTagSets(main=main, photo=photo, gps=gps), None
    if data[:2] in (b"II", b"MM"):  # Olympus and Panasonic put letters where a TIFF has a 42
        data = (b"II*\x00" if data[:2] == b"II" else b"MM\x00*") + data[4:]
    exif = attempt(lambda: _load(data))
    packet = None if exif is None else attempt(lambda: exif.get(0x02BC))
    return tag_sets(exif), packet if isinstance(packet, bytes) else None


def _load(data: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(data)
    return exif


@dataclass(frozen=True)
class _Directory:
    """Some tags of one directory. next : where the next one is, 0 for none."""

    numbers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    next: int = 0


def _directories(data: bytes) -> Iterator[_Directory]:
    """All directories of a TIFF that can be read, the main ones and those inside them."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8 or data[2:4] in (b"+\x00", b"\x00+"):
        return
    waiting = [struct.unpack_from(f"{order}I", data, 4)[0]]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST_DIRECTORIES:
        at = waiting.pop(0)
        if not at or at in seen:
            continue
        seen.add(at)
        try:
            directory = _directory(data, at, order)
        except struct.error:  # it lies, or leads, beyond the end
            continue
        yield directory
        waiting += [*directory.numbers.get(_SUB_DIRECTORIES, ())[:_MOST_DIRECTORIES]]
        waiting.append(directory.next)


def _directory(data: bytes, at: int, order: str) -> _Directory:
    (count,) = struct.unpack_from(f"{order}H", data, at)
    if count > _MOST_ENTRIES:
        return _Directory()
    wanted = {
        _SUB_DIRECTORIES,
        _DNG_VERSION,
        _PHOTOMETRIC,
        *(tag for pair in _PARTS for tag in pair),
    }
    numbers: dict[int, tuple[int, ...]] = {}
    for place in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, place)
        if tag not in wanted or kind not in _SIZES or not length:
            continue
        where = place + 8
        if length * _SIZES[kind] > 4:
            (where,) = struct.unpack_from(f"{order}I", data, where)
        if where + length * _SIZES[kind] <= len(data):
            numbers[tag] = struct.unpack_from(f"{order}{length}{_CODES[kind]}", data, where)
    (following,) = struct.unpack_from(f"{order}I", data, at + 2 + 12 * count)
    return _Directory(numbers, following)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its content begins, where it ends) of the boxes of a film's structure."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        begin = start + 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        elif size == 0:
            size = end - start
        if start + size < begin:
            return
        yield kind, begin, start + size
        start += size


def _end_of_boxes(data: bytes) -> int:
    return max((end for _, _, end in _boxes(data, 0, len(data))), default=0)


def _canon_blocks(data: bytes) -> dict[bytes, bytes]:
    """The EXIF directories of a CR3, each a TIFF of its own: CMT1 the main one, CMT2 the one of
    the photo, CMT4 the position."""
    blocks: dict[bytes, bytes] = {}
    for kind, begin, end in _boxes(data, 0, len(data)):
        if kind != b"moov":
            continue
        for inner, inner_begin, inner_end in _boxes(data, begin, min(end, len(data))):
            if inner == b"uuid":  # after 16 bytes that name Canon
                for name, at, stop in _boxes(data, inner_begin + 16, min(inner_end, len(data))):
                    blocks.setdefault(name, data[at:stop])
    return blocks
