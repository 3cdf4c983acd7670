"""The README is true: every command in it runs, every figure in it is the code's."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipsearch.cli import ERROR, FOUND, INTERRUPTED, NOTHING_FOUND, PARTIAL
from clipsearch.presets import PRESETS

_PROJECT = Path(__file__).resolve().parents[1]
_README = (_PROJECT / "README.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", _README, re.S | re.M)


def _blocks(kind: str) -> list[str]:
    return [text for name, text in _BLOCKS if name == kind]


def test_the_first_two_commands_are_one_line_each() -> None:
    demo, tests = _blocks("sh")
    assert len(demo.strip().splitlines()) == len(tests.strip().splitlines()) == 1
    assert demo.strip().endswith("clipsearch demo")
    assert tests.strip().endswith("pytest -n auto")


@pytest.mark.skipif(sys.platform == "win32", reason="the README's pipes are of a POSIX shell")
def test_every_command_runs(pictures: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.move(pictures, home / "Pictures")
    shutil.copyfile(home / "Pictures" / "cheetah1.jpg", home / "Pictures" / "beach.jpg")
    for label in ("cheetah", "lion", "tower"):
        (home / "test" / label).mkdir(parents=True)
        for photo in (home / "Pictures").glob(f"{label}*.jpg"):
            shutil.copyfile(photo, home / "test" / label / photo.name)
    # `clipsearch` is the program of this checkout, whatever else is installed.
    program = home / "bin" / "clipsearch"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "
        '"from clipsearch.cli import main; main()" "$@"\n'
    )
    program.chmod(0o755)
    commands = [
        line.removeprefix("$ ").split("  #")[0].strip()
        for block in _blocks("console")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    assert len(commands) >= 10
    (definitions,) = _blocks("toml")
    (home / "animals.toml").write_text(definitions, encoding="utf-8")
    import os

    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(_PROJECT),
        "CLIPSEARCH_MODEL": "mini",  # what is fetched in the README cannot be fetched here
    }
    for command in commands:
        if command.startswith("clipsearch model get"):
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        if "index ~/Pictures" not in command:
            assert done.stdout.strip(), command
    assert (home / "labels.parquet").is_file()
    assert (home / "accuracy.html").is_file()


def test_the_python_runs(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pictures.rename(tmp_path / "photos")
    library, vectors = _blocks("python")
    names: dict[str, object] = {}
    exec(compile(library, "README.md", "exec"), names)
    exec(compile(vectors, "README.md", "exec"), names)
    matrix = names["v"]
    assert matrix.shape == (len(names["index"]), 256)  # type: ignore[attr-defined, arg-type]


def test_the_models_are_the_presets() -> None:
    rows = {
        cells[0].strip(" `"): [cell.strip() for cell in cells[1:]]
        for line in _README.partition("\n## Models\n")[2].partition("\n## ")[0].splitlines()
        if line.startswith("| `")
        for cells in [line.strip("|").split("|")]
    }
    assert list(rows) == [preset.name for preset in PRESETS]
    for preset in PRESETS:
        model, accuracy, speed, download, licence = rows[preset.name]
        if preset.hub_repo is not None:
            assert model.split(",")[0] == preset.model
        wanted = "-" if preset.imagenet_top1 is None else f"{preset.imagenet_top1} %"
        assert accuracy == wanted
        assert speed == f"{preset.cpu_images_per_second:g}"
        assert licence == preset.licence
        megabytes = {"none": 0.0}.get(download) if download == "none" else None
        if megabytes is None:
            number, unit = download.split()
            megabytes = float(number) * (1000 if unit == "GB" else 1)
        assert megabytes == pytest.approx(preset.download_mb, rel=0.04)


def test_the_exit_codes_are_the_programs() -> None:
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", _README, re.M)]
    assert codes == [FOUND, NOTHING_FOUND, ERROR, PARTIAL, INTERRUPTED]
