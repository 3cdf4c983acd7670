"""Images in object storage as a source of ``index``: the same index as of a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipsearch import open_index
from clipsearch.errors import MissingExtraError, OptionError, RemoteError, SourceError
from clipsearch.manifest import read_manifest
from clipsearch.paths import read_paths
from clipsearch.remote_images import forget_connections
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.build import preview
from indexer.failures import read_failures
from indexer.look import differences
from indexer.move import move
from indexer.prune import prune
from indexer.report import BuildReport
from tests.conftest import Cli
from tests.image_bucket import ImageBucket


def run(sources: object, index: Path, **options: object) -> BuildReport:
    return build_index(sources, index, **{"encoder": "mini", **options})  # type: ignore[arg-type]


def known(index: Path) -> dict[str, tuple[int, str]]:
    """Path below its root -> (id, state)."""
    store = LocalStore(index)
    table = read_paths(store, read_manifest(store, str(index)))
    rows = zip(*(table.column(name).to_pylist() for name in ("path", "id", "state")), strict=True)
    return {os.fsdecode(path): (image_id, state) for path, image_id, state in rows}


def distinct(pictures: Path) -> list[str]:
    """The names of the pictures that no other has the content of."""
    contents: dict[bytes, list[str]] = {}
    for path in sorted(pictures.iterdir()):
        contents.setdefault(path.read_bytes(), []).append(path.name)
    return [names[0] for names in contents.values() if len(names) == 1]


def vectors(index: Path) -> np.ndarray:
    opened = open_index(index)
    return opened.vectors_of(np.arange(100))[1]


@pytest.fixture
def remote_index(image_bucket: ImageBucket, pictures: Path, tmp_path: Path) -> Path:
    """The pictures, in the bucket below photos/, indexed."""
    image_bucket.put_folder(pictures, "photos/")
    place = tmp_path / "remote.index"
    run(f"{image_bucket.url}/photos", place)
    image_bucket.reads()
    return place


def test_the_index_is_that_of_a_folder(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    deeper = pictures / "2024" / "ü mit 100%"
    deeper.mkdir(parents=True)
    names = sorted(path.name for path in pictures.iterdir() if path.is_file())
    (pictures / names[0]).rename(deeper / "a b#c+d.jpg")
    (pictures / "notes.txt").write_text("no image")
    (pictures / "._x.jpg").write_bytes(b"macOS")
    (pictures / ".hidden").mkdir()
    (pictures / ".hidden" / "y.jpg").write_bytes((pictures / names[1]).read_bytes())
    (pictures / "broken.jpg").write_bytes((pictures / names[1]).read_bytes()[:300])
    (pictures / "empty.png").write_bytes(b"")
    image_bucket.put_folder(pictures, "photos/")
    image_bucket.put(
        "photos2/z.jpg", pictures / names[1]
    )  # another folder, whose name begins alike

    local = run(pictures, tmp_path / "local.index")
    remote = run(f"{image_bucket.url}/photos/", tmp_path / "remote.index")

    assert known(tmp_path / "remote.index") == known(tmp_path / "local.index")
    assert np.array_equal(vectors(tmp_path / "remote.index"), vectors(tmp_path / "local.index"))
    for name in ("new", "indexed", "copies", "found", "ignored", "skipped", "skip_reasons"):
        assert getattr(remote, name) == getattr(local, name), name
    assert remote.ignored_kinds == {"._*": 1, ".txt": 1}
    odd = "2024/ü mit 100%/a b#c+d.jpg"
    places = (
        open_index(tmp_path / "remote.index")
        .paths()
        .places(known(tmp_path / "remote.index")[odd][0])
    )
    assert f"{image_bucket.url}/photos/{odd}" in {str(place.path) for place in places}
    lost = {str(one.path): one.reason for one in read_failures(tmp_path / "remote.index")}
    assert lost == {
        f"{image_bucket.url}/photos/broken.jpg": "truncated",
        f"{image_bucket.url}/photos/empty.png": "empty",
    }


def test_what_has_not_changed_is_not_read_again(
    image_bucket: ImageBucket,
    remote_index: Path,
    pictures: Path,
) -> None:
    before = read_manifest(LocalStore(remote_index), "").generation
    report = run((), remote_index)
    assert (report.new, report.missing, image_bucket.reads()) == (0, 0, [])
    assert read_manifest(LocalStore(remote_index), "").generation == before

    name = sorted(known(remote_index))[0]
    image_bucket.put("photos/new.jpg", (pictures / name).read_bytes() + b"\0")
    report = run((), remote_index)
    assert report.new == 1
    assert set(image_bucket.reads()) == {"photos/new.jpg"}


def test_moved_copied_changed_and_gone_objects(
    image_bucket: ImageBucket,
    remote_index: Path,
    pictures: Path,
) -> None:
    before = known(remote_index)
    moved, copied, changed, gone = distinct(pictures)[:4]
    image_bucket.put(f"photos/elsewhere/{moved}", pictures / moved)
    image_bucket.put(f"photos/copy-of-{copied}", pictures / copied)
    image_bucket.put(f"photos/{changed}", (pictures / changed).read_bytes() + b"\0")
    image_bucket.delete(f"photos/{moved}", f"photos/{gone}")

    _, seen = preview((), remote_index)
    root = f"{image_bucket.url}/photos"
    assert {(d.kind, d.path, d.before) for d in differences(seen)} == {
        ("moved", f"{root}/elsewhere/{moved}", f"{root}/{moved}"),
        ("copy", f"{root}/copy-of-{copied}", None),
        ("changed", f"{root}/{changed}", None),
        ("missing", f"{root}/{gone}", None),
    }
    report = run((), remote_index)
    after = known(remote_index)
    assert (report.new, report.moved, report.missing) == (1, 1, 1)
    assert after[f"elsewhere/{moved}"] == before[moved]
    assert moved not in after
    assert after[f"copy-of-{copied}"][0] == before[copied][0]
    assert after[changed][0] not in {image_id for image_id, _ in before.values()}
    assert after[gone] == (before[gone][0], "missing")

    image_bucket.put(f"photos/{gone}", pictures / gone)
    assert (run((), remote_index).new, known(remote_index)[gone]) == (0, before[gone])
    image_bucket.delete(f"photos/{gone}")
    run((), remote_index)
    pruned = prune(remote_index)
    assert [str(path) for path in pruned.paths] == [f"{root}/{gone}"]
    assert (pruned.images, pruned.kept, gone in known(remote_index)) == (1, {}, False)


def test_exclude_single_objects_and_nested_roots(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    names = distinct(pictures)[:5]
    folders = ("", "private/", "private/deep/", "2024/", "2024/")
    for folder, name in zip(folders, names, strict=True):
        image_bucket.put(f"photos/{folder}{name}", pictures / name)
    place = tmp_path / "some.index"
    one = run(f"{image_bucket.url}/photos/2024/{names[3]}", place)
    assert (one.new, one.found) == (1, 1)
    assert [root.path for root in read_manifest(LocalStore(place), "").roots] == [
        f"{image_bucket.url}/photos/2024"
    ]
    from indexer.config import IndexConfig

    report = run(f"{image_bucket.url}/photos", place, config=IndexConfig(exclude=("private",)))
    assert (report.new, report.indexed) == (2, 3)
    report = run((), place, config=IndexConfig())
    assert (report.new, report.missing) == (2, 0)
    # What is passed over from now on is not gone.
    report = run((), place, config=IndexConfig(exclude=("private/deep/*", names[0])))
    assert (report.new, report.missing) == (0, 0)
    found = open_index(place).search("a cat", k=9)
    assert {str(hit.path) for hit in found} == {
        f"{image_bucket.url}/photos/{folder}{name}"
        for folder, name in zip(folders, names, strict=True)
    }
    gone = f"{image_bucket.url}/photos/{names[0]}"
    image_bucket.delete(f"photos/{names[0]}")
    report = run((), place, listed=[gone], config=IndexConfig())
    assert (report.missing, report.not_there) == (1, 0)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("s3://user:secret@pictures/a", OptionError, "takes no user, password or port"),
        ("s3://", OptionError, "names no bucket"),
        ("{url}/nothing", SourceError, "nothing is at {url}/nothing"),
        ("{url}/nothing.jpg", SourceError, "no such object: {url}/nothing.jpg"),
        ("{url}/many.tar", SourceError, "are read from a disk only"),
        ("s3://no-such-bucket-here/a", RemoteError, "there is no bucket s3://no-such-bucket-here"),
    ],
)
def test_what_is_no_source_is_said_in_a_line(
    image_bucket: ImageBucket,
    tmp_path: Path,
    name: str,
    error: type[Exception],
    words: str,
) -> None:
    image_bucket.put("many.tar", b"")
    place = tmp_path / "none.index"
    with pytest.raises(error) as raised:
        run(name.format(url=image_bucket.url), place)
    assert words.format(url=image_bucket.url) in str(raised.value)
    assert "secret" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not place.exists()


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from clipsearch import object_store

    monkeypatch.setitem(sys.modules, "obstore", None)
    object_store._obstore.cache_clear()
    forget_connections()
    with pytest.raises(MissingExtraError, match=r"pip install 'clipsearch\[cloud\]'"):
        run("s3://pictures/a", tmp_path / "none.index")


def test_a_bucket_that_is_gone_takes_nothing_with_it(
    image_bucket: ImageBucket,
    remote_index: Path,
    pictures: Path,
    cli_here: Cli,
) -> None:
    before = known(remote_index)
    image_bucket.asked.fault = lambda method, path: 403
    done = cli_here("index", "--index", remote_index)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(
        f"Error: could not read {image_bucket.url}/photos: no access to {image_bucket.url}/photos"
    )
    assert len(done.stderr.splitlines()) == 1
    assert known(remote_index) == before

    # Beside a folder that is there, that is indexed; of the bucket nothing counts as gone.
    done = cli_here("index", pictures, f"{image_bucket.url}/photos", "--index", remote_index)
    assert done.returncode == 3, done.stderr
    assert f"Could not list {image_bucket.url}/photos: no access" in done.stderr.decode()
    assert {state for _, state in known(remote_index).values()} == {"present"}

    pruned = prune(remote_index, dry_run=True)
    assert (pruned.files, pruned.back) == (0, 0)


def test_an_endpoint_that_does_not_answer_is_one_line(
    image_bucket: ImageBucket,
    remote_index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_connections()
    with pytest.raises(SourceError, match="no connection; see to the network") as raised:
        run((), remote_index)
    assert "\n" not in str(raised.value)


def test_offline_means_buckets_too(
    image_bucket: ImageBucket,
    remote_index: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLIPSEARCH_OFFLINE", "1")
    image_bucket.asked.seen.clear()
    with pytest.raises(SourceError, match="CLIPSEARCH_OFFLINE forbids the network"):
        run((), remote_index)
    assert open_index(remote_index).search("a lion", k=1).hits
    assert image_bucket.asked.seen == []


def test_a_bucket_lost_on_the_way_ends_the_run_and_skips_nothing(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    from indexer.config import IndexConfig

    image_bucket.put_folder(pictures, "photos/")
    place = tmp_path / "lost.index"
    names = sorted(path.name for path in pictures.iterdir())
    late = f"/{image_bucket.name}/photos/{names[-1]}"
    is_lost = False

    def fault(method: str, path: str) -> int | None:
        nonlocal is_lost
        is_lost |= path == late and method == "GET"
        return 403 if is_lost else None

    image_bucket.asked.fault = fault
    with pytest.raises(RemoteError, match="no access to"):
        run(f"{image_bucket.url}/photos", place, config=IndexConfig(backend="torch"))
    assert read_failures(place) == [] if (place / "manifest.json").exists() else True

    image_bucket.asked.fault = None
    report = run(f"{image_bucket.url}/photos", place)
    assert (report.skipped, report.indexed + report.copies) == (0, len(names))


def test_what_fails_for_a_moment_is_tried_again(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    image_bucket.put_folder(pictures, "photos/")
    failed: set[tuple[str, str]] = set()

    def fault(method: str, path: str) -> int | None:
        if (method, path) in failed:
            return None
        failed.add((method, path))  # each fails once
        return 503

    image_bucket.asked.fault = fault
    report = run(f"{image_bucket.url}/photos", tmp_path / "tried.index")
    assert (report.skipped, report.indexed + report.copies) == (0, len(list(pictures.iterdir())))


def test_one_object_out_of_reach_is_skipped_and_tried_next_time(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    image_bucket.put_folder(pictures, "photos/")
    place = tmp_path / "some.index"
    names = sorted(path.name for path in pictures.iterdir())
    answers = {names[0]: 403, names[1]: 404}

    def fault(method: str, path: str) -> int | None:
        return answers.get(path.rpartition("/")[2]) if method == "GET" else None

    image_bucket.asked.fault = fault
    report = run(f"{image_bucket.url}/photos", place)
    assert report.skip_reasons == {"unreadable": 1, "vanished": 1}
    lost = {one.path.name: one for one in read_failures(place)}
    assert lost[names[0]].message.startswith("the object cannot be read: no access to s3://")
    assert lost[names[1]].message == "the object is not there any more"

    image_bucket.asked.fault = None
    report = run((), place)
    assert (report.skipped, report.indexed + report.copies) == (0, len(names))


def test_whoever_may_list_only_a_folder_of_the_bucket_indexes_it(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    image_bucket.put_folder(pictures, "photos/")
    names = sorted(path.name for path in pictures.iterdir())
    asked = image_bucket.asked

    def fault(method: str, path: str) -> int | None:
        if path.endswith(names[0]):
            return 403
        whole = path.rstrip("/") == f"/{image_bucket.name}" and "prefix=photos" not in str(
            [query for _, query in asked.seen if query.startswith(f"{path}?")][-1:]
        )
        return 403 if whole else None

    asked.fault = fault
    place = tmp_path / "some.index"
    report = run(f"{image_bucket.url}/photos", place)
    assert report.skip_reasons == {"unreadable": 1}

    image_bucket.delete(f"photos/{names[-1]}")
    assert run((), place).missing == 1
    assert prune(place).files == 1


def test_an_object_replaced_while_the_run_goes_on_is_not_taken(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clipsearch import remote_images

    image_bucket.put_folder(pictures, "photos/")
    place = tmp_path / "some.index"
    small, large = sorted(pictures.iterdir(), key=lambda path: path.stat().st_size)[0::8][:2]
    monkeypatch.setattr(remote_images, "_PART_BYTES", large.stat().st_size - 1)
    listed = remote_images.list_objects

    def list_and_replace(folder: object) -> object:
        found = list(listed(folder))
        for one in (small, large):
            image_bucket.put(f"photos/{one.name}", one.read_bytes() + b"more")
        return iter(found)

    monkeypatch.setattr("indexer.remote_sources.list_objects", list_and_replace)
    report = run(f"{image_bucket.url}/photos", place)
    assert report.skip_reasons == {"unreadable": 2}
    assert {one.path.name for one in read_failures(place)} == {small.name, large.name}
    assert all("changed while it was read" in one.message for one in read_failures(place))
    monkeypatch.undo()


def test_large_objects_are_read_in_parts(
    image_bucket: ImageBucket,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clipsearch import remote_images
    from clipsearch.images import read_file

    photo = max(pictures.iterdir(), key=lambda path: path.stat().st_size)
    url = image_bucket.put("large.jpg", photo)
    monkeypatch.setattr(remote_images, "_PART_BYTES", photo.stat().st_size // 4 + 1)
    assert read_file(url, 200.0) == photo.read_bytes()
    assert image_bucket.reads() == ["large.jpg"] * 4


def test_photos_of_one_size_are_told_apart_by_how_they_begin(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    first, second = sorted(pictures.iterdir())[:2]
    size = max(first.stat().st_size, second.stat().st_size) + 10
    alike = [one.read_bytes().ljust(size, b"\0") for one in (first, second)]
    ends = alike[0][:-1] + b"\1"  # begins as the first one does
    for name, data in zip("abc", [*alike, ends], strict=True):
        image_bucket.put(f"photos/{name}.jpg", data)
    image_bucket.put("photos/d.jpg", alike[0])
    assert run(f"{image_bucket.url}/photos", tmp_path / "alike.index").new == 3
    found = known(tmp_path / "alike.index")
    assert found["a.jpg"][0] == found["d.jpg"][0]
    assert len({found[f"{name}.jpg"][0] for name in "abc"}) == 3


def test_a_folder_that_moved_to_a_bucket_is_the_same_images(
    image_bucket: ImageBucket,
    pictures: Path,
    mini_index: Path,
) -> None:
    """As after an upload: ``move`` tells the index, and nothing is encoded."""
    image_bucket.put_folder(pictures, "photos/")
    root = read_manifest(LocalStore(mini_index), "").roots[0].path
    before = known(mini_index)
    done = move(mini_index, root, f"{image_bucket.url}/photos", force=True)
    assert done.files == done.there == len(before)
    assert known(mini_index) == before
    assert run((), mini_index).new == 0
    assert {state for _, state in known(mini_index).values()} == {"present"}


def test_a_folder_is_not_moved_to_other_objects_of_the_same_names(
    image_bucket: ImageBucket, pictures: Path, tmp_path: Path
) -> None:
    run(pictures, tmp_path / "local.index")
    for file in pictures.iterdir():
        image_bucket.put(f"photos/{file.name}", file.read_bytes() + b"more")
        file.unlink()
    with pytest.raises(OptionError, match="0 are in s3://"):
        move(tmp_path / "local.index", pictures, f"{image_bucket.url}/photos")


def test_names_that_no_path_can_have_are_said(image_bucket: ImageBucket, tmp_path: Path) -> None:
    image_bucket.put("photos/a//b.jpg", b"x")
    with pytest.raises(RemoteError, match="holds a name that cannot be used"):
        run(f"{image_bucket.url}/photos", tmp_path / "none.index")


def test_index_and_images_may_both_be_in_a_bucket(
    image_bucket: ImageBucket,
    pictures: Path,
    cli_here: Cli,
) -> None:
    """The index lies beside the images, and is passed over among them."""
    image_bucket.put_folder(pictures, "photos/")
    place = f"{image_bucket.url}/photos/mine.index"
    done = cli_here(
        "index", f"{image_bucket.url}/photos", "--index", place, "--model", "mini", "--json"
    )
    assert done.returncode == 0, done.stderr
    count = len(list(pictures.iterdir()))
    document = json.loads(done.stdout)
    assert (document["new"] + document["copies"], document["ignored"]) == (count, 0)
    image_bucket.reads()
    done = cli_here("index", "--index", place, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["new"], document["ignored"]) == (0, 0, 0)
    assert [key for key in image_bucket.reads() if not key.startswith("photos/mine.index/")] == []
    done = cli_here("search", "a lion", "-k", "1", "--index", place)
    assert done.stdout.startswith(f"{image_bucket.url}/photos/".encode())


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
) -> None:
    names = distinct(pictures)
    for name in names:
        image_bucket.put(f"photos/{name}", pictures / name)
    place = tmp_path / "killed.index"
    program = f"""
import os
from indexer import build, build_index
from indexer.report import Committed
tasks = build._Run._tasks
build._Run._tasks = lambda run, rows: tasks(run, 2)  # images a shard
def hear(event):
    if isinstance(event, Committed):
        os._exit(9)
build_index({image_bucket.url!r} + "/photos", {str(place)!r}, encoder="mini", on_event=hear)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 9, done.stderr
    there = set(known(place))
    assert 0 < len(there) < len(names)
    image_bucket.reads()
    report = run((), place)
    assert report.new == len(names) - len(there)
    assert there.isdisjoint(key.removeprefix("photos/") for key in image_bucket.reads())
    assert set(known(place)) == set(names)


@pytest.mark.slow
def test_actors_of_ray_read_the_bucket_themselves(
    image_bucket: ImageBucket,
    pictures: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    image_bucket.put_folder(pictures, "photos/")
    source, place = f"{image_bucket.url}/photos", tmp_path / "ray.index"
    options = ("--index", place, "--model", "mini", "--runner", "ray", "--ray-actors", "1")
    done = cli("index", source, *options, timeout=300)
    assert done.returncode == 0, done.stderr
    run(source, tmp_path / "local.index")
    assert known(place) == known(tmp_path / "local.index")
    assert np.array_equal(vectors(place), vectors(tmp_path / "local.index"))
