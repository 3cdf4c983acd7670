"""JPEGs decoded where the encoder computes: as the ordinary path has them, or not at all."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from clipsearch import device_jpeg, load_encoder
from clipsearch.cli import run
from clipsearch.device_jpeg import _mean_of_cells, decode_jpegs, decodes_jpeg, reduced, upright
from clipsearch.encoder import ImageGeometry
from clipsearch.errors import ImageError
from clipsearch.images import DecodedImage
from clipsearch.manifest import read_manifest
from clipsearch.model_names import folder_of
from clipsearch.picture_sizes import ScaledPhoto
from clipsearch.store import LocalStore
from clipsearch.undecoded_jpeg import undecoded_jpeg
from indexer import build, encode_plan
from indexer.decode import Source
from indexer.device_decode import AT_A_TIME, decode_for

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision"),
    pytest.mark.skipif(not decodes_jpeg("cpu"), reason="torchvision without JPEG"),
]


def decoded(sources: list[Source], geometry: ImageGeometry, **options: Any) -> list[Any]:
    given: dict[str, Any] = {
        "device": "cpu",
        "resize": "host",
        "jpeg": "host",
        "decode": "fast",
        "max_megapixels": 200.0,
        "thumbnail_side": 320,
        "threads": 2,
        "look_ahead": 8,
        **options,
    }
    return list(decode_for(sources, geometry, **given))


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def photo(size: tuple[int, int] = (400, 300)) -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size)


def bits(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def test_photos_are_those_of_the_ordinary_path(pictures: Path, exif_photos: Path) -> None:
    files = sorted(path for folder in (pictures, exif_photos) for path in folder.rglob("*"))
    sources: list[Source] = [str(path) for path in files if path.is_file()]
    encoder = load_encoder("mini", device="cpu")
    geometry = encoder.space.geometry
    usual = decoded(sources, geometry)
    here = decoded(sources, geometry, jpeg="device")
    assert len(here) == len(usual) == len(sources)
    jpegs = 0
    for one, other in zip(here, usual, strict=True):
        if isinstance(other, ImageError):
            assert (one.reason, str(one)) == (other.reason, str(other))
            continue
        assert (one.sha256, one.size, one.jpeg) == (other.sha256, other.size, None)
        assert dataclasses.replace(one.metadata, phash=0) == dataclasses.replace(
            other.metadata, phash=0
        )
        assert bits(one.metadata.phash, other.metadata.phash) <= 6
        small, usual_small = (
            Image.open(io.BytesIO(image.thumbnail)).convert("RGB") for image in (one, other)
        )
        assert small.size == usual_small.size
        assert np.abs(np.asarray(small, int) - np.asarray(usual_small, int)).mean() < 2.5
        jpegs += other.metadata.format == "JPEG"
    assert jpegs > 20
    good = [row for row, image in enumerate(usual) if isinstance(image, DecodedImage)]
    vectors = [
        encoder.encode_images(np.stack([images[row].pixels for row in good]))
        for images in (here, usual)
    ]
    cosines = np.einsum("ij,ij->i", *vectors)
    assert cosines.min() > 0.9995
    assert cosines.mean() > 0.9999


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("side", [32, 100, 224])  # scaled down by 8, 4 and 2
def test_photos_that_a_decoder_scales(pictures: Path, side: int, orientation: int) -> None:
    """Sides that 8 does not divide: sizes and crops go by the photo's own, wherever the last
    pixel is turned to."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(min(pictures.iterdir())) as opened:
        large = opened.convert("RGB").resize((1381, 1027), Image.Resampling.BICUBIC)
    data = jpeg(large, quality=95, exif=exif)
    geometry = ImageGeometry(side, side)
    size = 160 if side == 32 else 320
    (usual,), (jpegs,), (resized,) = (
        decoded([data], geometry, thumbnail_side=size, **where)
        for where in ({}, {"jpeg": "device"}, {"resize": "device"})
    )
    assert np.abs(jpegs.pixels.astype(int) - usual.pixels).mean() < 0.5
    assert bits(jpegs.metadata.phash, usual.metadata.phash) <= 2
    small, usual_small = (
        np.asarray(Image.open(io.BytesIO(image.thumbnail)), int) for image in (jpegs, usual)
    )
    assert np.abs(small - usual_small).mean() < 1.5
    # Only resized there, nothing else differs.
    difference = np.abs(resized.pixels.astype(int) - usual.pixels)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005
    assert resized == dataclasses.replace(usual, pixels=resized.pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photo(), quality=95, exif=exif)
    geometry = ImageGeometry(64, 96, "squash")
    (usual,), (here,) = (decoded([data], geometry, jpeg=where) for where in ("host", "device"))
    assert here.metadata.orientation == orientation
    assert np.abs(here.pixels.astype(int) - usual.pixels).mean() < 2
    picture = Image.open(io.BytesIO(here.thumbnail))
    assert picture.size == ((240, 320) if orientation >= 5 else (320, 240))
    with Image.open(io.BytesIO(data)) as opened:
        turned = upright(torch.from_numpy(np.array(opened)).permute(2, 0, 1), orientation)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (turned.permute(1, 2, 0).numpy() == expected).all()


def test_what_is_left_to_pillow() -> None:
    whole = jpeg(photo())
    assert undecoded_jpeg(whole, 200.0) is not None
    assert undecoded_jpeg(jpeg(photo().convert("L")), 200.0) is not None
    assert undecoded_jpeg(jpeg(photo(), progressive=True), 200.0) is None
    assert undecoded_jpeg(jpeg(photo().convert("CMYK")), 200.0) is None
    assert undecoded_jpeg(jpeg(photo(), keep_rgb=True), 200.0) is None
    assert undecoded_jpeg(whole[:-300], 200.0) is None
    stream = io.BytesIO()
    photo().save(stream, "PNG")
    assert undecoded_jpeg(stream.getvalue(), 200.0) is None
    with pytest.raises(ImageError, match="megapixels"):
        undecoded_jpeg(whole, 0.01)


def test_files_that_a_device_refuses_are_decoded_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [jpeg(photo((200 + row, 150))) for row in range(7)]
    damaged = files[4][:20] + files[4][200:]  # without its tables
    sources: list[Source] = [*files[:4], damaged, *files[5:]]
    geometry = ImageGeometry(32, 32)
    real = device_jpeg._decode

    def refuses(some: Any, device: Any) -> Any:
        if files[2] in some:
            raise RuntimeError("nvjpegDecodeBatched failed: 5")
        return real(some, device)

    monkeypatch.setattr(device_jpeg, "_decode", refuses)
    taken = [one is not None for one in decode_jpegs([*files], CPU)]
    assert taken == [True, True, False, True, True, True, True]
    usual = decoded(sources, geometry)
    here = decoded(sources, geometry, jpeg="device")
    assert (here[2].pixels == usual[2].pixels).all()
    assert here[2].thumbnail == usual[2].thumbnail
    assert isinstance(usual[4], ImageError)
    assert (here[4].reason, str(here[4])) == (usual[4].reason, str(usual[4]))
    assert [image.metadata.width for image in here if isinstance(image, DecodedImage)] == [
        200, 201, 202, 203, 205, 206,
    ]  # fmt: skip


def test_strips_that_no_device_resizes_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[Source] = [jpeg(photo(size)) for size in ((30_000, 20), (2, 6000), (400, 300))]
    asked = []
    real = device_jpeg._decode

    def counted(files: Any, device: Any) -> Any:
        asked.append(len(files))
        return real(files, device)

    monkeypatch.setattr(device_jpeg, "_decode", counted)
    geometry = ImageGeometry(224, 224)
    usual = decoded(sources, geometry)
    here = decoded(sources, geometry, jpeg="device")
    assert asked == [1]
    for one, other in zip(here[:2], usual[:2], strict=True):
        assert (one.pixels == other.pixels).all()
        assert (one.thumbnail, one.metadata) == (other.thumbnail, other.metadata)


def test_a_device_without_memory_costs_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsearch import device_pixels

    def full(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    stream = io.BytesIO()
    photo().save(stream, "PNG")
    sources: list[Source] = [jpeg(photo()), stream.getvalue()]
    geometry = ImageGeometry(32, 32)
    usual = decoded(sources, geometry)
    monkeypatch.setattr(device_jpeg, "fit_pictures", full)
    monkeypatch.setattr(device_pixels, "fit_pictures", full)
    here = decoded(sources, geometry, jpeg="device", resize="device")
    for one, other in zip(here, usual, strict=True):
        assert (one.pixels == other.pixels).all()
        assert (one.thumbnail, one.metadata) == (other.thumbnail, other.metadata)


def test_pictures_resized_on_the_device(pictures: Path) -> None:
    sources: list[Source] = [str(path) for path in sorted(pictures.iterdir())]
    sources += [b"", jpeg(photo().convert("L")), jpeg(photo((2000, 1500)))]
    geometry = ImageGeometry(64, 64, interpolation="bilinear")
    usual = decoded(sources, geometry, decode="exact")
    here = decoded(sources, geometry, decode="exact", resize="device")
    for one, other in zip(here, usual, strict=True):
        if isinstance(other, ImageError):
            assert str(one) == str(other)
            continue
        assert one.pixels.shape == (64, 64, 3)
        assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1
        assert dataclasses.replace(one, pixels=other.pixels) is not other
        assert (one.thumbnail, one.metadata) == (other.thumbnail, other.metadata)
    assert (here[-1].pixels == usual[-1].pixels).all()  # 3 megapixels are not handed over


def test_more_than_a_chunk_without_thumbnails() -> None:
    files: list[Source] = [jpeg(photo((60 + row, 50))) for row in range(AT_A_TIME + 9)]
    here = decoded(files, ImageGeometry(32, 32), jpeg="device", thumbnail_side=None)
    assert [image.metadata.width for image in here] == [60 + row for row in range(len(files))]
    assert {image.thumbnail for image in here} == {None}


def test_a_large_picture_is_reduced_to_no_less_than_twice_the_size() -> None:
    picture = torch.zeros((3, 3001, 4000), dtype=torch.uint8)
    square = ImageGeometry(224, 224)
    small, scaled = reduced(picture, 1, square, 320)
    assert small.shape == (3, 751, 1000)
    assert scaled == ScaledPhoto((4000, 3001), (0.0, 0.0, 1000.0, 750.25))
    # Turned by a half, what stands for less than a pixel is at the top.
    small, scaled = reduced(picture, 3, square, 320)
    assert scaled == ScaledPhoto((4000, 3001), (0.0, 0.75, 1000.0, 751.0))
    small, scaled = reduced(picture, 6, square, 320)
    assert small.shape == (3, 1000, 751)
    assert scaled == ScaledPhoto((3001, 4000), (0.75, 0.0, 751.0, 1000.0))
    whole, scaled = reduced(picture, 1, square, 2500)
    assert (whole.shape, scaled) == ((3, 3001, 4000), None)
    assert reduced(picture, 1, ImageGeometry(32, 32), 32)[0].shape == (3, 376, 500)
    assert reduced(picture[:, :100], 1, ImageGeometry(64, 64), 320)[0].shape == (3, 100, 4000)
    grey = torch.arange(20, dtype=torch.uint8).view(1, 4, 5)
    assert _mean_of_cells(grey, (2, 2)).tolist() == [[[3, 5, 7], [13, 15, 17]]]
    # No less than the usual thumbnail, also where none is made.
    assert reduced(grey, 1, ImageGeometry(1, 1, "squash"), None)[0].shape == (1, 4, 5)


def test_a_device_that_is_not_there_decodes_nothing() -> None:
    if not torch.cuda.is_available():
        assert not decodes_jpeg("cuda:7")
    assert not decodes_jpeg("meta")


def test_an_index_made_with_a_device_s_jpegs(
    pictures: Path, mini_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows as usual but for pixels, thumbnails and hashes; the recipe says so, and
    ``verify`` holds the vectors against Pillow's."""
    settle = encode_plan.default_plan
    monkeypatch.setattr(
        build,
        "default_plan",
        lambda *given: dataclasses.replace(settle(*given), resize="device", jpeg="device"),
    )
    place = tmp_path / "device.index"
    build.build_index(pictures, place, encoder="mini", device="cpu")
    (shard,) = (place / "embeddings").rglob("*.parquet")
    (usual,) = (mini_index / "embeddings").rglob("*.parquet")
    here, there = pq.read_table(shard), pq.read_table(usual)
    assert here.column("id").equals(there.column("id"))
    rows = [
        np.array([np.frombuffer(row.as_py(), "<f2") for row in table.column("embedding")], float)
        for table in (here, there)
    ]
    cosines = (rows[0] * rows[1]).sum(axis=1) / np.prod(
        [np.linalg.norm(one, axis=1) for one in rows], axis=0
    )
    assert cosines.min() > 0.999
    manifest = read_manifest(LocalStore(place), str(place))
    (refs,) = manifest.embeddings.values()
    assert [ref.recipe["decode"] for ref in refs] == ["device"]
    assert run(["verify", "--index", str(place), "--sample", "100"]) == 0


def test_the_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    arguments = [
        *("--device", "cpu", "--models", f"local-dir:{folder_of('mini')}", "--batch", "2"),
        *("--photos", "2", "--side", "64", "--seconds", "0.01", "--kinds", "500 px"),
        *("--json", str(numbers)),
    ]
    project = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, str(project / "benchmarks" / "gpu_encode.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "matrix peak" in done.stdout
    (row,) = json.loads(numbers.read_text())["models"]
    assert row["gflop"] > 0
    assert min(row["tower"], row["encoder"], row["stored"]["500 px"], row["peak_share"]) > 0
