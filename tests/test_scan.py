"""Walking the folders: what counts as an image, what is passed over, and whose file it is."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipsearch.errors import SourceError
from clipsearch.file_kinds import IMAGE_EXTENSIONS
from clipsearch.manifest import MANIFEST_NAME, Root, new_manifest
from indexer.scan import Scan, scan
from indexer.sources import Sources, assign_roots, resolve_sources

OF_AN_INDEX = b'{\n "format": "clipsearch index",'
posix_only = pytest.mark.skipif(os.name == "nt", reason="file names and links of POSIX")


def put(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def walk(
    *folders: Path, exclude: tuple[str, ...] = (), index: Path | None = None
) -> tuple[Scan, tuple[Root, ...]]:
    sources = Sources(folders=folders)
    roots = assign_roots(new_manifest("test"), sources)
    place = index or folders[0].parent / "not-there.index"
    return scan(sources, roots, exclude, place), roots


def names(result: Scan) -> list[bytes]:
    return [found.path for found in result.images]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    return place


def test_every_image_ending_in_any_case_and_nothing_else(folder: Path) -> None:
    for number, ending in enumerate(sorted(IMAGE_EXTENSIONS)):
        put(folder / f"{number:02}{ending}")
        put(folder / f"{number:02}-upper{ending.upper()}")
    for name in ("film.mov", "FILM2.MOV", "side.xmp", "README", ".bashrc", "a.jpg.bak", "jpg"):
        put(folder / name)
    result, _ = walk(folder)
    assert len(result.images) == 2 * len(IMAGE_EXTENSIONS)
    assert result.ignored == {".mov": 2, ".xmp": 1, "no extension": 3, ".bak": 1}
    assert result.found == 2 * len(IMAGE_EXTENSIONS) + 7


def test_order_is_by_bytes_and_independent_of_the_disk(folder: Path) -> None:
    for name in ("b.jpg", "B.jpg", "a/z.jpg", "a.jpg", "a/a.jpg", "é.jpg"):
        put(folder / name)
    result, _ = walk(folder)
    assert names(result) == sorted(names(result))
    assert len(names(result)) == len(set(names(result))) >= 5


def test_size_time_and_inode_are_those_of_the_file(folder: Path) -> None:
    path = put(folder / "a.jpg", b"12345")
    os.utime(path, ns=(1, 1_234_567_890_123_456_700))
    (found,) = walk(folder)[0].images
    assert (found.size, found.mtime_ns) == (5, path.stat().st_mtime_ns)
    assert found.name == "a.jpg"


def test_hidden_folders_and_indexes_are_passed_over(folder: Path) -> None:
    put(folder / "seen.jpg")
    put(folder / ".hidden-file.jpg")
    for inner in (".git/x.jpg", ".thumbs/deep/x.jpg", "@eaDir/x.jpg"):
        put(folder / inner)
    put(folder / "other.index" / MANIFEST_NAME, OF_AN_INDEX)
    put(folder / "other.index/cache/x.jpg")
    put(folder / "own-index/cache/x.jpg")  # named as the index, whatever its name
    put(folder / "holiday.index/y.jpg")  # no index, only called like one
    result, _ = walk(folder, index=folder / "own-index")
    assert names(result) == [b".hidden-file.jpg", b"holiday.index/y.jpg", b"seen.jpg"]
    assert not result.ignored


@posix_only
def test_the_index_is_passed_over_by_any_path_to_it(folder: Path, tmp_path: Path) -> None:
    put(folder / "a.jpg")
    put(folder / "store/cache/x.jpg")
    (tmp_path / "alias").symlink_to(folder)
    result, _ = walk(tmp_path / "alias", index=folder / "store")
    assert names(result) == [b"a.jpg"]


def test_a_hidden_folder_that_is_named_is_walked(folder: Path) -> None:
    put(folder / ".private/a.jpg")
    assert names(walk(folder / ".private")[0]) == [b"a.jpg"]


@posix_only
def test_links(folder: Path, tmp_path: Path) -> None:
    put(folder / "a.jpg")
    outside = put(tmp_path / "outside" / "o.jpg")
    (folder / "loop").symlink_to(folder)
    (folder / "other-loop").symlink_to(folder / "loop")
    (folder / "self").symlink_to("self")
    (folder / "to-folder").symlink_to(outside.parent)
    (folder / "to-folder-again").symlink_to(outside.parent)
    (folder / "to-file.jpg").symlink_to(outside)
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "broken-self.png").symlink_to("broken-self.png")
    (folder / "broken.txt").symlink_to("nowhere.txt")
    result, _ = walk(folder)
    found = names(result)
    assert b"a.jpg" in found
    assert b"to-file.jpg" in found
    # Each real folder once, whichever of its links came first.
    assert sum(name.endswith(b"/o.jpg") for name in found) == 1
    assert len(found) == 3
    assert result.ignored == {"broken link": 2, ".txt": 1, "no extension": 1}
    assert result.found == 7


@posix_only
def test_pipes_are_counted_and_never_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe")
    (folder / "folder.jpg").mkdir()
    put(folder / "folder.jpg" / "in.jpg")
    result, _ = walk(folder)
    assert names(result) == [b"folder.jpg/in.jpg"]
    assert result.ignored == {"named pipe": 1, "no extension": 1}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_names_of_any_bytes(folder: Path) -> None:
    wanted = {
        b"\xff\xfe.jpg",
        b"line\nbreak.jpg",
        b"-rf.jpg",
        b"tab\tand \x1b[31mred.jpg",
        b"n" * 246 + b".jpg",
        "日本語.jpg".encode(),
        b"back\\slash.jpg",
        b"sub\xff/in.jpg",
    }
    os.mkdir(os.fsencode(folder) + b"/sub\xff")
    for name in wanted:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"x")
    result, _ = walk(folder)
    assert set(names(result)) == wanted
    for found in result.images:
        found.name.encode("utf-8")  # fit for display: no half surrogate


def test_exclude_matches_names_and_relative_paths(folder: Path) -> None:
    for name in ("a.jpg", "a.tmp.jpg", "private/b.jpg", "x/private/c.jpg", "x/d.jpg", "x/e/f.jpg"):
        put(folder / name)
    for exclude, left in (
        (("*.tmp.jpg",), 5),
        (("private",), 4),  # a folder of that name, wherever it lies
        (("private/*",), 5),  # only the one at the top
        (("x/*",), 3),
        (("*",), 0),
        (("A.JPG",), 5 if os.name == "nt" else 6),
        (("nothing",), 6),
        (("*.tmp.jpg", "x"), 2),
    ):
        result, _ = walk(folder, exclude=exclude)
        assert len(result.images) == left, exclude
        assert not result.ignored, "what is excluded is not even counted"


def test_a_file_belongs_to_the_deepest_root(folder: Path) -> None:
    put(folder / "a.jpg")
    put(folder / "in/b.jpg")
    put(folder / "in/deep/c.jpg")
    manifest = new_manifest("test")
    roots = assign_roots(manifest, Sources((folder / "in",)))
    roots = (*roots, Root(1, str(folder)), Root(2, str(folder / "in" / "deep")))
    result = scan(Sources((folder,)), roots, (), folder / "none")
    assert [found.key for found in result.images] == [(0, b"b.jpg"), (1, b"a.jpg"), (2, b"c.jpg")]
    assert set(result.scanned) == {(0, b""), (1, b""), (2, b"")}


def test_a_folder_inside_a_root_makes_no_new_root(folder: Path) -> None:
    put(folder / "in/b.jpg")
    put(folder / "inner/b.jpg")
    roots = (Root(0, str(folder)),)
    result = scan(Sources((folder / "in",)), roots, (), folder / "none")
    assert names(result) == [b"in/b.jpg"]
    assert result.scanned == [(0, b"in/")], "a prefix that does not cover inner/"


def test_folders_given_twice_or_inside_each_other_count_once(folder: Path) -> None:
    put(folder / "a.jpg")
    put(folder / "in/b.jpg")
    sources = resolve_sources([folder, str(folder) + os.sep, folder / "in", folder / "in" / ".."])
    assert sources == Sources((folder, folder / "in"))
    backwards = Sources(tuple(reversed(sources.folders)))
    roots = assign_roots(new_manifest("test"), backwards)
    assert [root.path for root in roots] == [str(folder)]
    result = scan(backwards, roots, (), folder / "none")
    assert names(result) == [b"a.jpg", b"in/b.jpg"]


def test_a_folder_that_cannot_be_listed_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder / "a.jpg")
    put(folder / "locked/b.jpg")
    put(folder / "z.jpg")
    real = os.scandir

    def refusing(path: Any = ".") -> Iterator[os.DirEntry[str]]:
        if os.fsencode(path).endswith(b"locked"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result, _ = walk(folder)
    assert names(result) == [b"a.jpg", b"z.jpg"]
    assert result.unreadable == [(str(folder / "locked"), "Permission denied")]


def test_a_folder_that_goes_away_during_the_walk(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder / "a.jpg")
    put(folder / "going/b.jpg")
    real, tidy = os.scandir, [1]

    def removing(path: Any = ".") -> Iterator[os.DirEntry[str]]:
        if tidy and os.fsencode(path).endswith(b"going"):
            tidy.clear()  # rmtree lists the folder as well
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", removing)
    result, _ = walk(folder)
    assert names(result) == [b"a.jpg"]
    assert [place for place, _ in result.unreadable] == [str(folder / "going")]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "missing", "no such folder"),
        (lambda folder: put(folder / "a.txt"), "expected a folder of images or an image"),
        (lambda folder: put(folder / "x" / MANIFEST_NAME, OF_AN_INDEX).parent, "is an index"),
    ],
)
def test_sources_that_are_none(folder: Path, make: Any, words: str) -> None:
    place = make(folder)
    with pytest.raises(SourceError, match=words) as caught:
        resolve_sources([folder, place])
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_relative_sources_and_the_home_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert resolve_sources(["photos", "./photos", "~/photos"]) == Sources((folder,))
