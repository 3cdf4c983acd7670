"""RAW photos: with the extra that reads them, and without."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import tarfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipsearch.encoder import load_encoder
from clipsearch.errors import ImageError
from clipsearch.image_formats import is_raw
from clipsearch.images import DecodedImage, decode_image
from clipsearch.manifest import read_manifest
from clipsearch.raw_structure import ends_early, is_raw_tiff, read_raw_exif
from clipsearch.store import LocalStore
from tests.conftest import Cli
from tests.raw_files import dng
from tests.test_sidecars import rows

pytest.importorskip("rawpy", reason="the extra 'raw' is not installed")

_PROJECT = Path(__file__).resolve().parents[1]
# What makes an upright picture lie in the file as a sensor of that orientation saw it.
_UNTURN = {
    1: lambda image: image,
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A real picture of 1400 x 940."""
    from indexer.demo import demo_pictures

    with Image.open(max(demo_pictures(), key=lambda path: path.stat().st_size)) as image:
        return ImageOps.fit(image.convert("RGB"), (1400, 940))


def decoded(data: bytes, decode: str = "exact", name: str = "a.dng") -> DecodedImage:
    return decode_image(data, name, load_encoder("mini").space.geometry, decode=decode)


def likeness(one: DecodedImage, other: Image.Image) -> float:
    """Pearson's correlation of the pixels; development changes brightness."""
    stream = io.BytesIO()
    other.save(stream, "JPEG", quality=95)
    reference = decoded(stream.getvalue())
    return float(np.corrcoef(one.pixels.ravel(), reference.pixels.ravel())[0, 1])


@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize("orientation", sorted(_UNTURN))
@pytest.mark.parametrize("with_preview", [True, False])
def test_a_raw_photo_is_upright(
    photo: Image.Image, orientation: int, with_preview: bool, decode: str
) -> None:
    lying = _UNTURN[orientation](photo)
    data = dng(lying, preview=lying if with_preview else None, orientation=orientation)
    image = decoded(data, decode)
    assert likeness(image, photo) > (0.995 if with_preview else 0.95)
    assert likeness(image, photo.transpose(Image.Transpose.ROTATE_180)) < 0.9
    assert image.thumbnail is not None
    assert Image.open(io.BytesIO(image.thumbnail)).size == (320, 215)
    known = image.metadata
    assert (known.format, known.width, known.height) == ("RAW", 1400, 940)
    assert (known.orientation, known.camera, known.lens) == (orientation, "Examplar One", "35mm F2")
    assert known.taken_at == datetime(2021, 5, 6, 7, 8, 9)
    assert (known.lat, known.lon) == (-33.9, 151.2)


def test_a_preview_that_is_upright_already_is_not_turned_again(photo: Image.Image) -> None:
    lying = _UNTURN[6](photo)
    assert likeness(decoded(dng(lying, preview=photo, orientation=6)), photo) > 0.995


def test_a_small_or_damaged_preview_is_not_taken(photo: Image.Image) -> None:
    other = ImageOps.invert(photo)
    assert likeness(decoded(dng(photo, preview=other)), photo) < 0  # it shows which one is taken
    assert likeness(decoded(dng(photo, preview=other.resize((320, 214)))), photo) > 0.95
    data = dng(photo, preview=other)
    start = data.index(b"\xff\xd8\xff")
    broken = data[: start + 20] + bytes(4000) + data[start + 4020 :]
    assert likeness(decoded(broken), photo) > 0.95


def test_the_choice_of_the_picture_does_not_depend_on_the_thumbnail(photo: Image.Image) -> None:
    data, geometry = dng(photo, preview=photo), load_encoder("mini").space.geometry
    pixels = [
        decode_image(data, "a.dng", geometry, thumbnail_side=side).pixels
        for side in (None, 320, 2000)
    ]
    assert np.array_equal(pixels[0], pixels[1])
    assert np.array_equal(pixels[0], pixels[2])


def test_bytes_tell_raw_from_tiff(photo: Image.Image) -> None:
    stream = io.BytesIO()
    photo.save(stream, "TIFF")
    tiff, jpeg = stream.getvalue(), b"\xff\xd8\xff\xe0"
    assert not is_raw(tiff, "a.tif")
    assert is_raw(dng(photo), "a.tif")
    assert is_raw(dng(photo, version=False), "a.tif")
    assert is_raw(dng(photo, version=False, preview=photo), "member of a tar")
    assert not is_raw(jpeg, "a.dng")
    assert is_raw(b"II*\x00\x10\x00\x00\x00CR\x02\x00", "")
    assert is_raw(b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01", "")
    assert is_raw(b"FUJIFILMCCD-RAW 0201", "")
    with pytest.raises(ImageError) as caught:
        decoded(tiff, name="a.nef")
    assert caught.value.reason in ("unsupported", "corrupt")


def tiff_block(tag: int, text: bytes) -> bytes:
    """A TIFF of one directory with one text."""
    text += b"\x00"
    entry = struct.pack("<HHII", tag, 2, len(text), 26)
    return b"II*\x00" + struct.pack("<IH", 8, 1) + entry + bytes(4) + text


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize("magic", [b"II*\x00", b"IIRO", b"IIRS", b"IIU\x00"])
def test_exif_of_what_is_nearly_a_tiff(magic: bytes) -> None:
    exif, _ = read_raw_exif(magic + tiff_block(0x0110, b"E-M1")[4:])
    assert exif.main == {0x0110: "E-M1"}


def test_exif_of_cr3_and_raf() -> None:
    blocks = box(b"CMT1", tiff_block(0x0110, b"EOS R5")) + box(
        b"CMT2", tiff_block(0x9003, b"2021:05:06 07:08:09")
    )
    cr3 = box(b"ftyp", b"crx \x00\x00\x00\x01") + box(b"moov", box(b"uuid", bytes(16) + blocks))
    exif, _ = read_raw_exif(cr3)
    assert (exif.main[0x0110], exif.photo[0x9003]) == ("EOS R5", "2021:05:06 07:08:09")
    assert not ends_early(cr3)
    assert ends_early(cr3[:-1])

    tags = Image.Exif()
    tags[0x0110] = "X-T4"
    tags.get_ifd(0x8769)[0x9003] = "2021:05:06 07:08:09"
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG", exif=tags)
    jpeg = stream.getvalue()
    places = struct.pack(">6I", 108, len(jpeg), 108 + len(jpeg), 4, 112 + len(jpeg), 4)
    raf = b"FUJIFILMCCD-RAW 0201".ljust(84, b"\x00") + places + jpeg + bytes(8)
    exif, _ = read_raw_exif(raf)
    assert (exif.main[0x0110], exif.photo[0x9003]) == ("X-T4", "2021:05:06 07:08:09")
    assert not ends_early(raf)
    assert ends_early(raf[:-1])


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_damaged_structures_raise_nothing(photo: Image.Image) -> None:
    small = photo.resize((64, 48))
    whole = dng(small, preview=small)
    chance = random.Random(7)
    assert not ends_early(whole)
    for size in (*range(0, 400), *range(400, len(whole), 97)):
        ends_early(whole[:size])
        is_raw_tiff(whole[:size])
    for _ in range(500):
        broken = bytearray(whole)
        for _ in range(8):
            broken[chance.randrange(1200)] = chance.randrange(256)
        ends_early(bytes(broken))
        is_raw_tiff(bytes(broken))
        read_raw_exif(bytes(broken))
    looped = b"II*\x00\x08\x00\x00\x00" + struct.pack("<HHHIII", 1, 0x014A, 4, 1, 8, 8)
    assert not is_raw_tiff(looped)


def test_too_many_pixels_are_refused_before_they_are_developed(photo: Image.Image) -> None:
    with pytest.raises(ImageError, match=r"1\.3 megapixels") as caught:
        decode_image(dng(photo), "a", load_encoder("mini").space.geometry, max_megapixels=1.0)
    assert caught.value.reason == "too_large"


NOT_THERE = "import sys\nsys.modules['rawpy'] = None\n"
HIDDEN = """
import sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "rawpy":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hook())
"""


def without_rawpy(folder: Path, how: str = NOT_THERE) -> dict[str, str]:
    """An environment in which Python finds no rawpy."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(how)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(_PROJECT)])}


def test_indexing_raw_photos(tmp_path: Path, pictures: Path, photo: Image.Image, cli: Cli) -> None:
    lying = _UNTURN[8](photo)
    whole = dng(lying, preview=lying, orientation=8)
    (pictures / "IMG_1.dng").write_bytes(whole)
    photo.save(pictures / "IMG_1.jpg")
    (pictures / "plain.NEF").write_bytes(dng(ImageOps.mirror(photo)))
    (pictures / "short.dng").write_bytes(whole[: len(whole) // 2])
    (pictures / "noise.cr2").write_bytes(random.Random(1).randbytes(5000))
    (pictures / "torn.cr2").write_bytes(whole[:8] + random.Random(2).randbytes(5000))
    (pictures / "zeros.dng").write_bytes(whole[:300] + bytes(len(whole) - 300))
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        info = tarfile.TarInfo("in/IMG_2.dng")
        data = dng(ImageOps.flip(photo))
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    index = tmp_path / "p.index"
    run = cli("index", pictures, tmp_path / "more.tar", "--model", "mini", "--index", index)
    assert run.returncode == 3, run.stderr
    assert b"passed over" not in run.stderr
    failures = cli("failures", "--index", index, "--json").stdout.splitlines()
    lost = {Path(row["path"]).name: row["reason"] for row in map(json.loads, failures)}
    assert set(lost) == {"short.dng", "noise.cr2", "torn.cr2", "zeros.dng"}
    assert lost["short.dng"] == "truncated"
    assert lost["noise.cr2"] == "unsupported"
    found = rows(index)
    names = {name for name, row in found.items() if row["format"] == "RAW"}
    assert names == {"IMG_1.dng", "plain.NEF", "IMG_2.dng"}
    assert found["IMG_1.dng"]["id"] != found["IMG_1.jpg"]["id"]  # two images, one of each
    assert found["IMG_1.dng"]["orientation"] == 8
    assert (found["IMG_1.dng"]["width"], found["IMG_1.dng"]["height"]) == (1400, 940)

    manifest = read_manifest(LocalStore(index), str(index))
    (shards,) = manifest.embeddings.values()
    assert any("rawpy" in shard.recipe["versions"] for shard in shards)

    elsewhere = tmp_path / "elsewhere.dng"
    elsewhere.write_bytes(dng(ImageOps.mirror(photo), preview=ImageOps.mirror(photo)))
    run = cli("similar", elsewhere, "-k", "3", "--json", "--index", index)
    assert run.returncode == 0, run.stderr
    hits = [json.loads(line) for line in run.stdout.splitlines()]
    assert Path(hits[0]["path"]).name == "plain.NEF"
    assert hits[0]["score"] > 0.96  # one was developed, the other is as the camera saw it
    assert hits[1]["score"] < 0.95


def test_a_hook_that_hides_the_extra(tmp_path: Path, photo: Image.Image, cli: Cli) -> None:
    (tmp_path / "one.dng").write_bytes(dng(photo))
    photo.save(tmp_path / "two.jpg")
    run = cli(
        "index", tmp_path, "--dry-run", "--index", tmp_path / "x.index", "--json",
        env=without_rawpy(tmp_path / "site", HIDDEN),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    kinds = json.loads(run.stdout.splitlines()[-1])["ignored_kinds"]
    assert kinds == {".dng": 1, ".py": 1}  # the hook itself
    assert b"1 RAW photo (.dng) was passed over: pip install" in run.stderr


@pytest.mark.slow
def test_without_the_extra_raw_photos_are_passed_over(
    tmp_path: Path, pictures: Path, photo: Image.Image, cli: Cli
) -> None:
    env = without_rawpy(tmp_path / "site")
    small = photo.resize((200, 140))
    (pictures / "one.dng").write_bytes(dng(small))
    (pictures / "two.DNG").write_bytes(dng(ImageOps.mirror(small)))
    (pictures / "three.nef").write_bytes(dng(ImageOps.flip(small)))
    pack = tmp_path / "more.tar"
    with tarfile.open(pack, "w") as tar:
        tar.add(next(pictures.glob("*.jpg")), "a.jpg")
        (pictures / "four.dng").write_bytes(dng(small.transpose(Image.Transpose.ROTATE_180)))
        tar.add(pictures / "four.dng", "four.dng")
        (pictures / "four.dng").unlink()
    index = tmp_path / "p.index"
    run = cli("index", pictures, pack, "--model", "mini", "--index", index, env=env)
    assert run.returncode == 0, run.stderr
    told = (
        b"4 RAW photos (.dng, .nef) were passed over: pip install 'clipsearch[raw]' to index them"
    )
    assert told in run.stderr
    for command in (("index", pictures / "one.dng"), ("similar", pictures / "one.dng")):
        run = cli(*command, "--index", index, env=env)
        assert run.returncode == 2
        assert b"pip install 'clipsearch[raw]'" in run.stderr
        assert b"Traceback" not in run.stderr
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(pictures / "one.dng", only)
    run = cli("index", only, "--model", "mini", "--index", tmp_path / "o.index", env=env)
    assert run.returncode == 2
    assert b"for the 1 RAW photo: pip install 'clipsearch[raw]'" in run.stderr

    # Once it is installed, the next run picks them up by itself.
    run = cli("index", "--index", index, "--json")
    report = json.loads(run.stdout)
    assert (report["new"], report["skipped"], report["missing"]) == (4, 0, 0)
    # Gone again, what is known of them stays; what is gone from the folder is noted.
    (pictures / "three.nef").unlink()
    run = cli("index", "--index", index, "--json", env=env)
    report = json.loads(run.stdout)
    assert (report["new"], report["missing"], report["ignored"]) == (0, 1, 3)
    run = cli("status", "--index", index, "--json", env=env)
    assert json.loads(run.stdout)["images"] == report["indexed"] + 4
