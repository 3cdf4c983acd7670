"""Saved searches: by name, through a copy of the index, and what is new since the last look."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest

from clipsearch import Query, open_index
from clipsearch.errors import IndexFormatError, QueryError
from clipsearch.filter_options import FilterOptions
from clipsearch.filters import parse_filter
from clipsearch.saved_searches import (
    forget_search,
    mark_seen,
    new_hits,
    save_search,
    saved_search,
    saved_searches,
)
from indexer import build_index
from indexer.verify import verify_index
from tests.conftest import Cli


def test_a_search_comes_back_as_it_was(mini_index: Path, pictures: Path, tmp_path: Path) -> None:
    index = open_index(mini_index)
    elsewhere = tmp_path / "elsewhere.png"
    shutil.copyfile(next(pictures.iterdir()), elsewhere)
    elsewhere.write_bytes(elsewhere.read_bytes() + b"\0")  # another content
    query = Query(
        "a tower",
        plus=("night", ("sea", 2.0)),
        minus=(("people", 0.5),),
        like=(next(pictures.iterdir()), (3, 2.0)),
        unlike=(elsewhere,),
        vector=[0.5] * index.space.dim,
        where="width > 10",
        min_score=0.25,
        sort="date",
        collapse=True,
    )
    save_search(index, "my towers", query)
    saved = saved_search(mini_index, "my towers")
    assert saved.next_id == index.next_id
    indexed = index.id_of(next(pictures.iterdir()))
    assert saved.query == Query(
        "a tower",
        plus=(("night", 1.0), ("sea", 2.0)),
        minus=(("people", 0.5),),
        like=((indexed, 1.0), (3, 2.0)),  # an indexed image by its id: the file may move
        unlike=((str(elsewhere), 1.0),),
        vector=[0.5] * index.space.dim,
        where="width > 10",
        min_score=0.25,
        sort="date",
        collapse=True,
    )
    assert [one.name for one in saved_searches(mini_index)] == ["my towers"]


def test_only_images_that_came_since_are_new(mini_index: Path, pictures: Path) -> None:
    index = open_index(mini_index)
    save_search(index, "all", Query("a picture"))
    assert len(new_hits(index, saved_search(mini_index, "all"))) == 0
    for name in ("one.png", "two.png"):
        photo = next(path for path in pictures.iterdir() if path.suffix in (".png", ".jpg"))
        data = photo.read_bytes()
        (pictures / name).with_suffix(photo.suffix).write_bytes(data + name.encode())
    build_index(pictures, mini_index)
    index.refresh()
    saved = saved_search(mini_index, "all")
    hits = new_hits(index, saved)
    assert {hit.path.stem for hit in hits} == {"one", "two"}
    assert len(new_hits(index, saved)) == 2  # looking alone changes nothing
    mark_seen(index, saved)
    assert len(new_hits(index, saved_search(mini_index, "all"))) == 0


def test_relative_dates_stay_relative(mini_index: Path) -> None:
    filters = FilterOptions(since="2 weeks ago", folders=("/photos",), min_size="2MP")
    index = open_index(mini_index)
    save_search(index, "new", Query("a tower", where=filters))
    saved = saved_search(mini_index, "new").query
    assert saved.where == filters
    for now in (datetime(2020, 5, 20), datetime(2031, 1, 10)):
        assert str(saved.filter(now)) == str(filters.to_filter(now))
    assert saved.filter(datetime(2020, 5, 20)) != saved.filter(datetime(2031, 1, 10))
    save_search(index, "tree", Query(where=parse_filter("width > 10 and height > 10")))
    assert saved_search(mini_index, "tree").query.where == "width > 10 and height > 10"


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a\\b", "x" * 65, "a\n", ".a", "a:b"])
def test_names_that_cannot_be_files(mini_index: Path, name: str) -> None:
    with pytest.raises(QueryError, match="name"):
        save_search(open_index(mini_index), name, Query("a tower"))
    with pytest.raises(QueryError, match="name"):
        saved_search(mini_index, name)
    assert not list(mini_index.glob("searches/*"))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"version": 2}', '{"version": 1}'])
def test_a_damaged_one_names_its_cure(mini_index: Path, text: str) -> None:
    save_search(open_index(mini_index), "towers", Query("a tower"))
    (mini_index / "searches" / "towers.json").write_text(text)
    with pytest.raises(IndexFormatError, match="--forget"):
        saved_search(mini_index, "towers")
    forget_search(mini_index, "towers")
    with pytest.raises(QueryError, match="no saved search"):
        forget_search(mini_index, "towers")


def test_verify_tells_of_a_damaged_one_and_repair_sets_it_aside(cli: Cli, mini_index: Path) -> None:
    index = open_index(mini_index)
    for name in ("sound", "broken down", "out"):
        save_search(index, name, Query("a tower"))
    read = verify_index(mini_index, sample=0)
    assert read.is_sound
    forget_search(mini_index, "out")
    assert verify_index(mini_index, sample=0).files == read.files - 1
    damaged = mini_index / "searches/broken down.json"
    damaged.write_text("{")
    (finding,) = verify_index(mini_index, sample=0).findings
    assert (finding.severity, finding.kind) == ("error", "saved-search")
    assert finding.file == "searches/broken down.json"
    assert "clipsearch saved 'broken down' --forget" in finding.cure
    run = cli("verify", "--repair", "--sample", "0", "--index", mini_index)
    assert run.returncode == 0, run.stderr
    assert b"broken down.json: taken out, kept in damaged/" in run.stdout + run.stderr
    assert [path.read_text() for path in mini_index.glob("damaged/*/searches/*")] == ["{"]
    assert [saved.name for saved in saved_searches(mini_index)] == ["sound"]
    assert verify_index(mini_index, sample=0).is_sound


def test_a_piped_image_cannot_be_saved(mini_index: Path, tmp_path: Path) -> None:
    from PIL import Image

    place = tmp_path / "new.png"
    Image.new("RGB", (40, 30), (9, 99, 200)).save(place)
    with pytest.raises(QueryError, match="standard input"):
        save_search(open_index(mini_index), "x", Query(like=(place.read_bytes(),)))


def test_from_the_command_line(cli: Cli, cli_here: Cli, mini_index: Path, pictures: Path) -> None:
    at = ("--index", mini_index)
    assert cli("saved", *at).returncode == 1
    first = cli_here("search", "a tower", "--min-score", "none", "-k", "3", "--save", "towers", *at)
    assert first.returncode == 0
    assert f"'clipsearch saved towers --index {mini_index}'".encode() in first.stderr
    nothing = cli_here("saved", "towers", *at)
    assert (nothing.returncode, nothing.stdout) == (1, b"")
    assert b"Nothing new" in nothing.stderr
    photo = next(path for path in pictures.iterdir() if path.suffix == ".png")
    (pictures / "new.png").write_bytes(photo.read_bytes() + b"new")
    assert cli_here("index", pictures, *at).returncode == 0
    listed = json.loads(cli_here("saved", "--json", *at).stdout)
    assert (listed["name"], listed["query"], listed["new"]) == ("towers", "a tower", 1)
    for options in (("--peek",), ()):
        fresh = cli_here("saved", "towers", *options, *at)
        assert (fresh.returncode, fresh.stdout) == (0, f"{pictures / 'new.png'}\n".encode())
    assert cli_here("saved", "towers", *at).returncode == 1
    everything = cli_here("saved", "towers", "--all", *at).stdout.splitlines()
    assert len(everything) == len(open_index(mini_index))
    assert cli_here("saved", "towers", "--forget", *at).returncode == 0
    assert cli_here("saved", "towers", *at).returncode == 2
    assert cli_here("saved", "--forget", *at).returncode == 2


def test_one_that_cannot_be_asked_hides_no_other(cli: Cli, mini_index: Path) -> None:
    index = open_index(mini_index)
    save_search(index, "towers", Query("a tower"))
    save_search(index, "tagged", Query("a tower", where="label = nobody"))
    (mini_index / "searches" / "worn.json").write_text("{")
    done = cli("saved", "--index", mini_index)
    assert (done.returncode, done.stdout) == (2, b"towers\n")
    words = done.stderr.decode().splitlines()
    assert [line.split()[0] for line in words] == ["tagged", "worn"]
    assert "nobody" in words[0]
    assert "--forget" in words[1]
