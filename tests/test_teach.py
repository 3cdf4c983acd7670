"""Teaching a saved label set from the command line: what is said counts, is kept and undone."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from clipsearch import lessons, open_index
from clipsearch.confirmed_labels import ConfirmedLabels
from clipsearch.errors import LabelError
from clipsearch.label_examples import Correction, Example, UsableExamples, read_examples
from clipsearch.label_history import label_set_versions
from clipsearch.label_sets import labels_folder, read_label_rows, read_label_set
from clipsearch.taught_labelling import classify_taught
from clipsearch.teaching import begin_teaching
from clipsearch.vote_scoring import VotedBlock
from indexer import build_index
from indexer.compact import compact
from indexer.prune import prune
from indexer.verify import verify_index
from tests.conftest import Cli

LABELS = "lion,tower,drawing"


@pytest.fixture
def taught_index(mini_index: Path, cli_here: Cli) -> Path:
    """An index with the saved set things, of which nothing was taught yet."""
    done = cli_here(
        "classify", "--index", mini_index, "--labels", LABELS, "--templates", "none",
        "--none", "off", "--save-as", "things",
    )  # fmt: skip
    assert done.returncode == 0
    return mini_index


def paths_of(index: Path) -> dict[int, Path]:
    opened = open_index(index)
    ids = opened.state().vectors.ids
    places = opened.paths().first_places(ids)
    return {int(i): place.path for i, place in zip(ids, places, strict=True) if place is not None}


def labels_in(index: Path, name: str = "things") -> dict[int, str | None]:
    found, rows = read_label_rows(index, name)
    named = [*found.labels, None]
    return {int(i): named[code] for i, code in zip(rows.ids, rows.labels, strict=True)}


def other_label(label: str | None) -> str:
    return next(one for one in LABELS.split(",") if one != label)


def examples_in(index: Path, name: str = "things") -> list[tuple[int, str | None, str]]:
    found = read_examples(labels_folder(index), read_label_set(index, name))
    return [(one.id, one.label, one.chosen) for one in found]


def test_a_correction_sticks_is_kept_and_undone(taught_index: Path, cli_here: Cli) -> None:
    before = labels_in(taught_index)
    (first, one), (second, two), (third, three), *_ = paths_of(taught_index).items()
    wrong = other_label(before[first])
    run = ("teach", "things", "--index", taught_index)
    done = cli_here(*run, f"{one}={wrong}", f"{two}={before[second]}", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    after = labels_in(taught_index)
    assert after[first] == wrong
    assert after[second] == before[second]
    assert told["changed"] == sum(before[i] != after[i] for i in before) >= 1
    assert (told["confirmed"], told["corrected"], told["examples"]) == (2, 1, 2)
    assert (told["images"], told["version"]) == (len(before), 2)
    assert told["accuracy_after"] >= told["accuracy_before"]
    now = {line["label"]: line["now"] for line in told["labels"]}
    assert now == {label: list(after.values()).count(label) for label in LABELS.split(",")}
    assert b"2 images confirmed, 1 as labelled and 1 corrected." in done.stderr
    assert examples_in(taught_index) == [(first, wrong, "given"), (second, before[second], "given")]
    # The same again changes nothing, so that there is no version more.
    assert cli_here(*run, f"{one}={wrong}").returncode == 0
    assert [version.number for version in label_set_versions(taught_index, "things")] == [1, 2]
    # Another example, of another's copy, and --none.
    assert cli_here(*run, "--none", three).returncode == 0
    assert labels_in(taught_index)[third] is None
    assert len(examples_in(taught_index)) == 3
    assert verify_index(taught_index, sample=0).is_sound
    assert cli_here(*run, "--undo").returncode == 0
    assert labels_in(taught_index) == after
    assert len(examples_in(taught_index)) == 2
    assert cli_here(*run, "--undo").returncode == 0
    assert labels_in(taught_index) == before
    assert examples_in(taught_index) == []
    assert cli_here(*run, "--undo").returncode == 2


def test_forgetting_all_examples_is_as_never_taught(taught_index: Path, cli_here: Cli) -> None:
    before = read_label_rows(taught_index, "things")[1]
    (first, one), (_, two), *_ = paths_of(taught_index).items()
    run = ("teach", "things", "--index", taught_index)
    assert cli_here(*run, "--label", "tower", one, two).returncode == 0
    done = cli_here(*run, "--forget", one, two, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["forgotten"] == 2
    after = read_label_rows(taught_index, "things")[1]
    assert np.array_equal(after.labels, before.labels)
    assert np.array_equal(after.scores, before.scores)
    assert read_label_set(taught_index, "things").teaching is None
    failed = cli_here(*run, "--forget", str(first))
    assert failed.returncode == 2
    assert b"is no example of the set" in failed.stderr


def test_a_dry_run_saves_nothing(taught_index: Path, cli_here: Cli) -> None:
    one = next(iter(paths_of(taught_index).values()))
    before = sorted(os.listdir(taught_index / "labels"))
    for more in (("--none", one), ("--label", "tower", one)):
        done = cli_here("teach", "things", "--index", taught_index, "--dry-run", *more)
        assert done.returncode == 0
        assert b"Nothing was saved" in done.stderr
    assert sorted(os.listdir(taught_index / "labels")) == before


def test_classify_goes_by_the_examples(taught_index: Path, cli_here: Cli, tmp_path: Path) -> None:
    before = labels_in(taught_index)
    (first, one), (_, two), (third, three), *_ = paths_of(taught_index).items()
    wrong = other_label(before[first])
    run = ("teach", "things", "--index", taught_index)
    assert cli_here(*run, f"{one}={wrong}", f"{two}=tower").returncode == 0
    assert cli_here(*run, "--none", three).returncode == 0
    taught = labels_in(taught_index)
    classify = ("classify", "--index", taught_index, "--labels", "@things")
    rows = [json.loads(line) for line in cli_here(*classify, "--json").stdout.splitlines()]
    assert {row["id"]: row["label"] for row in rows} == taught
    by_id = {row["id"]: row for row in rows}
    assert by_id[first]["probability"] == 1.0
    assert by_id[first]["margin"] is None
    assert by_id[third]["probability"] is None
    assert by_id[third]["score"] is None
    assert all(row["cosine"] is None or -1 <= row["cosine"] <= 1 for row in rows)
    # Only some images, and several labels of each.
    some = cli_here(*classify, "--in", one.parent, "--top", "3", "--json")
    best = [json.loads(line) for line in some.stdout.splitlines()]
    assert {row["id"]: row["label"] for row in best if row["rank"] == 1} == taught
    ranks = [row["label"] for row in best if row["id"] == first]
    assert ranks[0] == wrong
    assert len(set(ranks)) == len(ranks) == 3
    # Labels that go take their examples to rest, those that are reworded take them along.
    edited = cli_here(
        *classify, "--remove", "tower", "--add", "tree", "--reword", f"{wrong}=my own",
        "--save-as", "others",
    ) if wrong != "tower" else cli_here(
        *classify, "--remove", "lion", "--add", "tree", "--reword", "tower=my own",
        "--save-as", "others",
    )  # fmt: skip
    assert edited.returncode == 0, edited.stderr
    assert labels_in(taught_index, "others")[first] == "my own"
    assert labels_in(taught_index, "others")[third] is None
    assert len(examples_in(taught_index, "others")) == 3
    assert b"Taught by" in edited.stderr
    # And the set that it came from is as it was.
    assert labels_in(taught_index) == taught
    for option in ("--fast", "--by-cluster"):
        refused = cli_here(*classify, option)
        assert refused.returncode == 2
        assert b"labelled by its examples" in refused.stderr
    plain = cli_here("classify", "--index", taught_index, "--labels", "a,b", "--save-as", "things")
    assert plain.returncode == 0
    assert b"'clipsearch labels things --undo' brings them back" in plain.stderr


def test_a_csv_that_classify_wrote_teaches(
    taught_index: Path, cli_here: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "all.csv"
    classify = ("classify", "--index", taught_index, "--labels", "@things", "--none", "off")
    assert cli_here(*classify, "--out", out).returncode == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    wanted = {int(row["id"]): other_label(row["label"]) for row in rows[:4]}
    for row in rows:
        row["label"] = wanted.get(int(row["id"]), "")
    corrected = tmp_path / "corrected.csv"
    with open(corrected, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    done = cli_here("teach", "things", "--index", taught_index, "--file", corrected)
    assert done.returncode == 0
    assert f"{len(rows) - 4} rows of".encode() in done.stderr
    after = labels_in(taught_index)
    assert {number: after[number] for number in wanted} == wanted
    listed = cli_here("teach", "things", "--index", taught_index, "--examples", "--csv")
    examples = list(csv.DictReader(io.StringIO(listed.stdout.decode())))
    assert {int(row["id"]): row["label"] for row in examples} == wanted
    # What --examples lists teaches another set.
    again = tmp_path / "examples.csv"
    again.write_bytes(listed.stdout)
    assert cli_here(*classify[:5], "--save-as", "copy").returncode == 0
    assert cli_here("teach", "copy", "--index", taught_index, "--file", again).returncode == 0
    assert labels_in(taught_index, "copy") == after


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((), "say what is to be taught"),
        (("--ask", "3", "x=lion"), "one at a time"),
        (("--undo", "--examples"), "one at a time"),
        (("--label", "lion"), "name the images"),
        (("--label", "lion", "--none", "0"), "one at a time"),
        (("--label", " ", "0"), "--label is empty"),
        (("--out", "x.html", "0=lion"), "go with --ask"),
        (("-i", "0=lion"), "go with --ask"),
        (("--ask", "3", "--out", "x.txt"), "end in .html"),
        (("--ask", "100000"), "questions at once"),
        (("0=zebra",), "no label 'zebra' in the set: expected one of lion, tower, drawing"),
        (("nothing.jpg=lion",), "nothing.jpg' is not in the index"),
        (("0",), "expected IMAGE=LABEL"),
        (("99999=lion",), "there is no image 99999"),
        (("0=lion", "0=tower"), "two labels, 'lion' and 'tower'"),
        (("a\udcff\n\x1b[31m=lion",), "is not in the index"),
        (("--file", "no.csv"), "expected a CSV of corrections"),
        (("--undo", "--dry-run"), "--restore"),
    ],
)
def test_what_cannot_be_taught_is_told_in_a_line(
    arguments: tuple[str, ...], word: str, taught_index: Path, cli_here: Cli
) -> None:
    before = sorted(os.listdir(taught_index / "labels"))
    failed = cli_here("teach", "things", "--index", taught_index, *arguments)
    assert failed.returncode == 2
    assert word in failed.stderr.decode()
    assert failed.stdout == b""
    assert b"Traceback" not in failed.stderr
    assert b"\x1b" not in failed.stderr
    assert sorted(os.listdir(taught_index / "labels")) == before


def test_sets_that_cannot_be_taught(taught_index: Path, cli_here: Cli, tmp_path: Path) -> None:
    unknown = cli_here("teach", "nobody", "--index", taught_index, "0=lion")
    assert unknown.returncode == 2
    assert b"no label set 'nobody'" in unknown.stderr
    save = ("--index", taught_index, "--save-as")
    assert cli_here("tag", "--labels", LABELS, *save, "tags").returncode in (0, 1)
    tags = cli_here("teach", "tags", "--index", taught_index, "0=lion")
    assert tags.returncode == 2
    assert b"was saved by tag: expected one that classify" in tags.stderr
    tree = tmp_path / "tree.toml"
    tree.write_text('[labels.lion]\nparent = "animal"\n[labels.animal]\n[labels.tower]\n')
    assert cli_here("classify", "--labels-file", tree, *save, "tree").returncode == 0
    leaves = cli_here("teach", "tree", "--index", taught_index, "0=lion")
    assert leaves.returncode == 2
    assert b"has parents or groups" in leaves.stderr
    # Other words for a label are no matter.
    words = tmp_path / "words.toml"
    words.write_text('[labels.lion]\nsynonyms = ["big cat"]\nthreshold = 0.3\n[labels.tower]\n')
    assert cli_here("classify", "--labels-file", words, *save, "words").returncode == 0
    assert cli_here("teach", "words", "--index", taught_index, "0=lion").returncode == 0
    assert read_label_set(taught_index, "words").definitions is not None


def test_questions_are_listed_and_written_as_a_page(
    taught_index: Path, cli_here: Cli, tmp_path: Path
) -> None:
    run = ("teach", "things", "--index", taught_index, "--ask", "4")
    listed = cli_here(*run, "--csv")
    assert listed.returncode == 0
    rows = list(csv.DictReader(io.StringIO(listed.stdout.decode())))
    assert len(rows) == 4
    assert {row["chosen"] for row in rows} == {"asked", "random"}
    assert {row["label"] for row in rows} == {""}
    assert all(row["guess"] in LABELS.split(",") for row in rows)
    assert cli_here(*run, "--json").stdout.count(b"\n") == 4
    paths = cli_here(*run).stdout.decode().splitlines()
    assert [row["path"] for row in rows] == paths
    page = tmp_path / "ask.html"
    assert cli_here(*run, "--out", page).returncode == 0
    text = page.read_text()
    assert text.count("<figure>") == text.count('src="data:image/jpeg;base64,') == 4
    assert "http://" not in text
    assert "https://" not in text
    assert "clipsearch teach things --file answers.csv" in text
    for row in rows:
        assert f'data-id="{row["id"]}"' in text
    page.write_text("mine")
    assert cli_here(*run, "--out", page).returncode == 2
    assert page.read_text() == "mine"
    assert cli_here(*run, "--out", page, "--force").returncode == 0
    # Its answers say how their images were chosen; and who is an example is asked no more.
    answers = tmp_path / "answers.csv"
    random = next(row for row in rows if row["chosen"] == "random")
    random["label"] = "tower"
    with open(answers, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    taught = cli_here("teach", "things", "--index", taught_index, "--file", answers)
    assert taught.returncode == 0
    assert examples_in(taught_index) == [(int(random["id"]), "tower", "random")]
    every = cli_here(*run[:-1], "1000", "--csv")
    asked = [row["id"] for row in csv.DictReader(io.StringIO(every.stdout.decode()))]
    assert random["id"] not in asked


def test_questions_one_after_the_other(
    taught_index: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(lines: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return cli_here("teach", "@things", "--index", taught_index, *arguments)

    run = ("teach", "things", "--index", taught_index, "--ask", "5", "--json")
    asked = [json.loads(line) for line in cli_here(*run).stdout.splitlines()]
    # Right; a number; back and none; skipped; no such label, then a beginning; enough.
    done = answer("\n2\nb\nn\ns\nzzz\n99\ndraw\nq\n", "--ask", "5", "-i", "--json")
    assert done.returncode == 0, done.stderr
    given = {number: (label, chosen) for number, label, chosen in examples_in(taught_index)}
    assert given == {
        asked[0]["id"]: (asked[0]["guess"], asked[0]["chosen"]),
        asked[1]["id"]: (None, asked[1]["chosen"]),
        asked[3]["id"]: ("drawing", asked[3]["chosen"]),
    }
    assert json.loads(done.stdout)["confirmed"] == 3
    assert b"[5/5]" in done.stderr
    assert done.stderr.count(b"There is no label") == 2
    # Nothing answered, nothing changed.
    before = read_label_set(taught_index, "things")
    nothing = answer("", "--ask", "2", "-i")
    assert nothing.returncode == 0
    assert b"No answers: nothing was changed." in nothing.stderr
    assert read_label_set(taught_index, "things") == before


class Interrupted(io.StringIO):
    """An input whose end is Ctrl-C."""

    def readline(self, size: int | None = -1, /) -> str:
        line = super().readline()
        if not line:
            raise KeyboardInterrupt
        return line


def test_ctrl_c_keeps_what_was_answered(
    taught_index: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("teach", "things", "--index", taught_index, "--ask", "5")
    before = read_label_set(taught_index, "things")
    monkeypatch.setattr(sys, "stdin", Interrupted())
    nothing = cli_here(*run, "-i")
    assert nothing.returncode == 130
    assert read_label_set(taught_index, "things") == before
    asked = [json.loads(line) for line in cli_here(*run, "--json").stdout.splitlines()]
    monkeypatch.setattr(sys, "stdin", Interrupted("2\nn\n"))
    done = cli_here(*run, "-i", "--json")
    assert done.returncode == 0, done.stderr
    assert b"what was answered counts, 2 answers" in done.stderr
    given = {number: label for number, label, _ in examples_in(taught_index)}
    assert given == {asked[0]["id"]: "tower", asked[1]["id"]: None}


def test_answers_that_cannot_be_saved_are_written_down(
    taught_index: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = ("teach", "things", "--index", taught_index)
    with monkeypatch.context() as broken:

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        broken.setattr("clipsearch.label_set_saving.replace_file", full)
        broken.setattr(sys, "stdin", io.StringIO("2\nn\n"))
        failed = cli_here(*run, "--ask", "5", "-i")
    assert failed.returncode == 2
    assert b"2 answers not saved" in failed.stderr
    assert b"the disk is full" in failed.stderr
    assert examples_in(taught_index) == []
    answers = tmp_path / "answers.csv"
    answers.write_bytes(failed.stdout)
    assert cli_here(*run, "--file", answers).returncode == 0
    rows = list(csv.DictReader(io.StringIO(failed.stdout.decode())))
    given = {str(number): (label, chosen) for number, label, chosen in examples_in(taught_index)}
    assert given == {
        rows[0]["id"]: ("tower", rows[0]["chosen"]),
        rows[1]["id"]: (None, rows[1]["chosen"]),
    }


def test_a_set_is_taught_from_python(taught_index: Path) -> None:
    before = labels_in(taught_index)
    (first, one), (second, _), (third, _), *_ = paths_of(taught_index).items()
    wrong = other_label(before[first])
    opened = open_index(taught_index)
    tried = opened.teach("things", {one: wrong, second: None}, dry_run=True)
    assert tried.corrected == 2
    assert examples_in(taught_index) == []
    taught = opened.teach("things", {one: wrong, second: None, third: before[third]})
    after = labels_in(taught_index)
    assert (after[first], after[second], after[third]) == (wrong, None, before[third])
    assert (len(taught.new), taught.corrected) == (3, 2)
    assert taught.labelling.changed == sum(before[i] != after[i] for i in before)
    assert taught.labelling.lesson.taught is not None
    assert opened.teach("things", forget=[one, second]).forgotten == 2
    assert examples_in(taught_index) == [(third, before[third], "given")]
    with pytest.raises(LabelError, match="there is no label 'zebra'"):
        opened.teach("things", {first: "zebra"})


def test_accuracy_is_of_examples_that_have_a_label(taught_index: Path, cli_here: Cli) -> None:
    before = labels_in(taught_index)
    first, second, third, *_ = paths_of(taught_index)
    run = ("teach", "things", "--index", taught_index, "--json")
    said = (f"{first}={before[first]}", f"{second}={before[second]}", f"{third}=none")
    done = cli_here(*run, *said)
    told = json.loads(done.stdout)
    assert (told["examples"], told["accuracy_before"]) == (3, 1.0)
    assert b"On the 2 examples with a label, each left out in turn: 100% ->" in done.stderr
    # Of what shows none of the labels nothing can be told.
    done = cli_here(*run, "--forget", str(first), str(second))
    told = json.loads(done.stdout)
    assert (told["examples"], told["accuracy_before"], told["accuracy_after"]) == (1, None, None)


def test_an_example_that_came_back_is_listed_with_its_image(
    pictures: Path, cli_here: Cli, tmp_path: Path
) -> None:
    photos, index = tmp_path / "photos", tmp_path / "photos.index"
    photos.mkdir()
    for name in ("cheetah.jpg", "hf-logo_transpng.png"):
        shutil.copy(pictures / name, photos)
    build_index(photos, index, encoder="mini")
    save = ("--labels", LABELS, "--templates", "none", "--none", "off", "--save-as", "things")
    assert cli_here("classify", "--index", index, *save).returncode == 0
    run = ("teach", "things", "--index", index)
    assert cli_here(*run, f"{photos / 'cheetah.jpg'}=tower").returncode == 0
    away = (photos / "cheetah.jpg").rename(tmp_path / "away.jpg")
    build_index(photos, index)
    prune(index)
    compact(index)
    (gone,) = map(json.loads, cli_here(*run, "--examples", "--json").stdout.splitlines())
    assert gone["path"] is None
    back = away.rename(photos / "back.jpg")
    build_index(photos, index)
    (listed,) = map(json.loads, cli_here(*run, "--examples", "--json").stdout.splitlines())
    assert (Path(listed["path"]), listed["label"]) == (back, "tower")
    assert listed["id"] != gone["id"]
    assert cli_here(*run, "--forget", str(listed["id"])).returncode == 0
    assert examples_in(index) == []


def test_two_who_teach_at_once_lose_nothing(taught_index: Path) -> None:
    opened = open_index(taught_index)
    begun = []
    for number, label in ((0, "lion"), (1, "tower")):
        teaching = begin_teaching(
            taught_index, opened.state(), opened.text_vectors(), "things",
            [Correction(number, label)],
        )  # fmt: skip
        for _ in teaching.labelling:
            pass
        begun.append(teaching)
    begun[0].labelling.save()
    with pytest.raises(LabelError, match="saved by another process meanwhile"):
        begun[1].labelling.save()
    assert examples_in(taught_index) == [(0, "lion", "given")]


def test_teaching_is_the_same_for_every_cut_into_blocks(taught_index: Path) -> None:
    opened = open_index(taught_index)
    state, texts = opened.state(), opened.text_vectors()
    teaching = begin_teaching(
        taught_index, state, texts, "things", [Correction(0, "lion"), Correction(1, "tower")]
    )
    whole = teaching.labelling.columns()
    assert teaching.labelling.compared == len(whole)
    for some in ([0, 1], [2, 5], [6]):
        allowed = np.array(some, np.int64)
        part = classify_taught(
            taught_index, state, texts, LABELS.split(","), "none",
            examples=teaching.labelling.lesson.examples.examples, allowed=allowed,
        ).columns()  # fmt: skip
        rows = np.searchsorted(whole.ids, allowed)
        assert np.array_equal(part.ids, allowed)
        assert np.array_equal(part.labels, whole.labels[rows])
        assert np.allclose(part.scores, whole.scores[rows], atol=1e-6)


def test_confirmed_labels_go_first() -> None:
    block = VotedBlock(
        ids=np.array([3, 5, 7, 9]),
        labels=np.array([[0, 1], [1, 2], [2, 0], [-1, -1]], np.int32),
        scores=np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], np.float32),
        probabilities=np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], np.float32),
        margins=np.full(4, 0.5, np.float32),
        runners_up=np.array([1, 2, 0, 2], np.int32),
        log_sums=np.zeros(4, np.float32),
        in_set=np.array([0.9, 0.1, 0.5, 0.2], np.float32),
        cosines=np.array([[0.3, 0.2], [0.3, 0.2], [0.3, 0.2], [0.3, 0.2]], np.float32),
    )
    confirmed = ConfirmedLabels(
        ids=np.array([1, 5, 7, 9, 11]),
        labels=np.array([0, 0, -1, 2, 1], np.int32),
        cosines=np.array([0, 0.11, 0.12, 0.13, 0], np.float32),
    )
    found = confirmed.put_into(block)
    assert isinstance(found, VotedBlock)
    assert found.labels.tolist() == [[0, 1], [0, 1], [-1, -1], [2, -1]]
    assert found.probabilities[1].tolist() == [1, 0]
    assert found.probabilities[3, 0] == 1
    assert np.allclose(found.scores[1], [0.11, 0.8])
    assert np.allclose(found.cosines[1], [0.11, 0.3])
    assert found.runners_up.tolist() == [1, 1, 2, -1]
    assert found.in_set is not None
    assert np.allclose(found.in_set, [0.9, 1, 0, 1])
    assert np.isnan(found.margins).tolist() == [False, True, True, True]
    # What was given stays as it was.
    assert block.labels.tolist()[1] == [1, 2]
    nobody = ConfirmedLabels(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    assert nobody.put_into(block) is block


def test_a_read_only_index_says_so(taught_index: Path, cli_here: Cli) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("the system forbids this user nothing")
    os.chmod(taught_index / "labels", 0o555)
    try:
        failed = cli_here("teach", "things", "--index", taught_index, "0=lion")
    finally:
        os.chmod(taught_index / "labels", 0o755)
    assert failed.returncode == 2
    assert b"no permission to save a label set" in failed.stderr


def test_a_copy_of_the_photo_elsewhere_teaches(
    taught_index: Path, cli_here: Cli, tmp_path: Path
) -> None:
    number, path = next(iter(paths_of(taught_index).items()))
    copy = tmp_path / b"caf\xe9 =.jpg".decode("utf-8", "surrogateescape")
    shutil.copyfile(path, copy)
    assert cli_here("teach", "things", "--index", taught_index, f"{copy}=tower").returncode == 0
    assert examples_in(taught_index) == [(number, "tower", "given")]


def test_of_very_many_examples_some_of_every_label_are_fitted(
    taught_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "MOST_FITTED", 3)
    opened = open_index(taught_index)
    given = ["lion", "lion", "lion", "lion", "tower", None]
    teaching = begin_teaching(
        taught_index, opened.state(), opened.text_vectors(), "things",
        [Correction(number, label) for number, label in enumerate(given)],
    )  # fmt: skip
    lesson = teaching.labelling.lesson
    assert sorted(lesson.examples.labels[lesson.fitted].tolist()) == [-1, 0, 1]
    assert lesson.taught is not None
    assert len(lesson.taught.left_out) == 3
    for _ in teaching.labelling:
        pass
    teaching.labelling.save()
    after = labels_in(taught_index)
    assert [after[number] for number in range(len(given))] == given
    assert len(examples_in(taught_index)) == len(given)


def test_cosines_of_examples_do_not_depend_on_threads() -> None:
    chance = np.random.default_rng(5)
    rows = chance.standard_normal((400, 512)).astype(np.float32)
    classes = chance.standard_normal((25, 512)).astype(np.float32)
    examples = (Example(0, b"", None),) * 400
    usable = UsableExamples(examples, np.arange(400), np.arange(400, dtype=np.int32) % 25, 0, 0)
    state: Any = SimpleNamespace(vectors=SimpleNamespace(blocks_of=lambda ids: [(ids, rows)]))
    found = []
    for threads in (1, 2, 4, 8):
        with threadpool_limits(threads):
            found.append(lessons._cosines(state, classes, usable).tobytes())
    assert len(set(found)) == 1
