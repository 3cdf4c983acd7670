"""The mapped places: the same answers as from the paths table, whatever became of the file."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipsearch.path_table
import clipsearch.place_cache
from clipsearch import open_index
from clipsearch.generation import open_generation, user_cache_folder
from clipsearch.manifest import Root
from clipsearch.path_table import PathTable
from clipsearch.paths import merged_name, read_paths
from clipsearch.place_cache import BLOCK_ROWS, PlaceCache
from clipsearch.shards import write_table
from indexer import build_index
from indexer.move import move
from indexer.prune import prune
from indexer.repair import repair_index
from indexer.verify import verify_index
from tests.test_paths import Row, Written

_NAMES = [b"a.jpg", b"b/c.jpg", b"caf\xe9/d.jpg", "b\u00fccher/\u00e9.jpg".encode(), b"x" * 40, b""]


def cached(index: Written, place: Path) -> PathTable:
    return PathTable(index.store, index.manifest, PlaceCache(place / "cache", index.manifest))


def described(table: PathTable, most: int = 40) -> dict[str, Any]:
    ids = np.arange(-1, most)
    return {
        "places": [table.places(int(image_id)) for image_id in ids],
        "first": table.first_places(ids),
        "ids": table.ids.tolist(),
        "missing": table.missing_rows.tolist(),
        "roots": table.root_ids.tolist(),
        "paths": table.relative_paths.to_pylist(),
        "counts": table.counts.tolist(),
        "totals": (len(table), table.present, table.missing, table.copies),
        "column": table.path_column(ids).to_pylist(),
    }


def paths_of(table: PathTable, ids: list[int]) -> list[bytes | None]:
    return [None if at is None else os.fsencode(at.path) for at in table.first_places(ids)]


def test_any_history_reads_as_the_tables_do(tmp_path: Path) -> None:
    chance = random.Random(5)
    for number in range(25):
        place = tmp_path / str(number)
        index = Written(place)
        for step in range(6):
            rows: list[Row] = [
                (
                    chance.choice((0, 1, 2)),
                    chance.choice(_NAMES) + b"%d" % chance.randrange(6),
                    chance.randrange(30),
                    chance.choice(("present", "present", "missing", "forgotten")),
                )
                for _ in range(chance.randrange(12))
            ]
            if step == 3 and number % 2:  # as a writer does after many commits
                merged = read_paths(index.store, index.manifest)
                merged = merged.sort_by([("root", "ascending"), ("path", "ascending")])
                ref = write_table(
                    index.store, merged_name(step), merged, kind="paths", index_uuid="u"
                )
                index.manifest = dataclasses.replace(index.manifest, paths=(ref,))
                for old in (place / "paths").glob("*[0-9].parquet"):
                    old.unlink()
            else:
                index.write(*rows)
            if chance.random() < 0.8:
                assert described(cached(index, place)) == described(index.table)


def test_paths_are_those_of_the_first_places(tmp_path: Path) -> None:
    index = Written(tmp_path)
    index.manifest = dataclasses.replace(
        index.manifest, roots=(Root(0, "/"), Root(1, "/a b/caf\udce9"), Root(2, "/one.tar/"))
    )
    index.write(
        (0, b"top.jpg", 0, "present"), (1, b"in/x.jpg", 1, "present"),
        (1, b"no utf-8 \xff.jpg", 2, "missing"), (2, b"", 3, "present"),
        (2, b"long/name.jpg", 4, "present"), (0, b"n.jpg", 4, "present"), (2, b"y", 7, "present"),
    )  # fmt: skip
    table = cached(index, tmp_path)
    ids = [7, 3, 99, 0, 4, 4, 2, -5, 1]
    assert table.path_column(np.array(ids)).to_pylist() == paths_of(table, ids)
    assert table.path_column(np.array([4])).to_pylist() == [b"/n.jpg"]
    assert table.path_column(np.array([99])).to_pylist() == [None]
    assert table.path_column(np.empty(0, np.int64)).to_pylist() == []


def numbered(place: Path, rows: int) -> Written:
    index = Written(place)
    index.write(
        *[(row % 3, b"%d/%06d.jpg" % (row % 7, row), row, "present") for row in range(rows)]
    )
    return index


def files(place: Path) -> list[Path]:
    return sorted((place / "cache/places").glob("*.places"))


def test_the_tables_are_not_read_again(tmp_path: Path) -> None:
    index = numbered(tmp_path, 20)
    wanted = described(cached(index, tmp_path))
    shutil.rmtree(tmp_path / "paths")
    assert described(cached(index, tmp_path)) == wanted


def test_what_came_since_is_read_on_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = numbered(tmp_path, 20)
    cached(index, tmp_path)
    (mapped,) = files(tmp_path)
    index.write((0, b"new.jpg", 25, "present"), (0, b"0/000000.jpg", 26, "present"))
    table = cached(index, tmp_path)
    assert table.places(0) == []
    assert described(table) == described(index.table)
    assert files(tmp_path) == [mapped]  # no reader writes all places for a commit
    monkeypatch.setattr(clipsearch.path_table, "_FEW_ROWS", 3)
    index.write(*[(2, b"more/%d" % row, 30 + row, "present") for row in range(30)])
    assert described(cached(index, tmp_path), 70) == described(index.table, 70)
    assert files(tmp_path) not in ([], [mapped])


def flipped(at: Callable[[int], int]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        (file,) = files(place)
        data = bytearray(file.read_bytes())
        data[at(len(data))] ^= 0x41
        file.write_bytes(data)

    return damage


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        current = place / "cache/places/current.json"
        state = json.loads(current.read_bytes())
        edit(state)
        current.write_text(json.dumps(state))

    return damage


def rewritten(make: Callable[[bytes], bytes], glob: str) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        for file in (place / "cache/places").glob(glob):
            file.write_bytes(make(file.read_bytes()))

    return damage


_ROWS = BLOCK_ROWS + 904  # two blocks
_DAMAGE: dict[str, Callable[[Path], None]] = {
    "first id": flipped(lambda size: 0),
    "an id": flipped(lambda size: 8 * 2500),
    "last id": flipped(lambda size: 8 * (_ROWS - 1)),
    "high byte of an id": flipped(lambda size: 8 * 77 + 7),
    "first offset": flipped(lambda size: 8 * _ROWS),
    "an offset": flipped(lambda size: 8 * _ROWS + 8 * 3000),
    "high byte of an offset": flipped(lambda size: 8 * _ROWS + 8 * BLOCK_ROWS + 7),
    "a root": flipped(lambda size: 16 * _ROWS + 8 + 4 * 10),
    "a state": flipped(lambda size: 20 * _ROWS + 8 + 4500),
    "a path": flipped(lambda size: size - 5),
    "cut short": rewritten(lambda data: data[:-1], "*.places"),
    "cut to nothing": rewritten(lambda data: b"", "*.places"),
    "grown": rewritten(lambda data: data + b"x", "*.places"),
    "another file": rewritten(lambda data: b"\xff" * len(data), "*.places"),
    "no json": rewritten(lambda data: data[:-2], "current.json"),
    "a list": rewritten(lambda data: b"[]", "current.json"),
    "deep": rewritten(lambda data: b"[" * 100_000, "current.json"),
    "other totals": edited(lambda state: state.update(totals=[1, 1, 1])),
    "other token": edited(lambda state: state.update(token="../../../x")),
    "other index": edited(lambda state: state.update(index="x")),
    "no rows": edited(lambda state: state.update(rows=0)),
    "no check": edited(lambda state: state.pop("check")),
    "no sums": edited(lambda state: state.update(sums=[])),
}


@pytest.mark.parametrize("damage", _DAMAGE.values(), ids=_DAMAGE)
def test_damage_costs_time_and_no_answer(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    index = numbered(tmp_path, _ROWS)
    ids = np.arange(-2, _ROWS + 2)
    wanted = index.table.path_column(ids)
    cached(index, tmp_path)
    damage(tmp_path)
    assert cached(index, tmp_path).path_column(ids).equals(wanted)
    assert cached(index, tmp_path).path_column(ids).equals(wanted)  # from what was made anew
    rows, covered = PlaceCache(tmp_path / "cache", index.manifest).open()
    assert rows is not None
    assert rows.is_sound()
    assert covered == 1
    damage(tmp_path)
    table = cached(index, tmp_path)
    few = [3000, 0, 2500, 10, 77, 4500, _ROWS - 1, BLOCK_ROWS]
    for image_id in few:
        (found,) = table.places(image_id)
        assert os.fsencode(found.path) == wanted[image_id + 2].as_py()
        assert not found.missing
    assert (table.present, table.missing, table.copies) == (_ROWS, 0, 0)


def test_damage_among_very_many_copies(tmp_path: Path) -> None:
    index = Written(tmp_path)
    index.write(*[(0, b"%06d.jpg" % row, 7, "present") for row in range(_ROWS + BLOCK_ROWS)])
    wanted = index.table.places(7)
    cached(index, tmp_path)
    # A path of the middle one of three blocks.
    flipped(lambda size: size - 10 * BLOCK_ROWS - 5)(tmp_path)
    assert cached(index, tmp_path).places(7) == wanted


def test_no_room_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(clipsearch.place_cache, "replace_file", full)
    index = numbered(tmp_path, 20)
    assert described(cached(index, tmp_path)) == described(index.table)
    assert not list((tmp_path / "cache/places").iterdir())


def test_a_layout_of_another_version(tmp_path: Path) -> None:
    index = numbered(tmp_path, 20)
    wanted = described(cached(index, tmp_path))
    current = tmp_path / "cache/places/current.json"
    for absent in ("sums", "totals", "bytes", "tables"):
        state = json.loads(current.read_bytes())
        del state["check"], state[absent]
        state["check"] = clipsearch.place_cache._check_of(state)
        current.write_text(json.dumps(state))
        assert described(cached(index, tmp_path)) == wanted


def test_readers_and_writers_at_once(tmp_path: Path) -> None:
    index = numbered(tmp_path, 300)
    wanted = index.table.path_column(np.arange(300))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for turn in range(15):
                table = cached(index, tmp_path)
                assert table.path_column(np.arange(300)).equals(wanted)
                if (turn + seed) % 3 == 0:
                    PlaceCache(tmp_path / "cache", index.manifest).write(table._sound())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    cached(index, tmp_path)
    assert PlaceCache(tmp_path / "cache", index.manifest).covers_all()
    assert not list((tmp_path / "cache/places").glob(".tmp-*"))


def test_a_table_without_rows(tmp_path: Path) -> None:
    index = Written(tmp_path)
    assert described(cached(index, tmp_path)) == described(index.table)
    assert not files(tmp_path)
    index.write()
    for _ in range(2):
        assert described(cached(index, tmp_path)) == described(index.table)


# -- in a real index --------------------------------------------------------------------------


def places_in(index: Path) -> dict[int, list[tuple[str, bool]]]:
    opened = open_index(index)
    mapped = opened.paths()
    plain = PathTable(opened.state().store, opened.state().manifest)
    ids = opened.state().vectors.ids
    assert mapped.path_column(ids).equals(plain.path_column(ids))
    found = {i: [(str(at.path), at.missing) for at in mapped.places(i)] for i in ids.tolist()}
    assert found == {
        i: [(str(at.path), at.missing) for at in plain.places(i)] for i in ids.tolist()
    }
    return found


def is_mapped(index: Path) -> bool:
    return PlaceCache(index / "cache", open_generation(index).manifest).covers_all()


@pytest.mark.slow
def test_a_run_leaves_the_places_mapped(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "p.index"
    build_index(pictures, place, encoder="mini")
    assert is_mapped(place)
    before = places_in(place)
    assert any(len(places) == 2 for places in before.values())  # one picture is there twice
    gone, copied = sorted(pictures.iterdir())[:2]
    shutil.copyfile(copied, pictures / "a much longer name.jpg")
    gone.unlink()
    build_index(pictures, place, encoder="mini")
    assert is_mapped(place)
    after = places_in(place)
    assert sum(missing for places in after.values() for _, missing in places) in (0, 1)
    moved = tmp_path / "moved"
    pictures.rename(moved)
    move(place, pictures, moved)
    assert is_mapped(place)
    assert all(
        Path(path).is_relative_to(moved) for at in places_in(place).values() for path, _ in at
    )
    prune(place)
    assert is_mapped(place)
    assert not any(missing for at in places_in(place).values() for _, missing in at)


def test_a_read_only_index_is_mapped_from_elsewhere(
    mini_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = places_in(mini_index)
    shutil.rmtree(mini_index / "cache/places")
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != mini_index and access(path, mode)
    )
    assert places_in(mini_index) == wanted
    assert not (mini_index / "cache/places").exists()
    uuid = open_generation(mini_index).manifest.uuid
    elsewhere = user_cache_folder(uuid) / "places"
    assert len(list(elsewhere.glob("*.places"))) == 1
    shutil.rmtree(elsewhere)


def test_verify_tells_and_repair_mends(mini_index: Path, cli: Any) -> None:
    assert verify_index(mini_index, sample=0).is_sound
    (file,) = files(mini_index)
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    (finding,) = verify_index(mini_index, sample=0).findings
    assert (finding.severity, finding.kind) == ("cache", "damaged")
    assert finding.file == f"cache/places/{file.name}"
    done = cli("verify", "--repair", "--sample", "0", "--index", mini_index)
    assert b"cache/places: made again" in done.stdout + done.stderr
    assert verify_index(mini_index, sample=0).is_sound
    assert is_mapped(mini_index)

    # Whole, and of this index, but not what the table says.
    manifest = open_generation(mini_index).manifest
    cache = PlaceCache(mini_index / "cache", manifest)
    rows, _ = cache.open()
    assert rows is not None
    shutil.rmtree(cache.folder)
    cache.write(dataclasses.replace(rows, ids=np.asarray(rows.ids) + 1))
    (finding,) = verify_index(mini_index, sample=0).findings
    assert "other places" in finding.message
    (cache.folder / "current.json").write_bytes(b"{}")
    (finding,) = verify_index(mini_index, sample=0).findings
    assert finding.file == "cache/places/current.json"
    repair_index(mini_index)
    assert verify_index(mini_index, sample=0).is_sound
    shutil.rmtree(cache.folder)
    (finding,) = verify_index(mini_index, sample=0).findings
    assert (finding.severity, finding.kind) == ("note", "no-places")


def test_a_cold_search_imports_little(mini_index: Path, tmp_path: Path) -> None:
    place = mini_index
    heavy = ["torch", "open_clip", "pandas", "pyarrow.dataset", "pyarrow.compute", "numpy.ma"]
    open_index(place).search("a cat")  # remembers the text, and whatever a query is compared with
    program = (
        "import sys\n"
        "from clipsearch.cli import run\n"
        f"code = run(['search', 'a cat', '--min-score', 'none', '--index', {str(place)!r}])\n"
        f"print([name for name in {heavy} if name in sys.modules], code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[-1] == "[] 0", done.stderr
    assert len(lines) > 5


def test_status_counts_without_a_scan(mini_index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = open_index(mini_index).status()
    monkeypatch.setattr(PathTable, "_read", lambda self: pytest.fail("the table was read"))
    monkeypatch.setattr(PathTable, "_sound", lambda self: pytest.fail("all places were read"))
    assert open_index(mini_index).status() == wanted
    assert wanted.files_present == wanted.images + wanted.copies
