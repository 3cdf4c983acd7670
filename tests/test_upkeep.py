"""Disks that are away, lists of files, dry runs, failures, prune, move and compact."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch import Query, open_index
from clipsearch.errors import (
    IndexLockedError,
    IndexNotFoundError,
    OptionError,
    SourceError,
)
from clipsearch.manifest import COPY_NAME, MANIFEST_NAME, Manifest, read_manifest
from clipsearch.store import LocalStore
from clipsearch.thumbnails import read_thumbnail
from indexer import IndexConfig, build_index
from indexer.build import preview
from indexer.compact import compact
from indexer.failures import read_failures
from indexer.known import read_known
from indexer.look import differences
from indexer.move import move
from indexer.prune import prune
from indexer.report import BuildReport
from indexer.watch import folders_to_look_at

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX")
Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]
PROGRAM = (sys.executable, "-c", "from clipsearch.cli import main; main()")
SMALL = IndexConfig(shard_seconds=1e-6)  # shards of 32 images, the fewest there are


def scene(path: Path, seed: int) -> Path:
    """A picture of its own for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((60, 45), Image.Resampling.BICUBIC).save(path, quality=92)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten pictures in two folders."""
    folder = tmp_path / "disk"
    for seed in range(10):
        scene(folder / ("a" if seed < 5 else "b") / f"{seed}.jpg", seed)
    return folder


@pytest.fixture
def place(tmp_path: Path, photos: Path) -> Path:
    """Their index."""
    index = tmp_path / "x.index"
    build_index(photos, index, encoder="mini")
    return index


def manifest_of(place: Path) -> Manifest:
    return read_manifest(LocalStore(place), str(place))


def files(place: Path) -> dict[str, tuple[int, str]]:
    """Absolute path -> (id, state)."""
    manifest = manifest_of(place)
    known = read_known(LocalStore(place), manifest)
    return {
        known.place(manifest, row): (known.row(row).id, known.row(row).state)
        for row in range(len(known))
    }


def states(place: Path) -> set[str]:
    return {state for _, state in files(place).values()}


def ids(place: Path) -> set[int]:
    """The ids that a search finds."""
    hits = open_index(place).search(Query(vector=[1.0] * 256), k=1000)
    assert all(hit.score == hit.cosine for hit in hits)
    return {hit.id for hit in hits}


def expect(report: BuildReport, **wanted: Any) -> None:
    assert {name: getattr(report, name) for name in wanted} == wanted
    assert report.found == report.indexed + report.copies + report.skipped + report.ignored


# -- a disk that is away ---------------------------------------------------------------------


def test_a_disk_that_is_away_and_comes_back(photos: Path, place: Path, tmp_path: Path) -> None:
    before = files(place)
    photos.rename(tmp_path / "away")
    report = build_index(photos, place)
    expect(report, new=0, found=0, missing=10, offline=(str(photos),))
    assert {path: id_ for path, (id_, _) in files(place).items()} == {
        path: id_ for path, (id_, _) in before.items()
    }
    assert states(place) == {"missing"}
    assert ids(place) == {id_ for id_, _ in before.values()}
    assert open_index(place).status().roots[0]["there"] is False
    (tmp_path / "away").rename(photos)
    expect(build_index([], place), new=0, missing=0, indexed=10, offline=())
    assert files(place) == before


def test_the_empty_place_of_a_disk_is_not_the_disk(
    photos: Path, place: Path, tmp_path: Path
) -> None:
    """Where a copy elsewhere would make a missing file forgotten, that of a disk is kept."""
    shutil.copytree(photos, tmp_path / "copy")
    expect(build_index(tmp_path / "copy", place), new=0, moved=0)
    photos.rename(tmp_path / "away")
    photos.mkdir()
    report = build_index([], place)
    expect(report, missing=10, new=0, indexed=10, offline=(str(photos),))
    assert len(files(place)) == 20
    shutil.rmtree(photos)
    (tmp_path / "away").rename(photos)
    expect(build_index([], place), missing=0, copies=10)


def test_a_folder_inside_a_root_that_is_gone(photos: Path, place: Path) -> None:
    shutil.rmtree(photos / "a")
    report = build_index(photos / "a", place)
    expect(report, missing=5, offline=(str(photos / "a"),))
    with pytest.raises(SourceError, match="no such folder"):
        build_index(photos / "never", place)


def test_no_folder_named_means_those_the_index_knows(photos: Path, place: Path) -> None:
    scene(photos / "new.jpg", 99)
    expect(build_index([], place), new=1, indexed=11)
    with pytest.raises(SourceError, match="no folder"):
        build_index([], place.parent / "other.index", encoder="mini")
    assert not (place.parent / "other.index").exists()


# -- lists of files --------------------------------------------------------------------------


def test_a_list_adds_and_takes_nothing_else_away(photos: Path, place: Path) -> None:
    before = files(place)
    new = scene(photos / "a" / "new.jpg", 77)
    (photos / "a" / "0.jpg").unlink()
    (photos / "b" / "9.jpg").unlink()
    (photos / "notes.txt").write_text("notes")
    listed = [new, photos / "a" / "0.jpg", photos / "a" / "never.jpg", photos / "notes.txt"]
    report = build_index([], place, listed=listed)
    expect(report, found=2, new=1, indexed=1, ignored=1, missing=1, not_there=1)
    after = files(place)
    assert after.pop(str(new)) == (10, "present")
    assert after.pop(str(photos / "a" / "0.jpg")) == (
        before[str(photos / "a" / "0.jpg")][0],
        "missing",
    )
    assert after == {path: row for path, row in before.items() if not path.endswith("a/0.jpg")}


def test_a_list_of_strangers_makes_one_root(tmp_path: Path) -> None:
    one, two = scene(tmp_path / "p/q/1.jpg", 1), scene(tmp_path / "p/r/2.jpg", 2)
    place = tmp_path / "x.index"
    expect(build_index([], place, listed=[two, one, one], encoder="mini"), found=2, new=2)
    assert [root.path for root in manifest_of(place).roots] == [str(tmp_path / "p")]
    assert files(place) == {str(one): (0, "present"), str(two): (1, "present")}
    expect(build_index(tmp_path / "p", place), new=0, indexed=2, copies=0)


@pytest.mark.slow
@posix_only
def test_a_list_on_standard_input(photos: Path, tmp_path: Path, cli: Cli) -> None:
    odd = os.fsencode(photos) + b"/a/line\nend \xff.jpg"
    scene(photos / "odd.jpg", 5000).rename(os.fsdecode(odd))
    plain = os.fsencode(photos / "b" / "7.jpg")
    for separator, names, new in ((b"\0", [odd, plain], 2), (b"\n", [plain, b""], 0)):
        done = subprocess.run(
            [*PROGRAM, "index", "-", "--json", "--index", "l.index", "--model", "mini"],
            input=separator.join(names),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["new"] == new
    assert cli("index", "-", "--index", tmp_path / "l.index").returncode == 1  # empty


# -- dry runs --------------------------------------------------------------------------------


def test_a_dry_run_says_it_all_and_writes_nothing(
    photos: Path, place: Path, tmp_path: Path, cli: Cli
) -> None:
    scene(photos / "new.jpg", 70)
    scene(photos / "a" / "1.jpg", 71)
    (photos / "a" / "2.jpg").rename(photos / "moved.jpg")
    shutil.copyfile(photos / "a" / "3.jpg", photos / "copy.jpg")
    os.utime(photos / "a" / "4.jpg", ns=(10**18, 10**18))
    (photos / "b" / "5.jpg").unlink()
    inside = {path: path.stat().st_mtime_ns for path in sorted(place.rglob("*"))}
    forecast, seen = preview(photos, place)
    told = {(c.kind, Path(c.path).name, Path(c.before or "x").name) for c in differences(seen)}
    assert told == {
        ("new", "new.jpg", "x"),
        ("changed", "1.jpg", "x"),
        ("moved", "moved.jpg", "2.jpg"),
        ("copy", "copy.jpg", "x"),
        ("touched", "4.jpg", "x"),
        ("missing", "5.jpg", "x"),
    }
    assert (forecast.encode, forecast.unchanged) == (2, 6)
    done = cli("index", photos, "--index", place, "--dry-run", "--json")
    assert done.returncode == 0
    *lines, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 6
    assert last["changes"] == dict.fromkeys(
        ("new", "changed", "moved", "copy", "touched", "missing"), 1
    )
    assert {path: path.stat().st_mtime_ns for path in sorted(place.rglob("*"))} == inside
    # And that is what a run does.
    expect(build_index(photos, place), new=2, moved=1, copies=1, missing=1)
    assert preview(photos, place)[0].changes == {}
    nowhere = tmp_path / "none.index"
    assert cli("index", photos, "--index", nowhere, "--dry-run").returncode == 0
    assert not nowhere.exists()


# -- failures --------------------------------------------------------------------------------


@pytest.mark.slow
def test_failures_are_listed_and_tried_again(photos: Path, place: Path, cli: Cli) -> None:
    good = (photos / "a" / "0.jpg").read_bytes()
    (photos / "cut.jpg").write_bytes(good[: len(good) // 2])
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("hello")
    expect(build_index(photos, place), skipped=3)
    assert [(f.path.name, f.reason) for f in read_failures(place)] == [
        ("empty.png", "empty"),
        ("cut.jpg", "truncated"),
        ("text.jpg", "unsupported"),
    ]
    done = cli("failures", "--index", place, "--json")
    assert [json.loads(line)["reason"] for line in done.stdout.splitlines()] == [
        "empty",
        "truncated",
        "unsupported",
    ]
    done = cli("failures", "--index", place, "--reason", "truncated", "-0")
    assert done.stdout == os.fsencode(photos / "cut.jpg") + b"\0"
    piped = cli("failures", "--index", place, "--reason", "empty").stdout
    assert piped.split(b"\t")[:2] == [os.fsencode(photos / "empty.png"), b"empty"]
    # A file that is repaired without a trace (same size, same time) is seen by --retry alone.
    before = (photos / "cut.jpg").stat()
    whole = scene(photos / "whole.jpg", 300).read_bytes()
    (photos / "whole.jpg").unlink()
    (photos / "cut.jpg").write_bytes(whole)
    os.utime(photos / "cut.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    table = read_failures(place, ["truncated"])[0]
    assert table.size == len(good) // 2
    done = cli("failures", "--retry", "--index", place, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["new"] == 1
    assert {f.path.name for f in read_failures(place)} == {"empty.png", "text.jpg"}
    for name in ("empty.png", "text.jpg"):
        (photos / name).unlink()
    done = cli("failures", "--retry", "--index", place)
    assert done.returncode == 3
    assert b"2 listed files not there" in done.stderr
    expect(build_index(photos, place), skipped=0)
    done = cli("failures", "--index", place)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_retried_file_gives_no_other_file_another_id(photos: Path, tmp_path: Path) -> None:
    """Whatever comes first in order of path, what was skipped before comes last."""
    place = tmp_path / "y.index"
    scene(photos / "0-first.jpg", 40)
    (photos / "0-first.jpg").rename(photos / "aside")
    (photos / "0-first.jpg").write_text("no picture")
    build_index(photos, place, encoder="mini")
    os.replace(photos / "aside", photos / "0-first.jpg")
    scene(photos / "z.jpg", 41)
    build_index(photos, place)
    after = files(place)
    assert after[str(photos / "z.jpg")][0] < after[str(photos / "0-first.jpg")][0]


# -- prune -----------------------------------------------------------------------------------


def test_prune_forgets_what_is_missing(photos: Path, place: Path, cli: Cli) -> None:
    shutil.copyfile(photos / "a" / "1.jpg", photos / "twin.jpg")
    build_index(photos, place)
    before = files(place)
    for name in ("a/0.jpg", "a/1.jpg", "b/6.jpg"):
        (photos / name).unlink()
    build_index(photos, place)
    assert len(ids(place)) == 10  # all are still found
    scene(photos / "b" / "6.jpg", 6)  # it is there again, and no scan has seen it yet
    plan = prune(place, dry_run=True)
    # 1.jpg was forgotten by the scan: its twin holds the image.
    assert (plan.files, plan.images, plan.back, plan.kept) == (1, 1, 1, {})
    assert files(place)[str(photos / "a" / "0.jpg")][1] == "missing"
    refused = cli("prune", "--index", place)
    assert refused.returncode == 2
    assert b"--yes" in refused.stderr
    done = cli("prune", "--index", place, "--yes")
    assert done.returncode == 0, done.stderr
    assert str(photos / "a" / "0.jpg") not in files(place)
    assert ids(place) == {id_ for id_, _ in before.values()} - {before[str(photos / "a/0.jpg")][0]}
    assert cli("prune", "--index", place, "--yes").returncode == 1  # nothing left to forget
    # The same photo comes back under its old id: an id belongs to a content.
    scene(photos / "again.jpg", 0)
    expect(build_index(photos, place), new=0)
    assert files(place)[str(photos / "again.jpg")][0] == before[str(photos / "a/0.jpg")][0]


def test_prune_leaves_a_disk_that_is_away_alone(photos: Path, place: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "away")
    build_index([], place)
    plan = prune(place)
    assert (plan.files, plan.kept) == (0, {str(photos): 10})
    assert len(ids(place)) == 10
    plan = prune(place, [photos / "a"])
    assert (plan.files, plan.images, plan.kept) == (5, 5, {})
    assert len(ids(place)) == 5
    with pytest.raises(OptionError, match="none of the folders"):
        prune(place, [tmp_path / "elsewhere"])


# -- move ------------------------------------------------------------------------------------


def test_move_a_root(photos: Path, place: Path, tmp_path: Path, cli: Cli) -> None:
    before = files(place)
    (photos / "bad.jpg").write_text("bad")
    build_index(photos, place)
    new = tmp_path / "new" / "disk"
    new.parent.mkdir()
    photos.rename(new)
    done = cli("move", photos, new, "--index", place)
    assert done.returncode == 0, done.stderr
    assert b"10 files moved" in done.stderr
    moved = {path.replace(str(photos), str(new)): row for path, row in before.items()}
    assert files(place) == moved
    assert [failure.path for failure in read_failures(place)] == [new / "bad.jpg"]
    report = build_index([], place)
    expect(report, new=0, moved=0, indexed=10, skipped=1, missing=0, offline=())
    assert files(place) == moved
    hits = open_index(place).search(Query(vector=[1.0] * 256), k=20)
    assert all(hit.path.is_file() and not hit.missing for hit in hits)


def test_move_a_folder_inside_a_root_and_out_of_it(
    photos: Path, place: Path, tmp_path: Path
) -> None:
    before = {Path(path).name: row for path, row in files(place).items()}
    (photos / "a").rename(photos / "c")
    assert move(place, photos / "a", photos / "c").files == 5
    out = tmp_path / "out"
    (photos / "b").rename(out)
    done = move(place, photos / "b", out)
    assert (done.files, done.looked_for, done.there) == (5, 5, 5)
    assert [root.path for root in manifest_of(place).roots] == [str(photos), str(out)]
    assert {Path(path).name: row for path, row in files(place).items()} == before
    assert all(Path(path).is_file() for path in files(place))
    expect(build_index([], place), new=0, indexed=10, missing=0)


def test_move_onto_a_folder_that_the_index_knows(photos: Path, place: Path, tmp_path: Path) -> None:
    """The disk was copied, both were indexed, the first was thrown away."""
    shutil.copytree(photos, tmp_path / "second")
    build_index(tmp_path / "second", place)
    shutil.rmtree(photos)
    build_index([], place)
    move(place, photos, tmp_path / "second")
    assert len(manifest_of(place).roots) == 1
    assert len(files(place)) == 10
    assert states(place) == {"present"}
    assert len(ids(place)) == 10


def test_a_move_that_makes_no_sense(photos: Path, place: Path, tmp_path: Path, cli: Cli) -> None:
    before = (place / MANIFEST_NAME).read_bytes()
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((photos, tmp_path / "empty"), b"10 are still in"),
        ((tmp_path / "stranger", photos), b"knows no file"),
        ((photos, photos), b"two different"),
    ):
        done = cli("move", *arguments, "--index", place)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count(b"\n") == 1
    assert cli("move", photos, "", "--index", place).returncode == 2
    photos.rename(tmp_path / "elsewhere")
    done = cli("move", photos, tmp_path / "empty", "--index", place)
    assert b"0 are in" in done.stderr
    assert (place / MANIFEST_NAME).read_bytes() == before
    assert cli("move", photos, tmp_path / "empty", "--force", "--index", place).returncode == 0


def test_move_onto_other_files_of_the_same_names(photos: Path, place: Path, tmp_path: Path) -> None:
    """What is there stays what it is, whatever is said to have come there."""
    other = tmp_path / "other"
    for seed in range(5):
        scene(other / f"{seed}.jpg", 700 + seed)
    build_index(other, place)
    before = files(place)
    with pytest.raises(OptionError, match="still in"):
        move(place, photos / "a", other)
    for path in (photos / "a").iterdir():
        path.unlink()
    with pytest.raises(OptionError, match="are in"):
        move(place, photos / "a", other)
    move(place, photos / "a", other, force=True)
    after = files(place)
    for seed in range(5):
        assert after[str(other / f"{seed}.jpg")] == before[str(other / f"{seed}.jpg")]
    expect(build_index([], place), new=0)


# -- compact ---------------------------------------------------------------------------------


def test_compact_keeps_every_answer(tmp_path: Path, cli: Cli) -> None:
    photos, place = tmp_path / "p", tmp_path / "c.index"
    for seed in range(80):
        scene(photos / f"{seed:02}.jpg", seed)
    build_index(photos, place, encoder="mini", config=SMALL)
    for seed in (3, 40, 79):
        scene(photos / f"{seed:02}.jpg", seed + 1000)  # their old contents are buried
    build_index(photos, place)
    before = manifest_of(place)
    assert len(before.images) >= 4
    assert before.deleted is not None
    assert before.deleted.rows == 3
    reader = open_index(place)
    query = np.random.default_rng(1).normal(size=256)
    answers = [(hit.id, hit.path) for hit in reader.search(Query(vector=query), k=100)]
    thumbnails = {id_: reader.thumbnail(id_) for id_, _ in answers}
    assert all(thumbnails.values())
    done = cli("compact", "--index", place)
    assert done.returncode == 0, done.stderr
    after = manifest_of(place)
    assert (len(after.images), after.deleted) == (1, None)
    assert after.next_id == before.next_id
    assert sum(shard.rows for shard in after.images) == 80
    named = {ref.name for ref in after.files()}
    on_disk = {p.relative_to(place).as_posix() for p in place.rglob("*.parquet")}
    assert on_disk == named
    fresh = open_index(place)
    assert [(hit.id, hit.path) for hit in fresh.search(Query(vector=query), k=100)] == answers
    assert {id_: fresh.thumbnail(id_) for id_ in thumbnails} == thumbnails
    assert [(hit.id, hit.path) for hit in reader.search(Query(vector=query), k=100)] == answers
    # Compacting again changes nothing, and no id is given a second time.
    assert compact(place).shards_after == 1
    assert manifest_of(place).generation == after.generation
    scene(photos / "new.jpg", 5000)
    build_index(photos, place)
    assert files(place)[str(photos / "new.jpg")][0] == before.next_id
    scene(photos / "03 back.jpg", 3)  # its content was let go of: it is encoded anew
    expect(build_index(photos, place), new=1)
    assert files(place)[str(photos / "03 back.jpg")][0] == before.next_id + 1


def test_compact_leaves_shards_of_other_recipes_apart(photos: Path, place: Path) -> None:
    scene(photos / "c" / "1.jpg", 500)
    build_index(photos, place, config=IndexConfig(decode="exact"))
    assert compact(place).shards_after == 2
    recipes = [
        shard.recipe["decode"]
        for shards in manifest_of(place).embeddings.values()
        for shard in shards
    ]
    assert recipes == ["fast", "exact"]


def test_an_index_of_nothing_but_deleted_images_compacts(photos: Path, place: Path) -> None:
    for path in photos.rglob("*.jpg"):
        path.unlink()
    scene(photos / "a" / "0.jpg", 900)
    build_index(photos, place)
    assert prune(place).kept == {str(photos / "b"): 5}  # which may be the place of a disk
    assert prune(place, [photos]).files == 5
    done = compact(place)
    assert (done.dropped, done.shards_after) == (10, 1)
    assert read_thumbnail(place / "cache", manifest_of(place), 10) is not None
    assert ids(place) == {10}


# -- writers ---------------------------------------------------------------------------------


def test_all_writers_want_the_lock_and_an_index(place: Path, photos: Path, tmp_path: Path) -> None:
    from indexer.lock import writer_lock

    calls = (
        lambda index: prune(index),
        lambda index: move(index, photos, tmp_path),
        lambda index: compact(index),
    )
    with writer_lock(place):
        for call in calls:
            with pytest.raises(IndexLockedError, match=str(os.getpid())):
                call(place)
    (tmp_path / "stranger").mkdir()
    for call in calls:
        with pytest.raises(IndexNotFoundError):
            call(tmp_path / "stranger")
    assert not list((tmp_path / "stranger").iterdir())


def test_an_older_manifest_put_back_gives_no_id_twice(photos: Path, place: Path) -> None:
    old = (place / MANIFEST_NAME).read_bytes()
    scene(photos / "later.jpg", 600)
    build_index(photos, place)
    newest = manifest_of(place)
    assert files(place)[str(photos / "later.jpg")][0] == 10
    (place / MANIFEST_NAME).write_bytes(old)
    scene(photos / "0 other.jpg", 601)
    build_index(photos, place)
    after = files(place)
    assert sorted((after[str(photos / "later.jpg")][0], after[str(photos / "0 other.jpg")][0])) == [
        11,
        12,
    ]
    assert manifest_of(place).generation > newest.generation
    assert (place / COPY_NAME).read_bytes() == (place / MANIFEST_NAME).read_bytes()


# -- watching --------------------------------------------------------------------------------


def test_which_folders_a_watch_looks_at(tmp_path: Path) -> None:
    for name in ("r/a/b", "r/c", "s"):
        (tmp_path / name).mkdir(parents=True)
    roots = [str(tmp_path / "r"), str(tmp_path / "s")]

    def look_at(*changed: str) -> set[str]:
        found = folders_to_look_at([str(tmp_path / name) for name in changed], roots)
        return {Path(folder).relative_to(tmp_path).as_posix() for folder in found}

    assert look_at("r/a/b/1.jpg", "r/a/b/2.jpg") == {"r/a/b"}
    assert look_at("r/a/b/1.jpg", "r/a/1.jpg") == {"r/a"}
    assert look_at("r/a/b/1.jpg", "r/c/gone/deep/x.jpg") == {"r/a/b", "r/c"}
    assert look_at("r/c", "s/x.jpg") == {"r/c", "s"}
    assert look_at("elsewhere/x.jpg") == set()
    assert look_at() == set()


def test_a_watch_passes_over_what_a_walk_does(tmp_path: Path) -> None:
    for name in ("r/private/x", "r/.hidden", "r/pub"):
        (tmp_path / name).mkdir(parents=True)
    changed = [
        str(tmp_path / "r" / n / "1.jpg") for n in ("private/x", "private", ".hidden", "pub")
    ]
    roots = [str(tmp_path / "r")]
    assert folders_to_look_at(changed, roots, ("private/*",)) == (
        str(tmp_path / "r" / "private"),
        str(tmp_path / "r" / "pub"),
    )
    assert folders_to_look_at(changed, roots, ("private",)) == (str(tmp_path / "r" / "pub"),)


def test_excluded_by_a_path_below_the_root(photos: Path, place: Path) -> None:
    scene(photos / "b" / "private" / "1.jpg", 801)
    scene(photos / "b" / "2.jpg", 802)
    config = IndexConfig(exclude=("b/private/*",))
    expect(build_index(photos / "b", place, config=config), new=1)
    assert str(photos / "b" / "private" / "1.jpg") not in files(place)


# -- out of reach ----------------------------------------------------------------------------


def test_what_cannot_be_looked_at_is_not_gone(
    photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder without the right to enter it, a dead network drive: nothing is forgotten."""
    second = tmp_path / "second"
    scene(second / "s.jpg", 900)
    shutil.copyfile(photos / "b" / "5.jpg", photos / "b" / "twin.jpg")
    build_index(second, place)
    build_index(photos, place)
    before = files(place)
    real = os.stat

    def refusing(path: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(away):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), path)
        return real(path, **options)

    away = str(photos)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refusing)
        report = build_index([], place)
        expect(report, new=0, indexed=1, offline=(away,), missing=11)
        assert prune(place).files == 0
    assert files(place).keys() == before.keys()
    expect(build_index([], place), new=0, missing=0)
    assert files(place) == before


@posix_only
def test_a_folder_that_may_be_listed_and_not_entered(
    photos: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(place)
    plain = os.scandir

    class Entry:
        """What scandir gives in a folder of mode 0444: names, and no more."""

        def __init__(self, entry: Any) -> None:
            self.name = entry.name

        def is_dir(self) -> bool:
            return False

        def stat(self) -> os.stat_result:
            raise PermissionError(errno.EACCES, "Permission denied")

    class Listing(list[Any]):
        def __enter__(self) -> Any:
            return iter(self)

        def __exit__(self, *_: object) -> None:
            pass

    def scandir(path: Any) -> Any:
        if isinstance(path, bytes) and path.endswith(b"/b"):
            with plain(path) as entries:
                return Listing(map(Entry, entries))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = build_index(photos, place)
    monkeypatch.undo()
    # As if they could be read after all, which makes no second image of any of them.
    expect(report, new=0, indexed=5, missing=0, skip_reasons={"unreadable": 5})
    assert files(place) == before
    expect(build_index(photos, place), new=0, indexed=10, skipped=0)
    assert files(place) == before


def test_a_folder_with_some_manifest_json_is_no_index(photos: Path, place: Path) -> None:
    (photos / MANIFEST_NAME).write_text('{"name": "web app"}')
    expect(build_index(photos, place), new=0, indexed=10, ignored=1)


def test_a_name_too_long_is_the_name_of_nothing(photos: Path, place: Path) -> None:
    report = build_index([], place, listed=["x" * 300 + ".png", photos / "a" / "0.jpg"])
    expect(report, found=1, indexed=1, not_there=1)


def test_a_single_file_that_is_gone(photos: Path, place: Path) -> None:
    (photos / "a" / "0.jpg").unlink()
    report = build_index([photos / "a" / "0.jpg", photos / "a" / "1.jpg"], place)
    expect(report, found=1, indexed=1, missing=1, offline=(), not_there=0)
    assert files(place)[str(photos / "a" / "0.jpg")][1] == "missing"


def test_a_disk_mounted_inside_a_root(photos: Path, place: Path, tmp_path: Path) -> None:
    """An inner root whose folder is empty is away, though the outer one was walked."""
    place = tmp_path / "n.index"
    build_index(photos / "b", place, encoder="mini")
    build_index(photos, place)
    shutil.copytree(photos / "b", photos / "a" / "copies")
    build_index(photos, place)
    (photos / "b").rename(tmp_path / "away")
    (photos / "b").mkdir()
    report = build_index([], place)
    expect(report, new=0, offline=(str(photos / "b"),), missing=5)
    assert sum(state == "missing" for _, state in files(place).values()) == 5


def test_what_was_too_large_is_tried_again_even_after_an_interrupt(tmp_path: Path) -> None:
    photos, place = tmp_path / "p", tmp_path / "t.index"
    for seed in range(3):
        scene(photos / f"{seed}.jpg", seed)
    report = build_index(photos, place, encoder="mini", config=IndexConfig(max_megapixels=0.001))
    expect(report, skipped=3, skip_reasons={"too_large": 3})
    for seed in range(40):
        scene(photos / f"n{seed}.jpg", 100 + seed)
    higher = IndexConfig(max_megapixels=1, shard_seconds=1e-6)

    def interrupt(event: Any) -> None:
        if type(event).__name__ == "Committed":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(photos, place, config=higher, on_event=interrupt)
    expect(build_index(photos, place, config=higher), skipped=0, indexed=43)


@pytest.mark.slow
@posix_only
def test_watch_indexes_what_comes_and_goes(photos: Path, tmp_path: Path) -> None:
    import signal
    import time

    place = tmp_path / "w.index"
    log = tmp_path / "watch.log"
    with open(log, "wb") as sink:
        watcher = subprocess.Popen(
            [*PROGRAM, "index", photos, "--index", place, "--model", "mini", "--watch"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            stderr=sink,
        )

    def wait_for(condition: Any) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, log.read_text()
            assert watcher.poll() is None, log.read_text()
            time.sleep(0.1)

    try:
        wait_for(lambda: "Watching" in log.read_text())
        scene(photos / "new folder" / "new.jpg", 800)
        wait_for(lambda: str(photos / "new folder" / "new.jpg") in files(place))
        (photos / "a").rename(photos / "renamed")
        wait_for(lambda: str(photos / "renamed" / "0.jpg") in files(place))
        wait_for(lambda: str(photos / "a" / "0.jpg") not in files(place))
        (photos / "b" / "9.jpg").unlink()
        wait_for(lambda: files(place)[str(photos / "b" / "9.jpg")][1] == "missing")
        assert len(files(place)) == 11
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(20) == 130
    finally:
        watcher.kill()
    assert "Traceback" not in log.read_text()
    assert "Everything that was indexed is saved" in log.read_text()


def test_no_folder_named_walks_no_more_than_was_named(tmp_path: Path) -> None:
    """A file of a list does not bring in what lies beside it."""
    one, beside = scene(tmp_path / "home/1.jpg", 1), scene(tmp_path / "home/private/2.jpg", 2)
    two = scene(tmp_path / "home/other/3.jpg", 3)
    place = tmp_path / "x.index"
    bad = tmp_path / "home" / "bad.jpg"
    bad.write_text("no picture")
    build_index([], place, listed=[one, two, bad], encoder="mini")
    assert manifest_of(place).sources == ()
    one.unlink()
    scene(two, 4)
    expect(build_index([], place), new=1, found=2, missing=1, skipped=1)
    scene(bad, 9)
    expect(build_index([], place), new=1, found=2, missing=1, skipped=0)
    bad.unlink()
    build_index(tmp_path / "home" / "other", place)
    assert manifest_of(place).sources == (str(tmp_path / "home" / "other"),)
    scene(tmp_path / "home/other/5.jpg", 5)
    expect(build_index([], place), new=1, found=2, missing=2)
    assert str(beside) not in files(place)
    build_index(tmp_path / "home", place)
    assert manifest_of(place).sources == (str(tmp_path / "home"),)
    assert str(beside) in files(place)
    move(place, tmp_path / "home", tmp_path / "new home", force=True)
    assert manifest_of(place).sources == (str(tmp_path / "new home"),)


@pytest.mark.slow
@posix_only
def test_no_more_than_a_few_open_files(tmp_path: Path) -> None:
    """However many shards and photos there are: 64 descriptors do for all of them."""
    import resource

    photos, place = tmp_path / "many", tmp_path / "f.index"
    for seed in range(330):
        scene(photos / f"{seed:03}.jpg", seed)
    for arguments in (
        ("index", photos, "--model", "mini", "--shard-seconds", "0.0001"),
        ("index", photos),
        ("verify", "--sample", "2"),
        ("compact",),
        ("search", "a tower", "-k", "1", "--min-score", "none"),
    ):
        done = subprocess.run(
            [*PROGRAM, *arguments, "--index", place],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stderr)
        if arguments[0] == "index":
            assert len(manifest_of(place).images) == 11
    assert len(manifest_of(place).images) == 1
