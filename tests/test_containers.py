"""Tars and Parquet files of images: real ones, made by tarfile and pyarrow."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsearch import open_index
from clipsearch.errors import SourceError
from clipsearch.file_kinds import container_of
from clipsearch.manifest import read_manifest
from clipsearch.paths import MISSING, PRESENT
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.build import preview
from indexer.containers import Presence, list_container, member_label
from indexer.failures import read_failures
from indexer.known import read_known
from indexer.look import differences
from indexer.move import move
from indexer.parquet_images import ParquetImages
from indexer.prune import prune
from indexer.report import BuildReport
from tests.conftest import Cli

Contents = Mapping[str, bytes]


def write_tar(place: Path, contents: Contents | list[tuple[str, bytes]]) -> Path:
    """A tar of ``contents``: name -> bytes, or pairs where names repeat."""
    pairs = contents.items() if isinstance(contents, Mapping) else contents
    with tarfile.open(place, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in pairs:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return place


def webdataset(contents: Contents) -> dict[str, bytes]:
    """Every image with a text and a JSON file of the same key beside it."""
    members: dict[str, bytes] = {}
    for number, (name, data) in enumerate(contents.items()):
        members[f"{number:03d}{Path(name).suffix}"] = data
        members[f"{number:03d}.txt"] = b"a caption"
        members[f"{number:03d}.json"] = b'{"width": 1}'
    return members


def write_parquet(place: Path, columns: dict[str, object], rows: int = 3) -> Path:
    """A Parquet file in row groups of ``rows``."""
    pq.write_table(pa.table(columns), place, row_group_size=rows)
    return place


def run(sources: object, index: Path, **options: object) -> BuildReport:
    return build_index(sources, index, **{"encoder": "mini", **options})  # type: ignore[arg-type]


def vectors_by_hash(index: Path) -> dict[bytes, np.ndarray]:
    opened = open_index(index)
    generation = opened._generation
    ids, vectors = opened.vectors_of(np.arange(generation.manifest.next_id))
    names = {id_: sha for sha, id_ in generation.hashes.items()}
    return {names[int(id_)]: row for id_, row in zip(ids, vectors, strict=True)}


def states(index: Path) -> dict[str, str]:
    """The path of every known file, relative to its root, and its state."""
    store = LocalStore(index)
    known = read_known(store, read_manifest(store, str(index)))
    return {os.fsdecode(row.path): row.state for row in known}


def newer(path: Path) -> Path:
    """See to it that a change of the file is one of its time too."""
    info = path.stat()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + 2_000_000_000))
    return path


@pytest.fixture
def contents(pictures: Path) -> dict[str, bytes]:
    """The demo's pictures, each once: file name -> bytes."""
    seen: dict[bytes, str] = {}
    for path in sorted(pictures.iterdir()):
        seen.setdefault(path.read_bytes(), path.name)
    return {name: data for data, name in seen.items()}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    return folder


# -- the same as files in a folder --------------------------------------------------------


def test_a_tar_gives_the_vectors_of_its_files(
    contents: dict[str, bytes], pictures: Path, shards: Path, tmp_path: Path
) -> None:
    tar = write_tar(shards / "a.tar", webdataset(contents))
    report = run(tar, tmp_path / "tar.index")
    assert (report.new, report.skipped) == (len(contents), 0)
    assert report.ignored_kinds == {".txt": len(contents), ".json": len(contents)}
    run(pictures, tmp_path / "folder.index")
    of_tar = vectors_by_hash(tmp_path / "tar.index")
    of_folder = vectors_by_hash(tmp_path / "folder.index")
    assert of_tar.keys() == of_folder.keys()
    for sha, vector in of_tar.items():
        np.testing.assert_allclose(vector, of_folder[sha], atol=2e-3)
    (root,) = read_manifest(LocalStore(tmp_path / "tar.index"), "").roots
    assert root.path == str(shards)
    store = LocalStore(tmp_path / "tar.index")
    first = next(iter(read_known(store, read_manifest(store, ""))))
    info = tar.stat()
    assert first.path.startswith(b"a.tar/000.")
    assert (first.mtime_ns, first.inode) == (info.st_mtime_ns, info.st_ino)
    assert first.size == len(next(iter(contents.values())))


@pytest.mark.parametrize("kind", ["plain", "struct", "large", "numbered"])
def test_a_parquet_gives_the_vectors_of_its_files(
    kind: str, contents: dict[str, bytes], pictures: Path, shards: Path, tmp_path: Path
) -> None:
    names, data = list(contents), list(contents.values())
    columns: dict[str, object] = {"label": list(range(len(names)))}
    if kind == "struct":
        columns["image"] = [
            {"bytes": d, "path": n} for n, d in zip(names[::-1], data[::-1], strict=True)
        ]
    elif kind == "large":
        columns |= {"__key__": names, "jpg": pa.array(data, pa.large_binary())}
    elif kind == "numbered":
        columns |= {"key": ["same"] * len(names), "whatever": data}
    else:
        columns |= {"image_path": names, "image": data}
    parquet = write_parquet(shards / "a.parquet", columns)
    report = run([parquet], tmp_path / "x.index")
    assert (report.new, report.skipped, report.ignored) == (len(contents), 0, 0)
    expected = [f"{row:08d}" for row in range(len(names))] if kind == "numbered" else names
    assert states(tmp_path / "x.index") == {f"a.parquet/{name}": PRESENT for name in expected}
    run(pictures, tmp_path / "folder.index")
    of_folder = vectors_by_hash(tmp_path / "folder.index")
    for sha, vector in vectors_by_hash(tmp_path / "x.index").items():
        np.testing.assert_allclose(vector, of_folder.pop(sha), atol=2e-3)
    assert not of_folder


def test_copies_of_known_files_cost_no_encode(
    mini_index: Path, contents: dict[str, bytes], shards: Path
) -> None:
    before = open_index(mini_index)
    ids = {id_: sha for sha, id_ in before._generation.hashes.items()}
    tar = write_tar(shards / "a.tar", contents)
    parquet = write_parquet(shards / "b.parquet", {"bytes": list(contents.values())})
    report = run([tar, parquet], mini_index)
    assert (report.new, report.skipped) == (0, 0)
    after = open_index(mini_index)
    assert {id_: sha for sha, id_ in after._generation.hashes.items()} == ids
    name = next(iter(contents))
    first = after.similar(shards / "a.tar" / name, k=1).hits[0]
    assert after.paths().id_at(shards / "a.tar" / name) in ids
    assert len([c for c in first.copies if "a.tar" in str(c) or "b.parquet" in str(c)]) >= 1
    assert [c.kind for c in differences(preview([tar], mini_index)[1])] == []


def test_equal_members_become_one_image(contents: dict[str, bytes], shards: Path) -> None:
    data = next(iter(contents.values()))
    tar = write_tar(shards / "a.tar", {"a.jpg": data, "b.jpg": data})
    parquet = write_parquet(shards / "b.parquet", {"x": [data, data]})
    report = run([tar, parquet], shards / "x.index")
    assert (report.new, report.copies) == (1, 3)


# -- again ----------------------------------------------------------------------------------


def test_an_unchanged_container_is_not_read(
    contents: dict[str, bytes], shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {**contents, "broken.jpg": b"\xff\xd8\xff no photo"}
    tar = write_tar(shards / "a.tar", broken)
    parquet = write_parquet(shards / "a.parquet", {"data": list(broken.values())})
    index = shards / "x.index"
    assert run([tar, parquet], index).skipped == 2
    generation = read_manifest(LocalStore(index), "").generation

    def refuse(*_: object) -> None:
        raise AssertionError("a member was read")

    for name in ("indexer.plan.part_sha256", "indexer.plan.sources_of"):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr(ParquetImages, "_values", refuse)
    monkeypatch.setattr("indexer.containers.check_container", lambda path: None)
    monkeypatch.setattr("indexer.sources.check_container", lambda path: None)
    for sources in ([tar, parquet], [tar], []):  # the folder's known containers, too
        report = run(sources, index)
        assert (report.new, report.missing) == (0, 0)
        assert report.generation == generation
    assert report.found == 2 * len(broken)
    assert ".tar" not in report.ignored_kinds


def test_changed_removed_and_added_members(contents: dict[str, bytes], shards: Path) -> None:
    names = list(contents)
    first = {f"{n}.jpg": contents[names[n]] for n in range(3)}
    tar = write_tar(shards / "a.tar", first)
    index = shards / "x.index"
    run(tar, index)
    second = {
        "0.jpg": first["0.jpg"],  # the same
        "1.jpg": contents[names[3]],  # another content
        "new.jpg": contents[names[4]],
    }
    newer(write_tar(tar, second))
    kinds = {Path(c.path).name: c.kind for c in differences(preview([tar], index)[1])}
    assert kinds == {"0.jpg": "touched", "1.jpg": "changed", "new.jpg": "new", "2.jpg": "missing"}
    report = run(tar, index)
    assert (report.new, report.missing) == (2, 1)
    assert states(index) == {
        **dict.fromkeys(["a.tar/0.jpg", "a.tar/1.jpg", "a.tar/new.jpg"], PRESENT),
        "a.tar/2.jpg": MISSING,
    }
    assert prune(index, dry_run=True).paths == (shards / "a.tar" / "2.jpg",)
    assert prune(index).files == 1


def test_a_changed_parquet_is_compared_row_by_row(contents: dict[str, bytes], shards: Path) -> None:
    data = list(contents.values())
    parquet = write_parquet(shards / "a.parquet", {"key": list("abc"), "image": data[:3]})
    index = shards / "x.index"
    run(parquet, index)
    columns = {"key": list("cabd"), "image": [data[2], data[0], data[3], data[4]]}
    newer(write_parquet(parquet, columns))
    report = run(parquet, index)
    assert (report.new, report.missing, report.skipped) == (2, 0, 0)
    assert set(states(index)) == {f"a.parquet/{key}" for key in "abcd"}


def test_a_container_that_is_gone_is_offline(contents: dict[str, bytes], shards: Path) -> None:
    tar = write_tar(shards / "a.tar", contents)
    index = shards / "x.index"
    run(tar, index)
    moved = tar.rename(shards / "elsewhere")
    report = run(tar, index)
    assert (report.offline, report.missing) == ((str(tar),), len(contents))
    assert len(open_index(index).search("a tower", k=3).hits) == 3
    assert open_index(index).search("a tower", k=1).hits[0].missing
    moved.rename(tar)
    assert prune(index, dry_run=True).back == len(contents)
    report = run([], index)
    assert (report.missing, report.new, report.offline) == (0, 0, ())


def test_a_walk_ignores_containers_that_the_index_does_not_know(
    contents: dict[str, bytes], shards: Path
) -> None:
    (shards / "one.jpg").write_bytes(next(iter(contents.values())))
    write_tar(shards / "a.tar", contents)
    known = write_tar(shards / "b.tar", contents)
    index = shards / "x.index"
    report = run(shards, index)
    assert (report.new, report.ignored_kinds) == (1, {".tar": 2})
    run(known, index)
    report = run(shards, index)  # of the two, the one that was named
    assert (report.found, report.ignored_kinds) == (2 + len(contents), {".tar": 1})
    assert report.missing == 0
    assert [c.kind for c in differences(preview([], index)[1])] == []


def test_a_folder_called_like_a_container_is_a_folder(
    contents: dict[str, bytes], shards: Path
) -> None:
    data = list(contents.values())
    (shards / "old.tar").mkdir()
    (shards / "old.tar" / "x.jpg").write_bytes(data[0])
    tar = write_tar(shards / "old.tar" / "in.tar", {"in.parquet/x.jpg": data[1]})
    index = shards / "x.index"
    assert run([shards, tar], index).new == 2
    report = run([], index)
    assert (report.new, report.missing, report.ignored) == (0, 0, 0)
    assert container_of(tar / "in.parquet" / "x.jpg") == tar
    assert container_of(shards / "old.tar" / "x.jpg") is None


# -- what is damaged or odd -------------------------------------------------------------------


def test_a_truncated_tar_gives_what_can_be_read(contents: dict[str, bytes], shards: Path) -> None:
    tar = write_tar(shards / "a.tar", contents)
    index = shards / "x.index"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    report = run(tar, index)
    assert 0 < report.new < len(contents)
    assert report.skip_reasons == {"truncated": 1}
    ((place, why),) = report.unreadable
    assert place == str(tar)
    assert "cut short" in why
    newer(tar).write_bytes(whole)
    report = run(newer(tar), index)
    assert (report.skipped, report.unreadable) == (0, ())
    assert report.indexed == len(contents)
    newer(tar).write_bytes(whole[: len(whole) // 2])
    report = run(newer(newer(tar)), index)  # what cannot be seen is not gone
    assert report.missing <= 1


def test_a_damaged_header_ends_the_listing(contents: dict[str, bytes], shards: Path) -> None:
    tar = write_tar(shards / "a.tar", contents)
    with tarfile.open(tar) as opened:
        offset = opened.getmembers()[2].offset
    data = bytearray(tar.read_bytes())
    data[offset : offset + 512] = b"Q" * 512
    tar.write_bytes(data)
    listing = list_container(tar)
    assert len(listing.members) == 2
    assert listing.damage is not None
    assert f"{offset:,}" in listing.damage
    assert Presence()(tar / "anything.jpg")  # who knows
    assert "mark of its end" in str(_cut(tar, offset).damage)


def _cut(tar: Path, size: int) -> object:
    tar.write_bytes(tar.read_bytes()[:size])
    return list_container(tar)


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, b"\x1f\x8b\x08" + b"x" * 2000])
def test_what_is_no_tar_is_one_clear_line(data: bytes, shards: Path) -> None:
    tar = shards / "a.tar"
    tar.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.tar: expected a tar that is not compressed") as told:
        run(tar, shards / "x.index")
    assert "\n" not in str(told.value)
    assert not (shards / "x.index").exists()


def test_compressed_tars_are_refused(contents: dict[str, bytes], shards: Path) -> None:
    for name in ("a.tar.gz", "a.tgz"):
        with tarfile.open(shards / name, "w:gz"):
            pass
        with pytest.raises(SourceError, match="compressed tar"):
            run(shards / name, shards / "x.index")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": [1], "b": ["x"]}, "got the columns a int64, b string"),
        ({"blob": [b"no image"]}, "column 'blob', got other bytes"),
        ({"v": [[1.0, 2.0]], "one": [b"x"], "two": [b"y"]}, "expected a binary column of image"),
    ],
)
def test_a_parquet_without_images_is_one_clear_line(
    columns: dict[str, object], expected: str, shards: Path
) -> None:
    parquet = write_parquet(shards / "a.parquet", columns)
    with pytest.raises(SourceError) as told:
        run(parquet, shards / "x.index")
    assert str(told.value).startswith(f"no images in {parquet}: expected ")
    assert expected in str(told.value)
    assert "\n" not in str(told.value)


def test_a_damaged_parquet_beside_others(contents: dict[str, bytes], shards: Path) -> None:
    data = list(contents.values())
    parquet = write_parquet(shards / "a.parquet", {"image": data[:4]}, rows=2)
    column = pq.ParquetFile(parquet).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    damaged = bytearray(parquet.read_bytes())
    damaged[start : start + 40] = b"\xff" * 40
    (shards / "b.parquet").write_bytes(damaged)
    (shards / "c.parquet").write_bytes(b"PAR1 no more")
    report = run(sorted(shards.glob("*.parquet")), shards / "x.index")
    told = dict(report.unreadable)
    assert "rows 2 to 3 cannot be read" in told[str(shards / "b.parquet")]
    assert "expected a Parquet file" in told[str(shards / "c.parquet")]
    assert (report.new, report.copies) == (4, 2)


def test_rows_without_an_image_are_ignored(contents: dict[str, bytes], shards: Path) -> None:
    data = list(contents.values())
    parquet = write_parquet(shards / "a.parquet", {"image": [data[0], None, data[1], b""]})
    report = run(parquet, shards / "x.index")
    assert report.ignored_kinds == {"row without an image": 1}
    assert (report.new, report.skip_reasons) == (2, {"empty": 1})
    assert [f.path.name for f in read_failures(shards / "x.index")] == ["00000003"]


def test_odd_members_are_harmless(contents: dict[str, bytes], shards: Path) -> None:
    data = list(contents.values())
    tar = shards / "a.tar"
    outside = shards.parent / "out.jpg"
    outside.write_bytes(b"precious")
    with tarfile.open(tar, "w", encoding="utf-8", errors="surrogateescape") as opened:
        names = ["../../out.jpg", "/abs.jpg", "./a//b.jpg", os.fsdecode(b"\xff\xfe.jpg"), "e\n.jpg"]
        for name, content in zip(names, data, strict=False):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
        for name, kind in [("s.jpg", tarfile.SYMTYPE), ("f.jpg", tarfile.FIFOTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            opened.addfile(info)
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        opened.addfile(folder)
        opened.addfile(tarfile.TarInfo("._a.jpg"))
        opened.addfile(tarfile.TarInfo("x.jpg.gz"))
    index = shards / "x.index"
    report = run(tar, index)
    assert (report.new, report.skipped) == (5, 0)
    expected = {"__/__/out.jpg", "abs.jpg", "a/b.jpg", os.fsdecode(b"\xff\xfe.jpg"), "e\n.jpg"}
    assert set(states(index)) == {f"a.tar/{name}" for name in expected}
    assert report.ignored_kinds == {"link": 1, "not a regular file": 1, "._*": 1, ".gz": 1}
    opened_index = open_index(index)
    for name in expected:
        assert opened_index.paths().id_at(tar / name) is not None
        assert Presence()(tar / name)
    assert outside.read_bytes() == b"precious"
    assert sorted(os.listdir(shards)) == ["a.tar", "x.index"]  # nothing was unpacked


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar to write a sparse member")
def test_a_sparse_member_is_ignored(contents: dict[str, bytes], shards: Path) -> None:
    with open(shards / "holes.jpg", "wb") as file:
        file.truncate(4 << 20)
        file.seek(2 << 20)
        file.write(b"x" * 5000)
    (shards / "b.jpg").write_bytes(next(iter(contents.values())))
    command = ["tar", "-S", "-cf", "a.tar", "holes.jpg", "b.jpg"]
    if subprocess.run(command, cwd=shards, capture_output=True, check=False).returncode:
        pytest.skip("this tar writes no sparse members")
    listing = list_container(shards / "a.tar")
    assert list(listing.members) == [b"b.jpg"]
    assert listing.ignored == {"sparse member": 1}


def test_of_repeated_names_the_last_counts(contents: dict[str, bytes], shards: Path) -> None:
    data = list(contents.values())
    tar = write_tar(shards / "a.tar", [("x.jpg", data[0]), ("x.jpg", data[1])])
    report = run(tar, shards / "x.index")
    assert (report.new, report.ignored_kinds) == (1, {"repeated name": 1})
    assert list_container(tar).members[b"x.jpg"][0] == len(data[1])


def test_labels() -> None:
    assert member_label(b"../..//./a\0b/..jpg") == b"__/__/a_b/..jpg"
    assert member_label(b"/etc/passwd") == b"etc/passwd"


def test_members_can_be_excluded(contents: dict[str, bytes], shards: Path) -> None:
    from indexer.config import IndexConfig

    data = list(contents.values())
    tar = write_tar(shards / "a.tar", {"in/a.jpg": data[0], "b.jpg": data[1]})
    index = shards / "x.index"
    assert run(tar, index, config=IndexConfig(exclude=("in/*",))).new == 1
    assert run(tar, index, config=IndexConfig(exclude=())).new == 1
    report = run(tar, index, config=IndexConfig(exclude=("b*",)))
    assert (report.missing, report.found) == (0, 1)


def test_listing_reads_no_contents(shards: Path) -> None:
    tar = shards / "a.tar"
    with tarfile.open(tar, "w") as opened:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = 1 << 33
            opened.fileobj.write(info.tobuf())  # type: ignore[union-attr]
            opened.fileobj.seek(info.size, 1)  # type: ignore[union-attr]
    begin = time.perf_counter()
    assert len(list_container(tar).members) == 3
    assert time.perf_counter() - begin < 2


def test_rows_are_read_at_random_too(shards: Path) -> None:
    values = [os.urandom(50) for _ in range(40)]
    parquet = write_parquet(shards / "a.parquet", {"image": values}, rows=7)
    with ParquetImages(str(parquet)) as images:
        for row in [*range(40), 3, 38, 0, 0, 39, 20]:
            assert images.read(row) == values[row]


# -- moving, and the command line -----------------------------------------------------------------


def test_move_a_container_and_its_folder(contents: dict[str, bytes], shards: Path) -> None:
    tar = write_tar(shards / "a.tar", contents)
    index = shards.parent / "x.index"
    run(tar, index)
    renamed = tar.rename(shards / "b.tar")
    assert move(index, tar, renamed).there == len(contents)
    assert all(path.startswith("b.tar/") for path in states(index))
    other = shards.parent / "other"
    other.mkdir()
    elsewhere = renamed.rename(other / "c.tar")
    assert move(index, renamed, elsewhere).there == len(contents)
    report = run(elsewhere, index)
    assert (report.new, report.missing, report.indexed) == (0, 0, len(contents))
    shutil.move(other, shards.parent / "last")
    assert move(index, other, shards.parent / "last").there == len(contents)
    report = run(shards.parent / "last" / "c.tar", index)
    assert (report.new, report.missing) == (0, 0)


def test_images_that_move_into_a_tar(
    mini_index: Path, pictures: Path, contents: dict[str, bytes], shards: Path
) -> None:
    run(pictures, mini_index)
    tar = write_tar(shards / "a.tar", contents)
    run(tar, mini_index)
    run(pictures, mini_index)  # must not take the members of the tar for lost
    assert all(state == PRESENT for path, state in states(mini_index).items() if "a.tar" in path)
    name = next(iter(contents))
    newer(write_tar(tar, {"only.jpg": contents[name]}))
    (pictures / "again.jpg").write_bytes(contents[list(contents)[1]])
    run(pictures, mini_index)  # another copy turned up; the old one went from the tar
    assert f"a.tar/{list(contents)[1]}" not in states(mini_index)


@pytest.mark.slow
def test_command_line(contents: dict[str, bytes], shards: Path, tmp_path: Path, cli: Cli) -> None:
    write_tar(shards / "a.tar", {**webdataset(contents), "bad.jpg": b"\xff\xd8\xff bad"})
    write_parquet(shards / "b.parquet", {"image": list(contents.values())})
    index = tmp_path / "x.index"
    sources = (shards / "a.tar", shards / "b.parquet")
    dry = cli("index", *sources, "--index", index, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    done = cli("index", *sources, "--index", index, "--model", "mini", "--json")
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert (report["new"], report["skipped"]) == (len(contents), 1)
    found = cli(
        "search", "a", "tower", "--index", index, "--json", "-k", "2", "--min-score", "none"
    )
    hit = json.loads(found.stdout.splitlines()[0])
    assert hit["path"].startswith(str(shards / "a.tar") + os.sep)
    assert not hit["missing"]
    same = cli("similar", hit["path"], "--index", index)
    assert same.returncode == 0, same.stderr
    by_id = open_index(index).similar(hit["id"])
    assert [os.fsencode(found.path) for found in by_id.hits] == same.stdout.splitlines()
    failed = cli("failures", "--index", index)
    assert str(shards / "a.tar" / "bad.jpg").encode() in failed.stdout
    again = cli("failures", "--retry", "--index", index)
    assert again.returncode == 3, again.stderr
    assert b"truncated 1" in again.stderr
    status = json.loads(cli("status", "--json", "--index", index).stdout)
    assert status["files_present"] == 2 * len(contents)
    assert status["files_missing"] == 0
    pruned = cli("prune", "--index", index)
    assert b"1 file" not in pruned.stdout
    after = json.loads(cli("status", "--json", "--index", index).stdout)
    assert after["files_present"] == 2 * len(contents)
    checked = cli("verify", "--sample", "50", "--json", "--index", index)
    verified = json.loads(checked.stdout.splitlines()[-1])
    assert verified["encoded"] == len(contents)
    wrong = write_parquet(shards / "c.parquet", {"n": [1]})
    refused = cli("index", wrong, "--index", index)
    assert refused.returncode == 2
    assert refused.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_a_kill_between_shards_loses_no_shard(
    contents: dict[str, bytes], shards: Path, tmp_path: Path
) -> None:
    from PIL import Image

    members: dict[str, bytes] = {}
    rng = np.random.default_rng(5)
    for number in range(300):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(stream, "PNG")
        members[f"{number:04d}.png"] = stream.getvalue()
    tar = write_tar(shards / "a.tar", dict(list(members.items())[:150]))
    columns = {"key": list(members)[150:], "image": list(members.values())[150:]}
    parquet = write_parquet(shards / "b.parquet", columns, rows=100)
    index = tmp_path / "x.index"
    program = (
        "import sys; from indexer import build_index; from indexer.config import IndexConfig; "
        "build_index(sys.argv[1:3], sys.argv[3], encoder='mini', "
        "config=IndexConfig(shard_seconds=0.01))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tar), str(parquet), str(index)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    )
    deadline = time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(index.glob("images/*.parquet"))) >= 3:
            process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
            break
        time.sleep(0.005)
    process.wait()
    saved = len(states(index))
    assert 0 < saved < 300
    report = run([tar, parquet], index)
    assert (report.new, report.indexed, report.skipped) == (300 - saved, 300, 0)
    whole = tmp_path / "whole.index"
    run([tar, parquet], whole)
    left, right = open_index(index), open_index(whole)
    assert left._generation.hashes == right._generation.hashes
