"""Starting runs that are to be hurt, the pictures they work on, and what an index holds."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from clipsearch import open_index
from clipsearch.errors import IndexNotFoundError
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.store import LocalStore
from tests.fault_injection import MARK, Fault, Job, as_line

PROJECT = Path(__file__).resolve().parents[1]
BEGAN = "to index ("
"""What a run says on standard error right before it encodes the first image."""

_START = "import sys; from tests.fault_injection import serve; serve(int(sys.argv[1]))"


@dataclass
class Run:
    """One process. ``code`` is its exit code, or minus the signal that ended it."""

    mark: str
    folder: Path
    pid: int = 0
    code: int | None = None

    @property
    def stderr(self) -> str:
        return _text(self.folder / f"{self.mark}.err")

    @property
    def stdout(self) -> str:
        return _text(self.folder / f"{self.mark}.out")

    @property
    def account(self) -> dict[str, Any]:
        """What ``--json`` printed."""
        document: dict[str, Any] = json.loads(self.stdout)
        return document

    @property
    def errors(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("Error")]

    def children(self) -> list[int]:
        """Processes that this run started, or that those started, and that are still there."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                if pid != self.pid and self._started(pid)]  # fmt: skip

    def _started(self, pid: int) -> bool:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        is_mine = int(stat[3]) == self.pid or f"{MARK}={self.mark}".encode() in environment
        return is_mine and stat[0] != "Z"


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


class Nursery:
    """Starts runs, several at a time if need be. Every one is a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self._runs: dict[str, Run] = {}
        self._news = threading.Condition()
        ours, theirs = socket.socketpair()
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        # One thread each: two runs at a time share the cores, and a fork copies no thread.
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._log = open(folder / "nursery.err", "wb")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _START, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": path, **one},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        theirs.close()
        self._connection = ours
        self._lines = ours.makefile("r")
        assert "ready" in json.loads(self._lines.readline() or "{}"), _text(folder / "nursery.err")
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self._lines:
            news = json.loads(line)
            with self._news:
                run = self._runs[news["mark"]]
                run.pid = news.get("pid", run.pid)
                run.code = news.get("status", run.code)
                self._news.notify_all()

    def start(
        self,
        *arguments: str | os.PathLike[str],
        fault: Fault | None = None,
        bound: bool = False,
        poll: tuple[str, str, str] | None = None,
    ) -> Run:
        """Start ``clipsearch ARGUMENTS``, and return at once."""
        with self._news:
            mark = f"run-{os.getpid()}-{next(self._numbers)}"
            run = self._runs[mark] = Run(mark, self.folder)
            job = Job(
                mark,
                tuple(map(os.fspath, arguments)),
                str(self.folder / f"{mark}.out"),
                str(self.folder / f"{mark}.err"),
                str(self.folder),
                fault,
                bound,
                poll,
            )
            self._connection.sendall(as_line(job))
            assert self._news.wait_for(lambda: run.pid, 30)
        return run

    def start_anew(self, *arguments: str | os.PathLike[str]) -> Run:
        """Start ``clipsearch ARGUMENTS`` as a person does, in a new interpreter."""
        mark = f"run-{os.getpid()}-{next(self._numbers)}"
        run = Run(mark, self.folder)
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        program = "from clipsearch.cli import main; main()"
        with (
            open(self.folder / f"{mark}.out", "wb") as out,
            open(self.folder / f"{mark}.err", "wb") as err,
        ):
            process = subprocess.Popen(
                [sys.executable, "-c", program, *map(os.fspath, arguments)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        run.pid = process.pid

        def listen() -> None:
            code = process.wait()
            with self._news:
                run.code = code
                self._news.notify_all()

        threading.Thread(target=listen, daemon=True).start()
        return run

    def wait(self, run: Run, timeout: float = 120) -> Run:
        """Wait until ``run`` has ended."""
        with self._news:
            assert self._news.wait_for(lambda: run.code is not None, timeout), (
                f"still running after {timeout} s: {run.stderr}"
            )
        return run

    def run(self, *arguments: str | os.PathLike[str], **options: Any) -> Run:
        """Start ``clipsearch ARGUMENTS`` and wait for its end."""
        return self.wait(self.start(*arguments, **options))

    def close(self) -> None:
        self._connection.shutdown(socket.SHUT_RDWR)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()
        self._log.close()


def until(condition: Callable[[], object], seconds: float = 30) -> bool:
    """Wait until ``condition`` holds; whether it did in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.003)
    return True


# -- pictures --------------------------------------------------------------------------------


def make_pictures(folder: Path, count: int, seed: int = 1) -> Path:
    """``count`` different small pictures cut out of real ones, and what else lies in a photo
    folder: copies, sidecars, damaged, empty and foreign files."""
    from indexer.demo import demo_pictures

    rng = random.Random(seed)
    real = []
    for path in demo_pictures():
        with Image.open(path) as opened:
            if min(opened.size) > 200:
                real.append(opened.convert("RGB"))
    for number in range(count):
        picture = real[number % len(real)]
        side = rng.randint(min(picture.size) // 4, min(picture.size) - 1)
        left = rng.randint(0, picture.width - side)
        top = rng.randint(0, picture.height - side)
        cut = picture.crop((left, top, left + side, top + side))
        cut = cut.resize((rng.randint(96, 160), rng.randint(96, 160)))
        if number % 3 == 1:
            cut = ImageOps.mirror(cut)
        if number % 5 == 2:
            cut = ImageOps.posterize(cut, rng.randint(3, 6))
        ending = {0: ".png", 1: ".webp"}.get(number % 25, ".jpg")
        place = folder / ("", "2023", "2024/summer", "2024/näher")[number % 4]
        place.mkdir(parents=True, exist_ok=True)
        cut.save(place / f"{number:04}{ending}", quality=rng.randint(80, 92))
    some = sorted(folder.rglob("*.jpg"))
    for number, path in enumerate(some[:: max(1, len(some) // 12)]):
        shutil.copyfile(path, folder / "2023" / f"copy of {number}.jpg")
    for number, path in enumerate(some[3 :: max(1, len(some) // 7)]):
        data = path.read_bytes()
        (path.parent / f"cut {number}.jpg").write_bytes(data[: len(data) // 2])
        path.with_suffix(".xmp").write_text("<x/>")
    (folder / "empty.jpg").touch()
    (folder / "2024" / "page.png").write_text("<html></html>")
    (folder / "2023" / "film.mov").write_bytes(bytes(99))
    return folder


# -- what an index holds ---------------------------------------------------------------------


@dataclass
class Content:
    """An index row by row, with times of day and the cut into shards left out."""

    paths: dict[tuple[str, bytes], tuple[int, int, int, str]]
    images: dict[int, dict[str, Any]]
    vectors: dict[int, np.ndarray]
    skipped: list[tuple[str, bytes, int, str]]
    tombstones: list[int]
    next_id: int


def manifest_of(place: Path) -> Manifest:
    return read_manifest(LocalStore(place), str(place))


def rows_of(place: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.ParquetFile(place / name).read().to_pylist()
    return rows


def content_of(place: Path) -> Content:
    """Read everything that the manifest names, and compare it with what the manifest says."""
    manifest = manifest_of(place)
    for ref in manifest.files():
        data = (place / ref.name).read_bytes()
        assert len(data) == ref.bytes, ref.name
        assert hashlib.sha256(data).hexdigest() == ref.sha256, ref.name
    roots = {root.id: root.path for root in manifest.roots}
    paths = {}
    for ref in manifest.paths:
        for row in rows_of(place, ref.name):
            key = (roots[row["root"]], row["path"])
            paths[key] = (row["size"], row["mtime_ns"], row["id"], row["state"])
    images: dict[int, dict[str, Any]] = {}
    for shard in manifest.images:
        for row in rows_of(place, shard.name):
            assert row["id"] not in images, f"id {row['id']} is in two shards"
            images[row["id"]] = row
    vectors: dict[int, np.ndarray] = {}
    for shards in manifest.embeddings.values():
        for shard in shards:
            for row in rows_of(place, shard.name):
                assert row["id"] not in vectors, f"id {row['id']} is in two shards"
                vectors[row["id"]] = np.frombuffer(row["embedding"], "<f2").astype(np.float32)
    skipped = rows_of(place, manifest.skipped.name) if manifest.skipped else []
    deleted = rows_of(place, manifest.deleted.name) if manifest.deleted else []
    return Content(
        paths={key: row for key, row in paths.items() if row[3] != "forgotten"},
        images=images,
        vectors=vectors,
        skipped=sorted(
            (roots[row["root"]], row["path"], row["size"], row["reason"]) for row in skipped
        ),
        tombstones=[row["id"] for row in deleted],
        next_id=manifest.next_id,
    )


def assert_same(found: Content, expected: Content) -> None:
    """Row by row: the same but for the last bit of a vector."""
    assert found.paths == expected.paths
    assert found.images == expected.images
    assert found.skipped == expected.skipped
    assert found.tombstones == expected.tombstones == []
    assert found.next_id == expected.next_id
    assert found.vectors.keys() == expected.vectors.keys() == expected.images.keys()
    for id_, vector in expected.vectors.items():
        other = found.vectors[id_]
        cosine = float(vector @ other) / float(np.linalg.norm(vector) * np.linalg.norm(other))
        assert cosine >= 0.99999, f"the vector of {id_} is another"


@dataclass
class Answers:
    """What an index answers: the score of every image by id."""

    scores: dict[int, float]
    labels: dict[int, tuple[str, float, float]]


def answers_of(place: Path, text_cache: Path) -> Answers:
    opened = open_index(place, text_cache=text_cache)
    hits = opened.search("a wild animal", k=5000)
    names = ["a lion", "a tower", "a drawing"]
    result = opened.classify(names, none="off")
    assert len(opened) == len(hits) == len(result)
    rows = zip(
        result.ids.tolist(), result.labels[:, 0].tolist(), result.scores[:, 0].tolist(),
        result.margins.tolist(), strict=True,
    )  # fmt: skip
    return Answers(
        {hit.id: hit.score for hit in hits},
        {id_: (names[label], score, margin) for id_, label, score, margin in rows},
    )


def assert_same_answers(found: Answers, expected: Answers) -> None:
    assert found.scores.keys() == expected.scores.keys()
    assert found.labels.keys() == expected.labels.keys()
    for id_, score in expected.scores.items():
        assert abs(found.scores[id_] - score) < 2e-3, id_
    for id_, (label, score, margin) in expected.labels.items():
        assert found.labels[id_][0] == label or margin < 4e-3, id_
        assert abs(found.labels[id_][1] - score) < 2e-3 or margin < 4e-3, id_


def assert_whole_or_absent(place: Path, text_cache: Path) -> int:
    """What a reader finds after a kill is a whole generation, or no index yet. How many images."""
    try:
        opened = open_index(place, text_cache=text_cache)
    except IndexNotFoundError:
        assert not (place / "manifest.json").exists()
        return 0
    content = content_of(place)
    assert len(opened) == len(content.images) == len(content.vectors)
    assert {row[2] for row in content.paths.values()} == set(content.images), "half a commit"
    assert len(opened.search("a tower", k=5000)) == len(content.images)
    assert len(opened.classify(["a lion", "a tower"], none="off")) == len(content.images)
    return len(content.images)


def assert_nothing_left(place: Path) -> None:
    """No half-written file and no shard that the manifest does not name."""
    manifest = manifest_of(place)
    files = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert [name for name in files if ".tmp-" in name] == []
    named = {ref.name for ref in manifest.files()}
    shards = {name for name in files if name.startswith(("images/", "embeddings/"))}
    assert shards == {name for name in named if name.startswith(("images/", "embeddings/"))}
    assert {name for name in files if name.startswith("cache/thumbnails/")} == {
        f"cache/thumbnails/{Path(shard.name).stem}.arrow" for shard in manifest.images
    }
    for suffix in (".f16", ".ids"):
        kept = [name for name in files if name.startswith("cache/vectors/") and suffix in name]
        assert len(kept) == 1, kept
