"""Image towers in ONNX Runtime: the reference's vectors, a cache nothing is trusted of."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import onnx_encoder
from clipsearch.backends import BACKENDS
from clipsearch.encoder import Encoder, UInt8, load_encoder
from clipsearch.errors import MissingExtraError, ModelLoadError, OptionError
from clipsearch.images import read_image
from clipsearch.onnx_encoder import OnnxEncoder, load_onnx_encoder
from clipsearch.onnx_files import NETWORK, find_tower, forget_onnx_towers, saved_onnx_towers
from tests.conftest import Cli

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ROOT = Path(__file__).resolve().parents[1]
LEAST = {"torch-bf16": 0.9995, "torch-fp16": 0.9999, "onnx": 0.99999, "onnx-int8": 0.999}
"""The lowest cosine to torch in float32 over real pictures, by back-end."""


@pytest.fixture(scope="module")
def pixels(_pictures: Path) -> UInt8:
    geometry = load_encoder("mini", device="cpu").space.geometry
    found = sorted(_pictures.iterdir())
    return np.stack([read_image(path, geometry, thumbnail_side=None).pixels for path in found])


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache of the test's own that holds mini's float32 tower."""
    load_onnx_encoder("mini")
    found = find_tower("mini", "float32")
    assert found is not None
    place = tmp_path / "cache"
    shutil.copytree(found.network.parent, place / "onnx_towers" / found.network.parent.name)
    return place


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
def test_every_back_end_gives_the_vectors_of_torch(backend: str, pixels: UInt8) -> None:
    reference = load_encoder("mini", device="cpu")
    encoder = load_encoder("mini", device="cpu", backend=backend)
    assert encoder.space == reference.space
    expected = reference.encode_images(pixels)
    rows = encoder.encode_images(pixels)
    assert (rows.dtype, rows.shape) == (np.float32, expected.shape)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (rows * expected).sum(axis=1).min() >= LEAST[backend]
    # Also one at a time, read-only, from threads, with one thread each.
    frozen = pixels.copy()
    frozen.flags.writeable = False
    one = encoder.with_threads(1)
    with ThreadPoolExecutor(3) as pool:
        alone = np.concatenate(list(pool.map(one.encode_images, np.split(frozen, len(frozen)))))
    assert (alone * rows).sum(axis=1).min() >= LEAST[backend]
    assert encoder.encode_images(pixels[:0]).shape == (0, reference.space.dim)
    with pytest.raises(ValueError, match="expected uint8 pixels"):
        encoder.encode_images(pixels[:, :-1])
    with pytest.raises(ValueError, match="at least one thread"):
        encoder.with_threads(0)
    texts = ["a lion", "ein Turm"]
    np.testing.assert_allclose(
        encoder.encode_texts(texts), reference.encode_texts(texts), atol=1e-4
    )


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("torch-bf16", ("torch", "bfloat16")),
        ("torch-fp16", ("torch", "float16")),
        ("onnx", ("onnxruntime", "float32")),
        ("onnx-int8", ("onnxruntime", "int8")),
    ],
)
def test_recipes_tell_them_apart(backend: str, expected: tuple[str, str]) -> None:
    recipe = load_encoder("mini", device="cpu", backend=backend).recipe
    assert (recipe["backend"], recipe["precision"]) == expected
    assert recipe["device"] == "cpu"
    assert all(recipe["versions"].values())


def test_a_tower_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(onnx_encoder, "export_tower", never)
    monkeypatch.setattr(onnx_encoder, "_loaded", {})
    assert isinstance(load_onnx_encoder("mini", cache_dir=cache), OnnxEncoder)
    (saved,) = saved_onnx_towers(cache)
    assert (saved.model, saved.precision) == ("mini", "float32")
    assert saved.bytes > 1_000_000
    assert forget_onnx_towers("mini", cache) == [saved]
    assert saved_onnx_towers(cache) == []


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "record", "stamp", "versions", "probe", "files"]
)
def test_a_damaged_tower_is_made_anew(
    damage: str, cache: Path, pixels: UInt8, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_tower("mini", "float32", cache)
    assert found is not None
    data = found.network.with_name(f"{NETWORK}.data")
    record = found.network.with_name("tower.json")
    known = json.loads(record.read_text())
    if damage == "cut":
        os.truncate(data, data.stat().st_size // 2)
    elif damage == "flipped":
        noise = np.random.default_rng(0).normal(0, 0.5, data.stat().st_size // 4)
        data.write_bytes(noise.astype(np.float32).tobytes().ljust(data.stat().st_size, b"\0"))
    elif damage == "record":
        record.write_text("{")
    elif damage == "stamp":
        known["files"][0][2] += 1
        record.write_text(json.dumps(known))
    elif damage in ("probe", "files"):
        record.write_text(json.dumps({**known, damage: known[damage][:0]}))
    else:
        known["made_with"]["torch"] = "1.0"
        record.write_text(json.dumps(known))
    exported = _copies_in_place_of_exports(monkeypatch)
    encoder = load_onnx_encoder("mini", cache_dir=cache)
    expected = load_encoder("mini", device="cpu").encode_images(pixels)
    assert (encoder.encode_images(pixels) * expected).sum(axis=1).min() >= 0.99999
    assert len(exported) == 1


def _copies_in_place_of_exports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let exports copy the network of the tower that there is; the places they were made at."""
    kept = load_onnx_encoder("mini").tower.network.parent
    exported: list[Path] = []

    def copy_kept(reference: Encoder, network: Path) -> None:
        exported.append(network)
        for name in (NETWORK, f"{NETWORK}.data"):
            shutil.copyfile(kept / name, network.with_name(name))

    monkeypatch.setattr(onnx_encoder, "export_tower", copy_kept)
    monkeypatch.setattr(onnx_encoder, "_loaded", {})
    return exported


def test_without_a_place_in_the_cache_a_tower_is_made_once_a_process(
    tmp_path: Path, pixels: UInt8, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = _copies_in_place_of_exports(monkeypatch)
    monkeypatch.setattr(onnx_encoder, "_unkept", {})
    (tmp_path / "onnx_towers").touch()  # so that nothing can be written below it
    encoder = load_onnx_encoder("mini", cache_dir=tmp_path)
    assert load_onnx_encoder("mini", cache_dir=tmp_path) is encoder
    assert len(exported) == 1
    expected = load_encoder("mini", device="cpu").encode_images(pixels)
    assert (encoder.encode_images(pixels) * expected).sum(axis=1).min() >= 0.99999


def test_no_place_at_all_for_a_tower_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _copies_in_place_of_exports(monkeypatch)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_encoder, "write_tower", full)
    with pytest.raises(ModelLoadError, match=r"finds no place.*No space left.*--backend torch$"):
        load_onnx_encoder("mini", cache_dir=tmp_path)


def test_without_the_extra_it_says_what_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(onnx_encoder, "_loaded", {})
    with pytest.raises(MissingExtraError, match=r"pip install 'clipsearch\[onnx\]'"):
        load_onnx_encoder("mini", cache_dir=cache)


def test_what_is_no_back_end_or_no_device_for_it() -> None:
    with pytest.raises(OptionError, match="expected one of torch, torch-bf16"):
        load_encoder("mini", backend="auto")
    with pytest.raises(OptionError, match="computes on the CPU"):
        load_encoder("mini", backend="onnx", device="cuda:7")


def test_index_does_without_torch(pictures: Path, tmp_path: Path, cli_here: Cli) -> None:
    place = tmp_path / "photos.index"
    done = cli_here(
        "index",
        pictures,
        "--model",
        "mini",
        "--index",
        place,
        "--backend",
        "onnx",
        "--workers",
        "1",
    )
    assert done.returncode == 0, done.stderr
    assert b"Encoding with onnx: cosine 1.00000 to the reference over" in done.stderr
    new = pictures / "again.png"
    from PIL import Image

    with Image.open(sorted(pictures.iterdir())[0]) as picture:
        picture.convert("RGB").rotate(90).save(new)
    program = (
        "import sys; from clipsearch.cli import run; code = run(sys.argv[1:]); "
        "print(code, 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    again = subprocess.run(
        [sys.executable, "-c", program, "index", "--index", str(place)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert again.stdout.split() == [b"0", b"False", b"True"], again.stderr
    assert b"Indexed 1 image" in again.stderr
