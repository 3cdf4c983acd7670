"""Duplicates: the same bytes, copies of one picture, bursts, what to keep, and collapsed hits."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import tarfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from clipsearch.bursts import burst_groups, burst_labels
from clipsearch.cli import run
from clipsearch.cli.dups import dups
from clipsearch.copies import copy_groups
from clipsearch.duplicates import collapse, find_exact, find_near
from clipsearch.errors import OptionError
from clipsearch.generation import Generation, open_generation
from clipsearch.hash_neighbours import CROWD, close_hashes, distances
from clipsearch.keep_best import Candidate, best_copy, best_file, best_shot, named_as_copy
from clipsearch.picture_facts import NO_TIME, PictureFacts
from clipsearch.same_picture import DuplicateSettings, SamePicture
from clipsearch.thumbnail_pixels import relative_sharpness
from indexer import build_index


def _shot(picture: Image.Image, path: Path, when: datetime, camera: str = "One") -> None:
    """Save a picture as a camera would, with the fraction of its second where it has one."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Acme", camera
    photo = exif.get_ifd(0x8769)
    photo[0x9003] = when.strftime("%Y:%m:%d %H:%M:%S")
    if when.microsecond:
        photo[0x9291] = f"{when.microsecond // 1000:03d}"
    picture.save(path, exif=exif, quality=92)


NOON = datetime(2024, 5, 5, 12, 0, 0)
SHOTS = 5


def _moved(picture: Image.Image, step: int) -> Image.Image:
    """The scene a moment later: the camera has moved by a twentieth of the picture."""
    width, height = picture.size
    x, y = width // 20, height // 30
    return picture.crop(
        (step * x, step * y, width - (SHOTS - step) * x, height - (SHOTS - step) * y)
    )


@pytest.fixture(scope="module")
def _collection(_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photos with copies, bursts and blank pages, and the index of them made with mini."""
    folder = tmp_path_factory.mktemp("duplicates") / "photos"
    folder.mkdir()
    groot, tower, cheetah = (
        Image.open(_pictures / name).convert("RGB")
        for name in ("groot.jpeg", "tower.jpg", "cheetah2.jpg")
    )
    shutil.copyfile(_pictures / "groot.jpeg", folder / "groot.jpeg")
    groot.resize((455, 256)).save(folder / "groot-half.jpg")
    groot.save(folder / "groot-q40.jpg", quality=40)
    groot.save(folder / "groot.webp", quality=80)
    ImageEnhance.Brightness(groot).enhance(1.15).save(folder / "groot-bright.jpg", quality=90)
    groot.crop((9, 5, 901, 507)).save(folder / "groot-crop.jpg", quality=90)
    shutil.copyfile(_pictures / "tower.jpg", folder / "tower.jpg")
    shutil.copyfile(_pictures / "tower.jpg", folder / "tower (1).jpg")
    tower.filter(ImageFilter.GaussianBlur(2)).save(folder / "tower-soft.jpg", quality=98)
    for step in range(SHOTS):
        when = NOON + timedelta(milliseconds=700 * step)
        sharp = _moved(cheetah, step)
        shot = sharp if step == 3 else sharp.filter(ImageFilter.GaussianBlur(1.2))
        _shot(shot, folder / f"IMG_{step}.jpg", when)
    _shot(_moved(cheetah, 1), folder / "minutes-later.jpg", NOON + timedelta(minutes=3))
    _shot(_moved(cheetah, SHOTS), folder / "other-camera.jpg", NOON + timedelta(seconds=1), "Two")
    _shot(tower.resize((300, 480)), folder / "of-else.jpg", NOON + timedelta(seconds=1.5))
    for name, colour in [("white", "white"), ("red", "red"), ("blue", "blue")]:
        Image.new("RGB", (420, 300), colour).save(folder / f"{name}.png")
    Image.new("RGB", (420, 300), (254, 255, 255)).save(folder / "white-too.png")
    for name in ("lion.jpg", "cheetah.jpg", "logo.png", "bus.png"):
        shutil.copyfile(_pictures / name, folder / name)
    place = folder.parent / "photos.index"
    build_index(folder, place, encoder="mini")
    return folder, place


@pytest.fixture
def collection(_collection: tuple[Path, Path]) -> tuple[Path, Generation]:
    """The folder and its index, not to be written to."""
    return _collection[0], open_generation(_collection[1])


def _names(groups: Any, kind: str) -> list[tuple[str, set[str]]]:
    """(name to keep, names of the others) of every group of a kind."""
    return sorted(
        (group.keep.path.name, {file.path.name for file in group.others})
        for group in groups
        if group.kind == kind
    )


def test_the_same_bytes_are_found_whatever_their_names(
    collection: tuple[Path, Generation],
) -> None:
    folder, state = collection
    found = find_exact(state)
    assert _names(found, "exact") == [("tower.jpg", {"tower (1).jpg"})]
    (group,) = found
    assert group.reason == "the original: its name"
    assert group.bytes_to_free == (folder / "tower.jpg").stat().st_size
    assert [file.cosine for file in group.files] == [1.0, 1.0]
    assert group.keep.id == group.others[0].id
    assert (group.keep.width, group.keep.height) == (377, 600)


def test_copies_are_found_and_nothing_else(collection: tuple[Path, Generation]) -> None:
    folder, state = collection
    found = find_near(state, kinds=["copy"])
    assert {group.kind for group in found} == {"copy"}
    groot = {"groot-half.jpg", "groot-q40.jpg", "groot.webp", "groot-bright.jpg", "groot-crop.jpg"}
    copies = _names(found, "copy")
    assert ("groot.jpeg", groot) in copies
    assert ("tower.jpg", {"tower (1).jpg", "tower-soft.jpg", "of-else.jpg"}) in copies
    # The two whites are one; red and blue, whose hashes are the same, are not.
    assert [("white.png", {"white-too.png"})] == [pair for pair in copies if "white" in pair[0]]
    assert not any({"red.png", "blue.png"} & {keep, *others} for keep, others in copies)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    for group in found:
        assert group.bytes_to_free == sum(sizes[file.path.name] for file in group.others)
    freed = [group.bytes_to_free for group in found]
    assert freed == sorted(freed, reverse=True)


def test_what_is_kept_is_the_best_of_them(collection: tuple[Path, Generation]) -> None:
    kept = {
        group.keep.path.name: group.reason for group in find_near(collection[1], kinds=["copy"])
    }
    assert kept["groot.jpeg"] in ("the original: less compressed", "the larger")
    assert kept["tower.jpg"] == "the sharper"  # the soft one has as many pixels


def test_the_shots_of_a_burst_are_told_from_copies(collection: tuple[Path, Generation]) -> None:
    groups = find_near(collection[1])
    bursts = _names(groups, "burst")
    # Not the one of minutes later, nor another camera's, nor one of something else.
    assert bursts == [("IMG_3.jpg", {"IMG_0.jpg", "IMG_1.jpg", "IMG_2.jpg", "IMG_4.jpg"})]
    (burst,) = (group for group in groups if group.kind == "burst")
    assert burst.reason == "the sharpest"
    shots = {"IMG_0.jpg", "IMG_1.jpg", "IMG_2.jpg", "IMG_3.jpg", "IMG_4.jpg"}
    for keep, others in _names(groups, "copy"):
        assert len(shots & {keep, *others}) < 2
    only = find_near(collection[1], DuplicateSettings(seconds=0.5), kinds=["burst"])
    assert not only  # 0.7 s apart


def test_only_allowed_images_are_looked_at(collection: tuple[Path, Generation]) -> None:
    state = collection[1]
    ids = {file.path.name: file.id for group in find_near(state) for file in group.files}
    allowed = np.sort([ids["groot.jpeg"], ids["groot-half.jpg"], ids["IMG_1.jpg"]])
    found = find_near(state, allowed=allowed)
    assert _names(found, "copy") == [("groot.jpeg", {"groot-half.jpg"})]
    assert len(found) == 1
    assert not find_exact(state, allowed=allowed)
    assert len(find_exact(state, allowed=np.array([ids["tower.jpg"]]))) == 1


def test_hits_collapse_under_the_first_of_them(collection: tuple[Path, Generation]) -> None:
    state = collection[1]
    groups = find_near(state)
    ids = {file.path.name: file.id for group in groups for file in group.files}
    ranked = np.array(
        [ids[name] for name in (
            "IMG_1.jpg", "groot-q40.jpg", "red.png" if "red.png" in ids else "tower.jpg",
            "groot.jpeg", "IMG_4.jpg", "groot-half.jpg",
        )]
        + [10**9]
    )  # fmt: skip
    expected = [ranked[0], ranked[1], ranked[2], ranked[1], ranked[0], ranked[1], 10**9]
    assert collapse(state, ranked).tolist() == expected
    assert collapse(state, np.empty(0, np.int64)).tolist() == []


def test_collapsing_looks_at_neighbours_only(
    collection: tuple[Path, Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every hit at every other: thousands of hits would be millions of looks."""
    state = collection[1]
    original = SamePicture.of
    looks: list[int] = []

    def spy(same: SamePicture, row: int, others: Any) -> Any:
        looks.extend(same.bits(row, others).tolist())
        return original(same, row, others)

    monkeypatch.setattr(SamePicture, "of", spy)
    assert len(np.unique(collapse(state, state.vectors.ids))) < len(state.vectors.ids)
    assert looks
    assert max(looks) <= DuplicateSettings().max_bits


@pytest.fixture
def own(_collection: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The folder and its index, for the test to change; the files are the index's own still."""
    from indexer.move import move

    folder = Path(shutil.copytree(_collection[0], tmp_path / "photos"))  # with their dates
    place = Path(shutil.copytree(_collection[1], tmp_path / "photos.index"))
    move(place, _collection[0], folder, force=True)
    return folder, place


Cli = Callable[..., Any]


def _lines(result: Any) -> list[str]:
    return [Path(line).name for line in result.stdout.decode().splitlines()]


@pytest.fixture
def here(capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """The command line as ``cli`` runs it, in this process, which takes no seconds to start."""

    def ask(*arguments: str | os.PathLike[str]) -> Any:
        code = run([os.fspath(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return ask


def test_the_command_prints_what_can_go(cli: Cli, here: Cli, own: tuple[Path, Path]) -> None:
    folder, place = own
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    exact = cli("dups", "--index", place)
    assert (exact.returncode, exact.stdout) == (0, os.fsencode(folder / "tower (1).jpg") + b"\n")
    nul = here("dups", "-0", "--index", place)
    assert nul.stdout == os.fsencode(folder / "tower (1).jpg") + b"\0"
    assert _lines(here("dups", "--print", "keep", "--index", place)) == ["tower.jpg"]
    assert _lines(here("dups", "--print", "all", "--index", place)) == [
        "tower.jpg",
        "tower (1).jpg",
    ]
    near = _lines(here("dups", "--kind", "near", "--index", place))
    copies = _lines(here("dups", "--kind", "copy", "--index", place))
    bursts = _lines(here("dups", "--kind", "burst", "--index", place))
    assert set(bursts) == {"IMG_0.jpg", "IMG_1.jpg", "IMG_2.jpg", "IMG_4.jpg"}
    assert sorted(near) == sorted({*copies, *bursts})
    kept = _lines(here("dups", "--kind", "near", "--print", "keep", "--index", place))
    assert not set(near) & set(kept)
    assert {"groot.jpeg", "tower.jpg", "IMG_3.jpg"} <= set(kept)
    assert (
        _lines(here("dups", "--kind", "near", "--limit", "1", "--print", "keep", "--index", place))
        == kept[:1]
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_json_and_csv_say_the_same(here: Cli, own: tuple[Path, Path]) -> None:
    folder, place = own
    result = here("dups", "--kind", "near", "--json", "--index", place)
    groups = [json.loads(line) for line in result.stdout.splitlines()]
    assert {group["kind"] for group in groups} == {"copy", "burst"}
    for group in groups:
        assert [file["keep"] for file in group["files"]] == [True] + [False] * (
            len(group["files"]) - 1
        )
        sizes = [os.path.getsize(file["path"]) for file in group["files"]]
        assert [file["bytes"] for file in group["files"]] == sizes
        assert group["bytes_to_free"] == sum(sizes[1:])
    half = next(
        file
        for group in groups
        for file in group["files"]
        if file["path"] == str(folder / "groot-half.jpg")
    )
    assert (half["width"], half["height"], half["keep"]) == (455, 256, False)
    assert 0 <= half["bits"] <= 10
    assert 0.5 < half["cosine"] <= 1
    table = here("dups", "--kind", "near", "--csv", "--index", place).stdout.decode()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["path"] for row in rows] == [
        file["path"] for group in groups for file in group["files"]
    ]
    assert [row["group"] for row in rows if row["keep"] == "1"] == [
        str(number) for number in range(1, len(groups) + 1)
    ]


def test_a_file_that_changed_or_went_is_never_named(here: Cli, own: tuple[Path, Path]) -> None:
    folder, place = own
    shutil.copyfile(folder / "lion.jpg", folder / "tower (1).jpg")
    result = here("dups", "--index", place)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"1 file left out" in result.stderr
    assert b"No duplicates found" in result.stderr
    (folder / "groot.jpeg").unlink()
    (folder / "groot-half.jpg").unlink()
    copies = dict(_names(find_near(open_generation(place), kinds=["copy"]), "copy"))
    (keep,) = (name for name in copies if "groot" in name)
    assert keep in ("groot-q40.jpg", "groot.webp", "groot-bright.jpg")
    assert {keep, *copies[keep]} == {
        "groot-q40.jpg", "groot.webp", "groot-bright.jpg", "groot-crop.jpg"
    }  # fmt: skip
    assert copies["tower.jpg"] == {"tower-soft.jpg", "of-else.jpg"}
    # The next run marks them missing: they are no duplicates then, and no longer counted.
    build_index(folder, place)
    result = here("dups", "--kind", "near", "--index", place)
    assert b"left out" not in result.stderr
    assert "groot.jpeg" not in _lines(result)


def test_two_names_of_one_file_are_no_duplicates(here: Cli, pictures: Path, tmp_path: Path) -> None:
    for name in ("cheetah1-copy.jpg", "logo.png", "test_image.png"):  # are there twice
        (pictures / name).unlink()
    os.link(pictures / "lion.jpg", pictures / "lion-again.jpg")
    os.symlink(pictures, tmp_path / "the-same-folder")
    place = tmp_path / "p.index"
    build_index([pictures, tmp_path / "the-same-folder"], place, encoder="mini")
    result = here("dups", "--index", place)
    assert (result.returncode, result.stdout) == (1, b"")


def test_a_file_goes_by_its_own_name_and_not_by_a_links(
    here: Cli, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for name in ("a lion at rest.jpg", "a lion at rest, the same.jpg"):
        shutil.copyfile(pictures / "lion.jpg", folder / name)
        os.utime(folder / name, ns=(0, len(name)))  # the first is the earlier
    os.symlink("a lion at rest, the same.jpg", folder / "b.jpg")
    place = tmp_path / "few.index"
    build_index(folder, place, encoder="mini")
    result = here("dups", "--index", place)
    assert result.stdout == f"{folder / 'a lion at rest, the same.jpg'}\n".encode()


def test_an_image_in_a_tar_is_shown_and_not_named(
    here: Cli, pictures: Path, tmp_path: Path
) -> None:
    for name in ("cheetah1-copy.jpg", "logo.png", "test_image.png"):  # are there twice
        (pictures / name).unlink()
    with tarfile.open(pictures / "old.tar", "w") as tar:
        tar.add(pictures / "lion.jpg", "lion.jpg")
    place = tmp_path / "p.index"
    build_index([pictures, pictures / "old.tar"], place, encoder="mini")
    (group,) = find_exact(open_generation(place))
    assert group.keep.path == pictures / "lion.jpg"
    assert [(file.path, file.movable) for file in group.others] == [
        (pictures / "old.tar" / "lion.jpg", False)
    ]
    result = here("dups", "--index", place)
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"inside tar" in result.stderr


def test_without_thumbnails_hash_and_cosine_decide(own: tuple[Path, Path]) -> None:
    _, place = own
    shutil.rmtree(place / "cache" / "thumbnails")
    groups = find_near(open_generation(place))
    copies = dict(_names(groups, "copy"))
    assert {"groot-half.jpg", "groot-q40.jpg", "groot.webp"} <= copies["groot.jpeg"]
    # Blank pages are alike to the hash: without a thumbnail nothing tells them apart.
    assert not any("white" in keep for keep in copies)
    assert [len(group.files) for group in groups if group.kind == "burst"] == [5]


def test_an_image_without_a_hash_is_no_copy(own: tuple[Path, Path]) -> None:
    _, place = own
    for shard in sorted((place / "images").iterdir()):
        table = pq.read_table(shard)
        column = table.schema.get_field_index("phash")
        nulls = pa.nulls(len(table), pa.uint64())
        pq.write_table(table.set_column(column, table.schema.field(column), nulls), shard)
    state = open_generation(place)
    groups = find_near(state)
    assert [group.kind for group in groups] == ["burst"]
    assert {file.bits for file in groups[0].files} == {None}
    assert len(find_exact(state)) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--min-cosine", "nan"),
        ("--min-cosine", "1.1"),
        ("--seconds", "-1"),
        ("--seconds", "inf"),
        ("--max-bits", "16"),
        ("--limit", "0"),
        ("--kind", "same"),
        ("--print", "none"),
    ],
)
def test_options_that_make_no_sense(
    here: Cli, mini_index: Path, arguments: tuple[str, ...]
) -> None:
    result = here("dups", *arguments, "--index", mini_index)
    assert result.returncode == 2
    assert arguments[0].encode() in result.stderr
    assert b"Traceback" not in result.stderr


def test_the_options_say_what_the_settings_are() -> None:
    plain = DuplicateSettings()
    options = {option.name: option.default for option in dups.params}
    assert (options["max_bits"], options["min_cosine"], options["seconds"]) == (
        plain.max_bits,
        plain.min_cosine,
        plain.seconds,
    )


def test_settings_that_make_no_sense(collection: tuple[Path, Generation]) -> None:
    for wrong in (
        {"max_bits": -1}, {"max_bits": 16}, {"min_cosine": math.nan}, {"burst_cosine": 2},
        {"seconds": math.inf}, {"seconds": math.nan},
    ):  # fmt: skip
        with pytest.raises(OptionError, match=next(iter(wrong))):
            DuplicateSettings(**wrong)
    with pytest.raises(OptionError, match="exact"):
        find_near(collection[1], kinds=["exact"])


# -- the parts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 5, 10, 13, 15])
def test_close_hashes_are_those_of_comparing_all_with_all(bits: int) -> None:
    rng = np.random.default_rng(bits)
    hashes = rng.integers(0, 2**64, 1500, dtype=np.uint64)
    near = hashes[:500].copy()
    for _ in range(14):
        near ^= (rng.random(500) < 0.6).astype(np.uint64) << rng.integers(0, 64, 500, np.uint64)
    hashes = np.unique(np.concatenate([hashes, near]))
    expected = np.triu(distances(hashes[:, None], hashes[None]) <= bits, 1)
    left, right = close_hashes(hashes, bits)
    assert (left < right).all()
    found = np.stack([left, right], axis=1)
    assert sorted(found.tolist()) == np.argwhere(expected).tolist()
    assert (bits < 5) or expected.sum() > 50


def test_a_crowd_of_like_hashes_costs_no_square() -> None:
    low = np.arange(4 * CROWD, dtype=np.uint64)
    hashes = np.zeros_like(low)
    for bit in range(14):  # all differ in the bits of one band alone
        hashes |= ((low >> np.uint64(bit)) & np.uint64(1)) << np.uint64(4 * bit)
    left, right = close_hashes(hashes, 1)
    assert (distances(hashes[left], hashes[right]) == 1).all()
    # Each band is walked at most CROWD a row, in which every neighbour by one bit that is near
    # in sorted order is found: of 14 bits those below the 11th.
    assert len(left) >= len(hashes) * 10 // 2


class Counting(SamePicture):
    """Counts how many images were looked at."""

    looked_at = 0

    def of(self, row: int, others: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.looked_at += len(others)
        return super().of(row, others)


def _facts(hashes: np.ndarray[Any, Any], **columns: Any) -> PictureFacts:
    count = len(hashes)
    known: dict[str, Any] = {
        "ids": np.arange(count),
        "hashes": hashes,
        "hashed": np.ones(count, bool),
        "sides": np.full((count, 2), 100, np.int32),
        "sizes": np.arange(count)[::-1],
        "taken": np.full(count, NO_TIME),
        "exposed": np.zeros(count, bool),
        "cameras": np.full(count, -1),
        "lossless": np.zeros(count, bool),
    }
    return PictureFacts(**{**known, **columns})


def _state(vectors: np.ndarray[Any, Any]) -> Any:
    """A generation of nothing but vectors."""
    return SimpleNamespace(
        vectors=SimpleNamespace(dim=vectors.shape[1], take=lambda ids: (ids, vectors[ids])),
        cache=Path("nowhere"),
        manifest=SimpleNamespace(images=()),
    )


def _unit(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_ten_thousand_pictures_with_one_hash_cost_no_square() -> None:
    count = 10_000
    rng = np.random.default_rng(7)
    hashes = np.full(count, 0x5A5A_F00F_3C3C_A5A5, np.uint64)
    vectors = _unit(rng.standard_normal((count, 32)))
    vectors[5000:5100] = vectors[:100]  # a hundred copies among strangers
    same = Counting(_state(vectors), _facts(hashes), DuplicateSettings(min_cosine=0.95))
    groups = copy_groups(same)
    found = {tuple(sorted(group.tolist())) for group in groups}
    assert {(row, row + 5000) for row in range(100)} <= found
    assert same.looked_at < count * 600  # of 50,000,000
    alike = np.repeat(vectors[:1], count, axis=0)
    same = Counting(_state(alike), _facts(hashes), DuplicateSettings())
    (group,) = copy_groups(same)
    assert (len(group), same.looked_at) == (count, count - 1)
    assert group[0] == 0  # the largest file


def test_copies_do_not_chain_into_strangers() -> None:
    # Each is 4 bits from the next; the ends of the row are strangers.
    hashes = np.array(
        [0x5A5A_F00F_3C3C_A5A5 ^ ((1 << 4 * step) - 1) for step in range(8)], np.uint64
    )
    vectors = _unit(np.ones((8, 4)))
    groups = copy_groups(
        SamePicture(_state(vectors), _facts(hashes), DuplicateSettings(max_bits=4))
    )
    assert [group.tolist() for group in groups] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_a_burst_goes_on_as_long_as_each_shot_follows_another() -> None:
    second = 1_000_000
    taken = np.array([*(range(0, 40 * second, second)), 100 * second, 101 * second, 0], np.int64)
    cameras = np.array([1] * 40 + [1, 2, -1])
    vectors = _unit(np.ones((43, 4))).astype(np.float16)
    vectors[20] = [1, -1, 1, -1]  # somebody walked through
    facts = _facts(np.zeros(43, np.uint64), taken=taken, cameras=cameras)
    labels = burst_labels(facts, lambda rows: vectors[rows], 2.0, 0.7)
    (burst,) = burst_groups(labels)
    assert burst.tolist() == [*range(20), *range(21, 40)]
    assert not burst_groups(burst_labels(facts, lambda rows: vectors[rows], 0.9, 0.7))


def _candidate(name: str = "a.jpg", **known: Any) -> Candidate:
    plain: dict[str, Any] = {
        "pixels": 100, "sharpness": 1.0, "has_camera": False, "lossless": False, "size": 10,
        "mtime_ns": 5,
    }  # fmt: skip
    return Candidate(path=Path(name), **{**plain, **known})


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({"pixels": 200}, {"sharpness": 9.0, "has_camera": True}, "the larger"),
        ({"sharpness": 5.0}, {"has_camera": True, "size": 99}, "the sharper"),
        ({"has_camera": True}, {"sharpness": 3.5, "size": 99}, "the original: camera data"),
        ({"size": 99}, {"sharpness": 3.0}, "the original: less compressed"),  # made brighter
        ({"name": "b.jpg"}, {"name": "b (1).jpg", "size": 99}, "the original: its name"),
        ({"lossless": True}, {"pixels": 101, "mtime_ns": 1}, "the original: lossless"),
        ({"size": 11}, {"mtime_ns": 1}, "the original: less compressed"),
        ({"mtime_ns": 4}, {}, "the original: the earlier"),
        ({}, {}, "none is better"),
        ({"sharpness": math.nan, "size": 11}, {"sharpness": 9.0}, "the original: less compressed"),
        ({}, {"in_container": True, "size": 99}, "the file of its own"),
    ],
)
def test_why_a_copy_is_the_best(first: dict[str, Any], second: dict[str, Any], reason: str) -> None:
    pair = [_candidate(**first), _candidate(**second)]
    assert best_copy(pair) == (0, reason)
    if reason != "none is better":
        assert best_copy(pair[::-1]) == (1, reason)


def test_the_best_shot_and_the_best_file() -> None:
    shots = [_candidate(sharpness=sharpness) for sharpness in (1.0, 1.1, 1.05)]
    assert best_shot(shots) == (1, "the sharpest")
    assert best_shot([_candidate(sharpness=math.nan), _candidate(sharpness=0.1)])[0] == 1
    assert best_file([_candidate("a copy.jpg", mtime_ns=1), _candidate("b.jpg")]) == (
        1,
        "the original: its name",
    )
    assert best_file([_candidate("a/b.jpg"), _candidate("a.jpg")]) == (1, "the shorter path")


@pytest.mark.parametrize(
    ("name", "is_copy"),
    [
        ("IMG_1 (1).jpg", True), ("IMG_1 copy.jpg", True), ("IMG_1 copy 2.jpg", True),
        ("IMG_1-edited.jpg", True), ("Kopie von IMG_1.jpg", True),
        ("IMG-20200101-WA0003.jpg", True),
        ("IMG_1_640x480.jpg", True), ("IMG_1 - コピー.jpg", True), ("IMG_1.jpg", False),
        ("copyright.jpg", False), ("smallville.jpg", False), ("2020 (Rome).jpg", False),
        ("credit.jpg", False),
    ],
)  # fmt: skip
def test_names_that_say_they_are_copies(name: str, is_copy: bool) -> None:
    assert named_as_copy(Path(name)) is is_copy


def test_sharpness_is_that_of_edges_and_not_of_contrast(flickr: Path) -> None:
    photo = Image.open(sorted(flickr.rglob("*.jpg"))[0]).convert("L")
    sharp = relative_sharpness(np.asarray(photo, np.float32))
    soft = photo.filter(ImageFilter.GaussianBlur(1.5))
    assert relative_sharpness(np.asarray(soft, np.float32)) < 0.5 * sharp
    assert relative_sharpness(2 * np.asarray(photo, np.float32)) == pytest.approx(sharp, rel=1e-3)
    assert relative_sharpness(np.full((9, 9), 7, np.float32)) == 0
    assert relative_sharpness(np.ones((2, 9), np.float32)) == 0


def test_on_real_photos_copies_are_found_and_strangers_are_not(
    flickr: Path, tmp_path: Path
) -> None:
    photos = sorted(flickr.rglob("*.jpg"))[:40]
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, photo in enumerate(photos):
        shutil.copyfile(photo, folder / f"{number}.jpg")
        picture = Image.open(photo).convert("RGB")
        width, height = picture.size
        small = picture.resize((width // 2, height // 2))
        grey = ImageOps.grayscale(picture)
        crop = picture.crop((width // 100, height // 100, width - width // 100, height))
        small.save(folder / f"{number}-half.jpg")
        grey.save(folder / f"{number}-grey.jpg", quality=50)
        crop.save(folder / f"{number}-crop.webp")
    build_index(folder, tmp_path / "p.index", encoder="mini")
    groups = find_near(open_generation(tmp_path / "p.index"), kinds=["copy"])
    found = 0
    for group in groups:
        (number,) = {file.path.stem.split("-")[0] for file in group.files}  # never two photos
        assert group.keep.path.name == f"{number}.jpg"
        found += len(group.others)
    assert found >= 0.95 * 3 * len(photos)


def test_screenshots_and_faint_pages_that_differ_in_a_word_are_no_copies(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()

    def screenshot(name: str, text: str, **saving: Any) -> None:
        picture = Image.new("RGB", (1280, 720), (240, 240, 240))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 0, 1280, 60), fill=(40, 60, 90))
        draw.rectangle((0, 60, 250, 720), fill=(210, 215, 220))
        for line in range(12):
            draw.text((20, 80 + 30 * line), f"menu {line}", fill="black")
        draw.text((300, 100), text, fill="black", font_size=20)
        picture.save(folder / name, **saving)

    def page(name: str, text: str) -> None:
        picture = Image.new("RGB", (850, 1100), "white")
        ImageDraw.Draw(picture).text((400, 500), text, fill="black", font_size=14)
        picture.save(folder / name, quality=90)

    screenshot("1.png", "Invoice 1042, total 33.30 EUR")
    screenshot("2.png", "Invoice 1179, total 66.60 EUR")
    screenshot("1-again.png", "Invoice 1042, total 33.30 EUR", compress_level=1)
    screenshot("3.jpg", "Invoice 1042, total 33.30 EUR", quality=92)
    screenshot("4.jpg", "Invoice 1179, total 66.60 EUR", quality=92)
    screenshot("3-again.jpg", "Invoice 1042, total 33.30 EUR", quality=60)
    page("blank.jpg", "")
    page("note.jpg", "The key is under the third stone")
    page("other.jpg", "Meet me at noon, bring the papers")
    place = tmp_path / "photos.index"
    build_index(folder, place, encoder="mini")
    found = find_near(open_generation(place), kinds=["copy"])
    groups = sorted(sorted(file.path.name for file in group.files) for group in found)
    assert groups == [["1-again.png", "1.png", "3-again.jpg", "3.jpg"], ["2.png", "4.jpg"]]
    shutil.rmtree(place / "cache")
    blind = find_near(open_generation(place), kinds=["copy"])
    names = [{file.path.name for file in group.files} for group in blind]
    assert not [group for group in names if {"1.png", "2.png"} <= group]
