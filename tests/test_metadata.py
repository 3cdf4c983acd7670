"""Which images pass a filter: against exiftool's reading of real camera files, against Python
over made-up rows, and over real folders with copies, links, tars and names that are no text."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipsearch import open_index
from clipsearch.encoder import ImageGeometry, Space
from clipsearch.errors import IndexFormatError, LabelError, QueryError
from clipsearch.filters import (
    Contains,
    Equal,
    Filter,
    In,
    InFolder,
    Known,
    Near,
    Range,
    Within,
    parse_filter,
)
from clipsearch.generation import Generation, open_generation
from clipsearch.geography import distance_km, within_distance
from clipsearch.label_set_saving import save_classification
from clipsearch.manifest import Manifest, Root, new_manifest
from clipsearch.metadata import (
    asked_places_first,
    folders_without_images,
    matching_ids,
)
from clipsearch.metadata_memory import Recent
from clipsearch.metadata_rows import metadata_of
from clipsearch.shards import (
    DELETED_SCHEMA,
    IMAGE_SCHEMA,
    PATH_SCHEMA,
    write_shard,
    write_table,
)
from clipsearch.store import LocalStore
from clipsearch.vector_search import VectorSearch
from clipsearch.vectors import Vectors

# -- camera files, with exiftool's reading of them as the truth -----------------------------


@dataclasses.dataclass(frozen=True)
class Photo:
    taken: datetime | None
    lat: float | None
    lon: float | None
    tags: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Camera:
    """The index of the camera files, and what exiftool says of each."""

    index: Path
    state: Generation
    photos: dict[Path, Photo]

    def found(self, where: str | Filter) -> set[Path]:
        tree = parse_filter(where) if isinstance(where, str) else where
        ids = matching_ids(self.index, self.state, tree)
        assert (np.diff(ids) > 0).all()
        places = self.state.paths.first_places(ids)
        return {place.path for place in places if place is not None}

    def those(self, test: Callable[[Photo], bool]) -> set[Path]:
        return {path for path, photo in self.photos.items() if test(photo)}


_TAKEN = ["EXIF:DateTimeOriginal", "EXIF:CreateDate", "XMP:DateTimeOriginal", "XMP:DateCreated"]
_TAKEN += ["XMP:CreateDate", "EXIF:ModifyDate", "Composite:GPSDateTime"]
_OTHERS = ["EXIF:Make", "EXIF:Model", "EXIF:ISO", "EXIF:Orientation"]


def exiftool_moment(text: object) -> datetime | None:
    for form, length in (("%Y:%m:%d %H:%M:%S", 19), ("%Y:%m:%d", 10)):
        try:
            return datetime.strptime(str(text)[:length], form)
        except ValueError:
            continue
    return None


@pytest.fixture(scope="module")
def camera(exif_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Camera:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not on PATH")
    from indexer import build_index

    index = tmp_path_factory.mktemp("camera") / "exif.index"
    build_index(exif_photos, index, encoder="mini")
    position = ["Composite:GPSLatitude", "Composite:GPSLongitude"]
    options = [f"-{tag}" for tag in (*_TAKEN, *_OTHERS, *position)]
    command = ["exiftool", "-json", "-n", "-r", "-G0", *options, str(exif_photos)]
    documents = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    state = open_generation(index)
    indexed = {place.path for i in state.vectors.ids for place in state.paths.places(int(i))}
    photos = {}
    for tags in documents:
        moments = (exiftool_moment(tags.get(tag)) for tag in _TAKEN)
        taken = next((moment for moment in moments if moment is not None), None)
        lat, lon = (tags.get(tag) for tag in position)
        if Path(tags["SourceFile"]) in indexed:
            photos[Path(tags["SourceFile"])] = Photo(taken, lat, lon, tags)
    assert photos.keys() == indexed
    assert len(photos) > 90
    return Camera(index, state, photos)


def test_every_date_is_what_exiftool_reads(camera: Camera) -> None:
    dated = [photo.taken for photo in camera.photos.values() if photo.taken]
    assert len(dated) > 70
    for year, month in sorted({(moment.year, moment.month) for moment in dated}):
        wanted = camera.those(
            lambda photo, y=year, m=month: (
                photo.taken and (photo.taken.year, photo.taken.month) == (y, m)
            )  # type: ignore[misc]
        )
        assert camera.found(f"taken = {year}-{month:02}") == wanted
        after = (year, month)
        assert camera.found(f"taken > {year}-{month:02}") == camera.those(
            lambda photo, a=after: photo.taken and (photo.taken.year, photo.taken.month) > a  # type: ignore[misc]
        )
        assert camera.found(f"taken <= {year}-{month:02}") == camera.those(
            lambda photo, a=after: photo.taken and (photo.taken.year, photo.taken.month) <= a  # type: ignore[misc]
        )
    for moment in dated[::5]:
        second = f'"{moment:%Y-%m-%d %H:%M:%S}"'
        same = camera.those(lambda photo, m=moment: photo.taken == m)  # type: ignore[misc]
        earlier = camera.those(lambda photo, m=moment: photo.taken and photo.taken < m)  # type: ignore[misc]
        assert camera.found(f"taken = {second}") == same
        assert camera.found(f"taken < {second}") == earlier
    undated = camera.those(lambda photo: photo.taken is None)
    assert camera.found("taken is unknown") == undated
    assert undated < camera.found("not taken >= 2005")


def chord_km(one: Photo, lat: float, lon: float) -> float:
    """Great-circle distance by the straight line through the earth: not the haversine."""

    def point(lat: float, lon: float) -> tuple[float, float, float]:
        phi, theta = math.radians(lat), math.radians(lon)
        return math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)

    assert one.lat is not None
    assert one.lon is not None
    return (
        2 * 6371.0088 * math.asin(min(1.0, math.dist(point(one.lat, one.lon), point(lat, lon)) / 2))
    )


def test_near_finds_exactly_what_lies_near(camera: Camera) -> None:
    located = {path: photo for path, photo in camera.photos.items() if photo.lat is not None}
    assert len(located) > 15
    centres = [(photo.lat, photo.lon) for photo in located.values()]
    centres += [(43.4674, 11.8852), (0.0, 0.0), (90.0, 0.0), (-90.0, 50.0), (10.0, 180.0)]
    sizes = set()
    for lat, lon in dict.fromkeys(centres):
        assert lat is not None
        assert lon is not None
        for km in (0.05, 0.2, 1, 30, 700, 5000, 9000, 16000, 20_040):
            wanted = {path for path, photo in located.items() if chord_km(photo, lat, lon) <= km}
            assert camera.found(f"near({lat!r}, {lon!r}, {km})") == wanted, (lat, lon, km)
            sizes.add(len(wanted))
    assert {0, 1, 9, len(located)} <= sizes
    assert camera.found("lat is known") == set(located)


def test_other_fields_are_what_exiftool_reads(camera: Camera) -> None:
    for make in ("Canon", "NIKON", "sony", "Apple"):
        wanted = camera.those(
            lambda photo, make=make: (
                make.lower()  # type: ignore[misc]
                in f"{photo.tags.get('EXIF:Make', '')} {photo.tags.get('EXIF:Model', '')}".lower()
            )
        )
        assert len(wanted) > 1
        assert camera.found(f"camera ~ {make}") == wanted
    turned = camera.those(lambda photo: photo.tags.get("EXIF:Orientation") in (5, 6, 7, 8))
    assert camera.found("orientation in (5, 6, 7, 8)") == turned
    assert len(turned) > 7
    fast = camera.those(lambda photo: 200 <= photo.tags.get("EXIF:ISO", 0) < 800)
    assert camera.found("200 <= exif.ISOSpeedRatings < 800") == fast
    assert camera.found("200 <= exif.isospeedratings < 800") == fast
    assert len(fast) > 5
    heif = {path for path in camera.photos if path.suffix.lower() in (".heic", ".heif")}
    assert camera.found("format = heif") == heif
    assert camera.found("not format = HEIF") == camera.photos.keys() - heif
    gps = {path for path in camera.photos if path.parent.name == "gps"}
    assert camera.found(InFolder(str(next(iter(gps)).parent))) == gps
    assert camera.found("name ~ dscn00") == gps


# -- made-up rows, with Python as the truth -------------------------------------------------


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


def made(
    folder: Path,
    images: list[dict[str, Any]],
    places: list[tuple[int, bytes, int, str, int]],
    deleted: list[int] | None = None,
    roots: tuple[Root, ...] = (Root(0, "/photos"), Root(1, "/disk/two")),
) -> Generation:
    """An index with these rows. places : (root, path, id, state, mtime_ns)."""
    store = LocalStore(folder)
    manifest = new_manifest("test")
    blank = dict.fromkeys(IMAGE_SCHEMA.names)
    rows = [
        {**blank, "sha256": bytes(32), "bytes": 1000, "keywords": [], "exif": [], **image}
        for image in images
    ]
    shards = [
        write_shard(
            store, f"images/{start:05}.parquet", table_of(rows[start : start + 50], IMAGE_SCHEMA),
            kind="images", index_uuid=manifest.uuid,
        )
        for start in range(0, len(rows), 50)
    ]  # fmt: skip
    now = datetime(2026, 1, 1)
    path_rows = [
        {
            "root": root, "path": path, "name": path.decode("utf-8", "replace"), "size": 1,
            "mtime_ns": mtime, "inode": 0, "id": image_id, "state": state, "first_seen": now,
            "last_seen": now,
        }
        for root, path, image_id, state, mtime in places
    ]  # fmt: skip
    paths = write_table(
        store, "paths/0000001.parquet", table_of(path_rows, PATH_SCHEMA), kind="paths",
        index_uuid=manifest.uuid,
    )  # fmt: skip
    gone = np.array(sorted(deleted or []), np.int64)
    write_table(
        store, "deleted/0000001.parquet", pa.table([pa.array(gone)], schema=DELETED_SCHEMA),
        kind="deleted", index_uuid=manifest.uuid,
    )  # fmt: skip
    space = Space("toy-1", "f" * 64, "toy", 2, 100.0, None, ImageGeometry(8, 8))
    manifest = dataclasses.replace(
        manifest, roots=roots, images=tuple(shards), paths=(paths,), spaces={"toy-1": space}
    )
    ids = np.array([row["id"] for row in rows], np.int64)
    vectors = Vectors(ids, (np.zeros((len(ids), 2), np.float16),), 2, gone)
    return opened(folder, store, manifest, vectors, space)


def opened(
    folder: Path, store: LocalStore, manifest: Manifest, vectors: Vectors, space: Space
) -> Generation:
    search = VectorSearch(vectors, folder / "cache", manifest, "toy-1")
    return Generation(manifest, space, folder / "cache", vectors, search, store)


def ask(state: Generation, where: str | Filter) -> list[int]:
    tree = parse_filter(where) if isinstance(where, str) else where
    return matching_ids(Path("no.index"), state, tree).tolist()


_CAMERAS = [None, "Canon EOS 5D", "canon eos 5d", "NIKON D70", "Ωmega 1", "STRASSE x"]
_WORDS = ["dog", "Dog", "beach", "golden retriever", "cafe\u0301", "日本"]


def random_image(chance: random.Random, number: int) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return None if chance.random() < 0.3 else value

    located = chance.random() < 0.6
    return {
        "id": 3 * number + 1,
        "bytes": chance.choice([0, 1000, 5_000_000]),
        "format": maybe(chance.choice(["JPEG", "PNG"])),
        "width": (width := maybe(chance.choice([640, 1600, 4000]))),
        "height": None if width is None else chance.choice([480, 1200, 3000]),
        "taken_at": maybe(datetime(2019, 1, 1) + timedelta(hours=chance.randrange(20_000))),
        "lat": chance.uniform(-90, 90) if located else None,
        "lon": chance.choice([-180.0, 180.0, chance.uniform(-180, 180)]) if located else None,
        "camera": chance.choice(_CAMERAS),
        "keywords": chance.choice([None, [], chance.sample(_WORDS, k=chance.randint(1, 3))]),
        "description": maybe("A Dog\non the beach"),
        "rating": maybe(chance.randint(-1, 5)),
        "altitude": maybe(chance.uniform(-10, 3000)),
        "exif": chance.choice(
            [None, [], [("Flash", "16"), ("FNumber", chance.choice(["2.8", "5.6", "odd"]))]]
        ),
    }


def known(row: dict[str, Any], name: str, test: Callable[[Any], bool]) -> bool:
    return row[name] is not None and test(row[name])


def tag(row: dict[str, Any], name: str) -> str:
    return dict(row["exif"] or []).get(name, "")


_TESTS: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ("camera = CANON EOS 5D", lambda r: known(r, "camera", lambda c: c.lower() == "canon eos 5d")),
    ("camera ~ canon", lambda r: known(r, "camera", lambda c: "canon" in c.lower())),
    ("camera ~ ωMEGA", lambda r: r["camera"] == "Ωmega 1"),
    ("camera in (nikon d70, ωmega 1)", lambda r: r["camera"] in ("NIKON D70", "Ωmega 1")),
    ("camera is known", lambda r: r["camera"] is not None),
    ("keyword = DOG", lambda r: bool({"dog", "Dog"} & set(r["keywords"] or []))),
    ("keyword = caf\u00e9", lambda r: "cafe\u0301" in (r["keywords"] or [])),
    ("keyword ~ retr", lambda r: "golden retriever" in (r["keywords"] or [])),
    ("keyword in (日本, beach)", lambda r: bool({"日本", "beach"} & set(r["keywords"] or []))),
    ("keyword is known", lambda r: bool(r["keywords"])),
    ("description ~ dog", lambda r: r["description"] is not None),
    ("width >= 1600", lambda r: known(r, "width", lambda w: w >= 1600)),
    ("width = 640", lambda r: r["width"] == 640),
    ("width in (640, 4000)", lambda r: r["width"] in (640, 4000)),
    ("width < 0.5", lambda r: False),
    ("megapixels > 1.9", lambda r: known(r, "width", lambda w: w * r["height"] > 1.9e6)),
    ("bytes < 1MB", lambda r: 0 < r["bytes"] < 1_000_000),
    ("bytes is known", lambda r: r["bytes"] > 0),
    ("rating < 3", lambda r: known(r, "rating", lambda s: s < 3)),
    ("-1 < rating <= 4", lambda r: known(r, "rating", lambda s: -1 < s <= 4)),
    ("altitude > 1km", lambda r: known(r, "altitude", lambda m: m > 1000)),
    ("id > 100", lambda r: r["id"] > 100),
    ("id in (1, 4, 5, 400)", lambda r: r["id"] in (1, 4, 400)),
    ("taken = 2019", lambda r: known(r, "taken_at", lambda t: t.year == 2019)),
    ("taken > 2019-06", lambda r: known(r, "taken_at", lambda t: t >= datetime(2019, 7, 1))),
    ("taken is known", lambda r: r["taken_at"] is not None),
    ("exif.flash = 16", lambda r: tag(r, "Flash") == "16"),
    ("exif.FNumber < 4", lambda r: tag(r, "FNumber") == "2.8"),
    ("exif.FNumber is known", lambda r: tag(r, "FNumber") != ""),
    ("exif.FNumber ~ D", lambda r: tag(r, "FNumber") == "odd"),
    ("exif.Nothing is known", lambda r: False),
    ("rating < 1000000000000", lambda r: r["rating"] is not None),
    ("orientation < -1e18", lambda r: False),
    ("width in (640, 1e18)", lambda r: r["width"] == 640),
    ("within(-40, 100, 40, 180)", lambda r: known(r, "lat", lambda y: abs(y) <= 40)
        and (r["lon"] >= 100 or r["lon"] == -180)),
    ("within(-90, 90, 90, -90)", lambda r: known(r, "lon", lambda x: abs(x) >= 90)),
    ("missing", lambda r: False),
    ("name = NEVER", lambda r: False),
]  # fmt: skip


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generation, list[dict[str, Any]]]:
    chance = random.Random(11)
    images = [random_image(chance, number) for number in range(170)]
    places = [(0, b"a/%d.jpg" % image["id"], image["id"], "present", 10**18) for image in images]
    deleted = [image["id"] for image in images[::9]]
    state = made(tmp_path_factory.mktemp("crowd"), images, places, deleted)
    return state, [image for image in images if image["id"] not in deleted]


@pytest.mark.parametrize(("text", "test"), _TESTS, ids=[text for text, _ in _TESTS])
def test_each_test(
    crowd: tuple[Generation, list[dict[str, Any]]], text: str, test: Callable[[Any], bool]
) -> None:
    state, rows = crowd
    passed = [row["id"] for row in rows if test(row)]
    assert ask(state, text) == passed
    # Two values: what is not known fails the test, and so passes its opposite.
    assert ask(state, f"not ({text})") == [row["id"] for row in rows if not test(row)]


def test_combinations(crowd: tuple[Generation, list[dict[str, Any]]]) -> None:
    state, rows = crowd
    chance = random.Random(5)
    sizes = set()
    for _ in range(120):
        (a, one), (b, two), (c, three) = chance.sample(_TESTS, 3)
        text = f"{a} and not ({b} or {c}) or {c} and {b}"
        wanted = [
            row["id"]
            for row in rows
            if (one(row) and not (two(row) or three(row))) or (three(row) and two(row))
        ]
        assert ask(state, text) == wanted, text
        sizes.add(len(wanted))
    assert len(sizes) > 30


def test_near_over_the_whole_globe(crowd: tuple[Generation, list[dict[str, Any]]]) -> None:
    state, rows = crowd
    chance = random.Random(2)
    for _ in range(60):
        lat, lon = chance.choice([90.0, -90.0, 0.0, chance.uniform(-90, 90)]), chance.choice(
            [180.0, -180.0, chance.uniform(-180, 180)]
        )  # fmt: skip
        km = 20_015 * chance.random() ** 2
        wanted = [
            row["id"]
            for row in rows
            if row["lat"] is not None
            and chord_km(Photo(None, row["lat"], row["lon"], {}), lat, lon) <= km
        ]
        assert ask(state, Near(lat, lon, km)) == wanted


def test_the_box_before_the_distance_loses_nothing() -> None:
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-90, 90, 40_000), rng.uniform(-180, 180, 40_000)
    for centre in ((89.9, 10), (-89.9, -170), (0, 179.99), (60, -179.9), (48.85, 2.35), (-90, 0)):
        for km in (0, 20, 500, 9_999, 10_008, 20_014):
            wanted = distance_km(lat, lon, *centre) <= km
            np.testing.assert_array_equal(within_distance(lat, lon, *centre, km), wanted)


def test_over_the_180th_meridian(tmp_path: Path) -> None:
    spots = [(-17.0, 179.9), (-17.0, -179.9), (-17.0, 180.0), (-17.0, -180.0), (-17.0, 0.0)]
    images = [{"id": number, "lat": lat, "lon": lon} for number, (lat, lon) in enumerate(spots)]
    state = made(tmp_path, images, [(0, b"x", 0, "present", 1)])
    assert ask(state, "near(-17, 180, 15)") == [0, 1, 2, 3]
    assert ask(state, "near(-17, -179.95, 15)") == [1, 2, 3]
    assert ask(state, "within(-20, 179, -10, -179)") == [0, 1, 2, 3]
    assert ask(state, Within(-20, 179, -10, 180)) == [0, 2, 3]
    assert ask(state, Within(-20, -180, -10, -179)) == [1, 2, 3]
    assert ask(state, Within(-20, -10, -10, 10)) == [4]


def test_nothing_is_known_of_an_imported_image(tmp_path: Path) -> None:
    state = made(tmp_path, [{"id": 5, "bytes": 0, "keywords": None, "exif": None}], [])
    for text, _ in _TESTS:
        if not text.startswith("id "):
            assert ask(state, text) == ([5] if text == "missing is known" else []), text
            assert ask(state, f"not ({text})") == [5]


def test_an_index_without_images(tmp_path: Path) -> None:
    state = made(tmp_path, [], [])
    for text in (*(text for text, _ in _TESTS), "in /photos", "modified > 2019", "path ~ x"):
        assert ask(state, text) == ask(state, f"not ({text})") == []


# -- where the files are --------------------------------------------------------------------


def stamp(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 10**9


@pytest.fixture
def places(tmp_path: Path) -> Generation:
    rows = [
        (0, b"bea/x.jpg", 1, "present", stamp("2019-07-04T12:00")),
        (0, b"beach/x.jpg", 2, "present", stamp("2019-07-05T00:00")),
        (0, b"beach/deep/IMG_7.JPG", 3, "present", stamp("2020-01-01T00:00")),
        (1, b"beach/copy.jpg", 3, "present", stamp("2021-01-01T00:00")),
        (0, b"old/4.jpg", 4, "missing", stamp("2019-01-01T00:00")),
        (1, b"new/4.jpg", 4, "present", stamp("2019-01-01T00:00")),
        (0, b"old/5.jpg", 5, "missing", stamp("2019-01-01T00:00")),
        (0, b"caf\xe9/6.jpg", 6, "present", stamp("2019-01-01T00:00")),
        (0, b"shards/a.tar/000.jpg", 7, "present", stamp("2019-01-01T00:00")),
        (0, b"shards/a.tar.bak/8.jpg", 8, "present", stamp("2019-01-01T00:00")),
        (0, b"gone/9.jpg", 9, "present", 1),
        (0, b"gone/9.jpg", 9, "forgotten", 1),
        (0, b"kept/9.jpg", 9, "present", 1),
        (0, "Ange\u0301lique/10.jpg".encode(), 10, "present", 1),
        (1, b"a\nb \"q\"/11%_*.jpg", 11, "present", 1),
        (0, b"beach/dead.jpg", 12, "present", 1),
    ]  # fmt: skip
    return made(tmp_path, [{"id": number} for number in range(1, 13)], rows, deleted=[12])


def test_folders(places: Generation) -> None:
    assert ask(places, "in /photos/beach") == [2, 3]
    assert ask(places, "in /photos/beach/") == [2, 3]
    assert ask(places, "in /photos/bea") == [1]
    assert ask(places, "in /photos/old/../beach/./deep") == [3]
    assert ask(places, "in /disk") == [3, 4, 11]
    assert ask(places, "in /disk/two/beach") == [3]
    assert ask(places, "in /") == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert ask(places, "in /phot") == []
    assert ask(places, "not in /photos") == [4, 11]
    assert ask(places, "in /photos/shards/a.tar") == [7]
    assert ask(places, "in /photos/beach/deep/IMG_7.JPG") == [3]
    assert ask(places, InFolder(os.fsdecode(b"/photos/caf\xe9"))) == [6]
    assert ask(places, "in /photos/caf") == []
    assert ask(places, 'in "/disk/two/a\nb ""q"""') == [11]
    assert ask(places, "in /photos/beach and not in /disk") == [2]


def test_folders_that_cannot_be(places: Generation) -> None:
    for name in ("/" + "x" * 4000, "/photos/" + "x/" * 2000, "/photos/\udcff", "/photos/beach/\n"):
        assert ask(places, InFolder(name)) == []
    damaged = dataclasses.replace(places.manifest, roots=())
    with pytest.raises(IndexFormatError, match="a root 0 that it does not hold"):
        ask(dataclasses.replace(places, manifest=damaged), "path ~ x")


def test_files_that_are_missing_or_gone(places: Generation) -> None:
    assert ask(places, "in /photos/old") == [5]  # 4 has a file elsewhere, which is shown
    assert ask(places, "missing") == [5]
    assert ask(places, "missing = false") == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert ask(places, In("missing", (True, False))) == list(range(1, 12))
    assert ask(places, "in /photos/gone") == []
    assert ask(places, "in /photos/kept") == [9]
    assert ask(places, "name = 4.jpg and path ~ new/") == [4]
    assert ask(places, "path ~ old/4") == []


def test_names_and_paths(places: Generation) -> None:
    assert ask(places, "name = X.JPG") == [1, 2]
    assert ask(places, "name in (x.jpg, img_7.jpg)") == [1, 2, 3]
    assert ask(places, "name ~ img") == [3]
    assert ask(places, "name ~ beach") == []
    assert ask(places, 'name ~ "11%_*"') == [11]
    assert ask(places, "path ~ photos/beach") == [2, 3]
    assert ask(places, "path = /PHOTOS/bea/x.jpg") == [1]
    assert ask(places, "folder ~ each") == [2, 3]
    assert ask(places, "folder ~ 7.jpg") == []
    assert ask(places, "folder ~ ang\u00e9lique") == [10]
    assert ask(places, Contains("path", os.fsdecode(b"caf\xe9"))) == [6]
    assert ask(places, Contains("path", "caf\ud800")) == []
    assert ask(places, Known("name")) == list(range(1, 12))


def test_time_of_the_last_change(places: Generation) -> None:
    assert ask(places, "modified = 2019-07-04") == [1]
    assert ask(places, "modified > 2019-07-04") == [2, 3]
    assert ask(places, "modified >= 2021") == [3]
    assert ask(places, "modified <= 9999") == list(range(1, 12))
    assert ask(places, "modified >= 0001") == list(range(1, 12))
    assert ask(places, Range("modified", low=datetime.max)) == []


def test_a_folder_by_another_of_its_names(tmp_path: Path) -> None:
    real = tmp_path / "real" / "2019"
    real.mkdir(parents=True)
    try:
        (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    rows = [(0, b"2019/1.jpg", 1, "present", 1), (0, b"20/2.jpg", 2, "present", 1)]
    images: list[dict[str, Any]] = [{"id": 1}, {"id": 2}]
    by_link = made(tmp_path / "a", images, rows, roots=(Root(0, str(tmp_path / "link")),))
    by_name = made(tmp_path / "b", images, rows, roots=(Root(0, str(tmp_path / "real")),))
    for state, way in itertools.product((by_link, by_name), ("link", "real")):
        assert ask(state, InFolder(str(tmp_path / way / "2019"))) == [1]
        assert ask(state, InFolder(str(tmp_path / way))) == [1, 2]
        assert ask(state, InFolder(str(tmp_path / way / "201"))) == []
    # What ".." means behind a link is the system's to say.
    assert ask(by_name, InFolder(str(tmp_path / "link" / ".." / "real" / "2019"))) == [1]


def test_folders_without_images(places: Generation) -> None:
    tree = parse_filter("not (in /photos/beech or in /disk) and in /photos/bea and missing")
    assert folders_without_images(places, tree) == ["/photos/beech"]


# -- rows for hits --------------------------------------------------------------------------


def test_rows_in_the_order_asked(crowd: tuple[Generation, list[dict[str, Any]]]) -> None:
    state, rows = crowd
    of = {row["id"]: row for row in rows}
    ids = random.Random(1).choices(list(of), k=40)
    table = metadata_of(state, ids, ["camera", "id", "taken_at", "keywords", "exif"])
    assert table.column_names == ["camera", "id", "taken_at", "keywords", "exif"]
    assert table.to_pylist() == [{name: of[i][name] for name in table.column_names} for i in ids]
    assert metadata_of(state, np.empty(0, np.int64), ["width"]).num_rows == 0
    with pytest.raises(QueryError, match="there is no image 2 in"):
        metadata_of(state, [1, 2], ["width"])
    with pytest.raises(QueryError, match="there is no column 'size'"):
        metadata_of(state, [1], ["size"])


def test_only_what_is_needed_is_read(
    crowd: tuple[Generation, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import clipsearch.shards

    state = dataclasses.replace(crowd[0])  # which nothing was asked of before
    read: list[tuple[str, tuple[str, ...]]] = []
    original = clipsearch.shards.read_table

    def spy(store: Any, ref: Any, columns: Any = None) -> Any:
        read.append((ref.name, tuple(columns)))
        return original(store, ref, columns)

    monkeypatch.setattr(clipsearch.shards, "read_table", spy)
    metadata_of(state, [4, 7], ["width"])
    assert read == [("images/00000.parquet", ("id", "width"))]
    read.clear()
    ask(state, "camera ~ canon and near(1, 2, 3) and not megapixels > 3")
    asked = ("camera", "lat", "lon", "width", "height")
    assert {columns for _, columns in read} == {asked, ("id",)}  # there are gaps between the ids
    read.clear()
    ask(state, "camera ~ canon and near(1, 2, 3) and not megapixels > 3")
    ask(state, "camera ~ nikon and lat > 3")
    assert read == []
    ask(state, "camera ~ nikon and rating > 3")
    assert {columns for _, columns in read} == {("rating",)}
    read.clear()
    ask(state, "id > 3")
    assert read == []


def test_names_are_looked_at_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.place_tests._ROWS_AT_ONCE", 7)
    names = [f"{'Sub' * (i % 3)}/IMG {i:03}.JPG".encode() for i in range(60)]
    names[20:22] = [b"caf\xe9/IMG 020.JPG", "Été/IMG 021.JPG".encode()]
    places = [(0, name, i, "present", 1) for i, name in enumerate(names)]
    state = made(tmp_path, [{"id": i} for i in range(60)], places)
    assert ask(state, "name ~ 'img 0'") == list(range(60))
    assert ask(state, "name ~ '2'") == [i for i in range(60) if "2" in f"{i:03}"]
    assert ask(state, "name = 'img 034.jpg'") == [34]
    assert ask(state, "path ~ 'subsub/img'") == [i for i in range(60) if i % 3 == 2 and i != 20]
    assert ask(state, "folder = '/photos/Sub'") == [i for i in range(60) if i % 3 == 1]
    assert ask(state, "folder ~ 's/sub'") == [i for i in range(60) if i % 3 and i != 20]
    assert ask(state, "path ~ 'été/'") == [21]
    assert ask(state, "path ~ 'caf\N{REPLACEMENT CHARACTER}/'") == [20]


def test_answers_are_remembered_within_bounds() -> None:
    held: Recent[str] = Recent(10)
    for name in "abc":
        held.put(name, name.upper(), 4)
    assert [held.get(name) for name in "abc"] == [None, "B", "C"]
    held.get("b")
    held.put("d", "D", 5)  # c was used longest ago
    assert [held.get(name) for name in "bcd"] == ["B", None, "D"]
    held.put("e", "E", 11)
    assert [held.get(name) for name in "bde"] == ["B", "D", None]


def test_what_changes_by_itself_is_asked_again(
    mini_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_generation(mini_index)
    all_ids = state.vectors.ids.tolist()
    folder = Path(state.manifest.roots[0].path)

    def asked(where: str | Filter) -> list[int]:
        tree = parse_filter(where) if isinstance(where, str) else where
        return matching_ids(mini_index, state, tree).tolist()

    # A label set that is saved anew.
    index = open_index(mini_index)
    for labels in (["a cat", "a dog"], ["a dog", "a tower"]):
        save_classification(
            mini_index, state, "s", index.classify(labels, none="off"), "simple", None
        )
        found = [asked(f"label = '{label}'") for label in labels]
        assert sorted(found[0] + found[1]) == all_ids
        assert found[0] == [
            int(i)
            for i, code in zip(
                all_ids, index.classify(labels, none="off").labels[:, 0], strict=True
            )
            if code == 0
        ]
    # A link that leads elsewhere, and a folder named from elsewhere.
    link, elsewhere = tmp_path / "link", tmp_path / "elsewhere"
    elsewhere.mkdir()
    link.symlink_to(elsewhere)
    assert asked(InFolder(str(link))) == []
    link.unlink()
    link.symlink_to(folder)
    assert asked(InFolder(str(link))) == all_ids
    monkeypatch.chdir(folder)
    assert asked(InFolder(".")) == all_ids
    monkeypatch.chdir(elsewhere)
    assert asked(InFolder(".")) == []


def test_a_filter_does_not_import_pandas(mini_index: Path) -> None:
    program = """
import sys
from pathlib import Path
from clipsearch.filters import parse_filter
from clipsearch.generation import open_generation
from clipsearch.metadata import matching_ids
index = Path(sys.argv[1])
text = "not camera = x and width > 3 and (keyword ~ a or taken < 2019 or name ~ .jpg or in /)"
text += " and not exif.Flash >= 3 and not near(1, 2, 3) and not missing and modified > 1980"
print(len(matching_ids(index, open_generation(index), parse_filter(text))))
print({"pandas", "torch", "faiss", "pyarrow.dataset"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(mini_index)], capture_output=True, check=True, text=True
    )
    count, modules = done.stdout.splitlines()
    assert int(count) > 5
    assert modules == "set()"


# -- a real index of real files -------------------------------------------------------------


def test_a_real_folder(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from indexer import build_index

    by_content = {file.read_bytes(): file for file in sorted(pictures.iterdir()) if file.is_file()}
    files = list(by_content.values())[:6]
    photos = tmp_path / "photos"
    homes = ["bea", "beach", "beach/deep", "other", "shards"]
    for home, file in zip(homes[:4], files, strict=False):
        (photos / home).mkdir(parents=True)
        shutil.copyfile(file, photos / home / file.name)
    (photos / "shards").mkdir()
    with tarfile.open(photos / "shards" / "a.tar", "w") as tar:
        tar.add(files[4], "000" + files[4].suffix)
    odd = os.fsencode(photos) + b"/caf\xe9"
    try:
        os.mkdir(odd)
    except OSError:
        odd = os.fsencode(photos / "cafe")
        os.mkdir(odd)
    shutil.copyfile(os.fsencode(files[5]), odd + b"/" + os.fsencode(files[5].name))
    index = tmp_path / "photos.index"
    build_index([photos, photos / "shards" / "a.tar"], index, encoder="mini")

    def found(text: str) -> set[str]:
        state = open_generation(index)
        ids = matching_ids(index, state, parse_filter(text))
        return {
            os.path.relpath(place.path, photos)
            for place in state.paths.first_places(ids)
            if place is not None
        }

    monkeypatch.chdir(photos)
    deep = f"beach/deep/{files[2].name}"
    assert found("in beach") == {f"beach/{files[1].name}", deep}
    assert found("in ./beach/../bea/") == {f"bea/{files[0].name}"}
    assert found("in shards/a.tar") == {f"shards/a.tar/000{files[4].suffix}"}
    assert len(found(f'in "{os.fsdecode(odd)}"')) == 1
    assert len(found("in .")) == 6
    assert found("folder ~ deep or name = nothing") == {deep}
    # A file that moves away is missing, and found in its old place; a copy puts it elsewhere.
    moved = photos / deep
    moved.rename(tmp_path / "kept")
    build_index(photos, index, encoder="mini")
    assert found("missing") == found("in beach/deep") == {deep}
    assert found("in beach and missing = false") == {f"beach/{files[1].name}"}
    shutil.copyfile(tmp_path / "kept", photos / "other" / f"again{moved.suffix}")
    build_index(photos, index, encoder="mini")
    assert found("missing") == found("in beach/deep") == set()
    assert f"other/again{moved.suffix}" in found("in other")
    shutil.copyfile(tmp_path / "kept", photos / "bea" / f"b{moved.suffix}")
    build_index(photos, index, encoder="mini")
    assert found("in other") == {f"other/{files[3].name}", f"bea/b{moved.suffix}"}
    state = open_generation(index)
    both = state.paths.places(int(matching_ids(index, state, parse_filter("name ~ again"))[0]))
    for home in ("bea", "other"):
        shown = asked_places_first(both, parse_filter(f"missing = false and in {home}"))
        assert shown[0].path.parent.name == home
        assert sorted(map(str, shown)) == sorted(map(str, both))
    assert asked_places_first(both, parse_filter("not in other")) == both
    equal = Equal("name", f"again{moved.suffix}")
    assert len(matching_ids(index, open_generation(index), equal)) == 1


def test_labels_of_a_saved_set(mini_index: Path) -> None:
    state = open_generation(mini_index)
    names = ["a tower", "an animal", "a person"]
    result = open_index(mini_index).classify(names, templates="none", none="off")
    save_classification(mini_index, state, "things", result, "none", None)
    for number, name in enumerate(names):
        wanted = result.ids[result.labels[:, 0] == number].tolist()
        for text in (f'label = "{name}"', f'label = "THINGS:{name}"'):
            tree = parse_filter(text)
            assert matching_ids(mini_index, state, tree).tolist() == wanted
            others = matching_ids(mini_index, state, ~tree).tolist()
            assert sorted(wanted + others) == result.ids.tolist()
    assert len(matching_ids(mini_index, state, parse_filter("label in (a tower, a person)"))) > 0
    with pytest.raises(LabelError):
        matching_ids(mini_index, state, parse_filter("label = unheard"))
