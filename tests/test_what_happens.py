"""The README's "What happens when...", sentence by sentence.

Every test's docstring is the bullet it shows, word for word.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch import Query, open_index
from clipsearch.errors import IndexLockedError
from clipsearch.manifest import read_manifest
from clipsearch.store import LocalStore
from indexer import IndexConfig, build_index
from indexer.compact import compact
from indexer.failures import read_failures
from indexer.lock import HOLDER_NAME, writer_lock
from indexer.move import move
from indexer.prune import prune
from indexer.report import BuildReport
from indexer.verify import verify_index

_PROJECT = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-c", "from clipsearch.cli import main; main()")
Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and file systems")


def scene(path: Path, seed: int) -> Path:
    """A picture of its own for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((90, 60), Image.Resampling.BICUBIC).save(path, quality=92)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for seed in range(12):
        scene(folder / ("a" if seed % 2 else "b") / f"{seed:02}.jpg", seed)
    return folder


@pytest.fixture
def place(tmp_path: Path, photos: Path) -> Path:
    index = tmp_path / "photos.index"
    assert build_index(photos, index, encoder="mini").new == 12
    return index


def found(place: Path) -> dict[Path, bool]:
    """Every path that a search finds, and whether it is said to be missing."""
    hits = open_index(place).search(Query(vector=[1.0] * 256), k=10_000)
    return {path: hit.missing for hit in hits for path in (hit.path, *hit.copies)}


def ids(place: Path) -> dict[Path, int]:
    hits = open_index(place).search(Query(vector=[1.0] * 256), k=10_000)
    return {path: hit.id for hit in hits for path in (hit.path, *hit.copies)}


def nothing_encoded(report: BuildReport) -> bool:
    return report.new == 0 and report.found == report.indexed + report.copies + report.ignored


def started(*arguments: str | os.PathLike[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *map(os.fspath, arguments)],
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def started_in_small_parts(folder: Path, place: Path) -> subprocess.Popen[bytes]:
    small = ("--model", "mini", "--shard-seconds", "0.02")
    return started("index", folder, "--index", place, *small)


def many(folder: Path, count: int) -> Path:
    for seed in range(count):
        scene(folder / f"{seed:04}.jpg", 10_000 + seed)
    return folder


def hold_with_images(place: Path, process: subprocess.Popen[bytes]) -> int:
    """Halt the run once a part is finished, or it could end before anybody has looked; how many
    images can be searched then."""
    deadline = time.monotonic() + 300
    while not (place / "manifest.json").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"ended with {process.poll()} before a part was finished")
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    return len(open_index(place))


@posix_only
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_plug(tmp_path: Path, number: signal.Signals) -> None:
    """**You pull the plug**, press Ctrl-C or kill it: what was finished stays and can be searched,
    the next run goes on from there, and at most the part in the works (about 45 seconds) is done
    again.
    """
    folder, place = many(tmp_path / "many", 160), tmp_path / "m.index"
    process = started_in_small_parts(folder, place)
    assert hold_with_images(place, process) < 160
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert b"Traceback" not in error
    kept = len(open_index(place))
    assert 32 <= kept < 160
    assert len(found(place)) == kept
    if number != signal.SIGKILL:
        assert b"saved and searchable" in error
        assert f"clipsearch index {folder} --index {place}".encode() in error
    again = build_index(folder, place)
    assert (again.new, again.indexed) == (160 - kept, 160)
    assert sorted(ids(place).values()) == list(range(160))
    assert IndexConfig().shard_seconds == 45


def test_full_disk(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    """**The disk is full**: the run stops with one line, what was finished stays, and with room
    made the next run goes on.
    """
    folder, place = many(tmp_path / "many", 100), tmp_path / "m.index"
    full = tmp_path / "sitecustomize.py"
    full.write_text(
        textwrap.dedent("""
        import errno, os
        real = os.fsync

        def fsync(descriptor):
            name = os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc") else ""
            if "embeddings" in name and os.path.isfile(os.environ["PLACE"] + "/manifest.json"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        os.fsync = fsync
        """)
    )
    if not Path("/proc/self/fd").exists():
        pytest.skip("which file is written is read from /proc")
    done = cli(
        *("index", folder, "--index", place, "--model", "mini", "--shard-seconds", "0.01"),
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{_PROJECT}", "PLACE": str(place)},
    )
    assert done.returncode == 2
    assert b"the disk is full" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"Error: ")
    kept = len(open_index(place))
    assert 32 <= kept < 100
    again = build_index(folder, place)
    assert (again.new, again.indexed) == (100 - kept, 100)


def test_moved(photos: Path, place: Path) -> None:
    """**Photos are moved, renamed or copied**: they are known by their content and found at their
    new place; nothing is encoded.
    """
    before = ids(place)
    (photos / "a").rename(photos / "c")  # half of the tree
    (photos / "b" / "00.jpg").rename(photos / "b" / "new name.jpg")
    shutil.copyfile(photos / "b" / "02.jpg", photos / "copy.jpg")
    report = build_index(photos, place)
    assert nothing_encoded(report)
    assert (report.moved, report.copies, report.missing) == (7, 1, 0)
    wanted = {
        Path(str(path).replace("/a/", "/c/").replace("00.jpg", "new name.jpg")): image_id
        for path, image_id in before.items()
    }
    wanted[photos / "copy.jpg"] = before[photos / "b" / "02.jpg"]
    assert ids(place) == wanted
    assert all(path.is_file() for path in wanted)


def test_edited(photos: Path, place: Path) -> None:
    """**A photo is edited**: it is encoded again, and the old version is found no more."""
    before = ids(place)
    path = scene(photos / "a" / "01.jpg", 500)
    assert build_index(photos, place).new == 1
    after = ids(place)
    assert after.pop(path) == 12
    old = before.pop(path)
    assert after == before
    assert old not in after.values()


def test_deleted(photos: Path, place: Path) -> None:
    """**A photo is deleted**: it can still be found and is marked missing, until `clipsearch prune`
    forgets it.
    """
    path = photos / "a" / "01.jpg"
    path.unlink()
    report = build_index(photos, place)
    assert nothing_encoded(report)
    assert report.missing == 1
    assert [name for name, missing in found(place).items() if missing] == [path]
    assert prune(place).files == 1
    assert path not in found(place)
    assert len(found(place)) == 11


def test_unplugged(photos: Path, place: Path, tmp_path: Path) -> None:
    """**A disk is unplugged**: nothing is deleted, its photos can still be found, `prune` leaves
    them alone, and when it is back nothing is encoded.
    """
    before = found(place)
    photos.rename(tmp_path / "drawer")
    report = build_index(photos, place)
    assert (report.missing, report.offline) == (12, (str(photos),))
    assert found(place) == dict.fromkeys(before, True)
    assert prune(place).files == 0
    assert found(place).keys() == before.keys()
    (tmp_path / "drawer").rename(photos)
    assert nothing_encoded(build_index(photos, place))
    assert found(place) == before


def test_another_path(
    photos: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """**A folder has another path now**: `clipsearch move OLD NEW`, and no photo is read."""
    before = ids(place)
    new = photos.rename(tmp_path / "elsewhere")
    with monkeypatch.context() as patch:
        patch.setattr("indexer.plan.file_sha256", lambda *_: pytest.fail("a photo was read"))
        assert move(place, photos, new).files == 12
        assert nothing_encoded(build_index([], place))
    assert ids(place) == {new / path.relative_to(photos): id_ for path, id_ in before.items()}


def test_damaged_photo(photos: Path, place: Path, cli: Cli) -> None:
    """**A photo is damaged**: it is skipped, `clipsearch failures` says why, and it is tried again
    when it has changed, or with `failures --retry`.
    """
    bad = photos / "bad.jpg"
    whole = (photos / "a" / "01.jpg").read_bytes() + b"\0"
    bad.write_bytes(whole[: len(whole) // 2])
    assert build_index(photos, place).skipped == 1
    done = cli("failures", "--index", place, "--json")
    row = json.loads(done.stdout)
    assert (row["path"], row["reason"]) == (str(bad), "truncated")
    assert "cut short" in row["message"]
    assert build_index(photos, place).new == 0
    seen = read_failures(place)[0].seen_at
    assert cli("failures", "--retry", "--index", place).returncode == 3
    assert read_failures(place)[0].seen_at > seen
    bad.write_bytes(whole)
    assert build_index(photos, place).new == 1
    assert read_failures(place) == []


@posix_only
def test_crash_and_hang(photos: Path, tmp_path: Path, cli: Cli) -> None:
    """**A photo crashes its decoder, or hangs it**: that costs this photo and no other."""
    scene(photos / "a" / "crash.jpg", 1000)
    scene(photos / "b" / "hang.jpg", 1001)
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
        import sys

        if "clipsearch.cli" not in " ".join(sys.orig_argv):  # the processes that decode
            import ctypes, time
            import PIL.Image as pil

            real = pil.Image.resize

            def resize(self, size, *arguments, **options):
                if (self.width, self.height) == (91, 60):
                    ctypes.string_at(0)
                if (self.width, self.height) == (92, 60):
                    time.sleep(3600)
                return real(self, size, *arguments, **options)

            pil.Image.resize = resize
        """)
    )
    for name, width in (("a/crash.jpg", 91), ("b/hang.jpg", 92)):
        with Image.open(photos / name) as image:
            wider = image.resize((width, 60))
        wider.save(photos / name)
    place = tmp_path / "x.index"
    done = cli(
        *("index", photos, "--index", place, "--model", "mini", "--json", "--decode-seconds", "2"),
        env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{_PROJECT}"},
    )
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert (report["new"], report["skip_reasons"]) == (12, {"corrupt": 2})
    messages = {failure.path.name: failure.message for failure in read_failures(place)}
    assert "crashed" in messages["crash.jpg"]
    assert "longer than" in messages["hang.jpg"]


def test_enormous(photos: Path, place: Path) -> None:
    """**A photo is enormous**, over `--max-megapixels` (200): it is skipped before it is
    decoded.
    """
    data = bytearray(scene(photos / "x.jpg", 1).read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (30_000).to_bytes(2, "big") * 2
    (photos / "x.jpg").write_bytes(data)
    assert IndexConfig().max_megapixels == 200
    report = build_index(photos, place)
    assert report.skip_reasons == {"too_large": 1}
    assert "900.0 megapixels (30000 x 30000)" in read_failures(place)[0].message


@posix_only
def test_two_runs(photos: Path, place: Path, tmp_path: Path, cli: Cli) -> None:
    """**Two runs meet**: the second is refused and told the process and the start of the first; the
    lock of a process that died is in nobody's way.
    """
    with writer_lock(place):
        since = json.loads((place / HOLDER_NAME).read_text())["since"]
        done = cli("index", photos, "--index", place)
        assert done.returncode == 2
        assert f"process {os.getpid()} ".encode() in done.stderr
        assert since.encode() in done.stderr
        with pytest.raises(IndexLockedError):
            compact(place)
    holder = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys, time; from pathlib import Path; from indexer.lock import writer_lock\n"
            "with writer_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)",
            str(place),
        ],
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert cli("index", photos, "--index", place).returncode == 2
    holder.kill()
    holder.wait()
    assert (place / HOLDER_NAME).exists()
    assert cli("index", photos, "--index", place).returncode == 0


@posix_only
def test_search_meanwhile(tmp_path: Path) -> None:
    """**You search while a run goes on**: finished parts are found, half of one never is."""
    folder, place = many(tmp_path / "many", 400), tmp_path / "m.index"
    process = started_in_small_parts(folder, place)
    counts = {hold_with_images(place, process)}
    reader = open_index(place)
    process.send_signal(signal.SIGCONT)
    while process.poll() is None:
        reader.refresh()
        hits = reader.search(Query(vector=[1.0] * 256), k=1000)
        shards = read_manifest(LocalStore(place), str(place))
        assert len(hits) == len(reader)
        assert len(hits) <= sum(shard.rows for shard in shards.images)
        assert sorted(hit.id for hit in hits) == list(range(len(hits)))
        assert len(reader.classify(["a", "b"])) >= len(hits)
        counts.add(len(hits))
    assert process.wait() == 0
    reader.refresh()
    assert len(reader.search(Query(vector=[1.0] * 256), k=1000)) == 400
    assert len(counts) >= 2, "the run was too quick to be watched"


def test_damaged_index(photos: Path, place: Path, cli: Cli) -> None:
    """**A file of the index is damaged**: `clipsearch verify` names it, `verify --repair` takes it
    out, and the next run encodes what was lost.
    """
    before = found(place)
    assert verify_index(place, sample=4).findings == ()
    (shard,) = (place / "embeddings").glob("*/*.parquet")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    done = cli("verify", "--index", place, "--sample", "0")
    assert done.returncode == 2
    assert shard.name.encode() in done.stdout
    assert cli("verify", "--repair", "--index", place).returncode in (0, 2)
    assert build_index(photos, place).new == 12
    assert found(place) == before
    assert cli("verify", "--index", place, "--sample", "4").returncode == 0


def test_deleted_cache(place: Path) -> None:
    """**`cache/` is deleted**: nothing is lost, and it is made again."""
    query = np.random.default_rng(0).normal(size=256)
    before = [(hit.id, hit.score) for hit in open_index(place).search(Query(vector=query), k=20)]
    shutil.rmtree(place / "cache")
    after = [(hit.id, hit.score) for hit in open_index(place).search(Query(vector=query), k=20)]
    assert after == before
    assert list((place / "cache" / "vectors").glob("*/*.f16"))


def test_every_sentence_has_its_test() -> None:
    text = (_PROJECT / "README.md").read_text(encoding="utf-8")
    section = text.split("## What happens when...\n")[1].split("\n## ")[0]
    bullets = {" ".join(b.split()) for b in re.split(r"^- ", section, flags=re.M)[1:]}
    tests = {
        " ".join(test.__doc__.split())
        for name, test in globals().items()
        if name.startswith("test_") and test.__doc__
    }
    assert bullets == tests
    assert len(bullets) == 14
