"""What the figures of large collections rest on is counted rightly."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from clipsearch import open_index
from clipsearch.manifest import read_manifest
from clipsearch.store import LocalStore

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def driver_cost() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        yield importlib.import_module("driver_cost")


@pytest.fixture
def index_bytes() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        yield importlib.import_module("index_bytes")


def test_every_byte_of_an_index_is_counted(index_bytes: ModuleType, mini_index: Path) -> None:
    found = index_bytes.measure(mini_index)
    manifest = read_manifest(LocalStore(mini_index), str(mini_index))
    assert found.images == len(open_index(mini_index)) == sum(ref.rows for ref in manifest.images)
    assert found.places > found.images  # some of the pictures are there twice
    counted = sum(found.parts.values())
    there = sum(
        file.stat().st_size
        for file in mini_index.rglob("*")
        if file.is_file() and not file.name.startswith("writer.")
    )
    assert counted == there
    vectors = found.of_an_image("embeddings (256 numbers)")
    assert 2 * 256 + 8 <= vectors <= 2 * 256 + 8 + 1000 / found.images
    assert f"{found.images:,}" in index_bytes.table([found])


def test_a_commit_is_one_of_an_index_so_large(driver_cost: ModuleType, tmp_path: Path) -> None:
    seconds, size = driver_cost.commit_cost(tmp_path, 60, repeats=2)
    assert seconds > 0
    manifest = read_manifest(LocalStore(tmp_path), str(tmp_path))
    assert len(manifest.images) == 62
    assert manifest.generation == 62
    assert size == (tmp_path / "manifest.json").stat().st_size
    more = tmp_path / "more"
    _, larger = driver_cost.commit_cost(more, 160, repeats=2)
    assert (larger - size) / 100 == pytest.approx(495, rel=0.1)  # as docs/operators.md has it


def test_a_merge_is_one_of_so_many_rows(driver_cost: ModuleType, tmp_path: Path) -> None:
    manifest = driver_cost.scattered_paths(tmp_path, 5000)
    assert sum(ref.rows for ref in manifest.paths) == 5000
    seconds, _ = driver_cost.merge_cost(tmp_path, manifest)
    assert seconds > 0
    (merged,) = read_manifest(LocalStore(tmp_path), str(tmp_path)).paths
    assert merged.rows == 5000


def test_the_line_through_what_was_measured(driver_cost: ModuleType) -> None:
    none, each = driver_cost.slope({100: 1.5, 200: 2.5, 400: 4.5})
    assert none == pytest.approx(0.5)
    assert each == pytest.approx(0.01)
    assert driver_cost.slope({200: 1.0}) == (0.0, 0.005)


@pytest.mark.slow
def test_object_storage_is_measured_beside_a_disk(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    command = [sys.executable, str(_BENCHMARKS / "object_storage.py"), "--runs", "1"]
    done = subprocess.run(
        [*command, "--photos", "12", "--corpus", "500", "--latency", "5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    titles = ("indexing 12 photos", "searching them", "an update", "searching 500 x 512")
    places = [done.stdout.index(title) for title in titles]
    assert places == sorted(places)
    lines = re.findall(r"^  (\S.*?)\s+(\d+\.\d\d) \(", done.stdout, re.M)
    assert len(lines) == 4 + 3 + 2 + 3
    assert all(float(seconds) > 0 for _, seconds in lines)
