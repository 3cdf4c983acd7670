"""Two labellings compared: by hand, against scikit-learn, and from the command line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsearch import label_comparison, open_index
from clipsearch.compared_sets import saved_side, side_of_model
from clipsearch.errors import LabelError
from clipsearch.label_comparison import (
    NONE,
    Comparison,
    LabelChange,
    Labelled,
    compare,
    labelled,
    labelled_by,
)
from clipsearch.label_set_saving import save_classification
from clipsearch.label_sets import read_label_rows, read_label_set
from tests.conftest import Cli


def side(
    name: str, labels: str, ids: list[int], codes: list[int], certain: list[float] | None = None
) -> Labelled:
    sure = np.full(len(ids), 0.5) if certain is None else np.array(certain)
    sure = np.where(np.array(codes) < 0, np.nan, sure).astype(np.float32)
    return Labelled(
        name, tuple(labels.split(",")), np.array(ids, np.int64), np.array(codes, np.int32), sure
    )


def hand() -> Comparison:
    a = side("a", "cat,dog,Red  Fox", [1, 2, 3, 4, 5, 6, 7], [0, 1, 2, -1, 1, 1, 0],
             [0.9, 0.6, 0.8, 0, 0.7, 0.95, 0.3])  # fmt: skip
    b = side("b", "wolf,red fox,DOG", [2, 3, 4, 5, 6, 7, 9], [0, 1, 2, 2, 0, -1, 0],
             [0.9, 0.9, 0.4, 0.7, 0.65, 0, 0.3])  # fmt: skip
    return compare(a, b)


def test_by_hand() -> None:
    found = hand()
    assert found.labels == ("cat", "dog", "Red  Fox", "wolf")
    assert (found.shared, found.only_a, found.only_b, len(found)) == (2, 1, 1, 6)
    assert found.ids.tolist() == [2, 3, 4, 5, 6, 7]
    assert found.a.tolist() == [1, 2, NONE, 1, 1, 0]
    assert found.b.tolist() == [3, 2, 1, 1, 3, NONE]
    assert found.differing == 4
    assert found.agreement == pytest.approx(1 / 3)
    chance = (3 * 2 + 1 * 1 + 1 * 1) / 36  # dog, fox and none on both sides
    assert found.kappa == pytest.approx((1 / 3 - chance) / (1 - chance))
    assert found.changes() == [
        LabelChange("dog", "wolf", 2, 6),  # 0.65 is more certain than 0.6
        LabelChange(None, "dog", 1, 4),
        LabelChange("cat", None, 1, 7),
    ]
    assert sum(change.images for change in found.table()) == 6
    # The lower of both probabilities: 0.65, 0.6, 0.4; without a label on one side the other's.
    assert found.ids[found.disagreements()].tolist() == [6, 2, 4, 7]
    assert found.ids[found.disagreements(a="Dog ")].tolist() == [6, 2]
    assert found.ids[found.disagreements(b="")].tolist() == [7]
    assert found.ids[found.disagreements(a="", b="dog")].tolist() == [4]
    assert found.disagreements(a="red fox").tolist() == []
    with pytest.raises(LabelError, match="neither a nor b has the label 'bear': expected one of"):
        found.disagreements(a="bear")


def test_kappa_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import cohen_kappa_score

    draws = np.random.default_rng(4)
    for count, labels in ((2000, 5), (300, 40)):
        names = ",".join(f"label {number}" for number in range(labels))
        codes = draws.integers(-1, labels, count)
        other = np.where(draws.random(count) < 0.7, codes, draws.integers(-1, labels, count))
        ids = np.sort(draws.choice(10_000, count, replace=False))
        found = compare(
            side("a", names, ids.tolist(), codes.tolist()),
            side("b", names, ids.tolist(), other.tolist()),
        )
        assert found.kappa == pytest.approx(float(cohen_kappa_score(codes, other)), abs=1e-12)
        assert found.agreement == pytest.approx(float((codes == other).mean()))


def test_what_cannot_be_told() -> None:
    nothing = compare(side("a", "x", [1], [0]), side("b", "x", [2], [0]))
    assert (len(nothing), nothing.agreement, nothing.kappa) == (0, None, None)
    assert (nothing.changes(), nothing.disagreements().tolist()) == ([], [])
    strangers = compare(side("a", "x", [1, 2], [0, -1]), side("b", "y", [1, 2], [0, -1]))
    assert (strangers.agreement, strangers.kappa) == (None, None)
    assert strangers.changes() == [LabelChange("x", "y", 1, 1)]
    same = compare(side("a", "x", [1, 2], [0, 0]), side("b", "x", [1, 2], [0, 0]))
    assert (same.agreement, same.kappa) == (1.0, None)  # chance could not do worse


def test_many_labels_are_counted_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(8)
    names = ",".join(f"label {number}" for number in range(30))
    ids = list(range(5000))
    sides = [
        side(name, names, ids, draws.integers(-1, 30, 5000).tolist(), draws.random(5000).tolist())
        for name in "ab"
    ]
    found = compare(*sides)
    dense = found.table()
    monkeypatch.setattr(label_comparison, "_MOST_CELLS", 0)
    assert found.table() == dense
    assert len(dense) > 900
    assert [change.images for change in dense] == sorted((c.images for c in dense), reverse=True)
    first = dense[0]
    rows = found.disagreements(first.a or "", first.b or "")
    assert len(rows) == first.images
    assert found.ids[rows[0]] == first.example


def test_sides_are_narrowed_and_renumbered() -> None:
    known = side("a", "x,y", [2, 4, 6, 8], [0, 1, -1, 1], [0.1, 0.2, 0, 0.4])
    some = known.of(np.array([4, 5, 8], np.int64))
    assert (some.ids.tolist(), some.codes.tolist()) == ([4, 8], [1, 1])
    moved = known.renumbered(np.array([8, 2, 7], np.int64), np.array([1, 30, 5], np.int64))
    assert (moved.ids.tolist(), moved.codes.tolist()) == ([1, 30], [1, 0])
    np.testing.assert_allclose(moved.certain, [0.4, 0.1])


# -- from the command line -------------------------------------------------------------------


@pytest.fixture
def two_versions(mini_index: Path) -> Path:
    """A set "things" that was saved over, and "others" with other labels."""
    index = open_index(mini_index)
    for name, labels in (
        ("things", ["rocket", "cat", "coin"]),
        ("things", ["Rocket", "cat", "astronaut", "clock"]),
        ("others", ["animal", "machine"]),
    ):
        result = index.classify(labels, none="off")
        save_classification(mini_index, index.state(), name, result, "simple", None)
    return mini_index


def expected(place: Path) -> Comparison:
    index = open_index(place)
    first = index.classify(["rocket", "cat", "coin"], none="off")
    second = index.classify(["Rocket", "cat", "astronaut", "clock"], none="off")
    return compare(labelled_by(first, "things@1"), labelled_by(second, "things@2"))


def test_versions_of_a_set(cli_here: Cli, two_versions: Path) -> None:
    at = ("--index", two_versions)
    truth = expected(two_versions)
    assert 0 < truth.differing < len(truth)
    done = cli_here("compare", "things", "--json", *at)
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    order = truth.disagreements()
    assert [row["id"] for row in rows] == truth.ids[order].tolist()
    for row, place in zip(rows, order.tolist(), strict=True):
        assert row["a"] == truth.label(int(truth.a[place]))
        assert row["b"] == truth.label(int(truth.b[place]))
        assert row["a_probability"] == pytest.approx(float(truth.a_certain[place]), abs=1e-5)
        assert row["b_probability"] == pytest.approx(float(truth.b_certain[place]), abs=1e-5)
        assert Path(row["path"]).is_absolute()
    told = done.stderr.decode()
    assert f"{truth.differing} of {len(truth)} images" in told
    assert truth.agreement is not None
    assert truth.kappa is not None
    assert f"Agreement {truth.agreement:.1%}, Cohen's kappa {truth.kappa:.3f}." in told
    for sets in (("things@1", "things@2"), ("@things@1", "@things"), ("things@2",)):
        assert len(cli_here("compare", *sets, *at).stdout.splitlines()) == truth.differing
    summary = json.loads(cli_here("compare", "things", "--show", "summary", "--json", *at).stdout)
    assert (summary["a"], summary["b"]) == ("things@1", "things@2")
    assert summary["kappa"] == pytest.approx(truth.kappa)
    assert summary["differing"] == truth.differing
    changes = cli_here("compare", "things", "--show", "changes", "--csv", *at).stdout.decode()
    table = list(csv.DictReader(io.StringIO(changes)))
    assert [(row["a"], row["b"], int(row["images"])) for row in table] == [
        (change.a, change.b, change.images) for change in truth.changes()
    ]


def test_plain_lines_and_some_labels(cli_here: Cli, two_versions: Path) -> None:
    at = ("--index", two_versions)
    change = expected(two_versions).changes()[0]
    assert change.a is not None
    assert change.b is not None
    done = cli_here("compare", "things", "--a", change.a, "--b", change.b, *at)
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert [line[1:] for line in lines] == [[change.a, change.b]] * change.images
    done = cli_here("compare", "things", "--a", "", *at)
    assert (done.returncode, done.stdout) == (1, b"")
    done = cli_here("compare", "things", "things", "--csv", *at)
    assert (done.returncode, done.stdout) == (1, b"id,path,a,a_probability,b,b_probability\n")
    assert "Agreement 100.0%" in done.stderr.decode()
    done = cli_here("compare", "things", "others", "--show", "summary", *at)
    assert b"agreement\t\n" in done.stdout
    assert "no label in common" in done.stderr.decode()


def test_an_image_without_a_label(cli_here: Cli, two_versions: Path) -> None:
    index = open_index(two_versions)
    result = index.classify(["Rocket", "cat", "astronaut", "clock"], none="off")
    result.labels[3] = -1
    save_classification(two_versions, index.state(), "things", result, "simple", None)
    done = cli_here("compare", "things", "--json", "--index", two_versions)
    (row,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert row["id"] == result.ids[3]
    assert row["a"] is not None
    assert (row["b"], row["b_probability"]) == (None, None)
    done = cli_here("compare", "things", "--b", "", "--index", two_versions)
    assert done.stdout.endswith(f"\t{row['a']}\t\n".encode())
    done = cli_here("compare", "things", "--show", "changes", "--index", two_versions)
    assert done.stdout == f"{row['a']}\t\t1\t{1 / len(index):.4f}\n".encode()


def test_another_index_of_the_same_photos(
    cli_here: Cli, two_versions: Path, pictures: Path, tmp_path: Path
) -> None:
    """Ids, names and places differ there; contents do not."""
    from indexer import build_index

    files = sorted(pictures.iterdir())
    for number, file in enumerate(reversed(files)):
        file.rename(file.with_name(f"{number:02}-{file.name}"))
    (pictures / f"00-{files[-1].name}").unlink()
    place = tmp_path / "other.index"
    build_index(pictures, place, encoder="mini")
    other = open_index(place)
    result = other.classify(["rocket", "cat", "coin"], none="off")
    save_classification(place, other.state(), "things", result, "simple", None)
    at = ("--index", two_versions)
    done = cli_here("compare", "things@1", "things", "--with", place, "--show", "summary", *at)
    fields = dict(line.split("\t") for line in done.stdout.decode().splitlines())
    assert fields["differing"] == "0"
    assert int(fields["images"]) == len(other) == len(open_index(two_versions)) - 1
    assert (fields["only_a"], fields["only_b"]) == ("1", "0")
    assert fields["b"] == "things of other.index"
    done = cli_here("compare", "things", "--with", place, "--json", *at)
    ids = {json.loads(line)["id"] for line in done.stdout.splitlines()}
    truth = expected(two_versions)
    assert ids <= set(truth.ids[truth.disagreements()].tolist())
    assert len(ids) >= truth.differing - 1


def test_files(cli_here: Cli, two_versions: Path, tmp_path: Path) -> None:
    at = ("--index", two_versions)
    truth = expected(two_versions)
    for name in ("d.csv", "d.json", "d.parquet"):
        done = cli_here("compare", "things", "--out", tmp_path / name, *at)
        assert (done.returncode, done.stdout) == (0, b"")
    ids = truth.ids[truth.disagreements()].tolist()
    assert pq.read_table(tmp_path / "d.parquet").column("id").to_pylist() == ids
    written = (tmp_path / "d.csv").read_text(encoding="utf-8")
    assert [int(row["id"]) for row in csv.DictReader(io.StringIO(written))] == ids
    lines = (tmp_path / "d.json").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids
    page = tmp_path / "review.html"
    done = cli_here("compare", "things", "--out", page, "--title", "<b>Look</b>", *at)
    assert done.returncode == 0
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert "<b>Look</b>" not in text
    assert "&lt;b&gt;Look&lt;/b&gt;" in text
    assert len(re.findall("<figure>", text)) == truth.differing
    assert len(re.findall("data:image/jpeg", text)) == truth.differing
    assert len(re.findall("<section", text)) == len(truth.changes())
    for change in truth.changes():
        assert f'<span dir="auto">{change.a}</span> → <span dir="auto">{change.b}</span>' in text
    page.write_text("mine")
    done = cli_here("compare", "things", "--out", page, *at)
    assert done.returncode == 2
    assert "--force" in done.stderr.decode()
    assert page.read_text() == "mine"
    assert cli_here("compare", "things", "--out", page, "--force", *at).returncode == 0
    assert "</html>" in page.read_text(encoding="utf-8")


def test_two_models(cli_here: Cli, two_versions: Path, tmp_path: Path) -> None:
    """A model that sees other colours says something else of some pictures."""
    import clipsearch

    model = tmp_path / "bright"
    shutil.copytree(Path(clipsearch.__file__).parent / "models" / "mini", model)
    config = json.loads((model / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.6, 0.9]
    (model / "open_clip_config.json").write_text(json.dumps(config))
    at = ("--index", two_versions)
    done = cli_here("compare", "things", "--models", *at)
    assert done.returncode == 2
    assert "vectors of two models, got 1 (mini)" in done.stderr.decode()
    assert cli_here("model", "add", model, *at).returncode == 0
    done = cli_here("compare", "things", "--models", "--json", *at)
    labels = ["Rocket", "cat", "astronaut", "clock"]
    says = [
        open_index(two_versions, space=space).classify(labels, none="off")
        for space in (None, str(model))
    ]
    differ = np.flatnonzero(says[0].labels[:, 0] != says[1].labels[:, 0])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["id"] for row in rows) == says[0].ids[differ].tolist()
    assert done.returncode == 0
    assert 0 < len(differ) < len(says[0])
    done = cli_here("compare", "things", "others", "--models", *at)
    assert "--models goes with one set" in done.stderr.decode()


def test_what_cannot_be_compared(cli_here: Cli, two_versions: Path, tmp_path: Path) -> None:
    at = ("--index", two_versions)
    assert cli_here("tag", "--labels", "cat,coin", "--save-as", "tags", *at).returncode == 0
    for arguments, told in (
        (("nowhere",), "there is no label set 'nowhere'"),
        (("others",), "no version of others before 1"),
        (("things@9",), "version"),
        (("things@1", "things@9"), "no version 9 of things: expected one of 1, 2"),
        (("things", "things@x"), "expected a version such as things@3"),
        (("tags", "things"), "tags is a set of tags"),
        (("things", "others", "tags"), "expected one or two sets"),
        (("things", "--a", "bear"), "has the label 'bear'"),
        (("things", "--with", tmp_path / "none.index"), "none.index"),
        (("things", "--out", tmp_path / "x.docx"), "expected a file name ending in"),
        (("things", "--out", tmp_path / "no" / "x.html"), "no folder"),
        (("things", "--title", "x"), "--title and --force go with"),
        (("\x1b[2J\udcff",), "there is no label set"),
    ):
        done = cli_here("compare", *arguments, *at)
        assert (done.returncode, done.stdout) == (2, b""), arguments
        error = done.stderr.decode()
        assert told in error
        assert "Traceback" not in error
        assert "\x1b" not in error


def test_a_set_of_discover_is_certain_by_rank(mini_index: Path) -> None:
    index = open_index(mini_index)
    result = index.classify(["rocket", "cat", "coin"], none="off")
    save_classification(mini_index, index.state(), "things", result, "simple", None)
    found, rows = read_label_rows(mini_index, "things")
    as_saved = labelled(found, rows)
    np.testing.assert_array_equal(as_saved.certain, rows.second)
    of_discover = labelled(dataclasses.replace(found, kind="discover"), rows)
    count = len(rows.ids)
    assert sorted(of_discover.certain.tolist()) == pytest.approx(np.arange(1, count + 1) / count)
    assert (np.argsort(of_discover.certain) == np.argsort(rows.second)).all()


def test_what_a_model_says_with_a_set(cli_here: Cli, mini_index: Path, tmp_path: Path) -> None:
    """The model that a set was saved with says the same again: by its labels, by what is said of
    them, by its examples, and of which images have none of them."""
    at = ("--index", mini_index)
    words = tmp_path / "words.toml"
    words.write_text('[labels.animal]\nsynonyms = ["cat", "cheetah"]\n[labels.rocket]\n')
    for arguments in (
        ("--labels", "rocket,cat,coin", "--save-as", "plain"),
        ("--labels", "rocket,cat,coin", "--none", "0.6", "--save-as", "some"),
        ("--labels-file", words, "--none", "off", "--save-as", "defined"),
        ("--labels", "rocket,cat,coin", "--none", "off", "--save-as", "taught"),
    ):
        assert cli_here("classify", *arguments, *at).returncode == 0
    index = open_index(mini_index)
    first = int(index.state().vectors.ids[0])
    assert cli_here("teach", "taught", f"{first}=coin", *at).returncode == 0
    index = open_index(mini_index)
    for name in ("plain", "some", "defined", "taught"):
        saved = saved_side(index, name)
        again = side_of_model(index, read_label_set(mini_index, name))
        found = compare(saved, again)
        assert (found.differing, len(found)) == (0, len(index)), name
        assert found.names == (name, "mini")
        np.testing.assert_allclose(found.a_certain, found.b_certain, atol=1e-5)
    assert saved_side(index, "taught").codes[0] == 2
    assert (saved_side(index, "some").codes == NONE).any()
