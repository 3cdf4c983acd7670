"""Evaluation: figures against plain open_clip and scikit-learn, sources of labels, the command."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipsearch import open_index
from clipsearch.class_folders import labels_of_folders
from clipsearch.errors import LabelError, OptionError
from clipsearch.evaluation import Confusion, Evaluation, evaluate
from clipsearch.labelled_images import (
    LabelledFile,
    LabelledImages,
    in_classes,
    labelled_by_folder,
    labelled_images,
)
from clipsearch.labelled_table import read_class_names, read_labelled_table
from clipsearch.manifest import read_manifest
from clipsearch.prompt_choices import (
    evaluate_choices,
    prompt_choices,
    prompt_labels,
    with_descriptions,
)
from clipsearch.scoring import LabelScorer
from clipsearch.store import LocalStore
from indexer import build_index
from indexer.demo import demo_pictures
from indexer.evaluation_index import kept_place
from indexer.move import move
from tests.conftest import Cli

MINI = Path(__file__).resolve().parents[1] / "clipsearch" / "models" / "mini"
OF_PICTURE = {
    "cheetah1.jpg": "wild_cat",
    "lion.jpg": "wild_cat",
    "tower.jpg": "tall tower",
    "groot.jpeg": "tree",
    "logo.png": "logo",
    "hf-logo_transpng.png": "logo",
}
CLASSES = ["logo", "tall tower", "tree", "wild cat"]


def samples_of(truth: list[int], classes: str = "abc", ids: list[int] | None = None) -> Any:
    rows = range(len(truth))
    return LabelledImages(
        tuple(classes),
        tuple(Path(f"/photos/{row}.jpg") for row in rows),
        np.array(ids or list(rows), np.int64),
        np.array(truth, np.int32),
    )


def evaluation(truth: list[int], ranked: list[list[int]], sure: list[float]) -> Evaluation:
    probabilities = np.zeros((len(truth), len(ranked[0])), np.float32)
    probabilities[:, 0] = sure
    return Evaluation("p", "m", samples_of(truth), np.array(ranked, np.int32), probabilities)


# -- figures -----------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    one = evaluation(
        [0, 0, 0, 1, 1],
        [[0, 1], [1, 0], [2, 1], [1, 0], [0, 2]],
        [0.9, 0.8, 0.6, 0.7, 0.95],
    )
    assert one.accuracy == pytest.approx(2 / 5)
    assert one.top5 == pytest.approx(3 / 5)
    assert one.truth_ranks.tolist() == [1, 2, 0, 1, 0]
    assert one.per_class[:2].tolist() == pytest.approx([1 / 3, 1 / 2])
    assert np.isnan(one.per_class[2])  # no file is of it
    assert one.mean_per_class == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert one.confusion.tolist() == [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    assert one.mistakes().tolist() == [4, 1, 2]
    assert one.mistakes(1).tolist() == [4]
    assert one.worst_classes().tolist() == [0, 1]
    assert one.confusions(2) == [Confusion("a", "b", 1, 1 / 3), Confusion("a", "c", 1, 1 / 3)]
    # Five bins hold one each: |0.9 - 1|, |0.8 - 0|, |0.6 - 0|, |0.7 - 1|, |0.95 - 0|, in bins
    # 14 (0.93 up holds 0.95), 13 (0.9), 11 (0.8), 10 (0.7), 8 (0.6).
    assert one.reliability.error == pytest.approx((0.1 + 0.8 + 0.6 + 0.3 + 0.95) / 5)
    document = one.to_dict()
    assert document["classes"][2] == {"label": "c", "files": 0, "accuracy": None}
    assert json.loads(json.dumps(document, allow_nan=False))["confusion"] == one.confusion.tolist()


def test_figures_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import (
        balanced_accuracy_score,
        confusion_matrix,
        top_k_accuracy_score,
    )

    rng = np.random.default_rng(8)
    count, classes = 400, 9
    truth = rng.choice(classes, count, p=np.arange(1, classes + 1) / 45).astype(np.int32)
    scores = rng.normal(size=(count, classes))
    scores[np.arange(count), truth] += 1
    ranked = np.argsort(-scores, axis=1)[:, :5].astype(np.int32)
    one = Evaluation(
        "",
        "",
        samples_of(truth.tolist(), "abcdefghi"),
        ranked,
        np.full((count, 5), 0.5, np.float32),
    )
    given = ranked[:, 0]
    assert one.accuracy == pytest.approx((given == truth).mean())
    assert one.mean_per_class == pytest.approx(balanced_accuracy_score(truth, given))
    assert one.top5 == pytest.approx(top_k_accuracy_score(truth, scores, k=5))
    assert one.confusion.tolist() == confusion_matrix(truth, given).tolist()
    counts = {(c.truth, c.given): c.count for c in one.confusions()}
    names = one.samples.classes
    whole = one.confusion
    assert counts == {
        (names[a], names[b]): whole[a, b]
        for a in range(classes)
        for b in range(classes)
        if a != b and whole[a, b]
    }


# -- classes -----------------------------------------------------------------------------


def test_labels_of_folders() -> None:
    labels, words = labels_of_folders({"n02", "car_side", "n01"}, {"n01": " a  tench"})
    assert list(labels.items()) == [("car_side", "car side"), ("n01", "a tench"), ("n02", "n02")]
    assert words == {}
    with pytest.raises(LabelError, match="'Car_side' and 'car side' are the same class"):
        labels_of_folders(["car side", "Car_side", "cat"])
    with pytest.raises(LabelError, match="'a' and 'b' are the same class"):
        labels_of_folders(["a", "b"], {"a": "B"})
    with pytest.raises(LabelError, match="'__' names no class"):
        labels_of_folders(["__", "b"])
    # ImageNet calls two classes "missile": both stay, and are asked for by that word.
    labels, words = labels_of_folders(["n1", "n2", "n3"], {"n1": "missile", "n2": "missile"})
    assert list(labels.values()) == ["missile (n1)", "missile (n2)", "n3"]
    assert words == {"missile (n1)": "missile", "missile (n2)": "missile"}
    samples = LabelledImages(
        tuple(labels.values()), (), np.empty(0, np.int64), np.empty(0, np.int32), words=words
    )
    asked = prompt_labels(samples)
    assert [wording.names for wording in asked.wordings()] == [("missile",), ("missile",), ("n3",)]  # type: ignore[attr-defined]


def test_labelled_images_and_their_classes() -> None:
    files = [
        LabelledFile(Path("/p/b/2.jpg"), 2, "b"),
        LabelledFile(Path("/p/a/1.jpg"), 1, "a"),
        LabelledFile(Path("/p/a/1.jpg"), 1, "A"),
        LabelledFile(Path("/p/b/1 again.jpg"), 1, "b"),
    ]
    found = labelled_images(files)
    assert found.classes == ("a", "b")
    assert [path.name for path in found.paths] == ["1.jpg", "1 again.jpg", "2.jpg"]
    assert (found.ids.tolist(), found.truth.tolist()) == ([1, 1, 2], [0, 1, 1])
    assert found.notes[0] == "1 row names a file again, and counts once"
    assert found.notes[1] == (
        "1 photo is in more than one class, which no label gets right: such as 1.jpg in a and "
        "1 again.jpg in b"
    )
    more = in_classes(found, ["B", "z", "A"])
    assert (more.classes, more.truth.tolist()) == (("B", "z", "A"), [2, 0, 0])
    assert more.counts.tolist() == [2, 0, 1]
    assert more.notes[-1] == (
        "1 class has no image: it is among the labels and not in the mean per class: z"
    )
    with pytest.raises(LabelError, match="the labels lack b, which images are known to show"):
        in_classes(found, ["a", "z"])
    with pytest.raises(LabelError, match="expected two classes or more, got one, 'a'"):
        in_classes(labelled_images(files[1:2]), ["a"])


def test_tables(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text('\ufeffFile;Category\na/1.jpg;"red  fox"\n\nb.jpg;\n../c.jpg;dog\n')
    found = read_labelled_table(table)
    assert found.paths == (tmp_path / "a/1.jpg", tmp_path.parent / "c.jpg")
    assert (found.labels, found.unlabelled) == (("red fox", "dog"), 1)
    table.write_bytes(b"label\timage\ncat\tb\xff.jpg\n")
    assert read_labelled_table(table).paths[0].name == "b\udcff.jpg"
    for text, message in (
        ("", "is empty"),
        ("path,label\n", "has no row with a label"),
        ("name,label\na,b\n", "has no column path or image or file: .* which has name, label"),
        ("path,kind\na,b\n", "has no column label or class or category"),
        ("path,label\n,cat\n", "row 2: expected the path of an image, got ''"),
        ('path,label\n"a', "has no row with a label"),
        ("path,label\na\0b,cat\n", "row 2: expected the path"),
    ):
        table.write_text(text)
        with pytest.raises(LabelError, match=message):
            read_labelled_table(table)
    table.write_text("path,label\na.jpg,cat\n", encoding="utf-16")
    with pytest.raises(LabelError, match="no UTF-8"):
        read_labelled_table(table)


def test_names_of_classes(tmp_path: Path) -> None:
    place = tmp_path / "names.csv"
    place.write_text("folder,name\nn01,tench\nn02, gold  fish\n")
    expected = {"n01": "tench", "n02": "gold fish"}
    assert read_class_names(place) == expected
    place.write_text("n01,tench\nn02,gold fish\n")
    assert read_class_names(place) == expected
    place.write_text("n01,tench\nn01,fish\n")
    with pytest.raises(LabelError, match="'n01' is there twice"):
        read_class_names(place)
    place.write_text("n01\n")
    with pytest.raises(LabelError, match="row 1: expected folder and name"):
        read_class_names(place)
    place = tmp_path / "names.json"
    place.write_text(json.dumps(expected))
    assert read_class_names(place) == expected
    place = tmp_path / "names.toml"
    place.write_text('[labels.n01]\nwords = "tench"\n[labels.n02]\nsynonyms = ["x"]\n')
    assert read_class_names(place) == {"n01": "tench"}
    place.write_text("[labels.n01]\n")
    with pytest.raises(LabelError, match="names no class"):
        read_class_names(place)


def test_choices_of_prompts(tmp_path: Path) -> None:
    labels = ("cat", "dog")
    assert [choice.name for choice in prompt_choices(labels, ["all", "simple"])] == [
        "simple (7 templates)",
        "name alone",
        'one template, "a photo of a {}."',
        "openai (80 templates)",
    ]
    mine = tmp_path / "mine.txt"
    mine.write_text("a {}.\nthe {}.\n")
    described = with_descriptions(
        samples_of([0], "ab"), read_definitions(tmp_path, '[labels.B]\ndescriptions = ["a b."]')
    )
    found = prompt_choices(labels, [str(mine), "an old {}"], "a type of pet", described)
    assert [(one.name, one.templates, one.context) for one in found] == [
        ("mine.txt (2 templates)", ("a {}.", "the {}."), None),
        ('mine.txt (2 templates), "a type of pet"', ("a {}.", "the {}."), "a type of pet"),
        ("mine.txt (2 templates), described", ("a {}.", "the {}."), None),
        ('"an old {}"', ("an old {}",), None),
        ('"an old {}", "a type of pet"', ("an old {}",), "a type of pet"),
        ('"an old {}", described', ("an old {}",), None),
    ]
    assert found[2].labels is described
    assert [wording.descriptions for wording in described.wordings()] == [(), ("a b.",)]
    with pytest.raises(LabelError, match=r"expected prompts as all, simple, .* got 'simpel'"):
        prompt_choices(labels, ["simpel"])
    with pytest.raises(LabelError, match="describes none of the classes"):
        with_descriptions(samples_of([0], "xy"), described, "x.toml")


def read_definitions(folder: Path, text: str) -> Any:
    from clipsearch.definition_files import read_labels

    (folder / "said.toml").write_text(text)
    return read_labels(folder / "said.toml")


# -- on real pictures --------------------------------------------------------------------


@pytest.fixture(scope="module")
def class_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class of real pictures and parts of them: 24 files."""
    top = tmp_path_factory.mktemp("photos") / "by class"
    for path in demo_pictures():
        if path.name not in OF_PICTURE:
            continue
        folder = top / OF_PICTURE[path.name] / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            whole = image.convert("RGB")
        width, height = whole.size
        parts = [(0, 0, 1, 1), (0, 0, 0.7, 0.8), (0.3, 0.2, 1, 1), (0.2, 0, 0.9, 0.6)]
        for number, (left, up, right, down) in enumerate(parts):
            box = (int(left * width), int(up * height), int(right * width), int(down * height))
            whole.crop(box).resize((160, 120)).save(folder / f"{path.stem}-{number}.png")
    return top


@pytest.fixture(scope="module")
def kept(class_photos: Path, _own_home: None) -> Path:
    """The index that the command keeps of them, made once."""
    from indexer.evaluate_source import evaluate_source
    from indexer.evaluation_source import EvaluationSettings

    done = evaluate_source(EvaluationSettings(str(class_photos), models=("mini",)))
    assert done.found.report is not None
    assert done.found.report.new == 24
    assert done.found.place == kept_place(class_photos)
    return done.found.place


@pytest.fixture
def photos(class_photos: Path, kept: Path, tmp_path: Path) -> Path:
    """A folder of the test's own, of which everything is encoded already."""
    mine = Path(shutil.copytree(class_photos, tmp_path / "mine"))
    index = kept_place(mine)
    if not index.exists():
        shutil.copytree(kept, index)
        move(index, class_photos, mine, force=True)
    return mine


def test_equals_open_clip(class_photos: Path, kept: Path) -> None:
    """The same labels and figures as open_clip gives without anything of ours."""
    import open_clip
    import torch
    from sklearn.metrics import balanced_accuracy_score

    name = f"local-dir:{MINI}"
    net, _, preprocess = open_clip.create_model_and_transforms(name)
    net.eval()
    tokenizer = open_clip.get_tokenizer(name)
    files = sorted(class_photos.rglob("*.png"))
    truth = np.array([CLASSES.index(p.parts[-3].replace("_", " ")) for p in files])
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.open(path)) for path in files])
        images = net.encode_image(pixels, normalize=True)
    index = open_index(kept)
    samples = labelled_by_folder(index.state(), class_photos)
    assert (list(samples.classes), samples.notes) == (CLASSES, ())
    assert list(samples.paths) == files
    assert samples.truth.tolist() == truth.tolist()
    for choice in prompt_choices(samples.classes, ["name", "one", "simple"]):
        with torch.no_grad():
            weights = open_clip.build_zero_shot_classifier(
                net, tokenizer, CLASSES, choice.templates
            )
            logits = net.logit_scale.exp() * images @ weights
        one = evaluate_choices(index, samples, [choice], "mini")[0]
        top = logits.topk(4).indices.numpy()
        assert one.ranked.tolist() == top.tolist()
        assert one.probabilities == pytest.approx(
            logits.softmax(1).topk(4).values.numpy(), abs=2e-3
        )
        assert one.accuracy == (top[:, 0] == truth).mean()
        assert one.mean_per_class == pytest.approx(balanced_accuracy_score(truth, top[:, 0]))
    assert 0.5 < one.accuracy <= 1  # mini knows such things when it sees them


def test_the_command(class_photos: Path, kept: Path, cli_here: Cli, tmp_path: Path) -> None:
    before = sorted(class_photos.rglob("*"))
    out = tmp_path / "every.csv"
    told = cli_here(
        "evaluate", class_photos, "--model", "mini", "--prompts", "name", "--prompts", "one",
        "--json", "--out", out,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert b"images to index" not in told.stderr  # another process has encoded them
    assert b"mini was trained on photos of Tiny-ImageNet" in told.stderr
    found = json.loads(told.stdout)
    assert found["images_per_second"] == {"mini": None}
    assert [one["name"] for one in found["evaluations"]] == [
        "name alone",
        'one template, "a photo of a {}."',
    ]
    first = found["evaluations"][0]
    assert first["files"] == 24
    assert [(c["label"], c["files"]) for c in first["classes"]] == [
        ("logo", 8), ("tall tower", 4), ("tree", 4), ("wild cat", 8),
    ]  # fmt: skip
    confusion = np.array(first["confusion"])
    assert first["accuracy"] == np.trace(confusion) / 24
    assert first["mean_per_class"] == pytest.approx((np.diag(confusion) / [8, 4, 4, 8]).mean())
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48
    named = [row for row in rows if row["prompts"] == "name alone"]
    assert np.mean([row["truth"] == row["label"] for row in named]) == first["accuracy"]
    assert all((row["truth"] == row["label"]) == (row["truth_rank"] == "1") for row in rows)
    assert {Path(row["path"]).parts[-3].replace("_", " ") for row in named} == set(CLASSES)
    # From an index, of which nobody has told it anything, and once more: the same.
    again = cli_here("evaluate", "--index", kept, "--prompts", "name", "--json")
    other = json.loads(again.stdout)["evaluations"][0]
    for key in ("accuracy", "top5", "mean_per_class", "calibration_error", "confusion", "classes"):
        assert other[key] == first[key]
    lines = cli_here("evaluate", kept, "--prompts", "name").stdout.decode().splitlines()
    assert lines == [
        "\t".join(["mini", "name alone", *(f"{first[key]:.4f}" for key in (
            "accuracy", "top5", "mean_per_class", "calibration_error"
        ))])
    ]  # fmt: skip
    assert sorted(class_photos.rglob("*")) == before  # nothing is written where the photos are


def test_copies_count_as_files_and_what_is_gone_does_not(photos: Path, cli_here: Cli) -> None:
    cat = sorted((photos / "wild_cat" / "deep").iterdir())[0]
    shutil.copy(cat, photos / "wild_cat" / "again.png")
    shutil.copy(cat, photos / "tree" / "no tree.png")
    (photos / "logo" / "broken.png").write_bytes(b"\x89PNG no")
    (photos / "stray.png").write_bytes(cat.read_bytes())
    (photos / "nothing").mkdir()
    gone = sorted((photos / "logo" / "deep").iterdir())[0]
    gone.unlink()
    told = cli_here("evaluate", photos, "--model", "mini", "--json")
    assert told.returncode == 3, told.stderr
    found = json.loads(told.stdout)
    first = found["evaluations"][0]
    assert [(c["label"], c["files"]) for c in first["classes"]] == [
        ("logo", 7), ("nothing", 0), ("tall tower", 4), ("tree", 5), ("wild cat", 9),
    ]  # fmt: skip
    assert first["classes"][1]["accuracy"] is None
    notes = "\n".join(found["notes"])
    assert "1 image could not be read and is left out (unsupported 1), such as" in notes
    assert "1 file is in no class folder and left out, such as stray.png" in notes
    assert "1 class has no image" in notes
    assert "1 photo is in more than one class" in notes
    with_class = [c["accuracy"] for c in first["classes"] if c["files"]]
    assert first["mean_per_class"] == pytest.approx(np.mean(with_class))


def test_a_table(photos: Path, tmp_path: Path, cli_here: Cli) -> None:
    table = tmp_path / "labels.csv"
    files = sorted(photos.rglob("*.png"))
    kinds = [path.parts[-3].replace("_", " ") for path in files]
    lines = [
        f"{path.relative_to(tmp_path)},{kind}" for path, kind in zip(files, kinds, strict=True)
    ]
    table.write_text("\n".join(["image,class", *lines, "gone/a.png,tree", "x.png,"]) + "\n")
    told = cli_here("evaluate", table, "--index", kept_place(photos), "--json")
    assert told.returncode == 3, told.stderr
    found = json.loads(told.stdout)
    assert "1 row has no label and is left out" in found["notes"]
    assert any(
        note.startswith("1 image of the table is not in the index") and "gone/a.png" in note
        for note in found["notes"]
    )
    of_folder = json.loads(cli_here("evaluate", photos, "--model", "mini", "--json").stdout)
    same = ("accuracy", "top5", "mean_per_class", "confusion")
    assert [found["evaluations"][0][key] for key in same] == [
        of_folder["evaluations"][0][key] for key in same
    ]
    # Encoded by itself, a few of them.
    table.write_text("\n".join(["image,class", *lines[::6], "gone/a.png,tree"]))
    told = cli_here("evaluate", table, "--model", "mini", "--out", tmp_path / "x.parquet")
    assert told.returncode == 3, told.stderr
    assert b"1 image of the table is not there, such as" in told.stderr
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["path"] for row in rows] == [str(path) for path in files[::6]]
    assert [row["truth"] for row in rows] == kinds[::6]
    table.write_text("image,class\ngone/a.png,tree\ngone/b.png,cat\n")
    told = cli_here("evaluate", table, "--model", "mini")
    assert told.returncode == 2
    assert b"none of the 2 images of labels.csv is there" in told.stderr


def test_what_cannot_be_evaluated(tmp_path: Path, cli_here: Cli) -> None:
    def error(*arguments: str | Path) -> str:
        told = cli_here("evaluate", *arguments, "--model", "mini")
        assert told.returncode == 2
        assert told.stdout == b""
        text = told.stderr.decode()
        assert text.startswith("Error: ")
        assert text.count("\n") == 1
        return text

    assert "name a folder" in error()
    assert "no such folder" in error(tmp_path / "nowhere")
    flat = tmp_path / "flat"
    flat.mkdir()
    picture = demo_pictures()[0]
    shutil.copy(picture, flat)
    assert "has no folder for a class in it" in error(flat)
    assert "expected a folder with a folder for each class" in error(flat / picture.name)
    (flat / "cat").mkdir()
    shutil.copy(picture, flat / "cat")
    assert "has one class, 'cat': expected two or more" in error(flat)
    (flat / "Cat_").mkdir()
    assert "'Cat_' and 'cat' are the same class" in error(flat)
    (flat / "Cat_").rename(flat / "dog")
    assert "expected prompts as all" in error(flat, "--prompts", "simpel")
    assert "no column label" in error(_written(tmp_path / "x.csv", "path,kind\na,b"))
    assert "which has a b" in error(_written(tmp_path / "x.csv", '"a\nb"\nc'))
    alone = _written(tmp_path / "y.csv", f"path,label\nflat/cat/{picture.name},cat\n")
    assert "y.csv has one class, 'cat': expected two or more" in error(alone)  # nothing is encoded
    assert "lack cat" in error(flat, "--labels-file", _written(tmp_path / "l.txt", "dog\nbird\n"))
    assert "--fresh" in error(flat, "--index", tmp_path, "--fresh")
    assert "no index at" in error("--index", tmp_path)
    assert "--out" in error(flat, "--out", tmp_path / "x.doc")
    assert "describes none of the classes" in error(
        flat, "--descriptions", _written(tmp_path / "d.toml", '[labels.fish]\nsynonyms=["a"]')
    )
    (flat / "cat" / picture.name).unlink()
    assert "no folder for a class in" in error(flat)


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_other_labels_and_names(photos: Path, tmp_path: Path, cli_here: Cli) -> None:
    names = _written(tmp_path / "names.csv", "logo,drawing\nwild_cat,lion\n")
    labels = _written(tmp_path / "labels.txt", "lion\ntall tower\nsnow\ndrawing\ntree\n")
    told = cli_here(
        "evaluate", photos, "--model", "mini", "--names", names, "--labels-file", labels, "--json"
    )
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    one = found["evaluations"][0]
    assert [c["label"] for c in one["classes"]] == ["lion", "tall tower", "snow", "drawing", "tree"]
    assert any("it is among the labels and not in the mean per class: snow" in note
               for note in found["notes"])  # fmt: skip
    # The words of definitions are what the model reads, their names what is told.
    said = _written(
        tmp_path / "said.toml",
        '[labels.logo]\nwords = "drawing"\n[labels."tall tower"]\n[labels.tree]\n'
        '[labels."wild cat"]\nwords = "lion"\nparent = "animal"\n',
    )
    told = cli_here("evaluate", photos, "--model", "mini", "--labels-file", said, "--json")
    classes = json.loads(told.stdout)["evaluations"][0]["classes"]
    assert [c["label"] for c in classes] == ["logo", "tall tower", "tree", "wild cat", "animal"]
    told = cli_here(
        "evaluate", photos, "--model", "mini", "--descriptions", said, "--context", "a photo"
    )
    assert [line.split("\t")[1] for line in told.stdout.decode().splitlines()] == [
        "simple (7 templates)",
        'simple (7 templates), "a photo"',
        "simple (7 templates), described",
    ]


def test_images_without_a_vector_are_no_labels(class_photos: Path, kept: Path) -> None:
    index = open_index(kept)
    samples = labelled_by_folder(index.state(), class_photos)
    classes, _ = index.class_vectors(samples.classes)
    scorer = LabelScorer(classes, index.space.logit_scale, 4)
    lost = samples.rows(np.arange(3))
    lost = LabelledImages(lost.classes, lost.paths, lost.ids + 10**6, lost.truth)
    with pytest.raises(OptionError, match="3 of 3 images have no vector of mini"):
        evaluate(index.state(), lost, scorer, "", "mini")


def changed_mini(folder: Path, name: str) -> Path:
    """A copy of mini with its vectors' numbers in another order: the same answers, and another
    space."""
    from safetensors.torch import load_file, save_file

    if not folder.exists():
        shutil.copytree(MINI, folder)
    weights = load_file(MINI / "open_clip_model.safetensors")
    turns = {
        "reversed": lambda part, axis: part.flip(axis),
        "rolled": lambda part, axis: part.roll(7, axis),
    }
    for key, axis in (("text_projection", 1), ("visual.head.proj.weight", 0)):
        weights[key] = turns[name](weights[key], axis).contiguous()
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def test_several_models(photos: Path, tmp_path: Path, cli_here: Cli) -> None:
    """A second model comes into the same index; trained on in its folder, it is another one."""
    other = changed_mini(tmp_path / "other", "reversed")
    both = ("--model", "mini", "--model", other)
    told = cli_here("evaluate", photos, *both, "--fuse", "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert [one["model"] for one in found["evaluations"]] == [
        "mini", "other", "mini + other, equal weights", "mini + other, fitted weights",
    ]  # fmt: skip
    mini, same, equal, _ = found["evaluations"]
    assert mini["confusion"] == same["confusion"] == equal["confusion"]
    assert found["fusion"].startswith("Together the models do not clearly beat mini")
    assert found["images_per_second"]["mini"] is None
    assert found["images_per_second"]["other"] > 0
    again = json.loads(cli_here("evaluate", photos, *both, "--json").stdout)
    assert again["images_per_second"] == {"mini": None, "other": None}
    assert again["evaluations"] == [
        {**one, "label_seconds": now["label_seconds"]}
        for one, now in zip((mini, same), again["evaluations"], strict=True)
    ]
    index = kept_place(photos)
    assert len(read_manifest(LocalStore(index), "").spaces) == 2
    together = json.loads(cli_here("evaluate", index, "--fuse", "--json").stdout)
    assert [one["accuracy"] for one in together["evaluations"]] == [
        one["accuracy"] for one in found["evaluations"]
    ]
    changed_mini(other, "rolled")
    found = json.loads(cli_here("evaluate", photos, "--model", other, "--json").stdout)
    assert found["images_per_second"]["other"] > 0
    assert found["evaluations"][0]["confusion"] == mini["confusion"]
    told = cli_here("evaluate", photos, "--model", "mini", "--fuse")
    assert told.returncode == 2
    assert b"expected two models or more to fuse, got one" in told.stderr


@pytest.mark.slow
def test_a_model_that_has_gone(photos: Path, tmp_path: Path, cli_here: Cli) -> None:
    """What is kept is made anew where the model that it was begun with is not there any more."""
    shutil.rmtree(kept_place(photos))
    model = changed_mini(tmp_path / "other", "reversed")
    assert cli_here("evaluate", photos, "--model", model).returncode == 0
    shutil.rmtree(model)
    told = cli_here("evaluate", photos, "--model", "mini", "--json")  # it has its vectors, too
    first = json.loads(told.stdout)
    assert first["images_per_second"]["mini"] > 0
    (photos / "tree" / "deep" / "groot-1.png").rename(photos / "tree" / "moved.png")
    shutil.copy(demo_pictures()[0], photos / "logo" / "new.png")
    told = cli_here("evaluate", photos, "--model", "mini", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["evaluations"][0]["files"] == 25
    assert len(read_manifest(LocalStore(kept_place(photos)), "").spaces) == 1


def test_captions(photos: Path, mini_index: Path, tmp_path: Path, cli_here: Cli) -> None:
    lines = ["image,caption", "groot-0.png,a tree", "groot-1.png,a small tree", "x.png,a cat"]
    table = _written(tmp_path / "captions.csv", "\n".join(lines))
    # Without a class beside it, and with them; one image is not there.
    told = cli_here("evaluate", photos, "--model", "mini", "--captions", table, "--json")
    assert told.returncode == 3, told.stderr
    found = json.loads(told.stdout)
    assert [one["files"] for one in found["evaluations"]] == [24]
    assert (found["retrievals"][0]["images"], found["retrievals"][0]["captions"]) == (2, 2)
    assert any("1 of the 3 images of captions.csv is not in the index" in n for n in found["notes"])
    recalls = found["retrievals"][0]["text_to_image"]
    assert recalls["1"] in (0, 0.5, 1)
    assert (recalls["5"], recalls["10"]) == (1, 1)  # there are but two
    # And where there are no classes.
    table.write_text("image,caption\nlion.jpg,a lion\ntower.jpg,a tower\nx.png,a cat\n")
    told = cli_here("evaluate", mini_index, "--captions", table, "--json")
    assert told.returncode == 3, told.stderr
    found = json.loads(told.stdout)
    assert found["evaluations"] == []
    told = cli_here("evaluate", "--index", mini_index, "--captions", table)
    line = told.stdout.decode().rstrip("\n").split("\t")
    assert line[:2] == ["mini", "captions"]
    recalls = [*found["retrievals"][0]["text_to_image"].values(),
               *found["retrievals"][0]["image_to_text"].values()]  # fmt: skip
    assert line[2:] == [f"{recall:.4f}" for recall in recalls]
    table.write_text("image,caption\nx.png,a cat\n")
    told = cli_here("evaluate", photos, "--model", "mini", "--captions", table)
    assert told.returncode == 2
    assert b"none of the 1 images of" in told.stderr
    told = cli_here("evaluate", table, "--model", "mini")
    assert b"captions go with --captions" in told.stderr


def test_a_report(photos: Path, tmp_path: Path, cli_here: Cli) -> None:
    page = tmp_path / "report.html"
    told = cli_here("evaluate", photos, "--model", "mini", "--report", page)
    assert told.returncode == 0, told.stderr
    first = page.read_text()
    accuracy = float(told.stdout.split(b"\t")[2])
    assert f"{accuracy:.1%}".replace("%", "") in first
    assert "tall tower" in first
    assert cli_here("evaluate", photos, "--model", "mini", "--report", page).returncode == 0
    page.write_text("mine")
    told = cli_here("evaluate", photos, "--model", "mini", "--report", page)
    assert (told.returncode, page.read_text()) == (2, "mine")
    assert told.stdout.startswith(b"mini\t")  # the figures are told all the same
    told = cli_here("evaluate", photos, "--model", "mini", "--report", page, "--force")
    assert told.returncode == 0
    assert "tall tower" in page.read_text()
    for name, message in (("x.txt", b"ending in .html"), ("no/x.html", b"there is no folder")):
        told = cli_here("evaluate", photos, "--report", tmp_path / name, "--model", "mini")
        assert told.returncode == 2
        assert message in told.stderr


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_is_encoded(
    photos: Path, cli_here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from indexer.progress import TerminalProgress
    from indexer.report import Committed

    def stop(self: TerminalProgress, event: object) -> None:
        if isinstance(event, Committed):
            raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        patch.setattr(TerminalProgress, "hear", stop)
        told = cli_here("evaluate", photos, "--model", "mini", "--fresh")
    for number, handler in handlers.items():  # which the end of a run takes away
        signal.signal(number, handler)
    assert told.returncode == 130
    assert told.stdout == b""
    assert b"the same command goes on from there" in told.stderr
    told = cli_here("evaluate", photos, "--model", "mini", "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert (found["evaluations"][0]["files"], found["images_per_second"]) == (24, {"mini": None})


@pytest.mark.slow
def test_caltech(caltech: Path, photo1k: str, tmp_path: Path, cli_here: Cli) -> None:
    """Two models, one of them a folder; and from an index of one's own."""
    told = cli_here("evaluate", caltech / "test", "--model", "mini", "--model", photo1k, "--json")
    first, second = json.loads(told.stdout)["evaluations"]
    assert (first["model"], second["model"]) == ("mini", "photo1k")
    assert first["files"] == second["files"] == 476
    assert first["accuracy"] == pytest.approx(0.744, abs=0.01)
    assert second["accuracy"] == pytest.approx(0.989, abs=0.01)
    build_index(caltech, tmp_path / "x.index", encoder="mini")
    told = cli_here("evaluate", caltech / "test", "--index", tmp_path / "x.index", "--json")
    other = json.loads(told.stdout)["evaluations"][0]
    assert (other["accuracy"], other["confusion"]) == (first["accuracy"], first["confusion"])
