"""What people and programs wrote into a picture: its XMP packet and its IPTC block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from PIL import Image

from clipsearch.exif import attempt, clean, to_text

_MAX_PACKET = 1 << 20
_MAX_KEYWORDS = 1000

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC = "{http://purl.org/dc/elements/1.1/}"
_XMP = "{http://ns.adobe.com/xap/1.0/}"
_EXIF = "{http://ns.adobe.com/exif/1.0/}"
_PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
_LENS_NAMES = ("{http://cipa.jp/exif/1.0/}LensModel", "{http://ns.adobe.com/exif/1.0/aux/}Lens")
_DATE_NAMES = (f"{_EXIF}DateTimeOriginal", f"{_PHOTOSHOP}DateCreated", f"{_XMP}CreateDate")
_DOCTYPE = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)

_GPS_COORDINATE = re.compile(r"(\d+),(\d+(?:\.\d+)?)(?:,(\d+(?:\.\d+)?))?\s*([NSEW])$")


@dataclass(frozen=True)
class EmbeddedText:
    """Fields of one XMP packet or IPTC block; ``dates`` best first, as written there."""

    keywords: tuple[str, ...] = ()
    description: str | None = None
    rating: int | None = None
    lens: str | None = None
    dates: tuple[str, ...] = ()
    position: tuple[float, float] | None = None


def read_xmp(image: Image.Image) -> EmbeddedText:
    """The XMP packet of an opened image; empty fields when there is none or it is unsound."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return attempt(lambda: parse_xmp(packet)) or EmbeddedText()


def parse_xmp(packet: object) -> EmbeddedText | None:
    """Fields of a packet (str or bytes). None for one over 1 MiB, or with entities or a DTD.

    Raises whatever the XML parser does for what is no XML.
    """
    if not isinstance(packet, str | bytes) or not packet or len(packet) > _MAX_PACKET:
        return None
    # Decoded before the search for entities, which UTF-16 would hide from a search in bytes.
    text = (packet if isinstance(packet, str) else _decode(packet)).strip("\x00\ufeff \r\n\t")
    if _DOCTYPE.search(text):
        return None
    properties: dict[str, ElementTree.Element | str] = {}
    for block in _descriptions(ElementTree.fromstring(text)):
        for name, value in block.attrib.items():
            properties.setdefault(name, value)
        for child in block:
            properties.setdefault(child.tag, child)
    keywords = _texts(properties.get(f"{_DC}subject"))
    descriptions = _texts(properties.get(f"{_DC}description"))
    lenses = [lens for name in _LENS_NAMES for lens in _texts(properties.get(name))]
    latitude = _coordinate(_first(properties, f"{_EXIF}GPSLatitude"), "NS", 90.0)
    longitude = _coordinate(_first(properties, f"{_EXIF}GPSLongitude"), "EW", 180.0)
    placed = latitude is not None and longitude is not None and (latitude, longitude) != (0, 0)
    return EmbeddedText(
        keywords=tuple(keywords[:_MAX_KEYWORDS]),
        description=descriptions[0] if descriptions else None,
        rating=to_rating(_first(properties, f"{_XMP}Rating")),
        lens=lenses[0] if lenses else None,
        dates=tuple(date for name in _DATE_NAMES if (date := _first(properties, name))),
        position=(latitude, longitude) if placed else None,  # type: ignore[arg-type]
    )


def user_keywords(words: Iterable[str]) -> tuple[str, ...]:
    """Each keyword once, without those below ``clipsearch|``: ``export`` writes such into
    sidecars, and what a model guessed must not come back as the word of a person."""
    kept = (word for word in words if word and word.casefold().split("|")[0] != "clipsearch")
    return tuple(dict.fromkeys(kept))


def to_rating(value: object) -> int | None:
    """Stars, 0 .. 5, or -1 for rejected; None for what is no rating."""
    number = attempt(lambda: float(value))  # type: ignore[arg-type]
    return int(number) if number in (-1, 0, 1, 2, 3, 4, 5) else None


def _decode(packet: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if packet.startswith(mark):
            return packet.decode(encoding, "replace")
    if packet[:4].count(0) >= 2:
        return packet.decode("utf-16-be" if packet[0] == 0 else "utf-16-le", "replace")
    return packet.decode("utf-8", "replace")


def _descriptions(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    # Only the top level: histories and ingredients nest descriptions of other pictures.
    for rdf in root.iter(f"{_RDF}RDF"):
        yield from rdf.findall(f"{_RDF}Description")


def _texts(value: ElementTree.Element | str | None) -> list[str]:
    """A property's text, or those of its Bag, Seq or Alt."""
    if value is None:
        return []
    if isinstance(value, str):
        found = [value]
    else:
        items = list(value.iter(f"{_RDF}li"))
        found = [item.text or "" for item in items] if items else [value.text or ""]
    return [text for raw in found if (text := clean(raw))]


def _first(properties: Mapping[str, ElementTree.Element | str], name: str) -> str | None:
    texts = _texts(properties.get(name))
    return texts[0] if texts else None


def _coordinate(text: str | None, sides: str, limit: float) -> float | None:
    match = _GPS_COORDINATE.match(text or "")
    if match is None or match[4] not in sides:
        return None
    degrees = int(match[1]) + float(match[2]) / 60 + float(match[3] or 0) / 3600
    if degrees > limit:
        return None
    return -degrees if match[4] == sides[1] else degrees


def read_iptc(image: Image.Image) -> EmbeddedText:
    """The IPTC block of an opened JPEG or TIFF."""
    return attempt(lambda: parse_iptc(_iptc_block(image))) or EmbeddedText()


def parse_iptc(block: bytes) -> EmbeddedText:
    """Keywords (2:25) and caption (2:120) of IPTC-IIM data."""
    keywords: list[str] = []
    caption: str | None = None
    at = 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        record, dataset = block[at + 1], block[at + 2]
        size = int.from_bytes(block[at + 3 : at + 5], "big")
        if size & 0x8000:  # an extended length; nothing of ours is that long
            break
        text = to_text(block[at + 5 : at + 5 + size])
        if record == 2 and dataset == 25 and text and len(keywords) < _MAX_KEYWORDS:
            keywords.append(text)
        elif record == 2 and dataset == 120:
            caption = caption or text
        at += 5 + size
    return EmbeddedText(keywords=tuple(keywords), description=caption)


def _iptc_block(image: Image.Image) -> bytes:
    resources = image.info.get("photoshop")
    if isinstance(resources, dict):  # as Pillow reads them out of a JPEG
        block = resources.get(0x0404)
        return block if isinstance(block, bytes) else b""
    tags = getattr(image, "tag_v2", {})
    block = tags.get(0x83BB)
    if isinstance(block, bytes):
        return block
    resources = tags.get(0x8649)
    return _photoshop_resource(resources, 0x0404) if isinstance(resources, bytes) else b""


def _photoshop_resource(data: bytes, wanted: int) -> bytes:
    at = 0
    while data[at : at + 4] == b"8BIM":
        code = int.from_bytes(data[at + 4 : at + 6], "big")
        at += 6 + (data[at + 6] // 2 + 1) * 2  # the name, padded to an even length
        size = int.from_bytes(data[at : at + 4], "big")
        if code == wanted:
            return data[at + 4 : at + 4 + size]
        at += 4 + size + size % 2
    return b""
