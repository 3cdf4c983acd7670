"""The command line, end to end: real processes, real pipes, a real terminal."""

from __future__ import annotations

import base64
import csv
import functools
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clipsearch
import clipsearch.cli
from clipsearch import open_index
from indexer import build_index

Done = subprocess.CompletedProcess[bytes]
Cli = Callable[..., Done]

PROJECT = Path(clipsearch.__file__).parents[1]
PROGRAM = "from clipsearch.cli import main; main()"
posix_only = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell or terminal")


def refused(done: Done, *words: str, lines: int = 1) -> str:
    """Exit 2, nothing on stdout, and that many helpful lines, no traceback."""
    text = done.stderr.decode()
    assert done.returncode == 2, (done.stdout, text)
    assert done.stdout == b""
    assert "Traceback" not in text
    assert "not expected" not in text, text
    message = text[text.index("Error: ") :]
    assert len(message.splitlines()) == lines, text
    if not text.startswith("Error: "):  # a wrong option: click shows the usage above
        assert text.startswith("Usage: clipsearch")
    for word in words:
        assert word.lower() in message.lower(), text
    return message


def fine(done: Done, code: int = 0) -> str:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    return done.stdout.decode()


def objects(done: Done, code: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in fine(done, code).splitlines()]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, **more}


def shell(line: str, cwd: Path) -> Done:
    """A line for a real shell in which ``clipsearch`` is the command."""
    command = shlex.join([sys.executable, "-c", PROGRAM])
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("clipsearch", command)],
        cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
        timeout=120, check=False,
    )  # fmt: skip


def no_models(tmp_path: Path) -> dict[str, str]:
    """An environment in which no weights are in any cache."""
    return {name: str(tmp_path / "no-hub") for name in ("HF_HOME", "HF_HUB_CACHE")}


@pytest.fixture
def here(cli_here: Cli, tmp_path: Path) -> Cli:
    """``cli`` in this process: for the rest of a test whose first command is a real one."""
    return functools.partial(cli_here, cwd=tmp_path)


# -- what is refused -------------------------------------------------------------------------


def test_wrong_searches(cli: Cli, here: Cli, mini_index: Path, tmp_path: Path) -> None:
    at = ("--index", mini_index)
    refused(cli("search", "dog", "--index", "none.index"), "no index at none.index")
    (tmp_path / "nothing").mkdir()
    own = {name: str(tmp_path / "nothing") for name in ("XDG_DATA_HOME", "LOCALAPPDATA")}
    alone = Path(tmp_path.anchor)  # no *.index folder above it
    refused(here("search", "dog", cwd=alone, env=own), "no index here", "clipsearch index")
    refused(here("search", "", *at), "empty")
    refused(here("search", "   ", *at), "empty")
    refused(here("", *at), "empty")
    refused(here("search", *at), "empty")
    refused(here("search", "dog", "-k", "0", *at), "-k", "1")
    refused(here("search", "dog", "-k", "many", *at), "-k", "many")
    refused(here("search", "dog", "--min-score", "abc", *at), "abc", "number")
    refused(here("search", "dog", "--min-score", "nan", *at), "nan", "number")
    refused(here("search", "dog", "--colour", "red", *at), "--colour")
    refused(here("search", "dog", "--device", "toaster", *at), "toaster")
    (tmp_path / "file").write_text("x")
    refused(here("search", "dog", "--index", tmp_path / "file"), "no index at")


def test_damaged_indexes(cli: Cli, here: Cli, mini_index: Path) -> None:
    manifest = mini_index / "manifest.json"
    text = manifest.read_text()
    at = ("--index", mini_index)
    for damaged, word in (
        ("{", "damaged"),
        ("[]", "not a clipsearch index"),
        (text.replace('"mini"', '"maxi"'), "checksum"),
        (text.replace('"format_version": 1', '"format_version": 99'), "upgrade"),
    ):
        manifest.write_text(damaged)
        refused(cli("status", *at), word)
    refused(here("index", mini_index.parent, *at), "upgrade")
    manifest.write_text(text)
    (shard,) = (mini_index / "images").iterdir()
    vectors = next((mini_index / "embeddings").rglob("*.parquet"))
    shutil.rmtree(mini_index / "cache")
    vectors.write_bytes(vectors.read_bytes()[:100])
    refused(here("search", "dog", *at), vectors.name, "damaged")
    vectors.unlink()
    refused(here("search", "dog", *at), vectors.name, "lost")
    assert shard.exists()


def test_wrong_folders_and_models(cli: Cli, here: Cli, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    before = sorted(os.listdir(tmp_path))
    to = ("--index", "new.index", "--model", "mini")
    refused(cli("index", *to), "FOLDER")
    refused(here("index", "nowhere", *to), "no such folder", "nowhere")
    refused(here("index", "empty", *to), "no images", "empty")
    refused(here("index", "texts", *to), "no images", "1 other file")
    refused(here("index", "texts/a.txt", *to), "expected a folder of images or an image")
    refused(here("index", pictures, "--index", pictures, "--model", "mini"), "not an index")
    refused(here("index", pictures, *to[:2], "--model", "balancd"), "balanced", lines=2)
    refused(here("index", pictures, *to[:2], "--model", "ViT-B-33/openai"), "ViT-B-32", lines=2)
    refused(here("index", pictures, *to[:2], "--model", "./nothing"), "model folder")
    refused(here("index", pictures, *to, "--batch-size", "0"), "batch-size")
    refused(here("index", pictures, *to, "--decode", "slow"), "exact", "fast")
    refused(here("model", "path", "nonsense"), "nonsense", "mini", lines=2)
    assert sorted(os.listdir(tmp_path)) == before


def test_no_model_chosen_is_two_lines_with_both_ways_out(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    nothing = no_models(tmp_path)
    for more in ({}, {"CLIPSEARCH_OFFLINE": "1"}):
        done = cli("index", pictures, "--index", "new.index", env={**nothing, **more})
        message = refused(done, lines=2)
        assert "clipsearch model get" in message
        assert "--model mini" in message
        assert not (tmp_path / "new.index").exists()


def test_offline_forbids_the_network(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    # A proxy that answers nobody: an attempt would fail in another way, or hang.
    env = {**no_models(tmp_path), "CLIPSEARCH_OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = cli("index", pictures, "--index", "x.index", "--model", "balanced", env=env)
    message = refused(done, "not on this machine", "--model mini", lines=2)
    assert "clipsearch model get balanced" in message
    done = cli("model", "get", "balanced", env=env)
    refused(done, "CLIPSEARCH_OFFLINE")
    done = cli("model", "path", "balanced", env=env)
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"model get balanced" in done.stderr
    assert not (tmp_path / "x.index").exists()


def test_wrong_label_sets(here: Cli, mini_index: Path, tmp_path: Path) -> None:
    at = ("--index", mini_index)
    (tmp_path / "none.txt").write_text("# only a remark\n\n")
    (tmp_path / "twice.txt").write_text("dog\ncat\nDOG\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\0d\0o\0g")
    refused(here("classify", *at), "--labels")
    refused(here("classify", "--labels", "a", "--labels-file", "f", *at), "either")
    refused(here("classify", "--labels", "", *at), "no label")
    refused(here("classify", "--labels", "dog,,cat", *at), "label 2", "empty")
    refused(here("classify", "--labels", "dog,cat, Dog", *at), "twice", "dog")
    refused(here("classify", "--labels-file", "nowhere.txt", *at), "nowhere.txt")
    refused(here("classify", "--labels-file", tmp_path, *at), str(tmp_path))
    refused(here("classify", "--labels-file", "none.txt", *at), "no labels")
    refused(here("classify", "--labels-file", "twice.txt", *at), "twice")
    refused(here("classify", "--labels-file", "binary.txt", *at), "UTF-8")
    refused(here("classify", "--labels", "a,b", "--templates", "nonsense", *at), "templates")
    refused(here("classify", "--labels", "a,b", "--top", "0", *at), "--top")


def test_wrong_places_for_a_result(here: Cli, mini_index: Path, tmp_path: Path) -> None:
    ask = ("classify", "--none", "off", "--labels", "dog,cat", "--index", mini_index)
    (tmp_path / "folder.csv").mkdir()
    refused(here(*ask, "--out", "x.xlsx"), ".parquet", "x.xlsx")
    refused(here(*ask, "--out", "x"), ".parquet")
    refused(here(*ask, "--out", "no/such/x.csv"), "no folder")
    refused(here(*ask, "--out", "folder.csv"), "folder")
    assert not list(tmp_path.glob("**/*.tmp"))


def test_similar_to_what_is_no_image(here: Cli, mini_index: Path, tmp_path: Path) -> None:
    at = ("--index", mini_index)
    (tmp_path / "text.jpg").write_text("I am a text")
    (tmp_path / "empty.jpg").touch()
    for name in ("missing.jpg", "text.jpg", "empty.jpg", "."):
        refused(here("similar", name, *at), f"cannot take {name}")
    refused(here("similar", *at), "IMAGE")


def test_a_broken_config_is_told_with_its_place(
    here: Cli, mini_index: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    env = {"CLIPSEARCH_CONFIG": str(config)}
    for text, words in (
        ("k = ", ("no TOML", str(config))),
        ("k = 'three'", ("-k", "three")),
        ("[search]\nmin-score = 'x'", ("--min-score",)),
    ):
        config.write_text(text)
        refused(here("search", "dog", "--index", mini_index, env=env), *words)
    config.write_bytes(b"\xff\xff")
    refused(here("search", "dog", "--index", mini_index, env=env), str(config))


# -- searching -------------------------------------------------------------------------------


def test_search_in_a_pipe(cli: Cli, here: Cli, pictures: Path, tmp_path: Path) -> None:
    build_index(pictures, tmp_path / "x.index", encoder="mini")
    done = cli("search", "a", "tower", "-k", "4", "--min-score", "none")
    lines = fine(done).splitlines()
    assert len(lines) == 4
    assert all(Path(line).is_file() for line in lines)
    # The index beside us, the words as one text, and the bare form are all the same search.
    at = ("--index", tmp_path / "x.index", "-k", "4", "--min-score", "none")
    for words in (("search", "a tower"), ("a tower",), ("a", "tower"), ("search", " a tower ")):
        assert here(*words, *at).stdout == done.stdout, words
    assert here("a tower", "-k", "4", "--min-score", "none", cwd=pictures).stdout == done.stdout
    named = {"CLIPSEARCH_INDEX": str(tmp_path / "x.index")}
    assert (
        here("a tower", "-k", "4", "--min-score", "none", cwd=Path("/"), env=named).stdout
        == done.stdout
    )

    rows = objects(here("search", "a tower", *at, "--json"))
    assert [row["path"] for row in rows] == lines
    assert all(set(row) >= {"id", "path", "score", "cosine", "copies"} for row in rows)
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    table = list(csv.DictReader(io.StringIO(fine(here("search", "a tower", *at, "--csv")))))
    assert [row["path"] for row in table] == lines
    assert [int(row["id"]) for row in table] == [row["id"] for row in rows]
    assert [float(row["score"]) for row in table] == pytest.approx(scores, abs=1e-6)
    assert here("search", "a tower", *at, "-0").stdout == b"".join(
        os.fsencode(line) + b"\0" for line in lines
    )

    between = (scores[1] + scores[2]) / 2
    cut = here("search", "a tower", *at, "--min-score", f"{between}")
    assert fine(cut).splitlines() == lines[:2]
    where = at[:2]
    found = objects(here("search", "a tower", *where, "-k", "all", "--min-score", "-1", "--json"))
    positive = [row["path"] for row in found if row["score"] >= 0]
    assert 0 < len(positive) < len(found)
    for count in ("99", "all"):  # 0 is a score and not the lack of one
        zero = here("search", "a tower", *where, "-k", count, "--min-score", "0")
        assert fine(zero).splitlines() == positive
    none = here("search", "a tower", *at, "--min-score", "1", "--json")
    assert fine(none, 1) == ""
    assert len(none.stderr.decode().splitlines()) == 1
    (tmp_path / "second.index").mkdir()
    shutil.copyfile(tmp_path / "x.index/manifest.json", tmp_path / "second.index/manifest.json")
    refused(here("a tower"), "several indexes", "x.index", "second.index")


def test_similar(cli: Cli, here: Cli, pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "x.index"
    build_index(pictures, place, encoder="mini")
    lion = pictures / "lion.jpg"
    with_words = fine(cli("similar", lion, "-k", "3")).splitlines()
    assert len(with_words) == 3
    assert str(lion) not in with_words, "itself is left out"
    outside = tmp_path / "outside.png"
    with Image.open(lion) as image:
        image.convert("RGB").save(outside)
    assert fine(here("similar", outside, "-k", "1")).splitlines() == [str(lion)]
    # A photo that is gone is known by its place.
    lion.unlink()
    assert fine(here("similar", lion, "-k", "3")).splitlines() == with_words


@posix_only
def test_pipes_of_a_real_shell(pictures: Path, tmp_path: Path) -> None:
    odd = pictures / "line\nbreak 'and quote.jpg"
    (pictures / "lion.jpg").rename(odd)
    build_index(pictures, tmp_path / "x.index", encoder="mini")
    count = len(open_index(tmp_path / "x.index"))
    done = shell(
        "clipsearch search -0 a lion -k all --min-score none | xargs -0 ls -d --", tmp_path
    )
    if sys.platform == "linux":
        assert str(odd) in fine(done)
    raw = shell(
        "clipsearch search -0 a lion -k all --min-score none | xargs -0 -n 1 ls -d -- | wc -l",
        tmp_path,
    )
    assert int(fine(raw)) == count + 1, "one path a file, and one of them has two lines"
    done = shell("clipsearch search --json a lion --min-score none | head -1", tmp_path)
    assert set(json.loads(fine(done))) >= {"id", "path", "score"}
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == b""
    # More than any buffer holds, and a reader that reads nothing at all.
    for name in range(60):
        rng = np.random.default_rng(name)
        picture = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture.save(pictures / f"{name}-{'long' * 40}.png")
    build_index(pictures, tmp_path / "x.index")
    line = "clipsearch classify --labels a,b,c --none off --top 3 --json"
    assert len(fine(shell(line, tmp_path))) > 65_536
    done = shell(f"{line} | head -c 0", tmp_path)
    fine(done)  # pipefail: the code is clipsearch's own
    assert b"Broken" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_names_that_are_no_text(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/photos \xff"
    os.rename(pictures, folder)
    raw = folder + b"/li\xffon.jpg"
    os.rename(folder + b"/lion.jpg", raw)
    with open(folder + b"/\xfebad.jpg", "wb") as file:
        file.write(b"bad")
    place = tmp_path / "x.index"
    done = cli("index", os.fsdecode(folder), "--index", place, "--model", "mini", "--json")
    account = objects(done, 3)[0]
    assert account["skipped"] == 1
    done.stderr.decode("utf-8")
    rows = objects(
        cli("search", "a lion", "--index", place, "--json", "-k", "99", "--min-score", "none")
    )
    names = {base64.b64decode(row["path_base64"]) for row in rows}
    assert raw in names
    for row in rows:
        row["path"].encode("utf-8")
    lines = cli(
        "search", "a lion", "--index", place, "-k", "99", "--min-score", "none"
    ).stdout.splitlines()
    assert raw in lines
    ask = ("classify", "--none", "off", "--labels", "lion,tower", "--index", place)
    assert raw in [line.split(b"\t")[0] for line in cli(*ask).stdout.splitlines()]
    for options in (("--json", "--out", "o.parquet"), ("--csv", "--out", "o.json")):
        fine(cli(*ask, *options))
    assert {base64.b64decode(row["path_base64"]) for row in read_result(tmp_path / "o.json")} == (
        names
    )
    fine(cli("status", "--index", place))
    fine(cli("status", "--index", place, "--json"))


def test_flags_beat_environment_beats_config(here: Cli, mini_index: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"k = 2\nindex-path = '{mini_index.as_posix()}'\n")

    def shown(*flags: str, **env: str) -> int:
        done = here(
            "search",
            "a tower",
            "--min-score",
            "none",
            *flags,
            env={"CLIPSEARCH_CONFIG": str(config), **env},
        )
        return len(fine(done).splitlines())

    assert shown() == 2
    assert shown(CLIPSEARCH_K="3") == 3
    assert shown("-k", "4", CLIPSEARCH_K="3") == 4
    config.write_text(f"k = 2\nindex-path = '{mini_index.as_posix()}'\n[search]\nk = 5\n")
    assert shown() == 5
    assert shown("-k", "1") == 1
    # Settings are no reason for --version or --help to misbehave.
    done = here("--version", env={"CLIPSEARCH_CONFIG": str(config)})
    assert clipsearch.__version__ in fine(done)


# -- classifying -----------------------------------------------------------------------------


def test_classify_again_and_again_without_the_photos(
    cli: Cli, here: Cli, pictures: Path, tmp_path: Path
) -> None:
    place = tmp_path / "x.index"
    build_index(pictures, place, encoder="mini")
    pictures.rename(tmp_path / "unplugged")
    count = len(open_index(place))
    own = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "LOCALAPPDATA": str(tmp_path / "cache")}

    def classify(labels: str, *more: str, run: Cli = here) -> Done:
        return run(
            "classify", "--labels", labels, "--none", "off", "--index", place, *more, env=own
        )

    first = classify("lion,tower", run=cli)
    told = first.stderr.decode()
    assert f"Scored {count} images against 2 labels" in told
    assert re.search(r"\([\d,]+ images/s\)", told)
    assert "Of 14 prompts 0 were remembered" in told
    rows = [line.split("\t") for line in fine(first).splitlines()]
    assert len(rows) == count
    for path, label, probability in rows:
        assert Path(path).parent == pictures
        assert label in ("lion", "tower")
        assert 0.5 <= float(probability) <= 1
    second = classify("lion, tower ,a drawing")
    assert "Of 21 prompts 14 were remembered" in second.stderr.decode()
    again = classify("lion,tower")
    assert "Of 14 prompts 14 were remembered" in again.stderr.decode()
    assert again.stdout == first.stdout

    asked = ("lion,tower,a drawing", "--top", "2")
    ranked = objects(classify(*asked, "--json"))
    assert len(ranked) == 2 * count
    for best, next_ in zip(ranked[::2], ranked[1::2], strict=True):
        assert (best["rank"], next_["rank"]) == (1, 2)
        assert best["id"] == next_["id"]
        assert best["score"] >= next_["score"]
        assert best["runner_up"] == next_["label"]
        assert best["margin"] == pytest.approx(best["score"] - next_["score"], abs=3e-6)
    table = list(csv.DictReader(io.StringIO(fine(classify(*asked, "--csv")))))
    assert [row["label"] for row in table] == [row["label"] for row in ranked]
    assert [row["path"] for row in table] == [row["path"] for row in ranked]

    contents: list[list[dict[str, Any]]] = []
    for ending in ("parquet", "csv", "json"):
        done = classify(*asked, "--out", f"out.{ending}")
        summary = fine(done).splitlines()
        assert f"Wrote out.{ending}" in done.stderr.decode()
        contents.append(list(read_result(tmp_path / f"out.{ending}")))
    assert len(contents[0]) == 2 * count
    for other in contents[1:]:
        assert len(other) == 2 * count
        for row, same in zip(contents[0], other, strict=True):
            assert row.keys() == same.keys()
            for name, value in row.items():
                exact = isinstance(value, str | int)
                assert same[name] == (value if exact else pytest.approx(value, abs=2e-6)), name
    # The summary: a line a label, most frequent first, and together all images.
    assert summary[0].split() == ["label", "images", "share", "best", "example"]
    parts = [re.match(r"(.+?)\s{2,}(\d+)\s+([\d.]+)%", line) for line in summary[1:]]
    assert {part[1] for part in parts if part} == {"lion", "tower", "a drawing"}
    counts = [int(part[2]) for part in parts if part]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == count
    assert sum(float(part[3]) for part in parts if part) == pytest.approx(100, abs=0.2)
    winners = [row["label"] for row in contents[0] if row["rank"] == 1]
    for part in parts:
        assert part is not None
        assert int(part[2]) == winners.count(part[1])
    assert not list(tmp_path.glob(".out*"))


def read_result(path: Path) -> Iterable[dict[str, Any]]:
    if path.suffix == ".parquet":
        yield from pq.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        kinds: dict[str, type] = {
            "id": int, "rank": int, "score": float, "probability": float, "margin": float
        }  # fmt: skip
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                yield {name: kinds.get(name, str)(value) for name, value in row.items()}
    else:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def test_a_single_label_and_a_labels_file(
    cli: Cli, here: Cli, mini_index: Path, tmp_path: Path
) -> None:
    done = cli("classify", "--labels", "lion", "--none", "off", "--index", mini_index, "--json")
    rows = objects(done)
    assert all(row["probability"] == 1 and row["margin"] is None for row in rows)
    assert all(row["runner_up"] is None for row in rows)
    assert b"single label" in done.stderr
    (tmp_path / "labels.txt").write_text("# mine\nlion, asleep\n\n  tower \n", encoding="utf-8")
    done = here(
        "classify", "--labels-file", "labels.txt", "--none", "off", "--index", mini_index, "--json"
    )
    assert {row["label"] for row in objects(done)} <= {"lion, asleep", "tower"}
    assert {row["runner_up"] for row in objects(done)} <= {"lion, asleep", "tower"}


# -- index, status, model --------------------------------------------------------------------


def test_index_tells_the_account(cli: Cli, here: Cli, pictures: Path, tmp_path: Path) -> None:
    contents = len({path.read_bytes() for path in pictures.iterdir()})
    (pictures / "bad one.jpg").write_bytes(b"no picture")
    (pictures / "film.mov").touch()
    done = cli("index", pictures, "--index", "x.index", "--model", "mini")
    assert done.returncode == 3
    assert done.stdout == b"", "all of this is for a person"
    told = done.stderr.decode()
    assert f"{contents} images in the index" in told
    assert "1 skipped" in told
    assert ".mov 1" in told
    assert "bad one.jpg: " in told
    assert "with mini on cpu" in told
    assert "will grow by about" in told
    assert "clipsearch search" in told
    again = here("index", pictures, "--index", "x.index", "--json")
    (account,) = objects(again, 3)
    assert account["new"] == 0
    assert account["indexed"] == contents
    assert account["skipped"] == 1
    assert account["found"] == sum(
        account[name] for name in ("indexed", "copies", "skipped", "ignored")
    )
    assert "Nothing new to encode" in again.stderr.decode()
    assert "bad one.jpg: " in again.stderr.decode()
    (pictures / "bad one.jpg").unlink()
    fine(here("index", pictures, "--index", "x.index", "--exclude", "lion*", "--workers", "1"))
    from indexer.build import saved_config

    saved = saved_config(tmp_path / "x.index")
    assert saved.exclude == ("lion*",)
    assert saved.decode_threads == 1


def test_a_default_model_is_for_new_indexes(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    build_index(pictures, tmp_path / "x.index", encoder="mini")
    env = {**no_models(tmp_path), "CLIPSEARCH_MODEL": "balanced"}
    fine(cli("index", pictures, "--index", "x.index", env=env))
    done = cli("index", pictures, "--index", "y.index", env=env)
    refused(done, "balanced", lines=2)


def test_status(here: Cli, mini_index: Path) -> None:
    told = fine(here("status", "--index", mini_index))
    (document,) = objects(here("status", "--index", mini_index, "--json"))
    index = open_index(mini_index)
    assert document["images"] == len(index)
    assert document["model"] == "mini"
    assert document["dim"] == 256
    assert document["files_present"] == len(index) + document["copies"]
    assert document["roots"][0]["path"] in told
    assert document["roots"][0]["scanned_at"]
    assert "mini" in told
    assert f"{len(index)} (" in told
    assert document["truth_bytes"] == sum(
        path.stat().st_size for path in mini_index.rglob("*.parquet") if "cache" not in path.parts
    )
    refused(here("status", "--index", "none.index"), "none.index")


def test_models(cli: Cli, tmp_path: Path) -> None:
    nothing = no_models(tmp_path)
    told = fine(cli("model", "list", env=nothing))
    rows = objects(cli("model", "list", "--json", env=nothing))
    assert {row["name"] for row in rows} >= {"fast", "balanced", "best", "multilingual", "mini"}
    for row in rows:
        assert row["model"] in told
        assert row["licence"] in ("MIT", "Apache-2.0")
        assert (row["here"] is not None) == (row["name"] == "mini")
    place = fine(cli("model", "path", "mini", env=nothing)).strip()
    assert Path(place).is_file()
    assert Path(place).stat().st_size < 25e6


def test_every_help_names_its_options(here: Cli) -> None:
    wanted = {
        "index": ("--index", "--model", "--device", "--batch-size", "--exclude", "--decode",
                  "--max-megapixels", "--workers", "--json"),
        "search": ("-k", "--page", "--plus", "--not", "--like", "--unlike", "--min-score",
                   "--since", "--until", "--in", "--camera", "--near", "--box", "--min-size",
                   "--label", "--where", "--sort", "--collapse-dups", "--save", "--open",
                   "--preview", "--exact", "--index", "--device", "--json", "--csv", "-0"),
        "saved": ("--all", "--peek", "--forget", "--json"),
        "similar": ("-k", "--min-score", "--where", "--exact", "--index", "--json", "--csv", "-0"),
        "classify": ("--labels", "--labels-file", "--templates", "--context", "--top", "--out",
                     "--save-as", "--adapt", "--where", "--index", "--json", "--csv"),
        "tag": ("--labels", "--labels-file", "--save-as", "--threshold", "--max", "--floor",
                "--refit", "--out", "--index", "--json", "--csv"),
        "compare": ("A", "--with", "--models", "--show", "--a", "--b", "--out", "--where",
                    "--index", "--json", "--csv"),
        "labels": ("NAME", "--forget", "--json", "--csv"),
        "vocabulary": ("FILE", "--templates", "--index", "--model", "--device", "--json"),
        "dups": ("--kind", "--print", "--limit", "--max-bits", "--min-cosine", "--seconds",
                 "--where", "--index", "--json", "--csv", "-0"),
        "export": ("--to", "--out", "--keyword", "--labels", "--numbered", "--force", "--dry-run",
                   "--list", "--undo", "--where", "--index"),
        "status": ("--json", "--index"),
        "model list": ("--json",),
        "model get": ("NAME",),
        "model path": ("NAME",),
        "model towers": ("--forget", "--json"),
        "bench": ("--model", "--device", "--photos", "--seconds", "--json"),
        "demo": (),
    }  # fmt: skip
    top = fine(here("--help"))
    for command, options in wanted.items():
        text = fine(here(*command.split(), "--help"))
        assert text.startswith(f"Usage: clipsearch {command}")
        for option in options:
            assert re.search(rf"(?<![\w-]){re.escape(option)}\b", text), (command, option)
        assert command.split()[0] in top
        assert "Traceback" not in text
    assert fine(here("-h")) == top


def test_help_loads_nothing_heavy(cli: Cli) -> None:
    program = (
        "import sys\nfrom clipsearch.cli import run\n"
        "code = run(['--help'])\n"
        "heavy = {'torch', 'faiss', 'gradio', 'numpy', 'pyarrow', 'open_clip'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_demo(cli: Cli, tmp_path: Path) -> None:
    env = {
        **no_models(tmp_path),
        "CLIPSEARCH_OFFLINE": "1",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "LOCALAPPDATA": str(tmp_path / "cache"),
    }
    left = tmp_path / "cache" / "clipsearch" / "demo" / "pictures"
    left.mkdir(parents=True)
    (left / "of last time.jpg").write_bytes(b"x")
    done = cli("demo", env=env)
    told = fine(done)
    assert told.count("$ clipsearch index") == 1
    assert told.count("$ clipsearch search") >= 2
    assert told.count("$ clipsearch classify") == 2
    assert told.count("images/s)") == 2
    labels = re.findall(r'\$ clipsearch classify --labels "([^"]+)"', told)
    assert len(set(labels)) == 2
    for label in ",".join(labels).split(","):
        assert re.search(rf"^{label}\s+\d+\s+\d+%", told, re.MULTILINE), label
    images = int(re.search(r"(\d+) pictures indexed", told)[1])  # type: ignore[index]
    for part in told.split("$ clipsearch classify")[1:]:  # all are accounted for
        counts = re.findall(r"^\S.*?\s(\d+)\s+\d+%", part, re.MULTILINE)
        assert sum(map(int, counts)) == images
    assert "Now yours" in told
    (folder,) = (tmp_path / "cache").rglob("demo.index")
    assert sorted(path.name for path in folder.parent.iterdir()) == ["demo.index", "pictures"]
    for hit in open_index(folder).search("a picture", k=99):
        assert hit.path.is_file()


# -- on a terminal ---------------------------------------------------------------------------


def on_terminal(
    arguments: list[str], cwd: Path, env: dict[str, str] | None = None, answer: bytes = b""
) -> tuple[int, str]:
    """Run the command line on a terminal of its own; ``answer`` is typed at the first question."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=cwd, env=environment(TERM="xterm", **(env or {})),
        stdin=slave, stdout=slave, stderr=slave, close_fds=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    try:
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # Linux says so when the last one has closed the terminal
                break
            if not data:
                break
            shown += data
            if answer and shown.rstrip().endswith(b":"):
                os.write(master, answer)
                answer = b""
        return process.wait(timeout=60), shown.decode().replace("\r\n", "\n")
    finally:
        process.kill()
        process.wait()
        os.close(master)


@posix_only
def test_a_terminal_gets_tables_and_a_question(pictures: Path, tmp_path: Path) -> None:
    arguments = ["index", str(pictures), "--index", "x.index"]
    code, shown = on_terminal(arguments, tmp_path, no_models(tmp_path), b"2\n")
    assert code == 0, shown
    assert "recommended" in shown
    assert "mini" in shown
    assert open_index(tmp_path / "x.index").space.model == "mini"
    assert "images/s" in shown
    assert "100%" in shown

    code, shown = on_terminal(["search", "a", "lion", "-k", "3", "--min-score", "none"], tmp_path)
    assert code == 0
    lines = shown.splitlines()
    assert lines[0].split() == ["score", "match", "taken", "image"]
    assert len(lines) == 5
    assert lines[4] == "None of them stands out: these are the closest."
    for line in lines[1:4]:
        score, date, name = re.fullmatch(
            r"(\S+)  (?:strong|fair|weak) +([-\d]{10}|) +(\S.*)", line
        ).groups()
        assert -1 <= float(score) <= 1
        assert date == "" or "19" < date < "2027"
        assert re.sub(r"  \(\+1 copy\)$", "", name).startswith("pictures/")
    code, shown = on_terminal(["classify", "--labels", "lion,tower"], tmp_path)
    assert code == 0
    assert shown.split()[:5] == ["label", "images", "share", "best", "example"]
    code, shown = on_terminal(["search", "a lion", "--min-score", "1"], tmp_path)
    assert code == 1
    assert shown.splitlines()[0] == "Nothing above the cut-off; the closest are shown below."


@posix_only
def test_an_odd_name_cannot_play_with_the_terminal(pictures: Path, tmp_path: Path) -> None:
    (pictures / "lion.jpg").rename(pictures / "\x1b[31mred\x07\n.jpg")
    build_index(pictures, tmp_path / "x.index", encoder="mini")
    code, shown = on_terminal(["search", "a lion", "-k", "99", "--min-score", "none"], tmp_path)
    assert code == 0
    assert "red" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


@pytest.mark.slow
@posix_only
def test_ctrl_c_while_encoding(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    picture, sink = Image.effect_noise((2000, 1500), 60).convert("RGB"), io.BytesIO()
    picture.save(sink, "JPEG")
    for number in range(120):  # a decoder does not mind what follows the picture
        (folder / f"{number:03}.jpg").write_bytes(sink.getvalue() + str(number).encode())
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "index", "many", "--index", "x y.index", "--model", "mini",
         "--exclude", "*.tmp", "--workers", "1"],
        cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        head = process.stderr.readline() + process.stderr.readline()
        assert b"120 images to index" in head
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    told = err.decode()
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert out == b""
    again = shlex.split(told.strip().splitlines()[-1])
    assert again[:3] == ["clipsearch", "index", "many"]
    assert again[3:5] == ["--index", "x y.index"]
    if not (tmp_path / "x y.index").exists():
        # Nothing was finished, so the line must say all over again what was asked for.
        assert {"--model", "mini", "--exclude", "*.tmp", "--workers"} <= set(again)
    for path in sorted(folder.iterdir())[8:]:
        path.unlink()  # the rest of the way need not be long
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *again[1:]],
        cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(open_index(tmp_path / "x y.index")) >= 8


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(mini_index: Path) -> None:
    program = "from clipsearch.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, "status", "--index", str(mini_index)],
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.decode().startswith("Error: the disk is full")
    assert len(done.stderr.splitlines()) == 1


def test_a_command_on_its_way_out_hears_no_more_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clipsearch.cli._settings", interrupt)
    assert clipsearch.cli.run(["status"]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_and_the_next_test_hears_them_again() -> None:
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
