"""The project as a whole: what it installs, what an import loads, lint and types."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[1]
_OPEN_CLIP_HOMES = ("open_clip_encoder", "model_source", "model_names")
# The encoder and what it is made of; each is imported by the encoder, or for a device.
_TORCH_HOMES = (
    *("open_clip_encoder", "torch_tower", "torch_threads", "torch_start", "compiled_tower"),
    *("onnx_export", "device_pixels", "device_queue", "device_jpeg", "bfloat_scoring"),
)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=_PROJECT, capture_output=True, text=True, check=False
    )


def test_lint() -> None:
    done = _python("-m", "ruff", "check", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_format() -> None:
    done = _python("-m", "ruff", "format", "--check", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_types() -> None:
    done = _python("-m", "mypy")  # strict, by pyproject.toml
    assert done.returncode == 0, done.stdout + done.stderr


def test_wheel_holds_the_three_packages_and_the_model(tmp_path: Path) -> None:
    done = _python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"clipsearch", "indexer", "ui"}
    assert "clipsearch/models/mini/open_clip_model.safetensors" in names
    assert "clipsearch/models/mini/open_clip_config.json" in names
    pages = ("contact_sheet", "cluster_report", "map_page")
    templates = {f"{page}.{kind}" for page in pages for kind in ("html", "css")} | {"map_page.js"}
    assert {f"clipsearch/templates/{name}" for name in templates} <= set(names)
    assert wheel.stat().st_size < 25e6


@pytest.mark.parametrize("module", ["clipsearch", "clipsearch.cli", "indexer", "ui"])
def test_import_is_light(module: str) -> None:
    heavy = ("torch", "faiss", "gradio", "open_clip", "pyarrow", "PIL", "numpy", "obstore")
    program = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    assert _python("-c", program).stdout.strip() == "[]"


def test_imports_point_one_way() -> None:
    for source in (_PROJECT / "clipsearch").rglob("*.py"):
        for number, line in enumerate(source.read_text().splitlines(), 1):
            words = line.split()
            upward = words[:1] in (["from"], ["import"]) and words[1].split(".")[0] in (
                "indexer",
                "ui",
            )
            assert not upward, f"{source}:{number} imports upward: {line}"


@pytest.mark.parametrize(
    ("library", "owners"),
    [
        (
            "torch",
            {f"clipsearch/{name}.py" for name in _TORCH_HOMES}
            | {"indexer/image_tower.py", "indexer/device_decode.py"},
        ),
        # Its table of pretrained names is looked up where names are resolved, and only there.
        ("open_clip", {f"clipsearch/{name}.py" for name in _OPEN_CLIP_HOMES}),
        ("faiss", {"clipsearch/faiss_index.py", "clipsearch/faiss_scan.py"}),
        ("obstore", {"clipsearch/object_store.py"}),
        ("pymilvus", {"clipsearch/milvus_index.py"}),
        ("milvus_lite", set()),  # which pymilvus opens by itself
    ],
)
def test_heavy_libraries_have_one_home(library: str, owners: set[str]) -> None:
    users = {
        source.relative_to(_PROJECT).as_posix()
        for package in ("clipsearch", "indexer", "ui")
        for source in (_PROJECT / package).rglob("*.py")
        for line in source.read_text().splitlines()
        if line.split()[:2] in (["import", library], ["from", library])
        or line.strip().startswith((f"import {library}.", f"from {library}."))
    }
    assert users == owners
