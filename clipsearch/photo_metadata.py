"""What a photo says about itself: when, where and with what it was taken, and its keywords."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from PIL import Image

from clipsearch.embedded_text import EmbeddedText, read_iptc, read_xmp, to_rating, user_keywords
from clipsearch.exif import (
    ExifTagSets,
    attempt,
    gps_altitude,
    gps_moment,
    gps_position,
    parse_date,
    parse_offset,
    read_exif,
    short_texts,
    to_orientation,
    to_text,
    to_utf16_text,
)

# (source, directory, date, offset from UTC, fractions of a second)
_TAKEN_TAGS = (
    ("exif:DateTimeOriginal", "photo", 0x9003, 0x9011, 0x9291),
    ("exif:DateTimeDigitized", "photo", 0x9004, 0x9012, 0x9292),
)
# The time of the last change, by its definition; old cameras write only this one.
_CHANGED_TAG = ("exif:DateTime", "main", 0x0132, 0x9010, 0x9290)

_Taken = tuple[datetime, int | None, str]


@dataclass(frozen=True)
class PhotoMetadata:
    """What is known of one photo. A tag that is missing or makes no sense is None.

    format : "JPEG" (MPO too), "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "HEIF" or "RAW".
    width, height : pixels of the picture as shown, after orientation.
    orientation : the EXIF orientation the file asks for, 1 .. 8. frames : pages or frames.
    taken_at : wall clock where the photo was taken, no time zone; UTC when the source is "gps",
        or is "takeout" and nothing shows the time zone.
    utc_offset_minutes : what to subtract from ``taken_at`` for UTC.
    taken_at_source : in this order of trust: "exif:DateTimeOriginal", "exif:DateTimeDigitized",
        "xmp", then "xmp-sidecar" and "takeout" (files beside the photo), "exif:DateTime" (of the
        last change, by its definition), "gps" (of the fix), and last "name" (of the file).
        What lies outside of the photo is found while indexing, not by ``read_metadata``.
    lat, lon : signed decimal degrees, both or neither. altitude : metres.
    keywords : of IPTC, XMP, Windows and the XMP file beside the photo, in this order, each once.
        A description, rating, lens or position that the photo lacks comes from beside it too.
    rating : stars 0 .. 5, -1 for rejected.
    phash : 64-bit perceptual hash of the upright picture (``perceptual_hash``).
    exif : the other EXIF tags, name -> text of at most 512 characters, without binary ones.
    """

    format: str
    width: int
    height: int
    orientation: int = 1
    frames: int = 1
    taken_at: datetime | None = None
    utc_offset_minutes: int | None = None
    taken_at_source: str | None = None
    lat: float | None = None
    lon: float | None = None
    altitude: float | None = None
    camera: str | None = None
    lens: str | None = None
    keywords: tuple[str, ...] = ()
    description: str | None = None
    rating: int | None = None
    phash: int = 0
    exif: dict[str, str] = field(default_factory=dict)


def read_metadata(image: Image.Image) -> PhotoMetadata:
    """Everything but the ``phash``, which is 0. Never raises for what the file holds.

    image : opened, and not loaded yet unless it is a PNG: Pillow turns a TIFF upright while
        loading it and drops the tag that said so.
    """
    exif = read_exif(image)
    xmp, iptc = read_xmp(image), read_iptc(image)
    orientation = _orientation(image, exif)
    width, height = image.size
    # HEIF headers give the size as shown; so does a TIFF's in Pillow.
    if orientation >= 5 and image.format not in ("HEIF", "TIFF"):
        width, height = height, width
    kind = "JPEG" if image.format == "MPO" else image.format or ""
    return metadata_of(exif, xmp, iptc, kind, (width, height), orientation, _frames(image))


def metadata_of(
    exif: ExifTagSets,
    xmp: EmbeddedText,
    iptc: EmbeddedText,
    format: str,
    shown: tuple[int, int],
    orientation: int,
    frames: int = 1,
) -> PhotoMetadata:
    """The record made of what was read. shown : width and height, after orientation."""
    taken = _taken(exif, xmp)
    position = attempt(lambda: gps_position(exif.gps)) or xmp.position
    return PhotoMetadata(
        format=format,
        width=shown[0],
        height=shown[1],
        orientation=orientation,
        frames=frames,
        taken_at=taken[0] if taken else None,
        utc_offset_minutes=taken[1] if taken else None,
        taken_at_source=taken[2] if taken else None,
        lat=position[0] if position else None,
        lon=position[1] if position else None,
        altitude=attempt(lambda: gps_altitude(exif.gps)) if position else None,
        camera=join_camera(to_text(exif.main.get(0x010F)), to_text(exif.main.get(0x0110))),
        lens=to_text(exif.photo.get(0xA434)) or xmp.lens,
        keywords=_keywords(exif, xmp, iptc),
        description=to_text(exif.main.get(0x010E)) or xmp.description or iptc.description,
        rating=_first_rating(xmp.rating, to_rating(exif.main.get(0x4746))),
        exif=short_texts(exif),
    )


def join_camera(make: str | None, model: str | None) -> str | None:
    """Make and model as a person says them: no "NIKON CORPORATION NIKON D70"."""
    make, model = " ".join((make or "").split()), " ".join((model or "").split())
    if make and model:
        first = model.split()[0].casefold()
        return model if first in make.casefold().split() else f"{make} {model}"
    return make or model or None


def _orientation(image: Image.Image, exif: ExifTagSets) -> int:
    # A HEIF is turned by its own boxes; pillow_heif keeps what EXIF said beside it.
    return to_orientation(image.info.get("original_orientation") or exif.main.get(0x0112))


def _frames(image: Image.Image) -> int:
    count = attempt(lambda: getattr(image, "n_frames", 1))
    return count if isinstance(count, int) and count > 0 else 1


def _taken(exif: ExifTagSets, xmp: EmbeddedText) -> _Taken | None:
    for tag in _TAKEN_TAGS:
        if taken := _taken_by_exif(exif, *tag):
            return taken
    for text in xmp.dates:
        if moment := parse_date(text):
            return *moment, "xmp"
    if taken := _taken_by_exif(exif, *_CHANGED_TAG):
        return taken
    if fix := attempt(lambda: gps_moment(exif.gps)):
        return fix, 0, "gps"
    return None


def _taken_by_exif(
    exif: ExifTagSets, source: str, directory: str, tag: int, offset_tag: int, fraction_tag: int
) -> _Taken | None:
    tags = exif.main if directory == "main" else exif.photo
    date = parse_date(to_text(tags.get(tag)))
    if date is None:
        return None
    moment, offset = date
    fraction = (to_text(exif.photo.get(fraction_tag)) or "").strip()
    if fraction.isascii() and fraction.isdigit():
        moment = moment.replace(microsecond=int(fraction.ljust(6, "0")[:6]))
    written = parse_offset(to_text(exif.photo.get(offset_tag)))
    return moment, offset if written is None else written, source


def _keywords(exif: ExifTagSets, xmp: EmbeddedText, iptc: EmbeddedText) -> tuple[str, ...]:
    windows = (to_utf16_text(exif.main.get(0x9C9E)) or "").split(";")
    found = (*iptc.keywords, *xmp.keywords, *(word.strip() for word in windows))
    return user_keywords(found)


def _first_rating(*ratings: int | None) -> int | None:
    return next((rating for rating in ratings if rating is not None), None)
