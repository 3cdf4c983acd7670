"""Images against labels without an index: the numbers are open_clip's, and nothing is lost."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import clipsearch
from clipsearch import ImageLabels, label_images, load_encoder, open_index
from clipsearch.cli import image_labels as command
from clipsearch.cli import model_choice
from clipsearch.errors import ClipsearchError, LabelError, OptionError, UnknownModelError
from clipsearch.image_files import image_files, natural_key
from clipsearch.image_labels import texts_of
from clipsearch.label_definitions import LabelDefinition, LabelDefinitions
from clipsearch.label_tree import TreeScorer
from clipsearch.prompts import class_vectors
from indexer.decode import close_workers
from tests.conftest import Cli

LABELS = ("lion", "tower", "a drawing of a face", "groceries")
AT = ("--labels", ",".join(LABELS), "--model", "mini")
MINI = Path(clipsearch.__file__).parent / "models" / "mini"
posix_only = pytest.mark.skipif(os.name == "nt", reason="names of any bytes, links")


@pytest.fixture(autouse=True)
def _nothing_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No index is near, nor in the user's folder, and no weights are on the machine."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    monkeypatch.setattr("clipsearch.model_names.weights_here", lambda model: None)
    monkeypatch.setattr("clipsearch.cli.places.nearest_index", lambda start: None)
    monkeypatch.setattr(model_choice, "nearest_index", lambda start: None)


@pytest.fixture(scope="module")
def _small(_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    for number, file in enumerate(files_of(_pictures)):
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((160 + 3 * number, 160))
        picture.save(folder / f"{file.stem}.png", compress_level=1)
    return folder


@pytest.fixture
def pictures(_small: Path, tmp_path: Path) -> Path:
    """About ten real pictures, small ones: it is not decoding that is looked at here."""
    return Path(shutil.copytree(_small, tmp_path / "pictures"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir())


@pytest.fixture(scope="module")
def by_open_clip() -> Callable[[list[Path], Sequence[str], Sequence[str]], np.ndarray]:
    """(n, C) probabilities of files, labels and templates: of nothing but open_clip and torch."""
    net, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{MINI}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MINI}")
    net.eval()

    def compute(files: list[Path], labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        calls = [lambda label, text=text: text.replace("{}", label) for text in templates]
        classifier = open_clip.build_zero_shot_classifier(net, tokenizer, labels, calls)
        pixels = torch.stack([preprocess(Image.open(file).convert("RGB")) for file in files])
        with torch.no_grad():
            rows = net.encode_image(pixels, normalize=True)
            odds: np.ndarray = (net.logit_scale.exp() * rows @ classifier).softmax(dim=1).numpy()
        return odds

    return compute


def table_of(found: list[ImageLabels], labels: tuple[str, ...]) -> np.ndarray:
    return np.array(
        [
            [{best.label: best.probability for best in one.labels}[k] for k in labels]
            for one in found
        ]
    )


def objects(stdout: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def refused(cli_here: Cli, *arguments: str | Path) -> str:
    """Exit 2, nothing on stdout, one helpful line."""
    done = cli_here("classify", *arguments)
    told = done.stderr.decode()
    assert done.returncode == 2, (done.stdout, told)
    assert done.stdout == b""
    assert told.startswith("Error: ")
    assert "not expected" not in told
    return told


# -- the numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("templates", ["simple", "none", "a sketch of a {}"])
def test_the_probabilities_are_those_of_open_clip(
    by_open_clip: Callable[..., np.ndarray], pictures: Path, templates: str
) -> None:
    files = files_of(pictures)
    assert len(files) >= 5
    texts = {"simple": tuple(clipsearch.prompts.SIMPLE_TEMPLATES), "none": ("{}",)}
    expected = by_open_clip(files, LABELS, texts.get(templates, (templates,)))
    found = list(label_images("mini", files, LABELS, templates=templates, top=9))
    assert [one.image for one in found] == files
    assert all(one.error is None for one in found)
    got = table_of(found, LABELS)
    np.testing.assert_allclose(got, expected, atol=5e-5)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
    assert expected.max(axis=1).min() > 0.3  # which says something
    assert len(set(expected.argmax(axis=1))) > 1
    for one in found:
        odds = [best.probability for best in one.labels]
        scores = [best.score for best in one.labels]
        assert odds == sorted(odds, reverse=True)
        assert one.margin == pytest.approx(scores[0] - scores[1], abs=1e-7)
        assert one.runner_up == one.labels[1].label


def test_the_command_prints_what_the_library_finds(cli_here: Cli, pictures: Path) -> None:
    files = files_of(pictures)
    found = list(label_images("mini", files, LABELS, context="a picture", top=2))
    done = cli_here("classify", *files, *AT, "--context", "a picture", "--top", "2", "--json")
    assert done.returncode == 0
    rows = objects(done.stdout)
    assert [(row["path"], row["rank"]) for row in rows] == [
        (str(file), rank) for file in files for rank in (1, 2)
    ]
    flat = [(one, best) for one in found for best in one.labels]
    for row, (one, best) in zip(rows, flat, strict=True):
        assert row["label"] == best.label
        assert row["probability"] == pytest.approx(best.probability, abs=1e-6)
        assert row["score"] == pytest.approx(best.score, abs=1e-6)
        assert row["margin"] == pytest.approx(one.margin, abs=1e-6)
        assert row["runner_up"] == one.runner_up
    table = cli_here("classify", *files, *AT, "--context", "a picture", "--top", "2", "--csv")
    lines = list(csv.DictReader(io.StringIO(table.stdout.decode())))
    assert [{**line, "rank": int(line["rank"])}["label"] for line in lines] == [
        row["label"] for row in rows
    ]
    assert [float(line["probability"]) for line in lines] == [row["probability"] for row in rows]
    plain = cli_here("classify", *files, *AT, "--context", "a picture")
    assert plain.stdout.decode().splitlines() == [
        f"{one.image}\t{one.labels[0].label}\t{one.labels[0].probability:.4f}" for one in found
    ]
    assert f"Labelled {len(files)} images with mini in " in plain.stderr.decode()


def test_batches_and_repetition_change_nothing(pictures: Path) -> None:
    files = files_of(pictures)[:6] * 2
    encoder = load_encoder("mini")
    whole = table_of(list(label_images(encoder, files, LABELS)), LABELS)
    for size in (1, 5):
        again = list(label_images(encoder, iter(files), LABELS, batch_size=size))
        assert [one.image for one in again] == files
        np.testing.assert_allclose(table_of(again, LABELS), whole, atol=1e-5)
    np.testing.assert_array_equal(
        table_of(list(label_images(encoder, files, LABELS)), LABELS), whole
    )


def test_the_bytes_of_a_file_are_as_good_as_the_file(
    cli_here: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = files_of(pictures)[0]
    by_name, by_bytes = label_images("mini", [file, file.read_bytes()], LABELS)
    assert by_name.labels == by_bytes.labels
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    done = cli_here("classify", "-", *AT, "--json", "--top", "9")
    rows = objects(done.stdout)
    assert (done.returncode, {row["path"] for row in rows}) == (0, {"-"})
    assert [row["label"] for row in rows] == [best.label for best in by_name.labels]
    assert rows[0]["probability"] == pytest.approx(by_name.labels[0].probability, abs=1e-5)


def test_the_vectors_of_an_index_give_the_same_labels(mini_index: Path) -> None:
    opened = open_index(mini_index)
    stored = opened.classify(LABELS, none="off", top=len(LABELS))
    places = opened.paths().first_places(stored.ids)
    files = sorted((place.path for place in places if place), key=os.path.getsize)[:4]
    found = label_images(opened.encoder(), files, LABELS, texts=opened.text_vectors())
    assert opened.text_vectors().total.encoded == 0
    for file, one in zip(files, found, strict=True):
        row = int(np.searchsorted(stored.ids, opened.id_of(file)))
        names = [LABELS[label] for label in stored.labels[row]]
        odds = {best.label: best.probability for best in one.labels}
        # Stored vectors have 11 bits a number.
        np.testing.assert_allclose([odds[k] for k in names], stored.probabilities[row], atol=5e-3)


def test_a_tree_of_labels_and_thresholds(pictures: Path) -> None:
    files = files_of(pictures)
    encoder = load_encoder("mini")
    items = (
        LabelDefinition(parent="animal"),
        LabelDefinition(parent="animal"),
        LabelDefinition(),
        LabelDefinition(),
    )
    tree = LabelDefinitions(("lion", "cheetah", "animal", "tower"), items)
    classes = class_vectors(tree, texts_of(encoder))
    rows = encoder.encode_images(
        np.stack([clipsearch.images.read_image(f, encoder.space.geometry).pixels for f in files])
    )
    block = TreeScorer(tree, classes, encoder.space.logit_scale, 2).score(
        np.arange(len(rows)), rows
    )
    found = list(label_images(encoder, files, tree, top=2))
    assert [[tree.names.index(best.label) for best in one.labels] for one in found] == [
        [label for label in row if label >= 0] for row in block.labels.tolist()
    ]
    plain = [one.labels[0] for one in label_images(encoder, files, ["lion", "tower"])]
    odds = sorted(best.probability for best in plain if best.label == "tower")
    assert len(odds) > 2
    least = LabelDefinition(threshold=(odds[0] + odds[1]) / 2)
    sure = LabelDefinitions(("lion", "tower"), (LabelDefinition(), least))
    found = list(label_images(encoder, files, sure, top=1))
    for one, best in zip(found, plain, strict=True):
        if best.label == "tower" and best.probability == odds[0]:
            assert (one.labels, one.runner_up, one.error) == ((), "tower", None)
        else:
            assert [first.label for first in one.labels] == [best.label]


# -- which images ----------------------------------------------------------------------------


def test_names_are_sorted_as_people_count() -> None:
    names = ["IMG_10.jpg", "img_2.jpg", "a2b10", "a2b9", "9", "10", "007", "x²", "", "é1", "٣"]
    ordered = sorted(names, key=natural_key)
    assert ordered.index("img_2.jpg") < ordered.index("IMG_10.jpg")
    assert ordered.index("a2b9") < ordered.index("a2b10")
    assert [name for name in ordered if name in ("9", "10", "007")] == ["007", "9", "10"]


@posix_only
def test_folders_stand_for_the_images_in_them(cli_here: Cli, tmp_path: Path) -> None:
    top = tmp_path / "photos"
    kept = ["1.png", "2.PNG", "10.png", "Trip 2/a.png", "Trip 10/b.jpeg", ".c.png"]
    passed_over = ["._1.png", "notes.txt", ".hidden/x.png", "@eaDir/y.png", "z.index/t.png"]
    for number, name in enumerate([*kept, *passed_over, "z.index/manifest.json"]):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (60, 50), (number * 20, 90, 200))
        picture.save(top / name, "PNG")
    (top / "Trip 2" / "again").symlink_to(top)
    (top / "broken.png").symlink_to(top / "nothing.png")
    os.mkfifo(top / "pipe.png")
    expected = ["1.png", "2.PNG", "10.png", ".c.png", "Trip 2/a.png", "Trip 10/b.jpeg"]
    assert list(image_files(top)) == [str(top / name) for name in expected]
    done = cli_here("classify", top / "10.png", top, *AT)
    assert done.returncode == 0
    paths = [Path(line.split("\t")[0]) for line in done.stdout.decode().splitlines()]
    assert paths == [top / "10.png", *(top / name for name in expected)]
    (tmp_path / "empty").mkdir()
    done = cli_here("classify", tmp_path / "empty", *AT)
    assert (done.returncode, done.stdout) == (1, b"")
    assert "no image" in done.stderr.decode()


def test_hundreds_of_images_but_a_few_that_cannot_be_taken(cli_here: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(110):
        Image.new("RGB", (40, 30), (number, 255 - number, 80)).save(folder / f"{number}.jpg")
    (folder / "31.jpg").write_bytes((folder / "30.jpg").read_bytes()[:200])
    (folder / "32.jpg").write_bytes(b"")
    (folder / "109.jpg").write_text("no image at all")
    done = cli_here("classify", folder, tmp_path / "gone.jpg", *AT)
    assert done.returncode == 3
    lines = done.stdout.decode().splitlines()
    numbers = [int(Path(line.split("\t")[0]).stem) for line in lines]
    assert numbers == [number for number in range(110) if number not in (31, 32, 109)]
    told = done.stderr.decode().splitlines()
    assert f"Skipped {tmp_path / 'gone.jpg'}: there is no such file" in told
    assert f"Skipped {folder / '32.jpg'}: the file is empty (0 bytes)" in told
    assert sum(line.startswith("Skipped ") for line in told) == 4
    assert told[-1].startswith("Labelled 107 images with mini")
    assert told[-1].endswith("skipped 4.")


@posix_only
def test_a_decoder_that_crashes_costs_one_image(
    cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text(
        "import ctypes\n"
        "from PIL import JpegImagePlugin\n"
        "opened = JpegImagePlugin.jpeg_factory\n"
        "def factory(stream, *rest):\n"
        "    if b'CRASH' in stream.getvalue():\n"
        "        ctypes.string_at(0)\n"
        "    return opened(stream, *rest)\n"
        "JpegImagePlugin.jpeg_factory = factory\n"
    )
    inherited = os.environ.get("PYTHONPATH", "")
    paths = [str(code), str(Path(clipsearch.__file__).parents[1]), inherited]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 30), (50 * number, 20, 80)).save(folder / f"{number}.jpg")
    bad = folder / "2.jpg"
    bad.write_bytes(bad.read_bytes()[:-2] + b"CRASH\xff\xd9")
    close_workers()  # those that begin now have read the file above
    try:
        done = cli_here("classify", folder, *AT)
        alone = cli_here("classify", bad, *AT)
    finally:
        close_workers()
    assert done.returncode == 3, done.stderr
    names = [Path(line.split("\t")[0]).name for line in done.stdout.decode().splitlines()]
    assert names == ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]
    told = "the decoder crashed on this file (signal SIGSEGV)"
    assert f"Skipped {bad}: {told}" in done.stderr.decode().splitlines()
    assert (alone.returncode, alone.stdout) == (2, b"")
    assert alone.stderr.decode().splitlines() == [f"Error: cannot take {bad}: {told}"]


def test_images_that_cannot_be_taken_at_all(
    cli_here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "gone.jpg: there is no such file" in refused(cli_here, tmp_path / "gone.jpg", *AT)
    assert "no such file" in refused(cli_here, "", *AT)
    text = tmp_path / "a.jpg"
    text.write_text("<html>")
    assert "not an image format" in refused(cli_here, text, *AT)
    done = cli_here("classify", text, tmp_path / "gone.jpg", *AT)
    assert (done.returncode, done.stdout) == (2, b"")
    told = done.stderr.decode().splitlines()
    assert [line.split(" ")[0] for line in told] == ["Skipped", "Skipped", "Error:"]
    for data, word in ((b"", "got nothing"), (b"photos/1.jpg\nphotos/2.jpg\n", "xargs")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert word in refused(cli_here, "-", *AT)
    assert "name - once" in refused(cli_here, "-", "-", *AT)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert "that is a terminal" in refused(cli_here, "-", *AT)


@posix_only
def test_names_of_any_bytes(cli_here: Cli, pictures: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \x1b[31m\n.png")
    Image.new("RGB", (30, 30), (200, 30, 30)).save(tmp_path / "x.png")
    shutil.move(tmp_path / "x.png", odd)
    plain = cli_here("classify", odd, *AT)
    assert plain.stdout.rsplit(b"\t", 2)[0] == os.fsencode(odd)
    row = json.loads(cli_here("classify", odd, *AT, "--json").stdout)
    assert row["path_base64"]
    done = cli_here("classify", odd, odd + "x", *AT)
    assert b"\x1b" not in done.stderr
    assert b"\xe9" not in done.stderr


# -- which model -----------------------------------------------------------------------------


def test_the_model_that_is_meant(
    cli_here: Cli, mini_index: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = files_of(pictures)[0]
    labels = ("--labels", "lion,tower")

    def fails(*more: str | Path) -> list[str]:
        done = cli_here("classify", file, *labels, *more)
        assert (done.returncode, done.stdout) == (2, b"")
        return done.stderr.decode().splitlines()

    told = fails()  # nothing is here, and nobody to ask
    assert len(told) == 2
    assert "clipsearch model get balanced" in told[0]
    assert "--model mini" in told[1]
    assert "no model is called 'nonsense'" in fails("--model", "nonsense")[0]
    assert "no index at" in fails("--index", pictures / "none.index")[0]
    for place in ({"index_path": mini_index}, {"near": mini_index}):
        with monkeypatch.context() as patch:
            patch.setenv("CLIPSEARCH_MODEL", "nonsense")  # which is for new indexes
            if "near" in place:
                patch.setattr(model_choice, "nearest_index", lambda start: mini_index)
            more = ("--index", mini_index) if "index_path" in place else ()
            done = cli_here("classify", file, *labels, *more)
            assert done.returncode == 0
            assert " with mini in " in done.stderr.decode()
            # What is named on the command line comes first.
            assert "'nonsense'" in fails("--model", "nonsense", *more)[0]
    monkeypatch.setenv("CLIPSEARCH_INDEX", str(pictures / "not-made-yet.index"))
    monkeypatch.setenv("CLIPSEARCH_MODEL", "mini")
    assert cli_here("classify", file, *labels).returncode == 0
    monkeypatch.delenv("CLIPSEARCH_INDEX")
    monkeypatch.delenv("CLIPSEARCH_MODEL")

    def several(start: Path) -> Path:
        raise OptionError("several indexes in here (a, b): name one with --index")

    monkeypatch.setattr(model_choice, "nearest_index", several)
    assert fails() == [
        "Error: several indexes in here (a, b): name one with --index, or a model with --model"
    ]
    assert cli_here("classify", file, *labels, "--model", "mini").returncode == 0


def test_a_person_is_asked_for_the_model(
    cli_here: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_choice, "can_ask", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"2\n")))
    done = cli_here("classify", files_of(pictures)[0], "--labels", "lion,tower")
    told = done.stderr.decode()
    assert done.returncode == 0, told
    assert "No model is on this machine yet" in told
    assert "ViT-B-32-256/datacomp_s34b_b86k" in told
    assert "Labelled 1 image with mini" in told


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        ("--where", "rating > 3"),
        ("--since", "2019"),
        ("--in", "x"),
        ("--label", "dog"),
        ("--save-as", "things"),
        ("--adapt",),
        ("--by-cluster", "temper"),
        ("--clusters", "x"),
        ("--coverage", "0.9"),
        ("--space", "mini"),
        ("--fast",),
        ("--fuse",),
    ],
)
def test_options_for_an_index_are_refused(
    cli_here: Cli, pictures: Path, more: tuple[str, ...]
) -> None:
    told = refused(cli_here, files_of(pictures)[0], *AT, *more)
    assert more[0] in told
    assert len(told.splitlines()) == 1


def test_what_is_set_for_indexes_does_not_keep_images_from_being_labelled(
    cli_here: Cli, pictures: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('[classify]\nnone = "auto"\nfast = true\nfuse = "mini=1"\n')
    env = {"CLIPSEARCH_CONFIG": str(settings)}
    done = cli_here("classify", files_of(pictures)[0], *AT, env=env)
    assert done.returncode == 0, done.stderr


def test_wrong_labels_are_refused_before_a_model_is_loaded(
    cli_here: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **keywords: object) -> None:
        raise AssertionError

    monkeypatch.setattr("clipsearch.encoder.load_encoder", never)
    groups = tmp_path / "groups.toml"
    groups.write_text('[groups.season]\nlabels = ["summer", "winter"]\n')
    file = files_of(pictures)[0]
    for arguments, word in (
        ((), "--labels"),
        (("--labels", ""), "no label"),
        (("--labels", "cat,Cat"), "twice"),
        (("--labels-file", tmp_path / "none.txt"), "none.txt"),
        (("--labels-file", groups), "one group"),
        (("--labels", "a,b", "--templates", "nonsense"), "templates"),
        (("--labels", "@things"), "no index here"),
        (("--labels", "a,b", "--add", "c"), "@NAME"),
        (("--labels", "a,b", "--none", "auto"), "--none"),
        (("--labels", "a,b", "--out", tmp_path / "x.docx"), ".docx"),
    ):
        assert word in refused(cli_here, file, "--model", "mini", *arguments)


def test_a_saved_set_and_what_is_changed_of_it(
    cli_here: Cli, mini_index: Path, pictures: Path
) -> None:
    file = files_of(pictures)[0]
    made = cli_here(
        "classify", "--index", mini_index, "--labels", "lion,tower", "--templates", "none",
        "--context", "a picture", "--none", "off", "--save-as", "things",
    )  # fmt: skip
    assert made.returncode == 0
    done = cli_here(
        "classify", file, "--labels", "@things", "--index", mini_index, "--add", "groceries",
        "--none", "off", "--top", "9", "--json",
    )  # fmt: skip
    assert done.returncode == 0
    names = ("lion", "tower", "groceries")
    (one,) = label_images("mini", [file], names, templates="none", context="a picture")
    rows = {row["label"]: row["probability"] for row in objects(done.stdout)}
    assert rows == pytest.approx({best.label: best.probability for best in one.labels}, abs=1e-5)


def test_one_label_and_a_name_of_two_meanings_are_told(cli_here: Cli, pictures: Path) -> None:
    file = files_of(pictures)[0]
    done = cli_here("classify", file, "--labels", "crane", "--model", "mini")
    assert done.stdout.endswith(b"\tcrane\t1.0000\n")
    told = done.stderr.decode()
    assert "with a single label every image gets it" in told
    assert "crane may be several things" in told


def test_result_files(cli_here: Cli, pictures: Path, tmp_path: Path) -> None:
    rows = objects(cli_here("classify", pictures, *AT, "--top", "2", "--json").stdout)
    for ending in ("parquet", "csv", "json"):
        out = tmp_path / f"labels.{ending}"
        done = cli_here("classify", pictures, *AT, "--top", "2", "--out", out)
        assert (done.returncode, done.stdout) == (0, b"")
        assert f"Wrote {out}" in done.stderr.decode()
    table = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [(row["path"], row["label"], row["rank"]) for row in table] == [
        (row["path"], row["label"], row["rank"]) for row in rows
    ]
    written = objects((tmp_path / "labels.json").read_bytes())
    assert [row["label"] for row in written] == [row["label"] for row in rows]
    bad = tmp_path / "bad.jpg"
    bad.write_text("x")
    done = cli_here("classify", bad, bad, *AT, "--out", tmp_path / "never.csv")
    assert done.returncode == 2
    assert not (tmp_path / "never.csv").exists()


def test_what_a_terminal_shows(
    cli_here: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    files = files_of(pictures)
    labels = "lion,tower,a drawing of a face,groceries,dog,car"
    at = ("--labels", labels, "--model", "mini")
    (one,) = label_images("mini", files[:1], labels.split(","))
    shown = cli_here("classify", files[0], *at).stdout.decode()
    assert shown == "".join(f"{best.probability:8.1%}  {best.label}\n" for best in one.labels)
    assert len(one.labels) == 5
    shown = cli_here("classify", *files[:2], *at).stdout.decode()
    first, second = shown.split("\n\n")
    assert [part.splitlines()[0] for part in (first, second)] == [str(file) for file in files[:2]]
    assert len(first.splitlines()) == 6
    many = cli_here("classify", *files[:1] * 11, *at).stdout.decode().splitlines()
    assert many[0].split() == ["probability", "label", "image"]
    assert len(many) == 12
    assert many[1].index(str(files[0])) == many[0].index("image")
    assert many[1].index(one.labels[0].label) == many[0].index("label")
    assert len(cli_here("classify", files[0], *at, "--top", "2").stdout.splitlines()) == 2
    evil = tmp_path / "evil\x1b[2J.png"
    Image.new("RGB", (30, 30)).save(evil)
    shown = cli_here("classify", evil, evil, *at).stdout.decode()
    assert "\x1b" not in shown
    assert "evil\N{REPLACEMENT CHARACTER}[2J.png" in shown


def test_labels_of_an_index_are_as_they_were(cli_here: Cli, mini_index: Path) -> None:
    done = cli_here(
        "classify", "--labels", "lion,tower", "--none", "off", "--index", mini_index, "--json"
    )
    assert done.returncode == 0
    assert all("rank" not in row and "id" in row for row in objects(done.stdout))
    assert len({row["id"] for row in objects(done.stdout)}) == len(open_index(mini_index))


# -- the library -----------------------------------------------------------------------------


def test_images_are_asked_for_as_they_are_needed(pictures: Path) -> None:
    file = files_of(pictures)[0]
    asked = 0

    def images() -> Iterator[Path]:
        nonlocal asked
        for _ in range(1000):
            asked += 1
            yield file

    found = label_images("mini", images(), LABELS, batch_size=4)
    assert asked == 0
    assert next(found).image == file
    assert 4 <= asked <= 12
    found.close()  # type: ignore[attr-defined]
    assert asked <= 12


def test_what_the_library_refuses(pictures: Path) -> None:
    file = files_of(pictures)[0]
    with pytest.raises(OptionError, match="sequence of images, got one"):
        label_images("mini", str(file), LABELS)
    with pytest.raises(LabelError, match="no label"):
        label_images("mini", [file], [])
    with pytest.raises(OptionError, match="1 or more"):
        label_images("mini", [file], LABELS, top=0)
    with pytest.raises(OptionError, match="exact"):
        label_images("mini", [file], LABELS, decode="quick")
    with pytest.raises(UnknownModelError):
        label_images("nonsense", [file], LABELS)
    bad, good = label_images("mini", [b"GIF89a", file], LABELS)
    assert bad.labels == ()
    assert bad.error is not None
    assert bad.error.reason in ("truncated", "corrupt")
    assert isinstance(bad.error, ClipsearchError)
    assert good.labels


def test_images_that_cannot_be_taken_shift_no_labels(pictures: Path) -> None:
    files = files_of(pictures)
    mixed = [thing for file in files for thing in (b"", file, b"nothing", pictures / "gone")]
    found = list(label_images("mini", mixed, LABELS, batch_size=14))
    assert [one.image for one in found] == mixed
    good = [one for one in found if one.error is None]
    assert [one.image for one in good] == files
    alone = [next(label_images("mini", [file], LABELS)) for file in files]
    assert len({one.labels[0].label for one in alone}) > 1
    np.testing.assert_allclose(table_of(good, LABELS), table_of(alone, LABELS), atol=1e-5)
    reasons = [one.error.reason for one in found if one.error is not None]
    assert reasons == ["empty", "unsupported", "vanished"] * len(files)


def test_every_option_is_either_for_images_or_for_an_index() -> None:
    """Whoever adds an option to classify says whether it means something for images."""
    from clipsearch.cli.classify import classify

    names = {option.name for option in classify.params}
    assert names >= command._UNDERSTOOD
    with click.Context(classify) as context:
        assert "--since" in "\n".join(classify.collect_usage_pieces(context)) or "since" in names


# -- Hugging Face ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_hugging_face_pipeline_gives_the_same_numbers(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One small model in both forms. What goes into the towers is the same but for one thing:
    where a side is cut by an odd number of pixels, open_clip (as torchvision) rounds the offset
    of the crop half to even, Hugging Face always down, so that every fourth such size is cut a
    pixel further. And of its two image processors the default one resizes through torchvision,
    which rounds other than Pillow does by a level here and there; the one on Pillow gives our
    pixels to the bit."""
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(Path(clipsearch.__file__).parents[1] / "benchmarks"))
    from random_models import write_as_open_clip, write_hugging_face_folder
    from transformers import CLIPImageProcessor, CLIPImageProcessorPil, pipeline

    theirs = write_hugging_face_folder(tmp_path / "hf", small=True)
    ours = write_as_open_clip(theirs, tmp_path / "oc")
    labels = ("a dog", "a bicycle", "two children", "a red car at night", "beach")
    files, is_odd = [], []
    for file in files_of(pictures)[:4]:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        for more in range(4):
            files.append(tmp_path / f"{file.stem}-{more}.png")
            picture.resize((256 + 4 * more, 256)).save(files[-1])
            is_odd.append(more == 3)  # of 64 + 3 pixels 1.5 are cut: 2 here, 1 there
    encoder = load_encoder(str(ours))
    found = list(
        label_images(encoder, files, labels, templates="This is a photo of {}.", top=len(labels))
    )
    expected = table_of(found, labels)
    assert expected.std(axis=0).max() > 0.05  # a difference would be seen

    def by_pipeline(processor: Any, images: list[Any]) -> np.ndarray:
        ask = pipeline("zero-shot-image-classification", str(theirs), image_processor=processor)
        return np.array(
            [
                [{best["label"]: best["score"] for best in ask(image, candidate_labels=labels)}[k]
                 for k in labels]
                for image in images
            ]
        )  # fmt: skip

    on_pillow = CLIPImageProcessorPil.from_pretrained(theirs)
    geometry = encoder.space.geometry
    ready = [Image.fromarray(clipsearch.images.read_image(f, geometry).pixels) for f in files]
    np.testing.assert_allclose(by_pipeline(on_pillow, ready), expected, atol=1e-5)
    differences = np.abs(by_pipeline(on_pillow, [str(file) for file in files]) - expected)
    differences = differences.max(axis=1)
    assert differences[~np.array(is_odd)].max() < 1e-5
    assert differences[np.array(is_odd)].max() > 1e-3  # of random weights, which see each pixel
    by_default = by_pipeline(CLIPImageProcessor.from_pretrained(theirs), ready)
    np.testing.assert_allclose(by_default, expected, atol=1e-5)
