"""classify --runner ray: a real cluster on this machine gives the answer of one process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import open_index, ray_labelling
from clipsearch.classify import classify
from clipsearch.errors import IndexNotFoundError, OptionError, RayClusterError
from clipsearch.image_index import ImageIndex
from clipsearch.label_parts import Part
from clipsearch.label_sets import read_label_rows
from clipsearch.records import Classification
from clipsearch.spread_scoring import Carry, Spread
from clipsearch.vectors import BLOCK_ROWS
from tests.conftest import Cli
from tests.grown_index import forget, grow, make_matrix

pytest.importorskip("ray")

from clipsearch.ray_choice import RayChoice
from clipsearch.ray_cluster import connected
from clipsearch.ray_labelling import spread_over_ray

LABELS = ("a dog", "a cat", "a bicycle", "a mountain", "food", "a city", "people")
TYPED = ("classify", "--labels", ",".join(LABELS))
TWO = RayChoice(actors=2, cpus=1.0)
RAY = ("--runner", "ray", "--ray-actors", "2", "--ray-cpus", "1")


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """What connects in this process meanwhile is given this cluster."""
    with connected(cpus=2):
        yield


@pytest.fixture(scope="module")
def _grown(_built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = Path(shutil.copytree(_built, tmp_path_factory.mktemp("grown") / "grown.index"))
    grow(place, 60_000)
    make_matrix(place)
    grow(place, 3_000, seed=1)
    forget(place, open_index(place).state().vectors.ids[100:400])
    return place


@pytest.fixture
def index(_grown: Path, tmp_path: Path) -> Path:
    """Of some 63,000 images, which make five parts."""
    return Path(shutil.copytree(_grown, tmp_path / "grown.index"))


def label(opened: ImageIndex, spread: Spread | None = None, top: int = 1) -> Classification:
    state, texts = opened.state(), opened.text_vectors()
    return classify(state, texts, LABELS, top=top, none="auto", spread=spread).columns()


def same(one: Classification, other: Classification) -> None:
    for name in ("ids", "labels", "scores", "probabilities", "margins", "runners_up", "in_set"):
        mine, theirs = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    assert one.threshold == other.threshold


@dataclass(frozen=True)
class Killed:
    """Work whose process is killed when it is given the part that begins at row ``first``, so
    many ``times``; ``folder`` keeps count, a file each, named by the process."""

    work: Callable[[Part], Any]
    folder: Path
    first: int
    times: int

    def __call__(self, part: Part) -> Any:
        if part.first == self.first and len(list(self.folder.iterdir())) < self.times:
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work(part)


@contextlib.contextmanager
def killed(patch: pytest.MonkeyPatch, folder: Path, first: int, times: int) -> Iterator[None]:
    """Let whatever carries parts out on Ray have that happen to it."""
    folder.mkdir()
    carried_by = ray_labelling.carried_by

    def carried_with_kills(*arguments: object) -> Carry:
        carry = carried_by(*arguments)  # type: ignore[arg-type]

        def carry_out(work: Callable[[Part], Any], parts: Iterable[Part], /) -> Iterator[Any]:
            return carry(Killed(work, folder, first, times), parts)

        return carry_out

    with patch.context() as inner:
        inner.setattr(ray_labelling, "carried_by", carried_with_kills)
        yield


class TestTheAnswer:
    def test_row_for_row(self, index: Path) -> None:
        opened = open_index(index)
        heard: list[tuple[int, int]] = []
        with spread_over_ray(
            TWO, rows_a_part=BLOCK_ROWS, on_progress=lambda *told: heard.append(told)
        ) as spread:
            found = label(opened, spread, top=3)
        same(found, label(opened, top=3))
        assert len(found) == 9 + 60_000 + 3_000 - 300
        assert len(heard) == 5
        assert heard[-1] == (len(found), len(found))

    def test_counts_alone(self, index: Path) -> None:
        opened = open_index(index)
        state, texts = opened.state(), opened.text_vectors()
        whole = classify(state, texts, LABELS, none="auto")
        images = sum(len(block.ids) for block in whole)
        with spread_over_ray(TWO, rows=False) as spread:
            counted = classify(state, texts, LABELS, none="auto", spread=spread)
            assert list(counted) == []
        assert counted.summary() == whole.summary()
        assert (counted.images, counted.unlabelled) == (images, whole.unlabelled)

    def test_a_writer_adds_images_meanwhile(self, index: Path) -> None:
        """Every actor goes by the generation that was open when it began."""
        opened = open_index(index)
        whole = label(opened)

        def on_progress(done: int, images: int) -> None:
            if done <= BLOCK_ROWS:
                grow(index, 500, seed=3)
                make_matrix(index)

        with spread_over_ray(TWO, rows_a_part=BLOCK_ROWS, on_progress=on_progress) as spread:
            same(label(opened, spread), whole)
        assert len(open_index(index)) > len(opened)


class TestTrouble:
    def test_an_actor_that_is_killed(
        self, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = open_index(index)
        told: list[str] = []
        with (
            killed(monkeypatch, tmp_path / "killed", 2 * BLOCK_ROWS, times=2),
            spread_over_ray(TWO, rows_a_part=BLOCK_ROWS, tell=told.append) as spread,
        ):
            found = label(opened, spread)
        same(found, label(opened))
        assert len(list((tmp_path / "killed").iterdir())) == len(told) == 2
        assert all(" ended (" in line for line in told)

    def test_a_part_that_always_fails(
        self, index: Path, cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three tries; then there is no answer, and nothing half of one."""
        with killed(monkeypatch, tmp_path / "killed", 0, times=99):
            out = tmp_path / "labels.parquet"
            done = cli_here(*TYPED, "--index", index, *RAY, "--out", out, "--save-as", "things")
        assert done.returncode == 2
        error = done.stderr.decode().splitlines()[-1]
        assert error.startswith("Error: the vectors 0 to ")
        assert "could not be labelled in 3 tries, and nothing was written" in error
        assert len(list((tmp_path / "killed").iterdir())) == 3
        assert b"Traceback" not in done.stderr
        assert [path.name for path in tmp_path.iterdir() if "labels" in path.name] == []
        assert not list((index / "labels").glob("*"))

    def test_an_index_that_the_actors_do_not_see(self, index: Path, tmp_path: Path) -> None:
        with (
            spread_over_ray(TWO, place=str(tmp_path / "nowhere")) as spread,
            pytest.raises(IndexNotFoundError, match="every machine of the cluster has to see it"),
        ):
            label(open_index(index), spread)

    def test_labels_need_no_gpu(self) -> None:
        with (
            pytest.raises(OptionError, match="leave out --ray-gpus"),
            spread_over_ray(RayChoice(gpus=1.0)),
        ):
            pass

    def test_actors_that_do_not_fit(self) -> None:
        with (
            pytest.raises(RayClusterError, match="ask for less with --ray-cpus"),
            spread_over_ray(RayChoice(cpus=999.0)),
        ):
            pass


class TestTheCommand:
    def test_writes_prints_and_saves_the_same(
        self, index: Path, mini_index: Path, cli_here: Cli, tmp_path: Path
    ) -> None:
        for runner, name in (((), "here"), (RAY, "there")):
            out = tmp_path / f"{name}.parquet"
            done = cli_here(
                *TYPED, "--index", index, "--out", out, "--save-as", name, "--top", "2", *runner
            )
            assert done.returncode == 0, done.stderr
            assert f"Saved as {name}: 62,709 images." in done.stderr.decode()
        files = [(tmp_path / f"{name}.parquet").read_bytes() for name in ("here", "there")]
        assert files[0] == files[1]
        saved = [read_label_rows(index, name)[1] for name in ("here", "there")]
        np.testing.assert_array_equal(saved[0].labels, saved[1].labels)
        np.testing.assert_array_equal(saved[0].second, saved[1].second)
        printed = [
            cli_here(*TYPED, "--index", mini_index, "--none", "off", *runner)
            for runner in ((), RAY)
        ]
        assert printed[0].returncode == printed[1].returncode == 0
        assert printed[0].stdout == printed[1].stdout
        assert printed[1].stdout.count(b"\n") == 9

    def test_tags_the_same(self, mini_index: Path, cli_here: Cli, tmp_path: Path) -> None:
        typed = ("tag", "--labels", ",".join(LABELS), "--index", mini_index)
        for runner, name in (((), "here"), (RAY, "there")):
            out = tmp_path / f"{name}.parquet"
            done = cli_here(*typed, "--out", out, "--save-as", name, *runner)
            assert done.returncode == 0, done.stderr
        files = [(tmp_path / f"{name}.parquet").read_bytes() for name in ("here", "there")]
        assert files[0] == files[1]
        again = ("tag", "--labels", "@there", "--index", mini_index)
        done = cli_here(*again, *RAY)
        assert done.returncode == 2
        assert b"leave out --runner ray, or add --refit" in done.stderr

    def test_a_saved_set_is_scored_anew_and_is_the_same(
        self, mini_index: Path, cli_here: Cli
    ) -> None:
        assert cli_here(*TYPED, "--index", mini_index, "--save-as", "things").returncode == 0
        again = ("classify", "--labels", "@things", "--index", mini_index, "--add", "a tree")
        here, there = cli_here(*again), cli_here(*again, *RAY)
        assert here.returncode == there.returncode == 0
        assert here.stdout == there.stdout
        assert b"Scored 9 images against 8 labels" in there.stderr

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (("--runner", "ray", "--fast"), "leave out --fast, --adapt, --fuse and --by-cluster"),
            (("--runner", "ray", "--by-cluster"), "labels every image by itself"),
            (("--runner", "ray", "--adapt"), "labels every image by itself"),
            (("--runner", "ray", "--ray-gpus", "1"), "leave out --ray-gpus"),
            (("--runner", "ray", "--address", "nowhere"), "expected the address of a Ray cluster"),
            (("--ray-actors", "2"), "--ray-actors is of a Ray cluster: say --runner ray, too"),
        ],
    )
    def test_what_goes_not_together(
        self, mini_index: Path, cli_here: Cli, options: tuple[str, ...], said: str
    ) -> None:
        done = cli_here(*TYPED, "--index", mini_index, *options)
        assert done.returncode == 2
        assert said in done.stderr.decode()
        assert b"Traceback" not in done.stderr

    def test_images_without_an_index(self, pictures: Path, cli_here: Cli) -> None:
        done = cli_here(*TYPED, pictures, "--runner", "ray")
        assert done.returncode == 2
        assert b"--runner" in done.stderr

    def test_nothing_of_it_is_imported_without(self, mini_index: Path) -> None:
        program = (
            "import sys; from clipsearch.cli import run; "
            f"code = run({[*TYPED, '--index', str(mini_index)]!r}); "
            "print(code, sorted(name for name in sys.modules if name.split('.')[-1][:3] == 'ray'"
            "), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stderr.splitlines()[-1] == (
            "0 ['clipsearch.cli.ray_labels', 'clipsearch.cli.ray_options']"
        )
