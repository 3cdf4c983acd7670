"""RAW photos for tests: DNG files that hold what a sensor would have seen of a picture."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image

# XYZ to linear sRGB: the "camera" sees exactly the colours of sRGB, in the light of D65.
_MATRIX = (3.2404542, -1.5371385, -0.4985314, -0.969266, 1.8760108, 0.041556)
_MATRIX_END = (0.0556434, -0.2040259, 1.0572252)

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SRATIONAL = 1, 2, 3, 4, 5, 10
_CODES = {_BYTE: "B", _SHORT: "H", _LONG: "I"}

Tag = tuple[int, int, object]


def dng(
    picture: Image.Image,
    *,
    preview: Image.Image | None = None,
    orientation: int = 1,
    taken: str = "2021:05:06 07:08:09",
    version: bool = True,
) -> bytes:
    """A DNG of ``picture`` (its sides are even), uncompressed, before it is turned by
    ``orientation``; with ``preview`` as a JPEG in front."""
    linear = (np.asarray(picture.convert("RGB"), np.float64) / 255) ** 2.2
    mosaic = linear[..., 1].copy()
    mosaic[0::2, 0::2] = linear[0::2, 0::2, 0]
    mosaic[1::2, 1::2] = linear[1::2, 1::2, 2]
    sensor = (mosaic * 65535).astype("<u2").tobytes()
    width, height = picture.size
    numbers = [round(value * 10_000) for value in (*_MATRIX, *_MATRIX_END)]
    raw: list[Tag] = [
        (0x00FE, _LONG, (0,)),
        (0x0100, _LONG, (width,)),
        (0x0101, _LONG, (height,)),
        (0x0102, _SHORT, (16,)),
        (0x0103, _SHORT, (1,)),
        (0x0106, _SHORT, (32803,)),
        (0x0111, _LONG, sensor),
        (0x0115, _SHORT, (1,)),
        (0x0116, _LONG, (height,)),
        (0x0117, _LONG, (len(sensor),)),
        (0x828D, _SHORT, (2, 2)),
        (0x828E, _BYTE, (0, 1, 1, 2)),
        (0xC61D, _LONG, (65535,)),
    ]
    main: list[Tag] = [
        (0x010F, _ASCII, "Examplar"),
        (0x0110, _ASCII, "Examplar One"),
        (0x0112, _SHORT, (orientation,)),
        (0x8769, _LONG, [(0x9003, _ASCII, taken), (0xA434, _ASCII, "35mm F2")]),
        (0x8825, _LONG, _GPS),
        (0xC614, _ASCII, "Examplar One"),
        (0xC621, _SRATIONAL, tuple((value, 10_000) for value in numbers)),
        (0xC628, _RATIONAL, ((1, 1), (1, 1), (1, 1))),
        (0xC65A, _SHORT, (21,)),
    ]
    if version:
        main += [(0xC612, _BYTE, (1, 4, 0, 0)), (0xC613, _BYTE, (1, 1, 0, 0))]
    if preview is None:
        main += raw
    else:
        stream = io.BytesIO()
        preview.save(stream, "JPEG", quality=92)
        jpeg = stream.getvalue()
        main += [
            (0x00FE, _LONG, (1,)),
            (0x0100, _LONG, (preview.width,)),
            (0x0101, _LONG, (preview.height,)),
            (0x0102, _SHORT, (8, 8, 8)),
            (0x0103, _SHORT, (7,)),
            (0x0106, _SHORT, (6,)),
            (0x0111, _LONG, jpeg),
            (0x0115, _SHORT, (3,)),
            (0x0116, _LONG, (preview.height,)),
            (0x0117, _LONG, (len(jpeg),)),
            (0x014A, _LONG, raw),
        ]
    out = bytearray(b"II*\x00" + struct.pack("<I", 8))
    _write(out, main)
    return bytes(out)


_GPS: list[Tag] = [
    (1, _ASCII, "S"),
    (2, _RATIONAL, ((33, 1), (54, 1), (0, 1))),
    (3, _ASCII, "E"),
    (4, _RATIONAL, ((151, 1), (12, 1), (0, 1))),
]


def _write(out: bytearray, tags: list[Tag]) -> None:
    """Append a directory, and behind it what its tags point at: ``bytes`` are pixels, a list is
    another directory."""
    tags = sorted(tags, key=lambda tag: tag[0])
    at = len(out)
    out += struct.pack("<H", len(tags)) + bytes(12 * len(tags) + 4)
    for number, (tag, kind, value) in enumerate(tags):
        if isinstance(value, bytes | list):
            count, data = 1, struct.pack("<I", len(out))
            if isinstance(value, bytes):
                out += value
            else:
                _write(out, value)
        else:
            count, data = _packed(kind, value)
            if len(data) > 4:
                data, place = struct.pack("<I", len(out)), data
                out += place + bytes(len(place) % 2)
        entry = struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\x00")
        out[at + 2 + 12 * number : at + 14 + 12 * number] = entry


def _packed(kind: int, value: object) -> tuple[int, bytes]:
    if isinstance(value, str):
        return len(value) + 1, value.encode() + b"\x00"
    assert isinstance(value, tuple)
    if kind in (_RATIONAL, _SRATIONAL):
        code = "<ii" if kind == _SRATIONAL else "<II"
        return len(value), b"".join(struct.pack(code, *pair) for pair in value)
    return len(value), struct.pack(f"<{len(value)}{_CODES[kind]}", *value)
