"""The simulation of large collections counts as it says it does."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def model() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        yield importlib.import_module("scale_model")


@pytest.fixture(scope="module")
def calm(model: ModuleType) -> Any:
    """Actors of which none is slow and none dies, all of a speed."""
    return model.Cluster(1, 100.0, spread=0.0, slow_share=0.0, mtbf_hours=0.0)


@pytest.fixture(scope="module")
def quick(model: ModuleType) -> Any:
    """A driver of which every commit takes a second, and nothing grows."""
    return model.Driver(0.0, 1.0, 0.0, merge_every=64, merge_seconds=0.0)


def test_one_actor_works_while_the_driver_commits(model: ModuleType, calm: Any, quick: Any) -> None:
    run = model.simulate(950, 100, calm, replace(quick, commit_seconds=0.25))
    # Ten shards, the last of half the length, of a second each; the last commit comes behind.
    assert run.shards == 10
    assert run.seconds == pytest.approx(9.5 + 0.25)
    assert run.busy == pytest.approx(9.5)
    assert run.committing == pytest.approx(2.5)
    assert run.lost == run.actor_deaths == run.driver_deaths == 0


def test_the_driver_is_the_limit_where_there_are_actors_enough(
    model: ModuleType, calm: Any, quick: Any
) -> None:
    run = model.simulate(10_000, 100, replace(calm, actors=50), quick)
    assert run.seconds == pytest.approx(1 + 100)  # the first shard, and a hundred commits
    assert run.busy == pytest.approx(100)


def test_what_grows_with_the_index_is_counted(model: ModuleType, calm: Any) -> None:
    driver = model.Driver(0.002, 0.5, 0.01, merge_every=4, merge_seconds=0.001)
    run = model.simulate(1000, 100, replace(calm, actors=20), driver)
    assert run.planning == pytest.approx(2)
    growing = sum(0.01 * shards for shards in range(10))
    merges = 0.001 * (300 + 700)
    assert run.committing == pytest.approx(10 * 0.5 + growing + merges)
    assert run.seconds == pytest.approx(2 + 1 + run.committing)


def test_a_slow_actor_holds_the_others_up_only_so_far(
    model: ModuleType, calm: Any, quick: Any
) -> None:
    quick = replace(quick, commit_seconds=0.0)
    slow = replace(calm, actors=2, slow_share=0.5, slow_factor=10.0)
    # Together they do 1.1 shards a second; where little is handed out beyond what is committed,
    # the quick one waits for the slow one.
    free = model.simulate(5000, 100, replace(slow, ahead=0), quick)
    bound = model.simulate(5000, 100, replace(slow, ahead=2), quick)
    assert 50 / 1.1 <= free.seconds <= 50 / 1.1 + 20
    assert 1.5 * free.seconds < bound.seconds < 50 * 10


def test_failures_are_drawn_alike_for_one_seed(model: ModuleType, calm: Any, quick: Any) -> None:
    frail = replace(calm, actors=8, mtbf_hours=0.01, restart_seconds=5.0)  # 36 s
    one, same, other = (model.simulate(50_000, 500, frail, quick, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one.actor_deaths > 5
    assert one.lost >= 5 * one.actor_deaths
    # Every image is encoded once, by what was committed.
    assert one.busy == pytest.approx(500 - 5 * len(one.failed))


def test_a_shard_that_always_fails_is_given_up_and_the_others_go_on(
    model: ModuleType, calm: Any, quick: Any
) -> None:
    hopeless = replace(calm, actors=4, mtbf_hours=1e-6, restart_seconds=1.0, tries=3)
    run = model.simulate(2000, 100, hopeless, quick)
    assert sorted(run.failed) == list(range(20))
    assert run.actor_deaths == 3 * 20
    assert run.busy == 0


def test_a_driver_that_dies_goes_on_from_its_last_commit(
    model: ModuleType, calm: Any, quick: Any
) -> None:
    steady = model.simulate(100_000, 100, replace(calm, actors=4), quick)
    frail = replace(quick, mtbf_hours=0.05, restart_seconds=10.0)  # 180 s
    run = model.simulate(100_000, 100, replace(calm, actors=4), frail, seed=3)
    assert run.driver_deaths >= 3
    assert run.busy == pytest.approx(steady.busy)
    assert run.committing == pytest.approx(steady.committing)
    # What a death costs: the restart, and what was handed out beyond the last commit.
    each = 10 + 4 * 4 * 1.0 + 1
    assert run.seconds <= steady.seconds + run.driver_deaths * each
    assert run.lost <= run.driver_deaths * 4 * 4 * 1.0


def test_the_script_tells_its_assumptions_and_what_comes_of_them(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    command = [sys.executable, str(_BENCHMARKS / "scale_simulation.py"), "--images", "1e6", "3e6"]
    options = ["--an-index", "1e6", "--actors", "4", "--lanes", "3", "--price-actor-hour", "2"]
    done = subprocess.run(
        [*command, *options, "--json", str(out)], capture_output=True, text=True, check=True
    )
    assert "--price-actor-hour         2.0" in done.stdout
    one, three = json.loads(out.read_text())
    assert (one["indexes"], one["lanes"], one["actors"]) == (1, 1, 4)
    assert (three["indexes"], three["lanes"], three["actors"]) == (3, 3, 3)  # 4 are shared by 3
    assert three["ideal_hours"] == pytest.approx(3e6 / 1400 / 3 / 3600)
    assert three["hours"] > three["ideal_hours"]
    assert three["cost_actors"] == pytest.approx(3 * three["hours"] * 2)
    # 122.07 shards of 8,192 images an index; a manifest names them all.
    assert three["manifest"] == pytest.approx(123 * 495)
    assert three["manifest_written"] == pytest.approx(3 * 495 * 123 * 124)
    assert three["stored"] == pytest.approx(3e6 * (248 + 71 + 1032))
