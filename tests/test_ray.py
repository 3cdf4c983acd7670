"""Ray: tasks on two real actors of a cluster on this machine, and an index made by them."""

from __future__ import annotations

import dataclasses
import errno
import functools
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("ray")

from clipsearch import open_index, threads
from clipsearch.errors import MissingExtraError, OptionError, RayClusterError, SourceError
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.ray_actor import TaskReporter
from clipsearch.ray_choice import RayChoice
from clipsearch.ray_cluster import ActorSize, Machine, RayCluster, check_address, connected, ray
from clipsearch.ray_process import RAY_FOLDER, folder_for_sockets
from clipsearch.ray_tasks import RayTasks, TaskFailure
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.config import IndexConfig
from indexer.demo import demo_pictures
from indexer.encode_plan import EncodePlan
from indexer.model_spaces import add_model
from indexer.ray_parts import Driver, as_done_here, carry_out_part
from indexer.ray_runner import RayRunner
from indexer.report import BackendPreparing, BuildReport, Encoded, Event
from indexer.shard_task import ShardTask, embed_shard
from indexer.vector_task import VectorTask
from tests.conftest import Cli
from tests.ray_jobs import Job, breaks_second, dies_once, square
from tests.test_device_runner import is_gone, waits_for
from tests.test_model_spaces import model_of_mini, turn, vectors_of

_PROJECT = Path(__file__).resolve().parents[1]
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

# One image a call: then the numbers do not depend on which images meet in one.
CONFIG = IndexConfig(batch_size=1, shard_seconds=0.001, backend="torch")
TWO = RayChoice(actors=2, cpus=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with connected(cpus=2) as joined:
        yield joined


def run(
    cluster: RayCluster, jobs: Iterable[Job], **options: Any
) -> tuple[list[Any], int, list[str]]:
    done: list[int] = []
    lines: list[str] = []
    tasks = RayTasks(cluster, actors=2, progress=done.append, tell=lines.append, **options)
    return list(tasks.run(square, jobs)), sum(done), lines


def test_results_come_in_order_from_both_actors(cluster: RayCluster) -> None:
    jobs = [Job(number, "slow" if number < 2 else "") for number in range(12)]
    results, done, lines = run(cluster, jobs)
    assert [result[0] for result in results] == [number**2 for number in range(12)]
    assert len({result[1] for result in results}) == 2
    assert {result[2] for result in results} == {1}  # of however many processors
    assert done == 24
    assert lines == []
    assert run(cluster, []) == ([], 0, [])


def test_tasks_are_asked_for_a_bounded_number_ahead(cluster: RayCluster) -> None:
    asked: list[int] = []

    def jobs() -> Iterator[Job]:
        for number in range(40):
            asked.append(number)
            yield Job(number)

    results = RayTasks(cluster, actors=2).run(square, jobs())
    for taken, _ in enumerate(results):
        assert len(asked) <= taken + 9
        if taken == 6:
            break
    results.close()


def test_an_actor_that_dies_is_replaced_and_a_task_that_kills_them_is_listed(
    cluster: RayCluster, tmp_path: Path
) -> None:
    kinds = {1: "die once", 3: "die", 5: "odd"}
    jobs = [Job(number, kinds.get(number, ""), str(tmp_path / "died")) for number in range(8)]
    results, done, lines = run(cluster, jobs)
    failed = [result for result in results if isinstance(result, TaskFailure)]
    assert [failure.number for failure in failed] == [3, 5]
    assert [failure.task for failure in failed] == [jobs[3], jobs[5]]
    assert [failure.tries for failure in failed] == [3, 3]
    assert failed[0].reason == "the actor ended (its process was killed or crashed)"
    assert failed[1].reason.endswith("in position 0: odd")
    others = [result[0] for result in results if not isinstance(result, TaskFailure)]
    assert others == [0, 1, 4, 16, 36, 49]
    # What failed had begun, if that was heard; nothing is counted twice.
    assert done in (13, 14)
    assert len(lines) == 4


def test_an_error_that_no_other_try_would_cure_is_raised_in_its_turn(cluster: RayCluster) -> None:
    tasks = RayTasks(cluster, actors=2, fatal=(OptionError,))
    results = tasks.run(square, [Job(0, "slow"), Job(1, "fail"), Job(2)])
    first = next(results)
    assert not isinstance(first, TaskFailure)
    assert first[0] == 0
    with pytest.raises(OptionError, match=r"^no picture$"):
        next(results)


def test_nothing_but_failures_is_no_run(cluster: RayCluster) -> None:
    with pytest.raises(RayClusterError, match=r"4 parts failed 2 times each.*no picture"):
        run(cluster, [Job(number, "fail") for number in range(9)], tries=2)


@needs_proc
def test_closing_ends_the_actors_at_once(cluster: RayCluster, tmp_path: Path) -> None:
    place = tmp_path / "pid"
    results = RayTasks(cluster, actors=2).run(square, [Job(0), Job(1, "hang", str(place)), Job(2)])
    next(results)
    assert waits_for(lambda: place.exists() and bool(place.read_text()))
    results.close()
    assert waits_for(lambda: is_gone(int(place.read_text())))


def test_an_actor_that_fits_nowhere_is_told_of(cluster: RayCluster) -> None:
    with pytest.raises(RayClusterError, match=r"is to have 4096 CPUs, .* --ray-cpus"):
        RayTasks(cluster, size=ActorSize(4096))
    with pytest.raises(RayClusterError, match="1 CPU and 64 GPUs"):
        RayTasks(cluster, size=ActorSize(1, 64))
    assert cluster.room_for(ActorSize(0.5)) >= 4


@pytest.mark.parametrize(
    ("size", "fit"),
    [
        (ActorSize(1), 16),
        (ActorSize(6), 2),
        (ActorSize(1, 1), 4),
        (ActorSize(8, 1), 2),
        (ActorSize(1, 2), 2),
        (ActorSize(1, 0.5), 8),
        (ActorSize(1, 0.6), 4),
    ],
)
def test_how_many_actors_a_machine_has_room_for(size: ActorSize, fit: int) -> None:
    assert Machine(16, 4).room_for(size) == fit


def test_sizes_that_make_no_sense() -> None:
    for cpus, gpus in ((0, 0), (-1, 0), (float("nan"), 0), (1, -1), (1, 1.5)):
        with pytest.raises(OptionError, match="actor"):
            ActorSize(cpus, gpus)
    with pytest.raises(OptionError, match="1 actor or more"):
        RayChoice(actors=0)


def test_addresses_that_lead_nowhere() -> None:
    for address in ("ray://10.0.0.7:10001", "10.0.0.7", "host:port", "host:0"):
        with pytest.raises(OptionError, match="HOST:PORT"):
            check_address(address)
    with pytest.raises(RayClusterError, match=r"nothing answers at 127\.0\.0\.1:9 .*6379"):
        check_address("127.0.0.1:9")
    with pytest.raises(RayClusterError, match=r"nothing answers at head\.\.local:6379"):
        check_address("head..local:6379")


def test_without_the_extra_its_line_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str) -> None:
        raise ModuleNotFoundError(name)

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        with pytest.raises(MissingExtraError, match=r"clipsearch\[ray\]"):
            check_address(None)
    monkeypatch.setattr("importlib.util.find_spec", refused)
    with pytest.raises(MissingExtraError, match=r"clipsearch\[ray\]"):
        check_address(None)


@needs_proc
def test_a_cluster_of_its_own_listens_here_alone_and_wants_its_token(cluster: RayCluster) -> None:
    assert os.environ["RAY_AUTH_MODE"] == "token"
    address = ray().get_runtime_context().gcs_address
    assert address.startswith("127.0.0.1:")
    # Ray lets everybody write to its folder, sockets and all: not on a machine of many people.
    node = importlib.import_module("ray._private.worker")._global_node
    folder = Path(node.get_session_dir_path()).parents[1]
    assert folder.name.startswith("clipsearch-ray-")
    assert folder.stat().st_mode & 0o777 == 0o700
    program = (
        "import sys\nfrom clipsearch.ray_cluster import ActorSize, connected\n"
        "try:\n"
        "    with connected(sys.argv[1]) as joined:\n"
        "        print('joined', joined.room_for(ActorSize(1)) >= 2)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )

    def told(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, address],
            env={**os.environ, "PYTHONPATH": _path(), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout + done.stderr

    refused = told(RAY_AUTH_TOKEN="0" * 64)
    assert refused.startswith("RayClusterError")
    assert "wants another token" in refused
    assert len(refused.splitlines()) == 1
    here = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # on loopback alone
    assert told(**here) == "joined True\n"
    client = importlib.import_module("ray._raylet").GcsClient(address=address)
    key, namespace = b"CLUSTER_METADATA", b"cluster"
    metadata = client.internal_kv_get(key, namespace)
    try:
        other = json.dumps({**json.loads(metadata), "ray_version": "2.1.0"}).encode()
        client.internal_kv_put(key, other, True, namespace)
        mismatch = told(**here)
        assert "has Ray 2.1.0 and Python 3." in mismatch
        assert "install the same on all" in mismatch
        assert len(mismatch.splitlines()) == 1
    finally:
        client.internal_kv_put(key, metadata, True, namespace)


def _path() -> str:
    return os.pathsep.join([str(_PROJECT), os.environ.get("PYTHONPATH", "")])


# An index made by actors.


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 pictures cut from real ones, a copy, one that is cut off, and one that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = [Image.open(path).convert("RGB") for path in demo_pictures()]
    for number in range(70):
        picture = pictures[number % len(pictures)]
        width, height = picture.size
        left, top = number * width // 240, number * height // 300
        part = picture.crop((left, top, left + width // 2, top + height // 2))
        part.resize((240, 180)).save(folder / f"{number:03d}.jpg")
    (folder / "copy.jpg").write_bytes((folder / "005.jpg").read_bytes())
    (folder / "cut.jpg").write_bytes((folder / "006.jpg").read_bytes()[:900])
    (folder / "nothing.png").write_bytes(b"no picture at all")
    return folder


def tables(place: Path) -> tuple[Manifest, dict[str, pa.Table]]:
    """All rows of each kind of table, in order, without when that was."""
    manifest = read_manifest(LocalStore(place), str(place))
    assert manifest.default_space is not None
    refs = {
        "images": manifest.images,
        "embeddings": manifest.embeddings[manifest.default_space],
        "paths": manifest.paths,
        "skipped": () if manifest.skipped is None else (manifest.skipped,),
    }
    found = {}
    for kind, some in refs.items():
        if not some:
            continue
        table = pa.concat_tables([pq.read_table(place / ref.name) for ref in some])
        times = [name for name in table.schema.names if name.endswith("_seen") or name == "seen_at"]
        table = table.drop_columns(times).replace_schema_metadata(None)
        if kind in ("paths", "skipped"):
            table = table.sort_by([("root", "ascending"), ("path", "ascending")])
        found[kind] = table.combine_chunks()
    return manifest, found


def index_with_ray(
    photos: Path, place: Path, kind: type[RayRunner] = RayRunner
) -> tuple[BuildReport, list[Event]]:
    events: list[Event] = []
    with kind(TWO, events.append) as runner:
        report = build_index(
            photos, place, encoder="mini", config=CONFIG, runner=runner, on_event=events.append
        )
    return report, events


def test_the_index_is_that_of_a_local_run(
    cluster: RayCluster, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threads, "_share", 1)  # as the actors have
        local = build_index(photos, tmp_path / "local", encoder="mini", config=CONFIG)
    report, events = index_with_ray(photos, tmp_path / "ray")
    assert (report.found, report.indexed, report.new, report.copies) == (73, 70, 70, 1)
    assert report.skip_reasons == local.skip_reasons
    assert (report.skipped, report.failed, report.given_up) == (2, (), 0)
    one, by_local = tables(tmp_path / "local")
    other, by_ray = tables(tmp_path / "ray")
    for kind, table in by_local.items():
        assert table.equals(by_ray[kind]), kind
    assert (one.next_id, one.next_shard) == (other.next_id, other.next_shard) == (72, 3)
    assert [ref.rows for ref in one.images] == [ref.rows for ref in other.images]
    assert sum(event.count for event in events if isinstance(event, Encoded)) == 72
    lines = [event.line for event in events if isinstance(event, BackendPreparing)]
    assert lines == [f"Ray: up to 2 actors of 1 CPU on {told_of(cluster)}."]
    assert not list((tmp_path / "ray").glob(".tmp-*"))
    assert index_with_ray(photos, tmp_path / "ray")[0].new == 0


def told_of(cluster: RayCluster) -> str:
    """The cluster as a run in this process, which has joined it already, names it."""
    assert cluster.place == "this machine"
    return f"the Ray cluster at {ray().get_runtime_context().gcs_address}"


@pytest.mark.slow
def test_a_second_model_is_brought_in_by_actors(
    cluster: RayCluster, pictures: Path, tmp_path: Path
) -> None:
    other = str(model_of_mini(tmp_path / "turned", turn))
    place, beside = tmp_path / "two", tmp_path / "beside"
    build_index(pictures, place, encoder="mini", config=CONFIG)
    shutil.copytree(place, beside)
    local = add_model(beside, other)
    with RayRunner(TWO) as runner:
        by_ray = add_model(place, other, runner=runner)
    assert (by_ray.encoded, by_ray.lacking) == (local.encoded, local.lacking)
    assert by_ray.encoded >= 9
    ids, vectors = vectors_of(open_index(place, space=other))
    wanted, rows = vectors_of(open_index(beside, space=other))
    assert ids == wanted
    assert np.array_equal(vectors, rows)


class Breaking(RayRunner):
    """Its actors cannot do the second shard. One that dies of it takes as long to come back as
    all else here; tasks that kill actors are above."""

    def run(self, function: Callable[..., Any], tasks: Iterable[Any]) -> Iterator[Any]:
        return super().run(functools.partial(breaks_second, function), tasks)


@pytest.mark.slow
def test_a_shard_that_fails_for_good_is_listed_and_the_next_run_encodes_it(
    cluster: RayCluster, photos: Path, tmp_path: Path
) -> None:
    place = tmp_path / "broken"
    report, _ = index_with_ray(photos, place, Breaking)
    assert len(report.failed) == 1
    part = report.failed[0]
    assert (part.images, part.tries, part.rows, report.given_up) == (32, 3, (), 32)
    assert part.first.endswith("032.jpg")
    assert os.strerror(errno.EIO) in part.text
    assert "\n" not in part.text
    assert report.found == 73 == report.indexed + report.copies + report.skipped + report.given_up
    kept = {ref.name for ref in tables(place)[0].images}
    again, _ = index_with_ray(photos, place)
    assert (again.new, again.failed, again.given_up) == (32, (), 0)
    manifest, found = tables(place)
    assert kept < {ref.name for ref in manifest.images}
    assert len(found["images"]) == 70


@needs_proc
def test_a_killed_actor_costs_nothing_and_takes_its_decoders_along(
    cluster: RayCluster, photos: Path, tmp_path: Path
) -> None:
    place = tmp_path / "children"

    class Killing(RayRunner):
        def run(self, function: Callable[..., Any], tasks: Iterable[Any]) -> Iterator[Any]:
            return super().run(functools.partial(dies_once, str(place), function), tasks)

    report, events = index_with_ray(photos, tmp_path / "killed", Killing)
    assert (report.new, report.failed) == (70, ())
    assert any("ended" in e.line for e in events if isinstance(e, BackendPreparing))
    children = [int(pid) for pid in place.read_text().split()]
    assert children
    assert waits_for(lambda: all(map(is_gone, children)))
    assert sum(event.count for event in events if isinstance(event, Encoded)) == 72


def test_a_machine_without_the_folders_is_told_of(
    cluster: RayCluster, photos: Path, tmp_path: Path
) -> None:
    gone = str(tmp_path / "not there")
    tasks_seen: list[ShardTask] = []

    class Elsewhere(RayRunner):
        def run(self, function: Callable[..., Any], tasks: Iterable[Any]) -> Iterator[Any]:
            tasks_seen.extend(tasks)
            moved = [dataclasses.replace(t, roots=dict.fromkeys(t.roots, gone)) for t in tasks_seen]
            return super().run(function, moved)

    place = tmp_path / "elsewhere"
    with pytest.raises(SourceError, match=r"^on \S+: .*not there is not there: the photos must"):
        index_with_ray(photos, place, Elsewhere)
    driver = Driver(cores=1, device="cpu", mark="no such file")
    reporter = TaskReporter(lambda count: None, lambda: None)
    with pytest.raises(SourceError, match="elsewhere is not there: the index must be"):
        carry_out_part(embed_shard, driver, tasks_seen[0], reporter)


def test_the_plan_of_an_actor_goes_by_its_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = EncodePlan("torch", 12, 8, 1, 8)
    task = VectorTask("00000", (), {}, "mini", None, "", "", IndexConfig(), made)
    monkeypatch.setattr(threads, "_share", 1)
    here = as_done_here(task, Driver(cores=8, device="cpu"))
    plan = here.plan
    assert (plan.batch_size, plan.streams, plan.threads, plan.workers) == (12, 1, 1, 2)
    assert here.device == "cpu"
    assert as_done_here(task, Driver(cores=1, device="cpu")).plan == made


# The command line.


def clip(*words: str | Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """The real program, in a process group of its own, and without this one's cluster."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**ours, "PYTHONPATH": _path(), **env}
    return subprocess.Popen(
        [sys.executable, "-c", "from clipsearch.cli import main; main()", *map(str, words)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ray_processes(place: Path) -> list[int]:
    """Those of clusters whose sockets and logs are below ``place``, and their actors."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environment = (process / "environ").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            continue
        if f"TMPDIR={place}".encode() in environment and state != "Z":
            found.append(int(process.name))
    return found


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="no such sockets there")
def test_the_names_of_sockets_are_not_too_long(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the system keeps temporary files, and whatever the number of the process."""
    session = "session_2026-11-22_11-46-40_123456_4194304"
    for length in range(1, 40):
        monkeypatch.setattr(tempfile, "tempdir", str(short / ("x" * length)))
        Path(tempfile.gettempdir()).mkdir()
        folder = folder_for_sockets()
        name = folder / RAY_FOLDER / session / "sockets" / "plasma_store"
        folder.rmdir()
        assert len(str(name)) <= (103 if sys.platform == "darwin" else 107)


INDEX = ("--model", "mini", "--batch-size", "1", "--shard-seconds", "0.001", "--backend", "torch")
ON_TWO = ("--runner", "ray", "--ray-actors", "2", "--ray-cpus", "1")


def committed(stream: Any, least: int) -> None:
    """Read progress until so many images can be searched."""
    for line in stream:
        event = json.loads(line)
        if event["event"] == "committed" and event["images"] >= least:
            return
    raise AssertionError("it ended before")


@needs_proc
@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_and_the_next_run_goes_on(
    photos: Path, tmp_path: Path, short: Path
) -> None:
    place = tmp_path / "killed.index"
    words = ("index", photos, "--index", place, *INDEX, *ON_TWO)
    begun = clip(*words, "--progress", "json", env={"TMPDIR": str(short)})
    assert begun.stderr is not None
    committed(begun.stderr, 30)
    begun.kill()
    begun.wait()
    assert waits_for(lambda: not ray_processes(short), 90)
    manifest, found = tables(place)
    done = len(found["images"])
    assert 0 < done < 70
    ended = clip(*words, "--json", env={"TMPDIR": str(short)})
    out, err = ended.communicate(timeout=300)
    assert ended.returncode == 3, err  # two pictures are none
    report = json.loads(out)
    assert (report["new"], report["indexed"], report["failed"]) == (70 - done, 70, [])
    after, _ = tables(place)
    assert after.images[: len(manifest.images)] == manifest.images
    assert waits_for(lambda: not ray_processes(short), 90)
    assert list(short.iterdir()) != []  # what the killed one left is its folder, and that is all
    assert len(list(short.glob("clipsearch-ray-*"))) == 1


@needs_proc
@pytest.mark.slow
def test_ctrl_c_ends_all_and_says_how_to_go_on(photos: Path, tmp_path: Path, short: Path) -> None:
    place = tmp_path / "stopped.index"
    begun = clip(
        *("index", photos, "--index", place, *INDEX, *ON_TWO, "--progress", "json"),
        env={"TMPDIR": str(short)},
    )
    assert begun.stderr is not None
    committed(begun.stderr, 30)
    os.killpg(begun.pid, signal.SIGINT)
    out, err = begun.communicate(timeout=60)
    assert begun.returncode == 130
    told = err.decode().splitlines()
    assert told[-2].startswith("Interrupted. Every finished part is saved")
    assert " --runner ray --ray-actors 2 --ray-cpus 1 " in told[-1]
    assert "Traceback" not in err.decode()
    assert out == b""
    assert waits_for(lambda: not ray_processes(short), 90)
    assert not list(short.iterdir())


@needs_proc
@pytest.mark.slow
def test_a_shutdown_while_ray_starts_is_an_interrupt(
    photos: Path, tmp_path: Path, short: Path
) -> None:
    words = ("index", photos, "--index", tmp_path / "x.index", *INDEX, *ON_TWO)
    begun = clip(*words, env={"TMPDIR": str(short)})
    assert waits_for(lambda: any(short.glob(f"clipsearch-ray-*/{RAY_FOLDER}/session_2*")), 60)
    begun.terminate()
    _, err = begun.communicate(timeout=60)
    assert begun.returncode == 130, err
    assert b"Interrupted" in err
    assert b"Traceback" not in err
    assert waits_for(lambda: not ray_processes(short), 90)
    assert not list(short.iterdir())


@needs_proc
@pytest.mark.slow
def test_a_cluster_that_is_there_is_joined_with_its_token(
    photos: Path, tmp_path: Path, short: Path
) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "12" * 32, "TMPDIR": str(short)}
    environment = {**os.environ, **token, "PYTHONPATH": _path(), "RAY_USAGE_STATS_ENABLED": "0"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = (
        *("start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"),
        *("--disable-usage-stats", f"--temp-dir={short / 'ray'}", "--block"),
    )
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *start],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"{_own_address()}:{port}"
        assert waits_for(lambda: _answers(address), 60)
        words = ("index", photos, "--index", tmp_path / "a.index", *INDEX, "--runner", "ray")
        with_address = (*words, "--address", address)
        refused = clip(*with_address, env={**token, "RAY_AUTH_TOKEN": "34" * 32})
        _, err = refused.communicate(timeout=120)
        assert refused.returncode == 2
        assert err.decode().startswith(f"Error: the Ray cluster at {address} wants another token")
        assert len(err.decode().splitlines()) == 1
        done = clip(*with_address, "--json", env=token)
        out, err = done.communicate(timeout=300)
        assert done.returncode == 3, err
        assert json.loads(out)["new"] == 70
        assert f"Ray: up to 1 actor of 2 CPUs on the Ray cluster at {address}." in err.decode()
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
    assert waits_for(lambda: not ray_processes(short), 90)


def _own_address() -> str:
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def _answers(address: str) -> bool:
    try:
        check_address(address)
    except RayClusterError:
        return False
    return True


def test_what_the_command_line_says_of_options_that_do_not_fit(
    cli_here: Cli, photos: Path, tmp_path: Path
) -> None:
    words = ("index", photos, "--index", tmp_path / "x.index", "--model", "mini")
    for more, told in (
        (("--ray-actors", "2"), "--ray-actors is of a Ray cluster: say --runner ray, too"),
        (("--runner", "ray", "--watch"), "--watch stays on this machine"),
        (("--runner", "ray", "--device", "cuda:0,cuda:1"), "--ray-gpus 1, no --device"),
        (("--runner", "ray", "--address", "ray://a:1"), "expected the address of a Ray cluster"),
        (("--runner", "ray", "--address", "127.0.0.1:9"), "nothing answers at 127.0.0.1:9"),
        (("--runner", "ray", "--ray-gpus", "1.5"), "whole GPUs, or a fraction of one: got 1.5"),
    ):
        done = cli_here(*words, *more)
        assert done.returncode == 2
        assert told in done.stderr.decode()
        assert not (tmp_path / "x.index").exists()


def test_a_local_run_knows_nothing_of_ray(pictures: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nfrom clipsearch.cli import run\n"
        f"words = ['index', {str(pictures)!r}, '--index', {str(tmp_path / 'l.index')!r}]\n"
        "code = run([*words, '--model', 'mini'])\n"
        "ours = [n for n in sys.modules if n.startswith('clipsearch.ray_')]\n"
        "print(code, [n for n in ('ray', 'grpc', 'obstore', 'pymilvus') if n in sys.modules], ours)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": _path()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "0 [] []\n", done.stderr
