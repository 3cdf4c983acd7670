"""docs/operators.md is true: its commands and flags are the program's, its files are sound."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from clipsearch.cli import cli as program

_PROJECT = Path(__file__).resolve().parents[1]
_PAGE = _PROJECT / "docs" / "operators.md"
_CLUSTER = _PROJECT / "docs" / "cluster"
_JOB, _SLURM = _CLUSTER / "rayjob.yaml", _CLUSTER / "index.sbatch"
_IMAGE = _CLUSTER / "Dockerfile"


def _yaml(path: Path) -> Any:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _commands() -> list[str]:
    """Every command of clipsearch in the page and in the files beside it."""
    lines = [
        line.strip()
        for line in _PAGE.read_text().splitlines()
        if line.startswith("    clipsearch ")
    ]
    lines += re.findall(r"`(clipsearch [^`]*)`", _PAGE.read_text())
    slurm = _SLURM.read_text().replace("\\\n", " ")
    lines += re.findall(r"^\s*(?:srun.* --\s+)(clipsearch [^|]*)", slurm, re.M)
    lines += re.findall(r"RUN (clipsearch .*)", _IMAGE.read_text())
    entrypoint = re.search(r"bash -c '(.*)'", _yaml(_JOB)["spec"]["entrypoint"], re.S)
    assert entrypoint is not None
    return [*lines, entrypoint[1].partition("||")[0]]


def test_every_command_takes_its_flags() -> None:
    commands = _commands()
    assert sum("--runner ray" in command for command in commands) >= 3
    for text in commands:
        words = shlex.split(text)
        assert words.pop(0) == "clipsearch"
        command: click.Command = program
        context = click.Context(command)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            found = command.get_command(context, name)
            assert found is not None, f"{name} in {text}"
            command, context = found, click.Context(found, parent=context)
        known = {
            flag for option in command.params for flag in (*option.opts, *option.secondary_opts)
        }
        for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert flag in known, f"{flag} in {text}"


def test_flags_and_variables_told_in_the_text_are_there() -> None:
    page = _PAGE.read_text()
    for name in re.findall(r"`python benchmarks/(\w+\.py)", page):
        assert (_PROJECT / "benchmarks" / name).is_file(), name
    for target in re.findall(r"\]\(([^)#]+)", page):
        if "://" not in target:
            assert (_PAGE.parent / target).exists(), target


def test_the_page_has_the_figures_of_the_simulation() -> None:
    script = _PROJECT / "benchmarks" / "scale_simulation.py"
    done = subprocess.run(
        [sys.executable, script, "--sweep"], capture_output=True, text=True, check=True
    )
    page = _PAGE.read_text()
    rows = {
        line[:42].strip(): line[42:].split() for line in done.stdout.splitlines() if len(line) > 60
    }
    assert rows["shards"] == ["1,221", "122,080", "610,400"]
    assert "| shards | 1,221 | 122,080 | 610,400 |" in page
    for name, told in (
        ("hours", "| hours | 0.86 | 5.4 | 5.4 |"),
        ("hours, if nothing but encoding took any", "| hours, if only encoding took any |"),
        ("actors, price", "| actors, price |"),
        ("requests, price", "| requests, price |"),
        ("largest manifest, MB", "| largest manifest, MB |"),
    ):
        line = next(line for line in page.splitlines() if line.startswith(told))
        cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")[1:]]
        for cell, exact in zip(cells, rows[name], strict=True):
            assert float(cell) == pytest.approx(float(exact.replace(",", "")), rel=0.15), name
    for size in ("1 million", "12.5 million", "100 million"):
        (line,) = (x for x in done.stdout.splitlines() if x.startswith(f"an index of {size} "))
        values = line[32:].split()
        one, four, eight, sixteen, _, many = values
        assert f"| {size} | {one} | {four} | {eight} | {sixteen} | {many} |" in page


def test_the_ray_job_is_sound() -> None:
    job = _yaml(_JOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    pods = [group["template"]["spec"] for group in (head, workers)]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]
    # An actor fits into a worker, and every worker gets one.
    entrypoint = shlex.split(re.search(r"bash -c '(.*)'", job["spec"]["entrypoint"], re.S)[1])  # type: ignore[index]
    options = dict(itertools.pairwise(entrypoint))
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert float(options["--ray-gpus"]) == float(limits["nvidia.com/gpu"])
    assert float(limits["cpu"]) / 2 < float(options["--ray-cpus"]) <= float(limits["cpu"])
    # What forbids the network would forbid the bucket.
    assert "s3://" in job["spec"]["entrypoint"]
    assert not re.search(r"^ENV .*CLIPSEARCH_OFFLINE", _IMAGE.read_text(), re.M)
    # One version of Ray in all: of the image, of the cluster, of what is tested here.
    versions = re.findall(r"(?:rayproject/ray:|ray\[default\]==)([\d.]+)", _IMAGE.read_text())
    pinned = re.search(r"^ray==(.*)$", (_PROJECT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    assert {*versions, cluster["rayVersion"]} == {pinned[1]}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", _SLURM], check=True)
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", _SLURM.read_text(), re.M))
    assert directives["ntasks-per-node"] == "1"
    assert int(directives["nodes"]) > 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Slurm is not for Windows")
def test_the_slurm_script_indexes(pictures: Path, tmp_path: Path) -> None:
    """With a real Ray on this machine, and stand-ins for what starts it on the nodes of a job.
    ``ray symmetric-run`` is one of them: it ends with ``ray stop``, which would end the clusters
    of other tests as well."""
    pytest.importorskip("ray")
    bin_folder = tmp_path / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    python = shlex.quote(sys.executable)
    stand_ins = {
        "activate": "",
        "scontrol": "echo 127.0.0.1",
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "ray": (
            'printf "%s " "$RAY_AUTH_MODE" "$@"; while [ "$1" != -- ]; do shift; done; shift\n'
            'exec "${@:1:$#-2}"'  # without the address of the cluster that was not started
        ),
        "clipsearch": f'exec {python} -c "from clipsearch.cli import main; main()" "$@"',
    }
    for name, text in stand_ins.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_folder / name).chmod(0o755)
    token = tmp_path / "home" / "token"  # made by the script, and read by Ray
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    index = tmp_path / "slurm.index"
    env = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(_PROJECT),
        "VENV": str(bin_folder.parent),
        "PHOTOS": str(pictures),
        "INDEX": str(index),
        "MODEL": "mini",
        "RAY_PORT": "6380",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
    }
    done = subprocess.run(
        ["bash", _SLURM], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    # The broken photo is skipped, which is no reason for Slurm to call the job failed.
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stderr
    assert re.fullmatch(r"[0-9a-f]{64}\n", token.read_text())
    assert token.stat().st_mode & 0o777 == 0o600
    started = "token symmetric-run --address 127.0.0.1:6380 --min-nodes 1 --num-cpus=2 --num-gpus=0"
    assert done.stdout.startswith(f"{started} -- clipsearch index {pictures} --index {index} ")
    from clipsearch import open_index

    found = open_index(index)
    assert len(found) == len({path.read_bytes() for path in pictures.glob("*")}) - 1
    assert found.search("a tower", k=1)
