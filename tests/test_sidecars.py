"""What is known of a photo from beside it and from its name, through the real command line."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipsearch.photo_metadata import PhotoMetadata
from indexer.name_dates import date_of_name
from indexer.sidecars import MAX_SIDECAR_BYTES, Sidecars
from indexer.takeout import parse_takeout
from tests.conftest import Cli

# 2019-07-04 10:34:56 UTC
STAMP = 1562236496
UTC = datetime(2019, 7, 4, 10, 34, 56)
NOW = datetime(2026, 1, 1)
BARE = PhotoMetadata("JPEG", 8, 8)


def takeout(title: object, stamp: object = str(STAMP), **more: object) -> bytes:
    """A JSON as Takeout writes it."""
    document = {
        "title": title,
        "description": "",
        "creationTime": {"timestamp": "1700000000"},
        "photoTakenTime": {"timestamp": stamp, "formatted": "04.07.2019, 10:34:56 UTC"},
        "geoData": {"latitude": 0.0, "longitude": 0.0, "altitude": 0.0},
        "url": "https://photos.example/1",
        **more,
    }
    return json.dumps({k: v for k, v in document.items() if v is not None}).encode()


def xmp(body: str) -> str:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:exif="http://ns.adobe.com/exif/1.0/">'
        f"{body}</rdf:Description></rdf:RDF></x:xmpmeta>"
    )


def picture(path: Path, colour: int, exif: Image.Exif | None = None) -> None:
    Image.new("RGB", (40, 30), (colour, 90, 200)).save(
        path, "JPEG", exif=exif if exif is not None else Image.Exif()
    )


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("IMG_20190704_123456.jpg", "2019-07-04T12:34:56"),
        ("IMG_20190704_123456_HDR(2).jpg", "2019-07-04T12:34:56"),
        ("IMG20190704123456.jpg", "2019-07-04T12:34:56"),
        ("PXL_20190704_123456789.MP.jpg", "2019-07-04T12:34:56.789000"),
        ("IMG-20190704-WA0001.jpg", "2019-07-04T00:00:00"),
        ("Screenshot_2019-07-04-12-00-00.png", "2019-07-04T12:00:00"),
        ("Screenshot_20190704-123456_Chrome.png", "2019-07-04T12:34:56"),
        ("Screenshot 2019-07-04 at 1.02.03\u202fPM.png", "2019-07-04T13:02:03"),
        ("Screenshot 2019-07-04 at 12.02.03 AM.png", "2019-07-04T00:02:03"),
        ("Bildschirmfoto 2019-07-04 um 12.34.56.png", "2019-07-04T12:34:56"),
        ("Capture d'ecran 2019-07-04 a\u0300 12.34.56.png", "2019-07-04T12:34:56"),
        ("Captura de pantalla 2019-07-04 a las 12.34.56.png", "2019-07-04T12:34:56"),
        ("Schermata 2019-07-04 alle 12.34.56.png", "2019-07-04T12:34:56"),
        ("00100lrPORTRAIT_00100_BURST20190704123456789_COVER.jpg", "2019-07-04T12:34:56.789000"),
        ("WhatsApp Image 2019-07-04 at 12.34.56.jpeg", "2019-07-04T12:34:56"),
        ("20190704_123456.jpg", "2019-07-04T12:34:56"),
        ("2019-07-04 12.34.56.jpg", "2019-07-04T12:34:56"),
        ("signal-2019-07-04-12-34-56-789.jpg", "2019-07-04T12:34:56"),
        ("signal-2019-07-04-123456_002.jpg", "2019-07-04T12:34:56"),
        ("WP_20140704_001.jpg", "2014-07-04T00:00:00"),
        ("2020-02-29 beach.jpg", "2020-02-29T00:00:00"),
        ("IMG_20260101_230000.jpg", "2026-01-01T23:00:00"),
        # no dates: no such day, ids, telephone numbers, times since 1970, versions
        ("20191399.jpg", None),
        ("IMG_20191399_123456.jpg", None),
        ("2019-02-29.jpg", None),
        ("4915120190704.jpg", None),
        ("2019070412.jpg", None),
        ("a20190704.jpg", None),
        ("20190704ab12.jpg", None),
        ("20121213_10152345678_n.jpg", None),
        ("1562236496000.jpg", None),
        ("192.168.2019.07.04.jpg", None),
        ("party-20190704.jpg", None),
        ("DSC_2019.jpg", None),
        ("2019.jpg", None),
        # dates that cannot be when the photo was taken
        ("IMG_20260103_000000.jpg", None),
        ("IMG_19890101_120000.jpg", None),
        (".jpg", None),
        ("", None),
    ],
)
def test_date_of_name(name: str, moment: str | None) -> None:
    found = date_of_name(name, NOW)
    assert (found and found.moment.isoformat()) == moment
    if found:
        assert found.utc_offset_minutes == (0 if name.startswith("PXL_") else None)


@pytest.mark.parametrize(
    ("photo", "sidecar", "title"),
    [
        ("IMG_1.jpg", "IMG_1.jpg.json", "IMG_1.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg.supplemental-metadata.json", "IMG_1.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg.suppl.json", "IMG_1.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg.s.json", "IMG_1.jpg"),
        ("IMG_1.JPG", "IMG_1.JPG.supplemental-meta.json", "IMG_1.JPG"),
        ("IMG_1(1).jpg", "IMG_1.jpg(1).json", "IMG_1.jpg"),
        ("IMG_1(1).jpg", "IMG_1.jpg.supplemental-metadata(1).json", "IMG_1.jpg"),
        ("IMG_1(1).jpg", "IMG_1(1).jpg.json", "IMG_1(1).jpg"),
        ("IMG_1-edited.jpg", "IMG_1.jpg.json", "IMG_1.jpg"),
        ("IMG_1-bearbeitet(1).jpg", "IMG_1.jpg.supplemental-metadata(1).json", "IMG_1.jpg"),
        ("IMG_1-modifie\u0301.jpg", "IMG_1.jpg.json", "IMG_1.jpg"),
        ("Cafe\u0301.jpg", "Caf\u00e9.jpg.json", "Caf\u00e9.jpg"),
        ("What_s up_.jpg", "What_s up_.jpg.json", "What's up?.jpg"),
        ("a _ b.jpg", "a _ b.jpg.json", "a &amp; b.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg.json", "IMG_1.HEIC"),
        ("IMG_1.jpg", "IMG_1.jpg.json", None),
        # the whole cut to 46 characters
        (f"{'n' * 40}.jpg", f"{'n' * 40}.jpg.s.json", f"{'n' * 40}.jpg"),
        (f"{'n' * 43}.jpg", f"{'n' * 43}.jp.json", f"{'n' * 43}.jpg"),
        (f"{'n' * 47}.jpg", f"{'n' * 46}.json", f"{'n' * 60}.jpg"),
        (f"{'n' * 46}(3).jpg", f"{'n' * 46}(3).json", f"{'n' * 60}.jpg"),
    ],
)
def test_takeout_names_its_files_in_many_ways(
    tmp_path: Path, photo: str, sidecar: str, title: str | None
) -> None:
    (tmp_path / sidecar).write_bytes(takeout(title))
    found = Sidecars(NOW).complete(BARE, str(tmp_path / photo))
    assert (found.taken_at, found.utc_offset_minutes, found.taken_at_source) == (UTC, 0, "takeout")


@pytest.mark.parametrize(
    ("photo", "sidecar", "title"),
    [
        ("IMG_2.jpg", "IMG_1.jpg.json", "IMG_1.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg.json", "IMG_2.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg(1).json", "IMG_1.jpg"),
        ("IMG_1(2).jpg", "IMG_1.jpg(1).json", "IMG_1.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg.suppl(1).json", "IMG_1.jpg"),
        ("IMG_1.jpg", "IMG_1.jpg.other.json", "IMG_1.jpg"),
        ("IMG_1-2.jpg", "IMG_1.jpg.json", "IMG_1.jpg"),
        ("IMG_1.jpg", "IMG.json", "IMG_1.jpg"),
        (f"{'n' * 47}.jpg", f"{'n' * 46}.json", f"{'n' * 30}-other.jpg"),
    ],
)
def test_the_json_of_another_photo_is_refused(
    tmp_path: Path, photo: str, sidecar: str, title: str
) -> None:
    (tmp_path / sidecar).write_bytes(takeout(title))
    assert Sidecars(NOW).complete(BARE, str(tmp_path / photo)) == BARE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"photoTakenTime": 1}',
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b'{"photoTakenTime": {"timestamp": ' + b"9" * 10_000 + b"}}",
        takeout("IMG_1.jpg", "0"),
        takeout("IMG_1.jpg", "1e9"),
        takeout("IMG_1.jpg", "999999999999"),
        takeout("IMG_1.jpg", "9" * 30),
        takeout("IMG_1.jpg", 1e300),
        takeout("IMG_1.jpg", True),
        takeout("IMG_1.jpg", str(int(datetime(2026, 1, 4).timestamp()))),
        takeout("IMG_1.jpg") + b" " * MAX_SIDECAR_BYTES,
        takeout("IMG_1.jpg", geoData={"latitude": float("nan"), "longitude": 1}, photoTakenTime=1),
        takeout("IMG_1.jpg", geoData={"latitude": 91, "longitude": 1}, photoTakenTime=[]),
        takeout("IMG_1.jpg", geoData={"latitude": "1", "longitude": 1}, photoTakenTime={}),
        takeout("IMG_1.jpg", geoData={"latitude": 10**400, "longitude": 1}, photoTakenTime={}),
        takeout(["IMG_1.jpg"], "0", description=7),
    ],
    ids=range(21),
)
def test_nonsense_in_json_is_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "IMG_1.jpg.json").write_bytes(data)
    assert Sidecars(NOW).complete(BARE, str(tmp_path / "IMG_1.jpg")) == BARE


@pytest.mark.parametrize("name", ["IMG_1.jpg.json", "IMG_1.jpg.xmp"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_folders_beside_a_photo_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "IMG_2.jpg.json").mkdir()
    assert Sidecars(NOW).complete(BARE, str(tmp_path / "IMG_1.jpg")) == BARE
    assert Sidecars(NOW).complete(BARE, str(tmp_path / "IMG_2.jpg")) == BARE
    assert Sidecars(NOW).complete(BARE, str(tmp_path / "gone" / "IMG_2.jpg")) == BARE


def test_a_hostile_packet_beside_a_photo_is_nothing(tmp_path: Path) -> None:
    for number, text in enumerate(
        ["<a>" * 300_000, '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "no xml", ""]
    ):
        (tmp_path / f"{number}.xmp").write_text(text)
        assert Sidecars(NOW).complete(BARE, str(tmp_path / f"{number}.jpg")) == BARE


def test_two_packets_beside_a_photo_complete_each_other(tmp_path: Path) -> None:
    bag = "<dc:subject><rdf:Bag><rdf:li>{}</rdf:li></rdf:Bag></dc:subject>"
    (tmp_path / "a.JPG.xmp").write_text(xmp(bag.format("one") + "<xmp:Rating>2</xmp:Rating>"))
    (tmp_path / "a.XMP").write_text(
        xmp(
            f"{bag.format('two')}<xmp:Rating>5</xmp:Rating><dc:description>there</dc:description>"
            "<xmp:CreateDate>2004-04-04T04:04:04</xmp:CreateDate>"
        )
    )
    known = PhotoMetadata("JPEG", 8, 8, keywords=("own", "two"), description="here")
    found = Sidecars(NOW).complete(known, str(tmp_path / "A.jpg"))
    assert found.keywords == ("own", "two", "one")
    assert (found.rating, found.description) == (2, "here")
    assert (found.taken_at, found.taken_at_source) == (
        datetime(2004, 4, 4, 4, 4, 4),
        "xmp-sidecar",
    )


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text on this system")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    photo = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(photo + b".json", "wb") as file:
        file.write(takeout("caf\ud800.jpg", description="x \ud800 y"))
    found = Sidecars(NOW).complete(BARE, os.fsdecode(photo))
    assert (found.taken_at, found.description) == (UTC, "x ? y")


def test_takeouts_moment_becomes_the_wall_clock_where_one_shows_it(tmp_path: Path) -> None:
    def taken(photo: str, metadata: PhotoMetadata = BARE) -> tuple[object, ...]:
        (tmp_path / f"{photo}.json").write_bytes(takeout(photo))
        found = Sidecars(NOW).complete(metadata, str(tmp_path / photo))
        return found.taken_at, found.utc_offset_minutes, found.taken_at_source

    at_home = datetime(2019, 7, 4, 12, 34, 56)
    assert taken("IMG_20190704_123456.jpg") == (at_home, 120, "takeout")
    assert taken("IMG_20190704_123458.jpg") == (at_home, 120, "takeout")  # it took 2 s to save
    kathmandu = datetime(2019, 7, 4, 16, 19, 56)
    assert taken("IMG_20190704_161956.jpg") == (kathmandu, 345, "takeout")
    # Another moment, not another time zone; a Pixel's name, which is UTC; a day without a clock.
    assert taken("IMG_20190704_124001.jpg") == (UTC, 0, "takeout")
    assert taken("IMG_20190701_103456.jpg") == (UTC, 0, "takeout")
    assert taken("PXL_20190704_103456000.jpg") == (UTC, 0, "takeout")
    assert taken("IMG-20190704-WA0001.jpg") == (UTC, 0, "takeout")
    changed = PhotoMetadata("JPEG", 8, 8, taken_at=at_home, taken_at_source="exif:DateTime")
    assert taken("a.jpg", changed) == (at_home, 120, "takeout")


def test_order_of_trust(tmp_path: Path) -> None:
    photo = tmp_path / "IMG_20010101_000000.jpg"
    beside = tmp_path / f"{photo.name}.xmp"
    beside.write_text(xmp("<xmp:CreateDate>2004-04-04T04:04:04+02:00</xmp:CreateDate>"))
    (tmp_path / f"{photo.name}.json").write_bytes(takeout(photo.name))
    own = datetime(2003, 3, 3)

    def source(before: str | None) -> tuple[object, ...]:
        date = None if before is None else own
        known = PhotoMetadata("JPEG", 8, 8, taken_at=date, taken_at_source=before)
        found = Sidecars(NOW).complete(known, str(photo))
        return found.taken_at_source, found.taken_at, found.utc_offset_minutes

    for strong in ("exif:DateTimeOriginal", "exif:DateTimeDigitized", "xmp"):
        assert source(strong) == (strong, own, None)
    for weak in ("exif:DateTime", "gps", None):
        assert source(weak) == ("xmp-sidecar", datetime(2004, 4, 4, 4, 4, 4), 120)
    beside.unlink()
    for weak in ("exif:DateTime", "gps", None):
        assert source(weak) == ("takeout", UTC, 0)
    (tmp_path / f"{photo.name}.json").unlink()
    assert source("exif:DateTime") == ("exif:DateTime", own, None)
    assert source("gps") == ("gps", own, None)
    assert source(None) == ("name", datetime(2001, 1, 1), None)


def test_takeout_where_the_exif_position_is_the_only_one() -> None:
    record = parse_takeout(
        takeout("a.jpg", geoDataExif={"latitude": -33.9, "longitude": 151.2, "altitude": -3.0}), NOW
    )
    assert record is not None
    assert (record.lat, record.lon, record.altitude) == (-33.9, 151.2, -3.0)


def test_a_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), scandir(path))[1])
    sidecars = Sidecars(NOW)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for number in range(50):
        sidecars.complete(BARE, str(tmp_path / "ab"[number % 2] / f"{number}.jpg"))
    assert listed == [str(tmp_path / "a"), str(tmp_path / "b")]


def rows(index: Path) -> dict[str, dict[str, object]]:
    """The row of each photo, by name."""
    images = {}
    for part in sorted((index / "images").glob("*.parquet")):
        images.update({row["id"]: row for row in pq.read_table(part).to_pylist()})
    paths = [
        row for p in (index / "paths").glob("*.parquet") for row in pq.read_table(p).to_pylist()
    ]
    return {Path(row["name"]).name: images[row["id"]] for row in paths}


def test_index_of_a_takeout_folder(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "Takeout" / "Photos from 2019"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2018:01:02 03:04:05"
    picture(folder / "IMG_1.jpg", 10)
    picture(folder / "IMG_1(1).jpg", 20)
    picture(folder / "IMG_2.jpg", 30, exif)
    picture(folder / "IMG_20170203_040506.jpg", 40)
    picture(folder / "tagged.jpg", 50)
    picture(folder / "plain.jpg", 60)
    place = {"latitude": 48.2, "longitude": 16.37, "altitude": 171.5}
    (folder / "IMG_1.jpg.supplemental-metadata.json").write_bytes(
        takeout("IMG_1.jpg", geoData=place, description="On the bridge\u0007")
    )
    (folder / "IMG_1.jpg(1).json").write_bytes(takeout("IMG_1.jpg", str(STAMP + 3600)))
    (folder / "IMG_2.jpg.json").write_bytes(takeout("IMG_2.jpg", geoData=place))
    album = folder.parent / "Album"  # a copy of a photo, without its JSON
    album.mkdir()
    shutil.copy(folder / "IMG_1.jpg", album / "IMG_1.jpg")
    (folder / "metadata.json").write_text('{"title": "Photos from 2019"}')
    (folder / "tagged.jpg.xmp").write_text(
        xmp(
            "<xmp:Rating>4</xmp:Rating><exif:GPSLatitude>48,12N</exif:GPSLatitude>"
            "<exif:GPSLongitude>16,22.5E</exif:GPSLongitude><dc:subject><rdf:Bag><rdf:li>Anna</rdf:li>"
            "<rdf:li>clipsearch|dog</rdf:li><rdf:li>clipsearch</rdf:li><rdf:li>clipsearching</rdf:li>"
            "</rdf:Bag></dc:subject><dc:description>By the sea</dc:description>"
        )
    )
    with tarfile.open(tmp_path / "old.tar", "w") as tar:
        picture(tmp_path / "x.jpg", 70)
        tar.add(tmp_path / "x.jpg", "2011/IMG-20110704-WA0001.jpg")
        (tmp_path / "x.jpg").unlink()
    index = tmp_path / "photos.index"
    run = cli("index", folder.parent, tmp_path / "old.tar", "--model", "mini", "--index", index)
    assert run.returncode == 0, run.stderr
    assert b"5 ignored (.json 4, .xmp 1)" in run.stderr
    found = rows(index)

    def facts(name: str, *columns: str) -> tuple[object, ...]:
        return tuple(found[name][column] for column in columns)

    when = ("taken_at", "utc_offset_minutes", "taken_at_source")
    where = ("lat", "lon", "altitude")
    assert facts("IMG_1.jpg", *when, *where) == (UTC, 0, "takeout", 48.2, 16.37, 171.5)
    assert facts("IMG_1.jpg", "description") == ("On the bridge",)
    later = UTC.replace(hour=11)
    assert facts("IMG_1(1).jpg", *when, *where) == (later, 0, "takeout", None, None, None)
    assert facts("IMG_2.jpg", *when) == (
        datetime(2018, 1, 2, 3, 4, 5),
        None,
        "exif:DateTimeOriginal",
    )
    assert facts("IMG_2.jpg", *where) == (48.2, 16.37, 171.5)
    assert facts("IMG_20170203_040506.jpg", *when) == (datetime(2017, 2, 3, 4, 5, 6), None, "name")
    assert facts("tagged.jpg", "rating", "keywords", "description", "lat", "lon") == (
        4,
        ["Anna", "clipsearching"],
        "By the sea",
        48.2,
        16.375,
    )
    assert facts("plain.jpg", *when, *where, "rating", "keywords") == (*[None] * 7, [])
    assert facts("IMG-20110704-WA0001.jpg", *when) == (datetime(2011, 7, 4), None, "name")
