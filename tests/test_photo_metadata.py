"""What photos say about themselves, against files made here, known values and exiftool."""

from __future__ import annotations

import io
import json
import math
import shutil
import struct
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from clipsearch.embedded_text import parse_iptc, parse_xmp
from clipsearch.encoder import ImageGeometry
from clipsearch.exif import parse_date, parse_offset
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.image_formats import open_image
from clipsearch.images import decode_image, read_image
from clipsearch.perceptual_hash import perceptual_hash
from clipsearch.photo_metadata import PhotoMetadata, join_camera, read_metadata

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "photos"
needs_photos = pytest.mark.skipif(
    not (PHOTOS / "exif").is_dir(), reason="the shared test photos are not here"
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

TINY = ImageGeometry(16, 16)
MAKE, MODEL, ORIENTATION, DESCRIPTION, DATE_TIME = 0x010F, 0x0110, 0x0112, 0x010E, 0x0132
ORIGINAL, DIGITIZED, OFFSET_ORIGINAL, FRACTION = 0x9003, 0x9004, 0x9011, 0x9291
LENS, XP_KEYWORDS, RATING, USER_COMMENT, MAKER_NOTE = 0xA434, 0x9C9E, 0x4746, 0x9286, 0x927C
BERLIN = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)}


def picture(width: int = 48, height: int = 32) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def metadata_of(
    main: dict[int, Any] | None = None,
    photo: dict[int, Any] | None = None,
    gps: dict[int, Any] | None = None,
    kind: str = "JPEG",
    **options: Any,
) -> PhotoMetadata:
    exif = Image.Exif()
    exif.update(main or {})
    if photo:
        exif.get_ifd(0x8769).update(photo)
    if gps:
        exif.get_ifd(0x8825).update(gps)
    stream = io.BytesIO()
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(picture()).save(stream, exif=exif.tobytes(), **options)
    else:
        picture().save(stream, kind, exif=exif.tobytes(), **options)
    return decode_image(stream.getvalue(), "made here", TINY).metadata


def xmp_packet(properties: str, attributes: str = "") -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:exif="http://ns.adobe.com/exif/1.0/"'
        ' xmlns:aux="http://ns.adobe.com/exif/1.0/aux/"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/">'
        f'<rdf:Description rdf:about="" {attributes}>{properties}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def bag(name: str, *items: str, kind: str = "Bag") -> str:
    listed = "".join(f"<rdf:li>{item}</rdf:li>" for item in items)
    return f"<{name}><rdf:{kind}>{listed}</rdf:{kind}></{name}>"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
def test_every_format_carries_time_place_and_camera(kind: str) -> None:
    found = metadata_of(
        {MAKE: "NIKON CORPORATION", MODEL: "NIKON D70", RATING: 4},
        {ORIGINAL: "2023:07:14 18:30:05", OFFSET_ORIGINAL: "+02:00", FRACTION: "25", LENS: "50 mm"},
        {**BERLIN, 5: b"\x01", 6: 28.5},
        kind,
    )
    assert (found.format, found.width, found.height, found.frames) == (kind, 48, 32, 1)
    assert found.orientation == 1
    assert found.taken_at == datetime(2023, 7, 14, 18, 30, 5, 250_000)
    assert found.utc_offset_minutes == 120
    assert found.taken_at_source == "exif:DateTimeOriginal"
    assert found.lat == pytest.approx(52.52, abs=1e-9)
    assert found.lon == pytest.approx(13.405, abs=1e-9)
    assert found.altitude == pytest.approx(-28.5)
    assert (found.camera, found.lens, found.rating) == ("NIKON D70", "50 mm", 4)
    assert found.exif["Make"] == "NIKON CORPORATION"
    assert found.phash != 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_are_those_shown(orientation: int) -> None:
    found = metadata_of({ORIENTATION: orientation})
    assert found.orientation == orientation
    assert (found.width, found.height) == ((48, 32) if orientation < 5 else (32, 48))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_absurd_orientation_is_none(orientation: int) -> None:
    found = metadata_of({ORIENTATION: orientation})
    assert (found.orientation, found.width, found.height) == (1, 48, 32)


def test_orientation_of_a_wrong_type_is_none() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    block = exif.tobytes()
    short = struct.pack(">HHI", ORIENTATION, 3, 1)
    assert short in block
    for kind in (1, 2, 7, 12, 99):
        image = picture()
        image.info["exif"] = block.replace(short, struct.pack(">HHI", ORIENTATION, kind, 1))
        assert read_metadata(image).orientation == 1, kind


def test_sources_of_the_date_in_their_order() -> None:
    original, digitized = {ORIGINAL: "2001:01:01 01:01:01"}, {DIGITIZED: "2002:02:02 02:02:02"}
    changed = {DATE_TIME: "2004:04:04 04:04:04"}
    xmp = xmp_packet("", 'xmp:CreateDate="2003-03-03T03:03:03-03:30"')
    fix = {29: "2005:05:05", 7: (5.0, 6.0, 7.5)}

    def source(*args: Any, **options: Any) -> tuple[Any, ...]:
        found = metadata_of(*args, **options)
        year = found.taken_at.year if found.taken_at else None
        return year, found.taken_at_source, found.utc_offset_minutes

    assert source(changed, {**original, **digitized}, fix, xmp=xmp) == (
        2001, "exif:DateTimeOriginal", None,
    )  # fmt: skip
    assert source(changed, digitized, fix, xmp=xmp) == (2002, "exif:DateTimeDigitized", None)
    assert source(changed, None, fix, xmp=xmp) == (2003, "xmp", -210)
    assert source(changed, None, fix) == (2004, "exif:DateTime", None)
    assert source(None, None, fix) == (2005, "gps", 0)
    assert metadata_of(gps=fix).taken_at == datetime(2005, 5, 5, 5, 6, 7, 500_000)
    assert source() == (None, None, None)
    blank = {ORIGINAL: "0000:00:00 00:00:00", DIGITIZED: "    :  :     :  :  "}
    assert source(changed, blank) == (2004, "exif:DateTime", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2008:05:30 15:56:01", (datetime(2008, 5, 30, 15, 56, 1), None)),
        ("2008-05-30T15:56:01.5Z", (datetime(2008, 5, 30, 15, 56, 1, 500_000), 0)),
        ("2008:05:30 15:56:01+05:30", (datetime(2008, 5, 30, 15, 56, 1), 330)),
        ("2008/5/3 5:06", (datetime(2008, 5, 3, 5, 6), None)),
        ("2008:05:30", (datetime(2008, 5, 30), None)),
        ("0000:00:00 00:00:00", None),
        ("0001:01:01 00:00:00", None),
        ("2008:13:30 15:56:01", None),
        ("2008:02:30 15:56:01", None),
        ("2008:05:30 25:56:01", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_dates(text: str | None, expected: Any) -> None:
    assert parse_date(text) == expected


def test_offsets() -> None:
    assert [parse_offset(t) for t in ("+00:00", "-03:30", "+0545", "+14:00")] == [0, -210, 345, 840]
    assert [parse_offset(t) for t in ("+25:00", "+01:75", "   :  ", "", None)] == [None] * 5


@pytest.mark.parametrize(
    ("gps", "expected"),
    [
        ({**BERLIN, 1: "S", 3: "W"}, (-52.52, -13.405)),
        ({**BERLIN, 2: (52.52, 0.0, 0.0), 4: (13.0, 24.3, 0.0)}, (52.52, 13.405)),
        ({**BERLIN, 2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)}, None),
        ({**BERLIN, 2: (0.0, 0.0, 0.0)}, (0.0, 13.405)),
        ({**BERLIN, 2: (91.0, 0.0, 0.0)}, None),
        ({**BERLIN, 4: (180.0, 0.0, 1.0)}, None),
        ({**BERLIN, 2: (IFDRational(1, 0), IFDRational(0, 0), 0.0)}, None),
        ({2: BERLIN[2], 4: BERLIN[4]}, None),
        ({**BERLIN, 1: "\x00"}, None),
        ({1: "N", 2: BERLIN[2]}, None),
    ],
)
def test_places(gps: dict[int, Any], expected: tuple[float, float] | None) -> None:
    found = metadata_of(gps=gps)
    if expected is None:
        assert (found.lat, found.lon, found.altitude) == (None, None, None)
    else:
        assert (found.lat, found.lon) == pytest.approx(expected, abs=1e-6)


def test_place_and_lens_of_xmp() -> None:
    packet = xmp_packet(
        "<aux:Lens>18-55 mm</aux:Lens>",
        'exif:GPSLatitude="52,31.2N" exif:GPSLongitude="13,24,18W"',
    )
    found = metadata_of(xmp=packet)
    assert (found.lat, found.lon) == pytest.approx((52.52, -13.405))
    assert found.lens == "18-55 mm"


def test_cameras_are_named_once() -> None:
    assert join_camera("NIKON CORPORATION", "NIKON D70") == "NIKON D70"
    assert join_camera("EASTMAN KODAK COMPANY", "KODAK CX7530") == "KODAK CX7530"
    assert join_camera("Apple", "iPhone 6") == "Apple iPhone 6"
    assert join_camera(" SONY ", None) == "SONY"
    assert join_camera(None, "X100") == "X100"
    assert join_camera(None, None) is None
    assert metadata_of({MAKE: "Canon\x00\x00junk", MODEL: "Canon EOS 40D\x00"}).camera == (
        "Canon EOS 40D"
    )


def test_keywords_of_all_three_places_each_once() -> None:
    packet = xmp_packet(bag("dc:subject", "Möwe", "Strand", "Möwe"))
    iptc = b"".join(
        struct.pack(">BBBH", 0x1C, 2, dataset, len(text)) + text
        for dataset, text in ((25, b"Strand"), (25, b"Caf\xe9"), (120, b"A caption"))
    )
    found = metadata_of({XP_KEYWORDS: "Wind; Möwe;".encode("utf-16-le") + b"\x00\x00"}, xmp=packet)
    assert found.keywords == ("Möwe", "Strand", "Wind")
    assert parse_iptc(iptc).keywords == ("Strand", "Café")
    assert parse_iptc(iptc).description == "A caption"
    assert parse_iptc(iptc[:13]).keywords == ("Strand",)
    resource = (
        b"8BIM\x04\x04\x00\x00" + struct.pack(">I", len(iptc)) + iptc + b"\x00" * (len(iptc) % 2)
    )
    jpeg = io.BytesIO()
    picture().save(jpeg, "JPEG", xmp=packet)
    segment = b"Photoshop 3.0\x00" + resource
    marked = (
        b"\xff\xd8\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + jpeg.getvalue()[2:]
    )
    in_jpeg = decode_image(marked, "x", TINY).metadata
    assert in_jpeg.keywords == ("Strand", "Café", "Möwe")
    assert in_jpeg.description == "A caption"


def test_descriptions_and_ratings() -> None:
    packet = xmp_packet(
        bag("dc:description", "A gull", kind="Alt") + "<xmp:Rating>3</xmp:Rating>",
    )
    assert metadata_of(xmp=packet).description == "A gull"
    found = metadata_of({DESCRIPTION: "Straße".encode(), RATING: 5}, xmp=packet)
    assert (found.description, found.rating) == ("Straße", 3)
    assert metadata_of({DESCRIPTION: b"caf\xe9 \x93x\x94"}).description == "café “x”"
    assert metadata_of({RATING: 77}).rating is None
    assert metadata_of(xmp=xmp_packet("", 'xmp:Rating="-1"')).rating == -1


def test_unsafe_or_broken_xmp_is_left_out() -> None:
    good = xmp_packet(bag("dc:subject", "kept"))
    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be"):
        packet = parse_xmp(good.decode().encode(encoding))
        assert packet is not None
        assert packet.keywords == ("kept",), encoding
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>'
    for encoding in ("utf-8", "utf-16", "utf-16-be"):
        assert parse_xmp(bomb.encode(encoding)) is None
    assert parse_xmp(good + b" " * (1 << 20)) is None
    assert parse_xmp(b"") is None
    for bad in (b"<not xml", b"\xff\xfe\x00", b"<a>" * 100_000, good[:-60]):
        assert metadata_of_packet(bad).keywords == ()


def metadata_of_packet(packet: bytes) -> PhotoMetadata:
    stream = io.BytesIO()
    picture().save(stream, "WEBP", xmp=packet)
    return decode_image(stream.getvalue(), "x", TINY).metadata


def test_other_tags_by_name_short_and_without_blobs() -> None:
    found = metadata_of(
        {0x0131: "S" * 2000, 0xC001: "private"},
        {
            0x829A: IFDRational(1, 125),
            0x829D: IFDRational(0, 0),
            0x9101: b"\x01\x02\x03\x00",
            0x9000: b"0232",
            MAKER_NOTE: b"secret" * 50,
            USER_COMMENT: b"UNICODE\x00" + "Möwe".encode("utf-16-le"),
        },
        {**BERLIN, 16: "T", 17: 271.5},
    ).exif
    assert found == {
        "Software": "S" * 512,
        "0xC001": "private",
        "ExposureTime": "0.008",
        "ComponentsConfiguration": "1 2 3 0",
        "ExifVersion": "0232",
        "UserComment": "Möwe",
        "GPSImgDirectionRef": "T",
        "GPSImgDirection": "271.5",
    }


def test_absurd_blocks_never_raise() -> None:
    exif = Image.Exif()
    exif.update({MAKE: "Maker", DESCRIPTION: "text", ORIENTATION: 1, 0x011A: 72.0})
    exif.get_ifd(0x8769).update({ORIGINAL: "2020:01:01 00:00:00", 0x829A: 0.5})
    exif.get_ifd(0x8825).update(BERLIN)
    block = exif.tobytes()
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(400):
        bad = bytearray(block)
        for _ in range(int(rng.integers(1, 12))):
            bad[int(rng.integers(6, len(bad)))] = int(rng.choice([0, 1, 2, 5, 7, 10, 127, 255]))
        image = picture()
        image.info["exif"] = bytes(bad)
        found = read_metadata(image)
        assert found.lat is None or -90 <= found.lat <= 90
        assert found.lon is None or -180 <= found.lon <= 180
        assert found.altitude is None or math.isfinite(found.altitude)
        assert 1 <= found.orientation <= 8
        assert all(len(text) <= 512 for text in found.exif.values())
        json.dumps(found.exif).encode()
        seen.add((found.camera, found.lat, found.taken_at))
    assert len(seen) > 20
    for junk in (b"", b"Exif\x00\x00", b"Exif\x00\x00MM", b"junk" * 10, block[:40]):
        image = picture()
        image.info["exif"] = junk
        assert read_metadata(image).taken_at is None


def bits_apart(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def test_perceptual_hash() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:300, 0:400]

    def make(seed: int) -> Image.Image:
        waves = np.random.default_rng(seed).uniform(0.005, 0.06, (4, 2))
        values = sum(np.sin(x * a + y * b) for a, b in waves)
        return Image.fromarray(np.clip(128 + 30 * values, 0, 255).astype(np.uint8))

    image = make(3)
    value = perceptual_hash(image)
    assert 0 <= value < 2**64
    assert value >> 63 == 1
    assert bits_apart(value, perceptual_hash(image.convert("RGB"))) == 0
    assert bits_apart(value, perceptual_hash(image.resize((133, 100)))) <= 4
    noisy = np.asarray(image, dtype=float) + rng.normal(0, 5, (300, 400))
    assert bits_apart(value, perceptual_hash(Image.fromarray(noisy.clip(0, 255).astype("u1")))) <= 4
    others = [bits_apart(value, perceptual_hash(make(seed))) for seed in range(10, 30)]
    assert min(others) >= 10
    assert 26 <= float(np.mean(others)) <= 38
    assert perceptual_hash(Image.new("RGB", (50, 50), (90, 90, 90))) == 1 << 63
    assert perceptual_hash(Image.new("L", (50, 50))) == 0


@needs_photos
def test_known_values_of_camera_files() -> None:
    def read(name: str) -> PhotoMetadata:
        return read_image(PHOTOS / "exif" / name, TINY, decode="fast").metadata

    nikon = read("jpg/gps/DSCN0010.jpg")
    assert (nikon.lat, nikon.lon) == pytest.approx((43.467448, 11.885127), abs=1e-6)
    assert nikon.taken_at == datetime(2008, 10, 22, 16, 28, 39)
    assert nikon.camera == "NIKON COOLPIX P6000"
    phone = read("jpg/hdr/iphone_hdr_YES.jpg")
    assert (phone.lat, phone.lon) == pytest.approx((40.446972, -3.724753), abs=1e-6)
    assert phone.altitude == pytest.approx(639.611, abs=1e-3)
    assert phone.lens == "iPhone 6 back camera 4.15mm f/2.2"
    assert phone.taken_at == datetime(2015, 4, 10, 20, 12, 23, 550_000)
    canon = read("jpg/hdr/canon_hdr_NO.jpg")
    assert (canon.width, canon.height, canon.orientation) == (1536, 2048, 6)
    kodak = read("jpg/Kodak_CX7530.jpg")
    assert (kodak.lat, kodak.lon) == pytest.approx((-0.3713, 36.056417), abs=1e-6)
    heic = read("heic/mobile/iphone_13_pro_max.HEIC")
    assert (heic.format, heic.width, heic.height) == ("HEIF", 3024, 4032)
    assert (heic.orientation, heic.utc_offset_minutes) == (6, 60)
    assert heic.taken_at == datetime(2022, 2, 16, 12, 55, 41, 762_000)
    blue = read("jpg/xmp/BlueSquare.jpg")
    assert blue.keywords == ("XMP", "Blue Square", "test file", "Photoshop", ".jpg")
    assert (blue.taken_at, blue.taken_at_source) == (datetime(2005, 9, 7, 15, 7, 40), "xmp")
    tiff = read("tiff/Crémieux11.tiff")
    assert (tiff.format, tiff.width, tiff.height) == ("TIFF", 199, 47)
    assert tiff.taken_at == datetime(2012, 1, 9, 22, 52, 11)
    hashes = [read(f"jpg/orientation/landscape_{i}.jpg") for i in range(1, 9)]
    assert [m.orientation for m in hashes] == list(range(1, 9))
    assert {(m.width, m.height) for m in hashes} == {(600, 450)}
    assert max(bits_apart(hashes[0].phash, m.phash) for m in hashes) <= 6


@needs_photos
@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_camera_files_agree_with_exiftool() -> None:
    paths = [
        path
        for path in sorted((PHOTOS / "exif").rglob("*"))
        if path.suffix.lower() in IMAGE_EXTENSIONS
    ]
    tags = ["-ExifIFD:all", "-IFD0:all", "-Composite:all", "-XMP:all", "-IPTC:Keywords"]
    done = subprocess.run(
        ["exiftool", "-j", "-n", "-G1", *tags, *map(str, paths)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    reports = {report["SourceFile"]: report for report in json.loads(done.stdout)}
    assert len(reports) == len(paths) == 101
    dated = placed = 0
    names = {
        "exif:DateTimeOriginal": "ExifIFD:DateTimeOriginal",
        "exif:DateTimeDigitized": "ExifIFD:CreateDate",
        "exif:DateTime": "IFD0:ModifyDate",
    }
    for path in paths:
        ours = read_metadata(open_image(path.read_bytes(), max_megapixels=200))
        theirs = reports[str(path)]
        assert ours.orientation == theirs.get("IFD0:Orientation", 1), path.name
        if ours.taken_at_source in names:
            dated += 1
            written = theirs[names[ours.taken_at_source]]
            assert ours.taken_at is not None
            assert f"{ours.taken_at:%Y:%m:%d %H:%M:%S}" == written[:19], path.name
        elif ours.taken_at_source is None:
            assert not [name for name in names.values() if name in theirs], path.name
        for value, name in ((ours.lat, "GPSLatitude"), (ours.lon, "GPSLongitude")):
            expected = theirs.get(f"Composite:{name}")
            if expected is None:
                assert value is None, path.name
            else:
                placed += 1
                assert value == pytest.approx(expected, abs=1e-6), path.name
        height = theirs.get("Composite:GPSAltitude")
        if height is not None:
            assert ours.altitude == pytest.approx(height, abs=0.01), path.name
        subjects = theirs.get("XMP-dc:Subject", theirs.get("IPTC:Keywords", []))
        subjects = [subjects] if isinstance(subjects, str) else subjects
        assert set(map(str, subjects)) <= set(ours.keywords), path.name
    assert dated >= 60
    assert placed >= 30
