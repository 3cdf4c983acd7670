"""Image towers that torch compiles: the same vectors, compiled once, or a run without."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import compiled_tower, load_encoder
from clipsearch.cli import run
from clipsearch.encoder import UInt8
from clipsearch.manifest import read_manifest
from clipsearch.open_clip_encoder import OpenClipEncoder, load_open_clip_encoder
from clipsearch.store import LocalStore


class Compiler:
    """A backend of torch.compile that computes the graph as it is. calls : graphs it was given."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        self.calls += 1
        return graph.forward  # type: ignore[no-any-return]


def refuse(graph: Any, inputs: list[Any]) -> Callable[..., Any]:
    raise RuntimeError("No working C++ compiler found\nin all of the path")


def mini() -> OpenClipEncoder:
    return load_open_clip_encoder("mini", device="cpu")


def pixels_of(encoder: OpenClipEncoder, count: int) -> UInt8:
    geometry = encoder.space.geometry
    shape = (count, geometry.height, geometry.width, 3)
    return np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)


def cosines(one: Any, other: Any) -> Any:
    return np.einsum("ij,ij->i", one, other)


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_batches_of_any_size_are_compiled_once(precision: str | None) -> None:
    encoder = mini() if precision is None else mini().in_precision(precision, "cpu")
    compiler = Compiler()
    compiled = encoder.compiled(8, compiler).with_threads(1)
    plain = encoder.with_threads(1)
    assert "compile" not in compiled.recipe
    for count in (3, 8, 8, 1, 5):
        pixels = pixels_of(encoder, count)
        rows = compiled.encode_images(pixels)
        assert rows.shape == (count, encoder.space.dim)
        assert cosines(rows, plain.encode_images(pixels)).min() >= 0.9999
    assert compiler.calls == 1
    assert compiled.recipe["compile"] is True
    assert compiled.compile_error is None
    assert encoder.compiled(8, compiler).encode_images(pixels_of(encoder, 2)).shape[0] == 2
    assert "compile" not in encoder.recipe
    # More than a batch goes through as it is.
    assert compiled.encode_images(pixels_of(encoder, 11)).shape[0] == 11
    assert compiler.calls == 1


def test_threads_wait_for_one_compilation() -> None:
    encoder, compiler = mini(), Compiler()
    compiled = encoder.compiled(4, compiler).with_threads(1)
    batches = [pixels_of(encoder, count) for count in (4, 2, 4, 3, 1, 4, 4, 4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(compiled.encode_images, batches))
    assert compiler.calls == 1
    for batch, rows in zip(batches, found, strict=True):
        assert cosines(rows, encoder.encode_images(batch)).min() >= 0.9999


def test_what_cannot_be_compiled_is_computed_as_it_is() -> None:
    encoder = mini()
    compiled = encoder.compiled(4, refuse)
    pixels = pixels_of(encoder, 3)
    for _ in range(2):
        assert (compiled.encode_images(pixels) == encoder.encode_images(pixels)).all()
    assert compiled.compile_error is not None
    assert "No working C++ compiler found" in compiled.compile_error
    assert "\n" not in compiled.compile_error
    assert "compile" not in compiled.recipe


@pytest.mark.parametrize("backend", [Compiler(), refuse])
def test_a_run_with_compile(
    pictures: Path,
    mini_index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    backend: Any,
) -> None:
    made = compiled_tower.CompiledTower.__init__

    def with_backend(self: Any, rows: Any, features: Any, size: int, _: Any) -> None:
        made(self, rows, features, size, backend)

    monkeypatch.setattr(compiled_tower.CompiledTower, "__init__", with_backend)
    monkeypatch.setattr(mini(), "_all_compiled", {})
    place = tmp_path / "compiled.index"
    arguments = ["index", str(pictures), "--index", str(place), "--model", "mini", "--compile"]
    run([*arguments, "--backend", "torch", "--device", "cpu"])
    told = capfd.readouterr().err
    assert told.count("Compiling the image tower") == 1
    is_refused = backend is refuse
    assert told.count("Going on without --compile: ") == is_refused
    assert "Traceback" not in told
    manifest = read_manifest(LocalStore(place), str(place))
    assert "compile" not in str(manifest.config)
    (refs,) = manifest.embeddings.values()
    assert [ref.recipe.get("compile") for ref in refs] == [None if is_refused else True]
    if not is_refused:
        assert backend.calls == 1
    tables = []
    for index in (place, mini_index):
        (shard,) = (index / "embeddings").rglob("*.parquet")
        rows = pq.read_table(shard).column("embedding")
        tables.append(np.array([np.frombuffer(row.as_py(), "<f2") for row in rows], np.float64))
    assert cosines(*tables).min() >= 0.999


def test_onnx_refuses_it(pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["index", str(pictures), "--index", str(tmp_path / "x.index"), "--model", "mini"]
    assert run([*arguments, "--compile", "--backend", "onnx"]) == 2
    told = capfd.readouterr().err
    assert "--compile is for the torch back-ends" in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "x.index").exists()


_PROGRAM = """
import sys
import numpy as np
from clipsearch import load_encoder
encoder = load_encoder("mini", device="cpu")
size = encoder.space.geometry.height
pixels = np.zeros((3, size, size, 3), np.uint8)
encoder.encode_images(pixels)
print("torch._dynamo" in sys.modules)
compiled = encoder.compiled(4, "eager")
compiled.encode_images(pixels)
print("torch._dynamo" in sys.modules, compiled.recipe["compile"])
"""


@pytest.mark.slow  # a process with torch and its compiler
def test_the_compiler_is_there_when_it_is_wanted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["False", "True True"]


@pytest.mark.slow  # the C++ compiler takes up to minutes
@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)
def test_vectors_of_compiled_code() -> None:
    encoder = mini()
    for size in (4, 6):
        compiled = encoder.compiled(size).with_threads(1)
        for count in (size, size - 1, 1):
            pixels = pixels_of(encoder, count)
            rows = compiled.encode_images(pixels)
            assert cosines(rows, encoder.encode_images(pixels)).min() >= 0.9999
        if compiled.compile_error is not None:
            pytest.skip(f"torch compiles nothing here: {compiled.compile_error}")
        assert compiled.recipe["compile"] is True


def test_an_encoder_that_is_loaded_anew_is_compiled_already() -> None:
    compiler = Compiler()
    for _ in range(2):
        encoder = load_encoder("mini", device="cpu")
        assert isinstance(encoder, OpenClipEncoder)
        encoder.compiled(2, compiler).encode_images(pixels_of(encoder, 2))
    assert compiler.calls == 1
