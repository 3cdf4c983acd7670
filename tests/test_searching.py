"""Combined queries, pages, the cut-off and the order by date, through the real command line."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipsearch import Query, open_index
from clipsearch.encoder import load_encoder
from indexer import build_index
from tests.conftest import Cli

if os.name != "nt":
    import fcntl
    import pty
    import termios

PROJECT = Path(__file__).resolve().parents[1]
PROGRAM = "from clipsearch.cli import main; main()"
posix_only = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are of POSIX")


def rows(done: subprocess.CompletedProcess[bytes], code: int = 0) -> list[dict[str, Any]]:
    assert done.returncode == code, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def terminal(
    *arguments: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run the command line on a terminal of 100 columns; its exit code and what it showed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
        "TERM": "xterm-256color",
        "COLUMNS": "100",
        **(env or {}),
    }
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(os.fspath, arguments)],
        cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        shown = b""
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            shown += data
        code = process.wait(timeout=60)
    os.close(master)
    return code, shown.decode().replace("\r\n", "\n")


@pytest.fixture(scope="module")
def captioned(flickr: Path, photo1k: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the captioned photos."""
    place = tmp_path_factory.mktemp("captioned") / "flickr.index"
    build_index(flickr, place, encoder=photo1k)
    return place


@pytest.fixture(scope="module")
def showing(flickr: Path) -> dict[str, set[str]]:
    """For a few words the photos of which a caption names it."""
    patterns = {"dog": r"\b(dogs?|pupp(y|ies))\b", "snow": r"\bsnow"}
    found: dict[str, set[str]] = {word: set() for word in patterns}
    with open(flickr / "captions.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for word, pattern in patterns.items():
                if re.search(pattern, row["caption"].lower()):
                    found[word].add(row["image"])
    return found


def names(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return [Path(line).name for line in done.stdout.decode().splitlines()]


def test_all_that_answers_and_nothing_else(
    cli: Cli, captioned: Path, showing: dict[str, set[str]]
) -> None:
    at = ("--index", captioned, "-k", "all")
    found = names(cli("search", "a dog", *at))
    right = len(showing["dog"] & set(found))
    assert right / len(found) > 0.8, "precision"
    assert right / len(showing["dog"]) > 0.8, "recall"
    absent = cli("search", "a submarine", *at)
    assert (absent.returncode, absent.stdout) == (1, b"")
    assert b"--min-score none" in absent.stderr
    assert len(names(cli("search", "a submarine", *at, "--min-score", "none"))) == 200


def test_a_negative_term_pushes_its_thing_down(
    cli: Cli, captioned: Path, showing: dict[str, set[str]]
) -> None:
    at = ("--index", captioned, "-k", "30", "--min-score", "none")

    def with_snow(*options: str) -> int:
        return len(showing["snow"] & set(names(cli("search", "a dog", *options, *at))))

    plain = with_snow()
    without = with_snow("--not", "snow")
    assert without < plain < with_snow("--plus", "snow")
    assert with_snow("--not", "snow^3") <= without


def test_the_same_query_in_python(cli: Cli, mini_index: Path, pictures: Path) -> None:
    photo = pictures / "lion.jpg"
    query = Query(
        "a tower", plus=(("night", 2.0),), minus=("people",), like=(photo,), unlike=((0, 0.5),)
    )
    index = open_index(mini_index)
    other = index.paths().places(0)[0].path
    done = cli(
        "search", "a", "tower", "--plus", "night^2", "--not", "people", "--like", photo,
        "--unlike", f"{other}^0.5", "-k", "all", "--min-score", "none", "--json",
        "--index", mini_index,
    )  # fmt: skip
    hits = index.search(query, k=None)
    assert [(row["id"], row["score"]) for row in rows(done)] == [
        (hit.id, round(hit.score, 6)) for hit in hits
    ]
    assert index.id_of(photo) not in {hit.id for hit in hits}


def test_standard_input_is_a_part_of_the_query(mini_index: Path, pictures: Path) -> None:
    def piped(data: bytes, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(os.fspath, arguments), "--index", str(mini_index),
             "-k", "3", "--min-score", "none"],
            input=data, capture_output=True, check=False, cwd=PROJECT,
        )  # fmt: skip

    photo = (pictures / "lion.jpg").read_bytes()
    by_file = piped(b"", "similar", pictures / "lion.jpg")
    assert len(by_file.stdout.splitlines()) == 3
    for arguments in (("similar", "-"), ("search", "--like", "-"), ("search", "--like", "-^2")):
        assert piped(photo, *arguments).stdout == by_file.stdout
    by_words = piped(b"", "search", "a lion")
    assert piped(b"a lion\n", "search", "-").stdout == by_words.stdout != by_file.stdout
    for data, arguments, word in (
        (b"", ("search", "-"), b"empty"),
        (b"", ("similar", "-"), b"standard input"),
        (b"no image", ("similar", "-"), b"cannot take"),
        (photo, ("search", "-", "--like", "-"), b"standard input"),
    ):
        done = piped(data, *arguments)
        assert (done.returncode, done.stdout) == (2, b""), arguments
        assert word in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "empty"),
        (("--plus", ""), "empty"),
        (("--plus", "snow^0"), "boost"),
        (("--not", "snow^-1"), "boost"),
        (("--like", "absent.jpg"), "absent.jpg"),
        (("dog", "-k", "all", "--page", "2"), "--page"),
        (("dog", "--page", "0"), "--page"),
        (("dog", "--sort", "size"), "--sort"),
        (("dog", "--min-score", "some"), "auto"),
        (("dog", "--save", "a/b"), "name"),
        (("--like", ""), "empty name"),
        (("--like", "-", "--unlike", "-^2"), "standard input"),
        (("--since", "2019", "--min-score", "0.2"), "--min-score"),
    ],
    ids=str,
)
def test_what_makes_no_sense(
    cli: Cli, mini_index: Path, arguments: tuple[str, ...], word: str
) -> None:
    done = cli("search", *arguments, "--index", mini_index)
    assert (done.returncode, done.stdout) == (2, b"")
    assert word in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_pages(cli: Cli, captioned: Path) -> None:
    at = ("--index", captioned, "--min-score", "auto")
    everything = names(cli("search", "a dog", *at, "-k", "all"))
    pages = [names(cli("search", "a dog", *at, "-k", "20", "--page", f"{n}")) for n in (1, 2, 3)]
    assert [name for page in pages for name in page] == everything
    beyond = cli("search", "a dog", *at, "-k", "20", "--page", "9")
    assert (beyond.returncode, beyond.stdout) == (1, b"")
    assert f"{len(everything)} hits" in beyond.stderr.decode()


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of pictures of which most say when they were taken; folder and index."""
    folder = tmp_path_factory.mktemp("dated")
    chosen = np.random.default_rng(0)
    for number, day in enumerate(("2019:07:04", "2021:01:01", None, "2018:02:03", "2021:01:01")):
        picture = Image.fromarray(chosen.integers(0, 255, (48, 64, 3), np.uint8)).resize((256, 192))
        exif = Image.Exif()
        if day is not None:
            exif.get_ifd(0x8769)[0x9003] = f"{day} 12:00:00"
        picture.save(folder / f"photo-{'abcde'[number]}.jpg", exif=exif)
    build_index(folder, folder / "x.index", encoder="mini")
    return folder


def test_by_date(cli: Cli, dated: Path) -> None:
    at = ("--index", dated / "x.index", "--min-score", "none", "--json")
    every = rows(cli("search", "a picture", *at, "--sort", "date"))
    assert [row["taken_at"] and row["taken_at"][:10] for row in every] == [
        "2021-01-01", "2021-01-01", "2019-07-04", "2018-02-03", None,
    ]  # fmt: skip
    scores = {row["id"]: row["score"] for row in rows(cli("search", "a picture", *at))}
    assert [row["score"] for row in every] == [scores[row["id"]] for row in every]
    # With nothing but a filter there is no score, and no cut-off either.
    listed = rows(cli("search", "--since", "2019", "--sort", "date", *at))
    assert [row["taken_at"][:4] for row in listed] == ["2021", "2021", "2019"]
    assert {row["score"] for row in listed} == {None}
    paged = rows(cli("search", "--since", "2018", "--sort", "date", "-k", "1", "--page", "4", *at))
    assert [row["taken_at"][:4] for row in paged] == ["2018"]
    nothing = cli("search", "--since", "2022", *at)
    assert (nothing.returncode, nothing.stdout) == (1, b"")


def test_a_filter_and_a_query(cli: Cli, dated: Path) -> None:
    at = ("--index", dated / "x.index", "--min-score", "none", "--json")
    scores = {row["id"]: row["score"] for row in rows(cli("search", "a picture", *at))}
    found = rows(cli("search", "a picture", "--until", "2019", *at))
    assert len(found) == 2
    assert [row["score"] for row in found] == sorted(scores[row["id"]] for row in found)[::-1]


def test_near_duplicates_are_folded(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    with Image.open(pictures / "lion.jpg") as picture:
        small = picture.convert("RGB").resize((picture.width // 2, picture.height // 2))
        small.save(pictures / "lion-small.jpg", quality=80)
    build_index(pictures, tmp_path / "x.index", encoder="mini")
    at = ("--index", tmp_path / "x.index", "-k", "all", "--min-score", "none", "--json")
    plain = rows(cli("search", "a lion", *at))
    folded = rows(cli("search", "a lion", "--collapse-dups", *at))
    ids = {Path(row["path"]).name: row["id"] for row in plain}
    assert len(folded) == len(plain) - 1
    (first,) = [row for row in folded if row["folded"]]
    assert {first["id"], *first["folded"]} == {ids["lion.jpg"], ids["lion-small.jpg"]}


@posix_only
def test_what_a_person_sees(captioned: Path, tmp_path: Path) -> None:
    code, shown = terminal("search", "a dog", "-k", "3", "--index", captioned, cwd=tmp_path)
    lines = shown.splitlines()
    assert code == 0
    assert lines[0].split() == ["score", "match", "image"]
    assert [line.split()[1] for line in lines[1:4]] == ["strong"] * 3
    assert len(lines) == 4
    auto = ("--min-score", "auto", "--index", captioned)
    code, shown = terminal("search", "a dog", "-k", "3", *auto, cwd=tmp_path)
    assert re.fullmatch(r"1 to 3 of \d+ hits\.", shown.splitlines()[4])
    code, shown = terminal("search", "a submarine", "--index", captioned, cwd=tmp_path)
    assert code == 0
    assert shown.splitlines()[-1] == "None of them stands out: these are the closest."
    code, shown = terminal("search", "a submarine", *auto, cwd=tmp_path)
    lines = shown.splitlines()
    assert code == 1
    assert lines[0] == "Nothing above the cut-off; the closest are shown below."
    assert len(lines) == 7
    assert {line.split()[1] for line in lines[2:]} <= {"weak", "fair"}
    code, shown = terminal("search", "ein hund", "--index", captioned, cwd=tmp_path)
    assert "'hund'" in shown.splitlines()[0]
    assert "English" in shown.splitlines()[0]


@posix_only
def test_open_hands_the_best_hit_to_the_viewer(
    mini_index: Path, pictures: Path, tmp_path: Path
) -> None:
    """A program in the place of the system's viewer notes what it was handed."""
    viewer = tmp_path / "bin" / ("open" if sys.platform == "darwin" else "xdg-open")
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >> {tmp_path}/opened\n')
    viewer.chmod(0o755)
    env = {"PATH": f"{viewer.parent}{os.pathsep}{os.environ['PATH']}"}
    env["CLIPSEARCH_K"] = "3"  # a lasting wish for more hits is none for more windows
    at = ("--index", mini_index, "--min-score", "none", "--open")
    code, shown = terminal("search", "a lion", *at, cwd=tmp_path, env=env)
    assert code == 0
    index = open_index(mini_index)
    best = [hit for hit in index.search("a lion", k=99) if not hit.missing]
    assert [hit.path.name in shown for hit in best[:2]] == [True, False]
    there = [str(hit.path) for hit in best if hit.path.exists()]
    if not there:  # the copy of the index names pictures of another folder
        assert "not there now" in shown
        return
    for _ in range(50):
        if (tmp_path / "opened").is_file():
            break
        time.sleep(0.1)
    assert (tmp_path / "opened").read_text().splitlines() == [str(best[0].path)]


@posix_only
def test_a_preview_draws_thumbnails(mini_index: Path, tmp_path: Path) -> None:
    pytest.importorskip("textual_image", reason="the extra 'preview' is not installed")
    at = ("--index", mini_index, "--min-score", "none", "-k", "2", "--preview")
    code, shown = terminal("search", "a lion", *at, cwd=tmp_path)
    assert code == 0
    assert "Traceback" not in shown
    assert shown.count("\N{UPPER HALF BLOCK}") + shown.count("\N{LOWER HALF BLOCK}") > 200


def test_a_preview_needs_a_terminal(cli: Cli, mini_index: Path) -> None:
    done = cli("search", "a lion", "--preview", "--min-score", "none", "--index", mini_index)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"terminal" in done.stderr


def test_a_cold_search_stays_light(mini_index: Path) -> None:
    """What was asked before is answered without torch, faiss, pandas, Pillow, filters."""
    load_encoder("mini")  # so that nothing but the cache can be what is missing
    open_index(mini_index).search(Query("a lion", min_score="auto"))
    program = (
        "import sys\nfrom clipsearch.cli import run\n"
        f"assert run(['search', 'a lion', '--index', {str(mini_index)!r}]) in (0, 1)\n"
        "heavy = {'torch', 'faiss', 'pandas', 'PIL', 'open_clip'} & set(sys.modules)\n"
        "heavy |= {'clipsearch.filters', 'clipsearch.metadata'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_copy_of_the_index_remembers_its_searches(
    cli: Cli, mini_index: Path, tmp_path: Path
) -> None:
    at = ("--index", mini_index)
    assert cli("search", "a lion", "--save", "lions", *at, "--min-score", "none").returncode == 0
    shutil.copytree(mini_index, tmp_path / "copy.index")
    (row,) = rows(cli("saved", "--json", "--index", tmp_path / "copy.index"))
    assert (row["name"], row["query"], row["new"]) == ("lions", "a lion", 0)
