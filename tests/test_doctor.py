"""doctor says what is wrong with a machine or an index, and never breaks on it itself."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from clipsearch.manifest import read_manifest, write_manifest
from clipsearch.store import LocalStore
from indexer import doctor
from indexer.doctor import OK, PROBLEM, WARNING, Check, check_machine
from indexer.doctor_index import check_index
from indexer.lock import HOLDER_NAME, writer_lock
from tests.conftest import Cli

_PROJECT = Path(__file__).resolve().parents[1]


def by_name(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.fixture(scope="module")
def machine() -> list[Check]:
    return check_machine()


# -- the machine --------------------------------------------------------------------------


def test_this_machine_will_do(machine: list[Check]) -> None:
    assert [check for check in machine if check.state == PROBLEM] == []
    assert by_name(machine, "torch").message[0].isdigit()
    assert "cpu" in by_name(machine, "device").message
    assert by_name(machine, "faiss").state == OK
    assert by_name(machine, "images").state == OK


def test_requirements_are_those_of_the_project() -> None:
    project = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]
    assert list(doctor.REQUIREMENTS) == project["dependencies"]


def test_every_problem_names_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_in_a_process", lambda program: 1 / 0)
    monkeypatch.setattr(doctor, "_NO_ROOM", 1e30)
    checks = check_machine(tmp_path)
    wrong = [check for check in checks if check.state != OK]
    assert {"device", "faiss", "images", "cache disk"} <= {check.name for check in wrong}
    assert all(check.cure for check in wrong)


@pytest.mark.parametrize(
    ("here", "requirement", "state"),
    [
        ("2.15.0+cu128", "torch>=2.15", OK),
        ("2.9.1", "torch>=2.15", PROBLEM),
        ("13.0.0", "pillow>=12,<13", PROBLEM),
        ("12.3", "pillow>=12,<13", OK),
        (None, "pillow>=12,<13", PROBLEM),
    ],
)
def test_versions(
    monkeypatch: pytest.MonkeyPatch, here: str | None, requirement: str, state: str
) -> None:
    def version(name: str) -> str:
        if here is None:
            raise doctor.PackageNotFoundError(name)
        return here

    monkeypatch.setattr(doctor, "version", version)
    (check,) = doctor.guarded("x", lambda: doctor._package(requirement))
    assert check.state == state
    assert (check.cure == f'pip install "{requirement}"') == (state == PROBLEM)


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (check,) = doctor.writable("cache", tmp_path / "file" / "cache", WARNING, "slower")
    assert check.state == WARNING
    assert "in its way" in check.message
    (check,) = doctor.writable("cache", tmp_path / "new" / "cache", WARNING, "slower")
    assert check.state == OK
    assert not (tmp_path / "new").exists()


def test_cpu_beside_an_nvidia_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(doctor, "_in_a_process", lambda program: ["cpu"])
    (check,) = doctor.guarded("device", doctor._device)
    assert check.state == WARNING
    monkeypatch.setattr(doctor, "_in_a_process", lambda program: ["cuda:0", "cpu"])
    (check,) = doctor.guarded("device", doctor._device)
    assert (check.state, check.message) == (OK, "cuda:0, cpu")


@pytest.mark.slow
def test_broken_environment(cli: Cli, tmp_path: Path, mini_index: Path) -> None:
    """Libraries that fail to load in every way there is, and settings that are no settings."""
    broken = tmp_path / "broken"
    for name, body in (
        ("torch", "raise OSError('libcudart.so.13: cannot open shared object file')"),
        ("faiss", "import os; os.abort()"),
        ("pyarrow", "raise RuntimeError('this pyarrow\\nis broken')"),
        ("numpy", "raise ImportError('numpy is of another Python')"),
        ("huggingface_hub", "raise SystemExit(7)"),
        ("platformdirs", "raise ImportError('no platformdirs')"),
    ):
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text(body + "\n")
    (tmp_path / "settings.toml").write_text("k = [")
    done = cli(
        "doctor",
        "--json",
        "--index",
        mini_index,
        env={"PYTHONPATH": f"{broken}{os.pathsep}{_PROJECT}"},
    )
    assert done.returncode == 2, done.stderr
    assert b"Traceback" not in done.stderr
    *checks, summary = map(json.loads, done.stdout.splitlines())
    wrong = {check["name"]: check["message"] for check in checks if check["state"] == PROBLEM}
    assert {"device", "faiss", "images", "models"} <= wrong.keys()
    assert summary["problem"] == len([c for c in checks if c["state"] == PROBLEM])
    assert all("\n" not in check["message"] for check in checks)
    done = cli("doctor", "--json", env={"CLIPSEARCH_CONFIG": str(tmp_path / "settings.toml")})
    checks = [json.loads(line) for line in done.stdout.splitlines()]
    assert [check["name"] for check in checks if check.get("state") == PROBLEM] == ["settings"]
    assert done.returncode == 2


# -- the index ----------------------------------------------------------------------------


def test_sound_index(mini_index: Path) -> None:
    before = sorted(os.listdir(mini_index))
    checks = check_index(str(mini_index))
    assert {check.state for check in checks} == {OK}
    assert "generation" in by_name(checks, "index").message
    assert by_name(checks, "writer").message == "none"
    assert sorted(os.listdir(mini_index)) == before


def test_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (check,) = check_index(None)
    assert check.state == OK
    check = by_name(check_index(str(tmp_path / "absent.index")), "index")
    assert check.state == PROBLEM
    assert "clipsearch index" in check.cure
    for name in ("a.index", "b.index"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (check,) = check_index(None)
    assert check.state == PROBLEM
    assert "several" in check.message


def test_damaged_index(mini_index: Path) -> None:
    manifest = read_manifest(LocalStore(mini_index), "here")
    shard = mini_index / manifest.images[0].name
    shard.write_bytes(shard.read_bytes()[:-1])
    (mini_index / manifest.paths[0].name).unlink()
    wrong = [check for check in check_index(str(mini_index)) if check.state == PROBLEM]
    assert [check.name for check in wrong] == ["index files", "index files"]
    assert "verify --repair" in wrong[0].cure
    (mini_index / "manifest.json").write_text("{")
    (check,) = [check for check in check_index(str(mini_index)) if check.state == PROBLEM]
    assert "not JSON" in check.message
    assert "verify --repair" in check.cure


def test_model_and_folders_that_are_gone(mini_index: Path) -> None:
    store = LocalStore(mini_index)
    manifest = read_manifest(store, "here")
    for model, cure in (
        ("ViT-B-32-256/datacomp_s34b_b86k", "clipsearch model get"),
        (str(mini_index / "gone"), "--model"),
        ("nobody knows this", "model"),
    ):
        spaces = {
            key: dataclasses.replace(space, model=model) for key, space in manifest.spaces.items()
        }
        roots = tuple(
            dataclasses.replace(root, path=str(mini_index / "unplugged")) for root in manifest.roots
        )
        write_manifest(store, dataclasses.replace(manifest, spaces=spaces, roots=roots))
        checks = check_index(str(mini_index))
        check = by_name(checks, "index model")
        assert check.state == PROBLEM
        assert cure in check.cure
        assert by_name(checks, "folder").state == WARNING


def test_locks(mini_index: Path) -> None:
    with writer_lock(mini_index):
        check = by_name(check_index(str(mini_index)), "writer")
        assert check.state == OK
        assert f"process {os.getpid()}" in check.message
        holder = (mini_index / HOLDER_NAME).read_text()
        # The holder still holds it after we looked.
        assert "writing" in by_name(check_index(str(mini_index)), "writer").message
    assert by_name(check_index(str(mini_index)), "writer").message == "none"
    (mini_index / HOLDER_NAME).write_text(holder)  # as after kill -9
    check = by_name(check_index(str(mini_index)), "writer")
    assert check.state == OK
    assert "harmless" in check.message
    with writer_lock(mini_index):
        pass


def test_read_only_index(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    check = by_name(check_index(str(mini_index)), "index folder")
    assert check.state == WARNING
    assert "not added to" in check.message


def test_checks_that_raise_are_findings(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(place: Path) -> None:
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr("indexer.lock.look_at_lock", fail)
    check = by_name(check_index(str(mini_index)), "writer")
    assert check.state == PROBLEM
    assert "Permission denied" in check.message


# -- the command line ----------------------------------------------------------------------


@pytest.mark.slow
def test_command_line(cli: Cli, mini_index: Path) -> None:
    done = cli("doctor", "--index", mini_index)
    assert done.returncode == 0, done.stdout
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert {row[0] for row in rows} <= {OK, WARNING}
    assert {"python", "torch", "device", "index", "writer"} <= {row[1] for row in rows}
    assert sys.version.split()[0] in rows[0][2]
    assert b"0 problems" in done.stderr
    shutil.rmtree(mini_index)
    assert cli("doctor", "--index", mini_index).returncode == 2
