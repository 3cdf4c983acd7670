"""Kills and a full disk while a discovery is saved: it is as before or as after, and whole."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch import open_index
from clipsearch.cluster_changes import Rename
from clipsearch.cluster_saving import save_discovery
from clipsearch.saved_clusters import edit_discovery
from indexer import build_index
from tests.discoveries import discovery_of_index

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the machinery forks")

_PROJECT = Path(__file__).resolve().parents[1]
_FULL = 3
_WRITES = ("write", "mkdir", "replace")


class Runs:
    """The program that hurts, and an index with a discovery for each thing to be done."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self.template = template
        self._numbers = itertools.count()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join([str(_PROJECT), os.environ.get("PYTHONPATH", "")])
        self._log = open(folder / "errors", "wb")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.cluster_fault_runs"],
            cwd=_PROJECT, env={**os.environ, "PYTHONPATH": path, **threads},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip

    def run(self, action: str, states: list[str], **fault: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        place = self.folder / f"{next(self._numbers)}.index"
        case = {"template": str(self.template), "place": str(place), "action": action,
                "states": states, "fault": fault}  # fmt: skip
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, (self.folder / "errors").read_text()[-2000:]
        outcome: dict[str, Any] = json.loads(line)
        return outcome

    def reference(self, action: str) -> tuple[list[str], list[tuple[str, str]]]:
        """What the discovery is before and after an action, and the calls that this takes."""
        before = self.run("none", [])["told"]
        trace = self.folder / f"trace-{next(self._numbers)}"
        after = self.run(action, [], trace=str(trace))
        assert after["hurt"] == 0
        calls = [json.loads(line)[:2] for line in trace.read_text().splitlines()]
        return [before, after["told"]], [(kind, path) for kind, path in calls if ".index/" in path]

    def errors(self) -> str:
        return (self.folder / "errors").read_text()[-3000:]

    def close(self) -> None:
        self._process.communicate(timeout=30)
        self._log.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """An index with a discovery that was edited, a label set that follows it, and two images
    that it does not know yet."""
    from indexer.demo import demo_pictures

    folder = tmp_path_factory.mktemp("faults")
    pictures = folder / "pictures"
    pictures.mkdir()
    for picture in demo_pictures():
        (pictures / picture.name).write_bytes(picture.read_bytes())
    template = folder / "template.index"
    build_index(pictures, template, encoder="mini")
    index = open_index(template)
    found = discovery_of_index(index.state(), ("hound", "cat", "tower", "sea"))
    save_discovery(template, index.state(), "pets", found, label_set="pets")
    edit_discovery(template, index.state(), "pets", [Rename("hound", "dog")])
    (template / "clusters").rename(folder / "aside")
    for number, picture in enumerate(sorted(pictures.glob("*.jpg"))[:2]):
        (pictures / f"new{number}.jpg").write_bytes(picture.read_bytes() + b"\0")
    build_index(pictures, template)
    (folder / "aside").rename(template / "clusters")
    started = Runs(folder, template)
    yield started
    started.close()


def hurt_all(
    runs: Runs, action: str, calls: list[tuple[str, str]], states: list[str], **fault: Any
) -> int:
    """Hurt the action at each of its calls that counts; how many runs really were."""
    only = fault.get("only", ())
    count = sum(not only or kind in only for kind, _ in calls)
    assert count > 3
    failures, hurt = [], 0
    for at in range(1, count + 1):
        outcome = runs.run(action, states, at=at, **fault)
        hurt += outcome["hurt"] != 0
        if outcome["check"] != 0 or outcome["hurt"] not in (0, -9, _FULL):
            failures.append(f"{action} {fault} {at} of {count}: {outcome}")
    assert failures == [], runs.errors()
    return hurt


@pytest.mark.slow
def test_an_edit_is_there_or_not(runs: Runs) -> None:
    """Killed before every file gets its name."""
    states, calls = runs.reference("edit")
    assert states[0].startswith("cat dog sea tower")
    assert states[1].startswith("pet sea tower")
    replaced = [Path(path).name for kind, path in calls if kind == "replace"]
    # The tables, then what names them; the label set's table, then what names that.
    assert [name.rpartition(".")[2] for name in replaced] == ["parquet"] * 3 + ["json", "parquet",
                                                                             "json"]  # fmt: skip
    assert_synced(calls)
    assert hurt_all(runs, "edit", calls, states, do="kill before", only=("replace",)) == 6


def assert_synced(calls: list[tuple[str, str]]) -> None:
    """Everything is on the disk before it gets its name, and its name right after."""
    synced: set[str] = set()
    names = 0
    for (kind, path), (_, after) in itertools.pairwise(calls):
        if kind == "fsync":
            synced.add(Path(path).name)
        if kind == "replace":
            names += 1
            assert Path(after).name in ("clusters", "labels"), "the folder is synced next"
    assert sum(name.startswith(".tmp-") for name in synced) == names == 6


@pytest.mark.slow
@pytest.mark.parametrize("action", ["edit", "undo", "new", "look", "save"])
@pytest.mark.parametrize(
    ("do", "only"),
    [("kill before", ()), ("kill half", ("write",)), ("kill after", ("replace", "unlink"))],
)
def test_killed_at_every_call(runs: Runs, action: str, do: str, only: tuple[str, ...]) -> None:
    states, calls = runs.reference(action)
    assert hurt_all(runs, action, calls, states, do=do, only=only) > 3


@pytest.mark.slow
@pytest.mark.parametrize("action", ["edit", "undo", "new", "look", "save"])
def test_a_full_disk_at_every_write(runs: Runs, action: str) -> None:
    states, calls = runs.reference(action)
    hurt_all(runs, action, calls, states, do="ENOSPC", only=_WRITES, lasting=True)
