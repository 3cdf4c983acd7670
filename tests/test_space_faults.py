"""Kills and a full disk while a second model comes into an index, and while it takes over."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from clipsearch import open_index
from indexer import IndexConfig, build_index
from indexer.compact import compact
from indexer.verify import verify_index

from .fault_injection import Fault
from .fault_runs import Nursery, Run, make_pictures, manifest_of
from .test_model_spaces import model_of_mini, turn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the machinery forks")

_PICTURES = 80  # one shard of a few less, filled in two parts: 64 images and the rest
Answers = list[tuple[int, float]]


@dataclass
class Scene:
    """An index made with another model, to which mini comes: the runs have mini at hand."""

    nursery: Nursery
    folder: Path
    template: Path
    answers: Answers
    vectors: npt.NDArray[Any]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def copy(self, template: Path | None = None) -> Path:
        place = self.folder / f"{next(self._numbers)}.index"
        return Path(shutil.copytree(template or self.template, place))

    def run(self, place: Path, *words: str, **fault: Any) -> Run:
        hurt = Fault(str(place), **fault) if fault else None
        return self.nursery.run("model", *words, "--index", place, fault=hurt)

    def calls(self, place: Path, *words: str) -> list[tuple[str, str]]:
        """The calls to the index's files that a run makes which nothing disturbs."""
        trace = self.folder / f"trace-{next(self._numbers)}"
        assert self.run(place, *words, trace=str(trace)).code == 0
        calls = [json.loads(line)[:2] for line in trace.read_text().splitlines()]
        inside = f"{place}/"
        return [(kind, path[len(inside) :]) for kind, path in calls if path.startswith(inside)]


def answers(place: Path, space: str | None = None) -> Answers:
    hits = open_index(place, space=space).search("a wild animal", k=None)
    return sorted((hit.id, round(hit.score, 2)) for hit in hits)


def all_vectors(place: Path, space: str | None = None) -> tuple[list[int], npt.NDArray[Any]]:
    index = open_index(place, space=space)
    ids, rows = index.vectors_of(range(index.next_id))
    return ids.tolist(), rows


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("faults")
    turned = model_of_mini(folder / "turned", turn)
    make_pictures(folder / "pictures", _PICTURES)
    place = folder / "template.index"
    build_index(
        folder / "pictures", place, encoder=str(turned), config=IndexConfig(shard_seconds=1e-9)
    )
    compact(place)
    nursery = Nursery(folder)
    started = Scene(nursery, folder, place, answers(place), np.empty(0))
    whole = started.copy()
    assert started.run(whole, "add", "mini").code == 0
    ids, started.vectors = all_vectors(whole, "mini")
    assert ids == all_vectors(whole)[0]
    assert len(ids) > 66
    yield started
    nursery.close()


def assert_goes_on(scene: Scene, place: Path) -> None:
    """Nothing is lost, the old model answers as ever, and the same command finishes the work."""
    found = verify_index(place, sample=0)
    assert found.is_sound, found.findings
    assert answers(place) == scene.answers
    done = scene.run(place, "add", "mini")
    assert done.code == 0, done.stderr
    ids, vectors = all_vectors(place, "mini")
    assert ids == all_vectors(place)[0]
    np.testing.assert_allclose(vectors, scene.vectors, atol=2e-3)
    assert answers(place) == scene.answers
    # A kill between the manifest and its copy is told of until the next commit.
    assert {finding.kind for finding in verify_index(place, sample=0).findings} <= {"behind"}
    named = {ref.name for ref in manifest_of(place).files()}
    there = {path.relative_to(place).as_posix() for path in place.glob("embeddings/*/*")}
    assert there <= named
    shutil.rmtree(place)


@pytest.mark.slow
def test_killed_before_a_part_is_named(scene: Scene) -> None:
    place = scene.copy()
    hurt = scene.run(
        place, "add", "mini", do="kill before", at=3, only=("replace",), match=r"^manifest\.json$"
    )
    assert hurt.code == -9
    assert len(open_index(place, space="mini")) == 64  # the space, then its first part
    assert_goes_on(scene, place)


@pytest.mark.slow
@pytest.mark.parametrize("do", ["kill before", "kill half", "ENOSPC"])
def test_hurt_at_every_call(scene: Scene, do: str) -> None:
    only = {"kill before": (), "kill half": ("write",), "ENOSPC": ("write", "mkdir", "replace")}[do]
    probe = scene.copy()
    calls = scene.calls(probe, "add", "mini")
    shutil.rmtree(probe)
    count = sum(not only or kind in only for kind, _ in calls)
    assert count > 10
    hurt = 0
    for at in range(1, count + 1):
        place = scene.copy()
        run = scene.run(place, "add", "mini", do=do, at=at, only=only, lasting=do == "ENOSPC")
        assert run.code in (0, -9, 2), run.stderr
        assert "Traceback" not in run.stderr
        hurt += run.code != 0
        assert_goes_on(scene, place)
    assert hurt > 10


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_stopped_in_the_middle(scene: Scene, signal: str) -> None:
    place = scene.copy()
    run = scene.run(place, "add", "mini", do=signal, at=3, only=("replace",), match="^manifest")
    assert run.code == 130
    assert "go on with" in run.stderr
    assert_goes_on(scene, place)


@pytest.mark.slow
def test_killed_while_it_takes_over(scene: Scene) -> None:
    """Whenever it is killed, one of the models answers, every image, and it can be done again."""
    both = scene.copy()
    assert scene.run(both, "add", "mini").code == 0
    probe = scene.copy(both)
    calls = scene.calls(probe, "use", "mini", "--drop")
    assert answers(probe) == answers(both, "mini")
    for at in range(1, len(calls) + 1):
        place = scene.copy(both)
        assert scene.run(place, "use", "mini", "--drop", do="kill before", at=at).code in (0, -9)
        found = verify_index(place, sample=0)
        assert found.is_sound, found.findings
        assert answers(place) in (scene.answers, answers(both, "mini"))
        assert scene.run(place, "use", "mini", "--drop").code == 0
        assert answers(place) == answers(both, "mini")
        assert list(manifest_of(place).spaces) == list(manifest_of(probe).spaces)
        assert {finding.kind for finding in verify_index(place, sample=0).findings} <= {
            "behind",
            "leftover",
        }
        shutil.rmtree(place)
