"""An index's copy in Milvus: milvus-lite, in a file and over HTTP, against the index itself."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsearch import Query, open_index
from clipsearch.database_check import check
from clipsearch.database_fields import ImageFields
from clipsearch.database_filters import MOST_IDS, expression
from clipsearch.database_place import DatabasePlace, database_place
from clipsearch.database_search import DatabaseSearch
from clipsearch.database_sync import record_of, sync
from clipsearch.errors import (
    MissingExtraError,
    OptionError,
    SpaceMismatchError,
    VectorDatabaseError,
)
from clipsearch.filters import parse_filter
from clipsearch.generation import Generation
from clipsearch.image_index import ImageIndex
from clipsearch.metadata import matching_ids
from clipsearch.milvus_index import MilvusIndex, connect
from clipsearch.shards import Int64
from clipsearch.vector_search import VectorSearch
from clipsearch.vectors import Vectors
from indexer import build_index
from indexer.compact import compact
from indexer.prune import prune
from tests.conftest import Cli
from tests.test_metadata import _TESTS, made, random_image

pytest.importorskip("pymilvus")
pytest.importorskip("milvus_lite")

_IMAGES = 700
_DIM = 24


def copy_of(state: Generation, place: DatabasePlace) -> MilvusIndex:
    return MilvusIndex(place, connect(place, make=True), state.manifest.uuid, state.space)


@pytest.fixture
def place(tmp_path: Path) -> DatabasePlace:
    return database_place(str(tmp_path / "vectors.db"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.database_sync.BLOCK_IDS", 4)


# -- filters, over made-up rows ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Crowd:
    state: Generation
    index: MilvusIndex
    rows: list[dict[str, Any]]
    search: DatabaseSearch
    queries: np.ndarray[Any, np.dtype[np.float32]]

    def matching(self, test: Any) -> Int64:
        return matching_ids(Path("no.index"), self.state, test)

    def found(self, text: str) -> tuple[Int64, str | None]:
        tree = parse_filter(text)
        said = expression(tree, self.matching)
        assert said is not None
        hits = self.index._query(self.index.name, said, ["id"], 16_384)
        return np.sort(np.array([hit["id"] for hit in hits], np.int64)), said


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Crowd:
    chance = random.Random(11)
    images = [random_image(chance, number) for number in range(_IMAGES)]
    places = [(0, b"a/%d.jpg" % image["id"], image["id"], "present", 10**18) for image in images]
    deleted = [image["id"] for image in images[::9]]
    folder = tmp_path_factory.mktemp("crowd")
    bare = made(folder, images, places, deleted)
    numbers = np.random.default_rng(3).standard_normal((_IMAGES + 8, _DIM)).astype(np.float32)
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    space = dataclasses.replace(bare.space, dim=_DIM)
    manifest = dataclasses.replace(bare.manifest, spaces={space.id: space}, next_id=3 * _IMAGES)
    half = numbers[:_IMAGES].astype(np.float16)
    vectors = Vectors(bare.vectors.ids, (half,), _DIM, bare.vectors.deleted)
    inner = VectorSearch(vectors, folder / "cache", manifest, space.id)
    state = Generation(manifest, space, folder / "cache", vectors, inner, bare.store)
    place = database_place(str(folder / "vectors.db"))
    index = copy_of(state, place)
    report = sync(state, index)
    live = [image for image in images if image["id"] not in deleted]
    assert (report.made, report.sent, report.images) == (True, len(live), len(live))
    return Crowd(state, index, live, DatabaseSearch(place), numbers[_IMAGES:])


@pytest.mark.parametrize(("text", "test"), _TESTS, ids=[text for text, _ in _TESTS])
def test_each_filter(crowd: Crowd, text: str, test: Callable[[Any], bool]) -> None:
    assert crowd.found(text)[0].tolist() == [row["id"] for row in crowd.rows if test(row)]
    opposite = [row["id"] for row in crowd.rows if not test(row)]
    assert crowd.found(f"not ({text})")[0].tolist() == opposite


def test_combined_filters_find_what_a_scan_finds(crowd: Crowd) -> None:
    """Filtered recall is 1: the same ids and the same scores, to the last bit."""
    chance = random.Random(6)
    sizes = set()
    for number in range(40):
        (a, one), (b, two), (c, three) = chance.sample(_TESTS, 3)
        text = f"{a} and not ({b} or {c}) or {c} and {b}"
        wanted = [
            row["id"]
            for row in crowd.rows
            if (one(row) and not (two(row) or three(row))) or (three(row) and two(row))
        ]
        tree = parse_filter(text)
        allowed = np.array(wanted, np.int64)
        nominated = crowd.search.nominated(
            crowd.state, tree, None, crowd.matching, lambda ids=allowed: ids
        )
        assert nominated is not None
        assert nominated.images == crowd.index.count(nominated.where) == len(wanted), text
        sizes.add(len(wanted))
        query = crowd.queries[number % len(crowd.queries)]
        for k in (1, 10, 60):
            scores, ids = nominated.search(query, k)
            exact, exact_ids = crowd.state.search.search(query, k, allowed=allowed)
            real = exact_ids[0] >= 0
            assert ids.tolist() == exact_ids[0][real].tolist(), text
            assert scores.tolist() == exact[0][real].tolist()
    assert len(sizes) > 20


def test_what_milvus_says_itself(crowd: Crowd) -> None:
    for text in ("camera ~ canon", "taken = 2019", "keyword = DOG", "within(1, 2, 3, 4)"):
        said = crowd.found(text)[1]
        assert said is not None
        assert "id" not in said.replace("width", "").split()
    for text in ("exif.flash = 16", "near(0, 0, 9000)", "not name ~ 4"):
        assert str(crowd.found(text)[1]).startswith(("id in [", "id not in ["))
    for text in ("name = NEVER", 'camera ~ "50%_\\"'):
        assert crowd.found(text)[1] == "id < 0"
    assert expression(parse_filter("camera = nikon d70"), crowd.matching, ["camera"]) == (
        f"id in {crowd.matching(parse_filter('camera = nikon d70')).tolist()}"
    )


def test_texts_that_would_end_an_expression(crowd: Crowd) -> None:
    for text in ('a"b', "a\\", 'x" or id >= 0 or camera == "', "a'b", "\u2028", "{p}"):
        assert crowd.found(f"camera = '{text.replace(chr(39), chr(39) * 2)}'")[0].tolist() == []


def test_too_many_ids_are_left_to_the_index(crowd: Crowd) -> None:
    tree = parse_filter("exif.flash = 16")
    assert expression(tree, lambda test: np.arange(MOST_IDS + 1)) is None
    assert expression(parse_filter("width > 1"), lambda test: np.arange(MOST_IDS + 1))


def test_more_hits_than_milvus_brings(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.database_search.MOST_HITS", 50)
    monkeypatch.setattr("clipsearch.database_search._CANDIDATES", 20)
    for text in (None, "width >= 1600"):
        tree = None if text is None else parse_filter(text)
        allowed = None if tree is None else crowd.matching(tree)
        nominated = crowd.search.nominated(
            crowd.state, tree, None, crowd.matching, lambda ids=allowed: ids
        )
        assert nominated is not None
        for k in (1, 12, 13, 50, 51, 2000):
            scores, ids = nominated.search(crowd.queries[0], k)
            exact, exact_ids = crowd.state.search.search(crowd.queries[0], k, allowed=allowed)
            real = exact_ids[0] >= 0
            assert ids.tolist() == exact_ids[0][real].tolist()
            assert scores.tolist() == exact[0][real].tolist()


@pytest.mark.usefixtures("small_blocks")
def test_what_is_known_of_an_image_changes(tmp_path: Path, place: DatabasePlace) -> None:
    images: list[dict[str, Any]] = [{"id": n, "width": 10 + n, "height": 5} for n in range(10)]
    places = [(0, b"%d.jpg" % n, n, "present", 1) for n in range(10)]
    before = made(tmp_path / "before", images, places)
    before = dataclasses.replace(before, manifest=dataclasses.replace(before.manifest, next_id=10))
    copy = copy_of(before, place)
    sync(before, copy)
    assert copy.count("width >= 15") == 5
    long = "a dog " * 20_000
    images[6] |= {"camera": "Canon", "keywords": ["Dog", "x" * 70_000]}
    images[7] |= {"description": long}
    after = made(tmp_path / "after", images, places)
    manifest = dataclasses.replace(after.manifest, uuid=before.manifest.uuid, next_id=10)
    after = dataclasses.replace(after, manifest=manifest)
    assert check(after, copy).other_fields.tolist() == [6, 7]
    report = sync(after, copy)
    assert (report.sent, report.removed) == (4, 0)  # the block that they lie in
    assert check(after, copy).is_same
    assert copy.count('camera == "canon" and array_contains(keyword, "dog")') == 1
    # What was too long for Milvus is known to be, and answered by the index.
    record = record_of(copy)
    assert record is not None
    assert record.cut == ("description", "keyword")
    tree = parse_filter("description ~ 'dog a' and width > 1")
    said = expression(tree, lambda test: matching_ids(tmp_path, after, test), record.cut)
    assert said == "(id in [7] and (width is not null and width > 1))"
    sync(before, copy)
    assert check(before, copy).is_same
    assert getattr(record_of(copy), "cut", None) == ()


# -- an index as it changes ---------------------------------------------------------------------


def same_hits(place: DatabasePlace, index: Path, queries: list[Query | str]) -> ImageIndex:
    local, through = open_index(index), open_index(index, database=DatabaseSearch(place))
    for query in queries:
        for k in (1, 4, None):
            one = local.search(query, k=k, strengths=True)
            other = through.search(query, k=k, strengths=True)
            assert repr(other.hits) == repr(one.hits)  # in which nan is nan
            assert (other.searched, other.total) == (one.searched, one.total)
            assert repr(other.below) == repr(one.below)
    return through


QUERIES: list[Query | str] = [
    "a lion",
    Query("an animal", where="width > 300"),
    Query("an animal", minus=(("a drawing", 2.0),), min_score="auto"),
    Query(like=(1,), where="not format = PNG", collapse=True),
    Query("a bus", sort="date"),
    Query(where="format = JPEG"),
]


def test_the_same_hits_as_without(mini_index: Path, place: DatabasePlace) -> None:
    state = open_index(mini_index).state()
    sync(state, copy_of(state, place))
    through = same_hits(place, mini_index, QUERIES)
    assert through.search("a lion").kind == "milvus"
    assert through.search(Query("a lion", where="width > 300")).kind == "milvus"
    assert through.search("a lion", exact=True).kind == "exact"
    first = through.search("an animal", first_id=5)
    assert sorted(hit.id for hit in first) == [5, 6, 7, 8]


@pytest.mark.usefixtures("small_blocks")
def test_new_images_deleted_ones_and_merged_shards(
    pictures: Path, tmp_path: Path, place: DatabasePlace
) -> None:
    index = tmp_path / "x.index"
    away = tmp_path / "away"
    away.mkdir()
    for name in ("lion.jpg", "tower.jpg"):
        shutil.move(pictures / name, away / name)
    build_index(pictures, index, encoder="mini")
    state = open_index(index).state()
    images = len(state.vectors)
    copy = copy_of(state, place)
    assert sync(state, copy).sent == images == len(copy)
    assert (sync(state, copy).sent, sync(state, copy).removed) == (0, 0)

    # New images are found before they are synced, and sent alone with those of their block.
    shutil.copyfile(away / "lion.jpg", pictures / "lion.jpg")
    build_index(pictures, index)
    state = open_index(index).state()
    through = same_hits(place, index, QUERIES)
    gone = images  # ids rise
    assert gone in [hit.id for hit in through.search("a lion", k=None)]
    assert through.database is not None
    assert "at generation" in str(through.database.behind(state))
    assert check(state, copy).missing.tolist() == [gone]
    report = sync(state, copy)
    assert (report.images, report.sent) == (images + 1, images % 4 + 1)
    assert len(copy) == images + 1

    # A deleted image is never a hit: not before the next sync, and not there after it.
    (pictures / "lion.jpg").unlink()
    build_index(pictures, index)
    prune(index)
    state = open_index(index).state()
    assert gone in copy.ids_between(0, 100)
    through = same_hits(place, index, QUERIES)
    assert gone not in [hit.id for hit in through.search("a lion", k=None)]
    assert check(state, copy).extra.tolist() == [gone]
    report = sync(state, copy)
    assert (report.removed, report.images) == (1, images)
    assert gone not in copy.ids_between(0, 100)
    assert copy.nominate(through.vectors_of([0])[1][0], 100)[1].tolist().count(gone) == 0
    same_hits(place, index, QUERIES)

    # Merged shards are other files with the same rows: they are read, and nothing is sent.
    compact(index)
    state = open_index(index).state()
    report = sync(state, copy)
    assert (report.sent, report.removed) == (0, 0)
    assert check(state, copy).is_same


@pytest.mark.usefixtures("small_blocks")
def test_a_writer_clears_away_what_a_sync_is_to_read(
    pictures: Path, tmp_path: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "x.index"
    away = shutil.move(pictures / "lion.jpg", tmp_path / "lion.jpg")
    build_index(pictures, index, encoder="mini")
    begin = ImageFields.__init__
    written: list[bool] = []

    def interfere(self: ImageFields, state: Generation) -> None:
        begin(self, state)
        if not written:
            written.append(True)
            shutil.move(away, pictures / "lion.jpg")
            build_index(pictures, index)
            compact(index)

    monkeypatch.setattr(ImageFields, "__init__", interfere)
    words = ("sync", "--uri", tmp_path / "v.db", "--index", index)
    done = cli_here(*words)
    assert (done.returncode, done.stderr, written) == (0, b"", [True])
    images = len(open_index(index).state().vectors)
    assert f"holds {images} images".encode() in done.stdout
    assert cli_here(*words, "--check").returncode == 0


@pytest.mark.usefixtures("small_blocks")
def test_an_index_put_back_to_an_older_state(
    pictures: Path, tmp_path: Path, place: DatabasePlace
) -> None:
    index, older = tmp_path / "x.index", tmp_path / "older.index"
    kept = pictures / "tower.jpg"
    data = kept.read_bytes()
    kept.unlink()
    build_index(pictures, index, encoder="mini")
    shutil.copytree(index, older)
    kept.write_bytes(data)
    build_index(pictures, index)
    state = open_index(index).state()
    copy = copy_of(state, place)
    sync(state, copy)
    state = open_index(older).state()
    report = sync(state, copy)
    assert report.removed == 1
    assert check(state, copy).is_same
    same_hits(place, older, QUERIES)


@pytest.mark.usefixtures("small_blocks")
def test_a_sync_cut_short_goes_on(
    mini_index: Path, place: DatabasePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_index(mini_index).state()
    copy = copy_of(state, place)
    put = MilvusIndex.put_mark

    def stop(self: MilvusIndex, block: int, document: dict[str, Any]) -> None:
        if block == 1:  # its images are there by now, and nothing says so
            raise KeyboardInterrupt
        put(self, block, document)

    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "put_mark", stop)
        with pytest.raises(KeyboardInterrupt):
            sync(state, copy)
    assert len(copy) == 8
    assert record_of(copy) is None
    with pytest.raises(VectorDatabaseError, match=r"does not hold all .*clipsearch sync --index"):
        open_index(mini_index, database=DatabaseSearch(place)).search("a lion")
    assert check(state, copy).synced is None
    copy.delete(np.array([5]))  # whatever became of a half-sent block
    report = sync(state, copy)
    assert (report.made, report.sent, len(copy)) == (False, 5, 9)
    assert check(state, copy).is_same


def test_ctrl_c_while_syncing(
    mini_index: Path, place: DatabasePlace, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: MilvusIndex, *_: Any) -> None:
        raise KeyboardInterrupt

    command = ("sync", "--index", mini_index, "--uri", place.uri)
    with monkeypatch.context() as patch:
        patch.setattr(MilvusIndex, "add", interrupt)
        done = cli_here(*command)
    assert (done.returncode, done.stdout) == (130, b"")
    assert b"run the same command again to go on" in done.stderr
    done = cli_here(*command)
    assert (done.returncode, b"9 sent" in done.stdout) == (0, True)


@pytest.mark.slow
def test_a_sync_that_was_killed_goes_on(mini_index: Path, place: DatabasePlace) -> None:
    program = f"""
import os, signal
import clipsearch.database_sync as database_sync
from clipsearch import open_index
from clipsearch.database_place import database_place
from clipsearch.milvus_index import MilvusIndex, connect
database_sync.BLOCK_IDS = 4
put = MilvusIndex.put_mark
def kill(self, block, document):
    if block == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, block, document)
MilvusIndex.put_mark = kill
place = database_place({place.uri!r})
state = open_index({str(mini_index)!r}).state()
index = MilvusIndex(place, connect(place, make=True), state.manifest.uuid, state.space)
database_sync.sync(state, index)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipsearch.database_sync.BLOCK_IDS", 4)
        state = open_index(mini_index).state()
        copy = copy_of(state, place)
        report = sync(state, copy)
        assert (report.made, report.sent, len(copy)) == (False, 5, 9)
        assert check(state, copy).is_same


def test_what_a_check_finds(mini_index: Path, place: DatabasePlace, cli_here: Cli) -> None:
    state = open_index(mini_index).state()
    copy = copy_of(state, place)
    sync(state, copy)
    found = check(state, copy)
    assert (found.is_same, found.compared, found.images) == (True, 9, 9)
    _, rows, fields = copy.take(np.array([2, 3, 4]))
    copy.delete(np.array([7, 8]))
    copy.add(np.array([40]), rows[:1], fields[:1])
    turned = rows[1].copy()
    turned[:2] = turned[1::-1]
    copy.add(np.array([3]), turned[None], fields[1:2])
    copy.add(np.array([4]), rows[2:], [{**fields[2], "camera": "another"}])
    found = check(state, copy)
    assert (found.missing.tolist(), found.extra.tolist()) == ([7, 8], [40])
    assert (found.other_vectors.tolist(), found.other_fields.tolist()) == ([3], [4])
    assert not found.is_same
    done = cli_here("sync", "--check", "--index", mini_index, "--uri", place.uri)
    assert done.returncode == 1
    assert done.stdout.decode().splitlines() == [
        "2 images not there: id 7, 8",
        "1 image there and not in the index: id 40",
        "1 image with another vector: id 3",
        "1 image with other metadata: id 4",
    ]
    done = cli_here("sync", "--check", "--json", "--index", mini_index, "--uri", place.uri)
    document = json.loads(done.stdout)
    assert (done.returncode, document["same"], document["missing_ids"]) == (1, False, [7, 8])


# -- which index, which space -----------------------------------------------------------------


def test_indexes_and_spaces_never_mix(
    mini_index: Path, photo_library: Path, place: DatabasePlace
) -> None:
    one, other = open_index(mini_index).state(), open_index(photo_library).state()
    first, second = copy_of(one, place), copy_of(other, place)
    sync(one, first)
    sync(other, second)
    assert first.name != second.name
    assert (len(first), len(second)) == (len(one.vectors), len(other.vectors))
    assert check(one, first).is_same
    assert check(other, second).is_same
    same_hits(place, mini_index, QUERIES)
    same_hits(place, photo_library, ["a lion", Query("a cat", where="camera ~ one")])
    space = dataclasses.replace(one.space, fingerprint="0" * 64)
    elsewhere = MilvusIndex(place, first._client, one.manifest.uuid, space)
    assert elsewhere.name != first.name
    assert not elsewhere.exists()
    # The name alone is not believed.
    elsewhere.name, elsewhere._marks = first.name, first._marks
    with pytest.raises(SpaceMismatchError, match="is not the copy of this index"):
        elsewhere.exists()


# -- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vectors", "expected a Milvus address such as"),
        ("", "expected a Milvus address"),
        ("ftp://host", "expected a Milvus address"),
        ("http://", "expected a Milvus address"),
        ("http://root:secret@host:19530", "leave it out of the address"),
        ("http://host:19530/?token=secret", "leave it out of the address"),
        ("http://root:secret@[::1", "expected a Milvus address"),
        ("root:secret@host:19530", "expected a Milvus address"),
    ],
)
def test_addresses_that_are_none(text: str, told: str) -> None:
    with pytest.raises(OptionError, match=told) as caught:
        database_place(text)
    assert "secret" not in str(caught.value)


def test_a_token_is_not_shown() -> None:
    assert "hush" not in repr(database_place("http://milvus:19530", "hush"))


def test_the_command_line_says_what_is_wrong(
    mini_index: Path, tmp_path: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsearch.milvus_index._CONNECT_SECONDS", 0.5)

    def told(*arguments: Any) -> str:
        done = cli_here(*arguments, "--index", mini_index)
        assert (done.returncode, done.stdout) == (2, b"")
        said = done.stderr.decode()
        assert said.startswith("Error: ")
        assert len(said.splitlines()) == 1
        return said

    search = ("search", "a lion", "--backend", "milvus")
    nothing = tmp_path / "none.db"
    assert "--uri http://HOST:19530" in told(*search)
    assert "--uri goes with --backend milvus" in told("search", "a lion", "--uri", nothing)
    assert "clipsearch sync --uri" in told(*search, "--uri", nothing)
    assert "there is no folder" in told("sync", "--uri", tmp_path / "no" / "x.db")
    assert not nothing.exists()
    assert "no Milvus answers at http://127.0.0.1:9" in told(*search, "--uri", "http://127.0.0.1:9")
    (tmp_path / "file.db").write_bytes(b"text")
    assert "cannot open" in told("sync", "--uri", tmp_path / "file.db")
    with monkeypatch.context() as patch:
        patch.setenv("CLIPSEARCH_OFFLINE", "1")
        assert "forbids the network" in told(*search, "--uri", "http://milvus.example:19530")
        assert "no Milvus answers" in told(*search, "--uri", "http://127.0.0.1:9")
    assert "leave out --fuse" in told(*search, "--uri", nothing, "--fuse")
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    assert 'pip install "clipsearch[milvus]"' in told("sync", "--uri", tmp_path / "x.db")


def test_missing_extra(monkeypatch: pytest.MonkeyPatch, place: DatabasePlace) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match="clipsearch"):
        connect(place, make=True)


# -- processes ------------------------------------------------------------------------------------


def test_sync_and_search_by_command(mini_index: Path, tmp_path: Path, cli: Cli) -> None:
    """Each command is a process of its own: what one wrote, the next reopens."""
    env = {"CLIPSEARCH_MILVUS_URI": "vectors.db", "CLIPSEARCH_INDEX": str(mini_index)}
    done = cli("sync", env=env)
    assert done.stdout == b"vectors.db holds 9 images, generation 2: 9 sent, 0 removed\n"
    assert done.stderr == b""
    words = ("search", "an animal", "--where", "width > 300", "--json")
    through, local = cli(*words, "--backend", "milvus", env=env), cli(*words, env=env)
    assert through.stderr == b""
    assert (through.returncode, through.stdout) == (0, local.stdout)
    done = cli("sync", "--check", env=env)
    assert done.returncode == 0
    assert b"the same 9 images" in done.stdout


def test_nobody_pays_who_does_not_use_it(mini_index: Path) -> None:
    program = f"""
import sys
from clipsearch.cli import run
run(["--help"])
run(["sync", "--help"])
run(["search", "a lion", "--index", {str(mini_index)!r}])
ours = ("database", "milvus")
print([n for n in sys.modules if n.startswith(("pymilvus", "milvus_lite", "grpc"))])
print([n for n in sys.modules if n.startswith(("clipsearch.database", "clipsearch.milvus"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"], done.stderr


# -- a server ---------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """milvus-lite behind a port of this machine, as a server would be."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    running, database, port = start_server_in_thread(str(tmp_path / "server.db"), "127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}"
    running.stop(grace=0)
    database.close()


@pytest.mark.usefixtures("small_blocks")
def test_a_server_is_asked_as_a_file_is(mini_index: Path, server: str, cli_here: Cli) -> None:
    env = {"CLIPSEARCH_MILVUS_TOKEN": "name:hush"}
    done = cli_here("sync", "--uri", server, "--index", mini_index, env=env)
    assert b"9 sent" in done.stdout
    place = database_place(server, "name:hush")
    same_hits(place, mini_index, QUERIES)
    state = open_index(mini_index).state()
    assert check(state, copy_of(state, place)).is_same


# -- clipsearch serve -----------------------------------------------------------------------------


def test_the_service_answers_as_the_page_does(mini_index: Path, place: DatabasePlace) -> None:
    from starlette.testclient import TestClient

    from ui.library import Library
    from ui.page_settings import PageSettings
    from ui.server import create_service

    state = open_index(mini_index).state()
    sync(state, copy_of(state, place))
    settings = PageSettings()
    base = "http://127.0.0.1:7870"

    def asked(database: DatabaseSearch | None, path: str, **parameters: Any) -> Any:
        app = create_service(Library(mini_index, settings, database), settings)
        with TestClient(app, base_url=base, raise_server_exceptions=False) as client:
            return client.get(path, params=parameters)

    database = DatabaseSearch(place)
    for parameters in (
        {"q": "a lion"},
        {"q": "an animal", "where": "width > 300", "cut": "none"},
        {"like": "1", "limit": "3"},
        {},
    ):
        one, other = (asked(through, "/api/search", **parameters) for through in (None, database))
        assert (one.status_code, other.status_code) == (200, 200)
        for key in ("hits", "total", "searched", "below"):
            assert other.json()[key] == one.json()[key]
    assert asked(database, "/api/images/1").json()["id"] == 1
    assert asked(database, "/media/thumbnail/1").headers["content-type"] == "image/jpeg"
    for nothing in ("/", "/api/classify", "/api/labels", "/api/index", "/page/page.js"):
        answer = asked(database, nothing)
        assert answer.status_code == 404, nothing
        assert answer.json()["error"] == "There is nothing at this address."
    app = create_service(Library(mini_index, settings, database), settings)
    with TestClient(app, base_url="http://evil.example") as client:
        assert client.get("/api/status").status_code in (400, 403, 421)


def test_the_service_lets_nobody_in_unasked(mini_index: Path, cli_here: Cli) -> None:
    done = cli_here("serve", mini_index, "--host", "0.0.0.0")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"there is no login: add --auth NAME" in done.stderr


@pytest.mark.slow
def test_serve_by_command(mini_index: Path, tmp_path: Path, cli: Cli) -> None:
    import signal
    from urllib.request import urlopen

    env = {"CLIPSEARCH_MILVUS_URI": "vectors.db"}
    assert cli("sync", "--index", mini_index, env=env).returncode == 0
    program = "import sys; from clipsearch.cli import run; code = run(sys.argv[1:]); "
    program += "print(code, 'gradio' in sys.modules)"
    words = ["serve", str(mini_index), "--backend", "milvus", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as served:  # fmt: skip
        assert served.stderr is not None
        address = served.stderr.readline().split()[0]
        with urlopen(f"{address}?q=a+lion&limit=1&cut=none") as answer:
            found = json.load(answer)
        assert found["hits"][0]["name"].startswith(("lion", "cheetah"))
        served.send_signal(signal.SIGINT)
        out, _ = served.communicate(timeout=30)
    assert out.split() == ["0", "False"]
