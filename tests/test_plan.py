"""What a run means to do: new, changed, touched, moved, copied, vanished, skipped, returned."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import indexer.plan
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.known import KnownFile, KnownFiles, read_known
from indexer.plan import Plan, encode_bytes, make_plan
from indexer.scan import Scan, scan
from indexer.sources import Sources, assign_roots


@pytest.fixture
def place(pictures: Path, tmp_path: Path) -> Path:
    index = tmp_path / "own.index"
    build_index(pictures, index, encoder="mini")
    return index


def plan_of(pictures: Path, place: Path, exclude: tuple[str, ...] = ()) -> tuple[Plan, Scan]:
    store = LocalStore(place)
    manifest: Manifest = read_manifest(store, str(place))
    sources = Sources(folders=(pictures,))
    found = scan(sources, assign_roots(manifest, sources), exclude, place)
    return make_plan(found, store, manifest, known_files(place), 2), found


def known_files(place: Path) -> KnownFiles:
    store = LocalStore(place)
    return read_known(store, read_manifest(store, str(place)))


def known_at(place: Path, name: bytes) -> KnownFile:
    (row,) = [row for row in known_files(place) if (row.root, row.path) == (0, name)]
    return row


def id_of(place: Path, name: bytes) -> int:
    return known_at(place, name).id


def noted(plan: Plan, found: Scan) -> set[tuple[bytes, int]]:
    return {(found.images.file(row).path, int(plan.ids[row])) for row in plan.noted.tolist()}


def vanished(plan: Plan, place: Path) -> list[bytes]:
    known = known_files(place)
    return [known.row(row).path for row in plan.vanished.tolist()]


def distinct(pictures: Path) -> list[Path]:
    """One file of every content, the smallest first."""
    files = [path for path in sorted(pictures.iterdir()) if path.is_file()]
    by_content = {path.read_bytes(): path for path in files}
    return sorted(by_content.values(), key=lambda path: path.stat().st_size)


def counts(plan: Plan) -> dict[str, int]:
    return {
        "encode": len(plan.encode),
        "noted": len(plan.noted),
        "unchanged": plan.unchanged,
        "skipped": len(plan.skipped),
        "vanished": len(plan.vanished),
    }


def expect(plan: Plan, **wanted: int) -> None:
    nothing = {"encode": 0, "noted": 0, "skipped": 0, "vanished": 0}
    got = counts(plan)
    assert got == {**nothing, "unchanged": got["unchanged"], **wanted}


def test_nothing_happened(pictures: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(path: str) -> bytes:
        raise AssertionError(f"{path} was read although nothing about it changed")

    monkeypatch.setattr(indexer.plan, "file_sha256", never)
    plan, found = plan_of(pictures, place)
    expect(plan, unchanged=len(found.images))
    assert encode_bytes(plan, found) == 0


def test_touched(pictures: Path, place: Path) -> None:
    path = distinct(pictures)[0]
    os.utime(path, ns=(1, 10**18))
    plan, found = plan_of(pictures, place)
    expect(plan, noted=1)
    assert noted(plan, found) == {(os.fsencode(path.name), id_of(place, os.fsencode(path.name)))}


def test_moved_renamed_and_copied(pictures: Path, place: Path) -> None:
    one, two, three = distinct(pictures)[:3]
    ids = {path.name: id_of(place, os.fsencode(path.name)) for path in (one, two, three)}
    (pictures / "deep" / "er").mkdir(parents=True)
    shutil.move(one, pictures / "deep" / "er" / one.name)
    two.rename(pictures / "renamed.jpg")
    shutil.copyfile(three, pictures / "copy.jpg")
    plan, found = plan_of(pictures, place)
    expect(plan, noted=3, vanished=2)
    assert noted(plan, found) == {
        (b"deep/er/" + os.fsencode(one.name), ids[one.name]),
        (b"renamed.jpg", ids[two.name]),
        (b"copy.jpg", ids[three.name]),
    }


def test_two_files_that_changed_places(pictures: Path, place: Path) -> None:
    one, two = distinct(pictures)[:2]
    first, second = (id_of(place, os.fsencode(path.name)) for path in (one, two))
    aside = pictures / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)
    plan, found = plan_of(pictures, place)
    expect(plan, noted=2)
    assert noted(plan, found) == {
        (os.fsencode(one.name), second),
        (os.fsencode(two.name), first),
    }


def test_changed_and_of_the_same_length(pictures: Path, place: Path) -> None:
    path = distinct(pictures)[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    before = path.stat().st_mtime_ns
    path.write_bytes(data)
    os.utime(path, ns=(before, before + 10**9))
    plan, _ = plan_of(pictures, place)
    expect(plan, encode=1)


def test_new_copies_of_one_new_content_are_encoded_once(pictures: Path, place: Path) -> None:
    data = distinct(pictures)[0].read_bytes() + b"more"
    for name in ("n3.jpg", "n1.jpg", "n2.jpg"):
        (pictures / name).write_bytes(data)
    plan, found = plan_of(pictures, place)
    expect(plan, encode=1, unchanged=len(found.images) - 3)
    (leader,) = plan.encode.tolist()
    assert found.images.file(leader).path == b"n1.jpg"
    copies = found.images.files(plan.same_as[leader].rows)
    assert [copy.path for copy in copies] == [b"n2.jpg", b"n3.jpg"]
    assert encode_bytes(plan, found) == len(data)


def test_same_length_is_not_same_content(pictures: Path, place: Path) -> None:
    data = distinct(pictures)[0].read_bytes()
    (pictures / "x1.jpg").write_bytes(data[:-1] + b"1")
    (pictures / "x2.jpg").write_bytes(data[:-1] + b"2")
    plan, _ = plan_of(pictures, place)
    expect(plan, encode=2)
    assert not plan.same_as


def test_vanished_and_returned(pictures: Path, place: Path) -> None:
    path = distinct(pictures)[0]
    image_id = id_of(place, os.fsencode(path.name))
    aside = pictures.parent / "aside.jpg"
    path.rename(aside)
    plan, _ = plan_of(pictures, place)
    expect(plan, vanished=1)
    build_index(pictures, place)
    expect(plan_of(pictures, place)[0])  # noted; it is not told twice
    aside.rename(path)
    plan, found = plan_of(pictures, place)
    expect(plan, noted=1)
    assert noted(plan, found) == {(os.fsencode(path.name), image_id)}


def test_skipped_files_are_tried_again_only_when_they_changed(pictures: Path, place: Path) -> None:
    bad = pictures / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff this is no picture")
    expect(plan_of(pictures, place)[0], encode=1)
    build_index(pictures, place)
    expect(plan_of(pictures, place)[0], skipped=1)
    bad.write_bytes(b"\xff\xd8\xff neither is this one")
    expect(plan_of(pictures, place)[0], encode=1)


def test_only_what_lies_below_the_scanned_folder_can_vanish(pictures: Path, place: Path) -> None:
    (pictures / "in").mkdir()
    (pictures / "inner").mkdir()
    for number, path in enumerate(distinct(pictures)[:4]):
        path.rename(pictures / ("in" if number < 2 else "inner") / path.name)
    build_index(pictures, place)
    for folder in ("in", "inner"):
        for path in list((pictures / folder).iterdir()):
            path.unlink()
    plan, _ = plan_of(pictures / "in", place)
    assert [known_files(place).row(row).path[:3] for row in plan.offline] == [b"in/", b"in/"]
    plan, _ = plan_of(pictures, place)
    assert len(plan.vanished) == 4


def test_what_is_passed_over_is_not_gone(
    pictures: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Excluded files, hidden folders and folders that cannot be listed are still there."""
    one, two, three = distinct(pictures)[:3]
    plan, _ = plan_of(pictures, place, exclude=(one.name,))
    expect(plan)

    (pictures / "private").mkdir()
    two.rename(pictures / "private" / two.name)
    build_index(pictures, place)
    expect(plan_of(pictures, place, exclude=("private",))[0])

    real = os.scandir

    def refusing(path: bytes) -> object:
        if os.fsencode(path).endswith(b"private"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    three.unlink()
    plan, found = plan_of(pictures, place)
    assert found.unreadable
    assert vanished(plan, place) == [os.fsencode(three.name)]


def test_a_hidden_folder_with_a_root_of_its_own_is_not_gone(pictures: Path, place: Path) -> None:
    hidden = pictures / ".hidden"
    hidden.mkdir()
    shutil.copyfile(distinct(pictures)[0], hidden / "a.jpg")
    other = place.parent / "other.index"
    build_index(hidden, other, encoder="mini")
    build_index(pictures, other)
    assert known_at(other, b"a.jpg").state == "present"


def test_a_file_that_cannot_be_read_is_left_to_the_encoder(
    pictures: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = distinct(pictures)[0]
    shutil.copyfile(source, pictures / "copy.jpg")
    monkeypatch.setattr(indexer.plan, "file_sha256", lambda path: None)
    expect(plan_of(pictures, place)[0], encode=1)
