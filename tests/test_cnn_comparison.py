"""The trained network of the comparison learns, and its figures are those of its predictions."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
_CLASSES = ("circle", "cross_hatch", "square")


@pytest.fixture(scope="module")
def scripts() -> Iterator[Any]:
    """The benchmark's modules by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(_BENCHMARKS)
        yield importlib.import_module


def _drawn(kind: str, chance: np.random.Generator) -> Image.Image:
    """A shape of any colour, somewhere: what tells classes apart is the shape alone."""
    back, front = chance.integers(0, 110, 3), chance.integers(145, 256, 3)
    picture = Image.new("RGB", (72, 64), tuple(back.tolist()))
    pen, colour = ImageDraw.Draw(picture), tuple(front.tolist())
    x, y, side = *chance.integers(4, 18, 2).tolist(), int(chance.integers(34, 44))
    box = (x, y, x + side, y + side)
    if kind == "circle":
        pen.ellipse(box, fill=colour)
    elif kind == "square":
        pen.rectangle(box, outline=colour, width=5)
    else:
        for step in range(0, side, 9):
            pen.line((x + step, y, x + side - step, y + side), fill=colour, width=3)
    return picture


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and test photos, a folder a class."""
    place = tmp_path_factory.mktemp("shapes")
    chance = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 12)):
        for kind in _CLASSES:
            (place / part / kind).mkdir(parents=True)
            for number in range(count):
                _drawn(kind, chance).save(place / part / kind / f"{number:02d}.png")
    return place / "train", place / "test"


@pytest.fixture(scope="module")
def photos(scripts: Any, folders: tuple[Path, Path]) -> tuple[Any, Any, Any, Any]:
    """Photos and pixels for training, photos and pixels for testing."""
    reading = scripts("labelled_photos")
    geometry = scripts("cnn_baseline").geometry_of(_recipe(scripts))
    train, pixels = reading.read_labelled_photos(folders[0], geometry)
    test, seen = reading.read_labelled_photos(folders[1], geometry, train.classes)
    return train, pixels, test, seen


def _recipe(scripts: Any, **changes: Any) -> Any:
    usual = scripts("cnn_training").Recipe(
        network="mobilenet_v3_small", side=32, epochs=3, steps=9, precision="float32"
    )
    return dataclasses.replace(usual, **changes)


@pytest.mark.slow
def test_a_network_learns_what_it_is_shown(scripts: Any, photos: tuple[Any, Any, Any, Any]) -> None:
    train, pixels, test, seen = photos
    training = scripts("cnn_training")
    recipe = _recipe(scripts, network="resnet18", epochs=8, rate=1e-3)
    trained = training.train(recipe, pixels, train.truth, 3)
    odds = scripts("cnn_baseline").probabilities(trained.network, seen)
    assert (trained.photos, trained.held_out, trained.images) == (81, 9, 81 * trained.epochs)
    assert (odds.argmax(axis=1) == test.truth).mean() > 0.75
    assert odds.sum(axis=1) == pytest.approx(np.ones(len(test)), abs=1e-5)
    # What the last layer makes of the features is what the network says.
    network = trained.network
    torch = importlib.import_module("torch")
    with torch.inference_mode():
        middle = scripts("cnn_networks").middle(network.tensor(seen), recipe.side)
        direct = network.net(network.normalised(middle)).softmax(dim=1).numpy()
    np.testing.assert_allclose(odds, direct, atol=1e-4)


@pytest.mark.slow
def test_a_training_that_is_gone_on_with_is_no_other(
    scripts: Any, photos: tuple[Any, Any, Any, Any], tmp_path: Path
) -> None:
    training, recipe = scripts("cnn_training"), _recipe(scripts, batch=8, steps=1)
    some = scripts("labelled_photos").few_of_each(photos[0].truth, 10, 0)
    truth, pixels = photos[0].truth[some], photos[1][some]
    whole = training.train(recipe, pixels, truth, 3)

    def stop(epoch: Any) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    place = tmp_path / "a.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, pixels, truth, 3, checkpoint=place, tell=stop)
    told: list[int] = []
    resumed = training.train(
        recipe, pixels, truth, 3, checkpoint=place,
        tell=lambda epoch: told.append(epoch.number),
    )  # fmt: skip
    assert told == [3]
    for one, other in zip(
        whole.network.net.state_dict().values(),
        resumed.network.net.state_dict().values(),
        strict=True,
    ):
        assert bool((one == other).all())
    # A checkpoint of another seed is none of this training.
    other = dataclasses.replace(recipe, seed=1)
    again = training.train(
        other, pixels, truth, 3, checkpoint=place,
        tell=lambda epoch: told.append(epoch.number),
    )  # fmt: skip
    assert told == [3, 1, 2, 3]
    assert again.epochs == 3


def test_damage_grows_and_is_the_same_for_everybody(scripts: Any) -> None:
    damage = scripts("damaged_pictures")
    chance = np.random.default_rng(1)
    shape = np.asarray(_drawn("circle", chance).resize((64, 64)), np.float64)
    picture = (shape + chance.normal(0, 12, shape.shape)).clip(0, 255).astype(np.uint8)
    for kind in damage.DAMAGE:
        away = []
        for severity in damage.SEVERITIES:
            made = damage.changed_picture(kind, severity, picture, 5)
            assert made.shape == picture.shape
            assert made.dtype == np.uint8
            np.testing.assert_array_equal(made, damage.changed_picture(kind, severity, picture, 5))
            away.append(float(((made.astype(float) - picture) ** 2).mean()))
        assert away[0] > 0
        assert away[-1] > away[0]
        if kind in ("noise", "blur", "contrast"):
            assert away == sorted(away)
    for kind in damage.STYLES:
        made = damage.changed_picture(kind, 0, picture, 5)
        assert made.shape == picture.shape
        assert (made != picture).mean() > 0.1


def test_figures_of_a_result(scripts: Any) -> None:
    from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

    results = scripts("comparison_results")
    chance = np.random.default_rng(2)
    truth = chance.integers(0, 7, 60).astype(np.int32)
    odds = chance.dirichlet(np.ones(8), 60).astype(np.float32)  # of one class there is no photo
    result = results.Result(results.Method("a", "b", "c", 0), odds, truth)
    given = odds.argmax(axis=1)
    assert result.accuracy == (given == truth).mean()
    with pytest.warns(UserWarning, match="y_pred"):
        assert result.mean_per_class == pytest.approx(balanced_accuracy_score(truth, given))
    assert result.top5 == top_k_accuracy_score(truth, odds, k=5, labels=range(8))
    assert np.isnan(result.per_class[7])
    assert results.wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert results.wilson(0, 10)[0] == 0
    right = np.array([True] * 9 + [False])
    assert results.sign_test(right, ~right) == pytest.approx(22 / 1024)


@pytest.mark.slow
def test_the_whole_comparison(
    scripts: Any, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On few photos and one severity; names are as the command line gives them."""
    main = scripts("cnn_comparison").main
    page, figures = tmp_path / "report.html", tmp_path / "figures.json"
    code = main([
        *map(str, folders), "--quick", "--network", "mobilenet_v3_small", "--weights", "none",
        "--withhold", "square", "--report", str(page), "--json", str(figures),
    ])  # fmt: skip
    out = capsys.readouterr()
    assert code == 0, out.err
    found = json.loads(figures.read_text())
    assert found["labels"] == ["circle", "cross hatch", "square"]
    by_name = {result["method"]: result for result in found["results"]}
    names = by_name["mini, names"]
    assert names["training_photos"] == 0
    assert f"{names['accuracy']:.1%}" in out.out
    for result in found["results"]:
        assert result["accuracy"] == pytest.approx(np.mean(result["per_class"]))
    assert names["accuracy"] == pytest.approx(_share_by_classify(folders[1], tmp_path))
    # Without photos of a class a network has no name for it.
    shares = {result["method"]: result for result in found["withheld"]["results"]}
    cnn = next(name for name in shares if name.startswith("mobilenet"))
    assert shares[cnn]["withheld"] == 0
    assert shares["mini, probe"]["withheld"] == 0
    assert shares["mini, names"]["accuracy"] == names["accuracy"]
    kinds = {(row["kind"], row["severity"]) for row in found["changed"]}
    assert {("noise", 3), ("JPEG", 3), ("sketch", 0)} <= kinds
    assert all(set(row["accuracy"]) == set(by_name) for row in found["changed"])
    assert set(found["curve"]["mini, taught"]) == {"1", "4", "all"}
    text = page.read_text("utf-8")
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    sign = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"sha256-{sign}" in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert f"{names['accuracy']:.1%}" in text
    assert str(folders[0].parent) not in text


def _share_by_classify(folder: Path, place: Path) -> float:
    """Of the first eight photos of each class."""
    from clipsearch import open_index
    from indexer import build_index

    build_index(folder, place / "shapes.index", encoder="mini")
    index = open_index(place / "shapes.index")
    result = index.classify(["circle", "cross hatch", "square"], none="off")
    right = []
    for image_id in result.ids.tolist():
        for found in index.paths().places(image_id):
            if int(found.path.stem) < 8:
                truth = found.path.parent.name.replace("_", " ")
                right.append(result.label_of(image_id) == truth)
    assert len(right) == 24
    return float(np.mean(right))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("nowhere", "test"), "there is no folder"),
        (("empty", "test"), "two classes or more"),
        (("train", "strange"), "without training photos: triangle"),
    ],
)
def test_folders_that_cannot_be_compared(
    scripts: Any,
    folders: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    parts: tuple[str, str],
    said: str,
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("circle", "triangle"):
        (tmp_path / "strange" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "strange" / name / "a.png")
    places = {"train": folders[0], "test": folders[1]}
    given = [str(places.get(part, tmp_path / part)) for part in parts]
    assert scripts("cnn_comparison").main([*given, "--quick"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("error:")]) == 1
    assert said in error[-1]
