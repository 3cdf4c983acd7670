"""A back-end counts only when its vectors are the reference's: measured, kept, refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import admissions
from clipsearch.admissions import admission_file, keep_admission, read_admission, software
from clipsearch.backend_memory import fastest_backend, remember_fastest
from clipsearch.backends import (
    BACKENDS,
    BARS,
    CLOSE,
    STRICT,
    Admission,
    admission_of,
    backend_of,
    check_backend_name,
    why_not,
)
from clipsearch.encoder import Encoder, Float32, ImageGeometry, UInt8, load_encoder
from clipsearch.errors import OptionError
from clipsearch.image_index import open_index
from clipsearch.images import read_image
from clipsearch.manifest import read_manifest
from clipsearch.onnx_files import towers_folder
from clipsearch.store import LocalStore
from indexer import build_index
from indexer import choose_backend as choosing
from indexer.admission import FEWEST_IMAGES, admit, compare, enough_pixels
from indexer.choose_backend import choose_backend
from indexer.commit import Committer
from indexer.config import IndexConfig
from indexer.fill_spaces import _common
from indexer.reencode import ANY_MACHINE_COSINE, SAME_MACHINE_COSINE, _least_cosine
from tests.conftest import Cli

GOOD = Admission(0.9999, 0.9995, 1.0, 64, {"torch": "2"}, "a processor")
TORCH = {"backend": "torch", "precision": "float32", "device": "cpu", "decode": "exact"}
BF16 = {**TORCH, "precision": "bfloat16", "admission": GOOD.to_dict()}


class Disturbed:
    """An encoder whose vectors are those of another one with noise in them."""

    def __init__(self, encoder: Encoder, noise: float, backend: str = "torch-bf16") -> None:
        self._encoder = encoder
        self._noise = noise
        self.space = encoder.space
        self.recipe = {**encoder.recipe, "precision": "bfloat16"}

    def encode_images(self, pixels: UInt8) -> Float32:
        rows = self._encoder.encode_images(pixels)
        chance = np.random.default_rng(len(pixels)).normal(0, self._noise, rows.shape)
        rows = rows + chance.astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return load_encoder("mini", device="cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(admissions, "_known", {})
    return tmp_path / "cache"


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's cache of the test's own: what is admitted there no other test's index uses. It
    has the towers that were exported so far."""
    before = towers_folder()
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    if before.is_dir() and before != towers_folder():
        shutil.copytree(before, towers_folder())


def nothing(geometry: ImageGeometry) -> UInt8:
    return np.empty((0, geometry.height, geometry.width, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, STRICT),
        ({"mean_cosine": 0.9994}, CLOSE),
        ({"min_cosine": 0.997}, CLOSE),
        ({"top1": 0.94}, CLOSE),
        ({"mean_cosine": 0.98}, None),
        ({"min_cosine": 0.96}, None),
        ({"top1": 0.8}, None),
        ({"images": 7}, None),
        ({"mean_cosine": float("nan")}, None),
    ],
)
def test_levels(changes: dict[str, Any], level: str | None) -> None:
    assert dataclasses.replace(GOOD, **changes).level == level


def test_bars_are_ordered() -> None:
    assert list(BARS) == [STRICT, CLOSE]
    strict, close = BARS.values()
    assert all(a > b for a, b in zip(*map(dataclasses.astuple, (strict, close)), strict=True))


def test_recipes_name_their_back_end() -> None:
    assert backend_of({"backend": "open_clip", "precision": "float32"}) == "torch"
    assert {
        backend_of(load_encoder("mini", device="cpu", backend=name).recipe)
        for name in ("torch", "torch-bf16", "torch-fp16")
    } == set(BACKENDS[:3])
    assert backend_of({"backend": "tflite", "precision": "int8"}) is None
    assert backend_of({}) is None
    with pytest.raises(OptionError, match="backend is one of auto, torch"):
        check_backend_name("tensorrt")


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (TORCH, None),
        ({"backend": "open_clip", "precision": "float32"}, None),
        (BF16, None),
        ({"imported": "npy", "precision": "float16"}, None),
        ({"backends": ["onnx", "torch"]}, None),
        ({"backends": ["onnx", "magic"]}, "no back-end is called 'magic'"),
        ({**TORCH, "precision": "int4"}, "no back-end computes"),
        ({**TORCH, "precision": "bfloat16"}, "was not compared"),
        ({**BF16, "admission": {"mean_cosine": "?"}}, "was not compared"),
        (
            {**BF16, "admission": {**GOOD.to_dict(), "min_cosine": 0.5}},
            r"too far from the reference: cosine 0.99990 .* \(lowest 0.50000\)",
        ),
    ],
)
def test_which_recipes_mix(recipe: dict[str, Any], reason: str | None) -> None:
    found = why_not(recipe)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(reason, found)


def test_an_admission_holds_for_what_it_was_measured_with(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(GOOD, versions=software(), processor=admissions.processor("cpu"))
    keep_admission("f" * 64, "onnx", "cpu", one, cache)
    monkeypatch.setattr(admissions, "_known", {})
    assert read_admission("f" * 64, "onnx", "cpu", cache) == one
    assert read_admission("f" * 64, "torch-bf16", "cpu", cache) is None
    assert read_admission("f" * 63 + "0", "onnx", "cpu", cache) is None  # same file, other space
    for other in (
        dataclasses.replace(one, versions={**one.versions, "torch": "1.0"}),
        dataclasses.replace(one, processor="another one"),
    ):
        keep_admission("f" * 64, "onnx", "cpu", other, cache)
        assert read_admission("f" * 64, "onnx", "cpu", cache) is None
    monkeypatch.setattr(admissions, "_known", {})
    admission_file("f" * 64, "onnx", "cpu", cache).write_text("[1]")
    assert read_admission("f" * 64, "onnx", "cpu", cache) is None
    assert admission_of({"admission": one.to_dict()}) == one


def test_pictures_that_are_everywhere_fill_a_small_sample(mini: Encoder, pictures: Path) -> None:
    geometry = mini.space.geometry
    assert len(enough_pixels(nothing, geometry)) >= FEWEST_IMAGES
    own = np.stack(
        [read_image(path, geometry, thumbnail_side=None).pixels for path in pictures.iterdir()]
    )
    many = np.concatenate([own, own])
    assert enough_pixels(lambda geometry: many, geometry) is many


def test_numbers_of_a_disturbed_encoder(mini: Encoder, cache: Path) -> None:
    pixels = enough_pixels(nothing, mini.space.geometry)
    same = compare(mini, mini, pixels, "cpu")
    assert (round(same.mean_cosine, 5), same.top1, same.images) == (1, 1, len(pixels))
    assert same.level == STRICT
    # Noise of this size a number makes a vector as long as itself: the cosine is 1 / sqrt(2).
    noise = 1 / np.sqrt(mini.space.dim)
    far = compare(Disturbed(mini, float(noise)), mini, pixels, "cpu")
    assert far.mean_cosine == pytest.approx(2**-0.5, abs=0.05)
    assert far.level is None
    asked = []
    disturbed = Disturbed(mini, 0.001)

    def reference() -> Encoder:
        asked.append(1)
        return mini

    first = admit(disturbed, "torch-bf16", reference, nothing, cache)  # type: ignore[arg-type]
    again = admit(disturbed, "torch-bf16", reference, nothing, cache)  # type: ignore[arg-type]
    assert again == first
    assert asked == [1]


def test_a_disturbed_back_end_is_refused_and_passed_over(
    mini: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(model: str, *, backend: str = "torch", **named: Any) -> Any:
        return mini if backend == "torch" else Disturbed(mini, 0.1)

    monkeypatch.setattr(choosing, "load_encoder", load)
    with pytest.raises(OptionError, match=r"torch-bf16 is refused for mini, too far .* cosine 0\."):
        choose_backend("torch-bf16", "mini", nothing, 10, device="cpu", cache_dir=cache)
    monkeypatch.setattr(choosing, "_has_matrix_units", lambda: True)
    monkeypatch.setattr(choosing, "_takes_longer", lambda reference, images: True)
    chosen = choose_backend("auto", "mini", nothing, 10**6, device="cpu", cache_dir=cache)
    assert (chosen.name, chosen.encoder, chosen.line) == ("torch", mini, "")


def test_auto_goes_on_with_what_a_run_that_was_cut_short_began_with(
    mini: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(begun_with: str) -> str:
        chosen = choose_backend(
            "auto", "mini", nothing, 10, device="cpu", cache_dir=cache, begun_with=begun_with
        )
        return chosen.name

    # However few images are left of it, and whatever is found to be faster meanwhile.
    monkeypatch.setattr(choosing, "_has_matrix_units", lambda: True)
    assert choose("torch-bf16") == "torch-bf16"
    remember_fastest("mini", "cpu", "torch-bf16", cache)
    assert choose("torch") == "torch"
    assert choose("onnx-int8") == "torch"  # "auto" cannot have begun with that


def test_auto(mini: Encoder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(images: int) -> tuple[str, str]:
        chosen = choose_backend("auto", "mini", nothing, images, device="cpu", cache_dir=cache)
        return chosen.name, chosen.line

    monkeypatch.setattr(choosing, "_has_matrix_units", lambda: False)
    assert choose(10**7) == ("torch", "")
    monkeypatch.setattr(choosing, "_has_matrix_units", lambda: True)
    assert choose(3) == ("torch", "")  # a comparison would take longer than it saves
    name, line = choose(10**7)
    assert name == "torch-bf16"
    assert line.startswith("Encoding with torch-bf16: cosine 0.999")
    assert choose(3) == ("torch", "")  # whatever else was encoded here
    remember_fastest("mini", "cpu", "torch-fp16", cache)
    assert fastest_backend("mini", None, cache) == "torch-fp16"
    assert choose(3)[0] == "torch-fp16"
    remember_fastest("mini", "cpu", "onnx-int8", cache)
    assert choose(10**7)[0] == "torch-bf16"  # int8 is for those who ask for it
    remember_fastest("mini", "cpu", "torch", cache)
    assert choose(10**7)[0] == "torch"  # faster than what would suit the processor
    remember_fastest("mini", "cuda:0 NVIDIA L4", "torch-bf16", cache)
    assert fastest_backend("mini", None, cache) == "torch-bf16"  # as the fastest device is taken
    assert fastest_backend("mini", "cuda", cache) == "torch-bf16"
    assert fastest_backend("mini", "cpu", cache) == "torch"
    with pytest.raises(ValueError, match="expected one of"):
        remember_fastest("mini", "cpu", "auto", cache)


def test_two_goes_of_a_shard() -> None:
    assert _common(BF16, BF16) == BF16
    mixed = _common(TORCH, BF16)
    assert mixed["backends"] == ["torch", "torch-bf16"]
    assert why_not(mixed) is None
    assert _common(mixed, TORCH)["backends"] == ["torch", "torch-bf16"]
    old = {**TORCH, "backend": "open_clip"}
    assert backend_of(_common(old, TORCH)) == "torch"


def test_how_alike_encoding_again_has_to_be() -> None:
    close = {**BF16, "admission": {**GOOD.to_dict(), "mean_cosine": 0.995}}
    assert _least_cosine(TORCH, {**TORCH, "backend": "open_clip"}) == SAME_MACHINE_COSINE
    assert _least_cosine(BF16, BF16) == SAME_MACHINE_COSINE
    assert _least_cosine(TORCH, BF16) == ANY_MACHINE_COSINE
    assert _least_cosine(TORCH, close) == pytest.approx(ANY_MACHINE_COSINE - 0.03)
    assert _least_cosine(TORCH, {"backends": ["torch", "onnx-int8"]}) == pytest.approx(0.96)


@pytest.mark.usefixtures("own_home")
def test_several_back_ends_in_one_index(flickr: Path, tmp_path: Path, cli_here: Cli) -> None:
    pytest.importorskip("onnxscript")
    photos, place = tmp_path / "photos", tmp_path / "photos.index"
    photos.mkdir()
    files = sorted((flickr).rglob("*.jpg"))
    arguments = ["--index", str(place), "--model", "mini", "--workers", "1"]
    for number, backend in enumerate(("torch", "torch-bf16", "onnx", "onnx-int8")):
        for path in files[number * 8 : number * 8 + 8]:
            (photos / path.name).write_bytes(path.read_bytes())
        done = cli_here("index", photos, *arguments, "--backend", backend)
        assert done.returncode == 0, done.stderr
        assert (f"Encoding with {backend}:".encode() in done.stderr) == (backend != "torch")
    manifest = read_manifest(LocalStore(place), str(place))
    (refs,) = manifest.embeddings.values()
    assert [backend_of(ref.recipe) for ref in refs] == ["torch", "torch-bf16", "onnx", "onnx-int8"]
    assert all(why_not(ref.recipe) is None for ref in refs)
    assert manifest.config["backend"] == "onnx-int8"
    assert open_index(place).status().backends == dict.fromkeys(
        ("torch", "torch-bf16", "onnx", "onnx-int8"), 8
    )
    told = cli_here("status", "--index", place).stdout
    assert b"encoded  by torch (8), torch-bf16 (8), onnx (8), onnx-int8 (8)" in told
    build_index(photos, tmp_path / "reference.index", encoder="mini")
    ours = open_index(place).search("two dogs playing", k=5)
    theirs = open_index(tmp_path / "reference.index").search("two dogs playing", k=5)
    assert [hit.path.name for hit in ours] == [hit.path.name for hit in theirs]
    done = cli_here("verify", "--index", place, "--sample", "32")
    assert done.returncode == 0, done.stderr


def test_a_shard_that_was_not_admitted_is_refused(mini_index: Path) -> None:
    manifest = read_manifest(LocalStore(mini_index), str(mini_index))
    ((space, (ref,)),) = manifest.embeddings.items()
    committer = Committer(mini_index, manifest)
    for recipe in ({**ref.recipe, "precision": "int4"}, {**ref.recipe, "precision": "bfloat16"}):
        foreign = dataclasses.replace(
            ref, name=ref.name.replace(".parquet", "-0000009.parquet"), recipe=recipe
        )
        with pytest.raises(OptionError, match=r"are refused: .*; encode the images again with"):
            committer.commit(embeddings={space: (ref, foreign)})
    assert read_manifest(LocalStore(mini_index), str(mini_index)) == manifest


@pytest.mark.usefixtures("own_home")
def test_the_command_refuses_by_name(
    pictures: Path, tmp_path: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch.torch_tower import TorchTower

    real = TorchTower.rows

    def disturbed(self: TorchTower, pixels: UInt8) -> Float32:
        return np.roll(real(self, pixels), 1, axis=1)

    monkeypatch.setattr(TorchTower, "rows", disturbed)
    place = tmp_path / "photos.index"
    done = cli_here("index", pictures, "--index", place, "--model", "mini",
                    "--backend", "torch-bf16")  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.decode().splitlines() if "refused" in line]
    assert "torch-bf16 is refused for mini, too far from the reference: cosine" in line
    assert line.endswith("use --backend torch or auto")
    done = cli_here("index", pictures, "--index", place, "--backend", "tensorrt")
    assert done.returncode == 2


def test_the_setting_is_checked_and_kept() -> None:
    config = IndexConfig(backend="onnx")
    assert IndexConfig.from_dict(copy.deepcopy(json.loads(json.dumps(config.to_dict())))) == config
    assert IndexConfig.from_dict({}).backend == "auto"
    with pytest.raises(OptionError, match="backend is one of"):
        IndexConfig(backend="tpu")
