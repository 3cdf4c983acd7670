"""One image: the exact pixels, every mode and orientation, and nothing but ImageError."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from clipsearch.encoder import ImageGeometry, UInt8
from clipsearch.errors import ImageError, OptionError
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.images import decode_image, fit_to_geometry, read_image

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "photos"
needs_photos = pytest.mark.skipif(
    not (PHOTOS / "flickr").is_dir(), reason="the shared test photos are not here"
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SQUARE = ImageGeometry(32, 32)
RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with smooth areas, edges and a little noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = [128 + 100 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    pixels = np.stack(channels, axis=-1) + rng.normal(0, 6, (height, width, 3))
    pixels[height // 4 : height // 2, width // 3 : width // 2] = (250, 20, 20)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Red, green over blue, white: every orientation of it differs."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.from_pillow(image).save(stream, **options)
    else:
        image.save(stream, kind, **options)
    return stream.getvalue()


def pixels_of(data: bytes, geometry: ImageGeometry = SQUARE, **options: Any) -> UInt8:
    return decode_image(data, "test", geometry, **options).pixels


def reason_of(data: bytes, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "test", SQUARE, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert "0x" not in message
    assert "<_io" not in message
    return caught.value.reason


def open_clip_pixels(image: Image.Image, geometry: ImageGeometry) -> UInt8:
    """What open_clip's own transform gives, up to the step before it makes floats."""
    from open_clip.transform import MaybeToTensor, PreprocessCfg, image_transform_v2

    transform = image_transform_v2(
        PreprocessCfg(
            size=(geometry.height, geometry.width),
            resize_mode=geometry.resize_mode,
            interpolation=geometry.interpolation,
            fill_color=geometry.fill,
        ),
        is_train=False,
    )
    for step in transform.transforms:
        if isinstance(step, MaybeToTensor):
            return np.asarray(image)
        image = step(image)
    raise AssertionError("open_clip's transform has another form now")


GEOMETRIES = [
    ImageGeometry(height, width, mode, interpolation, fill)
    for height, width in ((224, 224), (64, 64), (96, 160), (160, 96), (37, 51))
    for mode in ("shortest", "longest", "squash")
    for interpolation, fill in (("bicubic", 0), ("bilinear", 127))
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_exact_pixels_are_those_of_open_clip(geometry: ImageGeometry) -> None:
    sizes = [(500, 375), (375, 500), (333, 500), (224, 224), (225, 224), (640, 101), (50, 31)]
    for seed, size in enumerate(sizes):
        for mode in ("RGB", "L"):
            data = saved(scene(*size, seed).convert(mode), "JPEG", quality=90)
            expected = open_clip_pixels(Image.open(io.BytesIO(data)), geometry)
            got = pixels_of(data, geometry, thumbnail_side=None)
            assert got.dtype == np.uint8
            assert got.shape == (geometry.height, geometry.width, 3)
            np.testing.assert_array_equal(got, expected, err_msg=f"{size} {mode}")


@needs_photos
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_exact_pixels_of_photos_are_those_of_open_clip(mode: str) -> None:
    geometry = ImageGeometry(256, 256, mode)
    for path in sorted((PHOTOS / "flickr").glob("*.jpg"))[:20]:
        with Image.open(path) as image:
            expected = open_clip_pixels(image, geometry)
        got = read_image(path, geometry, thumbnail_side=None).pixels
        np.testing.assert_array_equal(got, expected, err_msg=path.name)


def test_fast_decoding_stays_close_and_exact_below_twice_the_size() -> None:
    large = saved(scene(1600, 1200), "JPEG", quality=92)
    exact, fast = (
        pixels_of(large, ImageGeometry(64, 64), decode=mode).astype(int)
        for mode in ("exact", "fast")
    )
    assert 0 < np.abs(exact - fast).mean() < 3.0
    small = saved(scene(250, 200), "JPEG", quality=92)
    geometry = ImageGeometry(112, 112)
    np.testing.assert_array_equal(
        pixels_of(small, geometry), pixels_of(small, geometry, decode="fast")
    )
    result = decode_image(large, "large", ImageGeometry(32, 32), decode="fast", thumbnail_side=700)
    assert (result.metadata.width, result.metadata.height) == (1600, 1200)
    assert Image.open(io.BytesIO(result.thumbnail or b"")).size == (700, 525)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1601, 1337), (1207, 1599)])
def test_fast_decoding_shifts_nothing_whatever_the_sides(
    size: tuple[int, int], orientation: int
) -> None:
    # Sides that no power of two divides: a decoder at 1/8 rounds them up.
    exif = Image.Exif()
    exif[0x0112] = orientation
    small = scene(size[0] // 8, size[1] // 8)
    large = saved(small.resize(size, Image.Resampling.BICUBIC), "JPEG", quality=92, exif=exif)
    geometry = ImageGeometry(96, 96)
    exact, fast = (
        decode_image(large, "large", geometry, decode=mode) for mode in ("exact", "fast")
    )
    difference = np.abs(exact.pixels.astype(int) - fast.pixels)
    assert difference.mean() < 0.4
    assert difference.max() <= 4
    shapes = [Image.open(io.BytesIO(each.thumbnail or b"")).size for each in (exact, fast)]
    assert shapes[0] == shapes[1]
    assert (exact.metadata.width, exact.metadata.height) == (
        size if orientation < 5 else size[::-1]
    )


def test_fast_pixels_do_not_depend_on_the_usual_thumbnail() -> None:
    large = saved(scene(1600, 1200), "JPEG", quality=92)
    for side in (32, 96, 224):
        with_it, without = (
            pixels_of(large, ImageGeometry(side, side), decode="fast", thumbnail_side=thumbnail)
            for thumbnail in (320, None)
        )
        np.testing.assert_array_equal(with_it, without)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_all_eight_orientations_come_out_upright(kind: str, decode: str) -> None:
    upright = quarters(320, 240)
    undo = [
        None,
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_270,
    ]
    for orientation, method in enumerate(undo, 1):
        stored = upright if method is None else upright.transpose(method)
        exif = Image.Exif()
        exif[0x0112] = orientation
        result = decode_image(
            saved(stored, kind, exif=exif.tobytes()),
            "turned",
            ImageGeometry(16, 16, "squash"),
            decode=decode,
        )
        assert (result.metadata.width, result.metadata.height) == (320, 240), orientation
        assert result.metadata.orientation == orientation
        corners = [result.pixels[y, x].astype(int) for y in (3, 12) for x in (3, 12)]
        for corner, colour in zip(corners, (RED, GREEN, BLUE, WHITE), strict=True):
            assert np.abs(corner - colour).max() < 25, (orientation, corners)
        thumbnail = Image.open(io.BytesIO(result.thumbnail or b""))
        assert thumbnail.size == (320, 240)
        assert np.abs(np.array(thumbnail.getpixel((60, 180))) - BLUE).max() < 25


def test_transparency_is_put_on_white() -> None:
    rgba = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 128), (0, 0, 20, 40))
    half = [127, 127, 255]
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        got = pixels_of(saved(rgba, kind, **options))
        assert np.abs(got[16, 4].astype(int) - half).max() <= 1, kind
        assert got[16, 28].tolist() == [255, 255, 255], kind
    grey = Image.new("LA", (40, 40), (0, 0))
    assert pixels_of(saved(grey, "PNG")).min() == 255
    for mode, key in (("RGB", (0, 0, 0)), ("L", 0), ("P", 0), ("1", 0)):
        keyed = Image.new(mode, (40, 40))
        assert pixels_of(saved(keyed, "PNG", transparency=key)).min() == 255, mode
        assert pixels_of(saved(keyed, "PNG")).max() == 0, mode
    assert fit_to_geometry(Image.new("PA", (40, 40), (0, 0)), SQUARE).min() == 255
    opaque = saved(quarters().convert("RGBA"), "PNG")
    np.testing.assert_array_equal(pixels_of(opaque), pixels_of(saved(quarters(), "PNG")))


def test_deep_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)
    deep = np.repeat(ramp[None, :], 64, axis=0)
    expected = fit_to_geometry(Image.fromarray((deep >> 8).astype(np.uint8)), SQUARE)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels_of(saved(Image.fromarray(deep), kind)), expected)
    assert (expected[:, 0].max(), expected[:, -1].min()) == (2, 253)

    def middle_row(values: Any) -> list[int]:
        data = saved(Image.fromarray(np.repeat(values[None, :], 4, axis=0)), "TIFF")
        return [int(v) for v in pixels_of(data, ImageGeometry(4, 4, "squash"))[0, :, 0]]

    assert middle_row(np.array([0, 100, 200, 255], np.int32)) == [0, 100, 200, 255]
    assert middle_row(np.array([-300, 0, 300, 300], np.int32)) == [0, 128, 255, 255]
    assert middle_row(np.array([0, 0.2, 0.6, 1.0], np.float32)) == [0, 51, 153, 255]
    assert middle_row(np.array([0, 1000, np.nan, 2000], np.float32)) == [0, 128, 0, 255]


def test_other_colour_modes() -> None:
    flat = Image.new("RGB", (40, 40), (200, 100, 50))
    modes = {"CMYK": ("JPEG", 3), "P": ("GIF", 0)}
    for mode, (kind, tolerance) in modes.items():
        got = pixels_of(saved(flat.convert(mode, palette=Image.Palette.ADAPTIVE), kind))
        assert np.abs(got.astype(int) - (200, 100, 50)).max() <= tolerance, mode
    for mode in ("YCbCr", "HSV", "RGBX"):
        got = fit_to_geometry(flat.convert(mode), SQUARE)
        assert np.abs(got.astype(int) - (200, 100, 50)).max() <= 3, mode
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(flat, to_lab)
    assert lab is not None
    got = pixels_of(saved(lab, "TIFF"))
    assert np.abs(got.astype(int) - (200, 100, 50)).max() <= 4
    for value in (0, 255):
        assert np.unique(pixels_of(saved(Image.new("1", (40, 40), value), "TIFF"))) == [value]


def test_first_frame_and_frame_count() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in (RED, GREEN, BLUE)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        result = decode_image(data, "frames", SQUARE)
        assert np.abs(result.pixels.astype(int) - RED).max() <= 8, kind
        assert result.metadata.frames == 3, kind
        assert result.metadata.format == ("JPEG" if kind == "MPO" else kind)


def test_bytes_decide_the_format_not_the_name(tmp_path: Path) -> None:
    assert all(ending == ending.lower() and ending[0] == "." for ending in IMAGE_EXTENSIONS)
    path = tmp_path / "really_png.jpg"
    path.write_bytes(saved(quarters(), "PNG"))
    assert read_image(path, SQUARE).metadata.format == "PNG"
    strangers = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"%PDF-1.7\n",
        b"MZ\x90\x00" * 30,
        b"\n<!DOCTYPE html><title>Not found</title>",
        b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00isommp42",
        saved(quarters(), "PPM"),
        saved(quarters(), "ICO"),
        b"\xff",
    )
    for data in strangers:
        assert reason_of(data) == "unsupported", data[:16]
        path.write_bytes(data)
        with pytest.raises(ImageError) as caught:
            read_image(path, SQUARE)
        assert caught.value.reason == "unsupported"
    with pytest.raises(ImageError, match="HTML"):
        decode_image(strangers[3], "page.jpg", SQUARE)


def test_reading_hashes_and_keeps_names_in_bytes(tmp_path: Path) -> None:
    data = saved(quarters(), "JPEG")
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    try:
        with open(name, "wb") as file:
            file.write(data)
    except OSError:
        pytest.skip("this file system takes no such name")
    result = read_image(name, SQUARE)
    assert result.sha256 == hashlib.sha256(data).digest()
    assert result.size == len(data)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def reason(path: Path) -> str:
        with pytest.raises(ImageError) as caught:
            read_image(path, SQUARE)
        return caught.value.reason

    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "empty"
    assert reason(tmp_path / "gone.jpg") == "vanished"
    assert reason(tmp_path / "empty.jpg" / "inside.jpg") == "vanished"
    assert reason(tmp_path) == "unreadable"
    with pytest.raises(ImageError) as caught:
        read_image(str(tmp_path / "nul\x00.jpg"), SQUARE)
    assert caught.value.reason == "unreadable"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        assert reason(tmp_path / "pipe.jpg") == "unreadable"
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        (tmp_path / "locked.jpg").write_bytes(b"x")
        (tmp_path / "locked.jpg").chmod(0)
        assert reason(tmp_path / "locked.jpg") == "unreadable"


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    with open(path, "wb") as file:
        file.write(b"\xff\xd8\xff\xe0")
        file.truncate(90 << 20)  # sparse
    with pytest.raises(ImageError) as caught:
        read_image(path, SQUARE, max_megapixels=1)
    assert caught.value.reason == "too_large"


def test_too_many_pixels_are_refused_from_the_header() -> None:
    data = saved(Image.new("L", (2000, 1500)), "PNG")
    assert reason_of(data, max_megapixels=2.9) == "too_large"
    assert pixels_of(data, max_megapixels=3.0).shape == (32, 32, 3)
    # A header alone, of a picture over Pillow's own limit as well: the pixels are never asked for.
    jpeg = bytearray(saved(Image.new("L", (16, 16)), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = b"\xff\xdc\xff\xdc"
    assert reason_of(bytes(jpeg)) == "too_large"


def test_limits_of_threads_do_not_mix() -> None:
    data = saved(Image.new("L", (1200, 1000)), "PNG")
    before = Image.MAX_IMAGE_PIXELS
    start = threading.Barrier(4)

    def work(limit: float) -> list[str]:
        start.wait()
        found = []
        for _ in range(10):
            try:
                decode_image(data, "x", SQUARE, max_megapixels=limit, thumbnail_side=None)
                found.append("decoded")
            except ImageError as error:
                found.append(error.reason)
        return found

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, [1.0, 2.0, 1.0, 2.0]))
    assert results == [["too_large"] * 10, ["decoded"] * 10] * 2
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_extremely_long_pictures(mode: str) -> None:
    for size in ((60_000, 1), (1, 60_000)):
        pixels = np.full((size[1], size[0]), 40, np.uint8)
        got = pixels_of(saved(Image.fromarray(pixels), "PNG"), ImageGeometry(224, 224, mode))
        assert got.shape == (224, 224, 3)
        assert got[111, 111].tolist() == [40, 40, 40]


def test_thumbnail() -> None:
    result = decode_image(saved(scene(1000, 600), "JPEG"), "x", SQUARE, thumbnail_side=250)
    thumbnail = Image.open(io.BytesIO(result.thumbnail or b""))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (250, 150))
    wanted = np.asarray(scene(1000, 600).resize((250, 150)).convert("L"), dtype=float)
    assert np.abs(np.asarray(thumbnail.convert("L"), dtype=float) - wanted).mean() < 6
    small = decode_image(saved(scene(60, 90), "PNG"), "x", SQUARE)
    assert Image.open(io.BytesIO(small.thumbnail or b"")).size == (60, 90)
    assert (
        decode_image(saved(scene(60, 90), "PNG"), "x", SQUARE, thumbnail_side=None).thumbnail
        is None
    )


def test_unknown_decode_names_what_is_allowed() -> None:
    with pytest.raises(OptionError, match=r'"exact" or "fast"'):
        decode_image(b"", "x", SQUARE, decode="quick")


def samples() -> dict[str, bytes]:
    image = scene(56, 40)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x9003] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    block = exif.tobytes()
    xmp = b'<x xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:RDF/></x>'
    frames = [image.convert("P"), image.rotate(90).convert("P")]
    return {
        "jpeg": saved(image, "JPEG", exif=block, xmp=xmp),
        "progressive": saved(image, "JPEG", progressive=True),
        "cmyk": saved(image.convert("CMYK"), "JPEG"),
        "mpo": saved(image, "MPO", save_all=True, append_images=[image]),
        "png": saved(image, "PNG", exif=block),
        "png palette": saved(frames[0], "PNG", transparency=3),
        "png 16": saved(Image.fromarray(np.arange(2048, dtype=np.uint16).reshape(32, 64)), "PNG"),
        "gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "tiff": saved(image, "TIFF", exif=block),
        "tiff lzw": saved(image, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": saved(image, "TIFF", compression="jpeg"),
        "bmp": saved(image, "BMP"),
        "webp": saved(image, "WEBP", exif=block, xmp=xmp),
        "webp lossless": saved(image.convert("RGBA"), "WEBP", lossless=True),
        "avif": saved(image, "AVIF", exif=block),
        "heif": saved(image, "HEIF", exif=block),
    }


@pytest.mark.parametrize("name", sorted(samples()))
def test_damaged_bytes_decode_or_raise_image_error(name: str) -> None:
    data = samples()[name]
    assert decode_image(data, name, SQUARE).pixels.shape == (32, 32, 3)
    rng = np.random.default_rng(len(name))
    cut = [data[:at] for at in np.unique(np.linspace(0, len(data) - 1, 60, dtype=int))]
    flipped = []
    for round_ in range(120):
        damaged = bytearray(data)
        for _ in range(1 + round_ % 4):
            # Half of the damage in the first bytes, where the structure is.
            reach = len(data) if round_ % 2 else min(len(data), 200)
            damaged[int(rng.integers(4, reach))] = int(rng.integers(0, 256))
        flipped.append(bytes(damaged))
    reasons, messages = set(), set()
    for at, bad in enumerate(cut + flipped):
        try:
            result = decode_image(
                bad, name, SQUARE, max_megapixels=1, decode="fast" if at % 2 else "exact"
            )
        except ImageError as error:
            reasons.add(error.reason)
            messages.add(str(error))
        else:
            assert result.pixels.shape == (32, 32, 3)
            assert 0 <= result.metadata.phash < 2**64
    assert reasons <= {"empty", "too_large", "truncated", "corrupt", "unsupported"}
    assert not [message for message in messages if "0x" in message or "\n" in message]


@pytest.mark.parametrize("name", ["jpeg", "progressive", "png", "webp", "bmp", "avif", "heif"])
def test_files_cut_short_are_called_truncated(name: str) -> None:
    data = samples()[name]
    for share in (0.3, 0.5, 0.8):
        if name == "progressive" and share > 0.5:
            continue  # every scan but the last is there: libjpeg shows a coarser picture
        assert reason_of(data[: int(len(data) * share)]) == "truncated", share


def test_damage_without_a_cut_is_called_corrupt() -> None:
    data = bytearray(samples()["png"])
    at = data.index(b"IDAT") + 12
    data[at : at + 20] = bytes(20)
    assert reason_of(bytes(data)) == "corrupt"


def test_importing_costs_neither_torch_nor_heif() -> None:
    code = (
        "import sys, clipsearch.images;"
        "print([m for m in ('torch', 'pillow_heif', 'open_clip') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@needs_photos
def test_every_camera_file_is_taken() -> None:
    taken = 0
    for path in sorted((PHOTOS / "exif").rglob("*")):
        if path.suffix.lower() not in IMAGE_EXTENSIONS:
            continue
        result = read_image(path, SQUARE, decode="fast", thumbnail_side=None)
        assert result.pixels.shape == (32, 32, 3)
        taken += 1
    assert taken == 101
