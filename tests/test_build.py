"""Building and updating an index, end to end, with real pictures and the built-in model."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import indexer.build
import indexer.device_decode
from clipsearch import Query, open_index
from clipsearch.encoder import load_encoder
from clipsearch.errors import (
    ImageError,
    IndexFormatError,
    IndexLockedError,
    OptionError,
    SourceError,
    SpaceMismatchError,
    UnknownModelError,
)
from clipsearch.images import read_image
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.open_clip_encoder import OpenClipEncoder
from clipsearch.shards import IMAGE_SCHEMA, PATH_SCHEMA, SKIPPED_SCHEMA
from clipsearch.store import LocalStore
from indexer import IndexConfig, build_index
from indexer.build import saved_config
from indexer.known import read_known
from indexer.report import Committed, Encoded, Event, Planned

MINI = Path(indexer.build.__file__).parents[1] / "clipsearch" / "models" / "mini"


def scene(path: Path, seed: int, size: tuple[int, int] = (120, 90)) -> Path:
    """A picture of its own for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
    return path


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Fourteen small pictures."""
    folder = tmp_path / "scenes"
    for seed in range(14):
        scene(folder / f"{seed:02}.jpg", seed)
    return folder


@contextmanager
def counted_encoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures every call of the encoder got (the probe of the estimate as well)."""
    calls: list[int] = []
    real = OpenClipEncoder.encode_images

    def counting(self: OpenClipEncoder, pixels: Any) -> Any:
        calls.append(len(pixels))
        return real(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(OpenClipEncoder, "encode_images", counting)
        yield calls


def manifest_of(place: Path) -> Manifest:
    return read_manifest(LocalStore(place), str(place))


def ids_by_name(place: Path) -> dict[str, tuple[int, str]]:
    """Path -> (id, state) of every row of the paths table that counts."""
    rows = read_known(LocalStore(place), manifest_of(place))
    return {os.fsdecode(row.path): (row.id, row.state) for row in rows}


def vectors_by_id(place: Path) -> dict[int, np.ndarray]:
    rows: dict[int, np.ndarray] = {}
    for file in sorted((place / "embeddings").glob("*/*.parquet")):
        table = pq.read_table(file)
        for id_, data in zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
            assert id_ not in rows, "an id is in two shards"
            rows[id_] = np.frombuffer(data, "<f2").astype(np.float32)
    return rows


def found_ids(place: Path) -> set[int]:
    """The ids that a search can bring and that a classification holds; the two must agree."""
    index = open_index(place, text_cache=place.parent / "text.sqlite")
    searched = {hit.id for hit in index.search("a photo", k=1000)}
    assert set(index.classify(["a dog", "a house"]).ids.tolist()) == searched
    assert len(index) == len(searched)
    return searched


def listing(folder: Path) -> list[tuple[str, int, int, bytes]]:
    """Everything in a folder: name, mode, time of change, content; folders' times as well."""
    rows = []
    for path in sorted([folder, *folder.rglob("*")]):
        info = path.lstat()
        data = path.read_bytes() if path.is_file() else b""
        rows.append((str(path.relative_to(folder)), info.st_mode, info.st_mtime_ns, data))
    return rows


# -- the account ---------------------------------------------------------------------------


def mixed_folder(pictures: Path) -> None:
    photo = next(iter(sorted(pictures.glob("*.jpg"))))
    data = photo.read_bytes()
    (pictures / "sub").mkdir()
    shutil.copyfile(photo, pictures / "sub" / "copy.jpg")
    (pictures / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"garbage!" * 60)
    (pictures / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (pictures / "truncated copy.jpg").write_bytes(data[: len(data) // 2])
    (pictures / "empty.jpg").write_bytes(b"")
    (pictures / "text.jpg").write_text("this is a text\n" * 20)
    (pictures / "film.mov").write_bytes(b"\0" * 100)
    (pictures / "side.xmp").write_text("<x/>")
    (pictures / "side2.XMP").write_text("<x/>")


def test_account_of_a_mixed_folder(pictures: Path, tmp_path: Path) -> None:
    contents = len({path.read_bytes() for path in pictures.iterdir()})
    files = len(list(pictures.iterdir()))
    mixed_folder(pictures)
    report = build_index(pictures, tmp_path / "x.index", encoder="mini")
    assert report.found == files + 9
    assert report.indexed == report.new == contents
    assert report.copies == files - contents + 1
    assert report.skipped == 5
    assert report.ignored == 3
    assert report.ignored_kinds == {".xmp": 2, ".mov": 1}
    assert report.found == report.indexed + report.copies + report.skipped + report.ignored
    assert sum(report.skip_reasons.values()) == 5
    assert report.skip_reasons["empty"] == 1
    # The copy of what cannot be taken goes with it, for the same reason.
    why = {Path(path).name: message for path, message in report.skipped_examples}
    assert why["truncated.jpg"] == why["truncated copy.jpg"]
    assert report.skip_reasons["truncated"] >= 2
    assert report.skip_reasons["unsupported"] == 1
    names = {Path(path).name for path, _ in report.skipped_examples}
    assert names == {
        "corrupt.png", "truncated.jpg", "truncated copy.jpg", "empty.jpg", "text.jpg",
    }  # fmt: skip
    assert not report.missing
    again = build_index(pictures, tmp_path / "x.index")
    assert (again.found, again.indexed, again.copies) == (report.found, contents, report.copies)
    assert (again.skipped, again.ignored, again.new) == (5, 3, 0)
    assert again.skip_reasons == report.skip_reasons
    assert set(again.skipped_examples) == set(report.skipped_examples)
    status = open_index(tmp_path / "x.index").status()
    assert (status.images, status.copies, status.skipped) == (contents, report.copies, 5)
    assert status.files_present == contents + report.copies


def test_events_add_up(pictures: Path, tmp_path: Path) -> None:
    mixed_folder(pictures)
    events: list[Event] = []
    report = build_index(pictures, tmp_path / "x.index", encoder="mini", on_event=events.append)
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert events[0] is planned
    assert planned.found == report.found
    encoded = sum(event.count for event in events if isinstance(event, Encoded))
    assert encoded == planned.new == report.new + 4  # one of the five skipped is a copy
    assert [event.images for event in events if isinstance(event, Committed)][-1] == report.new
    assert planned.disk_bytes > 0
    assert planned.model == "mini"


def test_an_index_of_nothing_but_bad_images_answers(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"no picture")
    report = build_index(folder, tmp_path / "x.index", encoder="mini")
    assert (report.indexed, report.skipped) == (0, 1)
    index = open_index(tmp_path / "x.index", text_cache=tmp_path / "text.sqlite")
    assert len(index.search("a dog")) == 0
    assert len(index.classify(["dog", "cat"])) == 0
    scene(folder / "a.jpg", 1)
    assert build_index(folder, tmp_path / "x.index").indexed == 1
    assert len(found_ids(tmp_path / "x.index")) == 1


# -- again -----------------------------------------------------------------------------------


def test_a_second_run_encodes_nothing_and_makes_no_generation(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed_folder(pictures)
    place = tmp_path / "x.index"
    first = build_index(pictures, place, encoder="mini")
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a file was decoded although nothing changed")

    monkeypatch.setattr(indexer.device_decode, "decode_in_order", never)
    with counted_encoding(monkeypatch) as calls:
        second = build_index(pictures, place)
        third = build_index(pictures, place, encoder="mini")
    assert calls == []
    assert second.new == third.new == 0
    assert second.generation == third.generation == first.generation
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    del before[place / "writer.lock"], after[place / "writer.lock"]
    # The manifest and its copy say when the folder was last scanned; nothing else is touched.
    assert after.keys() == before.keys()
    touched = {path.name for path in after if after[path] != before[path]}
    assert touched == {"manifest.json", "manifest.copy.json"}


def test_moves_copies_and_touches_cost_no_encoding(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    before = ids_by_name(place)
    (scenes / "sub").mkdir()
    (scenes / "00.jpg").rename(scenes / "sub" / "moved.jpg")
    (scenes / "01.jpg").rename(scenes / "renamed.jpg")
    shutil.copyfile(scenes / "02.jpg", scenes / "copy.jpg")
    os.utime(scenes / "03.jpg", ns=(10**18, 10**18))
    (scenes / "04.jpg").unlink()
    with counted_encoding(monkeypatch) as calls:
        report = build_index(scenes, place)
    assert calls == []
    assert (report.new, report.copies, report.missing) == (0, 1, 1)
    after = ids_by_name(place)
    assert after["sub/moved.jpg"] == before["00.jpg"]
    assert after["renamed.jpg"] == before["01.jpg"]
    assert after["copy.jpg"] == after["02.jpg"] == before["02.jpg"]
    assert after["03.jpg"] == before["03.jpg"]
    assert after["04.jpg"] == (before["04.jpg"][0], "missing")
    assert "00.jpg" not in after
    assert "01.jpg" not in after
    # The missing one is still found, and said to be missing.
    index = open_index(place, text_cache=tmp_path / "text.sqlite")
    hits = {hit.id: hit for hit in index.search("a photo", k=50)}
    assert len(hits) == 14
    assert hits[before["04.jpg"][0]].missing
    assert not hits[before["00.jpg"][0]].missing
    assert hits[before["00.jpg"][0]].path == scenes / "sub" / "moved.jpg"
    copies = hits[before["02.jpg"][0]]
    assert {copies.path, *copies.copies} == {scenes / "02.jpg", scenes / "copy.jpg"}


def test_a_missing_file_that_turns_up_elsewhere_has_moved(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    before = ids_by_name(place)
    (scenes / "00.jpg").rename(tmp_path / "aside.jpg")
    assert build_index(scenes, place).missing == 1
    (tmp_path / "aside.jpg").rename(scenes / "back.jpg")
    report = build_index(scenes, place)
    assert (report.new, report.missing, report.copies) == (0, 0, 0)
    after = ids_by_name(place)
    assert after["back.jpg"] == before["00.jpg"]
    assert "00.jpg" not in after


def test_a_file_that_returns_is_present_again(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    before = ids_by_name(place)
    data = (scenes / "00.jpg").read_bytes()
    (scenes / "00.jpg").unlink()
    assert build_index(scenes, place).missing == 1
    (scenes / "00.jpg").write_bytes(data)  # with another time of change
    report = build_index(scenes, place)
    assert (report.new, report.missing, report.indexed) == (0, 0, 14)
    assert ids_by_name(place) == before


def test_changed_content_gets_a_new_id_and_the_old_one_is_buried(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    before = ids_by_name(place)
    old_data = (scenes / "05.jpg").read_bytes()
    scene(scenes / "05.jpg", 500)
    with counted_encoding(monkeypatch) as calls:
        report = build_index(scenes, place)
    assert sum(calls) == 1
    assert (report.new, report.indexed, report.missing) == (1, 14, 0)
    old, new = before["05.jpg"][0], ids_by_name(place)["05.jpg"][0]
    assert new > max(id_ for id_, _ in before.values())
    assert old not in found_ids(place)
    assert new in found_ids(place)
    assert len(found_ids(place)) == 14
    index = open_index(place)
    assert index.vectors_of([old, new])[0].tolist() == [new]
    # The old content comes back, and with it its id: it was given once, to this content.
    (scenes / "old.jpg").write_bytes(old_data)
    assert build_index(scenes, place).new == 0
    assert ids_by_name(place)["old.jpg"][0] == old
    assert {old, new} <= set(found_ids(place))


def test_a_read_error_buries_nothing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changed and cannot be read just now may still be what it was."""
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    before = ids_by_name(place)
    photo = scenes / "05.jpg"
    data = photo.read_bytes()
    photo.unlink()
    scene(photo, 500)

    def failing(*_: object, **__: object) -> Iterator[ImageError]:
        yield ImageError("unreadable", "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(indexer.device_decode, "decode_in_order", failing)
        report = build_index(scenes, place)
    assert (report.skipped, report.skip_reasons) == (1, {"unreadable": 1})
    assert before["05.jpg"][0] in found_ids(place)
    photo.write_bytes(data)
    assert build_index(scenes, place).new == 0
    assert ids_by_name(place)["05.jpg"][0] == before["05.jpg"][0]


def test_a_moved_root_is_found_at_its_new_place(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    moved = scenes.rename(tmp_path / "moved")
    report = build_index(moved, place)
    assert (report.new, report.indexed) == (0, 14)
    index = open_index(place)
    hits = index.search(Query(vector=[1.0] * 256), k=100)
    assert len(hits) == len(index)
    assert all(hit.path.is_file() and not hit.missing and not hit.copies for hit in hits)
    status = index.status()
    assert (status.files_present, status.files_missing) == (14, 14)


@pytest.mark.skipif(sys.platform == "win32", reason="links want a privilege there")
def test_a_folder_by_another_name_is_the_same_root(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    (tmp_path / "link").symlink_to(scenes)
    report = build_index(tmp_path / "link", place)
    assert (report.new, report.copies) == (0, 0)
    assert len(open_index(place).status().roots) == 1


def test_a_copy_that_vanishes_while_the_other_changes_is_missing_not_lost(
    scenes: Path, tmp_path: Path
) -> None:
    place = tmp_path / "x.index"
    shutil.copyfile(scenes / "00.jpg", scenes / "copy.jpg")
    build_index(scenes, place, encoder="mini")
    old = ids_by_name(place)["00.jpg"][0]
    scene(scenes / "00.jpg", 700)
    (scenes / "copy.jpg").unlink()
    assert build_index(scenes, place).missing == 1
    assert ids_by_name(place)["copy.jpg"] == (old, "missing")
    assert old in found_ids(place)


def test_ids_rise_and_are_never_reused(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    given: dict[int, bytes] = {}
    highest = -1
    for round_ in range(4):
        build_index(scenes, place, encoder="mini")
        new_ids = []
        for file in sorted((place / "images").glob("*.parquet")):
            table = pq.read_table(file)
            ids = table["id"].to_pylist()
            assert ids == sorted(set(ids))
            for id_, sha in zip(ids, table["sha256"].to_pylist(), strict=True):
                assert given.setdefault(id_, sha) == sha, "an id was given twice"
                if id_ > highest:
                    new_ids.append(id_)
        assert new_ids
        assert highest < min(new_ids)
        highest = max(given)
        assert manifest_of(place).next_id > highest
        # The newest vanish and change, so that a careless count would give their ids again.
        for path in sorted(scenes.iterdir())[-3:]:
            path.unlink()
        scene(sorted(scenes.iterdir())[-1], 1000 + round_)
        scene(scenes / f"new{round_}.jpg", 2000 + round_)
    assert set(vectors_by_id(place)) == set(given)


def test_a_repaired_file_leaves_the_skipped_table(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x.index"
    good = (scenes / "00.jpg").read_bytes()
    for name in ("00.jpg", "also.jpg"):
        (scenes / name).write_bytes(good[: len(good) // 2])
    (scenes / "other.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    report = build_index(scenes, place, encoder="mini")
    assert (report.indexed, report.skipped) == (13, 3)
    (scenes / "00.jpg").write_bytes(good)
    with counted_encoding(monkeypatch) as calls:
        report = build_index(scenes, place)
    assert sum(calls) == 1
    assert (report.indexed, report.new, report.skipped) == (14, 1, 2)
    ref = manifest_of(place).skipped
    assert ref is not None
    assert set(pq.read_table(place / ref.name)["name"].to_pylist()) == {"also.jpg", "other.png"}
    (scenes / "also.jpg").unlink()
    report = build_index(scenes, place)
    assert report.skipped == 1
    assert open_index(place).status().skipped == 1


def test_a_good_file_that_goes_bad_is_skipped_and_no_longer_found(
    scenes: Path, tmp_path: Path
) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    old = ids_by_name(place)["00.jpg"][0]
    (scenes / "00.jpg").write_bytes(b"gone bad")
    report = build_index(scenes, place)
    assert (report.indexed, report.skipped, report.missing) == (13, 1, 0)
    assert old not in found_ids(place)


def test_a_higher_limit_takes_what_was_too_large(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "x.index"
    scene(scenes / "large.jpg", 99, (400, 300))
    small = IndexConfig(max_megapixels=0.1)
    report = build_index(scenes, place, encoder="mini", config=small)
    assert report.skip_reasons == {"too_large": 1}
    assert build_index(scenes, place).skipped == 1, "the limit is remembered"
    report = build_index(scenes, place, config=IndexConfig(max_megapixels=1))
    assert (report.new, report.skipped, report.indexed) == (1, 0, 15)


def test_a_file_that_vanishes_during_the_run(scenes: Path, tmp_path: Path) -> None:
    photo, elsewhere = scenes / "03.jpg", tmp_path / "03.jpg"

    def lose(event: Event) -> None:
        if isinstance(event, Planned):
            photo.rename(elsewhere)

    place = tmp_path / "x.index"
    report = build_index(scenes, place, encoder="mini", on_event=lose)
    elsewhere.rename(photo)
    assert report.skip_reasons == {"vanished": 1}
    report = build_index(scenes, place)  # such a file is tried again though it did not change
    assert (report.new, report.skipped, report.indexed) == (1, 0, 14)


def test_copies_of_a_file_that_changes_during_the_run_do_not_get_its_id(
    scenes: Path, tmp_path: Path
) -> None:
    place = tmp_path / "x.index"
    old = (scenes / "00.jpg").read_bytes()
    (scenes / "zz copy.jpg").write_bytes(old)

    def change(event: Event) -> None:
        if isinstance(event, Planned):
            scene(scenes / "00.jpg", 4242)

    build_index(scenes, place, encoder="mini", on_event=change)
    build_index(scenes, place)
    rows = ids_by_name(place)
    assert rows["00.jpg"][0] != rows["zz copy.jpg"][0]
    assert len(found_ids(place)) == 15


# -- interrupted -----------------------------------------------------------------------------


def stop_after(shards: int) -> Callable[[Event], None]:
    left = [shards]

    def hear(event: Event) -> None:
        if isinstance(event, Committed):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

    return hear


def test_an_interrupted_run_is_searchable_and_goes_on_to_the_same_end(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scenes / "02.jpg").write_bytes(b"bad")
    shutil.copyfile(scenes / "00.jpg", scenes / "zz copy.jpg")
    shutil.copyfile(scenes / "02.jpg", scenes / "zz bad copy.jpg")
    whole, cut = tmp_path / "whole.index", tmp_path / "cut.index"
    build_index(scenes, whole, encoder="mini")

    monkeypatch.setattr(indexer.estimate, "_PROBE_IMAGES", 2)
    monkeypatch.setattr(indexer.estimate, "_SHARD_ROWS", (4, 4))
    config = IndexConfig(batch_size=3, exclude=("*.tmp.jpg",))
    with pytest.raises(KeyboardInterrupt):
        build_index(scenes, cut, encoder="mini", config=config, on_event=stop_after(1))
    assert saved_config(cut) == config, "it goes on as it began"
    assert len(found_ids(cut)) == 3
    assert not list(cut.rglob(".tmp-*"))
    with pytest.raises(KeyboardInterrupt):
        build_index(scenes, cut, on_event=stop_after(1))
    assert len(found_ids(cut)) == 7
    with counted_encoding(monkeypatch) as calls:
        report = build_index(scenes, cut)
    assert report.new == 6
    assert sum(calls) == 6, "only the rest: what the first run measured is remembered"
    assert (report.indexed, report.copies, report.skipped) == (13, 1, 2)

    assert ids_by_name(cut) == ids_by_name(whole)
    one, other = vectors_by_id(whole), vectors_by_id(cut)
    assert set(one) == set(other)
    for id_, row in one.items():
        cosine = row @ other[id_] / np.linalg.norm(row) / np.linalg.norm(other[id_])
        assert cosine >= 0.99999

    def images(place: Path) -> list[dict[str, Any]]:
        files = sorted((place / "images").glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    assert images(cut) == images(whole)
    assert len(manifest_of(cut).images) > 2
    assert found_ids(cut) == found_ids(whole)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["KeyboardInterrupt", "MemoryError"])
def test_what_befalls_the_words_after_a_run_does_not_spoil_it(
    trouble: str, scenes: Path, tmp_path: Path
) -> None:
    program = f"""
import indexer.background_texts
from clipsearch.cli import main
from indexer.lock import writer_lock
from pathlib import Path

def fail(texts):
    with writer_lock(Path("x.index")):  # which the run has given back by now
        raise {trouble}

indexer.background_texts.prepare_background = fail
main()
"""
    options = ["--index", "x.index", "--model", "mini", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, "index", str(scenes), *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new"] == len(found_ids(tmp_path / "x.index"))
    assert "Interrupted" not in done.stderr


def test_what_a_killed_run_left_is_not_in_the_way(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer.estimate, "_PROBE_IMAGES", 2)
    monkeypatch.setattr(indexer.estimate, "_SHARD_ROWS", (4, 4))
    place = tmp_path / "x.index"
    with pytest.raises(KeyboardInterrupt):
        build_index(scenes, place, encoder="mini", on_event=stop_after(1))
    space = manifest_of(place).default_space
    junk = [
        "images/00001.parquet",
        f"embeddings/{space}/00001.parquet",
        f"embeddings/{space}/00007.parquet",
        "paths/0000002.parquet",
        "paths/0000009.parquet",
        "skipped/0000002.parquet",
        "deleted/0000003.parquet",
        "images/.tmp-123-abc",
        ".tmp-123-abc",
        "cache/thumbnails/00001.arrow",
    ]
    for name in junk:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"half written")
    report = build_index(scenes, place)
    assert report.indexed == 14
    assert found_ids(place) == set(range(14))
    assert not list(place.rglob(".tmp-*"))
    kept = {ref.name for ref in manifest_of(place).files()}
    on_disk = {
        path.relative_to(place).as_posix()
        for path in place.rglob("*.parquet")
        if "cache" not in path.parts
    }
    assert kept <= on_disk
    assert f"embeddings/{space}/00007.parquet" not in on_disk
    assert open_index(place).thumbnail(5) is not None


def test_a_first_run_killed_before_its_first_commit(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    (place / "images").mkdir(parents=True)
    (place / "images" / "00000.parquet").write_bytes(b"half written")
    (place / "writer.lock").touch()
    assert build_index(scenes, place, encoder="mini").indexed == 14
    assert len(found_ids(place)) == 14


def test_an_interrupt_before_the_first_commit_leaves_no_folder(
    scenes: Path, tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Encoded):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(scenes, tmp_path / "x.index", encoder="mini", on_event=stop)
    assert not (tmp_path / "x.index").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt):
        build_index(scenes, tmp_path / "mine", encoder="mini", on_event=stop)
    assert (tmp_path / "mine").is_dir(), "a folder that was there before stays"
    assert build_index(scenes, tmp_path / "mine", encoder="mini").indexed == 14


# -- roots -----------------------------------------------------------------------------------


def tree(tmp_path: Path) -> Path:
    top = tmp_path / "a"
    for seed, name in enumerate(("0.jpg", "1.jpg", "b/2.jpg", "b/3.jpg", "b/c/4.jpg")):
        scene(top / name, seed)
    return top


@pytest.mark.parametrize("order", [("b", ""), ("", "b"), ("b/c", "b", ""), ("", "b/c")])
def test_nested_roots_count_every_file_once(
    order: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tree(tmp_path)
    place = tmp_path / "x.index"
    with counted_encoding(monkeypatch) as calls:
        for name in order:
            build_index(top / name, place, encoder="mini")
    assert sum(calls) == 5
    report = build_index([top, top / "b"], place)
    assert (report.found, report.indexed, report.copies, report.missing) == (5, 5, 0, 0)
    assert len(ids_by_name(place)) == 5
    # A file deep inside is missed whichever of the folders is scanned.
    (top / "b" / "c" / "4.jpg").unlink()
    assert build_index(top, place).missing == 1
    paths = {hit.path: hit.missing for hit in open_index(place).search("a photo", k=9)}
    assert set(paths) == {top / name for name in ("0.jpg", "1.jpg", "b/2.jpg", "b/3.jpg")} | {
        top / "b" / "c" / "4.jpg"
    }
    assert paths[top / "b" / "c" / "4.jpg"]


def test_two_roots_and_one_that_is_not_scanned(tmp_path: Path) -> None:
    one, two, place = tmp_path / "one", tmp_path / "two", tmp_path / "x.index"
    scene(one / "a.jpg", 1)
    scene(two / "a.jpg", 2)
    shutil.copyfile(one / "a.jpg", two / "b.jpg")
    report = build_index([one, two], place, encoder="mini")
    assert (report.found, report.indexed, report.copies) == (3, 2, 1)
    assert [root.path for root in manifest_of(place).roots] == [str(one), str(two)]
    shutil.rmtree(two)
    report = build_index(one, place)
    assert (report.found, report.missing) == (1, 0), "two was not looked at"


def test_an_emptied_folder_is_missing_and_a_never_filled_one_an_error(
    scenes: Path, tmp_path: Path
) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    generation = manifest_of(place).generation
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no images in"):
        build_index(tmp_path / "empty", place)
    assert manifest_of(place).generation == generation
    for path in scenes.iterdir():
        path.unlink()
    report = build_index(scenes, place)
    assert (report.found, report.missing) == (0, 14)
    assert len(found_ids(place)) == 14


# -- models ----------------------------------------------------------------------------------


def test_another_model_is_refused_and_both_are_named(
    scenes: Path, tmp_path: Path, photo1k: str
) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    before = listing(place)
    scene(scenes / "new.jpg", 77)
    with pytest.raises(SpaceMismatchError) as caught:
        build_index(scenes, place, encoder=photo1k)
    assert "mini" in str(caught.value)
    assert photo1k in str(caught.value)
    names = {name for name, *_ in before}
    assert {name for name, *_ in listing(place)} == names
    assert str(manifest_of(place).default_space) in str(caught.value)


def test_a_model_folder_that_moved_is_known_by_its_fingerprint(
    scenes: Path, tmp_path: Path
) -> None:
    place = tmp_path / "x.index"
    first, second = tmp_path / "model", tmp_path / "elsewhere" / "model"
    shutil.copytree(MINI, first)
    build_index(scenes, place, encoder=str(first))
    space = manifest_of(place).default_space
    second.parent.mkdir()
    first.rename(second)
    build_index(scenes, place, encoder=str(second))  # nothing new, and yet it is remembered
    assert space is not None
    assert manifest_of(place).spaces[space].model == str(second.resolve())
    scene(scenes / "new.jpg", 77)
    assert build_index(scenes, place).new == 1
    assert len(found_ids(place)) == 15
    assert manifest_of(place).default_space == space


def test_embeddings_are_those_of_open_clip(pictures: Path, mini_index: Path) -> None:
    import open_clip
    import torch

    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{MINI}")
    net.eval()
    rows = vectors_by_id(mini_index)
    compared = 0
    for name, (id_, _) in ids_by_name(mini_index).items():
        with Image.open(pictures / name) as image:
            upright = image.getexif().get(0x0112, 1) == 1
            if image.mode != "RGB" or not upright:
                continue
            with torch.no_grad():
                direct = net.encode_image(preprocess(image)[None], normalize=True)[0].numpy()
        cosine = float(direct @ rows[id_]) / float(np.linalg.norm(rows[id_]))
        assert cosine >= 0.9999, name
        assert abs(float(np.linalg.norm(rows[id_])) - 1) < 1e-3
        compared += 1
    assert compared >= 4


# -- one writer ------------------------------------------------------------------------------

_HOLD = """
import sys, time
from pathlib import Path
from indexer.lock import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def lock_holder(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join([str(MINI.parents[2]), os.environ.get("PYTHONPATH", "")])
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(place)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        yield holder
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_one_writer_at_a_time(mini_index: Path, pictures: Path) -> None:
    generation = manifest_of(mini_index).generation
    with lock_holder(mini_index) as holder:
        with pytest.raises(IndexLockedError) as caught:
            build_index(pictures, mini_index)
        assert f"process {holder.pid}" in str(caught.value)
        assert str(mini_index) in str(caught.value)
        assert len(found_ids(mini_index)) > 0, "reading goes on meanwhile"
        holder.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        holder.wait()
    assert (mini_index / "writer.json").exists(), "the dead one could not tidy up"
    report = build_index(pictures, mini_index)
    assert report.generation > generation  # a second root; nothing was encoded
    assert report.new == 0


def test_a_second_writer_leaves_the_first_one_s_new_index_alone(
    scenes: Path, tmp_path: Path
) -> None:
    """A new index has no manifest before its first commit; its folder must survive a second run."""
    place = tmp_path / "x.index"
    (place / "images").mkdir(parents=True)
    with lock_holder(place):
        (place / "images" / "00000.parquet").write_bytes(b"being written")
        with pytest.raises(IndexLockedError):
            build_index(scenes, place, encoder="mini")
        assert (place / "images" / "00000.parquet").read_bytes() == b"being written"


# -- places ----------------------------------------------------------------------------------


def test_nothing_is_written_into_the_photo_folder(pictures: Path, tmp_path: Path) -> None:
    mixed_folder(pictures)
    before = listing(pictures)
    place = tmp_path / "x.index"
    build_index(pictures, place, encoder="mini")
    build_index(pictures, place)
    found_ids(place)
    assert listing(pictures) == before


def test_an_index_inside_the_photo_folder_does_not_index_itself(scenes: Path) -> None:
    place = scenes / "of these"
    build_index(scenes, place, encoder="mini")
    report = build_index(scenes, place)
    assert (report.found, report.new, report.ignored) == (14, 0, 0)


@pytest.mark.parametrize("inside", ["", "images", "cache", "images/2024"])
def test_a_folder_of_photos_is_never_taken_for_an_index(
    inside: str, scenes: Path, tmp_path: Path
) -> None:
    album = tmp_path / "album"
    shutil.copytree(scenes, album / inside)
    before = listing(album)
    for sources in (scenes, album):
        with pytest.raises(OptionError, match="not an index"):
            build_index(sources, album, encoder="mini")
        assert listing(album) == before


def test_an_index_that_lost_its_manifest_is_not_overwritten(
    mini_index: Path, pictures: Path
) -> None:
    (mini_index / "manifest.json").unlink()
    before = listing(mini_index)
    with pytest.raises((IndexFormatError, OptionError)) as caught:
        build_index(pictures, mini_index, encoder="mini")
    assert str(mini_index) in str(caught.value)
    assert listing(mini_index) == before


def test_a_file_where_the_index_should_be(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "x.index").write_text("mine")
    with pytest.raises(OptionError, match="is a file"):
        build_index(scenes, tmp_path / "x.index", encoder="mini")
    with pytest.raises(OptionError):
        build_index(scenes, tmp_path / "x.index" / "deeper", encoder="mini")
    assert (tmp_path / "x.index").read_text() == "mine"


@pytest.mark.parametrize(
    ("folder", "model", "error"),
    [("empty", "mini", SourceError), ("texts", "mini", SourceError),
     ("missing", "mini", SourceError), ("scenes", "no-such-model", UnknownModelError)],
)  # fmt: skip
def test_a_run_that_fails_leaves_no_folder_behind(
    folder: str, model: str, error: type[Exception], scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "kept").mkdir()
    before = sorted(os.listdir(tmp_path))
    for name in ("new.index", "kept"):
        with pytest.raises(error):
            build_index(tmp_path / folder, tmp_path / name, encoder=model)
        assert sorted(os.listdir(tmp_path)) == before
    assert [name for name in os.listdir(tmp_path / "kept") if name != "writer.lock"] == []


def test_no_room_on_the_disk(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OptionError, match="make room"):
        build_index(scenes, tmp_path / "x.index", encoder="mini")
    assert not (tmp_path / "x.index").exists()


# -- settings and files ----------------------------------------------------------------------


def test_settings_are_saved_and_read_back(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    assert saved_config(place) == IndexConfig()
    config = IndexConfig(decode="exact", exclude=("1*.jpg",), thumbnail_side=64, batch_size=5)
    report = build_index(scenes, place, encoder="mini", config=config)
    assert report.found == 10
    assert saved_config(place) == config
    assert build_index(scenes, place).found == 10
    (shard,) = manifest_of(place).images
    (vectors,) = manifest_of(place).embeddings[str(manifest_of(place).default_space)]
    assert shard.rows == vectors.rows == 10
    assert vectors.recipe["decode"] == "exact"
    assert {"device", "precision", "backend"} <= set(vectors.recipe)
    # New settings alone are kept too.
    assert build_index(scenes, place, config=IndexConfig()).new == 4
    assert saved_config(place) == IndexConfig()


def test_an_image_whose_vector_is_not_finite_is_skipped(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As half precision overflows on some images; the others are none the worse for it."""
    real = OpenClipEncoder.encode_images
    lost: list[int] = []

    def overflow(self: OpenClipEncoder, pixels: Any) -> Any:
        rows = real(self, pixels)
        sums = pixels.sum(axis=(1, 2, 3), dtype=np.int64).tolist()
        lost.append(sums[0])
        rows[[each == lost[0] for each in sums]] = np.nan
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(OpenClipEncoder, "encode_images", overflow)
        config = IndexConfig(backend="torch")
        report = build_index(scenes, tmp_path / "x.index", encoder="mini", config=config)
    assert (report.new, report.skipped, report.skip_reasons) == (13, 1, {"unsupported": 1})
    ((_, message),) = report.skipped_examples
    assert message == "torch gives no vector of it"
    vectors = vectors_by_id(tmp_path / "x.index")
    assert len(vectors) == 13
    assert all(np.isfinite(row).all() for row in vectors.values())
    again = build_index(scenes, tmp_path / "x.index", retry=True)
    assert (again.new, again.skipped) == (1, 0)


def test_settings_that_nobody_made_are_not_kept() -> None:
    """A former version of clipsearch compares the batch size with a number."""
    kept = IndexConfig().to_dict()
    assert None not in kept.values()
    assert "batch_size" not in kept
    assert IndexConfig.from_dict(kept) == IndexConfig()


def test_an_index_that_is_there_keeps_its_way_of_decoding() -> None:
    assert IndexConfig.from_dict({}).decode == IndexConfig().decode == "fast"
    # One whose settings do not say was decoded exactly.
    assert IndexConfig.from_dict({"thumbnail_side": 64}).decode == "exact"
    assert IndexConfig.from_dict({"decode": "fast", "batch_size": 5}).decode == "fast"


@pytest.mark.parametrize(
    "wrong",
    [{"decode": "slow"}, {"max_megapixels": 0}, {"batch_size": -1}, {"decode_threads": 0},
     {"thumbnail_side": 0}, {"shard_seconds": 0}],
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        IndexConfig(**wrong)


def test_every_file_of_the_format(pictures: Path, tmp_path: Path) -> None:
    mixed_folder(pictures)
    place = tmp_path / "x.index"
    build_index(pictures, place, encoder="mini")
    changing = next(iter(sorted(pictures.glob("*.png"))))
    scene(changing.with_suffix(".jpg"), 3)
    changing.unlink()
    scene(pictures / "to change.jpg", 4)
    build_index(pictures, place)
    scene(pictures / "to change.jpg", 5)
    build_index(pictures, place)
    manifest = manifest_of(place)
    document = json.loads((place / "manifest.json").read_text())
    assert {"format", "format_version", "uuid", "generation", "software", "roots", "spaces",
            "default_space", "images", "embeddings", "paths", "skipped", "config"} <= set(
        document
    )  # fmt: skip
    space = str(manifest.default_space)
    dim = manifest.spaces[space].dim
    for ref in manifest.files():
        data = (place / ref.name).read_bytes()
        assert len(data) == ref.bytes
        assert pq.read_metadata(place / ref.name).num_rows == ref.rows
    assert manifest.images[0].name == "images/00000.parquet"
    images = pq.read_table(place / "images" / "00000.parquet")
    assert images.schema.names == IMAGE_SCHEMA.names
    vectors = pq.read_table(place / f"embeddings/{space}/00000.parquet")
    assert [(field.name, str(field.type)) for field in vectors.schema] == [
        ("id", "int64"),
        ("embedding", f"fixed_size_binary[{2 * dim}]"),
    ]
    assert vectors["id"].to_pylist() == images["id"].to_pylist()
    (paths,) = manifest.paths
    assert pq.read_schema(place / paths.name).names == PATH_SCHEMA.names
    assert manifest.skipped is not None
    assert pq.read_schema(place / manifest.skipped.name).names == SKIPPED_SCHEMA.names
    assert manifest.deleted is not None
    assert len(pq.read_table(place / manifest.deleted.name)) == 1
    for folder in (f"cache/vectors/{space}", "cache/thumbnails"):
        assert any((place / folder).iterdir()), folder
    assert not (place / "cache/faiss").exists()  # so few are searched exactly
    current = json.loads((place / f"cache/vectors/{space}/current.json").read_text())
    assert current["index"] == manifest.uuid
    assert current["space"] == manifest.spaces[space].fingerprint


def test_without_its_cache_an_index_answers_the_same(mini_index: Path) -> None:
    def answers() -> tuple[list[tuple[int, float]], list[float]]:
        index = open_index(mini_index, text_cache=mini_index.parent / "text.sqlite")
        hits = [(hit.id, round(hit.score, 5)) for hit in index.search("a tower", k=20)]
        return hits, index.classify(["a cat", "a tower"], none="off").scores[:, 0].round(5).tolist()

    before = answers()
    shutil.rmtree(mini_index / "cache")
    assert answers() == before


def test_every_image_has_a_thumbnail_and_its_own_vector(pictures: Path, mini_index: Path) -> None:
    index = open_index(mini_index)
    encoder = load_encoder("mini")
    assert encoder.space.fingerprint == index.space.fingerprint
    for name, (id_, _) in ids_by_name(mini_index).items():
        data = index.thumbnail(id_)
        assert data is not None
        with Image.open(io.BytesIO(data)) as image:
            assert 32 < max(image.size) <= 320
        pixels = read_image(pictures / name, index.space.geometry, thumbnail_side=None).pixels
        hit = index.search(Query(vector=encoder.encode_images(pixels[None])[0]), k=1)[0]
        assert hit.id == id_
        assert hit.score > 0.999


def test_a_reader_keeps_its_generation_while_a_run_goes_on(scenes: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(scenes, place, encoder="mini")
    reader = open_index(place, text_cache=tmp_path / "text.sqlite")
    assert len(reader.search("a photo", k=50)) == 14
    scene(scenes / "new.jpg", 50)
    scene(scenes / "00.jpg", 51)
    build_index(scenes, place)
    assert len(reader.search("a photo", k=50)) == 14
    assert reader.refresh()
    assert len(reader.search("a photo", k=50)) == 15
    assert not reader.refresh()


def test_progress_comes_while_the_work_goes_on(scenes: Path, tmp_path: Path) -> None:
    heard: list[float] = []

    def hear(event: Event) -> None:
        if isinstance(event, Encoded):
            heard.append(time.perf_counter())

    build_index(
        scenes, tmp_path / "x.index", encoder="mini", config=IndexConfig(batch_size=2),
        on_event=hear,
    )  # fmt: skip
    assert len(heard) == 7
