"""Files that wish a reader of images ill, made from a few pictures, and what is certain of each."""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from clipsearch.file_kinds import reads_raw
from tests.raw_files import dng

INDEXED = "indexed"
IGNORED = "ignored"
BAD = frozenset({"corrupt", "truncated", "unsupported", "too_large", "empty"})
"""Any of the reasons that lie in the bytes of a file."""
ANY = BAD | {INDEXED}
"""For damage that a decoder may pass over, or not."""

Outcome = frozenset[str]


def one(name: str) -> Outcome:
    return frozenset({name})


class Folder:
    """Hostile files below ``root``; ``expected`` says per path (bytes) what may become of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.expected: dict[bytes, Outcome] = {}

    def add(self, name: str | bytes, data: bytes, outcome: Outcome | str) -> None:
        """Write a file; a reason stands for just that reason."""
        key = os.fsencode(name)
        assert key not in self.expected, key
        path = os.path.join(os.fsencode(self.root), key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)
        self.expected[key] = one(outcome) if isinstance(outcome, str) else outcome


def picture(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture of its own for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp",
           "AVIF": "avif", "HEIF": "heic"}  # fmt: skip


def _formats(seed: int) -> dict[str, bytes]:
    return {kind: saved(picture(seed + number), kind) for number, kind in enumerate(ENDINGS)}


def truncations(to: Folder) -> None:
    """Every format cut at many places: of what lacks its second half no picture is made."""
    for kind, data in _formats(100).items():
        ending = ENDINGS[kind]
        for share in (0.001, 0.01, 0.03, 0.1, 0.25, 0.5):
            cut = data[: max(1, int(len(data) * share))]
            # Of a few bytes it cannot even be said what they were to be.
            unknown = {"unsupported"} if share < 0.1 else set()
            outcome = frozenset({"truncated", "corrupt"} | unknown)
            to.add(f"truncated/{kind} {share}.{ending}", cut, outcome)
        # Less than the last byte is the end mark of some and padding of others.
        for share in (0.75, 0.97):
            cut = data[: int(len(data) * share)]
            to.add(f"truncated/{kind} {share}.{ending}", cut, ANY - {"empty"})
    jpeg = saved(picture(120), "JPEG")
    for number in (3, 20, 200):
        to.add(f"truncated/exactly {number}.jpg", jpeg[:number], one("truncated") | {"corrupt"})
    to.add("truncated/half.jpg", jpeg[: len(jpeg) // 2], "truncated")


def flips(to: Folder) -> None:
    """Bytes changed at random, five ways in every format."""
    for number, (kind, data) in enumerate(_formats(200).items()):
        for seed in range(5):
            rng = random.Random(1000 * number + seed)
            changed = bytearray(data)
            # From one byte to a hundredth of all, and now and then in the header alone.
            reach = 64 if seed == 4 else len(data)
            for _ in range((1, 3, 10, max(1, len(data) // 100), 4)[seed]):
                changed[rng.randrange(min(reach, len(data)))] ^= rng.randrange(1, 256)
            to.add(f"flipped/{kind} {seed}.{ENDINGS[kind]}", bytes(changed), ANY - {"empty"})


def impostors(to: Folder) -> None:
    """Other things with the name of an image, and images with the name of others."""
    page = b"<!DOCTYPE html><html><body>photo.jpg not found</body></html>"
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    strangers = {
        "html.jpg": page,
        "blank lines.jpg": b"\n\n  " + page,
        "svg.jpg": svg,
        "xml.png": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb">]>' + svg,
        "svg.gz.webp": gzip.compress(svg),
        "program.jpg": b"MZ" + bytes(4000),
        "elf.png": b"\x7fELF\x02\x01\x01" + bytes(4000),
        "script.gif": b"#!/bin/sh\nrm -rf ~\n",
        "paper.tif": b"%PDF-1.7\n" + bytes(3000),
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "photoshop.jpg": b"8BPS\x00\x01" + bytes(3000),
        "archive.jpg": b"PK\x03\x04" + bytes(3000),
        "zeros.jpg": bytes(5000),
        "ones.png": b"\xff" * 5000,
        "one byte.jpg": b"\xff",
        "text.jpg": b"this is a text\n" * 30,
        "film.heic": struct.pack(">I", 24) + b"ftypisom\0\0\0\0isommp42" + bytes(2000),
        "sound.webp": b"RIFF" + struct.pack("<I", 2004) + b"WAVEfmt " + bytes(1992),
        "pickle.jpg": b"\x80\x04cos\nsystem\n.",
        "icon.png": b"\0\0\1\0" + bytes(500),
        "ppm.jpg": b"P6\n10 10\n255\n" + bytes(300),
    }
    for name, data in strangers.items():
        to.add(f"impostors/{name}", data, "unsupported")
    rng = random.Random(3)
    for number in range(6):
        to.add(f"impostors/noise {number}.jpg", rng.randbytes(3000 + number), "unsupported")
    for number, ending in enumerate(["jpg", "png", "tif", "heic", "webp", "gif"]):
        to.add(f"impostors/empty {number}.{ending}", b"", "empty")
    swapped = list(ENDINGS)
    for number, (kind, data) in enumerate(_formats(300).items()):
        wrong = ENDINGS[swapped[(number + 1) % len(swapped)]]
        to.add(f"impostors/{kind} as.{wrong}", data, INDEXED)
    for name in ("side.xmp", "video.mov", "no extension", "a.pdf", "._0001.jpg", "photo.jpg.txt"):
        to.add(f"impostors/{name}", saved(picture(320), "JPEG"), IGNORED)
    # Looked into only where the extra that reads RAW photos is installed.
    become = (INDEXED, "truncated", "unsupported") if reads_raw() else (IGNORED,) * 3
    camera = dng(picture(640))
    to.add("impostors/raw.cr3", saved(picture(321), "JPEG"), become[0])
    to.add("impostors/half.dng", camera[: len(camera) // 2], become[1])
    to.add("impostors/noise.nef", rng.randbytes(4000), become[2])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _with_chunks(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks put in right behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join(parts) + packer.flush()


def _tiff(entries: list[tuple[int, int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory at 8: (tag, type, count, value) each."""
    body = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following) + tail


def _tiff_of(width: int, height: int, *more: tuple[int, int, int, int]) -> list[Any]:
    return sorted(
        [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1),
         (262, 3, 1, 1), (277, 3, 1, 1), *more]
    )  # fmt: skip


def giants(to: Folder) -> None:
    """Headers that promise more pixels than anybody has memory for."""
    row = _chunk(b"IDAT", zlib.compress(bytes(3000)))
    to.add("giants/30000.png", _png(30_000, 30_000, row), "too_large")
    to.add("giants/edge.png", _png(2**31 - 1, 2**31 - 1, row), BAD)
    bomb = _chunk(b"IDAT", _zeros(900 << 20))  # a million times what it is
    to.add("giants/30000 in full.png", _png(30_000, 30_000, bomb, depth=8, colour=0), "too_large")
    jpeg = bytearray(saved(picture(400), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    for side in (30_000, 65_535):
        jpeg[at : at + 4] = struct.pack(">HH", side, side)
        to.add(f"giants/{side}.jpg", bytes(jpeg), "too_large")
    gif = bytearray(saved(picture(401), "GIF"))
    gif[6:10] = struct.pack("<HH", 65_535, 65_535)
    to.add("giants/screen.gif", bytes(gif), "too_large")
    gif[6:10] = struct.pack("<HH", 30_000, 30_000)
    to.add("giants/30000.gif", bytes(gif), "too_large")
    bmp = bytearray(saved(picture(402), "BMP"))
    bmp[18:26] = struct.pack("<ii", 30_000, 30_000)
    to.add("giants/30000.bmp", bytes(bmp), "too_large")
    bmp[18:26] = struct.pack("<ii", -30_000, -30_000)
    to.add("giants/negative.bmp", bytes(bmp), BAD)
    strips = ((273, 4, 1, 200), (279, 4, 1, 1000), (278, 4, 1, 30_000))
    to.add("giants/30000.tif", _tiff(_tiff_of(30_000, 30_000, *strips)), "too_large")
    edge = _tiff(_tiff_of(2**32 - 1, 2**32 - 1, *strips))
    to.add("giants/edge.tif", edge, BAD)
    webp = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2
    to.add("giants/edge.webp", b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp, BAD)
    to.add("giants/long.png", saved(Image.new("L", (200_000, 3)), "PNG"), INDEXED)
    for kind in ("AVIF", "HEIF"):
        data = saved(picture(403), kind)
        at = data.index(b"ispe") + 8
        grown = data[:at] + struct.pack(">II", 30_000, 30_000) + data[at + 8 :]
        to.add(f"giants/{kind}.{ENDINGS[kind]}", grown, BAD | {INDEXED})


def bombs(to: Folder) -> None:
    """Small files that unpack to gigabytes, and boxes that hold themselves."""
    good = saved(picture(500), "PNG")
    text = _zeros(2 << 30)
    assert len(text) < 3 << 20
    to.add("bombs/ztxt.png", _with_chunks(good, _chunk(b"zTXt", b"Comment\0\0" + text)), ANY)
    wide = b"XML:com.adobe.xmp\0\1\0\0\0" + text
    to.add("bombs/itxt.png", _with_chunks(saved(picture(501), "PNG"), _chunk(b"iTXt", wide)), ANY)
    icc = _chunk(b"iCCP", b"profile\0\0" + text)
    to.add("bombs/iccp.png", _with_chunks(saved(picture(502), "PNG"), icc), ANY)
    many = [_chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(900_000))) for n in range(400)]
    to.add("bombs/many texts.png", _with_chunks(saved(picture(503), "PNG"), *many), ANY)
    tiny = _png(10, 10, _chunk(b"IDAT", text))
    to.add("bombs/too many pixels.png", tiny, ANY)
    riff = b"WEBP"
    for _ in range(2000):
        riff = b"RIFF" + struct.pack("<I", 0xFFFFFFF0) + riff
    to.add("bombs/nested.webp", b"RIFF" + struct.pack("<I", 2**32 - 2) + b"WEBP" + riff, BAD)
    webp = saved(picture(504), "WEBP")
    to.add("bombs/chunk.webp", webp[:16] + b"\xff\xff\xff\xff" + webp[20:], BAD)
    to.add("bombs/riff.webp", webp[:4] + b"\xff\xff\xff\xff" + webp[8:], ANY)
    for kind in ("AVIF", "HEIF"):
        data = saved(picture(505), kind)
        size = int.from_bytes(data[:4], "big")
        head, rest, ending = data[:size], data[size:], ENDINGS[kind]
        nested = b""
        for _ in range(3000):
            nested = struct.pack(">I", len(nested) + 8) + b"meta" + nested
        to.add(f"bombs/nested.{ending}", head + nested, BAD)
        to.add(f"bombs/endless box.{ending}", head + b"\0\0\0\1meta" + b"\xff" * 8 + rest, BAD)
        to.add(f"bombs/box of nothing.{ending}", head + bytes(4) + b"meta", BAD)
        to.add(f"bombs/box too small.{ending}", head + b"\0\0\0\4meta" * 3000, BAD)
        to.add(f"bombs/only brands.{ending}", head, BAD)
        at = data.index(b"iloc") + 4
        wild = data[:at] + data[at : at + 6] + b"\xff\xff" + data[at + 8 :]
        to.add(f"bombs/items.{ending}", wild, ANY)


def tiffs(to: Folder) -> None:
    """Directories that point at themselves, and counts beyond all bounds."""
    strips = ((273, 4, 1, 200), (279, 4, 1, 100), (278, 4, 1, 10))
    cyclic = _tiff(_tiff_of(10, 10, *strips), following=8, tail=bytes(400))
    to.add("tiffs/cyclic.tif", cyclic, ANY)
    away = _tiff(_tiff_of(10, 10, *strips), following=2**32 - 2, tail=bytes(400))
    to.add("tiffs/next beyond the end.tif", away, ANY)
    for number, (tag, kind) in enumerate([(273, 4), (279, 3), (258, 3), (270, 2), (34_665, 4)]):
        entries = [entry for entry in _tiff_of(10, 10, *strips) if entry[0] != tag]
        absurd = _tiff(sorted([*entries, (tag, kind, 2**32 - 1, 8)]), tail=bytes(400))
        to.add(f"tiffs/absurd count {number}.tif", absurd, ANY)
    to.add("tiffs/no entries.tif", _tiff([]), BAD)
    to.add("tiffs/offset.tif", b"II*\0" + b"\xff" * 4, BAD)
    to.add("tiffs/itself.tif", b"MM\0*" + struct.pack(">I", 0), BAD)
    to.add("tiffs/big.tif", b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63), BAD)
    zero = _tiff(_tiff_of(0, 0, *strips), tail=bytes(400))
    to.add("tiffs/no size.tif", zero, BAD)
    pages = [picture(seed, (60, 50)) for seed in range(600, 612)]
    several = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    to.add("tiffs/pages.tif", several, INDEXED)
    to.add("tiffs/pages cut.tif", several[: len(several) // 2], ANY)
    for number, mode in enumerate(("1", "L", "LA", "P", "CMYK", "I;16", "F", "RGBA", "LAB")):
        image = picture(620 + number).convert("L" if mode in ("I;16", "F") else "RGB")
        if mode == "LAB":
            space = ImageCms.createProfile("LAB")
            image = ImageCms.profileToProfile(
                image, ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(space),
                outputMode="LAB",
            )  # fmt: skip
        elif mode == "I;16":
            image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        to.add(f"tiffs/mode {number}.tif", saved(image, "TIFF"), INDEXED)


def _exif(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 8) + b"Exif\0\0" + body


def metadata(to: Folder) -> None:
    """Good pictures with absurd words about them: the pictures count all the same."""
    rng = random.Random(5)
    sub = 8 + 2 + 12 + 4
    wild: dict[str, bytes] = {
        "noise": rng.randbytes(500),
        "nothing": b"",
        "cyclic": _tiff([(34_665, 4, 1, 8)], following=8),
        "sub directory in itself": _tiff([(34_665, 4, 1, sub)])
        + struct.pack("<HHHII", 1, 34_665, 4, 1, sub),
        "counts": _tiff([(271, 2, 2**32 - 1, 8), (272, 2, 0, 0), (306, 2, 20, 2**31)]),
        "orientation 99": _tiff([(274, 3, 1, 99)]),
        "orientation of text": _tiff([(274, 2, 4, 0x20303030)]),
        "gps": _tiff([(34_853, 4, 1, 26)]) + struct.pack("<HHHII", 1, 2, 5, 3, 60) + bytes(40),
        "date": _tiff([(306, 2, 20, 26)], tail=b"9999:99:99 99:99:99\0"),
        "zero fractions": _tiff([(33_434, 5, 1, 26)], tail=bytes(8)),
        "text that is none": _tiff([(270, 2, 30, 26)], tail=b"\xff\xfe\x00\x1b[2J" * 6),
        "long text": _tiff([(270, 2, 60_000, 26)], tail=b"A" * 60_000),
    }
    for number, (name, body) in enumerate(wild.items()):
        jpeg = saved(picture(700 + number), "JPEG")
        to.add(f"metadata/{name}.jpg", jpeg[:2] + _exif(body) + jpeg[2:], INDEXED)
    for number, kind in enumerate(("JPEG", "PNG", "WEBP", "TIFF")):
        data = saved(picture(720 + number), kind, icc_profile=rng.randbytes(400))
        to.add(f"metadata/icc garbage.{ENDINGS[kind]}", data, INDEXED)
    jpeg = saved(picture(730), "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
        b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(12)
    )
    xmp += b"]><x:xmpmeta xmlns:x='adobe:ns:meta/'>&m;</x:xmpmeta>"
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    to.add("metadata/laughing xmp.jpg", jpeg[:2] + segment + jpeg[2:], INDEXED)
    to.add("metadata/length 0.jpg", jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:], ANY)
    comment = b"\xff\xfe\xff\xff" + bytes(65_533)
    thousand = saved(picture(731), "JPEG")
    to.add("metadata/comments.jpg", thousand[:2] + comment * 100 + thousand[2:], INDEXED)
    to.add("metadata/tail.jpg", saved(picture(732), "JPEG") + rng.randbytes(200_000), INDEXED)


def modes(to: Folder) -> None:
    """Unusual, and yet good."""
    base = picture(800)
    to.add("modes/cmyk.jpg", saved(picture(801).convert("CMYK"), "JPEG"), INDEXED)
    ycck = bytearray(saved(picture(802).convert("CMYK"), "JPEG"))
    if b"Adobe" in ycck:
        ycck[ycck.index(b"Adobe") + 11] = 2
    to.add("modes/ycck.jpg", bytes(ycck), INDEXED)
    deep = np.asarray(picture(803).convert("L")).astype(np.uint16) * 257
    to.add("modes/16 bit.png", saved(Image.fromarray(deep), "PNG"), INDEXED)
    to.add("modes/1 bit.png", saved(picture(804).convert("1"), "PNG"), INDEXED)
    to.add("modes/grey and alpha.png", saved(picture(805).convert("LA"), "PNG"), INDEXED)
    palette = picture(806).quantize(16)
    to.add("modes/palette.png", saved(palette, "PNG", transparency=3), INDEXED)
    to.add("modes/palette alpha.png", saved(palette, "PNG", transparency=bytes(range(16))), INDEXED)
    to.add("modes/palette.gif", saved(picture(807).quantize(8), "GIF", transparency=1), INDEXED)
    empty = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    to.add("modes/all transparent.png", saved(empty, "PNG"), INDEXED)
    to.add("modes/one pixel.png", saved(Image.new("RGB", (1, 1), "red"), "PNG"), INDEXED)
    to.add("modes/one pixel.gif", saved(Image.new("P", (1, 1)), "GIF"), INDEXED)
    to.add("modes/progressive.jpg", saved(picture(808), "JPEG", progressive=True), INDEXED)
    to.add("modes/no size.png", _png(0, 0, _chunk(b"IDAT", zlib.compress(b""))), BAD)
    to.add(
        "modes/no palette.png", _png(9, 9, _chunk(b"IDAT", zlib.compress(bytes(99))), colour=3), ANY
    )
    to.add(
        "modes/depth 77.png", _png(9, 9, _chunk(b"IDAT", zlib.compress(bytes(99))), depth=77), BAD
    )
    frames = [picture(seed, (50, 40)) for seed in range(810, 830)]
    for kind in ("GIF", "PNG", "WEBP", "AVIF"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)
        to.add(f"modes/animated {kind}.{ENDINGS[kind]}", data, INDEXED)
        to.add(f"modes/animated half {kind}.{ENDINGS[kind]}", data[: len(data) // 2], ANY)
        frames = [picture(seed, (50, 40)) for seed in range(830 + len(data) % 7, 850)]
    mpo = saved(base, "MPO", save_all=True, append_images=frames[:2])
    to.add("modes/two lenses.jpg", mpo, INDEXED)
    to.add("modes/two lenses cut.jpg", mpo[: len(mpo) * 2 // 3], ANY)


def names(to: Folder) -> None:
    """Names that break what prints, splits or normalises them."""
    long = "x" * 251 + ".jpg"
    wanted: list[str | bytes] = [
        "new\nline.jpg", "carriage\rreturn.jpg", "tab\t.jpg", "escape \x1b[2J\x1b]0;x\x07.jpg",
        "bell\x07.jpg", "quote'\".jpg", "$(touch x);`id`.jpg", "-rf.jpg", " lead and trail .jpg",
        "..jpg.jpg", "*?[a].jpg", "\u202egpj.exe.jpg", "emoji \U0001f600.jpg", "back\\slash.jpg",
        "%s%n%d.jpg", "null \u2400.jpg", long, "caf\u00e9.jpg", "cafe\u0301.jpg",
        b"latin-1 \xe9\xff.jpg", b"\x80\x81\xfe.jpg", b"surrogate \xed\xa0\x80.jpg", "UPPER.JPG",
        "con.jpg", "a:b.jpg",
    ]  # fmt: skip
    for number, name in enumerate(wanted):
        to.add(b"names/" + os.fsencode(name), saved(picture(900 + number), "JPEG"), INDEXED)
    deep = "/".join(["d" * 60] * 40)
    assert len(deep) < 2500
    to.add(f"names/{deep}/deep.jpg", saved(picture(940), "JPEG"), INDEXED)
    to.add(b"names/folder \xff\n/in.jpg", saved(picture(941), "JPEG"), INDEXED)
    to.add("names/folder.jpg/in.jpg", saved(picture(942), "JPEG"), INDEXED)
    to.add("names/.hidden.jpg", saved(picture(943), "JPEG"), INDEXED)


def no_files(to: Folder) -> list[socket.socket]:
    """What has the name of an image and is no file at all. Sockets stay while they are held."""
    place = to.root / "no files"
    place.mkdir()
    (place / "directory.jpg").mkdir()
    os.mkfifo(place / "pipe.jpg")
    (place / "broken.jpg").symlink_to("nowhere.jpg")
    (place / "itself.jpg").symlink_to("itself.jpg")
    (place / "there.jpg").symlink_to("back.jpg")
    (place / "back.jpg").symlink_to("there.jpg")
    (place / "up").symlink_to("..")
    (place / "loop").symlink_to("loop")
    (place / "null.jpg").symlink_to("/dev/null")
    (place / "zero.jpg").symlink_to("/dev/zero")
    made = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(place)  # a socket's path may have but a hundred bytes
    try:
        made.bind("socket.jpg")
    finally:
        os.chdir(here)
    for name in ("pipe", "broken", "itself", "there", "back", "null", "zero", "socket"):
        to.expected[f"no files/{name}.jpg".encode()] = one(IGNORED)
    to.expected[b"no files/loop"] = one(IGNORED)
    return [made]


MAKERS: tuple[Callable[[Folder], Any], ...] = (
    truncations, flips, impostors, giants, bombs, tiffs, metadata, modes, names, no_files,
)  # fmt: skip
