"""Resizing where the encoder computes: the pixels that Pillow gives, up to a grey level."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipsearch import load_encoder
from clipsearch.device_pixels import fit_pictures, resize
from clipsearch.device_queue import own_stream, to_device
from clipsearch.encoder import ImageGeometry, UInt8
from clipsearch.images import fit_to_geometry
from clipsearch.open_clip_encoder import OpenClipEncoder
from clipsearch.torch_tower import TorchTower, convolutions, full_precision, normalised

CPU = torch.device("cpu")
GEOMETRIES = [
    ImageGeometry(64, 64),
    ImageGeometry(64, 64, interpolation="bilinear"),
    ImageGeometry(48, 80),
    ImageGeometry(48, 80, interpolation="bilinear"),
    ImageGeometry(64, 64, "longest", "bicubic", 128),
    ImageGeometry(80, 48, "longest", "bilinear", 7),
    ImageGeometry(64, 96, "squash", "bilinear"),
    ImageGeometry(96, 96, "squash", "bicubic"),
]


def photos(folder: Path) -> list[UInt8]:
    return [np.array(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]


def fitted(pictures: list[UInt8], geometry: ImageGeometry) -> UInt8:
    batch = fit_pictures(pictures, geometry, CPU)
    assert batch.shape == (len(pictures), 3, geometry.height, geometry.width)
    assert batch.dtype == torch.uint8
    result: UInt8 = batch.permute(0, 2, 3, 1).numpy()
    return result


def expected(pictures: list[UInt8], geometry: ImageGeometry) -> UInt8:
    return np.stack([fit_to_geometry(Image.fromarray(one), geometry) for one in pictures])


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_photos_are_those_of_pillow(pictures: Path, geometry: ImageGeometry) -> None:
    originals = photos(pictures)
    here, there = fitted(originals, geometry), expected(originals, geometry)
    difference = np.abs(here.astype(int) - there)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_every_shape_of_picture(geometry: ImageGeometry) -> None:
    """Smaller than the target, far longer than wide, of one pixel, grey, made much smaller."""
    random = np.random.default_rng(0)
    shapes = [
        (9, 12, 3),
        (1, 1, 3),
        (64, 64, 3),
        (5, 900, 3),
        (900, 5, 3),
        (33, 47),
        (1, 70_000, 3),
    ]
    shapes += [(3, 9000), (300, 401, 3), (300, 401), (300, 401, 3), (5000, 70, 3), (80, 48, 3)]
    originals = [random.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    here, there = fitted(originals, geometry), expected(originals, geometry)
    difference = np.abs(here.astype(int) - there)
    assert difference.max() <= 1
    # Enlarged by whole factors, many values lie exactly between two grey levels.
    assert (difference > 0).mean() < 0.03


def test_vectors_are_those_of_pillow(pictures: Path) -> None:
    encoder = load_encoder("mini", device="cpu")
    geometry = encoder.space.geometry
    originals = photos(pictures)
    here = encoder.encode_images(fitted(originals, geometry))
    there = encoder.encode_images(expected(originals, geometry))
    assert np.einsum("ij,ij->i", here, there).min() > 0.9999


def test_pictures_that_are_on_the_device_already(pictures: Path) -> None:
    geometry = ImageGeometry(64, 64)
    originals = [*photos(pictures)[:3], np.full((50, 40), 9, np.uint8)]
    mixed = [originals[0], *to_device(originals[1:], CPU)]
    assert [tuple(one.shape) for one in mixed[2:]] == [
        (3, *originals[2].shape[:2]),
        (1, 50, 40),
    ]
    batch = fit_pictures(mixed, geometry, CPU).permute(0, 2, 3, 1).numpy()
    assert (batch == fitted(originals, geometry)).all()
    assert fit_pictures([], geometry, CPU).shape == (0, 3, 64, 64)


def test_arrays_that_are_views(pictures: Path) -> None:
    turned = [one[::-1, ::2] for one in photos(pictures)[:2]]
    geometry = ImageGeometry(64, 64)
    whole = [np.ascontiguousarray(one) for one in turned]
    assert (fitted(turned, geometry) == expected(whole, geometry)).mean() > 0.995


def test_halves_are_rounded_up_as_in_pillow() -> None:
    two = np.array([[0, 255], [0, 255]], np.uint8)  # the mean is 127.5
    here = resize(torch.from_numpy(two)[None, None], (1, 1), "bilinear")
    there = np.asarray(Image.fromarray(two).resize((1, 1), Image.Resampling.BILINEAR))
    assert int(here) == int(there[0, 0]) == 128


def test_a_stream_of_its_own_is_nothing_on_a_cpu() -> None:
    with own_stream(CPU):
        assert int(torch.ones(2).sum()) == 2


def test_convolutions_have_their_channels_together() -> None:
    """A tower of convolutions gives the same vectors in that layout."""
    net = open_clip.create_model("RN50", pretrained=None, load_weights=False).visual.eval()
    small = torch.nn.Sequential(net.conv1, net.bn1, net.conv2, torch.nn.Flatten())
    mean, std = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)
    tower = TorchTower(small, mean, std, CPU, "float32")
    assert tower._visual[0].weight.is_contiguous(memory_format=torch.channels_last)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    with torch.inference_mode():
        plain = small(normalised(pixels, mean, std))
    rows = torch.nn.functional.normalize(plain, dim=-1).numpy()
    assert np.abs(tower.rows(pixels) - rows).max() < 1e-5
    encoder = load_encoder("mini", device="cpu")
    assert isinstance(encoder, OpenClipEncoder)
    assert convolutions(encoder.image_parts()[0]) >= 1


def test_full_precision_lasts_until_the_last_thread_leaves() -> None:
    cudnn, gpu = torch.backends.cudnn, torch.device("cuda:5")
    assert (cudnn.allow_tf32, cudnn.enabled) == (True, True)
    first, second = full_precision(gpu), full_precision(gpu)
    first.__enter__()
    second.__enter__()
    assert (cudnn.allow_tf32, cudnn.enabled) == (False, True)
    first.__exit__(None, None, None)
    assert not cudnn.allow_tf32
    second.__exit__(None, None, None)
    assert cudnn.allow_tf32
    with full_precision(CPU):
        assert cudnn.allow_tf32


def test_queues_of_a_gpu_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is asked: two at a time have a queue each, one after the other the same."""

    class Stream:
        def __init__(self, device: torch.device) -> None:
            self.waited_for: list[object] = []

        def wait_stream(self, other: object) -> None:
            self.waited_for.append(other)

    used: list[Stream] = []

    def enter(stream: Stream) -> contextlib.AbstractContextManager[None]:
        used.append(stream)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default")
    monkeypatch.setattr(torch.cuda, "stream", enter)
    device = torch.device("cuda:5")
    for _ in range(2):
        with own_stream(device), own_stream(device):
            pass
    outer, inner, again, inner_again = used
    assert outer is not inner
    assert {id(again), id(inner_again)} == {id(outer), id(inner)}
    assert outer.waited_for == ["default", "default"]
