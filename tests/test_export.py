"""Exports and taking them back, through the real command line on real pictures."""

from __future__ import annotations

import base64
import csv
import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipsearch import open_index
from clipsearch.cli.result_files import check_out_path
from clipsearch.errors import ExportError, ExportRecordError, OptionError
from clipsearch.export_folder import export_folder
from clipsearch.export_record import ExportedFile, begin_record, list_records
from clipsearch.export_rows import ExportRow, rows_of_hits, rows_of_names
from clipsearch.export_sidecars import export_sidecars
from clipsearch.export_table import export_table
from clipsearch.export_undo import undo_export
from clipsearch.export_writing import Destination
from indexer.move import move
from indexer.repair import repair_index
from indexer.verify import verify_index
from tests.conftest import Cli
from tests.test_xmp_sidecar import DARKTABLE, edit_with_exiftool, exiftool

_BYTES_NAME = os.fsdecode(b"caf\xe9 \xff.jpg")
_NAMES = ("one\nline.jpg", "🐆 <b>&amp;.jpg", _BYTES_NAME, "a/IMG_0001.jpg", "b/IMG_0001.jpg")
_PROJECT = Path(__file__).resolve().parents[1]

Piped = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="module")
def _made(_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/, with names of every kind, and photos.index."""
    from indexer import build_index

    home = tmp_path_factory.mktemp("made")
    pictures = sorted(path for path in _pictures.iterdir() if "copy" not in path.name)
    for picture, name in zip(pictures, _NAMES, strict=False):
        place = home / "photos" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, place)
        os.utime(place, ns=(0, 1_500_000_000_123_456_700))
    with tarfile.open(home / "photos" / "more.tar", "w") as tar:
        tar.add(pictures[len(_NAMES)], "in/side.jpg")
    build_index([home / "photos", home / "photos/more.tar"], home / "photos.index", encoder="mini")
    return home


@pytest.fixture
def home(_made: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with photos/ and photos.index."""
    for name in ("photos", "photos.index"):
        shutil.copytree(_made / name, tmp_path / name)
    move(tmp_path / "photos.index", _made / "photos", tmp_path / "photos", force=True)
    return tmp_path


@pytest.fixture
def piped() -> Piped:
    """Run the real command line with standard input: ``piped(home, b"...", "export", "-")``."""

    def run(home: Path, data: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        program = "from clipsearch.cli import main; main()"
        path = os.pathsep.join([str(_PROJECT), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=home,
            env={**os.environ, "PYTHONPATH": path},
            input=data,
            capture_output=True,
            check=False,
        )

    return run


def _snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder: names, bytes, links, modes and times of files."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in sorted(folder.rglob("*")):
        name = os.fspath(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("folder",)
        else:
            state = path.stat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = (digest, state.st_mtime_ns, state.st_mode)
    return found


def _rows(home: Path) -> list[ExportRow]:
    rows, unknown = rows_of_names(
        open_index(home / "photos.index"), [str(home / "photos" / name) for name in _NAMES]
    )
    assert len(rows) == len(_NAMES)
    assert unknown == []
    return rows


def _listed(home: Path) -> bytes:
    return b"\0".join(os.fsencode(home / "photos" / name) for name in _NAMES)


# -- tables ----------------------------------------------------------------------------------


def test_tables_hold_what_search_found(home: Path, cli: Cli) -> None:
    import pyarrow.parquet as pq

    found = [
        json.loads(line)
        for line in cli("search", "a cat", "--min-score", "none", "--json").stdout.splitlines()
    ]
    done = cli(
        "export", "a cat", "--min-score", "none", "--out", "hits.json", env={"CLIPSEARCH_K": "2"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == os.fsencode(home / "hits.json") + b"\n"
    index = open_index(home / "photos.index")
    rows = rows_of_hits(index, index.search("a cat", k=len(found)))
    for kind in ("csv", "parquet"):
        export_table(index, rows, home / f"hits.{kind}", kind)
    as_json = [json.loads(line) for line in (home / "hits.json").read_text().splitlines()]
    as_csv = list(csv.DictReader(io.StringIO((home / "hits.csv").read_text(), newline="")))
    as_parquet = pq.read_table(home / "hits.parquet").to_pylist()
    assert len(found) > 4
    for hit, one, two, three in zip(found, as_json, as_csv, as_parquet, strict=True):
        for key in ("id", "path", "score"):
            assert one[key] == hit[key]
        assert (int(two["id"]), two["path"]) == (hit["id"], hit["path"])
        assert float(two["score"]) == hit["score"]
        assert (three["id"], three["path"]) == (hit["id"], hit["path"])
        assert three["score"] == pytest.approx(hit["score"])
        place = Path(hit["path"])
        if "path_base64" in hit:
            assert one["path_base64"] == two["path_base64"] == three["path_base64"]
            place = Path(os.fsdecode(base64.b64decode(one["path_base64"])))
            assert place.name == _BYTES_NAME
        if place.is_file():
            assert one["sha256"] == hashlib.sha256(place.read_bytes()).hexdigest()
            assert one["sha256"] == two["sha256"] == three["sha256"]
            assert one["bytes"] == int(two["bytes"]) == three["bytes"] == place.stat().st_size
    assert sum("path_base64" in one for one in as_json) == 1


def test_a_table_replaces_its_own_file_and_no_other(home: Path) -> None:
    index, rows, out = open_index(home / "photos.index"), _rows(home), home / "hits.csv"
    out.write_text("mine")
    with pytest.raises(OptionError, match="is there already"):
        export_table(index, rows, out, "csv")
    assert out.read_text() == "mine"
    assert list_records(index.path) == []
    export_table(index, rows, out, "csv", force=True)
    first = out.read_bytes()
    export_table(index, rows[:2], out, "csv")
    assert len(out.read_bytes()) < len(first)
    assert len(list_records(index.path)) == 1
    out.write_bytes(out.read_bytes() + b"a note\n")
    with pytest.raises(OptionError, match="not as an export left it"):
        export_table(index, rows, out, "csv")
    report = undo_export(index.path)
    assert [path for path, _ in report.left] == [out]
    assert out.read_bytes().endswith(b"a note\n")


@pytest.mark.parametrize("place", ["photos.index/hits.csv", "photos.index/new", "no/such/x.csv"])
def test_nothing_is_written_into_an_index_or_nowhere(home: Path, place: str) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home)
    out = home / place
    with pytest.raises(OptionError):
        export_table(index, rows, out, "csv") if out.suffix else export_folder(index, rows, out)
    assert _snapshot(home) == before


def test_a_manifest_of_another_program_makes_no_index(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    for text in ("{}", '{"name": "my page"}', "not JSON"):
        (home / "manifest.json").write_text(text)
        assert len(export_sidecars(index, rows, ["dog"]).files) == len(rows)
        assert export_table(index, rows, home / "hits.csv", "csv").files
        assert len(export_folder(index, rows, home / "out").files) == len(rows)
        for _ in range(3):
            undo_export(index.path)
    assert check_out_path(str(home / "labels.csv")) == home / "labels.csv"
    (home / "photos.index/manifest.json").write_text("damaged")
    with pytest.raises(OptionError, match="lies inside an index"):
        check_out_path(str(home / "photos.index/cache/labels.csv"))


def test_a_photo_in_an_index_gets_no_sidecar(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    inside = home / "photos.index/damaged/a.jpg"
    inside.parent.mkdir()
    shutil.copyfile(rows[0].path, inside)
    report = export_sidecars(index, [dataclasses.replace(rows[0], path=inside), rows[1]], ["dog"])
    assert report.left_out == ((inside, "it lies inside an index, where nothing is written"),)
    assert [file.source for file in report.files] == [rows[1].path]


# -- folders ---------------------------------------------------------------------------------


def test_a_folder_of_copies_and_back(home: Path, piped: Piped) -> None:
    before = _snapshot(home)
    listed = _listed(home) + b"\0" + os.fsencode(home / "photos/more.tar/in/side.jpg")
    command = ("export", "-", "--to", "copy", "--out", "new/out")
    planned = piped(home, listed, *command, "--dry-run", "-0")
    assert planned.returncode == 0, planned.stderr
    assert _snapshot(home) == before
    done = piped(home, listed, *command, "-0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == planned.stdout
    copies = {Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name}
    assert copies == set((home / "new/out").iterdir())
    by_bytes = {path.read_bytes(): path for path in copies}
    for name in _NAMES:
        photo = home / "photos" / name
        copy = by_bytes[photo.read_bytes()]
        assert copy.stat().st_mtime_ns == photo.stat().st_mtime_ns
        digits = hashlib.sha256(photo.read_bytes()).hexdigest()[:8]
        second = f"IMG_0001-{digits}.jpg"
        assert copy.name == (second if name == "b/IMG_0001.jpg" else photo.name)
    with tarfile.open(home / "photos/more.tar") as tar:
        member = tar.extractfile("in/side.jpg")
        assert member is not None
        assert by_bytes[member.read()].name == "side.jpg"
    again = piped(home, listed, *command)
    assert (again.returncode, again.stdout) == (0, b"")
    assert b"6 photos had it already" in again.stderr
    undone = piped(home, b"", "export", "--undo")
    assert undone.returncode == 0, undone.stderr
    assert _snapshot(home) == before


def test_a_folder_of_links_and_back(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    out = home / "out"
    out.mkdir()
    (out / "IMG_0001.jpg").write_text("mine")
    before = _snapshot(home)
    report = export_folder(index, rows, out, link=True, numbered=False)
    assert (out / "IMG_0001.jpg").read_text() == "mine"
    links = {os.readlink(path) for path in out.iterdir() if path.is_symlink()}
    assert links == {str(row.path) for row in rows}
    assert len(export_folder(index, rows, out, link=True).already) == len(rows)
    numbered = export_folder(index, rows, out, link=True, numbered=True)
    assert sorted(file.path.name[:2] for file in numbered.files) == ["1-", "2-", "3-", "4-", "5-"]
    undo_export(index.path)
    # Another's link of the same name is left alone.
    theirs = report.files[0].path
    theirs.unlink()
    theirs.symlink_to(home)
    undone = undo_export(index.path)
    assert undone.left == [(theirs, "it is another file now")]
    theirs.unlink()
    assert undo_export(index.path, undone.record).gone == [theirs]
    assert _snapshot(home) == before


def test_photos_that_are_not_there_are_left_out(home: Path, piped: Piped) -> None:
    (home / "photos" / _NAMES[0]).unlink()
    listed = _listed(home) + b"\0photos/nobody.jpg\x00999999\x00../photos.index"
    done = piped(home, listed, "export", "-", "--to", "copy", "--out", "out", "--json")
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == len(_NAMES) - 1
    assert b"is it not there" not in done.stderr
    assert b"it is not there now" in done.stderr
    assert b"no image has this id" in done.stderr
    assert b"4 photos left out." in done.stderr
    assert len(os.listdir(home / "out")) == len(_NAMES) - 1


def test_ids_and_lines_come_on_standard_input(home: Path, piped: Piped) -> None:
    ids = [row.id for row in _rows(home)][3:]
    lines = f"{ids[0]}\n{ids[1]}\r\n\nphotos/a/IMG_0001.jpg\n".encode()
    done = piped(home, lines, "export", "-", "--to", "json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == ids  # the path names the first once more
    assert all(row["score"] is None for row in rows)


@pytest.mark.parametrize("grown", [0, 5])
def test_a_photo_that_changed_since_it_was_indexed(home: Path, grown: int) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home)
    another = bytes(rows[3].path.stat().st_size + grown)
    rows[3].path.write_bytes(another)
    after = _snapshot(home)
    assert before != after
    export_folder(index, rows, home / "out")
    assert (home / "out/IMG_0001.jpg").read_bytes() == another
    assert undo_export(index.path).left == []
    assert _snapshot(home) == after


def test_the_last_copy_of_a_photo_is_not_taken_away(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home)
    export_folder(index, rows, home / "out")
    away = rows[1].path.rename(home / "away.jpg")
    undone = undo_export(index.path)
    assert undone.left == [
        (home / "out" / rows[1].path.name, "its original is not there now: this may be the last")
    ]
    assert os.listdir(home / "out") == [rows[1].path.name]
    away.rename(rows[1].path)
    assert undo_export(index.path, undone.record).left == []
    assert _snapshot(home) == before


def test_where_links_are_not_allowed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    before = _snapshot(home)
    index, rows = open_index(home / "photos.index"), _rows(home)
    monkeypatch.setattr(os, "symlink", refuse)
    with pytest.raises(ExportError, match="use --to copy"):
        export_folder(index, rows, home / "out", link=True)
    undo_export(index.path)
    assert _snapshot(home) == before


# -- contact sheets --------------------------------------------------------------------------


def test_a_contact_sheet_stands_alone(home: Path, piped: Piped) -> None:
    command = ("export", "-", "--title", "<script>x</script> cats", "--out")
    done = piped(home, _listed(home), *command, "sheet.html")
    assert done.returncode == 0, done.stderr
    page = (home / "sheet.html").read_text()
    assert "<title>&lt;script&gt;x&lt;/script&gt; cats</title>" in page
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert policy is not None
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'" in policy[1]
    images = re.findall(r'<img decoding="async" src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(images) == len(_NAMES)
    assert all(base64.b64decode(image).startswith(b"\xff\xd8") for image in images)
    for name in _NAMES:
        assert f'href="{(home / "photos" / name).as_uri()}"' in page
    assert "🐆 &lt;b&gt;&amp;amp;.jpg" in page
    shutil.rmtree(home / "photos.index/cache/thumbnails")
    assert piped(home, _listed(home), *command, "sheet.html").returncode == 0
    assert (home / "sheet.html").read_text().count("no thumbnail") == len(_NAMES)


# -- sidecars --------------------------------------------------------------------------------


def test_sidecars_are_read_back_and_undone(home: Path, piped: Piped) -> None:
    photos = home / "photos"
    (photos / f"{_NAMES[0]}.xmp").write_bytes(DARKTABLE)  # beside its photo's whole name
    (photos / "a/IMG_0001.xmp").write_bytes(DARKTABLE)  # as Lightroom names it
    (photos / "b/IMG_0001.XMP").write_bytes(DARKTABLE)  # of the raw file beside it
    (photos / "b/IMG_0001.CR2").write_bytes(b"raw")
    os.utime(photos / "a/IMG_0001.xmp", ns=(0, 1_400_000_000_000_000_001))
    os.chmod(photos / "a/IMG_0001.xmp", 0o640)
    before, index_before = _snapshot(photos), _snapshot(home / "photos.index")
    command = ("export", "-", "--to", "xmp", "--keyword", "big cat", "--keyword", "AC/DC")
    planned = piped(home, _listed(home), *command, "--dry-run", "-0")
    assert planned.returncode == 0, planned.stderr
    assert _snapshot(photos) == before
    assert _snapshot(home / "photos.index") == index_before
    done = piped(home, _listed(home), *command, "-0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == planned.stdout
    places = [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]
    assert places == [
        photos / f"{_NAMES[0]}.xmp",
        photos / f"{_NAMES[1]}.xmp",
        photos / f"{_NAMES[2]}.xmp",
        photos / "a/IMG_0001.xmp",
        photos / "b/IMG_0001.jpg.xmp",
    ]
    for place in places:
        tags = exiftool(place)
        own = ["clipsearch|big cat", "clipsearch|AC-DC"]
        theirs = ["animals|dog", "holiday"] if place in (places[0], places[3]) else []
        assert tags["XMP-lr:HierarchicalSubject"] == [*theirs, *own]
        if theirs:
            assert tags["XMP-dc:Subject"] == ["dog", "holiday"]
            assert tags["XMP-xmp:Rating"] == 4
    assert _snapshot(photos).keys() - before.keys() == {
        f"{_NAMES[1]}.xmp",
        f"{_NAMES[2]}.xmp",
        "b/IMG_0001.jpg.xmp",
    }
    again = piped(home, _listed(home), *command)
    assert (again.returncode, again.stdout) == (0, b"")
    assert piped(home, b"", "export", "--list").stdout.count(b"\n") == 1
    undone = piped(home, b"", "export", "--undo")
    assert undone.returncode == 0, undone.stderr
    assert _snapshot(photos) == before
    assert _snapshot(home / "photos.index") == index_before
    assert piped(home, b"", "export", "--list").returncode == 1


def test_labels_of_a_saved_set_are_keywords(home: Path, piped: Piped) -> None:
    from clipsearch.label_set_saving import save_classification

    index = open_index(home / "photos.index")
    result = index.classify(["cat", "city / street"], templates="none", none="off")
    save_classification(index.path, index._generation, "pets", result, "none", None)
    done = piped(home, _listed(home), "export", "-", "--to", "xmp", "--labels", "@pets")
    assert done.returncode == 0, done.stderr
    for row in _rows(home):
        tags = exiftool(row.path.with_name(f"{row.path.name}.xmp"))
        label = result.label_of(row.id).replace(" / ", " - ")
        assert tags["XMP-lr:HierarchicalSubject"] == [f"clipsearch|{label}"]
    nobody = piped(home, _listed(home), "export", "-", "--to", "xmp", "--labels", "@nobody")
    assert nobody.returncode == 2
    assert b"no label set 'nobody'" in nobody.stderr


def test_the_query_is_the_keyword(home: Path, cli: Cli) -> None:
    done = cli("export", "a cat", "--min-score", "none", "-k", "1", "--to", "xmp")
    (place,) = done.stdout.decode("utf-8", "surrogateescape").rstrip("\n").split("\0")
    assert exiftool(Path(place))["XMP-lr:HierarchicalSubject"] == ["clipsearch|a cat"]


def test_what_another_program_changed_since_stays(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    old = rows[3].path.with_name("IMG_0001.jpg.xmp")
    old.write_bytes(DARKTABLE)
    report = export_sidecars(index, rows, ["dog", "cat"])
    new, broken, gone, _ = (file.path for file in report.files if file.path != old)
    old.write_bytes(old.read_bytes().replace(b"Rating='4'", b"Rating='2'"))
    edit_with_exiftool(new, "-XMP:Rating=5", "-XMP-lr:HierarchicalSubject+=their|own")
    broken.write_bytes(broken.read_bytes()[:-100])
    kept = broken.read_bytes()
    gone.unlink()
    undone = undo_export(index.path)
    assert set(undone.cleaned) == {old, new}
    assert undone.gone == [gone]
    assert [path for path, _ in undone.left] == [broken]
    assert broken.read_bytes() == kept
    tags = exiftool(old)
    assert tags["XMP-xmp:Rating"] == 2
    assert tags["XMP-lr:HierarchicalSubject"] == ["animals|dog", "holiday"]
    tags = exiftool(new)
    assert tags["XMP-xmp:Rating"] == 5
    assert tags["XMP-lr:HierarchicalSubject"] == ["their|own"]
    assert "XMP-digiKam:TagsList" not in tags
    (record,) = list_records(index.path)
    assert [file.path for file in record.files] == [broken]
    with pytest.raises(ExportError, match="no export to take back"):
        undo_export(index.path)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1)])
def test_exports_into_the_same_sidecars_are_taken_back_in_any_order(
    home: Path, order: tuple[int, ...]
) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    rows[0].path.with_name(f"{rows[0].path.name}.xmp").write_bytes(DARKTABLE)
    rows[1] = dataclasses.replace(rows[1], keywords=("theirs",))  # in the photo itself
    before = _snapshot(home / "photos")
    for word in ("dog", "cat", "bird"):
        assert len(export_sidecars(index, rows, [word]).files) == len(rows)
    names = [record.name for record in list_records(index.path)]
    for which in order:
        assert not undo_export(index.path, names[which]).left
    assert _snapshot(home / "photos") == before
    assert list_records(index.path) == []


def test_an_export_between_two_undone_by_hand_is_only_cleaned(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    sidecar = rows[0].path.with_name(f"{rows[0].path.name}.xmp")
    export_sidecars(index, rows[:1], ["dog"])
    sidecar.write_bytes(sidecar.read_bytes().replace(b"clipsearch|dog", b"clipsearch|dog "))
    export_sidecars(index, rows[:1], ["cat"])
    first, second = (record.name for record in list_records(index.path))
    told = list_records(index.path)[1].files
    undo_export(index.path, first)
    assert list_records(index.path)[0].files == told  # not what clipsearch had written
    assert undo_export(index.path, second).cleaned == [sidecar]
    assert b"dog" not in sidecar.read_bytes()
    assert b"cat" not in sidecar.read_bytes()


def test_sidecars_that_are_unsound_or_links_are_left_alone(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    sidecars = [row.path.with_name(f"{row.path.name}.xmp") for row in rows]
    sidecars[0].write_bytes(b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>")
    sidecars[1].write_bytes(b"\x00\x01 no XML")
    (home / "elsewhere.xmp").write_bytes(DARKTABLE)
    sidecars[2].symlink_to(home / "elsewhere.xmp")
    sidecars[3].mkdir()
    before = _snapshot(home / "photos")
    report = export_sidecars(index, rows, ["dog"])
    assert [path for path, _ in report.left_out] == [row.path for row in rows[:4]]
    assert [file.path for file in report.files] == [sidecars[4]]
    assert (home / "elsewhere.xmp").read_bytes() == DARKTABLE
    undo_export(index.path)
    assert _snapshot(home / "photos") == before


# -- what goes wrong half-way ----------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from clipsearch import open_index
from clipsearch import export_writing
from clipsearch.export_folder import export_folder
from clipsearch.export_rows import rows_of_names
from clipsearch.export_sidecars import export_sidecars

home, kind, at, when = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
place, count = export_writing.Destination.place, [0]

def placing(self, *given, **named):
    count[0] += 1
    if count[0] == at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    place(self, *given, **named)
    if count[0] == at:
        os.kill(os.getpid(), signal.SIGKILL)

export_writing.Destination.place = placing
index = open_index(home / "photos.index")
rows, _ = rows_of_names(index, [os.fsdecode(n) for n in sys.stdin.buffer.read().split(b"\\0")])
if kind == "copy":
    export_folder(index, rows, home / "new" / "out")
else:
    export_sidecars(index, rows, ["dog"])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is no signal of Windows")
@pytest.mark.parametrize("kind", ["copy", "xmp"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_export_that_was_killed_is_taken_back(home: Path, kind: str, when: str) -> None:
    for name in _NAMES[:2]:
        (home / "photos" / f"{name}.xmp").write_bytes(DARKTABLE)
    before = _snapshot(home)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(home), kind, "2", when],
        input=_listed(home),
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    half = _snapshot(home)
    assert any(name.endswith(".tmp") for name in half) == (when == "before" or kind == "copy")
    assert half != before
    undo_export(home / "photos.index")
    assert _snapshot(home) == before


def test_an_interrupt_says_how_to_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from clipsearch.cli import run

    place, count = Destination.place, [0]

    def placing(self: Destination, *given: Any, **named: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise KeyboardInterrupt
        place(self, *given, **named)

    before = _snapshot(home)
    monkeypatch.chdir(home)
    monkeypatch.setattr("clipsearch.cli.no_more_interrupts", lambda: None)
    for placed in (placing, place):
        monkeypatch.setattr(Destination, "place", placed)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(_listed(home))))
        code = run(["export", "-", "--to", "copy", "--out", "out"])
        told = capfd.readouterr().err
        assert code == (130 if placed is placing else 0), told
        if placed is placing:
            (record,) = list_records(home / "photos.index")
            assert f"clipsearch export --undo {record.name}" in told
            assert len(os.listdir(home / "out")) == 2
    assert "Wrote 3 files to out; 2 photos had it already." in told
    assert run(["export", "--undo"]) == run(["export", "--undo"]) == 0
    assert _snapshot(home) == before


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full from the third file on."""
    place, count = Destination.place, [0]

    def placing(self: Destination, *given: Any, **named: Any) -> None:
        count[0] += 1
        if count[0] == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        place(self, *given, **named)

    monkeypatch.setattr(Destination, "place", placing)


@pytest.mark.parametrize("kind", ["copy", "xmp"])
def test_a_full_disk_leaves_whole_files_and_an_undo(home: Path, kind: str, full_disk: None) -> None:
    before = _snapshot(home)
    index, rows = open_index(home / "photos.index"), _rows(home)
    attempt = {
        "copy": lambda: export_folder(index, rows, home / "out"),
        "xmp": lambda: export_sidecars(index, rows, ["dog"]),
    }
    with pytest.raises(ExportError, match=r"the disk is full\. 2 of 5 files were written"):
        attempt[kind]()
    half = _snapshot(home)
    assert not any(name.endswith(".tmp") for name in half)
    assert len([n for n in half.keys() - before.keys() if "out/" in n or n.endswith("xmp")]) == 2
    undo_export(index.path)
    assert _snapshot(home) == before


@pytest.mark.parametrize("kind", ["copy", "csv"])
def test_a_disk_that_is_full_at_once_leaves_nothing(
    home: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home)

    def placing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Destination, "place", placing)
    attempt = {
        "copy": lambda: export_folder(index, rows, home / "out/of"),
        "csv": lambda: export_table(index, rows, home / "hits.csv", "csv"),
    }[kind]
    with pytest.raises(ExportError, match=r"^nothing was written: the disk is full$"):
        attempt()
    assert _snapshot(home) == before


def test_the_way_back_names_the_index_that_was_named(home: Path, piped: Piped) -> None:
    (home / "photos.index").rename(home / "my photos.index")
    shutil.copytree(home / "my photos.index", home / "other.index")
    arguments = ("export", "-", "--to", "csv", "--out", "a.csv", "--index", "my photos.index")
    told = piped(home, _listed(home), *arguments).stderr.decode()
    (command,) = re.findall(r"To take it back: clipsearch (.*)", told)
    assert piped(home, b"", *shlex.split(command)).returncode == 0
    assert not (home / "a.csv").exists()


def test_without_a_record_nothing_is_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("clipsearch.export_record.replace_file", full)
    for attempt in (
        lambda: export_folder(index, rows, home / "out"),
        lambda: export_sidecars(index, rows, ["dog"]),
        lambda: export_table(index, rows, home / "hits.csv", "csv"),
    ):
        with pytest.raises(ExportError, match="nothing was written: the disk is full"):
            attempt()
    assert _snapshot(home) == before


def test_the_record_of_a_read_only_index_goes_to_the_users_data(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipsearch import export_record

    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home)
    replace_file, access = export_record.replace_file, os.access

    def read_only(path: Path, data: bytes) -> None:
        if path.is_relative_to(index.path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        replace_file(path, data)

    monkeypatch.setattr(export_record, "replace_file", read_only)
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != index.path and access(path, mode)
    )
    report = export_folder(index, rows, home / "out")
    assert report.record is not None
    assert report.record.is_relative_to(os.environ["XDG_DATA_HOME"])
    assert not undo_export(index.path).left
    assert _snapshot(home) == before


def test_a_record_that_was_written_ahead_removes_nothing_of_others(home: Path) -> None:
    mine = home / "mine.txt"
    mine.write_text("mine")
    index = home / "photos.index"
    begin_record(index, "csv", [ExportedFile(mine)])
    begin_record(index, "copy", [ExportedFile(mine, "0" * 64)])
    assert undo_export(index).left == [(mine, "it was changed since")]
    undo_export(index)
    assert mine.read_text() == "mine"


def test_what_is_asked_wrongly(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from clipsearch.cli import run

    monkeypatch.chdir(home)
    before = _snapshot(home)
    for arguments, message in [
        (("-",), "say what to make"),
        (("-", "--to", "copy"), "needs --out"),
        (("-", "--to", "xmp", "--out", "x"), "leave out --out"),
        (("-", "--to", "xmp"), "name one with --keyword"),
        (("-", "--to", "xmp", "--keyword", "\t"), "letters in it"),
        (("-", "--to", "xmp", "--labels", "pets"), "expected --labels @NAME"),
        (("-", "--to", "csv", "--keyword", "x"), "are for --to xmp"),
        (("-", "--to", "csv", "--numbered"), "--numbered is for --to copy and"),
        (("--undo", "nobody"), "there is no record 'nobody'"),
        (("--undo",), "no export to take back"),
        (("--undo", "--list"), "not both"),
        (("--undo", "last", "--out", "x"), "--out goes without"),
        (("-", "--to", "csv", "--not", "x"), "--not is no use with -"),
        (("-", "--to", "csv", "--in", "x"), "--in is no use with -"),
        (("-", "--to", "copy", "--out", "photos.index/x"), "inside an index"),
        (("-", "--to", "copy", "--out", "photos/more.tar"), "is a file"),
        ((), "the query is empty"),
    ]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(_listed(home))))
        assert run(["export", *arguments]) == 2, arguments
        assert message in capfd.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n \n")))
    assert run(["export", "-", "--to", "csv"]) == 1
    assert _snapshot(home) == before


def test_what_is_written_after_an_undo_can_be_taken_back_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home)
    place, count = Destination.place, [0]

    def placing(self: Destination, *given: Any, **named: Any) -> None:
        place(self, *given, **named)
        count[0] += 1
        if count[0] == 2:
            assert len(undo_export(index.path).removed) == 2

    monkeypatch.setattr(Destination, "place", placing)
    export_sidecars(index, rows, ["dog"])
    assert len(undo_export(index.path).removed) == len(rows) - 2
    assert _snapshot(home) == before


def test_a_damaged_record_is_in_nobodys_way(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    before = _snapshot(home / "photos")
    export_sidecars(index, rows, ["dog"])
    (sound,) = list_records(index.path)
    damaged = sound.file.with_name("29990101T000000-000000-xmp-0a0b0c0d.json")
    for text in ("{", "[]", '{"format": "clipsearch export", "version": "x"}', "[" * 100_000):
        damaged.write_text(text)
        assert export_table(index, rows, home / "a.csv", "csv").files
        with pytest.raises(ExportRecordError, match="is damaged"):
            undo_export(index.path)
        with pytest.raises(ExportRecordError, match="is damaged"):
            undo_export(index.path, damaged.stem)
        (finding,) = verify_index(index.path, sample=0).findings
        assert (finding.kind, finding.file) == ("export-record", f"exports/{damaged.name}")
    monkeypatch.chdir(home)
    from clipsearch.cli import run

    assert run(["export", "--list"]) == 3
    told = capfd.readouterr()
    assert sound.name in told.out
    assert "is damaged" in told.err
    repair = repair_index(index.path)
    assert repair.is_mended
    assert len(list(index.path.glob("damaged/*/exports/*"))) == 1
    for _ in range(2):
        undo_export(index.path)
    assert _snapshot(home / "photos") == before


def test_what_goes_to_standard_output(home: Path, piped: Piped) -> None:
    plain = piped(home, _listed(home), "export", "-", "--to", "csv")
    dash = piped(home, _listed(home), "export", "-", "--to", "csv", "--out", "-")
    assert (dash.returncode, dash.stdout, dash.stderr) == (0, plain.stdout, b"")
    assert plain.stdout.count(b"photos/") == len(_NAMES)
    dry = piped(home, _listed(home), "export", "-", "--to", "csv", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, b"")
    assert dry.stderr == b"Would write 5 rows to standard output.\n"
    for arguments, told in [
        (("--to", "csv", "--json"), b"leave them out"),
        (("--to", "copy", "--out", "-"), b"cannot go to standard output"),
    ]:
        refused = piped(home, _listed(home), "export", "-", *arguments)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert told in refused.stderr


def test_no_name_of_a_record_is_not_the_last(home: Path, piped: Piped) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    export_sidecars(index, rows, ["dog"])
    refused = piped(home, b"", "export", "--undo", "")
    assert refused.returncode == 2, refused.stderr
    words = piped(home, b"", "export", "--list", "dog")
    assert words.stderr == b"Error: a query goes without --list and --undo\n"
    assert len(list_records(index.path)) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes by name here")
def test_what_is_no_plain_file_is_never_replaced(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    os.mkfifo(home / "pipe.csv")
    with pytest.raises(OptionError, match="no plain file"):
        export_table(index, rows, home / "pipe.csv", "csv", force=True)
    assert (home / "pipe.csv").is_fifo()


@pytest.mark.parametrize("kind", ["copy", "symlinks", "csv", "xmp"])
def test_what_is_on_a_disk_that_is_away_can_be_taken_back_later(home: Path, kind: str) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    (home / "disk").mkdir()
    if kind == "xmp":
        (home / "photos").rename(home / "disk/photos")
        move(index.path, home / "photos", home / "disk/photos")
        index = open_index(index.path)
        rows, _ = rows_of_names(index, [str(home / "disk/photos" / name) for name in _NAMES])
    before = _snapshot(home / "disk")
    out = home / "disk/out/of"
    if kind == "csv":
        export_table(index, rows, home / "disk/a.csv", "csv")
    elif kind == "xmp":
        export_sidecars(index, rows, ["dog"])
    else:
        export_folder(index, rows, out, link=kind == "symlinks")
    (home / "disk").rename(home / "away")
    assert all("plugged in" in why for _, why in undo_export(index.path).left)
    (record,) = list_records(index.path)
    (home / "away").rename(home / "disk")
    assert not undo_export(index.path, record.name).left
    assert _snapshot(home / "disk") == before


def test_a_folder_of_copies_that_was_removed_leaves_no_record(home: Path) -> None:
    index, rows = open_index(home / "photos.index"), _rows(home)
    export_folder(index, rows, home / "out/of")
    shutil.rmtree(home / "out")
    assert len(undo_export(index.path).gone) == len(rows)
    assert list_records(index.path) == []
