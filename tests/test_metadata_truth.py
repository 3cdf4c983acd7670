"""What is read of camera files, against what exiftool reads of them.

exiftool shares no code with this project nor with the libraries it stands on. Every photo of
the shared material is compared in every field; where the two differ, ``EXCEPTIONS`` says why.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch.encoder import UInt8, load_encoder
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.images import read_image
from clipsearch.photo_metadata import join_camera
from indexer import build_index
from indexer.config import IndexConfig

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("jpg/tests/87_OSError.jpg", "altitude"): (
        "the tag that tells above from below the sea is missing; EXIF's default is above, and "
        "exiftool makes no altitude of it, only of its parts"
    ),
}
"""(photo, field) -> why ours is not exiftool's."""

Tags = dict[str, Any]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def truth(exif_photos: Path) -> dict[str, Tags]:
    """exiftool's tags of every photo, by path below the folder."""
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    done = subprocess.run(
        [program, "-json", "-n", "-G1", "-charset", "filename=utf8", "-r", str(exif_photos)],
        capture_output=True,
        check=False,
    )
    photos = {Path(tags["SourceFile"]): tags for tags in json.loads(done.stdout)}
    return {
        path.relative_to(exif_photos).as_posix(): tags
        for path, tags in photos.items()
        if path.suffix.lower() in IMAGE_EXTENSIONS
    }


@pytest.fixture(scope="module")
def ours(exif_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """What an index of them holds, by the same path, where only exiftool's photos are named."""
    index = tmp_path_factory.mktemp("exif") / "exif.index"
    build_index(exif_photos, index, encoder="mini", config=IndexConfig(decode="fast"))
    images: dict[int, Row] = {}
    for part in (index / "images").glob("*.parquet"):
        images.update({row["id"]: row for row in pq.read_table(part).to_pylist()})
    places = [
        row for p in (index / "paths").glob("*.parquet") for row in pq.read_table(p).to_pylist()
    ]
    return {row["name"]: images[row["id"]] for row in places}


def moment(text: object) -> datetime | None:
    """A date as exiftool prints it, without its time zone."""
    match = re.match(r"(\d{4}):(\d\d):(\d\d)(?: (\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?)?", str(text))
    if match is None:
        return None
    try:
        found = datetime(*(int(part or 0) for part in match.groups()))  # type: ignore[arg-type]
    except ValueError:
        return None
    return found if found.year >= 1826 else None


# The documented order of trust, in exiftool's names; the last is UTC.
_DATES = (
    ("exif:DateTimeOriginal", "ExifIFD:DateTimeOriginal"),
    ("exif:DateTimeDigitized", "ExifIFD:CreateDate"),
    ("xmp", "XMP-exif:DateTimeOriginal"),
    ("xmp", "XMP-photoshop:DateCreated"),
    ("xmp", "XMP-xmp:CreateDate"),
    ("exif:DateTime", "IFD0:ModifyDate"),
    ("gps", "Composite:GPSDateTime"),
)


def taken(tags: Tags) -> tuple[str | None, datetime | None, str]:
    """Source, date, and the text that it stands in."""
    for source, name in _DATES:
        if (found := moment(tags.get(name))) is not None:
            return source, found, str(tags[name])
    return None, None, ""


def joined(value: object) -> list[str]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    return [str(item).strip() for item in items if str(item).strip()]


def words(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


def turned(tags: Tags) -> bool:
    """Whether a photo is shown on its side. A HEIF says so in its own way, and what its EXIF
    says beside that is for those who cannot read it."""
    if tags["File:FileType"] in ("HEIC", "HEIF"):
        return tags.get("QuickTime:Rotation", 0) in (90, 270)
    return tags.get("IFD0:Orientation", 1) in (5, 6, 7, 8)


def expected(tags: Tags) -> Row:
    """What the fields should be by exiftool's tags."""
    source, date, text = taken(tags)
    size = (
        tags.get("File:ImageWidth", tags.get("IFD0:ImageWidth")),
        tags.get("File:ImageHeight", tags.get("IFD0:ImageHeight")),
    )
    width, height = size[::-1] if turned(tags) else size
    keywords = joined(tags.get("IPTC:Keywords")) + joined(tags.get("XMP-dc:Subject"))
    keywords += joined((words(tags.get("IFD0:XPKeywords")) or "").split(";"))
    lenses = ("ExifIFD:LensModel", "XMP-exifEX:LensModel", "XMP-aux:Lens")
    orientation = tags.get("IFD0:Orientation")
    return {
        "taken_at_source": source,
        "taken_at": date and date.replace(microsecond=fraction(source, tags)),
        "utc_offset_minutes": offset(source, text, tags),
        "lat": tags.get("Composite:GPSLatitude"),
        "lon": tags.get("Composite:GPSLongitude"),
        "altitude": tags.get("Composite:GPSAltitude"),
        "orientation": orientation if orientation in range(1, 9) else 1,
        "width": width,
        "height": height,
        "camera": join_camera(words(tags.get("IFD0:Make")), words(tags.get("IFD0:Model"))),
        "lens": next(filter(None, (words(tags.get(name)) for name in lenses)), None),
        "keywords": sorted(set(keywords)),
        "rating": tags.get("XMP-xmp:Rating"),
    }


_OF_SOURCE = {
    "exif:DateTimeOriginal": ("ExifIFD:SubSecTimeOriginal", "ExifIFD:OffsetTimeOriginal"),
    "exif:DateTimeDigitized": ("ExifIFD:SubSecTimeDigitized", "ExifIFD:OffsetTimeDigitized"),
    "exif:DateTime": ("ExifIFD:SubSecTime", "ExifIFD:OffsetTime"),
}


def fraction(source: str | None, tags: Tags) -> int:
    """Microseconds."""
    name = _OF_SOURCE.get(source or "", ("", ""))[0]
    digits = str(tags.get(name, "")).strip()
    return int(digits.ljust(6, "0")[:6]) if digits.isdigit() else 0


def offset(source: str | None, date: str, tags: Tags) -> int | None:
    """Minutes east of UTC. XMP and GPS write them behind the date."""
    if date.endswith("Z"):
        return 0
    text = date if source == "xmp" else str(tags.get(_OF_SOURCE.get(source or "", ("", ""))[1]))
    match = re.search(r"([+-])(\d\d):(\d\d)$", text)
    return int(match[1] + "1") * (int(match[2]) * 60 + int(match[3])) if match else None


def same(one: object, other: object) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        return None not in (one, other) and abs(one - other) < 1e-6  # type: ignore[operator]
    return one == other


def compared(row: Row) -> Row:
    return {**row, "keywords": sorted(row["keywords"])}


def test_every_field_of_every_photo(truth: dict[str, Tags], ours: dict[str, Row]) -> None:
    assert len(truth) >= 95
    assert sorted(ours) == sorted(truth)  # none skipped
    differ = {
        (name, field): f"exiftool {value!r}, ours {ours[name][field]!r}"
        for name, tags in truth.items()
        for field, value in expected(tags).items()
        if not same(value, compared(ours[name])[field])
    }
    told = {place: what for place, what in differ.items() if place not in EXCEPTIONS}
    assert not told
    assert set(EXCEPTIONS) <= set(differ), "an exception that is none any more"


def test_the_comparison_covers_what_it_should(truth: dict[str, Tags]) -> None:
    fields = [expected(tags) for tags in truth.values()]
    sources = {field["taken_at_source"] for field in fields}
    assert sources >= {"exif:DateTimeOriginal", "xmp", "exif:DateTime"}
    assert {field["orientation"] for field in fields} == set(range(1, 9))
    known = {name: sum(bool(field[name]) for field in fields) for name in fields[0]}
    assert known["taken_at"] >= 60
    assert known["lat"] >= 15
    assert known["camera"] >= 50
    assert known["lens"] >= 4
    assert known["utc_offset_minutes"] >= 2


@pytest.mark.parametrize("form", ["landscape", "portrait"])
def test_eight_orientations_show_one_picture(exif_photos: Path, form: str) -> None:
    folder = exif_photos / "jpg" / "orientation"
    encoder = load_encoder("mini")
    images = [
        read_image(folder / f"{form}_{number}.jpg", encoder.space.geometry)
        for number in range(1, 9)
    ]
    assert [image.metadata.orientation for image in images] == list(range(1, 9))
    sizes = {(image.metadata.width, image.metadata.height) for image in images}
    assert sizes == {(600, 450) if form == "landscape" else (450, 600)}
    vectors = encoder.encode_images(np.stack([image.pixels for image in images]))
    assert (vectors @ vectors[0]).min() > 0.97
    # Each bears its number in large letters, so they are alike and not the same; a picture that
    # is turned another way is far less so.
    first = images[0].pixels
    for image in images[1:]:
        likeness = [correlation(turn, first) for turn in all_turns(image.pixels)]
        assert likeness[0] > 0.95
        assert max(likeness[1:]) < 0.75


def all_turns(picture: UInt8) -> list[UInt8]:
    """The picture as it is, and the seven others that turning and mirroring make of it."""
    turned = [np.rot90(picture, count) for count in range(4)]
    return [*turned, *(turn[:, ::-1] for turn in turned)]


def correlation(one: UInt8, other: UInt8) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
