"""An index at ``s3://``: made, searched, gone on with, written by two; against a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import mirror_store, open_index, shared_folders
from clipsearch.errors import IndexConflictError, IndexNotFoundError, OptionError, RemoteError
from clipsearch.label_sets import label_set_names, read_label_rows
from clipsearch.manifest import MANIFEST_NAME, read_manifest
from clipsearch.mirror_store import MirrorStore, mirror_of
from clipsearch.object_store import ETag
from clipsearch.query import Query
from clipsearch.saved_searches import save_search, saved_search_names
from clipsearch.store import index_folder, make_folder, open_store
from indexer import build_index
from indexer.verify import verify_index
from indexer.writing import writing

from .conftest import Cli
from .s3_server import Bucket

Machine = Callable[[str], None]


@pytest.fixture
def machine(mini_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go to another machine: the user's folders are others there."""
    kept = os.environ["XDG_CACHE_HOME"], os.environ["XDG_DATA_HOME"]

    def go_to(name: str) -> None:
        for variable, folder in zip(("XDG_CACHE_HOME", "XDG_DATA_HOME"), kept, strict=True):
            place = tmp_path / "machines" / name / variable.lower()
            texts = Path(folder, "clipsearch", "text")
            if texts.is_dir() and not (place / "clipsearch" / "text").exists():
                shutil.copytree(texts, place / "clipsearch" / "text")  # only to save time
            place.mkdir(parents=True, exist_ok=True)
            monkeypatch.setenv(variable, str(place))
        shared_folders._looked.clear()  # which another process does not know

    return go_to


@pytest.fixture
def remote(bucket: Bucket, mini_index: Path) -> str:
    """The URL of an index of the pictures: a folder that was copied into the bucket."""
    for file in sorted(mini_index.rglob("*")):
        name = file.relative_to(mini_index).as_posix()
        if file.is_file() and not name.startswith("cache/") and not name.startswith("writer."):
            bucket.put(f"team/photos.index/{name}", file.read_bytes())
    return f"{bucket.url}/team/photos.index"


def tables(folder: Path) -> dict[str, list[dict[str, object]]]:
    """The rows of an index by kind, without what tells when they were written."""
    found: dict[str, list[dict[str, object]]] = {}
    for kind in ("images", "embeddings", "paths"):
        for file in sorted((folder / kind).rglob("*.parquet")):
            table = pq.read_table(file)
            kept = [name for name in table.column_names if not name.endswith("_seen")]
            found.setdefault(kind, []).extend(table.select(kept).to_pylist())
    return found


def is_one_line(message: bytes) -> bool:
    return message.startswith(b"Error: ") and message.count(b"\n") == 1


def test_an_index_at_a_url_is_the_one_in_a_folder(
    bucket: Bucket, pictures: Path, tmp_path: Path, machine: Machine
) -> None:
    build_index(pictures, tmp_path / "local.index", encoder="mini")
    url = f"{bucket.url}/team/photos.index"
    machine("one")
    report = build_index(pictures, url, encoder="mini")
    assert report.new == 9
    mirror = index_folder(url)
    assert tables(mirror) == tables(tmp_path / "local.index")
    keys = [key.removeprefix("team/photos.index/") for key in bucket.every_key()]
    named = {ref.name for ref in read_manifest(open_store(url), url).files()}
    assert set(keys) == named | {MANIFEST_NAME, "manifest.copy.json"}

    machine("two")
    here, there = open_index(tmp_path / "local.index"), open_index(url)
    for words in ("a cat", "a bus"):
        assert [(hit.path, hit.score) for hit in there.search(words)] == [
            (hit.path, hit.score) for hit in here.search(words)
        ]
    for key in bucket.every_key():
        assert b"of-the-tests" not in bucket.get(key)
    for file in (tmp_path / "machines").rglob("*"):
        assert not file.is_file() or b"of-the-tests" not in file.read_bytes()


def test_a_copied_folder_is_an_index_and_is_fetched_once(
    bucket: Bucket, remote: str, cli_here: Cli, machine: Machine
) -> None:
    machine("reader")
    result = cli_here("search", "a cat", "--index", remote)
    assert result.returncode == 0
    assert result.stdout.count(b"\n") > 1
    asked = [path.partition("?")[0] for path in bucket.server.asked("GET", ".parquet")]
    assert len(asked) == len(set(asked))
    assert not bucket.server.asked("PUT")
    assert not any("labels" in path or "skipped" in path for _, path in bucket.server.seen)
    bucket.server.seen.clear()
    again = cli_here("search", "a cat", env={"CLIPSEARCH_INDEX": remote})
    assert again.stdout == result.stdout
    assert {path.rpartition("/")[2] for _, path in bucket.server.seen} == {"manifest.json?"}
    bucket.server.seen.clear()
    assert cli_here("failures", "--index", remote).returncode == 1
    assert {path.rpartition("/")[2] for _, path in bucket.server.seen} == {"manifest.json?"}


def test_what_a_command_does_not_need_is_not_fetched(
    bucket: Bucket, remote: str, cli_here: Cli, machine: Machine
) -> None:
    machine("reader")
    assert cli_here("failures", "--index", remote).returncode == 1
    assert cli_here("labels", "--index", remote).returncode == 1
    assert not bucket.server.asked("GET", ".parquet")
    status = cli_here("status", "--index", remote)
    assert remote.encode() in status.stdout
    assert not bucket.server.asked("GET", "/images/")


def test_what_fails_while_it_goes_up_counts_for_nothing(
    bucket: Bucket, pictures: Path, cli_here: Cli, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.object_store._RETRIES", 1)
    mirror_store._opened.cache_clear()
    url = f"{bucket.url}/photos.index"
    index = ("index", str(pictures), "--index", url, "--model", "mini")
    machine("one")
    for broken in ("/embeddings/", "/manifest.json"):
        bucket.server.broken = broken
        failed = cli_here(*index)
        assert failed.returncode == 2
        assert b"cannot reach s3://" in failed.stderr
        assert b"InternalError" in failed.stderr
        assert b"Traceback" not in failed.stderr
        assert "photos.index/manifest.json" not in bucket.every_key()
        assert cli_here("search", "a cat", "--index", url).returncode == 2
    bucket.server.broken = ""
    assert cli_here(*index).returncode == 0
    assert cli_here("search", "a cat", "--index", url).returncode == 0
    machine("two")
    found = verify_index(url, sample=0)
    assert (found.is_sound, found.rows > 9) == (True, True)

    shutil.copyfile(next(pictures.glob("lion*")), pictures / "again.jpg")
    bucket.server.broken = "/manifest.json"
    assert cli_here(*index).returncode == 2
    bucket.server.broken = ""
    assert verify_index(url, sample=0).generation == found.generation
    assert cli_here(*index).returncode == 0
    assert verify_index(url, sample=0).generation > found.generation
    mirror_store._opened.cache_clear()


def test_leftovers_stay_for_a_day_and_then_go(
    bucket: Bucket, remote: str, pictures: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = "team/photos.index/images/00007-01234567.parquet"
    bucket.put(stray, b"of a run that was killed")
    machine("one")
    build_index((), remote)
    assert stray in bucket.every_key()
    monkeypatch.setattr(mirror_store, "_GRACE_SECONDS", -3600.0)
    build_index((), remote)
    assert stray not in bucket.every_key()
    assert verify_index(remote, sample=0).is_sound


def test_of_two_writers_the_second_loses_and_spoils_nothing(
    bucket: Bucket, remote: str, pictures: Path, machine: Machine
) -> None:
    machine("one")
    with writing(remote) as slow:
        machine("two")
        build_index(pictures, remote)
        (pictures / "groot.jpeg").unlink()
        build_index(pictures, remote)
        theirs = {key: bucket.get(key) for key in bucket.every_key()}
        machine("one")
        message = f"another writer has committed to {remote} meanwhile: run the same command again"
        with pytest.raises(IndexConflictError, match=message):
            slow.commit(merge=True)
        with pytest.raises(IndexConflictError):
            slow.commit()
    assert {key: bucket.get(key) for key in theirs} == theirs
    machine("three")
    before = verify_index(remote, sample=0)
    machine("one")
    with writing(remote) as again:
        again.commit(merge=True)
    machine("three")
    after = verify_index(remote, sample=0)
    assert (before.is_sound, after.is_sound) == (True, True)
    assert after.generation == before.generation + 1


def test_two_that_make_the_same_index_do_not_mix(
    bucket: Bucket, pictures: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket.url}/photos.index"
    machine("one")

    def overtaken(event: object) -> None:
        if type(event).__name__ == "Planned":
            machine("two")
            build_index(pictures, url, encoder="mini")
            machine("one")

    with pytest.raises(IndexConflictError):
        build_index(pictures, url, encoder="mini", on_event=overtaken)
    machine("three")
    found = verify_index(url, sample=0)
    assert (found.is_sound, len(open_index(url))) == (True, 9)
    machine("one")
    assert build_index(pictures, url).new == 0


def test_a_bucket_for_reading_only_is_searched(
    bucket: Bucket, remote: str, pictures: Path, cli_here: Cli, machine: Machine
) -> None:
    bucket.is_for_reading_only()
    machine("reader")
    assert cli_here("search", "a cat", "--index", remote).returncode == 0
    assert cli_here("classify", "--labels", "cat,bus", "--index", remote).returncode == 0
    found = cli_here("discover", "--index", remote, "--k", "2", "--vocab", "none")
    assert found.returncode == 0
    assert b"so the clusters are not kept" in found.stderr
    for command in (
        ("classify", "--labels", "cat,bus", "--save-as", "pets"),
        ("discover", "--k", "2", "--vocab", "none", "--save-as", "groups"),
        ("search", "a cat", "--save", "cats"),
        ("index", str(pictures)),
    ):
        refused = cli_here(*command, "--index", remote)
        assert refused.returncode == 2, command
        last = refused.stderr.splitlines()[-1]
        assert last.startswith(b"Error: no access to s3://"), refused.stderr
        assert b"AccessDenied" in last
    assert cli_here("labels", "--index", remote).returncode == 1


def test_what_stands_in_the_way_is_one_line(
    bucket: Bucket, remote: str, pictures: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> bytes:
        result = cli_here(*arguments)
        assert (result.returncode, is_one_line(result.stderr)) == (2, True), result.stderr
        assert result.stdout == b""
        return result.stderr

    assert b"no index at s3://" in said("search", "x", "--index", f"{bucket.url}/none.index")
    assert b"there is no bucket" in said("search", "x", "--index", "s3://no-such-bucket-1/x")
    assert b"takes no user, password" in said("status", "--index", "s3://me:word@photos/x")
    bucket.put("mine/notes.txt", b"x")
    index = ("index", str(pictures), "--model", "mini", "--index")
    assert b"other things in it" in said(*index, f"{bucket.url}/mine")
    assert f"such as {bucket.url}/x.index\n".encode() in said(*index, bucket.url)
    assert b"mended as a folder" in said("verify", "--repair", "--index", remote)
    monkeypatch.setenv("CLIPSEARCH_OFFLINE", "1")
    assert b"CLIPSEARCH_OFFLINE" in said("search", "x", "--index", remote)
    monkeypatch.delenv("CLIPSEARCH_OFFLINE")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    mirror_store._opened.cache_clear()
    assert b"AWS_SECRET_ACCESS_KEY" in said("search", "x", "--index", remote)
    mirror_store._opened.cache_clear()
    with pytest.raises((RemoteError, OptionError, IndexNotFoundError)):
        open_index("s3://no-such-bucket-1/x")


def test_label_sets_are_shared_and_go_up_whole(
    bucket: Bucket, remote: str, cli_here: Cli, machine: Machine
) -> None:
    machine("one")
    save = ("classify", "--labels", "cat,bus", "--index", remote, "--save-as", "pets")
    assert cli_here(*save).returncode == 0
    machine("two")
    place = mirror_of(remote)
    assert label_set_names(place) == ["pets"]
    assert not list((place / "labels").glob("*.parquet"))  # which only readers of it fetch
    assert read_label_rows(place, "pets")[1].ids.tolist() == list(range(9))
    assert not list((place / "labels").glob("*.scores"))
    changed = cli_here("teach", "pets", "--index", remote, "lion.jpg=bus")
    assert changed.returncode == 2  # no such file here
    before = bucket.every_key("team/photos.index/labels")

    bucket.server.broken = "pets.json"
    mirror_store._opened.cache_clear()
    more = ("classify", "--labels", "cat,bus,tower", "--index", remote, "--save-as", "pets")
    store = MirrorStore(place)
    store.remote._retries = 0
    store.remote._store = store.remote._opened()
    failed = cli_here(*more)
    assert (failed.returncode, failed.stderr.splitlines()[-1][:20]) == (2, b"Error: cannot reach ")
    bucket.server.broken = ""
    mirror_store._opened.cache_clear()
    assert set(before) <= set(bucket.every_key("team/photos.index/labels"))
    for where in ("two", "three"):
        machine(where)
        found = read_label_rows(mirror_of(remote), "pets")[0]
        assert found.labels == ("cat", "bus")
    machine("two")
    assert cli_here(*more).returncode == 0
    machine("one")
    assert cli_here("labels", "pets", "--index", remote).stdout.count(b"\n") > 2
    assert read_label_rows(mirror_of(remote), "pets")[0].labels == ("cat", "bus", "tower")
    assert cli_here("labels", "pets", "--forget", "--index", remote).returncode == 0
    assert bucket.every_key("team/photos.index/labels/pets.") == []
    machine("three")
    assert cli_here("labels", "--index", remote).returncode == 1


def test_two_that_save_the_same_label_set(bucket: Bucket, remote: str, machine: Machine) -> None:
    from clipsearch.label_set_saving import delete_label_set, save_classification

    machine("one")
    index = open_index(remote)
    result = index.classify(["cat", "bus"], none="off")

    def save() -> None:
        save_classification(index.path, index.state(), "pets", result, "simple", None)

    save()
    put = index.state().store.remote.replace  # type: ignore[attr-defined]

    def overtaken(name: str, data: bytes, etag: object = None) -> object:
        if name.endswith("pets.json"):
            bucket.put(f"team/photos.index/{name}", bucket.get(f"team/photos.index/{name}") + b" ")
        return put(name, data, etag)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index.state().store.remote, "replace", overtaken)  # type: ignore[attr-defined]
        result = index.classify(["dog", "bus"], none="off")
        with pytest.raises(IndexConflictError, match=r"changed labels/pets\.json at s3://"):
            save()
    found, rows = read_label_rows(index.path, "pets")
    assert (found.labels, len(rows.ids)) == (("cat", "bus"), 9)
    delete_label_set(index.path, "pets")
    assert bucket.every_key("team/photos.index/labels/pets.json") == []


def test_saved_searches_are_shared(bucket: Bucket, remote: str, machine: Machine) -> None:
    machine("one")
    save_search(open_index(remote), "cats", Query("a cat"))
    machine("two")
    assert saved_search_names(mirror_of(remote)) == ["cats"]


def test_another_index_at_the_url_is_not_taken_for_the_first(
    bucket: Bucket, remote: str, tmp_path: Path, pictures: Path, machine: Machine
) -> None:
    machine("one")
    assert len(open_index(remote)) == 9
    for key in bucket.every_key():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    with pytest.raises(IndexNotFoundError):
        open_index(remote)
    for picture in sorted(pictures.iterdir())[2:]:
        picture.unlink()
    build_index(pictures, tmp_path / "small.index", encoder="mini")
    for file in (tmp_path / "small.index").rglob("*"):
        name = file.relative_to(tmp_path / "small.index").as_posix()
        if file.is_file() and not name.startswith(("cache/", "writer.")):
            bucket.put(f"team/photos.index/{name}", file.read_bytes())
    here, there = open_index(tmp_path / "small.index"), open_index(remote)
    assert len(there) == len(here)
    assert np.array_equal(there.vectors_of([0])[1], here.vectors_of([0])[1])


def test_tables_of_the_same_size_are_not_taken_for_those_of_the_index_before(
    bucket: Bucket, remote: str, tmp_path: Path, pictures: Path, machine: Machine
) -> None:
    machine("one")
    before = open_index(remote).vectors_of([0])[1]
    for key in bucket.every_key():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    with pytest.raises(IndexNotFoundError):
        open_index(remote)
    first = min(pictures.iterdir())
    first.rename(pictures / "zzz.jpg")  # as many images, in another order
    build_index(pictures, tmp_path / "other.index", encoder="mini")
    for file in (tmp_path / "other.index").rglob("*"):
        name = file.relative_to(tmp_path / "other.index").as_posix()
        if file.is_file() and not name.startswith(("cache/", "writer.")):
            bucket.put(f"team/photos.index/{name}", file.read_bytes())
    here, there = (open_index(one).vectors_of([0])[1] for one in (tmp_path / "other.index", remote))
    assert np.array_equal(there, here)
    assert not np.array_equal(there, before)


def test_a_mirror_gets_rid_of_what_nobody_names(
    bucket: Bucket, remote: str, pictures: Path, machine: Machine
) -> None:
    machine("reader")
    assert len(open_index(remote)) == 9
    mirror = mirror_of(remote)
    names = [ref.name for ref in read_manifest(open_store(remote), remote).files()]
    old = [mirror / "images" / "00077.parquet", mirror / "embeddings" / ".tmp-1-part"]
    new = mirror / "paths" / "00088.parquet"
    for file in (*old, new):
        make_folder(file.parent)
        file.write_bytes(b"x")
    long_ago = time.time() - 2 * 86_400
    for file in (*old, *(mirror / name for name in names if (mirror / name).exists())):
        os.utime(file, (long_ago, long_ago))
    kept = [name for name in names if (mirror / name).exists()]
    assert len(open_index(remote)) == 9
    assert all(file.exists() for file in old)  # the manifest is the same
    manifest = json.loads(bucket.get("team/photos.index/manifest.json"))
    bucket.put("team/photos.index/manifest.json", json.dumps(manifest, indent=2).encode())
    mirror_of(remote)
    assert not any(file.exists() for file in old)
    assert new.exists()
    assert kept
    assert all((mirror / name).exists() for name in kept)


def test_a_url_of_something_else_makes_no_folder(
    pictures: Path, cli_here: Cli, tmp_path: Path
) -> None:
    for url in ("S3://bucket/x.index", "http://host/x.index", "s3:///x.index"):
        for words in (("index", str(pictures), "--model", "mini"), ("search", "x")):
            result = cli_here(*words, "--index", url)
            assert (result.returncode, result.stdout) == (2, b"")
            assert is_one_line(result.stderr), result.stderr
            assert b"expected s3://bucket/folder" in result.stderr
    assert not list(tmp_path.rglob("x.index"))


def test_listings_without_quotation_marks_name_the_same_state() -> None:
    known = {"etag": '"0x8D"', "version": None, "stat": None}
    assert shared_folders._is_one(known, ETag("0x8D"))
    assert shared_folders._is_one(known, ETag('"0x8D"'))
    assert not shared_folders._is_one(known, ETag("0x8E"))
    assert not shared_folders._is_one(known, ETag(None))


def test_a_damaged_copy_is_fetched_again(bucket: Bucket, remote: str, machine: Machine) -> None:
    machine("one")
    assert len(open_index(remote)) == 9
    for file in mirror_of(remote).rglob("embeddings/**/*.parquet"):
        file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)
    assert verify_index(remote, sample=0).is_sound
    shard = bucket.every_key("team/photos.index/embeddings/")[0]
    bucket.put(shard, b"x" * len(bucket.get(shard)))
    machine("two")
    found = verify_index(remote, sample=0)
    assert [finding.kind for finding in found.of("error")][:1] == ["damaged"]


def test_a_mark_in_a_folder_that_somebody_has_sent_leads_nowhere(
    bucket: Bucket, remote: str, mini_index: Path, machine: Machine
) -> None:
    machine("one")
    mark = json.dumps({"url": remote})
    (mini_index / ".remote.json").write_text(mark)
    bucket.server.seen.clear()
    index = open_index(mini_index)
    save_search(index, "cats", Query("a cat"))
    assert (len(index), saved_search_names(mini_index)) == (9, ["cats"])
    assert bucket.server.seen == []
    assert type(open_store(mirror_of(remote))) is MirrorStore


def _started(url: str, folder: Path, caches: Path) -> subprocess.Popen[bytes]:
    program = "from clipsearch.cli import main; main()"
    words = ["index", str(folder), "--index", url, "--model", "mini"]
    project = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([project, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(caches)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills as Linux and macOS do")
def test_a_run_that_is_killed_while_it_uploads_is_gone_on_with(
    bucket: Bucket, pictures: Path, tmp_path: Path, machine: Machine
) -> None:
    url = f"{bucket.url}/photos.index"
    machine("one")
    run = _started(url, pictures, Path(os.environ["XDG_CACHE_HOME"]))
    until = time.monotonic() + 100
    while not bucket.server.asked("PUT", "/embeddings/") and time.monotonic() < until:
        time.sleep(0.01)
    run.kill()
    run.communicate()
    assert bucket.server.asked("PUT", "/embeddings/")
    assert "photos.index/manifest.json" not in bucket.every_key()
    with pytest.raises(IndexNotFoundError):
        open_index(url)
    assert build_index(pictures, url, encoder="mini").new == 9
    machine("two")
    assert (verify_index(url, sample=0).is_sound, len(open_index(url))) == (True, 9)


@pytest.mark.slow
def test_two_processes_race_for_the_manifest(
    bucket: Bucket, pictures: Path, tmp_path: Path, machine: Machine
) -> None:
    url = f"{bucket.url}/photos.index"
    machine("one")  # remembered texts go along
    one = Path(os.environ["XDG_CACHE_HOME"])
    machine("two")
    two = Path(os.environ["XDG_CACHE_HOME"])
    others = tmp_path / "others"
    others.mkdir()
    for picture in sorted(pictures.iterdir())[:5]:
        shutil.move(picture, others / picture.name)
    runs = [_started(url, pictures, one), _started(url, others, two)]
    said = [run.communicate(timeout=100)[1] for run in runs]
    assert 0 in [run.returncode for run in runs], said
    for run, text, folder, name in zip(runs, said, (pictures, others), ("one", "two"), strict=True):
        if run.returncode != 0:
            last = text.splitlines()[-1].decode()
            assert last == (
                f"Error: another writer has committed to {url} meanwhile: "
                "run the same command again"
            )
            machine(name)
            build_index(folder, url)
    machine("three")
    assert (verify_index(url, sample=0).is_sound, len(open_index(url))) == (True, 9)
