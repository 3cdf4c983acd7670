"""Vectors computed elsewhere: what ``clipsearch import`` makes of them is what ``index`` makes."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import indexer.import_intake
from clipsearch import open_index
from clipsearch.encoder import load_encoder
from clipsearch.errors import OptionError, SourceError, SpaceMismatchError
from clipsearch.images import read_image
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.open_clip_encoder import OpenClipEncoder
from clipsearch.shards import IMAGE_SCHEMA, read_tables
from clipsearch.store import LocalStore
from indexer import IndexConfig, build_index
from indexer.compact import compact
from indexer.digest_table import DigestTable
from indexer.import_check import LEAST_COSINE, unit_rows
from indexer.import_report import ImportReport
from indexer.import_shard import stand_in_sha256
from indexer.import_source import open_import
from indexer.import_vectors import import_vectors
from indexer.move import move

from .conftest import Cli

Array = npt.NDArray[Any]


def manifest_of(place: Path) -> Manifest:
    return read_manifest(LocalStore(place), str(place))


def names_of(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def encoded(files: Sequence[Path]) -> Array:
    """What mini makes of some pictures, decoded as a new index does."""
    encoder = load_encoder("mini")
    geometry, decode = encoder.space.geometry, IndexConfig().decode
    pixels = [
        read_image(file, geometry, decode=decode, thumbnail_side=None).pixels for file in files
    ]
    vectors: Array = encoder.encode_images(np.stack(pixels))
    return vectors


def write_list(tmp_path: Path, names: Sequence[Path | str | bytes]) -> Path:
    file = tmp_path / "names.txt"
    file.write_bytes(b"".join(os.fsencode(name) + b"\n" for name in names))
    return file


def npy(tmp_path: Path, vectors: Array, name: str = "vectors.npy") -> Path:
    np.save(tmp_path / name, vectors)
    return tmp_path / name


def clip_retrieval(
    folder: Path, names: Sequence[Path], vectors: Array, cuts: Sequence[int]
) -> Path:
    """The folder that clip-retrieval writes, in one part more than there are ``cuts``."""
    for part in ("img_emb", "metadata"):
        (folder / part).mkdir(parents=True)
    edges = [0, *cuts, len(names)]
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        np.save(folder / "img_emb" / f"img_emb_{number:02d}.npy", vectors[start:stop])
        table = pa.table(
            {
                "image_path": [str(name) for name in names[start:stop]],
                "caption": ["words"] * (stop - start),
            }
        )
        pq.write_table(table, folder / "metadata" / f"metadata_{number:02d}.parquet")
    return folder


@contextmanager
def no_encoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the images that are encoded."""
    calls: list[int] = []
    original = OpenClipEncoder.encode_images

    def count(self: OpenClipEncoder, pixels: Array) -> Array:
        calls.append(len(pixels))
        return original(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(OpenClipEncoder, "encode_images", count)
        yield calls


def adds_up(report: ImportReport) -> bool:
    parts = report.imported + report.copies + report.already_there + report.skipped
    return report.found == parts and report.skipped == sum(report.skip_reasons.values())


def by_path(place: Path) -> dict[str, Array]:
    """The vector of every place of an index."""
    index = open_index(place)
    ids, vectors = index.vectors_of(range(manifest_of(place).next_id))
    return {
        str(where.path): vector
        for image_id, vector in zip(ids.tolist(), vectors, strict=True)
        for where in index.paths().places(image_id)
    }


def images_of(place: Path) -> list[dict[str, Any]]:
    table = read_tables(LocalStore(place), manifest_of(place).images, IMAGE_SCHEMA)
    return list(table.to_pylist())


# -- the same index --------------------------------------------------------------------------


def check_same_index(imported: Path, built: Path) -> None:
    given, made = by_path(imported), by_path(built)
    assert given.keys() == made.keys()
    for path, vector in made.items():
        np.testing.assert_allclose(given[path], vector, atol=2e-3)
    assert images_of(imported) == images_of(built)
    for text in ("a tower", "a cat", "a logo"):
        ours = open_index(imported).search(text, k=20)
        theirs = open_index(built).search(text, k=20)
        assert [hit.path for hit in ours] == [hit.path for hit in theirs]
        assert [hit.copies for hit in ours] == [hit.copies for hit in theirs]
    for image in images_of(built):
        thumbnail = open_index(imported).thumbnail(image["id"])
        assert thumbnail
        assert thumbnail == open_index(built).thumbnail(image["id"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_an_array_and_a_list_give_the_index_that_index_gives(
    dtype: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = names_of(pictures)
    vectors = npy(tmp_path, encoded(files).astype(dtype) * 3)  # of any length
    place, built = tmp_path / "x.index", tmp_path / "built.index"
    build_index(pictures, built, encoder="mini")
    report = import_vectors(
        vectors, place, paths=write_list(tmp_path, files), encoder="mini", check=True
    )
    assert adds_up(report)
    assert report.found == len(files)
    assert report.imported == len(images_of(built))
    assert report.copies == len(files) - report.imported > 0
    assert report.cosine == pytest.approx(1, abs=1e-3)
    assert report.checked == min(16, len(files))
    check_same_index(place, built)
    with no_encoding(monkeypatch) as calls:
        again = build_index(pictures, place)
    assert calls == []
    assert (again.new, again.copies, again.missing) == (0, report.copies, 0)
    assert again.indexed == report.imported


def test_what_clip_retrieval_wrote_in_several_files(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = names_of(pictures)
    folder = clip_retrieval(tmp_path / "out", files, encoded(files).astype("<f2"), [3, 3, 7])
    # By number, not by name: 10 comes after 9.
    for kind, ending in (("img_emb", "npy"), ("metadata", "parquet")):
        (folder / kind / f"{kind}_03.{ending}").rename(folder / kind / f"{kind}_10.{ending}")
        (folder / kind / f"{kind}_02.{ending}").rename(folder / kind / f"{kind}_9.{ending}")
    place, built = tmp_path / "x.index", tmp_path / "built.index"
    build_index(pictures, built, encoder="mini")
    report = import_vectors(folder, place, encoder="mini")
    assert adds_up(report)
    assert report.found == len(files)
    check_same_index(place, built)
    assert manifest_of(place).roots[0].path == str(pictures)
    # A folder above the one that was imported finds the same files.
    with no_encoding(monkeypatch) as calls:
        assert build_index(pictures.parent, place, config=IndexConfig()).new == 0
    assert calls == []


@pytest.mark.parametrize("form", ["npy", "npy bytes", "parquet", "csv", "text", "nul"])
def test_every_form_of_list(form: str, pictures: Path, tmp_path: Path) -> None:
    names = [file.name for file in names_of(pictures)]
    target = tmp_path / f"list.{form}"
    if form.startswith("npy"):
        target = tmp_path / "list.npy"
        np.save(target, np.array(names, "S" if "bytes" in form else "U"))
    elif form == "parquet":
        pq.write_table(pa.table({"id": ["no"] * len(names), "path": names}), target)
    elif form == "csv":
        rows = "".join(f'7,"{name}"\r\n' for name in names)
        target.write_bytes(f"\ufeffkey,image_path\r\n{rows}".encode())
    else:
        end = "\0" if form == "nul" else "\r\n"
        target.write_bytes(end.join(names).encode())
    vectors = npy(tmp_path, encoded(names_of(pictures)))
    place = tmp_path / "x.index"
    report = import_vectors(vectors, place, paths=target, root=pictures, encoder="mini")
    assert (report.found, report.not_there, report.skipped) == (len(names), 0, 0)
    assert by_path(place).keys() == {str(pictures / name) for name in names}


def test_relative_paths_are_taken_below_the_current_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = names_of(pictures)
    names = [f"./{pictures.name}/sub/../{file.name}" for file in files]
    monkeypatch.chdir(tmp_path)
    vectors = npy(tmp_path, encoded(files))
    listed = write_list(tmp_path, names)
    import_vectors(vectors, "x.index", paths=listed, encoder="mini")
    assert by_path(tmp_path / "x.index").keys() == {str(file) for file in files}


def test_imported_images_are_moved_to_where_they_are(pictures: Path, tmp_path: Path) -> None:
    files, place = names_of(pictures), tmp_path / "x.index"
    listed = write_list(tmp_path, [file.name for file in files])
    elsewhere = tmp_path / "elsewhere"
    import_vectors(
        npy(tmp_path, encoded(files)), place, paths=listed, root=elsewhere, encoder="mini"
    )
    done = move(place, elsewhere, pictures)
    assert (done.files, done.there) == (len(files), len(files))


@pytest.mark.parametrize(("root", "lead"), [(".", "s3://team/photos/"), ("s3://team/photos", "")])
def test_images_in_object_storage_are_no_paths_of_a_disk(
    root: str, lead: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = names_of(pictures)
    monkeypatch.chdir(tmp_path)
    vectors = npy(tmp_path, encoded(files))
    listed = write_list(tmp_path, [lead + file.name for file in files])
    with pytest.raises(SourceError, match="clipsearch move FOLDER s3://"):
        import_vectors(vectors, "x.index", paths=listed, root=root, encoder="mini")
    assert not (tmp_path / "x.index").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links, and names of any bytes")
def test_a_link_leads_to_the_folder_that_the_index_knows(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "own.index"
    build_index(pictures, place, encoder="mini")
    (tmp_path / "link").symlink_to(pictures)
    files = names_of(pictures)
    listed = write_list(tmp_path, [tmp_path / "link" / file.name for file in files])
    generation = manifest_of(place).generation
    report = import_vectors(npy(tmp_path, encoded(files)), place, paths=listed)
    assert report.already_there == len(files)
    assert manifest_of(place).generation == generation == report.generation
    assert len(manifest_of(place).roots) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of any bytes")
def test_names_that_are_no_text(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsencode(pictures) + b"/\xff\xfe odd\rname.jpg"
    shutil.copyfile(pictures / "tower.jpg", odd)
    (pictures / "tower.jpg").unlink()
    files = [Path(os.fsdecode(odd)), pictures / "lion.jpg"]
    place = tmp_path / "x.index"
    listed = write_list(tmp_path, files)
    vectors = npy(tmp_path, encoded(files))
    import_vectors(vectors, place, paths=listed, encoder="mini")
    assert open_index(place).search("a tower", k=1)[0].path == files[0]
    with no_encoding(monkeypatch) as calls:
        build_index(pictures, place)
    assert sum(calls) == len({file.read_bytes() for file in names_of(pictures)}) - 2


# -- what is not there -----------------------------------------------------------------------


@pytest.mark.slow
def test_files_that_are_not_there_go_in_all_the_same(
    pictures: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = names_of(pictures)
    vectors = npy(tmp_path, encoded(files))
    listed = write_list(tmp_path, files)
    away = tmp_path / "away"
    (pictures / "tower.jpg").rename(away)
    (pictures / "bus.png").write_bytes(b"no picture")
    place = tmp_path / "x.index"
    report = import_vectors(vectors, place, paths=listed, encoder="mini")
    assert adds_up(report)
    assert (report.not_there, report.unreadable, report.skipped) == (1, 1, 0)
    hit = open_index(place).search("a tower", k=1)[0]
    assert (hit.path, hit.missing) == (pictures / "tower.jpg", True)
    stand_ins = [image for image in images_of(place) if image["bytes"] == 0]
    assert len(stand_ins) == 2
    known = {"id", "sha256", "bytes"}
    assert all(v is None for image in stand_ins for k, v in image.items() if k not in known)
    assert open_index(place).thumbnail(hit.id) is None
    status = open_index(place).status()
    assert (status.files_missing, status.files_present) == (2, len(files) - 2)
    labels = open_index(place).classify(["tower", "cheetah"])
    assert len(labels) == report.imported
    for arguments in (["search", "a tower"], ["classify", "--labels", "a,b"], ["verify"]):
        assert cli(*arguments, "--index", place).returncode == 0
    compact(place)
    assert open_index(place).thumbnail(hit.id) is None
    assert images_of(place)[hit.id] in stand_ins
    # Nothing is new the second time.
    generation = manifest_of(place).generation
    again = import_vectors(vectors, place, paths=listed)
    assert again.already_there == len(files)
    assert manifest_of(place).generation == generation
    # Once the file is there, an import takes what is to be known of it, and encodes nothing.
    away.rename(pictures / "tower.jpg")
    with no_encoding(monkeypatch) as calls:
        third = import_vectors(vectors, place, paths=listed, check=False)
        assert (third.imported, third.already_there) == (1, len(files) - 1)
        hit = open_index(place).search("a tower", k=1)[0]
        assert (hit.path, hit.missing) == (pictures / "tower.jpg", False)
        assert open_index(place).thumbnail(hit.id)
        assert len(open_index(place)) == report.imported
        (pictures / "bus.png").unlink()
        build_index(pictures, place)
    assert calls == []


@pytest.mark.slow
def test_nothing_there_is_said_and_taken(pictures: Path, tmp_path: Path, cli: Cli) -> None:
    files = names_of(pictures)
    npy(tmp_path, encoded(files))
    names = [f"gone/{file.name}" for file in files]
    write_list(tmp_path, names)
    command = ["import", "vectors.npy", "--paths", "names.txt", "--index", "x.index"]
    done = cli(*command, "--model", "mini", "--root", "/data/set", "--json")
    assert done.returncode == 0, done.stderr
    assert b"mini made these vectors was not checked" in done.stderr
    account = json.loads(done.stdout)
    assert (account["checked"], account["cosine"]) == (0, None)
    assert account["imported"] == account["not_there"] == len(files), "no content to compare"
    (root,) = manifest_of(tmp_path / "x.index").roots
    assert Path(root.path) == Path("/data/set/gone").absolute()
    # Nor does an 'index' of what it knows lose any.
    assert cli("index", "--index", "x.index").returncode == 0
    hits = cli(
        "search", "a tower", "--index", "x.index", "--json", "--min-score", "none"
    ).stdout.splitlines()
    assert "/data/set/gone/tower.jpg" in json.loads(hits[0])["path"].replace("\\", "/")


def test_a_stand_in_is_the_hash_of_no_image() -> None:
    vector = np.array([0.6, 0.8], np.float32)
    data = b"clipsearch import\0/a.jpg\0" + vector.astype("<f2").tobytes()
    assert stand_in_sha256(b"/a.jpg", vector) == hashlib.sha256(data).digest()
    assert stand_in_sha256(b"/b.jpg", vector) != stand_in_sha256(b"/a.jpg", vector)


# -- copies and known contents ---------------------------------------------------------------


def test_copies_share_the_first_vector(pictures: Path, tmp_path: Path) -> None:
    one, two = pictures / "lion.jpg", pictures / "second.jpg"
    shutil.copyfile(one, two)
    vectors = np.eye(256, dtype=np.float32)[[5, 7, 9]]
    place = tmp_path / "x.index"
    report = import_vectors(
        npy(tmp_path, vectors),
        place,
        paths=write_list(tmp_path, [one, two, one]),
        encoder="mini",
        check=False,
    )
    assert (report.imported, report.copies, report.already_there) == (1, 1, 1)
    stored = by_path(place)
    assert stored.keys() == {str(one), str(two)}
    assert all(vector.argmax() == 5 for vector in stored.values())


def test_what_the_index_holds_keeps_its_vector(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(pictures, place, encoder="mini")
    before = by_path(place)
    copied, new = tmp_path / "other" / "tower.jpg", tmp_path / "other" / "gone.jpg"
    copied.parent.mkdir()
    shutil.copyfile(pictures / "tower.jpg", copied)
    vectors = npy(tmp_path, np.eye(256, dtype=np.float32)[:2])
    listed = write_list(tmp_path, [copied, new])
    report = import_vectors(vectors, place, paths=listed, check=False)
    assert (report.imported, report.copies, report.not_there) == (1, 1, 1)
    after = by_path(place)
    np.testing.assert_array_equal(after[str(copied)], before[str(pictures / "tower.jpg")])
    assert after.pop(str(new)).argmax() == 1
    after.pop(str(copied))
    assert after.keys() == before.keys()
    recipes = [ref.recipe for ref in manifest_of(place).embeddings[open_index(place).space.id]]
    assert ["imported" in recipe for recipe in recipes] == [False, True]
    compact(place)  # merges neither with the other
    assert len(manifest_of(place).images) == 2


def test_a_file_that_changed_gets_the_new_vector(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(pictures, place, encoder="mini")
    shutil.copyfile(pictures / "cheetah1.jpg", pictures / "tower.jpg")
    with open(pictures / "tower.jpg", "ab") as file:
        file.write(b"\0")
    os.utime(pictures / "lion.jpg", ns=(1, 1))  # touched, no more
    files = [pictures / "tower.jpg", pictures / "lion.jpg"]
    count = len(open_index(place))
    report = import_vectors(
        npy(tmp_path, np.eye(256, dtype=np.float32)[:2]),
        place,
        paths=write_list(tmp_path, files),
        check=False,
    )
    assert (report.imported, report.already_there) == (1, 1)
    assert by_path(place)[str(files[0])].argmax() == 0
    assert len(open_index(place)) == count, "the content that was there is buried"
    assert build_index(pictures, place).new == 0


# -- vectors that cannot be taken ------------------------------------------------------------


@pytest.mark.slow
def test_vectors_without_a_direction_are_skipped(pictures: Path, tmp_path: Path, cli: Cli) -> None:
    files = names_of(pictures)[:6]
    vectors = encoded(files).astype(np.float64)
    vectors[0, 3] = np.nan
    vectors[1, 0] = -np.inf
    vectors[2] = 0
    vectors[3] *= 1e-200
    vectors[4] *= 1e200
    npy(tmp_path, vectors)
    write_list(tmp_path, [*files[:5], ""])
    command = ["import", "vectors.npy", "--paths", "names.txt", "--index", "x.index"]
    done = cli(*command, "--model", "mini", "--json")
    assert done.returncode == 3, done.stderr
    account = json.loads(done.stdout)
    assert account["skip_reasons"] == {"not finite": 2, "zero": 1, "no path": 1}
    listed = [(lost["row"], lost["reason"]) for lost in account["skipped_vectors"]]
    assert listed == [(0, "not finite"), (1, "not finite"), (2, "zero"), (5, "no path")]
    assert account["found"] == account["imported"] + account["copies"] + account["skipped"] == 6
    assert f"row 2 {files[2]}: zero".encode() in done.stderr
    assert by_path(tmp_path / "x.index").keys() == {str(file) for file in files[3:5]}
    # 'index' encodes what was left out.
    assert build_index(pictures, tmp_path / "x.index").new > 0
    assert {str(file) for file in files} <= by_path(tmp_path / "x.index").keys()


def test_nothing_fit_to_be_taken_leaves_no_index(pictures: Path, tmp_path: Path) -> None:
    vectors = npy(tmp_path, np.zeros((1, 256), np.float32))
    listed = write_list(tmp_path, [pictures / "lion.jpg"])
    report = import_vectors(vectors, tmp_path / "x.index", paths=listed, encoder="mini")
    assert (report.skipped, report.generation) == (1, 0)
    assert not (tmp_path / "x.index").exists()


def test_unit_rows() -> None:
    block = np.array([[3e-320, 4e-320], [3e300, 4e300], [0, 0], [np.nan, 1], [np.inf, 1], [-2, 0]])
    rows, not_finite, zero = unit_rows(block)
    assert not_finite.tolist() == [False, False, False, True, True, False]
    assert zero.tolist() == [False, False, True, False, False, False]
    np.testing.assert_allclose(rows[:2], [[0.6, 0.8]] * 2, rtol=1e-2)
    assert rows[2:5].tolist() == [[0, 0]] * 3
    assert rows[5].tolist() == [-1, 0]


# -- the wrong model -------------------------------------------------------------------------


def test_vectors_of_another_model_are_refused(pictures: Path, tmp_path: Path) -> None:
    files = names_of(pictures)
    rng = np.random.default_rng(1)
    vectors = npy(tmp_path, rng.normal(size=(len(files), 256)))
    listed = write_list(tmp_path, files)
    place = tmp_path / "x.index"
    with pytest.raises(SpaceMismatchError, match=r"not made by mini: mean cosine -?0\.\d\d over"):
        import_vectors(vectors, place, paths=listed, encoder="mini")
    assert not place.exists()
    report = import_vectors(vectors, place, paths=listed, encoder="mini", check=False)
    assert (report.checked, report.skipped) == (0, 0)
    assert len(open_index(place)) == report.imported > 0


def test_paths_in_another_order_are_refused(pictures: Path, tmp_path: Path) -> None:
    files = names_of(pictures)
    vectors = npy(tmp_path, encoded(files))
    shifted = write_list(tmp_path, [*files[1:], files[0]])
    with pytest.raises(SpaceMismatchError, match="order of the vectors"):
        import_vectors(vectors, tmp_path / "x.index", paths=shifted, encoder="mini")


def test_a_little_noise_is_no_other_model(pictures: Path, tmp_path: Path) -> None:
    files = names_of(pictures)
    vectors = encoded(files)
    rng = np.random.default_rng(2)
    noise = rng.normal(size=vectors.shape) / 16  # of unit length
    listed = write_list(tmp_path, files)
    close = npy(tmp_path, vectors + 0.2 * noise)  # cosine 0.98
    report = import_vectors(close, tmp_path / "x.index", paths=listed, encoder="mini")
    assert report.cosine is not None
    assert LEAST_COSINE < report.cosine < 0.99
    far = npy(tmp_path, vectors + 0.5 * noise)  # cosine 0.89
    with pytest.raises(SpaceMismatchError):
        import_vectors(far, tmp_path / "y.index", paths=listed, encoder="mini")


@pytest.mark.slow
def test_verify_allows_for_another_program(pictures: Path, tmp_path: Path, cli: Cli) -> None:
    files = names_of(pictures)
    vectors = encoded(files)
    noise = np.random.default_rng(2).normal(size=vectors.shape) / 16
    listed = write_list(tmp_path, files)
    for amount, code in ((0.2, 0), (0.7, 2)):  # cosines 0.98 and 0.82
        place = tmp_path / f"{amount}.index"
        source = npy(tmp_path, vectors + amount * noise)
        import_vectors(source, place, paths=listed, encoder="mini", check=False)
        done = cli("verify", "--index", place)
        assert done.returncode == code, done.stdout + done.stderr


def test_another_length_is_refused(pictures: Path, tmp_path: Path) -> None:
    vectors = npy(tmp_path, np.ones((2, 512), np.float16))
    listed = write_list(tmp_path, ["a.jpg", "b.jpg"])
    with pytest.raises(SpaceMismatchError, match=r"of 512 numbers, and mini makes vectors of 256"):
        import_vectors(vectors, tmp_path / "x.index", paths=listed, encoder="mini")
    assert not (tmp_path / "x.index").exists()


def test_a_new_index_needs_a_model_and_keeps_it(tmp_path: Path, mini_index: Path, cli: Cli) -> None:
    vectors = npy(tmp_path, np.eye(256, dtype=np.float32)[:1])
    listed = write_list(tmp_path, ["a.jpg"])
    with pytest.raises(OptionError, match="--model"):
        import_vectors(vectors, tmp_path / "x.index", paths=listed)
    model = tmp_path / "model"
    shutil.copytree(Path(sys.modules["clipsearch"].__file__ or "").parent / "models/mini", model)
    config = model / "open_clip_config.json"
    document = json.loads(config.read_text())
    document["preprocess_cfg"]["interpolation"] = "bilinear"
    config.write_text(json.dumps(document))
    with pytest.raises(SpaceMismatchError, match="do not mix"):
        import_vectors(vectors, mini_index, paths=listed, encoder=str(model))
    # What an environment sets is for new indexes.
    command = ["import", vectors, "--paths", listed, "--index", mini_index]
    done = cli(*command, env={"CLIPSEARCH_MODEL": str(model)})
    assert done.returncode == 0, done.stderr
    assert cli(*command, "--model", str(model)).returncode == 2


# -- sources that are none -------------------------------------------------------------------


def refused(source: Path, paths: Path | None = None) -> str:
    """The message, which is one line."""
    with pytest.raises(SourceError) as caught:
        list(open_import(source, paths).names())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("names", "told"), [(2, "names 2 images"), (4, "names more than 3")])
def test_a_list_of_another_length(names: int, told: str, tmp_path: Path) -> None:
    vectors = npy(tmp_path, np.ones((3, 256), np.float16))
    listed = write_list(tmp_path, [f"{name}.jpg" for name in range(names)])
    message = refused(vectors, listed)
    assert told in message
    assert "holds 3 vectors" in message
    with pytest.raises(SourceError):
        import_vectors(vectors, tmp_path / "x.index", paths=listed, encoder="mini")
    assert not (tmp_path / "x.index").exists()


def test_files_of_clip_retrieval_that_do_not_fit(tmp_path: Path) -> None:
    names = [Path(f"{name}.jpg") for name in range(5)]
    vectors = np.ones((5, 256), np.float16)
    folder = clip_retrieval(tmp_path / "out", names, vectors, [2])
    last = folder / "img_emb" / "img_emb_01.npy"
    np.save(last, vectors[:2])
    message = refused(folder)
    assert str(last) in message
    assert "metadata_01.parquet" in message
    assert "holds 2 vectors" in message
    np.save(last, np.ones((3, 128), np.float16))
    assert "img_emb_00.npy of 256, img_emb_01.npy of 128" in refused(folder)
    np.save(folder / "img_emb" / "img_emb_1.npy", vectors[:3])
    assert "number 1 twice" in refused(folder)
    last.unlink()
    assert len(list(open_import(folder).names())) == 5
    (folder / "metadata" / "metadata_01.parquet").unlink()
    assert "img_emb_1.npy, but no metadata/metadata_1" in refused(folder)
    assert "goes with a single .npy" in refused(folder, tmp_path / "names.txt")
    shutil.rmtree(folder / "img_emb")
    assert "found none" in refused(folder)


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    listed = write_list(tmp_path, ["a.jpg"])
    trap = tmp_path / "trap.npy"
    np.save(trap, np.array([Trap()], object), allow_pickle=True)
    assert "never loaded" in refused(trap, listed)
    good = npy(tmp_path, np.ones((1, 256), np.float16))
    assert "never loaded" in refused(good, trap)
    trap.write_bytes(pickle.dumps(Trap()))
    assert "never loaded" in refused(trap, listed)
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_array_of_vectors(tmp_path: Path) -> None:
    listed = write_list(tmp_path, ["a.jpg"])
    assert "no such file" in refused(tmp_path / "none.npy", listed)
    vectors = npy(tmp_path, np.ones((1, 256), np.float16))
    assert "--paths" in refused(vectors)
    assert "no such list" in refused(vectors, tmp_path / "none.txt")
    assert "shape (256,) of float16" in refused(npy(tmp_path, np.ones(256, "f2"), "a.npy"), listed)
    assert "of int64" in refused(npy(tmp_path, np.ones((1, 9), "i8"), "a.npy"), listed)
    assert "no vectors" in refused(npy(tmp_path, np.ones((0, 256), "f2"), "a.npy"), listed)
    np.savez(tmp_path / "a.npz", np.ones((1, 256)))
    assert ".npz" in refused(tmp_path / "a.npz", listed)
    (tmp_path / "b.npy").write_bytes(vectors.read_bytes()[:200])
    refused(tmp_path / "b.npy", listed)
    (tmp_path / "b.npy").write_bytes(b"")
    refused(tmp_path / "b.npy", listed)
    big = npy(tmp_path, np.ones((4096, 256), np.float16), "big.npy")  # one that is mapped
    os.truncate(big, 2_000_000)
    refused(big, listed)


def test_what_is_no_list(tmp_path: Path) -> None:
    vectors = npy(tmp_path, np.ones((1, 256), np.float16))
    pq.write_table(pa.table({"key": ["a"], "url": ["b"]}), tmp_path / "a.parquet")
    expected = "expected a column image_path, path or id"
    assert f"{expected} in {tmp_path / 'a.parquet'}, got key, url" in refused(
        vectors, tmp_path / "a.parquet"
    )
    (tmp_path / "b.parquet").write_bytes(b"no table")
    assert "cannot read" in refused(vectors, tmp_path / "b.parquet")
    (tmp_path / "a.csv").write_text("key,url\na,b\n")
    assert expected in refused(vectors, tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("")
    assert "got none" in refused(vectors, tmp_path / "b.csv")
    assert "of int64" in refused(vectors, npy(tmp_path, np.arange(1), "n.npy"))


# -- shard by shard --------------------------------------------------------------------------


def test_an_import_that_is_cut_short_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer.import_intake, "SHARD_ROWS", 3)
    files = names_of(pictures)
    (pictures / "tower.jpg").unlink()
    present = [file for file in files if file.exists()]
    vectors = np.zeros((len(files), 256), np.float32)
    vectors[[files.index(file) for file in present]] = encoded(present)
    vectors[files.index(pictures / "tower.jpg")] = 1
    source, listed = npy(tmp_path, vectors), write_list(tmp_path, files)
    cut, whole = tmp_path / "cut.index", tmp_path / "whole.index"

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_vectors(source, cut, paths=listed, encoder="mini", on_progress=stop)
    part = manifest_of(cut)
    assert part.generation == 2
    assert len(by_path(cut)) == 6
    # What was written and not committed is in nobody's way.
    for name in (f"images/{part.next_shard:05d}.parquet", "paths/0000003.parquet"):
        (cut / name).write_bytes(b"half written")
    report = import_vectors(source, cut, paths=listed)
    assert adds_up(report)
    assert report.already_there == 6
    import_vectors(source, whole, paths=listed, encoder="mini")
    assert len(manifest_of(whole).images) > 2
    assert images_of(cut) == images_of(whole)
    assert by_path(cut).keys() == by_path(whole).keys() == {str(file) for file in files}
    for path, vector in by_path(whole).items():
        np.testing.assert_array_equal(by_path(cut)[path], vector)
    assert len(manifest_of(cut).paths) == 1


def test_a_shard_is_cut_when_its_time_is_up(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(
        pictures / "lion.jpg", place, encoder="mini", config=IndexConfig(shard_seconds=1e-6)
    )
    before = len(manifest_of(place).images)
    files = names_of(pictures)
    report = import_vectors(npy(tmp_path, encoded(files)), place, paths=write_list(tmp_path, files))
    assert len(manifest_of(place).images) == before + report.imported


def test_large_arrays_are_mapped_and_read_in_blocks(tmp_path: Path) -> None:
    vectors = np.random.default_rng(3).normal(size=(9_000, 256)).astype(np.float16)
    source = open_import(
        npy(tmp_path, vectors), write_list(tmp_path, [f"{n}.jpg" for n in range(9_000)])
    )
    assert isinstance(source.parts[0].matrix, np.memmap)
    blocks = list(source.blocks(4_000))
    assert [len(names) for names, _ in blocks] == [len(rows) for _, rows in blocks]
    assert [len(names) for names, _ in blocks] == [4_000, 4_000, 1_000]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in blocks]), vectors)
    np.testing.assert_array_equal(source.take([8_999, 0]), vectors[[8_999, 0]])


def test_digest_table() -> None:
    rng = np.random.default_rng(4)
    digests = rng.integers(0, 256, (200_000, 32), dtype=np.uint8)
    digests[1, :8] = digests[0, :8]  # alike in the first half
    table = DigestTable(digests[:50_000], np.arange(50_000))
    for value in range(50_000, 200_000):  # more than are kept apart
        table.add(digests[value].tobytes(), value)
    assert len(table) == 200_000
    for value in (0, 1, 49_999, 50_000, 123_456, 199_999):
        assert table.get(digests[value].tobytes()) == value
    assert table.get(bytes(32)) is None
    assert table.get(b"\xff" * 32) is None
    assert DigestTable(digests[:0], np.arange(0)).get(bytes(16)) is None


def test_reading_names_does_without_pandas(tmp_path: Path) -> None:
    names = [Path("a.jpg"), Path("b.jpg")]
    folder = clip_retrieval(tmp_path / "out", names, np.ones((2, 256), np.float16), [1])
    program = (
        "import sys; from indexer.import_source import open_import; "
        f"print(len(list(open_import({str(folder)!r}).names())), 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["2", "False"], done.stderr
